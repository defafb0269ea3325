"""What commands print: tables for people, dictionaries for programs."""

from __future__ import annotations

import csv
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aya_data.engine.run import Build

__all__ = [
    "build_as_dict",
    "print_csv",
    "print_funnel",
    "print_plan",
    "print_releases",
    "print_result",
]

SHOWN = 15
"""Rows of a table before the rest is summed up."""


def _console() -> Console:
    width = None if sys.stdout.isatty() else 4096
    return Console(width=width, highlight=False, soft_wrap=False)


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
    }


def print_funnel(done: Build, spec: Path, profile: str, workspace: Path | None) -> None:
    """Print what came of every source, the languages, where the release lies and what to type next."""
    manifest = done.result.manifest
    counts = {stage.name: stage.counts for stage in done.stages}
    console = _console()
    console.print(_sources(manifest, counts))
    if manifest["languages"]:
        console.print(_languages(manifest))
    path = _short(done.result.path)
    console.print(
        f"Release [bold]{done.result.name}@{done.result.version}[/]: {done.result.rows:,} rows in {done.seconds:.1f} s"
    )
    console.print(Text(f"  {path}"))
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


def _sources(manifest: Mapping[str, Any], counts: Mapping[str, Mapping[str, int]]) -> Table:
    """One line per source: read, what each stage took away, released."""
    stages = [
        s["name"] for s in manifest["stages"] if any(s["name"] in source["lost"] for source in manifest["sources"])
    ]
    losing = [s for s in stages if not s.startswith(("read:", "derive:"))]
    names = list(dict.fromkeys(_title(s) for s in losing))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("source")
    for name in ("read", "malformed", *names, "released"):
        table.add_column(name, justify="right")
    total: list[int] = [0] * (len(names) + 3)
    for source in manifest["sources"]:
        lost = source["lost"]
        begin = next((s for s in (f"read:{source['name']}", f"derive:{source['name']}") if s in counts), "")
        counted = counts.get(begin, {})
        made = counted.get("rows_in", 0) + counted.get("created", 0) - counted.get("consumed", 0)
        cells = [made, counted.get("dropped", 0) + counted.get("not_sampled", 0)]
        cells += [sum(n for stage, n in lost.items() if _title(stage) == name and stage in losing) for name in names]
        cells.append(source["released"])
        total = [a + b for a, b in zip(total, cells, strict=True)]
        marks = "" if source["use"] == "train" else f" ({source['use']})"
        again = f" ({source['epochs']:g}x)" if source["epochs"] > 1 else ""
        shown = [_number(cell) for cell in cells]
        shown[-1] += again
        table.add_row(Text(source["name"] + marks), *shown)
    table.add_section()
    table.add_row("all", *(_number(n) for n in total))
    return table


def _title(stage: str) -> str:
    """``filter:exact_dedup@2`` is ``exact_dedup``."""
    return stage.partition("@")[0].removeprefix("filter:").replace("mix", "not sampled")


def _number(value: int) -> str:
    return f"{value:,}" if value else "·"


def _languages(manifest: Mapping[str, Any]) -> Table:
    from aya_data.core.language import name

    kinds = sorted({entry["kind"] for entry in manifest["languages"]})
    found: dict[str, dict[str, int]] = {}
    for entry in manifest["languages"]:
        cells = found.setdefault(entry["variety"], {})
        cells[entry["kind"]] = cells.get(entry["kind"], 0) + entry["rows"]
        if entry["split"] == "validation":
            cells["validation"] = cells.get("validation", 0) + entry["rows"]
    ordered = sorted(found, key=lambda v: (-sum(found[v].get(k, 0) for k in kinds), v))
    columns = [*kinds, *(["validation"] if any("validation" in c for c in found.values()) else [])]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("language")
    table.add_column("")
    for kind in columns:
        table.add_column("of it validation" if kind == "validation" else f"{kind}s", justify="right")
    shown = ordered if len(ordered) <= SHOWN + 1 else ordered[:SHOWN]
    for variety in shown:
        table.add_row(variety, name(variety), *(_number(found[variety].get(c, 0)) for c in columns))
    rest = ordered[len(shown) :]
    if rest:
        table.add_row("…", f"{len(rest)} more", *(_number(sum(found[v].get(c, 0) for v in rest)) for c in columns))
    return table


def print_plan(found: Mapping[str, Any]) -> None:
    """Print a plan."""
    console = _console()
    sources = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column, justify in (
        ("source", "left"),
        ("builder", "left"),
        ("use", "left"),
        ("input", "left"),
        ("MB", "right"),
    ):
        sources.add_column(column, justify=justify)  # type: ignore[arg-type]
    for source in found["sources"]:
        given = f"from {', '.join(source['parents'])}" if source["parents"] else f"{source['files']} files"
        if revision := source["pins"].get("revision"):
            given += f" at {revision[:12]}"
        size = f"{source['bytes'] / 1e6:,.1f}" if source["bytes"] else "·"
        sources.add_row(Text(source["name"]), source["builder"], source["use"], given, size)
    console.print(sources)
    for source in found["sources"]:
        for note in source["notes"]:
            console.print(Text(f"  {source['name']}: {note}"))
    stages = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("stage", "key", ""):
        stages.add_column(column)
    for stage in found["stages"]:
        stages.add_row(stage["name"], stage["key"][:12], "done" if stage["cached"] else "to do")
    console.print(stages)
    added = [f["name"] for f in found["filters"] if f["inserted"]]
    if added:
        console.print(f"Added to the filters of the spec: {', '.join(added)}.")


def print_releases(found: Sequence[Mapping[str, Any]]) -> None:
    """Print a list of releases."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("release", "profile", "policy"):
        table.add_column(column)
    table.add_column("rows", justify="right")
    table.add_column("path")
    for release in found:
        name = f"{release['name']}@{release['version']}"
        table.add_row(name, release["profile"], release["policy"], f"{release['rows']:,}", Text(release["path"]))
    _console().print(table if found else "No releases yet. Next: aya-data build SPEC")


def print_csv(result: Any) -> None:
    """Print a query's result as CSV."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(result.columns)
    writer.writerows(result.rows)


def print_result(result: Any) -> None:
    """Print a query's result as a table."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(result.columns):
        numeric = all(isinstance(row[index], int | float) for row in result.rows if row[index] is not None)
        table.add_column(Text(name), justify="right" if numeric and result.rows else "left", overflow="fold")
    for row in result.rows:
        table.add_row(*(Text("" if value is None else _printable(value)) for value in row))
    console = _console()
    console.print(table)
    console.print(f"{len(result.rows):,} rows")


def _printable(value: Any) -> str:
    """Untrusted text on a terminal: no control characters."""
    return "".join(c if c.isprintable() else " " for c in str(value))
