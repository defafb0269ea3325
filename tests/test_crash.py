"""Law 1: killed at any durable operation, or with any un-fsynced write lost, a build resumes to the same release."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aya_data.core.errors import TaskFailed
from aya_data.core.identity import draw, draws
from aya_data.core.store import Store
from tests import builds

SEED = 2026
OPERATIONS = 560
"""About how many durable operations the small build has; a test holds the sweep to cover them all."""
SAMPLE = 12


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory where there is one: what is tested are the calls of fsync, not the disk."""
    with tempfile.TemporaryDirectory(dir=builds.in_memory()) as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Whole:
    """The build that nothing interrupted: its release, and what it did to the disk."""

    spec: Path
    workspace: Path
    trace: Path
    operations: list[dict[str, str]]
    releases: dict[str, str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    spec = builds.spec(folder)
    operations = builds.traced(spec, folder / "workspace", folder / "trace")
    return Whole(
        spec, folder / "workspace", folder / "trace", operations, builds.tree(folder / "workspace" / "releases")
    )


def resume(whole: Whole, workspace: Path) -> None:
    """Build again what was interrupted; the release, and nothing else, must be there."""
    builds.build(whole.spec, workspace)
    assert builds.tree(workspace / "releases") == whole.releases
    assert not list(workspace.rglob("*.tmp"))
    assert not list(Store(workspace / "store").verify())


def crash_points(count: int) -> list[Any]:
    """Operations to stop at: ``count`` of the thousand by draw, the others for the sweep.

    Numbers beyond the last operation of the build are passed over by the tests.
    """
    drawn = draws(SEED, "crash", [str(k) for k in range(1, OPERATIONS + 1)])
    chosen = set(drawn.argsort()[:count].tolist())
    marks = [() if index in chosen else pytest.mark.sweep for index in range(OPERATIONS)]
    return [pytest.param(index + 1, marks=mark) for index, mark in enumerate(marks)]


def test_the_sweep_covers_the_build(whole: Whole) -> None:
    assert abs(len(whole.operations) - OPERATIONS) < OPERATIONS // 8


@pytest.mark.parametrize("operation", crash_points(SAMPLE))
def test_killed_and_resumed(whole: Whole, tmp_path: Path, operation: int) -> None:
    builds.killed_at(min(operation, len(whole.operations)), whole.spec, tmp_path)
    resume(whole, tmp_path)


@pytest.mark.parametrize("operation", crash_points(4))
def test_killed_resumed_and_killed_again(whole: Whole, tmp_path: Path, operation: int) -> None:
    last = len(whole.operations)
    builds.killed_at(min(operation, last), whole.spec, tmp_path)
    again = draw(SEED, "again", str(operation)) % max(1, last - operation) + 1
    builds.killed_at(again, whole.spec, tmp_path)
    resume(whole, tmp_path)


def test_killed_in_the_last_operations(whole: Whole, tmp_path: Path) -> None:
    """While the release is put in its place."""
    renamed = [
        n for n, op in enumerate(whole.operations, 1) if "/writing-" in op["path"] and op["operation"] == "rename"
    ]
    for number in (renamed[-1], renamed[-1] + 1, len(whole.operations)):
        workspace = tmp_path / str(number)
        assert builds.killed_at(number, whole.spec, workspace)
        resume(whole, workspace)


def test_a_worker_is_killed(whole: Whole, tmp_path: Path) -> None:
    """The build names the stage and the reason, keeps what was done, and resumes."""
    die = whole.spec.parent / "die"
    die.write_text("9")
    with pytest.raises(TaskFailed, match=r"stage read:a failed on .*a worker process was killed"):
        builds.build(whole.spec, tmp_path, workers=2, inline_bytes=0)
    assert not die.exists()
    resume(whole, tmp_path)


# A power cut -----------------------------------------------------------------------------------------


@dataclass
class File:
    """An inode of a file: what was written, and what of it was made durable."""

    written: bytes = b""
    durable: bytes = b""


@dataclass
class Folder:
    """An inode of a folder: its entries as programs see them, and as the disk holds them."""

    entries: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)


