"""Memory: how a build divides its budget, and giving back what a finished task no longer needs."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

__all__ = ["PART_BYTES", "Share", "release", "shares"]

PROCESS = 256 << 20
"""What a process of a build holds beside data: the interpreter, libraries, compiled kernels, a language model."""
WORK = 128 << 20
"""The least that a worker needs for data."""
PART_BYTES = 32 << 20
COPIES = 16
"""How many times a part, at most, a task holds what stands in it."""


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
