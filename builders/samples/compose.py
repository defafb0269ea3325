"""Writes the bundled samples from the reviewable texts beside this module.

``python -m aya_data.builders.samples.compose [FOLDER]`` reads ``texts/*.jsonl`` and writes every
sample in the layout of its publisher's repository, and ``planted.json``, the list of the dirt. The
same texts give the same bytes with one version of pyarrow: order, ids and contributors come from
hashes of the authored keys. This is an authoring tool: builds read what it wrote, never call it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aya_data.builders.samples import upstream

Text = dict[str, Any]
"""One authored line: ``key``, ``place``, ``language``, ``script`` and its texts."""

SUITE_LANGUAGES = frozenset({"tur", "eng", "yor", "arb", "zho", "por", "tel"})
SPLIT_CONFIGS = {
    ("tur", "Latn"): "turkish",
    ("arb", "Arab"): "standard_arabic",
    ("spa", "Latn"): "spanish",
    ("zho", "Hans"): "simplified_chinese",
    ("zho", "Hant"): "traditional_chinese",
}
CHOICE_TEMPLATE = "C1 or C2? premise, so_because"
QUESTION_PARTS = {"eng": ("adversarial_qa", "dbidaf"), "zho": ("clue", "cmrc2018")}
"""Dataset and config of the questions in two languages; the others are ``xquad``."""
LICENSES = ("CC-BY-4.0", "apache-2.0", "CC0-1.0", "MIT")
REVIEW_LABELS = ("spam", "lang_mismatch", "quality", "toxicity", "helpfulness", "creativity")
FIRST_MESSAGE = datetime(2023, 2, 5, 14, 20, tzinfo=UTC)


@dataclass(frozen=True)
class Placed:
    """A row in its file: ``record`` is a mapping, or bytes where the line itself is broken."""

    path: str
    record: dict[str, Any] | bytes
    key: str
    plant: tuple[str, str | None, str | None] | None = None
    """Kind of dirt, key of the row that it copies, remark."""
    order: str | None = None
    """Sort key within the file; by default a hash of ``key``, which mixes the languages."""


def _hex(*parts: object) -> str:
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def _uuid(*parts: object) -> str:
    digits = _hex(*parts)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))


def _read(name: str) -> list[Text]:
    text = files("aya_data.builders.samples").joinpath("texts", name).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def read_texts() -> list[Text]:
    """Every authored line, then the dirt made from them.

    A line of ``dirt.jsonl`` is a row of its own (``place``), an altered copy (``base`` and ``set``)
    or a remark on an authored row (``mark``).
    """
    folder = files("aya_data.builders.samples").joinpath("texts")
    special = {"dirt.jsonl", "templates.jsonl", "contributors.jsonl", "oasst.jsonl"}
    names = sorted(entry.name for entry in folder.iterdir() if entry.name not in special)
    texts = {text["key"]: text for name in names for text in _read(name)}
    for number, dirt in enumerate(_read("dirt.jsonl")):
        kind, note = dirt.pop("kind"), dirt.pop("note", None)
        if "mark" in dirt:
            texts[dirt["mark"]]["plant"] = (kind, None, note)
            continue
        base = dirt.pop("base", None)
        changes = dirt.pop("set", {})
        text = {**(texts[base] if base else {}), **dirt, **changes, "key": f"dirt/{number}"}
        text["plant"] = (kind, base, note)
        text["identity"] = base if dirt.get("same_row") else text["key"]
        texts[text["key"]] = text
    return list(texts.values())


def _label(text: Text) -> tuple[Any, Any]:
    """Language and script as the row claims them, true or not."""
    claimed = {"label": text["language"], "label_script": text["script"], **text}
    return claimed["label"], claimed["label_script"]


def _place(text: Text, path: str, record: dict[str, Any]) -> Placed:
    if "raw" in text:
        return Placed(path, text["raw"].encode(), text["key"], text["plant"])
    if "raw_latin1" in text:
        return Placed(path, text["raw_latin1"].encode("latin-1"), text["key"], text["plant"])
    kept = {name: value for name, value in record.items() if name not in text.get("drop", ())}
    return Placed(path, kept, text["key"], text.get("plant"))


def _contributor(text: Text) -> str:
    language, _ = _label(text)
    identity = text.get("identity", text["key"])
    return _hex("contributor", language, int(_hex(identity)[:8], 16) % 3)


def place_aya_dataset(texts: Iterable[Text]) -> Iterator[Placed]:
    """Rows of ``aya_dataset``; every third one counts as a re-annotation."""
    for text in texts:
        split = text["place"].split("/")[1]
        language, script = _label(text)
        edited = int(_hex("edited", text.get("identity", text["key"]))[:8], 16) % 3 == 0
        record = {
            "inputs": text["prompt"],
            "targets": text["answer"],
            "language": upstream.language_name(language, script),
            "language_code": language,
            "annotation_type": "re-annotations" if edited else "original-annotations",
            "user_id": _contributor(text),
        }
        yield _place(text, f"aya_dataset/data/{split}-00000-of-00001.parquet", record)


def place_demographics() -> Iterator[Placed]:
    """Rows of the config ``demographics``: two of the three contributors of each language."""
    for number, person in enumerate(_read("contributors.jsonl")):
        for seat in range(2):
            age = 18 + 7 * ((number + 3 * seat) % 6)
            record = {
                "user_id": _hex("contributor", person["language"], seat),
                "age_range": [age, age + 7],
                "gender": ("female", "male", "prefer_not_to_say")[(number + seat) % 3],
                "country": person["country"],
                "languages": person["languages"],
                "dialects": person.get("dialects", []),
            }
            path = "aya_dataset/demographics/train-00000-of-00001.parquet"
            yield Placed(path, record, f"person/{person['language']}/{seat}")


def _templated(text: Text) -> Iterator[tuple[int, str]]:
    if text["place"] != "aya_collection/templated_mintaka":
        yield 1, text["prompt"]
        return
    for template in _read("templates.jsonl"):
        if template["language"] == text["language"]:
            yield template["template_id"], template["text"].format(prompt=text["prompt"])


def place_collection(texts: Iterable[Text]) -> Iterator[Placed]:
    """Rows of ``aya_collection`` and, for some languages, of its split by language."""
    ids: dict[str, dict[str, int]] = {}
    for text in texts:
        _, config = text["place"].split("/")
        dataset, task, schema = upstream.CONFIGS[config]
        numbers = ids.setdefault(config, {})
        for template, prompt in _templated(text):
            key = f"{text['key']}/{template}" if template > 1 else text["key"]
            identity: str = {"identity": key, **text}["identity"]
            number = numbers.setdefault(identity, len(numbers) + 1)
            split = "validation" if config == "templated_xcsqa" else "train"
            if config in ("templated_mintaka", "templated_afriqa"):
                split = ("train", "validation", "train", "test")[number % 4]
            language, script = _label(text)
            plant = text.get("plant")
            if plant is None and config == "templated_mintaka":
                plant = ("lookalike", None, "one template, other countries")
            if plant is None and config == "translated_flan_gem_wiki":
                plant = ("non_commercial", None, "this part is CC-BY-NC-SA-3.0")
            record = {
                "id": None if plant and plant[0] == "null_id" else number,
                "inputs": prompt,
                "targets": text["answer"],
                "dataset_name": dataset,
                "sub_dataset_name": "-",
                "task_type": "-" if plant and plant[0] == "missing_task" else task,
                "template_id": template,
                "language": language,
                "split": split,
                "script": script,
            }
            early = {**record, "template_id": str(template), "language_code": language}
            path = f"aya_collection/{config}/{split}-00000-of-00001.parquet"
            row = early if "language_code" in schema.names else record
            yield Placed(path, {name: row[name] for name in schema.names}, key, plant)
            name = SPLIT_CONFIGS.get((text["language"], text["script"]))
            if config == "templated_xcsqa" and text["language"] == "zho":
                name = "chinese"
            if name and "identity" not in text:
                path = f"aya_collection_language_split/{name}/{split}-00000-of-00001.parquet"
                yield Placed(path, record, f"split/{key}", ("regrouped", key, None))


def place_language_split(texts: Iterable[Text]) -> Iterator[Placed]:
    """Rows of the split by language whose config of the collection is not in the sample."""
    for number, text in enumerate(texts, 9001):
        place = text["place"].split("/")[1]
        name = SPLIT_CONFIGS[text["language"], text["script"]]
        if place.startswith("chinese_"):
            name, place = place.split("_")
        record = {
            "id": number,
            "inputs": text["prompt"],
            "targets": text["answer"],
            "dataset_name": "Mintaka (T)",
            "sub_dataset_name": "-",
            "task_type": "question-answering",
            "template_id": 1,
            "language": text["language"],
            "split": place,
            "script": text["script"],
        }
        path = f"aya_collection_language_split/{name}/{place}-00000-of-00001.parquet"
        yield _place(text, path, record)


def place_suite(texts: Iterable[Text], human: Iterable[Text]) -> Iterator[Placed]:
    """Rows of ``aya_evaluation_suite``; ``human`` are the rows of the Aya Dataset's test split."""
    for number, text in enumerate(human, 1):
        record = {
            "id": number,
            "inputs": text["prompt"],
            "targets": text["answer"],
            "language": text["language"],
            "script": text["script"],
        }
        path = "aya_evaluation_suite/aya_human_annotated/test-00000-of-00001.parquet"
        yield Placed(path, record, f"suite/{text['key']}", ("benchmark_copy", text["key"], None))
    for number, text in enumerate(texts, 1):
        record = {
            "id": number,
            "inputs": text["prompt"],
            "targets": text["answer"],
            "language": text["language"],
            "script": text["script"],
            "source_id": text["dolly"],
        }
        config = text["place"].split("/")[1]
        yield _place(text, f"aya_evaluation_suite/{config}/test-00000-of-00001.parquet", record)


