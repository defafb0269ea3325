"""Translations of one upstream record share a group, whichever builder reads them, and stay on one side of a split."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import polars as pl

from aya_data import api

SPEC = """
name: groups
policy: any
seed: 3
sources:
  collection: {builder: aya_collection, location: collection, configs: [translated_piqa, templated_xcsqa]}
  suite: {builder: aya_evaluation_suite, location: suite, configs: [dolly_machine_translated], use: train}
  dolly: {builder: dolly, location: dolly, row_numbers: true}
  ours:
    builder: files
    path: ours.jsonl
    columns: {id: id, prompt: q, answer: a}
    language: {column: lang}
    license: {assume: CC0-1.0, reason: written for this test}
release: {validation: 0.4}
"""
LANGUAGES = ("tur_Latn", "deu_Latn", "swh_Latn")
RECORDS = 12


def say(language: str, number: int, what: str) -> str:
    """A text that no other row has."""
    return f"{what} {number} as it is said in {language}, {what} for {what}"


def write(folder: Path) -> None:
    """Small mirrors of the repositories: every record in three languages, in a file of its language."""
    (folder / "dolly").mkdir()
    english = [{"instruction": say("English", n, "dolly"), "context": "", "response": f"Yes, {n}.", "category": "qa"}
               for n in range(RECORDS)]  # fmt: skip
    (folder / "dolly" / "databricks-dolly-15k.jsonl").write_text("".join(json.dumps(r) + "\n" for r in english))
    suite: list[dict[str, Any]] = []
    ours: list[dict[str, Any]] = []
    for config in ("translated_piqa", "templated_xcsqa"):
        (folder / "collection" / config).mkdir(parents=True)
    for place, variety in enumerate(LANGUAGES):
        language, script = variety.split("_")
        for config in ("translated_piqa", "templated_xcsqa"):
            pl.DataFrame([
                {"id": n, "inputs": say(variety, n, config), "targets": f"{variety} {n}", "dataset_name": config,
                 "sub_dataset_name": "-", "task_type": "-", "template_id": 1, "language": language, "script": script,
                 "split": "train"}
                for n in range(RECORDS)
            ]).write_parquet(folder / "collection" / config / f"train-{place:05}-of-00003.parquet")  # fmt: skip
        for n in range(RECORDS):
            suite.append({"id": len(suite), "inputs": say(variety, n, "suite"), "targets": f"{variety} {n}",
                          "language": language, "script": script, "source_id": n})  # fmt: skip
            ours.append({"id": f"record {n}", "q": say(variety, n, "ours"), "a": f"{variety} {n}", "lang": language})
    (folder / "suite" / "dolly_machine_translated").mkdir(parents=True)
    pl.DataFrame(suite).write_parquet(folder / "suite" / "dolly_machine_translated" / "test-00000-of-00001.parquet")
    (folder / "ours.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ours))
    (folder / "spec.yaml").write_text(SPEC)


def test_translations_of_a_record_share_its_group_and_side(tmp_path: Path) -> None:
    write(tmp_path)
    done = api.build(tmp_path / "spec.yaml", workspace=tmp_path / "workspace", workers=1)
    groups: dict[tuple[str, int], set[str]] = defaultdict(set)
    sides: dict[tuple[str, int], set[str]] = defaultdict(set)
    rows: dict[tuple[str, int], int] = defaultdict(int)
    for side in ("train", "validation"):
        for row in pl.read_parquet(done.result.path / "data" / "*" / f"{side}-*.parquet").iter_rows(named=True):
            what, number = row["messages"][0]["content"].split()[:2]
            # Dolly's record and its translations in the suite are one.
            record = ("dolly" if what == "suite" else what, int(number))
            groups[record].add(row["group"])
            sides[record].add(side)
            rows[record] += 1
    assert {what: {rows[w, n] for w, n in rows if w == what} for what, _ in rows} == {
        "translated_piqa": {3}, "templated_xcsqa": {3}, "dolly": {4}, "ours": {3}
    }  # fmt: skip
    assert all(len(found) == 1 for found in groups.values())
    assert len(set.union(*groups.values())) == 4 * RECORDS
    assert all(len(found) == 1 for found in sides.values())
    assert set.union(*sides.values()) == {"train", "validation"}


def test_near_duplicates_that_are_kept_share_a_side(tmp_path: Path) -> None:
    """Texts of a family resemble each other to 0.70 or more: too little to go, too much to stand on both sides."""
    families, members = 40, 4
    with (tmp_path / "ours.jsonl").open("w") as file:
        for family in range(families):
            for member in range(members):
                words = [f"f{family}w{place}" for place in range(60)]
                words[15 * member] = f"own{member}"
                file.write(json.dumps({"id": f"{family} {member}", "q": " ".join(words), "a": "", "lang": "en"}) + "\n")
    ours = SPEC[SPEC.index("  ours:") : SPEC.index("release:")].replace("path:", "kind: prompt\n    path:")
    ours = ours.replace(", answer: a", "")
    (tmp_path / "spec.yaml").write_text(
        f"name: near\npolicy: any\nseed: 3\nsources:\n{ours}filters: [near_dedup: {{threshold: 0.95}}]\n"
        "release: {validation: 0.4}\n"
    )
    done = api.build(tmp_path / "spec.yaml", workspace=tmp_path / "workspace", workers=1)
    sides: dict[str, list[str]] = defaultdict(list)
    for side in ("train", "validation"):
        for row in pl.read_parquet(done.result.path / "prompts" / "*" / f"{side}-*.parquet").iter_rows(named=True):
            sides[row["prompt"][0]["content"].split()[1]].append(side)
    assert len(sides) == families and all(len(found) == members for found in sides.values())
    assert all(len(set(found)) == 1 for found in sides.values())
    assert {found[0] for found in sides.values()} == {"train", "validation"}


LATER = """
name: near
policy: any
seed: 3
sources:
  ours:
    builder: files
    path: ours.jsonl
    kind: prompt
    columns: {id: id, prompt: q}
    language: {column: lang}
    license: {assume: CC0-1.0, reason: written for this test}
filters: [{near_dedup: {threshold: 0.95}}, {length: {max_chars: 419}}]
release: {validation: 0.4}
"""


def test_a_row_that_a_later_filter_drops_still_joins_what_it_was_linked_with(tmp_path: Path) -> None:
    families, members, longest = 40, 4, 2
    with (tmp_path / "ours.jsonl").open("w") as file:
        for family in range(families):
            for member in range(members):
                words = [f"f{family:02}w{place:02}" for place in range(60)]
                words[15 * member] = f"own{member}xx" + ("longer" if member == longest else "")
                file.write(json.dumps({"id": f"{family} {member}", "q": " ".join(words), "lang": "en"}) + "\n")
    (tmp_path / "spec.yaml").write_text(LATER)
    done = api.build(tmp_path / "spec.yaml", workspace=tmp_path / "workspace", workers=1)
    sides = defaultdict(list)
    for side in ("train", "validation"):
        for row in pl.read_parquet(done.result.path / "prompts" / "*" / f"{side}-*.parquet").iter_rows(named=True):
            sides[row["prompt"][0]["content"].split()[1]].append(side)
    assert len(sides) == families and {len(found) for found in sides.values()} == {members - 1}
    assert all(len(set(found)) == 1 for found in sides.values())
