"""Rows come in: sources are read, rows are derived from rows, keys are made unique, and ``--limit`` takes a subset."""

from __future__ import annotations

from collections.abc import Sequence

from aya_data.core import ledger
from aya_data.core.identity import draws
from aya_data.core.store import Record
from aya_data.engine import keying
from aya_data.engine.filtering import begin_measures
from aya_data.engine.plan import PlannedSource, Stage
from aya_data.engine.reading import bundles
from aya_data.engine.release import LedgerPart
from aya_data.engine.running import Counts, RowPart, Running, keys_digest, nth
from aya_data.engine.task import Task

__all__ = ["derive", "limit", "number", "parents_of", "read", "rows_in", "threshold"]


def read(run: Running, stage: Stage) -> Counts:
    """Read one source. All sources of a wave are read together, when the first of them is due."""
    if stage.name not in run.ahead:
        _read_wave(run, stage.wave)
    records, run.cached, run.seconds = run.ahead.pop(stage.name)
    return rows_in(run, run.plan.sources[stage.source], records)


def _read_wave(run: Running, wave: int) -> None:
    due = [stage for stage in run.plan.stages if stage.kind == "read" and stage.wave == wave]
    tasks = {stage.name: _read_tasks(run, stage) for stage in due}
    every = [task for listed in tasks.values() for task in listed]
    sources = {task.key: run.plan.sources[stage.source] for stage in due for task in tasks[stage.name]}
    fresh: dict[str, float] = {}

    def then(record: Record) -> None:
        begin_measures(run, sources[record.key], record.parts.get("rows", ()))

    records = dict(zip([task.key for task in every], run.tasks(every, fresh, then), strict=True))
    for stage in due:
        mine = {task.key for task in tasks[stage.name]}
        seconds = sum(fresh.get(key, 0.0) for key in mine)
        run.ahead[stage.name] = ([records[task.key] for task in tasks[stage.name]], mine.isdisjoint(fresh), seconds)
        run.used[stage.key] = [task.key for task in tasks[stage.name]]


def _read_tasks(run: Running, stage: Stage) -> list[Task]:
    source = run.plan.sources[stage.source]
    tasks = []
    for units in bundles(source.units, run.plan.part_bytes):
        identity = {
            **source.identity,
            "units": [
                [u.digest, u.name, list(u.slice or ()), u.config, u.split, u.revision, dict(u.labels)] for u in units
            ],
            "part_bytes": run.plan.part_bytes,
        }
        arguments = {
            "builder": source.builder,
            "units": units,
            "stage": stage.name,
            "part_bytes": run.plan.part_bytes,
        }
        label = units[0].name + (f" and {len(units) - 1} more" if len(units) > 1 else "")
        size = sum(unit.size for unit in units)
        tasks.append(run.task(label, "reading:read", identity, arguments, size, source.code, stage.name))
    return tasks


def derive(run: Running, stage: Stage) -> Counts:
    """Make rows from the filtered rows of other sources."""
    source = run.plan.sources[stage.source]
    parents = parents_of(run, source)
    highest = threshold(run, source, parents)
    tasks = []
    for row_part in parents:
        identity = {
            **source.identity,
            "rows": row_part.part.digest,
            "selection": row_part.selection.digest if row_part.selection else "",
            "keys": keys_digest(row_part.keys),
            "threshold": highest,
            "part_bytes": run.plan.part_bytes,
        }
        arguments = {
            "builder": source.builder,
            "rows": row_part.part,
            "selection": row_part.selection,
            "keys": row_part.keys,
            "threshold": highest,
            "stage": stage.name,
            "part_bytes": run.plan.part_bytes,
        }
        tasks.append(
            run.task(row_part.part.path, "reading:derive", identity, arguments, row_part.part.bytes, source.code)
        )
    records = run.tasks(tasks, then=lambda record: begin_measures(run, source, record.parts.get("rows", ())))
    for record in records:
        run.consumed.extend(record.parts.get("ledger", ()))
    return rows_in(run, source, records)