def place_xp3x(texts: Iterable[Text]) -> Iterator[Placed]:
    """Rows of ``xp3x``: one JSONL file per language, dataset, split and template."""
    for text in texts:
        language, script = _label(text)
        code, short = f"{language}_{script}", upstream.TWO_LETTERS[language]
        kind = text["place"].split("/")[1]
        split = "validation"
        if kind == "question":
            dataset, config = QUESTION_PARTS.get(language, ("xquad", f"xquad.{short}"))
            template = "answer_given_context"
            name = f"xp3_{dataset}_{config}_{split}_{template}"
        elif kind == "choice":
            dataset, config, template = "xcopa", short, CHOICE_TEMPLATE
            name = f"xp3_{dataset}_{config}_{split}_{template}"
        else:
            dataset, config, split = "facebook/flores", f"eng_Latn-{code}", "dev"
            template = "continuation"
            pair = f"{code}_eng_Latn_dev_inverted" if code == "nld_Latn" else f"eng_Latn_{code}_dev"
            name = f"xp3_facebook_flores_{pair}_{template}"
        record = {
            "inputs": text.get("prompt"),
            "targets": text.get("answer"),
            "language": code,
            "dataset": dataset,
            "config": config,
            "split": split,
            "template": template,
        }
        yield _place(text, f"xp3x/data/{code}/{name}.jsonl", record)


