"""``exact_dedup`` as a command of its own: Parquet in, the rows that are left and their ledger out; start-up included.

What a builder computes for every row, its content's identity, is computed here too (BLAKE2b of the text). Peers
(``--peers``) read the same Parquet file and write one; none says which row went for which. Texts as in
:mod:`benchmarks.near_dedup`; the command is :mod:`benchmarks.exact_dedup_command`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import near_dedup, process
from benchmarks.peers import compared, measured
from benchmarks.report import Report, spread

RUNS = 5
AIM_SECONDS = 1.5


def measure(runs: int, peers: bool = False) -> Report:
    """Deduplicate ``runs`` times, each in a new process; then the peers, in the same run."""
    with tempfile.TemporaryDirectory() as folder:
        kind, path = near_dedup.laid(Path(folder))
        out = Path(folder) / "out.parquet"
        command = [sys.executable, "-m", "benchmarks.exact_dedup_command", str(path), str(out)]
        process.run(command)
        found = [process.run(command) for _ in range(runs)]
        others = measured("exact_dedup", path, Path(folder)) if peers else []
    used = process.middle(found)
    told: dict[str, Any] = json.loads(used.printed)
    walls = spread([one.wall for one in found])
    report = Report(
        "exact_dedup",
        f"Exact duplicates among {told['rows']:,} rows ({kind}), read Parquet to write Parquet; start-up included",
        ("", "seconds", "processor", "peak, MiB", "left", "times ours"),
    )
    report.lines = compared("exact_dedup, with the ledger", walls["median"], found, told["kept"], others)
    report.figures = {
        "corpus": kind, "rows": told["rows"], "kept": told["kept"], "seconds": walls, "steps": told["steps"],
        "processor_seconds": round(used.processor, 2), "peak_memory_mib": max(one.peak_mib for one in found),
        "aim_seconds": AIM_SECONDS, "peers": [one.figures(walls["median"]) for one in others],
    }  # fmt: skip
    report.notes += [f"{one.peer.name}: {one.failure}" for one in others if one.failure]
    return report
