# ruff: noqa: SIM109 (a kernel compares; it makes no tuples)
"""The kernel of the ``quality`` filter: one pass over the buffers of all turns.

:func:`scan_turns` decodes a turn, counts its characters by class, folds it for matching, walks the trie of phrases,
cuts it into tokens and measures repetition and likeness to its prompt. See :mod:`aya_data.filters.quality.scan` for
what its arguments and results are.
"""

from __future__ import annotations

import numba as nb

from aya_data.filters.quality.phrases import PLACES
from aya_data.text.folding import IGNORED, LIMIT, MARK, WHITE, WORD
from aya_data.text.kernel import inner_kernel, kernel
from aya_data.text.repetition import longest_repeat, repeated_grams, repeated_lines
from aya_data.text.similarity import contained, similarity

__all__ = ["scan_turns"]

(
    ROLE, CHARS, SOLID, DIGITS, SYMBOLS, WORDS, URLS, GARBLED, GARBLED_AT, LOST, LOST_AT, SENTENCES, LAST, SHAPE,
    LINE_CHARS, REPEATED_LINE_CHARS, REPEATED_LINE_AT, GRAM_CHARS, REPEATED_GRAM_CHARS, TOP_GRAM_CHARS,
    REPEATED_GRAM_AT, REPEAT, REPEAT_AT, REPEAT_AGAIN, PROMPT_WORDS, PROMPT_CHARS, SIMILAR, COPIED_AT,
) = range(28)  # fmt: skip

"""Columns of the result, in the order of ``COLUMNS``."""

PROMPT, ANSWER = 1, 2
APART, UNFENCED = 1, 2
IS_DIGIT, IS_SYMBOL, IS_WHITE, IS_TERMINAL, IS_CLOSED, IS_BULLET, IS_BREAK = 1, 2, 4, 8, 16, 32, 64
"""Bits of a character's class."""
LEAD_2, LEAD_3, LEAD_4, FOLLOWS, CONTROL, EURO, PLAIN_FOLLOWS = 1, 2, 3, 4, 5, 6, 7
"""What a character would be as a byte of UTF-8 read as Windows-1252: a first byte of 2, 3 or 4; a later one; a later
one that is a control character; the euro sign; a later one that seldom stands after a letter otherwise."""
WORD_GRAM, TOP_WORD_GRAM = 5, 3
CHARACTER_GRAM, TOP_CHARACTER_GRAM = 10, 6
COPY_CHARS = 40
GRAVE, HASH, AT_SIGN, FENCE = 96, 35, 64, 3
AT_WORD, AT_OPEN, AT_LINE, AT_WHOLE_LINE, AT_WHOLE, AT_LAST_LINE, AT_START, AT_END, AT_TAG, AT_URL = range(len(PLACES))


