"""Warming: kernels of filters and builders are compiled ahead, in processes of their own, while a first build reads.

Compiling the kernels of a filter takes seconds of one core, once per machine (:mod:`aya_data.text.kernel`). Compiled
code goes to numba's cache, ``NUMBA_CACHE_DIR``; a marker beside it, named after the filter's code key and the versions
of Python and numba, says that a filter's is there. Filters without a marker are sent to fresh interpreters, which
call :meth:`aya_data.core.stage.Filter.warm`; the build waits for a filter's before it first has work to do.

Nothing depends on it. Where a process fails, or is not started (a single worker, no memory for it), the task that
needs a kernel compiles it, and reports what is wrong with it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.metadata
import os
import pickle
import platform
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from aya_data.core import durable
from aya_data.core.identity import digest
from aya_data.core.stage import Builder, Filter

__all__ = ["PROCESS", "Warming", "main"]

START = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); import aya_data.engine.warming as w; w.main()"
"""What a process runs. No multiprocessing: that would run the main module of whoever builds from a script again."""
PROCESS = 384 << 20
"""What a process holds that compiles: Python, libraries, and what the compiler makes."""
ENOUGH = 120.0
"""Seconds after which the build goes on without: nothing depends on it."""
OWN = ("AYA_DATA_FAIL_AT", "AYA_DATA_TRACE")
"""What tests ask of the building process alone."""


class Warming:
    """Compiles the kernels of filters and of builders, each with its code key, in at most ``workers`` processes.

    ``memory`` bytes are what they may hold together: before filters have their kernels, no exchange of a size that
    matters needs its share. With one worker there are none. They end with the ``with`` block, whatever they do.
    """

    def __init__(self, filters: Sequence[tuple[Filter | Builder, str]], workers: int, memory: int) -> None:
        folder = os.environ.get("NUMBA_CACHE_DIR", "")
        self._slots = 0 if workers == 1 or not folder or not sys.executable else min(workers, memory // PROCESS)
        self._filters = filters if self._slots else []
        self._folder = Path(folder)
        self._done: dict[str, threading.Event] = {}
        self._waiting: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._closed = False

    def __enter__(self) -> Warming:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()
        for thread in self._threads:
            thread.join()

    @functools.cached_property
    def _cold(self) -> dict[str, bytes]:
        """The filters whose kernels are not known to be compiled, by code key: what their process is sent."""
        found: dict[str, bytes] = {}
        for made, code in self._filters:
            if type(made).warm not in (Filter.warm, Builder.warm):
                name = made.name if isinstance(made, Filter) else made.source
                marker = self._folder / f"{name}-{_version(code)}.warm"
                if code not in found and not marker.exists():
                    with contextlib.suppress(pickle.PicklingError, TypeError, AttributeError):
                        found[code] = pickle.dumps((made, marker))
        return found

    def start(self) -> None:
        """Start to compile what is not compiled, in the order of the filters. Returns at once."""
        if self._threads or not self._cold:
            return
        for code, sent in self._cold.items():
            self._done[code] = threading.Event()
            self._waiting.put((code, sent))
        self._threads = [
            threading.Thread(target=self._compile, daemon=True) for _ in range(min(self._slots, len(self._cold)))
        ]
        for thread in self._threads:
            thread.start()

    def wait(self, code: str) -> None:
        """Wait until the kernels of the filter with this code key are compiled, if they are going to be."""
        if code in self._done:
            self._done[code].wait(ENOUGH)

    def warm(self, code: str) -> bool:
        """Whether the kernels of the filter with this code key are compiled, or are not going to be."""
        return self._done[code].is_set() if code in self._done else code not in self._cold

    def _compile(self) -> None:
        """Send one filter after the other to a process; take a new one after one that failed."""
        process = None
        while True:
            try:
                code, sent = self._waiting.get_nowait()
            except queue.Empty:
                break
            # Whatever goes wrong here goes wrong again, and is told, where the kernel is called in earnest.
            try:
                process = process or self._started()
                if process is not None and not _told(process, sent):
                    _ended(process)
                    process = None
            except OSError:
                process = None
            finally:
                self._done[code].set()
        if process is not None:
            _ended(process)

    def _started(self) -> subprocess.Popen[bytes] | None:
        environment = {name: value for name, value in os.environ.items() if name not in OWN}
        with self._lock:
            if self._closed:
                return None
            process = subprocess.Popen(
                [sys.executable, "-c", START],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**environment, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            self._processes.append(process)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(pickle.dumps(sys.path))
        return process


def _told(process: subprocess.Popen[bytes], sent: bytes) -> bool:
    """Send a filter to a process and wait for its word that it is warm."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(sent)
        process.stdin.flush()
    except BrokenPipeError:
        return False
    return process.stdout.read(1) != b""


def _ended(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError):
        process.communicate()


def main() -> None:
    """Warm the filters that come on standard input, write their markers, and say so by a byte each.

    Ends with its input, in the middle of anything: the build closed it, or was killed.
    """
    gc.set_threshold(200_000)  # the compiler makes objects by the million, and few cycles: a tenth of its time
    came: queue.SimpleQueue[tuple[Filter | Builder, Path]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(came,), daemon=True).start()
    while True:
        made, marker = came.get()
        try:
            made.warm()
            durable.write_bytes(marker, b"")
        except BaseException:
            os._exit(1)  # at once: a thread waits for input, which an orderly end would trip over
        sys.stdout.buffer.write(b".")
        sys.stdout.flush()


def _receive(came: queue.SimpleQueue[tuple[Filter | Builder, Path]]) -> None:
    try:
        while True:
            came.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(0)


def _version(code: str) -> str:
    """Return what tells the compiled code of a filter from that of other versions and machines."""
    try:
        numba = importlib.metadata.version("numba")
    except importlib.metadata.PackageNotFoundError:
        numba = "absent"
    return digest("warm", code, sys.version, numba, platform.machine())[:24]
