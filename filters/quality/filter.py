"""The ``quality`` filter: named rules about the form of a text, each of which drops or tags.

The rules stand in :data:`aya_data.filters.quality.rules.RULES`, their defaults and the sources of these in
``data/thresholds.tsv``, phrases and markup in ``data/phrases.tsv``. By default only what is certainly
nobody's text goes (placeholders, special tokens of chat templates, ``<unk>``, loops); the rest is tagged.

**Measure** (cached): counts per turn (:mod:`aya_data.filters.quality.scan`), which no threshold changes. **Judge**: a
value above the threshold of the row's language meets the rule; thresholds themselves pass. Of several turns the worst
is named. The first rule that drops is the one that is given; a row that stays is flagged with the first that tags, and
has a tag ``quality.<rule>`` for each, whose value is what was found. ``statistics`` counts the rows that each rule met,
by language, dropped and tagged ones alike: ``rule, language, rows``.

Cost: see :mod:`aya_data.filters.quality.scan`; judging takes 1 to 3 microseconds per row.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from aya_data.core import settings
from aya_data.core.stage import Environment, RowFilter, Verdicts
from aya_data.filters.quality.phrases import phrases
from aya_data.filters.quality.rules import (
    OFF,
    RULES,
    Action,
    RuleSettings,
    Templates,
    check_rules,
    defaults,
    threshold_for,
)
from aya_data.filters.specimens import specimens

__all__ = ["Quality"]

OPENING = 200
"""Characters of an answer in which a refusal counts."""
ROLES = ("other", "prompt", "answer")
APART, UNFENCED = 1, 2
TERMINAL_OF = {"Grek": ";"}
"""Marks that end a sentence in one script alone: the Greek question mark."""
OPEN_PUNCTUATION = ",;:-–—、，；：،؛([{（【「『"

Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Quality(RowFilter):
    """Drops or tags rows by rules about the form of their texts."""

    name = "quality"
    columns: tuple[str, ...] = ("language", "script")
    measure_columns = ("messages", "chosen")

    class Settings(settings.Settings):
        """Which rules drop and which tag, and their thresholds."""

        rules: dict[str, RuleSettings] = Field(
            {},
            description="Changes to single rules, by name.",
            examples=[{"refusal": "drop", "repeated_lines": {"action": "drop", "threshold": 0.6}}],
        )
        others: Literal["default", "off"] = Field(
            "default", description="What becomes of the rules that are not named: as they are by default, or off."
        )
        templates: Templates | None = Field(None, description="Which templates' rows stay or go.")

        @model_validator(mode="after")
        def _known(self) -> Self:
            check_rules(self.rules)
            return self

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        if settings.templates is not None:
            self.columns = ("language", "script", "provenance")

    def measure(self, rows: pa.Table) -> pa.Table:
        """Return ``turns`` and ``found``: see :func:`aya_data.filters.quality.scan.scan`."""
        from aya_data.filters.quality.scan import scan

        return scan(rows)

    def warm(self) -> None:
        self.measure(specimens().select(self.measure_columns))

    def judge(self, rows: pa.Table, measures: pa.Table | None) -> Verdicts:
        assert measures is not None, "the engine measures before it judges"
        count = len(rows)
        drop = np.zeros(count, np.bool_)
        flag = np.zeros(count, np.bool_)
        rule: list[str | None] = [None] * count
        value, threshold, evidence = rule.copy(), rule.copy(), rule.copy()
        tags: dict[str, pa.Array] = {}
        counted: list[tuple[str, str, int]] = []
        turns = _Turns.of(measures)
        names, of_row = _varieties(rows)
        languages = np.array([name.partition("_")[0] for name in names], object)
        met: list[tuple[Action, _Met]] = [("drop", self._template(rows))]
        met += [
            (action, _meet(name, given, action_on, turns, names, of_row))
            for name, given, action, action_on in self._active()
        ]
        for action, found in met:
            hit = found.rows
            if not len(hit):
                continue
            for code, number in enumerate(np.bincount(of_row[hit], minlength=len(names)).tolist()):
                if number:
                    counted.append((found.rule, str(languages[code]), number))
            mark = drop if action == "drop" else flag
            # Rules that drop win over those that tag, whatever their order.
            for position, row in enumerate(hit.tolist()):
                if drop[row] or (flag[row] and action == "tag"):
                    continue
                mark[row] = True
                rule[row] = found.rule
                value[row], threshold[row], evidence[row] = found.told(position)
            if action == "tag":
                column = np.full(count, None, object)
                column[hit] = [found.told(position)[0] for position in range(len(hit))]
                tags[f"quality.{found.rule}"] = pa.array(column, pa.string())
        statistics = pa.table(
            {
                "rule": pa.array([name for name, _, _ in counted], pa.string()),
                "language": pa.array([language for _, language, _ in counted], pa.string()),
                "rows": pa.array([number for _, _, number in counted], pa.int64()),
            }
        )
        return Verdicts(drop, rule, value, threshold, evidence, flag & ~drop, tags, statistics={"quality": statistics})

    def _active(self) -> list[tuple[str, RuleSettings, Action, str]]:
        """Return the rules that are not off: name, settings, action, and the turns that are read."""
        found: list[tuple[str, RuleSettings, Action, str]] = []
        for name, rule in RULES.items():
            given = self.settings.rules.get(name)
            if given is None and self.settings.others == "off":
                continue
            given = given or RuleSettings.model_validate({})
            action = _given_action(name, given)
            if action != "off":
                found.append((name, given, action, given.on or rule.on))
        return found

    def _template(self, rows: pa.Table) -> _Met:
        """Return the rows that go for their template's name."""
        templates: Templates | None = self.settings.templates
        if templates is None:
            return _Met("template", np.zeros(0, np.int64), lambda position: ("", "", ""))
        column = pc.struct_field(rows["provenance"].combine_chunks(), "template").dictionary_encode()
        known = column.dictionary.to_pylist()
        why = [_refused(name, templates) for name in known]
        codes = pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False)
        gone = np.isin(codes, [code for code, reason in enumerate(why) if reason])
        hit = np.flatnonzero(gone)

        def told(position: int) -> tuple[str, str, str]:
            code = int(codes[hit[position]])
            return known[code], why[code], "the name of the template"

        return _Met("template", hit, told)


