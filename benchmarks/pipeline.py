"""A whole build of 300,000 mixed rows: language, length, quality, exact and near-duplicates, mixture, shards.

``aya-data build`` as a command, with an empty workspace and start-up included: rows come in through ``files`` from one
Parquet file; a ledger says what became of every row. Peers (``--peers``) do what they can of that, without a ledger: a
script of Polars, DuckDB, fastText and rensa (near-duplicates unverified, quality by three expressions), and datatrove
(no quality, no mixture). The main line reads whole texts, and so do the peers. A second line of ours has language ID
read four windows of 100 characters of longer texts, and a second one of the script the first 400 characters.

Texts as in :mod:`benchmarks.near_dedup`, which here need a column ``lang`` as well.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from aya_data.text import language_model
from benchmarks import near_dedup, process
from benchmarks.peers import compared, measured
from benchmarks.process import Used
from benchmarks.report import Report, spread

RUNS = 3
AIM_SECONDS, AIM_MIB = 14.0, 1536

SPEC = """
name: pipeline
description: Mixed rows through every kind of filter
seed: 7
policy: research
languages: aya_23
sources:
  texts:
    builder: files
    path: texts.parquet
    columns: {prompt: text, id: id}
    kind: prompt
    language: {column: lang}
    extra: drop
    license: {assume: CC0-1.0, reason: measured only}
filters:
  - length: {min_chars: 50, max_chars: 20000}
  - quality
  - language_id: {min_confidence: 0.5}
  - exact_dedup
  - near_dedup: {threshold: 0.8}
mix:
  caps: [{per: [language], rows: 20000}]
release: {shard_size: 64MB}
"""
WHOLE, WINDOWS = "{min_confidence: 0.5}", "{min_confidence: 0.5, windows: {count: 4, chars: 100}}"


def measure(runs: int, peers: bool = False) -> Report:
    """Build ``runs`` times from nothing; then the peers, in the same run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kind, path = near_dedup.laid(folder)
        (folder / "spec").mkdir()
        (folder / "spec" / "texts.parquet").symlink_to(path.absolute())
        spec = folder / "spec" / "pipeline.yaml"
        spec.write_text(SPEC, encoding="utf-8")
        windowed = folder / "spec" / "windowed.yaml"
        windowed.write_text(SPEC.replace(WHOLE, WINDOWS), encoding="utf-8")
        numba = {"NUMBA_CACHE_DIR": str(folder / "numba")}
        first = _build(spec, folder / "first", numba)  # compiles, as in a workspace that was used before
        found = [_build(spec, folder / f"workspace{turn}", numba) for turn in range(runs)]
        short = [_build(windowed, folder / f"windowed{turn}", numba) for turn in range(runs)]
        model = str(language_model._bundled())
        others = measured("pipeline", path, folder, fill=lambda text: text.format(model=model)) if peers else []
    used = process.middle(found)
    told = json.loads(used.printed)
    walls = spread([one.wall for one in found])
    rows = sum(stage["rows_in"] for stage in told["stages"] if stage["name"].startswith("read:"))
    peak = max(one.peak_mib for one in found)
    report = Report(
        "pipeline",
        f"Whole pipeline of {rows:,} rows ({kind}), Parquet in to release out; start-up included",
        ("", "seconds", "processor", "peak, MiB", "left", "times ours"),
    )
    report.lines = compared("aya-data, with ledger and lineage", walls["median"], found, told["rows"], others)
    shares = _shares(told)
    short_walls, short_kept = spread([one.wall for one in short]), json.loads(process.middle(short).printed)["rows"]
    name = "aya-data, languages by 4 windows of 100 characters"
    (line,) = compared(name, short_walls["median"], short, short_kept, [])
    report.lines[1:1] = [
        *((f"  {stage}", f"{seconds:.2f}", *[""] * 4) for stage, seconds in shares.items()),
        (*line[:-1], f"{short_walls['median'] / walls['median']:.1f}"),
    ]
    report.notes.append(f"Seconds of stages are those of their tasks, side by side. First build: {first.wall:.1f} s.")
    report.notes += [f"{one.peer.name}: {one.failure}" for one in others if one.failure]
    report.figures = {
        "corpus": kind, "rows": rows, "kept": told["rows"], "seconds": walls, "first_seconds": round(first.wall, 2),
        "processor_seconds": round(used.processor, 2), "peak_memory_mib": peak, "stages": shares,
        "aim_seconds": AIM_SECONDS, "aim_memory_mib": AIM_MIB,
        "windowed": {
            "kept": short_kept, "seconds": short_walls,
            "processor_seconds": round(process.middle(short).processor, 2),
            "peak_memory_mib": max(one.peak_mib for one in short),
        },
        "peers": [one.figures(walls["median"]) for one in others],
    }  # fmt: skip
    return report


def _build(spec: Path, workspace: Path, environment: dict[str, str]) -> Used:
    command = [sys.executable, "-m", "aya_data", "build", str(spec), "--workspace", str(workspace), "--json"]
    return process.run(command, environment)


def _shares(told: dict[str, Any]) -> dict[str, float]:
    seconds: Counter[str] = Counter()
    for stage in told["stages"]:
        seconds[stage["name"].partition("@")[0]] += stage["seconds"]
    return {name: round(value, 3) for name, value in seconds.most_common() if value >= 0.01}
