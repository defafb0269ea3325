"""The logical digest: what a table says, apart from how it is stored and where its rows were found.

It covers names, order, types by family, nulls and values of all columns but the file, row and revision of
``provenance``, so it is equal for any chunking, encoding, Parquet writer, library version or machine. Blocks
of :data:`BLOCK` rows are digested column by column over Arrow buffers, about 1 GB/s, and their digests together:
a table of any size can be digested in bounded memory.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aya_data.core.row import UNIDENTIFYING

__all__ = ["BLOCK", "block_digest", "combined_digest", "joined_digest", "logical_digest"]


BLOCK = 32_768
"""Rows per block; a part of the definition of the digest."""


def logical_digest(table: pa.Table) -> str:
    """Return the logical digest of ``table`` as 32 hex digits; rows in order."""
    return joined_digest([block_digest(table.slice(start, BLOCK)) for start in range(0, table.num_rows, BLOCK)])


def joined_digest(blocks: list[str]) -> str:
    """Return the logical digest of the table whose blocks of :data:`BLOCK` rows have these digests."""
    state = hashlib.blake2b(digest_size=16)
    for block in blocks:
        state.update(block.encode())
    return state.hexdigest()


def block_digest(table: pa.Table) -> str:
    """Return the digest of one block: at most :data:`BLOCK` rows, all of them full but a table's last."""
    state = hashlib.blake2b(digest_size=16)
    state.update(f"rows {table.num_rows}".encode())
    for name in sorted(table.column_names):
        state.update(f"\0{name}\0".encode())
        column = table[name].combine_chunks()
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        _update(state, array, skip=UNIDENTIFYING if name == "provenance" else ())
    return state.hexdigest()


def combined_digest(digests: list[tuple[str, str]]) -> str:
    """Combine named digests, in order of name."""
    state = hashlib.blake2b(digest_size=16)
    for name, digest in sorted(digests):
        state.update(f"{name}\0{digest}\n".encode())
    return state.hexdigest()


def _update(state: hashlib.blake2b, array: pa.Array, skip: tuple[str, ...] = ()) -> None:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    valid = np.asarray(pc.is_valid(array).cast(pa.uint8()))
    state.update(np.packbits(valid).tobytes())
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        filled = pc.fill_null(array, b"" if pa.types.is_binary(kind) else "") if array.null_count else array
        lengths = np.asarray(pc.binary_length(filled)).astype("<i8")
        state.update(lengths.tobytes())
        for piece in _pieces(filled):
            state.update(piece)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        lengths = np.asarray(pc.fill_null(_lengths(array), 0)).astype("<i8")
        state.update(lengths.tobytes())
        whole = array.drop_null() if array.null_count else array
        _update(state, _entries(array) if pa.types.is_map(kind) else whole.flatten())
    elif pa.types.is_struct(kind):
        for index in sorted(range(kind.num_fields), key=lambda i: str(kind.field(i).name)):
            name = kind.field(index).name
            if name not in skip:
                state.update(f"\1{name}\1".encode())
                _update(state, pc.struct_field(array, index))
    elif pa.types.is_boolean(kind):
        state.update(np.asarray(pc.fill_null(array, False).cast(pa.uint8())).tobytes())
    elif pa.types.is_floating(kind):
        state.update(np.asarray(pc.fill_null(array.cast(pa.float64()), 0.0)).astype("<f8").tobytes())
    elif pa.types.is_integer(kind):
        state.update(np.asarray(pc.fill_null(array.cast(pa.int64()), 0)).astype("<i8").tobytes())
    elif pa.types.is_null(kind):
        state.update(b"null")
    else:
        raise TypeError(f"rows have no columns of type {kind}")


def _lengths(array: pa.Array) -> pa.Array:
    if pa.types.is_map(array.type):
        offsets = np.asarray(array.offsets)
        return pa.array(np.diff(offsets))
    return pc.list_value_length(array)


def _entries(array: pa.Array) -> pa.Array:
    plain = array.cast(pa.list_(pa.struct([("key", array.type.key_type), ("value", array.type.item_type)])))
    return plain.drop_null().flatten()


def _pieces(array: pa.Array) -> list[memoryview]:
    """The bytes of a string column without copying: from its first to its last offset."""
    if len(array) == 0:
        return []
    buffers = array.buffers()
    if buffers[2] is None:
        return []
    width = np.int64 if pa.types.is_large_string(array.type) else np.int32
    offsets = np.frombuffer(buffers[1], dtype=width)
    start, end = int(offsets[array.offset]), int(offsets[array.offset + len(array)])
    return [memoryview(buffers[2])[start:end]]
