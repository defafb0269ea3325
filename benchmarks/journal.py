"""The journal: what an answer costs to commit, and how long a build of a million waits for it when it resumes.

Answers are of about 500 bytes, cut from texts of many languages one after the other, no two alike. *Append* is what the
process computes for one answer, and wall time with the two fsyncs of a commit, per size of commit. *Resume* is a new
process on one core: load, and find which of a million keys have no answer; files in the cache of the system. Measured
with 4,000 segments, which is what a build leaves that never compacts, and after compaction. Aim: under 5 s in both.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from aya_data.core.generation import Answer
from aya_data.core.journal import Journal
from benchmarks.corpus import LABELS, texts
from benchmarks.report import Report, spread

RUNS = 3
ROWS = 1_000_000
COMMIT = 250
SIZES = (1, 32, 256, 4096)
LENGTH = 500
AIM = 5.0

RESUME = """
import hashlib, json, os, resource, sys, time
from pathlib import Path
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from aya_data.core.journal import Journal
keys = [hashlib.blake2b(str(n).encode(), digest_size=16).hexdigest() for n in range(int(sys.argv[2]))]
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
marks = [(time.perf_counter(), time.process_time())]
def mark():
    marks.append((time.perf_counter(), time.process_time()))
index = Journal(Path(sys.argv[1]), "voice").load(); mark()
assert not len(index.missing(keys)); mark()
index.digest(keys); mark()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
index.take(keys[5000:15000]); mark()
names = ("load", "missing", "digest", "take of 10,000")
found = {name: [b - a for a, b in zip(*pair)] for name, pair in zip(names, zip(marks, marks[1:]))}
print(json.dumps({"seconds": found, "mib": (peak - held) / 1024}))
"""


def _key(number: int) -> str:
    return hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()


def _answers(pairs: list[tuple[str, str]], count: int) -> Iterator[Answer]:
    """Answers of about :data:`LENGTH` bytes each."""
    long = "\n".join(text for pair in pairs for text in pair)
    step = LENGTH * len(long) // len(long.encode())
    for number in range(count):
        start = number * 1_000_003 % (len(long) - step)
        text = f"{long[start : start + step]} {number}"
        yield Answer(_key(number), text, prompt_tokens=number % 700, completion_tokens=len(text) // 4)


def _append(pairs: list[tuple[str, str]], size: int) -> tuple[float, float]:
    """Processor and wall microseconds per answer of commits of ``size``."""
    commits = max(4, min(64, 8192 // size))
    answers = list(_answers(pairs, commits * size))
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), "voice", {"model": "none"})
        journal.append(list(_answers(pairs, 1)))
        wall, processor = time.perf_counter(), time.process_time()
        for start in range(0, len(answers), size):
            journal.append(answers[start : start + size])
        return (
            (time.process_time() - processor) / len(answers) * 1e6,
            (time.perf_counter() - wall) / len(answers) * 1e6,
        )


def _resume(root: Path, rows: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", RESUME, str(root), str(rows)], check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout)
    seconds = {name: wall for name, (wall, _) in found["seconds"].items()}
    processor = found["seconds"]["load"][1] + found["seconds"]["missing"][1]
    return {**seconds, "resume": seconds["load"] + seconds["missing"], "processor": processor, "mib": found["mib"]}


def measure(runs: int, rows: int = ROWS) -> Report:
    """Commit, resume, compact, resume."""
    kind, pairs = texts(20_000)
    report = Report(
        "journal",
        f"The journal: {rows:,} answers of {LENGTH} bytes from {LABELS[kind]}",
        ("", "segments", "MB", "load s", "missing s", "both s", "processor s", "take 10,000 s", "MiB"),
    )
    appended: dict[str, dict[str, float]] = {}
    for size in SIZES:
        found = [_append(pairs, size) for _ in range(runs)]
        appended[str(size)] = {
            "processor_us": spread([cpu for cpu, _ in found])["median"],
            "wall_us": spread([wall for _, wall in found])["median"],
        }
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder), "voice", {"model": "none"})
        batch: list[Answer] = []
        for answer in _answers(pairs, rows):
            batch.append(answer)
            if len(batch) == COMMIT:
                journal.append(batch)
                batch = []
        journal.append(batch)
        compacted = 0.0
        for name in ("never compacted", "compacted"):
            if name == "compacted":
                began = time.process_time()
                journal.compact()
                compacted = time.process_time() - began
            paths = list(journal.folder.glob("*.parquet"))
            size = sum(path.stat().st_size for path in paths)
            turns = [_resume(Path(folder), rows) for _ in range(runs)]
            figures = {key: spread([turn[key] for turn in turns]) for key in turns[0]}
            report.figures[name] = {"segments": len(paths), "bytes": size, **figures}
            cells = [
                f"{figures[key]['median']:.2f}" for key in ("load", "missing", "resume", "processor", "take of 10,000")
            ]
            report.lines.append(
                (name, f"{len(paths):,}", f"{size / 1e6:.0f}", *cells, f"{figures['mib']['median']:.0f}")
            )
    report.figures |= {"append": appended, "compact_processor_seconds": round(compacted, 2), "rows": rows}
    report.figures |= {"aim": AIM, "corpus": kind, "commit": COMMIT}
    for count, cost in appended.items():
        report.notes.append(
            f"Append in commits of {count}: {cost['processor_us']:.1f} µs of processor per answer, "
            f"{cost['wall_us']:.0f} µs with two fsyncs per commit"
        )
    report.notes.append(
        f"Compaction of all: {compacted:.1f} s of processor, {compacted / rows * 1e6:.1f} µs per answer"
    )
    return report
