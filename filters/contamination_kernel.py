"""Kernels of ``decontaminate``: letters of a text, grams of them, and where a pattern stands in a text.

**Letters** are what is compared: a text after NFKC and casefold without white space, punctuation, symbols and format
characters, as 16-bit codes (characters beyond the basic plane are hashed to 16 bits). ``flags`` say what each
letter begins: 0 goes on with a token, 1 begins a word, 2 and more begin a character of a script without spaces
(one number per script, as :mod:`aya_data.text.folding` has them).

**Seeds** are short grams of letters, which survive edits between them; **grams** are long grams of tokens.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np

from aya_data.text.folding import COMPATIBLE, IGNORED, LIMIT, MARK, SEPARATOR, WHITE, WORD
from aya_data.text.kernel import inner_kernel, kernel
from aya_data.text.shingles import HAN, HAN_FROM, HAN_TO, SELECTORS_FROM, SELECTORS_TO

__all__ = ["PATTERN_COLUMNS", "grams_of", "letters_of", "search", "seeds_of"]

GAP = nb.uint64(0x9E3779B97F4A7C15)
TURN = nb.uint64(0xC2B2AE3D27D4EB4F)
FNV_SEED, FNV_PRIME = nb.uint64(0xCBF29CE484222325), nb.uint64(0x100000001B3)

ALONE, INSIDE = 1.25, 1.4
"""What an edit counts in a short text that is a whole turn, and in one inside other text."""
DRIFT = 4
"""Letters by which the distance between seeds may change from one to the next that is found."""
BEGINS, MASKED = 0x7F, 0x80
"""Parts of a pattern's flags: what a letter begins, and whether it is boilerplate."""
PATTERN_COLUMNS = 8
"""Numbers of a pattern, int32: first letter, letters, distinguishing letters, size, seeds needed, grams, size of its
text, and 1 where it may only be a whole turn."""
BEGIN, LENGTH, DISTINCT, SIZE, NEEDED, GRAMS, OF_TEXT, WHOLE = range(PATTERN_COLUMNS)


@inner_kernel
def spread(value):  # type: ignore[no-untyped-def]
    """Spread the bits of a 64-bit value (the finaliser of splitmix64)."""
    value = (value ^ (value >> nb.uint64(30))) * nb.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> nb.uint64(27))) * nb.uint64(0x94D049BB133111EB)
    return value ^ (value >> nb.uint64(31))


@inner_kernel
def worth(letter):  # type: ignore[no-untyped-def]
    """Return how many letters of an alphabet a letter is worth: Han 3; hangul, kana, Ethiopic and Yi 2."""
    if letter < 0x1200:
        return 1
    if letter < 0x1700:
        return 2 if letter < 0x1380 or letter >= 0x1400 else 1
    if letter < 0x3041:
        return 1
    if letter < 0x3100:
        return 2
    if letter < 0xA000:
        return 3 if letter >= 0x3400 else 1
    if letter < 0xD7A4:
        return 2 if letter < 0xA4D0 or letter >= 0xAC00 else 1
    return 3 if 0xF900 <= letter < 0xFB00 else 1


