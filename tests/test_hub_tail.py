"""Files that are read while they arrive: in any order, by several readers, no byte asked for twice."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aya_data.builders import upstream
from aya_data.builders.hub.builder import HubBuilder
from aya_data.builders.hub.ranges import add, gaps
from aya_data.builders.hub.repository import (
    Backoff,
    RemoteFile,
    Repository,
    fetch,
    location,
    open_repository,
    stream,
    sweep,
    tail,
)
from aya_data.core.errors import CorruptPart, HubUnreachable, InputError
from aya_data.core.license import policy
from aya_data.core.stage import Environment, Unit
from tests.hub_server import HubServer

NAME = "owner/name"
SIZE = 100_000
CONTENT = bytes((i * i * 31 + i // 7) % 251 for i in range(SIZE))
QUICK = Backoff(sleep=lambda _: None)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    root = tmp_path / "upstream"
    root.mkdir()
    (root / "rows.parquet").write_bytes(CONTENT)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with HubServer({NAME: root}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def opened(tmp_path: Path) -> tuple[Repository, RemoteFile]:
    repository = open_repository(NAME, cache=tmp_path / "cache", backoff=QUICK)
    return repository, repository.files[0]


def test_what_a_tail_read_is_not_asked_for_again(hub: HubServer, tmp_path: Path) -> None:
    repository, file = opened(tmp_path)
    folder = tmp_path / "files"
    assert tail(repository, file, folder, 8) == CONTENT[-8:]
    assert tail(repository, file, folder, 1000) == CONTENT[-1000:]
    assert tail(repository, file, folder, 10) == CONTENT[-10:]
    assert fetch(repository, file, folder).read_bytes() == CONTENT
    assert hub.log.ranges(f"{NAME}/rows.parquet") == [(SIZE - 8, SIZE), (SIZE - 1000, SIZE - 8), (0, SIZE - 1000)]
    assert [path.name for path in folder.iterdir()] == [location(file, folder).name]
    asked = len(hub.log)
    assert tail(repository, file, folder, 2 * SIZE) == CONTENT
    assert len(hub.log) == asked


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, SIZE + 10), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, SIZE), max_size=3),
)
def test_no_order_of_events_reads_a_byte_twice(
    hub: HubServer, tmp_path_factory: pytest.TempPathFactory, sizes: list[int], cuts: list[int]
) -> None:
    base = tmp_path_factory.mktemp("tail")
    repository, file = opened(base)
    hub.log.clear()
    hub.faults.clear()
    for cut in cuts:
        hub.faults.add("/objects/*", cut_after=cut)
    for size in sizes:
        expected = CONTENT[max(0, SIZE - size) :]
        assert tail(repository, file, base / "files", size, backoff=QUICK) == expected
    assert fetch(repository, file, base / "files", backoff=QUICK).read_bytes() == CONTENT
    assert hub.log.read_twice() == 0


def test_a_partial_file_that_reaches_into_the_tail(hub: HubServer, tmp_path: Path) -> None:
    repository, file = opened(tmp_path)
    folder = tmp_path / "files"
    hub.faults.add("/objects/*", cut_after=90_000)
    with pytest.raises(HubUnreachable):
        fetch(repository, file, folder, backoff=Backoff(attempts=1))
    assert tail(repository, file, folder, 20_000) == CONTENT[-20_000:]
    asked = len(hub.log)
    assert fetch(repository, file, folder).read_bytes() == CONTENT
    assert len(hub.log) == asked


def test_a_server_without_ranges_still_ends_in_the_right_file(hub: HubServer, tmp_path: Path) -> None:
    repository, file = opened(tmp_path)
    folder = tmp_path / "files"
    tail(repository, file, folder, 500)
    hub.faults.add("/objects/*", ignore_range=True)
    assert fetch(repository, file, folder, backoff=QUICK).read_bytes() == CONTENT


def test_a_spoilt_tail_is_noticed_and_read_again(hub: HubServer, tmp_path: Path) -> None:
    repository, file = opened(tmp_path)
    folder = tmp_path / "files"
    hub.faults.add("/objects/*", flip=SIZE - 3)
    assert tail(repository, file, folder, 500) != CONTENT[-500:]
    assert fetch(repository, file, folder, backoff=QUICK).read_bytes() == CONTENT
    tail(repository, file, folder / "other", 500)
    hub.faults.add("/objects/*", flip=7, times=2)
    with pytest.raises(CorruptPart):
        fetch(repository, file, folder / "other", backoff=QUICK)


def test_what_nobody_finished_is_swept(hub: HubServer, tmp_path: Path) -> None:
    repository, file = opened(tmp_path)
    folder = tmp_path / "files"
    assert sweep(folder) == (0, 0)
    tail(repository, file, folder, 500)
    hub.faults.add("/objects/*", cut_after=1000)
    with pytest.raises(HubUnreachable):
        fetch(repository, file, folder, backoff=Backoff(attempts=1))
    assert sweep(folder) == (2, 1500)
    assert list(folder.iterdir()) == []
    fetch(repository, file, folder)
    assert sweep(folder) == (0, 0)
    assert location(file, folder).is_file()


@pytest.mark.parametrize(("said", "tries"), [("1", 1), ("3", 3), ("", 5)])
def test_the_environment_says_how_long_to_insist(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, tries: int
) -> None:
    monkeypatch.setenv("AYA_DATA_HUB_ATTEMPTS", said)
    hub.faults.add("revision", status=503, times=99)
    with pytest.raises(HubUnreachable):
        open_repository(NAME, cache=tmp_path / "cache", backoff=QUICK)
    assert len(hub.log) == tries
    with pytest.raises(HubUnreachable):
        open_repository(NAME, cache=tmp_path / "cache", backoff=Backoff(attempts=2, sleep=QUICK.sleep))
    assert len(hub.log) == tries + 2


@pytest.mark.parametrize("said", ["0", "-1", "five", "1.5", "1000", "٣"])
def test_a_wrong_number_of_attempts(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("AYA_DATA_HUB_ATTEMPTS", said)
    hub.faults.add("revision", status=503)
    with pytest.raises(InputError) as caught:
        open_repository(NAME, cache=tmp_path / "cache", backoff=QUICK)
    assert str(caught.value) == (f"AYA_DATA_HUB_ATTEMPTS is {said!r}. Set it to a number from 1 to 999, or unset it.")


# While it arrives.


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=12), st.integers(0, 60), st.integers(0, 30))
def test_ranges_are_sets_of_bytes(pieces: list[tuple[int, int]], start: int, size: int) -> None:
    spans: list[tuple[int, int]] = []
    held: set[int] = set()
    for first, length in pieces:
        add(spans, first, first + length)
        held |= set(range(first, first + length))
    assert {at for first, last in spans for at in range(first, last)} == held
    assert all(one[1] < two[0] for one, two in pairwise(spans))
    missing = gaps(spans, start, start + size)
    assert [at for first, last in missing for at in range(first, last)] == sorted({*range(start, start + size)} - held)
    assert all(first < last for first, last in missing)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    reads=st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, 40_000)), max_size=6),
    cuts=st.lists(st.integers(0, 50_000), max_size=3),
    block=st.sampled_from([1, 3000, 70_000]),
)
def test_reading_in_any_order_is_reading_the_file(
    hub: HubServer,
    tmp_path_factory: pytest.TempPathFactory,
    reads: list[tuple[int, int]],
    cuts: list[int],
    block: int,
) -> None:
    base = tmp_path_factory.mktemp("stream")
    repository, file = opened(base)
    hub.log.clear()
    hub.faults.clear()
    for cut in cuts:
        hub.faults.add("/objects/*", cut_after=cut)
    for at, size in reads:  # each by a reader of its own, as after so many kills
        with stream(repository, file, base / "files", backoff=QUICK, block=block) as arriving:
            handle = arriving.open()
            handle.seek(at)
            assert handle.read(size) == CONTENT[at : at + size]
    with stream(repository, file, base / "files", backoff=QUICK, block=block) as arriving:
        assert arriving.open().read() == CONTENT
        assert not location(file, base / "files").exists()
        arriving.finish()
    assert location(file, base / "files").read_bytes() == CONTENT
    assert [path.name for path in (base / "files").iterdir()] == [location(file, base / "files").name]
    assert sum(entry.sent for entry in hub.log if entry.file) == SIZE
    assert hub.log.read_twice() == 0


def test_readers_in_several_processes_share_what_each_brings(hub: HubServer, tmp_path: Path) -> None:
    opened(tmp_path)
    script = f"""
