"""What commands print: tables for people, dictionaries for programs."""

from __future__ import annotations

import csv
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from aya_data.catalog.terminal import amount
from aya_data.engine.run import Build

__all__ = [
    "build_as_dict",
    "print_csv",
    "print_funnel",
    "print_plan",
    "print_releases",
    "print_result",
]

UNREAD = ("corrupt_row_group", "no_header", "not_parquet", "truncated_file", "trailing_data")
"""Rules of which one entry of the ledger stands for more than one record."""
NARROW = 12
"""Cells below which a column of a result is no longer read with ease."""
SHOWN = 15
"""Rows of a table before the rest is summed up."""


def _console() -> Console:
    width = None if sys.stdout.isatty() else 4096
    return Console(width=width, highlight=False, soft_wrap=False, emoji=False)


def _table(*columns: str, right: Sequence[str] = (), wrap: bool = True, tight: bool = False) -> Table:
    """A table without borders; a cell that is too long goes on in the next line (``wrap``) and is never cut."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0) if tight else (0, 1))
    for column in columns:
        justify: JustifyMethod = "right" if column in right else "left"
        table.add_column(Text(column), justify=justify, overflow="fold", no_wrap=not wrap)
    return table


def _print_fitting(console: Console, *forms: Callable[[], RenderableType]) -> None:
    """Print the first form that is no wider than the terminal, else the last."""
    for form in forms[:-1]:
        made = form()
        if console.measure(made, options=console.options.update_width(100_000)).minimum <= console.width:
            console.print(made)
            return
    console.print(forms[-1]())


def build_as_dict(done: Build) -> dict[str, Any]:
    """The object that ``build --json`` prints."""
    result = done.result
    return {
        "name": result.name,
        "version": result.version,
        "path": str(result.path),
        "rows": result.rows,
        "digest": result.digest,
        "seconds": done.seconds,
        "stages": [
            {"name": s.name, "key": s.key, "cached": s.cached, **s.counts, "seconds": s.seconds} for s in done.stages
        ],
        "asked": done.asked,
    }


def print_funnel(done: Build, spec: Path, profile: str, workspace: Path | None) -> None:
    """Print what came of every source, the languages, where the release lies and what to type next."""
    manifest = done.result.manifest
    counts = {stage.name: stage.counts for stage in done.stages}
    console = _console()
    funnel = _funnel(manifest, counts)
    _print_fitting(
        console,
        lambda: _sources(funnel),
        lambda: _sources(funnel, tight=True),
        lambda: _sources_and_losses(funnel),
        lambda: Group(*_sources_as_lines(funnel), Text()),
    )
    if manifest["languages"]:
        _print_fitting(
            console,
            lambda: _languages(manifest, named=True),
            lambda: _languages(manifest, named=False),
            lambda: Group(*_languages_as_lines(manifest), Text()),
        )
    path = _short(done.result.path)
    console.print(
        f"Release [bold]{done.result.name}@{done.result.version}[/]: {amount(done.result.rows, 'row')} "
        f"in {done.seconds:.1f} s"
    )
    console.print(Text(f"  {path}"), soft_wrap=True)
    for line in _unread(manifest):
        console.print(Text(f"  Warning: {line}", style="bold"))
    for voice in manifest.get("voices", ()):
        if not voice["pinned"]:
            said = f"{voice['source']}: {voice['step']} states no revision, so nobody can know what answered"
            console.print(Text(f"  Warning: {said}.", style="bold"))
    paid = [account for account in done.asked if account["expected"]["priced"]]
    if paid:
        console.print()
        console.print(_asked(paid))
    if any(source["pins"].get("revision") == "bundled" for source in manifest["sources"]):
        console.print("  Profile sample: bundled data. The real thing: --profile hub", markup=False)
    if not done.result.rows:
        console.print(Text(f"  The release is empty. {_takers(manifest)}", style="bold"))
    for source in manifest["sources"] if done.result.rows else ():
        if source["use"] == "train" and not source["released"]:
            console.print(Text(f"  Nothing of {source['name']} was released. {_takers(manifest, source['name'])}"))
    console.print()
    console.print("Next:")
    where = "" if workspace is None else f" --workspace {shlex.quote(str(workspace))}"
    named = "" if profile == "sample" else f" --profile {profile}"
    lines = [
        f"aya-data show {shlex.quote(str(spec))}{named}{where} -n 3",
        f'aya-data sql{where} "SELECT stage, rule, count(*) n FROM ledger WHERE latest GROUP BY ALL ORDER BY n DESC"',
    ]
    if done.result.rows:
        largest, folder = _largest(manifest)
        read = f"import polars; print(polars.read_parquet({f'{path}/{folder}/{largest}/*.parquet'!r}))"
        simple = not set(str(path)) & set("\"'$`\\!")
        lines.append(f"python -c {f'{chr(34)}{read}{chr(34)}' if simple else shlex.quote(read)}")
    for line in lines:
        console.print(Text(f"  {line}"), soft_wrap=True)  # A command that is cut cannot be copied.


def _asked(accounts: Sequence[Mapping[str, Any]]) -> Table:
    """What was expected of the models that were asked, and what it was."""
    table = _table(
        "asked", "requests", "failed", "tokens", "expected", "seconds", "expected", right=["requests", "failed"]
    )
    for account in accounts:
        expected, actual = account["expected"], account["actual"]
        tokens = (actual.get("prompt_tokens") or 0) + (actual.get("completion_tokens") or 0)
        thought = [expected["prompt_tokens"], expected["completion_tokens"]]
        table.add_row(
            Text(expected["stage"]),
            _number(actual.get("done", 0)),
            _number(actual.get("failed", 0)),
            _number(tokens),
            f"{sum(thought):,}" if None not in thought else "·",
            f"{actual.get('seconds', 0):,.1f}",
            f"{expected['seconds']:,.1f}" if expected["seconds"] is not None else "·",
        )
    return table


def _asks(found: Sequence[Mapping[str, Any]]) -> Table:
    """What models will be asked."""
    table = _table("to ask", "requests", "of", "", "tokens", "seconds", "cost", right=["requests", "of"])
    for one in found:
        thought = [one["prompt_tokens"], one["completion_tokens"]]
        about = "" if one["measured"] else "at most "
        table.add_row(
            Text(one["stage"]),
            "?" if one["missing"] is None else _number(one["missing"]),
            "?" if one["wanted"] is None else _number(one["wanted"]),
            "exact" if one["exact"] else "estimated",
            about + f"{sum(thought):,}" if None not in thought else "·",
            f"{one['seconds']:,.0f}" if one["seconds"] is not None else "·",
            f"{one['cost']:,.2f}" if one["cost"] is not None else "·",
        )
    return table


def _unread(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Say of which files the ledger names only one entry, although more was lost."""
    lost: dict[str, dict[str, int]] = {}
    for entry in manifest["rules"]:
        if entry["rule"] in UNREAD and entry["stage"].startswith("read:"):
            rules = lost.setdefault(entry["source"], {})
            rules[entry["rule"]] = rules.get(entry["rule"], 0) + entry["rows"]
    for source, rules in sorted(lost.items()):
        what = ", ".join(f"{rule} {rows:,}" for rule, rows in sorted(rules.items()))
        yield f"parts of files of {source} could not be read: {what}. aya-data show … --rule {min(rules)} names them."


