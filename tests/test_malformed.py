"""Malformed rows of every kind end in the ledger with their place, and the build goes on.

One build over files that break in each way that files of the world break: the good rows around every broken
one are released, every broken one is named by rule, file and record number, and no row is lost or counted twice.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aya_data import api
from aya_data.engine.run import Build

HEADER = "policy: research\nname: dirty\n"
COMMON = "language: eng\n    license: {assume: CC0-1.0, reason: written for this test}"


def good(name: str, number: int) -> dict[str, Any]:
    """A record that nothing is wrong with."""
    return {"q": f"What is said of {name} {number}?", "a": f"That {name} {number} is in order."}


def as_line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=True).encode()


BROKEN_LINES: list[tuple[bytes, str]] = [
    (b'{"q": "cut off', "not_json"),
    (b'{"q": "What?", "a": "bad \xff\xfe bytes"}', "invalid_utf8"),
    (b'{"q": "What?", "a": "half a pair: \\ud83d"}', "invalid_unicode"),
    (b'{"q": "What?", "a": null}', "not_text"),
    (b'{"q": null, "a": "An answer to nothing."}', "not_text"),
    (b'{"q": "What?", "a": true}', "not_text"),
    (b'{"q": "What?", "a": {"deep": {"er": 1}}}', "not_text"),
    (b'{"q": "What?", "a": ["x", "y"]}', "not_text"),
    (b'{"q": "What?"}', "missing_column"),
    (b'{"q": "What?", "a": "   "}', "empty_answer"),
    (b'{"q": "", "a": "An answer."}', "empty_prompt"),
    (b'["a", "list", "is", "no", "record"]', "not_object"),
    (b'"neither is a text"', "not_object"),
    (b"17", "not_object"),
    (b'{"q": "What?", "a": "one", "a": "two"}', "duplicate_key"),
    (b'{"q": "What?", "a": NaN}', "not_finite"),
    (b'{"q": "What?", "a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "too_deep"),
    (b'{"q": "What?", "a": "' + b"x" * 10_000_000 + b'"}', "oversized_cell"),
    (b'{"q": "What?", "a": "fine", "other": "' + b"y" * 10_000_000 + b'"}', "oversized_cell"),
]
"""Lines of JSON, and the rule that names what is wrong with each."""

BROKEN_MESSAGES: list[tuple[Any, str]] = [
    (None, "no_messages"),
    ([], "no_messages"),
    ("no list at all", "not_a_list"),
    ([None], "not_a_message"),
    ([{"role": "user", "content": "Hello?"}], "wrong_last_role"),
    ([{"role": "user", "content": None}, {"role": "assistant", "content": "Hm."}], "not_text"),
    ([{"role": None, "content": "Hello?"}, {"role": "assistant", "content": "Hm."}], "unknown_role"),
    ([{"role": "narrator", "content": "Hello?"}, {"role": "assistant", "content": "Hm."}], "unknown_role"),
    ([{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": ""}], "empty_answer"),
    (
        [{"role": "user", "content": [{"type": "image", "url": "x"}]}, {"role": "assistant", "content": "Hm."}],
        "not_text",
    ),
]


def write_lines(folder: Path) -> dict[str, list[tuple[int, str]]]:
    lines: list[bytes] = []
    expected = []
    for number, (line, rule) in enumerate(BROKEN_LINES):
        lines += [as_line(good("line", number)), line]
        expected.append((2 * number + 1, rule))
    lines.append(as_line(good("line", len(BROKEN_LINES))))
    (folder / "lines.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return {"data/lines.jsonl": expected}


def write_messages(folder: Path) -> dict[str, list[tuple[int, str]]]:
    lines = []
    for number, (messages, _) in enumerate(BROKEN_MESSAGES):
        record = good("turn", number)
        turns = [{"role": "user", "content": record["q"]}, {"role": "assistant", "content": record["a"]}]
        lines += [as_line({"messages": turns}), as_line({"messages": messages})]
    (folder / "messages.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return {"data/messages.jsonl": [(2 * n + 1, rule) for n, (_, rule) in enumerate(BROKEN_MESSAGES)]}


def write_tables(folder: Path) -> dict[str, list[tuple[int, str]]]:
    """CSV with open quotes and short lines; TSV; Parquet files whose schemas differ, one that is none."""
    rows = [good("cell", n) for n in range(6)]
    csv = ["q,a", *(f'"{r["q"]}","{r["a"]}"' for r in rows[:2]), '"x" y,z', "too,many,cells"]
    csv += [f'"{rows[2]["q"]}","{rows[2]["a"]}"', "alone", "nul\0byte,x", '"an open quote,and no end', ""]
    (folder / "a.csv").write_text("\n".join(csv) + "\n")
    (folder / "b.tsv").write_text(
        "q\ta\n" + "".join(f"{r['q']}\t{r['a']}\n" for r in rows[3:5]) + 'an "odd" quote\tok\n'
    )
    pq.write_table(pa.table({"q": [r["q"] for r in rows[5:]], "a": [r["a"] for r in rows[5:]]}), folder / "c.parquet")
    numbers = {
        "q": pa.array([None, "How many is two and two?"]),
        "a": pa.array([1, 4], pa.int64()),
        "more": pa.array([1.5, None]),
    }
    pq.write_table(pa.table(numbers), folder / "d.parquet")
    pq.write_table(pa.table({"question": ["Another name?"], "a": ["Yes."]}), folder / "e.parquet")
    structs = pa.array([{"text": "A struct?"}, None], pa.struct([("text", pa.string())]))
    pq.write_table(
        pa.table({"q": structs, "a": pa.array([b"Bytes that are text.", b"\xff\xfe"])}), folder / "f.parquet"
    )
    (folder / "g.parquet").write_bytes(b"PAR1 this is not Parquet PAR1")
    return {
        "data/a.csv": [
            (2, "stray_quote"),
            (3, "field_count"),
            (5, "field_count"),
            (6, "nul_byte"),
            (7, "unclosed_quote"),
        ],
        "data/b.tsv": [],
        "data/d.parquet": [(0, "not_text")],
        "data/e.parquet": [(0, "missing_column")],
        "data/f.parquet": [(1, "not_text")],
        "data/g.parquet": [(0, "not_parquet")],
    }


def write_archives(folder: Path) -> dict[str, list[tuple[int, str]]]:
    """A gzip file that ends too early, one with a wrong byte, and a JSON array that is cut off."""
    lines = [as_line({"q": f"What about {n}?", "a": f"It is {n * n * 7919}, by {n}."}) for n in range(400)]
    packed = gzip.compress(b"\n".join(lines), mtime=0)
    (folder / "torn.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    array = json.dumps([good("item", n) for n in range(5)])
    (folder / "cut.json").write_text(array[: array.index("item 4")])
    (folder / "empty.jsonl").write_bytes(b"")
    return {}


SPEC = (
    HEADER
    + f"""sources:
  lines:
    builder: files
    path: data/lines.jsonl
    columns: {{prompt: q, answer: a}}
    {COMMON}
  talks:
    builder: files
    path: data/messages.jsonl
    columns: {{messages: messages}}
    {COMMON}
  tables:
    builder: files
    path: [data/*.csv, data/*.tsv, data/*.parquet]
    unreadable: drop
    columns: {{prompt: q, answer: a}}
    {COMMON}
  archives:
    builder: files
    path: [data/torn.jsonl.gz, data/cut.json, data/empty.jsonl]
    columns: {{prompt: q, answer: a}}
    {COMMON}
filters: [license]
"""
)

Expected = dict[str, list[tuple[int, str]]]


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Build, Expected, list[dict[str, Any]]]]:
    """The build, what is expected of each file, and the ledger."""
    home = tmp_path_factory.mktemp("dirty")
    data = home / "data"
    data.mkdir()
    expected: Expected = {}
    for write in (write_lines, write_messages, write_tables, write_archives):
        expected |= write(data)
    (home / "dirty.yaml").write_text(SPEC)
    done = api.build(home / "dirty.yaml", workspace=home / "workspace", workers=1)
    ledger = duckdb.sql(f"SELECT * FROM read_parquet('{done.result.path}/ledger/ledger-*.parquet')").to_arrow_table()
    yield done, expected, ledger.to_pylist()


def test_every_broken_row_is_named_with_its_place(dirty: tuple[Build, Expected, list[dict[str, Any]]]) -> None:
    _, expected, ledger = dirty
    found: dict[str, list[tuple[int, str]]] = {file: [] for file in expected}
    for entry in ledger:
        if entry["file"] in found and entry["outcome"] == "dropped":
            found[entry["file"]].append((entry["row"], entry["rule"]))
    assert {file: sorted(rows) for file, rows in found.items()} == expected


def test_good_rows_around_the_broken_ones_are_released(dirty: tuple[Build, Expected, list[dict[str, Any]]]) -> None:
    done, _, _ = dirty
    rows = duckdb.sql(
        f"SELECT source, provenance.file AS file, messages[-1].content AS answer "
        f"FROM read_parquet('{done.result.path}/data/*/*.parquet', hive_partitioning=false)"
    ).fetchall()
    by_file = Counter(file for _, file, _ in rows)
    assert by_file["data/lines.jsonl"] == len(BROKEN_LINES) + 1
    assert by_file["data/messages.jsonl"] == len(BROKEN_MESSAGES)
    assert by_file["data/a.csv"] == 3
    assert by_file["data/b.tsv"] == 3
    assert by_file["data/cut.json"] == 4
    # What stands before the tear is there, whole; nothing behind it is made up.
    whole = [answer for _, file, answer in rows if file == "data/torn.jsonl.gz"]
    assert 0 < len(whole) < 400
    assert all(int(a.split(",")[0].removeprefix("It is ")) == int(a.split("by ")[1][:-1]) ** 2 * 7919 for a in whole)
    answers = {answer for _, file, answer in rows if file in ("data/d.parquet", "data/f.parquet")}
    assert answers == {"4", "Bytes that are text."}


