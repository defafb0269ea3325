"""What routing learns from the prompts that all teachers answered: a teacher for each language, or a router."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from aya_data.builders.arbitrage.ranking import combine, norms
from aya_data.builders.arbitrage.routing.fixed import fixed_map, fixed_teachers
from aya_data.builders.arbitrage.routing.router import predict, train
from aya_data.builders.arbitrage.routing.rules import Contender, RoutingSettings
from aya_data.builders.arbitrage.statistics.collected import collect
from aya_data.core.generation import PROMPTS

__all__ = ["learn", "picked"]


def learn(
    parts: Iterable[Mapping[str, pa.Table]],
    contenders: Sequence[Contender],
    routing: RoutingSettings,
    weights: Mapping[str, float],
    seed: int,
) -> pa.Table:
    """Learn from the tables ``prompts`` and ``score`` of all parts whom to ask for the prompts outside the share."""
    normed = norms((tables["score"] for tables in parts), sorted(weights))
    scored = ((tables[PROMPTS], combine(tables["score"], weights, normed)) for tables in parts)
    if routing.kind == "learned":
        return train(scored, contenders, routing, seed)
    return fixed_map(collect((scores for _, scores in scored), contenders, seed), seed, routing.least)


def picked(table: pa.Table, prompts: pa.Table, contenders: Sequence[Contender], routing: RoutingSettings) -> pa.Array:
    """Return the name of the teacher that the table of :func:`learn` picks for each prompt, null where it has none."""
    by = predict if routing.kind == "learned" else fixed_teachers
    return by(prompts, table, contenders)
