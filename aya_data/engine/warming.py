"""Warming: kernels of filters are compiled ahead, in processes of their own, while a first build reads its sources.

Compiling the kernels of a filter takes seconds of one core, once per machine (:mod:`aya_data.text.kernel`). Compiled
code goes to numba's cache, ``NUMBA_CACHE_DIR``; a marker beside it, named after the filter's code key and the versions
of Python and numba, says that a filter's is there. A filter without a marker is sent to a fresh interpreter, which
calls :meth:`aya_data.core.stage.Filter.warm`; the build waits for it before the filter first has work to do.

Nothing depends on it. Where the process fails, or is not started (a single worker, no memory for it), the task that
needs a kernel compiles it, and reports what is wrong with it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import pickle
import platform
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from aya_data.core import durable
from aya_data.core.identity import digest
from aya_data.core.stage import Filter
from aya_data.engine.memory import PROCESS

__all__ = ["Warming", "main"]

START = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); from aya_data.engine.warming import main; main()"
)
"""What the process runs. No multiprocessing: that would run the main module of whoever builds from a script again."""
OWN = ("AYA_DATA_FAIL_AT", "AYA_DATA_TRACE")
"""What tests ask of the building process alone."""


class Warming:
    """Compiles the kernels of ``filters`` (each with its code key) in at most ``workers`` processes at a time.

    ``memory`` bytes are what they may hold together: until filters have their kernels no exchange needs its share.
    With one worker there are none. Ends with its ``with`` block, whatever still runs.
    """

    def __init__(self, filters: Sequence[tuple[Filter, str]], workers: int, memory: int) -> None:
        folder = os.environ.get("NUMBA_CACHE_DIR", "")
        self._slots = 0 if workers == 1 or not folder or not sys.executable else min(workers, memory // PROCESS)
        self._filters = filters if self._slots else []
        self._folder = Path(folder)
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._pending: dict[str, Future[None]] = {}

    def __enter__(self) -> Warming:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)

    @functools.cached_property
    def _markers(self) -> dict[str, tuple[Filter, Path]]:
        """The filters whose kernels are not known to be compiled, by code key, with their markers."""
        found: dict[str, tuple[Filter, Path]] = {}
        for made, code in self._filters:
            if type(made).warm is not Filter.warm:
                marker = self._folder / f"{made.name}-{_version(code)}.warm"
                if not marker.exists():
                    found.setdefault(code, (made, marker))
        return found

    def start(self) -> None:
        """Start to compile what is not compiled, in the order of the filters. Returns at once."""
        if self._threads is None and self._markers:
            self._threads = ThreadPoolExecutor(self._slots)
            for code, (made, marker) in self._markers.items():
                self._pending[code] = self._threads.submit(self._warm, made, marker)

    def wait(self, code: str) -> None:
        """Wait until the kernels of the filter with this code key are compiled, if they are going to be."""
        if pending := self._pending.pop(code, None):
            pending.result()

    def _warm(self, made: Filter, marker: Path) -> None:
        # Whatever goes wrong here goes wrong again, and is told, where the kernel is called in earnest.
        with contextlib.suppress(OSError, pickle.PickleError, TypeError, AttributeError):
            sent = pickle.dumps(sys.path) + pickle.dumps((made, marker))
            environment = {name: value for name, value in os.environ.items() if name not in OWN}
            with self._lock:
                if self._closed:
                    return
                process = subprocess.Popen(
                    [sys.executable, "-c", START],
                    stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    env={**environment, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                )  # fmt: skip
                self._running.add(process)
            with process:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(sent)
                    process.stdin.flush()
                    # It stays open: its end tells the process that the build is gone.
                    process.wait()
            with self._lock:
                self._running.discard(process)


def main() -> None:
    """Warm the filter that is sent on standard input, and write its marker; end when the sender ends."""
    made, marker = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_sender, daemon=True).start()
    made.warm()
    durable.write_bytes(marker, b"")


def _end_with_sender() -> None:
    """A build that is killed closes its end of the pipe, and says nothing more."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _version(code: str) -> str:
    """Return what tells the compiled code of a filter from that of other versions and machines."""
    try:
        numba = importlib.metadata.version("numba")
    except importlib.metadata.PackageNotFoundError:
        numba = "absent"
    return digest("warm", code, sys.version, numba, platform.machine())[:24]
