"""The specs of preference data: they share all but a profile, build anywhere, and survive being killed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from aya_data import api
from aya_data.core.identity import draws
from aya_data.core.spec import load_spec
from aya_data.core.store import Store
from tests import builds

SPECS = Path(__file__).parent.parent / "specs"
SPEC = SPECS / "preference.yaml"
OPERATIONS = 330
"""At least so many durable operations the build has."""
POINTS = 4


def test_they_share_everything_but_the_profile() -> None:
    one, other = (yaml.safe_load((SPECS / name).read_text()) for name in ("preference.yaml", "aya_expanse.yaml"))
    for spec in (one, other):
        for own in ("name", "description", "profiles"):
            spec.pop(own, None)
    assert one == other


def test_the_recipe_for_gpus_is_valid_and_says_what_is_unpublished() -> None:
    spec = load_spec(SPECS / "aya_expanse.yaml", "gpu")
    assert len({variety.language for variety in spec.languages or ()}) == 23
    settings = spec.sources["arbitrage"].settings
    assert {teacher.engine for teacher in settings.teachers.values()} == {"vllm"}  # type: ignore[attr-defined]
    assert all(teacher.sampling.n == 2 for teacher in settings.teachers.values())  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    workspace = tmp_path_factory.mktemp("whole") / "workspace"
    assert builds.sample_operations(SPEC, workspace) >= OPERATIONS
    return builds.tree(workspace / "releases")


@pytest.fixture
def workspace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=builds.in_memory()) as folder:
        yield Path(folder) / "workspace"


def drawn() -> list[int]:
    order = draws(2026, "crash of preferences", [str(k) for k in range(1, OPERATIONS + 1)]).argsort()
    return sorted(int(k) + 1 for k in order[:POINTS])


@pytest.mark.parametrize("operation", drawn())
def test_it_is_killed_and_resumed(whole: dict[str, str], workspace: Path, operation: int) -> None:
    """While it reads, generates, scores, pairs or releases."""
    assert builds.sample_killed_at(operation, SPEC, workspace)
    builds.sample(SPEC, workspace)
    assert builds.tree(workspace / "releases") == whole
    assert not list(workspace.rglob("*.tmp"))
    assert not list(Store(workspace / "store").verify())


def test_workers_and_part_sizes_change_nothing(whole: dict[str, str], workspace: Path) -> None:
    api.build(SPEC, workspace=workspace, workers=2, part_size=64 << 10)
    assert builds.tree(workspace / "releases") == whole
