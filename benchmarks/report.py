"""What a benchmark reports: a table on stdout and a JSON file of figures that documentation reads."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["RESULTS", "Report", "machine", "spread"]

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("duckdb", "fasttext-numpy2-wheel", "numpy", "pyarrow", "typer")


@dataclass(slots=True)
class Report:
    """The figures of one benchmark: lines of a table, and the same as data."""

    name: str
    title: str
    columns: tuple[str, ...]
    lines: list[tuple[str, ...]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def print(self) -> None:
        """Print the table."""
        rows = [self.columns, *self.lines]
        widths = [max(len(row[place]) for row in rows) for place in range(len(self.columns))]
        print(f"\n{self.title}\n")
        for row in rows:
            cells = [
                cell.ljust(width) if place == 0 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            print("  " + "  ".join(cells))
        for note in self.notes:
            print(f"\n  {note}")

    def write(self) -> Path:
        """Write ``results/NAME.json``: figures, versions, and the machine without any name or path."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        found = {"benchmark": self.name, "figures": self.figures, "notes": self.notes, "machine": machine()}
        path.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def machine() -> dict[str, Any]:
    """The machine in words that do not identify it, and the versions that matter."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processors": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """Median, least and greatest of some measurements."""
    return {
        "median": round(median(values), 4),
        "least": round(min(values), 4),
        "greatest": round(max(values), 4),
        "runs": len(values),
    }
