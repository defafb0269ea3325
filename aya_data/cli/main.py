"""The command line: parse, call one function, print.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 failed, 2 wrong input.
Everything but typer is imported inside the command that needs it, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from aya_data.cli.process import run

__all__ = ["app", "main"]

app = typer.Typer(
    name="aya-data",
    help="Build multilingual post-training data: a YAML spec in, a release out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Spec = Annotated[Path, typer.Argument(metavar="SPEC", help="The spec, a YAML file.", show_default=False)]
Profile = Annotated[
    str, typer.Option("--profile", "-p", help="The profile: sample (bundled data) or hub, or one of the spec's own.")
]
WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        "-w",
        help="The folder for everything that is kept [AYA_DATA_HOME, .aya-data].",
        show_default=False,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Set one value of the spec; repeatable.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", min=1, help="Take at most N rows of every source, by draw.", metavar="N", show_default=False
    ),
]


class Upto(StrEnum):
    """How far ``plan`` runs a build."""

    prompts = "prompts"


class Answers(StrEnum):
    """What ``gc`` does with paid answers that no release names."""

    shown = "list"
    removed = "remove"


@app.command()
def build(
    spec: Spec,
    profile: Profile = "sample",
    workspace: WorkspaceOption = None,
    set_: Sets = None,
    limit: Limit = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            max=1024,
            help="Processes [processors of this machine].",
            metavar="N",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="Memory that the build may use [half].", metavar="SIZE", show_default=False),
    ] = None,
    part_size: Annotated[
        str | None,
        typer.Option(
            "--part-size", help="Size of an intermediate part in memory [32MiB].", metavar="SIZE", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Build SPEC into a release. What is already built is not built again."""
    from aya_data import api
    from aya_data.cli import funnel, progress

    watch = progress.watcher()
    with watch:
        done = api.build(
            spec,
            profile=profile,
            workspace=workspace,
            sets=set_ or [],
            limit=limit,
            workers=workers,
            memory=_size(memory, "--memory"),
            part_size=_size(part_size, "--part-size"),
            listeners=[watch.listen],
        )
    if json:
        _print_json(funnel.build_as_dict(done))
    else:
        funnel.print_funnel(done, spec, profile, workspace, set_ or [])


