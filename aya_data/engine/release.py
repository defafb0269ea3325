"""Writing a release: shards, ledger, edges, manifest, lock, card, attribution; then one rename.

    <name>/<version>/
      data/<variety>/<split>-00000-of-00001.parquet        conversations
      preference/<variety>/…    prompts/<variety>/…        other kinds of row, where there are any
      ledger/ledger-00000.parquet   ledger/edges-00000.parquet
      generation/<view>-00000.parquet    what models were asked and how their answers fared, where any were
      manifest.json   aya.lock   README.md   ATTRIBUTION.md   dataset_info.json

The version is the hash of what the files say (shards, ledger, lock), so the same lock gives the same
bytes under the same name. Nothing here holds wall time, paths of the machine, or secrets.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from aya_data import __version__
from aya_data.core import durable
from aya_data.core.identity import digest
from aya_data.core.ledger import LEDGER
from aya_data.core.logical import combined_digest, logical_digest
from aya_data.core.store import UNFINISHED, Part, PartWriter, Workspace, file_digest, open_part
from aya_data.engine.codekey import library_version
from aya_data.engine.keying import Keys
from aya_data.engine.sql import connect, file_table, literal

if TYPE_CHECKING:
    from aya_data.engine.plan import Plan
    from aya_data.engine.running import Generation

__all__ = ["FOLDERS", "Begun", "Documents", "LedgerPart", "Result", "ShardFile", "begin_release", "write_release"]

FOLDERS = {"conversation": "data", "preference": "preference", "prompt": "prompts"}
"""The folder of each kind of row."""

Documents = Callable[[Mapping[str, Any]], Mapping[str, str]]
"""From a manifest to the texts that go with it (card, attribution …), by file name."""

EDGES = pa.schema([pa.field("child", pa.string()), pa.field("parent", pa.string()), pa.field("source", pa.string())])
LEDGER_ROWS = 2_000_000
"""Rows per ledger file."""
STREAM_BLOCK = 65_536
"""Rows of ledger and edges that are digested together; a part of the definition of a version."""

VOICE = ("identity", "pinned", "answers", "asked", "absent", "failed", "reasons")
"""What the manifest says of a voice: ``answers`` are different requests, ``asked`` those of all rows, of which it had
none for ``absent`` and ``failed`` at others, for the most usual ``reasons``."""

LIBRARIES = (
    "pyarrow", "duckdb", "numpy", "pydantic", "jinja2", "fasttext-numpy2-wheel", "sentencepiece", "tokenizers",
)  # fmt: skip
"""Distributions whose version may change the bytes of a release."""


@dataclass(slots=True)
class LedgerPart:
    """Ledger entries of one task; ``keys`` are new keys of entries of the read stage."""

    part: Part
    keys: Keys | None = None
    wave: int = -1


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One shard in the store, with what it holds."""

    part: Part
    facts: Mapping[str, Any]
    kind: str
    variety: str
    split: str
    number: int
    of: int
    rows: int

    @property
    def path(self) -> str:
        """Its path in the release."""
        return f"{FOLDERS[self.kind]}/{self.variety}/{self.split}-{self.number:05d}-of-{self.of:05d}.parquet"


@dataclass(frozen=True, slots=True)
class Result:
    """A release on disk. ``fresh`` is false when it was there already."""

    name: str
    version: str
    path: Path
    rows: int
    digest: str
    manifest: Mapping[str, Any] = field(repr=False)
    fresh: bool


@dataclass(frozen=True, slots=True)
class Begun:
    """A release of which all is written that needs no shards: what it says of rows that may not be in it.

    ``files`` are those of ledger, edges and views of generation; ``digests`` are logical ones, of the ledger, of the
    edges, and of the views by name. ``rules`` are counts of ledger entries.
    """

    folder: Path
    files: list[dict[str, Any]]
    digests: tuple[str, str, Mapping[str, str]]
    rules: list[dict[str, Any]]


