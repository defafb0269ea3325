"""Running a plan: the stages in order, each as tasks under keys; from the plan to a release."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aya_data.core import durable, ledger, statistics
from aya_data.core.identity import digest, draws
from aya_data.core.logical import BLOCK
from aya_data.core.stage import Editor, ReferenceFilter
from aya_data.core.store import Part, Record, Workspace
from aya_data.engine import keying
from aya_data.engine.comparing import losers_by_part
from aya_data.engine.events import Events
from aya_data.engine.plan import Plan, PlannedSource, Stage, edit_identity, engine_code
from aya_data.engine.pool import Executor
from aya_data.engine.reading import bundles
from aya_data.engine.release import Documents, LedgerPart, Result, ShardFile, write_release
from aya_data.engine.task import Task, make_task
from aya_data.engine.warming import Warming

__all__ = ["Build", "StageReport", "run"]

COMPILED = ("index", "measure", "compare")
"""Kinds of stages in which filters call what is compiled."""


@dataclass(slots=True)
class StageReport:
    """What a stage did: counts by the ledger's law, whether all of it was cached, seconds of work."""

    name: str
    key: str
    cached: bool
    counts: dict[str, int]
    seconds: float


@dataclass(slots=True)
class _RowPart:
    """One part of rows on its way: its source, new keys, and the selection of what is left of it."""

    source: str
    part: Part
    keys: keying.Keys | None = None
    selection: Part | None = None
    made: tuple[Part, keying.Keys | None] | None = None
    losers: list[int] = field(default_factory=list)
    measures: dict[int, Part] = field(default_factory=dict)

    def remade(self, part: Part) -> None:
        """Go on with ``part``, which has the new keys in it; remember the rows as they were made."""
        self.made = self.made or (self.part, self.keys)
        self.part, self.keys = part, None


@dataclass(frozen=True, slots=True)
class Build:
    """A finished build."""

    result: Result
    stages: list[StageReport]
    seconds: float


def run(
    plan: Plan,
    workspace: Workspace,
    executor: Executor,
    events: Events,
    documents: Documents,
    memory: int,
    threads: int,
) -> Build:
    """Run all stages of ``plan``; return the release. The caller holds the workspace.

    ``documents`` writes the texts of the release from its manifest. ``memory`` in bytes and ``threads``
    bound the exchanges, which run in this process.
    """
    needed = {index: None for stage in plan.stages if stage.kind in COMPILED for index in stage.filters}
    filters = [(plan.chain[index].filter, plan.chain[index].code) for index in needed]
    with Warming(filters, threads, memory) as warming:
        return _Run(plan, workspace, executor, events, documents, memory, threads, warming).go()