@app.command()
def plan(
    spec: Spec,
    profile: Profile = "sample",
    workspace: WorkspaceOption = None,
    set_: Sets = None,
    limit: Limit = None,
    upto: Annotated[
        Upto | None,
        typer.Option(
            "--upto",
            help="Run what asks no model, so that what will be asked is counted exactly.",
            metavar="prompts",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show what a build of SPEC would do, and what of it is already done."""
    from aya_data import api
    from aya_data.cli import tables

    made = api.plan(spec, profile=profile, workspace=workspace, sets=set_ or [], limit=limit)
    asks = api.expectations(made, workspace, upto=upto.value if upto is not None else None)
    found = {**api.plan_as_dict(made, workspace), "asks": asks}
    _print_json(found) if json else tables.print_plan(found, upto is not None)


@app.command()
def review(
    spec: Spec,
    out: Annotated[
        Path, typer.Argument(metavar="FILE", help="The sheet to write: .jsonl or .csv.", show_default=False)
    ],
    source: Annotated[
        str | None, typer.Option("--source", help="The source that is reviewed.", show_default=False)
    ] = None,
    profile: Profile = "sample",
    workspace: WorkspaceOption = None,
    set_: Sets = None,
    limit: Limit = None,
) -> None:
    """Write the answers of SPEC that people are to judge into FILE; the filled-in file goes into the spec."""
    from aya_data import api
    from aya_data.catalog.terminal import amount

    made = api.plan(spec, profile=profile, workspace=workspace, sets=set_ or [], limit=limit)
    lines = api.review_sheet(made, out, workspace, source=source)
    typer.echo(f"{out}: {amount(lines, 'answer')} to judge. Fill in the column score, then name the file in the spec:")
    typer.echo(f"  review: {{…, with: {{kind: human, verdicts: [{out}]}}}}")


@app.command()
def validate(spec: Spec, profile: Profile = "sample", set_: Sets = None, json: Json = False) -> None:
    """Check SPEC and print every problem at once, each with its place."""
    from aya_data.core.spec import load_spec

    found = load_spec(spec, profile, set_ or [])
    if json:
        _print_json(found.canonical())
    else:
        from aya_data.catalog.terminal import amount

        what = f"{amount(len(found.sources), 'source')}, {amount(len(found.filters), 'filter')}"
        typer.echo(f"{spec}: valid ({what}, profile {profile}).")


@app.command()
def sql(
    query: Annotated[
        str,
        typer.Argument(
            help="One SELECT over: releases stages sources shards languages licenses rules statistics mixture "
            "fertility confusion teachers rows ledger edges completions scores decisions pairs failures arbitration.",
            show_default=False,
        ),
    ],
    workspace: WorkspaceOption = None,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Query the catalog of releases, read-only."""
    from aya_data.catalog.query import query as ask
    from aya_data.cli import tables

    if json and csv:
        from aya_data.core.errors import InputError

        raise InputError("--json and --csv are two forms of one answer", "Give one of them.")
    result = ask(_workspace(workspace), query)
    if json:
        _print_json(result.records())
    elif csv:
        tables.print_csv(result)
    else:
        tables.print_result(result)


@app.command()
def why(
    identifier: Annotated[
        str,
        typer.Argument(
            metavar="ROW_KEY|ID", help="A row_key or id; its first 8 digits are enough.", show_default=False
        ),
    ],
    workspace: WorkspaceOption = None,
    json: Json = False,
) -> None:
    """Tell a row's life: from its source record to its shard, or to the rule that dropped it."""
    from aya_data.catalog.why import render
    from aya_data.catalog.why import why as tell

    life = tell(_workspace(workspace), identifier)
    if json:
        _print_json(life.as_dict())
    else:
        _print_text(render(life))


@app.command()
def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="SPEC_OR_RELEASE", help="A spec file, or a release as name or name@version.", show_default=False
        ),
    ],
    source: Annotated[
        str | None, typer.Option("--source", "-s", help="Only rows of this source.", show_default=False)
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="Only rows of this language.", show_default=False)
    ] = None,
    rule: Annotated[
        str | None, typer.Option("--rule", "-r", help="Only rows that this rule dropped.", show_default=False)
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, max=1000, help="How many kept rows, and how many others.")] = 5,
    profile: Profile = "sample",
    workspace: WorkspaceOption = None,
    json: Json = False,
) -> None:
    """Print some rows that were kept and some that were dropped."""
    from aya_data.catalog.show import render
    from aya_data.catalog.show import show as pick

    rows = pick(_workspace(workspace), what, source=source, language=language, rule=rule, n=n, profile=profile)
    if json:
        _print_json([row.as_dict() for row in rows])
    elif not rows:
        given = [("--source", source), ("--language", language), ("--rule", rule)]
        asked = " ".join(f"{option} {value}" for option, value in given if value is not None)
        typer.echo(f"No rows of {what} match {asked}." if asked else f"{what} has no rows.")
    else:
        _print_text(render(rows, _width()))


@app.command()
def releases(workspace: WorkspaceOption = None, json: Json = False) -> None:
    """List the releases in the workspace."""
    from aya_data import api
    from aya_data.cli import tables

    found = api.releases(workspace)
    _print_json(found) if json else tables.print_releases(found)


