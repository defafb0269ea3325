"""One licence: what its text allows and asks, as a canonical SPDX expression and four facts.

The facts stand in ``data/licenses.tsv``, one row per SPDX id or ``LicenseRef-``, in four columns:
use (any, noncommercial, academic, unknown), attribution, share-alike, derivatives. The classes of
the Data Provenance Initiative (Longpre et al. 2023, 66 names and 79 custom texts) were the start;
where a licence's own text says otherwise the text wins and the ``note`` column says so. Every
doubt is resolved to "unknown": nothing here ever makes a licence more permissive than its text.

Cost: the table is read once (235 lines). ``license_expression`` is imported (40 ms, once per
process) only where an expression is compound.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final, Literal, cast

__all__ = [
    "CONFLICT",
    "CONFLICT_ID",
    "UNKNOWN",
    "UNKNOWN_ID",
    "License",
    "LicenseFacts",
    "Node",
    "Use",
    "atoms",
    "describe",
    "facts",
    "from_expression",
    "join",
    "known_symbol",
    "license_table",
    "read_table",
    "read_tree",
    "strictness",
    "terms_of",
    "text_of",
    "tree_of",
    "unite",
]

DATA_FILES = ("data/licenses.tsv",)

Use = Literal["any", "noncommercial", "academic", "unknown"]
USES: Final[tuple[Use, ...]] = ("any", "noncommercial", "academic", "unknown")
UNKNOWN_ID: Final = "LicenseRef-aya-unknown"
CONFLICT_ID: Final = "LicenseRef-aya-conflict"

Strictness = tuple[int, int, int, int, str, float, str]


@dataclass(frozen=True, slots=True)
class LicenseFacts:
    """A row of the table. ``None`` means that the text does not say or was not read."""

    id: str
    use: Use
    attribution: bool | None
    share_alike: bool | None
    derivatives: bool | None
    family: str
    terms: tuple[str, ...]
    title: str
    url: str
    note: str


@dataclass(frozen=True, slots=True)
class License:
    """A canonical SPDX expression and what it comes to; ``None`` is "not known".

    Of an AND the strictest value counts in each column; of an OR the alternative that is least
    strict as a whole (the recipient may choose it), its four values together.
    """

    expression: str
    use: Use
    attribution: bool | None
    share_alike: bool | None
    derivatives: bool | None

    @property
    def known(self) -> bool:
        """Whether a use is known at all."""
        return self.use != "unknown"

    def __str__(self) -> str:
        """Return the expression."""
        return self.expression


UNKNOWN: Final = License(UNKNOWN_ID, "unknown", None, None, None)
CONFLICT: Final = License(CONFLICT_ID, "unknown", None, None, None)


_FLAG: Final[Mapping[str, bool | None]] = {"yes": True, "no": False, "unknown": None}


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of a tab-separated table of this package, as text, in file order."""
    text = files("aya_data.core").joinpath("data", name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))


@cache
def license_table() -> Mapping[str, LicenseFacts]:
    """Return the facts by id, in the order of the file."""
    return {
        row["id"]: LicenseFacts(
            row["id"],
            cast(Use, row["use"]),
            _FLAG[row["attribution"]],
            _FLAG[row["share_alike"]],
            _FLAG[row["derivatives"]],
            row["family"],
            tuple(row["terms"].split()),
            row["title"],
            row["url"],
            row["note"],
        )
        for row in read_table("licenses.tsv")
    }


def facts(identifier: str) -> LicenseFacts:
    """Return what is known of one id (``X WITH exception`` has the facts of X: exceptions only
    permit more). An id without a row has every fact unknown and a family of its own."""
    base = identifier.partition(" WITH ")[0]
    row = license_table().get(base)
    if row is not None:
        return row
    return LicenseFacts(base, "unknown", None, None, None, "unknown", (), base, "", "")


def terms_of(license: License) -> tuple[str, ...]:
    """Return the ids of the terms of use that the licence brings along, sorted."""
    return _terms_of(license.expression)


@lru_cache(maxsize=4096)
def _terms_of(expression: str) -> tuple[str, ...]:
    return tuple(sorted({term for atom in atoms(expression) for term in facts(atom).terms}))


# ------------------------------------------------------------------ expressions
# An expression is a nested tuple ("AND" | "OR", parts) with ids as leaves, in canonical order:
# parts flattened, deduplicated and sorted, so that equal meaning gives equal text.
Node = str | tuple[str, tuple["Node", ...]]


def join(operator: str, parts: list[Node]) -> Node:
    """Return the canonical tree of ``parts`` joined by "AND" or "OR"."""
    flat: set[Node] = set()
    for part in parts:
        if isinstance(part, tuple) and part[0] == operator:
            flat.update(part[1])
        else:
            flat.add(part)
    ordered = sorted(flat, key=text_of)
    return ordered[0] if len(ordered) == 1 else (operator, tuple(ordered))


def text_of(node: Node) -> str:
    """Return the text of a canonical tree; an OR within an AND (and the reverse) in brackets."""
    if isinstance(node, str):
        return node
    operator, parts = node
    shown = (f"({text_of(p)})" if isinstance(p, tuple) else p for p in parts)
    return f" {operator} ".join(shown)


