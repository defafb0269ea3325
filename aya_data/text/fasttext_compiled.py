# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls
"""The compiled half of :mod:`aya_data.text.fasttext_kernel`: what runs for every byte of a column.

All of it is in one file, because numba's cache looks only at the file of the function that it stores. Types come from
the arrays of :class:`~aya_data.text.fasttext_kernel.Tables` and :class:`~aya_data.text.fasttext_kernel.Scratch`.

Arrays are plain arguments, and numba's reference counts are off: they would cost more than the work itself. So
nothing here may make an array or take a slice of one.
"""

from __future__ import annotations

import math
from sys import byteorder
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, types
from numba.core import cgutils

__all__ = [
    "ALL_ROWS",
    "ARENA",
    "EAGER",
    "HELD",
    "NO_ROWS",
    "SHARES",
    "SHORT",
    "SIGMOIDS",
    "SLOTS",
    "SOME_ROWS",
    "TREE",
    "fill",
    "predict",
]

PRIME, BASIS = np.uint64(16777619), np.uint64(2166136261)
LOW = np.uint64(0xFFFFFFFF)
"""fastText's hash is FNV-1a of 32 bits; computed in 64, of which the lower 32 are the same."""
NO_ROWS, SOME_ROWS, ALL_ROWS = 0, 1, 2
"""Which buckets of n-grams have a row."""
TREE, SHARES, SIGMOIDS = 0, 1, 2
"""How scores come from the output rows: hierarchical softmax, softmax, one against all."""
EAGER = 1024
"""Up to so many tree nodes are evaluated at once, and visited one by one beyond."""

ZERO = np.uint64(0)
MIX_0, MIX_1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
MIX_2, MIX_3 = np.uint64(0x165667B19E3779F9), np.uint64(0x27D4EB2F165667C5)
END_HASH = np.int64(-677604519)
"""The hash of ``</s>``, as the library stores it: signed."""
SHORT = 32
"""The longest word whose rows are remembered, in bytes: four machine words."""
SLOTS = 1 << 14
ARENA = 1 << 19
VECTOR = 16
"""Columns that are added at once. The compiler splits them as the processor needs."""
HELD = 4096
"""Rows that are gathered before they are added up."""
AHEAD = 32
"""Words that are found and asked for in memory before the first of them is looked up."""
LESS, MARKS, ONES, HIGH = (np.uint64(0x0101010101010101 * byte) for byte in (33, 60, 1, 128))


# Without reference counts (see above), and without the entry points from Python and C of what only compiled code calls,
# which halves the time to compile. Not in numba's type stubs.
options: dict[str, Any] = {"nogil": True, "_nrt": False, "no_cfunc_wrapper": True}
inner: Any = numba.njit(**options | {"no_cpython_wrapper": True})
intrinsic: Any = extending.intrinsic
outer: Any = numba.njit(**options | {"cache": True})


@inner
def _hash(data, begin, end):
    found = BASIS
    for place in range(begin, end):
        found = (found ^ np.uint64(np.int64(np.int8(data[place])))) * PRIME
    return found & LOW


@outer
def fill(entries, starts, hashes, slots, steps, sigmoid):
    """Hash all entries, and place their numbers in slots (-1 where free; half of them at least)."""
    mask = len(slots) - 1
    for number in range(len(hashes)):
        found = _hash(entries, starts[number], starts[number + 1])
        hashes[number] = np.uint32(found)
        slot = np.int64(found) & mask
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = number
    for i in range(len(steps)):
        sigmoid[i] = np.float32(1.0 / (1.0 + np.float64(math.exp(-steps[i]))))


@inner
def _find(data, begin, end, found, slots, hashes, entries, starts):
    """Return the number of a word in the dictionary, -1 where it is not there."""
    mask = len(slots) - 1
    slot = np.int64(found) & mask
    while True:
        number = np.int64(slots[slot])
        if number < 0:
            return number
        if np.uint64(hashes[number]) == found:
            first = starts[number]
            size = starts[number + 1] - first
            if size == end - begin:
                place = 0
                while place < size and entries[first + place] == data[begin + place]:
                    place += 1
                if place == size:
                    return number
        slot = (slot + 1) & mask


