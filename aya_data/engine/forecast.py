"""What a build will ask of models, before it asks: how many requests and tokens, how long, for how much.

The plan's stages are walked with what the store already has (or, where the caller lets them run, with what costs
nothing). A step whose inputs are there is counted *exactly*; where they are not, the number of prompts and of requests
for each is all there is, and the count is an *estimate*. Tokens, seconds and prices go by the rate that was measured
when the voice was asked before, and by the prices that the spec states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from aya_data.core.errors import AyaDataError
from aya_data.core.generation import PROMPTS, GeneratingBuilder, Step, voice_key
from aya_data.core.journal import Journal
from aya_data.core.store import Record, Store
from aya_data.engine import asking, generating, steps
from aya_data.engine.expectation import Expectation, expectation
from aya_data.engine.plan import Plan, Stage
from aya_data.engine.running import Counts, Running
from aya_data.engine.task import Task

if TYPE_CHECKING:
    from aya_data.core.store import Part

__all__ = ["NotThere", "Peek", "forecast"]


class NotThere(AyaDataError):
    """A result that is not in the store."""


class Peek:
    """An executor that computes nothing: it gives what the store has."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def run(self, tasks: Sequence[Task], done: Callable[[int, Record, bool], None]) -> list[Record]:
        """Return the results of tasks. Raises :class:`NotThere`."""
        found = []
        for index, task in enumerate(tasks):
            record = self._store.get(task.key)
            if record is None:
                raise NotThere(task.label)
            done(index, record, True)
            found.append(record)
        return found


def forecast(run: Running, stages: Mapping[str, Callable[[Running, Stage], Counts]]) -> list[Expectation]:
    """Walk the plan as far as it goes without asking anybody; return what every ``ask`` step will ask.

    ``run`` has an executor that computes nothing (:class:`Peek`), or one that computes what is free.
    """
    found: list[Expectation] = []
    blocked = lacking = False
    for stage in run.plan.stages:
        run.stage, run.cached, run.seconds = stage, True, None
        if stage.kind in ("sample", "shards", "release"):
            break
        if stage.kind == "ask":
            found.append(_expected(run, stage, blocked))
            if found[-1].missing == 0 and found[-1].exact:
                _try(stages, run, stage)
        elif stage.kind in ("part", "whole", "make"):
            # What a source lacks keeps its own later steps waiting, and all that comes after its rows.
            if not blocked and not (_ready(run, stage) and _try(stages, run, stage)):
                lacking |= stage.kind == "make"
        elif not blocked:
            blocked = (lacking and stage.kind != "prompts") or not _try(stages, run, stage)
    return found


def _ready(run: Running, stage: Stage) -> bool:
    """Whether the tables are there that a step, or the rows of a source, are made from."""
    if stage.kind not in ("part", "whole", "make"):
        return True
    builder = run.plan.sources[stage.source].builder
    assert isinstance(builder, GeneratingBuilder)
    needed = [step.name for step in builder.steps()] if stage.kind == "make" else _step(builder, stage.step).inputs
    made = run.generations[stage.source]
    return all(_there(made.parts, made.wholes, name) for name in needed)


def _step(builder: GeneratingBuilder, name: str) -> Step:
    return next(step for step in builder.steps() if step.name == name)


def _try(stages: Mapping[str, Callable[[Running, Stage], Counts]], run: Running, stage: Stage) -> bool:
    try:
        counts = stages[stage.kind](run, stage)
    except (NotThere, KeyError):
        return False
    return counts is not None


def _expected(run: Running, stage: Stage, blocked: bool) -> Expectation:
    plan: Plan = run.plan
    source = plan.sources[stage.source]
    builder = source.builder
    assert isinstance(builder, GeneratingBuilder)
    voice = builder.voice(stage.step)
    journal = Journal(run.workspace.journal, voice_key(voice), voice.identity())
    step = _step(builder, stage.step)
    generation = None if blocked else run.generations.get(source.name)
    if generation is not None and all(_there(generation.parts, generation.wholes, name) for name in step.inputs):
        languages: Counter[str] = Counter()
        chars = 0
        keys: dict[str, tuple[str, int]] = {}
        for tables in generating.inputs_of(generation, step):
            for one in builder.requests(step.name, steps.read_tables(run.store, tables)):
                keys[one.request.key] = (one.request.language, sum(len(text) for _, text in one.request.messages))
        wanted = asking.demand(journal.load(), sorted(keys))
        for key in wanted.open(builder.max_failed):
            languages[keys[key][0]] += 1
            chars += keys[key][1]
        return expectation(stage, voice, journal, len(keys), languages.total(), languages, chars, True)
    prompts = builder.rows
    if generation is not None:
        prompts = sum(tables[PROMPTS].rows for tables in generation.parts)
    number = None if prompts is None else prompts * builder.expected(step.name)
    return expectation(stage, voice, journal, number, number, {}, 0, False)


def _there(parts: Sequence[Mapping[str, Part]], wholes: Mapping[str, Part], name: str) -> bool:
    return name in wholes or all(name in tables for tables in parts)
