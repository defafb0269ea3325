"""The ledger: what became of every row that is not simply passed on, and the law that it obeys.

Outcomes: ``dropped`` (by a rule), ``merged`` (into ``partner``), ``not_sampled`` (the mixture did not
take it), ``consumed`` (rows were made from it, and it is not itself released), and ``flagged`` (it
passed, but someone should know why it is odd; not counted in the law).

The law, per stage: in + created = out + dropped + merged + not_sampled + consumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from aya_data.core.row import Rejection

__all__ = ["COUNTS", "LEDGER", "add", "balance", "entries", "rejected", "tally"]

LEDGER = pa.schema(
    [
        pa.field("stage", pa.string()),
        pa.field("source", pa.string()),
        pa.field("row_key", pa.string()),
        pa.field("outcome", pa.string()),
        pa.field("rule", pa.string()),
        pa.field("value", pa.string()),
        pa.field("threshold", pa.string()),
        pa.field("evidence", pa.string()),
        pa.field("partner", pa.string()),
        pa.field("file", pa.string()),
        pa.field("row", pa.int64()),
    ]
)

COUNTS = ("rows_in", "created", "rows_out", "dropped", "merged", "not_sampled", "consumed")


def tally(**counts: int) -> dict[str, int]:
    """A full set of counts, zero where not given."""
    unknown = set(counts) - set(COUNTS)
    if unknown:
        raise ValueError(f"not counts of the ledger: {sorted(unknown)}")
    return {name: int(counts.get(name, 0)) for name in COUNTS}


def add(tallies: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sum several sets of counts."""
    total = tally()
    for one in tallies:
        for name in COUNTS:
            total[name] += one.get(name, 0)
    return total


def balance(counts: Mapping[str, int]) -> int:
    """Zero when the law holds; otherwise how many rows appeared (negative) or vanished (positive)."""
    into = counts["rows_in"] + counts["created"]
    return into - sum(counts[name] for name in COUNTS[2:])


def entries(columns: Mapping[str, Any], rows: int) -> pa.Table:
    """Build ledger entries from columns or constants; what is not given is null."""
    arrays = []
    for column in LEDGER:
        value = columns.get(column.name)
        if value is None:
            arrays.append(pa.nulls(rows, column.type))
        elif isinstance(value, pa.Array | pa.ChunkedArray):
            arrays.append(value.cast(column.type))
        elif isinstance(value, str | int):
            arrays.append(pa.repeat(pa.scalar(value, column.type), rows))
        else:
            arrays.append(pa.array(value, column.type))
    return pa.Table.from_arrays(arrays, schema=LEDGER)


def rejected(stage: str, source: str, rejections: list[Rejection]) -> pa.Table:
    """Ledger entries of records that did not become rows."""
    return entries(
        {
            "stage": stage,
            "source": source,
            "row_key": [r.key for r in rejections],
            "outcome": [r.outcome for r in rejections],
            "rule": [r.rule for r in rejections],
            "value": [_text(r.value) for r in rejections],
            "threshold": [_text(r.threshold) for r in rejections],
            "evidence": [_text(r.evidence) for r in rejections],
            "file": [_text(r.place[0]) for r in rejections],
            "row": [r.place[1] for r in rejections],
        },
        len(rejections),
    )


def _text(value: str) -> str | None:
    """Evidence quotes broken input: keep it storable and short."""
    if not value:
        return None
    return value[:300].encode("utf-8", "backslashreplace").decode()
