"""How much a text repeats itself: its lines, its n-grams, and its longest repeated substring.

All work on code points (int32), so that a character counts once in every script.

- :func:`longest_repeat`: the longest substring that stands at two places, which may overlap ("aaaa" holds "aaa"
  twice). Exact where it makes up at least a :data:`FLOOR` of the text; below, it is 0. A repeat that long covers a
  whole block of half that size, so a rolling hash over all positions, looked up among some ten blocks, tells most
  texts at once; for the others the length is searched, each window compared character by character.
- :func:`repeated_lines`: characters in lines that stood before. Lines are trimmed; blank ones do not count.
- :func:`repeated_grams`: characters in n-grams of tokens that stood before, and in the most frequent one.

Cost: some 4 ns per character where nothing repeats at length, else 10 to 100. Lines and n-grams are told apart by
64-bit hashes. Memory: 24 bytes per slot of a :func:`table`, of which there are two to four per character.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
import numpy.typing as npt

from aya_data.text.kernel import inner_kernel, kernel

__all__ = ["FLOOR", "longest_repeat", "measure_repeat", "repeated_grams", "repeated_lines", "table"]

FLOOR = 0.2
"""The least share of a text that a repeat must have to be measured."""

PRIME = nb.uint64(0x9E3779B97F4A7C15)
SEED = nb.uint64(0xCBF29CE484222325)
BASE, MODULUS, OTHER_MODULUS = 1_103_515_245, 2**31 - 1, 2**31 - 19
"""Windows are told apart by polynomials modulo two primes: modulo a power of two, Thue-Morse words collide."""
BLOCK_SLOTS = 64

Points = npt.NDArray[np.int32]


def table(longest: int) -> tuple[npt.NDArray[Any], ...]:
    """Return a hash table for up to ``2 * longest`` entries: keys, stamps, counts, places.

    A slot is in use where its stamp is the current one, so nothing is ever cleared.
    """
    size = 1 << max(6, int(2 * longest + 2).bit_length())
    return (
        np.zeros(size, np.uint64), np.zeros(size, np.int64), np.zeros(size, np.int32), np.zeros(size, np.int32),
    )  # fmt: skip


def measure_repeat(text: str) -> tuple[int, int, int]:
    """Return length and two places of the longest repeat of one text, (0, -1, -1) below the floor."""
    points = np.frombuffer(text.encode("utf-32-le"), np.int32)
    keys, stamps, _, places = table(len(points))
    length, one, other, _ = _longest_of_one(points, len(points), keys, stamps, places, 1)
    return int(length), int(one), int(other)


@inner_kernel
def _spread(value):  # type: ignore[no-untyped-def]
    value = nb.uint64(value)
    value = (value ^ (value >> nb.uint64(32))) * nb.uint64(0xD6E8FEB86659FD93)
    return value ^ (value >> nb.uint64(32))


@inner_kernel
def _mask(count, slots):  # type: ignore[no-untyped-def]
    """Return the mask of a table for ``count`` entries: a short text keeps to the first slots, which a cache holds."""
    size = 64
    while size < 2 * count and size < slots:
        size *= 2
    return nb.int64(size - 1)


@inner_kernel
def common(points, low, high, end):  # type: ignore[no-untyped-def]
    """Return how many characters from ``low`` on are those from ``high`` to ``end``; ``high`` is the later place."""
    at = high
    while at < end and points[low + at - high] == points[at]:
        at += 1
    return at - high


@inner_kernel
def _power(base, modulus, length):  # type: ignore[no-untyped-def]
    """Return what a character leaving a window of ``length`` is multiplied by: the power, negated."""
    found = nb.int64(1)
    for _ in range(length):
        found = found * base % modulus
    return modulus - found


@inner_kernel
def _window_twice(points, count, length, keys, stamps, places, stamp):  # type: ignore[no-untyped-def]
    """Return the places of some window of ``length`` that stands twice, (-1, -1) if none does."""
    mask = _mask(count, len(keys))
    base = nb.int64(BASE)
    first = _power(base, nb.int64(MODULUS), length)
    second = _power(base, nb.int64(OTHER_MODULUS), length)
    one, two = nb.int64(0), nb.int64(0)
    for at in range(count):
        new = nb.int64(points[at]) + 1
        one = one * BASE + new
        two = two * BASE + new
        if at >= length:
            old = nb.int64(points[at - length]) + 1
            one += old * first
            two += old * second
        one %= MODULUS
        two %= OTHER_MODULUS
        if at < length - 1:
            continue
        begin = at - length + 1
        key = nb.uint64(one) << nb.uint64(32) | nb.uint64(two)
        slot = nb.int64(_spread(key * PRIME) & nb.uint64(mask))
        while stamps[slot] == stamp:
            if keys[slot] == key:
                other = nb.int64(places[slot])
                if common(points, other, begin, begin + length) == length:
                    return other, begin
            slot = (slot + 1) & mask
        stamps[slot] = stamp
        keys[slot] = key
        places[slot] = begin
    return -1, -1


@inner_kernel
def longest_repeat(points, count, keys, stamps, places, stamp):  # type: ignore[no-untyped-def]
    """Return the length of the longest repeat, its two places, and the last stamp used; ``stamp`` must be fresh."""
    least = nb.int64(FLOOR * count)
    if least < FLOOR * count or least < 1:
        least += 1
    if count < 2 or least >= count:
        return 0, -1, -1, stamp
    block = (least + 1) // 2
    # Blocks, by hash, in the first slots of the table. Of equal blocks the first is enough: the others find it.
    # A hash modulo a power of two will do here: what it says is always looked at.
    power = nb.uint64(1)
    for _ in range(block):
        power *= PRIME
    for start in range(0, count - block + 1, block):
        rolling = nb.uint64(0)
        for at in range(start, start + block):
            rolling = rolling * PRIME + nb.uint64(points[at] + 1)
        slot = nb.int64(_spread(rolling) >> nb.uint64(58))
        while stamps[slot] == stamp:
            if keys[slot] == rolling and common(points, nb.int64(places[slot]), start, start + block) == block:
                break
            slot = (slot + 1) & (BLOCK_SLOTS - 1)
        if stamps[slot] != stamp:
            stamps[slot] = stamp
            keys[slot] = rolling
            places[slot] = start
    rolling = nb.uint64(0)
    length, one, other = 0, -1, -1
    for at in range(count):
        rolling = rolling * PRIME + nb.uint64(points[at] + 1)
        if at >= block:
            rolling -= nb.uint64(points[at - block] + 1) * power
        if at < block - 1:
            continue
        begin = at - block + 1
        slot = nb.int64(_spread(rolling) >> nb.uint64(58))
        while stamps[slot] == stamp:
            place = nb.int64(places[slot])
            if keys[slot] == rolling and place != begin:
                low, high = min(place, begin), max(place, begin)
                size = common(points, low, high, count)
                if size >= block:
                    back = 0
                    while low - back > 0 and points[low - back - 1] == points[high - back - 1]:
                        back += 1
                    length, one, other = size + back, low - back, high - back
                    break
            slot = (slot + 1) & (BLOCK_SLOTS - 1)
        if length > 0:
            break
    if length == 0:
        return 0, -1, -1, stamp
    # What was found is a lower bound; longer windows are looked for until none of the next length stands twice.
    below = max(length, least - 1)
    above = count
    step = 1
    while below + 1 < above:
        wanted = below + step
        if wanted >= above:
            wanted = (below + above) // 2
            step = 1
        stamp += 1
        low, high = _window_twice(points, count, wanted, keys, stamps, places, stamp)
        if low < 0:
            above = wanted
            step = 1
            if above - below > 2:
                step = (above - below) // 2
            continue
        size = common(points, low, high, count)
        length, one, other = size, low, high
        below = size
        step *= 2
    if length < least:
        return 0, -1, -1, stamp
    return length, one, other, stamp


@kernel
def _longest_of_one(points, count, keys, stamps, places, stamp):  # type: ignore[no-untyped-def]
    return longest_repeat(points, count, keys, stamps, places, stamp)


@inner_kernel
def repeated_lines(points, count, white, limit, keys, stamps, places, stamp):  # type: ignore[no-untyped-def]
    """Return characters of all lines, of those that stood before, and the place of the first such line (-1: none).

    ``white`` bool tells white space by code point below ``limit``.
    """
    mask = _mask(count, len(keys))
    square = PRIME * PRIME
    total = 0
    repeated = 0
    first = -1
    at = 0
    while at < count:
        begin = at
        while at < count and points[at] != 10:
            at += 1
        end = at
        at += 1
        while begin < end and points[begin] < limit and white[points[begin]]:
            begin += 1
        while begin < end and points[end - 1] < limit and white[points[end - 1]]:
            end -= 1
        size = end - begin
        if size == 0:
            continue
        total += size
        # Four at a time: else each character waits for the one before.
        key = nb.uint64(size)
        place = begin
        while place + 4 <= end:
            one = nb.uint64(points[place]) * PRIME + nb.uint64(points[place + 1])
            two = nb.uint64(points[place + 2]) * PRIME + nb.uint64(points[place + 3])
            key = (key * square + one) * square + two
            place += 4
        while place < end:
            key = key * PRIME + nb.uint64(points[place])
            place += 1
        slot = nb.int64(_spread(key) & nb.uint64(mask))
        while stamps[slot] == stamp and not (
            keys[slot] == key and common(points, nb.int64(places[slot]), begin, end) == size
        ):
            slot = (slot + 1) & mask
        if stamps[slot] == stamp:
            repeated += size
            if first < 0:
                first = begin
        else:
            stamps[slot] = stamp
            keys[slot] = key
            places[slot] = begin
    return total, repeated, first


@inner_kernel
def repeated_grams(tokens, sizes, count, n, keys, stamps, counts, stamp):  # type: ignore[no-untyped-def]
    """Return characters in n-grams that stood before, characters in the most frequent one (0 where none stands
    twice), the token at which the first repeat begins (-1: none), and the most tokens of a stretch whose n-grams all
    stood before.

    ``tokens`` uint64 and ``sizes`` int32 (characters) of ``count`` tokens. Overlapping characters count once among
    the repeats, and once per occurrence in the most frequent.
    """
    mask = _mask(count, len(keys))
    power = nb.uint64(1)
    for _ in range(n):
        power *= PRIME
    rolling = nb.uint64(0)
    size = 0
    covered = 0
    repeated = 0
    top = 0
    first = -1
    run = 0
    longest = 0
    for at in range(count):
        rolling = rolling * PRIME + tokens[at]
        size += sizes[at]
        if at >= n:
            rolling -= tokens[at - n] * power
            size -= sizes[at - n]
        if at < n - 1:
            continue
        key = _spread(rolling)
        slot = nb.int64(key & nb.uint64(mask))
        while stamps[slot] == stamp and keys[slot] != key:
            slot = (slot + 1) & mask
        if stamps[slot] != stamp:
            stamps[slot] = stamp
            keys[slot] = key
            counts[slot] = 1
            run = 0
            continue
        run += 1
        longest = max(longest, run + n - 1)
        counts[slot] += 1
        if counts[slot] * size > top:
            top = counts[slot] * size
        begin = max(at - n + 1, covered)
        if first < 0:
            first = begin
        for token in range(begin, at + 1):
            repeated += sizes[token]
        covered = at + 1
    return repeated, top, first, longest
