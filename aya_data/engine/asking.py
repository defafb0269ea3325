"""Asking: what a step asks and the journal lacks is asked of its voice, and committed as it arrives.

After kill -9 the journal holds all answers but those since its last commit; they and the requests that were on their
way are asked again. What failed is asked again by the next build, unless so few failed that the builder goes on.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aya_data.core.errors import BuildError
from aya_data.core.generation import Answer, Place, Request, Voice
from aya_data.core.journal import Index, Journal

__all__ = ["Demand", "GenerationFailed", "ask", "demand"]

UNPRICED = 65_536
"""Answers per commit of a voice that costs nothing: they can be had again at once."""


class GenerationFailed(BuildError):
    """More requests failed than the spec allows. The answers that came are kept."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a step wants of a journal: its distinct keys, those that it lacks, and those whose last answer failed."""

    wanted: int
    missing: frozenset[str]
    failed: frozenset[str]

    def open(self, max_failed: int) -> frozenset[str]:
        """What is to be asked: all that is missing, and what failed where something is asked anyway or too much did."""
        if self.missing or len(self.failed) > max_failed:
            return self.missing | self.failed
        return frozenset()


def demand(index: Index, keys: Sequence[str]) -> Demand:
    """Compare distinct ``keys`` with what the journal has."""
    missing = frozenset(keys[i] for i in index.missing(keys))
    there = [key for key in keys if key not in missing]
    return Demand(len(keys), missing, frozenset(there[i] for i in index.failures(there)))


def ask(
    name: str,
    voice: Voice,
    journal: Journal,
    wanted: frozenset[str],
    requests: Callable[[], Iterator[Request]],
    place: Place,
    commit: tuple[int, float],
    max_failed: int,
    tell: Callable[..., None],
) -> None:
    """Ask for ``wanted`` and journal the answers. ``requests`` lists all requests, with those that are not wanted.

    ``tell`` gets (done, failed, prompt tokens, completion tokens, seconds) from time to time. Raises
    :class:`GenerationFailed` when more than ``max_failed`` have failed at the end.
    """
    listed_keys = sorted(wanted)
    before = dict(zip(listed_keys, journal.load().attempts(listed_keys).tolist(), strict=True))
    rows, seconds = commit if voice.priced else (max(commit[0], UNPRICED), commit[1] * 6)
    open_, failed = set(wanted), Counter[str]()
    waiting: list[Answer] = []
    began = committed = time.monotonic()
    done = prompt_tokens = completion_tokens = 0

    def listed() -> Iterator[Request]:
        left = set(wanted)
        for request in requests():
            if request.key in left:
                left.discard(request.key)
                yield request

    def put() -> None:
        nonlocal waiting, committed
        if waiting:
            journal.append(waiting)
            waiting = []
        committed = time.monotonic()

    try:
        with voice.session(place) as session, contextlib.closing(_generator(session.ask(listed()))) as answers:
            for answer in answers:
                if answer is not None:
                    if answer.key not in open_:
                        continue
                    open_.discard(answer.key)
                    done += 1
                    prompt_tokens += answer.prompt_tokens or 0
                    completion_tokens += answer.completion_tokens or 0
                    if answer.failed:
                        failed[answer.reason or "no reason given"] += 1
                    waiting.append(replace(answer, attempts=answer.attempts + before.get(answer.key, 0)))
                if len(waiting) >= rows or (waiting and time.monotonic() - committed >= seconds):
                    put()
                tell(
                    done=done,
                    failed=failed.total(),
                    prompt_tokens=prompt_tokens,
                    completion_tokens=completion_tokens,
                    seconds=time.monotonic() - began,
                )
    finally:
        put()
        if done and voice.priced:
            journal.record_rate(
                answers=done - failed.total(),
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                seconds=time.monotonic() - began,
            )
    journal.compact()
    if open_:
        raise BuildError(
            f"{name}: {voice.name} left {len(open_)} of {len(wanted)} requests without an answer",
            "Build again: the answers that came are kept.",
        )
    if failed.total() > max_failed:
        worst = "; ".join(f"{count} times {reason}" for reason, count in failed.most_common(3))
        raise GenerationFailed(
            f"{name}: {failed.total()} of {len(wanted)} requests failed, and max_failed is {max_failed}: {worst}",
            "Build again to ask for them once more (the answers that came are kept), or raise max_failed.",
        )


def _generator(answers: Iterator[Any]) -> Any:
    """Answers as a generator, which can be closed."""
    yield from answers
