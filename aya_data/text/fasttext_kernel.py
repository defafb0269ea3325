"""A fastText classifier over whole Arrow columns, equal to the library bit for bit.

The library looks at a text word by word with a hash map, a string and a vector for each n-gram. Here one compiled
function (numba) reads the column's bytes in place and gives the same numbers, because it adds the same float32
rows in the same order:

- quantized rows are multiplied out once;
- the n-grams that pruning left are found by one bit, and where it is set by counting the bits before it, instead of
  in a hash map (375 KB for lid.176, which stays in a processor's cache);
- the hash of an n-gram is extended from the one before it;
- the rows of a word of up to 32 bytes are remembered (its bytes are the key, so that nothing can collide), and 32
  words are found, eight bytes at a time, and asked for in memory before the first of them is looked up;
- sums stay in vector registers;
- all nodes of the label tree are evaluated at once where there are few, and a logarithm is taken only of those that
  may still be among the best.

What is remembered are *which* rows a word has, never partial sums, so that a result depends neither on the batch nor on
what came before.

Cost with lid.176: some 20 nanoseconds per character on one core, a tenth of the library's time. Memory: the model
(5 MB), 3 MB per thread, and 5 bytes per byte of the longest text; numba itself takes 140 MB. Compiling takes about 3 s
of one core, once per machine and kind of model; after that numba's cache gives it back in 0.2 s. Compiled functions
release the interpreter lock. What stands in the way of more is n-grams of words seen for the first time, at 5
nanoseconds each: remembering n-grams by their bytes and larger memories of words were slower, and sums of whole words
are not exact.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.text import fasttext_file
from aya_data.text.columns import buffers
from aya_data.text.fasttext_file import FastTextFile

__all__ = ["Kernel"]

Array = npt.NDArray[Any]
LONG = 1 << 20
"""The scratch memory of a call with longer texts (in bytes) is not kept."""


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
    found_words: Array
    letters: Array
    characters: Array
    ids: Array
    word_hashes: Array
    hidden: Array
    outputs: Array
    heap: Array
    heap_labels: Array
    stack: Array
    stack_scores: Array
    weights: Array


class Kernel:
    """A loaded classifier. May be used by several threads at once."""

    def __init__(self, file: FastTextFile) -> None:
        # Here, because it loads numba (0.2 to 0.5 s), and only where a column is long enough for that.
        from aya_data.text import fasttext_compiled

        self._compiled: ModuleType = fasttext_compiled
        self.labels = file.labels
        self._shape, self._tables = _tables(file)
        self._spare: list[Scratch] = []

    @staticmethod
    def load(path: Path) -> Kernel:
        """Read a model file.

        Raises :class:`~aya_data.text.fasttext_file.UnknownModel` for kinds that only the library knows, ImportError
        without numba, and RuntimeError where numba finds no folder for its cache.
        """
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

    def forget(self) -> None:
        """Give back the memory of words and scratch space. Changes no result."""
        self._spare.clear()

    def _predict(self, chunk: pa.Array, threshold: np.float32, labels: Array, scores: Array) -> None:
        data, offsets = buffers(chunk)
        longest = int(np.diff(offsets).max())
        try:
            scratch = self._spare.pop()
        except IndexError:
            scratch = _scratch(self._shape, self._tables)
        # Taken from the list and put back: two threads never share one.
        scratch = _fitted(scratch, self._shape, longest, labels.shape[1])
        self._compiled.predict(data, offsets, threshold, labels, scores, self._shape, *self._tables, *scratch)
        if longest < LONG:
            self._spare.append(scratch)


def _tables(file: FastTextFile) -> tuple[Shape, Tables]:
    from aya_data.text.fasttext_compiled import ALL_ROWS, EAGER, NO_ROWS, SHARES, SIGMOIDS, SOME_ROWS, TREE, fill

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
    fill(file.entries, file.starts, hashes, slots, steps, sigmoid)
    # Transposed, so that neighbours are added to different sums.
    output = np.ascontiguousarray(file.output.T if loss != TREE or labels <= EAGER else file.output)
    shift = 31 + bucket.bit_length()
    shape = Shape(
        words=file.words,
        labels=labels,
        end_of_sentence=_end_of_sentence(file),
        grams=grams,
        divisor=np.uint64(bucket),
        # For a remainder by multiplication: the factor is at most 2**32, so the product fits in 64 bits.
        factor=np.uint64((1 << shift) // bucket),
        shift=np.uint64(shift),
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
    from aya_data.text.fasttext_compiled import AHEAD, ARENA, HELD, SHORT, SLOTS

    return Scratch(
        keys=np.zeros((SLOTS, SHORT // 8), np.uint64),
        places=np.full(SLOTS, -1, np.int32),
        # The first place says where the next word goes.
        arena=np.ones(ARENA, np.int32),
        found_words=np.zeros((AHEAD, 8), np.int64),
        letters=np.zeros(0, np.int8),
        characters=np.zeros(0, np.int32),
        ids=np.zeros(HELD + (SHORT + 4) * (max(shape.maxn, 0) + 2), np.int32),
        word_hashes=np.zeros(1, np.int64),
        hidden=np.zeros(tables.rows.shape[1], np.float32),
        outputs=np.zeros(shape.labels, np.float32),
        heap=np.zeros(1, np.float32),
        heap_labels=np.zeros(1, np.int32),
        stack=np.zeros(2 * shape.labels + 1, np.int32),
        stack_scores=np.zeros(2 * shape.labels + 1, np.float32),
        weights=np.zeros(2 * shape.labels + 1, np.float32),
    )


def _fitted(scratch: Scratch, shape: Shape, longest: int, k: int) -> Scratch:
    """Make room for the longest text."""
    if len(scratch.letters) < longest + 2:
        scratch = scratch._replace(letters=np.zeros(longest + 2, np.int8), characters=np.zeros(longest + 4, np.int32))
    if shape.word_ngrams > 1 and len(scratch.word_hashes) < longest // 2 + 2:
        scratch = scratch._replace(word_hashes=np.zeros(longest // 2 + 2, np.int64))
    if len(scratch.heap) < k + 1:
        scratch = scratch._replace(heap=np.zeros(k + 1, np.float32), heap_labels=np.zeros(k + 1, np.int32))
    return scratch
