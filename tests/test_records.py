"""Records of files: every format reads alike, and what is broken is named while the rest is read."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aya_data.builders.records import reader as records
from aya_data.builders.records.parquet_records import CHUNK_BYTES, ColumnChunk
from aya_data.builders.records.reader import Broken, Record, column_names, cuts, format_of, read_records, slices
from aya_data.core.errors import InputError
from aya_data.core.identity import digest, record_digest
from aya_data.core.store import file_digest

ROWS = [
    {"prompt": "Merhaba", "answer": "Selam, nasılsın?"},
    {"prompt": 'say "hi"', "answer": "line one\nline two, with a comma"},
    {"prompt": "पानी", "answer": "水\tと\u2028separators"},
]


def read(path: Path | str, format: str | None = None, **options: Any) -> list[Record | Broken]:
    chosen = format or format_of(str(path))
    return [item for chunk in read_records(str(path), chosen, **options) for item in chunk]  # type: ignore[arg-type]


def fields(path: Path | str, format: str | None = None, **options: Any) -> list[dict[str, Any]]:
    items = read(path, format, **options)
    assert not [item for item in items if isinstance(item, Broken)], items
    return [item.fields for item in items if isinstance(item, Record)]


def outline(items: list[Record | Broken]) -> list[tuple[int, Any]]:
    """Index and either the fields or the rule of each item."""
    return [(i.index, i.fields if isinstance(i, Record) else i.rule) for i in items]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def table(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


FORMS = {
    "rows.jsonl": lines(ROWS),
    "rows.json": json.dumps(ROWS).encode(),
    "pretty.json": json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "objects.json": b"\n".join(json.dumps(row, indent=1).encode() for row in ROWS),
    "lines.json": lines(ROWS),
    "rows.csv": table(ROWS),
    "rows.tsv": table(ROWS, "\t"),
    "rows.jsonl.gz": gzip.compress(lines(ROWS)),
    "rows.csv.bz2": bz2.compress(table(ROWS)),
    "rows.json.zst": zstd(json.dumps(ROWS).encode()),
    "members.jsonl.gz": gzip.compress(lines(ROWS[:1])) + gzip.compress(lines(ROWS[1:])),
    "bom.jsonl": b"\xef\xbb\xbf" + lines(ROWS),
    "bom.csv": b"\xef\xbb\xbf" + table(ROWS),
    "bom.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "crlf.jsonl": lines(ROWS).replace(b"\n", b"\r\n"),
    "no_end.jsonl": lines(ROWS).rstrip(b"\n"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_the_same_records_reads_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FORMS[name])
    found = fields(path)
    assert found == ROWS
    assert [record_digest(row) for row in found] == [record_digest(row) for row in ROWS]


def test_parquet_reads_the_same(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert fields(tmp_path / "rows.parquet") == ROWS
    assert fields(tmp_path / "rows.parquet", columns=["answer", "nope"]) == [{"answer": r["answer"]} for r in ROWS]


def test_columns_are_narrowed_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS))
    assert fields(tmp_path / "a.jsonl", columns=["answer"]) == [{"answer": row["answer"]} for row in ROWS]


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.parquet", "parquet"),
        ("x/y.b.JSONL.gz", "jsonl"),
        ("a.json.zst", "json"),
        ("a.ndjson", "jsonl"),
        ("a.csv.bz2", "csv"),
        ("a.tsv", "tsv"),
        ("https://h/a.csv?x=1.json", "csv"),
        ("README", None),
        ("a.gz", None),
        ("a.txt", None),
        (".jsonl", "jsonl"),
    ],
)
def test_format_by_name(name: str, format: str | None) -> None:
    assert format_of(name) == format


def test_a_bad_line_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    good = b'{"a": 1}'
    bad = {
        b"{not json": "not_json",
        b'{"a": "\xff"}': "invalid_utf8",
        b"[1, 2]": "not_object",
        b"3": "not_object",
        b'{"a": NaN}': "not_finite",
        b'{"a": -Infinity}': "not_finite",
        b'{"a": 1e999}': "not_finite",
        b'{"a": 1, "b": 2, "a": 3}': "duplicate_key",
        b'{"a": {"x": 1, "x": 2}}': "duplicate_key",
        b'{"a": ' + b"9" * 5000 + b"}": "not_json",
        b'{"a": 1} {"a": 2}': "not_json",
        b"null": "not_object",
        b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}": "too_deep",
        b'{"a": "\x00"}': "not_json",
        b'{"a": "x': "not_json",
    }
    body = b"\n".join(part for line in bad for part in (line, good)) + b"\n"
    (tmp_path / "a.jsonl").write_bytes(body)
    items = read(tmp_path / "a.jsonl")
    assert [item.rule for item in items if isinstance(item, Broken)] == list(bad.values())
    assert [item.digest for item in items if isinstance(item, Broken)] == [digest(line) for line in bad]
    assert [item.index for item in items] == list(range(2 * len(bad)))
    assert [item.fields for item in items if isinstance(item, Record)] == [{"a": 1}] * len(bad)


def test_brackets_in_text_are_not_depth(tmp_path: Path) -> None:
    text = '[{"' * 500 + "\\"
    (tmp_path / "a.jsonl").write_text(json.dumps({"a": text}) + "\n")
    assert fields(tmp_path / "a.jsonl") == [{"a": text}]


def test_strange_but_valid_values_pass(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": "\\ud800", "": 1, "n": 123456789012345678901234567890, "z": null}\n')
    assert fields(tmp_path / "a.jsonl") == [{"a": "\ud800", "": 1, "n": 123456789012345678901234567890, "z": None}]


def test_blank_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\n{"a": 1}\n\r\n   \n{"a": 2}\n\n')
    assert outline(read(tmp_path / "a.jsonl")) == [(1, {"a": 1}), (4, {"a": 2})]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv"])
def test_an_empty_file_has_no_records(tmp_path: Path, name: str) -> None:
    for body in (b"", b"\n\n", b"\xef\xbb\xbf"):
        (tmp_path / name).write_bytes(body)
        assert read(tmp_path / name) == []
        assert column_names(str(tmp_path / name), format_of(name)) is None  # type: ignore[arg-type]


def test_a_ten_megabyte_cell_is_read(tmp_path: Path) -> None:
    big = "x" * 10_000_000
    rows = [{"a": "1"}, {"a": big}, {"a": "2"}]
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_bytes(table(rows))
    for name in ("a.jsonl", "a.json", "a.csv"):
        assert fields(tmp_path / name) == rows


def test_a_record_too_large_to_hold_is_one_broken_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aya_data.builders.records.raw.LARGEST", 3 << 20)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": "' + b"x" * (6 << 20) + b'"}\n{"a": 3}\n')
    found = read(path)
    assert outline(found) == [(0, {"a": 1}), (1, "oversized_record"), (2, {"a": 3})]
    assert isinstance(found[1], Broken) and found[1].evidence == "6291465 bytes, at most 3145728"


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, zstd])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_truncated_file_keeps_what_came_before(tmp_path: Path, name: str, compress: Any) -> None:
    rows = [{"n": str(i), "text": digest(str(i)) * 40} for i in range(4000)]
    body = {"a.jsonl": lines(rows), "a.json": json.dumps(rows).encode(), "a.csv": table(rows)}[name]
    whole = compress(body)
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) * 2 // 3])
    items = read(path)
    assert isinstance(items[-1], Broken) and items[-1].rule == "truncated_file"
    kept = [item.fields for item in items[:-1] if isinstance(item, Record)]
    assert kept == rows[: len(kept)] and 100 < len(kept) < 4000 and len(kept) == len(items) - 1
    assert items[-1].index == len(kept)
    assert read(path) == items
    assert items[-1].evidence.startswith(f"the file breaks off after record {len(kept) - 1}: ")


def test_garbage_behind_a_compressed_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(ROWS)) + b"garbage garbage")
    assert outline(read(tmp_path / "a.jsonl.gz")) == [*enumerate(ROWS), (3, "truncated_file")]


# -- JSON documents


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'[{"a": 1}, {"a": NaN}, {"a": 3}]', [(0, {"a": 1}), (1, "not_finite"), (2, {"a": 3})]),
        (b'[{"a": 1}, {"a": "\xff"}, {"a": 3}]', [(0, {"a": 1}), (1, "invalid_utf8"), (2, {"a": 3})]),
        (b'[{"a": 1}, {"a" 2}, {"a": 3}]', [(0, {"a": 1}), (1, "not_json"), (2, {"a": 3})]),
        (b'[{"a": 1}, 5, "x", null, [{"b": 2}]]', [(0, {"a": 1})] + [(n, "not_object") for n in (1, 2, 3, 4)]),
        (b'[{"a": 1}, {"a": 2}', [(0, {"a": 1}), (1, {"a": 2}), (2, "truncated_file")]),
        (b'[{"a": 1}, {"a": "2', [(0, {"a": 1}), (1, "not_json")]),
        (b'[{"a": 1} {"a": 2}]', [(0, {"a": 1}), (1, "not_json")]),
        (b'[{"a": 1}] tail', [(0, {"a": 1}), (1, "trailing_data")]),
        (b"[]", []),
        (b'{"a": {"b": [1, {"c": "}"}]}}', [(0, {"a": {"b": [1, {"c": "}"}]}})]),
        (b"hello", [(0, "not_json")]),
        (b"]", [(0, "not_json")]),
    ],
)
def test_json_documents(tmp_path: Path, body: bytes, expected: list[tuple[int, Any]]) -> None:
    (tmp_path / "a.json").write_bytes(body)
    assert outline(read(tmp_path / "a.json")) == expected


def test_a_json_array_is_read_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"n": i, "t": 'é}{"\\' * i} for i in range(60)]
    (tmp_path / "a.json").write_text(json.dumps(rows, ensure_ascii=False))
    for block in (1, 7, 64):
        monkeypatch.setattr("aya_data.builders.records.raw.BLOCK", block)
        monkeypatch.setattr("aya_data.builders.records.json_records.BLOCK", block)
        assert fields(tmp_path / "a.json") == rows


# -- CSV and TSV


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            b"a,b\n1,2\n3\n4,5,6\n7,8\n",
            [(0, {"a": "1", "b": "2"}), (1, "field_count"), (2, "field_count"), (3, {"a": "7", "b": "8"})],
        ),
        (b'a,b\n1,"x\n2,y\n3,z\n', [(0, "unclosed_quote"), (1, {"a": "2", "b": "y"}), (2, {"a": "3", "b": "z"})]),
        (b'a,b\n1,"x"y\n2,z\n', [(0, "stray_quote"), (1, {"a": "2", "b": "z"})]),
        (b'a,b\n1,x"y"\n', [(0, {"a": "1", "b": 'x"y"'})]),
        (b"a,b\n1,\0\n2,z\n", [(0, "nul_byte"), (1, {"a": "2", "b": "z"})]),
        (b"a,b\n1,\xff\n2,z\n", [(0, "invalid_utf8"), (1, {"a": "2", "b": "z"})]),
        (b'a,b\r\n1,"x\r\ny"\r\n\r\n2,z\r\n', [(0, {"a": "1", "b": "x\r\ny"}), (2, {"a": "2", "b": "z"})]),
        (b'a,b\n1,"x\n\xff"\n2,z\n', [(0, "invalid_utf8"), (1, {"a": "2", "b": "z"})]),
        (b",a,a\n1,2,3\n", [(0, {"": "1", "a": "2", "a#2": "3"})]),
        (b"\xff,b\n1,2\n", [(0, "no_header")]),
    ],
)
def test_csv(tmp_path: Path, body: bytes, expected: list[tuple[int, Any]]) -> None:
    (tmp_path / "a.csv").write_bytes(body)
    assert outline(read(tmp_path / "a.csv")) == expected


def test_quotes_in_tsv_are_text_when_they_do_not_pair(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b'a\tb\n"Hi," she said\t2\n"quoted"\t"x\ty"\n"open\t3\n5 " 6\t4\n')
    assert [tuple(row.values()) for row in fields(tmp_path / "a.tsv")] == [
        ('"Hi," she said', "2"),
        ("quoted", "x\ty"),
        ('"open', "3"),
        ('5 " 6', "4"),
    ]


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(CELL, CELL, CELL), max_size=8), delimiter=st.sampled_from(",\t"))
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, ...]], delimiter: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b", "c"), *rows])
    format = "csv" if delimiter == "," else "tsv"
    # Tabs and line ends in one TSV field cannot be told from records whose quotes are text.
    assume(
        format == "csv"
        or not any("\n" in cell for row in rows for cell in row)
        or "\t" not in "".join(map("".join, rows))
    )
    location = f"memory://{digest(text.getvalue(), delimiter)}.{format}"
    import fsspec

    with fsspec.open(location, "wb") as file:
        file.write(text.getvalue().encode())
    assert [tuple(row.values()) for row in fields(location, format)] == rows


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=200), name=st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet"]))
def test_no_bytes_crash_a_reader(body: bytes, name: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{name}"
    path.write_bytes(body)
    items = read(path)
    assert [item.index for item in items] == sorted({item.index for item in items})
    for item in items:
        assert isinstance(item, Record) or (item.rule and item.evidence.isprintable() and len(item.digest) == 32)


JSON_TEXT = st.text(st.sampled_from('{}[]":,\\ \nab1é\t'), max_size=60)


@settings(max_examples=300, deadline=None)
@given(head=JSON_TEXT, name=st.sampled_from(["jsonl", "json"]))
def test_no_json_like_text_crashes_or_hangs(head: str, name: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / f"like.{name}"
    path.write_text("[" + head if name == "json" else head)
    read(path)


# -- slices


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.sampled_from([b'{"a": 1}', b'{"a": "x\\ny"}', b"", b"bad", b'{"b": "\xc3\xa9"}']), max_size=40),
    target=st.integers(1, 60),
    end=st.booleans(),
)
def test_slices_of_json_lines_are_the_whole(
    parts: list[bytes], target: int, end: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "sliced.jsonl"
    path.write_bytes(b"\n".join(parts) + (b"\n" if end else b""))
    whole = read(path)
    found = cuts(str(path), "jsonl", path.stat().st_size, target)
    assert [item for slice, first in found for item in read(path, slice=slice, first=first)] == whole
    ranges = slices(str(path), "jsonl", path.stat().st_size, target)
    assert [item for slice in ranges for item in read(path, slice=slice)] == whole


@pytest.mark.parametrize("group", [90, 400, 6000])
@pytest.mark.parametrize("damaged", [False, True])
def test_slices_of_parquet_are_rows_of_small_and_large_groups(tmp_path: Path, group: int, damaged: bool) -> None:
    path = tmp_path / "a.parquet"
    rows = pa.table({"n": range(6000), "t": [digest(str(i)) for i in range(6000)]})
    pq.write_table(rows, path, row_group_size=group, compression="zstd", use_dictionary=False, data_page_size=4096)
    if damaged:
        # Not the first page of the text: what stands before it can be read.
        found = pq.ParquetFile(path).metadata
        column = found.row_group(found.num_row_groups // 2).column(1)
        body = bytearray(path.read_bytes())
        start, stop = (column.data_page_offset + column.total_compressed_size * n // 10 for n in (6, 10))
        body[start:stop] = b"\xa5" * (stop - start)
        path.write_bytes(body)
    whole = read(path)
    assert outline(whole) == list(enumerate(rows.to_pylist())) or damaged
    assert sum(isinstance(item, Broken) for item in whole) == damaged
    for target in (4_000, 20_000, 100_000):
        found_cuts = cuts(str(path), "parquet", 1 << 30, target)
        assert len(found_cuts) > 2
        assert all(slice is not None and slice[0] == first for slice, first in found_cuts)
        assert [item for slice, _ in found_cuts for item in read(path, slice=slice)] == whole


@settings(max_examples=40, deadline=None)
@given(
    marks=st.lists(st.integers(0, 3000), max_size=6),
    group=st.sampled_from([90, 700, 2048, 5000]),
    columns=st.sampled_from([None, ["n"]]),
)
def test_any_rows_of_parquet_can_be_read_apart(
    marks: list[int], group: int, columns: list[str] | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"apart{group}.parquet"
    if not path.exists():
        pq.write_table(pa.table({"n": range(3000), "t": [str(i) for i in range(3000)]}), path, row_group_size=group)
    whole = read(path, columns=columns)
    places = [0, *sorted(marks), 3000]
    apart = [item for slice in pairwise(places) for item in read(path, slice=slice, columns=columns)]
    assert apart == whole and len(whole) == 3000


def test_texts_that_a_dictionary_makes_small_are_read_few_at_a_time(tmp_path: Path) -> None:
    texts = [str(number % 4) * 5000 for number in range(9000)]
    pq.write_table(pa.table({"t": texts}), tmp_path / "a.parquet")
    found = []
    for chunk in read_records(str(tmp_path / "a.parquet"), "parquet"):
        assert isinstance(chunk, ColumnChunk)
        assert chunk.batch.get_total_buffer_size() <= CHUNK_BYTES
        found += chunk.batch.column(0).to_pylist()
    assert found == texts


def test_what_cannot_be_cut_is_one_piece(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(table(ROWS))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(ROWS)))
    (tmp_path / "a.parquet").write_bytes(b"none")
    for name in ("a.csv", "a.jsonl.gz", "a.parquet"):
        assert slices(str(tmp_path / name), format_of(name), 1 << 30, 1) == [None]  # type: ignore[arg-type]


# -- Parquet


def test_parquet_types_become_plain_values(tmp_path: Path) -> None:
    import datetime as dt

    path = tmp_path / "types.parquet"
    moment = dt.datetime(2024, 2, 29, 12, 30, 1, 5)
    columns = {
        "dictionary": pa.array(["x", None, "x"]).dictionary_encode(),
        "large": pa.array(["a", "b", None], pa.large_string()),
        "binary": pa.array([b"text", b"\xff\xfe", None]),
        "timestamp": pa.array([moment, None, moment], pa.timestamp("us")),
        "nanosecond": pa.array([1, 2, None], pa.timestamp("ns")),
        "date": pa.array([moment.date(), None, None]),
        "decimal": pa.array([Decimal("1.50"), None, None]),
        "duration": pa.array([5, None, None], pa.duration("s")),
        "float": pa.array([1.5, float("nan"), float("inf")]),
        "half": pa.array([1.5, None, float("inf")], pa.float16()),
        "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
        "nested": pa.array(
            [[{"t": moment, "f": float("nan"), "b": b"y"}], [], None],
            pa.list_(pa.struct([("t", pa.timestamp("us")), ("f", pa.float64()), ("b", pa.binary())])),
        ),
        "null": pa.nulls(3),
        "bool": pa.array([True, False, None]),
        "": pa.array(["empty", "name", None]),
    }
    pq.write_table(pa.table(columns), path)
    first, second, third = fields(path)
    assert first == {
        "dictionary": "x",
        "large": "a",
        "binary": "text",
        "timestamp": "2024-02-29 12:30:01.000005",
        "nanosecond": "1970-01-01 00:00:00.000000001",
        "date": "2024-02-29",
        "decimal": "1.50",
        "duration": 5,
        "float": 1.5,
        "half": 1.5,
        "map": {"k": 1},
        "nested": [{"t": "2024-02-29 12:30:01.000005", "f": None, "b": "y"}],
        "null": None,
        "bool": True,
        "": "empty",
    }
    assert second["binary"] == b"\xff\xfe" and second["float"] is None and second["map"] == {}
    assert all(third[name] is None for name in third if name not in ("dictionary", "timestamp"))


def test_parquet_that_is_none_is_one_broken_record(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for body in (b"", b"PAR1", b"not parquet at all" * 100):
        path.write_bytes(body)
        items = read(path)
        assert [item.rule for item in items if isinstance(item, Broken)] == ["not_parquet"]
        assert isinstance(items[0], Broken) and items[0].digest == file_digest(path)
    assert column_names(str(path), "parquet") is None


def test_a_damaged_row_group_does_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"t": digest(str(i))} for i in range(300)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100, compression="zstd", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    body = bytearray(path.read_bytes())
    start = column.data_page_offset
    body[start : start + column.total_compressed_size] = b"\xa5" * column.total_compressed_size
    path.write_bytes(body)
    items = read(path)
    assert [item.fields for item in items if isinstance(item, Record)] == rows[:100] + rows[200:]
    (broken,) = [item for item in items if isinstance(item, Broken)]
    assert (broken.index, broken.rule) == (100, "corrupt_row_group")
    assert broken.evidence.startswith("row group 1, rows 100 to 199: ")


def test_parquet_text_that_is_not_utf8_breaks_its_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    raw = pa.array([b"one", b"tw\xff", b"three"])
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"a": text, "n": [1, 2, 3]}), path)
    assert outline(read(path)) == [(0, {"a": "one", "n": 1}), (1, "invalid_utf8"), (2, {"a": "three", "n": 3})]


def test_parquet_without_rows_and_with_equal_names(tmp_path: Path) -> None:
    empty = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), empty)
    assert read(empty) == [] and column_names(str(empty), "parquet") == ["a"]
    twice = tmp_path / "twice.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), twice)
    assert fields(twice) == [{"a": 1, "a#2": 2}]
    assert fields(twice, columns=["a"]) == [{"a": 1}]


def test_chunks_are_bounded(tmp_path: Path) -> None:
    rows = [{"t": "x" * 100_000} for _ in range(400)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", use_dictionary=False)
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    for name in ("a.parquet", "a.jsonl"):
        sizes = [len(chunk) for chunk in read_records(str(tmp_path / name), format_of(name))]  # type: ignore[arg-type]
        assert sum(sizes) == 400 and max(sizes) <= 200


# -- elsewhere


def test_remote_files_are_read(tmp_path: Path) -> None:
    import fsspec

    for name, body in FORMS.items():
        with fsspec.open(f"memory://there/{name}", "wb") as file:
            file.write(body)
        assert fields(f"memory://there/{name}") == ROWS
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    with fsspec.open("memory://there/a.parquet", "wb") as file:
        file.write((tmp_path / "a.parquet").read_bytes())
    assert fields("memory://there/a.parquet") == ROWS
    assert records.file_digest("memory://there/a.parquet") == file_digest(tmp_path / "a.parquet")


def test_a_file_that_cannot_be_opened_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read .*gone\.jsonl: .*No such file.* Check the path\.$"):
        read(tmp_path / "gone.jsonl")
