"""Law 1 on the specs that users copy: a build is stopped at any durable operation and resumes to the same release."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aya_data import api
from aya_data.core.identity import draws
from aya_data.core.store import Store
from tests import builds

SPECS = Path(__file__).parent.parent / "specs"
SPEC = SPECS / "sft_mix.yaml"
PREFERENCE = SPECS / "preference.yaml"
"""The spec whose builds generate, score and pair."""
OPERATIONS = 1500
"""At least so many durable operations the build has, among which those for every run of the tests are drawn."""
POINTS = 10
SHARES = {SPEC: 16, PREFERENCE: 16}
"""Into so many tests the sweep of all operations is divided."""

Whole = tuple[int, dict[str, str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """How many durable operations the build has that nothing interrupts, and its release."""
    found = built(SPEC, tmp_path_factory)
    assert found[0] >= OPERATIONS
    return found


@pytest.fixture(scope="module")
def preference(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return built(PREFERENCE, tmp_path_factory)


def built(spec: Path, folders: pytest.TempPathFactory) -> Whole:
    workspace = folders.mktemp("whole") / "workspace"
    return builds.sample_operations(spec, workspace), builds.tree(workspace / "releases")


@pytest.fixture
def workspace() -> Iterator[Path]:
    """A folder in memory where there is one: what is tested are the calls of fsync, not the disk."""
    with tempfile.TemporaryDirectory(dir=builds.in_memory()) as folder:
        yield Path(folder) / "workspace"


def check(workspace: Path, releases: dict[str, str]) -> None:
    assert builds.tree(workspace / "releases") == releases
    assert not list(workspace.rglob("*.tmp"))
    assert not list(Store(workspace / "store").verify())


def drawn() -> list[int]:
    order = draws(2026, "crash of the sample", [str(k) for k in range(1, OPERATIONS + 1)]).argsort()
    return sorted(int(k) + 1 for k in order[:POINTS])


@pytest.mark.parametrize("operation", drawn())
def test_it_is_killed_and_resumed(whole: Whole, workspace: Path, operation: int) -> None:
    assert builds.sample_killed_at(operation, SPEC, workspace)
    builds.sample(SPEC, workspace)
    check(workspace, whole[1])


@pytest.mark.sweep
@pytest.mark.parametrize("share", range(SHARES[SPEC]))
def test_it_resumes_from_what_every_operation_leaves(whole: Whole, workspace: Path, share: int) -> None:
    sweep(SPEC, whole, workspace, share)


@pytest.mark.sweep
@pytest.mark.parametrize("share", range(SHARES[PREFERENCE]))
def test_preferences_resume_from_what_every_operation_leaves(preference: Whole, workspace: Path, share: int) -> None:
    sweep(PREFERENCE, preference, workspace, share)


def sweep(spec: Path, whole: Whole, workspace: Path, share: int) -> None:
    """The build stops itself (SIGSTOP) before each operation of its share; a copy of what is on the disk then, which is
    what SIGKILL there leaves, is resumed."""
    count, releases = whole
    resumed = workspace.with_name("resumed")
    points = list(range(share + 1, count + 1, SHARES[spec]))
    with builds.stepping(spec, workspace, points) as build:
        for operation in points:
            process, status = os.waitpid(build, os.WUNTRACED)
            assert process == build and os.WIFSTOPPED(status), (operation, status)
            if workspace.exists():  # not before the first operation, which makes it
                shutil.copytree(workspace, resumed)
            api.build(spec, workspace=resumed, workers=1)
            check(resumed, releases)
            shutil.rmtree(resumed)
            os.kill(build, signal.SIGCONT)
        assert os.waitpid(build, 0) == (build, 0)