@dataclass(frozen=True, slots=True)
class _Met:
    """The rows that meet a rule, ascending, and what to tell of each: value, threshold, evidence."""

    rule: str
    rows: npt.NDArray[np.int64]
    told: Callable[[int], tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class _Turns:
    """The measures of all turns: a column each, the row of each, its number in the row, and what was found."""

    columns: dict[str, Numbers]
    row: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    entry: dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]]
    """By rule: turn, entry, count and place of what was found."""

    @classmethod
    def of(cls, measures: pa.Table) -> _Turns:
        turns, found = (measures[name].combine_chunks() for name in ("turns", "found"))
        lengths = pc.list_value_length(turns).to_numpy(zero_copy_only=False).astype(np.int64)
        first = np.concatenate([[0], np.cumsum(lengths)])
        row = np.repeat(np.arange(len(lengths)), lengths)
        flat = turns.flatten()
        columns = {
            flat.type.field(index).name: flat.field(index).to_numpy(zero_copy_only=False)
            for index in range(flat.type.num_fields)
        }
        sizes = pc.list_value_length(found).to_numpy(zero_copy_only=False).astype(np.int64)
        hits = found.flatten()
        turn, entry, count, at = (
            hits.field(index).to_numpy(zero_copy_only=False).astype(np.int64) for index in range(4)
        )
        turn = turn + first[np.repeat(np.arange(len(sizes)), sizes)]
        table = phrases()
        rules = np.array([phrase.rule for phrase in table], object)[entry] if len(entry) else np.zeros(0, object)
        by_rule = {}
        for name in {phrase.rule for phrase in table}:
            mine = np.flatnonzero(rules == name)
            by_rule[name] = (turn[mine], entry[mine], count[mine], at[mine])
        return cls(columns, row, np.arange(len(row)) - first[row], by_rule)


def _given_action(name: str, given: RuleSettings) -> Action:
    if given.action is not None:
        return given.action
    action = defaults()[name].action
    # A rule that is off by default and named in the spec is meant to say something.
    return "tag" if action == "off" and given.model_fields_set else action


def _refused(name: str | None, templates: Templates) -> str:
    """Say why rows of a template go; empty where they stay."""
    if name is None:
        return ""
    if any(fnmatchcase(name, pattern) for pattern in templates.drop):
        return "in the list of those to drop"
    if templates.keep and not any(fnmatchcase(name, pattern) for pattern in templates.keep):
        return "not in the list of those to keep"
    return ""


