"""The mixture: which rows, how often, by Webster's divisor method.

Rows are the leaves of a tree whose *levels* are, from the outside, any axes of the spec (origin, task, licence, …),
then source, dataset and language. Rows of a leaf stand in the order of their draw. A child of weight w puts its k-th
row (from 0) at position (k + 1/2) / w; its parent takes the rows of all children by position. This is done for
languages within a dataset, datasets within a source, sources within the innermost axis, and so on outwards, and the
budget takes the lowest positions. So a larger budget is a superset, and a further source shrinks every other one to a
prefix of its draw (Balinski and Young, *Fair Representation*, on divisor methods: house and population monotonicity).

Where shares are shares of *tokens*, a row of t tokens after c others stands at (c + t/2) / w. A larger budget is still
a superset; the prefix holds for sources without axes around them.

Equal weights with a limit of epochs are UniMax (Chung et al. 2023, arXiv 2304.09151, algorithm 1): a leaf that
is used up leaves the rest of the budget to the others in equal parts, which is its water-filling.

Over-allocation repeats rows: the leaf starts over with the next ``epoch``, up to its limit. Caps skip a
row whose group is full; what they free goes to the rows that follow. Floors are taken first, all of them together
(:mod:`~aya_data.engine.cover`).

Positions are float64 over weights that were brought to whole numbers within their parent: as long as the products of
weights and ranks stay below 2**52, equal positions are equal as floats and unequal ones differ, so the order is
exact; a test holds it against rational arithmetic. Beyond, it is still the same order everywhere. Time O(n log n): 1
million candidates in three levels, each up to twice, take 0.9 s of one core, with a cap or floor as without, and at the
highest 270 bytes each beside the columns that are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import gcd, lcm

import numpy as np
import numpy.typing as npt

from aya_data.engine.bounds import Bounds, CutOff, pool, walk

__all__ = ["Bounds", "Candidates", "Mixture", "Request", "Share", "mix", "shares"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The rows there are, as columns of equal length n.

    ``source``, ``dataset``, ``language`` are codes from 0; ``dataset`` codes are unique over sources. ``axes`` are the
    codes of further levels, the outermost first. ``draw`` is uint64 and ``tie`` (unique text, the row hash and key)
    breaks equal draws. ``once`` marks rows that may not be repeated (validation). ``tokens`` may be ``None``.
    """

    source: Ints
    dataset: Ints
    language: Ints
    draw: npt.NDArray[np.uint64]
    tie: Sequence[str] | npt.NDArray[np.bytes_]
    once: npt.NDArray[np.bool_]
    tokens: Ints | None = None
    axes: Sequence[Ints] = ()

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True, slots=True)
class Share:
    """How a level is shared out, by code. Without any of these, each value by its size.

    ``weights`` are percent, and values without one share what is left of 100 by size. ``temperature`` t: a value of
    size n weighs n to the power 1/t. ``even``: equal weights. ``missing`` is the weight of values that no row has; it
    counts in :func:`shares` alone.
    """

    weights: Mapping[int, Fraction] | None = None
    temperature: float | None = None
    even: bool = False
    missing: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. Weights by code; a missing weight is the size of the child (its natural share).

    ``dataset_weights`` are percent of the source; datasets without one share what is left by size.
    ``language_weights`` are relative; with them, other languages get nothing; ``language_even`` gives all the same.
    ``axes`` says how each of the further levels is shared. ``epochs`` by source code. ``in_tokens``: sizes, weights and
    positions count tokens.
    """

    rows: int | None = None
    tokens: int | None = None
    source_weights: Mapping[int, Fraction] = field(default_factory=dict)
    dataset_weights: Mapping[int, Fraction] = field(default_factory=dict)
    language_weights: Mapping[int, Fraction] | None = None
    temperature: float | None = None
    language_even: bool = False
    axes: Sequence[Share] = ()
    epochs: Mapping[int, Fraction] = field(default_factory=dict)
    caps: Sequence[Bounds] = ()
    floors: Sequence[Bounds] = ()
    in_tokens: bool = False
    missing_sources: Fraction = Fraction(0)
    missing_languages: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class Mixture:
    """The rows taken, in the order of the mixture: ``row`` (position in the candidates) and ``epoch``.

    ``cut_off`` are the floors that the budget does not hold, if there are any. ``passed_over`` are pairs of a cap and
    its group that a row did not fit in.
    """

    row: Ints
    epoch: Ints
    cut_off: CutOff | None = None
    passed_over: frozenset[tuple[int, int]] = frozenset()


def mix(candidates: Candidates, request: Request) -> Mixture:
    """Return the mixture. Never takes a (row, epoch) twice, never exceeds a cap or the budget."""
    nothing = np.zeros(0, np.int64)
    if len(candidates) == 0:
        return Mixture(nothing, nothing)
    place = _places(candidates)
    kept = np.flatnonzero(pool(place, request.caps))
    if not len(kept):
        return Mixture(nothing, nothing)
    if len(kept) < len(candidates):
        candidates, request, place = _part(candidates, request, kept), _bounded(request, kept), _rank(place[kept])
    levels = _levels(candidates, request)
    stream = _leaves(candidates, request, place, levels[-1])
    for number in range(len(levels) - 1, -1, -1):
        stream, most = _merged(candidates, request, place, stream, levels, number)
        if most is not None and request.rows is None and request.tokens is None:
            request = replace(request, tokens=most) if request.in_tokens else replace(request, rows=most)
    taken = _take(candidates, request, stream)
    return replace(taken, row=kept[taken.row])


def shares(candidates: Candidates, request: Request) -> list[Floats]:
    """Return what the weights ask for: for each level (axes, source, dataset, language) the share of each code.

    Shares are of the whole mixture, and each level's add up to 1 with what is ``missing``. Epochs, caps and floors do
    not enter.
    """
    kept = np.flatnonzero(pool(_places(candidates), request.caps))
    candidates, request = _part(candidates, request, kept), _bounded(request, kept)
    found: list[Floats] = []
    above = np.ones(1)
    for level in _levels(candidates, request):
        total = np.bincount(level.parent, weights=level.exact, minlength=len(above))
        if level.missing:
            # Where a parent's weights sum to s, those that nobody has would have added their own.
            total = total + np.array([float(level.missing * scale) for scale in level.scales])
        share = np.divide(level.exact, total[level.parent], out=np.zeros(len(level.exact)), where=level.exact > 0)
        above = share * above[level.parent]
        found.append(np.bincount(level.label, weights=above).astype(np.float64))
    return found


@dataclass(slots=True)
class _Level:
    """One level of the tree. ``node`` is its node of each candidate; the others are by node."""

    node: Ints
    parent: Ints
    label: Ints
    exact: Floats
    scales: Sequence[Fraction]
    weighted: npt.NDArray[np.bool_]
    by_label: bool
    missing: Fraction


def _levels(candidates: Candidates, request: Request) -> list[_Level]:
    """The tree from the outside in. Nodes of a level are ordered by their parents, then by label."""
    size = _sizes(candidates, request)
    language = Share(request.language_weights, request.temperature, request.language_even, request.missing_languages)
    codes = (*candidates.axes, candidates.source, candidates.dataset, candidates.language)
    above = np.zeros(len(candidates), np.int64)
    levels = []
    for number, code in enumerate(codes):
        node = _joint(above, code)
        nodes = int(node.max(initial=-1)) + 1
        parent, label = np.zeros(nodes, np.int64), np.zeros(nodes, np.int64)
        parent[node], label[node] = above, code
        total = np.bincount(node, weights=size, minlength=nodes).astype(np.int64).tolist()
        kind = number - len(candidates.axes)
        weighted = np.zeros(nodes, np.bool_)
        missing = Fraction(0)
        if kind < 0:
            share = request.axes[number]
            table, missing = _shared(share, total, label.tolist(), parent.tolist()), share.missing
            weighted[:] = share.weights is not None
        elif kind == 0:
            named = request.source_weights
            table = [named.get(of, Fraction(n)) for of, n in zip(label.tolist(), total, strict=True)]
            weighted = np.array([of in named for of in label.tolist()], np.bool_)
            missing = request.missing_sources
        elif kind == 1:
            table = _shared(Share(request.dataset_weights), total, label.tolist(), parent.tolist())
        elif language.weights is not None:
            table = [Fraction(language.weights.get(of, 0)) for of in label.tolist()]
            missing = language.missing
        else:
            table = _shared(language, total, label.tolist(), parent.tolist())
        exact, scales = _whole(table, parent, int(above.max(initial=0)) + 1)
        levels.append(_Level(node, parent, label, exact, scales, weighted, kind < 0, missing))
        above = node
    return levels


def _shared(share: Share, size: Sequence[int], label: Sequence[int], parent: Sequence[int]) -> list[Fraction]:
    """The weights of nodes: percent for those named, what is left of 100 for the others by their size."""
    if share.even:
        return [Fraction(1)] * len(size)
    if share.temperature is not None:
        return [_rounded(n ** (1.0 / share.temperature)) for n in size]
    table = [Fraction(n) for n in size]
    if not share.weights and not share.missing:
        return table
    weights = share.weights or {}
    siblings: dict[int, list[int]] = {}
    for node, of in enumerate(parent):
        siblings.setdefault(of, []).append(node)
    for mine in siblings.values():
        named = {node: weights[label[node]] for node in mine if label[node] in weights}
        if not named and not share.missing:
            continue
        others = [node for node in mine if node not in named]
        left = max(Fraction(0), 100 - sum(named.values(), share.missing))
        total = sum(size[node] for node in others)
        for node, weight in named.items():
            table[node] = weight
        for node in others:
            table[node] = left * Fraction(size[node], total)
    return table


@dataclass(slots=True)
class _Stream:
    """Entries in order, those of one node next to each other: candidate and epoch."""

    row: Ints
    epoch: Ints


def _places(candidates: Candidates) -> Ints:
    """The place of each candidate by draw and tie. The ties are only looked at where draws are equal."""
    order = np.argsort(candidates.draw, kind="stable")
    _break_ties(order, (candidates.draw,), (np.asarray(candidates.tie),))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place


def _break_ties(
    order: Ints, sorted_by: Sequence[npt.NDArray[np.generic]], then: Sequence[npt.NDArray[np.generic]]
) -> None:
    """Sort those that are equal in all of ``sorted_by`` by ``then``, the last first, in place: few, as a rule."""
    equal = np.ones(max(0, len(order) - 1), np.bool_)
    for key in sorted_by:
        ordered = key[order]
        equal &= ordered[1:] == ordered[:-1]
    if equal.any():
        among = np.flatnonzero(np.r_[equal, False] | np.r_[False, equal])
        run = np.cumsum(~np.r_[False, equal][among])
        members = order[among]
        order[among] = members[np.lexsort((*(key[members] for key in then), run))]


def _rank(place: Ints) -> Ints:
    """The same order, without gaps."""
    ranks = np.empty(len(place), np.int64)
    ranks[np.argsort(place)] = np.arange(len(place))
    return ranks


def _part(candidates: Candidates, request: Request, kept: Ints) -> Candidates:
    if len(kept) == len(candidates):
        return candidates
    return Candidates(
        candidates.source[kept],
        candidates.dataset[kept],
        candidates.language[kept],
        candidates.draw[kept],
        np.asarray(candidates.tie)[kept],
        candidates.once[kept],
        None if candidates.tokens is None else candidates.tokens[kept],
        [axis[kept] for axis in candidates.axes],
    )


def _bounded(request: Request, kept: Ints) -> Request:
    caps, floors = ([replace(b, group=b.group[kept]) for b in each] for each in (request.caps, request.floors))
    return replace(request, caps=caps, floors=floors)


def _sizes(candidates: Candidates, request: Request) -> Ints:
    """What each row counts for: 1, or its tokens (at least 1, so that no position is taken twice)."""
    if not request.in_tokens:
        return np.ones(len(candidates), np.int64)
    assert candidates.tokens is not None, "shares of tokens need token counts"
    return np.maximum(candidates.tokens, 1)


def _leaves(candidates: Candidates, request: Request, place: Ints, leaves: _Level) -> _Stream:
    """Order each leaf by (epoch, draw), and cut it where its epochs end or nothing further can be asked of it."""
    n, leaf = len(candidates), leaves.node
    order = np.lexsort((place, leaf))
    count = np.bincount(leaf)
    single = np.bincount(leaf, weights=candidates.once).astype(np.int64)
    again = count - single
    limit = _epoch_limits(candidates, request, leaf, len(count))
    # A fractional limit ends inside the last epoch.
    most = np.floor(limit * again + 1e-9).astype(np.int64) + single
    wanted = _wanted(candidates, request, leaf, order, count)
    if wanted is not None:
        most = np.minimum(most, wanted)
    epochs = np.ceil(np.maximum(most - count, 0) / np.maximum(again, 1)).astype(np.int64) + 1
    rows: list[Ints] = [order]
    numbers: list[Ints] = [np.zeros(n, np.int64)]
    more = order[~candidates.once[order]]
    for epoch in range(1, int(epochs.max(initial=1))):
        more = more[epochs[leaf[more]] > epoch]
        rows.append(more)
        numbers.append(np.full(len(more), epoch, np.int64))
    row, number = np.concatenate(rows), np.concatenate(numbers)
    if len(row) > n:
        arrange = np.argsort(leaf[row], kind="stable")
        row, number = row[arrange], number[arrange]
    keep = _before(leaf[row], np.ones(len(row), np.int64)) < most[leaf[row]]
    return _Stream(row[keep], number[keep])


def _epoch_limits(candidates: Candidates, request: Request, leaf: Ints, leaves: int) -> Floats:
    by_source = np.ones(int(candidates.source.max()) + 1)
    for code, limit in request.epochs.items():
        if code < len(by_source):
            by_source[code] = float(limit)
    found = np.ones(leaves)
    found[leaf] = by_source[candidates.source]
    return found


def _wanted(candidates: Candidates, request: Request, leaf: Ints, order: Ints, count: Ints) -> Ints | None:
    """The most entries of each leaf that any mixture takes; ``None`` where that is not known.

    Of a leaf, the first entries are taken and no others, unless a bound reaches into it. Of floors it gives what they
    ask for, be it more than the budget holds.
    """
    caps = [cap for cap in request.caps if cap.rows is not None or cap.tokens is not None]
    starts = np.cumsum(count) - count
    floored = max((floor.rows or 0 for floor in request.floors), default=0)
    limits = []
    for number, bound in enumerate([*caps, *request.floors]):
        group = bound.group[order]
        if bound.tokens is not None or (np.minimum.reduceat(group, starts) < np.maximum.reduceat(group, starts)).any():
            return None
        if number < len(caps) and bound.rows is not None:
            limits.append(np.where(group[starts] >= 0, bound.rows, np.iinfo(np.int64).max))
    if request.rows is not None:
        limits.append(np.full(len(count), max(request.rows, floored)))
    if request.tokens is not None and candidates.tokens is not None:
        # No leaf gives more than the budget holds: whole epochs of it, and the rows of one more.
        held = np.bincount(leaf, weights=np.where(candidates.once, 0, candidates.tokens)).astype(np.int64)
        whole = np.where(held > 0, request.tokens // np.maximum(held, 1) + 2, np.iinfo(np.int32).max)
        limits.append(np.maximum(np.minimum(whole, np.iinfo(np.int32).max) * count, floored))
    return np.minimum.reduce(limits) if limits else None


def _merged(
    candidates: Candidates, request: Request, place: Ints, stream: _Stream, levels: Sequence[_Level], number: int
) -> tuple[_Stream, int | None]:
    """Merge the nodes of a level into their parents: sort by position.

    Equal positions are ordered by epoch and draw, never by code, so that no name is preferred; only axes go by label,
    so that a new row of one value does not move those of another. Without a budget, what is in a parent ends where
    the first of its weighted nodes is used up; of the outermost level that end is returned instead.
    """
    level = levels[number]
    some = level.exact[level.node[stream.row]] > 0
    row, epoch = stream.row[some], stream.epoch[some]
    node = level.node[row]
    size = _sizes(candidates, request)[row] if request.in_tokens else np.ones(len(row), np.int64)
    position = (_before(node, size) + size / 2) / level.exact[node]
    parent = level.parent[node]
    order = np.argsort(position, kind="stable") if number == 0 else np.lexsort((position, parent))
    _break_ties(order, (parent, position), (level.label[node],) if level.by_label else (place[row], epoch))
    most = None
    if level.weighted.any() and request.rows is None and request.tokens is None:
        ends = _ends(level, node, size)
        if number == 0:
            most = int(ends[0])
        else:
            inside = _before(parent[order], size[order]) + size[order] <= ends[parent[order]]
            order = order[inside]
    return _Stream(row[order], epoch[order]), most


def _ends(level: _Level, node: Ints, size: Ints) -> Ints:
    """By parent: the size up to which its weights hold, where the first weighted node is used up."""
    there = np.bincount(node, weights=size, minlength=len(level.exact)).astype(np.int64)
    found = np.full(int(level.parent.max()) + 1, np.iinfo(np.int64).max)
    totals: dict[int, int] = {}
    for of, weight, held in zip(level.parent.tolist(), level.exact.tolist(), there.tolist(), strict=True):
        totals[of] = totals.get(of, 0) + (int(weight) if held else 0)
    for at, of in enumerate(level.parent.tolist()):
        if level.weighted[at] and there[at]:
            found[of] = min(int(found[of]), int(there[at]) * totals[of] // int(level.exact[at]))
    return found


def _take(candidates: Candidates, request: Request, stream: _Stream) -> Mixture:
    """Take the merged order: floors first, then the rest, under caps, until the budget is used."""
    row, epoch = stream.row, stream.epoch
    if request.floors or any(cap.rows is not None or cap.tokens is not None for cap in request.caps):
        found = walk(row, request.caps, request.floors, candidates.tokens, request.rows, request.tokens)
        return Mixture(row[found.taken], epoch[found.taken], found.cut_off, found.passed_over)
    end = len(row)
    if request.rows is not None:
        end = min(end, request.rows)
    if request.tokens is not None:
        assert candidates.tokens is not None, "a budget of tokens needs token counts"
        spent = np.cumsum(candidates.tokens[row])
        end = min(end, int(np.searchsorted(spent, request.tokens, side="right")))
    return Mixture(row[:end], epoch[:end])


def _joint(first: Ints, second: Ints) -> Ints:
    """Dense codes of pairs."""
    if not len(first):
        return np.zeros(0, np.int64)
    width = int(second.max()) + 1
    codes: Ints = np.unique(first * width + second, return_inverse=True)[1].astype(np.int64)
    return codes


def _before(group: Ints, size: Ints) -> Ints:
    """The sum of sizes before each entry in its group; those of a group stand next to each other."""
    if not len(group):
        return np.zeros(0, np.int64)
    before = np.cumsum(size) - size
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    found: Ints = before - np.repeat(before[starts], np.diff(np.r_[starts, len(group)]))
    return found


def _whole(weights: Sequence[Fraction], parent: Ints, parents: int) -> tuple[Floats, list[Fraction]]:
    """Scale the weights of each parent's children to the least whole numbers of the same ratios."""
    siblings: dict[int, list[int]] = {}
    for node, of in enumerate(parent.tolist()):
        siblings.setdefault(of, []).append(node)
    whole = np.zeros(len(weights))
    scales = [Fraction(1)] * parents
    for of, nodes in siblings.items():
        scales[of] = scale = Fraction(
            lcm(*(weights[node].denominator for node in nodes)),
            gcd(*(weights[node].numerator for node in nodes)) or 1,
        )
        for node in nodes:
            whole[node] = float(weights[node] * scale)
    return whole, scales


def _rounded(value: float) -> Fraction:
    """Six significant digits: the power function differs between platforms in the last place."""
    return Fraction(f"{value:.6g}")
