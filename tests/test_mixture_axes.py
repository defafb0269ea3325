"""The further levels of the mixture, shares of tokens, UniMax, and bounds of some rows, against brute force."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aya_data.engine import bounds as bounds_module
from aya_data.engine.bounds import Bounds, CutOff, walk
from aya_data.engine.mixture import Candidates, Mixture, Request, Share, mix, shares

Entry = tuple[int, int]
"""Row and epoch."""


@dataclass(frozen=True)
class Row:
    """A candidate: ``codes`` are those of the axes, the source, the dataset and the language."""

    codes: tuple[int, ...]
    draw: int
    tokens: int
    once: bool = False


def candidates(rows: Sequence[Row]) -> Candidates:
    axes = [np.array([row.codes[i] for row in rows], np.int64) for i in range(len(rows[0].codes))]
    return Candidates(
        axes[-3], axes[-2], axes[-1],
        np.array([row.draw for row in rows], np.uint64),
        [f"{i:04}" for i in range(len(rows))],
        np.array([row.once for row in rows], np.bool_),
        np.array([row.tokens for row in rows], np.int64),
        axes[:-3],
    )  # fmt: skip


def pairs(mixture: Mixture) -> list[Entry]:
    return list(zip(mixture.row.tolist(), mixture.epoch.tolist(), strict=True))


# The reference: the tree walked by recursion, seats given one by one ------------------------------------


def percent(share: Share, sizes: dict[int, int]) -> dict[int, Fraction]:
    if share.even:
        return dict.fromkeys(sizes, Fraction(1))
    if share.temperature is not None:
        return {code: Fraction(f"{n ** (1 / share.temperature):.6g}") for code, n in sizes.items()}
    named = {code: share.weights[code] for code in sizes if share.weights and code in share.weights}
    if not named:
        return {code: Fraction(n) for code, n in sizes.items()}
    left = max(Fraction(0), 100 - sum(named.values()))
    others = sum(n for code, n in sizes.items() if code not in named)
    return {code: named.get(code, left * Fraction(n, max(others, 1))) for code, n in sizes.items()}


class Reference:
    def __init__(self, rows: Sequence[Row], request: Request) -> None:
        self.rows, self.request = rows, request
        self.axes = len(rows[0].codes) - 3

    def size(self, row: int) -> int:
        return max(1, self.rows[row].tokens) if self.request.in_tokens else 1

    def weights(self, level: int, sizes: dict[int, int]) -> dict[int, Fraction]:
        request = self.request
        if level < self.axes:
            return percent(request.axes[level], sizes)
        if level == self.axes:
            return {code: Fraction(request.source_weights.get(code, n)) for code, n in sizes.items()}
        if level == self.axes + 1:
            return percent(Share(request.dataset_weights), sizes)
        if request.language_weights is not None:
            return {code: Fraction(request.language_weights.get(code, 0)) for code in sizes}
        return percent(Share(temperature=request.temperature, even=request.language_even), sizes)

    def stream(self, members: list[int], level: int) -> list[Entry]:
        if level == self.axes + 3:
            return self.leaf(members)
        children: dict[int, list[int]] = {}
        for row in members:
            children.setdefault(self.rows[row].codes[level], []).append(row)
        weights = self.weights(level, {code: sum(map(self.size, rows)) for code, rows in children.items()})
        streams = {code: self.stream(rows, level + 1) for code, rows in children.items() if weights[code] > 0}
        heap: list[tuple[Fraction, tuple[int, ...], int, int]] = []
        before = dict.fromkeys(streams, 0)

        def push(code: int, index: int) -> None:
            if index < len(streams[code]):
                row, epoch = streams[code][index]
                position = (before[code] + Fraction(self.size(row), 2)) / weights[code]
                tie = (code,) if level < self.axes else (epoch, self.rows[row].draw, row)
                heapq.heappush(heap, (position, tie, code, index))
                before[code] += self.size(row)

        for code in streams:
            push(code, 0)
        merged = []
        while heap:
            _, _, child, index = heapq.heappop(heap)
            merged.append(streams[child][index])
            push(child, index + 1)
        return merged

    def leaf(self, members: list[int]) -> list[Entry]:
        members = sorted(members, key=lambda i: (self.rows[i].draw, i))
        limit = Fraction(self.request.epochs.get(self.rows[members[0]].codes[self.axes], Fraction(1)))
        again = [i for i in members if not self.rows[i].once]
        entries = [(i, 0) for i in members] + [(i, e) for e in range(1, int(limit) + 1) for i in again]
        return entries[: floor(limit * len(again)) + len(members) - len(again)]

    def mixture(self) -> list[Entry]:
        merged, spent = self.stream(list(range(len(self.rows))), 0), 0
        if self.request.rows is not None:
            return merged[: self.request.rows]
        for place, (row, _) in enumerate(merged):
            spent += self.rows[row].tokens
            if self.request.tokens is not None and spent > self.request.tokens:
                return merged[:place]
        return merged


WEIGHTS = st.one_of(st.integers(1, 60).map(Fraction), st.integers(1, 600).map(lambda n: Fraction(n, 10)))
SHARES = st.one_of(
    st.dictionaries(st.integers(0, 2), WEIGHTS, min_size=1).map(Share),
    st.sampled_from([Share(), Share(even=True), Share(temperature=2.0), Share(temperature=1.3)]),
)


@st.composite
def cases(draw: st.DrawFn, budget: bool = True) -> tuple[list[Row], Request]:
    axes = draw(st.integers(0, 2))
    found = draw(
        st.lists(
            st.tuples(*[st.integers(0, 2)] * (axes + 1), st.integers(0, 1), st.integers(0, 2), st.integers(0, 9),
                      st.integers(0, 30), st.booleans()),
            min_size=1, max_size=30,
        )
    )  # fmt: skip
    rows = [
        Row((*codes[:axes], codes[axes], codes[axes] * 2 + dataset, language), number, tokens, once and number % 3 == 0)
        for *codes, dataset, language, number, tokens, once in found
    ]
    in_tokens = draw(st.booleans())
    request = Request(
        rows=draw(st.integers(0, 50)) if budget and draw(st.booleans()) else None,
        dataset_weights=draw(st.dictionaries(st.integers(0, 5), WEIGHTS, max_size=2)),
        source_weights=draw(st.just({}) | st.fixed_dictionaries(dict.fromkeys(range(3), WEIGHTS))),
        temperature=draw(st.none() | st.just(2.0)),
        language_even=draw(st.booleans()),
        axes=[draw(SHARES) for _ in range(axes)],
        epochs={s: draw(st.sampled_from([Fraction(1), Fraction(5, 2), Fraction(3)])) for s in range(3)},
        in_tokens=in_tokens,
    )
    if request.language_even:
        request = replace(request, temperature=None)
    if request.rows is None:
        request = replace(request, tokens=draw(st.integers(0, 400)))
    return rows, request


@given(cases())
def test_any_levels_equal_the_recursion(case: tuple[list[Row], Request]) -> None:
    rows, request_ = case
    assert pairs(mix(candidates(rows), request_)) == Reference(rows, request_).mixture()


@given(cases(), st.integers(0, 40))
def test_a_larger_budget_is_a_superset(case: tuple[list[Row], Request], more: int) -> None:
    rows, request_ = case
    larger = (
        replace(request_, rows=request_.rows + more)
        if request_.rows is not None
        else replace(request_, tokens=(request_.tokens or 0) + more)
    )
    few, many = (pairs(mix(candidates(rows), each)) for each in (request_, larger))
    assert few == many[: len(few)]


@given(cases(), st.integers(1, 40), st.data())
def test_a_further_source_shrinks_the_others_to_a_prefix(
    case: tuple[list[Row], Request], budget: int, data: st.DataObject
) -> None:
    """Within each value of the levels, where their weights are written (sizes change with what is added)."""
    rows, request_ = case
    axes = len(rows[0].codes) - 3
    written = [Share({code: data.draw(WEIGHTS) for code in range(3)}) for _ in range(axes)]
    request_ = replace(
        request_, rows=budget, tokens=None, axes=written, in_tokens=request_.in_tokens and axes == 0,
        source_weights={code: data.draw(WEIGHTS) for code in range(3)},
    )  # fmt: skip
    places = [index for index, row in enumerate(rows) if row.codes[axes] != 2]
    if not places:
        return
    alone = [(places[row], epoch) for row, epoch in pairs(mix(candidates([rows[i] for i in places]), request_))]
    together = pairs(mix(candidates(rows), request_))
    for path in {rows[i].codes[: axes + 1] for i in places}:
        before = [entry for entry in alone if rows[entry[0]].codes[: axes + 1] == path]
        after = [entry for entry in together if rows[entry[0]].codes[: axes + 1] == path]
        assert after == before[: len(after)]


@given(cases())
def test_shares_are_those_of_the_weights(case: tuple[list[Row], Request]) -> None:
    rows, request_ = case
    reference = Reference(rows, request_)
    asked: list[Counter[int]] = [Counter() for _ in rows[0].codes]

    def visit(members: list[int], level: int, share: Fraction) -> None:
        children: dict[int, list[int]] = {}
        for row in members if level < len(asked) else []:
            children.setdefault(rows[row].codes[level], []).append(row)
        sizes = {code: sum(map(reference.size, mine)) for code, mine in children.items()}
        weights = reference.weights(level, sizes) if children else {}
        for code, mine in children.items():
            part = share * weights[code] / (sum(weights.values()) or 1)
            asked[level][code] += part  # type: ignore[assignment]
            visit(mine, level + 1, part)

    visit(list(range(len(rows))), 0, Fraction(1))
    for found, wanted in zip(shares(candidates(rows), request_), asked, strict=True):
        assert found == pytest.approx([float(wanted[code]) for code in range(len(found))])


def test_what_nobody_has_is_asked_for_all_the_same() -> None:
    rows = [Row((0, source, source, 0), source, 1) for source in (0, 1)]
    request_ = Request(rows=2, source_weights={0: Fraction(30), 1: Fraction(60)}, missing_sources=Fraction(10),
                       axes=[Share({0: Fraction(75)}, missing=Fraction(25))])  # fmt: skip
    origin, source, *_ = shares(candidates(rows), request_)
    assert origin.tolist() == [0.75]
    assert source.tolist() == pytest.approx([0.75 * 0.3, 0.75 * 0.6])


def test_without_a_budget_the_weights_of_every_level_hold() -> None:
    """Human rows end when source 0 is used up, translated ones when source 1 is; the level when its first value is."""
    counts = {(0, 0): 10, (0, 1): 90, (1, 0): 200, (1, 1): 30}
    rows = [
        Row((origin, source, source, 0), 100 * k + 10 * source + origin, 1)
        for (origin, source), count in counts.items()
        for k in range(count)
    ]
    request_ = Request(
        source_weights={0: Fraction(1), 1: Fraction(1)}, axes=[Share({0: Fraction(25), 1: Fraction(75)})]
    )
    taken = Counter(rows[i].codes[:2] for i in mix(candidates(rows), request_).row.tolist())
    assert taken == {(0, 0): 10, (0, 1): 10, (1, 0): 30, (1, 1): 30}


# UniMax ----------------------------------------------------------------------------------------------


def unimax(sizes: dict[int, int], budget: int, epochs: int) -> dict[int, Fraction]:
    """Chung et al. 2023, algorithm 1: from the smallest on, an equal part of what is left, or all of its epochs."""
    left, given_ = Fraction(budget), {}
    order = sorted(sizes, key=lambda code: (sizes[code], code))
    for place, code in enumerate(order):
        even = left / (len(order) - place)
        given_[code] = min(even, Fraction(sizes[code] * epochs))
        left -= given_[code]
    return given_


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 7), st.integers(1, 40), min_size=1), st.integers(1, 5), st.data())
def test_unimax_is_water_filling(sizes: dict[int, int], epochs: int, data: st.DataObject) -> None:
    budget = data.draw(st.integers(0, sum(sizes.values()) * epochs))
    rows = [Row((language, 0, 0, language), 50 * k + language, 1) for language, n in sizes.items() for k in range(n)]
    limits = {0: Fraction(epochs)}
    outer = Request(rows=budget, axes=[Share(even=True)], epochs=limits)
    inner = Request(rows=budget, language_even=True, epochs=limits)
    wanted = unimax(sizes, budget, epochs)
    plain = [replace(row, codes=row.codes[1:]) for row in rows]
    for found in (mix(candidates(rows), outer), mix(candidates(plain), inner)):
        taken = Counter(rows[i].codes[0] for i in found.row.tolist())
        assert sum(taken.values()) == budget
        for language, share in wanted.items():
            assert abs(taken[language] - share) < 1, (taken, wanted)


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 5), st.lists(st.integers(1, 20), min_size=1, max_size=15), min_size=1), st.data())
def test_unimax_in_tokens(texts: dict[int, list[int]], data: st.DataObject) -> None:
    """Each language is within a row of its share: no row is cut."""
    epochs = 3
    sizes = {language: sum(tokens) for language, tokens in texts.items()}
    budget = data.draw(st.integers(0, sum(sizes.values()) * epochs))
    rows = [Row((language, 0, 0, language), 50 * k + language, n)
            for language, tokens in texts.items() for k, n in enumerate(tokens)]  # fmt: skip
    request_ = Request(tokens=budget, axes=[Share(even=True)], epochs={0: Fraction(epochs)}, in_tokens=True)
    taken: Counter[int] = Counter()
    for row in mix(candidates(rows), request_).row.tolist():
        taken[rows[row].codes[0]] += rows[row].tokens
    assert sum(taken.values()) <= budget
    for language, share in unimax(sizes, budget, epochs).items():
        assert abs(taken[language] - share) <= 20 * len(texts)


# Bounds ----------------------------------------------------------------------------------------------


def walked(
    row: list[int], caps: list[Bounds], floors: list[Bounds], tokens: list[int], rows_left: int, tokens_left: int
) -> tuple[list[int], int | None]:
    """Entry by entry: what is taken, in the order in which it is, and the floor that the budget ended in."""
    taken: list[int] = []

    def used(bound: Bounds, group: int) -> tuple[int, int]:
        mine = [row[i] for i in taken if bound.group[row[i]] == group]
        return len(mine), sum(tokens[r] for r in mine)

    for number, floor_ in enumerate([*floors, None]):
        for index, at in enumerate(row):
            if index in taken:
                continue
            if floor_ is not None:
                group = int(floor_.group[at])
                count, spent = used(floor_, group)
                if group < 0 or (count >= (floor_.rows or 0) and spent >= (floor_.tokens or 0)):
                    continue
            full = False
            for cap in caps:
                count, spent = used(cap, int(cap.group[at]))
                over = (cap.rows is not None and count >= cap.rows) or (
                    cap.tokens is not None and spent + tokens[at] > cap.tokens
                )
                full |= over and bool(cap.group[at] >= 0)
            if full:
                continue
            if len(taken) >= rows_left or sum(tokens[row[i]] for i in taken) + tokens[at] > tokens_left:
                return sorted(taken), number if floor_ is not None else None
            taken.append(index)
    return sorted(taken), None


@st.composite
def walks(draw: st.DrawFn) -> tuple[list[int], list[Bounds], list[Bounds], list[int], int, int]:
    n = draw(st.integers(1, 12))
    limits = st.tuples(st.none() | st.integers(0, 4), st.none() | st.integers(0, 25)).filter(any)

    def bound() -> Bounds:
        return Bounds(np.array(draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n)), np.int64), *draw(limits))

    row = draw(st.lists(st.integers(0, n - 1), max_size=25))
    tokens = draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    caps, floors = ([bound() for _ in range(draw(st.integers(0, 2)))] for _ in range(2))
    return row, caps, floors, tokens, draw(st.integers(0, 20)), draw(st.integers(0, 90))


@settings(deadline=None)
@given(walks())
def test_the_walk_goes_entry_by_entry(case: tuple[list[int], list[Bounds], list[Bounds], list[int], int, int]) -> None:
    """Compiled or not; where floors count rows alone, another selection may fill them better (test_cover.py)."""
    row, caps, floors, tokens, rows_left, tokens_left = case
    found = []
    for least in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bounds_module, "COMPILED", least)
            found.append(
                walk(np.array(row, np.int64), caps, floors, np.array(tokens, np.int64), rows_left, tokens_left)
            )
    one, other = found
    assert (one.taken == other.taken).all()
    assert (one.cut_off, one.passed_over) == (other.cut_off, other.passed_over)
    if not floors or any(bound.tokens is not None for bound in (*caps, *floors)):
        taken, cut_off = walked(*case)
        assert np.flatnonzero(one.taken).tolist() == taken
        assert one.cut_off == (None if cut_off is None else CutOff(tuple(range(cut_off + 1))))


@given(cases(), st.data())
def test_bounds_hold_with_all_levels(case: tuple[list[Row], Request], data: st.DataObject) -> None:
    """Caps are never exceeded, none of their rows is lost to a cap that is not full, and rows outside are free."""
    rows, request_ = case
    group = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=len(rows), max_size=len(rows))), np.int64)
    cap = Bounds(group, *data.draw(st.tuples(st.none() | st.integers(0, 5), st.none() | st.integers(0, 40),
                                             st.none() | st.integers(0, 4)).filter(any)))  # fmt: skip
    floors = [Bounds(group, data.draw(st.integers(0, 2)))]
    taken = pairs(mix(candidates(rows), replace(request_, caps=[cap], floors=floors)))
    assert len(set(taken)) == len(taken)
    for code in range(3):
        mine = [row for row, _ in taken if group[row] == code]
        assert cap.rows is None or len(mine) <= cap.rows
        assert cap.tokens is None or sum(rows[row].tokens for row in mine) <= cap.tokens
        if cap.distinct is not None:
            first = sorted(np.flatnonzero(group == code).tolist(), key=lambda i: (rows[i].draw, i))[: cap.distinct]
            assert set(mine) <= set(first)


def test_a_cap_on_different_rows_lets_them_repeat() -> None:
    rows = [Row((0, 0, 0), k, 1) for k in range(50)] + [Row((1, 1, 0), k, 1) for k in range(50)]
    group = np.array([0] * 50 + [-1] * 50, np.int64)
    request_ = Request(rows=60, source_weights={0: Fraction(50), 1: Fraction(50)}, epochs={0: Fraction(3)},
                       caps=[Bounds(group, distinct=10)])  # fmt: skip
    taken = pairs(mix(candidates(rows), request_))
    first = Counter(row for row, _ in taken if row < 50)
    assert first == dict.fromkeys(range(10), 3)
    assert len({row for row, _ in taken if row >= 50}) == 30


def test_the_floor_that_the_budget_does_not_hold_is_told() -> None:
    rows = [Row((0, 0, k % 4), k, 1) for k in range(40)]
    language, every = np.array([k % 4 for k in range(40)], np.int64), np.zeros(40, np.int64)
    floors = [Bounds(every, 5), Bounds(language, 3)]
    assert mix(candidates(rows), Request(rows=11, floors=floors)).cut_off == CutOff((1,), needed=12)
    assert mix(candidates(rows), Request(rows=12, floors=floors)).cut_off is None
    # One leaf has enough for the floor, and the budget less.
    alike = candidates([Row((0, 0, 0), k, 1) for k in range(40)])
    assert mix(alike, Request(rows=11, floors=[Bounds(every, 15)])).cut_off == CutOff((0,), needed=15)
