"""Builds of toy data for the engine's tests: in this process, in a forked child that may be killed, or as a command.

``python -m tests.builds OPTIONS`` (JSON) builds as the command line does: one line on stderr when it fails.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import aya_data.engine.worker  # noqa: F401 - what a child is forked with
from aya_data import api
from aya_data.core import durable, ledger
from aya_data.core.errors import AyaDataError
from aya_data.core.ledger import LEDGER
from aya_data.core.registry import Registry
from aya_data.core.spec import load_spec
from aya_data.core.store import Workspace, command_line
from aya_data.engine import shape
from aya_data.engine.events import Events, Listener
from aya_data.engine.memory import PART_BYTES
from aya_data.engine.plan import Plan, make_plan
from aya_data.engine.pool import INLINE_BYTES, LocalExecutor
from aya_data.engine.release import EDGES
from aya_data.engine.run import Build, run
from aya_data.filters import FILTERS

__all__ = [
    "ASKING",
    "FULL",
    "SMALL",
    "Record",
    "build",
    "check_law",
    "command",
    "edges",
    "entries",
    "fates",
    "in_child",
    "in_memory",
    "killed_at",
    "plan",
    "released",
    "spec",
    "toy_records",
    "traced",
    "tree",
    "write_files",
]

Record = dict[str, Any]
REGISTRY = Registry(
    builders={"toy": "tests.toy:ToyBuilder", "echo": "tests.toy:EchoBuilder", "ask": "tests.toy:AskBuilder"},
    filters=FILTERS,
)

SMALL = """
name: toy
seed: 3
policy: research
sources:
  a: {builder: toy, folder: data}
  b: {builder: echo, from: a, take: 9}
filters: [license, {length: {min_chars: 5}}, exact_dedup]
mix: {budget: {rows: 40}, weights: {a: 60, b: rest}}
release: {validation: 0.1}
"""
"""A build of every kind of stage but a measure, in half a second."""

ASKING = SMALL.replace("filters:", "  c: {builder: ask, from: a, take: 8}\nfilters:").replace(
    "b: rest", "b: 25, c: rest"
)
"""The same with a source that asks a voice."""

FULL = SMALL.replace("exact_dedup]", "{language_id: {min_confidence: 0.5}}, exact_dedup]")
"""The same with a measure."""


def toy_records(count: int) -> list[Record]:
    """Records with duplicates, a second language, two licences, broken ones and one without a licence."""
    return [
        {
            "p": f"Please tell me something interesting about the number {i % (count * 5 // 6)} and its history.",
            "a": f"The number {i % (count * 5 // 6)} is a number that people have known for a long time.",
            "lang": "en" if i % 10 else "tr",
            "license": None if i == 11 else "CC-BY-4.0" if i % 7 else "CC-BY-NC-4.0",
            "bad": i % 50 == 3,
        }
        for i in range(count)
    ]


def write_files(folder: Path, files: Mapping[str, Sequence[Record]]) -> None:
    """Write records as JSON lines, one file per name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in files.items():
        lines = (json.dumps(record) + "\n" for record in records)
        (folder / name).write_text("".join(lines), encoding="utf-8")


