"""Registering: the catalog is made anew from the manifests of all releases, then swapped in by one rename.

Readers keep the file that they opened; new ones see the new file. It costs one footer per view and
release, never a look at the rows: milliseconds for some hundred shards. The file has an old storage version, so
that older DuckDB clients open it.

A release folder that is damaged never stops the others: ``releases.problem`` names what is wrong,
and what is sound of it is registered.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import duckdb

from aya_data.core import durable
from aya_data.core import language as languages
from aya_data.core import license as licenses
from aya_data.core.errors import WorkspaceUnusable
from aya_data.core.identity import digest
from aya_data.core.ledger import COUNTS
from aya_data.core.store import UNFINISHED, Workspace

__all__ = ["STORAGE", "Found", "find_releases", "made_for", "quoted", "quoted_glob", "register"]

DATA_FILES = ("schema.sql", "arbitration.sql")

STORAGE: Final = "v1.2.0"
"""Storage version of the file: the oldest that has every feature used here."""

MAIN_KINDS: Final[Mapping[str, str]] = {"conversation": "data", "preference": "preference", "prompt": "prompts"}
MESSAGES: Final[Mapping[str, str]] = {"conversation": "messages", "preference": "chosen", "prompt": "prompt"}
"""The column of each kind of row that the view shows as ``messages``."""

GENERATION: Final = ("completions", "failures", "scores", "decisions", "pairs")
"""Views of what models were asked and how their answers fared."""

PASSED_ON: Final = (
    "id", "row_key", "group", "language", "script", "source_language", "source", "source_dataset", "origin", "task",
    "license", "terms", "provenance", "tools", "extra", "n_tokens", "epoch", "rejected", "margin", "chosen_score",
    "rejected_score", "chosen_model", "rejected_model",
)  # fmt: skip


@dataclass(slots=True)
class Found:
    """A release folder as it was found. ``manifest`` is empty where it cannot be read."""

    name: str
    version: str
    path: Path
    manifest: dict[str, Any] = field(default_factory=dict)
    latest: bool = False
    problems: list[str] = field(default_factory=list)


def register(workspace: Workspace, path: Path | None = None) -> Path:
    """Write ``catalog.duckdb``, or ``path``, from the manifests of all releases and return its path.

    Raises :class:`~aya_data.core.errors.WorkspaceUnusable` when the file cannot be written.
    """
    path = path or workspace.catalog
    durable.make_folder(path.parent)
    fresh = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}{durable.TEMPORARY}")
    leftovers = [fresh, fresh.with_name(fresh.name + ".wal")]
    for leftover in leftovers:
        if leftover.exists():
            durable.remove(leftover)
    try:
        with duckdb.connect(str(fresh), config={"storage_compatibility_version": STORAGE, "threads": 1}) as con:
            _fill(con, workspace)
            con.execute("CHECKPOINT")
        stale = path.with_name(path.name + ".wal")
        if stale.exists():
            durable.remove(stale)
        durable.replace(fresh, path)
    except (duckdb.Error, OSError) as error:
        raise WorkspaceUnusable(str(path), str(error).splitlines()[0]) from error
    finally:
        for leftover in leftovers:
            if leftover.exists():
                durable.remove(leftover)
    return path


def find_releases(workspace: Workspace) -> list[Found]:
    """Return all release folders by name and version, each with its manifest or what is wrong with it.

    ``latest`` is the version that a note of the last build names (``builds/<name>.<profile>.json``; the
    newest note where profiles differ); without a note it is the newest manifest. Manifests hold no
    time, so both rest on the modification times of files; they decide nothing else.
    """
    found = []
    for folder in sorted(workspace.releases.glob("*/*")):
        if folder.is_dir() and not folder.name.startswith(UNFINISHED):
            found.append(_look_at(folder))
    built = _built(workspace)
    by_name: dict[str, list[Found]] = {}
    for release in found:
        by_name.setdefault(release.name, []).append(release)
    for name, versions in by_name.items():
        times = built.get(name, {})
        versions_built = [release for release in versions if release.version in times]
        newest = max(
            versions_built or versions,
            key=lambda r: (times.get(r.version) or _modified(r.path / "manifest.json"), r.version),
        )
        newest.latest = True
    return found


def _look_at(folder: Path) -> Found:
    release = Found(folder.parent.name, folder.name, folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if not isinstance(manifest, dict):
            raise ValueError("not an object")
        missing = [name for name in ("name", "version", "files", "stages", "sources", "rows") if name not in manifest]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except FileNotFoundError:
        release.problems.append("manifest.json is missing")
        return release
    except (OSError, ValueError) as error:
        release.problems.append(f"manifest.json cannot be read: {error}")
        return release
    release.manifest = manifest
    return release


def _built(workspace: Workspace) -> dict[str, dict[str, int]]:
    """The versions that the notes of builds name, with the time of the note."""
    found: dict[str, dict[str, int]] = {}
    for path in sorted(workspace.builds.glob("*.json")):
        try:
            note = json.loads(path.read_bytes())
            name, version = note["name"], note["version"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if version:
            times = found.setdefault(name, {})
            times[version] = max(times.get(version, 0), _modified(path))
    return found


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _fill(con: duckdb.DuckDBPyConnection, workspace: Workspace) -> None:
    schema, arbitration = _statements()
    con.execute(schema)
    _insert(con, "shape.workspace", [made_for(workspace)])
    selects: dict[str, list[str]] = {view: [] for view in ("rows", "ledger", "edges", *GENERATION)}
    for release in find_releases(workspace):
        if release.manifest:
            try:
                facts = _facts(release)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                release.problems.append(f"manifest.json cannot be read: {type(error).__name__} {error}")
            else:
                for table, rows in facts.items():
                    _insert(con, table, rows)
                for view, select in _views(con, release):
                    selects[view].append(select)
        manifest = release.manifest
        _insert(con, "releases", [(
            release.name, release.version, release.latest, manifest.get("profile"), manifest.get("policy"),
            manifest.get("description"), manifest.get("rows"), manifest.get("digest"),
            (manifest.get("made_with") or {}).get("aya-data"), str(release.path), "; ".join(release.problems) or None,
        )])  # fmt: skip
    for view, listed in selects.items():
        union = " UNION ALL BY NAME ".join([f"SELECT * FROM shape.{view}", *listed])
        con.execute(f"CREATE VIEW {view} AS {union}")
    con.execute(arbitration)


def _statements() -> list[str]:
    return [files("aya_data.catalog").joinpath(name).read_text(encoding="utf-8") for name in DATA_FILES]


def made_for(workspace: Workspace) -> tuple[str, str]:
    """Return what a catalog says of itself that this code makes for ``workspace``: its folder, since the views hold
    absolute paths, and a digest of the layout."""
    return str(workspace.root), digest(*_statements())


def _insert(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows, many with one statement: one for each costs a millisecond."""
    for start in range(0, len(rows), 500):
        chunk = rows[start : start + 500]
        holders = f"({', '.join('?' * len(chunk[0]))})"
        values = [value for row in chunk for value in row]
        con.execute(f"INSERT INTO {table} VALUES {', '.join([holders] * len(chunk))}", values)


