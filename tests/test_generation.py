"""Sources that ask models: what is asked, what is kept, what is asked again, and what a plan says of it beforehand."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aya_data.cli.funnel import build_as_dict
from aya_data.core.generation import Answer
from aya_data.core.identity import draw
from aya_data.core.journal import Journal, binary_keys
from aya_data.core.store import Store, Workspace
from aya_data.engine.asking import GenerationFailed, Listing, demand
from aya_data.engine.events import Events
from aya_data.engine.forecast import Peek, forecast
from aya_data.engine.pool import LocalExecutor
from aya_data.engine.run import STAGES, Build
from aya_data.engine.running import Running
from aya_data.engine.warming import Warming
from tests import builds
from tests.builds import Record


def spec(folder: Path, records: list[Record] | None = None, **settings: Any) -> Path:
    given = ", ".join(f"{name}: {json.dumps(value)}" for name, value in {"take": 8, **settings}.items())
    text = builds.ASKING.replace("from: a, take: 8}", f"from: a, {given}}}")
    assert given in text
    return builds.spec(folder, text, records)


def asked(folder: Path) -> list[str]:
    path = folder / "asked"
    return path.read_text().split() if path.exists() else []


def rows(done: Build) -> dict[str, str]:
    tables = [pq.read_table(path) for path in (done.result.path / "data").rglob("*.parquet")]
    return {r["row_key"]: r["messages"][-1]["content"] for t in tables for r in t.to_pylist() if r["source"] == "c"}


def test_what_is_asked_is_kept(tmp_path: Path) -> None:
    path = spec(tmp_path)
    done = builds.build(path, tmp_path / "workspace")
    assert len(asked(tmp_path)) == 8 == len(set(asked(tmp_path)))
    assert all(text.isupper() and text.endswith("!") for text in rows(done).values())
    # Without any intermediate result, the answers are those of the journal.
    Workspace(tmp_path / "workspace").store.collect([])
    again = builds.build(path, tmp_path / "workspace")
    assert again.result.version == done.result.version
    assert len(asked(tmp_path)) == 8


def test_the_lock_names_the_voice_and_the_journal(tmp_path: Path) -> None:
    done = builds.build(spec(tmp_path), tmp_path / "workspace")
    lock = json.loads((done.result.path / "aya.lock").read_bytes())
    found = lock["generation"]["c"]["generate/echoing"]
    assert found["identity"] == {"model": "echoing", "suffix": "!"}
    assert found["answers"] == 8
    assert len(found["journal"]) == 32
    assert done.result.manifest["generation"] == {"c": {"longest": max(len(t) for t in _said(done))}}
    view = pq.read_table(done.result.path / "generation" / "lengths-00000.parquet")
    assert view.column_names == ["source", "prompt", "length"]
    assert view.num_rows == 8


def _said(done: Build) -> list[str]:
    workspace = Workspace(done.result.path.parents[2])
    segments = (workspace.journal).rglob("*.parquet")
    return [text for path in segments for text in pq.read_table(path)["text"].to_pylist()]


def test_another_voice_is_asked_anew_and_the_first_is_remembered(tmp_path: Path) -> None:
    first = builds.build(spec(tmp_path), tmp_path / "workspace")
    other = builds.build(spec(tmp_path, suffix="?"), tmp_path / "workspace")
    assert len(asked(tmp_path)) == 16
    assert other.result.version != first.result.version
    back = builds.build(spec(tmp_path), tmp_path / "workspace")
    assert back.result.version == first.result.version
    assert len(asked(tmp_path)) == 16


def test_one_more_prompt_is_one_more_request(tmp_path: Path) -> None:
    builds.build(spec(tmp_path, take=8), tmp_path / "workspace")
    before = set(asked(tmp_path))
    builds.build(spec(tmp_path, take=9), tmp_path / "workspace")
    assert len(asked(tmp_path)) == 9
    assert before < set(asked(tmp_path))


def test_equal_prompts_are_asked_once(tmp_path: Path) -> None:
    answers = [f"Answer number {n} to the same question, which is one of several." for n in range(8)]
    records = [{"p": "What is the same?", "a": a, "lang": "en", "license": "CC-BY-4.0"} for a in answers]
    done = builds.build(spec(tmp_path, records), tmp_path / "workspace")
    assert len(asked(tmp_path)) == 1
    lock = json.loads((done.result.path / "aya.lock").read_bytes())
    assert lock["generation"]["c"]["generate/echoing"]["asked"] == 8


def test_more_failures_than_allowed_stop_the_build_and_are_asked_again(tmp_path: Path) -> None:
    path = spec(tmp_path, take=20, fail="number 1")
    with pytest.raises(GenerationFailed, match=r"requests failed, and max_failed is 0: \d+ times it is too hard"):
        builds.build(path, tmp_path / "workspace")
    first = asked(tmp_path)
    assert len(first) == 20
    (tmp_path / "mended").touch()
    done = builds.build(path, tmp_path / "workspace")
    again = asked(tmp_path)[20:]
    assert 0 < len(again) < 20, "only what failed is asked again"
    assert set(again) < set(first)
    # The way there leaves no trace in the release.
    (tmp_path / "other").mkdir()
    whole = builds.build(spec(tmp_path / "other", take=20), tmp_path / "other" / "workspace")
    assert builds.tree(done.result.path / "data") == builds.tree(whole.result.path / "data")


def test_failures_that_are_allowed_are_kept_and_named(tmp_path: Path) -> None:
    path = spec(tmp_path, take=20, fail="number 1", max_failed=19)
    done = builds.build(path, tmp_path / "workspace")
    lost = [r for r in done.result.manifest["rules"] if r["rule"] == "no_answer"]
    assert lost and lost[0]["outcome"] == "dropped"
    (voice,) = done.result.manifest["voices"]
    failed = lost[0]["rows"]
    assert (voice["failed"], voice["reasons"]) == (failed, {"it is too hard": failed})
    lock = json.loads((done.result.path / "aya.lock").read_bytes())
    assert lock["generation"]["c"]["generate/echoing"]["failed"] == failed
    said = [f"generate:c/echoing: {failed} of 20 requests failed: {failed} times it is too hard"]
    assert build_as_dict(done)["notes"] == said
    assert len(asked(tmp_path)) == 20
    again = builds.build(path, tmp_path / "workspace")
    assert again.result.version == done.result.version and build_as_dict(again)["notes"] == said
    assert len(asked(tmp_path)) == 20, "what a build was content with is replayed"


@pytest.mark.parametrize("operation", [140, 155, 170])
def test_a_killed_build_asks_again_at_most_what_was_not_committed(tmp_path: Path, operation: int) -> None:
    path = spec(tmp_path, take=30)
    assert builds.killed_at(operation, path, tmp_path / "workspace")
    builds.build(path, tmp_path / "workspace")
    found = asked(tmp_path)
    assert len(set(found)) == 30
    assert len(found) <= 30 + 3 + 1, "one batch of three, and one request on its way"


def test_what_is_damaged_in_a_journal_is_set_aside_and_asked_again(tmp_path: Path) -> None:
    path = spec(tmp_path)
    before = builds.build(path, tmp_path / "workspace")
    folder = next(Workspace(tmp_path / "workspace").journal.iterdir())
    segments = sorted(folder.glob("*.parquet"))
    lost = sum(pq.read_metadata(segment).num_rows for segment in segments)
    for segment in segments:
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 1
        segment.write_bytes(data)
    done = builds.build(path, tmp_path / "workspace")
    said = "{} was damaged and has been set aside: what was in it is asked again where it is needed"
    assert build_as_dict(done)["notes"] == [said.format(segment) for segment in segments]
    assert sorted(p.name for p in folder.glob("*.damaged")) == [f"{segment.name}.damaged" for segment in segments]
    assert len(asked(tmp_path)) == 8 + lost
    assert done.result.version == before.result.version, "the toy always says the same"
    assert build_as_dict(builds.build(path, tmp_path / "workspace"))["notes"] == []


# What a plan says, and leaves alone -----------------------------------------------------------------------------------


def planned(path: Path, workspace: Path, upto: bool = False) -> dict[str, Any]:
    """What a plan of the toy spec says of its one step that asks."""
    place = Workspace(workspace)
    made = builds.plan(path, workspace)
    place.store = Store(place.store.root, read_only=not upto)
    with LocalExecutor(place.store.root, 1) as executor:
        state = Running(
            made, place, executor if upto else Peek(place.store), Events(), builds.documents, 1 << 30, 1,
            Warming([], 1, 0), looks_only=True,
        )  # fmt: skip
        (found,) = forecast(state, STAGES)
    return found.as_dict()


def test_a_plan_changes_nothing_and_names_what_is_damaged(tmp_path: Path) -> None:
    path = spec(tmp_path, take=8)
    builds.build(path, tmp_path / "workspace")
    workspace = Workspace(tmp_path / "workspace")
    assert (planned(path, workspace.root)["missing"], planned(path, workspace.root)["damaged"]) == (0, ())
    (folder,) = workspace.journal.iterdir()
    first, *_ = segments = sorted(folder.glob("*.parquet"))
    held = sum(pq.read_metadata(segment).num_rows for segment in segments)
    lost = pq.read_metadata(first).num_rows
    first.write_bytes(first.read_bytes()[:-1])
    for entry in (*folder.iterdir(), folder):
        entry.chmod(entry.stat().st_mode & ~0o222)
    before = builds.tree(workspace.root)
    try:
        for upto in (False, False, True):
            found = planned(path, workspace.root, upto)
            assert (found["exact"], found["wanted"], found["missing"]) == (True, held, lost)
            assert found["damaged"] == (str(first),)
        assert builds.tree(workspace.root) == before
    finally:
        folder.chmod(0o755)
    # A build sets it aside, and asks for what was in it.
    workspace.store.collect([])
    builds.build(path, workspace.root)
    assert [p.name for p in folder.glob("*.damaged")] == [first.name + ".damaged"]
    assert len(asked(tmp_path)) == held + lost


def test_a_plan_names_damaged_parts_and_one_that_may_write_gets_past_them(tmp_path: Path) -> None:
    path = spec(tmp_path)
    assert planned(path, tmp_path / "workspace", upto=True)["exact"]
    store = Workspace(tmp_path / "workspace").store
    records = [record for key in list(store.keys()) if (record := store.get(key)) and "prompts" in record.parts]
    damaged = [store.root / part.path for record in records for part in record.parts["prompts"]]
    for file in damaged:
        file.write_bytes(bytes(file.stat().st_size))
    for upto, there in ((False, True), (True, False)):
        found = planned(path, tmp_path / "workspace", upto)
        assert not found["exact"] and found["damaged"] and set(found["damaged"]) <= set(map(str, damaged))
        assert all(Path(name).exists() == there for name in found["damaged"])
    for _ in damaged:
        found = planned(path, tmp_path / "workspace", upto=True)
    assert found["exact"] and not found["damaged"]


def test_what_the_journal_has_is_exact_without_any_result(tmp_path: Path) -> None:
    """Another spec, or another build, may have asked: what is known is known."""
    path = spec(tmp_path, take=8)
    assert planned(path, tmp_path / "workspace")["exact"] is False
    assert planned(path, tmp_path / "workspace", upto=True)["missing"] == 8
    builds.build(path, tmp_path / "workspace")
    other = spec(tmp_path, take=12)
    found = planned(other, tmp_path / "workspace", upto=True)
    assert (found["exact"], found["wanted"], found["missing"]) == (True, 12, 4)


# Keys -------------------------------------------------------------------------------------------------

KEYS = st.sampled_from([f"{n:032x}" for n in (0, 1, 2, 255, 256, 1 << 64, (1 << 128) - 1)])
ROWS = st.lists(st.lists(st.tuples(KEYS, st.sampled_from(["eng_Latn", "tur_Latn"]), st.integers(0, 9)), max_size=9))


@given(ROWS, st.sets(KEYS))
def test_arrays_of_keys_count_as_sets_do(parts: list[list[tuple[str, str, int]]], chosen: set[str]) -> None:
    schema = pa.schema({"key": pa.string(), "language": pa.string(), "tokens": pa.int32()})
    listing = Listing.of(
        pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema) for rows in parts
    )
    first: dict[str, tuple[str, int]] = {}
    for key, language, size in (row for rows in parts for row in rows):
        first.setdefault(key, (language, size))
    assert [key.tobytes().hex() for key in listing.distinct()[:, None]] == sorted(first)
    wanted = binary_keys(sorted(chosen))
    languages, tokens = listing.tally(wanted)
    asked = [first[key] for key in chosen & set(first)]
    assert languages == Counter(language for language, _ in asked) and tokens == sum(size for _, size in asked)
    assert [len(part) for part in listing.parts()] == [len(rows) for rows in parts]


# Memory -------------------------------------------------------------------------------------------------


def test_memory_is_that_of_keys() -> None:
    """What asking holds of 200,000 requests, at its most: arrays. An object for each would be 100 bytes and more."""
    count, rows = 200_000, 4096
    digits = np.array([f"{draw(1, 'key', str(n)):016x}{draw(2, 'key', str(n)):016x}" for n in range(count)])

    def tables() -> Iterator[pa.Table]:
        for start in range(0, count, rows):
            keys = pa.array(digits[start : start + rows])
            yield pa.table(
                {"key": keys, "language": ["eng_Latn"] * len(keys), "tokens": pa.array([9] * len(keys), pa.int32())}
            )

    with tempfile.TemporaryDirectory(dir=builds.in_memory()) as folder:
        journal = Journal(Path(folder), "0" * 32)
        journal.append([Answer(str(key), "a") for key in digits[: count // 2]])
        tracemalloc.start()
        try:
            listing = Listing.of(tables())
            keys = listing.distinct()
            index = journal.load()
            wanted = demand(index, keys).open(0)
            languages, tokens = listing.tally(wanted)
            index.digest(keys[np.isin(keys, wanted, invert=True)])
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert languages == {"eng_Latn": count // 2} and tokens == 9 * count // 2
    assert sorted(key.hex() for key in (k.ljust(16, b"\0") for k in wanted.tolist())) == sorted(digits[count // 2 :])
    assert most < 200 * count, most / count
