"""The bias report: what an arbiter may like in an answer beside its quality.

**Length.** Spearman's correlation of score and length, by arbiter and variety. ``overall`` over all answers; ``within``
over the ranks inside each prompt, which is what decides who wins: it leaves out that some prompts ask for long answers.
A good answer may well be longer, so this is a hint, not a proof.

**Without length.** Who would win if the score knew nothing of length: its regression on the logarithm of length, within
prompts and by variety, is taken off, and the wins are counted again.

**Position.** Of judges that see two answers in both orders: how often the verdict changes with the order, and which
share of verdicts goes to the answer that is shown first (a half, if order does not matter).

**Own family.** Whether an arbiter ranks teachers of its own model family higher than the other arbiters do. Teachers
are compared by their mean z-scores: what the other arbiters say of the own family predicts what this one should say, by
a straight line through the other teachers where there are :data:`TEACHERS` of them. The excess is in standard
deviations of scores. Without another arbiter, quality and preference cannot be told apart: it is then at most
``possible``.

**Wins.** Which share of prompts each teacher wins, by variety, with Wilson's interval, and by how much: the mean score
of its best answer, and its mean lead over the next teacher where it wins.

A finding is ``found`` where an estimate is large enough to matter and 3.5 standard errors from nothing, ``possible``
where it may have another reason, ``none`` where it is neither, ``too_few`` below 30 prompts.

Cost: 30 ms for each arbiter and variety, some 10 microseconds per completion; memory is that of
:class:`~aya_data.builders.arbitrage.statistics.collected.Collected`, twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aya_data.builders.arbitrage.ranking import STEP
from aya_data.builders.arbitrage.statistics.collected import ABSENT, FINAL, Collected
from aya_data.builders.arbitrage.statistics.intervals import (
    FEW,
    GROUPS,
    Interval,
    bootstrap,
    clustered,
    rounded,
    scatter,
    wilson,
)

__all__ = ["bias"]

CORRELATED: Final = 0.2
"""A correlation with length that matters."""
LEANING: Final = 0.05
"""How far from a half the share of verdicts for the first answer matters."""
PREFERRED: Final = 0.15
"""An excess of the own family that matters, in standard deviations of scores."""
TEACHERS: Final = 3
RANKS: Final = 1 << 14
FINE: Final = 1000

Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def bias(collected: Collected, families: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the report: JSON, deterministic, numbers rounded to 1e-4. ``families`` is that of each arbiter's model."""
    arbiters = [name for name in collected.scores if name != FINAL]
    # One arbiter's scores are the final ones.
    shown = arbiters if len(arbiters) == 1 else [FINAL, *arbiters]
    return {
        "prompts": len(collected.hashes),
        "completions": len(collected.teacher),
        "scored": int((collected.scores[FINAL] != ABSENT).sum()),
        "length": [row for name in shown for row in _length(collected, name)],
        "without_length": _without_length(collected),
        "position": [_position(collected, name) for name in sorted(collected.positions)],
        "own_family": [_own_family(collected, name, family) for name in arbiters if (family := families.get(name))],
        "wins": _wins(collected),
    }


def _finding(interval: Interval, prompts: int, least: float, null: float = 0.0) -> str:
    if prompts < FEW or interval.estimate is None:
        return "too_few"
    return "found" if interval.clear(least, null) else "none"


def _varieties(collected: Collected) -> list[tuple[str | None, str | None, Mask]]:
    """All varieties together where there is more than one, then each: language, script and its prompts."""
    each = [(*variety, collected.variety == index) for index, variety in enumerate(collected.varieties)]
    whole = [(None, None, np.ones(len(collected.hashes), np.bool_))] if len(each) > 1 else []
    return [*whole, *each]


# Length -------------------------------------------------------------------------------------------


