"""Routing: which teachers are asked for a prompt, and whose answer becomes the row.

============= ===================================================================== ================================
kind          rule (Multilingual Arbitrage, arXiv 2408.14960)                       teachers asked
============= ===================================================================== ================================
``reward``    the answer with the best score                                        all
``random``    a teacher drawn for each prompt                                       one
``single``    one teacher for all prompts                                           one
``translate`` one teacher for all, whose answers are translations: the baseline     one
``fixed``     a teacher for each language: declared, or the one with the best mean  one; all for the held-out share
              score on a held-out share of the prompts
``learned``   a router, trained on a share of the prompts, picks the teacher        one; all for the share
============= ===================================================================== ================================

Prompts of a share go by ``reward``, since all of their answers are paid for. A teacher that was asked for several
samples stands with the best of them, whatever the kind.

**What the result depends on.** Draws and ties go by the row_key of the prompt, by what answers say, and by what
teachers *are* (:attr:`Contender.identity`), so that neither the order of teachers, samples and rows nor the names of
teachers matter. Names decide only between teachers of one identity, whose answers differ by chance alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from aya_data.builders.arbitrage.ranking import empties, penalised, ranking, varieties
from aya_data.builders.arbitrage.statistics.intervals import mixed
from aya_data.builders.arbitrage.teacher import check_labels, label_for
from aya_data.core.errors import did_you_mean
from aya_data.core.identity import draw, draws
from aya_data.core.settings import Number, Settings, also, wrong

__all__ = [
    "LEAST",
    "Assignment",
    "Contender",
    "Fault",
    "RouterSettings",
    "RoutingSettings",
    "assignments",
    "decisions_schema",
    "identities",
    "route",
    "second",
    "unknown",
    "unserved",
]

Kind = Literal["reward", "random", "single", "translate", "fixed", "learned"]
Fault = tuple[tuple[str | int, ...], str, str]
"""The path of a setting from the settings of the source, what is wrong with it, and the remedy."""

Mask = npt.NDArray[np.bool_]
Longs = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

NOBODY: Final = -1
SHARE, PICK = "arbitrage share", "arbitrage teacher"
LEAST: Final = 50
"""So many scored prompts are the fewest to train a router on."""
NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "single": ("teacher",),
    "translate": ("teacher",),
    "learned": ("share", "temperature"),
}
ALLOWED: Final[Mapping[str, tuple[str, ...]]] = {
    "fixed": ("teachers", "held_out", "least"),
    "learned": ("share", "temperature", "router"),
    "single": ("teacher",),
    "translate": ("teacher",),
}


def _teachers(value: Mapping[str, str] | None) -> Mapping[str, str] | None:
    check_labels(value or ())
    return value


def unknown(named: Iterable[tuple[tuple[str | int, ...], str]], teachers: Collection[str]) -> list[Fault]:
    """Return a fault for every (path, name) whose name is not among ``teachers``."""
    return [
        (path, f"names the teacher {name!r}, which is not there", did_you_mean(name, teachers))
        for path, name in named
        if name not in teachers
    ]


class RouterSettings(Settings):
    """The learned router: a fastText classifier of prompts."""

    epochs: int = Field(default=50, ge=1, le=1000, description="Passes over the scored prompts.")
    learning_rate: Number = Field(default=Decimal("0.2"), gt=0, le=10, description="The first step; it falls to 0.")
    buckets: int = Field(default=65_536, ge=1, le=10_000_000, description="Places that features are hashed to.")


class RoutingSettings(Settings):
    """How answers are routed. A text alone is the kind."""

    model_config = ConfigDict(json_schema_extra=also({"type": "string", "enum": ["reward", "random"]}))

    kind: Kind = Field(description="The rule: reward, random, single, translate, fixed or learned.")
    teacher: str | None = Field(None, description="For single and translate: the teacher.")
    teachers: Annotated[Mapping[str, str] | None, AfterValidator(_teachers)] = Field(
        None,
        min_length=1,
        description="For fixed: the teacher of each language or variety, with 'default' for the others.",
        examples=[{"tur": "qwen", "default": "command"}],
    )
    held_out: Number | None = Field(
        None, gt=0, lt=1, description="For fixed: the share of prompts that asks all teachers.", examples=[0.2]
    )
    least: int = Field(
        30,
        ge=1,
        description="For fixed with held_out: varieties with fewer scored prompts take what is best overall.",
    )
    share: Number | None = Field(
        None, gt=0, lt=1, description="For learned: the share of prompts that asks all teachers.", examples=[0.2]
    )
    temperature: Number | None = Field(
        None,
        gt=0,
        description="For learned: T of the target softmax(score / T) over teachers, in units of the score.",
        examples=[0.5],
    )
    router: RouterSettings = Field(RouterSettings(), description="For learned: the classifier.")
    penalised: Literal["drop", "keep"] = Field(
        "drop",
        description="What becomes of a prompt all of whose answers are penalised: dropped, or the best one kept; an "
        "empty answer never is.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> RoutingSettings:
        for name in NEEDS.get(self.kind, ()):
            if getattr(self, name) is None:
                raise wrong(f"is {self.kind} without {name}", f"Write {{kind: {self.kind}, {name}: …}}.")
        known = {name for names in ALLOWED.values() for name in names}
        for name in sorted((known - set(ALLOWED.get(self.kind, ()))) & self.model_fields_set):
            kinds = " or ".join(kind for kind, names in ALLOWED.items() if name in names)
            raise wrong(f"is {self.kind}, which has no {name}", f"Leave it out, or route by {kinds}.")
        if self.kind == "fixed" and (self.teachers is None) == (self.held_out is None):
            found = "neither" if self.teachers is None else "both"
            raise wrong(
                f"needs either teachers or held_out, found {found}",
                "Declare the teachers, {teachers: {tur: …, default: …}}, or let the scores choose: {held_out: 0.2}.",
            )
        return self

    @property
    def learns(self) -> float | None:
        """The share of prompts that all teachers answer before it is known whom to ask for the others, if any."""
        share = self.share if self.kind == "learned" else self.held_out if self.kind == "fixed" else None
        return None if share is None else float(share)

    @property
    def rounds(self) -> Literal[1, 2]:
        """How often teachers are asked: twice where something is learned in between."""
        return 1 if self.learns is None else 2

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers that it names, sorted."""
        named = {self.teacher, *(self.teachers or {}).values()}
        return tuple(sorted(name for name in named if name is not None))

    def faults(self, teachers: Collection[str], translated: Collection[str] | None = None) -> list[Fault]:
        """Return (path, what, remedy) of every teacher that it names and that is not among ``teachers``.

        ``translated`` are those whose answers are translations: ``translate`` needs one of them. None: it is not known.
        """
        named = [(("routing", "teacher"), self.teacher)] if self.teacher is not None else []
        found: list[Fault] = unknown(named, teachers)
        found += unknown(
            [(("routing", "teachers", label), name) for label, name in (self.teachers or {}).items()], teachers
        )
        if self.kind == "translate" and translated is not None and not found and self.teacher not in translated:
            what = f"is {self.teacher!r}, whose answers are no translations"
            some = f"Name one whose are: {', '.join(sorted(translated))}." if translated else ""
            found.append((("routing", "teacher"), what, some or "Give it the engine 'translated', or route by single."))
        return found

    def too_few(self, prompts: int) -> list[Fault]:
        """Return the fault of a share of so many prompts that is too small to train a router on, if it is one."""
        scored = prompts * (self.share or 0)
        if self.kind != "learned" or scored >= LEAST:
            return []
        what = f"leaves some {scored:.0f} of {prompts} prompts to train a router on, too few: {LEAST} are the least"
        return [(("routing", "share"), what, "Raise share, or add prompts.")]


