"""The mixture against a reference that merges with a heap of fractions, and the promises of its documentation."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aya_data.engine.mixture import Bounds, Candidates, Mixture, Request, mix


@dataclass(frozen=True)
class Row:
    """One candidate, as the tests write it down."""

    source: int
    dataset: int
    language: int
    draw: int
    tie: str
    once: bool
    tokens: int


def candidates(rows: Sequence[Row], with_tokens: bool = False) -> Candidates:
    return Candidates(
        np.array([r.source for r in rows], np.int64),
        np.array([r.dataset for r in rows], np.int64),
        np.array([r.language for r in rows], np.int64),
        np.array([r.draw for r in rows], np.uint64),
        [r.tie for r in rows],
        np.array([r.once for r in rows], np.bool_),
        np.array([r.tokens for r in rows], np.int64) if with_tokens else None,
    )


Entry = tuple[int, int]
"""Row and epoch."""


def pairs(mixture: Mixture) -> list[Entry]:
    return list(zip(mixture.row.tolist(), mixture.epoch.tolist(), strict=True))


# The reference ---------------------------------------------------------------------------------------


def leaf_of(rows: Sequence[Row], request: Request, members: list[int]) -> list[Entry]:
    """The rows of one leaf by draw, again in every epoch, up to its limit."""
    members = sorted(members, key=lambda i: (rows[i].draw, rows[i].tie))
    limit = Fraction(request.epochs.get(rows[members[0]].source, Fraction(1)))
    again = [i for i in members if not rows[i].once]
    entries = [(i, 0) for i in members]
    epoch = 1
    while epoch < limit and again:
        entries += [(i, epoch) for i in again]
        epoch += 1
    return entries[: floor(limit * len(again)) + len(members) - len(again)]


def webster(rows: Sequence[Row], children: list[tuple[Fraction, list[Entry]]]) -> list[Entry]:
    """Give seats one by one to the child whose next one has the lowest (k + 1/2) / w."""

    def head(child: int, k: int) -> tuple[Fraction, int, int, str, int, int]:
        weight, entries = children[child]
        row, epoch = entries[k]
        return (Fraction(2 * k + 1, 2) / weight, epoch, rows[row].draw, rows[row].tie, child, k)

    heap = [head(child, 0) for child, (weight, entries) in enumerate(children) if weight > 0 and entries]
    heapq.heapify(heap)
    merged = []
    while heap:
        *_, child, k = heapq.heappop(heap)
        merged.append(children[child][1][k])
        if k + 1 < len(children[child][1]):
            heapq.heappush(heap, head(child, k + 1))
    return merged


def reference(rows: Sequence[Row], request: Request) -> list[Entry]:
    """The whole mixture without caps and floors."""

    def split(members: list[int], key: Callable[[Row], int]) -> Iterator[tuple[int, list[int]]]:
        for code in sorted({key(rows[i]) for i in members}):
            yield code, [i for i in members if key(rows[i]) == code]

    def language_weight(code: int, size: int) -> Fraction:
        if request.language_weights is not None:
            return Fraction(request.language_weights.get(code, 0))
        if request.temperature is not None:
            return Fraction(f"{size ** (1 / request.temperature):.6g}")
        return Fraction(size)

    sources = []
    for source, in_source in split(list(range(len(rows))), lambda r: r.source):
        found = list(split(in_source, lambda r: r.dataset))
        named = {code: request.dataset_weights[code] for code, _ in found if code in request.dataset_weights}
        rest = sum(len(members) for code, members in found if code not in named)
        left = max(Fraction(0), 100 - sum(named.values(), Fraction(0)))
        datasets = []
        for dataset, in_dataset in found:
            leaves = [
                (language_weight(language, len(members)), leaf_of(rows, request, members))
                for language, members in split(in_dataset, lambda r: r.language)
            ]
            weight = Fraction(len(in_dataset))
            if named:
                weight = named.get(dataset, left * len(in_dataset) / Fraction(max(rest, 1)))
            datasets.append((weight, webster(rows, leaves)))
        weight = Fraction(request.source_weights.get(source, Fraction(len(in_source))))
        sources.append((weight, webster(rows, datasets)))
    merged = webster(rows, sources)
    if request.rows is not None:
        return merged[: request.rows]
    if request.tokens is not None:
        spent = 0
        for place, (row, _) in enumerate(merged):
            spent += rows[row].tokens
            if spent > request.tokens:
                return merged[:place]
    elif request.source_weights:
        counted = Counter(rows[row].source for row, _ in merged)
        total = sum(weight for source, weight in request.source_weights.items() if source in counted)
        shares = [n * total / request.source_weights[s] for s, n in counted.items() if s in request.source_weights]
        return merged[: floor(min(shares, default=0))]
    return merged


# Cases -----------------------------------------------------------------------------------------------

WEIGHTS = st.one_of(
    st.integers(1, 9).map(Fraction),
    st.integers(1, 99).map(lambda n: Fraction(n, 10)),
    st.integers(1, 9999).map(lambda n: Fraction(n, 1000)),
)


@st.composite
def row_lists(draw: st.DrawFn, max_size: int = 40) -> list[Row]:
    """Rows of up to three sources of two datasets each, in three languages; draws often collide."""
    shapes = draw(
        st.lists(
            st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 2), st.integers(0, 12), st.booleans()),
            min_size=1, max_size=max_size,
        )
    )  # fmt: skip
    return [
        Row(source, source * 2 + dataset, language, number, f"{index:03}", once and number % 3 == 0, number + 1)
        for index, (source, dataset, language, number, once) in enumerate(shapes)
    ]


@st.composite
def requests(draw: st.DrawFn, sources: int = 3) -> Request:
    """Every setting but bounds."""
    epochs = st.sampled_from([Fraction(1), Fraction(3, 2), Fraction(2), Fraction(11, 4), Fraction(4)])
    weights = {s: draw(WEIGHTS) for s in range(sources)} if draw(st.booleans()) else {}
    datasets = {d: draw(WEIGHTS) for d in range(sources * 2) if draw(st.integers(0, 3)) == 0}
    return Request(
        rows=draw(st.none() | st.integers(0, 60)),
        source_weights=weights,
        dataset_weights=datasets,
        language_weights=draw(st.none() | st.dictionaries(st.integers(0, 2), WEIGHTS, min_size=1)),
        temperature=draw(st.none() | st.sampled_from([1.0, 1.5, 2.0, 5.0])),
        epochs={s: draw(epochs) for s in range(sources)},
    )


@given(row_lists(), requests())
def test_equals_the_heap_of_fractions(rows: list[Row], request_: Request) -> None:
    assert pairs(mix(candidates(rows), request_)) == reference(rows, request_)


@given(row_lists(), requests(), st.integers(0, 300))
def test_a_token_budget_stops_at_the_first_row_that_does_not_fit(
    rows: list[Row], request_: Request, budget: int
) -> None:
    request_ = replace(request_, rows=None, tokens=budget)
    assert pairs(mix(candidates(rows, with_tokens=True), request_)) == reference(rows, request_)


@given(st.lists(WEIGHTS, min_size=2, max_size=3), st.integers(1, 120))
def test_equal_positions_are_ties_whatever_the_weights(weights: list[Fraction], budget: int) -> None:
    """Position (k + 1/2) / w of one child often equals that of another; the draw then decides, never rounding."""
    rows = [
        Row(source, source, 0, 1000 * k + (7 * source + 5 * k) % 11, f"{source}{k:03}", False, 1)
        for source in range(len(weights))
        for k in range(60)
    ]
    request_ = Request(rows=budget, source_weights=dict(enumerate(weights)))
    assert pairs(mix(candidates(rows), request_)) == reference(rows, request_)


def test_ties_of_weights_that_floats_do_not_hold() -> None:
    """0.7 and 2.1: row k of one stands where row 3k + 1 of the other does."""
    for tenths in range(1, 40):
        weights = {0: Fraction(tenths, 10), 1: Fraction(3 * tenths, 10)}
        rows = [Row(s, s, 0, 500 - k - 1000 * (s - 1) * k, f"{s}{k:03}", False, 1) for s in range(2) for k in range(60)]
        request_ = Request(rows=80, source_weights=weights)
        assert pairs(mix(candidates(rows), request_)) == reference(rows, request_), tenths


# Promises --------------------------------------------------------------------------------------------


@st.composite
def bounds(draw: st.DrawFn, rows: list[Row]) -> Bounds:
    """A bound over some grouping of the rows."""
    key = draw(st.sampled_from(["source", "dataset", "language", "draw"]))
    group = np.array([getattr(row, key) for row in rows], np.int64)
    limits = draw(st.tuples(st.none() | st.integers(0, 6), st.none() | st.integers(0, 30)))
    if limits == (None, None):
        limits = (3, None)
    return Bounds(group, *limits)


@st.composite
def bounded(draw: st.DrawFn) -> tuple[list[Row], Request]:
    rows = draw(row_lists())
    made = draw(requests())
    caps = draw(st.lists(bounds(rows), max_size=2))
    floors = draw(st.lists(bounds(rows), max_size=2))
    return rows, replace(made, caps=caps, floors=floors)


def used(entries: Sequence[Entry], bound: Bounds, rows: Sequence[Row]) -> tuple[Counter[int], Counter[int]]:
    by_rows: Counter[int] = Counter()
    by_tokens: Counter[int] = Counter()
    for row, _ in entries:
        group = int(bound.group[row])
        by_rows[group] += 1
        by_tokens[group] += rows[row].tokens
    return by_rows, by_tokens


@given(bounded())
def test_caps_hold_and_nothing_is_taken_twice(case: tuple[list[Row], Request]) -> None:
    rows, request_ = case
    taken = pairs(mix(candidates(rows, with_tokens=True), request_))
    assert len(set(taken)) == len(taken)
    assert request_.rows is None or len(taken) <= request_.rows
    for cap in request_.caps:
        by_rows, by_tokens = used(taken, cap, rows)
        assert cap.rows is None or max(by_rows.values(), default=0) <= cap.rows
        assert cap.tokens is None or max(by_tokens.values(), default=0) <= cap.tokens
    for row, epoch in taken:
        assert epoch == 0 or not rows[row].once
        assert epoch < request_.epochs[rows[row].source]


@given(bounded(), st.integers(0, 40), st.integers(0, 20))
def test_a_larger_budget_is_a_superset(case: tuple[list[Row], Request], small: int, more: int) -> None:
    rows, request_ = case
    few = pairs(mix(candidates(rows, with_tokens=True), replace(request_, rows=small)))
    many = pairs(mix(candidates(rows, with_tokens=True), replace(request_, rows=small + more)))
    assert set(few) <= set(many)
    if not request_.caps and not request_.floors:
        assert few == many[: len(few)]


@given(bounded(), st.integers(0, 200), st.integers(0, 60))
def test_a_larger_token_budget_is_a_superset(case: tuple[list[Row], Request], small: int, more: int) -> None:
    rows, request_ = case
    few = mix(candidates(rows, with_tokens=True), replace(request_, rows=None, tokens=small))
    many = mix(candidates(rows, with_tokens=True), replace(request_, rows=None, tokens=small + more))
    assert set(pairs(few)) <= set(pairs(many))
    assert sum(rows[row].tokens for row, _ in pairs(few)) <= small


@given(row_lists(), st.integers(1, 3), st.integers(0, 40))
def test_floors_are_met_where_there_is_enough(rows: list[Row], floor_rows: int, extra: int) -> None:
    """Whatever the weights say, when the budget holds all floors."""
    group = np.array([row.draw for row in rows], np.int64)
    size = Counter(group.tolist())
    needed = sum(min(n, floor_rows) for n in size.values())
    request_ = Request(rows=needed + extra, source_weights={0: Fraction(98), 1: Fraction(1), 2: Fraction(1)},
                       floors=[Bounds(group, floor_rows)])  # fmt: skip
    taken = Counter(int(group[row]) for row, _ in pairs(mix(candidates(rows), request_)))
    assert all(taken[g] >= min(n, floor_rows) for g, n in size.items())


@given(row_lists(), requests(), st.integers(1, 40))
def test_a_further_source_shrinks_the_others_to_a_prefix(rows: list[Row], request_: Request, budget: int) -> None:
    weights = request_.source_weights or {0: Fraction(3), 1: Fraction(5), 2: Fraction(2)}
    request_ = replace(request_, rows=budget, source_weights=weights)
    without = [row for row in rows if row.source != 2]
    if not without:
        return
    places = [index for index, row in enumerate(rows) if row.source != 2]
    alone = [(places[row], epoch) for row, epoch in pairs(mix(candidates(without), request_))]
    together = pairs(mix(candidates(rows), request_))
    for source in (0, 1):
        before = [entry for entry in alone if rows[entry[0]].source == source]
        after = [entry for entry in together if rows[entry[0]].source == source]
        assert after == before[: len(after)]


@given(bounded(), st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(case: tuple[list[Row], Request], shuffler: object) -> None:
    rows, request_ = case
    order = list(range(len(rows)))
    shuffler.shuffle(order)  # type: ignore[attr-defined]

    def moved(bound: Bounds) -> Bounds:
        return replace(bound, group=bound.group[order])

    shuffled = replace(request_, caps=[moved(b) for b in request_.caps], floors=[moved(b) for b in request_.floors])
    first = pairs(mix(candidates(rows, with_tokens=True), request_))
    second = pairs(mix(candidates([rows[i] for i in order], with_tokens=True), shuffled))
    assert first == [(order[row], epoch) for row, epoch in second]


@given(row_lists(), st.sampled_from([Fraction(5, 4), Fraction(3, 2), Fraction(7, 3), Fraction(3)]))
def test_epochs_end_where_they_are_told(rows: list[Row], limit: Fraction) -> None:
    """Every leaf gives its repeatable rows ``limit`` times, the part of a last epoch by draw, and no more."""
    taken = pairs(mix(candidates(rows), Request(epochs=dict.fromkeys(range(3), limit))))
    for leaf in {(row.dataset, row.language) for row in rows}:
        mine = [i for i, row in enumerate(rows) if (row.dataset, row.language) == leaf]
        again = sum(not rows[i].once for i in mine)
        got = [entry for entry in taken if entry[0] in mine]
        assert len(got) == floor(limit * again) + len(mine) - again
        by_epoch = Counter(epoch for _, epoch in got)
        assert all(by_epoch[epoch] == again for epoch in range(1, floor(limit)))


def leaf(source: int, language: int, count: int, dataset: int | None = None) -> list[Row]:
    return [
        Row(
            source,
            source if dataset is None else dataset,
            language,
            (k * 7919) % 10007,
            f"{source}{language}{k:05}",
            False,
            1,
        )
        for k in range(count)
    ]


def test_weights_are_shares() -> None:
    rows = [*leaf(0, 0, 900), *leaf(1, 0, 900), *leaf(2, 0, 900)]
    weights = {0: Fraction(10), 1: Fraction(49), 2: Fraction(41)}
    taken = mix(candidates(rows), Request(rows=1000, source_weights=weights))
    assert Counter(rows[i].source for i in taken.row.tolist()) == {0: 100, 1: 490, 2: 410}


def test_without_a_budget_weights_hold_until_the_first_source_is_used_up() -> None:
    rows = [*leaf(0, 0, 100), *leaf(1, 0, 900)]
    taken = mix(candidates(rows), Request(source_weights={0: Fraction(20), 1: Fraction(80)}))
    assert Counter(rows[i].source for i in taken.row.tolist()) == {0: 100, 1: 400}


def test_without_a_budget_languages_that_get_nothing_do_not_count() -> None:
    rows = [*leaf(0, 0, 10), *leaf(0, 1, 90), *leaf(1, 0, 900)]
    request_ = Request(source_weights={0: Fraction(1), 1: Fraction(1)}, language_weights={0: Fraction(1)})
    taken = mix(candidates(rows), request_)
    assert Counter((rows[i].source, rows[i].language) for i in taken.row.tolist()) == {(0, 0): 10, (1, 0): 10}


def test_temperature_evens_out_languages() -> None:
    rows = [*leaf(0, 0, 8100), *leaf(0, 1, 100)]
    natural = mix(candidates(rows), Request(rows=82, temperature=1.0))
    even = mix(candidates(rows), Request(rows=100, temperature=2.0))
    assert Counter(rows[i].language for i in natural.row.tolist()) == {0: 81, 1: 1}
    assert Counter(rows[i].language for i in even.row.tolist()) == {0: 90, 1: 10}


def test_what_a_cap_frees_goes_to_the_others() -> None:
    rows = [*leaf(0, 0, 500), *leaf(1, 0, 500)]
    cap = Bounds(np.array([r.source for r in rows], np.int64), rows=60)
    request_ = Request(rows=100, source_weights={0: Fraction(90), 1: Fraction(10)}, caps=[cap])
    taken = mix(candidates(rows), request_)
    assert Counter(rows[i].source for i in taken.row.tolist()) == {0: 60, 1: 40}


def test_a_floor_reaches_a_row_far_down_its_leaf() -> None:
    rows = leaf(0, 0, 200)
    rare = max(range(200), key=lambda i: rows[i].draw)
    group = np.array([int(i == rare) for i in range(200)], np.int64)
    taken = mix(candidates(rows), Request(rows=10, floors=[Bounds(group, rows=1)]))
    assert rare in taken.row.tolist()
    assert len(taken.row) == 10


@pytest.mark.parametrize("rows", [[], leaf(0, 0, 1)])
def test_little(rows: list[Row]) -> None:
    assert len(mix(candidates(rows), Request(rows=5)).row) == len(rows)
    assert len(mix(candidates(rows), Request(rows=0)).row) == 0
