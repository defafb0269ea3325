"""The documents of a release: valid for the Hub, complete, and deaf to what names try."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aya_data.core.license import license_table
from aya_data.publish.card import (
    attribution,
    card,
    configs,
    dataset_info,
    hub_languages,
    hub_license,
    main_kind,
    size_category,
)

ZERO = {"rows_in": 0, "created": 0, "rows_out": 0, "dropped": 0, "merged": 0, "not_sampled": 0, "consumed": 0}


def shard(kind: str, variety: str, split: str, number: int = 0, of: int = 1) -> dict[str, Any]:
    folder = {"conversation": "data", "preference": "preference", "prompt": "prompts"}[kind]
    path = f"{folder}/{variety}/{split}-{number:05d}-of-{of:05d}.parquet"
    facts = {"bytes": 10, "digest": "d", "logical": "l", "rows": 3}
    return {"path": path, **facts, "kind": kind, "config": variety, "split": split}


MANIFEST: dict[str, Any] = {
    "name": "sft_mix",
    "version": "abc123abc123",
    "digest": "0" * 32,
    "description": "A mix",
    "profile": "sample",
    "policy": "research",
    "made_with": {"aya-data": "0.1.0"},
    "rows": 1500,
    "files": [
        shard("conversation", "tur_Latn", "train", 0, 2),
        shard("conversation", "tur_Latn", "train", 1, 2),
        shard("conversation", "tur_Latn", "validation"),
        shard("conversation", "nob_Latn", "validation"),
        shard("preference", "arb_Arab", "train"),
        shard("prompt", "eng_Latn", "train"),
        {"path": "ledger/ledger-00000.parquet", "bytes": 1, "digest": "d", "rows": 9},
    ],
    "stages": [
        {**ZERO, "name": "read:aya", "rows_in": 20, "rows_out": 19, "dropped": 1},
        {**ZERO, "name": "filter:exact_dedup", "rows_in": 19, "rows_out": 12, "merged": 7},
    ],
    "sources": [
        {
            "name": "aya",
            "builder": "aya_dataset",
            "use": "train",
            "pins": {"revision": "9fe2"},
            "released": 10,
            "distinct": 2,
            "epochs": 5.0,
            "lost": {"read:aya": 1, "filter:exact_dedup": 7},
            "parts": [
                {"dataset": "aya-dataset", "origin": "human", "license": "Apache-2.0", "rows": 6},
                {"dataset": "other", "origin": "translated", "license": "CC-BY-SA-3.0", "rows": 4},
            ],
        }
    ],
    "languages": [
        {"kind": "conversation", "variety": "tur_Latn", "split": "train", "rows": 6, "chars": 100, "tokens": 1234567},
        {"kind": "conversation", "variety": "tur_Latn", "split": "validation", "rows": 3, "chars": 50, "tokens": 7},
        {"kind": "conversation", "variety": "nob_Latn", "split": "validation", "rows": 3, "chars": 50, "tokens": None},
        {"kind": "preference", "variety": "arb_Arab", "split": "train", "rows": 3, "chars": 10, "tokens": None},
        {"kind": "prompt", "variety": "eng_Latn", "split": "train", "rows": 3, "chars": 10, "tokens": None},
    ],
    "licenses": [{"license": "Apache-2.0", "rows": 6}, {"license": "CC-BY-SA-3.0", "rows": 4}],
    "terms": ["nllb-200"],
    "rules": [
        {"stage": "read:aya", "source": "aya", "outcome": "dropped", "rule": "empty_answer", "rows": 1},
        {"stage": "filter:exact_dedup", "source": "aya", "outcome": "merged", "rule": "exact_duplicate", "rows": 7},
    ],
    "assertions": [{"source": "aya", "what": "license", "assumed": "MIT", "reason": "the author said so"}],
}


def changed(**fields: Any) -> dict[str, Any]:
    return {**copy.deepcopy(MANIFEST), **fields}


def front_matter(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    loaded: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return loaded


def test_configs_name_every_kind_variety_and_split_that_exists_and_no_other() -> None:
    assert configs(MANIFEST) == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "data/*/train-*.parquet"},
                {"split": "validation", "path": "data/*/validation-*.parquet"},
            ],
            "default": True,
        },
        {
            "config_name": "nob_Latn",
            "data_files": [{"split": "validation", "path": "data/nob_Latn/validation-*.parquet"}],
        },
        {
            "config_name": "tur_Latn",
            "data_files": [
                {"split": "train", "path": "data/tur_Latn/train-*.parquet"},
                {"split": "validation", "path": "data/tur_Latn/validation-*.parquet"},
            ],
        },
        {"config_name": "preference", "data_files": [{"split": "train", "path": "preference/*/train-*.parquet"}]},
        {
            "config_name": "preference-arb_Arab",
            "data_files": [{"split": "train", "path": "preference/arb_Arab/train-*.parquet"}],
        },
        {"config_name": "prompts", "data_files": [{"split": "train", "path": "prompts/*/train-*.parquet"}]},
        {
            "config_name": "prompts-eng_Latn",
            "data_files": [{"split": "train", "path": "prompts/eng_Latn/train-*.parquet"}],
        },
    ]


def test_a_release_of_preferences_alone_has_them_as_its_default() -> None:
    alone = changed(files=[shard("preference", "arb_Arab", "train")])
    assert main_kind(alone) == "preference"
    assert [c["config_name"] for c in configs(alone)] == ["default", "arb_Arab"]


def test_front_matter_says_what_the_hub_asks() -> None:
    meta = front_matter(card(MANIFEST))
    assert meta["language"] == ["ar", "en", "nb", "tr"]
    assert meta["license"] == "other"
    assert meta["license_link"] == "ATTRIBUTION.md"
    assert meta["size_categories"] == ["1K<n<10K"]
    assert meta["configs"] == configs(MANIFEST)


def test_the_hubs_own_reader_accepts_the_card() -> None:
    from huggingface_hub import DatasetCard

    read = DatasetCard(card(MANIFEST))
    assert read.data.license == "other"
    assert read.data.to_dict()["configs"] == configs(MANIFEST)


def test_norwegian_stays_a_language() -> None:
    text = card(changed(languages=[{**MANIFEST["languages"][0], "variety": "nor_Latn"}]))
    assert front_matter(text)["language"] == ["no"]


@pytest.mark.parametrize(
    ("licenses", "terms", "expected"),
    [
        (["Apache-2.0"], [], "apache-2.0"),
        (["CC-BY-NC-SA-4.0"], [], "cc-by-nc-sa-4.0"),
        (["GPL-3.0-or-later"], [], "gpl-3.0"),
        (["ODC-By-1.0"], [], "odc-by"),
        (["Apache-2.0"], ["nllb-200"], None),
        (["Apache-2.0", "MIT"], [], None),
        (["Apache-2.0 AND MIT"], [], None),
        (["LicenseRef-aya-unknown"], [], None),
        ([], [], None),
    ],
)
def test_one_licence_is_named_only_where_it_is_the_whole_truth(
    licenses: list[str], terms: list[str], expected: str | None
) -> None:
    rows = [{"license": name, "rows": 1} for name in licenses]
    assert hub_license(changed(licenses=rows, terms=terms)) == expected


def test_languages_of_the_hub_are_short_where_a_short_code_exists() -> None:
    assert hub_languages(["arb", "zho", "pes", "npi", "arz", "tur", "und", "ckb"]) == [
        "ar", "arz", "ckb", "fa", "ne", "tr", "zh"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (123_456, "100K<n<1M"), (10**12, "n>1T")],
)
def test_size_categories(rows: int, expected: str) -> None:
    assert size_category(rows) == expected


def test_the_funnel_adds_up_and_many_epochs_are_warned_of() -> None:
    text = card(MANIFEST)
    assert "| `aya` | `aya_dataset` | train | 10 | 1 | 7 | 2 | 10 | 5 |" in text
    assert "`aya` is repeated 5 times" in text
    assert "not legal advice" in text
    assert "repeated" not in card(changed(sources=[{**MANIFEST["sources"][0], "epochs": 4.0}]))


def test_parents_of_a_derived_source_are_not_counted_as_rows_that_it_read() -> None:
    made = {**MANIFEST["sources"][0], "name": "made", "lost": {"derive:made": 12, "filter:exact_dedup": 7}}
    rule = {"stage": "derive:made", "source": "made", "outcome": "consumed", "rule": "template", "rows": 12}
    assert "| `made` | `aya_dataset` | train | 9 | 7 | 2 | 10 | 5 |" in card(changed(sources=[made], rules=[rule]))


def test_an_empty_release_has_a_card() -> None:
    empty = changed(
        files=[], languages=[], licenses=[], terms=[], sources=[], stages=[], rules=[], rows=0, assertions=[]
    )
    text = card(empty)
    assert "This release has no rows." in text
    assert "configs" not in front_matter(text)
    assert "No row carries terms of use." in attribution(empty)
    assert dataset_info(empty) == {}


def test_attribution_lists_duties_terms_assertions_and_disagreements() -> None:
    parts = [{"dataset": "mintaka-inst (T)", "origin": "translated", "license": "CC-BY-4.0", "rows": 10}]
    source = {**MANIFEST["sources"][0], "builder": "aya_collection", "parts": parts}
    text = attribution(changed(sources=[source]))
    assert "Pass on what you make from it under the same or a compatible licence." in text
    assert "<https://creativecommons.org/licenses/by-sa/3.0/>" in text
    assert "`nllb-200`: Attribution, non-commercial." in text
    assert "| `aya` | license | `MIT` | the author said so |" in text
    assert "- revision: `9fe2`" in text


def test_where_sources_disagree_the_sentence_is_printed() -> None:
    from aya_data.core.license import collection_parts, part_license

    part = next(p for p in collection_parts("aya_collection") if part_license("aya_collection", p).conflicts)
    parts = [{"dataset": part, "origin": "human", "license": "Apache-2.0", "rows": 1}]
    text = attribution(changed(sources=[{**MANIFEST["sources"][0], "builder": "aya_collection", "parts": parts}]))
    assert "the stricter holds" in text
    assert "No disagreement is known." not in text


def test_unknown_licences_are_called_unpublishable() -> None:
    text = card(changed(licenses=[{"license": "LicenseRef-aya-unknown", "rows": 1234}]))
    assert "1,234 rows of no known licence: this release must not be published." in text


def test_dataset_info_has_one_entry_per_file_with_columns_of_that_file() -> None:
    info = dataset_info(MANIFEST)
    assert sorted(info) == [
        "nob_Latn-validation",
        "preference-arb_Arab-train",
        "tur_Latn-train-00000",
        "tur_Latn-train-00001",
        "tur_Latn-validation",
    ]
    assert info["tur_Latn-train-00000"]["columns"] == {"messages": "messages"}
    preference = info["preference-arb_Arab-train"]
    assert preference["ranking"] is True
    assert preference["columns"] == {"messages": "context", "chosen": "chosen_message", "rejected": "rejected_message"}
    assert {entry["formatting"] for entry in info.values()} == {"sharegpt"}
    json.dumps(info)


def test_the_same_manifest_gives_the_same_bytes() -> None:
    shuffled = json.loads(json.dumps(MANIFEST, sort_keys=True))
    for document in (card, attribution):
        assert document(shuffled) == document(MANIFEST)
    assert json.dumps(dataset_info(shuffled)) == json.dumps(dataset_info(MANIFEST))


HOSTILE = [
    "a | b", "# heading", "- item", "<script>alert(1)</script>", "[x](javascript:alert(1))", "`code`", "``", "---",
    "line\nbreak", "\r\n| a | b |", "{{ 7 * 7 }}", "{% raw %}", "\x1b[31mred", "\u202egnp.exe", "![](http://x/y.png)",
    "*bold*", "'\"", "no", "1. one", "&lt;", "\ud800", "a: b", "!!python/object:os.system", "\u2028",
]  # fmt: skip


def names() -> st.SearchStrategy[str]:
    return st.one_of(st.sampled_from(HOSTILE), st.text(min_size=1, max_size=30))


def infected(name: str) -> dict[str, Any]:
    source = {**copy.deepcopy(MANIFEST["sources"][0]), "name": name, "pins": {name: name}, "builder": name}
    source["parts"][1]["dataset"] = name
    return changed(
        name=name,
        description=name,
        profile=name,
        sources=[source],
        rules=[{**MANIFEST["rules"][0], "rule": name, "source": name}],
        assertions=[{"source": name, "what": "license", "assumed": name, "reason": name}],
    )


@settings(max_examples=150, deadline=None)
@given(names())
def test_no_name_can_change_the_structure_of_a_document(name: str) -> None:
    evil, plain = infected(name), infected("x")
    text = card(evil)
    meta = front_matter(text)
    assert isinstance(meta["pretty_name"], str)
    assert {k: v for k, v in meta.items() if k != "pretty_name"} == {
        k: v for k, v in front_matter(card(plain)).items() if k != "pretty_name"
    }
    for document in (card, attribution):
        written, expected = document(evil), document(plain)
        assert len(written.splitlines()) == len(expected.splitlines())
        for one, other in zip(written.splitlines(), expected.splitlines(), strict=True):
            if other.startswith("|"):
                assert bars(one) == bars(other)
        body = written.split("---\n", 2)[-1] if document is card else written
        assert "<script" not in body.replace("`<script>alert(1)</script>`", "")
        written.encode()


def bars(line: str) -> int:
    return line.replace("\\\\", "").replace("\\|", "").count("|")


def test_hostile_names_read_as_they_are() -> None:
    assert "`{{ 7 * 7 }}`" in card(infected("{{ 7 * 7 }}"))
    text = card(infected("a | b <i> `x`"))
    assert "# a \\| b &lt;i&gt; \\`x\\`" in text
    assert "`` a \\| b <i> `x` ``" in text


def test_every_spdx_id_that_the_hub_knows_is_in_the_table_of_licences() -> None:
    from aya_data.publish.card import _OTHER_ON_THE_HUB, _SAME_ON_THE_HUB

    known = {name.lower() for name in license_table()}
    assert set(_OTHER_ON_THE_HUB) <= known
    assert len(_SAME_ON_THE_HUB - known) <= 1