@dataclass(frozen=True, slots=True)
class Contender:
    """A teacher as routing sees it.

    ``identity`` is what it is, whatever it is called: the key of its voice and all else that its answers depend on.
    ``asked_for(language, script)`` says whether it is asked for prompts of a variety.
    """

    name: str
    identity: str
    family: str
    asked_for: Callable[[str, str], bool]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who is asked for n prompts: ``asked[name]`` is bool[n], and ``scored`` bool[n] marks the prompts for which all
    are asked, so that their answers can be compared. ``chosen`` is int64[n], the place of the one teacher that is asked
    in the sequence of contenders, -1 where all are or nobody is."""

    asked: Mapping[str, Mask]
    scored: Mask
    chosen: Longs


def assignments(prompts: pa.Table, contenders: Sequence[Contender], routing: RoutingSettings, seed: int) -> Assignment:
    """Decide who is asked in the first round, from the columns ``row_key, language, script`` of the prompts.

    With two rounds, prompts outside the share are left to :func:`second`. 0.1 microseconds per prompt; 1.3 for
    ``random`` with 8 teachers.
    """
    held = _Prompts.of(prompts, contenders)
    count = len(held.variety)
    chosen = np.full(count, NOBODY, np.int64)
    share = routing.learns
    if routing.kind == "reward":
        scored = np.ones(count, np.bool_)
    elif share is not None:
        scored = held.draws(seed, SHARE) < np.uint64(min(int(share * 2**64), 2**64 - 1))
    else:
        scored = np.zeros(count, np.bool_)
        if routing.kind == "random":
            chosen = held.random(contenders, seed)
        else:
            chosen = held.of_variety([_declared(routing, contenders, *one) for one in held.varieties])
    return held.assignment(contenders, scored, chosen)


def second(
    prompts: pa.Table,
    contenders: Sequence[Contender],
    routing: RoutingSettings,
    seed: int,
    teachers: pa.Array | pa.ChunkedArray,
) -> Assignment:
    """Decide who is asked in the second round: ``teachers`` is a name for each prompt, null where there is none.

    They come from :func:`~aya_data.builders.arbitrage.routing.fixed.fixed_teachers` or
    :func:`~aya_data.builders.arbitrage.routing.router.predict`. Nobody is asked again for the prompts of the share.
    """
    held = _Prompts.of(prompts, contenders)
    first = assignments(prompts, contenders, routing, seed)
    place = {contender.name: index for index, contender in enumerate(contenders)}
    chosen = np.array([place.get(name, NOBODY) for name in teachers.to_pylist()], np.int64)
    chosen[first.scored] = NOBODY
    made = held.assignment(contenders, np.zeros(len(chosen), np.bool_), chosen)
    return Assignment(made.asked, first.scored, made.chosen)


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Prompts by what decides who is asked: ``variety`` int64[n], a place in ``varieties``; ``allowed`` bool[varieties,
    contenders]."""

    keys: pa.ChunkedArray
    variety: Longs
    varieties: list[tuple[str, str]]
    allowed: Mask

    @classmethod
    def of(cls, prompts: pa.Table, contenders: Sequence[Contender]) -> _Prompts:
        codes, known = varieties(prompts)
        allowed = [[contender.asked_for(*variety) for contender in contenders] for variety in known]
        return cls(prompts["row_key"], codes, known, np.array(allowed, np.bool_).reshape(len(known), len(contenders)))

    def draws(self, seed: int, purpose: str) -> Hashes:
        return draws(seed, purpose, self.keys.to_pylist())

    def random(self, contenders: Sequence[Contender], seed: int) -> Longs:
        """Draw one of the teachers that are asked for each prompt: the others' draws stay when one is added."""
        own = self.draws(seed, PICK)
        best, chosen = np.zeros(len(own), np.uint64), np.full(len(own), NOBODY, np.int64)
        for index, drawn in enumerate(identities(contenders, seed)):
            mine = mixed(own ^ np.uint64(drawn)) | np.uint64(1)
            better = self.allowed[self.variety, index] & (mine > best)
            best[better], chosen[better] = mine[better], index
        return chosen

    def of_variety(self, teachers: Sequence[int]) -> Longs:
        return np.array(teachers, np.int64)[self.variety] if len(teachers) else np.zeros(0, np.int64)

    def assignment(self, contenders: Sequence[Contender], scored: Mask, chosen: Longs) -> Assignment:
        """Ask all where ``scored``, and ``chosen`` elsewhere, but nobody for a language that it is not asked for."""
        count = len(chosen)
        if count:
            may = self.allowed[self.variety]
            chosen = np.where((chosen != NOBODY) & may[np.arange(count), chosen], chosen, NOBODY)
        asked = {
            contender.name: (scored & may[:, index]) | (chosen == index) if count else np.zeros(0, np.bool_)
            for index, contender in enumerate(contenders)
        }
        return Assignment(asked, scored, chosen)


