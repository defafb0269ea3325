"""Whole builds: the law of the ledger, what is computed again and what is not, limits, the lock, gc."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aya_data.core.errors import TaskFailed, WorkspaceLocked
from aya_data.core.ledger import balance
from aya_data.core.store import Output, Store, Workspace
from aya_data.engine.pool import LocalExecutor
from aya_data.engine.run import Build
from aya_data.engine.task import Task, make_task
from tests import builds

NO_DEDUP = builds.SMALL.replace(", exact_dedup]", "]")


def tasks_run(spec: Path, workspace: Path, **options: Any) -> tuple[Build, Counter[str]]:
    """Build; count the tasks that were not cached, by stage."""
    told: list[dict[str, Any]] = []
    done = builds.build(spec, workspace, listeners=[told.append], **options)
    return done, Counter(e["name"] for e in told if e["event"] == "task" and not e["cached"])


# The law ---------------------------------------------------------------------------------------------


def check_fates(done: Build) -> None:
    """Every record that was read and every row that was made has one key and one fate."""
    found = builds.fates(done)
    assert {key: fates for key, fates in found.items() if len(fates) != 1} == {}
    into = sum(s.counts["rows_in"] for s in done.stages if s.name.startswith("read:"))
    created = sum(s.counts["created"] for s in done.stages if s.name.startswith(("read:", "derive:")))
    assert len(found) == into + created
    rows = builds.released(done.result.path)
    pairs = list(zip(rows["row_key"].to_pylist(), rows["epoch"].to_pylist(), strict=True))
    assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize("text", [builds.SMALL, builds.FULL, NO_DEDUP], ids=["small", "full", "no_dedup"])
def test_the_law_holds(tmp_path: Path, text: str) -> None:
    done = builds.build(builds.spec(tmp_path, text), tmp_path / "workspace")
    builds.check_law(done)
    check_fates(done)


WORDS = st.sampled_from(["", " ", "x", "one two", "One  Two", "grüße", "سلام", "\ud800", "a\u2028b", "long " * 30])
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "p": WORDS,
            "a": WORDS,
            "lang": st.sampled_from(["en", "tr", "no such language", "", None]),
            "license": st.sampled_from(["CC-BY-4.0", "MIT", "CC-BY-NC-4.0", "no such license", None]),
            "bad": st.booleans(),
        },
        optional={"id": st.sampled_from(["1", "2", "3"])},
    ),
    max_size=25,
)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(RECORDS, st.sampled_from([builds.SMALL, NO_DEDUP]), st.sampled_from([1, 10**6]), st.none() | st.integers(1, 9))
def test_the_law_holds_for_any_records(
    records: list[builds.Record], text: str, part_bytes: int, limit: int | None
) -> None:
    with tempfile.TemporaryDirectory(dir=builds.in_memory()) as folder:
        spec = builds.spec(Path(folder), text, records, files=2)
        done = builds.build(spec, Path(folder) / "workspace", part_bytes=part_bytes, limit=limit)
        builds.check_law(done)
        check_fates(done)


def test_epochs_are_created_rows(tmp_path: Path) -> None:
    text = builds.SMALL.replace("b: rest}}", "b: rest}, epochs: {sources: {b: 2.5}}}").replace("rows: 40", "rows: 90")
    done = builds.build(builds.spec(tmp_path, text), tmp_path / "workspace")
    builds.check_law(done)
    check_fates(done)
    rows = builds.released(done.result.path)
    epochs = Counter(rows["row_key"].to_pylist())
    assert max(epochs.values()) == 3
    assert {s["name"]: s["epochs"] for s in done.result.manifest["sources"]} == {"a": 1, "b": 2.0}


def test_rows_of_prompts_are_consumed_or_not_sampled(tmp_path: Path) -> None:
    text = builds.SMALL.replace("{builder: toy, folder: data}", "{builder: toy, folder: data, use: prompts}")
    text = text.replace("weights: {a: 60, b: rest}", "weights: {b: 100}")
    done = builds.build(builds.spec(tmp_path, text), tmp_path / "workspace")
    builds.check_law(done)
    check_fates(done)
    parents = set(builds.edges(done.result.path)["parent"].to_pylist())
    ended = {
        e["row_key"]: e["outcome"] for e in builds.entries(done.result.path).to_pylist() if e["rule"] == "prompts_only"
    }
    assert len(parents) == 9
    assert {key for key, outcome in ended.items() if outcome == "consumed"} == parents
    assert set(builds.released(done.result.path)["source"].to_pylist()) == {"b"}


def test_what_is_said_of_a_parent_names_the_parent(tmp_path: Path) -> None:
    """Rows that share a key are told apart; an entry about a parent keeps the parent's key, however it was given."""
    records = [{**record, "id": str(i % 30)} for i, record in enumerate(builds.toy_records(60))]
    text = NO_DEDUP.replace(", take: 9", "") + "\n"
    done = builds.build(builds.spec(tmp_path, text, records), tmp_path / "workspace")
    check_fates(done)
    parents = set(builds.edges(done.result.path)["parent"].to_pylist())
    used = [e["row_key"] for e in builds.entries(done.result.path).to_pylist() if e["stage"] == "derive:b"]
    assert sorted(used) == sorted(parents)
    assert len(parents) == done.stages[_index(done, "derive:b")].counts["consumed"]


