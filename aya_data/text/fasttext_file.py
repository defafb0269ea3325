"""fastText's model file (``.bin``, ``.ftz``) as NumPy arrays.

The format, little endian, versions 11 and 12: magic and version; twelve int32 arguments and a float64; the dictionary
(int32 entries, words, labels; int64 tokens, pruned rows; per entry a zero-terminated text, int64 count, int8 type;
then int32 pairs of bucket and row for the n-grams that pruning left); whether the input matrix is quantized, the
input matrix; whether the output matrix is, the output matrix. A dense matrix is its shape and float32 rows. A
quantized one has a byte per block of columns that names one of 256 centroids, and optionally a byte per row that
names one of 256 lengths.

Dense matrices are mapped, not read: processes share their pages. Quantized ones are multiplied out. Costs 6 ms for
lid.176.ftz, and about 0.5 s per million words of a dictionary.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["HIERARCHICAL", "ONE_VS_ALL", "SOFTMAX", "FastTextFile", "UnknownModel", "read"]

MAGIC = 793712314
SUPERVISED = 3
HIERARCHICAL, NEGATIVE_SAMPLING, SOFTMAX, ONE_VS_ALL = 1, 2, 3, 4
"""The losses, as the file numbers them. Prediction is the same for the second and the fourth."""
CENTROIDS = 256
END_OF_SENTENCE = b"</s>"

ARGUMENTS = struct.Struct("<14i d")
DICTIONARY = struct.Struct("<3i 2q")
ENTRY_TAIL = 9
"""What follows the text of an entry: its count (8 bytes) and its type (1 byte)."""

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


class UnknownModel(ValueError):
    """A file that holds no text classifier of the known kinds. Its message says why in one phrase."""


@dataclass(frozen=True, slots=True)
class FastTextFile:
    """A text classifier of fastText.

    ``entries`` and ``starts``: the texts of the dictionary, one after the other, and where each begins
    (int64[entries + 1]): first ``words`` words, then the labels. ``label_counts``: int64[labels], what the tree of
    hierarchical softmax is built from. ``pruned``: int32[p, 2], bucket and row of the n-grams that are left; None
    where every bucket has its row. ``input``: float32[words + n-grams, dim]. ``output``: float32[labels, dim],
    of which row i counts times ``output_scale[i]`` *after* the dot product, as in the library.
    """

    dim: int
    loss: int
    word_ngrams: int
    bucket: int
    minn: int
    maxn: int
    words: int
    entries: Bytes
    starts: Longs
    label_counts: Longs
    pruned: Ints | None
    input: Floats
    output: Floats
    output_scale: Floats

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the model's order, without ``__label__``."""
        texts = (self.entry(number) for number in range(self.words, len(self.starts) - 1))
        return tuple(text.decode("utf-8", "replace").removeprefix("__label__") for text in texts)

    def entry(self, number: int) -> bytes:
        """Return the text of one entry of the dictionary."""
        return self.entries[self.starts[number] : self.starts[number + 1]].tobytes()


