"""Commands, measured: wall and processor seconds, and peak memory of a process and all below it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

__all__ = ["Failed", "Used", "middle", "run"]

INTERVAL = 0.1
"""Seconds between two looks at memory."""
SHOWN = 2000


class Failed(Exception):
    """A command that ended with an error or ran out of time; its last words are the message."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a command took: seconds of the clock and of processors (all descendants), and the greatest sum of memory.

    Memory is proportional: a page that n processes share counts 1/n for each. Mapped files count while they are in
    memory.
    """

    wall: float
    processor: float
    peak_mib: int
    printed: str

    def figures(self) -> dict[str, float | int]:
        """The same as data."""
        return {"seconds": round(self.wall, 3), "processor": round(self.processor, 3), "peak_mib": self.peak_mib}


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, limit: float = 3600) -> Used:
    """Run a command with a session of its own; kill all of it after ``limit`` seconds."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        child = subprocess.Popen(
            command, stdout=out, stderr=errors, env={**os.environ, **(environment or {})}, start_new_session=True
        )
        peak, spent, over = [0], dict[int, float](), threading.Event()
        watch = threading.Thread(target=_watch, args=(child.pid, peak, spent, over))
        alarm = threading.Timer(limit, os.killpg, (child.pid, signal.SIGKILL))
        watch.start()
        alarm.start()
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        alarm.cancel()
        over.set()
        watch.join()
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()[-SHOWN:]
            raise Failed(f"{Path(command[0]).name} ended with {child.returncode} after {wall:.0f} s: {said}")
        out.seek(0)
        printed = out.read().decode()
    # A process that nobody waits for is missing from what the system counts, and what is short from what was seen.
    processor = max(used.ru_utime + used.ru_stime, sum(spent.values()))
    return Used(wall, processor, peak[0] >> 20, printed)


def middle(found: Sequence[Used]) -> Used:
    """The run of median wall time (of an even number, the later one)."""
    wanted = median(one.wall for one in found)
    return min(found, key=lambda one: (abs(one.wall - wanted), -one.wall))


def _watch(root: int, peak: list[int], spent: dict[int, float], over: threading.Event) -> None:
    """Note the greatest sum of memory, and what each process spent until it was last seen."""
    while not over.wait(INTERVAL):
        processes = _tree(root)
        # The system's own high-water mark knows what happened between two looks, for one process.
        peak[0] = max(peak[0], sum(_bytes(process, "smaps_rollup", "Pss:") for process in processes))
        peak[0] = max(peak[0], *(_bytes(process, "status", "VmHWM:") for process in processes))
        for process in processes:
            spent[process] = max(spent.get(process, 0.0), _seconds(process))


def _seconds(process: int) -> float:
    try:
        fields = (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _tree(root: int) -> list[int]:
    """A process and all below it."""
    found, waiting = [], [root]
    while waiting:
        process = waiting.pop()
        found.append(process)
        try:
            for task in (Path("/proc") / str(process) / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def _bytes(process: int, file: str, name: str) -> int:
    """A size that the system tells of a process; 0 when it is gone."""
    try:
        for line in (Path("/proc") / str(process) / file).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
