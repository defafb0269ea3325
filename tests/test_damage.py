"""Law 1: torn and altered files are found and named, and made anew; a refused write is one clear line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aya_data.core.errors import CorruptPart, WorkspaceUnusable
from aya_data.core.identity import draw
from aya_data.core.store import Record, Store
from tests import builds

KINDS = ("rows", "ledger", "keys", "selection", "measures", "losers", "sample", "scattered", "shard", "record")
"""Every kind of file that a store holds."""

READ_BY = {
    "rows": "measure:language_id",
    "ledger": "release",
    "keys": "judge:languages+license+length+language_id",
    "selection": "filter:exact_dedup",
    "measures": "judge:languages+license+length+language_id",
    "losers": "derive:b",
    "sample": "shards",
    "scattered": "shards",
    "shard": "release",
}
"""The first stage that reads a kind of part; what is cached from there on is taken away, so that it must."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, str]]:
    """A spec, its finished workspace, and the files of its releases."""
    folder = tmp_path_factory.mktemp("built")
    records = [{**record, "id": str(i % 40)} for i, record in enumerate(builds.toy_records(72))]
    spec = builds.spec(folder, builds.FULL, records)
    builds.build(spec, folder / "workspace")
    return spec, folder / "workspace", builds.tree(folder / "workspace" / "releases")


def bit_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = draw(1, "flip", path.name) % (len(data) * 8)
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(bytes(data))