def _index(done: Build, name: str) -> int:
    return next(i for i, stage in enumerate(done.stages) if stage.name == name)


# What is computed again --------------------------------------------------------------------------------


def test_a_second_build_computes_nothing(tmp_path: Path) -> None:
    spec = builds.spec(tmp_path, builds.FULL)
    first, ran = tasks_run(spec, tmp_path / "workspace")
    assert sum(ran.values()) > 20
    before = builds.tree(tmp_path / "workspace" / "releases")
    second, ran = tasks_run(spec, tmp_path / "workspace")
    assert not ran
    assert all(stage.cached for stage in second.stages)
    assert [(s.name, s.key, s.counts) for s in first.stages] == [(s.name, s.key, s.counts) for s in second.stages]
    assert builds.tree(tmp_path / "workspace" / "releases") == before
    assert not second.result.fresh


def test_a_comment_in_the_spec_computes_nothing(tmp_path: Path) -> None:
    spec = builds.spec(tmp_path)
    first = builds.build(spec, tmp_path / "workspace")
    spec.write_text("# What is this?\n" + spec.read_text().replace("seed: 3", "seed:   3  # why not") + "\n\n")
    second, ran = tasks_run(spec, tmp_path / "workspace")
    assert not ran
    assert second.result.version == first.result.version


def test_a_threshold_calls_no_model(tmp_path: Path) -> None:
    spec = builds.spec(tmp_path, builds.FULL)
    first = builds.build(spec, tmp_path / "workspace")
    spec.write_text(builds.FULL.replace("min_confidence: 0.5", "min_confidence: 0.97"))
    second, ran = tasks_run(spec, tmp_path / "workspace")
    cached = {stage.name: stage.cached for stage in second.stages}
    assert cached["read:a"] and cached["measure:language_id"]
    assert not cached["filter:language_id"]
    assert not ran["measure:language_id"] and ran["judge:languages+license+length+language_id"] == 3
    lost = [s.counts["dropped"] for done in (first, second) for s in done.stages if s.name == "filter:language_id"]
    assert lost[0] <= lost[1]


def test_rows_of_other_languages_are_not_measured(tmp_path: Path) -> None:
    records = builds.toy_records(72)
    alone = [{**record, "lang": "tr"} for record in records[:9]]
    path = builds.spec(tmp_path, builds.FULL + "languages: [eng]\n", records)
    builds.write_files(tmp_path / "data", {"alone.jsonl": alone})
    done = builds.build(path, tmp_path / "workspace")
    builds.check_law(done)
    check_fates(done)
    store = Workspace(tmp_path / "workspace").store
    records_made = filter(None, map(store.get, store.keys()))
    found = [record for record in records_made if record.stage == "measure:language_id"]
    measured = [store.read(part) for record in found for part in record.parts["measures"]]
    nulls = [table.column(0).null_count for table in measured]
    # The part in which nothing else stands is measured: no filter can say of nothing what its measures look like.
    whole = sum(table.num_rows for table, count in zip(measured, nulls, strict=True) if not count)
    ledger = builds.entries(done.result.path)
    dropped = ledger["rule"].to_pylist().count("language_not_in_spec")
    assert sum(nulls) > 0
    assert sum(nulls) + whole == dropped


