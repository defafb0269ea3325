"""Comparing: an exchange filter over the selections of all parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.core.ledger import LEDGER, entries, tally
from aya_data.core.stage import Exchange, ExchangeFilter
from aya_data.core.store import Output, Part, Store
from aya_data.engine.judging import FACTS
from aya_data.engine.sql import connect, file_table, literal

if TYPE_CHECKING:
    import duckdb

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
    measures: Sequence[Part] = (),
    temporary: Path,
    memory: int,
    threads: int,
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Run one exchange filter; write its ``losers`` (by ordinal of selection), ``links`` and ``ledger``.

    ``rows`` are the parts that the selections, then the settled ones, select from, and ``measures`` what the filter
    measured of each; they are read only for what selections do not carry. ``links`` are pairs of row keys that
    belong on one side of a split.
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
        measured: Sequence[Part | None] = measures or [None] * len(files)
        pieces = [
            _Piece(store, ordinal, *parts) for ordinal, parts in enumerate(zip(files, rows, measured, strict=True))
        ]
        exchange = Exchange(con, bool(settled), pieces)
        lost = filter.decide(exchange)
        con.register("lost", lost)
        found = con.sql(
            "SELECT c.place >> 32 AS ordinal, (c.place & 4294967295)::INTEGER AS row, c.source, c.row_key, "
            "l.rule, l.value, l.threshold, l.evidence, l.partner "
            "FROM lost l JOIN candidates c USING (place) ORDER BY ordinal, row"
        ).to_arrow_table()
        linked = _linked(con, exchange.links)
    if found.num_rows != lost.num_rows:
        raise ValueError(f"{filter.name} named rows that do not exist")
    if linked is not None:
        output.write("links", linked)
    output.write("losers", found.select(["ordinal", "row"]).cast(LOSERS))
    columns = {name: found[name] for name in ("source", "row_key", "rule", "value", "threshold", "evidence", "partner")}
    if found.num_rows:
        with output.part("ledger", LEDGER) as writer:
            writer.write(entries({"stage": stage, "outcome": filter.outcome, **columns}, found.num_rows))
    gone = {filter.outcome: found.num_rows}
    return {stage: tally(rows_in=before, rows_out=before - found.num_rows, **gone)}, {}


@dataclass(frozen=True, slots=True)
class _Piece:
    """The rows of one selection, with the part and the measures that it selects from."""

    store: Store
    ordinal: int
    selection: Part
    part: Part
    measured: Part | None

    def places(self) -> npt.NDArray[np.int64]:
        return self._rows() | (self.ordinal << 32)

    def measures(self) -> pa.Table:
        if self.measured is None:
            raise ValueError("the filter measures nothing")
        return self.store.read(self.measured).take(pa.array(self._rows()))

    def rows(self, columns: Sequence[str], chosen: npt.NDArray[np.int64]) -> pa.Table:
        return self.store.read(self.part, columns).take(pa.array(self._rows()[chosen]))

    def _rows(self) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = self.store.read(self.selection, ["row"])["row"].to_numpy().astype(np.int64)
        return found


def _linked(con: duckdb.DuckDBPyConnection, links: Sequence[pa.Table]) -> pa.Table | None:
    """Return links of places as links of row keys, the lower first, in their order; None without any."""
    if not sum(link.num_rows for link in links):
        return None
    con.register("links", pa.concat_tables(links))
    return con.sql(
        "SELECT least(a.row_key, b.row_key) AS one, greatest(a.row_key, b.row_key) AS other FROM links l "
        "JOIN candidates a ON a.place = l.one JOIN candidates b ON b.place = l.other ORDER BY 1, 2"
    ).to_arrow_table()


def losers_by_part(store: Store, part: Part, parts: int) -> list[list[int]]:
    """Return the lost row positions of each of ``parts`` selections."""
    table = store.read(part)
    by_part: list[list[int]] = [[] for _ in range(parts)]
    for ordinal, row in zip(table["ordinal"].to_pylist(), table["row"].to_pylist(), strict=True):
        by_part[ordinal].append(row)
    return by_part
