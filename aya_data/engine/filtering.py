"""Rows are filtered: edited, measured, judged and compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from aya_data.core.identity import canonical
from aya_data.core.stage import Editor, ReferenceFilter
from aya_data.core.store import Part
from aya_data.engine.comparing import losers_by_part
from aya_data.engine.plan import PlannedSource, Stage, edit_identity, editors_of, scope_of
from aya_data.engine.running import Counts, RowPart, Running, digest_of, keys_digest
from aya_data.engine.task import Task

__all__ = ["begin_measures", "compare", "edit", "index", "judge", "measure"]


def edit(run: Running, stage: Stage) -> Counts:
    """Let editing filters change the texts of every part."""
    members = run.waves[stage.wave]
    filters = [run.plan.chain[i].filter for i in stage.filters]
    editors = [(name, made) for name, made in zip(stage.reports, filters, strict=True) if isinstance(made, Editor)]
    described = edit_identity(run.plan.chain)
    tasks = [
        run.task(
            m.part.path,
            "editing:edit",
            {"rows": m.part.digest, "keys": keys_digest(m.keys), "editors": described, "stage": stage.name},
            {"rows": m.part, "keys": m.keys, "editors": editors},
            m.part.bytes,
        )
        for m in members
    ]
    records = run.tasks(tasks)
    for m, record in zip(members, records, strict=True):
        m.remade(record.parts["rows"][0])
    run.keep_ledger(records)
    return run.added(records)


def index(run: Running, stage: Stage) -> Counts:
    """Make what a filter compares every part with, from the rows of the sources that it names."""
    index = stage.filters[0]
    planned = run.plan.chain[index]
    made = planned.filter
    assert isinstance(made, ReferenceFilter)
    rows = [(m.part, m.keys) for m in run.reference if m.source in made.sources]
    identity = {
        "filter": planned.name,
        "pins": made.index_pins(),
        "rows": [[part.digest, keys_digest(keys)] for part, keys in rows],
    }
    record = run.inline(" ".join(made.sources), "judging:index", identity, {"filter": made, "rows": rows}, planned.code)
    run.indices[index] = record.parts["index"][0]
    return {}


def measure(run: Running, stage: Stage) -> Counts:
    """Measure every part for one filter; workers that have nothing left of it go on with the next."""
    members = run.waves[stage.wave]
    parts = [m.part for m in members]
    tasks = _measures(run, stage, parts)
    ready = [other for other in _measuring(run, stage.wave) if other.filters >= stage.filters]
    for other in ready[:2]:
        run.executor.announce(tasks if other is stage else _measures(run, other, parts))
    for m, record in zip(members, run.tasks(tasks), strict=True):
        m.measures[stage.filters[0]] = record.parts["measures"][0]
    return {}


def begin_measures(run: Running, source: PlannedSource, parts: Sequence[Part]) -> None:
    """Let workers begin to measure parts of a source as they are made, unless rows change first (by edits or a limit)
    or are only compared with."""
    if source.use != "benchmark" and run.plan.limit is None and not editors_of(run.plan.chain):
        measuring = _measuring(run, source.wave)
        run.executor.announce([task for stage in measuring for task in _measures(run, stage, parts)])


def _measuring(run: Running, wave: int) -> Iterator[Stage]:
    """The stages that measure the parts of a wave, and have what they need for it: an index, compiled kernels."""
    for stage in run.plan.stages:
        if stage.kind == "measure" and stage.wave == wave:
            planned = run.plan.chain[stage.filters[0]]
            indexed = not isinstance(planned.filter, ReferenceFilter) or stage.filters[0] in run.indices
            if indexed and run.warming.warm(planned.code):
                yield stage


def _measures(run: Running, stage: Stage, parts: Sequence[Part]) -> list[Task]:
    index = stage.filters[0]
    planned = run.plan.chain[index]
    against = run.indices.get(index)
    scope = scope_of(run.plan.chain, index)
    identity = {
        "filter": planned.name,
        "pins": planned.measure_pins,
        "index": against.digest if against else "",
        "scope": [scope.code, canonical(scope.identity)] if scope else [],
    }
    return [
        run.task(
            part.path,
            "judging:measure",
            {**identity, "rows": part.digest},
            {"filter": planned.filter, "rows": part, "index": against, "scope": scope.filter if scope else None},
            part.bytes,
            planned.code,
            stage.name,
        )
        for part in parts
    ]


def judge(run: Running, stage: Stage) -> Counts:
    """Judge every part by the row filters of one segment of the chain."""
    members = run.waves[stage.wave]
    chain = run.plan.chain
    names = dict(zip(stage.filters, stage.reports, strict=True))
    tasks = []
    for m in members:
        filters = [(names[i], chain[i].filter, m.measures.get(i)) for i in stage.filters]
        identity = {
            "rows": m.part.digest,
            "keys": keys_digest(m.keys) if m.selection is None else "",
            "selection": m.selection.digest if m.selection else "",
            "losers": digest_of(np.array(m.losers, np.int64)),
            "filters": [[names[i], chain[i].code, chain[i].identity] for i in stage.filters],
            "measures": [m.measures[i].digest if i in m.measures else "" for i in stage.filters],
        }
        arguments = {
            "rows": m.part, "keys": m.keys, "selection": m.selection, "losers": m.losers, "filters": filters
        }  # fmt: skip
        tasks.append(run.task(m.part.path, "judging:judge", identity, arguments, m.part.bytes // 4))
    records = run.tasks(tasks)
    for m, record in zip(members, records, strict=True):
        m.selection, m.losers = record.parts["selection"][0], []
        for name, counted in record.facts.get("statistics", {}).items():
            run.count(name, counted)
    run.keep_ledger(records)
    return run.added(records)


def compare(run: Running, stage: Stage) -> Counts:
    """Compare rows of one use with each other: a prompt must not displace a row that is released."""
    index = stage.filters[0]
    planned = run.plan.chain[index]
    earlier = [m for wave in run.waves[: stage.wave] for m in wave]
    by_use = _by_use(run, run.waves[stage.wave])
    settled_by_use = _by_use(run, earlier)
    tasks = []
    for use, members in by_use.items():
        settled = settled_by_use.get(use, [])
        selections = [m.selection for m in members if m.selection is not None]
        before = [m.selection for m in settled if m.selection is not None]
        measures = [m.measures[index] for m in (*members, *settled) if index in m.measures]
        identity = {
            "filter": planned.identity,
            "stage": stage.name,
            "selections": [part.digest for part in selections],
            "settled": [part.digest for part in before],
            "measures": [part.digest for part in measures],
        }
        arguments = {
            "filter": planned.filter,
            "stage": stage.name,
            "selections": selections,
            "settled": before,
            "rows": [m.part for m in (*members, *settled)],
            "measures": measures,
            **run.exchange,
        }
        tasks.append(run.task(f"{use} rows", "comparing:compare", identity, arguments, 0, planned.code))
    records = run.tasks(tasks)
    for members, record in zip(by_use.values(), records, strict=True):
        run.links.extend(record.parts.get("links", ()))
        lost = losers_by_part(run.store, record.parts["losers"][0], len(members))
        for m, rows in zip(members, lost, strict=True):
            m.losers = rows
    run.keep_ledger(records)
    return run.added(records)


def _by_use(run: Running, members: Sequence[RowPart]) -> dict[str, list[RowPart]]:
    found: dict[str, list[RowPart]] = {}
    for m in members:
        if m.selection is not None:
            found.setdefault(run.plan.sources[m.source].use, []).append(m)
    return dict(sorted(found.items()))
