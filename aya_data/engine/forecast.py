"""What a build will ask of models, before it asks: how many requests and tokens, how long, for how much.

The plan's stages are walked with what the store already has (or, where the caller lets them run, with what costs
nothing). How a step is counted:

* Its inputs are there, or the journal holds all that they are made of: every request is listed and looked for in the
  journal. The count is *exact*.
* Its inputs are answers, some of which are still missing: a text that nobody ever said stands in for each of those.
  Requests about answers that are there are counted as they are, and those about stand-ins are missing. An estimate,
  since two answers may be the same, or be none.
* What decides its requests is not there yet (whom a router picks, which prompts are reviewed): an estimate from what
  the builder says that the step may ask, of which the journal may already hold a share.
* There are no prompts yet: an estimate from their number.

Nothing is changed: neither in the store nor in the journal. Tokens, seconds and prices go by the rate that was measured
when the voice was asked before, and by the prices that the spec states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from aya_data.core.errors import AyaDataError, CorruptPart, InputError
from aya_data.core.generation import PROMPTS, GeneratingBuilder, Step, Voice
from aya_data.core.journal import Index, Journal
from aya_data.core.store import Part, Record, Store
from aya_data.engine import asking, generating, steps
from aya_data.engine.expectation import CHARACTERS, Expectation, completion_limit, expectation
from aya_data.engine.plan import Stage
from aya_data.engine.running import Counts, Generation, Running
from aya_data.engine.task import Task

__all__ = ["NotThere", "Peek", "forecast"]

LONGEST = 4096
"""Characters of a stand-in at most."""


class NotThere(AyaDataError):
    """A result that is not in the store."""


class Peek:
    """An executor that computes nothing: it gives what the store has."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def run(self, tasks: Sequence[Task], done: Callable[[int, Record, float | None], None]) -> list[Record]:
        """Return the results of tasks. Raises :class:`NotThere`."""
        found = []
        for index, task in enumerate(tasks):
            record = self._store.get(task.key)
            if record is None:
                raise NotThere(task.label)
            done(index, record, None)
            found.append(record)
        return found

    def announce(self, tasks: Sequence[Task]) -> None:
        """Begin nothing."""


def forecast(run: Running, stages: Mapping[str, Callable[[Running, Stage], Counts]]) -> list[Expectation]:
    """Walk the plan as far as it goes without asking anybody; return what every ``ask`` step will ask.

    ``run`` looks only, and has an executor that computes nothing (:class:`Peek`) and a store that is ``read_only``, or
    an executor that computes what is free and a store that sets aside what is damaged, to be made anew the next time.
    Parts of the store that are found damaged are told with what is ``damaged``.
    """
    found: list[Expectation] = []
    spoilt: list[str] = []
    sources: dict[str, _Source] = {}
    blocked = lacking = False
    for stage in run.plan.stages:
        run.stage, run.cached, run.seconds = stage, True, None
        if stage.kind in ("sample", "shards", "release"):
            break
        if stage.kind == "ask":
            source = sources.setdefault(stage.source, _Source(run, stage.source, spoilt))
            found.append(source.expected(stage, blocked))
            if found[-1].missing == 0 and found[-1].exact:
                _try(stages, run, stage, spoilt)
        elif stage.kind in ("part", "whole", "make"):
            # What a source lacks keeps its own later steps waiting, and all that comes after its rows.
            if not blocked and not (_ready(run, stage) and _try(stages, run, stage, spoilt)):
                lacking |= stage.kind == "make"
        elif not blocked:
            blocked = (lacking and stage.kind != "prompts") or not _try(stages, run, stage, spoilt)
    return [replace(one, damaged=tuple(dict.fromkeys((*one.damaged, *spoilt)))) for one in found]


def _ready(run: Running, stage: Stage) -> bool:
    """Whether the tables are there that a step, or the rows of a source, are made from."""
    builder = run.plan.sources[stage.source].builder
    assert isinstance(builder, GeneratingBuilder)
    needed = [step.name for step in builder.steps()] if stage.kind == "make" else _step(builder, stage.step).inputs
    made = run.generations[stage.source]
    return all(name in made.wholes or all(name in tables for tables in made.parts) for name in needed)


def _step(builder: GeneratingBuilder, name: str) -> Step:
    return next(step for step in builder.steps() if step.name == name)


def _try(
    stages: Mapping[str, Callable[[Running, Stage], Counts]], run: Running, stage: Stage, spoilt: list[str]
) -> bool:
    try:
        stages[stage.kind](run, stage)
    except (NotThere, KeyError):
        return False
    except CorruptPart as error:
        spoilt.append(error.path)
        return False
    return True


