"""What commands print: tables for people, dictionaries for programs."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from aya_data.catalog.terminal import amount

__all__ = [
    "make_console", "make_table", "number_text", "print_csv", "print_fitting", "print_plan", "print_releases",
    "print_result",
]  # fmt: skip

NARROW = 12
"""Cells below which a column of a result is no longer read with ease."""


def make_console() -> Console:
    width = None if sys.stdout.isatty() else 4096
    return Console(width=width, highlight=False, soft_wrap=False, emoji=False)


def make_table(*columns: str, right: Sequence[str] = (), wrap: bool = True, tight: bool = False) -> Table:
    """A table without borders; a cell that is too long goes on in the next line (``wrap``) and is never cut."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0) if tight else (0, 1))
    for column in columns:
        justify: JustifyMethod = "right" if column in right else "left"
        # Where lines may not break, a title of two words is as wide as both.
        least = None if wrap else cell_len(column)
        table.add_column(Text(column), justify=justify, overflow="fold", no_wrap=not wrap, min_width=least)
    return table


def print_fitting(console: Console, *forms: Callable[[], RenderableType]) -> None:
    """Print the first form that is no wider than the terminal, else the last."""
    for form in forms[:-1]:
        made = form()
        if console.measure(made, options=console.options.update_width(100_000)).minimum <= console.width:
            console.print(made)
            return
    console.print(forms[-1]())


def _asks(found: Sequence[Mapping[str, Any]]) -> Table:
    """What models will be asked."""
    table = make_table("to ask", "requests", "of", "", "tokens", "seconds", "cost", right=["requests", "of"])
    for one in found:
        thought = [one["prompt_tokens"], one["completion_tokens"]]
        about = "at most " if one["bounded"] else "about "
        table.add_row(
            Text(one["stage"]),
            "?" if one["missing"] is None else number_text(one["missing"]),
            "?" if one["wanted"] is None else number_text(one["wanted"]),
            "exact" if one["exact"] else "estimated",
            about + f"{sum(thought):,}" if None not in thought else "·",
            f"{one['seconds']:,.0f}" if one["seconds"] is not None else "·",
            f"{about}{one['cost']:,.2f}" if one["cost"] is not None else "·",
        )
    return table


def number_text(value: int) -> str:
    return f"{value:,}" if value else "·"


def print_plan(found: Mapping[str, Any], prompts_made: bool = False) -> None:
    """Print a plan. ``prompts_made`` says that all was run that asks no model."""
    console = make_console()
    sources = make_table("source", "builder", "use", "input", "MB", right=["MB"])
    for source in found["sources"]:
        given = f"from {', '.join(source['parents'])}" if source["parents"] else amount(source["files"], "file")
        if revision := source["pins"].get("revision"):
            given += f" at {revision[:12]}"
        size = f"{source['bytes'] / 1e6:,.1f}" if source["bytes"] else "·"
        sources.add_row(Text(source["name"]), source["builder"], source["use"], given, size)
    console.print(sources)
    for source in found["sources"]:
        for note in source["notes"]:
            console.print(Text(f"  {source['name']}: {note}"))
    stages = make_table("stage", "key", "")
    for stage in found["stages"]:
        stages.add_row(Text(stage["name"]), stage["key"][:12], "done" if stage["cached"] else "to do")
    console.print(stages)
    if found.get("asks"):
        console.print(_asks(found["asks"]))
        for one in found["asks"]:
            if len(one["languages"]) > 1:
                listed = sorted(one["languages"].items(), key=lambda pair: (-pair[1], pair[0]))
                shown = ", ".join(f"{variety} {count:,}" for variety, count in listed[:8])
                more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
                console.print(Text(f"  {one['stage']}: {shown}{more}"))
        if not all(one["exact"] for one in found["asks"]):
            lacking = "answers that are" if prompts_made else "what is"
            hint = "" if prompts_made else " --upto prompts makes prompts, asking nobody."
            console.print(f"  Estimated: it depends on {lacking} not there yet.{hint}")
        for one in found["asks"]:
            if one["note"]:
                console.print(Text(f"  Warning: {one['stage']}: {one['note']}.", style="bold"))
            if one["recorded"] is not None and one["recorded"] < one["wanted"]:
                said = f"{one['recorded']:,} of {one['wanted']:,} are recorded"
                warned = "" if one["recorded"] else "Warning: "
                console.print(Text(f"  {warned}{one['stage']}: {said}.", style="" if one["recorded"] else "bold"))
        for path in sorted({path for one in found["asks"] for path in one["damaged"]}):
            said = "is damaged: what is in it counts as missing. A build sets it aside"
            console.print(Text(f"  Warning: {path} {said}.", style="bold"), soft_wrap=True)
    added = [f["name"] for f in found["filters"] if f["inserted"]]
    if added:
        console.print(f"Added to the filters of the spec: {', '.join(added)}.")


def print_releases(found: Sequence[Mapping[str, Any]]) -> None:
    """Print a list of releases."""
    console = make_console()
    if not found:
        console.print("No releases yet. Next: aya-data build SPEC")
        return

    def table(*columns: str) -> Table:
        made = make_table("release", *columns, right=["rows"], wrap=False)
        for release in found:
            shown = {**release, "rows": f"{release['rows']:,}", "": "latest" if release["latest"] else ""}
            name = f"{release['name']}@{release['version']}"
            made.add_row(*(Text(text) for text in (name, *(shown[column] for column in columns))))
        return made

    print_fitting(
        console,
        lambda: table("", "profile", "policy", "rows", "path"),
        lambda: table("", "profile", "policy", "rows"),
        lambda: Group(
            *(
                Text(f"{r['name']}@{r['version']}: {amount(r['rows'], 'row')}{', latest' if r['latest'] else ''}")
                for r in found
            )
        ),
    )


def print_csv(result: Any) -> None:
    """Print a query's result as CSV."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(result.columns)
    writer.writerows(result.rows)


def print_result(result: Any) -> None:
    """Print a query's result as a table, or one value on each line where there is no room for the columns."""
    console = make_console()
    cells = [["" if value is None else _printable(value) for value in row] for row in result.rows]
    widths = [max(map(cell_len, column)) for column in zip(result.columns, *cells, strict=True)]
    if sum(min(width, NARROW) + 3 for width in widths) > console.width:
        longest = max(map(cell_len, result.columns))
        for number, row in enumerate(cells, 1):
            console.print(Text(f"── {number}"))
            for name, value in zip(result.columns, row, strict=True):
                console.print(Text(f"{name:<{longest}} {value}"), soft_wrap=True)
        if not cells:
            console.print(Text(", ".join(result.columns)))
    else:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for index, name in enumerate(result.columns):
            numeric = all(isinstance(row[index], int | float) for row in result.rows if row[index] is not None)
            table.add_column(Text(name), justify="right" if numeric and result.rows else "left", overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row))
        console.print(table)
    console.print(amount(len(cells), "row") if cells else "No rows.")


def _printable(value: Any) -> str:
    """Untrusted text on a terminal: no control characters."""
    return "".join(c if c.isprintable() else " " for c in str(value))
