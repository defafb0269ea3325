"""The checked-in language tables, read on first use.

Each table is a tab-separated file in ``data/`` with ``#`` comment lines that name its source and a
header line. Nothing is read at import; each function reads its file once per process. Reading all
of them takes some 25 ms on one core, ``languages()``, which codes need, some 8 ms.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import NamedTuple

__all__ = [
    "DATA_FILES",
    "Alias",
    "AyaLanguage",
    "FloresLanguage",
    "LanguageRow",
    "Retired",
    "ScriptRow",
    "aliases",
    "apart",
    "aya_101",
    "by_short_code",
    "canonical",
    "confusable_groups",
    "flores_languages",
    "individuals",
    "languages",
    "lid_176",
    "named_sets",
    "names",
    "not_languages",
    "region_keys",
    "regions",
    "retired",
    "script_keys",
    "scripts",
    "squash",
    "variants",
]

DATA_FILES = (
    "data/aliases.tsv",
    "data/apart.tsv",
    "data/aya_101.tsv",
    "data/canonical.tsv",
    "data/confusable.tsv",
    "data/flores.tsv",
    "data/languages.tsv",
    "data/lid_176.tsv",
    "data/names.tsv",
    "data/not_languages.tsv",
    "data/retired.tsv",
    "data/scripts.tsv",
    "data/sets.tsv",
    "data/subtags.tsv",
)


class LanguageRow(NamedTuple):
    """One code of ISO 639-3.

    ``scope``: I individual, M macrolanguage, S special, R retired by ISO but kept here.
    """

    code: str
    name: str
    scope: str
    iso639_1: str
    iso639_2b: str
    macrolanguage: str
    script: str


class ScriptRow(NamedTuple):
    """One code of ISO 15924; ``keys`` are squashed names, separated by spaces."""

    code: str
    name: str
    direction: str
    keys: str


class Retired(NamedTuple):
    """A withdrawn or collective code; ``now`` holds none, one or several codes."""

    code: str
    now: str
    why: str
    name: str


class FloresLanguage(NamedTuple):
    """Display name, family and FLORES scripts (separated by spaces, may be empty) of a language."""

    code: str
    name: str
    family: str
    scripts: str


class AyaLanguage(NamedTuple):
    """One of the 101 languages of Aya-101; ``resource`` is high, mid or low."""

    code: str
    canonical: str
    name: str
    family: str
    resource: str
    nllb: str


class Alias(NamedTuple):
    """A spelling that the code tables lack; ``language`` is empty where it cannot be resolved."""

    key: str
    name: str
    language: str
    script: str
    note: str


def squash(text: str) -> str:
    """Return the key of a name: letters and digits only, without case, accents and spaces."""
    if text.isascii():
        return "".join(filter(str.isalnum, text.lower()))
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(filter(str.isalnum, folded))


def _rows(name: str) -> list[list[str]]:
    # Imported here: importlib.resources costs more than the rest of this module's import.
    from importlib.resources import files

    text = files("aya_data.core").joinpath("data", name).read_text(encoding="utf-8")
    lines = [line for line in text.split("\n") if line and line[0] != "#"]
    return [line.split("\t") for line in lines[1:]]


@cache
def languages() -> dict[str, LanguageRow]:
    """Every code of ISO 639-3, and the retired ones that data sets still separate."""
    return {row[0]: LanguageRow._make(row) for row in _rows("languages.tsv")}


@cache
def by_short_code() -> dict[str, str]:
    """ISO 639-1 and ISO 639-2/B codes to ISO 639-3."""
    found: dict[str, str] = {}
    for row in languages().values():
        if row.iso639_1:
            found[row.iso639_1] = row.code
        if row.iso639_2b:
            found[row.iso639_2b] = row.code
    return found


@cache
def individuals() -> dict[str, tuple[str, ...]]:
    """Macrolanguage to its members, sorted."""
    found: dict[str, list[str]] = {}
    for row in languages().values():
        if row.macrolanguage:
            found.setdefault(row.macrolanguage, []).append(row.code)
    return {code: tuple(sorted(members)) for code, members in found.items()}


@cache
def scripts() -> dict[str, ScriptRow]:
    """Every code of ISO 15924."""
    return {row[0]: ScriptRow._make(row) for row in _rows("scripts.tsv")}


@cache
def script_keys() -> dict[str, str]:
    """Squashed names and codes of scripts to the code."""
    found = {code.lower(): code for code in scripts()}
    for row in scripts().values():
        for key in row.keys.split():
            found.setdefault(key, row.code)
    return found


@cache
def retired() -> dict[str, Retired]:
    """Withdrawn and collective codes."""
    return {row[0]: Retired._make(row) for row in _rows("retired.tsv")}


@cache
def canonical() -> dict[tuple[str, str], tuple[str, str]]:
    """(code, script or ``*``) to (the code that stands for it here, why)."""
    return {(code, script): (to, why) for code, script, to, why in _rows("canonical.tsv")}


@cache
def names() -> dict[str, str]:
    """Squashed English names to codes, separated by spaces where the name is ambiguous."""
    return dict(_rows("names.tsv"))


@cache
def aliases() -> dict[str, Alias]:
    """Squashed spellings of data sets to what they mean."""
    return {row[0]: Alias._make(row) for row in _rows("aliases.tsv")}


@cache
def not_languages() -> dict[tuple[str, str], str]:
    """What is no language, and why: (``exact``, spelling) or (``key``, squashed spelling)."""
    return {(match, name): reason for name, match, reason in _rows("not_languages.tsv")}


@cache
def _subtags() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {"region": {}, "variant": {}}
    for kind, subtag, key in _rows("subtags.tsv"):
        found[kind][subtag] = key
    return found


def regions() -> dict[str, str]:
    """Region codes to their squashed English name."""
    return _subtags()["region"]


def variants() -> dict[str, str]:
    """Registered variant subtags."""
    return _subtags()["variant"]


@cache
def region_keys() -> dict[str, str]:
    """Squashed English names of regions to their code."""
    return {key: code for code, key in regions().items() if key}


@cache
def flores_languages() -> dict[str, FloresLanguage]:
    """Display names, families and FLORES scripts."""
    return {row[0]: FloresLanguage._make(row) for row in _rows("flores.tsv")}


@cache
def aya_101() -> dict[str, AyaLanguage]:
    """The 101 languages, by the code printed in the paper."""
    return {row[0]: AyaLanguage._make(row) for row in _rows("aya_101.tsv")}


@cache
def named_sets() -> dict[str, tuple[str, ...]]:
    """Set name to variety codes, sorted."""
    return {name: tuple(codes.split()) for name, codes in _rows("sets.tsv")}


@cache
def lid_176() -> dict[str, str]:
    """Labels of lid.176, without ``__label__``, to language codes."""
    return {row[0]: row[1] for row in _rows("lid_176.tsv")}


@cache
def apart() -> frozenset[tuple[str, str]]:
    """(macrolanguage, member) pairs that are not taken for one another."""
    return frozenset((macro, member) for macro, member, _ in _rows("apart.tsv"))


@cache
def confusable_groups() -> tuple[tuple[frozenset[str], str], ...]:
    """Groups of languages that identifiers mix up, and why."""
    return tuple((frozenset(codes.split()), why) for codes, why in _rows("confusable.tsv"))
