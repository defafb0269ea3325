"""Floors that are filled together, against every selection that there is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from aya_data.engine.bounds import Bounds, walk
from aya_data.engine.integer_program import Effort, Program, solve

Case = tuple[list[int], list[Bounds], list[Bounds]]
"""The cell of each entry; caps and floors, whose groups are those of the cells."""
Units = npt.NDArray[np.int64]
"""Entries of each cell, one row for each selection."""


@st.composite
def cases(draw: st.DrawFn, most: int = 3) -> Case:
    """Up to 8 cells of up to three entries, and bounds by groups of cells."""
    cells = draw(st.integers(1, 8))
    order = draw(st.permutations([cell for cell in range(cells) for _ in range(draw(st.integers(1, most)))]))

    def bound(least: int) -> Bounds:
        group = draw(st.lists(st.integers(-1, 2), min_size=cells, max_size=cells))
        return Bounds(np.array(group, np.int64), draw(st.integers(least, 4)))

    caps = [bound(0) for _ in range(draw(st.integers(0, 3)))]
    return list(order), caps, [bound(1) for _ in range(draw(st.integers(1, 3)))]


def held(bound: Bounds, units: Units) -> Units:
    """Entries by group, for each selection."""
    return np.stack([units[:, bound.group == group].sum(axis=1) for group in range(3)], axis=1)


def missing(case: Case, floor: Bounds, units: Units) -> Units:
    """What each group of a floor misses of what it asks for and there is, for each selection."""
    there = np.bincount(case[0], minlength=len(floor.group))[None]
    return np.maximum(np.minimum(floor.rows or 0, held(floor, there)) - held(floor, units), 0)


def selections(order: list[int], caps: Sequence[Bounds], cells: int) -> Units:
    """Every number of entries of each cell that the caps allow."""
    units = np.array(list(product(*[range(order.count(cell) + 1) for cell in range(cells)])), np.int64)
    for cap in caps:
        units = units[(held(cap, units) <= (cap.rows or 0)).all(axis=1)]
    return units


def taken(case: Case, budget: int | None) -> tuple[list[int], Units]:
    """The entries taken, and how many of each cell."""
    order, caps, floors = case
    entries = np.flatnonzero(walk(np.array(order), caps, floors, None, budget, None).taken).tolist()
    return entries, np.bincount(np.array(order)[entries].astype(np.int64), minlength=len(floors[0].group))[None]


@settings(deadline=None, max_examples=200)
@given(cases())
def test_floors_that_can_be_filled_are_filled_with_the_fewest(case: Case) -> None:
    order, caps, floors = case
    allowed = selections(order, caps, len(floors[0].group))
    full = np.all([(missing(case, floor, allowed) == 0).all(axis=1) for floor in floors], axis=0)
    fewest = int(allowed[full].sum(axis=1).min()) if full.any() else 5
    for budget in (None, fewest, 40):
        _, units = taken(case, budget)
        assert (allowed == units).all(axis=1).any()
        assert not full.any() or not any(missing(case, floor, units).any() for floor in floors)
    if full.any() and fewest:
        cut_off = walk(np.array(order), caps, floors, None, fewest - 1, None).cut_off
        assert cut_off is not None
        assert cut_off.needed is not None


@settings(deadline=None, max_examples=80)
@given(cases(2))
def test_what_is_named_cannot_be_had_and_none_of_it_can_be_spared(case: Case) -> None:
    order, caps, floors = case
    everything = taken(case, 10**6)[1]

    def fewest(floored: Sequence[int], capped: Sequence[int]) -> int:
        """The fewest entries that give groups what they get at best."""
        units = selections(order, [caps[n] for n in capped], len(floors[0].group))
        for floor in (floors[n] for n in floored):
            units = units[(missing(case, floor, units) <= missing(case, floor, everything)).all(axis=1)]
        return int(units.sum(axis=1).min())

    for budget in range(int(everything.sum()) + 1):
        cut_off = walk(np.array(order), caps, floors, None, budget, None).cut_off
        if cut_off is None:
            continue
        assert cut_off.needed is not None
        assert fewest(cut_off.floors, cut_off.caps) == cut_off.needed > budget
        for number in cut_off.floors:
            assert fewest([n for n in cut_off.floors if n != number], cut_off.caps) <= budget
        for number in cut_off.caps:
            assert fewest(cut_off.floors, [n for n in cut_off.caps if n != number]) <= budget


@settings(deadline=None)
@given(cases(), st.integers(0, 20), st.integers(0, 8))
def test_a_larger_budget_is_a_superset(case: Case, small: int, more: int) -> None:
    few, many = (taken(case, budget)[0] for budget in (small, small + more))
    assert set(few) <= set(many)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_the_program_finds_the_best_of_all_units(data: st.DataObject) -> None:
    """Groups that cross each other at will, so that the relaxation is often not whole."""
    kinds, groups, limits = (data.draw(st.integers(low, high)) for low, high in ((1, 6), (0, 4), (0, 3)))
    numbers = st.integers(0, 4)

    def table(rows: int) -> npt.NDArray[np.float64]:
        ones = data.draw(st.lists(st.integers(0, 1), min_size=rows * kinds, max_size=rows * kinds))
        return np.array(ones, np.float64).reshape(rows, kinds)

    def vector(length: int) -> Units:
        return np.array(data.draw(st.lists(numbers, min_size=length, max_size=length)), np.int64)

    program = Program(table(groups), vector(groups), vector(groups), table(limits), vector(limits), vector(kinds) // 2)
    best = min(
        program.value(np.array(units))
        for units in product(*[range(most + 1) for most in program.most.tolist()])
        if (program.limits @ np.array(units) <= program.limit).all()
    )
    found = solve(program, None, Effort())
    assert found is not None
    assert program.value(found) == best
    assert solve(program, best, Effort()) is None
