"""How the ways people write a licence are read: ids, expressions, names, tags, addresses.

``data/license_names.tsv`` lists spellings (the 137 of the Data Provenance Initiative, the Hub's
tags, the names of common catalogues) with what each stands for; "-" marks words that name no one
licence, with the reason. Creative Commons names are read by their elements in any arrangement. A
version that the source does not state is not invented: "CC BY" is ``LicenseRef-CC-BY``.

Nothing is guessed from part of a text: "MIT (non-commercial use only)" is unknown, not MIT.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

from aya_data.core.errors import InputError, NotFound
from aya_data.core.license_table import (
    CONFLICT_ID,
    UNKNOWN,
    UNKNOWN_ID,
    License,
    Node,
    atoms,
    facts,
    from_expression,
    join,
    known_symbol,
    license_table,
    read_table,
    read_tree,
    terms_of,
    text_of,
    tree_of,
)

__all__ = ["Resolution", "parse", "resolve"]

DATA_FILES = ("data/license_names.tsv",)

LONGEST: Final = 1_000  # characters; the longest listed spelling has 330


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a source's words were read as.

    ``reason`` says why the licence is unknown and is empty when it is known; ``note`` holds what a
    reader should know about the reading ("no version stated"); ``terms`` are ids of terms of use
    that the words name ("OpenAI") or that the licence brings along ("gemma").
    """

    license: License
    text: str
    reason: str = ""
    note: str = ""
    terms: tuple[str, ...] = ()

    @property
    def is_terms(self) -> bool:
        """Whether the words name terms of use and no licence."""
        return bool(self.terms) and self.license == UNKNOWN


