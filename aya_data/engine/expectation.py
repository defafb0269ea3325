"""How many tokens, how long and for how much: what is expected of requests before they are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aya_data.core.generation import Voice
from aya_data.core.journal import Journal
from aya_data.engine.plan import Stage

__all__ = ["CHARACTERS", "Expectation", "completion_limit", "expectation"]

CHARACTERS = 4.0
"""Characters of a token of an answer that is not there, about."""
BYTES = 3.0
"""Bytes of UTF-8 of a token, about, in most scripts."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one step will ask. ``missing`` of ``wanted`` requests are not in the journal; None where nobody can know.

    ``exact`` says whether all of them were counted. ``languages`` are the missing ones by variety. Tokens are
    those that were measured of earlier answers (``measured``), the most that there can be (``bounded``), or else an
    estimate. ``cost`` is that of these tokens, in the currency of the stated prices; ``seconds`` go by earlier answers.
    ``damaged`` are segments of the journal that are not what their names say: the answers in them count
    as missing. ``recorded`` are the ``wanted`` ones that the voice has an answer to, where it says so without being
    asked; else None. ``note`` says why nothing is asked, where that may surprise, or what this machine
    lacks to ask.
    """

    stage: str
    source: str
    voice: str
    exact: bool
    wanted: int | None
    missing: int | None
    languages: Mapping[str, int]
    priced: bool
    measured: bool
    bounded: bool
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float | None
    cost: float | None
    damaged: tuple[str, ...]
    recorded: int | None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def completion_limit(voice: Voice) -> int | None:
    """The most tokens that a completion of ``voice`` may have, where that is known."""
    limit = dict(voice.identity()).get("sampling") or {}
    return int(limit["max_tokens"]) if "max_tokens" in limit else None


def expectation(
    stage: Stage,
    voice: Voice,
    journal: Journal,
    wanted: int | None,
    missing: int | None,
    languages: Mapping[str, int],
    tokens: int,
    *,
    exact: bool,
    damaged: Sequence[Path] = (),
    recorded: int | None = None,
    note: str = "",
) -> Expectation:
    """Estimate tokens, time and price of ``missing`` requests whose prompts have at most ``tokens`` in all."""
    rate = journal.rate()
    measured = rate is not None and rate.counted > 0
    prompt_tokens = completion_tokens = None
    seconds = cost = None
    if missing is not None and voice.priced:
        most = completion_limit(voice)
        # The bound takes every byte for a token, which no estimate should.
        prompt_tokens = (tokens if exact else round(tokens / BYTES)) if tokens else None
        completion_tokens = missing * most if most is not None else None
        if rate is not None:
            seconds = round(missing * rate.seconds / rate.answers, 1)
        if rate is not None and rate.counted > 0:
            prompt_tokens = round(missing * rate.prompt_tokens / rate.counted)
            completion_tokens = round(missing * rate.completion_tokens / rate.counted)
        prices = voice.prices()
        if prices is not None and prompt_tokens is not None and completion_tokens is not None:
            cost = round((prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6, 4)
    return Expectation(
        stage.name, stage.source, voice.name, exact, wanted, missing, dict(sorted(languages.items())), voice.priced,
        measured, exact and not measured, prompt_tokens, completion_tokens, seconds, cost, tuple(map(str, damaged)),
        recorded, note,
    )  # fmt: skip
