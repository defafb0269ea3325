"""A whole build: rows per second, peak memory of the process and its workers, and the share of time of each stage.

On the data sets that ``AYA_DATA_REAL`` names (300,000 rows and more), else on the bundled samples multiplied. Every
run is a command of its own with an empty workspace; the rebuild after it finds everything in the cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.corpus import LABELS, Corpus, corpus
from benchmarks.report import Report, spread

RUNS = 3
AIM_SECONDS = 60.0
INTERVAL = 0.05
"""Seconds between two looks at memory."""


def measure(runs: int) -> Report:
    """Build ``runs`` times from nothing, and rebuild once after each."""
    with tempfile.TemporaryDirectory() as folder:
        laid = corpus(Path(folder))
        builds, rebuilds = [], []
        for turn in range(runs):
            workspace = Path(folder) / f"workspace-{turn}"
            builds.append(_run(laid, workspace))
            rebuilds.append(_run(laid, workspace))
    return _report(laid, builds, rebuilds)


def _run(laid: Corpus, workspace: Path) -> dict[str, Any]:
    """Build once as a command; return what it printed, with wall and processor time and peak memory."""
    command = [sys.executable, "-m", "aya_data", "build", str(laid.spec), "--workspace", str(workspace), "--json"]
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    peak, spent, over = [0], dict[int, float](), threading.Event()
    watch = threading.Thread(target=_watch, args=(child.pid, peak, spent, over))
    watch.start()
    printed, _ = child.communicate()
    over.set()
    watch.join()
    if child.returncode:
        raise RuntimeError(f"the build ended with exit code {child.returncode}")
    found: dict[str, Any] = json.loads(printed)
    found["wall"] = time.perf_counter() - began
    found["peak_bytes"] = peak[0]
    found["processor"] = sum(spent.values())
    return found


def _watch(root: int, peak: list[int], spent: dict[int, float], over: threading.Event) -> None:
    """Note the greatest sum of proportional memory of a process and all below it, and what each spent last."""
    while not over.wait(INTERVAL):
        processes = _tree(root)
        peak[0] = max(peak[0], sum(map(_memory, processes)))
        for process in processes:
            spent[process] = max(spent.get(process, 0.0), _processor_seconds(process))


def _processor_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _tree(root: int) -> list[int]:
    """The process and all processes below it."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            below.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        process = waiting.pop()
        found.append(process)
        waiting += below.get(process, [])
    return found


def _memory(process: int) -> int:
    """Bytes of a process, shared pages by share."""
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _group(stage: str) -> str:
    """Stages of one kind together: all reads, all judging."""
    kind, _, name = stage.partition(":")
    if kind == "measure":
        return f"measure {name.partition('@')[0]}"
    return {"read": "read", "derive": "derive", "filter": "judge and merge", "limit": "limit"}.get(kind, kind)


def _report(laid: Corpus, builds: list[dict[str, Any]], rebuilds: list[dict[str, Any]]) -> Report:
    first = builds[0]
    rows_in = sum(s["rows_in"] for s in first["stages"] if s["name"].startswith("read:"))
    walls = spread([found["wall"] for found in builds])
    middle = sorted(builds, key=lambda found: found["wall"])[len(builds) // 2]
    shares: Counter[str] = Counter()
    for stage in middle["stages"]:
        shares[_group(stage["name"])] += stage["seconds"]
    told = sum(shares.values())
    peak = max(found["peak_bytes"] for found in builds)
    report = Report(
        "build",
        f"Build of {rows_in:,} rows ({LABELS[laid.kind]}) into {first['rows']:,}, command and start-up included",
        ("", "seconds", "share"),
    )
    report.lines.append(("build, median", f"{walls['median']:.1f}", ""))
    report.lines.append(("  rows in per second", f"{rows_in / walls['median']:,.0f}", ""))
    report.lines.append(("  peak memory, GiB", f"{peak / 2**30:.2f}", ""))
    processor = spread([found["processor"] for found in builds])
    report.lines.append(("  processor seconds, all processes", f"{processor['median']:.1f}", ""))
    again = spread([found["wall"] for found in rebuilds])
    report.lines.append(("rebuild, all cached", f"{again['median']:.1f}", f"{again['median'] / walls['median']:.1%}"))
    for name, seconds in shares.most_common():
        report.lines.append((f"  {name}", f"{seconds:.1f}", f"{seconds / told:.1%}" if told else ""))
    report.figures = {
        "corpus": laid.kind,
        "rows_in": rows_in,
        "rows_released": first["rows"],
        "seconds": walls,
        "processor_seconds": processor,
        "rebuild_seconds": again,
        "rows_in_per_second": round(rows_in / walls["median"]),
        "peak_memory_mib": round(peak / 2**20),
        "share_of_time": {name: round(seconds / told, 4) for name, seconds in shares.most_common()} if told else {},
        "seconds_per_300000_rows": round(walls["median"] * 300_000 / rows_in, 1),
        "aim_seconds_per_300000_rows": AIM_SECONDS,
    }
    if len({found["digest"] for found in (*builds, *rebuilds)}) != 1:
        report.notes.append("The builds differ in their digest: this must never be.")
    return report
