"""Executors: where tasks run. The local one is a pool of processes; small work runs in this process.

Workers start by forkserver: a fork of a process whose DuckDB, Polars or Arrow threads are running
can deadlock. Each worker holds every library to one thread. The building process works in one more where it has work
of its own (an exchange) while memory allows workers to go on.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Protocol

from aya_data.core.errors import TaskFailed
from aya_data.core.store import Record, Store
from aya_data.engine import memory
from aya_data.engine.task import Task, perform

__all__ = ["INLINE_BYTES", "Executor", "LocalExecutor", "served"]

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
INLINE_BYTES = 4 << 20
"""Below this much input a pool costs more (0.6 s to start) than it saves."""

Done = Callable[[int, Record, float | None], None]
"""Told of each task as it ends: its number, its result, and the seconds it took; ``None`` where it was there already.
Seconds of tasks that run side by side are divided by how many do; a task that is there twice took none the second
time."""


class Executor(Protocol):
    """Runs tasks that do not depend on each other."""

    def run(self, tasks: Sequence[Task], done: Done) -> list[Record]:
        """Run all; call ``done(index, record, seconds)`` as each ends; return records in the order of tasks."""
        ...

    def announce(self, tasks: Sequence[Task]) -> None:
        """Tell of tasks that :meth:`run` will be given later: those with nothing else to do may begin with them."""
        ...


class LocalExecutor:
    """Runs tasks on this machine, in at most ``workers`` processes.

    ``overlap`` says whether memory allows workers to go on with announced tasks while this process has work of its own,
    and to hold what they had for the last task.
    """

    def __init__(self, root: Path, workers: int, inline_bytes: int = INLINE_BYTES, *, overlap: bool = False) -> None:
        self.root = root
        self.workers = max(1, workers)
        self.inline_bytes = inline_bytes
        self.overlap = overlap
        self._store = Store(root)
        self._pool: ProcessPoolExecutor | None = None
        self._flying: dict[str, Future[tuple[Record, float]]] = {}

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(kill=kind is not None and not issubclass(kind, Exception))

    def close(self, kill: bool = False) -> None:
        """End the workers; ``kill`` ends what they are doing too (Ctrl-C): it is done again when resumed."""
        if self._pool is not None:
            processes = list((getattr(self._pool, "_processes", None) or {}).values())
            for process in processes if kill else ():
                process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._flying.clear()

    def run(self, tasks: Sequence[Task], done: Done) -> list[Record]:
        """Run ``tasks``: cached ones are answered at once, few small ones run here, others in the pool."""
        records: list[Record | None] = [None] * len(tasks)
        # Tasks with one key are one task: in two processes they would write the same file.
        same: dict[str, list[int]] = {}
        for index, task in enumerate(tasks):
            record = None if task.key in self._flying else self._store.get(task.key)
            if record is None:
                same.setdefault(task.key, []).append(index)
            else:
                records[index] = record
                done(index, record, None)

        def ended(key: str, record: Record, seconds: float) -> None:
            for turn, index in enumerate(same[key]):
                records[index] = record
                done(index, record, 0.0 if turn else seconds)

        missing = [tasks[indices[0]] for key, indices in same.items() if key not in self._flying]
        here = not self._worth_a_pool(missing)
        try:
            self._submit(() if here else missing)
            beside = max(1, min(self.workers, len(self._flying)))
            for task in missing if here else ():
                ended(task.key, *_timed(self.root, task))
            flying = {self._flying[key]: key for key in same if key in self._flying}
            for future in as_completed(flying):
                key = flying[future]
                del self._flying[key]
                record, seconds = future.result()
                ended(key, record, seconds / beside)
        except BrokenProcessPool as error:
            self._pool = None
            self._flying.clear()
            unfinished = [tasks[indices[0]] for key, indices in same.items() if records[indices[0]] is None]
            names = ", ".join(sorted({task.label for task in unfinished})[:3])
            raise TaskFailed(
                unfinished[0].stage,
                names,
                "a worker process was killed, most often for want of memory; try fewer --workers",
            ) from error
        except BaseException:
            over = {key for key, future in self._flying.items() if future.cancel() or future.done()}
            self._flying = {key: future for key, future in self._flying.items() if key not in over}
            raise
        return [record for record in records if record is not None]

    def announce(self, tasks: Sequence[Task]) -> None:
        """Let workers begin with ``tasks`` once they have done what was asked for before."""
        if self.overlap and (self._pool is not None or self._worth_a_pool(tasks)):
            new = {task.key: task for task in tasks if task.key not in self._flying}
            with contextlib.suppress(BrokenProcessPool):  # told where they are asked for
                self._submit([task for key, task in new.items() if self._store.get(key) is None])

    def _worth_a_pool(self, tasks: Sequence[Task]) -> bool:
        return self.workers > 1 and len(tasks) > 1 and sum(task.size for task in tasks) >= self.inline_bytes

    def _submit(self, tasks: Sequence[Task]) -> None:
        """Give tasks to the pool, the largest first; it takes them in the order in which they come."""
        if tasks:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(self.workers, served(), initializer=_begin)
            for task in sorted(tasks, key=lambda task: -task.size):
                self._flying[task.key] = self._pool.submit(_timed, self.root, task, self.overlap)
            # Exchanges need the same here, later, when nobody works beside them.
            import_module("aya_data.engine.worker")


def served() -> ForkServerContext:
    """Start the server that workers are forked from, unless it runs; it imports what they need, for 0.6 s."""
    context = _Workers()
    context.set_forkserver_preload(["aya_data.engine.worker"])
    before = {name: os.environ.get(name) for name in (*ONE_THREAD, *memory.WORKER)}
    # Of memory, what the user says counts.
    os.environ.update({**memory.WORKER, **{name: value for name, value in before.items() if value}, **ONE_THREAD})
    # Workers, and the server that they are forked from while it still imports, are not interrupted by Ctrl-C:
    # this process ends them. The tracker is started first, as its start would let signals through again.
    resource_tracker.ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        forkserver.ensure_running()  # workers have the environment of this moment
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return context


class _Worker(ForkServerProcess):
    """A worker that does not run the main module of whoever builds from a script again."""

    def start(self) -> None:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = main


class _Workers(ForkServerContext):
    Process = _Worker


def _timed(root: Path, task: Task, keep: bool = False) -> tuple[Record, float]:
    """Perform a task. ``keep`` lets this process hold its memory for the next one, where all may do so at once."""
    began = time.perf_counter()
    try:
        return perform(root, task), time.perf_counter() - began
    finally:
        if not keep:
            memory.release()


def _begin() -> None:
    """Set up a worker: one thread, no traceback when the user presses Ctrl-C, no life without its parent."""
    import threading

    import pyarrow as pa

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # what modules hold is never garbage, and need not be looked through for it
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the build is killed: idle workers hold their own queue open and would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