def _varieties(rows: pa.Table) -> tuple[list[str], npt.NDArray[np.int64]]:
    encoded = pc.binary_join_element_wise(rows["language"], rows["script"], "_").combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _meet(
    name: str, given: RuleSettings, on: str, turns: _Turns, names: list[str], of_row: npt.NDArray[np.int64]
) -> _Met:
    """Hold the values of one rule against its thresholds; of each row, keep the turn with the worst."""
    role = turns.columns["role"]
    read = role > 0 if on == "conversation" else role == ROLES.index(on)
    least = given.min_chars if given.min_chars is not None else defaults()[name].min_chars
    if least:
        read = read & (turns.columns["chars"] >= least)
    values, told = VALUES[name](name, turns, names, of_row) if name in VALUES else _counted(name, turns)
    limits = np.array([threshold_for(name, given, *_parts(variety)) for variety in names], np.float64)
    limit = limits[of_row[turns.row]] if len(turns.row) else np.zeros(0)
    if name == "short_answer":
        met = read & (values < limit) & (limit != OFF)
        worst = -values
    else:
        met = read & (values > limit)
        worst = values
    hit = np.flatnonzero(met)
    order = np.lexsort((hit, -worst[hit], turns.row[hit]))
    hit = hit[order]
    rows, first = np.unique(turns.row[hit], return_index=True)
    hit = hit[first]
    whole = RULES[name].unit in ("count", "words")

    def tell(position: int) -> tuple[str, str, str]:
        turn = int(hit[position])
        number = f"{values[turn]:.0f}" if whole else f"{values[turn]:.4f}"
        side = ("turn", "prompt", "answer")[int(role[turn])]
        return number, f"{limit[turn]:g}", f"{side} (turn {int(turns.number[turn])}), {told(turn)}"

    return _Met(name, rows, tell)


def _parts(variety: str) -> tuple[str, str]:
    language, _, script = variety.partition("_")
    return language, script


Found = tuple[Numbers, Callable[[int], str]]


def _counted(name: str, turns: _Turns) -> Found:
    """Return how many phrases of a rule were found, and the first of them in words."""
    own, entry, count, at = turns.entry[name]
    values = np.zeros(len(turns.row), np.float64)
    if name == "refusal":
        opening = at < OPENING
        own, entry, count, at = own[opening], entry[opening], count[opening], at[opening]
    # Of refusals the place of the first is known, of the others only their number: one in the opening is one.
    values[own] = np.minimum(count, 1) if name == "refusal" else count
    place = dict(zip(own.tolist(), range(len(own)), strict=True))

    def told(turn: int) -> str:
        hit = place[turn]
        phrase = phrases()[int(entry[hit])]
        language = "" if phrase.language == "*" else f" ({phrase.language})"
        return f"character {int(at[hit])}: {phrase.text!r}{language}"

    return values, told


def _share(part: str, whole: str, place: str | None, what: str) -> Callable[..., Found]:
    """Return the measure of a rule that divides one count by another."""

    def measure(name: str, turns: _Turns, names: list[str], of_row: npt.NDArray[np.int64]) -> Found:
        above, below = turns.columns[part], turns.columns[whole]
        values = np.round(above / np.maximum(below, 1), 4)

        def told(turn: int) -> str:
            where = "" if place is None else f", first at character {int(turns.columns[place][turn])}"
            return f"{int(above[turn])} of {int(below[turn])} {what}{where}"

        return values, told

    return measure


def _repeat(name: str, turns: _Turns, names: list[str], of_row: npt.NDArray[np.int64]) -> Found:
    columns = turns.columns
    values = np.round(columns["repeat"] / np.maximum(columns["chars"], 1), 4)

    def told(turn: int) -> str:
        length, one, other = (int(columns[key][turn]) for key in ("repeat", "repeat_at", "repeat_again"))
        return f"{length} characters stand at {one} and at {other}"

    return values, told


def _garbled(name: str, turns: _Turns, names: list[str], of_row: npt.NDArray[np.int64]) -> Found:
    columns = turns.columns
    phrases_found, told_phrase = _counted(name, turns)

    def told(turn: int) -> str:
        if columns["garbled"][turn]:
            return f"character {int(columns['garbled_at'][turn])}"
        return told_phrase(turn)

    return columns["garbled"] + phrases_found, told