class _Run:
    def __init__(
        self,
        plan: Plan,
        workspace: Workspace,
        executor: Executor,
        events: Events,
        documents: Documents,
        memory: int,
        threads: int,
        warming: Warming,
    ) -> None:
        self.warming = warming
        self.plan, self.workspace, self.executor, self.events = plan, workspace, executor, events
        self.documents = documents
        self.store = workspace.store
        self.exchange: dict[str, Any] = {"temporary": workspace.temporary, "memory": memory, "threads": threads}
        self.reports: list[StageReport] = []
        self.used: dict[str, list[str]] = {}
        self.waves: list[list[_RowPart]] = [[] for _ in range(plan.waves)]
        self.reference: list[_RowPart] = []
        self.ledgers: list[LedgerPart] = []
        self.consumed: list[Part] = []
        self.indices: dict[int, Part] = {}
        self.statistics: dict[str, dict[str, list[statistics.Statistic]]] = {}
        self.links: list[Part] = []
        self.sampled: Record | None = None
        self.shards: list[ShardFile] = []
        self.result: Result | None = None
        self._stage: Stage = plan.stages[0]
        self._cached = True
        self._seconds: float | None = None
        self.ahead: dict[str, tuple[list[Record], bool, float]] = {}

    def go(self) -> Build:
        visit: Mapping[str, Callable[[Stage], dict[str, dict[str, int]]]] = {
            "read": self._read,
            "derive": self._derive,
            "keys": self._number,
            "limit": self._limit,
            "edit": self._edit,
            "index": self._index,
            "measure": self._measure,
            "judge": self._judge,
            "compare": self._compare,
            "sample": self._sample,
            "shards": self._write_shards,
            "release": self._release,
        }
        total = len(self.plan.stages)
        self.events("build", name=self.plan.spec.name, profile=self.plan.spec.profile, stages=total)
        for index, stage in enumerate(self.plan.stages):
            self._stage, self._cached, self._seconds = stage, True, None
            began = time.perf_counter()
            self.events("stage", name=stage.name, index=index, of=total)
            counts = visit[stage.kind](stage)
            self.used.setdefault(stage.key, [])
            took = time.perf_counter() - began if self._seconds is None else self._seconds
            seconds = round(took, 4)
            names = stage.reports or (stage.name,)
            for name in names:
                counted = counts.get(name, ledger.tally())
                share = round(seconds / len(names), 4)
                self.reports.append(StageReport(name, stage.key, self._cached, counted, share))
                self.events("counted", name=name, cached=self._cached, seconds=share, **counted)
                if missing := ledger.balance(counted):
                    raise AssertionError(f"stage {name} broke the law of the ledger by {missing}: {counted}")
            if stage.kind == "sample":
                self._note()
        self._note()
        assert self.result is not None
        result = self.result
        self.events("released", name=result.name, version=result.version, path=str(result.path), rows=result.rows)
        return Build(result, self.reports, round(self.events.seconds, 3))

    # Tasks -----------------------------------------------------------------------------------------

    def _tasks(self, tasks: Sequence[Task], fresh: set[str] | None = None) -> list[Record]:
        """Run tasks of the current stage and note what they used; ``fresh`` gets the keys that were not cached."""
        size = sum(task.size for task in tasks)
        self.events("tasks", name=self._stage.name, tasks=len(tasks), bytes=size)

        def done(index: int, record: Record, cached: bool) -> None:
            if not cached:
                self._cached = False
                if fresh is not None:
                    fresh.add(tasks[index].key)
            rows = sum(counted.get("rows_in", 0) for counted in record.counts.values())
            self.events(
                "task",
                name=self._stage.name,
                label=tasks[index].label,
                cached=cached,
                rows=rows,
                bytes=tasks[index].size,
            )

        self._warm(tasks)
        records = self.executor.run(tasks, done)
        self.used.setdefault(self._stage.key, []).extend(task.key for task in tasks)
        return records

    def _warm(self, tasks: Sequence[Task]) -> None:
        """Compile kernels while sources are read, if they are; have them before a filter that uses them works."""
        kind = self._stage.kind
        if (kind == "read" or kind in COMPILED) and any(self.store.get(task.key) is None for task in tasks):
            self.warming.start()
            if kind != "read":
                self.warming.wait(self.plan.chain[self._stage.filters[0]].code)

    def _task(
        self,
        label: str,
        function: str,
        identity: Mapping[str, Any],
        arguments: Mapping[str, Any],
        size: int = 0,
        code: str = "",
        stage: str = "",
    ) -> Task:
        module = function.partition(":")[0]
        key = digest(engine_code(module), code)
        return make_task(
            stage or self._stage.name, label, f"aya_data.engine.{function}", key, identity, arguments, size
        )

    def _inline(
        self, label: str, function: str, identity: Mapping[str, Any], arguments: Mapping[str, Any], code: str = ""
    ) -> Record:
        return self._tasks([self._task(label, function, identity, arguments, 0, code)])[0]

    @staticmethod
    def _sum(records: Sequence[Record]) -> dict[str, dict[str, int]]:
        names = {name for record in records for name in record.counts}
        return {name: ledger.add(r.counts[name] for r in records if name in r.counts) for name in names}

    def _keep_ledger(self, records: Sequence[Record], keys: Mapping[str, keying.Keys] | None = None) -> None:
        for record in records:
            for part in record.parts.get("ledger", ()):
                self.ledgers.append(LedgerPart(part, (keys or {}).get(part.path)))

    # Rows come in ----------------------------------------------------------------------------------

    def _read(self, stage: Stage) -> dict[str, dict[str, int]]:
        """Read one source. All sources of a wave are read together, when the first of them is due."""
        if stage.name not in self.ahead:
            self._read_wave(stage.wave)
        records, self._cached, self._seconds = self.ahead.pop(stage.name)
        return self._rows_in(self.plan.sources[stage.source], records)

    def _read_wave(self, wave: int) -> None:
        due = [stage for stage in self.plan.stages if stage.kind == "read" and stage.wave == wave]
        tasks = {stage.name: self._read_tasks(stage) for stage in due}
        began = time.perf_counter()
        every = [task for listed in tasks.values() for task in listed]
        fresh: set[str] = set()
        records = dict(zip([task.key for task in every], self._tasks(every, fresh), strict=True))
        seconds = time.perf_counter() - began
        work = sum(task.size for task in every if task.key in fresh) or 1
        for stage in due:
            mine = tasks[stage.name]
            read = sum(task.size for task in mine if task.key in fresh)
            cached = not any(task.key in fresh for task in mine)
            self.ahead[stage.name] = ([records[task.key] for task in mine], cached, seconds * read / work)
            self.used[stage.key] = [task.key for task in mine]

    def _read_tasks(self, stage: Stage) -> list[Task]:
        source = self.plan.sources[stage.source]
        tasks = []
        for units in bundles(source.units, self.plan.part_bytes):
            identity = {
                **source.identity,
                "units": [
                    [u.digest, u.name, list(u.slice or ()), u.config, u.split, u.revision, dict(u.labels)]
                    for u in units
                ],
                "part_bytes": self.plan.part_bytes,
            }
            arguments = {
                "builder": source.builder,
                "units": units,
                "stage": stage.name,
                "part_bytes": self.plan.part_bytes,
            }
            label = units[0].name + (f" and {len(units) - 1} more" if len(units) > 1 else "")
            size = sum(unit.size for unit in units)
            tasks.append(self._task(label, "reading:read", identity, arguments, size, source.code, stage.name))
        return tasks

    def _derive(self, stage: Stage) -> dict[str, dict[str, int]]:
        source = self.plan.sources[stage.source]
        parents = [
            row_part
            for wave in self.waves[: source.wave]
            for row_part in wave
            if row_part.source in source.builder.parents and row_part.selection is not None
        ]
        threshold = self._threshold(source, parents)
        tasks = []
        for row_part in parents:
            identity = {
                **source.identity,
                "rows": row_part.part.digest,
                "selection": row_part.selection.digest if row_part.selection else "",
                "keys": _keys_digest(row_part.keys),
                "threshold": threshold,
                "part_bytes": self.plan.part_bytes,
            }
            arguments = {
                "builder": source.builder,
                "rows": row_part.part,
                "selection": row_part.selection,
                "keys": row_part.keys,
                "threshold": threshold,
                "stage": stage.name,
                "part_bytes": self.plan.part_bytes,
            }
            tasks.append(
                self._task(row_part.part.path, "reading:derive", identity, arguments, row_part.part.bytes, source.code)
            )
        records = self._tasks(tasks)
        for record in records:
            self.consumed.extend(record.parts.get("ledger", ()))
        return self._rows_in(source, records)

    def _threshold(self, source: PlannedSource, parents: Sequence[_RowPart]) -> int | None:
        """The highest draw among the parents that ``rows`` of the builder takes."""
        wanted = source.builder.rows
        if wanted is None:
            return None
        keys = [
            k for p in parents if p.selection for k in self.store.read(p.selection, ["row_key"])["row_key"].to_pylist()
        ]
        return _nth(draws(self.plan.spec.seed, f"parents:{source.name}", keys), wanted)

    def _rows_in(self, source: PlannedSource, records: Sequence[Record]) -> dict[str, dict[str, int]]:
        into = self.reference if source.use == "benchmark" else self.waves[source.wave]
        for record in records:
            into.extend(_RowPart(source.name, part) for part in record.parts.get("rows", ()))
            self.ledgers.extend(LedgerPart(part, None, source.wave) for part in record.parts.get("ledger", ()))
        counts = self._sum(records)
        counts.setdefault(self._stage.name, ledger.tally())
        return counts

    def _number(self, stage: Stage) -> dict[str, dict[str, int]]:
        fresh_rows = [*self.waves[stage.wave], *self.reference]
        parts = [row_part.part for row_part in fresh_rows]
        fresh = [entry for entry in self.ledgers if entry.wave == stage.wave]
        settled = [(row_part.part, row_part.keys) for wave in self.waves[: stage.wave] for row_part in wave]
        identity = {
            "parts": [part.digest for part in parts],
            "ledgers": [entry.part.digest for entry in fresh],
            "settled": [[part.digest, _keys_digest(keys)] for part, keys in settled],
        }
        arguments = {"parts": parts, "ledgers": [e.part for e in fresh], "settled": settled, **self.exchange}
        record = self._inline("all parts", "keying:number", identity, arguments)
        if record.facts["renamed"]:
            keys = keying.load(self.store, record.parts["keys"][0])
            for number, row_part in enumerate(fresh_rows):
                row_part.keys = keys.get(number)
            for number, entry in enumerate(fresh, len(fresh_rows)):
                entry.keys = keys.get(number)
        return {}

    def _limit(self, stage: Stage) -> dict[str, dict[str, int]]:
        assert self.plan.limit is not None
        seed = self.plan.spec.seed
        by_source: dict[str, list[_RowPart]] = {}
        for row_part in self.waves[stage.wave]:
            by_source.setdefault(row_part.source, []).append(row_part)
        tasks = []
        for source, members in sorted(by_source.items()):
            keys = [
                key
                for m in members
                for key in keying.with_keys(self.store.read(m.part, ["row_key"]), m.part, m.keys)["row_key"].to_pylist()
            ]
            threshold = _nth(draws(seed, f"limit:{source}", keys), self.plan.limit)
            for m in members:
                identity = {
                    "rows": m.part.digest,
                    "keys": _keys_digest(m.keys),
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
                tasks.append(self._task(m.part.path, "reading:limit", identity, arguments, m.part.bytes))
        records = self._tasks(tasks)
        ordered = [m for _, members in sorted(by_source.items()) for m in members]
        for m, record in zip(ordered, records, strict=True):
            m.remade(record.parts["rows"][0])
        self._keep_ledger(records)
        return self._sum(records)

    # Filters ---------------------------------------------------------------------------------------

    def _edit(self, stage: Stage) -> dict[str, dict[str, int]]:
        members = self.waves[stage.wave]
        filters = [self.plan.chain[i].filter for i in stage.filters]
        editors = [(name, made) for name, made in zip(stage.reports, filters, strict=True) if isinstance(made, Editor)]
        described = edit_identity(self.plan.chain)
        tasks = [
            self._task(
                m.part.path,
                "editing:edit",
                {"rows": m.part.digest, "keys": _keys_digest(m.keys), "editors": described, "stage": stage.name},
                {"rows": m.part, "keys": m.keys, "editors": editors},
                m.part.bytes,
            )
            for m in members
        ]
        records = self._tasks(tasks)
        for m, record in zip(members, records, strict=True):
            m.remade(record.parts["rows"][0])
        self._keep_ledger(records)
        return self._sum(records)

    def _index(self, stage: Stage) -> dict[str, dict[str, int]]:
        """Make what a filter compares every part with, from the rows of the sources that it names."""
        index = stage.filters[0]
        planned = self.plan.chain[index]
        made = planned.filter
        assert isinstance(made, ReferenceFilter)
        rows = [(m.part, m.keys) for m in self.reference if m.source in made.sources]
        identity = {
            "filter": planned.name,
            "pins": made.index_pins(),
            "rows": [[part.digest, _keys_digest(keys)] for part, keys in rows],
        }
        record = self._inline(
            " ".join(made.sources), "judging:index", identity, {"filter": made, "rows": rows}, planned.code
        )
        self.indices[index] = record.parts["index"][0]
        return {}

    def _measure(self, stage: Stage) -> dict[str, dict[str, int]]:
        index = stage.filters[0]
        planned = self.plan.chain[index]
        made = planned.filter
        members = self.waves[stage.wave]
        against = self.indices.get(index)
        identity = {"filter": planned.name, "pins": made.measure_pins(), "index": against.digest if against else ""}
        tasks = [
            self._task(
                m.part.path,
                "judging:measure",
                {**identity, "rows": m.part.digest},
                {"filter": made, "rows": m.part, "index": against},
                m.part.bytes,
                planned.code,
            )
            for m in members
        ]
        for m, record in zip(members, self._tasks(tasks), strict=True):
            m.measures[index] = record.parts["measures"][0]
        return {}

    def _judge(self, stage: Stage) -> dict[str, dict[str, int]]:
        members = self.waves[stage.wave]
        chain = self.plan.chain
        names = dict(zip(stage.filters, stage.reports, strict=True))
        tasks = []
        for m in members:
            filters = [(names[i], chain[i].filter, m.measures.get(i)) for i in stage.filters]
            identity = {
                "rows": m.part.digest,
                "keys": _keys_digest(m.keys) if m.selection is None else "",
                "selection": m.selection.digest if m.selection else "",
                "losers": _digest_of(np.array(m.losers, np.int64)),
                "filters": [[names[i], chain[i].code, chain[i].identity] for i in stage.filters],
                "measures": [m.measures[i].digest if i in m.measures else "" for i in stage.filters],
            }
            arguments = {
                "rows": m.part, "keys": m.keys, "selection": m.selection, "losers": m.losers, "filters": filters
            }  # fmt: skip
            tasks.append(self._task(m.part.path, "judging:judge", identity, arguments, m.part.bytes // 4))
        records = self._tasks(tasks)
        for m, record in zip(members, records, strict=True):
            m.selection, m.losers = record.parts["selection"][0], []
            for name, counted in record.facts.get("statistics", {}).items():
                self._count(name, counted)
        self._keep_ledger(records)
        return self._sum(records)

    def _count(self, stage: str, counted: Mapping[str, statistics.Statistic]) -> None:
        for name, statistic in counted.items():
            self.statistics.setdefault(stage, {}).setdefault(name, []).append(statistic)

    def _compare(self, stage: Stage) -> dict[str, dict[str, int]]:
        """Compare rows of one use with each other: a prompt must not displace a row that is released."""
        index = stage.filters[0]
        planned = self.plan.chain[index]
        earlier = [m for wave in self.waves[: stage.wave] for m in wave]
        by_use = self._by_use(self.waves[stage.wave])
        settled_by_use = self._by_use(earlier)
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
                **self.exchange,
            }
            tasks.append(self._task(f"{use} rows", "comparing:compare", identity, arguments, 0, planned.code))
        records = self._tasks(tasks)
        for members, record in zip(by_use.values(), records, strict=True):
            self.links.extend(record.parts.get("links", ()))
            lost = losers_by_part(self.store, record.parts["losers"][0], len(members))
            for m, rows in zip(members, lost, strict=True):
                m.losers = rows
        self._keep_ledger(records)
        return self._sum(records)

    def _by_use(self, members: Sequence[_RowPart]) -> dict[str, list[_RowPart]]:
        found: dict[str, list[_RowPart]] = {}
        for m in members:
            if m.selection is not None:
                found.setdefault(self.plan.sources[m.source].use, []).append(m)
        return dict(sorted(found.items()))

    # Rows go out -----------------------------------------------------------------------------------

    def _final(self) -> list[_RowPart]:
        return [m for wave in self.waves for m in wave if m.selection is not None]

    def _sample(self, stage: Stage) -> dict[str, dict[str, int]]:
        spec = self.plan.spec
        members = self._final()
        selections = [m.selection for m in members if m.selection is not None]
        uses = {source.name: source.use for source in self.plan.sources.values()}
        identity = {
            "selections": [part.digest for part in selections],
            "consumed": [part.digest for part in self.consumed],
            "links": [part.digest for part in self.links],
            "uses": uses,
            "mix": spec.mix.model_dump(mode="json"),
            "seed": spec.seed,
            "validation": spec.release.validation,
            "shard_size": spec.release.shard_size,
        }
        arguments = {
            "stage": stage.name,
            "selections": selections,
            "consumed": list(self.consumed),
            "links": list(self.links),
            "uses": uses,
            "settings": spec.mix,
            "seed": spec.seed,
            "validation": spec.release.validation,
            "shard_size": spec.release.shard_size,
        }
        self.sampled = self._inline("all rows", "sampling:sample", identity, arguments)
        self._count(stage.name, self.sampled.facts.get("statistics", {}))
        self._keep_ledger([self.sampled])
        return {name: dict(counts) for name, counts in self.sampled.counts.items()}

    def _write_shards(self, stage: Stage) -> dict[str, dict[str, int]]:
        assert self.sampled is not None
        table = self.store.read(self.sampled.parts["sample"][0])
        columns = {name: np.asarray(table[name]) for name in table.column_names}
        members = self._final()
        bounds = np.searchsorted(columns["ordinal"], np.arange(len(members) + 1))
        scattered: list[Task] = []
        for ordinal, m in enumerate(members):
            start, end = int(bounds[ordinal]), int(bounds[ordinal + 1])
            if start == end or m.selection is None:
                continue
            pieces = {name: columns[name][start:end] for name in ("row", "epoch", "shard", "position")}
            identity: dict[str, Any] = {
                "rows": m.part.digest,
                "keys": _keys_digest(m.keys),
                "selection": m.selection.digest,
                "pieces": {name: _digest_of(piece) for name, piece in pieces.items()},
            }
            arguments: dict[str, Any] = {"rows": m.part, "keys": m.keys, "selection": m.selection, **pieces}
            scattered.append(self._task(m.part.path, "sharding:scatter", identity, arguments, m.part.bytes))
        records = self._tasks(scattered)
        places: dict[int, dict[int, list[tuple[Part, int]]]] = {}
        for record in records:
            part = record.parts["scattered"][0]
            for group, (number, block) in enumerate(record.facts["blocks"]):
                places.setdefault(number, {}).setdefault(block, []).append((part, group))
        with_tools = any(record.facts["tools"] for record in records)
        gathers = []
        shards = self.sampled.facts["shards"]
        for numbers in _few_rows([shard["rows"] for shard in shards]):
            wanted = []
            for number in numbers:
                blocks = [parts for _, parts in sorted(places[number].items())]
                wanted.append({"kind": shards[number]["kind"], "blocks": blocks})
            named = [
                [one["kind"], [[[part.digest, group] for part, group in parts] for parts in one["blocks"]]]
                for one in wanted
            ]
            parts = [part for one in wanted for listed in one["blocks"] for part, _ in listed]
            size = sum(part.bytes * BLOCK // max(1, part.rows) // 8 for part in parts)
            first = shards[numbers[0]]
            label = f"{first['variety']} {first['split']} {first['number']}"
            gathers.append(
                self._task(
                    label + (f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""),
                    "sharding:gather",
                    {"shards": named, "tools": with_tools},
                    {"shards": wanted, "with_tools": with_tools},
                    min(size, 1000 * sum(shards[number]["rows"] for number in numbers)),
                )
            )
        made = [
            (part, facts)
            for record in self._tasks(gathers)
            for part, facts in zip(record.parts["shard"], record.facts["shards"], strict=True)
        ]
        for shard, (part, facts) in zip(shards, made, strict=True):
            self.shards.append(ShardFile(part=part, facts=facts, **shard))
        return {}

    def _release(self, stage: Stage) -> dict[str, dict[str, int]]:
        assert self.sampled is not None
        stages = [(r.name, r.counts) for r in self.reports if any(r.counts.values())]
        parts = [m.made or (m.part, m.keys) for m in self._final()]
        counted = {
            name: {one: statistics.add(listed) for one, listed in sorted(found.items())}
            for name, found in sorted(self.statistics.items())
        }
        self.result = write_release(
            self.plan, self.workspace, self.shards, self.ledgers, stages, parts,
            self.sampled.facts["epochs"], counted, self.documents, **self.exchange,
        )  # fmt: skip
        self._cached = not self.result.fresh
        return {}

    def _note(self) -> None:
        """Write which results this build uses: gc keeps them, plan shows them, show finds rows by them."""
        parts = [
            {"source": m.source, "part": m.part.path, "keys": _keys_json(m.keys)}
            for m in [*(m for wave in self.waves for m in wave), *self.reference]
        ]
        spec = self.plan.spec
        noted = {
            "name": spec.name,
            "profile": spec.profile,
            "limit": self.plan.limit,
            "stages": self.used,
            "parts": parts,
            "release": self.plan.stages[-1].key,
            "version": self.result.version if self.result else None,
        }
        durable.write_json(self.workspace.builds / f"{spec.name}.{spec.profile}.json", noted)


def _few_rows(sizes: Sequence[int]) -> list[list[int]]:
    """Put neighbouring small shards together, up to one block of rows; return the numbers of each group."""
    groups: list[list[int]] = []
    rows = BLOCK
    for number, size in enumerate(sizes):
        if rows + size > BLOCK:
            groups.append([])
            rows = 0
        groups[-1].append(number)
        rows += size
    return groups


def _keys_json(keys: keying.Keys | None) -> list[list[Any]]:
    return [list(pair) for pair in zip(keys.rows, keys.keys, strict=True)] if keys else []


def _keys_digest(keys: keying.Keys | None) -> str:
    return digest(*(f"{row}:{key}" for row, key in zip(keys.rows, keys.keys, strict=True))) if keys else ""


def _digest_of(values: np.ndarray[Any, Any]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).hexdigest()


def _nth(drawn: np.ndarray[Any, Any], wanted: int) -> int | None:
    """The ``wanted``-th lowest draw; ``None`` takes all."""
    if wanted >= len(drawn):
        return None
    return int(np.partition(drawn, wanted - 1)[wanted - 1])
