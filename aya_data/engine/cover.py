"""Floors that are filled together: the fewest entries that give every group of every floor what it can get under caps.

Filled one after the other, floors take rows that serve one of them where others would serve two, and rows that use a
cap up of which another group has nothing else. Which rows, is a covering problem; it is solved over *cells*: entries
that lie in the same groups of all bounds are alike, and few cells hold many rows. Of a cell, the first entries in order
are taken. With floors and caps by several columns the problem is NP-hard: units that serve the most floors are tried
first, and where they are not plainly the best, the integer program is solved, up to an effort.

No group of a floor gets less than filling them in turn gives it. Bounds that count tokens have no cells: see
:func:`cells_of`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from aya_data.engine.integer_program import Effort, Program, Value, solve

__all__ = ["Cells", "cells_of", "conflict", "cover"]

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Conflict = tuple[tuple[int, ...], tuple[int, ...], int]
"""Floors and caps by number, and the entries that they need."""

LARGEST: Final = 4_000_000
"""Groups times cells from which on nothing is searched."""
NOBODY: Final = 2**62


@dataclass(frozen=True, slots=True)
class Cells:
    """Entries by cell.

    ``cell`` is the cell of each entry, -1 where no floor is for it; ``floors`` and ``caps`` the group of each cell by
    bound, -1 where it is in none; ``have`` the entries of each cell that can be of use. ``need`` is what the groups of
    each floor want and have, ``limit`` what each cap allows.
    """

    cell: Ints
    floors: Sequence[Ints]
    caps: Sequence[Ints]
    have: Ints
    need: Sequence[Ints]
    limit: Sequence[int | None]

    def program(
        self, floors: Collection[int], caps: Collection[int], need: Sequence[Ints], may_miss: Sequence[Ints]
    ) -> Program:
        """Return the program of some of the floors and caps."""
        wanted = [(number, group) for number in floors for group in np.flatnonzero(self.need[number]).tolist()]
        limited = [(number, group) for number in caps for group in _groups(self.caps[number])]
        none = np.zeros((0, len(self.have)))
        return Program(
            np.stack([self.floors[n] == g for n, g in wanted]).astype(np.float64) if wanted else none,
            np.array([need[n][g] for n, g in wanted], np.int64),
            np.array([may_miss[n][g] for n, g in wanted], np.int64),
            np.stack([self.caps[n] == g for n, g in limited]).astype(np.float64) if limited else none,
            np.array([self.limit[n] for n, _ in limited], np.int64),
            self.have,
        )

    def missing(self, units: Ints) -> list[Ints]:
        """What the groups of each floor miss when so many entries of each cell are taken."""
        return [
            np.maximum(need - _sums(group, units, len(need)), 0)
            for group, need in zip(self.floors, self.need, strict=True)
        ]

    def size(self) -> int:
        """Groups times cells."""
        groups = sum(int(np.count_nonzero(need)) for need in self.need) + sum(len(_groups(cap)) for cap in self.caps)
        return groups * len(self.have)


def cells_of(caps: Sequence[tuple[Ints, int | None]], floors: Sequence[tuple[Ints, int]]) -> Cells:
    """Return the cells of entries, by the group of each entry and the rows that a group may or should have.

    Caps that no fewest cover can reach are left out: their groups are -1.
    """
    entries = len(floors[0][0])
    inside = np.zeros(entries, np.bool_)
    for group, _ in floors:
        inside |= group >= 0
    at = np.flatnonzero(inside)
    wanted = [group[at] for group, _ in floors]
    need = [
        np.minimum(np.bincount(group[group >= 0], minlength=1), rows)
        for group, (_, rows) in zip(wanted, floors, strict=True)
    ]
    bound = [_binding(group[at], rows, wanted, need) for group, rows in caps]
    code = np.zeros(len(at), np.int64)
    for group in (*wanted, *bound):
        code = np.unique(code * (int(group.max(initial=-1)) + 2) + group + 1, return_inverse=True)[1].astype(np.int64)
    first = np.unique(code, return_index=True)[1]
    own = [group[first] for group in wanted]
    wants = [np.where(group >= 0, n[np.maximum(group, 0)], 0) for group, n in zip(own, need, strict=True)]
    cell = np.full(entries, -1, np.int64)
    cell[at] = code
    have = np.minimum(np.bincount(code, minlength=len(first)), np.max(wants, axis=0))
    return Cells(cell, own, [group[first] for group in bound], have, need, [rows for _, rows in caps])


def _binding(group: Ints, rows: int | None, wanted: Sequence[Ints], need: Sequence[Ints]) -> Ints:
    """The groups of a cap that floors can fill: each entry of a fewest cover is one that some group needs."""
    if rows is None:
        return np.full(len(group), -1, np.int64)
    bound = group >= 0
    width = int(group.max(initial=0)) + 1
    asked = np.zeros(width, np.int64)
    for floor, n in zip(wanted, need, strict=True):
        both = bound & (floor >= 0)
        pairs = np.unique(group[both] * len(n) + floor[both])
        asked += np.bincount(pairs // len(n), weights=n[pairs % len(n)], minlength=width).astype(np.int64)
    reached = np.minimum(asked, np.bincount(group[bound], minlength=width)) > rows
    return np.where(bound & reached[np.maximum(group, 0)], group, -1)


def cover(cells: Cells, taken: Mask, fewest: bool, effort: Effort) -> Mask | None:
    """Return the entries that fill the floors better than ``taken`` does, or None where none are found.

    Better is to miss less, and with ``fewest`` to take fewer entries. Raises nothing: ``effort`` tells whether None
    means that there is nothing better.
    """
    units = np.bincount(cells.cell[taken & (cells.cell >= 0)], minlength=len(cells.have))
    missing = cells.missing(units)
    least = max(int(need.sum()) for need in cells.need) if fewest else 0
    value: Value = (0, sum(int(each.sum()) for each in missing), int(units.sum()) if fewest else 0)
    near, best = _crowded(cells, effort), None
    now = cells.missing(near)
    beyond = sum(int(np.maximum(here - there, 0).sum()) for here, there in zip(now, missing, strict=True))
    reached = beyond, sum(int(each.sum()) for each in now), int(near.sum()) if fewest else 0
    if reached < value:
        best, value = near, reached
    if value[1] or value[2] > least:
        if cells.size() > LARGEST:
            effort.take(effort.left + 1)
        else:
            program = cells.program(range(len(cells.floors)), range(len(cells.caps)), cells.need, missing)
            found = solve(program, value, effort, near)
            best = best if found is None else found
    return None if best is None else _first(cells.cell, best)


def _crowded(cells: Cells, effort: Effort) -> Ints:
    """Entries of each cell: those first that serve the most floors, and of these whose groups have the least else."""
    bounds = [*cells.floors, *cells.caps]
    open_ = [need.copy() for need in cells.need]
    open_ += [
        np.full(int(cap.max(initial=0)) + 1, rows or 0) for cap, rows in zip(cells.caps, cells.limit, strict=True)
    ]
    count = len(cells.floors)
    scarce = [need / np.maximum(_sums(floor, cells.have, len(need)), 1)
              for floor, need in zip(cells.floors, cells.need, strict=True)]  # fmt: skip
    units = np.zeros(len(cells.have), np.int64)
    while effort.take(len(bounds) * len(units)):
        # Of each bound, what a cell may still give; beyond all numbers where it is in no group.
        left = [np.where(group >= 0, still[np.maximum(group, 0)], NOBODY)
                for group, still in zip(bounds, open_, strict=True)]  # fmt: skip
        may = np.minimum.reduce([cells.have - units, *left[count:]])
        serves = [(group >= 0) & (still > 0) for group, still in zip(cells.floors, left, strict=False)]
        rank = np.sum([served * (1 + rare[np.maximum(group, 0)] / (2 * count))
                       for served, rare, group in zip(serves, scarce, cells.floors, strict=True)], axis=0)  # fmt: skip
        rank[may <= 0] = 0
        cell = int(np.argmax(rank))
        if rank[cell] <= 0:
            break
        # As many as all of the floors that it serves now still want.
        more = min(
            int(may[cell]), *(int(still[cell]) for served, still in zip(serves, left, strict=False) if served[cell])
        )
        units[cell] += more
        for group, still in zip(bounds, open_, strict=True):
            if group[cell] >= 0:
                still[group[cell]] -= more
    return units


def conflict(cells: Cells, taken: Mask, budget: int, effort: Effort) -> Conflict | None:
    """Return floors and caps that need more entries than ``budget``, none of which can be spared, and how many entries.

    ``taken`` are the entries that a cover takes; what groups miss by it is not asked for. None where it is not found
    out, or where they do need no more.
    """
    if cells.size() > LARGEST:
        return None
    missing = cells.missing(np.bincount(cells.cell[taken & (cells.cell >= 0)], minlength=len(cells.have)))
    need = [wanted - short for wanted, short in zip(cells.need, missing, strict=True)]
    nothing = [np.zeros_like(short) for short in missing]

    near = _crowded(cells, effort)

    def needed(floors: Collection[int], caps: Collection[int]) -> int:
        units = solve(cells.program(floors, caps, need, nothing), None, effort, near)
        return 0 if units is None or effort.spent else int(units.sum())

    floors, caps = list(range(len(cells.floors))), list(range(len(cells.caps)))
    if needed(floors, caps) <= budget:
        return None
    for number in reversed(range(len(floors))):
        if needed([n for n in floors if n != number], caps) > budget:
            floors.remove(number)
    for number in reversed(range(len(caps))):
        if needed(floors, [n for n in caps if n != number]) > budget:
            caps.remove(number)
    count = needed(floors, caps)
    return None if effort.spent else (tuple(floors), tuple(caps), count)


def _first(cell: Ints, units: Ints) -> Mask:
    """The first entries of each cell."""
    order = np.argsort(cell, kind="stable")
    ordered = cell[order]
    starts = np.searchsorted(ordered, np.arange(len(units)))
    rank = np.arange(len(cell)) - starts[np.maximum(ordered, 0)]
    marked = np.zeros(len(cell), np.bool_)
    marked[order] = (ordered >= 0) & (rank < units[np.maximum(ordered, 0)])
    return marked


def _sums(group: Ints, units: Ints, groups: int) -> Ints:
    inside = group >= 0
    return np.bincount(group[inside], weights=units[inside], minlength=groups).astype(np.int64)


def _groups(group: Ints) -> list[int]:
    found: list[int] = np.unique(group[group >= 0]).tolist()
    return found
