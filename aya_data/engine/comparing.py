"""Comparing: an exchange filter over the selections of all parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from aya_data.core.ledger import LEDGER, entries, tally
from aya_data.core.stage import Exchange, ExchangeFilter
from aya_data.core.store import Output, Part, Store
from aya_data.engine.judging import FACTS
from aya_data.engine.sql import connect, file_table, literal

__all__ = ["compare", "losers_by_part"]

LOSERS = pa.schema([pa.field("ordinal", pa.int64()), pa.field("row", pa.int32())])


def compare(
    store: Store,
    output: Output,
    *,
    filter: ExchangeFilter,
    stage: str,
    selections: Sequence[Part],
    settled: Sequence[Part],
    rows: Sequence[Part],
    temporary: Path,
    memory: int,
    threads: int,
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Run one exchange filter; write its ``losers`` (by ordinal of selection) and ``ledger``.

    ``rows`` are the parts that the selections, then the settled ones, select from; they are read only for
    columns that selections do not carry.
    """
    files = [*selections, *settled]
    beyond = sorted(set(filter.columns) - set(FACTS))
    for part in (*files, *(rows if beyond else ())):
        store.check(part)
    before = sum(part.rows for part in selections)
    if not before:
        output.write("losers", LOSERS.empty_table())
        return {stage: tally()}, {}
    with connect(temporary, memory, threads) as con:
        file_table(con, "files", store, files)
        listed = ", ".join(literal(str(store.root / p.path)) for p in files)
        con.execute(
            f"CREATE TEMP VIEW {'selected' if beyond else 'candidates'} AS SELECT (f.ordinal << 32) | r.row AS place, "
            f"f.ordinal >= {len(selections)} AS settled, r.* EXCLUDE (row, filename) "
            f"FROM read_parquet([{listed}], filename=true, union_by_name=true) r "
            "JOIN files f ON r.filename = f.file"
        )
        if beyond:
            file_table(con, "row_files", store, rows)
            listed = ", ".join(literal(str(store.root / p.path)) for p in rows)
            also = ", ".join(f"r.{name}" for name in beyond)
            con.execute(
                f"CREATE TEMP VIEW candidates AS SELECT s.*, {also} FROM selected s "
                f"JOIN (SELECT (f.ordinal << 32) | file_row_number AS place, {', '.join(beyond)} "
                f"FROM read_parquet([{listed}], filename=true, file_row_number=true) r "
                "JOIN row_files f ON r.filename = f.file) r USING (place)"
            )
        lost = filter.decide(Exchange(con, bool(settled)))
        con.register("lost", lost)
        found = con.sql(
            "SELECT c.place >> 32 AS ordinal, (c.place & 4294967295)::INTEGER AS row, c.source, c.row_key, "
            "l.rule, l.value, l.threshold, l.evidence, l.partner "
            "FROM lost l JOIN candidates c USING (place) ORDER BY ordinal, row"
        ).to_arrow_table()
    if found.num_rows != lost.num_rows:
        raise ValueError(f"{filter.name} named rows that do not exist")
    output.write("losers", found.select(["ordinal", "row"]).cast(LOSERS))
    columns = {name: found[name] for name in ("source", "row_key", "rule", "value", "threshold", "evidence", "partner")}
    if found.num_rows:
        with output.part("ledger", LEDGER) as writer:
            writer.write(entries({"stage": stage, "outcome": filter.outcome, **columns}, found.num_rows))
    gone = {filter.outcome: found.num_rows}
    return {stage: tally(rows_in=before, rows_out=before - found.num_rows, **gone)}, {}


def losers_by_part(store: Store, part: Part, parts: int) -> list[list[int]]:
    """Return the lost row positions of each of ``parts`` selections."""
    table = store.read(part)
    by_part: list[list[int]] = [[] for _ in range(parts)]
    for ordinal, row in zip(table["ordinal"].to_pylist(), table["row"].to_pylist(), strict=True):
        by_part[ordinal].append(row)
    return by_part
