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
from aya_data.engine.bounds import Bounds
from aya_data.engine.mix_request import LevelNames, Problem, among, canonical, group_names
from aya_data.engine.mixture import Mixture, shares

__all__ = [
    "BLOCKED_KEYS", "BLOCKED_VALUES", "KEYS", "VALUES", "blocked_floors", "compared", "floors_without_rows",
    "nothing_taken", "of_each_value",
]  # fmt: skip

KEYS: Final = ("kind", "axis", "value")
VALUES: Final = (
    "requested_share", "achieved_share", "requested_rows", "requested_tokens", "achieved_rows", "achieved_tokens",
    "distinct_rows", "available_rows", "available_tokens",
)  # fmt: skip
"""Shares are of rows, or of tokens where the mixture counts those. 0 requested rows or tokens: none were stated."""

BLOCKED_KEYS: Final = (*KEYS, "cap")
BLOCKED_VALUES: Final = ("missing_rows", "missing_tokens")
"""Of a group that a floor leaves short, each cap that kept rows from it, as ``caps.0``, and what it misses."""

WHOLE: Final = "all"
Ints = npt.NDArray[np.int64]


def compared(rows: pa.Table, asked: Problem, taken: Mixture, settings: MixSettings) -> None:
    """Raise :class:`WrongSetting`, of all lines, where the budget does not hold what floors need."""
    cut_off, budget = taken.cut_off, settings.budget
    if cut_off is None or budget is None:
        return
    unit = "rows" if budget.rows is not None else "tokens"
    size = budget.rows if budget.rows is not None else budget.tokens
    floors, caps = ([dotted(("mix", name, number)) for number in numbers]
                    for name, numbers in (("floors", cut_off.floors), ("caps", cut_off.caps)))  # fmt: skip
    other: PathKey = ("mix", "budget", unit)
    under = f" under {_listed(caps)}" if caps else ""
    if len(floors) == 1:
        what = _asks(rows, asked, settings, cut_off.floors[0]) + under
        what += "" if cut_off.needed is None else f", {cut_off.needed} in all"
    else:
        needed = f"take more {unit}" if cut_off.needed is None else f"need {cut_off.needed} {unit}"
        what = f"{_listed(floors)} {needed} together{under}"
    what += f", and {dotted(other)} is {size}"
    if cut_off.needed is None:
        what += ": too few for the rows that were drawn, though others may do"
    lower = "Lower the floor" if len(floors) == 1 else "Lower one of them"
    raise_ = ", raise the cap" if caps else ""
    faults: list[tuple[PathKey, str, str]] = []
    for number, name in zip(cut_off.floors, floors, strict=True):
        path = ("mix", "floors", number)
        text = what if not faults else f"{name} does not fit in {dotted(other)} together with {floors[0]}"
        faults.append((path, text, f"{lower}{raise_}, or raise the budget."))
    for number, name in zip(cut_off.caps, caps, strict=True):
        text = f"{name} lets no fewer rows fill {_listed(floors)}"
        faults.append((("mix", "caps", number), text, "Raise it, or lower the floor."))
    faults.append((other, f"{dotted(other)} does not hold {_listed(floors)}", "Raise it, or lower the floor."))
    raise WrongSetting(faults)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _asks(rows: pa.Table, asked: Problem, settings: MixSettings, number: int) -> str:
    """What one floor asks for, in how many groups."""
    floor, bounds = settings.floors[number], asked.request.floors[number]
    groups = len(np.unique(bounds.group[bounds.group >= 0]))
    asks = f"{floor.rows} rows" if floor.rows is not None else f"{floor.tokens} tokens"
    return f"{dotted(('mix', 'floors', number))} asks for {asks} in each of {groups} groups by {', '.join(floor.per)}"


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
    short (``floor:language``) and for each that a cap fills (``cap:source,dataset``), of tokens so far that a row did
    not fit.
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
            counts_of = counted.of(np.where(inside, group, len(names)), len(names))
            for code, (value, counts) in enumerate(zip(names, counts_of, strict=True)):
                got, tokens, distinct, have, _ = counts
                short = (limit is not None and got < limit) or (size is not None and tokens < size)
                full = (limit is not None and got >= limit) or (different is not None and distinct >= different < have)
                full |= name == "cap" and size is not None and (number, code) in taken.passed_over
                if have and (short if name == "floor" else full):
                    axis = f"{name}:{','.join(bound.per)}"
                    share_of = counted.share(got, tokens)
                    found.append([kind, axis, value, 0.0, share_of, limit or different or 0, size or 0, *counts])
    return _added(found)


def blocked_floors(kind: str, rows: pa.Table, asked: Problem, taken: Mixture, settings: MixSettings) -> list[list[Any]]:
    """Return, for each group that a floor leaves short, the caps that kept rows from it: ``BLOCKED_KEYS``, then
    ``BLOCKED_VALUES``."""
    candidates, request = asked.candidates, asked.request
    counted = _Counted(asked, taken, settings)
    times = np.bincount(taken.row, minlength=len(candidates))
    limit = np.array([int(request.epochs.get(code, 1)) for code in range(int(candidates.source.max(initial=0)) + 1)])
    left = times < np.where(candidates.once, 1, limit[candidates.source])
    held = [left & _full(cap, times, counted.tokens) for cap in request.caps]
    found: dict[tuple[str, ...], list[int]] = {}
    for number, floor in enumerate(settings.floors):
        inside = request.floors[number].group >= 0
        names, group = group_names(rows, floor)
        counts_of = counted.of(np.where(inside, group, len(names)), len(names))
        by_cap = [np.bincount(group[inside & full], minlength=len(names)) for full in held]
        for code, (value, (got, tokens, *_)) in enumerate(zip(names, counts_of, strict=True)):
            missing = [max(0, (floor.rows or 0) - got), max(0, (floor.tokens or 0) - tokens)]
            for cap, blocked in enumerate(by_cap) if any(missing) else ():
                if blocked[code]:
                    named = (kind, f"floor:{','.join(floor.per)}", value, f"caps.{cap}")
                    found[named] = max(found.get(named, missing), missing)
    return [[*named, *missing] for named, missing in sorted(found.items())]


def _full(cap: Bounds, times: Ints, tokens: Ints) -> npt.NDArray[np.bool_]:
    """Which candidates do not fit in a cap any more, where each was taken so many times."""
    bound = cap.group >= 0
    group = np.maximum(cap.group, 0)
    full = np.zeros(len(bound), np.bool_)
    for limit, used, more in ((cap.rows, times, np.ones_like(times)), (cap.tokens, times * tokens, tokens),
                              (cap.distinct, (times > 0).astype(np.int64), (times == 0).astype(np.int64))):  # fmt: skip
        if limit is not None:
            full |= np.bincount(group[bound], weights=used[bound], minlength=int(group.max()) + 1)[group] + more > limit
    return bound & full


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