def begin_release(
    plan: Plan,
    workspace: Workspace,
    ledgers: Sequence[LedgerPart],
    order: Sequence[str],
    parts: Sequence[tuple[Part, Keys | None]],
    generations: Mapping[str, Generation],
    *,
    temporary: Path,
    memory: int,
    threads: int,
) -> Begun:
    """Write ledger and edges, while shards may still be on their way. ``order`` is that of the stages in the ledger."""
    fresh = workspace.releases / plan.spec.name / f"{UNFINISHED}{plan.spec.profile}"
    durable.remove(fresh)
    durable.make_folder(fresh / "ledger")
    with connect(temporary, memory, threads) as con:
        ledger_files, ledger_digest, rules = _write_ledger(con, workspace, ledgers, fresh, order)
        edge_files, edge_digest = _write_edges(con, workspace, parts, fresh)
        view_files, views = _write_views(con, workspace, generations, fresh)
    return Begun(fresh, ledger_files + edge_files + view_files, (ledger_digest, edge_digest, views), rules)


def write_release(
    plan: Plan,
    workspace: Workspace,
    begun: Begun,
    shards: Sequence[ShardFile],
    stages: Sequence[tuple[str, Mapping[str, int]]],
    epochs: Mapping[str, Mapping[str, int]],
    statistics: Mapping[str, Mapping[str, Any]],
    generations: Mapping[str, Generation],
    documents: Documents,
) -> Result:
    """Write the release of a finished build, or find that it is there. Raises WorkspaceUnusable."""
    spec = plan.spec
    fresh, rules = begun.folder, begun.rules
    home = fresh.parent
    files = [_place(workspace, shard, fresh) for shard in shards]
    for folder in sorted({(fresh / shard.path).parent for shard in shards}):
        durable.sync_folder(folder)
    rows_digest = combined_digest([(shard.path, str(shard.facts["digest"])) for shard in shards])
    lock = _lock(plan, generations)
    durable.write_json(fresh / "aya.lock", lock)
    ledger_digest, edge_digest, views = begun.digests
    version = version_of(rows_digest, ledger_digest, edge_digest, (fresh / "aya.lock").read_bytes(), views)
    manifest: dict[str, Any] = {
        "name": spec.name,
        "version": version,
        "digest": rows_digest,
        "description": spec.description,
        "profile": spec.profile,
        "policy": spec.policy if isinstance(spec.policy, str) else "written out",
        "made_with": {"aya-data": __version__},
        "rows": sum(shard.rows for shard in shards),
        "files": files + begun.files,
        "stages": [{"name": name, **counts} for name, counts in stages],
        "sources": _source_facts(plan, shards, epochs, rules),
        "languages": _language_facts(shards),
        "licenses": _license_facts(shards),
        "terms": sorted({term for shard in shards for term in shard.facts["terms"]}),
        "rules": rules,
        "statistics": statistics,
        "assertions": _assertions(plan),
    }
    if generations:
        manifest["generation"] = {name: made.report for name, made in sorted(generations.items())}
        manifest["voices"] = [
            {"source": name, "step": step, **{key: voice[key] for key in VOICE}}
            for name, made in sorted(generations.items())
            for step, voice in sorted(made.voices.items())
        ]
    written = documents(manifest)
    for name, text in sorted(written.items()):
        durable.write_bytes(fresh / name, text.encode())
    for name in sorted([*written, "aya.lock"]):
        path = fresh / name
        manifest["files"].append({"path": name, "bytes": path.stat().st_size, "digest": file_digest(path)})
    durable.write_json(fresh / "manifest.json", manifest)
    final = home / version
    here = (fresh / "manifest.json").read_bytes()
    if final.is_dir() and (final / "manifest.json").exists() and (final / "manifest.json").read_bytes() == here:
        intact = all(
            (final / f["path"]).exists() and file_digest(final / f["path"]) == f["digest"] for f in manifest["files"]
        )
        if intact:
            durable.remove(fresh)
            return Result(spec.name, version, final, manifest["rows"], rows_digest, manifest, False)
    durable.remove(final)
    durable.replace(fresh, final)
    return Result(spec.name, version, final, manifest["rows"], rows_digest, manifest, True)


def version_of(rows: str, ledger: str, edges: str, lock: bytes, views: Mapping[str, str]) -> str:
    """The version of a release whose shards, ledger, edges and views of generation have these logical digests."""
    named = [f"{name}:{found}" for name, found in sorted(views.items())]
    return digest("release", rows, ledger, edges, lock, *named)[:12]


