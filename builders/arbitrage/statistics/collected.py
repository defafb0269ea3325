"""What reports need of all completions: a few integers for each, best first within its prompt.

Everything that is computed from it adds integers up, so it does not matter in which order parts and prompts came.
Memory: 11 bytes per completion and 4 for each arbiter, 26 per prompt; some 4 microseconds per completion to collect.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.builders.arbitrage.ranking import STEP, arbiters_of, penalised, ranking, units, varieties
from aya_data.builders.arbitrage.routing.rules import Contender
from aya_data.builders.arbitrage.statistics.intervals import GROUPS, group, prompt_hashes
from aya_data.builders.arbitrage.tables import POSITIONS, SCORE

__all__ = ["ABSENT", "FINAL", "Collected", "collect", "columns"]

FINAL: Final = ""
"""The name of the final score among the arbiters."""
ABSENT: Final = np.iinfo(np.int32).min
"""No score."""

Ints = npt.NDArray[np.int32]
Shorts = npt.NDArray[np.int16]
Longs = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Collected:
    """All completions of a source. Prompts are p, completions c, in the same order: those of prompt i are
    ``starts[i] : starts[i + 1]``, best first.

    ``hashes`` uint64[p]; ``variety`` int16[p], a place in ``varieties``; ``prompt`` int64[c]; ``teacher`` int16[c], a
    place in ``contenders``; ``scores[arbiter]`` int32[c] in units of 1e-4, :data:`ABSENT` where there is none, that of
    :data:`FINAL` first; ``length`` int32[c] in units of 1e-4 of the ordinary length; ``penalised`` bool[c];
    ``positions[arbiter]`` int64[groups, 4], the sums of :data:`~aya_data.builders.arbitrage.tables.POSITIONS`.
    """

    contenders: tuple[Contender, ...]
    varieties: tuple[tuple[str, str], ...]
    hashes: npt.NDArray[np.uint64]
    variety: Shorts
    starts: Longs
    teacher: Shorts
    scores: dict[str, Ints]
    length: Ints
    penalised: Mask
    positions: dict[str, Longs]

    @property
    def prompt(self) -> Longs:
        """The prompt of each completion, int64[c]."""
        return np.repeat(np.arange(len(self.hashes)), np.diff(self.starts))

    @property
    def group(self) -> npt.NDArray[np.uint16]:
        """The group of each prompt for the bootstrap, uint16[p]."""
        return group(self.hashes)

    def firsts(self, usable: Mask) -> tuple[Longs, Shorts, Longs]:
        """Return the best usable completion of every teacher for every prompt: prompts, teachers, places, by prompt."""
        place = np.flatnonzero(usable)
        key = self.prompt[place] * len(self.contenders) + self.teacher[place]
        _, first = np.unique(key, return_index=True)
        chosen = place[first]
        return self.prompt[chosen], self.teacher[chosen], chosen


def columns(arbiters: Sequence[str], scores: pa.Table) -> list[str]:
    """Return the columns of a table of scores that :func:`collect` reads."""
    named = [f"{name}.{arbiter}" for arbiter in arbiters for name in POSITIONS]
    always = ["row", "prompt", "language", "script", "teacher", "key", "length", "digest", "penalties", "score"]
    wanted = [*always, *(SCORE + arbiter for arbiter in arbiters), *named]
    return [name for name in wanted if name in scores.column_names]


def collect(parts: Iterable[pa.Table], contenders: Sequence[Contender], seed: int) -> Collected:
    """Collect the scores of all parts, each after :func:`~aya_data.builders.arbitrage.ranking.combine`.

    Only completions of ``contenders`` count, and prompts that have one.
    """
    pieces = [_piece(part, contenders, seed) for part in parts if part.num_rows]
    known = sorted({variety for piece in pieces for variety in piece.varieties})
    place = {variety: index for index, variety in enumerate(known)}
    arbiters = sorted({arbiter for piece in pieces for arbiter in piece.scores} | {FINAL})
    judges = sorted({arbiter for piece in pieces for arbiter in piece.positions})
    ends = np.cumsum([0, *(len(piece.teacher) for piece in pieces)])

    def joined(arrays: Iterable[npt.NDArray[Any]], kind: type[np.generic]) -> npt.NDArray[Any]:
        return np.concatenate([np.zeros(0, kind), *arrays])

    return Collected(
        tuple(contenders),
        tuple(known),
        joined([piece.hashes for piece in pieces], np.uint64),
        joined(
            [np.array([place[one] for one in piece.varieties], np.int16)[piece.variety] for piece in pieces], np.int16
        ),
        np.concatenate(
            [np.zeros(1, np.int64), *(piece.starts[1:] + end for piece, end in zip(pieces, ends, strict=False))]
        ),
        joined([piece.teacher for piece in pieces], np.int16),
        {
            arbiter: joined(
                [piece.scores.get(arbiter, np.full(len(piece.teacher), ABSENT, np.int32)) for piece in pieces], np.int32
            )
            for arbiter in arbiters
        },
        joined([piece.length for piece in pieces], np.int32),
        joined([piece.penalised for piece in pieces], np.bool_),
        {
            judge: sum(
                (piece.positions[judge] for piece in pieces if judge in piece.positions),
                np.zeros((GROUPS, len(POSITIONS)), np.int64),
            )
            for judge in judges
        },
    )


def _piece(part: pa.Table, contenders: Sequence[Contender], seed: int) -> Collected:
    names = pa.array([contender.name for contender in contenders], pa.string())
    teacher = pa.compute.index_in(part["teacher"], names)
    if teacher.null_count:
        part, teacher = part.filter(teacher.is_valid()), teacher.drop_null()
    order, _ = ranking(part, seed)
    row = part["row"].to_numpy()[order]
    _, first = np.unique(row, return_index=True)
    prompts = part["prompt"].take(pa.array(order[first])).to_pylist()
    hashes = prompt_hashes(prompts)
    coded, known = varieties(part)
    arbiters = arbiters_of(part)
    scores = {FINAL: _ints(part["score"], order)}
    scores |= {arbiter: _ints(part[SCORE + arbiter], order) for arbiter in arbiters}
    length = np.nan_to_num(part["length"].to_numpy()[order])
    own = np.repeat(group(hashes), np.diff(np.append(first, len(order))))
    positions = {}
    for arbiter in arbiters:
        if f"{POSITIONS[0]}.{arbiter}" in part.column_names:
            sums = np.zeros((GROUPS, len(POSITIONS)), np.int64)
            held = [part[f"{name}.{arbiter}"].fill_null(0).to_numpy()[order] for name in POSITIONS]
            np.add.at(sums, own, np.stack(held, axis=1).astype(np.int64))
            positions[arbiter] = sums
    return Collected(
        tuple(contenders),
        tuple(known),
        hashes,
        coded[order[first]].astype(np.int16),
        np.append(first, len(order)).astype(np.int64),
        teacher.to_numpy()[order].astype(np.int16),
        scores,
        np.rint(np.clip(length, 0, 1e5) * STEP).astype(np.int32),
        penalised(part)[order],
        positions,
    )


def _ints(column: pa.ChunkedArray, order: Longs) -> Ints:
    value, there = units(column)
    # Nothing scores a hundred thousand; what does is kept apart from what has no score.
    return np.where(there, np.clip(value, ABSENT + 1, -(ABSENT + 1)), ABSENT)[order].astype(np.int32)
