"""Run benchmarks: ``python -m benchmarks NAME [--runs N] [--dry] [--peers] [--rows N] [--data FOLDER]``, or ``all``."""

from __future__ import annotations

import argparse
import inspect
import os
from importlib import import_module
from pathlib import Path

NAMES = (
    "startup", "language_id", "language_id_kernel", "near_dedup", "exact_dedup", "journal",
    "build", "pipeline", "growth",
)  # fmt: skip


def main() -> None:
    """Run the named benchmarks one after the other; print each and write its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what things cost.")
    parser.add_argument("name", choices=(*NAMES, "all"))
    parser.add_argument(
        "--runs", type=int, default=None, help="how many measurements; each benchmark has its own default"
    )
    parser.add_argument("--dry", action="store_true", help="print only, write no results")
    parser.add_argument(
        "--peers", action="store_true", help="other tools too, each installed into an environment of its own"
    )
    parser.add_argument("--rows", type=int, default=None, help="how far growth goes; 5,000,000 if not said")
    parser.add_argument("--data", default=None, help="folder of real data, instead of AYA_DATA_REAL")
    given = parser.parse_args()
    if given.data:
        os.environ["AYA_DATA_REAL"] = str(Path(given.data).absolute())
    for name in NAMES if given.name == "all" else (given.name,):
        module = import_module(f"benchmarks.{name}")
        asked = {"peers": given.peers or None, "rows": given.rows}
        takes = inspect.signature(module.measure).parameters
        more = {option: value for option, value in asked.items() if value is not None and option in takes}
        report = module.measure(given.runs or module.RUNS, **more)
        report.print()
        if not given.dry:
            print(f"\n  {report.write().relative_to(report.write().parents[2])}")


if __name__ == "__main__":
    main()