def place_dolly(texts: Iterable[Text]) -> Iterator[Placed]:
    """Rows of ``databricks-dolly-15k`` in authored order: their line is their id elsewhere."""
    for number, text in enumerate(texts):
        record = {
            "instruction": text.get("prompt"),
            "context": text.get("input", ""),
            "response": text.get("answer"),
            "category": text.get("category"),
        }
        row = _place(text, "dolly/databricks-dolly-15k.jsonl", record)
        yield Placed(row.path, row.record, row.key, row.plant, f"{number:06d}")


def place_house(texts: Iterable[Text]) -> Iterator[Placed]:
    """Rows of the three files of nobody's schema: instructions, a phrasebook, preferences."""
    for number, text in enumerate(texts):
        language, script = _label(text)
        tag = upstream.HOUSE_TAGS.get((language, script)) or upstream.TWO_LETTERS.get(language)
        kind = text["place"].split("/")[1]
        record: dict[str, Any]
        if kind == "house":
            identity = text.get("identity", text["key"])
            chosen = LICENSES[int(_hex("license", identity)[:8], 16) % len(LICENSES)]
            record = {
                "instruction": text.get("prompt"),
                "input": text.get("input"),
                "output": text.get("answer"),
                "lang": text.get("lang", tag),
                "license": text.get("license", chosen),
            }
            yield _place(text, "house/house.jsonl.zst", record)
        elif kind == "phrasebook":
            record = {
                "phrase": text.get("prompt"),
                "meaning": text.get("answer"),
                "language": upstream.language_name(language, script),
            }
            yield _place(text, "house/phrasebook.csv", record)
        else:
            question = {"role": "user", "content": text.get("prompt")}
            record = {}
            for column, answer in (("chosen", "answer"), ("rejected", "rejected")):
                reply = text.get(answer)
                turn = {"role": "assistant", "content": reply}
                record[column] = None if reply is None else [question, turn]
            record |= {
                "score_chosen": 4 + number % 2,
                "score_rejected": 1 + number % 2,
                "language": f"{language}_{script}",
                "license": "CC-BY-4.0",
            }
            if text.get("same_row"):
                record |= {"score_chosen": 4, "score_rejected": 1}
            yield _place(text, "house/preferences.jsonl", record)