class Disk:
    """Replays durable operations on a file system that keeps in memory what nobody asked it to sync."""

    def __init__(self, root: Path, trace: Path) -> None:
        self.root, self.trace = root, trace
        self.top = Folder()
        self.open: dict[str, File] = {}

    def _at(self, path: str) -> tuple[Folder, str]:
        parts = Path(path).relative_to(self.root).parts
        folder = self.top
        for name in parts[:-1]:
            found = folder.entries[name]
            assert isinstance(found, Folder)
            folder = found
        return folder, parts[-1] if parts else ""

    def replay(self, operation: Mapping[str, str]) -> None:
        """Do one operation of the log."""
        path = operation["path"]
        if Path(path) == self.root.parent or not Path(path).is_relative_to(self.root):
            return
        try:
            folder, name = self._at(path)
        except KeyError:
            # Only what may be missing may lie in a folder that is.
            assert operation["operation"] == "remove"
            return
        match operation["operation"]:
            case "mkdir" if name:
                folder.entries.setdefault(name, Folder())
            case "create":
                folder.entries[name] = self.open[path] = File()
            case "write":
                self.open[path].written += (self.trace / operation["data"]).read_bytes()
            case "fsync":
                self.open[path].durable = self.open[path].written
            case "rename":
                moved = folder.entries.pop(name)
                into, new = self._at(operation["to"])
                into.entries[new] = moved
            case "fsync_folder":
                found = folder.entries[name] if name else self.top
                assert isinstance(found, Folder)
                found.durable = dict(found.entries)
            case "remove":
                folder.entries.pop(name, None)

    def write(self, place: Path, mode: str) -> None:
        """Write to ``place`` what the disk holds after a power cut.

        ``lost``: no entry that its folder did not sync. ``empty`` and ``half``: all entries, and of files
        what was synced, or half of what was written. ``mixed``: every entry and file by its own draw.
        """
        self._write(self.top, place, mode)

    def _write(self, folder: Folder, place: Path, mode: str) -> None:
        place.mkdir(exist_ok=True)
        for name in sorted({*folder.entries, *folder.durable}):
            roll = draw(SEED, "power cut", str(place / name)) % 6
            lost = mode == "lost" or (mode == "mixed" and roll % 2 == 0)
            node = (folder.durable if lost else folder.entries).get(name)
            if isinstance(node, Folder):
                self._write(node, place / name, mode)
            elif node is not None:
                how = ("empty", "half", "lost")[roll // 2] if mode == "mixed" else mode
                half = node.written[: len(node.written) // 2]
                data = node.durable if node.durable == node.written else half if how == "half" else node.durable
                (place / name).write_bytes(data)


MODES = ("lost", "empty", "half", "mixed")


def cut(whole: Whole, prefix: int, mode: str, workspace: Path) -> None:
    """Leave in ``workspace`` what a power cut after ``prefix`` operations leaves of the whole build."""
    disk = Disk(whole.workspace, whole.trace)
    for operation in whole.operations[:prefix]:
        disk.replay(operation)
    disk.write(workspace, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prefix", crash_points(8))
def test_power_cut(whole: Whole, tmp_path: Path, prefix: int, mode: str) -> None:
    prefix = min(prefix, len(whole.operations))
    cut(whole, prefix, mode, tmp_path / "workspace")
    resume(whole, tmp_path / "workspace")


def test_after_the_last_operation_nothing_can_be_lost(whole: Whole, tmp_path: Path) -> None:
    """What a finished build says is on the disk is on the disk."""
    for mode in MODES:
        cut(whole, len(whole.operations), mode, tmp_path / mode)
        assert builds.tree(tmp_path / mode / "releases") == whole.releases


def test_the_model_loses_what_is_not_synced(whole: Whole, tmp_path: Path) -> None:
    """The power cuts above mean something: without any fsync of files they would leave damage."""
    written = [n for n, op in enumerate(whole.operations, 1) if op["operation"] == "write"]
    cut(whole, written[-1], "half", tmp_path / "half")
    cut(whole, written[-1], "lost", tmp_path / "lost")
    assert list((tmp_path / "half").rglob("*.tmp"))
    assert not list((tmp_path / "lost").rglob("*.tmp"))
    assert list((tmp_path / "lost").rglob("record.json"))