@dataclass(slots=True)
class _Source:
    """A source that asks models, as far as it can be known. ``known`` has by step what its journal holds, and whether
    any of its requests will be asked; ``spoilt`` are the damaged files that were met."""

    run: Running
    name: str
    spoilt: list[str]
    known: dict[str, tuple[Index, bool]] = field(default_factory=dict)

    @property
    def builder(self) -> GeneratingBuilder:
        builder = self.run.plan.sources[self.name].builder
        assert isinstance(builder, GeneratingBuilder)
        return builder

    @property
    def generation(self) -> Generation | None:
        return self.run.generations.get(self.name)

    def expected(self, stage: Stage, blocked: bool) -> Expectation:
        """What a step will ask."""
        step, voice = _step(self.builder, stage.step), self.builder.voice(stage.step)
        journal = generating.journal_of(self.run, voice)
        index = journal.load()
        self.known[step.name] = index, True
        generation = None if blocked else self.generation
        try:
            if generation is not None:
                made = self._counted(stage, step, voice, journal, index, generation)
                if made is not None:
                    return made
        except CorruptPart as error:
            self.spoilt.append(error.path)
            generation = None
        prompts = self.builder.rows if generation is None else sum(t[PROMPTS].rows for t in generation.parts)
        note = self.builder.unasked(step.name, None)
        number = 0 if note else None if prompts is None else self.builder.expected(step.name, prompts, self._tokens)
        note = note or _lacking(voice, number)
        return expectation(stage, voice, journal, number, number, {}, 0, exact=False, damaged=index.damaged, note=note)

    def _counted(
        self, stage: Stage, step: Step, voice: Voice, journal: Journal, index: Index, generation: Generation
    ) -> Expectation | None:
        """Count what is asked of prompts that are there; None where that cannot be listed."""
        tables: list[pa.Table] = []
        held: list[pa.Table] = []
        exact, share = True, 1.0
        for own in generation.parts:
            given = self._inputs(step, own, generation)
            if given is not None:
                found, sure = given
                requests = self.builder.requests(step.name, found)
            else:
                names = [name for name in (PROMPTS, *step.inputs) if name in own or name in generation.wholes]
                there = {name: self.run.store.read(_part(own, generation, name)) for name in names}
                possible = self.builder.possible(step.name, there)
                if possible is None:
                    return None
                (share, requests), sure = possible, False
            exact &= sure
            every = list(requests)
            tables.append(steps.listed(every, voice).select(["key", "language", "tokens"]))
            held.append(tables[-1].filter(pa.array([voice.holds(one.request) for one in every], pa.bool_())))
        listing = asking.Listing.of(tables)
        demand = asking.demand(index, listing.distinct())
        wanted = demand.open(self.builder.max_failed)
        self.known[step.name] = index, len(wanted) > 0
        languages, tokens = listing.tally(wanted)
        counts = {variety: round(count * share) for variety, count in languages.items() if round(count * share)}
        knows = share == 1.0 and type(voice).holds is not Voice.holds
        recorded = len(asking.Listing.of(held).distinct()) if knows else None
        numbers = round(len(demand.keys) * share), round(len(wanted) * share)
        everybody = None if len(demand.keys) else generating.varieties(self.run, generation)
        note = self.builder.unasked(step.name, everybody) if everybody else _lacking(voice, numbers[1])
        return expectation(
            stage, voice, journal, *numbers, counts, round(tokens * share), exact=exact, damaged=index.damaged,
            recorded=recorded, note=note,
        )  # fmt: skip

    def _inputs(
        self, step: Step, own: Mapping[str, Part], generation: Generation
    ) -> tuple[dict[str, pa.Table], bool] | None:
        """The tables that a step reads of one part, and whether they are what they will be."""
        found: dict[str, pa.Table] = {}
        sure = True
        for name in (PROMPTS, *step.inputs):
            if name in own or name in generation.wholes:
                found[name] = self.run.store.read(_part(own, generation, name))
                continue
            before = _step(self.builder, name)
            given = self._inputs(before, own, generation) if before.kind == "ask" else None
            if given is None:
                return None
            found[name], answered = self._answers(before, given[0])
            sure &= answered and given[1]
        return found, sure

    def _answers(self, step: Step, tables: Mapping[str, pa.Table]) -> tuple[pa.Table, bool]:
        """The table of an ``ask`` step, with a stand-in for every answer that is to be asked; and whether none is."""
        requests = steps.listed(self.builder.requests(step.name, tables), self.builder.voice(step.name))
        index, asked = self.known[step.name]
        unknown = np.zeros(requests.num_rows, np.bool_)
        unknown[index.missing(requests["key"])] = True
        if asked:
            unknown[index.failures(requests["key"])] = True
        known = requests.filter(pa.array(~unknown))
        missing = requests.filter(pa.array(unknown))
        size = min(LONGEST, round(self._tokens(step.name) * CHARACTERS))
        keys = missing["key"].to_pylist()
        columns = {
            "text": pa.array([f"{key} " * (1 + size // 33) for key in keys], pa.string()),
            "finish": pa.array(["stop"] * len(keys), pa.string()),
            **{name: pa.nulls(len(keys)) for name in ("value", "prompt_tokens", "completion_tokens", "reason")},
        }
        made = [steps.answered(known, index.take(known["key"])), steps.answered(missing, pa.table(columns))]
        return pa.concat_tables(made).sort_by([("row", "ascending"), ("tag", "ascending")]), not len(keys)

    def _tokens(self, step: str) -> float:
        """How many tokens an answer is likely to have."""
        voice = self.builder.voice(step)
        rate = generating.journal_of(self.run, voice).rate()
        if rate is None or not rate.counted:
            return completion_limit(voice) or 0
        return rate.completion_tokens / rate.counted


def _lacking(voice: Voice, missing: int | None) -> str:
    """What this machine lacks to ask a voice, such as its key. Planning may be done elsewhere: no error."""
    try:
        if missing != 0:
            voice.check()
    except InputError as error:
        return error.what
    return ""


def _part(own: Mapping[str, Part], generation: Generation, name: str) -> Part:
    return own[name] if name in own else generation.wholes[name]
