"""Records of Parquet files, as plain Python values."""

from __future__ import annotations

import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import IO, Any, cast, overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from aya_data.builders.records.raw import (
    Broken,
    Chunk,
    Damaged,
    Location,
    Record,
    failing,
    file_digest,
    open_location,
    unique_names,
)
from aya_data.core.identity import digest

__all__ = ["ColumnChunk", "parquet_columns", "parquet_cuts", "parquet_groups", "read_parquet"]

CHUNK_RECORDS = 2048
CHUNK_BYTES = 16 << 20
STEPS = 4
"""How many batches make a chunk at most: what is done once per chunk costs more than small records do."""
PIECES = 16
"""Into how many pieces one row group is cut at most."""


def _parquet(file: IO[bytes]) -> pq.ParquetFile:

    try:
        return pq.ParquetFile(file, pre_buffer=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(str(error).split("\n")[0][:200]) from error


def parquet_columns(location: Location) -> list[str] | None:
    """Return the names in the schema; ``None`` where the file is not Parquet."""
    try:
        with open_location(location) as file:
            return unique_names(_parquet(file).schema_arrow.names)
    except Damaged:
        return None


def parquet_cuts(location: Location, target: int) -> list[tuple[tuple[int, int] | None, int]]:
    """Return ranges of rows of about ``target`` decoded bytes, each with its first row's number.

    Small row groups are put together, large ones cut within. Who reads a later piece of a row group decodes what
    stands before it as well (about 1 second per GB), so one is cut into at most 16.
    """
    try:
        with open_location(location) as file:
            metadata = _parquet(file).metadata
            found = (metadata.row_group(i) for i in range(metadata.num_row_groups))
            sizes = [(group.total_byte_size, group.num_rows) for group in found]
    except Damaged:
        return [(None, 0)]
    starts = [0]
    row = held = 0
    for size, rows in sizes:
        pieces = max(1, min(PIECES, rows, -(-size // target)))
        if held and held + size > target:
            starts.append(row)
            held = 0
        starts += [row + rows * n // pieces for n in range(1, pieces)]
        held += size // pieces
        row += rows
    if len(starts) == 1:
        return [(None, 0)]
    return [((start, stop), start) for start, stop in pairwise([*starts, row])]


def parquet_groups(location: Location, span: tuple[int, int]) -> tuple[tuple[int, int], int]:
    """Return the rows of the row groups that start within ``span``, in bytes, and where the next one starts.

    So a file may be cut by its size alone, before anything of it has been read. A file that is not
    Parquet counts as one row group.
    """
    try:
        with open_location(location) as file:
            last = file.seek(0, os.SEEK_END) - 1
            metadata = _parquet(file).metadata
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            # Whatever a footer claims, each row group falls into exactly one span.
            starts = list(accumulate((min(max(0, _start(group)), last) for group in groups), max))
            rows = list(accumulate((group.num_rows for group in groups), initial=0))
    except Damaged:
        starts, rows = [0], [0, 1]
    first, stop = bisect_left(starts, span[0]), bisect_left(starts, span[1])
    return (rows[first], rows[stop]), starts[stop] if stop < len(starts) else span[1]


def _start(group: pq.RowGroupMetaData) -> int:
    columns = [group.column(i) for i in range(group.num_columns)]
    offsets = (offset for c in columns for offset in (c.dictionary_page_offset, c.data_page_offset) if offset)
    return min(offsets, default=0)


def read_parquet(location: Location, slice: tuple[int, int] | None, columns: Sequence[str] | None) -> Iterator[Chunk]:
    """Yield the records of the rows ``slice`` in chunks.

    What cannot be read has the same number, key and evidence however the rows are cut: a row group is always read
    from its start and in the same steps, and its damage is told by the piece in which it begins.
    """
    with open_location(location) as file:
        try:
            source = _parquet(file)
        except Damaged as error:
            yield [Broken(0, file_digest(location), "not_parquet", str(error))]
            return
        metadata = source.metadata
        names = unique_names(source.schema_arrow.names)
        leaves = _leaves(source, names, columns)
        start, stop = slice or (0, 1 << 62)
        index = 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if max(index, start) < min(index + rows, stop):
                width = max(1, metadata.row_group(group).total_byte_size // max(1, rows))
                size = max(1, min(CHUNK_RECORDS, CHUNK_BYTES // width))
                done = index
                try:
                    for batch in _batches(source, group, size, leaves):
                        shown = names if leaves is None else leaves
                        first = min(max(0, start - done), batch.num_rows)
                        last = min(max(first, stop - done), batch.num_rows)
                        for piece in _pieces(batch.slice(first, last - first)):
                            yield ColumnChunk(piece, shown, done + first)
                            first += piece.num_rows
                        done += batch.num_rows
                        if done >= stop:
                            break
                except (pa.ArrowException, OSError) as error:
                    if failing(error):
                        raise
                    if done >= start:
                        place = f"row group {group}, rows {done} to {index + rows - 1}"
                        key = digest("row group", file_digest(location), str(group), str(done))
                        evidence = f"{place}: {str(error).splitlines()[0][:200]}"
                        yield [Broken(done, key, "corrupt_row_group", evidence)]
            index += rows


def _batches(source: pq.ParquetFile, group: int, size: int, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    """Yield a row group, read in pieces of ``size`` rows: up to four together, as far as they are small once decoded,
    which the footer does not tell of dictionaries. What stands before damage is yielded before it is raised."""
    held: list[pa.RecordBatch] = []
    try:
        for batch in source.iter_batches(size, row_groups=[group], columns=columns):
            held.append(batch)
            if len(held) == STEPS or sum(one.nbytes for one in held) + batch.nbytes > CHUNK_BYTES:
                yield from _together(held)
                held = []
    except (pa.ArrowException, OSError):
        yield from _together(held)
        raise
    yield from _together(held)


def _together(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    if len(batches) < 2:
        return batches
    try:
        return [pa.concat_batches(batches)]
    except pa.ArrowException:  # dictionaries that Arrow cannot make one
        return batches


def _leaves(source: pq.ParquetFile, names: list[str], columns: Sequence[str] | None) -> list[str] | None:
    """Return what to ask pyarrow for; names that it would misread as nested paths read everything."""
    plain = source.schema_arrow.names
    if columns is None or len(set(plain)) != len(plain) or any("." in name or not name for name in plain):
        return None
    return [name for name in names if name in set(columns)]


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    parts = min(batch.num_rows, 1 + batch.nbytes // CHUNK_BYTES)
    step = -(-batch.num_rows // parts) if parts else 1
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)


class ColumnChunk(Sequence[Record | Broken]):
    """Records in columns, which become :class:`Record` when somebody looks at one.

    ``batch`` holds the columns, which are called ``names``; ``first`` is the number of the first record.
    """

    def __init__(self, batch: pa.RecordBatch, names: list[str], first: int) -> None:
        self.batch, self.names, self.first = batch, names, first
        self._items: list[Record | Broken] | None = None

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def __iter__(self) -> Iterator[Record | Broken]:
        if self._items is None:
            self._items = _rows(self.batch, self.names, self.first)
        return iter(self._items)

    @overload
    def __getitem__(self, place: int) -> Record | Broken: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Record | Broken]: ...
    def __getitem__(self, place: int | slice) -> Record | Broken | Sequence[Record | Broken]:
        if self._items is None and isinstance(place, int) and place >= 0:
            return _rows(self.batch.slice(place, 1), self.names, self.first + place)[0]
        return list(self)[place]

    def column(self, name: str) -> pa.Array | None:
        """Return a column by its name."""
        return self.batch.column(self.names.index(name)) if name in self.names else None

    def plain(self, names: Sequence[str]) -> list[list[Any]]:
        """Return columns as plain Python values."""
        return [_plain_column(self.batch.column(self.names.index(name))) for name in names]

    def is_whole(self) -> bool:
        """Tell whether all records can be read: no :class:`Broken` is among them."""
        try:
            for column in self.batch.columns:
                kind = column.type
                if pt.is_string(kind) or pt.is_large_string(kind):
                    column.validate(full=True)
                elif not (pt.is_integer(kind) or pt.is_boolean(kind) or pt.is_floating(kind) or pt.is_null(kind)):
                    _plain_column(column)
        except UNREADABLE:
            return False
        return True


UNREADABLE = (UnicodeDecodeError, pa.ArrowException, ValueError, OverflowError)


def _rows(batch: pa.RecordBatch, names: list[str], first: int) -> list[Record | Broken]:
    try:
        values = [_plain_column(column) for column in batch.columns]
    except UNREADABLE as error:
        if batch.num_rows > 1:
            half = batch.num_rows // 2
            return [
                *_rows(batch.slice(0, half), names, first),
                *_rows(batch.slice(half), names, first + half),
            ]
        rule = "invalid_utf8" if isinstance(error, UnicodeDecodeError) else "unreadable_value"
        return [Broken(first, digest(rule, _raw(batch)), rule, str(error).splitlines()[0][:200])]
    if not names:
        return [Record(first + i, {}) for i in range(batch.num_rows)]
    return [Record(first + i, dict(zip(names, row, strict=True))) for i, row in enumerate(zip(*values, strict=True))]


def _raw(batch: pa.RecordBatch) -> bytes:
    """Return bytes that identify a row that cannot be decoded."""

    sink = pa.BufferOutputStream()
    batch = batch.replace_schema_metadata(None)
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return cast("bytes", sink.getvalue().to_pybytes())


def _plain_column(column: pa.Array) -> list[Any]:
    """Return a column as plain Python values."""

    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    wanted = _plain_type(column.type)
    if wanted != column.type:
        column = column.cast(wanted)
    if pt.is_floating(wanted) and not pc.all(pc.is_finite(column), min_count=0).as_py():
        column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, wanted))
    values: list[Any] = column.to_pylist()
    if pt.is_floating(wanted):
        return values
    convert = _converter(wanted)
    return values if convert is None else [None if v is None else convert(v) for v in values]


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Return ``kind`` with every type that JSON has no word for replaced by one it has."""

    if pt.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pt.is_duration(kind):
        return pa.int64()
    if pt.is_temporal(kind) or pt.is_decimal(kind):
        return pa.string()
    if pt.is_float16(kind):
        return pa.float32()
    if pt.is_struct(kind):
        return pa.struct([field.with_type(_plain_type(field.type)) for field in kind])
    if pt.is_map(kind):
        return pa.map_(_plain_type(kind.key_type), _plain_type(kind.item_type))
    if pt.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)))
    if pt.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_plain_type(kind.value_type)))
    return kind


def _converter(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """Return what makes a nested or binary value plain; ``None`` where it already is."""

    if pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_fixed_size_binary(kind) or pt.is_binary_view(kind):
        return _bytes_value
    if pt.is_floating(kind):
        return lambda number: number if math.isfinite(number) else None
    if pt.is_map(kind):
        key, item = _converter(kind.key_type) or str, _converter(kind.item_type)
        return lambda pairs: {str(key(k)): v if v is None or item is None else item(v) for k, v in pairs}
    if pt.is_struct(kind):
        fields = {field.name: found for field in kind if (found := _converter(field.type)) is not None}
        return None if not fields else lambda value: {
            name: fields[name](v) if name in fields and v is not None else v for name, v in value.items()
        }  # fmt: skip
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind):
        each = _converter(kind.value_type)
        return None if each is None else lambda values: [None if v is None else each(v) for v in values]
    return None


def _bytes_value(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