import hashlib, sys
from pathlib import Path
from aya_data.builders.hub.repository import open_repository, stream
repository = open_repository({NAME!r}, {hub.commit(NAME)!r}, cache=Path({str(tmp_path / "cache")!r}))
with stream(repository, repository.files[0], Path({str(tmp_path / "files")!r}), block=2000) as arriving:
    handle = arriving.open()
    handle.seek(int(sys.argv[1]))
    while handle.read(1500):
        pass
    arriving.finish()
    handle.seek(0)
    print(hashlib.sha256(handle.read()).hexdigest())
"""
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(start)], stdout=subprocess.PIPE, text=True)
        for start in (0, 0, 60_000)
    ]
    answers = {process.communicate()[0] for process in running}
    assert len(answers) == 1 and all(process.returncode == 0 for process in running)
    assert sum(entry.sent for entry in hub.log if entry.file) == SIZE


def test_what_was_read_counts_only_for_the_file_that_was_checked(hub: HubServer, tmp_path: Path) -> None:
    repository, file = opened(tmp_path)
    folder = tmp_path / "files"
    hub.faults.add("/objects/*", flip=50_000)
    with stream(repository, file, folder, block=SIZE) as one, stream(repository, file, folder) as two:
        assert one.open().read() == two.open().read() != CONTENT
        with pytest.raises(CorruptPart) as caught:
            one.finish()
        assert caught.value.path == f"{NAME}@{repository.commit[:12]}/rows.parquet"
        assert caught.value.expected == file.digest
        # The second reader read the same bytes: a good file under that name does not make them good.
        assert fetch(repository, file, folder).read_bytes() == CONTENT
        with pytest.raises(CorruptPart):
            two.finish()
    with stream(repository, file, folder) as again:
        assert again.open().read() == CONTENT
        again.finish()


def test_a_record_of_bytes_that_a_power_cut_took_is_not_believed(hub: HubServer, tmp_path: Path) -> None:
    repository, file = opened(tmp_path)
    folder = tmp_path / "files"
    with stream(repository, file, folder) as arriving:
        arriving.bring(0, 50_000)
    (partial,) = folder.glob("*.incomplete")
    os.truncate(partial, 20_000)  # the record says more than the file has
    with stream(repository, file, folder) as arriving:
        assert arriving.open().read() == CONTENT
        arriving.finish()
    # ... and a record whose own end is torn, of bytes that are gone from the middle
    location(file, folder).unlink()
    with stream(repository, file, folder) as arriving:
        arriving.bring(0, 50_000)
    (partial,) = folder.glob("*.incomplete")
    partial.write_bytes(bytes(50_000))
    (record,) = folder.glob("*.ranges")
    with open(record, "ab") as torn:
        torn.write(b"torn")
    assert fetch(repository, file, folder).read_bytes() == CONTENT


# Rows.


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of some kilobytes are streamed and cut as large ones are."""
    monkeypatch.setattr(upstream, "FETCHED", 0)
    monkeypatch.setattr(upstream, "LARGE", 20_000)
    monkeypatch.setattr(upstream, "PIECE", 20_000)


