"""Showing: some rows of a release that were kept and some that were not, as people read them.

Which rows is a keyed draw over their keys, not their position, so that a sample is a fair one and
the same every time. Kept rows come from the shards; the text of others from the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from aya_data.catalog.parts import Note, find_notes, lay_parts, place_of, rows_of_keys
from aya_data.catalog.query import open_catalog
from aya_data.catalog.terminal import cut, inline, wrapped
from aya_data.core import language as languages
from aya_data.core.errors import NotFound
from aya_data.core.store import Workspace

__all__ = ["Shown", "render", "show"]

CHARACTERS: Final = 1200
LINES: Final = 12
"""What is printed of one message."""

Turn = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Shown:
    """One row to look at. ``outcome`` is ``kept`` or the ledger's; ``messages`` is empty where the text is not
    at hand, and ``note`` says why. Of a preference ``messages`` is the chosen conversation."""

    release: str
    version: str
    row_key: str
    outcome: str
    source: str
    dataset: str | None
    variety: str | None
    license: str | None
    file: str | None
    row: int | None
    messages: tuple[Turn, ...]
    rejected: tuple[Turn, ...] = ()
    stage: str | None = None
    rule: str | None = None
    value: str | None = None
    threshold: str | None = None
    evidence: str | None = None
    partner: str | None = None
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Everything, for programs; a turn is an object of role and content."""
        return {
            **asdict(self),
            "messages": [{"role": role, "content": content} for role, content in self.messages],
            "rejected": [{"role": role, "content": content} for role, content in self.rejected],
        }


def show(
    workspace: Workspace,
    what: str | Path,
    *,
    source: str | None = None,
    language: str | None = None,
    rule: str | None = None,
    n: int = 5,
    profile: str = "sample",
) -> list[Shown]:
    """Return ``n`` kept rows and ``n`` others of a release; with ``rule`` only rows that this rule spoke of.

    ``what`` is a spec file, or a release as ``name`` or ``name@version``; a spec means what the last build
    of it under ``profile`` made. ``language`` is a code or a name, with a script (``tur_Latn``) that
    variety alone. ``rule`` is a rule of the ledger, a filter's name or a stage. Raises
    :class:`NotFound` for a release, source, rule or language that does not exist.
    """
    with open_catalog(workspace, boxed=False) as con:
        release, version, note = _release(con, workspace, str(what), profile)
        known = [
            row[0]
            for row in con.execute(
                "SELECT source FROM sources WHERE release = ? AND version = ?", [release, version]
            ).fetchall()
        ]
        if source is not None and source not in known:
            raise NotFound("source", source, known)
        wanted = _language(language)
        rules = _rules(con, release, version, rule)
        kept = [] if rule is not None else _kept(con, release, version, source, wanted, n)
        others = _others(con, workspace, note, release, version, source, wanted, rules, n)
        return [*kept, *others]


def _release(
    con: duckdb.DuckDBPyConnection, workspace: Workspace, what: str, profile: str
) -> tuple[str, str, Note | None]:
    found = con.execute("SELECT release, version, latest FROM releases ORDER BY 1, latest DESC, 2").fetchall()
    name, _, version = what.partition("@")
    if what.endswith((".yaml", ".yml")):
        from aya_data.core.spec import load_spec

        name, version = load_spec(Path(what), profile).name, ""
        noted = [note for note in find_notes(workspace, name) if note.profile == profile and note.version]
        if not noted:
            raise NotFound(
                "build", f"{name} ({profile})", remedy=f"Run first: aya-data build {what} --profile {profile}"
            )
        version = noted[0].version or ""
    for release, there, _ in found:
        if release == name and version in ("", there):
            notes = find_notes(workspace, name, there)
            return release, there, notes[0] if notes else None
    names = {row[0] for row in found}
    if name in names:
        raise NotFound(f"version of {name}", version, [row[1] for row in found if row[0] == name])
    raise NotFound("release", name, names)


def _language(label: str | None) -> tuple[str, str | None] | None:
    """The language, and the script where the label names one."""
    if label is None:
        return None
    if label.partition("_")[0] == "und":
        return "und", None
    languages.parse(label)  # Refuses what is no language.
    return languages.scope(label)


