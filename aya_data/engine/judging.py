"""Judging: what filters measure of a part, and the row filters of one segment of the chain over it, in one pass.

The result is a *selection*: one entry per surviving row, with the small columns that exchanges, the
mixture and the shards need, and what the filters tagged and scored. Text is never copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aya_data.core import statistics
from aya_data.core.ledger import LEDGER, entries, tally
from aya_data.core.stage import Filter, ReferenceFilter, RowFilter, Verdicts
from aya_data.core.store import Output, Part, Store
from aya_data.engine.keying import Keys, with_keys

__all__ = ["FACTS", "index", "judge", "measure"]

FACTS = (
    "id", "row_key", "group", "language", "script", "source", "dataset", "origin", "task", "license",
    "terms", "kind", "row_hash", "prompt_hash", "prompt_chars", "answer_chars",
)  # fmt: skip
"""Row columns that every selection carries."""

TAG, SCORE = "tag:", "score:"


def index(
    store: Store, output: Output, *, filter: ReferenceFilter, rows: Sequence[tuple[Part, Keys | None]]
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Make the index of a filter from the rows of the sources that it compares with."""

    def tables() -> Iterator[pa.Table]:
        for part, keys in rows:
            yield with_keys(store.read(part, filter.index_columns), part, keys).select(list(filter.index_columns))

    output.write("index", filter.index(tables()))
    return {}, {}


def measure(
    store: Store,
    output: Output,
    *,
    filter: Filter,
    rows: Part,
    index: Part | None = None,
    scope: RowFilter | None = None,
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Measure one part for one filter, against its ``index`` if it has one; one entry per row of the part.

    Rows that ``scope`` drops are not measured: their entries are null.
    """
    columns = dict.fromkeys([*filter.measure_columns, *(scope.columns if scope else ())])
    table = store.read(rows, list(columns))
    drop = np.zeros(table.num_rows, np.bool_) if scope is None else scope.judge(table.select(scope.columns), None).drop
    drop = drop & ~drop.all()  # of nothing no filter can say what its measures look like
    table = table.select(filter.measure_columns)
    if drop.any():
        table = table.filter(pa.array(~drop))
    if isinstance(filter, ReferenceFilter):
        assert index is not None, "the index is made before anything is compared with it"
        measured = filter.compare(table, store.read(index))
    else:
        measured = filter.measure(table)
    if measured.num_rows != table.num_rows:
        raise ValueError(f"{filter.name} measured {measured.num_rows} of {table.num_rows} rows")
    if drop.any():
        measured = measured.take(pa.array(np.cumsum(~drop) - 1, mask=drop))
    output.write("measures", measured)
    return {}, {}


def judge(
    store: Store,
    output: Output,
    *,
    rows: Part,
    keys: Keys | None,
    selection: Part | None,
    losers: Sequence[int],
    filters: Sequence[tuple[str, RowFilter, Part | None]],
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Apply row filters in order to the rows of one part that are still there.

    ``selection`` is what earlier segments left (``None``: all rows), less ``losers``, the row positions
    that the exchange before this segment took out. ``filters`` are (stage name, filter, measures).
    """
    wanted = {name for _, filter_, _ in filters for name in filter_.columns}
    if selection is None:
        columns = sorted(wanted | set(FACTS))
        table = with_keys(store.read(rows, columns), rows, keys)
        facts = table.select(list(FACTS))
        facts = facts.add_column(0, "row", pa.array(np.arange(table.num_rows, dtype=np.int32)))
        seen = table.select(sorted(wanted))
    else:
        facts = store.read(selection)
        if losers:
            facts = facts.filter(pc.invert(pc.is_in(facts["row"], pa.array(losers, pa.int32()))))
        seen = store.read(rows, sorted(wanted)).take(facts["row"]) if wanted else None
    counts: dict[str, dict[str, int]] = {}
    counted: dict[str, dict[str, statistics.Statistic]] = {}
    ledger: list[pa.Table] = []
    for stage, filter_, measures in filters:
        before = facts.num_rows
        measured = store.read(measures).take(facts["row"]) if measures is not None else None
        columns_seen = seen.select(list(filter_.columns)) if seen is not None else facts.select([])
        verdicts = filter_.judge(columns_seen, measured)
        ledger += _ledger(stage, facts, verdicts)
        if verdicts.statistics:
            counted[stage] = {name: statistics.from_table(table) for name, table in verdicts.statistics.items()}
        facts = _annotated(facts, verdicts)
        if verdicts.drop.any():
            keep = pa.array(~verdicts.drop)
            facts = facts.filter(keep)
            if seen is not None:
                seen = seen.filter(keep)
        dropped = before - facts.num_rows
        counts[stage] = tally(rows_in=before, rows_out=facts.num_rows, dropped=dropped)
    output.write("selection", facts.combine_chunks())
    if ledger:
        with output.part("ledger", LEDGER) as writer:
            writer.write(pa.concat_tables(ledger))
    return counts, {"statistics": counted} if counted else {}


def _ledger(stage: str, facts: pa.Table, verdicts: Verdicts) -> list[pa.Table]:
    found = []
    marks = [("dropped", verdicts.drop)]
    if verdicts.flag is not None:
        marks.append(("flagged", verdicts.flag & ~verdicts.drop))
    for outcome, mask in marks:
        places = np.flatnonzero(mask).tolist()
        if not places:
            continue
        rows = facts.take(pa.array(places))
        found.append(
            entries(
                {
                    "stage": stage,
                    "source": rows["source"],
                    "row_key": rows["row_key"],
                    "outcome": outcome,
                    "rule": [verdicts.rule[i] for i in places],
                    "value": [verdicts.value[i] for i in places],
                    "threshold": [verdicts.threshold[i] for i in places],
                    "evidence": [verdicts.evidence[i] for i in places],
                },
                len(places),
            )
        )
    return found


def _annotated(facts: pa.Table, verdicts: Verdicts) -> pa.Table:
    for prefix, columns, type_ in ((TAG, verdicts.tags, pa.string()), (SCORE, verdicts.scores, pa.float64())):
        for name, values in columns.items():
            column = values.cast(type_)
            if type_ == pa.float64():
                column = pc.round(column, 4)
            index = facts.schema.get_field_index(prefix + name)
            if index >= 0:
                facts = facts.set_column(index, prefix + name, column)
            else:
                facts = facts.append_column(prefix + name, column)
    return facts
