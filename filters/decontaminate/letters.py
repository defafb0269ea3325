"""Kernels of ``decontaminate``: letters of a text, and grams of them.

**Letters** are what is compared: a text after NFKC and casefold without white space, punctuation, symbols and format
characters, as 16-bit codes (characters beyond the basic plane are hashed to 16 bits). ``flags`` say what each
letter begins: 0 goes on with a token, 1 begins a word, 2 and more begin a character of a script without spaces
(one number per script, as :mod:`aya_data.text.folding` has them).

**Seeds** are short grams of letters, which survive edits between them; **grams** are long grams of tokens.
"""

from __future__ import annotations

import numba as nb

from aya_data.text.characters import HAN, folded_at, kind_at, parts_of, point_at
from aya_data.text.folding import IGNORED, MARK, SEPARATOR, WHITE, WORD
from aya_data.text.kernel import inner_kernel, kernel

__all__ = ["MASKED", "grams_of", "letters_of", "passing", "read_letters", "seeds_of", "token_grams", "tokens_in"]

GAP = nb.uint64(0x9E3779B97F4A7C15)
TURN = nb.uint64(0xC2B2AE3D27D4EB4F)
FNV_SEED, FNV_PRIME = nb.uint64(0xCBF29CE484222325), nb.uint64(0x100000001B3)

BEGINS, MASKED = 0x7F, 0x80
"""Parts of a pattern's flags: what a letter begins, and whether it is boilerplate."""


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
    data, starts, ends, rows, points, longer, pairs, row, plain, letters, flags, places, turns, wholes
):
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
        order = nb.int64(0)
        base = nb.int64(0)
        in_word = False
        whole = FNV_SEED
        spoken = False
        gap = False
        while at < end:
            begin = at
            if plain:
                value, at = point_at(data, at)
            else:
                value, at, order, base = folded_at(data, at, order, base, points, pairs)
                if value == -1:
                    return -1
            for part in range(parts_of(value, longer)):
                point = value if value >= 0 else nb.int64(longer[-2 - value, 1 + part])
                kind = kind_at(point, points)
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


@kernel
def letters_of(  # type: ignore[no-untyped-def]
    data, starts, ends, rows, points, longer, pairs, row, plain, letters, flags, places, turns, wholes, bounds
):
    """Read the letters of texts from ``row`` on, one after the other, while there is room for the longest.

    ``bounds[row]`` is where they go. Stops at a text that must be folded first, and returns it.
    """
    while row < len(rows) - 1:
        begin = bounds[row]
        count = read_letters(
            data, starts, ends, rows, points, longer, pairs,
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
