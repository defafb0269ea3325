"""Events: what a build tells while it runs. One stream feeds the log, the progress display and nobody else.

Listeners get plain dictionaries with ``event`` and ``at`` (seconds since the start). Wall time lives
here alone, never in a release.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aya_data.core import durable

__all__ = ["Events", "Listener", "open_log"]

Listener = Callable[[dict[str, Any]], None]


class Events:
    """Passes events to its listeners, in order."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = list(listeners)
        self._began = time.perf_counter()

    def __call__(self, event: str, **facts: Any) -> None:
        """Tell all listeners that ``event`` happened."""
        told = {"event": event, "at": round(self.seconds, 4), **facts}
        for listener in self._listeners:
            listener(told)

    @property
    def seconds(self) -> float:
        """Seconds since the build began."""
        return time.perf_counter() - self._began


def open_log(folder: Path, name: str) -> tuple[Listener, Path]:
    """Return a listener that appends JSON lines to a new file ``<name>-<time>.jsonl`` in ``folder``.

    The log is for people and tools that watch; it is not durable state and nothing is read from it. On a full
    disk it ends early: the build's own writes will say why. Raises :class:`WorkspaceUnusable`.
    """
    path = folder / f"{name}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise durable.refused(path, error) from error

    def write(event: dict[str, Any]) -> None:
        line = json.dumps(event, ensure_ascii=False) + "\n"
        with contextlib.suppress(OSError):
            os.write(file, line.encode("utf-8", "backslashreplace"))

    weakref.finalize(write, os.close, file)

    return write, path
