"""What a worker process loads before it is forked from the server: imports alone, no threads."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

import numba

from aya_data.engine.memory import rarely_collected

__all__ = ["LOADED"]

LOADED = (
    "pyarrow.compute",
    "pyarrow.parquet",
    "aya_data.engine.judging",
    "aya_data.engine.reading",
    "aya_data.engine.sharding",
    "aya_data.text.kernel",
)

with rarely_collected():
    with suppress(ImportError):
        import_module("pandas")  # which pyarrow imports, where it is there, to convert the first array
    for name in LOADED:
        import_module(name)

    # The first kernel of a process, cached or not, sets numba up: 0.3 s, here once for all workers.
    numba.njit("int64(int64)")(lambda value: value)
