"""Terms of use: what binds a text beside its licence.

A licence comes from who owns the text; terms come from the service or model that made it, and
travel with the row. Each has effects that a policy allows or refuses. ``data/terms.tsv`` holds
them, with the model names that they belong to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from typing import Final, Literal, cast, get_args

from aya_data.core.errors import NotFound
from aya_data.core.license_table import read_table

__all__ = ["EFFECTS", "Effect", "Terms", "join_terms", "terms", "terms_of_model", "terms_table"]

DATA_FILES = ("data/terms.tsv",)

Effect = Literal[
    "no-compete",
    "non-commercial",
    "research-only",
    "attribution",
    "naming",
    "use-restrictions",
    "no-derivatives",
    "no-redistribution",
]
EFFECTS: Final[tuple[Effect, ...]] = get_args(Effect)

_SERVICES: Final = frozenset(
    {"openai-tou", "anthropic-tos", "google-gemini", "google-translate", "deepl", "azure-translate", "cohere-tou"}
)
"""Terms of what nobody has in a folder."""
_OWN: Final = re.compile(r"(?:^|/)(?:gpt-oss|aya-data)")
"""Names that look like others' and are not: open weights under a licence alone, and this package."""
_VERSION: Final = re.compile(r"(?<![0-9.])[0-9]{1,3}(?:\.[0-9]+)?b?(?![0-9])")
"""A version or a number of parameters; a year is neither."""


@dataclass(frozen=True, slots=True)
class Terms:
    """A set of terms of use. ``models`` are patterns of lower-case model names it belongs to."""

    id: str
    effects: frozenset[Effect]
    title: str
    url: str
    note: str
    models: tuple[str, ...]


@cache
def terms_table() -> Mapping[str, Terms]:
    """Return all terms by id, in the order of the file."""
    return {
        row["id"]: Terms(
            row["id"],
            frozenset(cast("list[Effect]", row["effects"].split())),
            row["title"],
            row["url"],
            row["note"],
            tuple(row["models"].split()),
        )
        for row in read_table("terms.tsv")
    }


def terms(name: str) -> Terms:
    """Return the terms called ``name``.

    Raises:
        NotFound: there are none; the message suggests the nearest.
    """
    found = terms_table().get(name.strip().casefold())
    if found is None:
        raise NotFound("set of terms", name, terms_table())
    return found


@lru_cache(maxsize=1024)
def terms_of_model(model: str) -> tuple[str, ...]:
    """Return the ids of the terms that text made with ``model`` carries, sorted.

    Matches the name, case aside, with or without its organisation (``nllb-200-3.3B``,
    ``facebook/nllb-200-3.3B``), and the folders of a path, of the Hub's cache too
    (``models--google--gemma-2-9b/snapshots/…``). A folder that others lie in counts only as the name
    of weights with a version or size, so ``command-line/`` is none. A model that no pattern matches
    gives none: its licence is then for the spec to state.
    """
    names, folders = _names(model)
    return tuple(
        sorted(
            row.id
            for row in terms_table().values()
            if _any_matches(names, row) or (row.id not in _SERVICES and _any_matches(folders, row))
        )
    )


def _names(model: str) -> tuple[list[str], list[str]]:
    """Return what ``model`` may be called: by its last parts, and by the folders around them."""
    parts = [part for part in re.split(r"[/\\]+", model.strip().casefold()) if part not in ("", ".")]
    names = [*parts[-1:], "/".join(parts[-2:])]
    folders = [part for part in parts[:-1] if _VERSION.search(part)]
    for part in parts:
        if part.startswith("models--"):
            # The Hub's cache: models--organisation--name.
            names += [part.split("--")[-1], "/".join(part.split("--")[1:])]
    named, around = ([name for name in found if not _OWN.search(name)] for found in (names, folders))
    return named, around


def _any_matches(names: Iterable[str], row: Terms) -> bool:
    # A star would take what follows a slash for the rest of a name.
    return any(
        fnmatchcase(name, pattern) for name in names for pattern in row.models if ("/" in name) == ("/" in pattern)
    )


def join_terms(*lists: Iterable[str]) -> tuple[str, ...]:
    """Return the terms of a work made from several: all of them, sorted."""
    return tuple(sorted({name for names in lists for name in names}))
