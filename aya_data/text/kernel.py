"""Kernels: functions over NumPy arrays that numba compiles, once per machine.

Importing this module imports numba (0.4 s): whoever uses a kernel does so inside a function. Compiled code is cached
in ``NUMBA_CACHE_DIR``, or beside the source without it. Kernels leave the interpreter lock, so threads can share work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

__all__ = ["kernel"]

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile ``function`` at its first call: no Python objects, wrap-around integers, no bounds checks."""
    compiled: F = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return compiled
