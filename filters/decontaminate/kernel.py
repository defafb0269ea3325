"""Kernels of ``decontaminate``: where a pattern stands in the letters of a text.

Letters, their flags, seeds and grams are those of :mod:`aya_data.filters.decontaminate.letters`.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from aya_data.filters.decontaminate.letters import MASKED, passing, read_letters, token_grams, tokens_in
from aya_data.text.kernel import inner_kernel, kernel, making_kernel

__all__ = ["PATTERN_COLUMNS", "search"]

ALONE, INSIDE = 1.25, 1.4
"""What an edit counts in a short text that is a whole turn, and in one inside other text."""
DRIFT = 4
"""Letters by which the distance between seeds may change from one to the next that is found."""
PATTERN_COLUMNS = 8
"""Numbers of a pattern, int32: first letter, letters, distinguishing letters, size, seeds needed, grams, size of its
text, and 1 where it may only be a whole turn."""
BEGIN, LENGTH, DISTINCT, SIZE, NEEDED, GRAMS, OF_TEXT, WHOLE = range(PATTERN_COLUMNS)


@making_kernel
def align(pattern, text, slots):  # type: ignore[no-untyped-def]
    """Return the fewest edits that make some stretch of ``text`` the pattern, and where the stretch ends.

    Levenshtein distance by bits, 64 letters of the pattern at a time (Myers 1999, in blocks as Hyyrö 2003 has them).
    Both are uint16; ``slots`` int16[65536] is -1 everywhere, before and after.
    """
    length = len(pattern)
    blocks = (length + 63) >> 6
    different = 0
    for index in range(length):
        if slots[pattern[index]] < 0:
            slots[pattern[index]] = different
            different += 1
    equal = np.empty(different * blocks, np.uint64)
    for index in range(different * blocks):
        equal[index] = nb.uint64(0)
    one = nb.uint64(1)
    for index in range(length):
        equal[slots[pattern[index]] * blocks + (index >> 6)] |= one << nb.uint64(index & 63)
    last = nb.uint64((length - 1) & 63)
    edits: Any = length
    best = length
    best_end = 0
    if blocks == 1:
        up = ~nb.uint64(0)
        down = nb.uint64(0)
        for at in range(len(text)):
            slot = slots[text[at]]
            same = equal[slot] if slot >= 0 else nb.uint64(0)
            vertical = same | down
            horizontal = (((same & up) + up) ^ up) | same
            plus = down | ~(horizontal | up)
            minus = up & horizontal
            edits += nb.int64((plus >> last) & one) - nb.int64((minus >> last) & one)
            plus = plus << one
            minus = minus << one
            up = minus | ~(vertical | plus)
            down = plus & vertical
            if edits < best:
                best = edits
                best_end = at + 1
        for index in range(length):
            slots[pattern[index]] = -1
        return best, best_end
    above = np.empty(blocks, np.uint64)
    below = np.empty(blocks, np.uint64)
    for block in range(blocks):
        above[block] = ~nb.uint64(0)
        below[block] = nb.uint64(0)
    for at in range(len(text)):
        slot = slots[text[at]]
        carry = 0
        for block in range(blocks):
            same = equal[slot * blocks + block] if slot >= 0 else nb.uint64(0)
            up = above[block]
            down = below[block]
            vertical = same | down
            if carry < 0:
                same |= one
            horizontal = (((same & up) + up) ^ up) | same
            plus = down | ~(horizontal | up)
            minus = up & horizontal
            top = last if block == blocks - 1 else nb.uint64(63)
            into = carry
            carry = nb.int64((plus >> top) & one) - nb.int64((minus >> top) & one)
            plus = plus << one
            minus = minus << one
            if into < 0:
                minus |= one
            elif into > 0:
                plus |= one
            above[block] = minus | ~(vertical | plus)
            below[block] = plus & vertical
        edits += carry
        if edits < best:
            best = edits
            best_end = at + 1
    for index in range(length):
        slots[pattern[index]] = -1
    return best, best_end


@inner_kernel
def penalty(size, most):  # type: ignore[no-untyped-def]
    """Return what an edit counts in a text of this size: 1 from 100 letters on, ``most`` up to 30."""
    return 1.0 + (most - 1.0) * (100 - min(100, max(30, size))) / 70.0


@inner_kernel
def telling_edits(own, flags, text, slots):  # type: ignore[no-untyped-def]
    """Return the edits that the stretches of a pattern which are not boilerplate need, each where it fits best."""
    edits = 0
    begin = 0
    for at in range(len(own) + 1):
        if at == len(own) or flags[at] & MASKED:
            if at > begin:
                edits += align(own[begin:at], text, slots)[0]
            begin = at + 1
    return edits


@inner_kernel
def likeness(pattern, own, own_flags, letters, flags, low, high, alone, floor, windows, slots):  # type: ignore[no-untyped-def]
    """Return how much of a pattern stands in letters ``low`` to ``high``, and the first and last of them."""
    length = len(own)
    weight = penalty(pattern[SIZE], ALONE if alone else INSIDE)
    edits, end = align(own, letters[low:high], slots)
    score = 1.0 - weight * edits / length
    first = low + max(0, end - length)
    last = low + end - 1
    if score < floor and 5 * edits <= 2 * length and not pattern[WHOLE]:
        while low > 0 and flags[low] == 0:
            low -= 1
        size = tokens_in(own, own_flags, nb.int64(0), length, windows[0])
        if size >= 8 and 5 * size < 3 * length:
            other = tokens_in(letters, flags, low, high, windows[1])
            edits, end = align(windows[0, :size], windows[1, :other], slots)
            by_words = 1.0 - weight * edits / size
            if by_words > score:
                score = by_words
                # From tokens back to letters.
                token = 0
                place = low
                first = low
                while place < high and token < end:
                    place += 1
                    if place == high or flags[place] != 0:
                        token += 1
                        if token == max(0, end - size):
                            first = place
                last = place - 1
    if score >= floor and pattern[DISTINCT] < length:
        edits = telling_edits(own, own_flags, letters[low:high], slots)
        score = min(score, 1.0 - weight * edits / pattern[DISTINCT])
    # From the beginning of a token to the end of one.
    last = max(first, last)
    while first > low and flags[first] == 0:
        first -= 1
    while last + 1 < high and flags[last + 1] == 0:
        last += 1
    return score, first, last


@inner_kernel
def vote(votes, number, stamp, diagonal, weight):  # type: ignore[no-untyped-def]
    """Count a seed, by its weight, for a pattern at a diagonal; say whether enough stand there to look closer, once.

    ``votes`` int32[patterns, 8]: the row, two diagonals with their counts, the one that was looked at, letters of the
    pattern, weight needed.
    """
    if votes[number, 0] != stamp:
        votes[number, 0] = stamp
        votes[number, 1] = diagonal
        votes[number, 2] = weight
        votes[number, 4] = 0
        votes[number, 5] = -0x40000000
        count = weight
    else:
        drift = DRIFT + (votes[number, 6] >> 5)
        if abs(votes[number, 1] - diagonal) <= drift:
            votes[number, 1] = diagonal
            votes[number, 2] += weight
            count = nb.int64(votes[number, 2])
        else:
            count = weight
            if votes[number, 4] > 0 and abs(votes[number, 3] - diagonal) <= drift:
                count = votes[number, 4] + weight
            if count >= votes[number, 2]:
                # The better one comes first.
                votes[number, 3] = votes[number, 1]
                votes[number, 4] = votes[number, 2]
                votes[number, 1] = diagonal
                votes[number, 2] = count
            else:
                votes[number, 3] = diagonal
                votes[number, 4] = count
    if count < votes[number, 7] or abs(votes[number, 5] - diagonal) <= (votes[number, 6] >> 2) + 3:
        return False
    votes[number, 5] = diagonal
    return True


@kernel
def search(  # type: ignore[no-untyped-def]
    data, starts, ends, rows, points, longer, pairs,
    row, plain, letters, flags, places, turns, grams, firsts, lasts, tokens, heads, windows, slots,
    near_on, grams_on, words, characters,
    pattern_letters, pattern_flags, patterns,
    seed_filter, seed_regions, seed_kinds, seeds, seed_directory, seed_shift,
    gram_filter, gram_regions, known, gram_directory, gram_shift,
    votes, seen, found, floors, near, near_score, near_span, gram, gram_score, gram_span, hashes,
):  # fmt: skip
    """Search texts from ``row`` on for patterns; stop at one that must be folded first, and return it.

    ``seeds`` uint64[n + 1, 2]: ascending keys, then pattern << 32 | weight << 24 | offset; the last key is the largest
    there is.
    ``votes`` are those of :func:`vote`; ``seen`` int32[gram postings] and ``found`` int32[patterns, 4] (row, count,
    first, last letter) are of grams. Rows in them count from 1.
    For each text the best pattern, its score, and the bytes of its first and last letter are written.
    """
    near_floor = floors[0]
    gram_floor = floors[1]
    while row < len(rows) - 1:
        count = read_letters(
            data, starts, ends, rows, points, longer, pairs,
            row, plain, letters, flags, places, turns, hashes[rows[row]:],
        )  # fmt: skip
        if count < 0:
            return row
        stamp = row + 1
        pieces = rows[row + 1] - rows[row]
        if near_on:
            made = passing(letters, count, seed_filter, seed_regions, seed_kinds, grams, firsts)
            if made:
                for index in range(made):
                    key = grams[index]
                    at = firsts[index]
                    slot = nb.int64(seed_directory[nb.int64(key >> seed_shift)])
                    while seeds[slot, 0] < key:
                        slot += 1
                    while seeds[slot, 0] == key:
                        number = nb.int64(seeds[slot, 1] >> nb.uint64(32))
                        diagonal = at - nb.int64(seeds[slot, 1] & nb.uint64(0xFFFFFF))
                        weight = nb.int64((seeds[slot, 1] >> nb.uint64(24)) & nb.uint64(0xFF))
                        slot += 1
                        if not vote(votes, number, stamp, diagonal, weight):
                            continue
                        length = nb.int64(votes[number, 6])
                        slack = (length >> 2) + 3
                        turn = 0
                        while turn + 1 < pieces and turns[turn + 1] <= at:
                            turn += 1
                        low = max(turns[turn], diagonal - slack)
                        high = min(turns[turn + 1], diagonal + length + slack)
                        alone = turns[turn + 1] - turns[turn] <= length + (length >> 1)
                        floor = near_floor
                        if patterns[number, WHOLE] and not alone:
                            # Inside other text, so short a one must stand as it is, from word to word.
                            floor = 1.0
                        begin = patterns[number, BEGIN]
                        own = pattern_letters[begin : begin + length]
                        score, first, last = likeness(
                            patterns[number], own, pattern_flags[begin : begin + length], letters, flags, low, high,
                            alone, floor, windows, slots,
                        )  # fmt: skip
                        if floor == 1.0 and last - first + 1 != length:
                            continue
                        if score >= floor:
                            better = near[row] < 0 or score > near_score[row]
                            if better or (score == near_score[row] and number < near[row]):
                                near[row] = number
                                near_score[row] = score
                                near_span[row, 0] = places[first]
                                near_span[row, 1] = places[last]
        if grams_on:
            made = token_grams(
                letters, flags, nb.int64(0), count, words, characters, grams, firsts, lasts, tokens, heads
            )
            for index in range(made):
                key = grams[index]
                bit = (key >> nb.uint64(9)) & gram_regions[0, 1]
                if not (gram_filter[bit >> nb.uint64(3)] >> nb.uint8(bit & nb.uint64(7))) & 1:
                    continue
                slot = nb.int64(gram_directory[nb.int64(key >> gram_shift)])
                while known[slot, 0] < key:
                    slot += 1
                while known[slot, 0] == key:
                    number = nb.int64(known[slot, 1] >> nb.uint64(32))
                    fresh = seen[slot] != stamp
                    seen[slot] = stamp
                    slot += 1
                    if not fresh:
                        continue
                    if found[number, 0] != stamp:
                        found[number, 0] = stamp
                        found[number, 1] = 0
                        found[number, 2] = firsts[index]
                    found[number, 1] += 1
                    found[number, 3] = lasts[index]
                    missing = 1.0 - found[number, 1] / patterns[number, GRAMS]
                    score = 1.0 - penalty(patterns[number, OF_TEXT], INSIDE) * missing
                    if score >= gram_floor:
                        better = gram[row] < 0 or score > gram_score[row]
                        if better or (score == gram_score[row] and number <= gram[row]):
                            gram[row] = number
                            gram_score[row] = score
                            gram_span[row, 0] = places[found[number, 2]]
                            gram_span[row, 1] = places[found[number, 3]]
        row += 1
    return row
