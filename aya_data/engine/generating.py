"""Rows are generated: prompts are drawn from other sources, models are asked, and rows are made of what they say."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aya_data.core.generation import PROMPTS, GeneratingBuilder, Place, Request, Step, Voice, voice_key
from aya_data.core.identity import digest
from aya_data.core.journal import Journal
from aya_data.core.store import Part
from aya_data.engine import asking, steps
from aya_data.engine.expectation import Expectation, expectation
from aya_data.engine.intake import parents_of, rows_in, threshold
from aya_data.engine.plan import PlannedSource, Stage, step_code
from aya_data.engine.running import Counts, Generation, Running, keys_digest

__all__ = ["ask", "inputs_of", "list_requests", "make", "part", "prompts", "whole"]

TOLD = 0.2
"""Seconds between two words about how far a voice has come."""


def _builder(source: PlannedSource) -> GeneratingBuilder:
    assert isinstance(source.builder, GeneratingBuilder)
    return source.builder


def _step(run: Running, stage: Stage) -> tuple[PlannedSource, GeneratingBuilder, Step, Generation]:
    source = run.plan.sources[stage.source]
    builder = _builder(source)
    step = next(step for step in builder.steps() if step.name == stage.step)
    return source, builder, step, run.generations[source.name]


def prompts(run: Running, stage: Stage) -> Counts:
    """Draw the prompts of a source from the filtered rows of its parents."""
    source = run.plan.sources[stage.source]
    parents = parents_of(run, source)
    highest = threshold(run, source, parents)
    tasks = []
    for member in parents:
        assert member.selection is not None
        identity = {
            "source": source.name,
            "seed": run.plan.spec.seed,
            "rows": member.part.digest,
            "selection": member.selection.digest,
            "keys": keys_digest(member.keys),
            "threshold": highest,
            "part_bytes": run.plan.part_bytes,
        }
        arguments = {
            "builder": source.builder,
            "rows": member.part,
            "selection": member.selection,
            "keys": member.keys,
            "threshold": highest,
            "part_bytes": run.plan.part_bytes,
        }
        tasks.append(run.task(member.part.path, "steps:prompts", identity, arguments, member.part.bytes))
    made = Generation()
    for record in run.tasks(tasks):
        made.parts += [{PROMPTS: part} for part in record.parts.get(PROMPTS, ())]
    run.generations[source.name] = made
    return {}


def inputs_of(generation: Generation, step: Step) -> list[dict[str, Part]]:
    """The tables that a step reads, of every part."""
    return [
        {name: tables[name] if name in tables else generation.wholes[name] for name in (PROMPTS, *step.inputs)}
        for tables in generation.parts
    ]


def _identity(stage: Stage, step: Step, tables: Mapping[str, Part]) -> dict[str, Any]:
    return {
        "step": step.name,
        "settings": step.identity,
        "source": stage.source,
        "tables": {name: part.digest for name, part in tables.items()},
    }


def part(run: Running, stage: Stage) -> Counts:
    """Make the table of a step for every part."""
    source, builder, step, generation = _step(run, stage)
    tasks = [
        run.task(
            tables[PROMPTS].path,
            "steps:part",
            _identity(stage, step, tables),
            {"builder": builder, "step": step.name, "tables": tables},
            sum(part.bytes for part in tables.values()),
            step_code(source, step),
        )
        for tables in inputs_of(generation, step)
    ]
    for tables, record in zip(generation.parts, run.tasks(tasks), strict=True):
        tables[step.name] = record.parts["table"][0]
    return {}


def whole(run: Running, stage: Stage) -> Counts:
    """Make the table of a step from all parts."""
    source, builder, step, generation = _step(run, stage)
    inputs = inputs_of(generation, step)
    identity = {
        "step": step.name,
        "settings": step.identity,
        "source": stage.source,
        "tables": sorted(digest(*(f"{name}:{part.digest}" for name, part in tables.items())) for tables in inputs),
    }
    arguments = {"builder": builder, "step": step.name, "parts": inputs}
    record = run.inline("all parts", "steps:whole", identity, arguments, step_code(source, step))
    generation.wholes[step.name] = record.parts["table"][0]
    return {}


def ask(run: Running, stage: Stage) -> Counts:
    """Ask a voice for what the journal lacks, and take the answers of every part from it."""
    source, builder, step, generation = _step(run, stage)
    listed = list_requests(run, stage, source, builder, step, generation)
    voice = builder.voice(step.name)
    key = voice_key(voice)
    journal = Journal(run.workspace.journal, key, voice.identity())
    columns = [run.store.read(part, ["key"])["key"].to_pylist() for part in listed]
    keys = sorted(set(itertools.chain.from_iterable(columns)))
    wanted = asking.demand(journal.load(), keys).open(builder.max_failed)
    if wanted:
        run.cached = False
        expected = _expectation(run, stage, voice, journal, listed, wanted, len(keys))
        run.events("asks", **expected.as_dict())
        _check(run, stage)
        inputs = inputs_of(generation, step)
        affected = [tables for tables, column in zip(inputs, columns, strict=True) if not wanted.isdisjoint(column)]

        def requests() -> Iterator[Request]:
            for tables in affected:
                yield from (one.request for one in builder.requests(step.name, steps.read_tables(run.store, tables)))

        teller = _Teller(run, expected)
        asking.ask(
            stage.name, voice, journal, wanted, requests, _place(run, voice.name, key), builder.commit,
            builder.max_failed, teller,
        )  # fmt: skip
        run.asked.append(teller.account())
    index = journal.load()
    tasks = []
    for part, column in zip(listed, columns, strict=True):
        identity = {"requests": part.digest, "voice": key, "journal": index.digest(column)}
        arguments = {"requests": part, "journal": run.workspace.journal, "voice": key}
        tasks.append(run.task(part.path, "steps:collect", identity, arguments, part.bytes))
    failed = 0
    for tables, record in zip(generation.parts, run.tasks(tasks), strict=True):
        tables[step.name] = record.parts["table"][0]
        failed += record.facts["failed"]
    generation.voices[step.name] = {
        "voice": key,
        "identity": dict(voice.identity()),
        "pinned": voice.pinned,
        "journal": index.digest(keys),
        "answers": len(keys),
        "asked": sum(len(column) for column in columns),
    }
    run.events("asked", name=stage.name, of=len(keys), asked=len(wanted), failed=failed)
    return {}


def _check(run: Running, stage: Stage) -> None:
    """Before anybody is paid, let every voice of the source that will be asked say what stands in the way."""
    source, builder, _, generation = _step(run, stage)
    for other in run.plan.stages:
        if other.kind != "ask" or other.source != stage.source or other.step in generation.voices:
            continue
        step = next(step for step in builder.steps() if step.name == other.step)
        voice = builder.voice(step.name)
        journal = Journal(run.workspace.journal, voice_key(voice), voice.identity())
        index = journal.load()
        if all(name in generation.wholes or all(name in tables for tables in generation.parts) for name in step.inputs):
            listed = list_requests(run, other, source, builder, step, generation)
            keys = sorted({key for part in listed for key in run.store.read(part, ["key"])["key"].to_pylist()})
            missing = bool(asking.demand(index, keys).open(builder.max_failed))
        else:
            missing = not len(index)
        if missing:
            voice.check()


def _expectation(
    run: Running, stage: Stage, voice: Voice, journal: Journal, listed: Sequence[Part], wanted: frozenset[str], of: int
) -> Expectation:
    """What is about to be asked, estimated from the lists of requests."""
    languages: Counter[str] = Counter()
    chars = 0
    left = set(wanted)
    for part in listed:
        columns = run.store.read(part, ["key", "language", "chars"])
        for key, language, size in zip(*(columns[name].to_pylist() for name in columns.column_names), strict=True):
            if key in left:
                left.discard(key)
                languages[language] += 1
                chars += size
    return expectation(stage, voice, journal, of, len(wanted), languages, chars, True)


def list_requests(
    run: Running, stage: Stage, source: PlannedSource, builder: GeneratingBuilder, step: Step, generation: Generation
) -> list[Part]:
    """List what a step asks, part by part."""
    tasks = [
        run.task(
            tables[PROMPTS].path,
            "steps:enumerate_requests",
            {
                **_identity(stage, step, tables),
                "voice": voice_key(builder.voice(step.name)),
                "seed": run.plan.spec.seed,
            },
            {"builder": builder, "step": step.name, "tables": tables},
            sum(part.bytes for part in tables.values()),
            step_code(source, step),
        )
        for tables in inputs_of(generation, step)
    ]
    return [record.parts["requests"][0] for record in run.tasks(tasks)]


def make(run: Running, stage: Stage) -> Counts:
    """Make the rows of a source from its prompts and the tables of its steps."""
    source = run.plan.sources[stage.source]
    builder = _builder(source)
    generation = run.generations[source.name]
    tasks = []
    for own in generation.parts:
        tables = {**own, **generation.wholes}
        identity = {**source.identity, "tables": {name: part.digest for name, part in sorted(tables.items())}}
        arguments = {
            "builder": builder,
            "tables": tables,
            "stage": stage.name,
            "part_bytes": run.plan.part_bytes,
        }
        size = sum(part.bytes for part in own.values())
        tasks.append(run.task(own[PROMPTS].path, "steps:make", identity, arguments, size, source.code))
    records = run.tasks(tasks)
    for record in records:
        run.consumed.extend(record.parts.get("ledger", ()))
        for name, parts in record.parts.items():
            if name.startswith("publish-"):
                generation.published.setdefault(name.removeprefix("publish-"), []).extend(parts)
    wholes = {name: run.store.read(part) for name, part in generation.wholes.items()}
    generation.report = dict(builder.report(wholes))
    return rows_in(run, source, records)


def _place(run: Running, name: str, key: str) -> Place:
    logs = run.workspace.root / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    return Place(run.workspace.cache, run.workspace.temporary, logs / f"{digest(name, key)[:12]}.log")


@dataclass(slots=True)
class _Teller:
    """Passes on how far a voice has come, a few times a second, and knows at the end what came of it."""

    run: Running
    expected: Expectation
    told: float = -TOLD
    last: dict[str, Any] = field(default_factory=dict)

    def __call__(self, **counts: float) -> None:
        self.last = counts
        if counts["seconds"] - self.told >= TOLD or counts["done"] == self.expected.missing:
            self.told = counts["seconds"]
            self.run.events("asking", name=self.expected.stage, of=self.expected.missing, **counts)

    def account(self) -> dict[str, Any]:
        """What was expected, and what it was."""
        return {"expected": self.expected.as_dict(), "actual": dict(self.last)}