@inner_kernel
def _decode(  # type: ignore[no-untyped-def]
    data, begin, end, folded, longer, kinds, orders, bases, seconds, pairs, flags, as_bytes,
    points, letters_out, origin, out,
):  # fmt: skip
    """Write the code points of a turn and its text for matching; count characters by class into ``out``.

    Returns how many code points and letters there are, and whether the text is in NFC.
    """
    at = begin
    count = 0
    size = 0
    gap = 0
    digits = 0
    symbols = 0
    white = 0
    sentences = 0
    earlier = 0  # sentence ends before the last line
    last = 0
    word = 0  # the character that the last word begins with
    lost = 0
    normal = True
    ended = False  # the character before ends a sentence if white space follows
    last_order = 0
    last_base = 0
    garbled = 0
    garbled_at = -1
    lead = -1  # where an open sequence of garbled bytes began, and what it still needs
    needs = 0
    plain = False
    sure = False
    runs = 0
    run_from = -1
    while at < end:
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
        here = count
        points[count] = point
        count += 1
        flag = 0
        kind = 0
        if point < LIMIT:
            flag = nb.int64(flags[point])
            kind = nb.int64(kinds[point])
        elif 0xE0000 <= point <= 0xE0FFF:
            kind = IGNORED
        # Garbled: sequences that are UTF-8 if each character is read as its byte in Windows-1252.
        if point >= 0x80 or run_from >= 0 or needs > 0:
            byte = nb.int64(as_bytes[point]) if 0x80 <= point < 0x2200 else 0
            if needs > 0:
                if byte >= FOLLOWS:
                    if byte == CONTROL or (byte == EURO and here == lead + 1 and points[lead] == 0xE2):
                        sure = True
                    plain = byte == PLAIN_FOLLOWS
                    needs -= 1
                    if needs == 0:
                        runs += 1
                        width = here - lead + 1
                        latin = points[lead] == 0xC2 or points[lead] == 0xC3
                        if runs >= 2 or (width == 2 and latin and plain):
                            sure = True
                else:
                    needs = 0
                    byte = 0 if byte >= FOLLOWS else byte
                    if sure and runs > 0:
                        garbled += lead - run_from
                        garbled_at = run_from if garbled_at < 0 else garbled_at
                    runs, sure, run_from = 0, False, -1
                    if 1 <= byte <= LEAD_4:
                        lead, needs, run_from = here, byte, here
            elif 1 <= byte <= LEAD_4:
                if run_from < 0:
                    run_from = here
                    runs = 0
                    sure = False
                lead, needs = here, byte
            elif run_from >= 0:
                if sure and runs > 0:
                    garbled += here - run_from
                    garbled_at = run_from if garbled_at < 0 else garbled_at
                runs, sure, run_from = 0, False, -1
        if point == 0xFFFD:
            lost += 1
            if lost == 1:
                out[LOST_AT] = here
        if point >= 0x300:
            if point < LIMIT:
                order = nb.int64(orders[point])
                if order != 0 and order < last_order:
                    normal = False
                if seconds[point]:
                    if 0x1161 <= point <= 0x11C2:
                        normal = False
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
                        normal = False
                last_order = order
                if order == 0:
                    last_base = point
            else:
                last_order, last_base = 0, 0
        else:
            last_order, last_base = 0, point
        if flag & IS_WHITE:
            white += 1
            if flag & IS_BREAK or gap == 10:
                gap = 10
            else:
                gap = 32
            if ended:
                sentences += 1
            ended = False
            continue
        if kind == IGNORED:
            continue
        if flag & IS_DIGIT:
            digits += 1
        elif flag & IS_SYMBOL:
            symbols += 1
        if flag & IS_CLOSED:
            sentences += 1
            ended = False
        elif flag & IS_TERMINAL:
            ended = True
        elif not flag & IS_SYMBOL:
            ended = False
        last = point
        if gap != 0:
            word = point
        if gap == 10:
            earlier = sentences
        if gap != 0 and size > 0:
            letters_out[size] = gap
            origin[size] = here
            size += 1
        gap = 0
        value = nb.int64(folded[point]) if point < LIMIT else point
        if value >= 0:
            letters_out[size] = value
            origin[size] = here
            size += 1
        else:
            place = -2 - value
            for part in range(nb.int64(longer[place, 0])):
                letters_out[size] = longer[place, 1 + part]
                origin[size] = here
                size += 1
    if run_from >= 0 and sure and runs > 0:
        garbled += (lead if needs > 0 else count) - run_from
        garbled_at = run_from if garbled_at < 0 else garbled_at
    out[CHARS] = count
    out[SOLID] = count - white
    out[DIGITS] = digits
    out[SYMBOLS] = symbols
    out[GARBLED] = garbled
    out[GARBLED_AT] = garbled_at
    out[LOST] = lost
    out[SENTENCES] = sentences - earlier
    out[LAST] = last
    out[SHAPE] = APART if word == HASH or word == AT_SIGN else 0
    return count, size, normal