def place_oasst() -> Iterator[Placed]:
    """Messages of ``oasst2``, one row each, in the order in which they were written."""
    shard = _hex("oasst")[:16]
    for number, text in enumerate(_read("oasst.jsonl")):
        tree, reviewed = text["tree"], not text.get("unreviewed", False)
        root = f"oasst/{tree}/absent" if text.get("orphan") else f"oasst/{tree}/0"
        parent = root if text.get("orphan") else text["parent"]
        weight = int(_hex("weight", text["key"])[:8], 16)
        written = FIRST_MESSAGE + timedelta(hours=tree, seconds=97 * number, microseconds=weight % 10**6)
        kind = next((flag for flag in ("orphan", "deleted", "unreviewed") if text.get(flag)), None)
        values = [round((weight >> 2 * place) % 5 / 4, 2) for place in range(len(REVIEW_LABELS))]
        record = {
            "message_id": _uuid(text["key"]),
            "parent_id": _uuid(parent) if parent else None,
            "user_id": _uuid("user", weight % 7),
            "created_date": written.isoformat(),
            "text": text["text"],
            "role": text["role"],
            "lang": text["lang"],
            "review_count": 3 if reviewed else 0,
            "review_result": (not text.get("deleted", False)) if reviewed else None,
            "deleted": text.get("deleted", False),
            "rank": text.get("rank"),
            "synthetic": False,
            "model_name": None,
            "detoxify": {name: round((weight >> place) % 97 / 20000, 6) for place, name in enumerate(upstream.TOXICITY)}
            if reviewed
            else None,
            "message_tree_id": _uuid(root),
            "tree_state": text["state"],
            "emojis": {"name": ["+1", "_skip_labeling"], "count": [1 + weight % 4, 2]} if weight % 2 else None,
            "labels": {"name": list(REVIEW_LABELS), "value": values, "count": [3] * len(values)} if reviewed else None,
        }
        split = text["place"].split("/")[1]
        path = f"oasst/data/{split}-00000-of-00001-{shard}.parquet"
        plant = (kind, None, None) if kind else None
        yield Placed(path, record, text["key"], plant, f"{number:06d}")


