"""What pydantic found wrong, as sentences about the spec.

pydantic names a place by the steps through its own schema, among them branches of unions and keys
that a validator made up; the document says which of them exist. Where a value fits no branch of a
union, the branches' errors become one problem.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence, Sized
from decimal import Decimal
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from aya_data.core.document import Document, PathKey, dotted
from aya_data.core.errors import Problem, did_you_mean
from aya_data.core.fields import fields_of, keys_at, models_at
from aya_data.core.settings import KEY, WRONG, describe

__all__ = ["describe_error", "join", "problems_of"]

_LIST, _MAPPING, _NUMBER, _INTEGER = "a list", "a mapping", "a number", "a whole number"
_EXPECTED: Final[dict[str, str]] = {
    "arguments_type": _MAPPING,
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "bytes_type": "text",
    "dataclass_exact_type": _MAPPING,
    "dataclass_type": _MAPPING,
    "decimal_parsing": _NUMBER,
    "decimal_type": _NUMBER,
    "dict_type": _MAPPING,
    "finite_number": "a finite number",
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "frozen_set_type": _LIST,
    "int_from_float": _INTEGER,
    "int_parsing": _INTEGER,
    "int_parsing_size": "a smaller whole number",
    "int_type": _INTEGER,
    "iterable_type": _LIST,
    "list_type": _LIST,
    "mapping_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "model_type": _MAPPING,
    "named_tuple_type": _LIST,
    "none_required": "null",
    "set_type": _LIST,
    "string_sub_type": "text",
    "string_type": "text",
    "string_unicode": "text",
    "tuple_type": _LIST,
}
_BOUNDS: Final[dict[str, tuple[str, str]]] = {
    "greater_than": ("must be greater than", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be less than", "lt"),
    "less_than_equal": ("must be at most", "le"),
    "multiple_of": ("must be a multiple of", "multiple_of"),
}
_FAMILIES: Final = (
    ("timezone", "a time with a time zone"),
    ("time_delta", "a duration"),
    ("datetime", "a date and time"),
    ("date", "a date such as 2026-08-31"),
    ("time", "a time of day"),
    ("url", "a URL"),
    ("uuid", "a UUID"),
    ("decimal", "a number"),
    ("complex", "a number"),
    ("bytes", "text of another length"),
    ("json", "JSON text"),
    ("int", "a whole number"),
    ("float", "a number"),
    ("string", "text of another form"),
    ("set", "a list"),
)


def problems_of(
    error: ValidationError,
    document: Document,
    prefix: PathKey,
    model: type[BaseModel],
    also_known: Iterable[str] = (),
) -> list[Problem]:
    """Return the problems in ``error``, which came of validating ``model`` at ``prefix``.

    ``also_known`` are keys of the same mapping that somebody else reads.
    """
    errors = _without_false_lengths([dict(found) for found in error.errors(include_url=False)])
    unknown = {item["loc"] for item in errors if item["type"] == "extra_forbidden"}
    groups: dict[PathKey, list[tuple[PathKey, dict[str, Any]]]] = {}
    for item in errors:
        if item["type"] == "missing" and _misspelt(item["loc"], unknown):
            continue
        path: PathKey = (*prefix, *item["loc"])
        missing = item["type"] == "missing"
        real = document.real_path(path[:-1] if missing else path)
        if missing:
            real = (*real, path[-1])
        # Errors that part at a step which is not in the document are branches of one union.
        own = next((i for i, (a, b) in enumerate(zip(path, real)) if a != b), len(real))
        branched = len(path) > len(real) and path[-1] != KEY
        key = real[:own] if branched else (*real, f"\0{len(groups)}")
        groups.setdefault(key, []).append((real, item))
    problems = []
    for start, items in groups.items():
        branches = {(*prefix, *item["loc"])[len(start) :][:1] for _, item in items}
        if len(branches) == 1:
            problems += [_problem(*pair, document, prefix, model, also_known) for pair in items]
            continue
        deepest = max(len(real) for real, _ in items)
        items = [pair for pair in items if len(pair[0]) == deepest]
        expected = list(dict.fromkeys(_EXPECTED.get(item["type"], "") for _, item in items))
        real, item = items[0]
        if len(expected) > 1 and all(expected):
            item = {**item, "type": "", "expected": " or ".join(expected)}
        elif len(items) > 1:
            real, item = next((p for p in items if p[1]["type"] not in _EXPECTED), items[0])
        problems.append(_problem(real, item, document, prefix, model, also_known))
    return problems


def _without_false_lengths(errors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out that a list or mapping is too short where it is not: pydantic counts the items that are right."""
    return [
        item
        for item in errors
        if item["type"] != "too_short"
        or not isinstance(item.get("input"), Sized)
        or len(item["input"]) < item["ctx"]["min_length"]
        or not any(len(other["loc"]) > len(item["loc"]) == _common(other["loc"], item["loc"]) for other in errors)
    ]


