"""Queries: one SELECT over the catalog, read-only and boxed in.

A query sees the catalog and the files of the releases, nothing else: no other file, no network, no extension, no
setting, no writing. DuckDB's errors become :class:`~aya_data.core.errors.InputError` with the place
in the query and what was perhaps meant.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from aya_data.catalog.register import escaped_glob, made_for, quoted, register
from aya_data.core.errors import AyaDataError, BuildError, InputError, NotFound, WorkspaceUnusable, did_you_mean
from aya_data.core.store import Workspace

__all__ = ["Result", "open_catalog", "query"]

MEMORY: Final = 1 << 30
"""Bytes that a query may hold before it spills to disk."""

_REFUSED: Final = "only a single SELECT runs here: the catalog is read-only"
_REMEDY: Final = "Write SELECT …, FROM …, WITH …, DESCRIBE, SUMMARIZE or SHOW TABLES."


@dataclass(frozen=True, slots=True)
class Result:
    """What a query returned: ``columns`` and ``types`` (DuckDB's names) by position, ``rows`` as tuples.

    ``complete`` is false when ``limit`` cut it.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    complete: bool = True

    def records(self) -> list[dict[str, Any]]:
        """The rows as mappings of values that JSON can hold; of columns with one name the last counts."""
        return [{name: _plain(value) for name, value in zip(self.columns, row, strict=True)} for row in self.rows]


def query(
    workspace: Workspace, sql: str, *, limit: int | None = None, memory: int = MEMORY, threads: int = 2
) -> Result:
    """Run one SELECT and return its result, or the first ``limit`` rows of it.

    Works while a build runs. Raises :class:`InputError` for anything else than a SELECT and for what
    DuckDB finds wrong, :class:`NotFound` when nothing was ever built, :class:`BuildError` for a damaged release.
    """
    with open_catalog(workspace, memory=memory, threads=threads) as con:
        try:
            statements = con.extract_statements(sql)
        except duckdb.Error as error:
            raise _explained(con, sql, error) from error
        if not statements:
            raise InputError("the query is empty", _REMEDY)
        if len(statements) > 1:
            raise InputError(f"these are {len(statements)} statements: {_REFUSED}", "Run them one by one.")
        if statements[0].type != duckdb.StatementType.SELECT:
            kind = str(statements[0].type).rpartition(".")[2]
            if kind == "MULTI":
                raise InputError(_REFUSED, "Give PIVOT its values with IN (…).")
            raise InputError(f"{kind} is refused: {_REFUSED}", _REMEDY)
        try:
            described, rows = _patiently(con, sql, limit)
        except duckdb.Error as error:
            raise _explained(con, sql, error) from error
    complete = limit is None or len(rows) <= limit
    return Result(
        tuple(str(column[0]) for column in described),
        tuple(str(column[1]) for column in described),
        rows if complete else rows[:limit],
        complete,
    )


def _patiently(
    con: duckdb.DuckDBPyConnection, sql: str, limit: int | None
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Run a query in a thread beside, so that Ctrl-C ends it: DuckDB does not always look for signals itself."""

    def run() -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        cursor = con.execute(sql)
        return cursor.description or [], cursor.fetchall() if limit is None else cursor.fetchmany(limit + 1)

    with ThreadPoolExecutor(1) as beside:
        future = beside.submit(run)
        try:
            return future.result()
        except KeyboardInterrupt:
            while not future.done():  # An interrupt that comes before the query has begun is lost.
                con.interrupt()
                wait([future], timeout=0.1)
            raise


@contextlib.contextmanager
def open_catalog(
    workspace: Workspace, *, boxed: bool = True, memory: int = MEMORY, threads: int = 2
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the catalog for reading; make it first where it is missing, unreadable, of another place or another layout.

    Where the workspace cannot be written, it is made elsewhere for as long as it is open. ``boxed`` is for SQL that a
    person wrote; without it parts of the store can be read too.
    """
    if not any(workspace.releases.glob("*/*/manifest.json")) and not workspace.catalog.exists():
        raise NotFound("release in the workspace", str(workspace.root), remedy="Run first: aya-data build SPEC")
    con = _connect(workspace.catalog, memory, threads) if workspace.catalog.exists() else None
    with contextlib.ExitStack() as closing:
        if con is None or not _of_here(con, workspace):
            if con is not None:
                con.close()
            con = _connect(_made(workspace, closing), memory, threads)
        if con is None:
            where = str(workspace.catalog)
            raise InputError("the catalog cannot be opened", "Remove the file; it is made anew.", where)
        try:
            if boxed:
                _box(con, workspace)
            yield con
        except duckdb.Error as error:
            raise _damaged(error) or BuildError(str(error), "Run: aya-data verify", str(workspace.catalog)) from error
        finally:
            # After Ctrl-C a query may still run beside: then the connection refuses to close, and ends with the
            # process.
            with contextlib.suppress(duckdb.Error):
                con.close()


def _made(workspace: Workspace, closing: contextlib.ExitStack) -> Path:
    """Make the catalog, and return its path: in the workspace, or where that is read-only in a folder for a while."""
    try:
        return register(workspace)
    except WorkspaceUnusable as unusable:
        try:
            folder = closing.enter_context(tempfile.TemporaryDirectory(prefix="aya-data-"))
        except OSError:
            raise unusable from None
        return register(workspace, Path(folder) / workspace.catalog.name)


def _connect(path: Path, memory: int, threads: int) -> duckdb.DuckDBPyConnection | None:
    """Attach the catalog to an instance of our own: DuckDB shares one per path in a process, with its
    settings and the file that it opened, be it replaced or not."""
    config: dict[str, Any] = {
        "memory_limit": f"{max(memory, 64 << 20) >> 20}MiB",
        "threads": threads,
        "temp_directory": f"{path}.tmp",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    con = duckdb.connect(":memory:", config=config)
    try:
        con.execute(f"ATTACH {quoted(str(path))} AS catalog (READ_ONLY)")
        con.execute("USE catalog")
    except duckdb.Error:
        con.close()
        return None
    return con


def _of_here(con: duckdb.DuckDBPyConnection, workspace: Workspace) -> bool:
    """Whether the catalog was made for this folder, by this layout."""
    try:
        row = con.execute("SELECT root, layout FROM shape.workspace").fetchone()
    except duckdb.Error:
        return False
    return row == made_for(workspace)


def _box(con: duckdb.DuckDBPyConnection, workspace: Workspace) -> None:
    folder = f"{workspace.releases}/"
    allowed = ", ".join(quoted(path) for path in dict.fromkeys((folder, escaped_glob(folder))))
    con.execute(f"SET allowed_directories = [{allowed}]")
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")


# Errors --------------------------------------------------------------------------------------------

_LINE = re.compile(r"^LINE (\d+): (.*)\n( *)\^", re.MULTILINE)
_TABLE = re.compile(r"Table with name (.+?) does not exist|Referenced table (.+?) not found")
_CANDIDATES = re.compile(r"Candidate bindings: (.*)")
_COLUMN = re.compile(
    r'(?:Referenced|Values list|Referenced table).*?column(?: named)? "(.+?)" not found'
    r'|does not have a column named "(.+?)"|Referenced column "(.+?)" (?:was )?not found'
)


def _damaged(error: duckdb.Error) -> BuildError | None:
    """What DuckDB raises where a Parquet file is not one, as an error that says so; None for other errors.

    Damage meets whatever part of the reader it reaches first, so the kinds are many; no query
    that a person types leads to these.
    """
    kinds = (duckdb.IOException, duckdb.InternalException, duckdb.FatalException, duckdb.SerializationException)
    text = " ".join(str(error).split("Stack Trace")[0].split())
    if isinstance(error, kinds) or type(error) is duckdb.Error or "Failed to read" in text:
        return BuildError(f"a file of a release is damaged: {text[:300]}", "Run: aya-data verify")
    return None


def _explained(con: duckdb.DuckDBPyConnection, sql: str, error: duckdb.Error) -> AyaDataError:
    if damaged := _damaged(error):
        return damaged
    text = str(error)
    summary = text.split("\nLINE ")[0].strip()
    table, column = _TABLE.search(text), _COLUMN.search(text)
    if table:
        word = (table[1] or table[2]).strip('"')
        what, remedy = f"there is no table {word!r}", did_you_mean(word, _tables(con))
    elif column:
        word = next(group for group in column.groups() if group)
        # A column that the query itself names is in DuckDB's list alone; in ours is what a slip may have meant.
        candidates = _CANDIDATES.search(text)
        listed = re.findall(r'"([^"]+)"', candidates[1]) if candidates else []
        listed = [name.rpartition(".")[2] for name in listed]
        near = did_you_mean(word, {*_columns(con, sql), *listed})
        if listed and not near.startswith("Did"):
            near = did_you_mean(word, listed)
        what, remedy = f"there is no column {word!r}", near
    elif isinstance(error, duckdb.PermissionException):
        word = ""
        what = "a query may read the catalog and nothing else"
        remedy = "SHOW TABLES lists what it may read."
    elif isinstance(error, duckdb.OutOfMemoryException):
        word, what, remedy = "", "the query needs more memory than it may use", "Select fewer columns, or aggregate."
    else:
        word = ""
        plain = re.sub(r"^[A-Za-z ]+ Error: ", "", summary).partition("\tCandidate functions")[0]
        what, remedy = " ".join(plain.split()), ""
    place = _place(sql, text, word)
    if place is None:
        return InputError(what, remedy)
    line, start = place
    shown = sql.splitlines()[line - 1] if sql.splitlines() else ""
    length = max(1, len(word))
    excerpt = f"  {shown}\n  {' ' * (start - 1)}{'^' * min(length, max(1, len(shown) - start + 1))}"
    found = InputError(what, remedy, f"query:{line}:{start}")
    found.args = (f"{found}\n{excerpt}",)
    return found


def _place(sql: str, text: str, word: str) -> tuple[int, int] | None:
    """Line and column (from 1) of an error: of the word where it is known, else of DuckDB's caret."""
    said = _LINE.search(text)
    line = int(said[1]) if said else None
    lines = sql.splitlines()
    if word:
        for number, content in enumerate(lines, 1):
            at = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", content, re.IGNORECASE)
            if at and line in (None, number):
                return number, at.start() + 1
    if said and line and line <= len(lines) and not said[2].startswith("..."):
        return line, len(said[3]) - len(f"LINE {line}: ") + 1
    return (line, 1) if line and line <= len(lines) else None


def _tables(con: duckdb.DuckDBPyConnection) -> list[str]:
    """The tables and views that a query may name."""
    try:
        found = con.execute(
            "SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal "
            "AND database_name = current_database() UNION SELECT table_name FROM duckdb_tables() "
            "WHERE schema_name = 'main' AND database_name = current_database() ORDER BY 1"
        ).fetchall()
    except duckdb.Error:
        found = []
    return [row[0] for row in found]


def _columns(con: duckdb.DuckDBPyConnection, sql: str) -> set[str]:
    """The columns of the tables that a query names; of all when it names none."""
    found = con.execute("SELECT table_name, column_name FROM duckdb_columns() WHERE schema_name = 'main'").fetchall()
    found += con.execute("SELECT table_name, column_name FROM duckdb_columns() WHERE schema_name = 'shape'").fetchall()
    words = {word.lower() for word in re.findall(r"\w+", sql)}
    named = {column for table, column in found if table in words}
    tables = set(_tables(con))
    return named or {column for table, column in found if table in tables}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else json.dumps(_plain(key)): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
