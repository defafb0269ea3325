"""What happens to licences when works are made into new works, or put side by side.

``adapt`` is for derivation: a template filled, a text translated, an answer generated from a
prompt. The new text must satisfy every input at once, which may be impossible. ``compile_licenses``
is for collections: each row keeps its own licence, the whole is their SPDX AND.

The rules of ``adapt``, from the licences' own texts and the compatibility statements of Creative
Commons and the Free Software Foundation (each with its reason in ``data/license_compat.tsv``):

- no derivatives: impossible, even alone;
- no share-alike among the inputs: all conditions stand side by side (AND);
- share-alike: there must be one licence that every share-alike input may be carried on as (itself,
  a later version, a declared compatible licence), and that every other input may stand under. So
  BY-SA cannot meet BY-NC or BY-NC-SA, whose restriction it forbids to add; BY-NC may go into
  BY-NC-SA; BY-SA 3.0 and 4.0 give 4.0; GPL 2 only and GPL 3 only cannot meet;
- an unknown input, or one whose derivatives column is unknown, gives unknown.

Where the table is silent the answer is no. This is an aid, not legal advice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

from aya_data.core.license_reader import Resolution, resolve
from aya_data.core.license_table import (
    CONFLICT,
    CONFLICT_ID,
    UNKNOWN,
    License,
    atoms,
    facts,
    from_expression,
    read_table,
    strictness,
    unite,
)

__all__ = [
    "Reconciled",
    "Refusal",
    "adapt",
    "aggregate",
    "compile_licenses",
    "reconcile",
    "stricter",
]

DATA_FILES = ("data/license_compat.tsv",)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The inputs cannot be made into one work: ``reason`` names the pair that clashes."""

    reason: str
    inputs: tuple[str, ...]

    @property
    def license(self) -> License:
        """What a row made in spite of this carries: unknown, and never publishable."""
        return CONFLICT


_CARRIES: Final = "carries"
_NO_TARGET: Final = "there is no licence that both may be carried on as"


@cache
def _compatibility() -> tuple[Mapping[str, frozenset[str]], Mapping[str, frozenset[str]]]:
    """Return (what may stand under a family: families and ids, what an id may be carried on as)."""
    tables: dict[str, dict[str, frozenset[str]]] = {_CARRIES: {}, "upgrades": {}}
    for row in read_table("license_compat.tsv"):
        tables[row["kind"]][row["from"]] = frozenset(row["to"].split())
    return tables[_CARRIES], tables["upgrades"]


def adapt(inputs: Iterable[License]) -> License | Refusal:
    """Return the licence of a work made from all ``inputs``, or why there is none.

    The result does not depend on order or repetition, is never more permissive than an input in
    any of the four columns, and adapting it again changes nothing. No input at all is unknown.
    Cached by the set of expressions.
    """
    return _adapt(frozenset(license.expression for license in inputs))


@lru_cache(maxsize=4096)
def _adapt(expressions: frozenset[str]) -> License | Refusal:
    named = tuple(sorted(expressions))
    parts = sorted({atom for expression in expressions for atom in atoms(expression)})
    if CONFLICT_ID in parts:
        return Refusal("an input was itself made from works that cannot be combined", named)
    for part in parts:
        if facts(part).derivatives is False:
            return Refusal(f"{part} does not allow derivatives", named)
    known = [part for part in parts if facts(part).use != "unknown"]
    kept, clash = _target(known)
    if clash:
        return Refusal(clash, named)
    if not parts or len(known) < len(parts):
        return UNKNOWN
    if any(facts(part).derivatives is None for part in parts):
        return UNKNOWN
    asking = [part for part in kept if facts(part).family != "public"]
    return from_expression(unite(asking or kept))


