"""The store: results under keys, canonical Parquet, records that check themselves."""

from __future__ import annotations

import gc
import itertools
import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aya_data.core.errors import CorruptPart
from aya_data.core.logical import combined_digest, logical_digest
from aya_data.core.store import PartWriter, Record, Store, Workspace, file_digest, open_part, write_table

KEY = "ab" + "0" * 30


def commit(store: Store, key: str = KEY, rows: int = 5) -> Record:
    output = store.output(key, "stage")
    output.write("rows", pa.table({"a": list(range(rows))}))
    output.write("rows", pa.table({"a": [7]}))
    return output.commit({"stage": {"rows_in": rows}}, {"fact": [1, "ü"]})


def test_a_result_exists_when_its_record_does(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.get(KEY) is None
    output = store.output(KEY, "stage")
    output.write("rows", pa.table({"a": [1]}))
    assert store.get(KEY) is None
    record = output.commit()
    assert store.get(KEY) == record
    assert [p.path for p in store.parts(record)] == [f"a/{KEY}/rows-00000.parquet"]


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = commit(store)
    found = store.get(KEY)
    assert found is not None and found == record
    assert found.facts == {"fact": [1, "ü"]} and found.counts == {"stage": {"rows_in": 5}}
    assert store.read(found.parts["rows"][0])["a"].to_pylist() == [0, 1, 2, 3, 4]
    assert Record.load(json.loads(json.dumps(record.dump()))) == record


def test_no_bit_of_a_record_goes_unnoticed(tmp_path: Path) -> None:
    """Whatever bit is flipped, the record is not served as if it were right."""
    store = Store(tmp_path)
    record = commit(store)
    path = store.folder(KEY) / "record.json"
    data = path.read_bytes()
    for place in range(0, len(data) * 8, 7):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(changed))
        try:
            found = store._record(KEY)
        except ValueError:
            continue
        assert found == record, changed[place // 8 - 20 : place // 8 + 20]


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"key": 1}', "\x00", "{", '{"check": ""}'])
def test_a_record_that_is_none_is_named_and_made_anew(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    commit(store)
    (store.folder(KEY) / "record.json").write_text(text)
    [(part, what)] = store.verify()
    assert part.path == f"a/{KEY}/record.json" and what.startswith("not a record: ")
    assert store.get(KEY) is None
    assert not store.folder(KEY).exists()
    commit(store)
    assert not list(store.verify())


def test_the_record_of_another_key_is_not_served(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store)
    other = "cd" + "0" * 30
    store.folder(other).mkdir(parents=True)
    (store.folder(other) / "record.json").write_bytes((store.folder(KEY) / "record.json").read_bytes())
    assert [what for _, what in store.verify()] == [f"the record of {KEY}"]
    assert store.get(other) is None


@pytest.mark.parametrize("how", ["flipped", "torn", "gone"])
def test_damage_is_found_when_read(tmp_path: Path, how: str) -> None:
    store = Store(tmp_path)
    part = commit(store).parts["rows"][0]
    path = tmp_path / part.path
    data = path.read_bytes()
    match how:
        case "flipped":
            path.write_bytes(data[:40] + bytes([data[40] ^ 4]) + data[41:])
        case "torn":
            path.write_bytes(data[:-9])
        case _:
            path.unlink()
    [(named, _)] = store.verify()
    assert named == part
    for attempt in (store.read, store.check):
        with pytest.raises(CorruptPart) as caught:
            attempt(part)
        assert str(path) in str(caught.value) and "made anew" in str(caught.value)
    assert store.get(KEY) is None


def test_collect_keeps_what_it_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keys = [f"{n:032x}" for n in range(6)]
    for key in keys:
        commit(store, key)
    (store.folder("f" * 32)).mkdir(parents=True)
    removed, size = store.collect(keys[:2])
    assert removed == 5 and size > 0
    assert sorted(store.keys()) == keys[:2]
    assert Store(tmp_path / "nothing").collect([]) == (0, 0)


def test_collect_leaves_nothing_where_nobody_looks(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store, KEY)
    shutil.copytree(store.folder(KEY), tmp_path / KEY[:2] / KEY)
    size = sum(path.stat().st_size for path in store.folder(KEY).iterdir())
    (tmp_path / "9").mkdir()
    assert list(store.keys()) == [KEY]
    assert store.collect([KEY]) == (1, size)
    assert [path.name for path in tmp_path.iterdir()] == [KEY[:1]]
    assert store.get(KEY) is not None and list(store.verify()) == []


# Canonical Parquet ---------------------------------------------------------------------------------------

TABLES = st.lists(
    st.tuples(st.integers(0, 5), st.text(max_size=4), st.none() | st.floats(allow_nan=False)), max_size=60
)


def table(rows: list[tuple[int, str, float | None]]) -> pa.Table:
    return pa.table(
        {
            "n": pa.array([r[0] for r in rows], pa.int64()),
            "s": pa.array([r[1] for r in rows], pa.string()),
            "f": pa.array([r[2] for r in rows], pa.float64()),
            "l": pa.array([[r[1]] * (r[0] % 3) if r[0] else None for r in rows], pa.list_(pa.string())),
            "m": pa.array([[(r[1], r[1])] for r in rows], pa.map_(pa.string(), pa.string())),
            "t": pa.array([{"x": r[1], "row": r[0]} for r in rows], pa.struct({"x": pa.string(), "row": pa.int64()})),
        }
    )


@given(TABLES, st.lists(st.integers(1, 60), max_size=6), st.integers(1, 20))
def test_how_tables_are_written_leaves_no_trace(rows: list[Any], cuts: list[int], row_group: int) -> None:
    """Written at once or in pieces: the same bytes, and the rows come back."""
    import io

    whole = table(rows)

    def written(pieces: list[pa.Table]) -> bytes:
        buffer = io.BytesIO()
        writer = PartWriter(buffer, whole.schema, row_group)
        for piece in pieces:
            writer.write(piece)
        size, _ = writer.close()
        assert size == len(buffer.getvalue())
        return buffer.getvalue()

    edges = [0, *sorted(c for c in cuts if c < len(rows)), len(rows)]
    pieces = [whole.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    data = written([whole])
    assert written(pieces) == data
    assert written([pa.concat_tables(pieces)] if pieces else []) == data
    found = pq.ParquetFile(io.BytesIO(data))
    assert found.read() == whole
    sizes = [found.metadata.row_group(i).num_rows for i in range(found.metadata.num_row_groups)]
    assert all(size == row_group for size in sizes[:-1])


def test_row_groups_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    with open_part(path, pa.schema({"a": pa.int64()})) as (writer, done):
        for size in (3, 1, 4):
            writer.write(pa.table({"a": list(range(size))}), whole=True)
    metadata = pq.ParquetFile(path).metadata
    assert [metadata.row_group(i).num_rows for i in range(3)] == [3, 1, 4]
    assert (done[0].rows, done[0].bytes, done[0].digest) == (8, path.stat().st_size, file_digest(path))


@given(TABLES, st.integers(1, 10))
def test_the_logical_digest_is_of_what_a_table_says(rows: list[Any], chunk: int) -> None:
    """Not of its chunks, its encoding, the width of its types, or the order of its columns."""
    whole = table(rows)
    said = logical_digest(whole)
    chunks = [whole.slice(start, chunk) for start in range(0, len(rows), chunk)]
    assert logical_digest(pa.concat_tables(chunks) if chunks else whole) == said
    assert logical_digest(whole.select(list(reversed(whole.column_names)))) == said
    encoded = whole.set_column(1, "s", whole["s"].dictionary_encode())
    assert logical_digest(encoded) == said
    wide = whole.set_column(1, "s", whole["s"].cast(pa.large_string())).set_column(0, "n", whole["n"].cast(pa.int32()))
    assert logical_digest(wide) == said
    padded = pa.concat_tables([whole, whole]).combine_chunks().slice(len(rows), len(rows))
    assert logical_digest(padded) == said


@given(TABLES, st.integers(0, 59), st.integers(0, 5))
def test_the_logical_digest_sees_every_value(rows: list[Any], place: int, column: int) -> None:
    if not rows:
        return
    place %= len(rows)
    n, s, f = rows[place]
    changed = [*rows]
    changed[place] = [(n + 1, s, f), (n, s + "x", f), (n, s, None if f is not None else 1.5)][column % 3]
    assert logical_digest(table(changed)) != logical_digest(table(rows))
    if rows != list(reversed(rows)):
        assert logical_digest(table(list(reversed(rows)))) != logical_digest(table(rows))


def test_where_a_row_was_found_is_not_what_it_says() -> None:
    def rows(file: str, row: int, config: str) -> pa.Table:
        return pa.table({"provenance": [{"file": file, "row": row, "revision": file, "config": config}], "a": [1]})

    assert logical_digest(rows("x", 1, "c")) == logical_digest(rows("y", 2, "c"))
    assert logical_digest(rows("x", 1, "c")) != logical_digest(rows("x", 1, "d"))
    assert combined_digest([("a", "1"), ("b", "2")]) == combined_digest([("b", "2"), ("a", "1")])
    assert combined_digest([("a", "1")]) != combined_digest([("a", "2")])


# The workspace -------------------------------------------------------------------------------------------


def test_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_hold_and_die, args=(workspace.root,))
    child.start()
    child.join()
    assert child.exitcode == 3
    child.close()
    (workspace.root / "store").mkdir()
    (workspace.root / "store" / "left.tmp").write_text("half")
    with workspace.hold("command"):
        assert "(command)" in (workspace.root / "lock").read_text()
        assert not (workspace.root / "store" / "left.tmp").exists()
    assert (workspace.root / "lock").read_text() == ""


def _hold_and_die(root: Path) -> None:
    import os

    with Workspace(root).hold("a command that is killed"):
        os._exit(3)


def test_a_part_is_whole_or_not_at_all(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What breaks while a part is written is told once, by its own error."""
    rows = pa.table({"a": list(range(20_000))})
    with (
        pytest.raises(RuntimeError, match="broken"),
        open_part(tmp_path / "part.parquet", rows.schema) as (writer, done),
    ):
        writer.write(rows)
        raise RuntimeError("broken")
    del writer
    gc.collect()
    assert not done and not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""
    assert write_table(tmp_path / "part.parquet", rows).rows == 20_000
