"""Specimens: rows made up for :meth:`aya_data.core.stage.Filter.warm`, which compiles what a filter calls on them.

Compiled code depends on the types of columns alone, so a few rows are enough: two that are nearly the same, words and
characters of scripts without spaces, a text that is not in composed form, a preference.
"""

from __future__ import annotations

import pyarrow as pa

from aya_data.core.row import Draft, tabulate

__all__ = ["specimens"]

LINES = (
    "The cat sat on the mat and looked at the rain, which fell on the roof of the old house by the sea.",
    "The cat sat on the mat and looked at the rain, which fell on the roof of the old house by the river.",
    "一只猫坐在垫子上看着雨落在海边老房子的屋顶上，雨下了一整天。",
    "Le chat e\u0301tait assis sur le tapis et regardait la pluie tomber sur le toit de la vieille maison.",
)


def specimens() -> pa.Table:
    """Return some rows with all columns."""
    drafts = [
        Draft(
            key=f"specimen{number}",
            messages=[("user", line), ("assistant", f"{line} {line}")],
            place=("specimens", number),
            language="eng",
            license="CC0-1.0",
        )
        for number, line in enumerate(LINES)
    ]
    return tabulate(drafts, "specimens", "conversation", 10_000).rows