def identities(contenders: Sequence[Contender], seed: int) -> list[int]:
    """Return the draw of each teacher's identity; of equal ones, in the order of their names, the next draw each."""
    seen: dict[str, int] = {}
    out = dict.fromkeys(range(len(contenders)), 0)
    for index in sorted(out, key=lambda at: contenders[at].name):
        identity = contenders[index].identity
        seen[identity] = seen.get(identity, 0) + 1
        out[index] = draw(seed, PICK, f"{identity} {seen[identity]}")
    return list(out.values())


def _named(routing: RoutingSettings, language: str, script: str) -> str | None:
    """Return the name of the teacher that the settings name for a variety, if any."""
    if routing.teacher is not None:
        return routing.teacher
    declared = routing.teachers or {}
    label = label_for(declared, language, script)
    return None if label is None else declared[label]


def _declared(routing: RoutingSettings, contenders: Sequence[Contender], language: str, script: str) -> int:
    """Return the place of the teacher that the settings name for a variety."""
    name = _named(routing, language, script)
    return next((index for index, contender in enumerate(contenders) if contender.name == name), NOBODY)


def unserved(
    wanted: Sequence[tuple[str, str]],
    asked_for: Mapping[str, Callable[[str, str], bool]],
    routing: RoutingSettings,
) -> list[Fault]:
    """Return the fault of a routing that has no teacher for any of the ``wanted`` varieties, if there is one.

    Where it has one for some of them, prompts in the others are dropped with the reason ``no_teacher``: the sources of
    the prompts may hold none. ``asked_for`` says by name of a teacher for which language and script it is asked.
    """
    named = routing.kind in ("single", "translate") or routing.teachers is not None
    alone: list[str] = []
    nowhere: list[str] = []
    for language, script in wanted:
        if not any(asked(language, script) for asked in asked_for.values()):
            nowhere.append(f"{language}_{script}")
        elif named:
            name = _named(routing, language, script)
            if name is None or not (name in asked_for and asked_for[name](language, script)):
                alone.append(f"{language}_{script}")
    found: list[Fault] = []
    if len(nowhere) + len(alone) < len(wanted):
        return found
    if nowhere:
        what = f"no teacher is asked for {_some(nowhere)}, which the spec's languages name"
        found.append((("teachers",), what, "Leave 'languages' of a teacher out, or add them to it."))
    if alone and routing.teachers is not None:
        what = f"names no teacher that is asked for {_some(alone)}, which the spec's languages name"
        found.append((("routing", "teachers"), what, "Name one for them, or one under 'default'."))
    elif alone:
        what = f"is {routing.teacher!r}, which is not asked for {_some(alone)}, which the spec's languages name"
        found.append(
            (("routing", "teacher"), what, f"Add them to the languages of {routing.teacher}, or leave those out.")
        )
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def decisions_schema() -> pa.Schema:
    """The table of :func:`route`: one row for each prompt, sorted by ``row``.

    ``teacher, sample, key`` and ``score`` are those of the answer that is taken, null where none is. ``reason`` is the
    rule that took it, a kind of routing, or

    * ``only_one``: ``reward`` had one answer to take;
    * ``penalised``: every answer has a penalty, and the settings drop such prompts, or every answer is empty;
    * ``none``: there was no answer;
    * ``no_score``: there were answers, and none has a score, which the rule needs;
    * ``no_teacher``: there was nobody to ask about a prompt in its language.

    ``candidates`` counts the answers that it was taken from, ``tied`` those of them that shared the best score (1: no
    tie). ``penalised`` says of the answer that is taken whether it has a penalty.
    """
    return pa.schema(
        [
            pa.field("row", pa.int32()),
            pa.field("prompt", pa.string()),
            pa.field("language", pa.string()),
            pa.field("script", pa.string()),
            pa.field("teacher", pa.string()),
            pa.field("sample", pa.int32()),
            pa.field("key", pa.string()),
            pa.field("score", pa.float64()),
            pa.field("reason", pa.string()),
            pa.field("tied", pa.int32()),
            pa.field("candidates", pa.int32()),
            pa.field("penalised", pa.bool_()),
        ]
    )


