"""A fastText classifier over whole Arrow columns, equal to the library bit for bit.

The library looks at a text word by word with a hash map, a string and a vector for each n-gram. Here one compiled
function (numba) reads the column's bytes in place and gives the same numbers, because it adds the same float32
rows in the same order:

- quantized rows are multiplied out once;
- the n-grams that pruning left are found by one bit, and where it is set by counting the bits before it, instead of
  in a hash map (375 KB for lid.176, which stays in a processor's cache);
- the hash of an n-gram is extended from the one before it;
- the rows of a word of up to 32 bytes are remembered (its bytes are the key, so that nothing can collide);
- rows are added eight at a time, so that the compiler uses the processor's vectors;
- all nodes of the label tree are evaluated at once where there are few.

Only the library's order of additions matters for equality; what is remembered are *which* rows a word has, never
partial sums, so that a result depends neither on the batch nor on what came before.

Compiling takes about 3 s once per machine and model kind; after that numba's cache (``NUMBA_CACHE_DIR``) gives it
back in about 0.2 s. Compiled functions release the interpreter lock. One thread each.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.text import fasttext_file
from aya_data.text.fasttext_file import FastTextFile

__all__ = ["Kernel"]

Array = npt.NDArray[Any]

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
WINDOW_BITS, WINDOW = 14, 8
"""The rows of the n-grams that begin at one character are remembered too, by the bytes that they reach over: slots
(as a power of two), and one more than the most rows."""
PIECE = 2048
"""Longer words are read in pieces, in bytes."""
HELD = 4096
"""Rows that are gathered before they are added up."""


inner = numba.njit(nogil=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
outer = numba.njit(nogil=True, _nrt=False, cache=True, no_cfunc_wrapper=True)


class Shape(NamedTuple):
    """What a model is like, in numbers."""

    words: int
    labels: int
    end_of_sentence: int
    grams: int
    divisor: np.uint64
    factor: np.uint64
    shift: np.uint64
    minn: int
    maxn: int
    word_ngrams: int
    loss: int


class Tables(NamedTuple):
    """What a text is looked up in, in the order of the compiled function. See :func:`_tables`."""

    rows: Array
    output: Array
    output_scale: Array
    branches: Array
    sigmoid: Array
    bits: Array
    before: Array
    slots: Array
    hashes: Array
    entries: Array
    starts: Array


class Scratch(NamedTuple):
    """Memory of one call, in the order of the compiled function: nothing in it changes a result."""

    keys: Array
    places: Array
    arena: Array
    letters: Array
    characters: Array
    packed_letters: Array
    window_keys: Array
    window_rows: Array
    ids: Array
    word_hashes: Array
    hidden: Array
    outputs: Array
    heap: Array
    heap_labels: Array
    stack: Array
    stack_scores: Array


class Kernel:
    """A loaded classifier. May be used by several threads at once."""

    def __init__(self, file: FastTextFile) -> None:
        self.labels = file.labels
        self._shape, self._tables = _tables(file)
        self._spare: list[Scratch] = []

    @staticmethod
    def load(path: Path) -> Kernel:
        """Read a model file. Raises :class:`~aya_data.text.fasttext_file.UnknownModel`: use the library then."""
        return Kernel(fasttext_file.read(path))

    def predict(
        self, column: pa.Array | pa.ChunkedArray, k: int = 3, threshold: float = 0.0
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Return the ``k`` best labels of each text as int32[n, k] and their scores as float32[n, k].

        Labels are numbers into :attr:`labels`, best first, -1 (with score 0) where there is no answer: null, empty
        and blank texts, and labels below ``threshold``. Scores are the library's and may be up to 1e-5 above 1.
        Line breaks and the word ``</s>`` count as spaces. ``column`` holds strings of any Arrow type.
        """
        if k < 1:
            raise ValueError(f"k is {k}, must be at least 1")
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        labels = np.full((len(column), k), -1, np.int32)
        scores = np.zeros((len(column), k), np.float32)
        begin = 0
        for chunk in chunks:
            end = begin + len(chunk)
            if len(chunk):
                self._predict(chunk, np.float32(threshold), labels[begin:end], scores[begin:end])
            begin = end
        return labels, scores

    def _predict(self, chunk: pa.Array, threshold: np.float32, labels: Array, scores: Array) -> None:
        data, offsets = _buffers(chunk)
        longest = int(np.diff(offsets).max())
        try:
            scratch = self._spare.pop()
        except IndexError:
            scratch = _scratch(self._shape, self._tables)
        scratch = _fitted(scratch, self._shape, longest, labels.shape[1])
        _predict(data, offsets, threshold, labels, scores, self._shape, *self._tables, *scratch)
        if longest < 1 << 20:
            self._spare.append(scratch)