def _takers(manifest: Mapping[str, Any], source: str | None = None) -> str:
    """Say which rules took the rows of an empty release, or of one source, most first."""
    took: dict[str, int] = {}
    for entry in manifest["rules"]:
        if source not in (None, entry["source"]) or entry["outcome"] == "flagged":
            continue
        took[entry["rule"]] = took.get(entry["rule"], 0) + entry["rows"]
    most = sorted(took.items(), key=lambda item: (-item[1], item[0]))[:4]
    if not most:
        return "It had no rows." if source else "No source has rows."
    return f"What took the rows: {', '.join(f'{rule} {rows:,}' for rule, rows in most)}."


def _short(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def _largest(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """The variety with the most rows of one kind, and the folder of that kind."""
    from aya_data.engine.release import FOLDERS

    best = max(manifest["languages"], default={"variety": "*", "kind": "conversation"}, key=lambda e: e.get("rows", 0))
    return best["variety"], FOLDERS[best["kind"]]


@dataclass(frozen=True, slots=True)
class _Funnel:
    """What came of every source: ``names`` of the steps between read and released, and a line per source.

    A line is the source's name, rows by step (read, malformed, ``names``, released), and epochs.
    """

    names: list[str]
    lines: list[tuple[str, list[int], float]]

    @property
    def total(self) -> list[int]:
        """The sums of all sources."""
        return [sum(column) for column in zip(*(cells for _, cells, _ in self.lines), strict=True)]


def _funnel(manifest: Mapping[str, Any], counts: Mapping[str, Mapping[str, int]]) -> _Funnel:
    stages = [
        s["name"] for s in manifest["stages"] if any(s["name"] in source["lost"] for source in manifest["sources"])
    ]
    losing = [s for s in stages if not s.startswith(("read:", "derive:"))]
    names = list(dict.fromkeys(_title(s) for s in losing))
    lines = []
    for source in manifest["sources"]:
        lost = source["lost"]
        begin = next((s for s in (f"read:{source['name']}", f"derive:{source['name']}") if s in counts), "")
        counted = counts.get(begin, {})
        made = counted.get("rows_in", 0) + counted.get("created", 0) - counted.get("consumed", 0)
        cells = [made, counted.get("dropped", 0) + counted.get("not_sampled", 0)]
        cells += [sum(n for stage, n in lost.items() if _title(stage) == name and stage in losing) for name in names]
        cells.append(source["released"])
        marks = "" if source["use"] == "train" else f" ({source['use']})"
        lines.append((source["name"] + marks, cells, source["epochs"]))
    return _Funnel(["malformed", *names], lines)


def _sources(funnel: _Funnel, tight: bool = False) -> Table:
    """One line per source: read, what each stage took away, released."""
    numbers = ("read", *funnel.names, "released")
    table = _table("source", *numbers, right=numbers, wrap=False, tight=tight)
    for name, cells, epochs in funnel.lines:
        shown = [_number(cell) for cell in cells]
        shown[-1] += f" ({epochs:g}x)" if epochs > 1 else ""
        table.add_row(Text(name), *shown)
    table.add_section()
    table.add_row("all", *(_number(n) for n in funnel.total))
    return table


def _sources_and_losses(funnel: _Funnel) -> Table:
    """The same with all losses in one column, for terminals that have not the room."""
    table = _table("source", "read", "released", right=("read", "released"), wrap=False)
    table.add_column("lost", min_width=30)
    for name, cells, epochs in funnel.lines:
        again = f" ({epochs:g}x)" if epochs > 1 else ""
        table.add_row(Text(name), _number(cells[0]), _number(cells[-1]) + again, _losses(funnel.names, cells))
    table.add_section()
    total = funnel.total
    table.add_row("all", _number(total[0]), _number(total[-1]), _losses(funnel.names, total))
    return table


def _sources_as_lines(funnel: _Funnel) -> Iterator[RenderableType]:
    """The same without a table."""
    for name, cells, epochs in [*funnel.lines, ("all", funnel.total, 1)]:
        again = f" ({epochs:g}x)" if epochs > 1 else ""
        yield Text(f"{name}: {cells[0]:,} read, {cells[-1]:,} released{again}")
        if lost := _losses(funnel.names, cells):
            yield Padding(Text(f"lost: {lost}"), (0, 0, 0, 2))


def _losses(names: Sequence[str], cells: Sequence[int]) -> str:
    return ", ".join(f"{name} {lost:,}" for name, lost in zip(names, cells[1:-1], strict=True) if lost)


def _title(stage: str) -> str:
    """``filter:exact_dedup@2`` is ``exact_dedup``."""
    return stage.partition("@")[0].removeprefix("filter:").replace("mix", "not sampled")


def _number(value: int) -> str:
    return f"{value:,}" if value else "·"


def _languages(manifest: Mapping[str, Any], named: bool) -> Table:
    from aya_data.core.language import name

    columns, counted, rest = _counted(manifest)
    titles = ["of it validation" if column == "validation" else f"{column}s" for column in columns]
    table = _table("language", *([""] if named else []), *titles, right=titles, wrap=False)
    for variety, cells in counted:
        table.add_row(variety, *([name(variety)] if named else []), *(_number(cell) for cell in cells))
    if rest:
        more = f"{rest[0]} more"
        table.add_row(*(["…", more] if named else [f"… {more}"]), *(_number(cell) for cell in rest[1]))
    return table


def _languages_as_lines(manifest: Mapping[str, Any]) -> Iterator[Text]:
    columns, counted, rest = _counted(manifest)
    for title, cells in [*counted, *([(f"… {rest[0]} more", rest[1])] if rest else [])]:
        said = [
            f"{cell:,} validation" if column == "validation" else amount(cell, column)
            for column, cell in zip(columns, cells, strict=True)
            if cell
        ]
        yield Text(f"{title}: {', '.join(said)}")


def _counted(
    manifest: Mapping[str, Any],
) -> tuple[list[str], list[tuple[str, list[int]]], tuple[int, list[int]] | None]:
    """The columns; the varieties with most rows, each with its numbers; how many more there are, with theirs."""
    kinds = sorted({entry["kind"] for entry in manifest["languages"]})
    found: dict[str, dict[str, int]] = {}
    for entry in manifest["languages"]:
        cells = found.setdefault(entry["variety"], {})
        cells[entry["kind"]] = cells.get(entry["kind"], 0) + entry["rows"]
        if entry["split"] == "validation":
            cells["validation"] = cells.get("validation", 0) + entry["rows"]
    ordered = sorted(found, key=lambda v: (-sum(found[v].get(k, 0) for k in kinds), v))
    columns = [*kinds, *(["validation"] if any("validation" in c for c in found.values()) else [])]
    shown = ordered if len(ordered) <= SHOWN + 1 else ordered[:SHOWN]
    left = ordered[len(shown) :]
    counted = [(v, [found[v].get(c, 0) for c in columns]) for v in shown]
    rest = (len(left), [sum(found[v].get(c, 0) for v in left) for c in columns]) if left else None
    return columns, counted, rest


def print_plan(found: Mapping[str, Any]) -> None:
    """Print a plan."""
    console = _console()
    sources = _table("source", "builder", "use", "input", "MB", right=["MB"])
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
    stages = _table("stage", "key", "")
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
            console.print("  Estimated counts become exact with --upto prompts, which asks nobody.")
    added = [f["name"] for f in found["filters"] if f["inserted"]]
    if added:
        console.print(f"Added to the filters of the spec: {', '.join(added)}.")


def print_releases(found: Sequence[Mapping[str, Any]]) -> None:
    """Print a list of releases."""
    console = _console()
    if not found:
        console.print("No releases yet. Next: aya-data build SPEC")
        return

    def table(*columns: str) -> Table:
        made = _table("release", *columns, right=["rows"], wrap=False)
        for release in found:
            shown = {**release, "rows": f"{release['rows']:,}"}
            name = f"{release['name']}@{release['version']}"
            made.add_row(*(Text(text) for text in (name, *(shown[column] for column in columns))))
        return made

    _print_fitting(
        console,
        lambda: table("profile", "policy", "rows", "path"),
        lambda: table("profile", "policy", "rows"),
        lambda: Group(*(Text(f"{r['name']}@{r['version']}: {amount(r['rows'], 'row')}") for r in found)),
    )


def print_csv(result: Any) -> None:
    """Print a query's result as CSV."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(result.columns)
    writer.writerows(result.rows)


def print_result(result: Any) -> None:
    """Print a query's result as a table, or one value on each line where there is no room for the columns."""
    console = _console()
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
