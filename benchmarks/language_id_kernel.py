"""The fastText kernel against raw fastText: the same texts, one process, one core, in turns.

*Raw* is the loop that anybody would write: line breaks replaced, one call of the binding, three labels. *Kernel* reads
the same texts from an Arrow column, each time with an empty memory of words. Compiling is reported beside it: *cold*
with an empty cache of numba, *warm* with a filled one, both in new processes and with the import of numba and the
loading of the model. Aim: at least 10 times raw's rate per core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

import pyarrow as pa

from aya_data.text import language_model
from benchmarks.corpus import LABELS, texts
from benchmarks.report import Report, spread

RUNS = 9
ROWS = 20_000
AIM = 10

FIRST = """
import json, resource, sys, time
from pathlib import Path
import pyarrow as pa
ready = time.perf_counter(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
from aya_data.text.fasttext_kernel import Kernel
Kernel.load(Path(sys.argv[1])).predict(pa.array(["The first text."]))
print(json.dumps({"seconds": time.perf_counter() - ready[0], "processor": time.process_time() - ready[1],
                  "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - ready[2]) / 1024}))
"""


def first(cache: str) -> dict[str, float]:
    """Run a new process that answers one text; return its seconds, processor seconds and added memory."""
    command = [sys.executable, "-c", FIRST, str(language_model._bundled())]
    done = subprocess.run(
        command, env=os.environ | {"NUMBA_CACHE_DIR": cache}, check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(runs: int) -> Report:
    """Time both over the same rows, ``runs`` times each, raw and kernel in turn."""
    import fasttext_pybind  # type: ignore[import-not-found]

    from aya_data.text.fasttext_kernel import Kernel

    with tempfile.TemporaryDirectory() as cache:
        cold, warm = first(cache), first(cache)
    kind, pairs = texts(ROWS)
    whole = [f"{a}\n{b}" for a, b in pairs]
    lines = [text.replace("\n", " ") + "\n" for text in whole]
    column, chars = pa.array(whole, pa.large_string()), sum(map(len, whole))
    path = language_model._bundled()
    binding = fasttext_pybind.fasttext()
    binding.loadModel(str(path))
    predict = binding.predict
    kernel = Kernel.load(path)

    def raw() -> float:
        began = time.process_time()
        for line in lines:
            predict(line, 3, 0.0, "strict")
        return time.process_time() - began

    def ours() -> float:
        kernel.forget()
        began = time.process_time()
        kernel.predict(column)
        return time.process_time() - began

    raw(), ours()
    seconds: dict[str, list[float]] = {"raw fastText": [], "kernel": []}
    for turn in range(runs):
        # A, B, B, A: what warms up or slows down meets both alike.
        order = [("raw fastText", raw), ("kernel", ours)]
        for name, work in order if turn % 2 == 0 else order[::-1]:
            seconds[name].append(work())
    ratio = spread([a / b for a, b in zip(seconds["raw fastText"], seconds["kernel"], strict=True)])
    report = Report(
        "language_id_kernel",
        f"Language identification, {len(whole):,} texts of {LABELS[kind]}, processor seconds on one core",
        ("", "median s", "texts/s", "M chars/s", "of raw's rate"),
    )
    for name, found in seconds.items():
        middle = spread(found)
        share = (
            "1"
            if name.startswith("raw")
            else f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['greatest']:.2f})"
        )
        rate = len(whole) / middle["median"]
        report.lines.append(
            (name, f"{middle['median']:.3f}", f"{rate:,.0f}", f"{chars / middle['median'] / 1e6:.1f}", share)
        )
        report.figures[name] = {"seconds": middle, "texts_per_second": round(rate)}
    report.figures |= {
        "ratio": ratio, "aim": AIM, "corpus": kind, "texts": len(whole), "mean_characters": round(chars / len(whole)),
        "cold": cold, "warm": warm,
    }  # fmt: skip
    report.notes.append(
        f"First answer of a process: cold {cold['seconds']:.1f} s ({cold['processor']:.1f} s of processor), "
        f"warm {warm['seconds']:.2f} s ({warm['processor']:.2f} s), {warm['mib']:.0f} MiB"
    )
    return report
