"""The rules of the ``quality`` filter: what each measures, its default, and how a spec changes it.

:data:`RULES` says what a rule looks at; ``data/thresholds.tsv`` holds action, threshold and least length of
each, with thresholds of languages and scripts and the source of every number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from aya_data.core import settings
from aya_data.core.errors import did_you_mean
from aya_data.core.settings import wrong
from aya_data.filters.by_language import ByLanguage, value_for
from aya_data.text.turns import Part

__all__ = [
    "OFF",
    "RULES",
    "Action",
    "Default",
    "Rule",
    "RuleSettings",
    "Templates",
    "Unit",
    "check_rules",
    "defaults",
    "threshold_for",
]

DATA_FILES = ("data/thresholds.tsv",)

Action = Literal["drop", "tag", "off"]
Unit = Literal["count", "share", "similarity", "words", "ratio"]

OFF = float("inf")
"""The threshold of a language that a rule leaves alone."""

LEAST_SHARE, LEAST_SIMILARITY = 0.2, 0.8
"""What :mod:`aya_data.text.repetition` and :mod:`aya_data.text.similarity` measure from on. They import numba, which
reading a spec must not."""

RANGES: dict[Unit, tuple[float, float]] = {
    "count": (0, 10**9),
    "share": (0, 1),
    "similarity": (LEAST_SIMILARITY, 1),
    "words": (0, 10**9),
    "ratio": (1, 10**9),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: the ``unit`` of its value, the turns it reads, whether a spec may have it read others, and what it
    finds, in words. ``least`` is the smallest threshold that can be measured."""

    unit: Unit
    on: Part
    movable: bool
    finds: str
    least: float | None = None


RULES: dict[str, Rule] = {
    "placeholder": Rule("count", "conversation", True, "a line that stands for a text: `<noinput>`, `[input]`"),
    "unknown_token": Rule("count", "answer", True, "`<unk>`, which a model writes for what it cannot"),
    "chat_markup": Rule("count", "conversation", True, "special tokens: `<|im_start|>`, `[INST]`, `</s>` at the end"),
    "repeated_substring": Rule(
        "share", "answer", True, "the longest substring that stands twice, as a share of the text", LEAST_SHARE
    ),
    "turn_markup": Rule("count", "answer", True, "lines that begin with `Human:`, `Assistant:`, `### Response:`"),
    "empty_value": Rule("count", "answer", False, "an answer that is `None`, `N/A`, `nan`, `-` and nothing else"),
    "empty_input": Rule("count", "prompt", False, "a prompt whose last line is just `None`, `nan`, `Input:`"),
    "ai_disclosure": Rule("count", "answer", True, "talk about being a model, in 43 languages"),
    "refusal": Rule("count", "answer", True, "a refusal in the first 200 characters, in 43 languages"),
    "web_boilerplate": Rule("count", "answer", True, "cookie notices, rights reserved, newsletters, in 23 languages"),
    "mojibake": Rule("count", "conversation", True, "characters garbled by a wrong decoding: `cafÃ©`"),
    "lost_characters": Rule("count", "conversation", True, "replacement characters (U+FFFD)"),
    "html_tag": Rule("count", "answer", True, "HTML tags outside code"),
    "html_entity": Rule("count", "conversation", True, "HTML entities outside code: `&nbsp;`"),
    "repeated_lines": Rule("share", "answer", True, "characters in lines that stood before"),
    "repeated_ngrams": Rule(
        "share", "answer", True, "characters in n-grams that stood before: 5 words, or 10 characters where words are "
        "not spaced"
    ),
    "top_ngram": Rule(
        "share", "answer", True, "characters in the most frequent n-gram: 3 words, or 6 characters"
    ),
    "symbols": Rule("share", "answer", True, "punctuation and symbols among characters that are not white space"),
    "digits": Rule("share", "answer", True, "digits among characters that are not white space"),
    "urls": Rule("share", "answer", True, "characters in URLs"),
    "truncated": Rule(
        "words", "answer", False, "words of an answer that ends inside a sentence, though its other sentences end; or "
        "in a fence of code that is not closed"
    ),
    "short_answer": Rule("words", "answer", False, "fewer words (characters where words are not spaced)"),
    "long_answer": Rule("words", "answer", False, "more words (characters where words are not spaced)"),
    "answer_ratio": Rule("ratio", "answer", False, "words of the answer per word of its prompt"),
    "prompt_ratio": Rule("ratio", "answer", False, "words of the prompt per word of its answer"),
    "copied_prompt": Rule("similarity", "answer", False, "the answer is the prompt, up to some edits"),
    "repeated_prompt": Rule("share", "answer", False, "the whole prompt stands in the answer; its share of it"),
}  # fmt: skip
"""The rules, in the order in which they are asked. A row is dropped by the first that says so."""


