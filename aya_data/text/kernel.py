"""Kernels: functions over NumPy arrays that numba compiles, once per machine.

Importing this module imports numba (0.4 s): whoever uses a kernel does so inside a function. Compiled code is cached
in ``NUMBA_CACHE_DIR``, or beside the source without it. Kernels leave the interpreter lock, so threads can share work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

__all__ = ["kernel"]


def kernel(function: Callable[..., Any]) -> Any:
    """Compile ``function`` at its first call: no Python objects, wrap-around integers, no bounds checks."""
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