def _target(parts: list[str]) -> tuple[list[str], str]:
    """Return (what stands on the result, "") or ([], the reason why nothing can)."""
    alike = [part for part in parts if facts(part).share_alike]
    if not alike:
        return parts, ""
    _, upgrades = _compatibility()
    reach = [{_base(part), *upgrades.get(_base(part), ())} for part in alike]
    shared = set.intersection(*reach)
    if not shared:
        clashing = next((pair for pair in _pairs(alike) if not _common(*pair)), None)
        return [], (
            f"{clashing[0]} and {clashing[1]} are both share-alike and {_NO_TARGET}"
            if clashing
            else f"{', '.join(alike)} are share-alike and there is no one licence for all"
        )
    others = [part for part in parts if part not in alike]
    # A licence of the inputs before a new one; then the least strict; then the name.
    order = sorted(shared, key=lambda t: (t not in map(_base, alike), strictness(from_expression(t))))
    for target in order:
        if all(_stands_under(part, target) for part in others):
            # An exception ("X WITH Y") lives on only where nothing else is share-alike.
            return [
                *others,
                alike[0] if len(alike) == 1 and _base(alike[0]) == target else target,
            ], ""
    blocker = next(part for part in others if not _stands_under(part, order[0]))
    return [], f"{order[0]} is share-alike and does not allow the conditions of {blocker}"


def _base(identifier: str) -> str:
    return identifier.partition(" WITH ")[0]


def _pairs(parts: list[str]) -> list[tuple[str, str]]:
    return [(a, b) for index, a in enumerate(parts) for b in parts[index + 1 :]]


def _common(left: str, right: str) -> bool:
    upgrades = _compatibility()[1]
    a, b = _base(left), _base(right)
    return bool({a, *upgrades.get(a, ())} & {b, *upgrades.get(b, ())})


def _stands_under(part: str, target: str) -> bool:
    row = facts(part)
    carried = _compatibility()[0].get(facts(target).family, frozenset({"public", "notice"}))
    return row.family in carried or row.id in carried


def compile_licenses(licenses: Iterable[License]) -> License:
    """Return the licence statement of a collection: the SPDX AND, deduplicated, sorted.

    Each row keeps its own licence; nothing is refused. An unknown stays visible in the expression
    and makes the whole unknown. An empty collection is unknown.
    """
    expressions = sorted({license.expression for license in licenses})
    return from_expression(unite(expressions)) if expressions else UNKNOWN


def aggregate(statements: Iterable[object]) -> Resolution:
    """Return what several statements about one dataset come to, as a catalogue lists them.

    Licences are compiled; statements that name terms of use ("OpenAI") add their terms and leave
    the licence alone. Where only terms are stated, or nothing, the licence is unknown. Unlike the
    Data Provenance Initiative's own rules, "No License" and "Unspecified" absorb all the rest.
    """
    found = [resolve(statement) for statement in statements]
    held = [one for one in found if not one.is_terms]
    license = compile_licenses(one.license for one in held)
    terms = tuple(sorted({term for one in found for term in one.terms}))
    reasons = sorted({one.reason for one in held if one.reason})
    if not held:
        reasons = sorted({one.reason for one in found}) or ["no licence stated"]
    notes = sorted({one.note for one in held if one.note})
    text = " | ".join(one.text for one in found)
    return Resolution(license, text, "; ".join(reasons), "; ".join(notes), terms)


def stricter(left: License, right: License) -> License:
    """Return the one that stands higher in ``strictness``; unknown is the strictest."""
    return max(left, right, key=strictness)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The licence that holds where several places speak, and the disagreement if there is one."""

    license: License
    conflict: str = ""


def reconcile(part: License | None, collection: License | None) -> Reconciled:
    """Return what holds for a part of a collection. ``None`` means that nothing is said.

    What is said of the part overrides the collection's tag, also when it says "unknown". Where
    both are known and differ, the stricter holds (the part's where their four facts are equal)
    and the disagreement is recorded.
    """
    if part is None or collection is None:
        return Reconciled(part or collection or UNKNOWN)
    if part == collection or not part.known or not collection.known:
        return Reconciled(part)
    conflict = f"the part says {part.expression}, its collection {collection.expression}"
    same = strictness(part)[:4] == strictness(collection)[:4]
    return Reconciled(part if same else stricter(part, collection), conflict)