def place_all() -> list[Placed]:
    """Every row of every sample, in the order in which it stands in its file."""
    by_source: dict[str, list[Text]] = {}
    for text in read_texts():
        by_source.setdefault(text["place"].split("/")[0], []).append(text)
    held_out = [
        text
        for text in by_source["aya_dataset"]
        if text["place"].endswith("/test") and text["language"] in SUITE_LANGUAGES
    ]
    placed = [
        *place_aya_dataset(by_source["aya_dataset"]),
        *place_demographics(),
        *place_collection(by_source["aya_collection"]),
        *place_language_split(by_source["aya_collection_language_split"]),
        *place_suite(by_source["aya_evaluation_suite"], held_out),
        *place_xp3x(by_source["xp3x"]),
        *place_dolly(by_source["dolly"]),
        *place_house(by_source["house"]),
        *place_oasst(),
    ]
    return sorted(placed, key=lambda row: (row.path, row.order or _hex("order", row.key)))


def _parquet(path: str, records: list[Any]) -> bytes:
    parts = path.split("/")
    schema = {
        "aya_dataset": upstream.AYA_DATASET,
        "aya_collection_language_split": upstream.COLLECTION,
        "oasst": upstream.OASST,
    }.get(parts[0])
    if parts[1] == "demographics":
        schema = upstream.DEMOGRAPHICS
    if parts[0] == "aya_collection":
        schema = upstream.CONFIGS[parts[1]][2]
    if parts[0] == "aya_evaluation_suite":
        human = parts[1] == "aya_human_annotated"
        schema = upstream.SUITE_HUMAN if human else upstream.SUITE_DOLLY
    if schema is None:
        raise KeyError(path)
    table = pa.Table.from_pylist(records, schema=upstream.with_features(schema))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="snappy")
    return sink.getvalue()


def _jsonl(records: list[Any]) -> bytes:
    lines = [
        record if isinstance(record, bytes) else json.dumps(record, ensure_ascii=False).encode() for record in records
    ]
    return b"".join(line + b"\n" for line in lines)


def _csv(records: list[Any]) -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["phrase", "meaning", "language"])
    for record in records:
        if isinstance(record, bytes):
            sink.write(record.decode() + "\n")
        else:
            writer.writerow(record.values())
    return sink.getvalue().encode()


def compose() -> dict[str, bytes]:
    """Relative path -> content of every sample file and of ``planted.json``."""
    contents: dict[str, bytes] = {}
    where: dict[str, dict[str, Any]] = {}
    rows: dict[str, list[Placed]] = {}
    for row in place_all():
        held = rows.setdefault(row.path, [])
        where[row.key] = {"file": row.path, "row": len(held)}
        held.append(row)
    for path, held in rows.items():
        records = [row.record for row in held]
        if path.endswith(".parquet"):
            contents[path] = _parquet(path, records)
        elif path.endswith(".csv"):
            contents[path] = _csv(records)
        elif path.endswith(".zst"):
            sink = pa.BufferOutputStream()
            with pa.CompressedOutputStream(sink, "zstd") as stream:
                stream.write(_jsonl(records))
            contents[path] = sink.getvalue().to_pybytes()
        else:
            contents[path] = _jsonl(records)
    index: dict[str, list[str]] = {}
    for path in contents:
        if path.startswith("xp3x/data/"):
            name = path.removeprefix("xp3x/")
            index.setdefault(name.split("/")[1], []).append(name)
    contents["xp3x/paths.json"] = json.dumps(index, ensure_ascii=False, indent=1).encode()
    planted = []
    for row in (row for held in rows.values() for row in held if row.plant):
        kind, base, note = row.plant or ("", None, None)
        entry = {"source": row.path.split("/")[0], **where[row.key], "kind": kind}
        if base:
            entry["of"] = where[base]
        planted.append(entry | ({"note": note} if note else {}))
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in planted)
    contents["planted.json"] = f"[\n{lines}\n]\n".encode()
    return contents


def write_samples(folder: Path) -> list[Path]:
    """Write the samples under ``folder``, replacing what is there, and return the files."""
    written = []
    for name, content in compose().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written.append(path)
    return written


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(str(files("aya_data.builders.samples")))
    sys.stdout.write(f"{len(write_samples(target))} files under {target}\n")