def test_an_added_file_measures_only_its_own_rows(tmp_path: Path) -> None:
    spec = builds.spec(tmp_path, builds.FULL)
    builds.build(spec, tmp_path / "workspace")
    more = [{"p": f"What is the capital of country {i}?", "a": f"Its name is {i}, it is a city.", "lang": "en",
             "license": "MIT"} for i in range(9)]  # fmt: skip
    builds.write_files(tmp_path / "data", {"added.jsonl": more})
    done, ran = tasks_run(spec, tmp_path / "workspace")
    assert ran["read:a"] == ran["measure:language_id"] == 1
    assert done.stages[_index(done, "read:a")].counts["rows_in"] == 81
    fresh = builds.build(spec, tmp_path / "fresh")
    assert builds.tree(fresh.result.path) == builds.tree(done.result.path)


def test_a_removed_and_a_changed_file(tmp_path: Path) -> None:
    spec = builds.spec(tmp_path)
    builds.build(spec, tmp_path / "workspace")
    (tmp_path / "data" / "f0.jsonl").unlink()
    changed = builds.toy_records(72)[24:48]
    changed[5]["a"] = "Another answer."
    builds.write_files(tmp_path / "data", {"f1.jsonl": changed})
    done, ran = tasks_run(spec, tmp_path / "workspace")
    assert ran["read:a"] == 1
    assert builds.tree(done.result.path) == builds.tree(builds.build(spec, tmp_path / "fresh").result.path)


def test_another_part_size_in_the_same_workspace(tmp_path: Path) -> None:
    """Parts may come out equal under other names; what is cached of them must still find them."""
    records = [{**record, "id": str(i % 30)} for i, record in enumerate(builds.toy_records(60))]
    spec = builds.spec(tmp_path, NO_DEDUP, records)
    first = builds.build(spec, tmp_path / "workspace")
    for part_bytes in (2_000, 10**7):
        again = builds.build(spec, tmp_path / "workspace", part_bytes=part_bytes)
        check_fates(again)
        assert again.result.version == first.result.version


def test_plan_and_build_walk_the_same_stages(tmp_path: Path) -> None:
    spec = builds.spec(tmp_path, builds.FULL)
    planned = builds.plan(spec, tmp_path / "workspace")
    assert not (tmp_path / "workspace").exists()
    told: list[dict[str, Any]] = []
    done = builds.build(spec, tmp_path / "workspace", listeners=[told.append])
    assert [e["name"] for e in told if e["event"] == "stage"] == [stage.name for stage in planned.stages]
    keys = {stage.key for stage in planned.stages}
    assert {stage.key for stage in done.stages} == keys
    assert len(keys) == len(planned.stages)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ("seed=4", "read:a"),
        ("policy=commercial", "judge:languages+license+length+language_id"),
        ("filters.1.length.min_chars=6", "judge:languages+license+length+language_id"),
        ("filters.2.language_id.min_confidence=0.6", "judge:languages+license+length+language_id"),
        ("sources.b.take=8", "derive:b"),
        ("mix.budget.rows=41", "mix"),
        ("release.validation=0.2", "mix"),
        ("release.shard_size=1MB", "mix"),
        ("description=other", "release"),
    ],
)  # fmt: skip
def test_a_setting_changes_the_keys_from_its_stage_on(tmp_path: Path, change: str, first: str) -> None:
    spec = builds.spec(tmp_path, builds.FULL)
    before = {s.name: s.key for s in builds.plan(spec, tmp_path).stages}
    after = {s.name: s.key for s in builds.plan(spec, tmp_path, sets=[change]).stages}
    names = list(before)
    assert [name for name in names if before[name] != after[name]] == [
        name for name in names[names.index(first) :] if before[name] != after[name]
    ]
    assert before[first] != after[first] and before["release"] != after["release"]