def _buffers(chunk: pa.Array) -> tuple[Array, Array]:
    """Return the bytes and int64[n + 1] offsets of a column of strings; nulls are empty."""
    if not (pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type)):
        chunk = chunk.cast(pa.large_string())
    if chunk.null_count:
        chunk = chunk.fill_null("")
    _, places, data = chunk.buffers()
    kind = np.int32 if pa.types.is_string(chunk.type) else np.int64
    offsets = np.frombuffer(places, kind)[chunk.offset : chunk.offset + len(chunk) + 1].astype(np.int64)
    found = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    return found, offsets


def _tables(file: FastTextFile) -> tuple[Shape, Tables]:
    rows, grams = file.input, ALL_ROWS
    bits, before = np.zeros(1, np.uint64), np.zeros(1, np.int32)
    if file.pruned is not None:
        rows, bits, before = _packed(file, file.pruned)
        grams = SOME_ROWS if len(file.pruned) else NO_ROWS
    if file.maxn < 1 and file.word_ngrams < 2:
        grams = NO_ROWS
    labels, bucket = len(file.label_counts), max(file.bucket, 1)
    loss = {fasttext_file.HIERARCHICAL: TREE, fasttext_file.SOFTMAX: SHARES}.get(file.loss, SIGMOIDS)
    branches = _tree(file.label_counts) if loss == TREE else np.zeros((1, 2), np.int32)
    # The library's table, with its types: steps and exponential in float32, sum and quotient in float64.
    steps = np.arange(513, dtype=np.float32) * np.float32(16) / np.float32(512) - np.float32(8)
    sigmoid = np.zeros(len(steps), np.float32)
    count = len(file.starts) - 1
    hashes, slots = np.zeros(count, np.uint32), np.full(1 << (2 * count + 16).bit_length(), -1, np.int32)
    _fill(file.entries, file.starts, hashes, slots, steps, sigmoid)
    # Transposed, so that neighbours are added to different sums.
    output = np.ascontiguousarray(file.output.T if loss != TREE or labels <= EAGER else file.output)
    shape = Shape(
        words=file.words,
        labels=labels,
        end_of_sentence=_end_of_sentence(file),
        grams=grams,
        divisor=np.uint64(bucket),
        factor=np.uint64((1 << (31 + bucket.bit_length())) // bucket if bucket > 1 else 1 << 31),
        shift=np.uint64(31 + bucket.bit_length() if bucket > 1 else 31),
        minn=file.minn,
        maxn=file.maxn,
        word_ngrams=file.word_ngrams,
        loss=loss,
    )
    return shape, Tables(
        rows, output, file.output_scale, branches, sigmoid, bits, before, slots, hashes, file.entries, file.starts
    )


def _end_of_sentence(file: FastTextFile) -> int:
    """Return the number of the word ``</s>``, -1 where the model has none."""
    candidates = np.flatnonzero(np.diff(file.starts[: file.words + 1]) == 4)
    return next((int(c) for c in candidates if file.entry(int(c)) == fasttext_file.END_OF_SENTENCE), -1)


def _packed(file: FastTextFile, pruned: Array) -> tuple[Array, Array, Array]:
    """Put the rows of the n-grams in the order of their buckets; return rows, a bit per bucket, bits before each 64."""
    # Of two entries with one bucket the later one counts.
    buckets, last = np.unique(pruned[::-1, 0], return_index=True)
    rows = np.concatenate([file.input[: file.words], file.input[file.words + pruned[::-1, 1][last]]])
    bits = np.zeros(-(-max(file.bucket, 1) // 64), np.uint64)
    np.bitwise_or.at(bits, buckets >> 6, np.uint64(1) << (buckets & 63).astype(np.uint64))
    counts = np.bitwise_count(bits).astype(np.int32)
    return rows, bits, (np.cumsum(counts) - counts).astype(np.int32)


def _tree(counts: Array) -> Array:
    """Build the Huffman tree as the library does, ties included: the counts fall, so the ends of two queues meet."""
    labels = len(counts)
    total = 2 * labels - 1
    weights = [*counts.tolist(), *[10**15] * (labels - 1)]
    branches = np.full((total, 2), -1, np.int32)
    leaf, node = labels - 1, labels
    for parent in range(labels, total):
        least = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                least.append(leaf)
                leaf -= 1
            else:
                least.append(node)
                node += 1
        branches[parent] = least
        weights[parent] = weights[least[0]] + weights[least[1]]
    return branches


def _scratch(shape: Shape, tables: Tables) -> Scratch:
    return Scratch(
        keys=np.zeros((SLOTS, SHORT // 8), np.uint64),
        places=np.full(SLOTS, -1, np.int32),
        # The first place says where the next word goes.
        arena=np.ones(ARENA, np.int32),
        letters=np.zeros(PIECE + 2, np.int8),
        characters=np.zeros(PIECE + 3, np.int32),
        packed_letters=np.zeros(PIECE + 10, np.uint64),
        window_keys=np.zeros((1 << WINDOW_BITS, 2), np.uint64),
        window_rows=np.zeros((1 << WINDOW_BITS, WINDOW), np.int32),
        ids=np.zeros(HELD + (SHORT + 4) * (max(shape.maxn, 0) + 2) + WINDOW, np.int32),
        word_hashes=np.zeros(1, np.int64),
        hidden=np.zeros(tables.rows.shape[1], np.float32),
        outputs=np.zeros(shape.labels, np.float32),
        heap=np.zeros(1, np.float32),
        heap_labels=np.zeros(1, np.int32),
        stack=np.zeros(2 * shape.labels + 1, np.int32),
        stack_scores=np.zeros(2 * shape.labels + 1, np.float32),
    )


def _fitted(scratch: Scratch, shape: Shape, longest: int, k: int) -> Scratch:
    """Make room for the longest text."""
    if shape.word_ngrams > 1 and len(scratch.word_hashes) < longest // 2 + 2:
        scratch = scratch._replace(word_hashes=np.zeros(longest // 2 + 2, np.int64))
    if len(scratch.heap) < k + 1:
        scratch = scratch._replace(heap=np.zeros(k + 1, np.float32), heap_labels=np.zeros(k + 1, np.int32))
    return scratch


# Compiled functions -------------------------------------------------------------------------------
#
# Arrays are plain arguments and are never sliced: numba counts references for each array that it takes from a tuple
# or makes of another, which costs more than the work itself.


@inner
def _hash(data, begin, end):
    found = BASIS
    for place in range(begin, end):
        found = (found ^ np.uint64(np.int64(np.int8(data[place])))) * PRIME
    return found & LOW


@outer
def _fill(entries, starts, hashes, slots, steps, sigmoid):
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
    return _append_bucket(np.int64(rest), ids, held, shape, bits, before)


@inner
def _append_bucket(bucket, ids, held, shape, bits, before):
    if shape.grams == ALL_ROWS:
        ids[held] = shape.words + bucket
        return held + 1
    # No branch on whether there is a row: nobody could predict it.
    block = bucket >> 6
    bit = np.uint64(bucket & 63)
    word = bits[block]
    listed = np.int64((word >> bit) & np.uint64(1))
    # The bits below, counted: compilers know this form as one instruction.
    word &= (np.uint64(1) << bit) - np.uint64(1)
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    word = (word * np.uint64(0x0101010101010101)) >> np.uint64(56)
    ids[held] = shape.words + np.int64(before[block]) + np.int64(word)
    return held + listed


@inner
def _add(ids, count, rows, hidden):
    """Add the rows to ``hidden`` in their order; eight at a time, so that sums stay in registers."""
    columns = len(hidden)
    place = 0
    while place + 8 <= count:
        a, b, c, d = ids[place], ids[place + 1], ids[place + 2], ids[place + 3]
        e, f, g, h = ids[place + 4], ids[place + 5], ids[place + 6], ids[place + 7]
        for j in range(columns):
            total = (((hidden[j] + rows[a, j]) + rows[b, j]) + rows[c, j]) + rows[d, j]
            hidden[j] = (((total + rows[e, j]) + rows[f, j]) + rows[g, j]) + rows[h, j]
        place += 8
    while place < count:
        a = ids[place]
        for j in range(columns):
            hidden[j] += rows[a, j]
        place += 1


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
def _letters(data, place, end, opens, letters, characters, packed):
    """Lay out what fits of a word from ``place`` on, in angle brackets; return how many characters there are.

    ``characters`` gets the place where each begins, and the end; ``packed`` the eight bytes from each place on.
    """
    size, count = np.int64(0), np.int64(0)
    if opens:
        letters[0], characters[0] = 60, 0
        size, count = np.int64(1), np.int64(1)
    for place in range(place, min(end, place + PIECE)):
        byte = np.int8(data[place])
        letters[size] = byte
        # Signed bytes below -64 continue a character.
        characters[count] = size
        count += np.int64(byte >= -64)
        size += 1
    if place + 1 == end:
        letters[size], characters[count] = 62, size
        size, count = size + 1, count + 1
    characters[count] = size
    window = ZERO
    for i in range(8):
        packed[size + i] = window
    for i in range(size - 1, -1, -1):
        window = (window << np.uint64(8)) | np.uint64(np.uint8(letters[i]))
        packed[i] = window
    return count


@inner
def _word(
    data, begin, end, held, total, shape, rows, bits, before, letters, characters, packed,
    window_keys, window_rows, ids, hidden,
):  # fmt: skip
    """Append the rows of a word's n-grams; return how many are held, and how many were added up before those."""
    limit = len(ids) - WINDOW - shape.maxn
    least = max(shape.minn, 1)
    span = shape.maxn - least + 1
    place = begin
    while True:
        opens = place == begin
        count = _letters(data, place, end, opens, letters, characters, packed)
        closes = end - place <= PIECE
        # A piece that does not close the word ends with a character that may be cut; its windows are whole.
        starts = count - least + 1 if closes else count - shape.maxn
        for first in range(starts):
            if held >= limit:
                _add(ids, held, rows, hidden)
                total += held
                held = np.int64(0)
            at, last = np.int64(characters[first]), min(first + shape.maxn, count)
            size = characters[last] - at
            single = least == 1 and ((opens and first == 0) or (closes and first + shape.maxn >= count))
            slot = np.int64(-1)
            low, high = packed[at], ZERO
            if size <= 16 and span < WINDOW and not single:
                if size < 8:
                    low &= (np.uint64(1) << np.uint64(8 * size)) - np.uint64(1)
                elif size > 8:
                    high = packed[at + 8]
                    if size < 16:
                        high &= (np.uint64(1) << np.uint64(8 * size - 64)) - np.uint64(1)
                slot = np.int64((low * MIX_0 + high * MIX_1) >> np.uint64(64 - WINDOW_BITS))
                if window_keys[slot, 0] == low and window_keys[slot, 1] == high:
                    for i in range(span):
                        ids[held + i] = window_rows[slot, 1 + i]
                    held += np.int64(window_rows[slot, 0])
                    continue
            since = held
            found = BASIS
            for i in range(at, characters[first + least]):
                found = (found ^ np.uint64(np.int64(letters[i]))) * PRIME
            if not (least == 1 and ((opens and first == 0) or (closes and first == count - 1))):
                held = _append(found, ids, held, shape, bits, before)
            for n in range(first + least, last):
                for i in range(characters[n], characters[n + 1]):
                    found = (found ^ np.uint64(np.int64(letters[i]))) * PRIME
                held = _append(found, ids, held, shape, bits, before)
            if slot >= 0:
                window_keys[slot, 0], window_keys[slot, 1] = low, high
                window_rows[slot, 0] = held - since
                for i in range(held - since):
                    window_rows[slot, 1 + i] = ids[since + i]
        if closes:
            return held, total
        place += np.int64(characters[starts]) - np.int64(opens)


@inner
def _hidden(
    data, begin, end, shape, rows, bits, before, slots, hashes, entries, starts,
    keys, places, arena, letters, characters, packed_letters, window_keys, window_rows, ids, word_hashes, hidden,
):  # fmt: skip
    """Leave the mean of a text's rows in ``hidden``; return whether it has any."""
    for j in range(len(hidden)):
        hidden[j] = 0.0
    held, total, seen = np.int64(0), np.int64(0), np.int64(0)
    place = begin
    while place < end:
        byte = data[place]
        if _is_gap(byte):
            place += 1
            continue
        if byte == 60 and _is_mark(data, place, end):
            place += 4
            continue
        first = place
        packed, w0, w1, w2, w3 = ZERO, ZERO, ZERO, ZERO, ZERO
        while place < end:
            byte = data[place]
            if byte <= 60 and (_is_gap(byte) or (byte == 60 and _is_mark(data, place, end))):
                break
            packed = (packed >> np.uint64(8)) | (np.uint64(byte) << np.uint64(56))
            place += 1
            if (place - first) & 7 == 0:
                w0, w1, w2, w3 = w1, w2, w3, packed
        size = place - first
        if size & 7:
            w0, w1, w2, w3 = w1, w2, w3, packed >> np.uint64(64 - 8 * (size & 7))
        if held >= HELD:
            _add(ids, held, rows, hidden)
            total += held
            held = np.int64(0)
        slot, at = np.int64(0), np.int64(-1)
        if size <= SHORT:
            mixed = (w3 * MIX_3) ^ ((w2 + MIX_0) * MIX_2) ^ (w1 * MIX_1) ^ (w0 * MIX_0)
            slot = np.int64((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(20)) & (SLOTS - 1)
            if keys[slot, 3] == w3 and keys[slot, 2] == w2 and keys[slot, 1] == w1 and keys[slot, 0] == w0:
                at = np.int64(places[slot])
        if at >= 0:
            own = np.int64(arena[at])
            for i in range(own):
                ids[held + i] = arena[at + 2 + i]
            held += own
            if shape.word_ngrams > 1:
                word_hashes[seen] = np.int64(arena[at + 1])
                seen += 1
            continue
        found = _hash(data, first, place)
        number = _find(data, first, place, found, slots, hashes, entries, starts)
        if number >= shape.words or (number < 0 and _is_label(data, first, place)):
            continue
        since = held
        # The rows of a word of up to SHORT bytes always fit: nothing is added up on the way.
        if number >= 0:
            ids[held] = number
            held += 1
        if shape.maxn > 0 and shape.grams != NO_ROWS:
            held, total = _word(
                data, first, place, held, total, shape, rows, bits, before, letters, characters, packed_letters,
                window_keys, window_rows, ids, hidden,
            )  # fmt: skip
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
                held = _append_bucket(np.int64(mixed % shape.divisor), ids, held, shape, bits, before)
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
    k, threshold, shape, hidden, output, output_scale, branches, outputs, heap, heap_labels, stack, stack_scores
):
    """Walk the label tree depth first, skipping what cannot be among the best; return how many were found."""
    labels = shape.labels
    eager = labels <= EAGER
    if eager:
        _multiply(hidden, output, output_scale, outputs)
    least = _log(np.float64(threshold))
    size, depth = np.int64(0), np.int64(1)
    stack[0], stack_scores[0] = 2 * labels - 2, 0.0
    while depth > 0:
        depth -= 1
        node, score = np.int64(stack[depth]), stack_scores[depth]
        if score < least or (size == k and score < heap[0]):
            continue
        if branches[node, 0] < 0:
            size = _push(heap, heap_labels, size, k, score, node)
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
        stack[depth] = branches[node, 1]
        stack_scores[depth] = score + _log(np.float64(share))
        stack[depth + 1] = branches[node, 0]
        stack_scores[depth + 1] = score + _log(np.float64(np.float32(1.0 - np.float64(share))))
        depth += 2
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
            outputs[i] = math.exp(outputs[i] - greatest)
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
def _predict(
    data, offsets, threshold, labels, scores, shape,
    rows, output, output_scale, branches, sigmoid, bits, before, slots, hashes, entries, starts,
    keys, places, arena, letters, characters, packed_letters, window_keys, window_rows, ids, word_hashes, hidden, outputs, heap, heap_labels, stack, stack_scores,
):  # fmt: skip
    k = labels.shape[1]
    for text in range(len(offsets) - 1):
        begin, end = offsets[text], offsets[text + 1]
        if _is_blank(data, begin, end) or not _hidden(
            data, begin, end, shape, rows, bits, before, slots, hashes, entries, starts,
            keys, places, arena, letters, characters, packed_letters, window_keys, window_rows, ids, word_hashes, hidden,
        ):  # fmt: skip
            continue
        if shape.loss == TREE:
            size = _descend(
                k, threshold, shape, hidden, output, output_scale, branches, outputs,
                heap, heap_labels, stack, stack_scores,
            )  # fmt: skip
        else:
            size = _choose(k, threshold, shape, hidden, output, output_scale, sigmoid, outputs, heap, heap_labels)
        for last in range(size - 1, 0, -1):
            _pop(heap, heap_labels, last)
        for rank in range(size):
            labels[text, rank] = heap_labels[rank]
            scores[text, rank] = math.exp(heap[rank])
