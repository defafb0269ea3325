"""What a spec asks of the mixture, in the codes that it is computed with: rows and settings become numbers.

Names stay here: each level of the tree has the names of its codes, and the shares asked of names that no row has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.core import language as languages
from aya_data.core import license as licenses
from aya_data.core.errors import NotFound, WrongSetting
from aya_data.core.identity import draws
from aya_data.core.mix_settings import NO_TASK, Axis, Bound, Cap, Level, MixSettings
from aya_data.engine.bounds import Bounds
from aya_data.engine.columns import coded, fixed, named, paired
from aya_data.engine.mixture import Candidates, Request, Share

__all__ = ["LevelNames", "Problem", "absent_names", "among", "canonical", "check_tasks", "group_names", "problem"]

NAMED: Final = {"dataset": "dataset", "task": "task", "license": "licence"}
"""Axes whose names any text may be, and what a name is called."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LevelNames:
    """One level of the tree: ``axis``, the ``names`` of its codes, the code of each row.

    ``absent`` are the percent asked of names that no row has; ``written`` says that the spec gives shares.
    """

    axis: str
    names: Sequence[str]
    code: Ints
    absent: Mapping[str, Fraction]
    written: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """A mixture to solve: ``levels`` from the outside in, as in ``candidates`` and ``request``."""

    candidates: Candidates
    request: Request
    levels: Sequence[LevelNames]


def problem(
    rows: pa.Table,
    once: npt.NDArray[np.bool_],
    settings: MixSettings,
    seed: int,
    absent: Sequence[str] = (),
) -> Problem:
    """Translate rows and settings into codes.

    ``absent`` are training sources without any row. Raises :class:`WrongSetting` for a dataset or task with a share
    that does not exist: a share must never be lost silently.
    """
    levels = [_level(rows, level) for level in settings.levels]
    sources, source = coded(rows, "source")
    source_names = [name for (name,) in sources]
    source_weights, missing_sources = _source_weights(settings, source_names, absent)
    datasets, dataset = coded(rows, "source", "dataset")
    dataset_weights: dict[int, Fraction] = {}
    for owner, weight in (settings.weights or {}).items():
        mine = {name: code for code, (of, name) in enumerate(datasets) if of == owner}
        for name, share in weight.datasets.items() if mine else ():
            dataset_weights[_dataset(name, mine, owner)] = Fraction(share)
    mixed = settings.languages
    wanted = {} if mixed is None or mixed.weights is None else _by_language(mixed.weights)
    language_names, language = _languages(rows, wanted)
    codes = {name: code for code, name in enumerate(language_names)}
    missing_languages = {name: share for name, share in wanted.items() if name not in codes}
    tokens = None
    if rows["tokens"].null_count < rows.num_rows or rows.num_rows == 0:
        tokens = np.asarray(rows["tokens"].fill_null(0)).astype(np.int64)
    keys = fixed(rows["row_key"])
    candidates = Candidates(
        source, dataset, language, draws(seed, "mix", keys), paired(fixed(rows["row_hash"]), keys), once, tokens,
        [level.code for level, _ in levels],
    )  # fmt: skip
    budget = settings.budget
    request = Request(
        rows=budget.rows if budget else None,
        tokens=budget.tokens if budget else None,
        source_weights=source_weights,
        dataset_weights=dataset_weights,
        language_weights={codes[name]: share for name, share in wanted.items() if name in codes} if wanted else None,
        temperature=mixed.temperature if mixed else None,
        language_even=mixed is not None and mixed.unimax is not None,
        axes=[share for _, share in levels],
        epochs={code: Fraction(settings.most_epochs(name)) for code, name in enumerate(source_names)},
        caps=[_bounds(rows, bound) for bound in settings.caps],
        floors=[_bounds(rows, bound) for bound in settings.floors],
        in_tokens=settings.unit == "tokens",
        missing_sources=sum(missing_sources.values(), Fraction(0)),
        missing_languages=sum(missing_languages.values(), Fraction(0)),
    )
    return Problem(
        candidates,
        request,
        [
            *(level for level, _ in levels),
            LevelNames("source", source_names, source, missing_sources, settings.weights is not None),
            LevelNames("dataset", [", ".join(pair) for pair in datasets], dataset, {}, bool(dataset_weights)),
            LevelNames("language", language_names, language, missing_languages, mixed is not None),
        ],
    )


def check_tasks(rows: pa.Table, settings: MixSettings) -> None:
    """Raise for a share of a task that no row of any kind has: any text may name one, so a slip shows nowhere else."""
    for number, level in enumerate(settings.levels):
        if level.by == "task" and level.weights is not None:
            names, _ = _values(rows, "task")
            for name in level.weights:
                if name not in names:
                    raise _missing(NotFound("task", name, names), "levels", number, "weights", name)


def absent_names(rows: pa.Table, settings: MixSettings) -> list[list[Any]]:
    """Return ``[place, axis, name, 1]`` of the datasets, tasks and licences with a share, cap or floor of their own
    that no row of any kind has: a slip, or the filters left none."""
    named: list[tuple[str, Axis, str]] = [
        (f"levels.{number}.weights", level.by, name)
        for number, level in enumerate(settings.levels)
        for name in level.weights or ()
    ]
    named += [
        (f"{kind}.{number}.only", axis, name)
        for kind, bounds in (("caps", settings.caps), ("floors", settings.floors))
        for number, bound in enumerate(bounds)
        for axis, names in bound.only.items()
        for name in names
    ]
    known: dict[str, set[str]] = {}
    found: list[list[Any]] = []
    for place, axis, name in named:
        if axis in NAMED:
            if axis not in known:
                known[axis] = set(_values(rows, axis)[0])
                known[axis] |= {value.rpartition("/")[2] for value in known[axis]} if axis == "dataset" else set()
            if canonical(axis, name) not in known[axis]:
                found.append([place, NAMED[axis], name, 1])
    return sorted(found)


