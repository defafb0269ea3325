"""The package as others get it: one top-level name, all of its data, its licence."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("builders", "catalog", "filters", "specs", "train")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = folder / "build"
    command = [
        sys.executable, "-m", "pip", "wheel", "-q", str(ROOT), "--no-deps", "--no-build-isolation",
        "--wheel-dir", str(folder), "--config-settings", f"--build-option=build --build-base={build}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.parametrize("name", LINKED)
def test_links_lead_to_the_folders_at_the_top(name: str) -> None:
    link = ROOT / "aya_data" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"
    assert link.resolve() == ROOT / name


def test_a_wheel_installs_one_name(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"aya_data"}


def test_a_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "aya_data", *LINKED], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    here = {f if f.startswith("aya_data/") else f"aya_data/{f}" for f in listed if f and not (ROOT / f).is_symlink()}
    missing = here - set(wheel.namelist())
    assert not {name for name in missing if not name.endswith(".md")}


def test_a_wheel_states_its_licences(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    (metadata,) = (n for n in names if n.endswith(".dist-info/METADATA"))
    assert "License-Expression: Apache-2.0" in wheel.read(metadata).decode()
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert any("NOTICE" in n and "models" in n for n in names)
