"""The specs of preference data: they share all but a profile, build anywhere, and survive being killed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from aya_data import api
from aya_data.core.errors import SpecError
from aya_data.core.identity import draw
from aya_data.core.spec import load_spec
from aya_data.core.store import Store
from tests import builds
from tests.hub_server import HubServer

SPECS = Path(__file__).parent.parent / "specs"
SPEC = SPECS / "preference.yaml"
EXAMPLE = Path(__file__).parent / "fixtures" / "design_example.yaml"
PHASES = {
    "generation": "generate:arbitrage/careful",
    "scoring": "score:arbitrage",
    "pairing": "pair:arbitrage",
    "the release": "shards",
}
"""What the build is killed in, by the stage that does it."""


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


def test_the_example_of_the_design_plans_as_far_as_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real builders and filters: nothing is wrong with it, and the first thing that it lacks is a model."""
    text = EXAMPLE.read_text()
    path = tmp_path / "example.yaml"
    path.write_text(text)
    row = {"instruction": "Why?", "input": "", "output": "So it is.", "lang": "en", "license": "MIT"}
    (tmp_path / "data").mkdir()
    packed = pa.compress(json.dumps(row).encode() + b"\n", codec="zstd", asbytes=True)
    (tmp_path / "data" / "house.jsonl.zst").write_bytes(packed)
    teachers = load_spec(path).sources["arbitrage"].settings.teachers  # type: ignore[attr-defined]
    assert {name: (one.engine, one.sampling.n) for name, one in teachers.items()} == {
        "command": ("openai", 1), "qwen": ("vllm", 2),
    }  # fmt: skip
    with HubServer({}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        with pytest.raises(SpecError) as caught:
            api.plan(path, workspace=tmp_path / "workspace")
    assert str(caught.value).startswith(f"{path}:22:38: ") and "Qwen/Qwen3-8B" in str(caught.value)


@pytest.mark.parametrize(
    ("known", "line", "said"),
    [
        (", sampling: {temperature: 0.7, max_tokens: 1024, n: 1}", 21, "sampling"),
        (", max_tokens: 1024, n: 2", 22, "max_tokens"),
        (", n: 2", 22, "n"),
        (", model: org/multilingual-rm", 23, "model"),
        ("    routing: reward\n", 17, "routing"),
    ],
)
def test_what_the_example_must_say_is_missed_in_its_place(tmp_path: Path, known: str, line: int, said: str) -> None:
    text = EXAMPLE.read_text()
    assert text.count(known) == 1
    path = tmp_path / "example.yaml"
    path.write_text(text.replace(known, ""))
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    first = str(caught.value).splitlines()[0]
    assert first.startswith(f"{path}:{line}:") and f"the key {said!r} is missing" in first, str(caught.value)


Whole = tuple[dict[str, range], dict[str, str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The durable operations of each stage of a build that nothing interrupts, and its release."""
    workspace = tmp_path_factory.mktemp("whole") / "workspace"
    return builds.sample_stages(SPEC, workspace), builds.tree(workspace / "releases")


@pytest.fixture
def workspace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=builds.in_memory()) as folder:
        yield Path(folder) / "workspace"


@pytest.mark.parametrize("phase", PHASES)
def test_it_is_killed_and_resumed(whole: Whole, workspace: Path, phase: str) -> None:
    stages, releases = whole
    operations = stages[PHASES[phase]]
    operation = operations[draw(2026, "crash of preferences", phase) % len(operations)]
    assert builds.sample_killed_at(operation, SPEC, workspace)
    assert builds.last_stage(workspace) == PHASES[phase], "it was killed elsewhere"
    builds.sample(SPEC, workspace)
    assert builds.tree(workspace / "releases") == releases
    assert not list(workspace.rglob("*.tmp"))
    assert not list(Store(workspace / "store").verify())


def test_workers_and_part_sizes_change_nothing(whole: Whole, workspace: Path) -> None:
    api.build(SPEC, workspace=workspace, workers=2, part_size=64 << 10)
    assert builds.tree(workspace / "releases") == whole[1]