def test_a_torn_archive_and_a_cut_array_are_named(dirty: tuple[Build, Expected, list[dict[str, Any]]]) -> None:
    _, _, ledger = dirty
    dropped = {(e["file"], e["rule"]) for e in ledger if e["source"] == "archives"}
    assert {file for file, _ in dropped} == {"data/torn.jsonl.gz", "data/cut.json"}


def test_nothing_is_lost_and_nothing_counted_twice(dirty: tuple[Build, Expected, list[dict[str, Any]]]) -> None:
    done, _, ledger = dirty
    for stage in done.stages:
        counts = stage.counts
        entered = counts["rows_in"] + counts["created"]
        left = sum(counts[n] for n in ("rows_out", "dropped", "merged", "not_sampled", "consumed"))
        assert entered == left, stage
        said = Counter(e["outcome"] for e in ledger if e["stage"] == stage.name)
        assert said["dropped"] == counts["dropped"], stage
    places = Counter((e["file"], e["row"]) for e in ledger if e["file"])
    assert not [place for place, times in places.items() if times > 1]


def test_the_ledger_stays_small_and_storable(dirty: tuple[Build, Expected, list[dict[str, Any]]]) -> None:
    _, _, ledger = dirty
    for entry in ledger:
        assert all(len(value) <= 300 for value in entry.values() if isinstance(value, str)), entry["rule"]
        assert len(entry["row_key"]) == 32
