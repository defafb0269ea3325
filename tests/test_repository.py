"""Reading from the Hub: what is pinned, what is retried, what is resumed, what is said."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aya_data.builders.hub.repository import (
    Backoff,
    RemoteFile,
    Repository,
    fetch,
    location,
    open_repository,
    stream,
)
from aya_data.core.errors import (
    AyaDataError,
    CorruptPart,
    HubUnreachable,
    InputError,
    NotFound,
    WorkspaceUnusable,
)
from tests.hub_server import Fault, HubServer

AYA = "CohereLabs/aya_dataset"
BIG = "data/train-00000-of-00001.parquet"
SECRET = "hf_averysecrettoken"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository folder: a card, a large file of 300,000 bytes, a small one in a folder."""
    root = tmp_path / "upstream"
    (root / "data").mkdir(parents=True)
    (root / "README.md").write_text("# Aya\n", encoding="utf-8")
    (root / BIG).write_bytes(_noise(300_000))
    (root / "data" / "demo graphics.jsonl").write_text('{"age": 3}\n', encoding="utf-8")
    return root


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer({AYA: folder}, renamed={"CohereForAI/aya_dataset": AYA}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def backoff(waits: list[float]) -> Backoff:
    return Backoff(sleep=waits.append)


@functools.cache
def _noise(size: int) -> bytes:
    return bytes((i * i * 31 + i // 7) % 251 for i in range(size))


def _named(repository: Repository, path: str) -> RemoteFile:
    return next(file for file in repository.files if file.path == path)


# Pinning and listing.


def test_a_branch_is_pinned_to_its_commit(hub: HubServer, tmp_path: Path) -> None:
    repository = open_repository(AYA, cache=tmp_path / "cache")
    assert repository.commit == hub.commit(AYA)
    assert (repository.id, repository.revision, repository.type) == (AYA, "main", "dataset")
    assert [file.path for file in repository.files] == [
        "README.md",
        "data/demo graphics.jsonl",
        BIG,
    ]
    assert [file.digest.partition(":")[0] for file in repository.files] == ["git", "git", "sha256"]
    assert _named(repository, BIG).size == 300_000


def test_a_branch_that_moves_changes_nothing(hub: HubServer, folder: Path, tmp_path: Path, backoff: Backoff) -> None:
    before = (folder / BIG).read_bytes()

    def move() -> None:
        (folder / BIG).write_bytes(before[::-1])
        hub.move_branch(AYA, "main", folder)

    # Once between the pin and the listing, and once more between the listing and the bytes.
    hub.faults.append(Fault("*/tree/*", before=move))
    repository = open_repository(AYA, cache=tmp_path / "cache", backoff=backoff)
    assert repository.commit != hub.commit(AYA)
    hub.faults.append(Fault("resolve", before=move))
    brought = fetch(repository, _named(repository, BIG), tmp_path / "files", backoff=backoff)
    assert brought.read_bytes() == before
    content = [entry.path for entry in hub.log if "/resolve/" in entry.path]
    assert content and all(repository.commit in path for path in content)


def test_a_file_that_two_commits_share_is_read_once(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    first = open_repository(AYA, cache=tmp_path / "cache")
    brought = [fetch(first, file, tmp_path / "files") for file in first.files]
    (folder / "README.md").write_text("# Aya, corrected\n", encoding="utf-8")
    hub.move_branch(AYA, "main", folder)
    second = open_repository(AYA, cache=tmp_path / "cache")
    assert second.commit != first.commit
    again = [fetch(second, file, tmp_path / "files") for file in second.files]
    assert again[1:] == brought[1:] and again[0] != brought[0]
    assert hub.log.read_twice() == 0
    assert len(hub.log.ranges(f"{AYA}/{BIG}")) == 1


def test_a_pinned_commit_needs_no_network_the_second_time(hub: HubServer, tmp_path: Path) -> None:
    repository = open_repository(AYA, cache=tmp_path / "cache")
    asked = len(hub.log)
    again = open_repository(AYA, repository.commit, cache=tmp_path / "cache")
    assert (again.files, again.commit) == (repository.files, repository.commit)
    assert len(hub.log) == asked


def test_a_torn_listing_is_asked_for_again(hub: HubServer, tmp_path: Path) -> None:
    repository = open_repository(AYA, cache=tmp_path / "cache")
    (listing,) = (tmp_path / "cache").iterdir()
    listing.write_bytes(listing.read_bytes()[:40])
    assert open_repository(AYA, repository.commit, cache=tmp_path / "cache").files == (repository.files)


def test_tags_commits_and_branches_are_revisions(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    hub.tag(AYA, "v1.0")
    old = hub.commit(AYA)
    (folder / "new.txt").write_text("x", encoding="utf-8")
    hub.move_branch(AYA, "refs/pr/1", folder)
    for revision, commit in (
        ("v1.0", old),
        (old, old),
        ("refs/pr/1", hub.commit(AYA, "refs/pr/1")),
    ):
        assert open_repository(AYA, revision, cache=tmp_path / "c").commit == commit


def test_a_listing_of_many_pages_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float], backoff: Backoff
) -> None:
    root = tmp_path / "many"
    for language in ("acm", "tur", "zho"):
        (root / language).mkdir(parents=True)
        for number in range(9):
            (root / language / f"train-{number:05d}.parquet").write_bytes(b"%d" % number)
    with HubServer({"CohereLabs/xP3x": root}, page_size=4) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.faults.add("tree", status=503, skip=2)
        repository = open_repository("CohereLabs/xP3x", cache=tmp_path / "c", backoff=backoff)
        # 27 files and 3 folders in pages of 4, one of them asked for twice
        assert len(hub.log.of("tree")) == 8 + 1
    assert [file.path for file in repository.files] == sorted(
        path.relative_to(root).as_posix() for path in root.rglob("*.parquet")
    )
    assert waits == [1.0]


def test_patterns_choose_files(hub: HubServer, tmp_path: Path) -> None:
    repository = open_repository(AYA, cache=tmp_path / "c", patterns=("*.parquet", "README*"))
    assert [file.path for file in repository.files] == ["README.md", BIG]
    with pytest.raises(NotFound) as caught:
        open_repository(AYA, cache=tmp_path / "c", patterns=("data/*.parket",))
    assert str(caught.value) == (
        f"there is no file in {AYA}@{hub.commit(AYA)[:12]} that matches 'data/*.parket'. "
        "Known: README.md, data/demo graphics.jsonl, data/train-00000-of-00001.parquet."
    )


@pytest.mark.parametrize("path", ["../escape.jsonl", "/etc/passwd", "a/../../b", "a\\b"])
def test_a_path_that_leaves_the_repository_is_refused(hub: HubServer, tmp_path: Path, path: str) -> None:
    entry = {"type": "file", "path": path, "size": 1, "oid": "0" * 40}
    hub.faults.add("tree", body=json.dumps([entry]).encode())
    with pytest.raises(InputError, match="unsafe path"):
        open_repository(AYA, cache=tmp_path / "c")


# Names.


def test_the_old_namespace_leads_to_the_new_name(hub: HubServer, tmp_path: Path) -> None:
    repository = open_repository("CohereForAI/aya_dataset", cache=tmp_path / "c")
    assert repository.id == AYA
    assert [entry.status for entry in hub.log[:2]] == [307, 200]


@pytest.mark.parametrize(("served", "asked"), [("CohereLabs", "CohereForAI"), ("CohereForAI", "CohereLabs")])
def test_without_a_redirect_the_alias_is_tried(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: str, asked: str
) -> None:
    with HubServer({f"{served}/aya_dataset": folder}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        repository = open_repository(f"{asked}/aya_dataset", cache=tmp_path / "c")
        assert repository.id == f"{served}/aya_dataset"
        brought = fetch(repository, _named(repository, BIG), tmp_path / "f")
        assert brought.read_bytes() == (folder / BIG).read_bytes()
        pinned = open_repository(f"{asked}/aya_dataset", repository.commit, cache=tmp_path / "c")
        assert pinned.id == f"{served}/aya_dataset"


# Bytes.


def test_every_file_arrives_whole_under_its_content(hub: HubServer, tmp_path: Path) -> None:
    repository = open_repository(AYA, cache=tmp_path / "c")
    for file in repository.files:
        brought = fetch(repository, file, tmp_path / "f")
        assert brought == location(file, tmp_path / "f")
        assert brought.read_bytes() == (tmp_path / "upstream" / file.path).read_bytes()
        assert brought.suffix == Path(file.path).suffix
    asked = len(hub.log)
    for file in repository.files:
        fetch(repository, file, tmp_path / "f")
    assert len(hub.log) == asked
    assert hub.log.read_twice() == 0
    assert not list((tmp_path / "f").glob("*.incomplete"))


def test_suffixes_are_what_readers_look_at(tmp_path: Path) -> None:
    def suffix(path: str) -> str:
        return location(RemoteFile(path, 1, "git:" + "0" * 40), tmp_path).name[44:]

    assert suffix("2023-04-12_oasst_ready.trees.jsonl.gz") == ".jsonl.gz"
    assert suffix("data/tur_Latn/train-00000-of-00001.parquet") == ".parquet"
    assert suffix("README") == ""
    assert suffix("v1.0/x.JSONL") == ".jsonl"


def test_a_broken_connection_resumes_where_it_ended(
    hub: HubServer, tmp_path: Path, waits: list[float], backoff: Backoff
) -> None:
    repository = open_repository(AYA, cache=tmp_path / "c")
    for _ in range(7):
        hub.faults.add("objects", cut_after=40_000)
    received: list[int] = []
    brought = fetch(
        repository,
        _named(repository, BIG),
        tmp_path / "f",
        backoff=backoff,
        progress=received.append,
    )
    assert brought.read_bytes() == _noise(300_000)
    assert hub.log.ranges(f"{AYA}/{BIG}") == [
        (start, min(start + 40_000, 300_000)) for start in range(0, 300_000, 40_000)
    ]
    assert hub.log.read_twice() == 0
    assert sum(received) == 300_000
    assert waits == [1.0] * 7  # each try brought something new


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 120_000), max_size=4), number=st.integers(0, 1 << 30))
def test_no_plan_of_broken_connections_reads_a_byte_twice(
    hub: HubServer, tmp_path: Path, cuts: list[int], number: int
) -> None:
    hub.log.clear()
    hub.faults.clear()
    for cut in cuts:
        hub.faults.add("objects", cut_after=cut)
    repository = open_repository(AYA, cache=tmp_path / "c")
    place = tmp_path / f"f{number}-{len(cuts)}-{sum(cuts)}"
    calm = Backoff(sleep=lambda _: None)
    brought = fetch(repository, _named(repository, BIG), place, backoff=calm)
    assert brought.read_bytes() == _noise(300_000)
    assert hub.log.read_twice() == 0
    brought.unlink()


def test_a_failed_download_is_continued_by_the_next_call(hub: HubServer, tmp_path: Path, backoff: Backoff) -> None:
    repository = open_repository(AYA, cache=tmp_path / "c")
    file = _named(repository, BIG)
    hub.faults.add("objects", cut_after=123_456)
    hub.faults.add("objects", status=503, times=4)
    with pytest.raises(HubUnreachable):
        fetch(repository, file, tmp_path / "f", backoff=replace(backoff, attempts=4))
    assert not location(file, tmp_path / "f").exists()
    hub.faults.clear()
    brought = fetch(repository, file, tmp_path / "f", backoff=backoff)
    assert brought.read_bytes() == _noise(300_000)
    assert hub.log.ranges(f"{AYA}/{BIG}") == [(0, 123_456), (123_456, 300_000)]


def test_a_killed_download_is_continued(hub: HubServer, tmp_path: Path, backoff: Backoff) -> None:
    repository = open_repository(AYA, cache=tmp_path / "c")
    file = _named(repository, BIG)
    script = f"""
import os, signal
from pathlib import Path
from aya_data.builders.hub.repository import fetch, open_repository
from aya_data.builders.hub.repository import Backoff
die = lambda _: os.kill(os.getpid(), signal.SIGKILL)
repository = open_repository({AYA!r}, cache=Path({str(tmp_path / "c")!r}))
file = [f for f in repository.files if f.path == {BIG!r}][0]
fetch(repository, file, Path({str(tmp_path / "f")!r}), backoff=Backoff(sleep=die))
"""
    hub.faults.add("objects", cut_after=200_000)
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    brought = fetch(repository, file, tmp_path / "f", backoff=backoff)
    assert brought.read_bytes() == _noise(300_000)
    assert hub.log.ranges(f"{AYA}/{BIG}") == [(0, 200_000), (200_000, 300_000)]


def test_two_processes_that_want_one_file_read_it_once(hub: HubServer, tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from aya_data.builders.hub.repository import fetch, open_repository
repository = open_repository({AYA!r}, {hub.commit(AYA)!r}, cache=Path({str(tmp_path / "c")!r}))
file = [f for f in repository.files if f.path == {BIG!r}][0]
print(fetch(repository, file, Path({str(tmp_path / "f")!r})))
"""
    open_repository(AYA, cache=tmp_path / "c")
    running = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate()[0] for process in running}
    assert len(answers) == 1 and all(process.returncode == 0 for process in running)
    assert hub.log.ranges(f"{AYA}/{BIG}") == [(0, 300_000)]


def test_refused_for_now_is_tried_again_when_the_server_says(
    hub: HubServer, tmp_path: Path, waits: list[float], backoff: Backoff
) -> None:
    hub.faults.add("revision", status=429, retry_after=17)
    hub.faults.add("tree", status=503, times=3)
    hub.faults.add("resolve", status=429, headers={"RateLimit": '"resolvers";r=0;t=55'})
    hub.faults.add("resolve", status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    hub.faults.add("objects", status=403)  # a signed address that ran out
    repository = open_repository(AYA, cache=tmp_path / "c", backoff=backoff)
    brought = fetch(repository, _named(repository, BIG), tmp_path / "f", backoff=backoff)
    assert brought.read_bytes() == _noise(300_000)
    assert waits == [17.0, 1.0, 2.0, 4.0, 55.0, 0.0, 4.0]
    assert [len(hub.log.of(word)) for word in ("revision", "tree", "resolve", "objects")] == [
        2,
        4,
        4,
        2,
    ]


def test_a_server_that_asks_for_an_hour_is_not_waited_for(
    hub: HubServer, tmp_path: Path, waits: list[float], backoff: Backoff
) -> None:
    hub.faults.add("revision", status=429, retry_after=3600)
    with pytest.raises(HubUnreachable) as caught:
        open_repository(AYA, cache=tmp_path / "c", backoff=backoff)
    assert caught.value.reason == "HTTP 429, and it asks to wait 3600 seconds"
    assert waits == []


def test_a_server_that_ignores_ranges_still_ends_in_the_right_file(
    hub: HubServer, tmp_path: Path, backoff: Backoff
) -> None:
    repository = open_repository(AYA, cache=tmp_path / "c")
    hub.faults.add("objects", cut_after=100_000)
    hub.faults.add("objects", ignore_range=True)
    brought = fetch(repository, _named(repository, BIG), tmp_path / "f", backoff=backoff)
    assert brought.read_bytes() == _noise(300_000)
    assert hub.log.ranges(f"{AYA}/{BIG}") == [(0, 100_000), (0, 300_000)]


def test_a_spoilt_body_is_noticed_and_read_again_once(hub: HubServer, tmp_path: Path, backoff: Backoff) -> None:
    repository = open_repository(AYA, cache=tmp_path / "c")
    file = _named(repository, BIG)
    hub.faults.add("objects", flip=222_222)
    assert fetch(repository, file, tmp_path / "f", backoff=backoff).read_bytes() == _noise(300_000)
    hub.faults.add("objects", flip=222_222, times=2)
    with pytest.raises(CorruptPart) as caught:
        fetch(repository, file, tmp_path / "g", backoff=backoff)
    assert caught.value.path == f"{AYA}@{repository.commit[:12]}/{BIG}"
    assert caught.value.expected == file.digest
    assert not location(file, tmp_path / "g").exists()
    # and a small file, whose digest is git's
    card = _named(repository, "README.md")
    hub.faults.add("resolve-cache", flip=2)
    assert fetch(repository, card, tmp_path / "g", backoff=backoff).read_text() == "# Aya\n"


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"x" + b[1:], lambda b: b + b"x"])
def test_a_file_that_was_damaged_here_is_brought_again(
    hub: HubServer, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    repository = open_repository(AYA, cache=tmp_path / "c")
    file = _named(repository, BIG)
    brought = fetch(repository, file, tmp_path / "f")
    brought.write_bytes(damage(brought.read_bytes()))
    assert fetch(repository, file, tmp_path / "f").read_bytes() == _noise(300_000)
    # ... and so is a partial file that a power cut spoiled
    brought.unlink()
    partial = brought.with_name(brought.name + ".incomplete")
    partial.write_bytes(bytes(1000))
    assert fetch(repository, file, tmp_path / "f").read_bytes() == _noise(300_000)


def test_an_empty_file_costs_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "up"
    root.mkdir()
    (root / "empty.txt").touch()
    with HubServer({"a/b": root}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        repository = open_repository("a/b", cache=tmp_path / "c")
        assert fetch(repository, repository.files[0], tmp_path / "f").read_bytes() == b""
        assert not hub.log.of("resolve")


def test_xet_storage_is_read_over_plain_http(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer({AYA: folder}, xet=True) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        repository = open_repository(AYA, cache=tmp_path / "c")
        brought = fetch(repository, _named(repository, BIG), tmp_path / "f")
        assert brought.read_bytes() == _noise(300_000)
        assert not [entry for entry in hub.log if "xet" in entry.path]


# Ranges.


def test_a_parquet_footer_costs_a_fraction_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float], backoff: Backoff
) -> None:
    root = tmp_path / "up"
    root.mkdir()
    noise = _noise(100_000)
    table = pa.table(
        {
            "a": [noise[i : i + 100] for i in range(40_000)],
            "b": pa.array(range(40_000)),
        }
    )
    pq.write_table(table, root / "x.parquet", compression="none", use_dictionary=False, row_group_size=10_000)
    with HubServer({"a/b": root}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        repository = open_repository("a/b", cache=tmp_path / "c")
        (file,) = repository.files
        hub.faults.add("objects", cut_after=5)
        hub.faults.add("resolve", status=503, skip=1)
        with stream(repository, file, tmp_path / "f", backoff=backoff, block=4096) as rows, rows.open() as handle:
            parquet = pq.ParquetFile(handle)
            assert parquet.metadata.num_rows == 40_000
            group = parquet.read_row_group(2, columns=["b"])
        assert group["b"].to_pylist() == list(range(20_000, 30_000))
        sent = sum(entry.sent for entry in hub.log if entry.file)
        assert sent < file.size / 10
        assert waits == [1.0, 2.0]
        # the bytes of the whole file, and then those that fetch has brought
        with stream(repository, file, tmp_path / "f", backoff=backoff) as rows, rows.open() as handle:
            assert handle.read() == (root / "x.parquet").read_bytes()
        fetch(repository, file, tmp_path / "f")
        asked = len(hub.log)
        with stream(repository, file, tmp_path / "f") as rows, rows.open() as handle:
            handle.seek(-4, os.SEEK_END)
            assert handle.read() == b"PAR1"
        assert len(hub.log) == asked


# What is said.


def _said(call: Callable[[], object]) -> str:
    with pytest.raises(AyaDataError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and SECRET not in text
    return text


def test_an_unreachable_hub_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float], backoff: Backoff
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert _said(lambda: open_repository(AYA, cache=tmp_path / "c", backoff=backoff)) == (
        "the Hub cannot be reached for CohereLabs/aya_dataset@main: connection refused "
        "(5 attempts). Check the network and HF_ENDPOINT, run again to resume, or use "
        "--profile sample, which needs no network."
    )
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_a_hub_that_only_fails_is_one_line(
    hub: HubServer, tmp_path: Path, waits: list[float], backoff: Backoff
) -> None:
    hub.faults.add("revision", status=500, times=99, body=b"<html>" + SECRET.encode())
    assert _said(lambda: open_repository(AYA, cache=tmp_path / "c", backoff=backoff)).startswith(
        "the Hub cannot be reached for CohereLabs/aya_dataset@main: HTTP 500 (5 attempts)."
    )
    assert len(hub.log) == 5 and waits == [1.0, 2.0, 4.0, 8.0]
    hub.faults.clear()
    hub.faults.add("revision", body=b"<html>Please log in to the hotel's network</html>")
    assert _said(lambda: open_repository(AYA, cache=tmp_path / "c", backoff=backoff)).startswith(
        "the Hub cannot be reached for CohereLabs/aya_dataset@main: the answer is not JSON, so "
        "HF_ENDPOINT or a proxy is not a Hub."
    )


def test_offline_mode_is_obeyed(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert _said(lambda: open_repository(AYA, cache=tmp_path / "c")).startswith(
        "the Hub cannot be reached for CohereLabs/aya_dataset@main: HF_HUB_OFFLINE is set."
    )
    assert not hub.log


@pytest.mark.parametrize("token", [None, "hf_loopback"])
def test_a_wrong_name_is_answered_with_the_right_one(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    private = "If it is private, set HF_TOKEN to a token of an account that may read it."
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
        private = "If it is private, HF_TOKEN must belong to an account that may read it."
    assert _said(lambda: open_repository("CohereLabs/aya_datset", cache=tmp_path / "c")) == (
        f"there is no Hub dataset 'CohereLabs/aya_datset'. Did you mean 'CohereLabs/aya_dataset'? {private}"
    )
    assert _said(lambda: open_repository("someone/else", cache=tmp_path / "c")) == (
        f"there is no Hub dataset 'someone/else'. {private}"
    )
    for name in ("no such/name!", "a/b/c", "a/..", "../x", ""):
        assert _said(functools.partial(open_repository, name, cache=tmp_path / "c")) == (
            f"{name!r} is not the name of a Hub dataset. Write owner/name."
        )


def test_a_wrong_revision_is_answered_with_the_right_one(hub: HubServer, tmp_path: Path) -> None:
    hub.tag(AYA, "v1.0")
    assert _said(lambda: open_repository(AYA, "v1.1", cache=tmp_path / "c")) == (
        "there is no revision of CohereLabs/aya_dataset 'v1.1'. Did you mean 'v1.0'?"
    )


def test_gated_and_private(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repos = {"org/gated": folder, "org/private": folder}
    with HubServer(repos, gated=["org/gated"], private=["org/private"], token=SECRET) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        repository = open_repository("org/gated", cache=tmp_path / "c")
        file = _named(repository, BIG)
        assert _said(lambda: fetch(repository, file, tmp_path / "f")) == (
            f"the Hub dataset org/gated is gated. Accept its terms at {hub.endpoint}"
            "/datasets/org/gated and set HF_TOKEN to a token of that account, then run again."
        )
        assert "If it is private, set HF_TOKEN" in _said(lambda: open_repository("org/private", cache=tmp_path / "c"))
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
        assert _said(lambda: open_repository("org/private", cache=tmp_path / "c")) == (
            "the Hub refuses HF_TOKEN. Make a new one at "
            "https://huggingface.co/settings/tokens; what is public needs none."
        )
        monkeypatch.setenv("HF_TOKEN", SECRET)
        hub.faults.add("resolve", status=403, headers={"X-Error-Code": "GatedRepo"})
        assert _said(lambda: fetch(repository, file, tmp_path / "f")) == (
            f"the Hub dataset org/gated is gated. Accept its terms at {hub.endpoint}"
            "/datasets/org/gated with the account of HF_TOKEN, then run again."
        )
        private = open_repository("org/private", cache=tmp_path / "c")
        assert fetch(repository, file, tmp_path / "f").stat().st_size == 300_000
        # The token goes to the Hub and nowhere else, not into the cache either.
        assert all("authorization" not in e.headers for e in hub.log if e.host == "cdn")
        assert SECRET not in repr(private)
        for path in (tmp_path / "c").iterdir():
            assert SECRET not in path.read_text(encoding="utf-8")


def test_a_refusal_without_a_name_is_one_line(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.add("revision", status=403)
    assert _said(lambda: open_repository(AYA, cache=tmp_path / "c")) == (
        f"the Hub does not let you read {AYA}. "
        "If it is private, set HF_TOKEN to a token of an account that may read it."
    )
    hub.faults.add("revision", status=451)
    assert _said(lambda: open_repository(AYA, cache=tmp_path / "c")).startswith(
        f"the Hub cannot be reached for {AYA}@main: HTTP 451."
    )
    repository = open_repository(AYA, cache=tmp_path / "c")
    gone = RemoteFile("gone.parquet", 3, "git:" + "0" * 40)
    assert _said(lambda: fetch(repository, gone, tmp_path / "f")) == (
        f"there is no file in {AYA}@{repository.commit[:12]} 'gone.parquet'."
    )


def test_telemetry_is_off(hub: HubServer, tmp_path: Path) -> None:
    open_repository(AYA, cache=tmp_path / "c")
    assert {entry.headers["user-agent"] for entry in hub.log} == {"aya-data"}


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("ftp://x", "HF_ENDPOINT is not a web address. Write https://host, or unset it."),
        (
            f"https://me:{SECRET}@hub",
            "HF_ENDPOINT holds a user name or password. Use HF_TOKEN instead.",
        ),
    ],
)
def test_a_wrong_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str, said: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert _said(lambda: open_repository(AYA, cache=tmp_path / "c")) == said


def test_a_full_disk_is_one_line_and_what_came_is_kept(hub: HubServer, tmp_path: Path) -> None:
    open_repository(AYA, cache=tmp_path / "c")
    script = f"""
import resource, signal
from pathlib import Path
from aya_data.builders.hub.repository import fetch, open_repository
from aya_data.core.errors import WorkspaceUnusable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
repository = open_repository({AYA!r}, {hub.commit(AYA)!r}, cache=Path({str(tmp_path / "c")!r}))
file = [f for f in repository.files if f.path == {BIG!r}][0]
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
try:
    fetch(repository, file, Path({str(tmp_path / "f")!r}))
except WorkspaceUnusable as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout and done.stdout.count("\n") == 1
    repository = open_repository(AYA, cache=tmp_path / "c")
    file = _named(repository, BIG)
    partial = location(file, tmp_path / "f")
    partial = partial.with_name(partial.name + ".incomplete")
    assert 0 < partial.stat().st_size <= 150_000
    assert fetch(repository, file, tmp_path / "f").read_bytes() == _noise(300_000)


def test_a_place_that_is_not_a_folder(hub: HubServer, tmp_path: Path) -> None:
    repository = open_repository(AYA, cache=tmp_path / "c")
    (tmp_path / "f").write_text("a file", encoding="utf-8")
    with pytest.raises(WorkspaceUnusable):
        fetch(repository, repository.files[0], tmp_path / "f")


# The double itself: what the library makes of it.


def test_the_library_itself_reads_from_the_double(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download

    api = HfApi(endpoint=hub.endpoint, token=False)
    assert api.dataset_info(AYA).sha == hub.commit(AYA)
    assert api.dataset_info("CohereForAI/aya_dataset").id == AYA
    tree = list(api.list_repo_tree(AYA, repo_type="dataset"))
    assert [entry.path for entry in tree] == ["README.md", "data"]
    (info,) = api.get_paths_info(AYA, [BIG], repo_type="dataset")
    assert getattr(info, "size", 0) == 300_000
    refs = api.list_repo_refs(AYA, repo_type="dataset")
    assert [branch.target_commit for branch in refs.branches] == [hub.commit(AYA)]
    brought = hf_hub_download(
        AYA, BIG, repo_type="dataset", endpoint=hub.endpoint, cache_dir=tmp_path / "hf", token=False
    )
    assert Path(brought).read_bytes() == (folder / BIG).read_bytes()
    snapshot = snapshot_download(
        AYA, repo_type="dataset", endpoint=hub.endpoint, cache_dir=tmp_path / "hf", token=False
    )
    assert (Path(snapshot) / "data" / "demo graphics.jsonl").read_text() == '{"age": 3}\n'
    system = HfFileSystem(endpoint=hub.endpoint, token=False, skip_instance_cache=True)
    assert sorted(system.glob(f"datasets/{AYA}/data/*")) == [
        f"datasets/{AYA}/data/demo graphics.jsonl",
        f"datasets/{AYA}/{BIG}",
    ]
    handle: IO[bytes]
    with system.open(f"datasets/{AYA}/{BIG}", block_size=1000) as handle:
        handle.seek(150_000)
        assert handle.read(10) == _noise(300_000)[150_000:150_010]
