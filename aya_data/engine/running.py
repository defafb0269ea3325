"""A build on its way: its state, and how its stages run tasks."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aya_data.core import durable, ledger, statistics
from aya_data.core.identity import digest
from aya_data.core.store import Part, Record, Workspace
from aya_data.engine import keying
from aya_data.engine.events import Events
from aya_data.engine.plan import Plan, Stage, engine_code
from aya_data.engine.pool import Executor
from aya_data.engine.release import Begun, Documents, LedgerPart, Result, ShardFile
from aya_data.engine.task import Task, make_task
from aya_data.engine.warming import Warming

__all__ = ["COMPILED", "Counts", "Generation", "RowPart", "Running", "StageReport", "digest_of", "keys_digest", "nth"]

COMPILED = ("index", "measure", "compare")
"""Kinds of stages in which filters call what is compiled; a builder that asks models may in those of kind part."""

Counts = dict[str, dict[str, int]]
"""Counts by the ledger's law, by the name under which a stage reports them."""


@dataclass(slots=True)
class StageReport:
    """What a stage did: counts by the ledger's law, whether all of it was cached, seconds of work."""

    name: str
    key: str
    cached: bool
    counts: dict[str, int]
    seconds: float


@dataclass(slots=True)
class RowPart:
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


@dataclass(slots=True)
class Generation:
    """What a source that asks models made so far: the tables of each part and those of all, by step.

    ``voices`` says by ``ask`` step which voice answered and what the journal held; ``published`` are the parts that
    the release keeps, by view.
    """

    parts: list[dict[str, Part]] = field(default_factory=list)
    wholes: dict[str, Part] = field(default_factory=dict)
    voices: dict[str, dict[str, Any]] = field(default_factory=dict)
    published: dict[str, list[Part]] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


