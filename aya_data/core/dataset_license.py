"""What is known of the licences of named collections, part by part.

A collection's tag says little of its parts: the Aya Collection is tagged Apache-2.0, and of its 64
configs one is CC-BY-NC-SA, several are share-alike, some unknown, and the 19 translated ones were
made with NLLB-200-3.3B, whose weights are for non-commercial use. ``data/dataset_licenses.tsv``
holds what the papers state (Aya Dataset paper, arXiv 2402.06619, tables 8 and 9; Aya-101 paper,
arXiv 2402.07827, table 15; the cards). Where two places disagree the stricter holds and the
disagreement is kept.

The translator does not own the text, so its condition stands as terms (``nllb-200``:
non-commercial, attribution) beside the text's licence: a CC-BY-SA text translated with it stays
CC-BY-SA, is refused under ``commercial`` and passes under ``research``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

from aya_data.core.license_algebra import stricter
from aya_data.core.license_reader import resolve
from aya_data.core.license_table import UNKNOWN, License, read_table, terms_of
from aya_data.core.terms import join_terms, terms_of_model

__all__ = ["PartFacts", "collection_parts", "part_license"]

DATA_FILES = ("data/dataset_licenses.tsv",)


@dataclass(frozen=True, slots=True)
class PartFacts:
    """The licence and terms of a part. ``statements`` are (who says it, what), as published;
    ``conflicts`` has one sentence where they differ. ``reason`` says why a licence is unknown."""

    license: License
    terms: tuple[str, ...] = ()
    translator: str = ""
    note: str = ""
    statements: tuple[tuple[str, str], ...] = ()
    conflicts: tuple[str, ...] = ()
    reason: str = ""


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip().casefold())


_COLLECTIONS: dict[str, str] = {
    "aya-collection-language-split": "aya-collection",
    "oasst": "oasst1",
    "databricks-dolly-15k": "dolly",
}


def _collection(name: str) -> str:
    folded = _fold(name).rpartition("/")[2]
    return _COLLECTIONS.get(folded, folded)


@cache
def _table() -> Mapping[tuple[str, str], PartFacts]:
    found: dict[tuple[str, str], PartFacts] = {}
    for row in read_table("dataset_licenses.tsv"):
        said = [pair.partition("=")[::2] for pair in row["statements"].split("; ")]
        facts = _read(tuple(said), row["translator"], row["note"])
        collection = _collection(row["collection"])
        found[collection, _fold(row["part"])] = facts
        if row["aliases"] and row["part"] != "*":
            found.setdefault((collection, _fold(row["aliases"])), facts)
    return found


def _read(said: tuple[tuple[str, str], ...], translator: str, note: str) -> PartFacts:
    licenses = [resolve(text).license for _, text in said]
    held = licenses[0]
    for license in licenses[1:]:
        held = stricter(held, license)
    conflicts: tuple[str, ...] = ()
    if len(set(licenses)) > 1:
        places = ", ".join(f"{who} says {_shown(text)}" for who, text in said)
        conflicts = (f"{places}: the stricter holds ({_shown(held.expression)})",)
    terms = join_terms(terms_of(held), terms_of_model(translator) if translator else ())
    reason = "" if held.known else f"given as unknown by {said[licenses.index(held)][0]}"
    return PartFacts(held, terms, translator, note, said, conflicts, reason)


def _shown(text: str) -> str:
    return "unknown" if text in ("NOASSERTION", UNKNOWN.expression) else text


@lru_cache(maxsize=4096)
def part_license(collection: str, part: str = "*") -> PartFacts:
    """Return what is known of ``part`` (a config, a nested dataset) of ``collection``.

    Names are matched without regard to case, hyphens and underscores; the ``dataset_name`` values
    of the Aya Collection ("Mintaka-inst (T)") are read too. A part that is not listed is unknown,
    whatever the collection's tag says: fail closed. Never raises.
    """
    table = _table()
    name = _collection(collection)
    found = table.get((name, _fold(part))) or table.get((name, "*"))
    if found is not None:
        return found
    return PartFacts(UNKNOWN, reason=f"nothing is recorded of the part {part!r} of {collection!r}")


def collection_parts(collection: str) -> tuple[str, ...]:
    """Return the names of the recorded parts of a collection, in the order of the table."""
    name = _collection(collection)
    return tuple(row["part"] for row in read_table("dataset_licenses.tsv") if _collection(row["collection"]) == name)
