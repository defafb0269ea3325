"""The mixture: which rows, how often, by Webster's divisor method.

Rows of a *leaf* (source, dataset, language) stand in the order of their draw. A child of weight w puts its k-th
row (from 0) at position (k + 1/2) / w; its parent takes the rows of all children by position. This is
done for languages within a dataset, datasets within a source, and sources within the mixture, and the
budget takes the lowest positions. So a larger budget is a superset, and a further source shrinks every
other one to a prefix of its draw (Balinski and Young, *Fair Representation*, on divisor methods: house and
population monotonicity).

Over-allocation repeats rows: the leaf starts over with the next ``epoch``, up to its limit. Caps skip a
row whose group is full; what they free goes to the rows that follow. Floors are taken first.

Positions are float64 over weights that were brought to whole numbers within their parent: as long as those stay
below 2**53, equal positions are equal as floats and unequal ones differ, so the order is exact; a test
holds it against rational arithmetic. Time O(n log n), about 1 microsecond per row and level; memory some 60 bytes
per candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import gcd, lcm

import numpy as np
import numpy.typing as npt

__all__ = ["Bounds", "Candidates", "Mixture", "Request", "mix"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The rows there are, as columns of equal length n.

    ``source``, ``dataset``, ``language`` are codes from 0; ``dataset`` codes are unique over sources.
    ``draw`` is uint64 and ``tie`` (unique text, the row hash and key) breaks equal draws.
    ``once`` marks rows that may not be repeated (validation). ``tokens`` may be ``None``.
    """

    source: Ints
    dataset: Ints
    language: Ints
    draw: npt.NDArray[np.uint64]
    tie: Sequence[str] | npt.NDArray[np.bytes_]
    once: npt.NDArray[np.bool_]
    tokens: Ints | None = None

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True, slots=True)
class Bounds:
    """A cap or floor: ``group`` is the group code of each row; limits are per group."""

    group: Ints
    rows: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for. Weights by code; a missing weight is the size of the child (its natural share).

    ``dataset_weights`` are percent of the source; datasets without one share what is left by size.
    ``language_weights`` are relative; with them, other languages get nothing. ``epochs`` by source code.
    """

    rows: int | None = None
    tokens: int | None = None
    source_weights: Mapping[int, Fraction] = field(default_factory=dict)
    dataset_weights: Mapping[int, Fraction] = field(default_factory=dict)
    language_weights: Mapping[int, Fraction] | None = None
    temperature: float | None = None
    epochs: Mapping[int, Fraction] = field(default_factory=dict)
    caps: Sequence[Bounds] = ()
    floors: Sequence[Bounds] = ()


@dataclass(frozen=True, slots=True)
class Mixture:
    """The rows taken, in the order of the mixture: ``row`` (position in the candidates) and ``epoch``."""

    row: Ints
    epoch: Ints


def mix(candidates: Candidates, request: Request) -> Mixture:
    """Return the mixture. Never takes a (row, epoch) twice, never exceeds a cap or the budget."""
    if len(candidates) == 0:
        nothing = np.zeros(0, np.int64)
        return Mixture(nothing, nothing)
    stream = _leaves(candidates, request)
    for level in (_language_weights, _dataset_weights, _source_weights):
        stream = level(candidates, request, stream)
    if request.source_weights and request.rows is None and request.tokens is None:
        request = replace(request, rows=_largest(candidates, request, stream))
    return _take(candidates, request, stream)


def _largest(candidates: Candidates, request: Request, stream: _Stream) -> int:
    """The most rows that keep the weights of all sources: until the first one is used up."""
    entries = np.bincount(candidates.source[stream.row])
    total = sum(request.source_weights.values(), Fraction(0))
    most = [
        int(entries[code]) * total / weight
        for code, weight in request.source_weights.items()
        if code < len(entries) and entries[code]
    ]
    return int(min(most, default=Fraction(0)))


@dataclass(slots=True)
class _Stream:
    """Candidates in order: row and epoch of each entry, and its rank within the child merged last."""

    row: Ints
    epoch: Ints
    rank: Ints


def _leaves(candidates: Candidates, request: Request) -> _Stream:
    """Order each leaf by (epoch, draw) and number it."""
    n = len(candidates)
    order = np.lexsort((np.asarray(candidates.tie), candidates.draw))
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    leaf = _joint(candidates.dataset, candidates.language)
    limit = _epoch_limits(candidates, request)
    rows: list[Ints] = [order]
    epochs: list[Ints] = [np.zeros(n, np.int64)]
    again = order[~candidates.once[order]]
    for epoch in range(1, int(np.ceil(limit.max(initial=1.0)))):
        again = again[limit[again] > epoch]
        rows.append(again)
        epochs.append(np.full(len(again), epoch, np.int64))
    row, epoch_ = np.concatenate(rows), np.concatenate(epochs)
    arrange = np.lexsort((place[row], epoch_, leaf[row]))
    row, epoch_ = row[arrange], epoch_[arrange]
    rank = _ranks(leaf[row])
    # A fractional limit ends inside the last epoch; no leaf can be asked for more than the budget,
    # unless a bound reaches past its first rows.
    once = np.bincount(leaf, weights=candidates.once)
    most = (np.floor(limit * (np.bincount(leaf) - once)[leaf] + 1e-9) + once[leaf])[row]
    if request.rows is not None and not request.caps and not request.floors:
        most = np.minimum(most, request.rows)
    keep = rank < most
    return _Stream(row[keep], epoch_[keep], rank[keep])


def _epoch_limits(candidates: Candidates, request: Request) -> Floats:
    limits = np.ones(int(candidates.source.max()) + 1)
    for code, limit in request.epochs.items():
        if code < len(limits):
            limits[code] = float(limit)
    found: Floats = limits[candidates.source]
    return found


def _language_weights(candidates: Candidates, request: Request, stream: _Stream) -> _Stream:
    leaf = _joint(candidates.dataset, candidates.language)
    size = np.bincount(leaf).tolist()
    first = np.zeros(len(size), np.int64)
    first[leaf] = np.arange(len(leaf))
    if request.language_weights is not None:
        named = request.language_weights
        table = [Fraction(named.get(code, 0)) for code in candidates.language[first].tolist()]
    elif request.temperature is not None:
        table = [_rounded(n ** (1.0 / request.temperature)) for n in size]
    else:
        table = [Fraction(n) for n in size]
    return _merged(candidates, stream, table, leaf, candidates.dataset)


def _dataset_weights(candidates: Candidates, request: Request, stream: _Stream) -> _Stream:
    size = np.bincount(candidates.dataset).tolist()
    table = [Fraction(n) for n in size]
    owner = np.zeros(len(size), np.int64)
    owner[candidates.dataset] = candidates.source
    for source in {int(owner[code]) for code in request.dataset_weights if code < len(size)}:
        mine = [code for code in range(len(size)) if owner[code] == source and size[code]]
        named = {code: request.dataset_weights[code] for code in mine if code in request.dataset_weights}
        others = [code for code in mine if code not in named]
        left = max(Fraction(0), 100 - sum(named.values(), Fraction(0)))
        total = sum(size[code] for code in others)
        for code, weight in named.items():
            table[code] = weight
        for code in others:
            table[code] = left * Fraction(size[code], total)
    return _merged(candidates, stream, table, candidates.dataset, candidates.source)


def _source_weights(candidates: Candidates, request: Request, stream: _Stream) -> _Stream:
    size = np.bincount(candidates.source).tolist()
    table = [request.source_weights.get(code, Fraction(n)) for code, n in enumerate(size)]
    return _merged(candidates, stream, table, candidates.source, np.zeros(len(candidates), np.int64))


def _merged(candidates: Candidates, stream: _Stream, weights: Sequence[Fraction], child: Ints, parent: Ints) -> _Stream:
    """Merge children into their parents: sort by position, number within the parent.

    ``weights`` by code of the child. Equal positions are ordered by epoch, draw and tie of the row, so never
    by code or place.
    """
    w = _whole(weights, child, parent)[child[stream.row]]
    some = w > 0
    row, epoch, rank, w = stream.row[some], stream.epoch[some], stream.rank[some], w[some]
    position = (rank + 0.5) / w
    ties = np.unique(np.asarray(candidates.tie), return_inverse=True)[1]
    order = np.lexsort((ties[row], candidates.draw[row], epoch, position, parent[row]))
    row, epoch = row[order], epoch[order]
    return _Stream(row, epoch, _ranks(parent[row]))


def _take(candidates: Candidates, request: Request, stream: _Stream) -> Mixture:
    """Walk the merged order: floors first, then the rest, under caps, until the budget is used."""
    row, epoch = stream.row, stream.epoch
    if not request.caps and not request.floors:
        end = len(row)
        if request.rows is not None:
            end = min(end, request.rows)
        if request.tokens is not None:
            assert candidates.tokens is not None
            spent = np.cumsum(candidates.tokens[row])
            end = min(end, int(np.searchsorted(spent, request.tokens, side="right")))
        return Mixture(row[:end], epoch[:end])
    taken = _walk(candidates, request, row)
    return Mixture(row[taken], epoch[taken])


def _walk(candidates: Candidates, request: Request, row: Ints) -> Ints:
    tokens = None if candidates.tokens is None else candidates.tokens[row].tolist()
    caps = [_Counter(bound, row, tokens) for bound in request.caps]
    taken = np.zeros(len(row), np.bool_)
    rows_left = len(row) if request.rows is None else request.rows
    tokens_left = None if request.tokens is None else request.tokens
    full = False

    def offer(index: int) -> bool:
        """Take one entry if caps allow; report whether the budget still stands."""
        nonlocal rows_left, tokens_left
        if not all(cap.fits(index) for cap in caps):
            return True
        if rows_left < 1:
            return False
        if tokens_left is not None and tokens is not None:
            if tokens[index] > tokens_left:
                return False
            tokens_left -= tokens[index]
        rows_left -= 1
        taken[index] = True
        for cap in caps:
            cap.count(index)
        return True

    for bound in request.floors:
        if full:
            break
        floor = _Counter(bound, row, tokens)
        for index in np.flatnonzero(taken).tolist():
            floor.count(index)
        for index in range(len(row)):
            if taken[index] or floor.reached(index):
                continue
            if not offer(index):
                full = True
                break
            if taken[index]:
                floor.count(index)
    for index in range(len(row)) if not full else ():
        if not taken[index] and not offer(index):
            break
    return np.flatnonzero(taken)


class _Counter:
    """Rows and tokens taken so far, by group."""

    def __init__(self, bound: Bounds, row: Ints, tokens: list[int] | None) -> None:
        self._group: list[int] = bound.group[row].tolist()
        groups = int(bound.group.max()) + 1 if len(bound.group) else 0
        self._rows: list[int] = [0] * groups
        self._tokens: list[int] = [0] * groups
        self._bound, self._size = bound, tokens

    def fits(self, index: int) -> bool:
        group = self._group[index]
        if self._bound.rows is not None and self._rows[group] >= self._bound.rows:
            return False
        if self._bound.tokens is not None and self._size is not None:
            return self._tokens[group] + self._size[index] <= self._bound.tokens
        return True

    def reached(self, index: int) -> bool:
        group = self._group[index]
        rows: bool = self._bound.rows is None or self._rows[group] >= self._bound.rows
        return rows and (self._bound.tokens is None or self._tokens[group] >= self._bound.tokens)

    def count(self, index: int) -> None:
        group = self._group[index]
        self._rows[group] += 1
        if self._size is not None:
            self._tokens[group] += self._size[index]


def _joint(first: Ints, second: Ints) -> Ints:
    """Dense codes of pairs."""
    width = int(second.max()) + 1
    codes: Ints = np.unique(first * width + second, return_inverse=True)[1].astype(np.int64)
    return codes


def _ranks(group: Ints) -> Ints:
    """The place of each entry among those of its group that came before it; groups may interleave."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(ordered)])
    ranks = np.empty(len(group), np.int64)
    ranks[order] = np.arange(len(group)) - np.repeat(starts, lengths)
    return ranks


def _whole(weights: Sequence[Fraction], child: Ints, parent: Ints) -> Floats:
    """Scale the weights of each parent's children to the least whole numbers of the same ratios."""
    owner = np.zeros(len(weights), np.int64)
    owner[child] = parent
    siblings: dict[int, list[int]] = {}
    for code, of in enumerate(owner.tolist()):
        siblings.setdefault(of, []).append(code)
    whole = np.zeros(len(weights))
    for codes in siblings.values():
        scale = Fraction(
            lcm(*(weights[code].denominator for code in codes)),
            gcd(*(weights[code].numerator for code in codes)) or 1,
        )
        for code in codes:
            whole[code] = float(weights[code] * scale)
    return whole


def _rounded(value: float) -> Fraction:
    """Six significant digits: the power function differs between platforms in the last place."""
    return Fraction(f"{value:.6g}")