@inner
def _append(found, ids, held, shape, bits, before):
    """Append the row of an n-gram by its hash, if pruning left it; return how many are held."""
    # The remainder of 32 bits without a division: this quotient is right or one too small.
    value = found & LOW
    rest = value - ((value * shape.factor) >> shape.shift) * shape.divisor
    if rest >= shape.divisor:
        rest -= shape.divisor
    return _append_bucket(rest, ids, held, shape, bits, before)


@inner
def _append_bucket(bucket, ids, held, shape, bits, before):
    # Unsigned places: numba lets signed ones count from the end, which costs a comparison each.
    if shape.grams == ALL_ROWS:
        ids[np.uint64(held)] = np.int64(bucket) + shape.words
        return held + 1
    # No branch on whether there is a row: nobody could predict it.
    block = bucket >> np.uint64(6)
    bit = bucket & np.uint64(63)
    word = bits[block]
    listed = np.int64((word >> bit) & np.uint64(1))
    # The bits below, counted: compilers know this form as one instruction.
    word &= (np.uint64(1) << bit) - np.uint64(1)
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    word = (word * np.uint64(0x0101010101010101)) >> np.uint64(56)
    ids[np.uint64(held)] = shape.words + np.int64(before[block]) + np.int64(word)
    return held + listed


