"""Law 3: nothing depends on the machine, on how the input is cut and named, or on how the work is divided."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aya_data.core.identity import draws
from aya_data.core.logical import logical_digest
from aya_data.engine.run import Build
from tests import builds

TEXT = builds.FULL.replace(", exact_dedup]", "]").replace("rows: 40", "rows: 90")
"""Without exact_dedup, so that rows which are equal in every column come out too."""


def records() -> list[builds.Record]:
    """The toy records; six of them twice, and upstream ids that occur several times."""
    found = builds.toy_records(72)
    found += [dict(record) for record in found[20:26]]
    return [{**record, "id": str(i % 7)} if i < 12 else record for i, record in enumerate(found)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Build]:
    folder = tmp_path_factory.mktemp("reference")
    spec = builds.spec(folder, TEXT, records())
    return spec, builds.build(spec, folder / "workspace")


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 2, "inline_bytes": 0},
        {"workers": 4, "inline_bytes": 0, "threads": 2},
        {"part_bytes": 1},
        {"part_bytes": 3_000},
        {"part_bytes": 1, "workers": 2, "inline_bytes": 0, "threads": 2},
    ],
    ids=str,
)
def test_workers_and_part_sizes_leave_no_trace(
    reference: tuple[Path, Build], tmp_path: Path, options: dict[str, Any]
) -> None:
    """Every file of the release is equal to the byte: shards, ledger, edges, manifest, lock, card."""
    spec, one = reference
    other = builds.build(spec, tmp_path / "workspace", **options)
    assert builds.tree(other.result.path) == builds.tree(one.result.path)
    assert other.result.path.name == one.result.path.name


def test_the_reference_is_not_trivial(reference: tuple[Path, Build]) -> None:
    _, one = reference
    rows = builds.released(one.result.path)
    assert set(rows["source"].to_pylist()) == {"a", "b"}
    assert len(set(rows["id"].to_pylist())) < len(set(rows["row_key"].to_pylist())) == rows.num_rows
    assert {f.get("split") for f in one.result.manifest["files"]} >= {"train", "validation"}


def said(done: Build) -> dict[str, Any]:
    """What a release says, without where its rows were found."""
    ledger = builds.entries(done.result.path).drop_columns(["file", "row"])
    rows = {file["path"]: file["logical"] for file in done.result.manifest["files"] if "logical" in file}
    return {
        "digest": done.result.digest,
        "rows": rows,
        "ledger": logical_digest(ledger),
        "edges": logical_digest(builds.edges(done.result.path)),
        "stages": done.result.manifest["stages"],
        "sources": [{k: v for k, v in s.items() if k != "pins"} for s in done.result.manifest["sources"]],
    }


def arranged(how: str) -> dict[str, list[builds.Record]]:
    """The same records in other files."""
    found = records()
    order = draws(5, how, [str(i) for i in range(len(found))]).argsort().tolist()
    match how:
        case "renamed":
            return {f"part-{9 - n}.jsonl": found[n * 26 : (n + 1) * 26] for n in range(3)}
        case "one file":
            return {"all.jsonl": found}
        case "many files":
            return {f"{i % 13:02}.jsonl": [r for j, r in enumerate(found) if j % 13 == i] for i in range(13)}
        case "permuted":
            mixed = [found[i] for i in order]
            return {f"f{n}.jsonl": mixed[n * 26 : (n + 1) * 26] for n in range(3)}
        case _:
            mixed = [found[i] for i in order]
            return {f"{how}-{n}.jsonl": mixed[n * 16 : (n + 1) * 16] for n in range(5)}


@pytest.mark.parametrize("how", ["renamed", "one file", "many files", "permuted", "all at once"])
def test_how_the_input_is_cut_leaves_no_trace(reference: tuple[Path, Build], tmp_path: Path, how: str) -> None:
    files = arranged(how)
    assert sorted(json.dumps(r) for f in files.values() for r in f) == sorted(json.dumps(r) for r in records())
    builds.write_files(tmp_path / "data", files)
    spec = tmp_path / "toy.yaml"
    spec.write_text(TEXT)
    done = builds.build(spec, tmp_path / "workspace", part_bytes=2_000)
    assert said(done) == said(reference[1])


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONHASHSEED": "1", "TZ": "Asia/Kathmandu", "LC_ALL": "C"},
        {"PYTHONHASHSEED": "4242", "TZ": "America/St_Johns", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
        {"PYTHONHASHSEED": "0", "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", "OMP_NUM_THREADS": "2"},
    ],
    ids=lambda v: v.get("TZ", "threads"),
)
def test_the_environment_leaves_no_trace(
    reference: tuple[Path, Build], tmp_path: Path, variables: dict[str, str]
) -> None:
    spec, one = reference
    done = builds.command(spec, tmp_path / "workspace", variables)
    assert done.returncode == 0, done.stderr
    assert builds.tree(Path(json.loads(done.stdout)["path"])) == builds.tree(one.result.path)


def test_a_release_holds_no_path_and_no_time(reference: tuple[Path, Build]) -> None:
    """Nothing of this machine: neither folders nor its name, neither the date nor seconds."""
    spec, one = reference
    import platform
    import time

    for path in one.result.path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for secret in (str(spec.parent), f"{platform.node()} ", time.strftime("%Y-%m-%d"), "seconds"):
                assert secret.encode() not in data, (path.name, secret)


def test_filters_that_compare_depend_on_rows_alone(tmp_path: Path) -> None:
    """With exact_dedup: the keeper is the same however the duplicates are spread over files and parts."""
    text = builds.SMALL.replace("rows: 40", "rows: 60")
    found = []
    for n, how in enumerate(("one file", "many files", "permuted")):
        folder = tmp_path / str(n)
        builds.write_files(folder / "data", arranged(how))
        (folder / "toy.yaml").write_text(text)
        found.append(said(builds.build(folder / "toy.yaml", folder / "workspace", part_bytes=10 ** (2 * n))))
    assert found[0] == found[1] == found[2]
