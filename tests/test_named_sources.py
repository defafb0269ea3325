"""The published datasets: their true layouts, the traps in them, and what every record becomes."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aya_data.builders import upstream
from aya_data.builders.aya_collection import (
    CONFIGS,
    AyaCollectionBuilder,
    AyaCollectionLanguageSplitBuilder,
    canonical_config,
    config_of,
)
from aya_data.builders.aya_dataset import AyaDatasetBuilder
from aya_data.builders.aya_evaluation_suite import AyaEvaluationSuiteBuilder
from aya_data.builders.dolly import DollyBuilder, without_citations
from aya_data.builders.hub.builder import HubBuilder
from aya_data.builders.oasst import OasstBuilder
from aya_data.builders.upstream import UpstreamBuilder, shard_split
from aya_data.builders.xp3x import XP3xBuilder, parse_name
from aya_data.core.errors import HubUnreachable, InputError, NotFound
from aya_data.core.language import Variety, parse
from aya_data.core.license import policy, resolve
from aya_data.core.row import Draft, Rejection, tabulate
from aya_data.core.stage import Environment
from tests.hub_server import HubServer

NAMED: tuple[type[UpstreamBuilder], ...] = (
    AyaDatasetBuilder,
    AyaCollectionBuilder,
    AyaCollectionLanguageSplitBuilder,
    XP3xBuilder,
    AyaEvaluationSuiteBuilder,
    DollyBuilder,
    OasstBuilder,
)


def environment(
    folder: Path,
    *,
    bundled: bool = False,
    languages: Sequence[str] | None = None,
    offline: bool = False,
) -> Environment:
    wanted: tuple[Variety, ...] | None = tuple(map(parse, languages)) if languages else None
    cache = folder / "cache"
    return Environment(folder, cache, bundled, 7, wanted, policy("research"), offline)


@dataclass
class Reading:
    """All that a source says of its input."""

    records: int
    drafts: list[Draft]
    rejections: list[Rejection]
    rows: pa.Table

    def column(self, name: str) -> list[Any]:
        values: list[Any] = self.rows[name].to_pylist()
        return values

    @property
    def extras(self) -> list[dict[str, Any]]:
        return [json.loads(text or "{}") for text in self.column("extra")]

    @property
    def rules(self) -> Counter[str]:
        return Counter(r.rule for r in self.rejections)


def read(builder: UpstreamBuilder) -> Reading:
    """Read a source as workers do: the builder and its units travel by pickle."""
    units = pickle.loads(pickle.dumps(builder.units()))
    builder = pickle.loads(pickle.dumps(builder))
    records, drafts, rejections = 0, [], []
    for unit in units:
        for batch in builder.read(unit):
            own = 0 if isinstance(builder, OasstBuilder) else len(batch.drafts)
            assert batch.records == own + len(batch.rejections)
            records += batch.records
            drafts += batch.drafts
            rejections += batch.rejections
    table = tabulate(drafts, builder.source, builder.kind, builder.settings.max_chars)
    return Reading(records, drafts, rejections + table.rejections, table.rows)


def mirror(
    kind: type[UpstreamBuilder],
    folder: Path,
    files: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    languages: Sequence[str] | None = None,
    **options: Any,
) -> UpstreamBuilder:
    """Write files under their true names and return a builder that reads them."""
    for name, rows in files.items():
        write(folder / "mirror" / name, rows)
    given_settings = kind.Settings(location="mirror", **options)
    return kind("source", given_settings, environment(folder, languages=languages))


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(map(dict, rows))), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# What holds for every named source.


@pytest.mark.parametrize("kind", NAMED, ids=lambda kind: kind.name)
def test_the_bundled_sample_is_read_to_the_last_record(kind: type[UpstreamBuilder], tmp_path: Path) -> None:
    builder = kind("source", kind.Settings(), environment(tmp_path, bundled=True))
    found = read(builder)
    assert found.rows.num_rows > 0
    assert set(builder.pins().values()) >= {"bundled"}
    assert set(found.rows["provenance"].combine_chunks().field("revision").to_pylist()) == {"bundled"}
    assert found.records == len(
        {(r.place, r.key) for r in found.rejections} | {(d.place, d.key) for d in found.drafts}
    ) - (len(found.drafts) if kind is OasstBuilder else 0)
    for name in ("dataset", "license", "language", "row_key", "group"):
        assert None not in found.column(name)


@pytest.mark.parametrize("kind", NAMED, ids=lambda kind: kind.name)
def test_reading_twice_is_reading_once(kind: type[UpstreamBuilder], tmp_path: Path) -> None:
    builder = kind("source", kind.Settings(), environment(tmp_path, bundled=True))
    assert read(builder).rows.equals(read(builder).rows)


@pytest.mark.parametrize("kind", NAMED, ids=lambda kind: kind.name)
def test_settings_are_frozen_described_and_strict(kind: type[UpstreamBuilder]) -> None:
    for name, field in kind.Settings.model_fields.items():
        assert field.description, name
    with pytest.raises(ValidationError):
        kind.Settings.model_validate({"splitz": ["train"]})


def test_a_split_that_does_not_exist_is_named(tmp_path: Path) -> None:
    files = {"data/train-00000-of-00001.parquet": [ANNOTATED]}
    builder = mirror(AyaDatasetBuilder, tmp_path, files, splits=["trian"])
    with pytest.raises(NotFound) as caught:
        builder.units()
    assert str(caught.value) == "there is no split in source 'source' 'trian'. Did you mean 'train'?"


def test_a_folder_without_the_files_says_so(tmp_path: Path) -> None:
    builder = mirror(AyaDatasetBuilder, tmp_path, {"elsewhere/train.parquet": [ANNOTATED]})
    with pytest.raises(InputError, match="finds no file to read in CohereLabs/aya_dataset"):
        builder.units()


def test_a_location_that_is_neither_folder_nor_repository_says_so(tmp_path: Path) -> None:
    settings_ = AyaDatasetBuilder.Settings(location="./nothing/here/at/all")
    with pytest.raises(NotFound, match=r"there is no folder '\./nothing/here/at/all'"):
        AyaDatasetBuilder("source", settings_, environment(tmp_path)).units()


def test_offline_and_unpinned_is_refused_without_a_request(tmp_path: Path) -> None:
    builder = AyaDatasetBuilder("source", AyaDatasetBuilder.Settings(), environment(tmp_path, offline=True))
    with pytest.raises(HubUnreachable, match="--profile sample"):
        builder.pins()


def test_a_large_file_is_read_in_slices_and_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{**ANNOTATED, "inputs": f"question {i}", "targets": "answer " * 500} for i in range(900)]
    builder = mirror(AyaDatasetBuilder, tmp_path, {"data/aya-dataset-train.jsonl": rows})
    whole = read(builder)
    monkeypatch.setattr(upstream, "LARGE", 1 << 20)
    monkeypatch.setattr(upstream, "PIECE", 1 << 20)
    assert len(builder.units()) > 1
    sliced = read(builder)
    assert sorted(sliced.column("row_key")) == sorted(whole.column("row_key"))
    places = {(p["file"], p["row"]) for p in sliced.column("provenance")}
    assert len(places) == 900


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00001.parquet", "train"),
        ("data/validation-00000-of-00001-134b8fd0c89408b6.parquet", "validation"),
        ("train.jsonl.gz", "train"),
        ("README.md", "README"),
        ("00000.parquet", None),
    ],
)
def test_the_split_stands_in_the_file_name(name: str, split: str | None) -> None:
    assert shard_split(name) == split


# aya_dataset

ANNOTATED = {
    "inputs": "Türkiye'nin başkenti neresidir?",
    "targets": "Ankara.",
    "language": "Turkish",
    "language_code": "tur",
    "annotation_type": "original-annotations",
    "user_id": "f0ff69570af705b75c5a0851883e",
}
CHINESE = [
    {**ANNOTATED, "language_code": "zho", "language": "Simplified Chinese", "inputs": "一"},
    {**ANNOTATED, "language_code": "zho", "language": "Traditional Chinese", "inputs": "二"},
]


def test_aya_dataset_tells_the_two_chineses_apart_by_name(tmp_path: Path) -> None:
    files = {"data/train-00000-of-00001.parquet": CHINESE}
    found = read(mirror(AyaDatasetBuilder, tmp_path, files))
    assert list(zip(found.column("language"), found.column("script"), strict=True)) == [
        ("zho", "Hans"),
        ("zho", "Hant"),
    ]
    assert found.column("source_language") == ["zho", "zho"]


def test_aya_dataset_takes_the_name_where_the_code_is_a_group(tmp_path: Path) -> None:
    kurdish = {**ANNOTATED, "language_code": "kur", "language": "Central Kurdish"}
    files = {"data/train-00000-of-00001.parquet": [kurdish]}
    assert read(mirror(AyaDatasetBuilder, tmp_path, files)).column("language") == ["ckb"]


def test_aya_dataset_origin_and_personal_data(tmp_path: Path) -> None:
    edited = {**ANNOTATED, "annotation_type": "re-annotations"}
    files = {"data/train-00000-of-00001.parquet": [ANNOTATED, edited]}
    found = read(mirror(AyaDatasetBuilder, tmp_path, files))
    assert found.column("origin") == ["human", "human_edited"]
    assert found.column("license") == ["Apache-2.0"] * 2
    assert all("user_id" not in extra and "demographics" not in extra for extra in found.extras)
    kept = read(mirror(AyaDatasetBuilder, tmp_path, files, user_id="keep"))
    assert kept.extras[0]["user_id"] == ANNOTATED["user_id"]
    assert kept.column("row_key") == found.column("row_key")


def test_aya_dataset_joins_demographics_when_asked(tmp_path: Path) -> None:
    somebody = {
        "user_id": ANNOTATED["user_id"], "age_range": [25, 35], "gender": "female",
        "country": "Türkiye", "languages": ["Turkish"], "dialects": [],
    }  # fmt: skip
    stranger = {**ANNOTATED, "user_id": "nobody", "inputs": "?"}
    files = {
        "data/train-00000-of-00001.parquet": [ANNOTATED, stranger],
        "demographics/train-00000-of-00001.parquet": [somebody],
    }
    builder = mirror(AyaDatasetBuilder, tmp_path, files, demographics="join")
    found = read(builder)
    assert found.extras[0]["demographics"] == {
        "age_range": [25, 35], "gender": "female", "country": "Türkiye",
        "languages": ["Turkish"], "dialects": [],
    }  # fmt: skip
    assert "demographics" not in found.extras[1]
    before = builder.pins()["demographics"]
    files["demographics/train-00000-of-00001.parquet"] = [{**somebody, "gender": "other"}]
    again = mirror(AyaDatasetBuilder, tmp_path, files, demographics="join")
    assert again.pins()["demographics"] != before


def test_aya_dataset_leaves_the_test_split_alone_unless_asked(tmp_path: Path) -> None:
    test = {**ANNOTATED, "inputs": "test"}
    files = {
        "data/train-00000-of-00001.parquet": [ANNOTATED],
        "data/test-00000-of-00001.parquet": [test],
    }
    assert read(mirror(AyaDatasetBuilder, tmp_path, files)).records == 1
    both = read(mirror(AyaDatasetBuilder, tmp_path, files, splits=["train", "test"]))
    assert both.records == 2


def test_rows_of_an_early_json_revision_have_the_same_keys(tmp_path: Path) -> None:
    parquet = mirror(AyaDatasetBuilder, tmp_path / "a", {"data/train-00000-of-00001.parquet": [ANNOTATED]})
    jsonl = mirror(AyaDatasetBuilder, tmp_path / "b", {"data/aya-dataset-train.jsonl": [ANNOTATED]})
    assert read(parquet).column("row_key") == read(jsonl).column("row_key")


# aya_collection


def collected(**other: Any) -> dict[str, Any]:
    return {
        "id": 7, "inputs": "Bir soru", "targets": "Bir cevap", "dataset_name": "Dolly-v2 (T)",
        "sub_dataset_name": "-", "task_type": "question-answering", "template_id": 1,
        "language": "tur", "script": "Latn", "split": "train", **other,
    }  # fmt: skip


def test_aya_collection_has_64_configs() -> None:
    assert len(set(CONFIGS)) == 64
    assert sum(name.startswith("templated_") for name in CONFIGS) == 44
    assert sum(name.startswith("translated_") for name in CONFIGS) == 19


@pytest.mark.parametrize(
    ("written", "published"),
    [
        ("translated_joke_explanation", "translated_joke_explaination"),
        ("templated_joke_explanation", "templated_joke_explaination"),
        ("templated_thai_wiktionary", "templated_thai_wikitionary"),
        ("templated_ukrainian_gec", "templated_ukranian_gec"),
    ],
)
def test_correct_spellings_are_taken_for_the_publishers(tmp_path: Path, written: str, published: str) -> None:
    assert canonical_config(written) == published
    files = {f"{published}/train-00000-of-00001.parquet": [collected()]}
    builder = mirror(AyaCollectionBuilder, tmp_path, files, configs=[written])
    assert read(builder).column("dataset") == [f"aya_collection/{published}"]
    assert f"config {written} is spelled {published} by its publisher" in builder.notes()


def test_an_unknown_config_gets_a_suggestion() -> None:
    with pytest.raises(ValidationError) as caught:
        AyaCollectionBuilder.Settings(configs=("translated_doly",))
    assert caught.value.errors()[0]["ctx"] == {
        "what": "names the config 'translated_doly', which aya_collection does not have",
        "remedy": "Did you mean 'translated_dolly'?",
    }


def test_aya_collection_columns_drift_and_the_keys_do_not(tmp_path: Path) -> None:
    early = collected(template_id="1", info_uuid="abc", task_type="-")
    early["language_code"] = early.pop("language")
    other_order = dict(reversed(collected(__index_level_0__=5, task_type="").items()))
    keys = set()
    for number, row in enumerate((collected(), early, other_order, collected(id="7"), collected(id=7.0))):
        files = {"translated_dolly/train-00000-of-00001.parquet": [row]}
        folder = tmp_path / str(number)
        found = read(mirror(AyaCollectionBuilder, folder, files, configs=["translated_dolly"]))
        assert found.column("language") == ["tur"]
        assert found.column("task") == [None if number in (1, 2) else "question-answering"]
        assert found.drafts[0].template == "1"
        keys.update(found.column("row_key"))
    assert len(keys) == 1


def test_translations_of_one_record_are_rows_of_one_group(tmp_path: Path) -> None:
    rows = [
        collected(),
        collected(language="ace", script="Arab"),
        collected(language="ace", script="Latn"),
        collected(id=8),
    ]
    files = {"translated_dolly/train-00000-of-00001.parquet": rows}
    found = read(mirror(AyaCollectionBuilder, tmp_path, files, configs=["translated_dolly"]))
    assert len(set(found.column("row_key"))) == 4
    assert len(set(found.column("group")[:3])) == 1
    assert found.column("group")[3] != found.column("group")[0]


def test_a_translation_carries_translator_terms_and_the_parts_licence(tmp_path: Path) -> None:
    files = {
        "translated_dolly/train-00000-of-00001.parquet": [collected()],
        "translated_piqa/train-00000-of-00001.parquet": [collected(dataset_name="PIQA (T)")],
        "translated_flan_gem_wiki/train-00000-of-00001.parquet": [collected()],
        "templated_mintaka/train-00000-of-00001.parquet": [collected(dataset_name="Mintaka-inst")],
        "aya_dataset/train-00000-of-00001.parquet": [collected(dataset_name="Aya-Dataset")],
    }
    configs = [name.partition("/")[0] for name in files]
    found = read(mirror(AyaCollectionBuilder, tmp_path, files, configs=configs))
    by_config = {draft.config: draft for draft in found.drafts}
    dolly = by_config["translated_dolly"]
    assert (dolly.license, dolly.origin, dolly.adapted) == ("CC-BY-SA-3.0", "translated", True)
    assert dolly.translator == "nllb-200-3.3B"
    assert "nllb-200" in dolly.terms
    assert by_config["translated_flan_gem_wiki"].license == "CC-BY-NC-SA-3.0"
    assert resolve(by_config["translated_piqa"].license).license.use == "unknown"
    mintaka = by_config["templated_mintaka"]
    assert (mintaka.origin, mintaka.translator, mintaka.adapted) == ("templated", None, True)
    human = by_config["aya_dataset"]
    assert (human.origin, human.license, human.adapted) == ("human", "Apache-2.0", False)


def test_the_translators_unknown_token_rejects_a_translation_only(tmp_path: Path) -> None:
    files = {
        "translated_dolly/train-00000-of-00001.parquet": [
            collected(),
            collected(id=8, targets="Bir <unk> cevap"),
            collected(id=9, inputs="<unk>"),
        ],
        "templated_mintaka/train-00000-of-00001.parquet": [collected(inputs="What does <unk> mean?")],
    }
    configs = ["translated_dolly", "templated_mintaka"]
    found = read(mirror(AyaCollectionBuilder, tmp_path, files, configs=configs))
    assert found.rules == {"unk_in_translation": 2}
    assert sorted(r.evidence for r in found.rejections) == [
        "inputs, character 0",
        "targets, character 4",
    ]


def test_a_config_without_a_training_split_is_read_whole(tmp_path: Path) -> None:
    files = {
        "templated_xcsqa/validation-00000-of-00001.parquet": [collected(dataset_name="X-CSQA-inst")],
        "templated_afriqa/train-00000-of-00002.parquet": [collected(id=1)],
        "templated_afriqa/train-00001-of-00002.parquet": [collected(id=2)],
        "templated_afriqa/test-00000-of-00001.parquet": [collected(id=3, split="test")],
    }
    configs = ["templated_xcsqa", "templated_afriqa"]
    found = read(mirror(AyaCollectionBuilder, tmp_path, files, configs=configs))
    assert Counter((d.config, d.place[0].split("/")[1][:5]) for d in found.drafts) == {
        ("templated_xcsqa", "valid"): 1,
        ("templated_afriqa", "train"): 2,
    }


def test_a_chosen_config_without_files_is_an_error(tmp_path: Path) -> None:
    files = {"translated_dolly/train-00000-of-00001.parquet": [collected()]}
    builder = mirror(AyaCollectionBuilder, tmp_path, files, configs=["translated_dolly", "translated_soda"])
    with pytest.raises(NotFound, match="'translated_soda'"):
        builder.units()


# aya_collection_language_split


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("Dolly-v2 (T)", "translated_dolly"),
        ("WIKI QA (T)", "translated_wikiqa"),
        ("Xlel_wd-inst (T)", "translated_xlel_wd"),
        ("Xlel_wd-inst", "templated_xlel_wd"),
        ("SODA-inst (T)", "translated_soda"),
        ("Flan-GEM-wiki-lingua (T)", "translated_flan_gem_wiki"),
        ("Joke-explaination-inst (T)", "translated_joke_explaination"),
        ("UNER_LLM-inst", "templated_uner_llm"),
        ("Arpa-instruct", "templated_armenian_instruct"),
        ("Seed-instruct-eng-lij", "templated_seed_instruct"),
        ("scb-mt-2020-prompt", "templated_thai_scb"),
        ("Aya-Dataset", "aya_dataset"),
        ("something new", None),
        ("PIQA", None),  # there is a translation of it alone
    ],
)
def test_the_name_in_a_row_tells_its_config(name: str, config: str | None) -> None:
    assert config_of(name) == config


def test_both_cuts_of_the_collection_give_the_same_rows(tmp_path: Path) -> None:
    by_config = mirror(
        AyaCollectionBuilder,
        tmp_path / "a",
        {"translated_dolly/train-00000-of-00001.parquet": [collected(), collected(id=8)]},
        configs=["translated_dolly"],
    )
    by_language = mirror(
        AyaCollectionLanguageSplitBuilder,
        tmp_path / "b",
        {"turkish/train-00000-of-00001.parquet": [collected(), collected(id=8)]},
    )
    ours, theirs = read(by_config), read(by_language)
    for column in ("row_key", "group", "id", "dataset", "license", "terms", "origin", "row_hash"):
        assert ours.column(column) == theirs.column(column), column


SPLIT_FOLDERS = (
    "standard_arabic", "egyptian_arabic", "chinese", "simplified_chinese", "traditional_chinese",
    "achinese", "zulu",
)  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "spoken", "folders"),
    [
        (["standard_arabic"], None, {"standard_arabic"}),
        (["arb"], None, {"standard_arabic"}),
        (["chinese"], None, {"chinese"}),
        (["zho_Hant"], None, {"traditional_chinese", "chinese"}),
        (None, ["zho_Hans", "zul_Latn"], {"simplified_chinese", "chinese", "zulu"}),
        (["ace_Arab"], None, {"achinese"}),
        (["zulu"], ["arb_Arab"], {"zulu"}),
        (None, None, set(SPLIT_FOLDERS)),
    ],
)
def test_language_folders_are_found_by_any_name(
    tmp_path: Path, asked: list[str] | None, spoken: list[str] | None, folders: set[str]
) -> None:
    files = {f"{f}/train-00000-of-00001.parquet": [collected(language=None)] for f in SPLIT_FOLDERS}
    for name, rows in files.items():
        write(tmp_path / "mirror" / name, rows)
    settings_ = AyaCollectionLanguageSplitBuilder.Settings(location="mirror", languages=asked)
    builder = AyaCollectionLanguageSplitBuilder("source", settings_, environment(tmp_path, languages=spoken))
    assert {unit.config for unit in builder.units()} == folders


def test_an_unknown_part_of_the_collection_has_no_licence(tmp_path: Path) -> None:
    row = collected(dataset_name="Something-New-inst")
    files = {"turkish/train-00000-of-00001.parquet": [row]}
    found = read(mirror(AyaCollectionLanguageSplitBuilder, tmp_path, files))
    assert found.column("dataset") == ["aya_collection/something_new_inst"]
    assert resolve(found.column("license")[0]).license.use == "unknown"


# xp3x

ODD_NAME = "data/spa_Latn/xp3_xcopa_es_validation_C1 or C2? premise, so_because.jsonl"
PROMPT: dict[str, Any] = {
    "inputs": "¿Por qué?", "targets": "Porque sí.", "language": "spa_Latn", "dataset": "xcopa",
    "config": "es",
}  # fmt: skip


def test_xp3x_reads_raw_files_with_odd_names(tmp_path: Path) -> None:
    found = read(mirror(XP3xBuilder, tmp_path, {ODD_NAME: [PROMPT]}))
    (draft,) = found.drafts
    assert draft.place == (ODD_NAME, 0)
    assert (draft.dataset, draft.config, draft.split) == ("xp3x/xcopa/es", "es", "validation")
    assert draft.template == "C1 or C2? premise, so_because"
    assert found.extras == [{"dpi_id": "spa_Latn/xcopa"}]
    assert found.column("origin") == ["templated"]


@pytest.mark.parametrize(
    ("name", "part", "split", "source", "target"),
    [
        ("xp3_xcopa_es_train_best_option.jsonl", "xcopa_es", "train", None, None),
        (
            "xp3_facebook_flores_eng_Latn_tur_Latn_dev_continuation.jsonl",
            "facebook_flores_eng_Latn_tur_Latn", "dev", "eng_Latn", "tur_Latn",
        ),
        (
            "xp3_facebook_flores_ace_Arab-eng_Latn_devtest_inverted_question.jsonl",
            "facebook_flores_ace_Arab-eng_Latn", "devtest", "eng_Latn", "ace_Arab",
        ),
        ("xp3_train_of_thought_de_test_x.jsonl", "train_of_thought_de", "test", None, None),
        ("something.jsonl", "something", None, None, None),
    ],
)  # fmt: skip
def test_xp3x_file_names_are_read(
    name: str, part: str, split: str | None, source: str | None, target: str | None
) -> None:
    found = parse_name(f"data/xyz_Latn/{name}")
    assert (found.part, found.split, found.source, found.target) == (part, split, source, target)


def test_xp3x_follows_the_index_and_the_languages(tmp_path: Path) -> None:
    listed = "data/tur_Latn/xp3_xcopa_tr_validation_a.jsonl"
    outdated = "data/tur_Latn/xp3_xcopa_tr_test_a.jsonl"
    files = {ODD_NAME: [PROMPT], listed: [PROMPT], outdated: [PROMPT]}
    index = {"tur_Latn": [listed, "data/tur_Latn/gone.jsonl"], "spa_Latn": [ODD_NAME]}
    builder = mirror(XP3xBuilder, tmp_path, files, languages=["tur_Latn"])
    (tmp_path / "mirror" / "paths.json").write_text(json.dumps(index))
    assert [unit.name for unit in builder.units()] == [listed]
    everything = XP3xBuilder(
        "source", XP3xBuilder.Settings(location="mirror", languages=("spanish", "tur_Latn")),
        environment(tmp_path),
    )  # fmt: skip
    assert [unit.name for unit in everything.units()] == [ODD_NAME, listed]
    (tmp_path / "mirror" / "paths.json").write_text("[1]")
    with pytest.raises(InputError, match=r"paths.json: the index must map codes to lists of files"):
        mirror(XP3xBuilder, tmp_path, {}).units()


def test_xp3x_licences_are_the_parts_own_and_unknown_otherwise(tmp_path: Path) -> None:
    rows = [
        {**PROMPT, "dataset": "samsum", "config": None},
        {**PROMPT, "dataset": "clue", "config": "c3"},
        {**PROMPT, "dataset": "nobody_looked", "config": "es"},
    ]
    found = read(mirror(XP3xBuilder, tmp_path, {ODD_NAME: rows}))
    assert found.column("license")[:2] == ["CC-BY-NC-ND-4.0", "Apache-2.0"]
    assert resolve(found.column("license")[2]).license.use == "unknown"
    # The Data Provenance Initiative names the parts of CLUE by their config.
    assert [extra["dpi_id"] for extra in found.extras] == [
        "spa_Latn/samsum", "spa_Latn/c3", "spa_Latn/nobody_looked",
    ]  # fmt: skip


def test_xp3x_translation_files_say_both_languages(tmp_path: Path) -> None:
    name = "data/tur_Latn/xp3_facebook_flores_eng_Latn_tur_Latn_dev_continuation.jsonl"
    row = {"inputs": "Translate: hello", "targets": "merhaba", "dataset": "flores", "config": "x"}
    found = read(mirror(XP3xBuilder, tmp_path, {name: [row]}))
    assert found.column("task") == ["translation"]
    assert found.column("language") == ["tur"]  # the row does not say: the folder does
    assert found.extras[0]["translation"] == {"source": "eng_Latn", "target": "tur_Latn"}


def test_xp3x_datasets_that_were_not_chosen_are_in_the_ledger(tmp_path: Path) -> None:
    rows = [PROMPT, {**PROMPT, "dataset": "other"}]
    found = read(mirror(XP3xBuilder, tmp_path, {ODD_NAME: rows}, datasets=["xcopa"]))
    assert found.rows.num_rows == 1
    assert [(r.rule, r.value, r.outcome) for r in found.rejections] == [("dataset_not_chosen", "other", "not_sampled")]


def test_a_broken_line_is_rejected_under_a_key_of_its_bytes(tmp_path: Path) -> None:
    builder = mirror(XP3xBuilder, tmp_path, {ODD_NAME: [PROMPT]})
    with (tmp_path / "mirror" / ODD_NAME).open("ab") as file:
        file.write(b'{"inputs": "cut\n\xff\xfe\n')
    found = read(builder)
    assert found.records == 3
    assert len({r.key for r in found.rejections}) == 2
    assert {r.place for r in found.rejections} == {(ODD_NAME, 1), (ODD_NAME, 2)}


# aya_evaluation_suite and dolly


def test_the_evaluation_suite_is_a_benchmark_of_three_origins(tmp_path: Path) -> None:
    row = {"id": 3, "inputs": "سؤال", "targets": "جواب", "language": "arb", "script": "Arab"}
    files = {
        "aya_human_annotated/test-00000-of-00001.parquet": [row],
        "dolly_human_edited/test-00000-of-00001.parquet": [{**row, "source_id": 12}],
        "dolly_machine_translated/test-00000-of-00001.parquet": [
            {**row, "source_id": 12},
            {**row, "source_id": 12, "language": "hin", "script": "Deva"},
        ],
    }
    builder = mirror(AyaEvaluationSuiteBuilder, tmp_path, files)
    assert builder.default_use == "benchmark"
    found = read(builder)
    by_config = {draft.config: draft for draft in found.drafts}
    assert {config: draft.origin for config, draft in by_config.items()} == {
        "aya_human_annotated": "human",
        "dolly_human_edited": "human_edited",
        "dolly_machine_translated": "translated",
    }
    assert len({draft.key for draft in found.drafts}) == 4
    assert len({draft.group for draft in found.drafts if draft.config != "aya_human_annotated"}) == 1
    assert by_config["aya_human_annotated"].license == "Apache-2.0"
    assert by_config["dolly_human_edited"].license == "CC-BY-SA-3.0"
    assert by_config["dolly_machine_translated"].translator == "nllb-200-3.3B"
    assert Counter(extra.get("source_id") for extra in found.extras) == {12: 3, None: 1}


def test_an_early_suite_without_source_ids_keeps_its_keys(tmp_path: Path) -> None:
    row = {"id": 3, "inputs": "q", "targets": "a", "language": "arb", "script": "Arab"}
    name = "dolly_human_edited/test-00000-of-00001.parquet"
    early = read(mirror(AyaEvaluationSuiteBuilder, tmp_path / "a", {name: [row]}))
    late = read(mirror(AyaEvaluationSuiteBuilder, tmp_path / "b", {name: [{**row, "source_id": 1}]}))
    assert early.column("row_key") == late.column("row_key")


EMPLOYEE = {
    "instruction": "When did it open?", "context": "It opened in 1999.[4] It is old.[1][2]",
    "response": "In 1999 [4].", "category": "closed_qa",
}  # fmt: skip
DOLLY = "databricks-dolly-15k.jsonl"


@pytest.mark.parametrize(
    ("placement", "prompt"),
    [
        ("after", "When did it open?\n\nIt opened in 1999. It is old."),
        ("before", "It opened in 1999. It is old.\n\nWhen did it open?"),
        ("context_newline_instruction", "It opened in 1999. It is old.\nWhen did it open?"),
    ],
)
def test_dolly_places_the_context_and_strips_citations(tmp_path: Path, placement: str, prompt: str) -> None:
    found = read(mirror(DollyBuilder, tmp_path, {DOLLY: [EMPLOYEE]}, context=placement))
    assert found.drafts[0].messages == [("user", prompt), ("assistant", "In 1999.")]
    assert found.column("license") == ["CC-BY-SA-3.0"]
    assert found.column("task") == ["closed_qa"]
    assert found.column("origin") == ["human"]


def test_dolly_keeps_citations_and_drops_what_needs_a_context(tmp_path: Path) -> None:
    free = {**EMPLOYEE, "context": "", "instruction": "Name a colour."}
    kept = read(mirror(DollyBuilder, tmp_path, {DOLLY: [EMPLOYEE, free]}, citations="keep"))
    assert "[4]" in kept.drafts[0].messages[0][1]
    assert kept.drafts[1].messages[0] == ("user", "Name a colour.")
    bare = read(mirror(DollyBuilder, tmp_path, {DOLLY: [EMPLOYEE, free]}, context="drop"))
    assert bare.rules == {"needs_context": 1}
    assert kept.column("row_key")[1:] == bare.column("row_key")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("A fact.[4]", "A fact."),
        ("A fact [12] here", "A fact here"),
        ("Many [1, 2][3-5] marks", "Many marks"),
        ("```\nx[0] = y[1]\n``` and [2] prose", "```\nx[0] = y[1]\n``` and prose"),
        ("[citation needed] [2024] [a]", "[citation needed] [2024] [a]"),
        ("", ""),
    ],
)
def test_only_citation_marks_are_taken_out(text: str, clean: str) -> None:
    assert without_citations(text) == clean


def test_dolly_rows_and_their_translations_can_share_a_group(tmp_path: Path) -> None:
    records = [{**EMPLOYEE, "instruction": f"Question {i}?"} for i in range(3)]
    numbered = read(mirror(DollyBuilder, tmp_path / "a", {DOLLY: records}, row_numbers=True))
    row = {
        "id": 0,
        "inputs": "q",
        "targets": "a",
        "language": "fra",
        "script": "Latn",
        "source_id": 2,
    }
    name = "dolly_human_edited/test-00000-of-00001.parquet"
    suite = read(mirror(AyaEvaluationSuiteBuilder, tmp_path / "b", {name: [row]}))
    assert numbered.column("group")[2] == suite.column("group")[0]
    assert [extra["upstream_row"] for extra in numbered.extras] == [0, 1, 2]
    plain = read(mirror(DollyBuilder, tmp_path / "a", {DOLLY: records}))
    assert plain.column("row_key") == numbered.column("row_key")
    assert not {"upstream_row"} & set(plain.extras[0])


CELL = st.one_of(
    st.none(),
    st.text(max_size=8),
    st.sampled_from(["\ud800", "-", " ", "tur", "<unk>"]),
    st.integers(),
    st.lists(st.text(max_size=3), max_size=2),
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.dictionaries(st.sampled_from(sorted(EMPLOYEE)), CELL), max_size=8))
def test_nothing_a_record_says_stops_the_build(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("dolly")
    found = read(mirror(DollyBuilder, folder, {DOLLY: rows}))
    assert found.records == len(rows) == found.rows.num_rows + len(found.rejections)


ANY_FIELDS = st.dictionaries(
    st.sampled_from(
        ["id", "inputs", "targets", "language", "language_code", "script", "template_id", "split",
         "dataset_name", "sub_dataset_name", "task_type", "annotation_type", "user_id", "source_id",
         "dataset", "config", "template"]
    ),
    CELL,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(ANY_FIELDS, min_size=1, max_size=6), order=st.randoms(use_true_random=False))
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (AyaDatasetBuilder, "data/train.jsonl"),
        (AyaCollectionBuilder, "translated_dolly/train.jsonl"),
        (AyaCollectionLanguageSplitBuilder, "turkish/train.jsonl"),
        (XP3xBuilder, "data/tur_Latn/xp3_x_train_y.jsonl"),
        (AyaEvaluationSuiteBuilder, "dolly_machine_translated/test.jsonl"),
    ],
)
def test_keys_do_not_know_where_a_record_stood(
    kind: type[UpstreamBuilder],
    name: str,
    rows: list[dict[str, Any]],
    order: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("source")
    first = read(mirror(kind, folder, {name: rows}))
    assert first.records == len(rows) == first.rows.num_rows + len(first.rejections)
    permuted = list(rows)
    order.shuffle(permuted)
    (folder / "mirror" / name).unlink()
    half = len(permuted) // 2
    stem, _, suffix = name.partition(".")
    shards = {
        f"{stem}-00000-of-00002.{suffix}" if kind is not XP3xBuilder else name: permuted[:half],
        f"{stem}-00001-of-00002.{suffix}" if kind is not XP3xBuilder else name.replace("_y", "_y2"):
            permuted[half:],
    }  # fmt: skip
    second = read(mirror(kind, folder, shards))
    hashes = "row_hash" if kind is not XP3xBuilder else "row_key"  # a template stands in xp3x's name
    assert sorted(first.column(hashes)) == sorted(second.column(hashes))


# hub, and the named sources on a Hub

COLUMNS = {"prompt": "instruction", "context": "context", "answer": "response", "task": "category"}


def hub_settings(**other: Any) -> dict[str, Any]:
    return {"repo": "somebody/something", "columns": COLUMNS, "language": "eng", **other}


def hub_builder(folder: Path, content: Mapping[str, Sequence[Mapping[str, Any]]], **other: Any) -> HubBuilder:
    for name, rows in content.items():
        write(folder / "mirror" / name, rows)
    settings_ = HubBuilder.Settings.model_validate(hub_settings(location="mirror", **other))
    return HubBuilder("mine", settings_, environment(folder))


def card(folder: Path, text: str) -> None:
    (folder / "mirror").mkdir(exist_ok=True)
    (folder / "mirror" / "README.md").write_text(f"---\n{text}\n---\n# A dataset\n")


def test_hub_maps_columns_and_names_the_repository(tmp_path: Path) -> None:
    files = {"data/train-00000-of-00001.parquet": [EMPLOYEE], "data/test.jsonl": [EMPLOYEE]}
    found = read(hub_builder(tmp_path, files))
    (draft,) = found.drafts
    assert list(draft.messages) == [
        ("user", "When did it open?\n\nIt opened in 1999.[4] It is old.[1][2]"),
        ("assistant", "In 1999 [4]."),
    ]
    assert (draft.dataset, draft.split, draft.task) == ("somebody/something", "train", "closed_qa")
    assert resolve(draft.license).license.use == "unknown"


def test_hub_takes_the_cards_licence_only_when_asked(tmp_path: Path) -> None:
    files = {"train.jsonl": [EMPLOYEE]}
    card(tmp_path, "license: cc-by-4.0")
    assert read(hub_builder(tmp_path, files)).drafts[0].license is None
    builder = hub_builder(tmp_path, files, card_license=True)
    found = read(builder)
    assert found.column("license") == ["CC-BY-4.0"]
    assert found.drafts[0].license_asserted == ("the card of somebody/something at local says license: cc-by-4.0")
    assert builder.pins()["card_license"] == "cc-by-4.0"
    card(tmp_path, "license: [mit, other]")
    with pytest.raises(InputError, match="states the licence 'mit AND other', which nobody knows"):
        hub_builder(tmp_path, files, card_license=True).units()
    card(tmp_path, "pretty_name: x")
    with pytest.raises(InputError, match="the card of somebody/something states no licence"):
        hub_builder(tmp_path, files, card_license=True).units()


def test_hub_follows_the_cards_configs(tmp_path: Path) -> None:
    files = {
        "a/part-1.jsonl": [EMPLOYEE],
        "a/part-2.jsonl": [EMPLOYEE],
        "b/x.jsonl": [EMPLOYEE],
        "b/held-out.jsonl": [EMPLOYEE],
        "other.jsonl": [EMPLOYEE],
    }
    card(
        tmp_path,
        "configs:\n- config_name: a\n  data_files: a/part-*.jsonl\n"
        "- config_name: b\n  data_files:\n  - split: train\n    path: [b/x.jsonl]\n"
        "  - split: test\n    path: b/held-*\n",
    )
    with pytest.raises(InputError, match="has several configs and none is its default"):
        hub_builder(tmp_path, files).units()

    def names(**other: Any) -> list[str]:
        return [unit.name for unit in hub_builder(tmp_path, files, **other).units()]

    assert names(configs=["a"]) == ["a/part-1.jsonl", "a/part-2.jsonl"]
    assert names(configs=["b"]) == ["b/x.jsonl"]
    assert names(configs=["b"], splits=["test"]) == ["b/held-out.jsonl"]
    assert names(files=["*.jsonl"]) == ["other.jsonl"]
    assert len(names(files=["**/*.jsonl"])) == 5
    with pytest.raises(NotFound, match="there is no config of somebody/something 'c'"):
        names(configs=["c"])
    with pytest.raises(InputError, match="no data file of somebody/something matches"):
        names(files=["*.parquet"])


def test_hub_without_a_card_goes_by_names(tmp_path: Path) -> None:
    files = {
        "fr/train.jsonl": [EMPLOYEE],
        "fr/dev.jsonl": [EMPLOYEE],
        "de/rows.jsonl": [EMPLOYEE],
        "dataset_infos.json": [{}],
    }
    assert [u.name for u in hub_builder(tmp_path, files).units()] == [
        "de/rows.jsonl",
        "fr/train.jsonl",
    ]
    french = hub_builder(tmp_path, files, configs=["fr"], splits=["validation"]).units()
    assert [(unit.name, unit.config) for unit in french] == [("fr/dev.jsonl", "fr")]
    with pytest.raises(NotFound, match="'es'"):
        hub_builder(tmp_path, files, configs=["es"]).units()


def test_hub_with_a_loading_script_alone_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    builder = hub_builder(tmp_path, {})
    (tmp_path / "mirror" / "something.py").write_text("import datasets")
    with pytest.raises(InputError) as caught:
        builder.units()
    assert str(caught.value) == (
        "somebody/something holds no data file. It has the loading script something.py, which is "
        "never run. Many such datasets were converted on the branch refs/convert/parquet: add "
        "'parquet_branch: true' to the source."
    )


def test_hub_names_a_column_that_no_file_has(tmp_path: Path) -> None:
    files = {"train.parquet": [{**EMPLOYEE, "answer": "x"}]}
    columns = {**COLUMNS, "answer": "anser"}
    with pytest.raises(InputError, match=r"'anser', which is not in train\.parquet.*'answer'"):
        hub_builder(tmp_path, files, columns=columns).units()


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"repo": "no name"}, "is not a name of the Hub"),
        ({"parquet_branch": True, "revision": "v1"}, "has both revision and parquet_branch"),
        ({"files": ["a"], "configs": ["b"]}, "has both files and configs"),
        ({"card_license": True, "license": {"column": "l"}}, "has both license and card_license"),
    ],
)
def test_hub_settings_that_contradict_each_other(other: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        HubBuilder.Settings.model_validate(hub_settings(**other))


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))


@pytest.mark.usefixtures("no_token")
def test_a_named_source_on_the_hub_is_pinned_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = "data/train-00000-of-00001.parquet"
    write(tmp_path / "one" / train, [ANNOTATED])
    write(tmp_path / "two" / train, [ANNOTATED, {**ANNOTATED, "inputs": "later"}])
    write(tmp_path / "odd" / ODD_NAME, [PROMPT])
    repositories = {"CohereLabs/aya_dataset": tmp_path / "one", "CohereLabs/xP3x": tmp_path / "odd"}
    with HubServer(repositories) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        builder = AyaDatasetBuilder("source", AyaDatasetBuilder.Settings(), environment(tmp_path))
        units = builder.units()
        commit = hub.commit("CohereLabs/aya_dataset")
        assert builder.pins() == {"repository": "CohereLabs/aya_dataset", "revision": commit}
        assert units[0].location == f"hub:CohereLabs/aya_dataset@{commit}/{train}"
        hub.move_branch("CohereLabs/aya_dataset", "main", tmp_path / "two")
        for _ in range(2):
            found = read(builder)
            assert found.records == 1
            assert found.rows["provenance"][0].as_py()["revision"] == commit
        assert hub.log.read_twice() == 0
        odd = read(XP3xBuilder("source", XP3xBuilder.Settings(), environment(tmp_path)))
        assert odd.drafts[0].place == (ODD_NAME, 0)
    mirrored = read(mirror(AyaDatasetBuilder, tmp_path / "m", {train: [ANNOTATED]}))
    assert mirrored.column("row_hash") == found.column("row_hash")


@pytest.mark.usefixtures("no_token")
def test_any_dataset_of_the_hub_is_read_from_its_parquet_branch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "main" / "README.md", [])
    (tmp_path / "main" / "something.py").write_text("raise SystemExit")
    write(tmp_path / "converted" / "default" / "train" / "0000.parquet", [EMPLOYEE])
    write(tmp_path / "converted" / "default" / "partial-test" / "0000.parquet", [EMPLOYEE])
    name = "somebody/something"
    with HubServer({name: tmp_path / "main"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.move_branch(name, "refs/convert/parquet", tmp_path / "converted")
        plain = HubBuilder("mine", HubBuilder.Settings.model_validate(hub_settings()), environment(tmp_path))
        with pytest.raises(InputError, match="parquet_branch: true"):
            plain.units()
        settings_ = HubBuilder.Settings.model_validate(hub_settings(parquet_branch=True))
        builder = HubBuilder("mine", settings_, environment(tmp_path))
        found = read(builder)
        assert [(d.config, d.split, d.task) for d in found.drafts] == [("default", "train", "closed_qa")]