@intrinsic
def _add_vectors(context, ids, count, rows, columns, hidden, at):
    """Add 16 columns of the rows from ``at`` on to ``hidden``, in the order of ``ids``, within registers.

    The compiler would keep the sums in memory: half as fast.
    """

    def generate(context, builder, signature, arguments):
        def start(place):
            kind = signature.args[place]
            return context.make_array(kind)(context, builder, arguments[place]).data

        vector, long = ir.VectorType(ir.FloatType(), VECTOR), ir.IntType(64)
        _, count, _, columns, _, at = arguments
        ids, rows, hidden = start(0), builder.gep(start(2), [at]), builder.gep(start(4), [at])
        sums = builder.bitcast(hidden, vector.as_pointer())
        initial = builder.load(sums, align=4)
        before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.cbranch(builder.icmp_signed(">", count, long(0)), loop, after)
        builder.position_at_end(loop)
        place, total = builder.phi(long), builder.phi(vector)
        number = builder.sext(builder.load(builder.gep(ids, [place])), long)
        row = builder.bitcast(builder.gep(rows, [builder.mul(number, columns)]), vector.as_pointer())
        added = builder.fadd(total, builder.load(row, align=1))
        following = builder.add(place, long(1))
        for phi, first, later in ((place, long(0), following), (total, initial, added)):
            phi.add_incoming(first, before)
            phi.add_incoming(later, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
        builder.position_at_end(after)
        result = builder.phi(vector)
        result.add_incoming(initial, before)
        result.add_incoming(added, loop)
        builder.store(result, sums, align=4)
        return context.get_dummy_value()

    return types.void(ids, types.int64, rows, types.int64, hidden, types.int64), generate


@inner
def _add(ids, count, rows, hidden):
    """Add the rows to ``hidden`` in their order."""
    columns = len(hidden)
    whole = columns - columns % VECTOR
    for at in range(0, whole, VECTOR):
        _add_vectors(ids, count, rows, columns, hidden, at)
    for at in range(whole, columns):
        total = hidden[at]
        for place in range(count):
            total += rows[ids[place], at]
        hidden[at] = total


@intrinsic
def _eight(context, data, place):
    """Return the eight bytes from ``place`` on, the first one lowest."""

    def generate(context, builder, signature, arguments):
        data, place = arguments
        start = context.make_array(signature.args[0])(context, builder, data).data
        long = ir.IntType(64)
        found = builder.load(builder.bitcast(builder.gep(start, [place]), long.as_pointer()), align=1)
        return found if byteorder == "little" else builder.bswap(found)

    return types.uint64(data, types.int64), generate


@inner
def _bytes(data, place, size):
    """Return the next bytes of a word, eight at most, the first one lowest, with zeros in the rest."""
    if place + 8 <= len(data):
        found = _eight(data, place)
        if size < 8:
            found &= (np.uint64(1) << np.uint64(8 * size)) - np.uint64(1)
        return found
    found = ZERO
    for i in range(min(size, 8)):
        found |= np.uint64(data[place + i]) << np.uint64(8 * i)
    return found


@intrinsic
def _first(context, mask):
    """Return the place of the lowest byte that has a bit set; ``mask`` is not zero."""

    def generate(context, builder, signature, arguments):
        return builder.lshr(builder.cttz(arguments[0], ir.IntType(1)(1)), ir.IntType(64)(3))

    return types.int64(types.uint64), generate


@intrinsic
def _ask(context, data, place):
    """Have a processor fetch what lies at ``place``, without waiting for it."""

    def generate(context, builder, signature, arguments):
        data, place = arguments
        start = context.make_array(signature.args[0])(context, builder, data).data
        at = builder.bitcast(builder.gep(start, [place]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [at.type, number, number, number])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(fetch, [at, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(data, types.int64), generate


@inner
def _is_mark(data, place, end):
    """Tell whether ``</s>`` begins here, where a ``<`` stands."""
    return place + 4 <= end and data[place + 1] == 47 and data[place + 2] == 115 and data[place + 3] == 62


@inner
def _is_gap(byte):
    """Tell whether a byte stands between words."""
    return byte <= 32 and (byte == 32 or 9 <= byte <= 13 or byte == 0)


@inner
def _is_blank(data, place, end):
    """Tell whether a text has only white space as Python's ``str.isspace`` means it, and ``</s>``."""
    while place < end:
        first = data[place]
        if first == 32 or 9 <= first <= 13 or 28 <= first <= 31:
            place += 1
        elif first == 60 and _is_mark(data, place, end):
            place += 4
        elif first == 0xC2 and place + 1 < end and (data[place + 1] == 0x85 or data[place + 1] == 0xA0):
            place += 2
        elif 0xE1 <= first <= 0xE3 and place + 2 < end:
            code = (np.int64(first) << 16) | (np.int64(data[place + 1]) << 8) | np.int64(data[place + 2])
            # U+1680, U+2000 to U+200A, U+2028, U+2029, U+202F, U+205F, U+3000.
            if not (
                0xE28080 <= code <= 0xE2808A
                or code == 0xE280A8
                or code == 0xE280A9
                or code == 0xE280AF
                or code == 0xE2819F
                or code == 0xE38080
                or code == 0xE19A80
            ):
                return False
            place += 3
        else:
            return False
    return True


@inner
def _is_label(data, begin, end):
    """Tell whether a word that is not in the dictionary starts with ``__label__``: then it is no word."""
    return (
        end - begin >= 9
        and data[begin] == 95
        and data[begin + 1] == 95
        and data[begin + 2] == 108
        and data[begin + 3] == 97
        and data[begin + 4] == 98
        and data[begin + 5] == 101
        and data[begin + 6] == 108
        and data[begin + 7] == 95
        and data[begin + 8] == 95
    )


@inner
def _word(
    data, begin, end, number, held, total, shape, rows, bits, before, letters, characters,
    ids, hidden,
):  # fmt: skip
    """Append the rows of a word to ``ids``; return how many are held, and how many were added up before those."""
    if number >= 0:
        ids[held] = number
        held += 1
    if shape.maxn < 1 or shape.grams == NO_ROWS:
        return held, total
    # The word in angle brackets, and where its characters begin.
    size, count = np.int64(1), np.int64(1)
    letters[0], characters[0] = 60, 0
    for place in range(begin, end):
        byte = np.int8(data[place])
        letters[np.uint64(size)] = byte
        # Signed bytes below -64 continue a character.
        characters[np.uint64(count)] = size
        count += np.int64(byte >= -64)
        size += 1
    letters[np.uint64(size)], characters[np.uint64(count)], characters[count + 1] = 62, size, size + 1
    size, count = size + 1, count + 1
    limit = len(ids) - shape.maxn - 2
    least = max(shape.minn, 1)
    if size == count and 1 < least <= shape.maxn:
        # Characters of one byte and n-grams of at least two: the same as below, without looking for characters.
        for first in range(count - least + 1):
            found = BASIS
            for place in range(first, first + least):
                found = (found ^ np.uint64(np.int64(letters[np.uint64(place)]))) * PRIME
            held = _append(found, ids, held, shape, bits, before)
            for place in range(first + least, min(first + shape.maxn, count)):
                found = (found ^ np.uint64(np.int64(letters[np.uint64(place)]))) * PRIME
                held = _append(found, ids, held, shape, bits, before)
            if held >= limit:
                _add(ids, held, rows, hidden)
                total += held
                held = np.int64(0)
        return held, total
    for first in range(count):
        last = min(first + shape.maxn, count)
        n = first + least
        if n > last:
            break
        found = BASIS
        for place in range(characters[np.uint64(first)], characters[np.uint64(n)]):
            found = (found ^ np.uint64(np.int64(letters[np.uint64(place)]))) * PRIME
        if least > 1 or 0 < first < count - 1:
            held = _append(found, ids, held, shape, bits, before)
        for character in range(n, last):
            for place in range(characters[np.uint64(character)], characters[np.uint64(character + 1)]):
                found = (found ^ np.uint64(np.int64(letters[np.uint64(place)]))) * PRIME
            held = _append(found, ids, held, shape, bits, before)
        if held >= limit:
            _add(ids, held, rows, hidden)
            total += held
            held = np.int64(0)
    return held, total


@inner
def _end_of_word(data, place, end):
    """Return where the word ends that goes on at ``place``."""
    while place < end:
        if place + 8 <= len(data):
            # Which of eight bytes are below 33 or '<': the lowest one that is marked is right, others need not be.
            some = _eight(data, place)
            marks = some ^ MARKS
            found = ((some - LESS) & ~some | (marks - ONES) & ~marks) & HIGH
            if found == ZERO:
                place += 8
                continue
            place += _first(found)
            if place >= end:
                break
        byte = data[np.uint64(place)]
        if _is_gap(byte) or (byte == 60 and _is_mark(data, place, end)):
            return place
        place += 1
    return end


@inner
def _look_ahead(data, place, end, keys, places, arena, found_words):
    """Find the next words; return where the last of them ends, and how many there are.

    Of each: where it begins, its bytes, the slot where its rows may be remembered, and its first 32 bytes.
    """
    ahead = np.int64(0)
    while place < end and ahead < AHEAD:
        byte = data[np.uint64(place)]
        if _is_gap(byte):
            place += 1
            continue
        if byte == 60 and _is_mark(data, place, end):
            place += 4
            continue
        first = place
        place = _end_of_word(data, first, end)
        size = place - first
        found_words[ahead, 0], found_words[ahead, 1] = first, size
        if size <= SHORT:
            w0, w1, w2, w3 = _bytes(data, first, size), ZERO, ZERO, ZERO
            # Words hold no zero bytes, so that zeros may fill the rest.
            if size > 8:
                w1 = _bytes(data, first + 8, size - 8)
                if size > 16:
                    w2 = _bytes(data, first + 16, size - 16)
                    if size > 24:
                        w3 = _bytes(data, first + 24, size - 24)
            mixed = (w0 * MIX_0) ^ ((w1 + MIX_3) * MIX_1) ^ (w2 * MIX_2) ^ (w3 * MIX_3)
            slot = np.int64((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(20)) & (SLOTS - 1)
            _ask(keys, 4 * slot)
            _ask(arena, max(np.int64(places[slot]), 0))
            found_words[ahead, 2] = slot
            found_words[ahead, 3], found_words[ahead, 4] = np.int64(w0), np.int64(w1)
            found_words[ahead, 5], found_words[ahead, 6] = np.int64(w2), np.int64(w3)
        ahead += 1
    return place, ahead


@inner
def _hidden(
    data, begin, end, shape, rows, bits, before, slots, hashes, entries, starts,
    keys, places, arena, found_words, letters, characters, ids, word_hashes, hidden,
):  # fmt: skip
    """Leave the mean of a text's rows in ``hidden``; return whether it has any."""
    for j in range(len(hidden)):
        hidden[j] = 0.0
    held, total, seen = np.int64(0), np.int64(0), np.int64(0)
    place = begin
    current, ahead = np.int64(0), np.int64(0)
    while True:
        if current == ahead:
            current = np.int64(0)
            place, ahead = _look_ahead(data, place, end, keys, places, arena, found_words)
            if ahead == 0:
                break
        first, size = found_words[current, 0], found_words[current, 1]
        slot = found_words[current, 2]
        w0, w1 = np.uint64(found_words[current, 3]), np.uint64(found_words[current, 4])
        w2, w3 = np.uint64(found_words[current, 5]), np.uint64(found_words[current, 6])
        current += 1
        if held >= HELD:
            _add(ids, held, rows, hidden)
            total += held
            held = np.int64(0)
        at = np.int64(-1)
        if (
            size <= SHORT
            and keys[slot, 0] == w0
            and keys[slot, 1] == w1
            and keys[slot, 2] == w2
            and keys[slot, 3] == w3
        ):
            at = np.int64(places[slot])
        if at >= 0:
            own = np.int64(arena[at])
            for i in range(own):
                ids[np.uint64(held + i)] = arena[np.uint64(at + 2 + i)]
            held += own
            if shape.word_ngrams > 1:
                word_hashes[seen] = np.int64(arena[at + 1])
                seen += 1
            continue
        last = first + size
        found = _hash(data, first, last)
        number = _find(data, first, last, found, slots, hashes, entries, starts)
        if number >= shape.words or (number < 0 and _is_label(data, first, last)):
            continue
        since = held
        # The rows of a word of up to SHORT bytes always fit: nothing is added up on the way.
        held, total = _word(
            data, first, last, number, held, total, shape, rows, bits, before, letters, characters, ids, hidden
        )
        signed = np.int64(np.int32(np.uint32(found)))
        if shape.word_ngrams > 1:
            word_hashes[seen] = signed
            seen += 1
        if size > SHORT:
            continue
        own = held - since
        at = np.int64(arena[0])
        if at + own + 2 > len(arena):
            at = np.int64(1)
            for i in range(SLOTS):
                places[i] = -1
        arena[0] = at + own + 2
        arena[at] = own
        arena[at + 1] = signed
        for i in range(own):
            arena[at + 2 + i] = ids[since + i]
        places[slot] = at
        keys[slot, 0], keys[slot, 1], keys[slot, 2], keys[slot, 3] = w0, w1, w2, w3
    if shape.end_of_sentence >= 0:
        ids[held] = shape.end_of_sentence
        held += 1
    if shape.word_ngrams > 1 and shape.grams != NO_ROWS:
        word_hashes[seen] = END_HASH
        seen += 1
        for i in range(seen):
            mixed = np.uint64(word_hashes[i])
            for j in range(i + 1, i + shape.word_ngrams):
                if j >= seen:
                    break
                mixed = mixed * np.uint64(116049371) + np.uint64(word_hashes[j])
                held = _append_bucket(mixed % shape.divisor, ids, held, shape, bits, before)
                if held >= HELD:
                    _add(ids, held, rows, hidden)
                    total += held
                    held = np.int64(0)
    _add(ids, held, rows, hidden)
    total += held
    if total == 0:
        return False
    mean = np.float32(1.0 / total)
    for j in range(len(hidden)):
        hidden[j] *= mean
    return True


@inner
def _log(value):
    return np.float32(math.log(value + 1e-5))


@inner
def _sift_up(heap, names, hole, score, name):
    parent = (hole - 1) >> 1
    while hole > 0 and heap[parent] > score:
        heap[hole], names[hole] = heap[parent], names[parent]
        hole = parent
        parent = (hole - 1) >> 1
    heap[hole], names[hole] = score, name


@inner
def _pop(heap, names, last):
    """Move the least to ``last``, as the C++ library of GNU does, so that equal scores come in its order."""
    score, name = heap[last], names[last]
    heap[last], names[last] = heap[0], names[0]
    hole, child = np.int64(0), np.int64(0)
    while child < (last - 1) >> 1:
        child = 2 * (child + 1)
        if heap[child] > heap[child - 1]:
            child -= 1
        heap[hole], names[hole] = heap[child], names[child]
        hole = child
    if last & 1 == 0 and child == (last - 2) >> 1:
        child = 2 * (child + 1)
        heap[hole], names[hole] = heap[child - 1], names[child - 1]
        hole = child - 1
    _sift_up(heap, names, hole, score, name)


@inner
def _push(heap, names, size, k, score, name):
    """Add one; return the new size, of at most ``k``."""
    _sift_up(heap, names, size, score, np.int32(name))
    if size < k:
        return size + 1
    _pop(heap, names, size)
    return size


@inner
def _multiply(hidden, output, output_scale, outputs):
    """Set ``outputs`` to the products of the output rows with ``hidden``, each summed in the order of columns."""
    for i in range(len(outputs)):
        outputs[i] = 0.0
    for j in range(len(hidden)):
        factor = hidden[j]
        for i in range(len(outputs)):
            outputs[i] += output[j, i] * factor
    for i in range(len(outputs)):
        outputs[i] *= output_scale[i]


@inner
def _descend(
    k,
    threshold,
    shape,
    hidden,
    output,
    output_scale,
    branches,
    outputs,
    heap,
    heap_labels,
    stack,
    stack_scores,
    weights,
):
    """Walk the label tree depth first, skipping what cannot be among the best; return how many were found."""
    labels = shape.labels
    eager = labels <= EAGER
    if eager:
        _multiply(hidden, output, output_scale, outputs)
    least = _log(np.float64(threshold))
    size, depth = np.int64(0), np.int64(1)
    stack[0], stack_scores[0], weights[0] = 2 * labels - 2, 0.0, 1.0
    floor = np.float32(0.0)
    while depth > 0:
        depth -= 1
        node, score = np.int64(stack[depth]), stack_scores[depth]
        if score < least or (size == k and score < heap[0]):
            continue
        if branches[node, 0] < 0:
            size = _push(heap, heap_labels, size, k, score, node)
            if size == k:
                # A thousandth below the worst of the best: far more than rounding makes of it.
                floor = math.exp(heap[0]) * np.float32(0.999)
            continue
        within = node - labels
        if eager:
            value = outputs[within]
        else:
            value = np.float32(0.0)
            for j in range(len(hidden)):
                value += output[within, j] * hidden[j]
            value *= output_scale[within]
        share = np.float32(1.0 / np.float64(np.float32(1.0) + math.exp(-value)))
        rest = np.float32(1.0 - np.float64(share))
        # Logarithms only for what may still be among the best, by the products that the scores are logarithms of.
        weight = weights[depth]
        for side in range(2):
            part = rest if side == 1 else share
            product = weight * (part + np.float32(1e-5))
            if product >= floor:
                stack[depth] = branches[node, 1 - side]
                stack_scores[depth] = score + _log(np.float64(part))
                weights[depth] = product
                depth += 1
    return size


@inner
def _choose(k, threshold, shape, hidden, output, output_scale, sigmoid, outputs, heap, heap_labels):
    """Turn products into probabilities and keep the best; return how many there are."""
    _multiply(hidden, output, output_scale, outputs)
    if shape.loss == SHARES:
        greatest = outputs[0]
        for i in range(len(outputs)):
            greatest = max(outputs[i], greatest)
        total = np.float32(0.0)
        for i in range(len(outputs)):
            # In float64, unlike the exponentials elsewhere: so the library does it.
            outputs[i] = np.float32(math.exp(np.float64(outputs[i] - greatest)))
            total += outputs[i]
        for i in range(len(outputs)):
            outputs[i] /= total
    else:
        for i in range(len(outputs)):
            value = outputs[i]
            if value < -8.0:
                outputs[i] = 0.0
            elif value > 8.0:
                outputs[i] = 1.0
            else:
                outputs[i] = sigmoid[np.int64((value + np.float32(8)) * np.float32(32))]
    size = np.int64(0)
    for i in range(len(outputs)):
        if outputs[i] < threshold:
            continue
        score = _log(np.float64(outputs[i]))
        if size < k or score >= heap[0]:
            size = _push(heap, heap_labels, size, k, score, i)
    return size


@outer
def predict(
    data, offsets, threshold, labels, scores, shape,
    rows, output, output_scale, branches, sigmoid, bits, before, slots, hashes, entries, starts,
    keys, places, arena, found_words, letters, characters, ids, word_hashes, hidden, outputs,
    heap, heap_labels, stack, stack_scores, weights,
):  # fmt: skip
    k = labels.shape[1]
    for text in range(len(offsets) - 1):
        begin, end = offsets[text], offsets[text + 1]
        if _is_blank(data, begin, end) or not _hidden(
            data, begin, end, shape, rows, bits, before, slots, hashes, entries, starts,
            keys, places, arena, found_words, letters, characters, ids, word_hashes, hidden,
        ):  # fmt: skip
            continue
        if shape.loss == TREE:
            size = _descend(
                k, threshold, shape, hidden, output, output_scale, branches, outputs,
                heap, heap_labels, stack, stack_scores, weights,
            )  # fmt: skip
        else:
            size = _choose(k, threshold, shape, hidden, output, output_scale, sigmoid, outputs, heap, heap_labels)
        for last in range(size - 1, 0, -1):
            _pop(heap, heap_labels, last)
        for rank in range(size):
            labels[text, rank] = heap_labels[rank]
            scores[text, rank] = math.exp(heap[rank])
