"""Parts: the text of rows that are not in a release lies in the store, as long as the last build's results do.

The note of a build (``builds/<name>.<profile>.json``) names its parts of rows, and for rows that shared
a key the key that they were given. Rows that could not be read have no part; their ledger entry
quotes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import pyarrow as pa

from aya_data.catalog.register import quoted_glob
from aya_data.core.store import Workspace

__all__ = ["Note", "find_keys", "find_notes", "lay_parts", "rows_of_keys"]

COLUMNS: Final = (
    "id", "kind", "messages", "chosen", "rejected", "language", "script", "source_language", "source", "dataset",
    "license", "provenance",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Note:
    """What a build noted: ``parts`` are (source, path in the store, (row, key) of rows with new keys)."""

    name: str
    profile: str
    version: str | None
    parts: tuple[tuple[str, str, tuple[tuple[int, str], ...]], ...]


def find_notes(workspace: Workspace, name: str | None = None, version: str | None = None) -> list[Note]:
    """Return the notes of the last builds, newest first; of one name and version where given.

    Parts that are no longer in the store are left out.
    """
    found = []
    paths = sorted(workspace.builds.glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    for path in paths:
        try:
            data = json.loads(path.read_bytes())
            parts = tuple(
                (part["source"], part["part"], tuple((int(row), str(key)) for row, key in part["keys"]))
                for part in data["parts"]
                if (workspace.store.root / part["part"]).is_file()
            )
            note = Note(data["name"], data["profile"], data["version"], parts)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if name in (None, note.name) and version in (None, note.version):
            found.append(note)
    return found


def lay_parts(
    con: duckdb.DuckDBPyConnection, workspace: Workspace, note: Note, sources: Iterable[str] | None = None
) -> bool:
    """Create the temporary view ``parts``: rows of the note's parts under their final keys. False: there are none."""
    wanted = None if sources is None else set(sources)
    parts = [part for part in note.parts if wanted is None or part[0] in wanted]
    if not parts:
        return False
    files = [str(workspace.store.root / path) for _, path, _ in parts]
    renamed = [(file, row, key) for file, (_, _, keys) in zip(files, parts, strict=True) for row, key in keys]
    listed = ", ".join(quoted_glob(file) for file in files)
    columns = ", ".join(f"r.{name}" for name in COLUMNS)
    source = f"read_parquet([{listed}], filename = true, file_row_number = true) r"
    if not renamed:
        con.execute(f"CREATE OR REPLACE TEMP VIEW parts AS SELECT r.row_key, {columns} FROM {source}")
        return True
    table = pa.table(
        {
            "file": pa.array([entry[0] for entry in renamed], pa.string()),
            "place": pa.array([entry[1] for entry in renamed], pa.int64()),
            "key": pa.array([entry[2] for entry in renamed], pa.string()),
        }
    )
    con.register("renamed_arrow", table)
    con.execute("CREATE OR REPLACE TEMP TABLE renamed AS SELECT * FROM renamed_arrow")
    con.unregister("renamed_arrow")
    con.execute(
        f"CREATE OR REPLACE TEMP VIEW parts AS SELECT coalesce(k.key, r.row_key) AS row_key, {columns} "
        f"FROM {source} LEFT JOIN renamed k ON k.file = r.filename AND k.place = r.file_row_number"
    )
    return True


def rows_of_keys(
    con: duckdb.DuckDBPyConnection,
    workspace: Workspace,
    note: Note,
    keys: Sequence[str],
    sources: Iterable[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the rows with these keys, as far as the store still has them."""
    if not keys or not lay_parts(con, workspace, note, sources):
        return {}
    marks = ", ".join("?" * len(keys))
    found = con.execute(f"SELECT row_key, {', '.join(COLUMNS)} FROM parts WHERE row_key IN ({marks})", list(keys))
    return {row[0]: dict(zip(COLUMNS, row[1:], strict=True)) for row in found.fetchall()}


def find_keys(con: duckdb.DuckDBPyConnection, workspace: Workspace, note: Note, identifier: str) -> list[str]:
    """Return the keys of rows whose key or id begins with ``identifier``, at most 51."""
    if not lay_parts(con, workspace, note):
        return []
    found = con.execute(
        "SELECT DISTINCT row_key FROM parts WHERE starts_with(row_key, $1) OR starts_with(id, $1) ORDER BY 1 LIMIT 51",
        [identifier],
    )
    return [row[0] for row in found.fetchall()]


def place_of(row: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """The file and record that a row was read from."""
    provenance = row.get("provenance") or {}
    return provenance.get("file"), provenance.get("row")