def stream_digest(name: str, blocks: Iterable[str]) -> str:
    """The logical digest of the ``ledger``, the ``edges`` or a view of generation from those of its blocks.

    A block is :data:`STREAM_BLOCK` rows of a file, or what is left of it; see :func:`stream_block`.
    """
    return digest(name, *blocks)


def stream_block(table: pa.Table) -> str:
    """The logical digest of one block: where a row was found says nothing of what it is."""
    return logical_digest(table.drop_columns([name for name in ("file", "row") if name in table.column_names]))


def _place(workspace: Workspace, shard: ShardFile, release: Path) -> dict[str, Any]:
    """Copy a shard from the store after checking it; a copy, so that damage to one cannot reach the other."""
    source = workspace.store.check(shard.part)
    target = release / shard.path
    with durable.open_new(target, sync=False) as out, source.open("rb") as file:
        shutil.copyfileobj(file, out, 8 << 20)
    return {
        "path": shard.path,
        "bytes": shard.part.bytes,
        "digest": shard.part.digest,
        "logical": shard.facts["digest"],
        "rows": shard.rows,
        "kind": shard.kind,
        "config": shard.variety,
        "split": shard.split,
    }


def _write_ledger(
    con: Any, workspace: Workspace, ledgers: Sequence[LedgerPart], release: Path, order: Sequence[str]
) -> tuple[list[dict[str, Any]], str, list[dict[str, Any]]]:
    """Sort all entries by (stage, source, row_key, …) and write them; return files, digest and counts by rule."""
    store = workspace.store
    selects = []
    for index, entry in enumerate(ledgers):
        path = literal(str(store.check(entry.part)))
        if entry.keys is None:
            continue
        renamed = pa.table({"place": pa.array(entry.keys.rows, pa.int64()), "key": list(entry.keys.keys)})
        con.register(f"renamed{index}", renamed)
        columns = ", ".join(f"l.{c}" for c in LEDGER.names if c != "row_key")
        selects.append(
            f"SELECT coalesce(r.key, l.row_key) AS row_key, {columns} FROM "
            f"read_parquet({path}, file_row_number=true) l LEFT JOIN renamed{index} r ON l.file_row_number = r.place"
        )
    plain = [literal(str(store.root / e.part.path)) for e in ledgers if e.keys is None]
    if plain:
        selects.append(f"SELECT {', '.join(LEDGER.names)} FROM read_parquet([{', '.join(plain)}])")
    if not selects:
        con.register("no_entries", LEDGER.empty_table())
        selects.append("SELECT * FROM no_entries")
    columns = ", ".join(LEDGER.names)
    con.execute(f"CREATE TEMP VIEW ledger AS {' UNION ALL '.join(f'SELECT {columns} FROM ({s})' for s in selects)}")
    numbers = pa.table({"stage": pa.array(list(order), pa.string()), "number": pa.array(range(len(order)), pa.int64())})
    con.register("stage_order", numbers)
    rules = con.execute(
        "SELECT l.stage, l.source, l.outcome, l.rule, count(*) AS rows FROM ledger l LEFT JOIN stage_order o "
        "ON l.stage = o.stage GROUP BY ALL ORDER BY min(o.number), l.stage, l.source, l.outcome, l.rule"
    ).fetchall()
    names = ("stage", "source", "outcome", "rule", "rows")
    reader = con.sql(
        f"SELECT {', '.join('l.' + c for c in LEDGER.names)} FROM ledger l "
        "LEFT JOIN stage_order o ON l.stage = o.stage ORDER BY o.number, l.stage, l.source, l.row_key, l.outcome, "
        "l.rule, l.value, l.evidence, l.partner, l.file, l.row"
    ).to_arrow_reader(STREAM_BLOCK)
    files, found = _write_stream(reader, LEDGER, release, "ledger")
    return files, found, [dict(zip(names, row, strict=True)) for row in rules]


