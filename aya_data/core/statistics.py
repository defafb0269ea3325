"""Statistics: counts by group that stages take of rows, added up over parts, kept in the manifest and the catalog.

A statistic is a table with columns that name a group (strings) and columns of numbers. As JSON it is
``{"keys": [..], "values": [..], "rows": [[key, .., number, ..], ..]}`` with its rows in order of their keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

__all__ = ["Statistic", "add", "from_table"]

Statistic = Mapping[str, Any]


def from_table(table: pa.Table) -> Statistic:
    """Return a table as a statistic: its string columns are keys, the others values. Equal groups are added up."""
    keys = [field.name for field in table.schema if pa.types.is_string(field.type)]
    values = [name for name in table.column_names if name not in keys]
    rows = [[row[name] for name in (*keys, *values)] for row in table.to_pylist()]
    return add([{"keys": keys, "values": values, "rows": rows}])


def add(statistics: Iterable[Statistic]) -> Statistic:
    """Add statistics of the same columns up, group by group. Raises ValueError where their columns differ."""
    columns: tuple[list[str], list[str]] | None = None
    found: dict[tuple[str, ...], list[float]] = {}
    for statistic in statistics:
        mine = (list(statistic["keys"]), list(statistic["values"]))
        if columns is None:
            columns = mine
        if mine != columns:
            raise ValueError(f"statistics of {mine} and of {columns} cannot be added")
        width = len(mine[0])
        for row in statistic["rows"]:
            group = tuple("" if key is None else key for key in row[:width])
            numbers = found.setdefault(group, [0] * len(mine[1]))
            for index, number in enumerate(row[width:]):
                numbers[index] += number
    keys, values = columns or ([], [])
    return {"keys": keys, "values": values, "rows": [[*group, *found[group]] for group in sorted(found)]}
