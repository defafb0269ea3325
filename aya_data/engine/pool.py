"""Executors: where tasks run. The local one is a pool of processes; small work runs in this process.

Workers start by forkserver: a fork of a process whose DuckDB, Polars or Arrow threads are running
can deadlock. Each worker holds every library to one thread, so that ``--workers`` is the whole truth.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Protocol

from aya_data.core.errors import TaskFailed
from aya_data.core.store import Record
from aya_data.engine.task import Task, perform

__all__ = ["Executor", "LocalExecutor"]

ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
)
INLINE_BYTES = 4 << 20
"""Below this much input a pool costs more (0.6 s to start) than it saves."""

Done = Callable[[int, Record, bool], None]


class Executor(Protocol):
    """Runs tasks that do not depend on each other."""

    def run(self, tasks: Sequence[Task], done: Done) -> list[Record]:
        """Run all; call ``done(index, record, cached)`` as each ends; return records in the order of tasks."""
        ...


class LocalExecutor:
    """Runs tasks on this machine, in at most ``workers`` processes."""

    def __init__(self, root: Path, workers: int, inline_bytes: int = INLINE_BYTES) -> None:
        self.root = root
        self.workers = max(1, workers)
        self.inline_bytes = inline_bytes
        self._pool: ProcessPoolExecutor | None = None

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

    def run(self, tasks: Sequence[Task], done: Done) -> list[Record]:
        """Run ``tasks``: cached ones are answered at once, few small ones run here, others in the pool."""
        from aya_data.core.store import Store

        store = Store(self.root)
        records: list[Record | None] = [None] * len(tasks)
        missing: list[int] = []
        # Tasks with one key are one task: in two processes they would write the same file.
        same: dict[str, list[int]] = {}
        for index, task in enumerate(tasks):
            record = store.get(task.key)
            if record is None:
                if task.key not in same:
                    missing.append(index)
                same.setdefault(task.key, []).append(index)
            else:
                records[index] = record
                done(index, record, True)
        work = sum(tasks[index].size for index in missing)
        if self.workers == 1 or len(missing) < 2 or work < self.inline_bytes:
            finished: Iterator[tuple[int, Record]] = ((index, perform(self.root, tasks[index])) for index in missing)
        else:
            finished = self._pooled(tasks, missing)
        for first, record in finished:
            for index in same[tasks[first].key]:
                records[index] = record
                done(index, record, False)
        return [record for record in records if record is not None]

    def _pooled(self, tasks: Sequence[Task], missing: list[int]) -> Iterator[tuple[int, Record]]:
        """Largest first, a few per worker in flight; the first error stops the rest."""
        order = sorted(missing, key=lambda index: (-tasks[index].size, index))
        waiting = iter(order)
        flying: dict[Future[Record], int] = {}
        pool = self._started()
        try:
            for index in waiting:
                flying[pool.submit(perform, self.root, tasks[index])] = index
                if len(flying) < self.workers * 2:
                    continue
                yield from self._landed(flying)
            while flying:
                yield from self._landed(flying)
        except BrokenProcessPool as error:
            self._pool = None
            names = ", ".join(sorted({tasks[i].label for i in flying.values()})[:3])
            stage = tasks[next(iter(flying.values()), order[0])].stage
            raise TaskFailed(
                stage, names, "a worker process was killed, most often for want of memory; try fewer --workers"
            ) from error
        finally:
            for future in flying:
                future.cancel()

    @staticmethod
    def _landed(flying: dict[Future[Record], int]) -> Iterator[tuple[int, Record]]:
        finished, _ = wait(flying, return_when=FIRST_COMPLETED)
        for future in finished:
            record = future.result()
            yield flying.pop(future), record

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["aya_data.engine.worker"])
            before = {name: os.environ.get(name) for name in ONE_THREAD}
            os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            try:
                self._pool = ProcessPoolExecutor(self.workers, context, initializer=_begin)
                self._pool.submit(os.getpid).result()
            finally:
                for name, value in before.items():
                    if value is None:
                        os.environ.pop(name, None)
                    else:
                        os.environ[name] = value
        return self._pool


def _begin() -> None:
    """Set up a worker: one thread, no traceback when the user presses Ctrl-C, no life without its parent."""
    import signal
    import threading

    import pyarrow as pa

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when the build is killed: idle workers hold their own queue open and would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
