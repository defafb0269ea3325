"""What ``build`` prints: the funnel of rows from read to released, languages, what models were asked, what to mind."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from aya_data.catalog.terminal import amount
from aya_data.cli.shortfalls import shortfalls
from aya_data.cli.tables import make_console, make_table, number_text, print_fitting
from aya_data.core.generation import named_reasons
from aya_data.engine.run import Build

__all__ = ["build_as_dict", "print_funnel"]

UNREAD = ("corrupt_row_group", "no_header", "not_parquet", "truncated_file", "trailing_data")
"""Rules of which one entry of the ledger stands for more than one record."""
MALFORMED, WHERE, NO_ANSWER, MADE, CONSUMED = "malformed", "where", "no answer", "made", "consumed"
"""Columns of the funnel: records that became no rows; those that the source's own ``where`` takes out; prompts of which
no row came; rows that were made of others'; rows of which others were made, and which are not released themselves."""
SHOWN = 15
"""Rows of a table before the rest is summed up."""


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
        "asked": [_account(one, done.result.manifest) for one in done.asked],
        "notes": [note for note, _ in _notes(done)],
    }


def _account(account: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What was expected of a step that asked, and what came: with what only the release says of it."""
    voice = next((one for one in manifest.get("voices", ()) if _step(one) == account["expected"]["stage"]), None)
    if voice is None:
        return dict(account)
    own = {"absent": voice["absent"], "unreadable": _unreadable(voice, manifest)}
    return {**account, "actual": {**account["actual"], **own}}


def _step(voice: Mapping[str, Any]) -> str:
    """The name of the stage in which a voice was asked."""
    kind, _, name = voice["step"].partition("/")
    return f"{kind}:{voice['source']}" + (f"/{name}" if name else "")


def _unreadable(voice: Mapping[str, Any], manifest: Mapping[str, Any]) -> int:
    """How many verdicts of a judge could not be read, in all rounds; 0 for what is no judge."""
    kind, _, name = voice["step"].partition("@")[0].partition("/")
    unread = manifest["generation"][voice["source"]].get("unread", {}) if kind == "arbiter" else {}
    return int(unread.get(name, {}).get("parse_failures", 0))


def _notes(done: Build) -> Iterator[tuple[str, bool]]:
    """Say what people should know of a build, and whether it is a warning."""
    manifest = done.result.manifest
    if not done.result.rows:
        yield f"the release is empty. {_takers(manifest)}", True
    for line in _unread(manifest):
        yield line, True
    for voice in manifest.get("voices", ()):
        if not voice["pinned"]:
            said = f"{voice['source']}: {voice['step']} states no revision, so nobody can know what answered"
            yield said, True
    for note in dict.fromkeys(done.notes):
        yield note, True
    for voice in manifest.get("voices", ()):
        if voice["failed"]:
            said = f"{voice['failed']:,} of {amount(voice['asked'], 'request')} failed"
            yield f"{_step(voice)}: {said}: {named_reasons(voice['reasons'])}", True
    for voice in manifest.get("voices", ()):
        if voice["absent"]:
            found = voice["asked"] - voice["absent"]
            yield f"{_step(voice)}: {found:,} of {voice['asked']:,} are recorded", not found
    judges: dict[str, tuple[int, int]] = {}
    for voice in manifest.get("voices", ()):
        if number := _unreadable(voice, manifest):
            name = _step(voice).partition("@")[0]
            judges[name] = (number, judges.get(name, (0, 0))[1] + voice["asked"])
    for name, (number, asked) in judges.items():
        yield f"{name}: {number:,} of {asked:,} verdicts could not be read", True
    for source, report in manifest.get("generation", {}).items():
        for remark in report.get("remarks", ()):
            yield f"{source}: {remark}", True
    for entry in manifest["rules"]:
        if entry["rule"] == "no_teacher" and entry["source"] in manifest.get("generation", {}):
            yield f"{entry['source']}: no teacher is asked for the language of {entry['rows']:,} prompts", True
    for line in shortfalls(manifest):
        yield line, False
    for source in manifest["sources"] if done.result.rows else ():
        if source["use"] == "train" and not source["released"]:
            yield f"nothing of {source['name']} was released. {_takers(manifest, source['name'])}", False


def print_funnel(done: Build, spec: Path, profile: str, workspace: Path | None, sets: Sequence[str] = ()) -> None:
    """Print what came of every source, the languages, where the release lies and what to type next.

    With ``sets`` the file alone does not say what was built: the release is named instead.
    """
    manifest = done.result.manifest
    counts = {stage.name: stage.counts for stage in done.stages}
    console = make_console()
    funnel = _funnel(manifest, counts)
    print_fitting(
        console,
        lambda: _sources(funnel),
        lambda: _sources(funnel, tight=True),
        lambda: _sources_and_losses(funnel),
        lambda: Group(*_sources_as_lines(funnel), Text()),
    )
    if manifest["languages"]:
        print_fitting(
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
    for note, warning in _notes(done):
        console.print(Text(f"  Warning: {note}." if warning else f"  {note}.", style="bold" if warning else ""))
    paid = [account for account in done.asked if account["expected"]["priced"]]
    if paid:
        console.print()
        console.print(_asked(paid))
    if any(source["pins"].get("revision") == "bundled" for source in manifest["sources"]):
        console.print("  Profile sample: bundled data. The real thing: --profile hub", markup=False)
    console.print()
    console.print("Next:")
    where = "" if workspace is None else f" --workspace {shlex.quote(str(workspace))}"
    named = shlex.quote(str(spec)) + ("" if profile == "sample" else f" --profile {profile}")
    if sets:
        named = f"{done.result.name}@{done.result.version}"
    lines = [
        f"aya-data show {named}{where} -n 3",
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
    table = make_table(
        "asked", "requests", "failed", "tokens", "expected", "seconds", "expected", right=["requests", "failed"]
    )
    for account in accounts:
        expected, actual = account["expected"], account["actual"]
        tokens = (actual.get("prompt_tokens") or 0) + (actual.get("completion_tokens") or 0)
        partly = 0 < actual.get("counted", 0) < actual.get("done", 0) - actual.get("failed", 0)
        thought = [expected["prompt_tokens"], expected["completion_tokens"]]
        table.add_row(
            Text(expected["stage"]),
            number_text(actual.get("done", 0)),
            number_text(actual.get("failed", 0)),
            ("at least " if partly else "") + number_text(tokens),
            ("at most " if expected["bounded"] else "about ") + f"{sum(thought):,}" if None not in thought else "·",
            f"{actual.get('seconds', 0):,.1f}",
            f"{expected['seconds']:,.1f}" if expected["seconds"] is not None else "·",
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
        yield f"parts of files of {source} could not be read: {what}. aya-data show … --rule {min(rules)} names them"


def _takers(manifest: Mapping[str, Any], source: str | None = None) -> str:
    """Say which rules took the rows of an empty release, or of one source, most first."""
    took: dict[str, int] = {}
    for entry in manifest["rules"]:
        if source not in (None, entry["source"]) or entry["outcome"] == "flagged":
            continue
        took[entry["rule"]] = took.get(entry["rule"], 0) + entry["rows"]
    most = sorted(took.items(), key=lambda item: (-item[1], item[0]))[:4]
    if not most:
        return "It had no rows" if source else "No source has rows"
    return f"What took the rows: {', '.join(f'{rule} {rows:,}' for rule, rows in most)}"


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

    A line is the source's name, rows by step (read, ``names``, released), and epochs. A source that is made from rows
    of others reads none: what it made is one of the steps, ``made``, and what went before is of the rows it is made of.
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
    names = [MALFORMED, WHERE, NO_ANSWER, MADE, *dict.fromkeys(_title(s) for s in losing), CONSUMED]
    lost: dict[tuple[str, str], int] = {}
    for entry in manifest["rules"]:
        if entry["outcome"] != "flagged":
            place = (entry["source"], _column(entry, manifest))
            lost[place] = lost.get(place, 0) + entry["rows"]
    lines = []
    for source in manifest["sources"]:
        name = source["name"]
        cells = {column: lost.get((name, column), 0) for column in names}
        derived = counts.get(f"derive:{name}")
        if derived is None:
            read = counts.get(f"read:{name}", {})
            begun = read.get("rows_in", 0) + read.get("created", 0) - read.get("consumed", 0)
        else:
            begun, cells[MADE] = 0, derived["rows_out"]
        marks = "" if source["use"] == "train" else f" ({source['use']})"
        lines.append((name + marks, [begun, *cells.values(), source["released"]], source["epochs"]))
    shown = (
        [True] + [name == MALFORMED or any(line[1][at] for line in lines) for at, name in enumerate(names, 1)] + [True]
    )
    kept = [(name, [n for n, keep in zip(cells, shown, strict=True) if keep], epochs) for name, cells, epochs in lines]
    return _Funnel([name for name, keep in zip(names, shown[1:-1], strict=True) if keep], kept)


def _column(entry: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """The column of the funnel for rows that the ledger counts: "" for those that were used up as a source began."""
    begins = entry["stage"].startswith(("read:", "derive:"))
    if entry["outcome"] == "consumed":
        return "" if begins else CONSUMED
    if not begins:
        return _title(entry["stage"])
    if entry["rule"] in ("where", "where_error"):
        return WHERE
    asked = entry["source"] in manifest.get("generation", {})
    return NO_ANSWER if asked and entry["rule"].startswith("no_") else MALFORMED


def _sources(funnel: _Funnel, tight: bool = False) -> Table:
    """One line per source: read, what each stage took away, released."""
    numbers = ("read", *funnel.names, "released")
    table = make_table("source", *numbers, right=numbers, wrap=False, tight=tight)
    table.columns[0].min_width = max(cell_len(name) for name, _, _ in funnel.lines)
    for name, cells, epochs in funnel.lines:
        shown = [number_text(cell) for cell in cells]
        shown[-1] += f" ({epochs:g}x)" if epochs > 1 else ""
        table.add_row(Text(name), *shown)
    table.add_section()
    table.add_row("all", *(number_text(n) for n in funnel.total))
    return table


def _sources_and_losses(funnel: _Funnel) -> Table:
    """The same with all losses in one column, for terminals that have not the room."""
    at = [0, *(place for place, name in enumerate(funnel.names, 1) if name == MADE), -1]
    numbers = ["read", *funnel.names[at[1] - 1 : at[1]], "released"] if len(at) == 3 else ["read", "released"]
    table = make_table("source", *numbers, right=numbers, wrap=False)
    table.columns[0].min_width = max(cell_len(name) for name, _, _ in funnel.lines)
    table.add_column("lost", min_width=30)
    for name, cells, epochs in funnel.lines:
        again = f" ({epochs:g}x)" if epochs > 1 else ""
        shown = [number_text(cells[place]) for place in at]
        table.add_row(Text(name), *shown[:-1], shown[-1] + again, _losses(funnel.names, cells))
    table.add_section()
    total = funnel.total
    table.add_row("all", *(number_text(total[place]) for place in at), _losses(funnel.names, total))
    return table


def _sources_as_lines(funnel: _Funnel) -> Iterator[RenderableType]:
    """The same without a table."""
    for name, cells, epochs in [*funnel.lines, ("all", funnel.total, 1)]:
        again = f" ({epochs:g}x)" if epochs > 1 else ""
        made = dict(zip(funnel.names, cells[1:], strict=False)).get(MADE, 0)
        begun = f"{made:,} made" if made and not cells[0] else f"{cells[0]:,} read"
        begun += f", {made:,} made" if made and cells[0] else ""
        yield Text(f"{name}: {begun}, {cells[-1]:,} released{again}")
        if lost := _losses(funnel.names, cells):
            yield Padding(Text(f"lost: {lost}"), (0, 0, 0, 2))


def _losses(names: Sequence[str], cells: Sequence[int]) -> str:
    lost = zip(names, cells[1:-1], strict=True)
    return ", ".join(f"{name} {number:,}" for name, number in lost if number and name != MADE)


def _title(stage: str) -> str:
    """``filter:exact_dedup@2`` is ``exact_dedup``."""
    return stage.partition("@")[0].removeprefix("filter:").replace("mix", "not sampled")


def _languages(manifest: Mapping[str, Any], named: bool) -> Table:
    from aya_data.core.language import name

    columns, counted, rest = _counted(manifest)
    titles = ["of it validation" if column == "validation" else f"{column}s" for column in columns]
    table = make_table("language", *([""] if named else []), *titles, right=titles, wrap=False)
    for variety, cells in counted:
        table.add_row(variety, *([name(variety)] if named else []), *(number_text(cell) for cell in cells))
    if rest:
        more = f"{rest[0]} more"
        table.add_row(*(["…", more] if named else [f"… {more}"]), *(number_text(cell) for cell in rest[1]))
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
