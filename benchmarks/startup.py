"""How long until the command line answers: the whole process, start of the interpreter included.

Aim: ``aya-data --help`` under 0.25 s. Compared with the interpreter that does nothing and with typer's own import,
the two parts that this project cannot make faster.
"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.report import Report, spread

RUNS = 9
AIM = 0.25

COMMANDS: dict[str, tuple[str, ...]] = {
    "python -c pass": ("-c", "pass"),
    "import typer": ("-c", "import typer"),
    "import aya_data": ("-c", "import aya_data"),
    "import aya_data.cli.main": ("-c", "import aya_data.cli.main"),
    "import aya_data.api": ("-c", "import aya_data.api"),
    "aya-data --help": ("-m", "aya_data", "--help"),
    "aya-data build --help": ("-m", "aya_data", "build", "--help"),
}


def measure(runs: int) -> Report:
    """Time each command ``runs`` times, in turns, after one run that fills the file cache."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(runs + 1):
        for name, arguments in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    report = Report("startup", "Start-up, seconds (whole process)", ("", "median", "least", "greatest", "of aim"))
    for name, found in seconds.items():
        figures = spread(found)
        report.figures[name] = figures
        share = f"{figures['median'] / AIM:.2f}" if "--help" in name else ""
        report.lines.append((name, *(f"{figures[key]:.3f}" for key in ("median", "least", "greatest")), share))
    report.figures["aim"] = AIM
    return report
