"""Asking: what a step asks and the journal lacks is asked of its voice, and committed as it arrives.

After kill -9 the journal holds all answers but those since its last commit; they and the requests that were on their
way are asked again. What failed is asked again by the next build, unless so few failed that the builder goes on.

Memory: arrays, never an object for each request. A :class:`Listing` takes 22 bytes for each request, its distinct keys
16, what the journal lacks of them at most 23 more; the journal's index takes 45 for each answer, twice that while it is
read. Texts are held for one part of the prompts, for what is on its way and for what waits to be committed.
Measured with 1 million requests of which none is answered yet: 180 bytes for each at the most, all of that together.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.core.errors import BuildError
from aya_data.core.generation import UNEXPLAINED, Answer, Place, Request, Voice, named_reasons
from aya_data.core.journal import BinaryKeys, Index, Journal, Rate, binary_keys

__all__ = ["Demand", "GenerationFailed", "Listing", "ask", "demand", "places"]

UNPRICED = 65_536
"""Answers per commit of a voice that costs nothing: they can be had again at once."""
HELD = 16 << 20
"""Characters of answers that wait for a commit at most."""
AHEAD = 256
"""Requests that are compared with what is wanted at a time."""


class GenerationFailed(BuildError):
    """More requests failed than the spec allows. The answers that came are kept."""


def places(sorted_keys: BinaryKeys, keys: BinaryKeys) -> npt.NDArray[np.int64]:
    """Return where each of ``keys`` stands in ``sorted_keys``, or -1."""
    if not len(sorted_keys):
        return np.full(len(keys), -1, np.int64)
    found = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.where(sorted_keys[found] == keys, found, -1)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a step asks, part after part: ``keys`` (n), ``tokens`` of prompts at most and ``variety``, a place in
    ``varieties``. ``ends[k]`` is where part k ends. 22 bytes for each request."""

    keys: BinaryKeys
    tokens: npt.NDArray[np.int32]
    variety: npt.NDArray[np.uint16]
    varieties: tuple[str, ...]
    ends: tuple[int, ...]

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> Listing:
        """Gather the columns ``key, language, tokens`` of the tables of all parts."""
        known: dict[str, int] = {}
        # These grow in place; a list of arrays, put together at the end, would be there twice.
        keys, tokens, variety = bytearray(), bytearray(), bytearray()
        ends = []
        for table in tables:
            coded = table["language"].combine_chunks().dictionary_encode()
            codes = [known.setdefault(name, len(known)) for name in coded.dictionary.to_pylist()]
            keys += binary_keys(table["key"]).tobytes()
            tokens += table["tokens"].to_numpy().astype(np.int32).tobytes()
            variety += np.array(codes, np.uint16)[coded.indices.to_numpy()].tobytes()
            ends.append(len(keys) // 16)
        columns = np.frombuffer(keys, "S16"), np.frombuffer(tokens, np.int32), np.frombuffer(variety, np.uint16)
        return cls(*columns, tuple(known), tuple(ends))

    def parts(self) -> Iterator[BinaryKeys]:
        """The keys of each part."""
        start = 0
        for end in self.ends:
            yield self.keys[start:end]
            start = end

    def distinct(self) -> BinaryKeys:
        """The keys, each once, sorted."""
        keys = np.sort(self.keys)
        kept = np.ones(len(keys), np.bool_)
        kept[1:] = keys[1:] != keys[:-1]
        return keys if kept.all() else keys[kept]

    def tally(self, wanted: BinaryKeys) -> tuple[Counter[str], int]:
        """Count the requests of ``wanted`` (sorted) by variety, and their tokens; each where it is listed first."""
        left = np.ones(len(wanted), np.bool_)
        languages: Counter[str] = Counter()
        total = start = 0
        for keys in self.parts():
            place = places(wanted, keys)
            mine = np.flatnonzero(place >= 0)
            mine = mine[left[place[mine]]]
            _, first = np.unique(place[mine], return_index=True)
            mine = mine[first]
            left[place[mine]] = False
            total += int(self.tokens[start + mine].sum(dtype=np.int64))
            for code, count in enumerate(np.bincount(self.variety[start + mine]).tolist()):
                languages[self.varieties[code]] += count
            start += len(keys)
        return +languages, total


@dataclass(frozen=True, slots=True)
class Demand:
    """What a step wants of a journal: its distinct ``keys``, sorted, and which of them it lacks, or has as failures."""

    keys: BinaryKeys
    missing: npt.NDArray[np.bool_]
    failed: npt.NDArray[np.bool_]

    def open(self, max_failed: int) -> BinaryKeys:
        """What is to be asked: all that is missing, and what failed where something is asked anyway or too much did."""
        if not (self.missing.any() or self.failed.sum() > max_failed):
            return self.keys[:0]
        asked = self.missing | self.failed
        return self.keys if asked.all() else self.keys[asked]


def demand(index: Index, keys: BinaryKeys) -> Demand:
    """Compare distinct, sorted ``keys`` with what the journal has."""
    missing, failed = np.zeros(len(keys), np.bool_), np.zeros(len(keys), np.bool_)
    missing[index.missing(keys)] = True
    failed[index.failures(keys)] = True
    return Demand(keys, missing, failed)


class _Flight:
    """Which of the ``wanted`` requests were handed out, and which of those are on their way."""

    def __init__(self, wanted: BinaryKeys) -> None:
        self._wanted = wanted
        self._out = np.zeros(len(wanted), np.bool_)
        self._places: dict[str, int] = {}

    def take(self, requests: Iterator[Request]) -> Iterator[Request]:
        """Hand out each wanted request once."""
        while some := list(islice(requests, AHEAD)):
            found = places(self._wanted, binary_keys([request.key for request in some]))
            for request, place in zip(some, found.tolist(), strict=True):
                if place >= 0 and not self._out[place]:
                    self._out[place] = True
                    self._places[request.key] = place
                    yield request

    def land(self, key: str) -> int | None:
        """The place of a request that is answered; None for one that is not on its way."""
        return self._places.pop(key, None)


def ask(
    name: str,
    voice: Voice,
    journal: Journal,
    wanted: BinaryKeys,
    requests: Callable[[], Iterator[Request]],
    place: Place,
    commit: tuple[int, float],
    max_failed: int,
    tell: Callable[..., None],
) -> None:
    """Ask for ``wanted`` (sorted) and journal the answers. ``requests`` lists all requests, with those that are not
    wanted.

    ``tell`` gets (done, failed, counted, prompt tokens, completion tokens, seconds) from time to time: tokens are those
    of the ``counted`` answers, of which the voice said how many they have. Raises
    :class:`GenerationFailed` when more than ``max_failed`` have failed at the end.
    """
    before = journal.load().attempts(wanted)
    rows, seconds = commit if voice.priced else (max(commit[0], UNPRICED), commit[1] * 6)
    flight, failed = _Flight(wanted), Counter[str]()
    waiting: list[Answer] = []
    began = committed = time.monotonic()
    done = counted = prompt_tokens = completion_tokens = held = 0

    def put() -> None:
        nonlocal waiting, committed, held
        held = 0
        if waiting:
            journal.append(waiting)
            waiting = []
        committed = time.monotonic()

    try:
        with (
            voice.session(place) as session,
            contextlib.closing(_generator(session.ask(flight.take(requests())))) as answers,
        ):
            for answer in answers:
                if answer is not None:
                    at = flight.land(answer.key)
                    if at is None:
                        continue
                    done += 1
                    if answer.failed:
                        failed[answer.reason or UNEXPLAINED] += 1
                    elif answer.counted:
                        counted += 1
                        prompt_tokens += answer.prompt_tokens or 0
                        completion_tokens += answer.completion_tokens or 0
                    waiting.append(replace(answer, attempts=answer.attempts + int(before[at])))
                    held += len(answer.text or "")
                if len(waiting) >= rows or held >= HELD or (waiting and time.monotonic() - committed >= seconds):
                    put()
                tell(
                    done=done,
                    failed=failed.total(),
                    counted=counted,
                    prompt_tokens=prompt_tokens,
                    completion_tokens=completion_tokens,
                    seconds=time.monotonic() - began,
                )
    finally:
        put()
        if done and voice.priced:
            took = time.monotonic() - began
            journal.record_rate(Rate(done - failed.total(), counted, prompt_tokens, completion_tokens, took))
    journal.compact()
    if done < len(wanted):
        raise BuildError(
            f"{name}: {voice.name} left {len(wanted) - done} of {len(wanted)} requests without an answer",
            "Build again: the answers that came are kept.",
        )
    if failed.total() > max_failed:
        worst = named_reasons(failed)
        raise GenerationFailed(
            f"{name}: {failed.total()} of {len(wanted)} requests failed, and max_failed is {max_failed}: {worst}",
            "Build again to ask for them once more (the answers that came are kept), or raise max_failed.",
        )


def _generator(answers: Iterator[Any]) -> Any:
    """Answers as a generator, which can be closed."""
    yield from answers