@inner_kernel
def _find(  # type: ignore[no-untyped-def]
    text, size, origin, points, count, kinds, white, root, keys, states, entry, following, rule, where, hint, short,
    code, tokens, sizes, token_at, out, hits, seen,
):  # fmt: skip
    """Find phrases in a text for matching, and cut it into tokens. Returns how many tokens and how many of
    characters there are, and how many rules were hit."""
    mask = nb.uint64(len(keys) - 1)
    count_tokens = 0
    characters = 0
    in_word = False
    hashed = nb.uint64(0)
    hit = 0
    urls = 0
    url_to = 0
    fenced = False
    quoted = False
    ticks = 0
    for index in range(len(seen)):
        seen[index] = -1
    before = 0
    for j in range(size):
        letter = nb.int64(text[j])
        kind = nb.int64(kinds[letter]) if letter < LIMIT else (2 if 0x20000 <= letter <= 0x3FFFF else 0)
        spelled = kind == WORD or kind == MARK
        if letter == GRAVE:
            ticks += 1
            if j + 1 == size or text[j + 1] != GRAVE:
                if ticks >= FENCE:
                    fenced = not fenced
                    quoted = False
                elif not fenced:
                    quoted = not quoted
                ticks = 0
        elif letter == 10:
            quoted = False
        # Tokens: words, and characters where words are not spaced.
        if spelled and (in_word or kind == WORD):
            if not in_word:
                in_word = True
                hashed = nb.uint64(0xCBF29CE484222325)
                sizes[count_tokens] = 0
                token_at[count_tokens] = origin[j]
                count_tokens += 1
            hashed = (hashed ^ nb.uint64(letter)) * nb.uint64(0x100000001B3)
            tokens[count_tokens - 1] = hashed * nb.uint64(0x9E3779B97F4A7C15)
            sizes[count_tokens - 1] += 1
        elif 2 <= kind < WHITE:
            in_word = False
            tokens[count_tokens] = nb.uint64(letter) * nb.uint64(0x9E3779B97F4A7C15)
            sizes[count_tokens] = 1
            token_at[count_tokens] = origin[j]
            count_tokens += 1
            characters += 1
        elif kind != MARK:
            in_word = False
        state = nb.int64(root[letter]) if letter < LIMIT else 0
        if state > 0 and spelled and before:
            state = 0
        if state > 0 and not short[letter]:
            if j + 2 < size:
                two, three = nb.uint32(text[j + 1]), nb.uint32(text[j + 2])
                two = nb.uint32(32) if two == 10 else two
                three = nb.uint32(32) if three == 10 else three
                place_of = nb.uint32(
                    nb.uint32(letter) * nb.uint32(0x9E3779B1)
                    + two * nb.uint32(0x85EBCA6B)
                    + three * nb.uint32(0xC2B2AE35)
                ) >> nb.uint32(16)
                if hint[place_of] == 0:
                    state = 0
            else:
                state = 0
        if state > 0:
            k = j + 1
            closing = spelled
            while True:
                number = nb.int64(entry[state])
                if number >= 0:
                    after = nb.int64(text[k]) if k < size else 0
                    kind_after = nb.int64(kinds[after]) if 0 < after < LIMIT else 0
                    fits = True
                    line = j == 0 or text[j - 1] == 10
                    while number >= 0:
                        place = where[number]
                        if place == AT_WORD:
                            fits = not (closing and (kind_after == WORD or kind_after == MARK))
                        elif place == AT_OPEN or place == AT_URL:
                            fits = True
                        elif place == AT_LINE:
                            fits = line
                        elif place == AT_WHOLE_LINE:
                            fits = line and (k == size or after == 10)
                        elif place == AT_WHOLE:
                            fits = j == 0 and k == size
                        elif place == AT_LAST_LINE:
                            fits = line and j > 0 and k == size
                        elif place == AT_START:
                            fits = j == 0
                        elif place == AT_END:
                            fits = k == size
                        else:
                            fits = after == 62 or after == 47 or after == 32 or after == 10
                        own = rule[number]
                        if fits and not (code[own] and (fenced or quoted)):
                            if place == AT_URL:
                                start = nb.int64(origin[j])
                                if start >= url_to:
                                    stop = start
                                    while stop < count:
                                        point = nb.int64(points[stop])
                                        if point < LIMIT and white[point]:
                                            break
                                        if point == 41 or point == 93 or point == 62 or point == 34:
                                            break
                                        stop += 1
                                    urls += stop - start
                                    url_to = stop
                            elif seen[own] < 0:
                                seen[own] = hit
                                hits[hit, 0] = number
                                hits[hit, 1] = 1
                                hits[hit, 2] = origin[j]
                                hit += 1
                            else:
                                hits[seen[own], 1] += 1
                        number = nb.int64(following[number])
                if k == size:
                    break
                letter = nb.int64(text[k])
                kind_last = nb.int64(kinds[letter]) if letter < LIMIT else 0
                closing = kind_last == WORD or kind_last == MARK
                if letter == 10:
                    letter = 32
                key = nb.uint64(state) << nb.uint64(32) | nb.uint64(letter)
                slot = (key * nb.uint64(0x9E3779B97F4A7C15)) >> nb.uint64(32) & mask
                state = 0
                while states[slot] > 0:
                    if keys[slot] == key:
                        state = nb.int64(states[slot])
                        break
                    slot = (slot + nb.uint64(1)) & mask
                if state == 0:
                    break
                k += 1
        before = spelled
    if fenced:
        out[SHAPE] |= UNFENCED
    if size > 0 and url_to > origin[size - 1]:
        out[SHAPE] |= APART
    out[WORDS] = count_tokens
    out[URLS] = urls
    return count_tokens, characters, hit