def _facts(release: Found) -> dict[str, list[tuple[Any, ...]]]:
    manifest = release.manifest
    own = (release.name, release.version)
    shards = [f for f in manifest["files"] if "kind" in f]
    main = next((kind for kind in MAIN_KINDS if any(f["kind"] == kind for f in shards)), None)
    found: dict[str, list[tuple[Any, ...]]] = {
        "stages": [
            (*own, number, stage["name"], *(stage[count] for count in COUNTS))
            for number, stage in enumerate(manifest["stages"])
        ],
        "sources": [
            (*own, s["name"], s["builder"], s["use"], _lost(manifest, s["name"]), s["distinct"], s["released"],
             s["epochs"], {str(name): str(value) for name, value in s["pins"].items()})
            for s in manifest["sources"]
        ],
        "shards": [
            (*own, f["kind"], f["config"], _config(f["kind"], f["config"], main), f["split"], f["rows"], f["bytes"],
             f["digest"], f["logical"], f["path"])
            for f in shards
        ],
        "languages": [],
        "licenses": [],
        "rules": [
            (*own, rule["stage"], rule["source"], rule["outcome"], rule["rule"], rule["rows"])
            for rule in manifest["rules"]
        ],
    }  # fmt: skip
    found["teachers"] = [
        (*own, release.latest, source, row["teacher"], row["language"], row["script"], row["asked_for"], row["prompts"])
        for source, report in sorted(manifest.get("generation", {}).items())
        for row in report.get("teachers", ())
    ]
    found["statistics"] = [
        (*own, release.latest, stage, name, dict(zip(statistic["keys"], row, strict=False)), measure, value)
        for stage, statistics in manifest.get("statistics", {}).items()
        for name, statistic in statistics.items()
        for row in statistic["rows"]
        for measure, value in zip(statistic["values"], row[len(statistic["keys"]) :], strict=True)
    ]
    for row in manifest["languages"]:
        language, _, script = row["variety"].partition("_")
        name = languages.name(row["variety"])
        place = (row["kind"], row["variety"], row["split"])
        found["languages"].append((*own, *place, language, script, name, row["rows"], row["chars"], row["tokens"]))
    for row in manifest["licenses"]:
        held = licenses.from_expression(row["license"])
        facts = (held.use, held.attribution, held.share_alike, held.derivatives)
        found["licenses"].append((*own, row["license"], *facts, row["rows"]))
    return found