class Running:
    """The state of a build: what its stages made so far, and the stage that runs now."""

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
        looks_only: bool = False,
    ) -> None:
        """``looks_only`` is for who asks nobody: journals stay as they are, what is damaged in them too."""
        self.warming = warming
        self.looks_only = looks_only
        self.plan, self.workspace, self.executor, self.events = plan, workspace, executor, events
        self.documents = documents
        self.store = workspace.store
        self.exchange: dict[str, Any] = {"temporary": workspace.temporary, "memory": memory, "threads": threads}
        self.reports: list[StageReport] = []
        self.used: dict[str, list[str]] = {}
        self.waves: list[list[RowPart]] = [[] for _ in range(plan.waves)]
        self.reference: list[RowPart] = []
        self.generations: dict[str, Generation] = {}
        self.asked: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.ledgers: list[LedgerPart] = []
        self.consumed: list[Part] = []
        self.indices: dict[int, Part] = {}
        self.statistics: dict[str, dict[str, list[statistics.Statistic]]] = {}
        self.links: list[Part] = []
        self.sampled: Record | None = None
        self.begun: Begun | None = None
        self.shards: list[ShardFile] = []
        self.result: Result | None = None
        self.stage: Stage = plan.stages[0]
        self.cached = True
        self.seconds: float | None = None
        self.worked = self.waited = 0.0
        self.ahead: dict[str, tuple[list[Record], bool, float]] = {}

    def tasks(
        self,
        tasks: Sequence[Task],
        fresh: dict[str, float] | None = None,
        then: Callable[[Record], None] | None = None,
    ) -> list[Record]:
        """Run tasks of the current stage and note what they used. ``then`` is told each result as it is made;
        ``fresh`` gets the seconds of each that was not cached, by key."""
        size = sum(task.size for task in tasks)
        self.events("tasks", name=self.stage.name, tasks=len(tasks), bytes=size)

        def done(index: int, record: Record, seconds: float | None) -> None:
            if seconds is not None:
                self.cached = False
                self.worked += seconds
                if fresh is not None:
                    fresh[tasks[index].key] = fresh.get(tasks[index].key, 0.0) + seconds
            if then is not None:
                then(record)
            rows = sum(counted.get("rows_in", 0) for counted in record.counts.values())
            self.events(
                "task",
                name=self.stage.name,
                label=tasks[index].label,
                cached=seconds is None,
                rows=rows,
                bytes=tasks[index].size,
            )

        self._warm(tasks)
        began = time.perf_counter()
        records = self.executor.run(tasks, done)
        self.waited += time.perf_counter() - began
        self.used.setdefault(self.stage.key, []).extend(task.key for task in tasks)
        return records

    def _warm(self, tasks: Sequence[Task]) -> None:
        """Compile kernels while sources are read, if they are; have them before a filter that uses them works."""
        kind = self.stage.kind
        if kind not in ("read", "part", *COMPILED) or all(self.store.get(task.key) is not None for task in tasks):
            return
        self.warming.start()
        if kind == "part":
            self.warming.wait(self.plan.sources[self.stage.source].code)
        elif kind != "read":
            self.warming.wait(self.plan.chain[self.stage.filters[0]].code)

    def task(
        self,
        label: str,
        function: str,
        identity: Mapping[str, Any],
        arguments: Mapping[str, Any],
        size: int = 0,
        code: str = "",
        stage: str = "",
    ) -> Task:
        """Make a task of ``stage`` (the current one): ``function`` is ``module:name`` of this package."""
        module = function.partition(":")[0]
        key = digest(engine_code(module), code)
        return make_task(stage or self.stage.name, label, f"aya_data.engine.{function}", key, identity, arguments, size)

    def inline(
        self, label: str, function: str, identity: Mapping[str, Any], arguments: Mapping[str, Any], code: str = ""
    ) -> Record:
        """Run one task for the whole stage."""
        return self.tasks([self.task(label, function, identity, arguments, 0, code)])[0]

    @staticmethod
    def added(records: Sequence[Record]) -> Counts:
        """Add the counts of records up, by name."""
        names = {name for record in records for name in record.counts}
        return {name: ledger.add(r.counts[name] for r in records if name in r.counts) for name in names}

    def keep_ledger(self, records: Sequence[Record], keys: Mapping[str, keying.Keys] | None = None) -> None:
        """Remember the entries that records made for the ledger."""
        for record in records:
            for part in record.parts.get("ledger", ()):
                self.ledgers.append(LedgerPart(part, (keys or {}).get(part.path)))

    def tell(self, text: str) -> None:
        """Remember what people are to hear at the end of the build, and tell it now."""
        self.notes.append(text)
        self.events("note", text=text)

    def note(self) -> None:
        """Write which results this build uses: gc keeps them, plan shows them, show finds rows by them."""
        parts = [
            {"source": m.source, "part": m.part.path, "keys": keys_json(m.keys)}
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

    def count(self, stage: str, counted: Mapping[str, statistics.Statistic]) -> None:
        """Keep what was counted, to be added up at the release."""
        for name, statistic in counted.items():
            self.statistics.setdefault(stage, {}).setdefault(name, []).append(statistic)


def keys_json(keys: keying.Keys | None) -> list[list[Any]]:
    """New keys as JSON: (row, key) pairs."""
    return [list(pair) for pair in zip(keys.rows, keys.keys, strict=True)] if keys else []


def keys_digest(keys: keying.Keys | None) -> str:
    """Identify new keys in the identity of a task."""
    return digest(*(f"{row}:{key}" for row, key in zip(keys.rows, keys.keys, strict=True))) if keys else ""


def digest_of(values: np.ndarray[Any, Any]) -> str:
    """Identify an array in the identity of a task."""
    return hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).hexdigest()


def nth(drawn: np.ndarray[Any, Any], wanted: int) -> int | None:
    """The ``wanted``-th lowest draw; ``None`` takes all."""
    if wanted >= len(drawn):
        return None
    return int(np.partition(drawn, wanted - 1)[wanted - 1])
