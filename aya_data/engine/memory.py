"""Memory: how a build divides its budget, and giving back what a finished task no longer needs."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

__all__ = ["PART_BYTES", "WORKER", "Share", "rarely_collected", "release", "shares"]

PROCESS = 256 << 20
"""What a process of a build holds beside data: the interpreter, libraries, compiled kernels, a language model."""
WORK = 128 << 20
"""The least that a worker needs for data."""
PART_BYTES = 32 << 20
COPIES = 16
"""How many times a part, at most, a task holds what stands in it."""
OBJECTS = 250_000
"""How many more objects than before there may be until the garbage collector looks for cycles: some batches of rows."""
WORKER = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}
"""The environment in which a worker's memory is one heap, which it keeps until :func:`release`: pages that the system
takes back and clears anew for the next column are a tenth of the time of all tasks."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many workers the budget allows, bytes for an exchange, bytes of a part in memory, and whether there is room
    for an exchange while the workers work."""

    workers: int
    exchange: int
    part_bytes: int
    overlap: bool


def shares(memory: int, workers: int, part_bytes: int | None = None) -> Share:
    """Divide ``memory`` bytes among ``workers``; fewer of them where it would not be enough for all.

    ``part_bytes`` is the size of a part, if somebody chose it. One worker is this process itself. An exchange runs here
    too, while the workers wait, unless all has room.
    """
    workers = max(1, min(workers, (memory - PROCESS) // (PROCESS + WORK)))
    processes = 1 if workers == 1 else 1 + workers
    free = max(WORK, memory - processes * PROCESS)
    part_bytes = part_bytes or min(PART_BYTES, free // workers // COPIES)
    return Share(workers, free // 2, part_bytes, workers * COPIES * part_bytes <= free // 2)


@contextlib.contextmanager
def rarely_collected() -> Iterator[None]:
    """Let objects live and die without a look for cycles at every 700: a sixth of the time of planning and reading."""
    before = gc.get_threshold()
    gc.set_threshold(OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def release() -> None:
    """Return freed memory to the system: Arrow's pool, and the C library's heap where it is glibc's. Milliseconds."""
    pa.default_memory_pool().release_unused()
    _trim()(0)


@functools.cache
def _trim() -> Callable[[int], object]:
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # no glibc
        return int
    found.argtypes = [ctypes.c_size_t]
    found.restype = ctypes.c_int
    return found