def _key(text: str) -> str:
    """Fold what never tells two licences apart: case, width, runs of space, hyphen, quotes."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = re.sub(r"[\s_,\u2010-\u2014-]+", " ", folded).replace("licence", "license")
    return folded.strip(" .;:'\"\u201c\u201d\u2018\u2019`*#")


def _url_key(text: str) -> str | None:
    match = re.fullmatch(r"\s*https?://(?:www\.)?(\S+?)\s*", text, re.IGNORECASE)
    return None if match is None else "url:" + match[1].casefold().rstrip("/.")


@cache
def _ids() -> Mapping[str, str]:
    return {identifier.casefold(): identifier for identifier in license_table()} | {
        UNKNOWN_ID.casefold(): UNKNOWN_ID,
        CONFLICT_ID.casefold(): CONFLICT_ID,
    }


@cache
def _names() -> Mapping[str, tuple[str, str]]:
    listed: dict[str, tuple[str, str]] = {}
    for facts_ in license_table().values():
        if not facts_.id.startswith("LicenseRef-custom-"):
            listed.setdefault(_key(facts_.title), (facts_.id, ""))
    for row in read_table("license_names.tsv"):
        key = _url_key(row["name"]) or _key(row["name"])
        listed[key] = (row["expression"], row["note"])
    return listed


_CC_URL: Final = re.compile(
    r"url:creativecommons\.org/licenses/(?P<kind>by(?:-nc)?(?:-sa|-nd)?)/(?P<version>\d\.\d)"
    r"(?:/(?P<port>[a-z]{2,4}))?(?:/(?:deed|legalcode)(?:\.[a-z_-]+)?)?"
)
_ID_URL: Final = re.compile(
    r"url:(?:opensource\.org/licenses?|spdx\.org/licenses|choosealicense\.com/licenses)/"
    r"(?P<id>[a-z0-9.+-]+?)(?:\.html|\.txt)?"
)
_FILE: Final = re.compile(r"\s*\((?:[\w.-]+/)*(?:data_)?(?:licen[sc]e|readme|copying)(?:\.\w+)?\)$", re.I)
_PREFIX: Final = re.compile(
    r"(?:(?:the|this|our) )?(?:(?:dataset|data|corpus|project|work|repository) )?(?:is )?"
    r"(?:licensed|released|distributed|available|published) under (?:the |a )?"
)
_FILLER: Final = frozenset(
    (
        "creative",
        "commons",
        "common",
        "cc",
        "license",
        "public",
        "international",
        "inter.",
        "unported",
        "generic",
        "deed",
        "legal",
        "code",
        "version",
        "the",
    )
)
_ELEMENT: Final[Mapping[str, str]] = {
    "by": "BY", "attribution": "BY", "attr": "BY",
    "nc": "NC", "noncommercial": "NC",
    "sa": "SA", "sharealike": "SA",
    "nd": "ND", "noderivs": "ND", "noderivatives": "ND",
}  # fmt: skip


def _creative_commons(key: str) -> str | None:
    """Read any arrangement of the elements: "by nc sa 4.0", "attribution sharealike 3.0"."""
    text = key.replace("non commercial", "noncommercial").replace("share alike", "sharealike")
    text = re.sub(r"no deriv(?:ative)?s?\b(?: works)?", "noderivatives", text)
    elements: set[str] = set()
    versions: set[str] = set()
    ports: set[str] = set()
    for word in re.findall(r"[^\s()/]+", text):
        if word in _FILLER:
            continue
        if word in _ELEMENT:
            elements.add(_ELEMENT[word])
        elif match := re.fullmatch(r"v?\.?(\d)(\.\d)?", word):
            versions.add(match[1] + (match[2] or ".0"))
        elif word in ("igo", "us", "uk", "de", "at", "au", "nl", "fr", "jp"):
            ports.add(word.upper())
        else:
            return None
    if "BY" not in elements or {"SA", "ND"} <= elements or len(versions) > 1 or len(ports) > 1:
        return None
    kind = "-".join(name for name in ("BY", "NC", "SA", "ND") if name in elements)
    if not versions:
        return None if ports else f"LicenseRef-CC-{kind}"
    base = f"CC-{kind}-{versions.pop()}"
    named = f"{base}-{ports.pop()}" if ports else base
    return next((name for name in (named, base) if name in license_table()), None)


def _look_up(text: str) -> tuple[str, str] | None:
    """Return (expression or "-" or "terms:…", note) of a plain name, id or address."""
    identifier = _ids().get(text.casefold())
    if identifier is not None:
        return identifier, ""
    url = _url_key(text)
    if url is not None:
        listed = _names().get(url)
        if listed is not None:
            return listed
        if match := _CC_URL.fullmatch(url):
            words = (match["kind"], match["version"], match["port"] or "")
            found = _creative_commons(" ".join(words).replace("-", " ").strip())
            return None if found is None else (found, "")
        if match := _ID_URL.fullmatch(url):
            return _look_up(match["id"])
        return None
    key = _key(text)
    listed = _names().get(key)
    if listed is not None:
        return listed
    found = _creative_commons(key)
    if found is not None:
        note = "no version stated" if found.startswith("LicenseRef-") else ""
        return found, note
    for shorter in (
        _FILE.sub("", text),
        _PREFIX.sub("", key, count=1),
        key.removesuffix(" license"),
    ):
        if shorter and _key(shorter) != key:
            return _look_up(shorter)
    return None


def _leaf(identifier: str) -> str | None:
    """Return the canonical form of one id inside an expression, None when it is no id at all."""
    ours = _ids().get(identifier.casefold())
    if ours is not None:
        return ours
    if re.fullmatch(r"(?:DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+", identifier):
        return identifier
    return known_symbol(identifier)


_OPERATOR: Final = re.compile(r"\b(?:and|or|with)\b", re.IGNORECASE)
_SINGLE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+:-]*")


def _expression(text: str) -> str | None:
    """Return the canonical form of an SPDX expression, None when it is none."""
    if not _SINGLE.fullmatch(text.strip("() ")) and not _OPERATOR.search(text):
        return None
    tree = read_tree(text, _leaf)
    if tree is not None:
        return text_of(tree)
    # "CC BY-SA 3.0 AND MIT License": names that people write, joined the SPDX way.
    parts = re.split(r"\s+(AND|OR)\s+", text)
    if len(parts) < 3 or "(" in text or len(set(parts[1::2])) > 1:
        return None
    nodes: list[Node] = []
    for part in parts[::2]:
        found = _look_up(part)
        if found is None or found[0] == "-" or found[0].startswith("terms:"):
            return None
        nodes.append(tree_of(found[0]))
    return text_of(join(parts[1], nodes))


def resolve(text: object) -> Resolution:
    """Read what a row or a card says of its licence. Never raises; what is not read is unknown.

    Takes SPDX ids and expressions in any case, deprecated ids, the Hub's tags, the names of the
    Data Provenance Initiative and of common catalogues, and addresses of licence texts. Nothing,
    ``NOASSERTION``, "unknown", "other", "No License" and the like are unknown, each with its
    reason. Cached: a repeated call costs a dictionary look-up.
    """
    if text is None:
        return _NOTHING
    if not isinstance(text, str):
        return Resolution(UNKNOWN, "", f"not a text but {type(text).__name__}")
    if len(text) > LONGEST:
        return Resolution(UNKNOWN, text[:80] + "…", f"too long to be a name ({len(text)} characters)")
    return _resolve(text)


_NOTHING: Final = Resolution(UNKNOWN, "", "no licence stated")


@lru_cache(maxsize=16_384)
def _resolve(text: str) -> Resolution:
    bare = text.strip()
    if not bare:
        return Resolution(UNKNOWN, text, "no licence stated")
    found = _look_up(bare)
    if found is None:
        expression = _expression(bare)
        if expression is None:
            shown = bare if len(bare) <= 60 else bare[:57] + "…"
            return Resolution(UNKNOWN, text, f"{shown!r} is not a licence that is known here")
        found = (expression, "")
    expression, note = found
    if expression == "-":
        return Resolution(UNKNOWN, text, note)
    if expression.startswith("terms:"):
        reason = f"terms of use, not a licence: {expression[6:]}"
        return Resolution(UNKNOWN, text, reason, note, (expression[6:],))
    license_ = from_expression(expression)
    reason = "" if license_.known else _why_unknown(expression)
    return Resolution(license_, text, reason, note, terms_of(license_))


def _why_unknown(expression: str) -> str:
    if expression == UNKNOWN_ID:
        return "no licence stated"
    if expression == CONFLICT_ID:
        return "made from works whose licences cannot be combined"
    dark = [atom for atom in atoms(expression) if facts(atom).use == "unknown"]
    notes = [facts(atom).note for atom in dark if facts(atom).note]
    return notes[0] if notes else f"nothing is known here of {', '.join(dark)}"


def parse(text: str) -> License:
    """Read a licence that a person wrote in a spec.

    A custom ``LicenseRef-…`` is accepted, with unknown facts: only a policy that makes an
    exception for it lets it through.

    Raises:
        InputError: it is empty, terms of use, or words that name no one licence ("other").
        NotFound: it is not a licence; the message suggests the nearest.
    """
    found = resolve(text)
    if found.license != UNKNOWN or text.strip().casefold() == UNKNOWN_ID.casefold():
        return found.license
    if found.is_terms:
        raise InputError(
            f"{text!r} names terms of use, not a licence",
            f"Write terms: [{found.terms[0]}] beside the licence.",
        )
    if found.reason.endswith("is not a licence that is known here"):
        raise NotFound(
            "licence",
            text,
            (name for name in license_table() if not name.startswith("LicenseRef-custom-")),
            "Write an SPDX id such as CC-BY-4.0, or LicenseRef-<name> for a text of your own.",
        )
    raise InputError(
        f"{text!r} does not say which licence: {found.reason}",
        "Write an SPDX id such as CC-BY-4.0, or LicenseRef-<name> for a text of your own.",
    )
