"""Records of data files: Parquet, JSON Lines, JSON, CSV and TSV, compressed or not, here or remote.

:func:`read_records` streams a file in bounded chunks. What cannot be parsed becomes a
:class:`Broken` with its place and a digest of its bytes, and reading goes on behind it. Nothing here
knows what a record means; :mod:`aya_data.builders.mapping.mapper` does.

Choices that a format leaves open:

- JSON Lines: numbers count physical lines, so ``sed -n`` finds record *i* on line *i* + 1. Blank lines
  are skipped. A repeated key, NaN, an infinite number or nesting deeper than 100 breaks the record.
- JSON: one array of objects, or objects one after the other (pretty-printed or one on each line).
- CSV and TSV: the first line names the columns. A quote that is never closed breaks its own line
  alone. In TSV, which has no quoting of its own, a field whose quotes do not pair is taken as it
  stands, and so are two whole lines that a quote would join.
- Names that occur twice in a header get ``#2``, ``#3``; the empty name is a name.
- Parquet: bytes that are UTF-8 become text; dates, times and decimals become text; maps become
  dictionaries; NaN and infinite numbers become null, because JSON, which rows carry them in, has neither.

Compression is told by the first bytes, not by the name. CPU time for flat records of three texts
(42,148 of an instruction data set), Python 3.11, per record: Parquet 2, JSON Lines 4, CSV 7, JSON 8 µs.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Literal

from aya_data.builders.records.csv_records import header, read_csv
from aya_data.builders.records.json_records import read_json, read_jsonl
from aya_data.builders.records.raw import (
    BLOCK,
    Broken,
    Chunk,
    Lines,
    Location,
    Malformed,
    Record,
    compression_of,
    file_digest,
    open_location,
)  # fmt: skip

__all__ = [
    "Broken",
    "Format",
    "Location",
    "Record",
    "column_names",
    "columns_within",
    "cuts",
    "file_digest",
    "format_of",
    "read_records",
    "slices",
    "unreadable",
]

Format = Literal["parquet", "jsonl", "json", "csv", "tsv"]

EXTENSIONS: dict[str, Format] = {
    "parquet": "parquet", "pq": "parquet", "jsonl": "jsonl", "ndjson": "jsonl", "jsonlines": "jsonl",
    "json": "json", "csv": "csv", "tsv": "tsv", "tab": "tsv",
}  # fmt: skip
COMPRESSIONS = ("gz", "zst", "bz2")
DELIMITERS = {"csv": ",", "tsv": "\t"}
CHUNK_RECORDS = 2048
CHUNK_BYTES = 16 << 20


def format_of(name: str) -> Format | None:
    """Return the format that the extension of ``name`` tells, a compression suffix aside.

    A URL's query and fragment tell nothing; in a path ``?`` and ``#`` are letters like others.
    """
    if re.match(r"(?!file:)[A-Za-z][\w+.-]*://", name):
        name = re.split(r"[?#]", name)[0]
    parts = name.rsplit("/", 1)[-1].lower().split(".")
    if len(parts) > 2 and parts[-1] in COMPRESSIONS:
        parts.pop()
    return EXTENSIONS.get(parts[-1]) if len(parts) > 1 else None


def read_records(
    location: Location,
    format: Format,
    slice: tuple[int, int] | None = None,
    *,
    columns: Sequence[str] | None = None,
    first: int | None = None,
    delimiter: str | None = None,
) -> Iterator[Chunk]:
    """Read a file, or the ``slice`` of it that :func:`slices` cut, in chunks of at most 2048 records.

    ``location`` is a local path, a URL that fsspec reads, or what opens itself. ``columns`` keeps these columns alone
    (Parquet then reads no others). ``first`` is the number of the slice's first record, from
    :func:`cuts`; without it the lines before a JSON Lines slice are counted. ``delimiter`` stands
    between the fields of CSV and TSV, instead of the usual comma and tab. Memory is about two
    chunks of 16 MB, or one record where that is larger. Raises :class:`InputError` when the file
    cannot be opened.
    """
    if format == "parquet":
        from aya_data.builders.records.parquet_records import read_parquet

        chunks = read_parquet(location, slice, columns)
    else:
        chunks = _chunks(_items(location, format, slice, first, delimiter))
    return chunks if columns is None else _narrow(chunks, columns)


def slices(location: Location, format: Format, size: int, target: int = 32 << 20) -> list[tuple[int, int] | None]:
    """Cut a file of ``size`` bytes into pieces of about ``target`` bytes that can be read apart.

    Ranges of rows for Parquet, of bytes for plain JSON Lines, ``[None]`` for all else.
    """
    return [slice for slice, _ in cuts(location, format, size, target)]


def cuts(
    location: Location, format: Format, size: int, target: int = 32 << 20
) -> list[tuple[tuple[int, int] | None, int]]:
    """Return :func:`slices` with the number of the first record of each; reads JSON Lines once through."""
    # What Parquet decodes to is several times what lies on disk; its footer tells.
    if size <= (target // 8 if format == "parquet" else target):
        return [(None, 0)]
    if format == "parquet":
        from aya_data.builders.records.parquet_records import parquet_cuts

        return parquet_cuts(location, target)
    if format != "jsonl" or compression_of(location) is not None:
        return [(None, 0)]
    found: list[tuple[tuple[int, int] | None, int]] = []
    start = position = lines = first = 0
    with open_location(location) as file:
        while block := file.read(BLOCK):
            done = 0
            while start + target - position < len(block):
                cut = block.find(b"\n", max(done, start + target - position)) + 1
                if not cut:
                    break
                lines += block.count(b"\n", done, cut)
                found.append(((start, position + cut), first))
                start, first, done = position + cut, lines, cut
            lines += block.count(b"\n", done)
            position += len(block)
    if start < position:
        found.append(((start, position), first))
    return found or [(None, 0)]


def _items(
    location: Location,
    format: Format,
    slice: tuple[int, int] | None = None,
    first: int | None = None,
    delimiter: str | None = None,
) -> Iterator[tuple[Record | Broken, int]]:
    """Yield the records of a file that is not Parquet, each with its size."""
    if format == "jsonl":
        return read_jsonl(location, slice, first)
    if format == "json":
        return read_json(location)
    return read_csv(location, delimiter or DELIMITERS[format])


def unreadable(location: Location, format: Format, delimiter: str | None = None) -> Broken | None:
    """Return what is wrong with a file of which no record can be read; ``None`` where one can, or it has none.

    Reads up to the first good record, at most 2048 records.
    """
    if format == "parquet":
        from aya_data.builders.records.parquet_records import parquet_columns

        if parquet_columns(location) is not None:
            return None
        chunk = next(read_records(location, format), [])
        return next((item for item in chunk if isinstance(item, Broken)), None)
    broken: Broken | None = None
    for number, (item, _) in enumerate(_items(location, format, delimiter=delimiter)):
        if isinstance(item, Record):
            return None
        broken = broken or item
        if number >= CHUNK_RECORDS:
            break
    return broken


def columns_within(location: Location, format: Format, size: int) -> tuple[list[str], int, int]:
    """Return the keys of the JSON records in about the first ``size`` bytes, how many records, how many bytes.

    The bytes are fewer than ``size`` only where the file ends.
    """
    names: dict[str, None] = {}
    records = read = 0
    for item, cost in _items(location, format):
        if isinstance(item, Record):
            names |= dict.fromkeys(item.fields)
            records += 1
        read += cost
        if read >= size:
            break
    return list(names), records, read


def column_names(location: Location, format: Format, delimiter: str | None = None) -> list[str] | None:
    """Return the columns that a file names: schema, header line, or the keys of its first 2048 records.

    ``None`` where the file says nothing (empty, or broken from the start).
    """
    if format == "parquet":
        from aya_data.builders.records.parquet_records import parquet_columns

        return parquet_columns(location)
    if format in ("csv", "tsv"):
        with contextlib.suppress(Malformed):
            return header(iter(Lines(location)), delimiter or DELIMITERS[format]) or None
        return None
    for chunk in read_records(location, format):
        names = dict.fromkeys(n for item in chunk if isinstance(item, Record) for n in item.fields)
        if names:
            return list(names)
    return None


def _chunks(items: Iterator[tuple[Record | Broken, int]]) -> Iterator[Chunk]:
    chunk: list[Record | Broken] = []
    size = 0
    for item, cost in items:
        chunk.append(item)
        size += cost
        if len(chunk) >= CHUNK_RECORDS or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _narrow(chunks: Iterator[Chunk], columns: Sequence[str]) -> Iterator[Chunk]:
    for chunk in chunks:
        for item in chunk:
            if isinstance(item, Record):
                item.fields = {name: item.fields[name] for name in columns if name in item.fields}
        yield chunk