@inner_kernel
def read_letters(  # type: ignore[no-untyped-def]
    data, starts, ends, rows, folded, longer, kinds, orders, bases, seconds, pairs,
    row, plain, letters, flags, places, turns, wholes,
):  # fmt: skip
    """Read the letters of one text. Returns how many, -1 where it must be folded first.

    ``places`` is the byte at which each letter's character begins; ``turns`` the first letter of each piece, then
    the end; ``wholes`` the hash of each piece with punctuation, white space runs as one space.
    """
    count = 0
    run = SEPARATOR
    for piece in range(rows[row], rows[row + 1]):
        turns[piece - rows[row]] = count
        at = starts[piece]
        end = ends[piece]
        last_order = 0
        last_base = 0
        in_word = False
        whole = FNV_SEED
        spoken = False
        gap = False
        while at < end:
            begin = at
            point = nb.int64(data[at])
            if point < 0x80:
                at += 1
            elif point < 0xE0:
                point = (point & 0x1F) << 6 | (nb.int64(data[at + 1]) & 0x3F)
                at += 2
            elif point < 0xF0:
                point = (point & 0x0F) << 12 | (nb.int64(data[at + 1]) & 0x3F) << 6 | (nb.int64(data[at + 2]) & 0x3F)
                at += 3
            else:
                point = (
                    (point & 0x07) << 18
                    | (nb.int64(data[at + 1]) & 0x3F) << 12
                    | (nb.int64(data[at + 2]) & 0x3F) << 6
                    | (nb.int64(data[at + 3]) & 0x3F)
                )
                at += 4
            left = 1
            place = 0
            longest = 0
            if not plain and point >= 0x80:
                if point < LIMIT:
                    order = nb.int64(orders[point])
                    if order != 0 and order < last_order:
                        return -1
                    if seconds[point]:
                        if 0x1161 <= point <= 0x11C2:
                            return -1
                        wanted = nb.uint64(bases[last_base]) << nb.uint64(32) | nb.uint64(point)
                        low = 0
                        high = len(pairs)
                        while low < high:
                            middle = (low + high) >> 1
                            if pairs[middle] < wanted:
                                low = middle + 1
                            else:
                                high = middle
                        if low < len(pairs) and pairs[low] == wanted:
                            return -1
                    last_order = order
                    if order == 0 or bases[point] != point:
                        last_base = point
                    value = nb.int64(folded[point])
                    if value >= 0:
                        point = value
                    elif value == -1:
                        return -1
                    else:
                        place = -2 - value
                        left = nb.int64(longer[place, 0])
                        longest = left
                        point = nb.int64(longer[place, 1])
                else:
                    last_order = 0
                    last_base = 0
                    if COMPATIBLE[0] <= point <= COMPATIBLE[1]:
                        return -1
            elif point < 0x80:
                last_order = 0
                last_base = point
                point = nb.int64(folded[point])
            while left > 0:
                if longest > 0:
                    point = nb.int64(longer[place, 1 + longest - left])
                left -= 1
                if point < LIMIT:
                    kind = nb.int64(kinds[point])
                elif HAN_FROM <= point <= HAN_TO:
                    kind = HAN
                elif SELECTORS_FROM <= point <= SELECTORS_TO:
                    kind = IGNORED
                else:
                    kind = SEPARATOR
                if kind == WHITE:
                    gap = spoken
                    kind = SEPARATOR
                else:
                    if gap:
                        whole = (whole ^ nb.uint64(32)) * FNV_PRIME
                        gap = False
                    whole = (whole ^ nb.uint64(point)) * FNV_PRIME
                    spoken = True
                if kind == IGNORED:
                    continue
                if kind == SEPARATOR:
                    in_word = False
                    continue
                flag = 0
                if kind == WORD:
                    if not in_word:
                        flag = 1
                    in_word = True
                    run = WORD
                elif kind == MARK:
                    # A mark belongs to what stands before it.
                    if not in_word and run < 2:
                        flag = 1
                        in_word = True
                        run = WORD
                else:
                    in_word = False
                    run = kind
                    flag = kind
                letters[count] = nb.uint16(point ^ (point >> 16) * 0x2F35)
                flags[count] = flag
                places[count] = begin
                count += 1
        wholes[piece - rows[row]] = spread(whole) if spoken else nb.uint64(0)
    turns[rows[row + 1] - rows[row]] = count
    return count


@inner_kernel
def seed_of(late, early, value, size, kind):  # type: ignore[no-untyped-def]
    """Return the seed of a kind that ends at a letter, 0 where there is none or it is not drawn.

    ``late`` holds the last four letters, ``early`` the four before them, ``size`` is how many there are; ``value`` is
    what the last is worth. Kinds have 5, 6 and 7 letters and are all drawn, a half, a quarter; of letters that
    are worth more there is the first kind alone, of 4 or 3. The second bit tells the first kind from the others.
    """
    key = late * GAP
    if value == 1:
        least = 5 + kind
        more = nb.uint64(48 if kind == 0 else 32 if kind == 1 else 16)
        key ^= (early << more) * FNV_PRIME
    else:
        least = 4 if value == 2 else 3
        if value == 3:
            key = (late & nb.uint64(0xFFFFFFFFFFFF)) * GAP
    key = (key ^ (key >> nb.uint64(32))) * TURN
    key ^= key >> nb.uint64(29)
    drawn = kind == 0 or (value == 1 and (key >> nb.uint64(3)) & nb.uint64(3 if kind == 2 else 1) == 0)
    key = (key & ~nb.uint64(2)) | nb.uint64(3 if kind > 0 else 1)
    return key if size >= least and drawn else nb.uint64(0)


@inner_kernel
def passing(letters, count, filters, regions, kinds, keys, places):  # type: ignore[no-untyped-def]
    """Write the seeds of some letters that may be some pattern's, and where they end; returns how many."""
    found = 0
    late = nb.uint64(0)
    early = nb.uint64(0)
    for at in range(count):
        early = early << nb.uint64(16) | late >> nb.uint64(48)
        late = late << nb.uint64(16) | nb.uint64(letters[at])
        value = worth(letters[at])
        for kind in range(3):
            if kinds[kind]:
                key = seed_of(late, early, value, at + 1, kind)
                bit = regions[kind, 0] + ((key >> nb.uint64(9)) & regions[kind, 1])
                held = (filters[bit >> nb.uint64(3)] >> nb.uint8(bit & nb.uint64(7))) & 1
                keys[found] = key
                places[found] = at
                # Without a branch: most seeds are nobody's.
                found += nb.int64(held) & nb.int64(key != 0)
    return found


@inner_kernel
def tokens_in(letters, flags, begin, end, out):  # type: ignore[no-untyped-def]
    """Write the tokens of some letters as 16-bit hashes; the first may be the end of a word. Returns how many."""
    count = 0
    token = FNV_SEED
    for index in range(begin, end):
        if flags[index] & BEGINS and index > begin:
            out[count] = nb.uint16(spread(token) >> nb.uint64(48))
            count += 1
            token = FNV_SEED
        token = (token ^ nb.uint64(letters[index])) * FNV_PRIME
    if end > begin:
        out[count] = nb.uint16(spread(token) >> nb.uint64(48))
        count += 1
    return count


