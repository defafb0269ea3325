"""Matching: of rows in an order of preference, which resemble one that is kept.

Rows are taken best first, once. One goes when its text is that of a *kept* row or resembles it to at least the
threshold; a row that went keeps nothing out, so chains A ~ B ~ C do not collapse into A. One that resembles none is
cut where its group has no place left, and keeps nothing out either; else it is kept, and takes a place.

Candidates are the kept texts of a shared band (:mod:`~aya_data.text.minhash`) whose whole signatures agree enough;
the exact Jaccard index of the two shingle sets decides. Of several kept texts it goes against the first.

**Heaps.** Templates with other words filled in may put a hundred thousand texts into one band, none of which
resembles another enough to go. Each text looks at no more than :data:`LOOKED_AT` kept ones, those of its smallest
bands first, and compares sets with the :data:`COMPARED` that agree most: two texts that are more alike than the
template makes them share bands that few others have. So the cost is linear in the number of rows, whatever they
are. Nothing goes unverified; a pair may be missed only in such heaps.

Cost: a look takes some 10 ns, a comparison 1 ns per shingle; memory is the sets (8 bytes per distinct shingle) of
texts that share a band with one of like signature, 24 bytes per text and band, and 40 per row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt

from aya_data.text.kernel import inner_kernel, kernel, sort
from aya_data.text.minhash import Banding, band_keys, least_agreeing

__all__ = ["LOOKED_AT", "Matches", "jaccard", "match", "near_others"]

LOOKED_AT = 4096
"""Kept texts whose signatures one text is compared with, at most."""
COMPARED = 128
"""Kept texts whose sets one text is compared with, at most: those whose signatures agree most."""
HEAP = 64
"""Texts of one band beyond which all are taken to have a partner."""

Longs = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Minima = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Matches:
    """Of n rows, best first: ``partner`` int64, the kept row that each goes for (-1: it is kept, or cut), and
    ``resemblance`` float64, their Jaccard index. ``links`` int64[m, 2]: kept rows that resemble each other to the
    looser threshold, as many as join what belongs together (a forest: fewer than n)."""

    partner: Longs
    resemblance: npt.NDArray[np.float64]
    links: Longs


def near_others(minima: Minima, banding: Banding, threads: int = 1) -> npt.NDArray[np.bool_]:
    """Mark the texts that share a band with another whose signature agrees in ``banding.agreeing`` places or more.

    May mark more (all of a large band), never fewer. O(n log n) for each band; 24 bytes per text and thread.
    """
    marked = np.zeros(len(minima), np.bool_)

    def mark(band: int) -> None:
        order, bounds = _bands(minima, banding, band)
        _mark(minima, order, bounds, banding.agreeing, HEAP, marked)

    _each(mark, range(banding.bands), threads)
    return marked


def match(
    minima: Minima,
    sets: Hashes,
    starts: Longs,
    sizes: Longs,
    texts: Longs,
    settled: npt.NDArray[np.bool_],
    groups: Longs,
    at_most: int,
    banding: Banding,
    threshold: float,
    looser: float,
    threads: int = 1,
) -> Matches:
    """Decide which rows go. Row i says text ``texts[i]``, one of ``groups[i]``, which keeps ``at_most``; best first.

    Row t of ``minima`` and ``sets[starts[t] : starts[t] + sizes[t]]`` are text t, in the order of their first rows.
    Larger numbers are texts that resemble no other, -1 one that equals none; group -1 keeps all. ``settled`` rows,
    which stand first, stay whatever they resemble. ``looser`` is the threshold of links, at most ``threshold``, and
    that of the bands.
    """
    count, rows = len(minima), len(texts)
    buckets = np.zeros((count, banding.bands), np.int32 if count * banding.bands < 1 << 31 else np.int64)
    counts: list[Longs] = [np.zeros(0, np.int64)] * banding.bands

    def place(band: int) -> None:
        order, ends = _bands(minima, banding, band)
        counts[band] = np.diff(ends)
        buckets[order, band] = np.repeat(np.arange(len(ends) - 1), counts[band])

    _each(place, range(banding.bands), threads)
    first = np.cumsum([0, *map(len, counts)])
    buckets += first[:-1].astype(buckets.dtype)
    begins = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    partner = np.full(rows, -1, np.int64)
    resemblance = np.zeros(rows, np.float64)
    links = np.zeros((max(rows, 1), 2), np.int64)
    held = max(count, int(texts.max(initial=-1)) + 1)
    made = _match(
        minima, sets, starts, sizes, texts, settled, groups, buckets, begins, banding.agreeing,
        least_agreeing(threshold), threshold, looser, COMPARED, partner, resemblance, links,
        np.full(int(groups.max(initial=-1)) + 1, at_most, np.int64), np.full(held, -1, np.int64), np.ones(held),
        begins[:-1].copy(), np.empty(begins[-1], np.int32), np.full(count, -1, np.int32),
        np.empty(LOOKED_AT, np.int64), np.empty(128, np.int64), np.empty(banding.bands, np.int64), np.arange(count),
    )  # fmt: skip
    return Matches(partner, resemblance, links[:made])


def jaccard(one: Hashes, two: Hashes) -> float:
    """Return the Jaccard index of two ascending sets; 0 where both are empty."""
    common = int(_common(one, two, 0))
    union = len(one) + len(two) - common
    return common / union if union else 0.0


def _each(work: Callable[[int], None], numbers: Sequence[int], threads: int) -> None:
    if threads == 1 or not numbers:
        for number in numbers:
            work(number)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, numbers))


def _bands(minima: Minima, banding: Banding, band: int) -> tuple[Longs, Longs]:
    """Return the texts by key of one band, and the bounds of each key."""
    keys = band_keys(minima, banding, band)
    order = np.argsort(keys).astype(np.int64, copy=False)
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    return order, np.append(starts, len(keys)).astype(np.int64)


@inner_kernel
def _agree(minima, one, two):  # type: ignore[no-untyped-def]
    same = nb.int32(0)
    for place in range(minima.shape[1]):
        same += nb.int32(minima[one, place] == minima[two, place])
    return same


@kernel
def _mark(minima, order, bounds, agreeing, heap, marked):  # type: ignore[no-untyped-def]
    for number in range(len(bounds) - 1):
        begin = bounds[number]
        end = bounds[number + 1]
        if end - begin == 1:
            continue
        if end - begin > heap:
            for place in range(begin, end):
                marked[order[place]] = True
            continue
        for place in range(begin, end):
            one = order[place]
            for other in range(begin, end):
                if marked[one]:
                    break
                two = order[other]
                if two != one and _agree(minima, one, two) >= agreeing:
                    marked[one] = True
                    marked[two] = True


@kernel
def _common(one, two, wanted):  # type: ignore[no-untyped-def]
    """Count what two ascending arrays share; stop early, with less than ``wanted``, where it cannot be reached."""
    at = 0
    other = 0
    common = 0
    while at < len(one) and other < len(two):
        if common + min(len(one) - at, len(two) - other) < wanted:
            return common
        a = one[at]
        b = two[other]
        common += nb.int64(a == b)
        at += nb.int64(a <= b)
        other += nb.int64(b <= a)
    return common


@inner_kernel
def _root(roots, one):  # type: ignore[no-untyped-def]
    while roots[one] != one:
        roots[one] = roots[roots[one]]
        one = roots[one]
    return one


@inner_kernel
def _likeliest(candidates, found, compared, counts):  # type: ignore[no-untyped-def]
    """Sort candidates (text * 128 + agreeing places) by text, and leave those that agree most; return how many.

    Of those that agree in as many places as the last one that is left, the best texts are.
    """
    level = 0
    equal = found
    if found > compared:
        counts[:] = 0
        for place in range(found):
            counts[candidates[place] & 127] += 1
        level = 127
        equal = compared
        while counts[level] < equal:
            equal -= counts[level]
            level -= 1
        likely = 0
        for place in range(found):
            if candidates[place] & 127 >= level:
                candidates[likely] = candidates[place]
                likely += 1
        found = likely
    sort(candidates[:found])
    left = 0
    for place in range(found):
        if candidates[place] & 127 == level:
            if equal == 0:
                continue
            equal -= 1
        candidates[left] = candidates[place]
        left += 1
    return left


@inner_kernel
def _by_size(filled, begins, mine, order):  # type: ignore[no-untyped-def]
    """Order the bands of one text by how many kept texts their buckets hold, fewest first, equals as they come."""
    for band in range(len(mine)):
        held = filled[mine[band]] - begins[mine[band]]
        place = band
        while place > 0 and filled[mine[order[place - 1]]] - begins[mine[order[place - 1]]] > held:
            order[place] = order[place - 1]
            place -= 1
        order[place] = band


@kernel
def _match(  # type: ignore[no-untyped-def]
    minima, sets, starts, sizes, texts, settled, groups, buckets, begins, agreeing_looser, agreeing, threshold, looser,
    compared, partner, resemblance, links, left, holder, alike, filled, kept, seen, candidates, counts, order, roots,
):  # fmt: skip
    """Fill ``partner``, ``resemblance`` and ``links``; return how many links.

    ``holder`` is the kept row that rows of a text go for, -1 as long as there is none, and ``alike`` the resemblance.
    """
    count, bands = buckets.shape
    looked_at = len(candidates)
    made = 0
    for row in range(len(texts)):
        text = texts[row]
        group = groups[row]
        if text >= 0 and holder[text] >= 0:
            if settled[row]:
                links[made, 0] = holder[text]
                links[made, 1] = row
                made += 1
                if group >= 0:
                    left[group] -= 1
            else:
                partner[row] = holder[text]
                resemblance[row] = alike[text]
            continue
        compares = 0 <= text < count
        found = nb.int64(0)
        if compares:
            size = sizes[text]
            mine = sets[starts[text] : starts[text] + size]
            _by_size(filled, begins, buckets[text], order)
            looked = 0
            for turn in range(bands):
                bucket = buckets[text, order[turn]]
                for place in range(begins[bucket], filled[bucket]):
                    if looked == looked_at:
                        break
                    looked += 1
                    other = nb.int64(kept[place])
                    if seen[other] == row:
                        continue
                    seen[other] = row
                    same = _agree(minima, text, other)
                    if same >= agreeing_looser:
                        candidates[found] = other << 7 | same
                        found += 1
            # The first of the kept texts that it resembles, whatever band they met in.
            found = _likeliest(candidates, found, compared, counts)
            if not settled[row]:
                for rank in range(found):
                    if candidates[rank] & 127 < agreeing:
                        continue
                    other = candidates[rank] >> 7
                    total = size + sizes[other]
                    # J >= t where common >= t / (1 + t) of both sizes; one less for rounding.
                    wanted = nb.int64((threshold - 1e-4) / (1 + threshold) * total) - 1
                    common = _common(mine, sets[starts[other] : starts[other] + sizes[other]], wanted)
                    index = np.rint(common / (total - common) * 1e4) / 1e4
                    if index >= threshold:
                        holder[text] = holder[other]
                        alike[text] = index
                        partner[row] = holder[other]
                        resemblance[row] = index
                        break
                if partner[row] >= 0:
                    continue
        if group >= 0:
            if left[group] <= 0 and not settled[row]:
                continue
            left[group] -= 1
        if text >= 0:
            holder[text] = row
        if not compares:
            continue
        for rank in range(found):
            other = candidates[rank] >> 7
            if _root(roots, text) == _root(roots, other):
                continue
            total = size + sizes[other]
            wanted = nb.int64((looser - 1e-4) / (1 + looser) * total) - 1
            common = _common(mine, sets[starts[other] : starts[other] + sizes[other]], wanted)
            if np.rint(common / (total - common) * 1e4) / 1e4 >= looser:
                one = _root(roots, text)
                two = _root(roots, other)
                roots[max(one, two)] = min(one, two)
                links[made, 0] = holder[other]
                links[made, 1] = row
                made += 1
        for band in range(bands):
            bucket = buckets[text, band]
            kept[filled[bucket]] = text
            filled[bucket] += 1
    return made