def route(
    prompts: pa.Table, scores: pa.Table, contenders: Sequence[Contender], routing: RoutingSettings, seed: int
) -> pa.Table:
    """Take an answer for every prompt of a part: :func:`decisions_schema`.

    ``prompts`` has ``row_key, language, script``; ``scores`` is the part's, of both rounds, after
    :func:`~aya_data.builders.arbitrage.ranking.combine`. Answers of a teacher that the rule does not ask do not count.
    8 microseconds per prompt with 8 completions.
    """
    given = assignments(prompts, contenders, routing, seed)
    count = len(given.scored)
    place = {contender.name: index for index, contender in enumerate(contenders)}
    coded = scores["teacher"].combine_chunks().dictionary_encode()
    names = [place.get(name, len(contenders)) for name in coded.dictionary.to_pylist()]
    teacher = np.array(names, np.int64)[coded.indices.to_numpy()] if len(coded) else np.zeros(0, np.int64)
    row = scores["row"].to_numpy().astype(np.int64)
    reward = given.scored[row]
    scored = scores["score"].is_valid().to_numpy()
    usable = np.where(reward, scored, (given.chosen[row] == teacher) | (routing.rounds == 2))
    order, begins = ranking(scores, seed)
    kept = usable[order]
    order, begins = order[kept], begins[kept]
    rows, first, candidates = np.unique(row[order], return_index=True, return_counts=True)
    tied = np.add.reduceat(begins == np.repeat(begins[first], candidates), first) if len(first) else first
    best = order[first]
    bad = penalised(scores)[best]
    # An empty answer is the best one only where there is no other.
    dropped = bad if routing.penalised == "drop" else empties(scores)[best]
    taken = np.full(count, NOBODY, np.int64)
    taken[rows[~dropped]] = best[~dropped]
    reason = np.full(count, "none", object)
    reason[~_somebody(prompts, contenders, given, routing)] = "no_teacher"
    reason[row[reward]] = "no_score"
    several = np.where(candidates > 1, "reward", "only_one")
    reason[rows] = np.where(dropped, "penalised", np.where(given.scored[rows], several, routing.kind))
    held = scores.select(["teacher", "sample", "key", "score"]).take(pa.array(taken, mask=taken == NOBODY))
    columns = {
        "row": np.arange(count, dtype=np.int32),
        "prompt": prompts["row_key"],
        "language": prompts["language"],
        "script": prompts["script"],
        **{name: held[name] for name in held.column_names},
        "reason": pa.array(reason, pa.string()),
        "tied": _placed(count, rows, tied),
        "candidates": _placed(count, rows, candidates),
        "penalised": _placed(count, rows, bad).astype(np.bool_),
    }
    return pa.table(columns).cast(decisions_schema())


def _somebody(prompts: pa.Table, contenders: Sequence[Contender], given: Assignment, routing: RoutingSettings) -> Mask:
    """Return for which prompts there is a teacher to ask."""
    found = np.zeros(len(given.scored), np.bool_)
    for asked in given.asked.values():
        found |= asked
    if routing.rounds == 2:
        held = _Prompts.of(prompts, contenders)
        found |= held.allowed[held.variety].any(axis=1) if len(found) else found
    return found


def _placed(count: int, rows: Longs, values: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    out = np.zeros(count, np.int32)
    out[rows] = values
    return out
