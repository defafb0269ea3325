"""A release loads as it is: by datasets, and by the rules that each trainer documents."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from aya_data.core.store import Workspace
from aya_data.engine.shape import FORBIDDEN
from tests.released import latest, shared_workspace

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return shared_workspace(tmp_path_factory)


@pytest.fixture(scope="session")
def plain(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The releases in a folder without brackets: datasets takes the whole path of a folder as a pattern."""
    folder = tmp_path_factory.mktemp("loads") / "d'été releases"
    shutil.copytree(workspace.releases, folder)
    return folder


@pytest.fixture(scope="session")
def release(workspace: Workspace, plain: Path) -> Path:
    return plain / "mix" / latest(workspace).name


@pytest.fixture(scope="session")
def manifest(release: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((release / "manifest.json").read_bytes())
    return loaded


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets.disable_progress_bars()
    return tmp_path_factory.mktemp("datasets-cache")


def load(folder: Path, cache: Path, config: str | None = None, **options: Any) -> Any:
    return datasets.load_dataset(str(folder), config, cache_dir=str(cache), **options)


def rows_of(manifest: dict[str, Any], kind: str, variety: str | None = None) -> dict[str, int]:
    found: dict[str, int] = {}
    for file in manifest["files"]:
        if file.get("kind") == kind and variety in (None, file["config"]):
            found[file["split"]] = found.get(file["split"], 0) + file["rows"]
    return found


def conversations(release: Path, manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for file in manifest["files"]:
        if file.get("kind") == "conversation":
            yield from pq.read_table(release / file["path"]).to_pylist()


def preferences(release: Path, manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for file in manifest["files"]:
        if file.get("kind") == "preference":
            yield from pq.read_table(release / file["path"]).to_pylist()


# datasets ------------------------------------------------------------------------------------------


def test_the_folder_loads_with_all_conversations(release: Path, manifest: dict[str, Any], cache: Path) -> None:
    loaded = load(release, cache)
    assert {split: data.num_rows for split, data in loaded.items()} == rows_of(manifest, "conversation")
    row = loaded["train"][0]
    assert [set(message) for message in row["messages"]] == [{"role", "content"}] * len(row["messages"])


def test_every_variety_loads_by_its_name(release: Path, manifest: dict[str, Any], cache: Path) -> None:
    for variety in sorted({f["config"] for f in manifest["files"] if f.get("kind") == "conversation"}):
        loaded = load(release, cache, variety)
        found = {split: data.num_rows for split, data in loaded.items()}
        assert found == rows_of(manifest, "conversation", variety)
        for data in loaded.values():
            assert {f"{row['language']}_{row['script']}" for row in data} == {variety}


def test_preferences_are_a_config_beside_the_conversations(
    release: Path, manifest: dict[str, Any], cache: Path
) -> None:
    expected = rows_of(manifest, "preference")
    for config in ("preference", "preference-tur_Latn"):
        loaded = load(release, cache, config)
        assert {split: data.num_rows for split, data in loaded.items()} == expected
        assert "messages" not in loaded["train"].column_names


def test_a_release_of_preferences_alone_loads_without_a_name(workspace: Workspace, plain: Path, cache: Path) -> None:
    folder = plain / "pairs" / latest(workspace, "pairs").name
    assert load(folder, cache, split="train").num_rows == 40
    assert load(folder, cache, "tur_Latn", split="train").num_rows == 40


def test_streaming_gives_the_same_rows(release: Path, cache: Path) -> None:
    streamed = list(load(release, cache, "tur_Latn", split="train", streaming=True))
    assert streamed == list(load(release, cache, "tur_Latn", split="train"))


def test_the_configs_are_those_of_the_card(release: Path) -> None:
    names = datasets.get_dataset_config_names(str(release))
    assert names[0] == "default"
    assert {"tur_Latn", "arb_Arab", "preference", "preference-tur_Latn"} <= set(names)


def test_tags_and_scores_load_as_lists_of_pairs(release: Path, cache: Path) -> None:
    features = load(release, cache, split="train").features
    for name, kind in (("tags", "string"), ("scores", "float64")):
        assert features[name].feature == {"key": datasets.Value("string"), "value": datasets.Value(kind)}


def test_the_dataset_can_be_read_a_second_time_from_its_cache(release: Path, cache: Path) -> None:
    assert load(release, cache)["train"].to_list() == load(release, cache)["train"].to_list()


# Trainers: the rules that each documents or has in its code ----------------------------------------


def test_no_conversation_shard_has_a_column_that_changes_what_a_trainer_does(
    release: Path, manifest: dict[str, Any]
) -> None:
    for file in manifest["files"]:
        if file.get("kind") == "conversation":
            columns = set(pq.read_schema(release / file["path"]).names)
            assert not columns & FORBIDDEN
            assert not columns & {"completion_mask", "assistant_masks", "seq_lengths", "ground_truth"}


def test_trl_sees_a_language_modelling_conversation(release: Path, manifest: dict[str, Any]) -> None:
    keys = {"prompt", "chosen", "rejected", "completion", "messages"}
    for row in conversations(release, manifest):
        assert keys & set(row) == {"messages"}  # it takes any one of these that is there
        assert row["messages"], "messages[0] is read"
        assert all(set(m) == {"role", "content"} and isinstance(m["content"], str) for m in row["messages"])
        assert row["messages"][-1]["role"] == "assistant", "a row without assistant tokens ends a run"


def test_open_instruct_reads_messages_and_no_dataset_column(release: Path, manifest: dict[str, Any]) -> None:
    for row in conversations(release, manifest):
        assert "dataset" not in row
        assert any(m["role"] == "assistant" for m in row["messages"])


def test_trl_finds_the_prompt_of_a_preference(release: Path, manifest: dict[str, Any]) -> None:
    for row in preferences(release, manifest):
        assert "prompt" not in row and "messages" not in row
        same = 0
        for one, other in zip(row["chosen"], row["rejected"], strict=True):
            if one != other:
                break
            same += 1
        assert row["chosen"][:same] == row["context"]
        assert len(row["chosen"]) == len(row["rejected"]) == same + 1
        assert row["chosen"][-1]["role"] == row["rejected"][-1]["role"] == "assistant"


def test_the_margin_is_a_float_or_nothing(release: Path, manifest: dict[str, Any]) -> None:
    for file in manifest["files"]:
        if file.get("kind") == "preference":
            assert str(pq.read_schema(release / file["path"]).field("margin").type) == "float"


def test_axolotl_reads_both_shapes(release: Path, manifest: dict[str, Any]) -> None:
    for row in conversations(release, manifest):  # type chat_template, field_messages messages
        assert {m["role"] for m in row["messages"]} <= {"system", "user", "assistant", "tool"}
    for row in preferences(release, manifest):  # chat_template.argilla_chat
        assert row["chosen"][:-1] == row["rejected"][:-1]
        assert row["chosen"][-1] != row["rejected"][-1]


def test_llama_factory_reads_every_entry_of_dataset_info(release: Path, manifest: dict[str, Any]) -> None:
    info = json.loads((release / "dataset_info.json").read_bytes())
    assert len(info) == sum("kind" in f for f in manifest["files"])
    for entry in info.values():
        path = release / entry["file_name"]
        assert path.is_file() and path.suffix == ".parquet"
        assert entry["formatting"] == "sharegpt"
        columns, tags = entry["columns"], entry["tags"]
        for row in pq.read_table(path).to_pylist():
            turns = list(row[columns["messages"]])
            if turns and turns[0][tags["role_tag"]] == tags["system_tag"]:
                turns = turns[1:]
            odd, even = (tags["user_tag"], tags["observation_tag"]), (tags["assistant_tag"],)
            for number, turn in enumerate(turns):
                assert turn[tags["role_tag"]] in (even if number % 2 else odd)
                assert turn[tags["content_tag"]]
            if entry.get("ranking"):
                assert len(turns) % 2 == 1
                for side in ("chosen", "rejected"):
                    answer = row[columns[side]]
                    assert isinstance(answer, dict) and answer[tags["role_tag"]] == tags["assistant_tag"]
            else:
                assert len(turns) % 2 == 0


def test_llama_factory_loads_a_file_by_itself(release: Path, cache: Path) -> None:
    info = json.loads((release / "dataset_info.json").read_bytes())
    entry = info["tur_Latn-train"]
    loaded = load(Path("parquet"), cache, data_files=[str(release / entry["file_name"])], split="train")
    assert loaded.num_rows == pq.read_metadata(release / entry["file_name"]).num_rows
