"""Sources that ask models: what is asked, what is kept, what is asked again, and what a plan says of it beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from aya_data.core.errors import BuildError
from aya_data.core.store import Workspace
from aya_data.engine.asking import GenerationFailed
from aya_data.engine.run import Build
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
    assert len(asked(tmp_path)) == 20
    again = builds.build(path, tmp_path / "workspace")
    assert again.result.version == done.result.version
    assert len(asked(tmp_path)) == 20, "what a build was content with is replayed"


@pytest.mark.parametrize("operation", [140, 155, 170])
def test_a_killed_build_asks_again_at_most_what_was_not_committed(tmp_path: Path, operation: int) -> None:
    path = spec(tmp_path, take=30)
    assert builds.killed_at(operation, path, tmp_path / "workspace")
    builds.build(path, tmp_path / "workspace")
    found = asked(tmp_path)
    assert len(set(found)) == 30
    assert len(found) <= 30 + 3 + 1, "one batch of three, and one request on its way"


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    path = spec(tmp_path)
    builds.build(path, tmp_path / "workspace")
    segment = next(Workspace(tmp_path / "workspace").journal.rglob("*.parquet"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    Workspace(tmp_path / "workspace").store.collect([])
    with pytest.raises(BuildError, match=segment.name):
        builds.build(path, tmp_path / "workspace")
