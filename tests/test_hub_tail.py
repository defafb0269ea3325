"""The end of a file, read before the rest: a footer is asked for once, whatever happens in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aya_data.builders.repository import (
    Backoff,
    RemoteFile,
    Repository,
    fetch,
    location,
    open_repository,
    sweep,
    tail,
)
from aya_data.core.errors import CorruptPart, HubUnreachable, InputError
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
