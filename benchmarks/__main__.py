"""Run benchmarks: ``python -m benchmarks NAME [--runs N] [--dry]``, or ``all``."""

from __future__ import annotations

import argparse
from importlib import import_module

NAMES = ("startup", "language_id", "language_id_kernel", "near_dedup", "build")


def main() -> None:
    """Run the named benchmarks one after the other; print each and write its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what things cost.")
    parser.add_argument("name", choices=(*NAMES, "all"))
    parser.add_argument(
        "--runs", type=int, default=None, help="how many measurements; each benchmark has its own default"
    )
    parser.add_argument("--dry", action="store_true", help="print only, write no results")
    given = parser.parse_args()
    for name in NAMES if given.name == "all" else (given.name,):
        module = import_module(f"benchmarks.{name}")
        report = module.measure(given.runs or module.RUNS)
        report.print()
        if not given.dry:
            print(f"\n  {report.write().relative_to(report.write().parents[2])}")


if __name__ == "__main__":
    main()
