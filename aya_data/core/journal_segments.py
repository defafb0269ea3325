"""Segments of the journal: files of answers whose names say where they stand and what their bytes hash to."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aya_data.core import durable
from aya_data.core.errors import CorruptPart, WorkspaceUnusable
from aya_data.core.generation import FAILED
from aya_data.core.store import PartWriter, file_digest

Positions = npt.NDArray[np.int64]
NAME = re.compile(r"(\d{10})-(\d{10})-([0-9a-f]{32})\.parquet(\.damaged)?")
ASIDE = ".damaged"
"""What the name of a segment ends with that was set aside."""
ROW_GROUP = 1024
"""Answers per row group: what is read and unpacked to get at one text."""
GATHERED = 1 << 16
"""Answers that are read, and turned into columns, at a time."""
MERGED = 32 << 20
"""Bytes of the largest segment that :meth:`Journal.compact` makes; one of half of that is left alone."""
STREAMED = 8 << 20
"""Larger segments are hashed piece by piece, not held in memory."""
SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(16), nullable=False),
        pa.field("digest", pa.binary(16), nullable=False),
        pa.field("text", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("finish", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("completion_tokens", pa.int32()),
        pa.field("reason", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)
INDEXED = pa.schema([SCHEMA.field(name) for name in ("key", "digest", "finish", "attempts")])
WIDE = pa.schema([pa.field(f.name, pa.large_string() if f.type == pa.string() else f.type) for f in list(SCHEMA)[2:]])
"""What is read of a segment, with strings of any size together."""
UNNAMED = pa.schema([field.with_nullable(True) for field in list(SCHEMA)[2:]])
TAKEN = UNNAMED.insert(0, pa.field("key", pa.string()))


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of the journal, by its name: the commits ``first`` to ``last``."""

    path: Path
    first: int
    last: int
    digest: str
    damaged: bool

    def covers(self, other: Segment) -> bool:
        """Whether it was written to take the place of ``other``."""
        return (
            self.first <= other.first and other.last <= self.last and self.last - self.first > other.last - other.first
        )