def _rules(
    con: duckdb.DuckDBPyConnection, release: str, version: str, rule: str | None
) -> list[tuple[str, str]] | None:
    """The (stage, rule) pairs that ``rule`` means; ``None`` for all."""
    if rule is None:
        return None
    pairs = con.execute(
        "SELECT DISTINCT stage, coalesce(rule, '') FROM rules WHERE release = ? AND version = ? ORDER BY ALL",
        [release, version],
    ).fetchall()
    names = {pair: {pair[1], pair[0], pair[0].partition("@")[0], _filter(pair[0])} for pair in pairs}
    found = [pair for pair in pairs if rule in names[pair]]
    if not found:
        raise NotFound("rule in the ledger", rule, {name for some in names.values() for name in some if name})
    return found


def _filter(stage: str) -> str:
    """``filter:exact_dedup@2`` is ``exact_dedup``."""
    kind, _, name = stage.partition("@")[0].partition(":")
    return name if kind == "filter" else ""


def _draw(column: str) -> str:
    """A keyed draw in SQL: keys are hashes themselves, so one more hash with a purpose orders them at random."""
    return f"md5('show:' || {column}), {column}"


def _kept(
    con: duckdb.DuckDBPyConnection,
    release: str,
    version: str,
    source: str | None,
    wanted: tuple[str, str | None] | None,
    n: int,
) -> list[Shown]:
    tests, values = ["release = ?", "version = ?"], [release, version]
    for column, value in (("source", source), ("language", wanted and wanted[0]), ("script", wanted and wanted[1])):
        if value is not None:
            tests.append(f"{column} = ?")
            values.append(value)
    where = " AND ".join(tests)
    keys = [
        row[0]
        for row in con.execute(
            f"SELECT DISTINCT row_key FROM rows WHERE {where} ORDER BY {_draw('row_key')} LIMIT {n}", values
        ).fetchall()
    ]
    if not keys:
        return []
    found = con.execute(
        'SELECT row_key, source, source_dataset, variety, license, provenance.file, provenance."row", messages, '
        f"rejected FROM rows WHERE {where} AND epoch = 0 AND row_key IN ({', '.join('?' * len(keys))})",
        [*values, *keys],
    ).fetchall()  # fmt: skip
    by_key = {row[0]: row for row in found}
    return [
        Shown(
            release=release,
            version=version,
            row_key=key,
            outcome="kept",
            source=row[1],
            dataset=row[2],
            variety=row[3],
            license=row[4],
            file=row[5],
            row=row[6],
            messages=_turns(row[7]),
            rejected=_turns(row[8]),
        )
        for key in keys
        if (row := by_key.get(key)) is not None
    ]


def _others(
    con: duckdb.DuckDBPyConnection,
    workspace: Workspace,
    note: Note | None,
    release: str,
    version: str,
    source: str | None,
    wanted: tuple[str, str | None] | None,
    rules: Sequence[tuple[str, str]] | None,
    n: int,
) -> list[Shown]:
    tests, values = ["l.release = ?", "l.version = ?"], [release, version]
    if source is not None:
        tests.append("l.source = ?")
        values.append(source)
    if rules is None:
        tests.append("l.outcome <> 'flagged'")
    else:
        one = "(l.stage = ? AND coalesce(l.rule, '') = ?)"
        tests.append(f"({' OR '.join([one] * len(rules))})")
        values += [word for pair in rules for word in pair]
    join = ""
    if wanted is not None:
        if note is None or not lay_parts(con, workspace, note, None if source is None else [source]):
            return []
        join = "JOIN parts p ON p.row_key = l.row_key"
        tests.append("p.language = ?")
        values.append(wanted[0])
        if wanted[1] is not None:
            tests.append("p.script = ?")
            values.append(wanted[1])
    columns = (
        "row_key",
        "stage",
        "source",
        "outcome",
        "rule",
        "value",
        "threshold",
        "evidence",
        "partner",
        "file",
        "row",
    )
    listed = ", ".join(f'l."{name}"' for name in columns)
    entries = [
        dict(zip(columns, row, strict=True))
        for row in con.execute(
            f"SELECT {listed} FROM ledger l {join} WHERE {' AND '.join(tests)} "
            f"ORDER BY {_draw('l.row_key')}, l.stage, l.rule LIMIT {n}",
            values,
        ).fetchall()
    ]
    keys = [entry["row_key"] for entry in entries]
    texts = rows_of_keys(con, workspace, note, keys, {e["source"] for e in entries}) if note is not None else {}
    return [_other(entry, texts.get(entry["row_key"]), release, version) for entry in entries]


