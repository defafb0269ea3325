"""Columns of many rows as numbers: names that repeat as codes, keys of one length as bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["coded", "fixed", "named", "paired"]

Ints = npt.NDArray[np.int64]


def named(column: pa.ChunkedArray) -> tuple[list[str], Ints]:
    """Return the distinct values of a column, sorted, with null as empty text, and their code in each row."""
    coded_column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    array = coded_column.unify_dictionaries().combine_chunks()
    names = ["" if name is None else name for name in array.dictionary.to_pylist()]
    codes = np.asarray(array.indices.fill_null(len(names))).astype(np.int64)
    if array.null_count:
        names.append("")
    # Only what occurs has a name: the dictionary is that of all rows, of which these may be some.
    there = np.unique(codes)
    distinct, place = np.unique(np.asarray([names[code] for code in there.tolist()], dtype=object), return_inverse=True)
    table = np.zeros(len(names), np.int64)
    table[there] = place
    return distinct.tolist(), table[codes]


def coded(rows: pa.Table, *columns: str) -> tuple[list[tuple[str, ...]], Ints]:
    """Return the distinct values of some columns, sorted, and their code in each row."""
    joint = np.zeros(rows.num_rows, np.int64)
    listed = [named(rows[name]) for name in columns]
    for names, codes in listed:
        joint = np.unique(joint * len(names) + codes, return_inverse=True)[1].astype(np.int64)
    first = np.unique(joint, return_index=True)[1]
    return [tuple(names[codes[i]] for names, codes in listed) for i in first.tolist()], joint


def fixed(column: pa.ChunkedArray) -> npt.NDArray[np.bytes_]:
    """Return keys and hashes as ``S32`` without a Python object for each, where all have one length."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], pa.string())
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    lengths = np.unique(np.diff(offsets))
    if len(lengths) != 1 or lengths[0] == 0 or array.null_count:
        return np.asarray([(key or "").encode() for key in array.to_pylist()], dtype="S")
    data = np.frombuffer(array.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return data.view(f"S{lengths[0]}")


def paired(first: npt.NDArray[np.bytes_], second: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bytes_]:
    """Return two texts of 32 bytes as one of 64."""
    n = len(first)
    halves = (first.view(np.uint8).reshape(n, 32), second.view(np.uint8).reshape(n, 32))
    return np.ascontiguousarray(np.concatenate(halves, axis=1)).view("S64").ravel()
