"""The fixed map: for each variety the teacher with the best scores on the held-out share of the prompts.

Teachers are compared by how far the best of their answers lies above the mean of the prompt's teachers, so that a
teacher that was not there for the hard prompts gains nothing by it. A penalised answer counts as the worst one of its
prompt. A variety with fewer than ``least`` prompts takes the order of all varieties together. A teacher that could not
be compared, such as the only one that is asked for a language, comes last: it is taken where no other is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.builders.arbitrage.ranking import STEP, varieties
from aya_data.builders.arbitrage.routing.rules import Contender
from aya_data.builders.arbitrage.statistics.collected import ABSENT, FINAL, Collected
from aya_data.core.errors import WrongSetting
from aya_data.core.identity import draw

__all__ = ["FIXED", "Standings", "fixed_map", "fixed_teachers"]

FINE: Final = 100
"""Advantages are counted in hundredths of a unit of scores."""

FIXED: Final = pa.schema(
    [
        pa.field("language", pa.string()),
        pa.field("script", pa.string()),
        pa.field("place", pa.int32()),
        pa.field("teacher", pa.string()),
        pa.field("prompts", pa.int64()),
        pa.field("advantage", pa.float64()),
        pa.field("tied", pa.int32()),
    ]
)
"""Teachers by variety, best first (``place`` 0), those over all varieties under null. ``prompts`` counts the ones where
it was compared with another, ``advantage`` is its mean score above theirs, ``tied`` how many teachers have the same.
Over all varieties every teacher has a place: last come those that were compared with none, by the draws of their
identities, with 0 prompts, no advantage and 0 tied."""

Longs = npt.NDArray[np.int64]


class Standings:
    """The best answer of every teacher to every prompt with at least two teachers: arrays of one length, by prompt.

    ``prompt``, ``teacher`` and ``place`` (of the completion) are int64; ``value`` int64, its score in units of 1e-4,
    that of the prompt's worst answer where it is penalised; ``advantage`` int64, what ``value`` lies above the mean of
    the prompt's teachers, in units of 1e-6.
    """

    def __init__(self, collected: Collected) -> None:
        score = collected.scores[FINAL]
        prompt, teacher, place = collected.firsts(score != ABSENT)
        several = np.bincount(prompt, minlength=len(collected.hashes)) > 1
        kept = several[prompt]
        self.prompt, self.teacher, self.place = prompt[kept], teacher[kept].astype(np.int64), place[kept]
        worst = np.full(len(collected.hashes), np.iinfo(np.int64).max)
        there = score != ABSENT
        np.minimum.at(worst, collected.prompt[there], score[there])
        bad = collected.penalised[self.place]
        self.value = np.where(bad, worst[self.prompt], score[self.place]).astype(np.int64)
        _, first, count = np.unique(self.prompt, return_index=True, return_counts=True)
        total = np.add.reduceat(self.value, first) if len(first) else self.value
        mean = np.repeat(total / np.maximum(count, 1), count)
        self.advantage = np.rint(FINE * (self.value - mean)).astype(np.int64)


def fixed_map(collected: Collected, seed: int, least: int) -> pa.Table:
    """Return the table :data:`FIXED` of what was scored. Raises :class:`WrongSetting` where nothing was."""
    if not np.any(collected.scores[FINAL] != ABSENT):
        what = "no prompt of the held-out share has an answer with a score, so there is nothing to choose teachers by"
        raise WrongSetting([(("routing", "held_out"), what, "Raise held_out, or add prompts.")])
    found = Standings(collected)
    variety = collected.variety[found.prompt].astype(np.int64)
    rows = _order(collected.contenders, found.teacher, found.advantage, seed, (None, None))
    rows += _absent(collected.contenders, found.teacher, seed, len(rows))
    for index, (language, script) in enumerate(collected.varieties):
        mine = variety == index
        if len(np.unique(found.prompt[mine])) >= least:
            label = (language, script)
            rows += _order(collected.contenders, found.teacher[mine], found.advantage[mine], seed, label)
    named = zip(*rows, strict=True) if rows else [()] * len(FIXED)
    return pa.table([pa.array(column, field.type) for column, field in zip(named, FIXED, strict=True)], schema=FIXED)


def _absent(contenders: Sequence[Contender], teacher: Longs, seed: int, place: int) -> list[tuple[object, ...]]:
    """Return the teachers that were compared with no other, from ``place`` on: by what they are, then by name."""
    missing = set(range(len(contenders))) - set(teacher.tolist())
    ordered = sorted(missing, key=lambda index: (*_draw(contenders[index], seed, ""), index))
    return [(None, None, place + at, contenders[index].name, 0, None, 0) for at, index in enumerate(ordered)]


def _draw(contender: Contender, seed: int, label: str) -> tuple[int, str]:
    return draw(seed, "arbitrage fixed", f"{label} {contender.identity}"), contender.name


def _order(
    contenders: Sequence[Contender], teacher: Longs, advantage: Longs, seed: int, variety: tuple[str | None, str | None]
) -> list[tuple[object, ...]]:
    count = np.bincount(teacher, minlength=len(contenders))
    total = np.zeros(len(contenders), np.int64)
    np.add.at(total, teacher, advantage)
    mean = {index: Fraction(int(total[index]), int(count[index])) for index in np.flatnonzero(count).tolist()}
    label = " ".join(part or "" for part in variety)

    def key(index: int) -> tuple[Fraction, int, str]:
        return -mean[index], *_draw(contenders[index], seed, label)

    ordered = sorted(mean, key=key)
    shared = list(mean.values())
    return [
        (
            *variety, place, contenders[index].name, int(count[index]),
            round(float(mean[index]) / (FINE * STEP), 4) + 0.0, shared.count(mean[index]),
        )
        for place, index in enumerate(ordered)
    ]  # fmt: skip


def fixed_teachers(prompts: pa.Table, table: pa.Table, contenders: Sequence[Contender]) -> pa.Array:
    """Return the name of the teacher of each prompt (``language, script``), null where none is asked for it."""
    ordered: dict[tuple[str | None, str | None], list[str]] = {}
    for row in table.sort_by([("place", "ascending")]).to_pylist():
        ordered.setdefault((row["language"], row["script"]), []).append(row["teacher"])
    whole = ordered.get((None, None), [])
    by_name = {contender.name: contender for contender in contenders}
    coded, known = varieties(prompts)
    names = [
        next(
            (
                name
                for name in [*ordered.get(variety, []), *whole]
                if name in by_name and by_name[name].asked_for(*variety)
            ),
            None,
        )
        for variety in known
    ]
    return pa.array(names, pa.string()).take(pa.array(coded))
