"""What a judge is told, and how untrusted text is shown to it.

A judge sees texts that somebody else wrote: a conversation, and answers that may try to instruct it. Each stands in a
*block* between two lines that carry a code:

    [3f0c9a52e1d47b68] ANSWER
    …
    [3f0c9a52e1d47b68] END

The code is a keyed hash of all that is shown, and is drawn again as long as a text contains it. So no text can close
its own block, or open another. A second code, drawn alike, marks the judge's *verdict*: a line of JSON without it is
none, so that neither an answer nor a quotation from it is taken for one.

The instructions and the built-in rubrics are package data (``data/rubrics.toml``), by language.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

from aya_data.core.errors import did_you_mean
from aya_data.core.identity import digest, frame, framed_digest
from aya_data.core.language import name, resolve
from aya_data.core.settings import check_keys, wrong

__all__ = ["BUILT_IN", "DATA_FILES", "ENGLISH", "Codes", "Turn", "codes", "instruction", "material", "rubric_text"]

DATA_FILES = ("data/rubrics.toml",)

Turn = tuple[str, str]
Mode = Literal["score", "pairwise"]

ENGLISH: Final = "eng"
BUILT_IN: Final = ("quality", "correctness", "fluency", "harmlessness")
"""Names of the built-in rubrics."""
VERDICT: Final = {"score": "score", "pairwise": "better"}
"""The key of a verdict that holds what the judge decided."""


@dataclass(frozen=True, slots=True)
class Codes:
    """The codes of one question: 16 hex digits that close its blocks, and 8 that mark its verdict."""

    block: str
    verdict: str


@cache
def _texts() -> Mapping[str, Mapping[str, Any]]:
    text = (resources.files("aya_data.builders.arbitrage.arbiters") / DATA_FILES[0]).read_text("utf-8")
    return tomllib.loads(text)


def languages() -> tuple[str, ...]:
    """The languages that a judge can be instructed in, ISO 639-3."""
    return tuple(sorted(_texts()))


def codes(seed: int, turns: Sequence[Turn], answers: Sequence[str]) -> Codes:
    """Draw the codes of a question. No text of it contains either of them."""
    texts = [*(content for _, content in turns), *answers]
    content = framed_digest(frame(["judge", str(seed), str(len(answers)), *(role for role, _ in turns), *texts]))
    attempt = 0
    while True:
        drawn = digest("codes", content, str(attempt))
        found = Codes(drawn[:16], drawn[16:24])
        if not any(found.block in text or found.verdict in text for text in texts):
            return found
        attempt += 1


def rubric_text(rubric: str | Mapping[str, str], language: str, variety: str = "") -> str:
    """The rubric in ``language`` if there is one, else in English, or as it was written in the spec: of a ``variety``,
    of its language, or by default."""
    if isinstance(rubric, Mapping):
        return rubric.get(variety) or rubric.get(language) or rubric["default"]
    if rubric not in BUILT_IN:
        return rubric
    texts = _texts().get(language, _texts()[ENGLISH])
    return str(texts["rubrics"][rubric])


def checked_rubric(rubric: str | Mapping[str, str]) -> str | Mapping[str, str]:
    """Return the rubric, those of languages by code (``tur``, or ``zho_Hant`` for a variety).

    Raises for the name of a rubric that there is not (a text is no name if it is more than one word), and for what is
    no language.
    """
    if isinstance(rubric, Mapping):
        if "default" not in rubric:
            raise wrong("has no rubric for other languages", "Add 'default: …'.")
        check_keys(rubric, _code)
        return {_code(label): text for label, text in rubric.items()}
    if rubric not in BUILT_IN and rubric.isascii() and len(rubric.split()) < 2:
        raise wrong(f"names no rubric: {rubric!r}", f"{did_you_mean(rubric, BUILT_IN)} Or write the criteria out.")
    return rubric


def _code(label: str) -> str:
    """The code of a language; of a variety where the label says more than the language."""
    if label == "default":
        return label
    found = resolve(label)
    if not found.ok:
        raise wrong(f"is for {label!r}, which is no language", found.reason or "Or write 'default'.")
    language = found.variety.language
    more = "_" in label or found.variety != resolve(language).variety
    return f"{language}_{found.variety.script}" if more else language


def instruction(
    mode: Mode,
    rubric: str | Mapping[str, str],
    scale: tuple[str, str],
    critique: bool,
    told_in: str,
    language: str,
    variety: str,
) -> str:
    """What the judge is told before it sees anything.

    ``told_in`` is the language of the instruction; ``language`` and ``variety`` are those of the conversation, ``und``
    where nobody knows.
    """
    texts = _texts().get(told_in, _texts()[ENGLISH])
    task = texts[mode].replace("<low>", scale[0]).replace("<high>", scale[1])
    lines = [f"{task} {texts['blocks']}"]
    criteria = rubric_text(rubric, told_in) if isinstance(rubric, str) else rubric_text(rubric, language, variety)
    lines.append(f"{texts['criteria']} {criteria}")
    if language != "und":
        lines.append(texts["language"].replace("<language>", f"{name(variety)} ({variety})"))
    lines.append(f"{texts['critique' if critique else 'plain']} {texts[f'verdict_{mode}']}")
    return "\n\n".join(lines)


def material(mode: Mode, turns: Sequence[Turn], answers: Sequence[str], codes: Codes) -> str:
    """What the judge sees: the turns and the answers in blocks, then a verdict to fill in."""
    shown = [(role.upper(), content) for role, content in turns]
    labels = ["ANSWER"] if len(answers) == 1 else ["ANSWER A", "ANSWER B"]
    shown += zip(labels, answers)
    blocks = [f"[{codes.block}] {label}\n{text}\n[{codes.block}] END" for label, text in shown]
    return "\n\n".join([*blocks, f'{{"code": "{codes.verdict}", "{VERDICT[mode]}": x}}'])