@inner_kernel
def token_grams(letters, flags, begin, end, words, characters, grams, firsts, lasts, tokens, heads):  # type: ignore[no-untyped-def]
    """Write the grams of the runs of tokens in some letters, and their first and last letters. Returns how many.

    A run is of words, or of characters of one script; a gram has ``words`` or ``characters`` of them, twice as many
    characters where they are letters of an alphabet (Thai).
    """
    count = 0
    size = 0
    kind = 0
    rolling = nb.uint64(0)
    words_power = nb.uint64(1)
    for _ in range(words):
        words_power *= GAP
    han_power = nb.uint64(1)
    for _ in range(characters):
        han_power *= GAP
    other_power = han_power * han_power
    at = begin
    while at < end:
        flag = max(nb.int64(flags[at]), 1)
        last = at + 1
        token = (FNV_SEED ^ nb.uint64(letters[at])) * FNV_PRIME
        while last < end and flags[last] == 0:
            token = (token ^ nb.uint64(letters[last])) * FNV_PRIME
            last += 1
        if flag != kind:
            kind = flag
            size = 0
            rolling = nb.uint64(0)
        n = words if kind == 1 else characters if kind == HAN else 2 * characters
        hashed = spread(token)
        tokens[size] = hashed
        heads[size] = at
        size += 1
        rolling = rolling * GAP + hashed
        if size > n:
            rolling -= tokens[size - 1 - n] * (words_power if kind == 1 else han_power if kind == HAN else other_power)
        if size >= n:
            grams[count] = spread(rolling) | nb.uint64(1)
            firsts[count] = heads[size - n]
            lasts[count] = last - 1
            count += 1
        at = last
    return count


@inner_kernel
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
    equal = np.zeros((different, blocks), np.uint64)
    one = nb.uint64(1)
    for index in range(length):
        equal[slots[pattern[index]], index >> 6] |= one << nb.uint64(index & 63)
    last = nb.uint64((length - 1) & 63)
    edits: Any = length
    best = length
    best_end = 0
    if blocks == 1:
        up = ~nb.uint64(0)
        down = nb.uint64(0)
        for at in range(len(text)):
            slot = slots[text[at]]
            same = equal[slot, 0] if slot >= 0 else nb.uint64(0)
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
    below = np.zeros(blocks, np.uint64)
    above[:] = ~nb.uint64(0)
    for at in range(len(text)):
        slot = slots[text[at]]
        carry = 0
        for block in range(blocks):
            same = equal[slot, block] if slot >= 0 else nb.uint64(0)
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
        size = tokens_in(own, own_flags, 0, length, windows[0])
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
def letters_of(  # type: ignore[no-untyped-def]
    data, starts, ends, rows, folded, longer, kinds, orders, bases, seconds, pairs,
    row, plain, letters, flags, places, turns, wholes, bounds,
):  # fmt: skip
    """Read the letters of texts from ``row`` on, one after the other, while there is room for the longest.

    ``bounds[row]`` is where they go. Stops at a text that must be folded first, and returns it.
    """
    while row < len(rows) - 1:
        begin = bounds[row]
        count = read_letters(
            data, starts, ends, rows, folded, longer, kinds, orders, bases, seconds, pairs,
            row, plain, letters[begin:], flags[begin:], places[begin:], turns, wholes[rows[row]:],
        )  # fmt: skip
        if count < 0:
            return row
        bounds[row + 1] = begin + count
        row += 1
    return row


@kernel
def seeds_of(letters, begin, end, kind, out):  # type: ignore[no-untyped-def]
    """Write the seed of a kind (0 to 2, of 5, 6 or 7 letters) that ends at each letter, 0 where none does.

    Returns the size of the letters.
    """
    size = 0
    late = nb.uint64(0)
    early = nb.uint64(0)
    for at in range(begin, end):
        early = early << nb.uint64(16) | late >> nb.uint64(48)
        late = late << nb.uint64(16) | nb.uint64(letters[at])
        value = worth(letters[at])
        size += value
        out[at - begin] = seed_of(late, early, value, at - begin + 1, kind if value == 1 else 0)
    return size


@kernel
def grams_of(letters, flags, begin, end, words, characters, grams, firsts, lasts, tokens, heads):  # type: ignore[no-untyped-def]
    return token_grams(letters, flags, begin, end, words, characters, grams, firsts, lasts, tokens, heads)


@kernel
def search(  # type: ignore[no-untyped-def]
    data, starts, ends, rows, folded, longer, kinds, orders, bases, seconds, pairs,
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
            data, starts, ends, rows, folded, longer, kinds, orders, bases, seconds, pairs,
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
            made = token_grams(letters, flags, 0, count, words, characters, grams, firsts, lasts, tokens, heads)
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