def spec(folder: Path, text: str = SMALL, records: Sequence[Record] | None = None, files: int = 3) -> Path:
    """Write a spec and its data to ``folder``; return the path of the spec."""
    found = toy_records(72) if records is None else list(records)
    share = -(-len(found) // files) if found else 1
    write_files(folder / "data", {f"f{n}.jsonl": found[n * share : (n + 1) * share] for n in range(files)})
    path = folder / "toy.yaml"
    path.write_text(text)
    return path


def documents(manifest: Mapping[str, Any]) -> dict[str, str]:
    """A card of one line: what the release says of itself is tested with the card."""
    return {"README.md": f"# {manifest['name']}: {manifest['rows']} rows\n"}


def plan(
    path: Path, workspace: Path, part_bytes: int = PART_BYTES, limit: int | None = None, sets: Sequence[str] = ()
) -> Plan:
    """Plan a toy build."""
    return make_plan(
        load_spec(path, sets=sets, registry=REGISTRY), Workspace(workspace), part_bytes=part_bytes, limit=limit
    )


def build(
    path: Path,
    workspace: Path,
    *,
    workers: int = 1,
    part_bytes: int = PART_BYTES,
    inline_bytes: int = INLINE_BYTES,
    limit: int | None = None,
    sets: Sequence[str] = (),
    memory: int = 1 << 30,
    threads: int = 1,
    listeners: Iterable[Listener] = (),
) -> Build:
    """Build a toy spec in this process."""
    place = Workspace(workspace)
    with place.hold(command_line()):
        made = plan(path, workspace, part_bytes, limit, sets)
        durable.make_folder(place.temporary)
        with LocalExecutor(place.store.root, workers, inline_bytes, overlap=True) as executor:
            return run(made, place, executor, Events(*listeners), documents, memory, threads)


def in_memory() -> Path | None:
    """A folder in memory, where fsync costs nothing, or ``None``."""
    folder = Path("/dev/shm")
    return folder if os.access(folder, os.W_OK) else None


def command(path: Path, workspace: Path, variables: Mapping[str, str] | None = None, **options: Any) -> Any:
    """Build by a command; return the finished process, its output as text."""
    arguments = json.dumps({"spec": str(path), "workspace": str(workspace), **options})
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "error", **(variables or {})}
    return subprocess.run(
        [sys.executable, "-m", "tests.builds", arguments],
        cwd=root, env=environment, text=True, capture_output=True, timeout=300, check=False,
    )  # fmt: skip


# Children ------------------------------------------------------------------------------------------


