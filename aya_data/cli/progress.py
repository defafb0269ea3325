"""Progress on stderr: a live display on a terminal, one plain line per stage elsewhere."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any, Protocol

__all__ = ["Watcher", "watcher"]

WIDE = 70
"""Cells of a terminal that has room for a bar and for rows per second."""
EVERY = 10.0
"""Seconds between two plain lines about a voice that is being asked."""


class Watcher(Protocol):
    """Follows the events of a build."""

    def __enter__(self) -> Watcher: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def listen(self, event: dict[str, Any]) -> None:
        """Take one event."""


def watcher() -> Watcher:
    """Return the live display when stderr is a terminal, otherwise plain lines."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return _Live()
    return _Lines()


def _what_happened(event: dict[str, Any]) -> str:
    """One line for a finished stage; empty when there is nothing to say."""
    parts = [f"{event['rows_in']:,} in"] if event["rows_in"] else []
    for name in ("created", "dropped", "merged", "not_sampled", "consumed"):
        if event[name]:
            parts.append(f"{event[name]:,} {name.replace('_', ' ')}")
    if event["rows_out"]:
        parts.append(f"{event['rows_out']:,} out")
    if not parts:
        return ""
    seconds = "cached" if event["cached"] else f"{event['seconds']:.1f} s"
    return f"{event['name']}: {', '.join(parts)} ({seconds})"


def _what_is_asked(event: dict[str, Any]) -> str:
    """What a voice is about to be asked."""
    said = f"{event['missing']:,} of {event['wanted']:,} to ask"
    if event["seconds"] is not None:
        said += f", about {_clock(event['seconds'])}"
    return said


def _what_came_up(event: dict[str, Any]) -> str:
    """What a build should not do in silence; empty for other events."""
    if event["event"] == "restarted":
        died = f"{event['name']}: the model's process died ({event['how']}) and is started again"
        return f"{died}; {event['again']:,} to ask again" if event["again"] else died
    return str(event["text"]) if event["event"] == "note" else ""


def _how_far(event: dict[str, Any], wide: bool) -> str:
    """Answers and tokens per second, failures, time left."""
    done, seconds = event["done"], event["seconds"]
    parts = [f"{done:,}/{event['of']:,}"]
    if done and seconds > 0:
        if wide:
            parts.append(f"{done / seconds:,.1f}/s")
            if event["completion_tokens"]:
                parts.append(f"{event['completion_tokens'] / seconds:,.0f} tokens/s")
        parts.append(f"{_clock((event['of'] - done) * seconds / done)} left")
    if event["failed"]:
        parts.append(f"{event['failed']:,} failed")
    return ", ".join(parts)


class _Lines:
    _told = 0.0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def listen(self, event: dict[str, Any]) -> None:
        line = _what_came_up(event)
        if event["event"] == "counted":
            line = _what_happened(event)
        elif event["event"] == "asks":
            line, self._told = f"{event['stage']}: {_what_is_asked(event)}", 0.0
        elif event["event"] == "asking" and event["seconds"] - self._told >= EVERY:
            line, self._told = f"{event['name']}: {_how_far(event, True)}", event["seconds"]
        if line:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


class _Live:
    """Finished stages scroll by as lines; below them a bar for the stage at work."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
        from rich.table import Column

        # Names of stages are text: in "read:house: 3 in" there is no emoji.
        self._console = Console(stderr=True, emoji=False)
        self._wide = self._console.width >= WIDE
        cut = Column(no_wrap=True, overflow="ellipsis")
        columns: list[ProgressColumn] = [
            SpinnerColumn(),
            TextColumn("{task.description}", style="bold", markup=False, table_column=cut),
            TextColumn("{task.fields[detail]}", markup=False, table_column=Column(no_wrap=True)),
        ]
        if self._wide:
            columns.insert(2, BarColumn(bar_width=24))
        self._progress = Progress(*columns, console=self._console, transient=True)
        self._task = self._progress.add_task("planning", total=None, detail="")
        self._began = time.perf_counter()
        self._rows = self._done = self._fresh = self._total = 0
        self._title = ""
        self._reads: dict[str, str] = {}

    def __enter__(self) -> _Live:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def listen(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "planned":
                self._reads = event["reads"]
            case "stage":
                self._title = f"{event['index'] + 1}/{event['of']} {self._work(event['name'])}"
                self._began, self._rows, self._done, self._fresh, self._total = time.perf_counter(), 0, 0, 0, 0
                self._progress.reset(self._task, total=None, description=self._title, detail="")
                self._progress.refresh()
            case "tasks":
                self._total += max(1, event["bytes"])
                self._progress.update(self._task, total=self._total)
            case "task":
                size = event["bytes"]
                self._done += size
                if not event["cached"]:
                    self._fresh += size
                    self._rows += event["rows"]
                self._progress.update(self._task, completed=self._done, detail=self._detail())
            case "asks":
                self._console.print(f"{event['stage']}: {_what_is_asked(event)}", highlight=False, markup=False)
            case "asking":
                self._progress.update(
                    self._task, total=event["of"], completed=event["done"], detail=_how_far(event, self._wide)
                )
            case "counted":
                if line := _what_happened(event):
                    self._console.print(line, highlight=False, markup=False)
            case "restarted" | "note":
                if line := _what_came_up(event):
                    self._console.print(line, highlight=False, markup=False)

    def _work(self, stage: str) -> str:
        """What a stage does: all sources that do not wait for others are read together, when the first is due."""
        wave = self._reads.get(stage)
        together = sum(other == wave for other in self._reads.values())
        return f"read {together} sources" if wave is not None and together > 1 else stage

    def _detail(self) -> str:
        """Rows per second and time left, from what was truly computed in this stage."""
        seconds = time.perf_counter() - self._began
        if not self._fresh or seconds <= 0:
            return ""
        left = f"{_clock((self._total - self._done) * seconds / self._fresh)} left"
        return f"{self._rows / seconds:,.0f} rows/s, {left}" if self._rows and self._wide else left


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