@dataclass(frozen=True, slots=True)
class Columns:
    """Answers without texts: both halves of the key, both of the digest, whether it failed, how often it was asked,
    and where it lies."""

    high: npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    content: npt.NDArray[np.uint64]
    failed: npt.NDArray[np.bool_]
    attempts: npt.NDArray[np.int32]
    segment: npt.NDArray[np.uint32]
    row: npt.NDArray[np.uint32]

    @classmethod
    def join(cls, parts: Sequence[Columns]) -> Columns:
        """One after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - 4,000 paths take ten times as long as their names
    except (FileNotFoundError, NotADirectoryError):
        return []


def list_segments(folder: Path) -> list[Segment]:
    """All segments in a folder, set aside ones too, in the order of their numbers, wider ones first."""
    found = [
        Segment(folder / match[0], int(match[1]), int(match[2]), match[3], match[4] is not None)
        for match in map(NAME.fullmatch, _names(folder))
        if match
    ]
    return sorted(found, key=lambda s: (s.first, -s.last, s.digest))


def live_segments(listed: Iterable[Segment]) -> list[Segment]:
    """Those that count: not set aside, and not replaced by a wider one. Ranges of numbers nest or are apart."""
    live: list[Segment] = []
    wide: Segment | None = None
    for segment in listed:
        if segment.damaged or (wide is not None and wide.covers(segment)):
            continue
        live.append(segment)
        wide = segment
    return live


def has_gap(listed: Iterable[Segment]) -> bool:
    """Whether a number is in no segment, though a later one is."""
    reach = 0
    for segment in listed:
        if segment.first > reach + 1:
            return True
        reach = max(reach, segment.last)
    return False


def next_number(folder: Path) -> int:
    """The number of the next commit; that of one that was set aside does not come again."""
    return 1 + max((int(match[2]) for match in map(NAME.fullmatch, _names(folder)) if match), default=0)


def write_segment(folder: Path, tables: Iterable[pa.Table], first: int, last: int) -> None:
    """Write what takes the place of the commits ``first`` to ``last``: it is there and durable, or not there."""
    # In memory first: a file's digest is part of its name.
    buffer = io.BytesIO()
    writer = PartWriter(buffer, SCHEMA, ROW_GROUP)
    for table in tables:
        writer.write(table)
    _, found = writer.close()
    durable.write_bytes(folder / f"{first:010d}-{last:010d}-{found}.parquet", buffer.getvalue())


def merge_groups(live: Sequence[Segment]) -> list[list[Segment]]:
    """Divide segments into runs to be merged, from the newest back: a run takes the next older segment while that is
    at most twice as large as the run."""
    groups: list[list[Segment]] = []
    total = 0
    numbered = Counter((segment.first, segment.last) for segment in live)
    for segment in reversed(live):
        size = segment.path.stat().st_size
        # Two of one number, which only two writers make, stay: what is merged to their left would cover them.
        if size >= MERGED // 2 or numbered[segment.first, segment.last] > 1:
            continue
        adjacent = bool(groups) and groups[-1][-1].first == segment.last + 1
        if adjacent and size <= 2 * total and total + size <= MERGED:
            groups[-1].append(segment)
            total += size
        else:
            groups.append([segment])
            total = size
    return [group[::-1] for group in reversed(groups) if len(group) > 1]


def _set_aside(segment: Segment, found: str) -> CorruptPart:
    # A reader that may not write still names it.
    with contextlib.suppress(WorkspaceUnusable):
        durable.replace(segment.path, segment.path.with_name(segment.path.name + ASIDE))
    return CorruptPart(str(segment.path), f"digest {found}", segment.digest)


def check(segment: Segment, *, aside: bool = True) -> None:
    """Raise :class:`CorruptPart` for a segment that is not what its name says, once it is set ``aside``."""
    _compare(segment, file_digest(segment.path), aside)


def _compare(segment: Segment, found: str, aside: bool) -> None:
    if found != segment.digest:
        raise _set_aside(segment, found) if aside else CorruptPart(str(segment.path), f"digest {found}", segment.digest)


def _read(segment: Segment, columns: Sequence[str] | None = None, *, aside: bool = True) -> Iterator[pa.Table]:
    """Read a segment, by some of its rows at a time, after checking it as :func:`check` does."""
    source: Any = segment.path
    if segment.path.stat().st_size > STREAMED:
        check(segment, aside=aside)
    else:
        data = segment.path.read_bytes()
        _compare(segment, hashlib.blake2b(data, digest_size=16).hexdigest(), aside)
        source = pa.BufferReader(data)
    with pq.ParquetFile(source) as file:
        names = None if columns is None else list(columns)
        for batch in file.iter_batches(GATHERED, columns=names, use_threads=False):
            yield pa.Table.from_batches([batch])


def merged(segments: Sequence[Segment]) -> Iterator[pa.Table]:
    """The answers of ``segments`` that stand among them, in the order of their commits."""
    columns = Columns.join(read_columns(segments, 0))
    stands = np.zeros(len(columns.high), np.bool_)
    stands[_winners(columns.high, columns.low, columns.failed)] = True
    start = 0
    for segment in segments:
        for table in _read(segment):
            yield table.filter(pa.array(stands[start : start + table.num_rows]))
            start += table.num_rows


def read_columns(segments: Sequence[Segment], number: int, damaged: list[Segment] | None = None) -> list[Columns]:
    """What an index keeps of segments, the first of which is its ``number``-th, in the order of commits.

    With a list for them, segments that are ``damaged`` are added to it and passed over; else they are set aside, and
    the first raises :class:`CorruptPart`.
    """
    made: list[Columns] = []
    pieces: list[tuple[int, int, pa.Table]] = []
    gathered = 0
    for place, segment in enumerate(segments, number):
        row = 0
        try:
            for table in _read(segment, INDEXED.names, aside=damaged is None):
                pieces.append((place, row, table))
                row += table.num_rows
                gathered += table.num_rows
                if gathered >= GATHERED:
                    made.append(_columns(pieces))
                    pieces, gathered = [], 0
        except CorruptPart:
            if damaged is None:
                raise
            damaged.append(segment)
    return [*made, _columns(pieces)]


def _columns(pieces: Sequence[tuple[int, int, pa.Table]]) -> Columns:
    """The same of pieces of segments: the number of the segment, the first row, and the rows."""
    sizes = np.array([table.num_rows for _, _, table in pieces], np.int64)
    numbers = np.array([number for number, _, _ in pieces], np.uint32)
    starts = np.array([row for _, row, _ in pieces], np.int64)
    table = pa.concat_tables([INDEXED.empty_table(), *(table for _, _, table in pieces)])
    high, low = halves(_binary(table["key"]))
    return Columns(
        high,
        low,
        np.stack(halves(_binary(table["digest"])), axis=1),
        _failed(table["finish"]),
        np.array(table["attempts"].to_numpy(), np.int32),
        np.repeat(numbers, sizes),
        (np.arange(len(high)) + np.repeat(starts - np.cumsum(sizes) + sizes, sizes)).astype(np.uint32),
    )


def standing(parts: Sequence[Columns]) -> Columns:
    """The answers that stand, by key, of those of all parts, in the order of their commits."""

    def joined(name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    order = _winners(joined("high"), joined("low"), joined("failed"))
    return Columns(*(joined(field.name)[order] for field in fields(Columns)))


def _winners(high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64], failed: npt.NDArray[np.bool_]) -> Positions:
    """Return where the answers that stand are, by key, of answers in the order of their commits."""
    order = np.argsort(high, kind="stable")
    ranked = high[order]
    same = ranked[1:] == ranked[:-1]
    if not same.any():
        return order
    shared = np.zeros(len(order), np.bool_)
    shared[1:] |= same
    shared[:-1] |= same
    among = order[shared]
    first = np.where(failed[among], -among, among)
    among = among[np.lexsort((first, failed[among], low[among], high[among]))]
    order[shared] = among
    again = (high[among[1:]] == high[among[:-1]]) & (low[among[1:]] == low[among[:-1]])
    keep = np.ones(len(order), np.bool_)
    keep[np.flatnonzero(shared)[1:]] = ~again
    return order[keep]


def _failed(finish: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.equal(finish, FAILED).to_numpy(), np.bool_)


def _binary(column: pa.ChunkedArray) -> bytes:
    """The values of a column of 16 bytes each, one after the other."""
    pieces = [
        memoryview(chunk.buffers()[1])[chunk.offset * 16 : (chunk.offset + len(chunk)) * 16]
        for chunk in column.chunks
        if len(chunk)
    ]
    return b"".join(pieces)


def halves(data: bytes) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return the first and last eight of every 16 bytes as numbers that are in the order of the bytes."""
    pairs = np.frombuffer(data, ">u8").reshape(-1, 2).astype(np.uint64)
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])


def read_rows(segment: Segment, rows: Positions) -> pa.Table:
    """Read some rows of a checked segment, ascending, by the row groups that hold them."""
    with pq.ParquetFile(segment.path, memory_map=True) as file:
        metadata = file.metadata
        sizes = np.array([metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)])
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, rows, "right")
        wanted, inverse = np.unique(groups, return_inverse=True)
        read = np.cumsum(sizes[wanted]) - sizes[wanted]
        within = rows - (ends - sizes)[groups] + read[inverse]
        table = file.read_row_groups(wanted.tolist(), columns=WIDE.names, use_threads=False)
    return table.cast(WIDE).take(within)