def _lost(manifest: Mapping[str, Any], source: str) -> int:
    """Rows of a source that are not in the release. What a builder used up to make rows is none of them."""
    lost = 0
    for rule in manifest["rules"]:
        used = rule["outcome"] == "consumed" and rule["stage"].startswith(("read:", "derive:"))
        if rule["source"] == source and rule["outcome"] != "flagged" and not used:
            lost += rule["rows"]
    return lost


def _config(kind: str, variety: str, main: str | None) -> str:
    return variety if kind == main else f"{MAIN_KINDS[kind]}-{variety}"


def _views(con: duckdb.DuckDBPyConnection, release: Found) -> Iterator[tuple[str, str]]:
    """The selects of one release that work: its files are there, of their size, and have the columns."""
    sound = [
        file for file in release.manifest["files"] if str(file["path"]).endswith(".parquet") and _sound(release, file)
    ]
    groups: dict[tuple[str, ...], list[str]] = {}
    for file in sound:
        if "kind" in file:
            key: tuple[str, ...] = ("rows", file["kind"], file["split"])
        elif "view" in file:
            if file["view"] not in GENERATION:
                continue
            key = (file["view"],)
        else:
            key = ("edges" if "/edges-" in file["path"] else "ledger",)
        groups.setdefault(key, []).append(str(release.path / file["path"]))
    shards = [file for file in release.manifest["files"] if "kind" in file]
    main = next((kind for kind in MAIN_KINDS if any(f["kind"] == kind for f in shards)), None)
    head = (
        f"{quoted(release.name)} AS release, {quoted(release.version)} AS version, "
        f"{'true' if release.latest else 'false'} AS latest"
    )
    for key, paths in groups.items():
        listed = ", ".join(quoted_glob(path) for path in paths)
        try:
            if key[0] in GENERATION:
                select = f"SELECT {head}, * FROM read_parquet([{listed}])"
            elif key[0] == "rows":
                select = _rows_select(con, release, head, key[1], key[2], listed, main)
            else:
                columns = 'stage, source, row_key, outcome, rule, value, threshold, evidence, partner, file, "row"'
                columns = "child, parent, source" if key[0] == "edges" else columns
                select = f"SELECT {head}, {columns} FROM read_parquet([{listed}])"
            con.execute(f"SELECT * FROM ({select}) LIMIT 0")
        except duckdb.Error as error:
            release.problems.append(f"{' '.join(key)}: {str(error).splitlines()[0]}")
        else:
            yield key[0], select


def _sound(release: Found, file: Mapping[str, Any]) -> bool:
    path = release.path / file["path"]
    if ".." in Path(file["path"]).parts or Path(file["path"]).is_absolute():
        release.problems.append(f"{file['path']} lies outside of the release")
        return False
    try:
        size = path.stat().st_size
    except OSError:
        release.problems.append(f"{file['path']} is missing")
        return False
    if size != file["bytes"]:
        release.problems.append(f"{file['path']} has {size} bytes, recorded {file['bytes']}")
        return False
    return True


def _rows_select(
    con: duckdb.DuckDBPyConnection, release: Found, head: str, kind: str, split: str, listed: str, main: str | None
) -> str:
    there = {row[0] for row in con.execute(f"DESCRIBE SELECT * FROM read_parquet([{listed}])").fetchall()}
    prefix = "" if kind == main else f"{MAIN_KINDS[kind]}-"
    columns = [
        f"{quoted(kind)} AS kind",
        "language || '_' || script AS variety",
        f"{quoted(prefix)} || language || '_' || script AS config",
        f"{quoted(split)} AS split",
        f"{MESSAGES[kind]} AS messages",
        *(f'"{name}"' for name in PASSED_ON if name in there),
        "map_from_entries(coalesce(tags, [])) AS tags",
        "map_from_entries(coalesce(scores, [])) AS scores",
        f"substr(filename, {len(str(release.path)) + 2}) AS shard",
        "file_row_number AS position",
    ]
    source = f"read_parquet([{listed}], filename = true, file_row_number = true)"
    return f"SELECT {head}, {', '.join(columns)} FROM {source}"


def quoted(text: str) -> str:
    """Quote ``text`` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def quoted_glob(path: str) -> str:
    """Quote a path where DuckDB would read it as a pattern: it stands for itself alone."""
    return quoted(escaped_glob(path))


def escaped_glob(path: str) -> str:
    """Write a path as a DuckDB pattern that matches it alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)
