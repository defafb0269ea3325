"""The quality rules on real data: what goes is nobody's text, and right answers of every kind stay.

Needs the folder of data sets that ``AYA_DATA_REAL`` names.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from aya_data.core.row import Draft, tabulate
from aya_data.core.stage import Verdicts
from aya_data.filters.quality.filter import Quality
from tests.test_filters import environment, verdicts

DATA = os.environ.get("AYA_DATA_REAL", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA, reason="AYA_DATA_REAL names no folder of real data"),
]

PLACEHOLDERS = ("input", "output", "输入", "insert", "answer here")


def judged(pattern: str, columns: tuple[str, ...], answer: str, language: str, rows: int) -> tuple[Verdicts, list[str]]:
    """Judge the first rows of some files; return the verdicts and prompts with answers."""
    files = sorted(Path(DATA).glob(pattern))
    assert files, f"no {pattern} in {DATA}"
    table = pl.concat([pl.read_parquet(file) for file in files], how="diagonal_relaxed").head(rows)
    drafts, texts = [], []
    for number, record in enumerate(table.iter_rows(named=True)):
        prompt = "\n\n".join(str(record[name]) for name in columns if record[name])
        said = record[answer]
        if prompt.strip() and isinstance(said, str) and said.strip():
            turns = [("user", prompt), ("assistant", said)]
            drafts.append(Draft(f"k{number}", turns, ("f", number), language=language, license="MIT"))
            texts.append(f"{prompt}\n\n{said}")
    made = tabulate(drafts, "s", "conversation", 10**7)
    assert not made.rejections
    return verdicts(Quality(Quality.Settings(), environment()), made.rows), texts


def test_of_alpaca_placeholders_and_loops_go() -> None:
    found, texts = judged("alpaca_en/*.parquet", ("instruction", "input"), "output", "eng", 12000)
    rules = Counter(rule for rule, gone in zip(found.rule, found.drop.tolist(), strict=True) if gone)
    assert set(rules) <= {"placeholder", "repeated_substring"}
    assert 0.005 < rules["placeholder"] / len(texts) < 0.02
    assert rules["repeated_substring"] < 10
    for text, rule in zip(texts, found.rule, strict=True):
        if rule == "placeholder":
            assert any(word in text.lower() for word in PLACEHOLDERS)
    # Right answers of a word or a number, of which there are hundreds, all stay.
    short = [row for row, text in enumerate(texts) if len(text.rpartition("\n\n")[2]) < 15]
    assert len(short) > 300
    assert sum(bool(found.drop[row]) for row in short if "put" not in texts[row].lower()) == 0


def test_completions_that_end_with_a_special_token_go() -> None:
    found, texts = judged("p3_per_template/*.parquet", ("prompt",), "completion", "eng", 2000)
    assert Counter(found.rule)["chat_markup"] == sum("<|endoftext|>" in text for text in texts) > 1900


@pytest.mark.parametrize(
    ("pattern", "columns", "answer", "language", "tagged"),
    [
        ("koziev_ru/premise_question_answer6.parquet", ("T", "Q"), "A", "rus", 0.0),
        ("songys_chatbot_ko/*.parquet", ("Q",), "A", "kor", 0.0),
        ("gsm8k_alpaca/*.parquet", ("instruction", "input"), "output", "eng", 0.04),
        ("zh_supplement/*.parquet", ("instruction", "input"), "output", "zho", 0.01),
    ],
)
def test_people_s_answers_stay(
    pattern: str, columns: tuple[str, ...], answer: str, language: str, tagged: float
) -> None:
    found, texts = judged(pattern, columns, answer, language, 4000)
    assert len(texts) > 1000
    assert found.drop.sum() == 0
    assert found.flag is not None
    assert found.flag.sum() <= tagged * len(texts)