def _length(collected: Collected, arbiter: str) -> list[dict[str, Any]]:
    score = collected.scores[arbiter]
    prompt = collected.prompt
    usable = (score != ABSENT) & ~collected.penalised
    rows = []
    for language, script, wanted in _varieties(collected):
        mine = np.flatnonzero(usable & wanted[prompt])
        held, length, where = score[mine], collected.length[mine], prompt[mine]
        groups = collected.group[where]
        if language is None:
            # Ranks of several varieties do not compare: their sums do.
            overall = None
        else:
            one, other = _spread(_ranks2(held)), _spread(_ranks2(length))
            overall = _correlation(groups, one, other)
        inside = _correlation(groups, *(_centred(where, _ranks2(column, where)) for column in (held, length)))
        count = len(np.unique(where))
        rows.append(
            {
                "arbiter": arbiter or "final",
                "language": language,
                "script": script,
                "prompts": count,
                "completions": len(mine),
                "within": inside.json(),
                "overall": None if overall is None else overall.json(),
                "finding": _finding(inside, count, CORRELATED),
            }
        )
    return rows


def _ranks2(values: npt.NDArray[np.generic], within: Longs | None = None) -> Longs:
    """Return twice the rank of each value (mean rank of equal ones) from 0, among all or those of one prompt."""
    outer = np.zeros(len(values), np.int64) if within is None else within
    order: Longs = np.lexsort((values, outer))
    held, groups = values[order], outer[order]
    size = len(order)
    if not size:
        return np.zeros(0, np.int64)
    fresh = np.concatenate([[True], (held[1:] != held[:-1]) | (groups[1:] != groups[:-1])])
    first = np.flatnonzero(fresh)
    last = np.append(first[1:], size) - 1
    begins = np.flatnonzero(np.concatenate([[True], groups[1:] != groups[:-1]]))
    start = begins[np.searchsorted(begins, first, side="right") - 1]
    out = np.empty(size, np.int64)
    out[order] = np.repeat(first + last - 2 * start, last - first + 1)
    return out


def _spread(ranks: Longs) -> Longs:
    """Scale ranks to at most :data:`RANKS` either side of 0, so that sums of their products fit."""
    top = max(1, len(ranks) - 1)
    return np.asarray(np.rint((ranks - top) * (RANKS / top)), np.int64)


def _centred(prompt: Longs, ranks2: Longs) -> Longs:
    """Take the mean from twice the ranks inside each prompt: their sum is the number of answers times one less."""
    count = np.bincount(prompt, minlength=int(prompt.max()) + 1 if len(prompt) else 0)
    return np.asarray(ranks2 - (count[prompt] - 1)) if len(prompt) else ranks2


def _correlation(groups: npt.NDArray[np.uint16], one: Longs, other: Longs) -> Interval:
    columns = (np.ones(len(one), np.int64), one, other, one * one, other * other, one * other)
    sums = np.stack([scatter(groups, column) for column in columns], axis=1)

    def statistic(drawn: Floats) -> Floats:
        n, x, y, xx, yy, xy = drawn.T
        return np.asarray((n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y)))

    return bootstrap(sums, statistic)


def _without_length(collected: Collected) -> list[dict[str, Any]]:
    score = collected.scores[FINAL]
    usable = (score != ABSENT) & ~collected.penalised
    prompt, name = collected.prompt, [contender.name for contender in collected.contenders]
    rows = []
    for index, (language, script) in enumerate(collected.varieties):
        mine = np.flatnonzero(usable & (collected.variety == index)[prompt])
        where = prompt[mine]
        if not len(mine):
            continue
        x = np.rint(np.log(np.maximum(collected.length[mine], 1) / STEP) * 1000).astype(np.int64)
        y = score[mine].astype(np.int64)
        _, at, count = np.unique(where, return_inverse=True, return_counts=True)
        sums = [np.zeros(len(count), np.int64) for _ in range(4)]
        for total, column in zip(sums, (x, y, x * x, x * y), strict=True):
            np.add.at(total, at, column)
        sx, sy, sxx, sxy = sums
        # Python's integers, since these sums may be long.
        across, along = (
            int((count * sxy - sx * sy).astype(object).sum()),
            int((count * sxx - sx * sx).astype(object).sum()),
        )
        slope = across / along if along else 0.0
        left = y - slope * x
        # The first of equals is the better ranked, as everywhere.
        order = np.lexsort((np.arange(len(left)), -np.round(left, 6), at))
        first = np.unique(at, return_index=True)[1]
        again = order[np.searchsorted(at[order], np.arange(len(count)))]
        teacher = collected.teacher[mine]
        several = np.bincount(at, weights=teacher != teacher[first][at], minlength=len(count)) > 0
        before, after = teacher[first][several], teacher[again][several]
        rows.append(
            {
                "language": language,
                "script": script,
                "prompts": int(several.sum()),
                "slope": rounded(slope * 1000 / STEP),
                "moved": wilson(int((before != after).sum()), len(before)).json(),
                "wins": {
                    name[one]: {
                        "with": rounded(float((before == one).mean())),
                        "without": rounded(float((after == one).mean())),
                    }
                    for one in sorted(np.unique(np.concatenate([before, after])).tolist(), key=lambda at: name[at])
                },
            }
        )
    return rows


