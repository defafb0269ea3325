"""What a worker process loads before it is forked from the server: imports alone, no threads."""

from __future__ import annotations

from importlib import import_module

__all__ = ["LOADED"]

LOADED = (
    "pyarrow.compute",
    "pyarrow.parquet",
    "aya_data.engine.judging",
    "aya_data.engine.reading",
    "aya_data.engine.sharding",
)

for name in LOADED:
    import_module(name)