def _write_edges(
    con: Any, workspace: Workspace, parts: Sequence[tuple[Part, Keys | None]], release: Path
) -> tuple[list[dict[str, Any]], str]:
    """Write who was made from whom, for every row that has parents, released or not."""
    store = workspace.store
    con.execute("CREATE TEMP TABLE edges (child VARCHAR, parent VARCHAR, source VARCHAR)")
    for part, _ in parts:
        store.check(part)
    if parts:
        file_table(con, "edge_files", store, [part for part, _ in parts])
        listed = ", ".join(literal(str(store.root / part.path)) for part, _ in parts)
        renames = [
            (part.path, row, key) for part, keys in parts if keys for row, key in zip(keys.rows, keys.keys, strict=True)
        ]
        con.register(
            "edge_keys",
            pa.table(
                {
                    "name": pa.array([r[0] for r in renames], pa.string()),
                    "place": pa.array([r[1] for r in renames], pa.int64()),
                    "key": pa.array([r[2] for r in renames], pa.string()),
                }
            ),
        )
        con.execute(
            "INSERT INTO edges SELECT coalesce(k.key, r.row_key), unnest(r.provenance.parents), r.source "
            f"FROM read_parquet([{listed}], filename=true, file_row_number=true) r "
            "JOIN edge_files f ON r.filename = f.file "
            "LEFT JOIN edge_keys k ON k.name = f.name AND k.place = r.file_row_number "
            "WHERE len(r.provenance.parents) > 0"
        )
    reader = con.sql("SELECT child, parent, source FROM edges ORDER BY ALL").to_arrow_reader(STREAM_BLOCK)
    return _write_stream(reader, EDGES, release, "edges")