# Position -----------------------------------------------------------------------------------------


def _position(collected: Collected, arbiter: str) -> dict[str, Any]:
    sums = collected.positions[arbiter]
    pairs, _, first, second = (int(value) for value in sums.sum(axis=0))
    lean = clustered(sums, 2, (2, 3))
    flips = clustered(sums, 1, (0,))
    return {
        "arbiter": arbiter,
        "comparisons": pairs // 2,
        "verdicts": first + second,
        "flipped": flips.json(),
        "first": lean.json(),
        "finding": _finding(lean, pairs // 2, LEANING, 0.5),
    }


# Own family ---------------------------------------------------------------------------------------


def _own_family(collected: Collected, arbiter: str, family: str) -> dict[str, Any]:
    own = np.array([contender.family == family for contender in collected.contenders], np.bool_)
    others = [name for name in collected.scores if name not in (FINAL, arbiter)]
    row: dict[str, Any] = {
        "arbiter": arbiter,
        "family": family,
        "teachers": sorted(contender.name for contender in collected.contenders if contender.family == family),
        "compared_with": others,
    }
    usable = ~collected.penalised
    for name in (arbiter, *others):
        usable = usable & (collected.scores.get(name, np.full(len(usable), ABSENT)) != ABSENT)
    prompt = collected.prompt
    # Prompts that only one side answered say nothing.
    mine = own[collected.teacher]
    size = len(collected.hashes)
    both = (np.bincount(prompt[usable & mine], minlength=size) > 0) & (
        np.bincount(prompt[usable & ~mine], minlength=size) > 0
    )
    usable = usable & both[prompt]
    at = np.flatnonzero(usable)
    prompts = int(both.sum())
    count = len(own)
    z = _standard(collected, arbiter, at)
    reference = sum((_standard(collected, name, at) for name in others), np.zeros(len(at), np.int64))
    groups, teacher = collected.group[prompt[at]].astype(np.int64), collected.teacher[at].astype(np.int64)
    sums = np.zeros((GROUPS, 3 * count), np.int64)
    for place, column in enumerate((np.ones(len(at), np.int64), z, reference)):
        np.add.at(sums, (groups, teacher + place * count), column)
    seen = np.bincount(teacher, minlength=count) > 0
    rest = np.flatnonzero(~own & seen)
    own = own & seen
    straight = len(others) > 0 and len(rest) >= TEACHERS

    def residuals(drawn: Floats) -> tuple[Floats, Floats]:
        with np.errstate(invalid="ignore", divide="ignore"):
            y, x = (drawn[:, k * count : (k + 1) * count] / drawn[:, :count] / FINE for k in (1, 2))
        x = x / max(1, len(others))
        middle_x, middle_y = x[:, rest].mean(axis=1, keepdims=True), y[:, rest].mean(axis=1, keepdims=True)
        slope = np.ones_like(middle_x)
        if straight:
            along = ((x[:, rest] - middle_x) ** 2).sum(axis=1, keepdims=True)
            across = ((x[:, rest] - middle_x) * (y[:, rest] - middle_y)).sum(axis=1, keepdims=True)
            slope = np.where(along > 0, across / np.where(along > 0, along, 1.0), 1.0)
        left = y - middle_y - slope * (x - middle_x)
        return left[:, own].mean(axis=1), left[:, rest]

    if not own.any() or not len(rest):
        return {**row, "prompts": prompts, "excess": Interval(None, None, None).json(), "finding": "too_few"}
    excess = bootstrap(sums, lambda drawn: residuals(drawn)[0])
    finding = _finding(excess, prompts, PREFERRED)
    if finding == "found" and (excess.estimate or 0.0) < 0:
        finding = "none"
    if finding == "found" and not straight:
        finding = "possible"
    elif finding == "found":
        # An arbiter may like a teacher for its style: its own family must stand out among such likings.
        likings = residuals(sums.sum(axis=0, keepdims=True).astype(np.float64))[1][0]
        if (excess.estimate or 0.0) < 2 * float(np.sqrt((likings**2).sum() / max(1, len(rest) - 2))):
            finding = "possible"
    return {**row, "prompts": prompts, "excess": excess.json(), "finding": finding}


def _standard(collected: Collected, arbiter: str, at: Longs) -> Longs:
    """Return z-scores of completions in thousandths: by variety, then above the mean of their prompt's."""
    score = collected.scores[arbiter][at].astype(np.int64)
    prompt = collected.prompt[at]
    variety = collected.variety[prompt]
    out = np.zeros(len(at), np.float64)
    for index in range(len(collected.varieties)):
        mine = variety == index
        values = score[mine]
        if len(values):
            count, first, second = len(values), int(values.sum()), int((values.astype(object) ** 2).sum())
            deviation = np.sqrt(float(Fraction(count * second - first * first, count * count)))
            out[mine] = values / deviation if deviation > 0 else 0.0
    fine = np.rint(out * FINE).astype(np.int64)
    size = int(prompt.max()) + 1 if len(prompt) else 0
    total = np.zeros(size, np.int64)
    np.add.at(total, prompt, fine)
    number = np.bincount(prompt, minlength=size)
    return np.rint(fine - total[prompt] / np.maximum(number, 1)[prompt]).astype(np.int64)


# Wins ---------------------------------------------------------------------------------------------


def _wins(collected: Collected) -> list[dict[str, Any]]:
    score = collected.scores[FINAL]
    prompt, teacher, place = collected.firsts(score != ABSENT)
    several = np.bincount(prompt, minlength=len(collected.hashes)) > 1
    # By prompt and rank: the first is the winner, the second the next teacher.
    order = np.lexsort((place, prompt))
    order = order[several[prompt[order]]]
    prompt, teacher, place = prompt[order], teacher[order].astype(np.int64), place[order]
    value, bad = score[place].astype(np.int64), collected.penalised[place]
    _, first = np.unique(prompt, return_index=True)
    fair = ~bad[first]
    follows = first + 1
    first, follows = first[fair], follows[fair]
    where = prompt[first]
    lead = np.where(bad[follows], -1, value[first] - value[follows])
    compared = np.zeros(len(collected.hashes), np.bool_)
    compared[where] = True
    rows: list[dict[str, Any]] = []
    for language, script, wanted in _varieties(collected):
        here = wanted[where]
        taking = (compared & wanted)[prompt]
        for index, contender in enumerate(collected.contenders):
            won = here & (teacher[first] == index)
            took = taking & (teacher == index)
            if not took.any():
                continue
            ahead = lead[won & (lead >= 0)]
            rows.append(
                {
                    "language": language,
                    "script": script,
                    "teacher": contender.name,
                    "prompts": int(took.sum()),
                    "wins": int(won.sum()),
                    "share": wilson(int(won.sum()), int(took.sum())).json(),
                    "tied": int((won & (lead == 0)).sum()),
                    "score": rounded(int(value[took].sum()) / int(took.sum()) / STEP),
                    "lead": rounded(int(ahead.sum()) / len(ahead) / STEP) if len(ahead) else None,
                }
            )
    rows.sort(
        key=lambda row: (row["language"] or "", row["script"] or "", -(row["share"]["estimate"] or 0), row["teacher"])
    )
    return rows