def sayings(count: int) -> list[dict[str, Any]]:
    return [{"question": f"Neden {n}, niçin {n * n}?", "reply": f"Çünkü {n**5}.\n" * 3} for n in range(count)]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    match "".join(path.suffixes):
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100, compression="none")
        case ".jsonl":
            path.write_text(text, encoding="utf-8")
        case ".jsonl.gz":
            path.write_bytes(gzip.compress(text.encode()))
        case ".jsonl.zst":
            path.write_bytes(pa.compress(text.encode(), "zstd", asbytes=True))
        case ".json":
            path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        case ".csv":
            lines = [f'{row["question"].replace(",", ";")},"{row["reply"]}"' for row in rows]
            path.write_text("\n".join(["question,reply", *lines]), encoding="utf-8")


def builder(cache: Path, where: str | None = None) -> HubBuilder:
    settings = {
        "repo": "people/sayings",
        "location": where,
        "columns": {"prompt": "question", "answer": "reply"},
        "language": {"constant": "tur"},
        "license": {"assume": "MIT", "reason": "ours"},
    }
    environment = Environment(cache.parent, cache, False, 7, None, policy("any"), False)
    return HubBuilder("sayings", HubBuilder.Settings.model_validate(settings), environment)


def rows_of(source: HubBuilder, units: list[Unit]) -> tuple[int, list[tuple[Any, ...]]]:
    batches = [batch for unit in units for batch in source.read(unit)]
    drafts = [(draft.key, draft.messages, draft.place) for batch in batches for draft in batch.drafts]
    rejections = [(refused.key, refused.place, refused.rule) for batch in batches for refused in batch.rejections]
    return sum(batch.records for batch in batches), sorted([*drafts, *rejections])


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json", "a.csv"])
def test_a_file_on_the_hub_gives_the_rows_of_the_file_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None, name: str
) -> None:
    write(tmp_path / "up" / name, sayings(1500))
    expected = rows_of(here := builder(tmp_path / "none", str(tmp_path / "up")), here.units())
    assert expected[0] == 1500
    with HubServer({"people/sayings": tmp_path / "up"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        there = builder(tmp_path / "cache")
        units = there.units()
        assert (len(units) > 2) == (name == "a.parquet")
        # In any order, and begun before another has ended.
        started = [there.read(unit) for unit in units]
        for batches in started[:2]:
            next(batches, None)
            batches.close()  # type: ignore[attr-defined]
        assert rows_of(there, units[::-1]) == expected
        assert server.log.read_twice() == 0
        assert sum(entry.sent for entry in server.log if entry.file) == (tmp_path / "up" / name).stat().st_size
        asked = len(server.log)
        assert rows_of(there, units) == expected
        assert len(server.log) == asked


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz"])
def test_rows_are_there_before_the_last_byte_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None, name: str
) -> None:
    # White noise in hexadecimal digits, so that compression leaves more than the first request takes.
    noise = [os.urandom(1000).hex() for _ in range(4500)]
    write(tmp_path / "up" / name, [{"question": "?", "reply": text} for text in noise])
    size = (tmp_path / "up" / name).stat().st_size
    assert size > 4 << 20
    with HubServer({"people/sayings": tmp_path / "up"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        source = builder(tmp_path / "cache")
        unit = source.units()[0]
        got = threading.Event()
        waited: list[bool] = []
        # The server answers two requests, then none before the reader has rows.
        server.faults.add("/objects/*", skip=2, before=lambda: waited.append(got.wait(60)))
        batches = source.read(unit)
        first = next(batches)
        sent = sum(entry.sent for entry in server.log if entry.file)
        got.set()
        assert first.records > 0 and sent < size
        for _ in batches:
            pass
        assert waited == [True]
        assert sum(entry.sent for entry in server.log if entry.file) == size


def test_a_piece_of_a_parquet_file_is_read_without_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    write(tmp_path / "up" / "a.parquet", [{"question": "?", "reply": os.urandom(5000).hex()} for _ in range(1000)])
    size = (tmp_path / "up" / "a.parquet").stat().st_size
    with HubServer({"people/sayings": tmp_path / "up"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        source = builder(tmp_path / "cache")
        units = source.units()
        assert len(units) == upstream.PIECES
        batches = source.read(units[3])
        next(batches)
        # Its own bytes and the footer, nothing of the pieces before and behind it.
        spans = [span for span in server.log.ranges("people/sayings/a.parquet") if span[0] < size * 7 // 8]
        assert size * 3 // 8 <= min(spans)[0] and max(stop for _, stop in spans) <= size * 5 // 8
        batches.close()  # type: ignore[attr-defined]


def test_what_is_no_parquet_is_one_rejection_however_it_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    write(tmp_path / "up" / "b.parquet", sayings(100))
    (tmp_path / "up" / "a.parquet").write_bytes(b"not Parquet " * 10_000)
    with HubServer({"people/sayings": tmp_path / "up"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        source = builder(tmp_path / "cache")
        units = [unit for unit in source.units() if unit.name == "a.parquet"]
        records, rows = rows_of(source, units)
        assert len(units) > 2 and records == 1
        assert rows[0][1:] == (("a.parquet", 0), "not_parquet")
        assert server.log.read_twice() == 0


def test_trouble_with_the_hub_is_no_damage_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    monkeypatch.setenv("AYA_DATA_HUB_ATTEMPTS", "1")
    for name in ("a.parquet", "a.jsonl.gz"):
        rows = [{"question": "?", "reply": os.urandom(2000).hex()} for _ in range(1000)]
        write(tmp_path / name / name, rows)
        with HubServer({"people/sayings": tmp_path / name}) as server:
            monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
            source = builder(tmp_path / "cache")
            units = source.units()
            server.faults.add("/objects/*", status=503, skip=1)
            with pytest.raises(HubUnreachable, match="HTTP 503"):
                rows_of(source, units)
            assert rows_of(source, units)[0] == 1000
            assert server.log.read_twice() == 0