def parents_of(run: Running, source: PlannedSource) -> list[RowPart]:
    """The parts whose filtered rows a source is made from."""
    return [
        row_part
        for wave in run.waves[: source.wave]
        for row_part in wave
        if row_part.source in source.builder.parents and row_part.selection is not None
    ]


def threshold(run: Running, source: PlannedSource, parents: Sequence[RowPart]) -> int | None:
    """The highest draw among the parents that ``rows`` of the builder takes."""
    wanted = source.builder.rows
    if wanted is None:
        return None
    keys = [k for p in parents if p.selection for k in run.store.read(p.selection, ["row_key"])["row_key"].to_pylist()]
    return nth(draws(run.plan.spec.seed, f"parents:{source.name}", keys), wanted)


def rows_in(run: Running, source: PlannedSource, records: Sequence[Record]) -> Counts:
    """Take the rows that a source has made into its wave."""
    into = run.reference if source.use == "benchmark" else run.waves[source.wave]
    for record in records:
        into.extend(RowPart(source.name, part) for part in record.parts.get("rows", ()))
        run.ledgers.extend(LedgerPart(part, None, source.wave) for part in record.parts.get("ledger", ()))
    counts = run.added(records)
    counts.setdefault(run.stage.name, ledger.tally())
    return counts


def number(run: Running, stage: Stage) -> Counts:
    """Make the keys of the rows of a wave unique."""
    fresh_rows = [*run.waves[stage.wave], *run.reference]
    parts = [row_part.part for row_part in fresh_rows]
    fresh = [entry for entry in run.ledgers if entry.wave == stage.wave]
    # As they were made: what was made anew has no trace of which keys were renamed.
    settled = [row_part.made or (row_part.part, row_part.keys) for wave in run.waves[: stage.wave] for row_part in wave]
    identity = {
        "parts": [part.digest for part in parts],
        "ledgers": [entry.part.digest for entry in fresh],
        "settled": [[part.digest, keys_digest(keys)] for part, keys in settled],
    }
    arguments = {"parts": parts, "ledgers": [e.part for e in fresh], "settled": settled, **run.exchange}
    record = run.inline("all parts", "keying:number", identity, arguments)
    if record.facts["renamed"]:
        keys = keying.load(run.store, record.parts["keys"][0])
        for number, row_part in enumerate(fresh_rows):
            row_part.keys = keys.get(number)
        for number, entry in enumerate(fresh, len(fresh_rows)):
            entry.keys = keys.get(number)
    return {}


def limit(run: Running, stage: Stage) -> Counts:
    """Take the keyed subset of each source that ``--limit`` asks for."""
    assert run.plan.limit is not None
    seed = run.plan.spec.seed
    by_source: dict[str, list[RowPart]] = {}
    for row_part in run.waves[stage.wave]:
        by_source.setdefault(row_part.source, []).append(row_part)
    tasks = []
    for source, members in sorted(by_source.items()):
        keys = [
            key
            for m in members
            for key in keying.with_keys(run.store.read(m.part, ["row_key"]), m.part, m.keys)["row_key"].to_pylist()
        ]
        threshold = nth(draws(seed, f"limit:{source}", keys), run.plan.limit)
        for m in members:
            identity = {
                "rows": m.part.digest,
                "keys": keys_digest(m.keys),
                "seed": seed,
                "threshold": threshold,
                "source": source,
            }
            arguments = {
                "rows": m.part,
                "keys": m.keys,
                "seed": seed,
                "source": source,
                "threshold": threshold,
                "stage": stage.name,
            }
            tasks.append(run.task(m.part.path, "reading:limit", identity, arguments, m.part.bytes))
    records = run.tasks(tasks)
    ordered = [m for _, members in sorted(by_source.items()) for m in members]
    for m, record in zip(ordered, records, strict=True):
        m.remade(record.parts["rows"][0])
    run.keep_ledger(records)
    return run.added(records)