def in_child(work: Callable[..., None], *arguments: Any) -> int:
    """Run ``work`` in a new process; return its exit code, negative for a signal."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.builds", "tests.warm"])
    child = context.Process(target=work, args=arguments)
    child.start()
    child.join()
    code = child.exitcode
    child.close()
    assert code is not None
    return code


def _build_with(variables: Mapping[str, str], path: Path, workspace: Path, options: Mapping[str, Any]) -> None:
    os.environ.update(variables)
    durable.failpoint.__init__()  # type: ignore[misc]
    build(path, workspace, **options)


def killed_at(operation: int, path: Path, workspace: Path, **options: Any) -> bool:
    """Build in a child that is killed just before its ``operation``-th durable operation; whether it was."""
    code = in_child(_build_with, {"AYA_DATA_FAIL_AT": str(operation)}, path, workspace, options)
    assert code in (0, -signal.SIGKILL), code
    return code != 0


def traced(path: Path, workspace: Path, trace: Path, **options: Any) -> list[dict[str, str]]:
    """Build in a child that logs its durable operations; return them."""
    trace.mkdir(parents=True)
    assert in_child(_build_with, {"AYA_DATA_TRACE": str(trace)}, path, workspace, options) == 0
    return [json.loads(line) for line in (trace / "operations.jsonl").read_text().splitlines()]


def _sample_with(variables: Mapping[str, str], spec: Path, workspace: Path, count: Path | None) -> None:
    os.environ.update(variables)
    durable.failpoint.__init__()  # type: ignore[misc]
    durable.failpoint.active = True
    began: list[tuple[str, int]] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "stage":
            began.append((event["name"], durable.failpoint.count))

    api.build(spec, workspace=workspace, workers=1, listeners=[listen])
    if count is not None:
        count.write_text(json.dumps([*began, ("", durable.failpoint.count)]))


def sample(spec: Path, workspace: Path) -> None:
    """Build a spec of the real builders and filters in a child."""
    assert in_child(_sample_with, {}, spec, workspace, None) == 0


def sample_stages(spec: Path, workspace: Path) -> dict[str, range]:
    """Build as :func:`sample` does; return the numbers of the durable operations of each stage."""
    count = workspace.parent / "operations"
    assert in_child(_sample_with, {}, spec, workspace, count) == 0
    began = json.loads(count.read_text())
    return {name: range(at + 1, end + 1) for (name, at), (_, end) in itertools.pairwise(began)}


def sample_operations(spec: Path, workspace: Path) -> int:
    """Build as :func:`sample` does; return how many durable operations it took, up to the end of its last stage."""
    return max(stage.stop for stage in sample_stages(spec, workspace).values()) - 1


def last_stage(workspace: Path) -> str:
    """The stage in which the last build of a workspace ended, by its log."""
    (log,) = (workspace / "events").iterdir()
    stages = [event["name"] for event in map(json.loads, log.read_text().splitlines()) if event["event"] == "stage"]
    return str(stages[-1])


def sample_killed_at(operation: int, spec: Path, workspace: Path) -> bool:
    """Build in a child that is killed just before its ``operation``-th durable operation; whether it was."""
    code = in_child(_sample_with, {"AYA_DATA_FAIL_AT": str(operation)}, spec, workspace, None)
    assert code in (0, -signal.SIGKILL), code
    return code != 0


@contextlib.contextmanager
def stepping(spec: Path, workspace: Path, points: Sequence[int]) -> Iterator[int]:
    """Build in a child of this very process that stops itself just before each of ``points``; its process id."""
    command = [sys.executable, "-m", "tests.builds", "--stepping", str(spec), str(workspace), *map(str, points)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with (workspace.parent / "said").open("wb") as said:
        child = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
    try:
        yield child.pid
    finally:
        child.kill()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child.pid, 0)
        child.returncode = 0


class _Stepping(durable.Failpoint):
    """Stops its process just before some operations."""

    def __init__(self, points: Iterable[int]) -> None:
        super().__init__()
        self.points = frozenset(points)
        self.active = True

    def __call__(self, operation: str, path: Path | str, data: bytes | None = None, to: str = "") -> None:
        super().__call__(operation, path, data, to)
        if self.count in self.points:
            os.kill(os.getpid(), signal.SIGSTOP)


# What came out ---------------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under a folder, by path."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def released(path: Path) -> pa.Table:
    """All rows of a release, without the columns of kinds it does not have."""
    files = sorted(p for p in path.rglob("*.parquet") if not {"ledger", "generation"} & set(p.parts))
    if not files:
        return shape.released("conversation", with_tools=False).empty_table()
    return pa.concat_tables([pq.read_table(p, partitioning=None) for p in files], promote_options="default")


def _stream(path: Path, name: str, schema: pa.Schema) -> pa.Table:
    files = sorted((path / "ledger").glob(f"{name}-*.parquet"))
    return pa.concat_tables([pq.read_table(p, partitioning=None) for p in files]).cast(schema)


def entries(path: Path) -> pa.Table:
    """The ledger of a release."""
    return _stream(path, "ledger", LEDGER)


def edges(path: Path) -> pa.Table:
    """The parent edges of a release."""
    return _stream(path, "edges", EDGES)


def fates(result: Build) -> dict[str, list[str]]:
    """What became of every row: ``released``, or the outcome where it ended.

    That rows were made of a parent is no end of it: the parent itself went on to the mixture.
    """
    found: dict[str, list[str]] = {}
    for key in set(released(result.result.path)["row_key"].to_pylist()):
        found.setdefault(key, []).append("released")
    for entry in entries(result.result.path).to_pylist():
        of_parent = entry["stage"].startswith("derive:") and entry["outcome"] == "consumed"
        if entry["outcome"] != "flagged" and not of_parent:
            found.setdefault(entry["row_key"], []).append(entry["outcome"])
    return found


def check_law(result: Build) -> None:
    """Assert law 2: every stage balances, its ledger says the same, and stages hand on what they got."""
    manifest = result.result.manifest
    said: dict[tuple[str, str], int] = {}
    for entry in entries(result.result.path).to_pylist():
        said[entry["stage"], entry["outcome"]] = said.get((entry["stage"], entry["outcome"]), 0) + 1
    for stage in result.stages:
        assert ledger.balance(stage.counts) == 0, stage
        for outcome in ("dropped", "merged", "not_sampled", "consumed"):
            assert said.pop((stage.name, outcome), 0) == stage.counts[outcome], (stage, outcome)
    assert not [key for key in said if key[1] != "flagged"]
    assert result.stages[-3].name == "mix"
    assert result.stages[-3].counts["rows_out"] == manifest["rows"] == released(result.result.path).num_rows


def main() -> None:
    """Build as the command line does, with the options of the first argument."""
    if sys.argv[1] == "--stepping":
        durable.failpoint = _Stepping(map(int, sys.argv[4:]))
        api.build(sys.argv[2], workspace=sys.argv[3], workers=1)
        return
    options = json.loads(sys.argv[1])
    path, workspace = Path(options.pop("spec")), Path(options.pop("workspace"))
    limit = options.pop("file_size", None)
    if limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        done = build(path, workspace, **options)
    except AyaDataError as error:
        print(f"aya-data: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(json.dumps({"version": done.result.version, "digest": done.result.digest, "path": str(done.result.path)}))


if __name__ == "__main__":
    main()
