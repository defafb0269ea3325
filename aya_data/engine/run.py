"""Running a plan: the stages in order, each as tasks under keys; from the plan to a release."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aya_data.core import ledger
from aya_data.core.stage import Builder, Filter
from aya_data.core.store import Workspace
from aya_data.engine import filtering, finishing, generating, intake
from aya_data.engine.events import Events
from aya_data.engine.plan import Plan, Stage
from aya_data.engine.pool import Executor
from aya_data.engine.release import Documents, Result
from aya_data.engine.running import COMPILED, Counts, Running, StageReport
from aya_data.engine.warming import Warming

__all__ = ["STAGES", "Build", "StageReport", "run"]

STAGES: Mapping[str, Callable[[Running, Stage], Counts]] = {
    "read": intake.read,
    "prompts": generating.prompts,
    "ask": generating.ask,
    "part": generating.part,
    "whole": generating.whole,
    "make": generating.make,
    "derive": intake.derive,
    "keys": intake.number,
    "limit": intake.limit,
    "edit": filtering.edit,
    "index": filtering.index,
    "measure": filtering.measure,
    "judge": filtering.judge,
    "compare": filtering.compare,
    "sample": finishing.sample,
    "shards": finishing.write_shards,
    "release": finishing.release,
}
"""What runs a stage, by its kind."""


@dataclass(frozen=True, slots=True)
class Build:
    """A finished build. ``asked`` tells of every voice that was asked what was expected, and what it was; ``notes`` are
    what happened on the way that people should know, and no release says."""

    result: Result
    stages: list[StageReport] = field(repr=False)
    seconds: float
    asked: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
    warm: list[tuple[Filter | Builder, str]] = [(plan.chain[i].filter, plan.chain[i].code) for i in needed]
    asking = {stage.source: plan.sources[stage.source] for stage in plan.stages if stage.kind == "part"}
    warm += [(source.builder, source.code) for source in asking.values()]
    with Warming(warm, threads, memory) as warming:
        state = Running(plan, workspace, executor, events, documents, memory, threads, warming)
        total = len(state.plan.stages)
        state.events("build", name=state.plan.spec.name, profile=state.plan.spec.profile, stages=total)
        for index, stage in enumerate(state.plan.stages):
            state.stage, state.cached, state.seconds, state.worked, state.waited = stage, True, None, 0.0, 0.0
            began = time.perf_counter()
            state.events("stage", name=stage.name, index=index, of=total)
            counts = STAGES[stage.kind](state, stage)
            state.used.setdefault(stage.key, [])
            # What workers did for a later stage meanwhile counts there.
            took = time.perf_counter() - began - state.waited + state.worked if state.seconds is None else state.seconds
            seconds = round(took, 4)
            names = stage.reports or (stage.name,)
            for name in names:
                counted = counts.get(name, ledger.tally())
                share = round(seconds / len(names), 4)
                state.reports.append(StageReport(name, stage.key, state.cached, counted, share))
                state.events("counted", name=name, cached=state.cached, seconds=share, **counted)
                if missing := ledger.balance(counted):
                    raise AssertionError(f"stage {name} broke the law of the ledger by {missing}: {counted}")
            if stage.kind == "sample" or (index + 1 < total and state.plan.stages[index + 1].kind == "ask"):
                state.note()
        state.note()
        assert state.result is not None
        result = state.result
        state.events("released", name=result.name, version=result.version, path=str(result.path), rows=result.rows)
        return Build(result, state.reports, round(state.events.seconds, 3), state.asked, state.notes)