def test_what_is_measured_ahead_is_told_as_computed_once(tmp_path: Path) -> None:
    """Workers measure parts while others are read; each task is told once, in its stage: as computed, then cached."""
    spec = builds.spec(tmp_path)
    for cached in (False, True):
        told: list[dict[str, Any]] = []
        builds.build(spec, tmp_path / "workspace", workers=2, inline_bytes=0, part_bytes=1, listeners=[told.append])
        tasks = [event for event in told if event["event"] == "task"]
        announced = sum(event["tasks"] for event in told if event["event"] == "tasks")
        assert len(tasks) == announced and {event["cached"] for event in tasks} == {cached}
        stage = ""
        for event in told:
            stage = event["name"] if event["event"] == "stage" else stage
            assert event["event"] != "task" or event["name"] == stage


def write_number(store: Store, output: Output, *, number: int, marker: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A task that fails unless its marker is there, and leaves it."""
    if marker and not Path(marker).exists():
        Path(marker).touch()
        raise ValueError("the first time")
    return {}, {"number": number}


def number_task(number: int, marker: str = "") -> Task:
    arguments = {"number": number, "marker": marker}
    return make_task("numbers", str(number), "tests.test_engine:write_number", "", {"number": number}, arguments)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_that_is_there_twice_counts_once(tmp_path: Path, workers: int) -> None:
    told: list[tuple[int, Any, float | None]] = []
    with LocalExecutor(tmp_path, workers, 0) as executor:
        tasks = [number_task(number) for number in (1, 2, 1)]
        records = executor.run(tasks, lambda *done: told.append(done))
    assert [record.facts["number"] for record in records] == [1, 2, 1]
    seconds = {index: took for index, _, took in told}
    assert sorted(seconds) == [0, 1, 2] and seconds[2] == 0.0 and min(seconds[0] or 0.0, seconds[1] or 0.0) > 0.0


def test_an_executor_goes_on_after_an_error(tmp_path: Path) -> None:
    tasks = [number_task(1, str(tmp_path / "marker")), *map(number_task, range(2, 6))]
    with LocalExecutor(tmp_path / "store", 2, 0) as executor:
        with pytest.raises(TaskFailed, match="the first time"):
            executor.run(tasks, lambda *done: None)
        assert [record.facts["number"] for record in executor.run(tasks, lambda *done: None)] == [1, 2, 3, 4, 5]


# Limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_limit_takes_so_many_rows_of_every_source(tmp_path: Path, workers: int) -> None:
    spec = builds.spec(tmp_path, NO_DEDUP.replace("rows: 40", "rows: 400"))
    whole = builds.build(spec, tmp_path / "workspace")
    done = builds.build(
        spec, tmp_path / "workspace", limit=7, workers=workers, inline_bytes=0, part_bytes=1, threads=workers
    )
    builds.check_law(done)
    check_fates(done)
    counts = {s.name: s.counts for s in done.stages}
    assert counts["limit"]["rows_out"] == 7 and counts["limit@2"]["rows_out"] == 7
    some = {r["row_key"] for r in builds.released(done.result.path).to_pylist() if r["source"] == "a"}
    assert some <= set(builds.released(whole.result.path)["row_key"].to_pylist())


def test_limit_is_keyed(tmp_path: Path) -> None:
    """A larger limit is a superset, whatever the order of the input."""
    spec = builds.spec(tmp_path)
    read = []
    for limit in (5, 11):
        done = builds.build(spec, tmp_path / "workspace", limit=limit)
        told = builds.entries(done.result.path).to_pylist()
        read.append({e["row_key"] for e in told if e["rule"] == "limit" and e["source"] == "a"})
    assert read[1] < read[0]


# The workspace -----------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from aya_data.core.store import Workspace, command_line
with Workspace(Path(sys.argv[1])).hold(command_line()):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    spec = builds.spec(tmp_path)
    workspace = tmp_path / "workspace"
    root = Path(__file__).parent.parent
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(workspace)], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdin is not None
    try:
        assert holder.stdout.readline() == "held\n"
        for _ in range(2):
            with pytest.raises(WorkspaceLocked) as caught:
                builds.build(spec, workspace)
        assert f"process {holder.pid} on " in str(caught.value)
        assert f"(-c {workspace})" in str(caught.value)
        assert "choose another folder with --workspace" in str(caught.value)
        assert caught.value.exit_code == 1
        assert not (workspace / "store").exists()
    finally:
        holder.kill()
        holder.communicate()
    assert builds.build(spec, workspace).result.fresh


def test_gc_keeps_what_the_last_builds_use(tmp_path: Path) -> None:
    spec = builds.spec(tmp_path)
    workspace = Workspace(tmp_path / "workspace")
    builds.build(spec, workspace.root)
    other = tmp_path / "other.yaml"
    other.write_text(builds.SMALL.replace("name: toy", "name: other").replace("seed: 3", "seed: 4"))
    kept = builds.build(other, workspace.root)
    spec.write_text(builds.SMALL.replace("seed: 3", "seed: 5"))
    second = builds.build(spec, workspace.root)
    before = set(workspace.store.keys())

    from aya_data.api import gc

    removed, size = gc(workspace.root)
    assert removed > 10 and size > 0
    assert len(before) - len(set(workspace.store.keys())) == removed
    for path, done in ((other, kept), (spec, second)):
        again, ran = tasks_run(path, workspace.root)
        assert not ran and again.result.version == done.result.version
    assert gc(workspace.root) == (0, 0)
    spec.write_text(builds.SMALL)
    _, ran = tasks_run(spec, workspace.root)
    assert ran["read:a"] == 3


def test_nothing_but_the_release_is_in_its_folder(tmp_path: Path) -> None:
    done = builds.build(builds.spec(tmp_path), tmp_path / "workspace")
    listed = {f["path"] for f in done.result.manifest["files"]}
    assert set(builds.tree(done.result.path)) == listed | {"manifest.json"}
    for entry in done.result.manifest["files"]:
        path = done.result.path / entry["path"]
        assert path.stat().st_size == entry["bytes"]
        if path.suffix == ".parquet":
            assert pq.ParquetFile(path).metadata.num_rows == entry["rows"]
    assert [p.name for p in (tmp_path / "workspace" / "releases" / "toy").iterdir()] == [done.result.version]


def test_every_stage_balances_and_hands_on_what_it_has(tmp_path: Path) -> None:
    done = builds.build(builds.spec(tmp_path, builds.FULL), tmp_path / "workspace")
    counts = {s.name: s.counts for s in done.stages if any(s.counts.values())}
    assert all(balance(c) == 0 for c in counts.values())
    first = [
        "read:a",
        "filter:languages",
        "filter:license",
        "filter:length",
        "filter:language_id",
        "filter:exact_dedup",
    ]
    for one, two in itertools.pairwise(first):
        assert counts[one]["rows_out"] == counts[two]["rows_in"], (one, two)
    chain = ["derive:b", *(f"{name}@2" for name in first[1:])]
    for one, two in itertools.pairwise(chain):
        assert counts[one]["rows_out"] == counts[two]["rows_in"], (one, two)
    assert counts["mix"]["rows_in"] == counts[first[-1]]["rows_out"] + counts[chain[-1]]["rows_out"]


# Memory ----------------------------------------------------------------------------------------------


def test_the_store_holds_what_the_last_build_names(tmp_path: Path) -> None:
    builds.build(builds.spec(tmp_path), tmp_path / "workspace")
    store = Store(tmp_path / "workspace" / "store")
    assert not list(store.verify())
    assert all(store.get(key) is not None for key in list(store.keys()))
