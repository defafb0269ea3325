# ruff: noqa: SIM109 (a kernel compares; it makes no tuples)
"""The kernel of the ``quality`` filter: one pass over the buffers of all turns.

:func:`scan_turns` reads a turn once: counts its characters by class, folds it for matching, cuts it into tokens. It
then looks for phrases where one may begin, and measures repetition and likeness to its prompt. See
:mod:`aya_data.filters.quality.scan` for what its arguments and results are.
"""

from __future__ import annotations

import numba as nb

from aya_data.filters.quality.phrases import PLACES
from aya_data.text.characters import point_at, stands
from aya_data.text.folding import LIMIT
from aya_data.text.kernel import inner_kernel, kernel
from aya_data.text.repetition import FLOOR, longest_repeat, repeated_grams, repeated_lines
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
NOTED, PASSED, SEVERAL, DECOMPOSED, PLAIN = 128, 256, 512, 1 << 14, 1 << 15
IN_WORD, MARKED, UNSPACED, BEGINS = 1, 2, 4, 8
SPELLED, LETTER = IN_WORD | MARKED, 10
"""Bits of a character's class: what it counts as; whether it must be looked at closely, is passed over, folds to
several letters, never stands in NFC, or is a letter or mark and nothing else. From bit :data:`LETTER` on, of the letter
it folds to: whether it is of a word, goes on with one, is a character of a script without spaces, and may begin a
phrase."""
LEAD_2, LEAD_3, LEAD_4, FOLLOWS, CONTROL, EURO, PLAIN_FOLLOWS = 1, 2, 3, 4, 5, 6, 7
"""What a character would be as a byte of UTF-8 read as Windows-1252: a first byte of 2, 3 or 4; a later one; a later
one that is a control character; the euro sign; a later one that seldom stands after a letter otherwise."""
WORD_GRAM, TOP_WORD_GRAM = 5, 3
CHARACTER_GRAM, TOP_CHARACTER_GRAM = 10, 6
COPY_CHARS = 40
GRAVE, HASH, AT_SIGN, FENCE = 96, 35, 64, 3
WORD_SEED, WORD_PRIME = nb.uint64(0xCBF29CE484222325), nb.uint64(0x100000001B3)
TOKEN_PRIME = nb.uint64(0x9E3779B97F4A7C15)
AT_WORD, AT_OPEN, AT_LINE, AT_WHOLE_LINE, AT_WHOLE, AT_LAST_LINE, AT_START, AT_END, AT_TAG, AT_URL = range(len(PLACES))