@inner_kernel
def in_ten_thousandths(share):  # type: ignore[no-untyped-def]
    """Round a share, halves to the even number."""
    whole = nb.int64(10000 * share)
    rest = 10000 * share - whole
    if rest > 0.5 or (rest == 0.5 and whole & 1):
        whole += 1
    return whole


@kernel
def scan_turns(  # type: ignore[no-untyped-def]
    data, starts, ends, bounds, roles, folded, longer, kinds, orders, bases, seconds, pairs, flags, white, as_bytes,
    root, keys, states, entry, following, rule, where, hint, short, code, points, text, origin, prompt, token_at,
    tokens, sizes, table_keys, stamps, table_counts, places, seen, room, counts, hits, hit_sizes,
):  # fmt: skip
    """Measure all turns, row by row, into ``counts``, ``hits`` (entry, count, place by rule) and ``hit_sizes``."""
    stamp = nb.int64(0)
    for row in range(len(bounds) - 1):
        prompt_size = nb.int64(-1)
        prompt_words = nb.int64(0)
        prompt_chars = nb.int64(0)
        for turn in range(bounds[row], bounds[row + 1]):
            out = counts[turn]
            count, size, normal = _decode(
                data, starts[turn], ends[turn], folded, longer, kinds, orders, bases, seconds, pairs, flags, as_bytes,
                points, text, origin, out,
            )  # fmt: skip
            out[ROLE] = roles[turn] if normal else -1
            spoken, characters, hit = _find(
                text, size, origin, points, count, kinds, white, root, keys, states, entry, following, rule, where,
                hint, short, code, tokens, sizes, token_at, out, hits[turn], seen,
            )  # fmt: skip
            hit_sizes[turn] = hit
            begin = count
            while begin > 0 and points[begin - 1] < LIMIT and white[points[begin - 1]]:
                begin -= 1
            while begin > 0 and points[begin - 1] != 10:
                begin -= 1
            while begin < count and points[begin] < LIMIT and white[points[begin]]:
                begin += 1
            if begin < count and points[begin] < LIMIT and flags[points[begin]] & IS_BULLET:
                out[SHAPE] |= APART
            stamp += 1
            out[LINE_CHARS], out[REPEATED_LINE_CHARS], out[REPEATED_LINE_AT] = count, 0, -1
            if begin > 0:
                total, repeated, first = repeated_lines(points, count, white, LIMIT, table_keys, stamps, places, stamp)
                out[LINE_CHARS], out[REPEATED_LINE_CHARS], out[REPEATED_LINE_AT] = total, repeated, first
            gram, top = WORD_GRAM, TOP_WORD_GRAM
            if 2 * characters > spoken:
                gram, top = CHARACTER_GRAM, TOP_CHARACTER_GRAM
            total = 0
            for token in range(spoken):
                total += sizes[token]
            stamp += 1
            again, _, at = repeated_grams(tokens, sizes, spoken, gram, table_keys, stamps, table_counts, stamp)
            stamp += 1
            _, most, _ = repeated_grams(tokens, sizes, spoken, top, table_keys, stamps, table_counts, stamp)
            out[GRAM_CHARS], out[REPEATED_GRAM_CHARS], out[TOP_GRAM_CHARS] = total, again, min(most, total)
            out[REPEATED_GRAM_AT] = token_at[at] if at >= 0 else -1
            stamp += 1
            length, one, other, stamp = longest_repeat(points, count, table_keys, stamps, places, stamp)
            out[REPEAT], out[REPEAT_AT], out[REPEAT_AGAIN] = length, one, other
            out[SIMILAR], out[COPIED_AT] = 0, -1
            if roles[turn] == PROMPT:
                for index in range(size):
                    prompt[index] = text[index]
                prompt_size, prompt_words, prompt_chars = size, spoken, count
            elif roles[turn] == ANSWER and prompt_size >= 0:
                out[PROMPT_WORDS], out[PROMPT_CHARS] = prompt_words, prompt_chars
                out[SIMILAR] = in_ten_thousandths(similarity(prompt, prompt_size, text, size, room))
                if prompt_size >= COPY_CHARS:
                    found = contained(prompt, prompt_size, text, size)
                    if found >= 0:
                        out[COPIED_AT] = origin[found]
