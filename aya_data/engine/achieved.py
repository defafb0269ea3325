"""What a mixture came to: requested and achieved side by side, and what cannot be had at all.

A share is a wish: a source that is used up, a cap that is full or a floor without rows leave a difference, which is
reported. Two things are errors: floors that the budget does not hold, and settings that leave nothing of rows that
passed the filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.core.document import PathKey, dotted
from aya_data.core.errors import WrongSetting
from aya_data.core.mix_settings import MixSettings
from aya_data.engine.mix_request import LevelNames, Problem, among, canonical, group_names
from aya_data.engine.mixture import Mixture, shares

__all__ = ["KEYS", "VALUES", "compared", "floors_without_rows", "nothing_taken", "of_each_value"]

KEYS: Final = ("kind", "axis", "value")
VALUES: Final = (
    "requested_share", "achieved_share", "requested_rows", "requested_tokens", "achieved_rows", "achieved_tokens",
    "distinct_rows", "available_rows", "available_tokens",
)  # fmt: skip
"""Shares are of rows, or of tokens where the mixture counts those. 0 requested rows or tokens: none were stated."""

WHOLE: Final = "all"
Ints = npt.NDArray[np.int64]


def compared(rows: pa.Table, asked: Problem, taken: Mixture, settings: MixSettings) -> None:
    """Raise :class:`WrongSetting`, of both lines, where the budget ended before a floor was filled."""
    if taken.cut_off is None or settings.budget is None:
        return
    floor = settings.floors[taken.cut_off]
    bounds = asked.request.floors[taken.cut_off]
    names, group = group_names(rows, floor)
    bound = bounds.group >= 0
    have = np.bincount(group[bound], minlength=len(names))
    groups = int((have > 0).sum())
    unit = "rows" if settings.budget.rows is not None else "tokens"
    size = settings.budget.rows if settings.budget.rows is not None else settings.budget.tokens
    asks = f"{floor.rows} rows" if floor.rows is not None else f"{floor.tokens} tokens"
    needs = ""
    if floor.rows is not None and unit == "rows":
        needs = f", {int(np.minimum(have, floor.rows).sum())} in all"
    before = "" if taken.cut_off == 0 else f", after {_floors(taken.cut_off)} before it"
    path: PathKey = ("mix", "floors", taken.cut_off)
    other: PathKey = ("mix", "budget", unit)
    what = (
        f"{dotted(path)} asks for {asks} in each of {groups} groups by {', '.join(floor.per)}{needs}{before}, "
        f"and {dotted(other)} is {size}"
    )
    faults = [
        (path, what, "Lower the floor, or raise the budget."),
        (other, f"{dotted(other)} does not hold {dotted(path)}", "Raise it, or lower the floor."),
    ]
    raise WrongSetting(faults)


def _floors(count: int) -> str:
    return "the floor" if count == 1 else f"the {count} floors"


def nothing_taken(rows: pa.Table, settings: MixSettings) -> WrongSetting:
    """Return why settings leave nothing of ``rows``, which passed the filters."""
    paths: list[PathKey] = []
    if settings.languages is not None and settings.languages.weights is not None:
        paths.append(("mix", "languages", "weights"))
    paths += [("mix", "levels", number) for number, level in enumerate(settings.levels) if level.weights is not None]
    if not paths and settings.budget is not None:
        paths.append(("mix", "budget"))
    paths = paths or [("mix",)]
    what = f"the mixture takes none of the {rows.num_rows} rows that passed the filters"
    if paths[0] == ("mix", "budget"):
        what += ": not even the first of them fits in the budget"
    else:
        what += f": no row has what {' and '.join(dotted(path) for path in paths)} names"
    return WrongSetting([(path, what, "Name what the rows have: see 'aya-data explain mix'.") for path in paths])


def of_each_value(kind: str, rows: pa.Table, asked: Problem, taken: Mixture, settings: MixSettings) -> list[list[Any]]:
    """Return the rows of the statistic: ``KEYS``, then ``VALUES``.

    There is one for the whole (axis ``all``), one for each value of each level, one for each group that a floor leaves
    short (``floor:language``) and for each that a cap fills (``cap:source,dataset``).
    """
    counted = _Counted(asked, taken, settings)
    budget = settings.budget
    budgeted = (0, 0) if budget is None else (budget.rows or 0, budget.tokens or 0)
    found = [[kind, WHOLE, "", 1.0, 1.0, *budgeted,
              *counted.of(np.zeros(len(rows), np.int64), 1)[0]]]  # fmt: skip
    above = 1.0
    for level, share in zip(asked.levels, shares(asked.candidates, asked.request), strict=True):
        found += [[kind, level.axis, *values] for values in _of_level(level, share.tolist(), above, counted)]
        above = float(share.sum())
    for name, bounds in (("floor", settings.floors), ("cap", settings.caps)):
        for number, bound in enumerate(bounds):
            inside = (asked.request.floors if name == "floor" else asked.request.caps)[number].group >= 0
            names, group = group_names(rows, bound)
            limit, size = bound.rows, bound.tokens
            different = getattr(bound, "distinct", None)
            for value, counts in zip(names, counted.of(np.where(inside, group, len(names)), len(names)), strict=True):
                got, tokens, distinct, have, _ = counts
                short = (limit is not None and got < limit) or (size is not None and tokens < size)
                full = (limit is not None and got >= limit) or (different is not None and distinct >= different < have)
                if have and (short if name == "floor" else full):
                    axis = f"{name}:{','.join(bound.per)}"
                    share_of = counted.share(got, tokens)
                    found.append([kind, axis, value, 0.0, share_of, limit or different or 0, size or 0, *counts])
    return _added(found)


def floors_without_rows(kind: str, rows: pa.Table, settings: MixSettings) -> list[list[Any]]:
    """Return rows of the statistic for what a floor names under ``only`` and no row of any kind has."""
    found: list[list[Any]] = []
    for bound in settings.floors:
        (axis, *others) = bound.per
        for name in () if others else bound.only.get(axis, ()):
            if not among(rows, axis, [name]).any():
                stated = (bound.rows or 0, bound.tokens or 0)
                found.append([kind, f"floor:{axis}", canonical(axis, name), 0.0, 0.0, *stated, *[0] * 5])
    return _added(found)


def _added(found: list[list[Any]]) -> list[list[Any]]:
    """Groups of two bounds by the same columns: the one that asks for more stands for both."""
    best: dict[tuple[str, ...], list[Any]] = {}
    for row in found:
        group = tuple(row[: len(KEYS)])
        if group not in best or row[len(KEYS) :] > best[group][len(KEYS) :]:
            best[group] = row
    return list(best.values())


class _Counted:
    """Counts of what is there and what was taken, by any grouping."""

    def __init__(self, asked: Problem, taken: Mixture, settings: MixSettings) -> None:
        self.taken = taken.row
        self.different = np.unique(taken.row)
        size = asked.candidates.tokens
        self.tokens = np.zeros(len(asked.candidates), np.int64) if size is None else size
        self.in_tokens = settings.unit == "tokens"
        self.rows, self.all_tokens = len(taken.row), int(self.tokens[taken.row].sum())
        budget = settings.budget
        stated = (budget.tokens if self.in_tokens else budget.rows) if budget is not None else None
        self.whole = stated or (self.all_tokens if self.in_tokens else self.rows)

    def of(self, group: Ints, groups: int) -> list[tuple[int, ...]]:
        """By group: rows and tokens taken, different rows taken, rows and tokens there are."""

        def count(rows: Ints | slice, sizes: Ints | None = None) -> list[int]:
            weights = None if sizes is None else sizes[rows]
            counts = np.bincount(group[rows], weights=weights, minlength=groups)[:groups]
            return [int(count) for count in counts.tolist()]

        everything = slice(None)
        return list(zip(
            count(self.taken), count(self.taken, self.tokens), count(self.different), count(everything),
            count(everything, self.tokens), strict=True,
        ))  # fmt: skip

    def share(self, rows: int, tokens: int) -> float:
        part, whole = (tokens, self.all_tokens) if self.in_tokens else (rows, self.rows)
        return round(part / whole, 6) if whole else 0.0


def _of_level(level: LevelNames, share: Sequence[float], above: float, counted: _Counted) -> list[list[Any]]:
    """The rows of one level. What is asked of names that nobody has is the rest of ``above``, by their weights."""
    found: list[list[Any]] = []

    def add(name: str, asked: float, counts: tuple[int, ...]) -> None:
        wanted = round(asked * counted.whole)
        stated = (0, wanted) if counted.in_tokens else (wanted, 0)
        found.append([name, round(asked, 6), counted.share(counts[0], counts[1]), *stated, *counts])

    for name, asked, counts in zip(level.names, share, counted.of(level.code, len(level.names)), strict=True):
        add(name, asked, counts)
    rest = max(0.0, above - sum(share))
    total = sum(level.absent.values())
    for name, weight in level.absent.items():
        add(name, rest * float(weight / total), (0, 0, 0, 0, 0))
    return found
