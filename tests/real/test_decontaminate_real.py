"""The decontaminate filter on real benchmarks (XQuAD and MGSM) and real training rows: what is found, what is not.

Needs the folder of data sets that ``AYA_DATA_REAL`` names.
"""

from __future__ import annotations

import os
from collections import defaultdict
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aya_data.filters.decontaminate.filter import Decontaminate
from tests.test_decontaminate import decontaminate, edited, index, row_table, verdicts

DATA = os.environ.get("AYA_DATA_REAL", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA, reason="AYA_DATA_REAL names no folder of real data"),
]

UNSPACED = ("ja", "th", "zh")
ROWS = {
    "alpaca_en/alpaca_data_0_42148": ("instruction", "output"),
    "alpaca_zh_reviewed/alpaca_data_zh": ("instruction", "output"),
    "euinstruct/original_instruction": ("instruction", "output"),
    "heq_hebrew/val_v1_1": ("question", "context"),
    "koziev_ru/facts7_2s": ("text", "text"),
    "masakhane_news/news": ("headline", "text"),
    "sib200/train_first320": ("text", "category"),
    "songys_chatbot_ko/ChatbotData": ("Q", "A"),
    "tatoeba_laser/tatoeba_112": ("source_sentence", "target_sentence"),
    "tquad_turkish/train_v0_1": ("question", "context"),
}
"""Rows that share nothing with the benchmarks, and the columns that become prompt and answer."""


@cache
def questions() -> dict[str, list[str]]:
    """Questions by language: twelve of XQuAD, eleven of MGSM, of ten scripts."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in ("xquad", "mgsm"):
        table = pq.read_table(Path(DATA) / name / f"{name}.parquet", columns=["lang", "question"])
        for row in table.to_pylist():
            if row["question"].strip():
                found[f"{name} {row['lang']}"].append(row["question"])
    return found


@cache
def benchmarks() -> tuple[Decontaminate, pa.Table]:
    a_filter = decontaminate()
    tables = [row_table([(q, None) for q in asked], name.replace(" ", "_")) for name, asked in questions().items()]
    return a_filter, index(a_filter, *tables)


def test_copies_and_edited_copies_are_found() -> None:
    a_filter, held = benchmarks()
    edits = lost = 0
    for language, asked in questions().items():
        taken = asked[:: max(1, len(asked) // 100)]
        letters = [c for c in "".join(asked[:300]) if not c.isspace()]
        words = " ".join(asked[:300]).split()
        copies = [(q.upper(), "x") for q in taken] + [(f"Please answer: {q}\nThank you very much.", "x") for q in taken]
        assert verdicts(a_filter, row_table(copies), held).drop.all(), language
        changed = [(edited(q, f"{language} {n}", letters, 0.15), "x") for n, q in enumerate(taken)]
        if language.split()[1] not in UNSPACED:
            changed += [(edited(q, f"{language} w{n}", words, 0.15), "x") for n, q in enumerate(taken)]
        found = verdicts(a_filter, row_table(changed), held).drop
        edits, lost = edits + len(found), lost + int((~found).sum())
        assert found.mean() >= 0.9, f"{language}: {found.mean():.3f}"
    print(f"edited copies: {edits}, lost: {lost}")
    assert lost <= 0.05 * edits


def test_other_rows_stay() -> None:
    a_filter, held = benchmarks()
    total = gone = 0
    for path, (prompt, answer) in ROWS.items():
        table = pq.read_table(Path(DATA) / f"{path}.parquet", columns=list({prompt, answer})).slice(0, 20000)
        pairs = [
            (q, a)
            for q, a in zip(table[prompt].to_pylist(), table[answer].to_pylist(), strict=True)
            if isinstance(q, str) and isinstance(a, str) and q.strip() and a.strip()
        ]
        found = verdicts(a_filter, row_table(pairs, path.partition("/")[0]), held)
        total, gone = total + len(pairs), gone + int(found.drop.sum())
        for row in found.drop.nonzero()[0][:5].tolist():
            print(path, pairs[row][0][:60], found.evidence[row])
    print(f"other rows: {total}, removed: {gone}")
    assert total > 100_000
    assert gone < 0.001 * total
