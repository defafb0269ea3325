"""Records mapped by column become the very rows and rejections that they become one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aya_data.builders.mapping.mapper import Mapper, MappingSettings
from aya_data.builders.records.parquet_records import ColumnChunk
from aya_data.builders.records.reader import read_records
from aya_data.core.draft_columns import DraftColumns
from aya_data.core.row import PART, prompt_hashes, tabulate
from aya_data.text.normal import hashed

TEXT = st.sampled_from(
    [
        "", " ", "\x1c\u3000", "\x85", "a", "Merhaba,  DÜNYA?", "ọ̀ è\u0323 e\u0301",
        "ﬁ ﷺ ß … İ", "한국어 각", "कानपुर क़",
        "x" * 9, "\n", "0", "𠀀 🏳️‍🌈", "\u200b",
    ]
)  # fmt: skip
LABEL = st.sampled_from(["tr", "eng_Latn", "zh-Hans", "", "qqq", "MIT"])
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "p": TEXT,
    "c": TEXT,
    "a": TEXT,
    "s": TEXT,
    "i": TEXT,
    "g": LABEL,
    "l": LABEL,
    "o": st.sampled_from(["human", "generated", "mt", "who"]),
    "n": st.integers(-3, 10**20),
    "f": st.floats(),
    "b": st.booleans(),
    "y": st.sampled_from([b"ab", b"\xff"]),
    "e": st.one_of(TEXT, st.lists(TEXT, max_size=2)),
    "k": st.dictionaries(st.sampled_from("xy"), st.integers(0, 3), max_size=2),
}
ODD = {
    "p": [5, True, ["x"], {"text": "t"}, "\ud800"], "a": [1.5, None], "i": [7, 1.0, "\ud800"], "l": [3, ["tr"]],
    "o": [None, 2],
}  # fmt: skip
DRAW = st.randoms(use_true_random=True)
SPECS: list[dict[str, Any]] = [
    {"columns": {"prompt": "p", "id": "i"}, "kind": "prompt", "language": {"column": "l"}, "extra": "drop"},
    {"columns": {"prompt": "p", "answer": "a"}, "language": "tur", "license": {"column": "g", "assume": "MIT",
     "reason": "r"}},
    {"columns": {"prompt": "p", "context": "c", "answer": "a", "system": "s", "id": "n", "group": "g", "task": "g",
     "teacher": {"constant": "gpt-4"}}, "language": {"column": "l"}, "dataset": {"column": "o"}, "extra": ["f", "k"]},
    {"columns": {"prompt": {"constant": "Hi"}, "answer": "a", "system": {"constant": "Be brief."}, "id": "i"},
     "language": {"constant": "eng"}, "origin": {"column": "o", "map": {"mt": "translated"}}, "extra": ["y", "e"]},
    {"columns": {"prompt": "p", "answer": "e", "template": "nowhere"}, "language": "tur", "script": {"column": "k.x"}},
]  # fmt: skip


def compared(mapper: Mapper, chunk: Any, max_chars: int) -> bool:
    """Hold a chunk mapped by column against the same one by one; tell whether columns were used."""
    found = mapper.batch(chunk, "f", {}, config="c")
    mapper.flat = False
    wanted = mapper.batch(chunk, "f", {}, config="c")
    mapper.flat = True
    assert found.records == wanted.records and found.rejections == wanted.rejections
    assert [d.place for d in found.drafts] == [d.place for d in wanted.drafts]
    made = tabulate(wanted.drafts, "s", mapper.kind, max_chars)
    if not isinstance(found.drafts, DraftColumns):
        return False
    for rows in (
        found.drafts.tabulate("s", mapper.kind, max_chars, hashed),
        tabulate(found.drafts, "s", mapper.kind, max_chars),
    ):
        rows.rows.validate(full=True)
        assert rows.rows.schema == PART and rows.rejections == made.rejections
        assert rows.rows.to_pylist() == made.rows.to_pylist()
    return True


def mapper_of(spec: dict[str, Any]) -> Mapper:
    return Mapper("house", MappingSettings.model_validate(spec))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    data=st.data(),
    spec=st.sampled_from(SPECS),
    draw=st.randoms(use_true_random=True),
    max_chars=st.sampled_from([8, 10**6]),
)
def test_columns_and_records_agree(data: st.DataObject, spec: dict[str, Any], draw: Any, max_chars: int) -> None:
    """JSON may hold anything anywhere; Parquet has types, nulls and bytes that are no text."""
    pool = {name: data.draw(st.lists(values, min_size=1, max_size=4)) for name, values in COLUMNS.items()}
    rare = data.draw(st.sampled_from([0.0, 0.02, 0.3]))
    rows = [{name: draw.choice(values) if draw.random() >= rare else None for name, values in pool.items()}
            for _ in range(40)]  # fmt: skip
    columns = {name: [row[name] for row in rows] for name in pool if name not in ("e", "n")}
    columns["n"] = [None if row["n"] is None else row["n"] % 2**63 for row in rows]
    columns["e"] = [row["e"] if isinstance(row["e"], str) else None for row in rows]
    table = pa.table(columns)
    if draw.random() < 0.3:
        table = table.set_column(table.column_names.index("l"), "l", table["l"].dictionary_encode())
    if draw.random() < 0.3:
        table = table.set_column(table.column_names.index("a"), "a", table["a"].cast(pa.large_string()))
    if draw.random() < 0.1:
        spoilt = pa.array([text and text.encode() for text in columns["c"][1:]] + [b"\xff"], pa.binary())
        table = table.set_column(table.column_names.index("c"), "c", spoilt.view(pa.string()))
    compared(mapper_of(spec), ColumnChunk(table.combine_chunks().to_batches()[0], table.column_names, 7), max_chars)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.data(),
    spec=st.sampled_from(SPECS),
    draw=st.randoms(use_true_random=True),
    max_chars=st.sampled_from([8, 10**6]),
)
def test_json_records_agree(
    data: st.DataObject, spec: dict[str, Any], draw: Any, max_chars: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = sorted(set(COLUMNS) - {"y", "f"})
    pool = {name: data.draw(st.lists(COLUMNS[name], min_size=1, max_size=4)) for name in names}
    odd, missing = data.draw(st.sampled_from([0.0, 0.01, 0.2])), data.draw(st.sampled_from([0.0, 0.05]))
    lines = []
    for _ in range(40):
        row = {name: draw.choice(ODD.get(name, [None])) if draw.random() < odd else draw.choice(values)
               for name, values in pool.items() if draw.random() >= missing}  # fmt: skip
        lines.append("{" if draw.random() < odd / 4 else json.dumps(row))
    path: Path = tmp_path_factory.mktemp("json") / "f.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    (chunk,) = read_records(str(path), "jsonl")
    compared(mapper_of(spec), chunk, max_chars)


def test_columns_are_used(tmp_path: Path) -> None:
    """Records with a few faults among them are still mapped by column, and the others as ever."""
    rows = [{"p": f"question {n}", "c": None, "a": f"answer {n}", "s": "" if n % 2 else "system", "n": n, "g": "x",
             "l": "tr", "o": None if n == 9 else "human", "f": 0.5, "k": {"x": 1}} for n in range(50)]  # fmt: skip
    rows[3]["p"], rows[4]["a"], rows[5]["c"], rows[6]["p"], rows[7]["a"] = None, " ", "context", "long" * 99, None
    path = tmp_path / "f.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    (chunk,) = read_records(str(path), "parquet")
    assert compared(mapper_of(SPECS[2]), chunk, 100)
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (chunk,) = read_records(str(tmp_path / "f.jsonl"), "jsonl")
    assert compared(mapper_of(SPECS[2]), chunk, 100)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=8))
def test_prompt_hashes_are_the_same_by_the_kernel(texts: list[str]) -> None:
    column = pa.array(texts, pa.string())
    assert hashed(column).equals(prompt_hashes(column))


def test_every_letter_and_mark_is_normalised_alike() -> None:
    """Each character alone, among letters, before and behind marks of several classes, and behind the one before it."""
    points = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000 and (code < 0x20000 or code % 61 == 0)]
    texts = [f"A{c} {c}b{c} e{c}\u0301{c}\u0323 {chr(code - 1) if code and code != 0xE000 else ''}{c}\u0327"
             for code in points for c in (chr(code),)]  # fmt: skip
    column = pa.array(texts, pa.large_string())
    found, wanted = hashed(column).to_pylist(), prompt_hashes(column).to_pylist()
    assert [hex(code) for code, one, other in zip(points, found, wanted, strict=True) if one != other] == []