@cache
def _spdx() -> Any:
    # Untyped library; imported late because most builds only meet listed ids.
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def read_tree(text: str, leaf: Callable[[str], str | None]) -> Node | None:
    """Parse an SPDX expression; ``leaf`` canonicalises an id or returns None to refuse it."""
    from license_expression import LicenseWithExceptionSymbol

    def walk(part: Any) -> Node | None:
        if isinstance(part, LicenseWithExceptionSymbol):
            base = leaf(part.license_symbol.key)
            exception = part.exception_symbol
            return f"{base} WITH {exception.key}" if base and exception.is_exception else None
        if hasattr(part, "key"):
            return None if part.is_exception else leaf(part.key)
        below = [walk(argument) for argument in part.args]
        if any(node is None for node in below):
            return None
        return join(part.operator.strip().upper(), [node for node in below if node is not None])

    try:
        parsed = _spdx().parse(text, validate=False, strict=False)
        return None if parsed is None else walk(parsed)
    except Exception:  # the library raises several classes of its own, its parser and recursion
        return None


def known_symbol(identifier: str) -> str | None:
    """Return the canonical form of any id of the SPDX list, None when it is not on it."""
    symbol = _spdx().known_symbols.get(identifier)
    return None if symbol is None or symbol.is_exception else str(symbol.key)


@lru_cache(maxsize=4096)
def tree_of(expression: str) -> Node:
    """Return the tree of a canonical expression (what ``text_of`` made)."""
    if " AND " not in expression and " OR " not in expression:
        return expression
    tree = read_tree(expression, lambda identifier: identifier)
    return expression if tree is None else tree


def unite(expressions: list[str]) -> str:
    """Return the canonical SPDX AND of canonical expressions (at least one)."""
    return text_of(join("AND", [tree_of(expression) for expression in expressions]))


@lru_cache(maxsize=4096)
def atoms(expression: str) -> tuple[str, ...]:
    """Return the ids that hold together, sorted; of an OR those of the least strict alternative."""
    return tuple(sorted(_elect(tree_of(expression))))


def _elect(node: Node) -> frozenset[str]:
    if isinstance(node, str):
        return frozenset((node,))
    below = [_elect(part) for part in node[1]]
    if node[0] == "AND":
        return frozenset().union(*below)
    return min(below, key=lambda ids: strictness(_meet(" AND ".join(sorted(ids)), ids)))


def _meet(expression: str, ids: frozenset[str] | tuple[str, ...]) -> License:
    rows = [facts(identifier) for identifier in ids]
    if any(row.use == "unknown" for row in rows):
        return License(expression, "unknown", None, None, None)
    return License(
        expression,
        max((row.use for row in rows), key=USES.index),
        _strictest([row.attribution for row in rows], strict=True),
        _strictest([row.share_alike for row in rows], strict=True),
        _strictest([row.derivatives for row in rows], strict=False),
    )


def _strictest(values: list[bool | None], strict: bool) -> bool | None:
    if None in values:
        return None
    return strict if strict in values else not strict


@lru_cache(maxsize=4096)
def from_expression(expression: str) -> License:
    """Return the licence of an expression that is already canonical (a release's column)."""
    if expression == UNKNOWN_ID:
        return UNKNOWN
    if expression == CONFLICT_ID:
        return CONFLICT
    return _meet(expression, atoms(expression))


def strictness(license: License) -> Strictness:
    """Return the place of a licence in a total order; the greater, the stricter.

    By use, then derivatives, share-alike, attribution (each: allowed or not asked, then forbidden
    or asked, then unknown). Equal facts are told apart by family name, only so that the order is
    total; within a family by version, the older being the stricter (it may be carried on as the
    newer, not the reverse); then by expression.
    """
    version = re.search(r"-(\d+(?:\.\d+)?)", license.expression)
    return (
        USES.index(license.use),
        _rank(license.derivatives, strict=False),
        _rank(license.share_alike, strict=True),
        _rank(license.attribution, strict=True),
        max(facts(atom).family for atom in atoms(license.expression)),
        -float(version[1]) if version else 0.0,
        license.expression,
    )


def _rank(value: bool | None, strict: bool) -> int:
    return 2 if value is None else int(value is strict)


_USE_WORDS: Final[Mapping[Use, str]] = {
    "any": "any use",
    "noncommercial": "non-commercial",
    "academic": "research only",
    "unknown": "unknown",
}


def describe(license: License) -> str:
    """Return one line for people: ``non-commercial, attribution, share-alike``."""
    if not license.known:
        return "unknown"
    words = [_USE_WORDS[license.use]]
    for value, yes, unsaid in (
        (license.attribution, "attribution", "attribution not stated"),
        (license.share_alike, "share-alike", "share-alike not stated"),
    ):
        words.extend([yes] if value else [] if value is False else [unsaid])
    if license.derivatives is not True:
        words.append("no derivatives" if license.derivatives is False else "derivatives not stated")
    return ", ".join(words)
