"""The comparison: what each routing would have got for its money, on the same prompts.

All strategies are tried on the prompts that every teacher of the variety answered, all with a score. One cost model: a
strategy pays for all samples of each teacher that it asks, and takes the best of them. What is learned (the fixed map,
the router, which single teacher is the best) is learned on one half of these prompts and tried on the other, both ways,
so no strategy is tried on what it has learned from. ``reward`` sees all answers of a prompt: that is what it pays for.

The arbiter that routes is not a fair judge of its own choice: of equally good answers it takes those that it overrates.
Another arbiter, which takes no part in the choice, is; ``measured`` names it.

``gain`` is the difference to ``best_single``, paired by prompt: the teacher that the scores of the other half name, so
a choice that one has before the answers are there. ``best`` is the one teacher with the best mean on all of these
prompts, which is known only afterwards, and what ``reward`` gains over it. Intervals are those of
:mod:`~aya_data.builders.arbitrage.statistics.intervals`; they do not know that what was learned could have come out
otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aya_data.builders.arbitrage.ranking import STEP
from aya_data.builders.arbitrage.routing.rules import identities
from aya_data.builders.arbitrage.statistics.collected import ABSENT, FINAL, Collected
from aya_data.builders.arbitrage.statistics.intervals import FEW, GROUPS, bootstrap, fold, rounded

__all__ = ["compare"]

BEST_SINGLE: Final = "best_single"
NOBODY: Final = -1
FINE: Final = 100
"""Means over teachers are counted in hundredths of a unit of scores."""

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]


def compare(
    collected: Collected,
    seed: int,
    *,
    measured: str = FINAL,
    independent: bool = False,
    crossed: Mapping[int, str] | None = None,
    translated: str | None = None,
    least: int = 30,
) -> dict[str, Any]:
    """Compare the strategies: JSON, deterministic, numbers rounded to 1e-4.

    Answers are chosen by the final score and measured by the arbiter ``measured``; ``independent`` says that it
    takes no part in the final score. ``crossed`` is the teacher that a router picks for each prompt that it has not
    seen, by the :func:`~aya_data.builders.arbitrage.statistics.intervals.prompt_hashes` of the prompts; ``translated``
    the teacher of the translation baseline; ``least`` as for the fixed map. Memory: 40 bytes for each prompt and
    teacher; 50 ms for each strategy.
    """
    table = _Table(collected, measured, seed)
    strategies: list[tuple[str, str | None, Longs]] = []
    one = np.arange(len(table.prompts))
    if len(one):
        strategies.append(("reward", None, table.reward))
        strategies.append((BEST_SINGLE, None, table.learned(by_variety=False, least=least)))
        strategies.append(("fixed", None, table.learned(by_variety=True, least=least)))
        if crossed is not None:
            place = {contender.name: index for index, contender in enumerate(collected.contenders)}
            picked = [place.get(crossed.get(key, ""), NOBODY) for key in collected.hashes[table.prompts].tolist()]
            strategies.append(("learned", None, np.array(picked, np.int64)))
        for index, contender in enumerate(collected.contenders):
            if table.asked[:, index].any():
                kind = "translate" if contender.name == translated else "single"
                strategies.append((kind, contender.name, np.where(table.asked[:, index], index, NOBODY)))
    reference = strategies[1][2] if strategies else one
    rows = [table.taken(kind, teacher, chosen, reference) for kind, teacher, chosen in strategies]
    if rows:
        rows.insert(3 + (crossed is not None), table.random(reference))
    return {
        "best": table.best() if rows else None,
        "measured": measured or "final",
        "independent": independent,
        "prompts": len(table.prompts),
        "left_out": len(collected.hashes) - len(table.prompts),
        "few": len(table.prompts) < FEW,
        "strategies": rows,
    }


class _Table:
    """Prompts that all teachers answered: ``value`` and ``final`` int64[prompts, teachers], the measure and the score
    of the best answer of each; ``paid`` int64[prompts, teachers], its samples; ``asked`` bool, where there is one."""

    def __init__(self, collected: Collected, measured: str, seed: int) -> None:
        self.collected = collected
        count = len(collected.contenders)
        final, measure = collected.scores[FINAL], collected.scores[measured]
        usable = final != ABSENT
        prompt, teacher, place = collected.firsts(usable & (measure != ABSENT))
        found = np.full((len(collected.hashes), count), -1, np.int64)
        found[prompt, teacher] = place
        wanted = np.array(
            [[one.asked_for(*variety) for one in collected.contenders] for variety in collected.varieties], np.bool_
        ).reshape(len(collected.varieties), count)[collected.variety]
        complete = np.all((found >= 0) | ~wanted, axis=1) & (wanted.sum(axis=1) > 1)
        self.prompts = np.flatnonzero(complete)
        self.asked = wanted[complete]
        held = np.where(self.asked, found[complete], 0)
        self.names = [contender.name for contender in collected.contenders]
        self.value = np.where(self.asked, measure[held] if len(measure) else 0, 0).astype(np.int64)
        self.final = np.where(self.asked, final[held] if len(final) else 0, 0).astype(np.int64)
        self.bad = self.asked & (collected.penalised[held] if len(final) else False)
        samples = np.zeros((len(collected.hashes), count), np.int64)
        np.add.at(samples, (collected.prompt, collected.teacher), 1)
        self.paid = np.where(self.asked, samples[complete], 0)
        self.group = collected.group[complete]
        self.variety = collected.variety[complete].astype(np.int64)
        self.half = fold(collected.hashes[complete])
        # The first place of a prompt is its best answer; one without a measure leaves the prompt out.
        first = np.full(len(collected.hashes), -1, np.int64)
        rows, at = np.unique(collected.prompt[usable], return_index=True)
        first[rows] = np.flatnonzero(usable)[at]
        self.reward = collected.teacher[first[self.prompts]].astype(np.int64) if len(self.prompts) else self.prompts
        self.order = np.argsort(identities(collected.contenders, seed), kind="stable")
        # A penalised answer counts as the worst of its prompt when teachers are compared.
        worst = np.where(self.asked, self.final, np.iinfo(np.int64).max).min(axis=1, keepdims=True, initial=2**62)
        value = np.where(self.asked, np.where(self.bad, worst, self.final), 0)
        mean = value.sum(axis=1, keepdims=True) / self.asked.sum(axis=1, keepdims=True)
        self.above = np.where(self.asked, np.rint(FINE * (value - mean)), 0).astype(np.int64)

    def learned(self, *, by_variety: bool, least: int) -> Longs:
        """Return the teacher of each prompt by the scores of the other half: the best of its variety, or the best of
        those that are asked for all varieties."""
        chosen = np.full(len(self.prompts), NOBODY, np.int64)
        everywhere = self.asked.all(axis=0)
        for side in (False, True):
            seen, mine = self.half != side, self.half == side
            whole = self._means(seen)
            for one in np.unique(self.variety[mine]):
                here = mine & (self.variety == one)
                known = seen & (self.variety == one)
                means = self._means(known) if by_variety and known.sum() >= least else whole
                may = self.asked[np.flatnonzero(here)[0]]
                if not by_variety and everywhere.any():
                    may = everywhere
                # Equal means go by what teachers are, not by their place.
                chosen[here] = self.order[int(np.argmax(np.where(may, means, -np.inf)[self.order]))]
        return chosen

    def _means(self, rows: npt.NDArray[np.bool_]) -> Floats:
        count = self.asked[rows].sum(axis=0)
        return np.where(count > 0, self.above[rows].sum(axis=0) / np.maximum(count, 1), -np.inf)

    def best(self) -> dict[str, Any] | None:
        """Describe the best of the teachers that are asked for all prompts, and what the best answers gain over it."""
        everywhere = np.flatnonzero(self.asked.all(axis=0))
        if not len(everywhere):
            return None
        total = self.value.sum(axis=0)
        # Equal means go by what teachers are, not by their place.
        index = next(at for at in self.order.tolist() if at in everywhere and total[at] == total[everywhere].max())
        there = np.arange(len(self.prompts))
        value, gained = self.value[there, index], self.value[there, self.reward]
        found = self._described(there, FINE * gained, FINE * value, FINE * self.paid[there, index])
        mean = self._described(there, FINE * value, FINE * value, FINE * self.paid[there, index])["mean"]
        return {"teacher": self.names[index], "mean": mean, "gain": found["gain"]}

    def taken(self, kind: str, teacher: str | None, chosen: Longs, reference: Longs) -> dict[str, Any]:
        """Describe a strategy by the teacher that it takes of each prompt, -1 where it has none."""
        there = np.flatnonzero(chosen != NOBODY)
        mine = chosen[there]
        paid = self.paid[there].sum(axis=1) if kind == "reward" else self.paid[there, mine]
        counts = np.bincount(mine, minlength=len(self.names))
        shares = [(self.names[at], rounded(float(counts[at] / len(there)))) for at in np.flatnonzero(counts).tolist()]
        base = self.value[there, reference[there]]
        return {
            "strategy": kind,
            "teacher": teacher,
            **self._described(there, FINE * self.value[there, mine], FINE * base, FINE * paid),
            "penalised": rounded(float(self.bad[there, mine].mean())) if len(there) else None,
            "shares": dict(sorted(shares, key=lambda one: (-(one[1] or 0.0), one[0]))),
        }

    def random(self, reference: Longs) -> dict[str, Any]:
        """Describe what a teacher drawn for each prompt would give on average."""
        number = self.asked.sum(axis=1)
        value, paid, bad = (
            np.rint(FINE * held.sum(axis=1) / number).astype(np.int64) for held in (self.value, self.paid, self.bad)
        )
        base = self.value[np.arange(len(self.prompts)), reference]
        share = self.asked / number[:, None]
        shares = {name: rounded(float(np.sort(share[:, at]).sum() / len(share))) for at, name in enumerate(self.names)}
        return {
            "strategy": "random",
            "teacher": None,
            **self._described(np.arange(len(self.prompts)), value, FINE * base, paid),
            "penalised": rounded(float(bad.sum() / FINE / len(bad))),
            "shares": dict(sorted(shares.items(), key=lambda one: (-(one[1] or 0.0), one[0]))),
        }

    def _described(self, there: Longs, value: Longs, base: Longs, paid: Longs) -> dict[str, Any]:
        sums = np.zeros((GROUPS, 3), np.int64)
        np.add.at(sums, self.group[there], np.stack([np.ones(len(there), np.int64), value, value - base], axis=1))
        unit = FINE * STEP
        return {
            "prompts": len(there),
            "mean": bootstrap(sums, lambda drawn: drawn[:, 1] / drawn[:, 0] / unit).json(),
            "gain": bootstrap(sums, lambda drawn: drawn[:, 2] / drawn[:, 0] / unit).json(),
            "paid": rounded(float(paid.sum() / FINE / len(there))) if len(there) else None,
        }
