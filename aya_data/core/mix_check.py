"""What cannot hold between the settings of a mixture, or between them and the rest of the spec.

Only what is plain before any row is read; what depends on the rows is found by the build. Each problem stands at one
line and names the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from aya_data.core import language as languages
from aya_data.core import license as licenses
from aya_data.core.document import Document, PathKey, dotted
from aya_data.core.errors import InputError, Problem, did_you_mean
from aya_data.core.language import Variety
from aya_data.core.mix_settings import Bound, Level, MixSettings
from aya_data.core.policy import PolicySettings, judge
from aya_data.core.policy import policy as policy_of
from aya_data.core.row import ORIGINS

__all__ = ["conflicts"]


def conflicts(
    mix: MixSettings, document: Document, spoken: Sequence[Variety] | None, policy: str | PolicySettings | None
) -> list[Problem]:
    """Return the problems. ``spoken`` are the languages that the spec keeps, None for all."""
    return list(_Check(mix, document, spoken, policy).run())


class _Check:
    def __init__(
        self,
        mix: MixSettings,
        document: Document,
        spoken: Sequence[Variety] | None,
        policy: str | PolicySettings | None,
    ) -> None:
        self.mix, self.document, self.spoken, self.policy = mix, document, spoken, policy

    def run(self) -> Iterator[Problem]:
        yield from self._unimax()
        yield from self._datasets()
        for number, level in enumerate(self.mix.levels):
            yield from self._level(level, ("mix", "levels", number))
        if self.mix.languages is not None:
            weights = self.mix.languages.weights
            for label in weights or ():
                yield from self._is_spoken(label, "language", ("mix", "languages", "weights", label))
        yield from self._floors()

    def _at(self, *path: str | int) -> str:
        """The other line of a conflict, as people find it."""
        return f"{dotted(path)} ({self.document.mark(path)})"

    def _unimax(self) -> Iterator[Problem]:
        for inside, _ in self.mix.unimax():
            path = ("mix", *inside)
            if self.mix.budget is None:
                what = f"{dotted(path)} shares a budget out evenly, and the mixture has none"
                yield self.document.problem(path, what, "Add budget: {rows: 50000}, for example.", key=True)
            if "max" in self.mix.epochs.model_fields_set:
                what = f"{dotted(path)} and {self._at('mix', 'epochs', 'max')} both say how often a row may stand"
                yield self.document.problem(path, what, "Keep one of the two.", key=True)

    def _datasets(self) -> Iterator[Problem]:
        for name, weight in (self.mix.weights or {}).items():
            total = sum(weight.datasets.values(), Decimal(0))
            if total > 100:
                path = ("mix", "weights", name, "datasets")
                what = f"{dotted(path)} adds up to {format(total.normalize(), 'f')}, more than 100"
                yield self.document.problem(path, what, "These are percent of the source: lower them.", key=True)

    def _level(self, level: Level, path: PathKey) -> Iterator[Problem]:
        if level.by in ("language", "variety") and self.mix.languages is not None:
            what = (
                f"{dotted(path)} shares by {level.by} already, so {self._at('mix', 'languages')} has nothing to share"
            )
            yield self.document.problem(path, what, "Keep one of the two.")
        seen: dict[str, str] = {}
        for name in level.weights or ():
            here = (*path, "weights", name)
            try:
                canonical = self._value(level.by, name)
            except InputError as error:
                yield self.document.problem(here, f"{dotted(path)}.weights: {error.what}", error.remedy, key=True)
                continue
            if canonical in seen:
                first = self.document.mark((*path, "weights", seen[canonical]), key=True)
                what = f"{dotted(path)}.weights: {name!r} is {canonical}, which stands there as {seen[canonical]!r}"
                what += f" ({first})"
                yield self.document.problem(here, what, "Keep one of the two.", key=True)
                continue
            seen[canonical] = name
            if level.by in ("language", "variety", "script"):
                yield from self._is_spoken(name, level.by, here)
            elif level.by == "license":
                yield from self._is_allowed(name, here)

    @staticmethod
    def _value(axis: str, name: str) -> str:
        """A value as rows have it. Raises InputError where no row can have it."""
        if axis == "origin" and name not in ORIGINS:
            raise InputError(f"there is no origin {name!r}", did_you_mean(name, ORIGINS))
        if axis == "license":
            return licenses.parse(name).expression
        if axis in ("language", "variety"):
            variety = languages.parse(name)
            return variety.code if axis == "variety" else variety.language
        if axis == "script" and not (len(name) == 4 and name.isalpha() and name == name.capitalize()):
            raise InputError(f"{name!r} is not a script", "Write an ISO 15924 code such as Latn or Arab.")
        return name

    def _is_spoken(self, label: str, axis: str, path: PathKey) -> Iterator[Problem]:
        """A share for a language that the spec leaves out would go to nobody."""
        if self.spoken is None:
            return
        try:
            variety = languages.parse(label) if axis != "script" else None
        except InputError:
            return
        known = {v.script for v in self.spoken} if variety is None else {v.language for v in self.spoken}
        exact = variety is not None and (axis == "variety" or label == variety.code)
        if exact and variety not in self.spoken:
            missing = True
        else:
            missing = (label if variety is None else variety.language) not in known
        if missing:
            what = f"{dotted(path[:-1])} gives {label!r} a share, and {self._at('languages')} leaves it out"
            yield self.document.problem(path, what, "Add it there, or take its share away.", key=True)

    def _is_allowed(self, name: str, path: PathKey) -> Iterator[Problem]:
        if self.policy is None:
            return
        policy = policy_of(self.policy)
        if not judge(licenses.parse(name), (), policy).allowed:
            written = self.document.real_path(("policy",))
            where = self._at("policy") if written else f"the policy '{policy.name}'"
            what = f"{dotted(path[:-1])} gives {name!r} a share, and {where} refuses it"
            yield self.document.problem(path, what, "Take its share away, or choose another policy.", key=True)

    def _floors(self) -> Iterator[Problem]:
        budget = self.mix.budget
        for number, floor in enumerate(self.mix.floors):
            for unit in ("rows", "tokens"):
                least = getattr(floor, unit)
                if least is None:
                    continue
                path = ("mix", "floors", number, unit)
                for other, cap in enumerate(self.mix.caps):
                    most = getattr(cap, unit)
                    if most is not None and most < least and _inside(floor, cap):
                        line = self._at("mix", "caps", other, unit)
                        what = f"{dotted(path)} asks for {least} {unit} in each group, and {line} allows {most}"
                        yield self.document.problem(path, what, "Lower the floor, or raise the cap.")
                    elif unit == "rows" and cap.distinct is not None and _inside(floor, cap):
                        epochs = max((*self.mix.epochs.sources.values(), self.mix.most_epochs("")))
                        if int(cap.distinct * epochs) < least:
                            line = self._at("mix", "caps", other, "distinct")
                            times = f", each up to {format(epochs.normalize(), 'f')} times" if epochs > 1 else ""
                            what = f"{dotted(path)} asks for {least} rows in each group, and {line} allows "
                            what += f"{cap.distinct} different ones{times}"
                            yield self.document.problem(path, what, "Lower the floor, or raise the cap.")
                groups = self._groups(floor)
                most = getattr(budget, unit) if budget is not None else None
                if groups is not None and most is not None and groups[0] * least > most:
                    line = self._at("mix", "budget", unit)
                    what = (
                        f"{dotted(path)} asks for {least} {unit} in each of {groups[0]} {groups[1]}, "
                        f"{groups[0] * least} in all, and {line} is {most}"
                    )
                    yield self.document.problem(path, what, "Lower the floor, or raise the budget.")

    def _groups(self, floor: Bound) -> tuple[int, str] | None:
        """How many groups the spec itself names for a floor."""
        if len(floor.per) != 1 or floor.only or floor.not_for:
            return None
        (axis,) = floor.per
        for level in self.mix.levels:
            if level.by == axis and level.weights is not None:
                return len(level.weights), f"values of {axis} that mix.levels names"
        if self.spoken is None or axis not in ("language", "variety"):
            return None
        names = {v.code if axis == "variety" else v.language for v in self.spoken}
        mixed = self.mix.languages
        if mixed is not None and mixed.weights is not None:
            return len(mixed.weights), "languages that mix.languages names"
        return len(names), f"{axis.replace('y', 'ie') if axis == 'variety' else axis}s that the spec keeps"


def _inside(floor: Bound, cap: Bound) -> bool:
    """Whether each group of the floor lies in one group of the cap."""
    same = (cap.only, cap.not_for) == (floor.only, floor.not_for) or not (cap.only or cap.not_for)
    return same and _columns(cap) <= _columns(floor)


def _columns(bound: Bound) -> set[str]:
    return {name for axis in bound.per for name in (("language", "script") if axis == "variety" else (axis,))}
