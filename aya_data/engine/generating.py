"""Rows are generated: prompts are drawn from other sources, models are asked, and rows are made of what they say."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aya_data.core.errors import CorruptPart, WrongSetting
from aya_data.core.generation import PROMPTS, GeneratingBuilder, Place, Request, Step, Voice, voice_key
from aya_data.core.identity import digest
from aya_data.core.journal import Index, Journal
from aya_data.core.store import Part
from aya_data.engine import asking, steps
from aya_data.engine.expectation import Expectation, expectation
from aya_data.engine.intake import parents_of, rows_in, threshold
from aya_data.engine.plan import PlannedSource, Stage, step_code
from aya_data.engine.running import Counts, Generation, Running, keys_digest

__all__ = ["ask", "inputs_of", "journal_of", "list_requests", "make", "part", "prompts", "varieties", "whole"]

TOLD = 0.2
"""Seconds between two words about how far a voice has come."""
REASONS = 10
"""Different reasons of failures that are kept of a step."""


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


def _in_source(action: Callable[[Running, Stage], Counts]) -> Callable[[Running, Stage], Counts]:
    """Have what is wrong with the settings of a voice lead to its source."""

    @functools.wraps(action)
    def placed(run: Running, stage: Stage) -> Counts:
        try:
            return action(run, stage)
        except WrongSetting as error:
            raise error.in_source(stage.source) from None

    return placed


@_in_source
def ask(run: Running, stage: Stage) -> Counts:
    """Ask a voice for what the journal lacks, and take the answers of every part from it."""
    source, builder, step, generation = _step(run, stage)
    parts = list_requests(run, stage, source, builder, step, generation)
    voice = builder.voice(step.name)
    key = voice_key(voice)
    journal = journal_of(run, voice)
    listing = _listing(run, parts)
    keys = listing.distinct()
    if not len(keys) and (why := builder.unasked(step.name, varieties(run, generation))):
        run.tell(f"{stage.name}: {why}")
    wanted = asking.demand(_load(run, journal), keys).open(builder.max_failed)
    if len(wanted):
        run.cached = False
        expected = expectation(stage, voice, journal, len(keys), len(wanted), *listing.tally(wanted), exact=True)
        run.events("asks", **expected.as_dict())
        _check(run, stage)
        inputs = zip(inputs_of(generation, step), listing.parts(), strict=True)
        affected = [tables for tables, column in inputs if (asking.places(wanted, column) >= 0).any()]

        def requests() -> Iterator[Request]:
            for tables in affected:
                yield from (one.request for one in builder.requests(step.name, steps.read_tables(run.store, tables)))

        teller = _Teller(run, expected)
        place = replace(_place(run, voice.name, key), restarted=teller.restarted)
        asking.ask(stage.name, voice, journal, wanted, requests, place, builder.commit, builder.max_failed, teller)
        run.asked.append(teller.account())
    index = journal.load()
    generation.voices[step.name] = {
        "voice": key,
        "identity": dict(voice.identity()),
        "pinned": voice.pinned,
        "journal": index.digest(keys),
        "answers": len(keys),
        "asked": len(listing.keys),
    }
    tasks = []
    # Tasks only read, and need no identity, which is the plugin's and may not be picklable.
    read = Journal(run.workspace.journal, key, read_only=run.looks_only)
    for part, column in zip(parts, listing.parts(), strict=True):
        identity = {"requests": part.digest, "voice": key, "journal": index.digest(column)}
        arguments = {"requests": part, "journal": read}
        tasks.append(run.task(part.path, "steps:collect", identity, arguments, part.bytes))
    del index  # The tasks have their own.
    failed, absent = Counter[str](), 0
    for tables, record in zip(generation.parts, run.tasks(tasks), strict=True):
        tables[step.name] = record.parts["table"][0]
        failed.update(record.facts["failed"])
        absent += record.facts["absent"]
    most = sorted(failed.items(), key=lambda one: (-one[1], one[0]))[:REASONS]
    generation.voices[step.name] |= {"absent": absent, "failed": failed.total(), "reasons": dict(most)}
    run.events("asked", name=stage.name, of=len(keys), asked=len(wanted), failed=failed.total(), absent=absent)
    return {}


def varieties(run: Running, generation: Generation) -> Counter[tuple[str, str]]:
    """Count the prompts by language and script."""
    found: Counter[tuple[str, str]] = Counter()
    for tables in generation.parts:
        prompts = run.store.read(tables[PROMPTS], ["language", "script"])
        found.update(zip(prompts["language"].to_pylist(), prompts["script"].to_pylist(), strict=True))
    return found


def _load(run: Running, journal: Journal) -> Index:
    """Return what a journal holds. What is damaged in it is set aside, and counts as missing; the build says so."""
    try:
        return journal.load()
    except CorruptPart as error:
        damaged = [error.path, *journal.set_aside()]
    for path in damaged:
        run.tell(f"{path} was damaged and has been set aside: what was in it is asked again where it is needed")
    return journal.load()


def _check(run: Running, stage: Stage) -> None:
    """Before anybody is paid, let every voice of the source that will be asked say what stands in the way."""
    source, builder, _, generation = _step(run, stage)
    for other in run.plan.stages:
        if other.kind != "ask" or other.source != stage.source or other.step in generation.voices:
            continue
        step = next(step for step in builder.steps() if step.name == other.step)
        voice = builder.voice(step.name)
        index = _load(run, journal_of(run, voice))
        if all(name in generation.wholes or all(name in tables for tables in generation.parts) for name in step.inputs):
            listing = _listing(run, list_requests(run, other, source, builder, step, generation))
            missing = len(asking.demand(index, listing.distinct()).open(builder.max_failed)) > 0
        else:
            missing = not len(index)
        if missing:
            voice.check()


def journal_of(run: Running, voice: Voice) -> Journal:
    """The journal of a voice; a run that asks nobody only looks at it."""
    return Journal(
        run.workspace.journal, voice_key(voice), voice.identity(), free=not voice.priced, read_only=run.looks_only
    )


def _listing(run: Running, parts: Iterable[Part]) -> asking.Listing:
    return asking.Listing.of(run.store.read(part, ["key", "language", "tokens"]) for part in parts)


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
    ends: Counter[str] = field(default_factory=Counter)
    again: int = 0

    def __call__(self, **counts: float) -> None:
        self.last = counts
        if counts["seconds"] - self.told >= TOLD or counts["done"] == self.expected.missing:
            self.told = counts["seconds"]
            self.run.events("asking", name=self.expected.stage, of=self.expected.missing, **counts)

    def restarted(self, how: str, again: int) -> None:
        """Say that a model's process died and was started again."""
        self.ends[how] += 1
        self.again += again
        self.run.events("restarted", name=self.expected.stage, how=how, again=again)

    def account(self) -> dict[str, Any]:
        """What was expected, and what it was."""
        if times := self.ends.total():
            how = ", ".join(self.ends)
            died = f"died ({how})" if times == 1 else f"died {times:,} times ({how})"
            asked = "1 request was asked" if self.again == 1 else f"{self.again:,} requests were asked"
            self.run.notes.append(
                f"{self.expected.stage}: the model's process {died} and was started again; {asked} again"
            )
        return {"expected": self.expected.as_dict(), "actual": dict(self.last)}
