"""A small integer program: the fewest units of some kinds that give groups what they need, under limits of groups.

The relaxation is solved by the simplex method for bounded variables on a dense tableau (Dantzig 1963, chapter 18), the
rest by branch and bound, deepest first (Land and Doig 1960). Costs are compared level by level, so no large weight
stands for a more important one. Where groups of needs and limits are nested, or of two kinds, the relaxation
is whole and nothing is branched.

Of two equal choices the first is taken, so the answer is the same everywhere. Effort is counted, not timed: 1,000 kinds
in three groupings of 100, 10 and 3 groups take 0.6 s of one core, and 2,000 kinds in four groupings of 20, 10, 6 and 3
groups 0.02 s from good units on.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["Effort", "Program", "Value", "solve"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Value = tuple[int, int, int]
"""What is missing beyond what may be, what is missing, units taken: less is better, the first counts first."""

NEAR: Final = 1e-7
EFFORT: Final = 300_000_000
"""Elements of the tableau that are looked at, at most: some two seconds."""
BLAND: Final = 50
"""Steps without progress from which on the first column that improves is taken, so that no cycle is possible."""


@dataclass(frozen=True, slots=True)
class Program:
    """Take 0 to ``most`` units of each of n kinds.

    ``needs`` are f groups by n kinds (0 and 1): each wants ``need`` units and may miss ``may_miss`` of them.
    ``limits`` are k groups by n kinds: none takes more than ``limit`` units.
    """

    needs: Floats
    need: Ints
    may_miss: Ints
    limits: Floats
    limit: Ints
    most: Ints

    def value(self, units: Ints) -> Value:
        """Return what ``units`` of each kind come to."""
        missing = np.maximum(self.need - self.needs @ units, 0)
        return int(np.maximum(missing - self.may_miss, 0).sum()), int(missing.sum()), int(units.sum())


class Effort:
    """What may still be spent; ``spent`` says that it was too little, and an answer perhaps not the best."""

    def __init__(self, left: int = EFFORT) -> None:
        self.left, self.spent = left, False

    def take(self, amount: int) -> bool:
        """Spend ``amount``; false when it is not there."""
        self.left -= amount
        self.spent |= self.left < 0
        return not self.spent


def solve(program: Program, better_than: Value | None, effort: Effort, near: Ints | None = None) -> Ints | None:
    """Return the units of each kind of least value, or None where none is below ``better_than``.

    When ``effort`` is spent, the answer is the best that was found so far. ``near`` are good units, within the limits,
    to start from.
    """
    near = np.zeros_like(program.most) if near is None else near
    best: Ints | None = None
    least = better_than
    waiting = [(np.zeros(len(program.most), np.int64), program.most)]
    while waiting:
        low, high = waiting.pop()
        found = _relaxed(program, low, high, near, effort)
        if effort.spent:
            break
        if found is None or (least is not None and _below(found[1]) >= least):
            continue
        units = found[0]
        parts = np.flatnonzero(np.abs(units - np.rint(units)) > NEAR)
        if not len(parts):
            whole = np.rint(units).astype(np.int64)
            value = program.value(whole)
            if least is None or value < least:
                best, least = whole, value
            continue
        kind, at = int(parts[0]), units[parts[0]]
        above, below = low.copy(), high.copy()
        above[kind], below[kind] = ceil(at), ceil(at) - 1
        sides = [(low, below), (above, high)]
        waiting += sides if at - np.floor(at) >= 0.5 else sides[::-1]
    return best


def _below(values: Floats) -> Value:
    """The least value that whole units can have: what stands after a level that is not whole says nothing."""
    rounded = [ceil(value - NEAR * max(1.0, abs(value))) for value in values.tolist()]
    for level, value in enumerate(values.tolist()):
        if rounded[level] > value + NEAR * max(1.0, abs(value)):
            rounded[level + 1 :] = [0] * (2 - level)
            break
    return rounded[0], rounded[1], rounded[2]


def _relaxed(program: Program, low: Ints, high: Ints, near: Ints, effort: Effort) -> tuple[Floats, Floats] | None:
    """Solve for parts of units between ``low`` and ``high``: the units and their value, or None.

    Columns are the kinds, then what each need has too much, misses as it may, and misses beyond, then what each limit
    leaves. A variable outside of the basis is 0 or at its upper bound.
    """
    groups, kinds = program.needs.shape
    limits = len(program.limit)
    rows, columns = groups + limits, kinds + 3 * groups + limits
    if (program.limits @ low > program.limit).any():
        return None
    start = np.where(near >= high, high, low)
    if (program.limits @ start > program.limit).any():
        start = low
    right = np.r_[program.need - program.needs @ start, program.limit - program.limits @ start].astype(np.float64)
    tableau = np.zeros((rows, columns))
    each = np.arange(groups)
    tableau[:groups, :kinds], tableau[groups:, :kinds] = program.needs, program.limits
    tableau[each, kinds + each] = -1
    tableau[each, kinds + groups + each] = tableau[each, kinds + 2 * groups + each] = 1
    tableau[groups + np.arange(limits), kinds + 3 * groups + np.arange(limits)] = 1
    too_much = np.flatnonzero(right[:groups] < 0)
    tableau[too_much] *= -1
    right[too_much] *= -1
    upper = np.full(columns, np.inf)
    upper[:kinds], upper[kinds + groups : kinds + 2 * groups] = high - low, program.may_miss
    cost = np.zeros((3, columns))
    cost[2, :kinds] = 1
    cost[1, kinds + groups : kinds + 3 * groups] = 1
    cost[0, kinds + 2 * groups : kinds + 3 * groups] = 1
    basis = np.r_[kinds + 2 * groups + each, kinds + 3 * groups + np.arange(limits)]
    basis[too_much] = kinds + too_much
    reduced = cost - np.stack([level[basis] @ tableau for level in cost])
    at_upper = np.zeros(columns, np.bool_)
    at_upper[:kinds] = start > low
    still = 0
    while True:
        if not effort.take(3 * columns + rows):
            return None
        column = _entering(reduced * np.where(at_upper, -1.0, 1.0), upper, still > BLAND)
        if column is None:
            break
        step = tableau[:, column] * (-1.0 if at_upper[column] else 1.0)
        falls, rises = step > NEAR, step < -NEAR
        far = np.full(rows, np.inf)
        far[falls] = right[falls] / step[falls]
        far[rises] = (upper[basis[rises]] - right[rises]) / -step[rises]
        far = np.maximum(far, 0)
        nearest = float(min(far.min(initial=np.inf), upper[column]))
        still = still + 1 if nearest <= NEAR else 0
        right -= step * nearest
        if upper[column] <= nearest:
            at_upper[column] = not at_upper[column]
            continue
        ties = np.flatnonzero(far <= nearest + NEAR)
        row = int(ties[np.argmin(basis[ties])])
        right[row] = nearest if not at_upper[column] else upper[column] - nearest
        at_upper[basis[row]] = bool(rises[row])
        at_upper[column] = False
        basis[row] = column
        tableau[row] /= tableau[row, column]
        others = np.flatnonzero(np.abs(tableau[:, column]) > 0)
        others = others[others != row]
        touched = np.flatnonzero(tableau[row])
        if not effort.take(len(others) * len(touched)):
            return None
        tableau[np.ix_(others, touched)] -= np.outer(tableau[others, column], tableau[row, touched])
        reduced -= np.outer(reduced[:, column], tableau[row])
        reduced[:, column] = 0
    values = np.where(at_upper, np.where(np.isfinite(upper), upper, 0), 0)
    values[basis] = right
    return values[:kinds] + low, cost @ values + np.array([0, 0, low.sum()])


def _entering(change: Floats, upper: Floats, first: bool) -> int | None:
    """The column to enter: one whose first level of cost that changes falls; the steepest, or the first of them."""
    open_ = upper > 0
    for level in change:
        falling = open_ & (level < -NEAR)
        if falling.any():
            return int(np.argmax(falling)) if first else int(np.argmin(np.where(falling, level, np.inf)))
        open_ = open_ & (level <= NEAR)
    return None