def _level(rows: pa.Table, level: Level) -> tuple[LevelNames, Share]:
    names, code = _values(rows, level.by)
    share = Share(temperature=level.temperature, even=level.unimax is not None)
    absent: dict[str, Fraction] = {}
    if level.weights is not None:
        known = {name: place for place, name in enumerate(names)}
        given = [Fraction(weight) for weight in level.weights.values() if weight is not None]
        left = 100 - sum(given, Fraction(0))
        weights: dict[int, Fraction] = {}
        for name, written in level.weights.items():
            weight = left if written is None else Fraction(written)
            value = canonical(level.by, name)
            if value in known:
                weights[known[value]] = weight
            else:
                absent[value] = weight
        share = Share(weights, missing=sum(absent.values(), Fraction(0)))
    return LevelNames(level.by, names, code, absent, True), share


def canonical(axis: str, name: str) -> str:
    """A value as rows have it."""
    if axis == "license":
        return licenses.parse(name).expression
    if axis == "variety":
        return languages.parse(name).code
    if axis == "language":
        return languages.parse(name).language
    return name


def _values(rows: pa.Table, axis: str) -> tuple[list[str], Ints]:
    """The values of an axis, sorted, and their code in each row."""
    if axis == "variety":
        found, code = coded(rows, "language", "script")
        return ["_".join(pair) for pair in found], code
    names, code = named(rows[axis])
    return [name or (NO_TASK if axis == "task" else "") for name in names], code


def _source_weights(
    settings: MixSettings, names: Sequence[str], absent: Sequence[str]
) -> tuple[dict[int, Fraction], dict[str, Fraction]]:
    if settings.weights is None:
        return {}, {}
    given = [Fraction(w.weight) for w in settings.weights.values() if w.weight is not None]
    left = 100 - sum(given, Fraction(0))

    def weight(name: str) -> Fraction:
        written: Decimal | None = (settings.weights or {})[name].weight
        return left if written is None else Fraction(written)

    return (
        {code: weight(name) for code, name in enumerate(names)},
        {name: weight(name) for name in absent if name in settings.weights},
    )


def _by_language(weights: Mapping[str, Decimal]) -> dict[str, Fraction]:
    """Weights by ``tur`` or ``tur_Latn``, whichever spelling the spec has."""
    return {_language_key(name): Fraction(weight) for name, weight in weights.items()}


def _language_key(label: str) -> str:
    """A variety where the label names its script, else a language."""
    latin, cyrillic = (languages.resolve(label, script=script).variety for script in ("Latn", "Cyrl"))
    variety = languages.parse(label)
    return variety.code if latin == cyrillic else variety.language


def _languages(rows: pa.Table, weights: Mapping[str, Fraction]) -> tuple[list[str], Ints]:
    """The language of each row; its variety where the weights name that."""
    varieties, code = coded(rows, "language", "script")
    labels = [f"{a}_{b}" if f"{a}_{b}" in weights else a for a, b in varieties]
    distinct = sorted(set(labels))
    table = np.array([distinct.index(label) for label in labels], np.int64)
    return distinct, table[code] if len(code) else code


def _dataset(name: str, known: Mapping[str, int], source: str) -> int:
    """Find a dataset by its name or the last part of it."""
    if name in known:
        return known[name]
    ends = [code for full, code in known.items() if full.rpartition("/")[2] == name]
    if len(ends) != 1:
        raise _missing(NotFound(f"dataset of source {source}", name, known), "weights", source, "datasets", name)
    return ends[0]


def _missing(error: NotFound, *path: str | int) -> WrongSetting:
    return WrongSetting([(("mix", *path), error.what, error.remedy)])


def _bounds(rows: pa.Table, bound: Bound) -> Bounds:
    group = coded(rows, *_columns(bound))[1]
    outside = np.zeros(rows.num_rows, np.bool_)
    for axis, values in bound.only.items():
        outside |= ~among(rows, axis, values)
    if bound.not_for:
        inside = np.ones(rows.num_rows, np.bool_)
        for axis, values in bound.not_for.items():
            inside &= among(rows, axis, values)
        outside |= inside
    group[outside] = -1
    return Bounds(group, bound.rows, bound.tokens, bound.distinct if isinstance(bound, Cap) else None)


def _columns(bound: Bound) -> list[str]:
    return [name for axis in bound.per for name in (("language", "script") if axis == "variety" else (axis,))]


def among(rows: pa.Table, axis: str, values: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which rows have one of the values."""
    names, code = _values(rows, axis)
    wanted = set(values)
    if axis in ("license", "variety", "language"):
        wanted = {canonical(axis, value) for value in values}
    found = [name in wanted or (axis == "dataset" and name.rpartition("/")[2] in wanted) for name in names]
    marked: npt.NDArray[np.bool_] = np.array(found, np.bool_)[code] if len(code) else np.zeros(0, np.bool_)
    return marked


def group_names(rows: pa.Table, bound: Bound) -> tuple[list[str], Ints]:
    """The names of the groups of a bound, and the group of each row."""
    names, code = coded(rows, *_columns(bound))
    return [", ".join(name or NO_TASK for name in group) for group in names], code
