"""Law 1 on the spec that users copy: its build is killed at any durable operation and resumes to the same release."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aya_data.core.identity import draws
from aya_data.core.store import Store
from tests import builds

SPEC = Path(__file__).parent.parent / "specs" / "sft_mix.yaml"
OPERATIONS = 2400
"""At least as many durable operations as the build has; a test holds the sweep to cover them all."""
POINTS = 10
"""How many of them are in every run of the tests; all others are in the sweep."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, str]]:
    """How many durable operations the build has that nothing interrupts, and its release."""
    workspace = tmp_path_factory.mktemp("whole") / "workspace"
    return builds.sample_operations(SPEC, workspace), builds.tree(workspace / "releases")


@pytest.fixture
def workspace() -> Iterator[Path]:
    """A folder in memory where there is one: what is tested are the calls of fsync, not the disk."""
    with tempfile.TemporaryDirectory(dir=builds.in_memory()) as folder:
        yield Path(folder) / "workspace"


def points() -> list[Any]:
    drawn = draws(2026, "crash of the sample", [str(k) for k in range(1, OPERATIONS + 1)]).argsort().tolist()
    # Those beyond the end of the build would say nothing.
    chosen = set([k for k in drawn if k < OPERATIONS * 3 // 4][:POINTS])
    return [
        pytest.param(k + 1, marks=() if k in chosen else pytest.mark.sweep, id=f"{k + 1:04d}")
        for k in range(OPERATIONS)
    ]


def test_the_sweep_covers_the_build(whole: tuple[int, dict[str, str]]) -> None:
    assert OPERATIONS * 3 // 4 <= whole[0] <= OPERATIONS


@pytest.mark.parametrize("operation", points())
def test_the_sample_is_killed_and_resumed(whole: tuple[int, dict[str, str]], workspace: Path, operation: int) -> None:
    count, releases = whole
    if operation > count:
        pytest.skip("beyond the last operation")
    assert builds.sample_killed_at(operation, SPEC, workspace)
    builds.sample(SPEC, workspace)
    assert builds.tree(workspace / "releases") == releases
    assert not list(workspace.rglob("*.tmp"))
    assert not list(Store(workspace / "store").verify())