@inner_kernel
def _read(  # type: ignore[no-untyped-def]
    data, begin, end, table, longer, pairs, letters, classes, spelling, as_bytes, trusted,
    points, text, origin, tokens, sizes, token_at, spots, out,
):  # fmt: skip
    """Write the code points of a turn, its text for matching and its tokens; count characters by class into ``out``.

    Returns how many code points, letters, tokens, tokens of one character and characters in tokens there are, at how
    many letters (``spots``) a phrase may begin, how many are backticks, and where the last line begins. The first is -1
    where the text is not in NFC; ``trusted`` texts are.
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
    last = nb.int64(0)
    word = nb.int64(0)  # the character that the last word begins with
    line = 0  # where the last line begins, and the next if something stands in it
    next_line = 0
    lost = 0
    ended = False  # the character before ends a sentence if white space follows
    order = nb.int64(0)
    base = nb.int64(0)
    garbled = 0
    garbled_at = -1
    lead = -1  # where an open sequence of garbled bytes began, and what it still needs
    needs = 0
    plain = False
    sure = False
    runs = 0
    run_from = -1
    count_tokens = 0
    characters = 0
    covered = 0
    in_word = False
    hashed = nb.uint64(0)
    length = 0
    before = False  # the letter before is spelled
    found = 0
    graves = 0
    while at < end:
        point, at = point_at(data, at)
        here = count
        points[count] = point
        count += 1
        if point < LIMIT:
            what = nb.int64(classes[point])
            value = nb.int64(letters[point])
        else:
            what = nb.int64(NOTED)
            value = point
            if 0xE0000 <= point <= 0xE0FFF:
                what |= PASSED
            elif point < 0x40000:
                what |= UNSPACED << LETTER
        if what & NOTED or run_from >= 0:
            # Garbled: sequences that are UTF-8 if each character is read as its byte in Windows-1252.
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
            if not trusted:
                fits, order, base = stands(point, order, base, table, pairs)
                if not fits or what & DECOMPOSED:
                    return -1, 0, 0, 0, 0, 0, 0, 0
        else:
            order = nb.int64(0)
            base = point
        if what & (IS_WHITE | PASSED):
            if what & PASSED:
                line = max(line, next_line)
                continue
            white += 1
            if point == 10:
                next_line = count
            gap = 10 if what & IS_BREAK or gap == 10 else 32
            if ended:
                sentences += 1
            ended = False
            if in_word:
                tokens[count_tokens] = hashed * TOKEN_PRIME
                sizes[count_tokens] = length
                covered += length
                count_tokens += 1
                in_word = False
            continue
        digits += what & IS_DIGIT
        symbols += (what & IS_SYMBOL) >> 1
        if what & IS_CLOSED:
            sentences += 1
            ended = False
        elif what & IS_TERMINAL:
            ended = True
        elif not what & IS_SYMBOL:
            ended = False
        last = point
        if gap != 0:
            word = point
            line = max(line, next_line)
            if gap == 10:
                earlier = sentences
            if size > 0:
                text[size] = gap
                origin[size] = here
                size += 1
            gap = 0
            before = False
        parts = nb.int64(longer[-2 - value, 0]) if what & SEVERAL else 1
        for part in range(parts):
            letter = value
            bits = what >> LETTER
            if what & SEVERAL:
                letter = nb.int64(longer[-2 - value, 1 + part])
                bits = nb.int64(spelling[letter])
            text[size] = letter
            origin[size] = here
            size += 1
            if in_word:
                if bits & SPELLED:
                    hashed = (hashed ^ nb.uint64(letter)) * WORD_PRIME
                    length += 1
                    continue
                tokens[count_tokens] = hashed * TOKEN_PRIME
                sizes[count_tokens] = length
                covered += length
                count_tokens += 1
                in_word = False
            if bits & BEGINS and not (before and bits & SPELLED):
                spots[found] = size - 1
                found += 1
            before = (bits & SPELLED) != 0
            if bits & IN_WORD:
                in_word = True
                hashed = (WORD_SEED ^ nb.uint64(letter)) * WORD_PRIME
                length = 1
                token_at[count_tokens] = here
            elif bits & UNSPACED:
                tokens[count_tokens] = nb.uint64(letter) * TOKEN_PRIME
                sizes[count_tokens] = 1
                token_at[count_tokens] = here
                covered += 1
                count_tokens += 1
                characters += 1
            elif letter == GRAVE:
                graves += 1
        # Most characters go on with a word, and are nothing else.
        while in_word and run_from < 0 and at < end:
            point, after = point_at(data, at)
            if point >= LIMIT or not classes[point] & PLAIN:
                break
            at = after
            points[count] = point
            letter = nb.int64(letters[point])
            text[size] = letter
            origin[size] = count
            count += 1
            size += 1
            length += 1
            hashed = (hashed ^ nb.uint64(letter)) * WORD_PRIME
            last = base = point
            order = nb.int64(0)
            ended = False
    if in_word:
        tokens[count_tokens] = hashed * TOKEN_PRIME
        sizes[count_tokens] = length
        covered += length
        count_tokens += 1
    if run_from >= 0 and sure and runs > 0:
        garbled += (lead if needs > 0 else count) - run_from
        garbled_at = run_from if garbled_at < 0 else garbled_at
    out[CHARS] = count
    out[SOLID] = count - white
    out[DIGITS] = digits
    out[SYMBOLS] = symbols
    out[WORDS] = count_tokens
    out[GARBLED] = garbled
    out[GARBLED_AT] = garbled_at
    out[LOST] = lost
    out[SENTENCES] = sentences - earlier
    out[LAST] = last
    out[SHAPE] = APART if word == HASH or word == AT_SIGN else 0
    out[GRAM_CHARS] = covered
    return count, size, count_tokens, characters, found, graves, line, covered


@inner_kernel
def _find(  # type: ignore[no-untyped-def]
    turn, text, size, origin, points, count, spots, found, graves, spelling, white, root, keys, states, entry,
    following, rule, where, hint, short, code, out, hits, hit, seen,
):  # fmt: skip
    """Find the phrases that begin at some letters of a text for matching; add them to ``hits`` from ``hit`` on.

    Returns how many ``hits`` there are then.
    """
    mask = nb.uint64(len(keys) - 1)
    urls = 0
    url_to = 0
    fenced = False
    quoted = False
    ticks = 0
    told = 0
    for index in range(len(seen)):
        seen[index] = -1
    for spot in range(found + 1):
        j = nb.int64(spots[spot]) if spot < found else size - 1
        while graves > 0 and told <= j:
            letter = nb.int64(text[told])
            if letter == GRAVE:
                ticks += 1
                if told + 1 == size or text[told + 1] != GRAVE:
                    if ticks >= FENCE:
                        fenced = not fenced
                        quoted = False
                    elif not fenced:
                        quoted = not quoted
                    ticks = 0
            elif letter == 10:
                quoted = False
            told += 1
        if spot == found:
            break
        letter = nb.int64(text[j])
        if not short[letter]:
            if j + 2 >= size:
                continue
            two, three = nb.uint32(text[j + 1]), nb.uint32(text[j + 2])
            two = nb.uint32(32) if two == 10 else two
            three = nb.uint32(32) if three == 10 else three
            place_of = nb.uint32(
                nb.uint32(letter) * nb.uint32(0x9E3779B1) + two * nb.uint32(0x85EBCA6B) + three * nb.uint32(0xC2B2AE35)
            ) >> nb.uint32(16)
            if hint[place_of] == 0:
                continue
        state = nb.int64(root[letter])
        k = j + 1
        closing = spelling[letter] & SPELLED
        while True:
            number = nb.int64(entry[state])
            if number >= 0:
                after = nb.int64(text[k]) if k < size else 0
                going_on = after < LIMIT and spelling[after] & SPELLED
                fits = True
                line = j == 0 or text[j - 1] == 10
                while number >= 0:
                    place = where[number]
                    if place == AT_WORD:
                        fits = not (closing and going_on)
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
                            hits[hit, 0] = turn
                            hits[hit, 1] = number
                            hits[hit, 2] = 1
                            hits[hit, 3] = origin[j]
                            hit += 1
                        else:
                            hits[seen[own], 2] += 1
                    number = nb.int64(following[number])
            if k == size:
                break
            letter = nb.int64(text[k])
            closing = spelling[letter] & SPELLED if letter < LIMIT else 0
            if letter == 10:
                letter = 32
            key = nb.uint64(state) << nb.uint64(32) | nb.uint64(letter)
            slot = (key * TOKEN_PRIME) >> nb.uint64(32) & mask
            state = 0
            while states[slot] > 0:
                if keys[slot] == key:
                    state = nb.int64(states[slot])
                    break
                slot = (slot + nb.uint64(1)) & mask
            if state == 0:
                break
            k += 1
    if fenced:
        out[SHAPE] |= UNFENCED
    if size > 0 and url_to > origin[size - 1]:
        out[SHAPE] |= APART
    out[URLS] = urls
    return hit


@inner_kernel
def _widest(token_at, spoken, count, span):  # type: ignore[no-untyped-def]
    """Return the most characters in which fewer than ``span`` tokens begin."""
    most = count if spoken < span else nb.int64(token_at[span - 1])
    for token in range(span, spoken + 1):
        end = nb.int64(token_at[token]) if token < spoken else count
        most = max(most, end - token_at[token - span] - 1)
    return most


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
    data, starts, ends, bounds, roles, trusted, table, longer, pairs, letters, classes, spelling, white, as_bytes,
    root, keys, states, entry, following, rule, where, hint, short, code, points, text, origin, prompt, token_at,
    spots, tokens, sizes, table_keys, stamps, table_counts, places, seen, room, counts, hits,
):  # fmt: skip
    """Measure all turns, row by row, into ``counts`` and ``hits`` (turn, entry, count, place); return how many hits.

    A turn that is not in NFC is left alone, its role -1; ``trusted`` ones are.
    """
    stamp = nb.int64(0)
    hit = nb.int64(0)
    for row in range(len(bounds) - 1):
        prompt_size = nb.int64(-1)
        prompt_words = nb.int64(0)
        prompt_chars = nb.int64(0)
        for turn in range(bounds[row], bounds[row + 1]):
            out = counts[turn]
            count, size, spoken, characters, found, graves, begin, total = _read(
                data, starts[turn], ends[turn], table, longer, pairs, letters, classes, spelling, as_bytes, trusted,
                points, text, origin, tokens, sizes, token_at, spots, out,
            )  # fmt: skip
            out[ROLE] = roles[turn] if count >= 0 else -1
            if count < 0:
                continue
            hit = _find(
                turn, text, size, origin, points, count, spots, found, graves, spelling, white, root, keys, states,
                entry, following, rule, where, hint, short, code, out, hits, hit, seen,
            )  # fmt: skip
            while begin < count and points[begin] < LIMIT and white[points[begin]]:
                begin += 1
            if begin < count and points[begin] < LIMIT and classes[points[begin]] & IS_BULLET:
                out[SHAPE] |= APART
            stamp += 1
            out[LINE_CHARS], out[REPEATED_LINE_CHARS], out[REPEATED_LINE_AT] = count, 0, -1
            if begin > 0:
                lines, repeated, first = repeated_lines(points, count, white, LIMIT, table_keys, stamps, places, stamp)
                out[LINE_CHARS], out[REPEATED_LINE_CHARS], out[REPEATED_LINE_AT] = lines, repeated, first
            gram, top = WORD_GRAM, TOP_WORD_GRAM
            if 2 * characters > spoken:
                gram, top = CHARACTER_GRAM, TOP_CHARACTER_GRAM
            again, at = nb.int64(0), nb.int64(-1)
            stamp += 1
            _, most, known, run = repeated_grams(tokens, sizes, spoken, top, table_keys, stamps, table_counts, stamp)
            run = max(run, top - 1)
            if known >= 0:  # what stands twice has shorter parts that do
                stamp += 1
                again, _, at, run = repeated_grams(tokens, sizes, spoken, gram, table_keys, stamps, table_counts, stamp)
                run = max(run, gram - 1)
            out[REPEATED_GRAM_CHARS], out[TOP_GRAM_CHARS] = again, min(most, total)
            out[REPEATED_GRAM_AT] = token_at[at] if at >= 0 else -1
            length, one, other = nb.int64(0), nb.int64(-1), nb.int64(-1)
            # Of the tokens that begin in what stands twice, all but the first and the last are whole, and the same at
            # both places: a run of repeated n-grams, or fewer than n.
            if _widest(token_at, spoken, count, run + 3) >= FLOOR * count:
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
                    copied = contained(prompt, prompt_size, text, size)
                    if copied >= 0:
                        out[COPIED_AT] = origin[copied]
    return hit