def _write_views(
    con: Any, workspace: Workspace, generations: Mapping[str, Generation], release: Path
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Write what sources that ask models keep beside their rows, sorted: one view of all sources after the other."""
    store = workspace.store
    files: list[dict[str, Any]] = []
    digests: dict[str, str] = {}
    for view in sorted({view for made in generations.values() for view in made.published}):
        selects = []
        schemas: list[pa.Schema] = []
        for source, made in sorted(generations.items()):
            parts = made.published.get(view, [])
            if parts:
                listed = ", ".join(literal(str(store.check(part))) for part in parts)
                selects.append(f"SELECT {literal(source)} AS source, * FROM read_parquet([{listed}])")
                schemas.append(pq.read_schema(store.root / parts[0].path).remove_metadata())
        reader = con.sql(f"{' UNION ALL BY NAME '.join(selects)} ORDER BY ALL").to_arrow_reader(STREAM_BLOCK)
        durable.make_folder(release / "generation")
        whole = pa.schema([pa.field("source", pa.string()), *pa.unify_schemas(schemas)])
        written, digests[view] = _write_stream(reader, whole, release, view, "generation")
        files += [{**file, "view": view} for file in written]
    return files, digests


def _write_stream(
    reader: Any, schema: pa.Schema, release: Path, name: str, folder: str = "ledger"
) -> tuple[list[dict[str, Any]], str]:
    """Stream sorted batches into files of at most :data:`LEDGER_ROWS` rows; return them and a logical digest."""
    files: list[dict[str, Any]] = []
    digests: list[str] = []
    block: list[pa.Table] = []
    waiting = 0

    def put(writer: PartWriter, table: pa.Table) -> None:
        writer.write(table)
        digests.append(stream_block(table))

    batches = iter(reader)
    done = False
    while not done:
        path = release / folder / f"{name}-{len(files):05d}.parquet"
        with open_part(path, schema, STREAM_BLOCK) as (writer, finished):
            while writer.rows + waiting < LEDGER_ROWS:
                batch = next(batches, None)
                if batch is None:
                    done = True
                    break
                block.append(pa.Table.from_batches([batch]).cast(schema))
                waiting += block[-1].num_rows
                if waiting >= STREAM_BLOCK:
                    joined = pa.concat_tables(block).combine_chunks()
                    put(writer, joined.slice(0, STREAM_BLOCK))
                    rest = joined.slice(STREAM_BLOCK)
                    block, waiting = ([rest] if rest.num_rows else []), rest.num_rows
            while waiting and (done or writer.rows < LEDGER_ROWS):
                joined = pa.concat_tables(block).combine_chunks()
                take = min(STREAM_BLOCK, LEDGER_ROWS - writer.rows)
                put(writer, joined.slice(0, take))
                rest = joined.slice(take)
                block, waiting = ([rest] if rest.num_rows else []), rest.num_rows
        part = finished[0]
        files.append({"path": f"{folder}/{part.path}", "bytes": part.bytes, "digest": part.digest, "rows": part.rows})
    return files, stream_digest(name, digests)


def _lock(plan: Plan, generations: Mapping[str, Generation]) -> dict[str, Any]:
    """Everything that the release was made from: spec, revisions, digests, code keys, versions, platform."""
    asked = {name: dict(sorted(made.voices.items())) for name, made in sorted(generations.items())}
    return {
        "spec": plan.spec.canonical(),
        **({"generation": asked} if asked else {}),
        "limit": plan.limit,
        "sources": {
            name: {
                "builder": source.builder_name,
                "pins": source.builder.pins(),
                "code": source.code,
                "input": digest(*sorted(f"{u.digest}|{u.slice}" for u in source.units)),
                "files": len({u.name for u in source.units}),
            }
            for name, source in sorted(plan.sources.items())
        },
        "filters": [{"name": f.name, "pins": f.filter.pins(), "code": f.code} for f in plan.chain],
        "versions": {
            "aya-data": __version__,
            "python": platform.python_version(),
            **{name: library_version(name) for name in LIBRARIES},
        },
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _source_facts(
    plan: Plan,
    shards: Sequence[ShardFile],
    epochs: Mapping[str, Mapping[str, int]],
    rules: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    by_group: dict[str, list[list[Any]]] = {}
    for shard in shards:
        for source, dataset, origin, license_, count in shard.facts["groups"]:
            by_group.setdefault(source, []).append([dataset, origin, license_, count])
    facts = []
    for name, source in sorted(plan.sources.items()):
        pins = source.builder.pins()
        taken = epochs.get(name, {"rows": 0, "distinct": 0})
        merged: dict[tuple[str, str, str], int] = {}
        for dataset, origin, license_, count in by_group.get(name, []):
            key = (str(dataset), str(origin), str(license_))
            merged[key] = merged.get(key, 0) + int(count)
        lost: dict[str, int] = {}
        for rule in rules:
            if rule["source"] == name and rule["outcome"] != "flagged":
                lost[rule["stage"]] = lost.get(rule["stage"], 0) + int(rule["rows"])
        facts.append(
            {
                "name": name,
                "builder": source.builder_name,
                "use": source.use,
                "pins": pins,
                "released": taken["rows"],
                "distinct": taken["distinct"],
                "epochs": round(taken["rows"] / taken["distinct"], 4) if taken["distinct"] else 0,
                "lost": lost,
                "parts": [
                    {"dataset": dataset, "origin": origin, "license": license_, "rows": count}
                    for (dataset, origin, license_), count in sorted(merged.items())
                ],
            }
        )
    return facts


def _language_facts(shards: Sequence[ShardFile]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for shard in shards:
        key = (shard.kind, shard.variety, shard.split)
        entry = found.setdefault(
            key,
            {"kind": shard.kind, "variety": shard.variety, "split": shard.split, "rows": 0, "chars": 0, "tokens": None},
        )
        entry["rows"] += shard.rows
        entry["chars"] += shard.facts["chars"]
        if shard.facts["tokens"] is not None:
            entry["tokens"] = (entry["tokens"] or 0) + shard.facts["tokens"]
    return [found[key] for key in sorted(found)]


def _license_facts(shards: Sequence[ShardFile]) -> list[dict[str, Any]]:
    found: dict[str, int] = {}
    for shard in shards:
        for _, _, _, license_, count in shard.facts["groups"]:
            found[license_] = found.get(license_, 0) + int(count)
    return [{"license": name, "rows": rows} for name, rows in sorted(found.items())]


def _assertions(plan: Plan) -> list[dict[str, str]]:
    """What the spec asserts about licences and terms, with its reasons."""
    found = []
    for name, source in sorted(plan.sources.items()):
        for what in ("license", "terms"):
            given = getattr(source.builder.settings, what, None)
            reason = getattr(given, "reason", None)
            assumed = getattr(given, "assume", None)
            if reason and assumed:
                text = assumed if isinstance(assumed, str) else ", ".join(assumed)
                found.append({"source": name, "what": what, "assumed": text, "reason": str(reason)})
    return found