def read(path: Path) -> FastTextFile:
    """Read a model. Raises :class:`UnknownModel` for other kinds of files and models, and for damaged ones."""
    with path.open("rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise UnknownModel("it is empty") from None
    try:
        return _read(_Reader(mapped))
    except (struct.error, IndexError) as error:
        raise UnknownModel("it ends too early") from error


class _Reader:
    """A place in the mapped file. Going past its end raises :class:`struct.error`."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def values(self, form: struct.Struct | str) -> tuple[int, ...]:
        form = struct.Struct("<" + form) if isinstance(form, str) else form
        found = form.unpack_from(self.data, self.at)
        self.at += form.size
        return found

    def array(self, dtype: str, count: int) -> Any:
        kind = np.dtype(dtype)
        if count < 0 or self.at + count * kind.itemsize > len(self.data):
            raise struct.error
        found = np.frombuffer(self.data, kind, count, self.at) if count else np.zeros(0, kind)
        self.at += count * kind.itemsize
        return found


def _read(reader: _Reader) -> FastTextFile:
    magic, version, dim, _, _, _, _, word_ngrams, loss, model, bucket, minn, maxn, _, _ = reader.values(ARGUMENTS)
    if magic != MAGIC or version not in (11, 12):
        raise UnknownModel("it is no fastText model of format 11 or 12")
    if model != SUPERVISED:
        raise UnknownModel("it holds word vectors, no classifier")
    if loss not in (HIERARCHICAL, NEGATIVE_SAMPLING, SOFTMAX, ONE_VS_ALL):
        raise UnknownModel(f"its loss has the unknown number {loss}")
    size, words, labels, _, pruned_size = reader.values(DICTIONARY)
    if labels < 1 or size != words + labels or words < 0 or dim < 1:
        raise UnknownModel("its dictionary contradicts itself")
    entries, starts, counts, types = _entries(reader, size)
    if types[:words].any() or not types[words:].all():
        raise UnknownModel("its labels do not follow its words")
    pruned = None
    if pruned_size >= 0:
        pruned = reader.array("<i4", 2 * pruned_size).astype(np.int32).reshape(-1, 2)
    quantized = reader.values("?")[0]
    rows, _ = _matrix(reader, bool(quantized), dim, scaled=True)
    output_quantized = reader.values("?")[0]
    # The library ignores the second flag where the first is not set.
    output, scale = _matrix(reader, bool(quantized and output_quantized), dim, scaled=False)
    grams = bucket if pruned is None else int(pruned[:, 1].max(initial=-1)) + 1
    # A model that never looks up an n-gram may state a number of buckets and have no rows for them.
    uses = (maxn > 0 and version > 11) or word_ngrams > 1
    if len(rows) < words + (grams if uses else 0) or len(output) != labels or (uses and bucket < 1):
        raise UnknownModel("its matrices do not fit its dictionary")
    if pruned is not None and len(pruned) and (pruned.min() < 0 or pruned[:, 0].max() >= bucket):
        raise UnknownModel("its pruned n-grams do not fit its buckets")
    return FastTextFile(
        dim=dim,
        loss=loss,
        word_ngrams=word_ngrams,
        bucket=bucket,
        minn=minn,
        # Classifiers of format 11 were made before they had character n-grams, whatever the argument says.
        maxn=0 if version == 11 else maxn,
        words=words,
        entries=entries,
        starts=starts,
        label_counts=counts[words:],
        pruned=pruned,
        input=rows,
        output=output,
        output_scale=scale,
    )


def _entries(reader: _Reader, size: int) -> tuple[Bytes, Longs, Longs, Bytes]:
    """Return the texts one after the other, where each begins, their counts and types."""
    data, at = reader.data, reader.at
    ends = np.zeros(size, np.int64)
    find = data.find
    for number in range(size):
        end = find(b"\0", at)
        if end < 0:
            raise struct.error
        ends[number] = end
        at = end + 1 + ENTRY_TAIL
    begin, reader.at = reader.at, at
    if at > len(data):
        raise struct.error
    found = np.frombuffer(data, np.uint8, at - begin, begin)
    ends -= begin
    tails = found[ends[:, None] + np.arange(1, 1 + ENTRY_TAIL)]
    counts = np.ascontiguousarray(tails[:, :8]).view("<i8")[:, 0].astype(np.int64)
    text = np.ones(len(found), np.bool_)
    text[ends[:, None] + np.arange(1 + ENTRY_TAIL)] = False
    starts = np.zeros(size + 1, np.int64)
    starts[1:] = ends - np.arange(size) * (1 + ENTRY_TAIL)
    return found[text], starts, counts, tails[:, 8]


def _matrix(reader: _Reader, quantized: bool, dim: int, *, scaled: bool) -> tuple[Floats, Floats]:
    """Return the rows and what each must be multiplied with after its dot product: 1 where ``scaled``."""
    if not quantized:
        count, columns = reader.values("2q")
        if columns != dim:
            raise UnknownModel("its matrices do not fit its dimension")
        rows = reader.array("<f4", count * columns).reshape(count, columns)
        return rows, np.ones(count, np.float32)
    qnorm, count, columns, size = reader.values("?2qi")
    if columns != dim:
        raise UnknownModel("its matrices do not fit its dimension")
    codes = reader.array("u1", size)
    centroids, width, last = _quantizer(reader, dim)
    scale = np.ones(count, np.float32)
    if qnorm:
        norm_codes = reader.array("u1", count)
        lengths, _, _ = _quantizer(reader, 1)
        scale = lengths[norm_codes.astype(np.intp)]
    blocks = -(-dim // width)
    if size != count * blocks or (dim - (blocks - 1) * width) != last:
        raise UnknownModel("its codes do not fit its matrices")
    picked = codes.reshape(count, blocks).astype(np.intp)
    rows = np.empty((count, dim), np.float32)
    for block in range(blocks):
        own = width if block < blocks - 1 else last
        begin = block * width
        table = centroids[begin * CENTROIDS : (begin + own) * CENTROIDS].reshape(CENTROIDS, own)
        rows[:, begin : begin + own] = table[picked[:, block]]
    if scaled:
        # The library multiplies each value before it adds it up: the same product, the same rounding.
        with np.errstate(invalid="ignore", over="ignore"):
            rows *= scale[:, None]
        scale = np.ones(count, np.float32)
    return rows, scale


def _quantizer(reader: _Reader, dim: int) -> tuple[Floats, int, int]:
    """Return the centroids, the columns of a block and those of the last one."""
    own, blocks, width, last = reader.values("4i")
    if own != dim or width < 1 or blocks != -(-dim // width):
        raise UnknownModel("its quantizer does not fit its dimension")
    return reader.array("<f4", dim * CENTROIDS), width, last