def _other(entry: Mapping[str, Any], text: Mapping[str, Any] | None, release: str, version: str) -> Shown:
    file, row = entry["file"], entry["row"]
    note = ""
    if text is None:
        read = entry["stage"].startswith(("read:", "derive:"))
        note = "it did not become a row" if read else "its text is no longer in the store: build again to see it"
        if entry["outcome"] == "consumed":
            note = "rows were made from it"
    else:
        file, row = place_of(text)
    return Shown(
        release=release,
        version=version,
        row_key=entry["row_key"],
        outcome=entry["outcome"],
        source=entry["source"],
        dataset=text["dataset"] if text else None,
        variety=f"{text['language']}_{text['script']}" if text else None,
        license=text["license"] if text else None,
        file=file,
        row=row,
        messages=_turns(text["chosen"] or text["messages"]) if text else (),
        rejected=_turns(text["rejected"]) if text else (),
        stage=entry["stage"],
        rule=entry["rule"],
        value=entry["value"],
        threshold=entry["threshold"],
        evidence=entry["evidence"],
        partner=entry["partner"],
        note=note,
    )


def _turns(messages: Iterable[Mapping[str, str]] | None) -> tuple[Turn, ...]:
    return tuple((message["role"], message["content"]) for message in messages or ())


def render(rows: Sequence[Shown], width: int = 100) -> str:
    """Print rows for people, ``width`` cells wide; text of rows is made harmless for a terminal."""
    if not rows:
        return "No rows."
    return "\n\n".join("\n".join(_lines(row, max(40, width))) for row in rows)


def _lines(row: Shown, width: int) -> Iterator[str]:
    head = [row.outcome.replace("_", " ")]
    if row.variety:
        head.append(f"{languages.name(row.variety)} ({row.variety})")
    shown = row.source if row.dataset in (None, "", row.source) else f"{row.source}, {row.dataset}"
    head += [cut(inline(shown), 60), *([row.license] if row.license else [])]
    title = " · ".join(head)
    yield f"── {title} " + "─" * max(0, width - len(title) - 4)
    place = f" from {inline(row.file)}, record {row.row}" if row.file else ""
    yield f"{row.row_key}{place}"
    if row.stage:
        yield f"{inline(row.stage)}: {row.outcome.replace('_', ' ')}{_because(row)}"
        if row.partner:
            yield f"  {'into' if row.outcome == 'merged' else 'by'} {row.partner}"
    if row.note:
        yield f"({row.note})"
    if row.rejected:
        shared = _shared(row.messages, row.rejected)
        yield from _conversation(row.messages[:shared], width)
        yield from _conversation(row.messages[shared:], width, "chosen")
        yield from _conversation(row.rejected[shared:], width, "rejected")
    else:
        yield from _conversation(row.messages, width)


def _shared(one: Sequence[Turn], other: Sequence[Turn]) -> int:
    same = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        same += 1
    return min(same, len(one) - 1, len(other) - 1)


def _conversation(turns: Sequence[Turn], width: int, label: str | None = None) -> Iterator[str]:
    for role, content in turns:
        name = label or cut(inline(role), 10)
        for number, line in enumerate(wrapped(cut(content, CHARACTERS), width - 12, LINES)):
            yield f"{name if number == 0 else '':<11} {line}"


def _because(row: Shown) -> str:
    given = [("rule", row.rule), ("value", row.value), ("threshold", row.threshold)]
    parts = [f"{name} {inline(cut(value, 80))}" for name, value in given if value is not None]
    if row.evidence:
        parts.append(inline(cut(row.evidence, 160)))
    return f" by {', '.join(parts)}" if parts else ""