@dataclass(frozen=True, slots=True)
class Default:
    """What ``data/thresholds.tsv`` says of a rule."""

    action: Action
    threshold: float
    min_chars: int
    by_key: Mapping[str, float]
    source: str


class RuleSettings(settings.Settings):
    """What a spec changes of one rule. A text alone is the action."""

    model_config = ConfigDict(json_schema_extra=settings.also({"enum": ["drop", "tag", "off"]}))

    action: Action | None = Field(None, description="drop, tag (a column of that name) or off.")
    threshold: float | None = Field(
        None, description="A value above it meets the rule. Replaces the defaults of languages and scripts too."
    )
    languages: ByLanguage[float] = Field(
        {}, description="Another threshold for a language (tur) or variety (uzn_Cyrl).", examples=[{"tur": 0.4}]
    )
    min_chars: int | None = Field(None, ge=0, description="Texts with fewer characters are left alone.")
    on: Part | None = Field(None, description="Which turns are read.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"action": value} if isinstance(value, str) else value


def check_rules(rules: Mapping[str, RuleSettings]) -> None:
    """Raise what is wrong with rules, each at its place: unknown ones, and those that cannot hold as they are set."""
    faults: list[tuple[tuple[str, ...], str, str]] = []
    for name, given in rules.items():
        rule = RULES.get(name)
        if rule is None:
            faults.append(((name, "[key]"), "is no rule", did_you_mean(name, RULES)))
            continue
        low, high = RANGES[rule.unit]
        low = low if rule.least is None else rule.least
        bounds = f"from {low:g} to {high:g}" if high <= 1 else f"at least {low:g}"
        by_language = [(("languages", key), threshold) for key, threshold in given.languages.items()]
        for place, threshold in [(("threshold",), given.threshold), *by_language]:
            if threshold is not None and not low <= threshold <= high:
                faults.append(((name, *place), f"must be {bounds}, found {threshold:g}", f"It is a {rule.unit}."))
        if given.on is not None and not rule.movable and given.on != rule.on:
            what = f"must be {rule.on}, found {given.on}"
            faults.append(((name, "on"), what, f"{name} is about the {rule.on} alone."))
    if faults:
        details = [
            InitErrorDetails(type=wrong(what, said), loc=("rules", *path), input=None) for path, what, said in faults
        ]
        raise ValidationError.from_exception_data("Settings", details)


class Templates(settings.Settings):
    """Rows by the name of the template that made them; ``*`` stands for any characters."""

    keep: tuple[str, ...] = Field((), description="Only rows of these templates stay, and rows of none.")
    drop: tuple[str, ...] = Field((), description="Rows of these templates go.")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        both = sorted(set(self.keep) & set(self.drop))
        if both:
            raise wrong(f"keeps and drops {both[0]!r}", "Name it once.")
        return self


@cache
def defaults() -> dict[str, Default]:
    """Read the table of defaults."""
    text = (resources.files("aya_data.filters.quality") / DATA_FILES[0]).read_text("utf-8")
    lines = [line.split("\t") for line in text.split("\n") if line and not line.startswith("#")][1:]
    keys: dict[str, dict[str, float]] = {}
    for rule, key, threshold, *_ in lines:
        keys.setdefault(rule, {})[key] = OFF if threshold == "off" else float(threshold)
    found = {}
    for rule, key, threshold, least, action, source in lines:
        if key == "*":
            others = {other: value for other, value in keys[rule].items() if other != "*"}
            found[rule] = Default(_action(action), float(threshold), int(least), others, source)
    return {rule: found[rule] for rule in RULES}


def _action(text: str) -> Action:
    actions: dict[str, Action] = {"drop": "drop", "tag": "tag", "off": "off"}
    return actions[text]


def threshold_for(name: str, given: RuleSettings, language: str, script: str) -> float:
    """Return the threshold of a rule for a variety: what the spec says of it, or in general, else the default."""
    own = value_for(given.languages, language, script)
    if own is not None:
        return own
    if given.threshold is not None:
        return given.threshold
    default = defaults()[name]
    finer = value_for(default.by_key, language, script)
    if finer is None:
        finer = default.by_key.get(script)
    return default.threshold if finer is None else finer