def _lost(name: str, turns: _Turns, names: list[str], of_row: npt.NDArray[np.int64]) -> Found:
    columns = turns.columns
    return columns["lost"].astype(np.float64), lambda turn: f"character {int(columns['lost_at'][turn])}: U+FFFD"


def _words(name: str, turns: _Turns, names: list[str], of_row: npt.NDArray[np.int64]) -> Found:
    columns = turns.columns
    return columns["words"].astype(np.float64), lambda turn: f"{int(columns['chars'][turn])} characters"


def _truncated(name: str, turns: _Turns, names: list[str], of_row: npt.NDArray[np.int64]) -> Found:
    columns = turns.columns
    last, shape = columns["last"], columns["shape"].astype(np.int64)
    points, inverse = np.unique(last, return_inverse=True)
    unended = np.array([_is_open(chr(point)) for point in points.tolist()], np.bool_)[inverse]
    for script, mark in TERMINAL_OF.items():
        own = np.array([_parts(variety)[1] == script for variety in names], np.bool_)
        unended &= ~((last == ord(mark)) & own[of_row[turns.row]])
    unfenced = (shape & UNFENCED) > 0
    unended = (unended & (columns["sentences"] > 0) & ((shape & APART) == 0)) | unfenced

    def told(turn: int) -> str:
        if unfenced[turn]:
            return "a fence of code is open at the end"
        return f"ends with {chr(int(last[turn]))!r} after {int(columns['sentences'][turn])} sentences of its last line"

    return np.where(unended, columns["words"], 0).astype(np.float64), told


def _is_open(character: str) -> bool:
    """Tell whether a text that ends with this character ends inside a sentence."""
    if character in OPEN_PUNCTUATION:
        return True
    if "\u0e00" <= character <= "\u0eff":  # Thai and Lao end sentences with a space, whatever the row is labelled
        return False
    # Marks belong to letters; digits, symbols and closing marks may end an answer.
    return unicodedata.category(character)[0] in "LM"


def _ratio(turned: bool) -> Callable[..., Found]:
    def measure(name: str, turns: _Turns, names: list[str], of_row: npt.NDArray[np.int64]) -> Found:
        answer, prompt = turns.columns["words"], turns.columns["prompt_words"]
        above, below = (prompt, answer) if turned else (answer, prompt)
        values = np.where((answer > 0) & (prompt > 0), np.round(above / np.maximum(below, 1), 4), 0.0)
        return values, lambda turn: f"{int(prompt[turn])} words of prompt, {int(answer[turn])} of answer"

    return measure


def _copied(name: str, turns: _Turns, names: list[str], of_row: npt.NDArray[np.int64]) -> Found:
    columns = turns.columns
    return columns["similar"] / 10000.0, lambda turn: "the user's turn before it"


def _prompt_again(name: str, turns: _Turns, names: list[str], of_row: npt.NDArray[np.int64]) -> Found:
    columns = turns.columns
    share = np.minimum(np.round(columns["prompt_chars"] / np.maximum(columns["chars"], 1), 4), 1.0)
    # The same text as the prompt is the business of copied_prompt.
    again = (columns["copied_at"] >= 0) & (columns["similar"] < 9000)
    return np.where(again, share, 0.0), lambda turn: f"the prompt stands at character {int(columns['copied_at'][turn])}"


VALUES: dict[str, Callable[..., Found]] = {
    "repeated_substring": _repeat,
    "mojibake": _garbled,
    "lost_characters": _lost,
    "repeated_lines": _share("repeated_line_chars", "line_chars", "repeated_line_at", "characters in lines"),
    "repeated_ngrams": _share("repeated_gram_chars", "gram_chars", "repeated_gram_at", "characters in words"),
    "top_ngram": _share("top_gram_chars", "gram_chars", None, "characters in words"),
    "symbols": _share("symbols", "solid", None, "characters"),
    "digits": _share("digits", "solid", None, "characters"),
    "urls": _share("urls", "chars", None, "characters"),
    "truncated": _truncated,
    "short_answer": _words,
    "long_answer": _words,
    "answer_ratio": _ratio(False),
    "prompt_ratio": _ratio(True),
    "copied_prompt": _copied,
    "repeated_prompt": _prompt_again,
}
"""Measures of rules that are not the number of phrases found: values by turn, and what to tell of one."""
