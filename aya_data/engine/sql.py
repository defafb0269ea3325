"""DuckDB as the engine uses it: bounded memory, a spill folder, no network, no surprises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from aya_data.core.store import Part, Store

__all__ = ["connect", "file_table", "literal"]


@contextlib.contextmanager
def connect(temporary: Path, memory: int, threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory database that spills to ``temporary`` beyond ``memory`` bytes."""
    con = duckdb.connect(
        config={
            "memory_limit": f"{max(memory, 128 << 20) >> 20}MiB",
            "threads": threads,
            "temp_directory": str(temporary),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )
    try:
        con.execute("SET TimeZone = 'UTC'")
        yield con
    finally:
        con.close()


def file_table(con: duckdb.DuckDBPyConnection, name: str, store: Store, parts: Sequence[Part]) -> None:
    """Create a table of ``parts``: ``file`` (path as DuckDB names it), ``name`` (path in the store), ``ordinal``."""
    table = pa.table(
        {
            "file": pa.array([str(store.root / p.path) for p in parts], pa.string()),
            "name": pa.array([p.path for p in parts], pa.string()),
            "ordinal": pa.array(range(len(parts)), pa.int64()),
        }
    )
    con.register(f"{name}_arrow", table)
    con.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM {name}_arrow")
    con.unregister(f"{name}_arrow")


def literal(text: str) -> str:
    """Quote ``text`` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"