def truncation(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def gone(path: Path) -> None:
    path.unlink()


def forget_from(spec: Path, workspace: Path, stage: str, but: str) -> None:
    """Take away the results of ``stage`` and all after it, except parts of the kind ``but``."""
    names = [s.name for s in builds.plan(spec, workspace).stages]
    later = set(names[names.index(stage) :])
    store = Store(workspace / "store")
    for key in list(store.keys()):
        record = store.get(key)
        assert record is not None
        if record.stage in later and not (record.stage == stage and but in record.parts):
            store.forget(key)
    shutil.rmtree(workspace / "releases")


@pytest.mark.parametrize("damage", [bit_flip, truncation, emptied, gone])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_and_healed(
    built: tuple[Path, Path, dict[str, str]], tmp_path: Path, kind: str, damage: Callable[[Path], None]
) -> None:
    spec, whole, releases = built
    workspace = tmp_path / "workspace"
    shutil.copytree(whole, workspace)
    store = Store(workspace / "store")
    pattern = "record.json" if kind == "record" else f"{kind}-*.parquet"
    if kind != "record":
        forget_from(spec, workspace, READ_BY[kind], kind)
    target = max(store.root.rglob(pattern), key=lambda p: (p.stat().st_size, p.name))
    before = target.read_bytes()
    damage(target)
    assert not target.exists() or target.read_bytes() != before

    named = [part.path for part, _ in store.verify()]
    if kind != "record" or target.exists():
        assert named == [str(target.relative_to(store.root))]
        assert [part.path for part, _ in store.verify()] == named, "looking at damage must not change it"
    try:
        builds.build(spec, workspace)
    except CorruptPart as error:
        assert str(target) in str(error)
        assert "Run the build again" in str(error)
        assert damage is bit_flip
        builds.build(spec, workspace)
    else:
        # Of a missing or shorter file the size tells; a record is made anew with its parts.
        assert damage is not bit_flip or kind == "record"
    assert builds.tree(workspace / "releases") == releases
    assert not list(store.verify())


def test_damage_in_a_worker_is_named(built: tuple[Path, Path, dict[str, str]], tmp_path: Path) -> None:
    spec, whole, releases = built
    workspace = tmp_path / "workspace"
    shutil.copytree(whole, workspace)
    forget_from(spec, workspace, READ_BY["rows"], "rows")
    target = max((workspace / "store").rglob("rows-*.parquet"), key=lambda p: (p.stat().st_size, p.name))
    bit_flip(target)
    with pytest.raises(CorruptPart) as caught:
        builds.build(spec, workspace, workers=2, inline_bytes=0)
    assert str(target) in str(caught.value)
    builds.build(spec, workspace, workers=2, inline_bytes=0)
    assert builds.tree(workspace / "releases") == releases


@pytest.mark.parametrize("damage", [bit_flip, truncation, gone])
def test_a_damaged_release_is_named_and_healed(
    built: tuple[Path, Path, dict[str, str]], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    from aya_data.publish.verify import verify_release

    spec, whole, releases = built
    workspace = tmp_path / "workspace"
    shutil.copytree(whole, workspace)
    for name in releases:
        target = workspace / "releases" / name
        release = next(p for p in target.parents if p.parent.name == "toy")
        if target.name == "manifest.json":
            continue
        damage(target)
        findings = [str(finding) for finding in verify_release(release)]
        assert any(target.name in finding for finding in findings), (name, findings)
        builds.build(spec, workspace)
        assert builds.tree(workspace / "releases") == releases
        assert not list(verify_release(release))


@pytest.mark.parametrize("damage", [bit_flip, truncation, emptied])
def test_a_damaged_note_of_a_build_harms_nothing(
    built: tuple[Path, Path, dict[str, str]], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    spec, whole, releases = built
    workspace = tmp_path / "workspace"
    shutil.copytree(whole, workspace)
    damage(workspace / "builds" / "toy.sample.json")
    builds.build(spec, workspace)
    assert builds.tree(workspace / "releases") == releases


def test_a_record_that_lies_is_found(built: tuple[Path, Path, dict[str, str]], tmp_path: Path) -> None:
    """Well-formed JSON with another count: the record carries its own digest."""
    spec, whole, releases = built
    workspace = tmp_path / "workspace"
    shutil.copytree(whole, workspace)
    store = Store(workspace / "store")
    path = next(p for p in sorted(store.root.rglob("record.json")) if "dropped" in p.read_text())
    data = json.loads(path.read_text())
    for counts in data["counts"].values():
        counts["dropped"] += 1
    path.write_text(json.dumps(data))
    assert [part.path for part, _ in store.verify()] == [str(path.relative_to(store.root))]
    builds.build(spec, workspace)
    assert builds.tree(workspace / "releases") == releases
    with pytest.raises(ValueError, match="does not match its digest"):
        Record.load(data)


# Refused writes ----------------------------------------------------------------------------------------


def check_refused(done: subprocess.CompletedProcess[str], reason: str) -> None:
    """One clear line, exit code 1, no traceback."""
    lines = done.stderr.splitlines()
    assert done.returncode == 1, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("aya-data: cannot write ")
    assert reason in lines[0]
    assert "run the same command again" in lines[0]
    assert not done.stdout


@pytest.mark.parametrize("size", [100, 1_000, 5_000, 12_000])
def test_files_that_may_not_be_so_large(built: tuple[Path, Path, dict[str, str]], tmp_path: Path, size: int) -> None:
    spec, _, releases = built
    workspace = tmp_path / "workspace"
    check_refused(builds.command(spec, workspace, file_size=size), "larger than this process may write")
    assert not list(workspace.rglob("*.tmp"))
    assert not list(Store(workspace / "store").verify())
    builds.build(spec, workspace)
    assert builds.tree(workspace / "releases") == releases


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """A file system of its own at ``tmp_path/disk``; call it to mount it anew with other options."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = "size=150k,nr_inodes=2k"
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.decode().strip()}")

    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)

    yield remount
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk(
    built: tuple[Path, Path, dict[str, str]], tmp_path: Path, small_disk: Callable[[str], None], workers: int
) -> None:
    spec, _, releases = built
    workspace = tmp_path / "disk" / "workspace"
    for size in (150, 250, 350):
        small_disk(f"size={size}k")
        check_refused(builds.command(spec, workspace, workers=workers, inline_bytes=0), "the disk is full")
        assert not list(workspace.rglob("*.tmp"))
    small_disk("size=50m")
    builds.build(spec, workspace)
    assert builds.tree(workspace / "releases") == releases
    assert not list(Store(workspace / "store").verify())


def test_a_folder_that_may_only_be_read(
    built: tuple[Path, Path, dict[str, str]], tmp_path: Path, small_disk: Callable[[str], None]
) -> None:
    spec, whole, releases = built
    small_disk("size=50m")
    workspace = tmp_path / "disk" / "workspace"
    shutil.copytree(whole, workspace)
    shutil.rmtree(workspace / "releases")
    small_disk("ro")
    check_refused(builds.command(spec, workspace), "the file system is read-only")
    check_refused(builds.command(spec, tmp_path / "disk" / "other"), "the file system is read-only")
    small_disk("rw")
    builds.build(spec, workspace)
    assert builds.tree(workspace / "releases") == releases


@pytest.mark.parametrize("where", ["", "store", "releases", "releases/toy", "builds", "temporary"])
def test_a_file_where_a_folder_should_be(built: tuple[Path, Path, dict[str, str]], tmp_path: Path, where: str) -> None:
    spec, _, releases = built
    workspace = tmp_path / "workspace"
    place = workspace / where if where else workspace
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("I am a file.")
    with pytest.raises(WorkspaceUnusable) as caught:
        builds.build(spec, workspace)
    assert str(caught.value).startswith(f"cannot write {workspace}")
    assert "a file is in the way" in str(caught.value) or "not a folder" in str(caught.value)
    assert place.read_text() == "I am a file."
    place.unlink()
    builds.build(spec, workspace)
    assert builds.tree(workspace / "releases") == releases