@app.command()
def verify(
    release: Annotated[
        str | None,
        typer.Argument(
            help="A release as name or name@version, or its folder; without it the whole workspace.",
            show_default=False,
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    json: Json = False,
) -> None:
    """Check that every file is as recorded, and that what is recorded adds up.

    Digests of files and rows, the version of a release, and the law of the ledger: nothing is lost.
    """
    from aya_data.core.errors import NotFound
    from aya_data.publish.verify import named_releases, verify_release, verify_workspace

    place = _workspace(workspace)
    if release is None and not place.root.is_dir():
        raise NotFound("workspace", str(place.root), remedy="Name its folder with --workspace.")
    folders = named_releases(place, release) if release else []
    findings = [f for path in folders for f in verify_release(path)] if folders else verify_workspace(place)
    if json:
        _print_json([finding.as_dict() for finding in findings])
    else:
        for finding in findings:
            typer.echo(str(finding))
        if not findings:
            typer.echo("All files are as recorded.")
    if findings:
        raise typer.Exit(1)


@app.command()
def gc(
    workspace: WorkspaceOption = None,
    downloads: Annotated[
        bool, typer.Option("--downloads", help="Remove files downloaded from the Hub too; builds bring them again.")
    ] = False,
    answers: Annotated[
        Answers | None,
        typer.Option(
            "--answers",
            help="Answers that were paid for and that no release names: list them and remove nothing, or remove them "
            "too. They cannot be had again for nothing.",
            metavar="list|remove",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Remove intermediate results that no last build uses. Releases stay, and so does what was paid for."""
    from json import dumps

    from aya_data import api
    from aya_data.catalog.terminal import amount

    if answers is Answers.shown:
        found = api.unnamed_answers(workspace)
        if json:
            _print_json(found)
            return
        for one in found:
            voice = dumps(one["voice"], ensure_ascii=False, sort_keys=True)
            typer.echo(
                f"{one['journal']}: {amount(one['answers'], 'answer')} ({one['bytes'] / 1e6:,.1f} MB) of {voice}"
            )
        typer.echo("Nothing was removed." if found else "There are none.")
        return
    removed, size = api.gc(workspace, downloads=downloads, answers=answers is not None)
    if json:
        _print_json({"removed": removed, "bytes": size})
    else:
        typer.echo(f"Removed {amount(removed, 'item' if downloads else 'result')} ({size / 1e6:,.1f} MB).")


@app.command()
def calibrate(
    filter: Annotated[str, typer.Argument(metavar="FILTER", help="The filter: language_id.", show_default=False)],
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Labelled text: Parquet, JSON lines, CSV or TSV.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="TABLE.tsv", help="The table to write.", show_default=False)
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text", metavar="COLUMN", help="The column with the text [text]; repeatable.", show_default=False
        ),
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(
            "--language",
            metavar="COLUMN",
            help="The column with its language [language]; repeatable.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Another fastText model than lid.176.", show_default=False)
    ] = None,
    min_letters: Annotated[int, typer.Option("--min-letters", min=1, help="Leave shorter texts out.")] = 20,
    cost: Annotated[
        float, typer.Option("--cost", min=0.1, help="Odds asked of a label, relative to 4: 8 asks twice as much.")
    ] = 4.0,
    holdout: Annotated[
        float, typer.Option("--holdout", min=0, max=0.9, help="Keep this share of rows back, and try the table on it.")
    ] = 0.0,
    workspace: WorkspaceOption = None,
    json: Json = False,
) -> None:
    """Calibrate FILTER on labelled text: write the table that its thresholds_from names."""
    from aya_data import calibration

    made = calibration.calibrate(
        filter,
        files,
        text=text or ["text"],
        language=language or ["language"],
        out=out,
        model=model,
        min_letters=min_letters,
        cost=cost,
        holdout=holdout,
        cache=_workspace(workspace).cache,
    )
    _print_json(made.as_dict()) if json else typer.echo(str(made))


@app.command()
def schema() -> None:
    """Print the JSON Schema of specs, for editors."""
    from aya_data.core.explain import json_schema

    _print_json(json_schema())


@app.command()
def explain(
    path: Annotated[
        str, typer.Argument(help="A field, such as mix.caps or filters.language_id.", show_default=False)
    ] = "",
) -> None:
    """Document a field of specs."""
    from aya_data.core.explain import explain as document

    typer.echo(document(path))


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("aya-data.yaml"),
) -> None:
    """Write a commented spec to start from. Never overwrites a file."""
    from aya_data.core import durable
    from aya_data.core.errors import InputError
    from aya_data.core.explain import starter_spec

    if path.exists() or path.is_symlink():
        raise InputError(f"{path} is already there", "Give another name.")
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}", "Make it first, or give another name.")
    durable.write_bytes(path, starter_spec().encode())
    typer.echo(f"Wrote {path}. Next: aya-data build {path}")


def _version(value: bool) -> None:
    if value:
        from aya_data import __version__

        typer.echo(f"aya-data {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    return None


def _workspace(path: Path | None) -> Any:
    from aya_data.core.store import open_workspace

    return open_workspace(path)


def _size(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    from pydantic import TypeAdapter, ValidationError

    from aya_data.core.errors import InputError
    from aya_data.core.settings import Size

    try:
        number = text.isascii() and text.isdigit() and len(text) < 20
        value: int = TypeAdapter(Size).validate_python(int(text) if number else text)
    except ValidationError as error:
        raise InputError(f"{option} {error.errors()[0]['msg']}", "Write 4GB, for example.") from None
    return value


def _width() -> int:
    """Cells of a line: the terminal's, at most 100, so that lines of prose stay readable."""
    import shutil

    return min(100, shutil.get_terminal_size((100, 24)).columns) if sys.stdout.isatty() else 100


def _print_text(text: str) -> None:
    """Print text with rows in it; the marks of its directions are for terminals alone."""
    from aya_data.catalog.terminal import unmarked

    typer.echo(text if sys.stdout.isatty() else unmarked(text))


def _print_json(value: Any) -> None:
    import json

    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1, default=str) + "\n")


def main() -> None:
    """Run the command line and exit."""
    run(lambda: app(prog_name="aya-data"))
