"""The bundled samples: upstream schemas, every language there, the dirt where the list says."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections import Counter
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aya_data.builders.samples import compose
from aya_data.core.language import resolve

ROOT = Path(str(files("aya_data.builders.samples")))
QUESTIONS = "house/questions.jsonl"
AYA_23 = [
    "arb",
    "zho",
    "ces",
    "nld",
    "eng",
    "fra",
    "deu",
    "ell",
    "heb",
    "hin",
    "ind",
    "ita",
    "jpn",
    "kor",
    "pes",
    "pol",
    "por",
    "ron",
    "rus",
    "spa",
    "tur",
    "ukr",
    "vie",
]

STRING, INT64, INT32, BOOL = pa.string(), pa.int64(), pa.int32(), pa.bool_()
COLLECTION = {
    "id": INT64,
    "inputs": STRING,
    "targets": STRING,
    "dataset_name": STRING,
    "sub_dataset_name": STRING,
    "task_type": STRING,
    "template_id": INT64,
    "language": STRING,
    "split": STRING,
    "script": STRING,
}
EARLY = {name: kind for name, kind in COLLECTION.items() if name != "language"} | {
    "template_id": STRING,
    "language_code": STRING,
}
SUITE = {
    "id": INT64,
    "inputs": STRING,
    "targets": STRING,
    "language": STRING,
    "script": STRING,
}
SCHEMAS: dict[str, dict[str, pa.DataType]] = {
    "aya_dataset/data/*": dict.fromkeys(
        ("inputs", "targets", "language", "language_code", "annotation_type", "user_id"), STRING
    ),
    "aya_dataset/demographics/*": {
        "user_id": STRING,
        "age_range": pa.list_(INT64),
        "gender": STRING,
        "country": STRING,
        "languages": pa.list_(STRING),
        "dialects": pa.list_(STRING),
    },
    "aya_collection/templated_*/*": COLLECTION,
    "aya_collection/translated_dolly/*": COLLECTION,
    "aya_collection/translated_flan_gem_wiki/*": COLLECTION,
    "aya_collection/translated_joke_explaination/*": EARLY,
    "aya_collection_language_split/*/*": COLLECTION,
    "aya_evaluation_suite/aya_human_annotated/*": SUITE,
    "aya_evaluation_suite/dolly_*/*": {**SUITE, "source_id": INT64},
    "oasst/data/*": {
        **dict.fromkeys(("message_id", "parent_id", "user_id", "created_date", "text", "role", "lang"), STRING),
        "review_count": INT32,
        "review_result": BOOL,
        "deleted": BOOL,
        "rank": INT32,
        "synthetic": BOOL,
        "model_name": STRING,
        "detoxify": pa.struct(
            [
                (name, pa.float64())
                for name in (
                    "toxicity",
                    "severe_toxicity",
                    "obscene",
                    "identity_attack",
                    "insult",
                    "threat",
                    "sexual_explicit",
                )
            ]
        ),
        "message_tree_id": STRING,
        "tree_state": STRING,
        "emojis": pa.struct([("name", pa.list_(STRING)), ("count", pa.list_(INT32))]),
        "labels": pa.struct(
            [
                ("name", pa.list_(STRING)),
                ("value", pa.list_(pa.float64())),
                ("count", pa.list_(INT32)),
            ]
        ),
    },
}

SCRIPT_NAMES = {
    "Arab": {"ARABIC"},
    "Beng": {"BENGALI"},
    "Cyrl": {"CYRILLIC"},
    "Deva": {"DEVANAGARI"},
    "Ethi": {"ETHIOPIC"},
    "Grek": {"GREEK"},
    "Hang": {"HANGUL"},
    "Hans": {"CJK"},
    "Hant": {"CJK"},
    "Hebr": {"HEBREW"},
    "Jpan": {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"},
    "Khmr": {"KHMER"},
    "Kore": {"HANGUL"},
    "Latn": {"LATIN"},
    "Telu": {"TELUGU"},
    "Thai": {"THAI"},
}
ONLY_SIMPLIFIED = set("们这么为个国学会时来说图书馆还开对气请问")
ONLY_TRADITIONAL = set("們這麼為個國學會時來說圖書館還開對氣請問")


def read_bytes(path: str) -> bytes:
    raw = (ROOT / path).read_bytes()
    return pa.CompressedInputStream(pa.py_buffer(raw), "zstd").read() if path[-3:] == "zst" else raw


@cache
def read(path: str) -> list[Any]:
    """Rows of one sample: mappings, or the bytes of a line that is not one."""
    if path.endswith(".parquet"):
        rows: list[Any] = pq.read_table(ROOT / path).to_pylist()
        return rows
    content = read_bytes(path)
    if path.endswith(".csv"):
        header, *records = csv.reader(io.StringIO(content.decode(), newline=""))
        return [dict(zip(header, row, strict=True)) if len(row) == 3 else row for row in records]
    lines: list[Any] = []
    for line in content.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            lines.append(line)
    return lines


def authored(path: str) -> bool:
    """Whether a file is written by hand where it lies: prompts for teachers and what they answered."""
    return path == QUESTIONS or path.startswith("answers/")


def sample_files() -> list[str]:
    """The files that are composed."""
    return [path for path in all_files() if not authored(path)]


def all_files() -> list[str]:
    sources = [p.name for p in ROOT.iterdir() if p.is_dir() and p.name not in ("texts", "__pycache__")]
    found = (p for source in sources for p in (ROOT / source).rglob("*") if p.is_file())
    return sorted(p.relative_to(ROOT).as_posix() for p in found if p.name != "paths.json")


def planted() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((ROOT / "planted.json").read_text("utf-8"))
    return entries


def planted_at(kind: str) -> list[Any]:
    return [read(entry["file"])[entry["row"]] for entry in planted() if entry["kind"] == kind]


def label(path: str, row: dict[str, Any]) -> tuple[str | None, str | None]:
    """The language label of a row and what another column says of the script."""
    if path.startswith("aya_dataset/"):
        return (row["language"] if row["language_code"] == "zho" else row["language_code"]), None
    if path.startswith("dolly/"):
        return "eng", None
    for name in ("language_code", "language", "lang"):
        if name in row:
            return row[name], row.get("script")
    return None, None


def texts(row: dict[str, Any]) -> tuple[Any, Any]:
    """Question and answer of a row of any sample; a message of a tree has only a text."""
    if "chosen" in row:
        return row["chosen"][0]["content"], row["chosen"][1]["content"]
    if "instruction" in row:
        context = row.get("context") or row.get("input") or ""
        answer = row["response"] if "response" in row else row.get("output")
        return f"{row['instruction']}\n{context}".strip(), answer
    for question, answer in (("inputs", "targets"), ("phrase", "meaning"), ("text", "text")):
        if question in row:
            return row[question], row.get(answer)
    raise AssertionError(row)


def labelled_rows() -> list[tuple[str, int, dict[str, Any]]]:
    return [
        (path, number, row)
        for path in sample_files()
        if "/demographics/" not in path
        for number, row in enumerate(read(path))
        if isinstance(row, dict)
    ]


@pytest.mark.parametrize("path", [path for path in sample_files() if path.endswith(".parquet")])
def test_parquet_columns_are_upstreams(path: str) -> None:
    schema = pq.read_schema(ROOT / path)
    (wanted,) = [columns for pattern, columns in SCHEMAS.items() if Path(path).match(pattern)]
    assert dict(zip(schema.names, schema.types, strict=True)) == wanted


def test_json_lines_have_upstreams_fields_in_order() -> None:
    xp3x = ["inputs", "targets", "language", "dataset", "config", "split", "template"]
    wanted = {"dolly": ["instruction", "context", "response", "category"], "xp3x": xp3x}
    broken = {(e["file"], e["row"]) for e in planted() if e["kind"] == "missing_field"}
    for path, number, row in labelled_rows():
        source = path.split("/")[0]
        if source in wanted and (path, number) not in broken:
            assert list(row) == wanted[source]


def test_columns_drift_between_the_configs_of_the_collection() -> None:
    orders = {tuple(pq.read_schema(ROOT / path).names) for path in sample_files() if path.startswith("aya_collection/")}
    assert len(orders) == 3


def test_index_of_xp3x_lists_the_files_that_are_there() -> None:
    index = json.loads((ROOT / "xp3x/paths.json").read_text("utf-8"))
    listed = sorted(f"xp3x/{name}" for names in index.values() for name in names)
    assert listed == [path for path in sample_files() if path.startswith("xp3x/")]
    assert all(name.split("/")[1] == code for code, names in index.items() for name in names)
    assert any("?" in name and "," in name for name in listed)


def test_the_languages_of_aya_23_have_their_rows() -> None:
    """The regrouped rows of the split by language are not counted a second time."""
    counts: Counter[str] = Counter()
    total = 0
    for path, _, row in labelled_rows():
        if path.startswith("aya_collection_language_split/"):
            continue
        total += 1
        name, script = label(path, row)
        counts[resolve(name, script=script).variety.language] += 1
    assert total >= 640
    assert {code: counts[code] for code in AYA_23 if counts[code] < 24} == {}
    rare = {
        "yor",
        "swh",
        "tel",
        "ben",
        "tha",
        "amh",
        "khm",
        "quy",
        "hau",
        "urd",
        "arz",
        "ary",
        "apc",
        "ars",
        "acq",
        "srp",
    }
    assert rare <= set(counts)


def test_both_chinese_scripts_share_a_code_and_differ_by_name() -> None:
    rows = read("aya_dataset/data/train-00000-of-00001.parquet")
    names = {row["language"] for row in rows if row["language_code"] == "zho"}
    assert names == {"Simplified Chinese", "Traditional Chinese"}


def test_labels_resolve_but_for_the_planted_ones() -> None:
    allowed = {
        (entry["file"], entry["row"]) for entry in planted() if entry["kind"] in ("unresolvable_label", "null_label")
    }
    unknown = {
        (path, number)
        for path, number, row in labelled_rows()
        if not resolve(label(path, row)[0], script=label(path, row)[1]).ok
    }
    assert unknown == allowed


def test_texts_are_in_the_script_of_their_label() -> None:
    """More than half of the letters: formulas, choices (A) and (B), and names stay Latin."""
    skipped = {(entry["file"], entry["row"]) for entry in planted()} - {
        (entry["file"], entry["row"])
        for entry in planted()
        if entry["kind"] in ("lookalike", "regrouped", "non_commercial", "benchmark_copy")
    }
    for path, number, row in labelled_rows():
        if (path, number) in skipped or "continuation" in path:
            continue
        name, script = label(path, row)
        script = resolve(name, script=script).variety.script
        text = "".join(str(part) for part in texts(row))
        kinds = Counter(unicodedata.name(c, "?").split(" ")[0] for c in text if c.isalpha())
        share = sum(kinds[kind] for kind in SCRIPT_NAMES[script]) / max(1, kinds.total())
        assert share > 0.5, (path, number, script, text)
        if script == "Hans":
            assert not ONLY_TRADITIONAL & set(text), (path, number)
        if script == "Hant":
            assert not ONLY_SIMPLIFIED & set(text), (path, number)


def test_texts_are_well_formed_unicode_in_composed_form() -> None:
    for path, number, row in labelled_rows():
        if row in planted_at("lone_surrogate"):
            continue
        text = "".join(str(part) for part in texts(row))
        assert unicodedata.is_normalized("NFC", text), (path, number, text)
        assert "\ufffd" not in text
        assert not any(unicodedata.category(c) in ("Co", "Cn", "Cs") for c in text), (path, number)


def test_no_text_occurs_twice_but_where_it_was_planted() -> None:
    seen: dict[tuple[Any, Any], tuple[str, int]] = {}
    copies = {(entry["file"], entry["row"]) for entry in planted() if "of" in entry}
    for path, number, row in labelled_rows():
        if None in row.values() and "chosen" in row:
            continue
        pair = texts(row)
        if None in pair or pair in seen:
            here, there = (path, number), seen.get(pair, (path, number))
            assert None in pair or here in copies or there in copies, (here, there, pair)
        seen.setdefault(pair, (path, number))


def test_writing_the_samples_again_gives_the_same_files(tmp_path: Path) -> None:
    first = compose.compose()
    assert compose.compose() == first
    written = {p.relative_to(tmp_path).as_posix() for p in compose.write_samples(tmp_path)}
    assert {*sample_files(), "planted.json", "xp3x/paths.json"} == written
    for name, content in first.items():
        if name.endswith(".parquet"):
            here, there = pq.read_metadata(ROOT / name), pq.read_metadata(tmp_path / name)
            if here.created_by != there.created_by:  # another pyarrow encodes in another way
                table = pq.read_table(tmp_path / name)
                assert pq.read_table(ROOT / name).equals(table, check_metadata=True)
                continue
        if name.endswith(".zst"):
            assert pa.CompressedInputStream(pa.py_buffer(content), "zstd").read() == read_bytes(name)
            continue
        assert (ROOT / name).read_bytes() == content, name


def test_every_copy_that_is_listed_as_equal_is_equal() -> None:
    equal = {"exact_duplicate", "same_text_two_labels", "cross_source_duplicate", "regrouped"}
    near = {"near_duplicate"}
    for entry in planted():
        if "of" not in entry:
            continue
        copy = texts(read(entry["file"])[entry["row"]])
        original = texts(read(entry["of"]["file"])[entry["of"]["row"]])
        if entry["kind"] in equal | {"benchmark_copy"}:
            assert copy == original, entry
        if entry["kind"] in near:
            assert copy != original, entry
            assert len(set("".join(copy)) ^ set("".join(original))) < 8, entry


def test_the_planted_kinds_are_what_they_say() -> None:
    labels = [
        (label(entry["file"], row)[0])
        for entry in planted()
        if entry["kind"] == "same_text_two_labels"
        for row in (read(entry["file"])[entry["row"]],)
    ]
    assert sorted(map(str, labels)) == ["arz", "da"]
    assert all(texts(row)[1] == "" for row in planted_at("empty_answer"))
    assert all(texts(row)[1].strip() == "" for row in planted_at("blank_answer"))
    assert all(texts(row)[0] == "" for row in planted_at("empty_prompt"))
    assert all("<unk>" in texts(row)[1] for row in planted_at("unk_token"))
    assert all(max(map(len, texts(row))) <= 3 for row in planted_at("very_short"))
    assert all(len(texts(row)[1]) > 3000 for row in planted_at("very_long"))
    assert all(row["chosen"] == row["rejected"] for row in planted_at("equal_pair"))
    assert all(row["id"] is None for row in planted_at("null_id"))
    assert all(row["task_type"] == "-" for row in planted_at("missing_task"))
    assert all(row["license"] is None for row in planted_at("null_license"))
    assert all("license" not in row for row in planted_at("missing_license"))
    assert all(row["response"] == 12 for row in planted_at("wrong_type"))
    assert all(row["output"].endswith("\ud83d") for row in planted_at("lone_surrogate"))
    assert all("\n" in row["meaning"] for row in planted_at("quoted_newline"))
    (house,) = [row for row in planted_at("non_commercial") if "license" in row]
    assert house["license"] == "CC-BY-NC-4.0"
    for row in planted_at("invalid_utf8"):
        with pytest.raises(UnicodeDecodeError):
            row.decode()
    for row in planted_at("broken_row"):
        if isinstance(row, bytes):
            with pytest.raises(ValueError, match=r"."):
                json.loads(row.decode())
        elif isinstance(row, list):
            assert len(row) != 3
        else:
            assert row["inputs"] is None
            assert row["targets"] is None


def test_each_kind_of_dirt_is_there() -> None:
    kinds = Counter(entry["kind"] for entry in planted())
    assert kinds["wrong_language"] >= 5
    assert kinds["near_duplicate"] >= 6
    assert kinds["exact_duplicate"] >= 6
    sources = {entry["source"] for entry in planted() if entry["kind"] == "empty_answer"}
    assert sources == {"aya_dataset", "aya_collection", "xp3x", "dolly", "house"}
    assert kinds["benchmark_leak"] >= 4


def test_suite_refers_to_rows_of_dolly_by_their_line() -> None:
    dolly = read("dolly/databricks-dolly-15k.jsonl")
    for config in ("dolly_human_edited", "dolly_machine_translated"):
        for row in read(f"aya_evaluation_suite/{config}/test-00000-of-00001.parquet"):
            source = dolly[row["source_id"]]
            if row["language"] == "eng":
                assert (row["inputs"], row["targets"]) == texts(source)
            assert source["category"] in ("general_qa", "open_qa")


def test_message_trees_hang_together_but_for_the_orphan() -> None:
    rows = [row for path in sample_files() if path.startswith("oasst/") for row in read(path)]
    by_id = {row["message_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    orphans = [row for row in rows if row["parent_id"] and row["parent_id"] not in by_id]
    assert orphans == planted_at("orphan")
    for row in rows:
        parent = by_id.get(row["parent_id"] or "")
        if parent:
            assert {row["role"], parent["role"]} == {"prompter", "assistant"}
            assert row["message_tree_id"] == parent["message_tree_id"]
        if not row["parent_id"]:
            assert row["message_tree_id"] == row["message_id"]
    assert {"en", "es", "pt-BR", "uk-UA", "zh", "de", "ru", "fr"} == {row["lang"] for row in rows}
    siblings = Counter(row["parent_id"] for row in rows if row["rank"] is not None)
    assert sum(count > 1 for count in siblings.values()) >= 6
    assert all(row["review_result"] is None for row in planted_at("unreviewed"))
    assert all(row["deleted"] for row in planted_at("deleted"))


def test_preferences_start_with_the_same_question_and_end_with_an_answer() -> None:
    rows = [row for row in read("house/preferences.jsonl") if isinstance(row, dict)]
    assert len(rows) >= 24
    assert len({row["language"] for row in rows}) >= 20
    for row in rows:
        sides = [row[side] for side in ("chosen", "rejected") if row[side] is not None]
        assert len({side[0]["content"] for side in sides}) == 1
        assert all(side[-1]["role"] == "assistant" for side in sides)


def test_contributors_join_and_some_have_no_demographics() -> None:
    known = {row["user_id"] for row in read("aya_dataset/demographics/train-00000-of-00001.parquet")}
    used = {row["user_id"] for row in read("aya_dataset/data/train-00000-of-00001.parquet")}
    assert known & used
    assert used - known


def test_readme_counts_the_rows() -> None:
    table = [
        line.split("|")[1:4] for line in (ROOT / "README.md").read_text("utf-8").splitlines() if line.startswith("| `")
    ]
    told = {name.strip(" `"): int(count.split()[0].strip(",")) for name, count, _ in table}
    counts = Counter(path.split("/")[0] for path in all_files() if "/demographics/" not in path for _ in read(path))
    assert told == counts


def test_samples_are_small() -> None:
    assert sum(p.stat().st_size for p in ROOT.rglob("*") if p.is_file()) < 2 << 20


def test_three_questions_in_each_language_of_aya_23() -> None:
    rows = read(QUESTIONS)
    assert Counter(row["language"].split("_")[0] for row in rows) == dict.fromkeys(AYA_23, 3)
    assert {row["language"] for row in rows if row["language"].startswith("zho")} == {"zho_Hans", "zho_Hant"}
    assert Counter(row["license"] for row in rows) == {"CC-BY-4.0": 68, "CC-BY-NC-4.0": 1}
    assert sorted(Counter(row["question"] for row in rows).values()) == [1] * 67 + [2]


def test_the_answers_have_the_dirt_that_the_readme_tells() -> None:
    asked = {row["question"]: row["language"] for row in read(QUESTIONS)}
    answers = {name: read(f"answers/{name}.jsonl") for name in ("careful", "brief", "rendered")}
    for rows in answers.values():
        assert all(asked[row["prompt"]] == row["language"] and len(row["answer"]) < 700 for row in rows)
        assert all(unicodedata.is_normalized("NFC", row["answer"]) for row in rows)

    prompts = {name: Counter(row["prompt"] for row in rows) for name, rows in answers.items()}
    told = {"careful": (70, 3, 5), "brief": (65, 3, 0), "rendered": (64, 4, 0)}
    for name, found in prompts.items():
        assert (found.total(), len(asked) - len(found), sum(n == 2 for n in found.values())) == told[name]
    said = {name: {(row["prompt"], row["answer"]) for row in rows} for name, rows in answers.items()}
    assert len(said["careful"] & said["brief"]) == 1
    assert [row["finish"] for rows in answers.values() for row in rows if "finish" in row] == ["length", "length"]
    assert sum(row["answer"] == row["prompt"] for row in answers["rendered"]) == 1
    assert sum(not row["answer"] for row in answers["rendered"]) == 1
