"""Durable writes: all of a file or none of it, in the right order of operations, and errors that say why."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aya_data.core import durable
from aya_data.core.errors import WorkspaceUnusable


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A log of operations."""
    folder = tmp_path / "trace"
    folder.mkdir()
    monkeypatch.setattr(durable.failpoint, "trace", str(folder))
    monkeypatch.setattr(durable.failpoint, "active", True)
    yield folder


def operations(trace: Path) -> list[str]:
    found = [json.loads(line) for line in (trace / "operations.jsonl").read_text().splitlines()]
    return [f"{op['operation']} {Path(op['path']).name}" for op in found]


def test_a_file_is_synced_before_it_is_named_and_its_folder_after(tmp_path: Path, trace: Path) -> None:
    durable.write_bytes(tmp_path / "new" / "file", b"content")
    assert operations(trace) == [
        "mkdir new",
        f"fsync_folder {tmp_path.name}",
        "create file.tmp",
        "write file.tmp",
        "fsync file.tmp",
        "rename file.tmp",
        "fsync_folder new",
    ]
    blobs = [p.read_bytes() for p in trace.glob("*.bin")]
    assert blobs == [b"content"]


def test_a_large_file_is_logged_whole(tmp_path: Path, trace: Path) -> None:
    data = bytes(range(256)) * 100_000
    with durable.open_new(tmp_path / "large") as file:
        for start in range(0, len(data), 3_000_000):
            file.write(data[start : start + 3_000_000])
    assert b"".join(p.read_bytes() for p in sorted(trace.glob("*.bin"))) == data
    assert (tmp_path / "large").read_bytes() == data


def test_an_error_in_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    durable.write_bytes(tmp_path / "file", b"old")
    with pytest.raises(RuntimeError), durable.open_new(tmp_path / "file") as file:
        file.write(b"new")
        raise RuntimeError
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file": b"old"}


def test_json_is_readable_and_canonical(tmp_path: Path) -> None:
    durable.write_json(tmp_path / "a", {"b": 1, "a": "ğ"})
    durable.write_json(tmp_path / "b", {"a": "ğ", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_text(encoding="utf-8") == '{\n "a": "ğ",\n "b": 1\n}\n'


def test_sweep_removes_what_killed_writers_left(tmp_path: Path) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "deep" / "deeper" / "part.parquet.tmp").write_bytes(b"half")
    (tmp_path / "deep" / "kept.parquet").write_bytes(b"whole")
    assert durable.sweep(tmp_path) == 1
    assert durable.sweep(tmp_path) == 0
    assert (tmp_path / "deep" / "kept.parquet").exists()


def test_remove_takes_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "file").write_text("x")
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("folder", "link", "nothing"):
        durable.remove(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EFBIG, "the file would be larger than this process may write"),
        (errno.ENAMETOOLONG, "File name too long"),
    ],
)
def test_the_reason_is_said_in_words(number: int, reason: str) -> None:
    error = durable.refused(Path("/some/where"), OSError(number, os.strerror(number)))
    assert str(error) == (
        f"cannot write /some/where: {reason}. What was finished is kept. Make room or make the folder writable, "
        "then run the same command again; or choose another folder with --workspace."
    )


def test_a_full_device(tmp_path: Path) -> None:
    """The kernel's own device that is always full."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    (tmp_path / "file.tmp").symlink_to(full)
    with pytest.raises(WorkspaceUnusable, match="the disk is full"):
        durable.write_bytes(tmp_path / "file", b"x" * 100)
    assert not list(tmp_path.iterdir())


KILLED = """
import sys
from pathlib import Path
from aya_data.core import durable
for n in range(3):
    durable.write_bytes(Path(sys.argv[1]) / str(n), b"x" * 10)
"""


@pytest.mark.parametrize("operation", range(1, 16))
def test_the_failpoint_kills_before_its_operation(tmp_path: Path, operation: int) -> None:
    """Each file takes five operations: after k - 1 of them, whole files are there and at most one that is not."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env={**os.environ, "AYA_DATA_FAIL_AT": str(operation), "PYTHONPATH": str(Path(__file__).parent.parent)},
        check=False,
    )
    assert done.returncode == -9
    whole = {p.name for p in tmp_path.iterdir() if p.suffix != ".tmp"}
    assert whole == {str(n) for n in range((operation - 1) // 5 + (operation % 5 == 0))}
    assert all((tmp_path / name).read_bytes() == b"x" * 10 for name in whole)
