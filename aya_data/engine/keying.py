"""Keying: rows and ledger entries that share a key are told apart.

Two records may have one upstream id, or be equal in every column. They are numbered in the order of
their row hash, and all but the first get :func:`~aya_data.core.identity.occurrence_key`; equal ones in the
order of file and record, so that part sizes leave no trace. Nothing is rewritten: the new keys are a small
table that is laid over a part when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from aya_data.core.identity import occurrence_key
from aya_data.core.store import Output, Part, Store
from aya_data.engine.sql import connect, file_table, literal

__all__ = ["Keys", "number", "with_keys"]

KEYS = pa.schema(
    [
        pa.field("part", pa.int64()),
        pa.field("row", pa.int64()),
        pa.field("row_key", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Keys:
    """New keys of one part: ``rows`` (positions, ascending) and ``keys``. Travels with a task."""

    rows: tuple[int, ...]
    keys: tuple[str, ...]


def number(
    store: Store,
    output: Output,
    *,
    parts: Sequence[Part],
    ledgers: Sequence[Part],
    settled: Sequence[tuple[Part, Keys | None]],
    temporary: Path,
    memory: int,
    threads: int,
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Number the entries of ``parts`` and ``ledgers`` that share a key; keys of ``settled`` parts come first.

    ``settled`` rows (of earlier waves) keep what they have, and a ledger entry with the key of one speaks of that
    very row: a parent that was used. Writes part ``keys``, where parts are numbered as given, ledgers
    after them: a path would not survive the cache. O(n) in DuckDB.
    """
    for part in (*parts, *ledgers, *(part for part, _ in settled)):
        store.check(part)
    with connect(temporary, memory, threads) as con:
        sources = [
            (parts, "row_hash", "r.provenance.file", 'r.provenance."row"', 1, 0),
            (ledgers, "concat_ws('|', outcome, rule, value, threshold, evidence)", "r.file", 'r."row"', 2, len(parts)),
            ([part for part, _ in settled], "row_hash", "r.provenance.file", 'r.provenance."row"', 0, 0),
        ]
        selects = []
        for index, (files, order, file, record, rank, first) in enumerate(sources):
            if not files:
                continue
            file_table(con, f"files{index}", store, files)
            listed = ", ".join(literal(str(store.root / p.path)) for p in files)
            selects.append(
                f"SELECT r.row_key, f.ordinal + {first} AS part, r.file_row_number AS place, {rank} AS rank, "
                f"{order} AS tie, {file} AS file, {record} AS record "
                f"FROM read_parquet([{listed}], file_row_number=true, filename=true) r "
                f"JOIN files{index} f ON r.filename = f.file"
            )
        if not selects:
            output.write("keys", KEYS.empty_table())
            return {}, {"renamed": 0}
        con.execute(f"CREATE TEMP VIEW entries AS {' UNION ALL '.join(selects)}")
        renamed = [key for _, keys in settled if keys for key in keys.keys]
        con.register("renamed", pa.table({"row_key": pa.array(renamed, pa.string())}))
        con.execute(
            "CREATE TEMP TABLE shared AS SELECT row_key FROM entries GROUP BY row_key "
            "HAVING count(*) > 1 AND max(rank) > 0"
        )
        con.execute(
            "CREATE TEMP TABLE earlier AS SELECT row_key FROM renamed "
            "UNION SELECT row_key FROM entries SEMI JOIN shared USING (row_key) WHERE rank = 0"
        )
        found = con.sql(
            "SELECT row_key, part, place, rank, row_number() OVER "
            "(PARTITION BY row_key ORDER BY rank, tie, file, record, part, place) - 1 AS occurrence "
            "FROM entries JOIN shared USING (row_key) "
            "WHERE rank < 2 OR row_key NOT IN (SELECT row_key FROM earlier)"
        ).to_arrow_table()
    found = found.filter(pc.and_(pc.greater(found["occurrence"], 0), pc.greater(found["rank"], 0)))
    keys = [
        occurrence_key(key, n)
        for key, n in zip(found["row_key"].to_pylist(), found["occurrence"].to_pylist(), strict=True)
    ]
    table = pa.Table.from_arrays(
        [found["part"], found["place"].cast(pa.int64()), pa.array(keys, pa.string())], schema=KEYS
    )
    output.write("keys", table.sort_by([("part", "ascending"), ("row", "ascending")]))
    return {}, {"renamed": table.num_rows}


def load(store: Store, part: Part) -> dict[int, Keys]:
    """Return the new keys by number of the part or ledger they belong to."""
    table = store.read(part)
    grouped: dict[int, tuple[list[int], list[str]]] = {}
    columns = (table[name].to_pylist() for name in KEYS.names)
    for number, row, key in zip(*columns, strict=True):
        rows, keys = grouped.setdefault(number, ([], []))
        rows.append(row)
        keys.append(key)
    return {number: Keys(tuple(rows), tuple(keys)) for number, (rows, keys) in grouped.items()}


def with_keys(table: pa.Table, part: Part, keys: Keys | None) -> pa.Table:
    """Lay the new keys of ``part`` over its table. A leaf row's group stays that of its record."""
    if keys is None or not keys.rows:
        return table
    column = table["row_key"].to_pylist()
    for row, key in zip(keys.rows, keys.keys, strict=True):
        column[row] = key
    return table.set_column(table.schema.get_field_index("row_key"), "row_key", pa.array(column, pa.string()))
