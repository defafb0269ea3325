"""The reference pages, made from the code: every field of a spec, every builder, filter and command.

    python -m docs.reference         write docs/reference.md and docs/command-line.md

A test fails when the pages and the code disagree.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aya_data.builders import BUILDERS
from aya_data.cli.main import app
from aya_data.core.explain import value_text
from aya_data.core.fields import fields_of, kind_of
from aya_data.core.language import LANGUAGE_SETS, language_set
from aya_data.core.policy import PolicySettings
from aya_data.core.registry import Registry
from aya_data.core.spec import Frame, SourceFrame
from aya_data.core.terms import terms_table
from aya_data.filters import FILTERS

__all__ = ["pages"]

FOLDER = Path(__file__).resolve().parent
MADE = "<!-- Made by `python -m docs.reference`; change the code, not this page. -->"


def pages() -> dict[Path, str]:
    """Return the text of each generated page."""
    return {
        FOLDER / "reference.md": "\n".join(_reference()) + "\n",
        FOLDER / "command-line.md": "\n".join(_command_line()) + "\n",
    }


def _reference() -> Iterator[str]:
    registry = Registry(builders=BUILDERS, filters=FILTERS)
    yield from (
        "# Reference", "", MADE, "",
        "Every key of a spec, from the settings models themselves. `aya-data explain PATH` prints the same on the",
        "command line, and `aya-data schema` gives it to an editor as JSON Schema. `*` stands for any name or",
        "number; a kind of mapping that a table has explained is not explained in it again.", "",
    )  # fmt: skip
    yield from ("## The frame", "")
    yield from _model(Frame)
    yield from ("## Every source", "")
    yield from _model(SourceFrame)
    yield from ("## A policy, written out", "")
    yield from _model(PolicySettings)
    for kind, table in (("builder", BUILDERS), ("filter", FILTERS)):
        yield from (f"## {kind.capitalize()}s", "")
        for name in sorted(table):
            yield from (f"### `{name}`", "")
            plugin = registry.builder(name) if kind == "builder" else registry.filter(name)
            yield from (_first_paragraph(plugin.__doc__), "")
            yield from _model(registry.settings(kind, name))
    yield from ("## Named sets of languages", "", "| set | varieties |", "|---|---|")
    for name in LANGUAGE_SETS:
        varieties = language_set(name)
        listed = ", ".join(v.code for v in varieties) if len(varieties) <= 30 else f"{len(varieties)} varieties"
        yield f"| `{name}` | {listed} |"
    yield from ("", "## Terms of use", "", "| name | effects | what it is |", "|---|---|---|")
    for terms in terms_table().values():
        yield f"| `{terms.id}` | {', '.join(sorted(terms.effects))} | {_cell(terms.title)} |"


def _model(model: type[BaseModel]) -> Iterator[str]:
    """Yield a table of a model's keys; keys inside a key follow it, once for each kind of mapping."""
    rows = list(_rows("", model, set()))
    if rows:
        yield from ("| key | value | what it says |", "|---|---|---|", *rows, "")
    else:
        yield from ("It has no settings.", "")


def _rows(above: str, model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    seen.add(model)
    for name, info in fields_of(model).items():
        key = f"{above}{name}"
        yield f"| `{key}` | {_cell(_value(info))} | {_cell(info.description or '')} |"
        for inner, many in _inside(info.annotation):
            if inner in seen:
                continue
            place = f"{key}.*" if many else key
            if kind := kind_of(inner):
                yield f"| **`{place}`, `{kind[0]}: {kind[1]}`** | mapping | {_cell(_first_paragraph(inner.__doc__))} |"
            yield from _rows(f"{place}.", inner, seen)


def _inside(annotation: Any, many: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    """Yield the models at an annotation, and whether they are the items of a list or mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, many
        return
    collection = get_origin(annotation) in (list, tuple, set, frozenset, dict, Mapping, Sequence)
    for argument in get_args(annotation):
        if not isinstance(argument, (str, int)) and argument is not Ellipsis:
            yield from _inside(argument, many or collection)


def _value(info: FieldInfo) -> str:
    """Return type and default; a long default in short."""
    kind, _, default = value_text(info).partition("; default: ")
    if len(default) > 120:
        default = f"all {default.count(',') + 1}"
    return f"{kind}; default: {default}" if default else kind


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split()).replace("``", "`")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


COMMANDS = """
The same words as `aya-data COMMAND --help`. Results go to stdout, progress and errors to stderr; with
`--json` stdout is one JSON value.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: the workspace is intact, and the same command goes on from there. `verify` found something |
| 2 | wrong input: a spec, an option, a name. No release was written |
| 130 | stopped by the person. What was finished is kept |

| variable | meaning |
|---|---|
| `AYA_DATA_HOME` | the workspace, where `--workspace` does not say |
| `AYA_DATA_HUB_ATTEMPTS` | how many tries in a row may bring nothing from the Hub before the build stops (5) |
| `NUMBA_CACHE_DIR` | where compiled kernels are kept, instead of the workspace |
| `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` | as in huggingface_hub: where the Hub is, who asks, no network |
| `NO_COLOR`, `TERM=dumb` | plain output |

`--set PATH=VALUE` changes one value of a spec for this call (`--set mix.budget.rows=200`); a list or mapping in
brackets takes the place of the one there (`--set 'languages=[tur, eng]'`). A size is written as `4GB` or `512MiB`;
`--memory` is between 512 MiB and what this process may use. `--limit N` takes at most N rows of every source, chosen by draw, so that a larger limit
takes the same rows and more.

`build --json` prints one object:

| key | meaning |
|---|---|
| `name`, `version`, `path` | the release and its folder |
| `rows` | rows of the release, epochs counted |
| `digest` | logical digest: equal for equal rows, however they are stored |
| `seconds` | of this build |
| `stages` | a list of `name`, `key`, `cached`, `rows_in`, `created`, `rows_out`, `dropped`, `merged`, `not_sampled`, `consumed`, `seconds` |
| `asked` | a list of what models were asked in this build: `expected` and `actual`, with the requests that `failed`, those that a recording has no answer to (`absent`) and verdicts of a judge that are `unreadable` |
| `notes` | what people should know, as it is printed: an empty release, a source of which nothing is released, files that end too early, models without a revision, requests that failed, answers that are not recorded, verdicts that cannot be read, languages without a teacher, floors and budgets that are not reached |
""".strip()  # noqa: E501


def _command_line() -> Iterator[str]:
    group: Any = typer.main.get_command(app)
    yield from ("# Command line", "", MADE, "", *COMMANDS.splitlines(), "", "## Commands", "")
    for name, command in group.commands.items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        usage = " ".join(_placeholder(a) for a in arguments)
        yield from (f"### `{' '.join(filter(None, ('aya-data', name, usage)))}`", "")
        yield from (" ".join((command.help or "").split()), "")
        if not arguments and not options:
            continue
        yield from ("| | what it says |", "|---|---|")
        for argument in arguments:
            yield f"| `{_cell(_placeholder(argument))}` | {_cell(argument.help or '')}{_default(argument)} |"
        for option in options:
            takes = "" if option.is_flag else f" {option.metavar or option.name.upper()}"
            yield f"| `{_cell(', '.join(option.opts) + takes)}` | {_cell(option.help or '')}{_default(option)} |"
        yield ""


def _placeholder(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required else f"[{name}]"


def _default(parameter: Any) -> str:
    default = parameter.default
    if default in (None, "", False) or callable(default) or parameter.required:
        return ""
    return f" Default: {default}."


def main() -> None:
    """Write the pages."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path.name}\n")


if __name__ == "__main__":
    main()