def _common(one: PathKey, other: PathKey) -> int:
    """How many first steps two paths share."""
    return next((at for at, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def _keys_of(model: type[BaseModel], loc: PathKey) -> dict[str, FieldInfo]:
    """Return the keys known at ``loc``: of the branch of a union that its last step names, else of all."""
    found = models_at(model, loc)
    named = [inner for inner in found if loc and any(get_args(f.annotation) == (loc[-1],) for f in _tags(inner))]
    return {key: info for inner in named or found for key, info in fields_of(inner).items()}


def _tags(model: type[BaseModel]) -> list[FieldInfo]:
    return [info for info in fields_of(model).values() if get_origin(info.annotation) is Literal]


def _misspelt(missing: PathKey, unknown: Iterable[PathKey]) -> bool:
    """Whether one of the keys ``unknown`` beside ``missing`` is a slip of it, and is said already."""
    beside = [str(path[-1]) for path in unknown if path[:-1] == missing[:-1]]
    return bool(difflib.get_close_matches(str(missing[-1]), beside, n=1))


def _problem(
    path: PathKey,
    item: dict[str, Any],
    document: Document,
    prefix: PathKey,
    model: type[BaseModel],
    also_known: Iterable[str],
) -> Problem:
    loc, kind = tuple(item["loc"]), item["type"]
    # A filter that stands as a bare name is still called by its name.
    label = (*prefix, *path[len(document.real_path(prefix)) :])
    if kind == "missing":
        fields = _keys_of(model, loc[:-1])
        what = f"the key {loc[-1]!r} is missing in {dotted(label[:-1]) or 'the spec'}"
        about = fields[str(loc[-1])].description if str(loc[-1]) in fields else None
        remedy = f"Add '{loc[-1]}: …'" + (f": {_lower(about)}" if about else ".")
        return document.problem(path[:-1], what, remedy, key=True)
    if kind == "extra_forbidden":
        known = {*_keys_of(model, loc[:-1]), *(also_known if len(loc) == 1 else ())}
        what = f"unknown key {path[-1]!r} in {dotted(label[:-1]) or 'the spec'}"
        return document.problem(path, what, did_you_mean(str(path[-1]), known), key=True)
    what, remedy = describe_error(item)
    if kind.startswith("union_tag"):
        tag = str((item.get("ctx") or {}).get("discriminator", "")).strip("'")
        path = (*path, tag)
        remedy = remedy or _choices_remedy(model, loc, tag)
    if not remedy and "must be a mapping" in what:
        remedy = _keys_remedy(keys_at(model, loc))
    if (beside := (item.get("ctx") or {}).get("beside")) is not None:
        what += f" ({document.mark((*path[:-1], beside), key=True)})"
    subject = dotted(label) or "the spec"
    return document.problem(path, f"{subject} {what}", remedy, key=KEY in loc)


def describe_error(item: Mapping[str, Any]) -> tuple[str, str]:
    """Return (what is wrong, how to mend it) for one pydantic error; ``what`` lacks its subject."""
    kind, value, context = item["type"], item.get("input"), item.get("ctx") or {}
    found = describe(value)
    if kind == WRONG:
        return context["what"], context["remedy"]
    if kind in ("value_error", "assertion_error"):
        return f"is wrong: {context.get('error', '')}".rstrip(". "), ""
    if expected := item.get("expected") or _EXPECTED.get(kind):
        return f"must be {expected}, found {found}", _conversion(str(expected), value)
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"{words} {_bound(context.get(name))}, found {found.removeprefix('the number ')}", ""
    if kind in ("literal_error", "enum"):
        choices = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        if len(choices) == 1:
            return f"must be {choices[0]!r}, found {found}", f"Write {choices[0]}."
        shown = ", ".join(choices[:-1]) + f" or {choices[-1]}" if choices else "another value"
        near = did_you_mean(str(value), choices)
        return f"must be {shown}, found {found}", near if near.startswith("Did") else ""
    if kind in ("too_short", "string_too_short", "bytes_too_short"):
        least = context.get("min_length")
        if least == 1:
            return "must not be empty", "Write a value." if "string" in kind else "Write an item."
        count = len(value) if isinstance(value, Mapping) else None
        return f"must have at least {least} {_unit(kind)}, found {found if count is None else count}", ""
    if kind in ("too_long", "string_too_long", "bytes_too_long", "set_item_too_long"):
        return f"must have at most {context.get('max_length')} {_unit(kind)}, found {found}", ""
    if kind == "string_pattern_mismatch":
        return f"must match the pattern {context.get('pattern')}, found {found}", ""
    if kind.startswith("union_tag"):
        name = str(context.get("discriminator", "kind")).strip("'")
        if kind == "union_tag_not_found":
            return f"needs the key {name!r}, which says what it is", ""
        choices = re.findall(r"'([^']*)'", str(context.get("expected_tags", "")))
        tag = str(context.get("tag", ""))
        return f"has an unknown {name}: {tag!r}", did_you_mean(tag, choices)
    if kind == "recursion_loop":
        return "contains itself", "Write the value out."
    for family, words in _FAMILIES:
        if kind.startswith(family):
            return f"must be {words}, found {found}", ""
    return f"cannot be {found}", "See 'aya-data explain' for what goes here."


def _conversion(expected: str, value: object) -> str:
    """Return how to turn ``value`` into what was expected, where that is plain to see."""
    if value is None:
        return "Write a value, or remove the key."
    if isinstance(value, str):
        if "true or false" in expected and value.lower() in ("yes", "on", "y", "no", "off", "n"):
            meant = "true" if value.lower() in ("yes", "on", "y") else "false"
            return f"Write {meant}: in YAML 1.2 only true and false are not text."
        digits = value.replace("_", "").replace(",", "").replace(" ", "")
        if "number" in expected and re.fullmatch(r"[-+]?[0-9]+", digits):
            quoted = " without quotes" if digits == value else ""
            return f"Write {digits}{quoted}."
        if "number" in expected and (percent := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?%", value)):
            return f"Write {Decimal(percent[1]) / 100}."
        if expected == _LIST:
            return f"Write [{value}]."
    if isinstance(value, float) and expected == _INTEGER and value.is_integer():
        return f"Write {int(value)}."
    if expected == "text" and isinstance(value, (bool, int, float)):
        text = getattr(value, "text", value)
        shown = str(text).lower() if isinstance(value, bool) else str(text)
        return f'Put quotes around it: "{shown}".' if len(shown) < 40 else "Put quotes around it."
    return ""


def _keys_remedy(keys: Mapping[str, object]) -> str:
    return f"Its keys: {', '.join(keys)}." if keys else ""


def _choices_remedy(model: type[BaseModel], loc: PathKey, tag: str) -> str:
    choices = [
        str(value)
        for alternative in models_at(model, loc)
        if (info := fields_of(alternative).get(tag)) is not None
        for value in get_args(info.annotation)
    ]
    return f"Write {tag}: {' or '.join(choices)}." if choices else ""


def _bound(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unit(kind: str) -> str:
    return "characters" if kind.startswith("string") else "items"


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() or sentence[1:2] == " " else sentence


def join(names: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
