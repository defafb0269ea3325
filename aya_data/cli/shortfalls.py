"""What a spec wished for and did not get, in a line each: floors, a budget, datasets, a chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from aya_data.catalog.terminal import amount
from aya_data.core.errors import did_you_mean

__all__ = ["shortfalls"]

SHOWN: Final = 10
"""Groups of floors that are named."""
LAST: Final = 0.99
"""The part of a budget of tokens from which it counts as reached: it ends before the first row that does not fit."""


def shortfalls(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Say which floors are short and under which caps, whether the budget was reached, which datasets no row has, how
    many rows a chat template refused."""
    found: dict[str, list[dict[str, Any]]] = {}
    for statistics in manifest.get("statistics", {}).values():
        for name, statistic in statistics.items():
            columns = [*statistic["keys"], *statistic["values"]]
            found.setdefault(name, []).extend(dict(zip(columns, row, strict=True)) for row in statistic["rows"])
    mixture = found.get("mixture", [])
    several = len({row["kind"] for row in mixture}) > 1
    caps: dict[tuple[str, ...], list[str]] = {}
    for row in found.get("blocked", []):
        caps.setdefault((row["kind"], row["axis"], row["value"]), []).append(f"mix.{row['cap']}")
    floors, budgets, reached = [], [], False
    for row in mixture:
        unit = "tokens" if row["requested_tokens"] else "rows"
        got, asked = row[f"achieved_{unit}"], row[f"requested_{unit}"]
        kind = f" ({row['kind']})" if several else ""
        if row["axis"].startswith("floor:"):
            counted = " tokens" if unit == "tokens" else ""
            under = caps.get((row["kind"], row["axis"], row["value"]))
            held = f" (under {' and '.join(under)})" if under else ""
            name = f"{row['axis'].removeprefix('floor:')} {row['value']}"
            floors.append(f"{name} {got:,} of {asked:,}{counted}{held}{kind}")
        elif row["axis"] == "all":
            reached |= got >= asked * (LAST if unit == "tokens" else 1)
            budgets.append(f"{got:,} of {asked:,} {unit}{kind}")
    if floors:
        more = f", and {len(floors) - SHOWN:,} more" if len(floors) > SHOWN else ""
        yield f"floors short: {', '.join(floors[:SHOWN])}{more}"
    # The budget is of each kind of row; where one reaches it, the others are what there is besides.
    if budgets and not reached:
        yield f"budget not reached: {', '.join(budgets)}"
    for row in found.get("absent", []):
        yield f"mix.{row['place']}: no row is left that has the {row['axis']} {row['name']!r}"
    identified: dict[str, int] = {}
    for row in found.get("identifiers", []):
        identified[row["dataset"]] = identified.get(row["dataset"], 0) + row["rows"]
    there = {part["dataset"] for source in manifest.get("sources", ()) for part in source["parts"]}
    for dataset in sorted(name for name, rows in identified.items() if not rows):
        near = did_you_mean(dataset, there)
        meant = f" (d{near[1:]})" if near.startswith("Did") else ""
        yield f"decontaminate: no row has the dataset {dataset!r} that identifiers names{meant}"
    untemplated = sum(row.get("untemplated", 0) for row in found.get("fertility", []))
    if untemplated:
        yield f"the chat template refuses {amount(untemplated, 'row')}; their texts alone were counted"
