"""The ``language_id`` measure against raw fastText: the same texts, one process, one core, in turns.

*Raw* is the loop that anybody would write: the text's line breaks replaced, one call of the binding, three labels.
*Ours* is the filter's measure over Arrow columns: it joins the turns of rows, asks the same model, counts letters and
scripts, and returns columns. Aim: at least 0.9 of raw's rate per core.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pyarrow as pa

from aya_data.core.policy import POLICIES
from aya_data.core.row import MESSAGES
from aya_data.core.stage import Environment
from aya_data.filters.language_id.filter import LanguageId
from aya_data.text import language_model
from benchmarks.corpus import LABELS, texts
from benchmarks.report import Report, spread

RUNS = 9
ROWS = 10_000
AIM = 0.9


def rows_of(pairs: list[tuple[str, str]]) -> pa.Table:
    """Return conversations of two turns as the columns that the measure reads."""
    messages = [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in pairs]
    empty = pa.nulls(len(pairs), MESSAGES)
    return pa.table({"messages": pa.array(messages, MESSAGES), "chosen": empty, "rejected": empty})


def measure(runs: int) -> Report:
    """Time both over the same rows, ``runs`` times each, raw and ours in turn."""
    import fasttext_pybind  # type: ignore[import-not-found]

    pa.set_cpu_count(1)
    kind, pairs = texts(ROWS)
    rows = rows_of(pairs)
    lines = [f"{a}\n{b}".replace("\n", " ") + "\n" for a, b in pairs]
    chars = sum(map(len, lines))
    with tempfile.TemporaryDirectory() as cache:
        folder = Path(cache)
        environment = Environment(
            base=folder, cache=folder, bundled=True, seed=0, policy=POLICIES["research"], languages=None
        )
        made = LanguageId(LanguageId.Settings.model_validate({}), environment)
    binding = fasttext_pybind.fasttext()
    binding.loadModel(str(language_model._bundled()))
    predict = binding.predict

    def raw() -> float:
        began = time.process_time()
        for line in lines:
            predict(line, 3, 0.0, "strict")
        return time.process_time() - began

    def ours() -> float:
        began = time.process_time()
        made.measure(rows)
        return time.process_time() - began

    raw(), ours()
    seconds: dict[str, list[float]] = {"raw fastText": [], "language_id": []}
    for turn in range(runs):
        # A, B, B, A: what warms up or slows down meets both alike.
        order = [("raw fastText", raw), ("language_id", ours)]
        for name, work in order if turn % 2 == 0 else order[::-1]:
            seconds[name].append(work())
    ratios = [a / b for a, b in zip(seconds["raw fastText"], seconds["language_id"], strict=True)]
    report = Report(
        "language_id",
        f"Language identification, {len(pairs):,} conversations of {LABELS[kind]}, processor seconds on one core",
        ("", "median s", "rows/s", "MB chars/s", "of raw's rate"),
    )
    ratio = spread(ratios)
    for name, found in seconds.items():
        middle = spread(found)
        rate = len(pairs) / middle["median"]
        share = (
            "1"
            if name.startswith("raw")
            else f"{ratio['median']:.3f} ({ratio['least']:.3f} to {ratio['greatest']:.3f})"
        )
        report.lines.append(
            (name, f"{middle['median']:.3f}", f"{rate:,.0f}", f"{chars / middle['median'] / 1e6:.2f}", share)
        )
        report.figures[name] = {"seconds": middle, "rows_per_second": round(rate)}
    report.figures |= {
        "ratio": ratio, "aim": AIM, "corpus": kind, "rows": len(pairs), "mean_characters": round(chars / len(pairs))
    }  # fmt: skip
    return report
