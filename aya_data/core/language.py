"""Languages, scripts and varieties: one resolver for every spelling that a source uses.

A **variety** is a language (ISO 639-3) with a script (ISO 15924), written ``arb_Arab``. ``resolve``
takes any label (``zh-TW``, ``traditionalchinese``, ``__label__zh``, ``Acehnese (Arabic script)``)
and never raises: what nobody can resolve is ``und_Zyyy`` with a reason. ``parse`` is its strict
form, for specs.

**One code per language.** Sources name one language by its macrolanguage (``zho``, ``fas``,
``msa``) or by its standard variety (``cmn``, ``pes``, ``zsm``). Here each gets one code, the one of
FLORES-200, on which the Aya data sets agree: ``ara`` is ``arb``, ``fas`` is ``pes``, ``swa`` is
``swh``, ``msa`` is ``zsm``, ``nor`` is ``nob``, ``lav`` is ``lvs``, ``kur`` is ``kmr`` (``ckb`` in
Arabic script), ``aze`` is ``azj`` (``azb`` in Arabic script), ``uzb`` is ``uzn``, ``mon`` is
``khk``, ``mlg`` is ``plt``, ``sqi`` is ``als``, ``pus`` is ``pbt``, ``yid`` is ``ydd``, ``ori`` is
``ory``, ``nep`` is ``npi``, ``orm`` is ``gaz``, ``que`` is ``quy``, ``aym`` is ``ayr``, ``kau`` is
``knc``, ``din`` is ``dik``; the other way round ``cmn`` is ``zho``, ``ekk`` is ``est``, ``gug`` is
``grn`` and ``fil`` is ``tgl``, because the sources use those. A macrolanguage that is not listed
stays as it is (``ful``, ``hbs``, ``srd``, ``aka``). The table is ``data/canonical.tsv``; a
resolution's ``note`` says when it applied. Chinese is ``zho_Hans`` unless the label, or its region
(TW, HK, MO), says Hant.

**Comparing labels.** ``same_language`` also holds between a macrolanguage and its members (``hbs``
and ``srp``), except for the pairs of ``data/apart.tsv`` (Malay and Indonesian, Chinese and
Cantonese). Siblings are different: ``arz`` is not ``arb``. ``confusable`` lists what language
identifiers mix up.

**Retired codes** become what replaced them (``iw`` is ``heb``). ``ajp`` was merged into ``apc`` in
2023 and is kept, because FLORES and the Aya translations separate the two.

**Order.** The exact spelling of a programming language (``Ada``, ``SQL``) wins over the code of the
same letters (``ada``, ``sql``); codes win over spellings of data sets, those over official names.
An unknown region, variant or script makes the whole label unknown: half-understood labels are how
rows get into the wrong language.

The first call reads the tables (some 15 ms); later calls are answered from a cache or take
microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Literal

from aya_data.core import language_tables as tables
from aya_data.core.errors import NotFound
from aya_data.core.language_labels import (
    LONGEST,
    UNKNOWN,
    Found,
    canonical_code,
    find,
    find_code,
    macro_of,
    says_script,
    settle,
)

__all__ = [
    "LANGUAGE_SETS",
    "UND",
    "Language",
    "Resolution",
    "Variety",
    "confusable",
    "direction",
    "fasttext_labels",
    "flores",
    "info",
    "language_set",
    "macro_of",
    "name",
    "parse",
    "resolve",
    "same_language",
    "scope",
]

LANGUAGE_SETS = (
    "aya_101",
    "aya_101_high",
    "aya_101_low",
    "aya_101_mid",
    "aya_23",
    "aya_dataset",
    "aya_evaluation_suite",
    "flores_200",
)
"""Names that ``language_set`` takes; the members are in ``data/sets.tsv``."""


@dataclass(frozen=True, slots=True, order=True)
class Variety:
    """A language (ISO 639-3) in a script (ISO 15924)."""

    language: str
    script: str

    @property
    def code(self) -> str:
        """Both, as ``arb_Arab``."""
        return f"{self.language}_{self.script}"

    def __str__(self) -> str:
        """Return the code."""
        return self.code


UND = Variety("und", "Zyyy")
"""What a label that cannot be resolved becomes."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a label means: ``reason`` says why it is ``und``, ``note`` what was decided."""

    variety: Variety
    label: str
    ok: bool
    reason: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Language:
    """What is known of a language.

    ``individuals`` are the members of a macrolanguage. ``resource`` is the level of Aya-101, Table
    11 (Joshi classes 5 and 4 high, 3 mid, below low), None outside the 101. ``family`` is known for
    the languages of FLORES-200 and Aya-101. ``scripts`` starts with ``default_script``;
    ``direction`` is that script's.
    """

    code: str
    name: str
    macrolanguage: str | None
    individuals: tuple[str, ...]
    iso639_1: str | None
    family: str | None
    resource: Literal["high", "mid", "low"] | None
    default_script: str
    scripts: tuple[str, ...]
    direction: Literal["ltr", "rtl"]


_RESOURCES: dict[str, Literal["high", "mid", "low"]] = {"high": "high", "mid": "mid", "low": "low"}


def resolve(label: str | None, *, script: str | None = None) -> Resolution:
    """Return what ``label`` means; never raises.

    ``script`` is what the source says of the script in another column (a code or a name); it counts
    where the label gives none. Whatever cannot be resolved is ``UND`` with a reason.
    ``resolve(v.code).variety == v`` for every variety that this function returns. The last 65,536
    different labels are remembered.
    """
    if not isinstance(label, str):
        return Resolution(UND, "" if label is None else repr(label)[:LONGEST], False, "no label")
    if len(label) > LONGEST:
        reason = f"longer than {LONGEST} characters: not a label"
        return Resolution(UND, label, False, reason)
    return _resolve(label, script[:LONGEST] if script else None)


@lru_cache(maxsize=65536)
def _resolve(label: str, script: str | None) -> Resolution:
    text = label.strip()
    if not text:
        return Resolution(UND, label, False, "no label")
    found = find(text)
    if isinstance(found, str):
        return Resolution(UND, label, False, found)
    if found.language == "und":
        return Resolution(UND, label, False, "the source says that it is undetermined")
    found = settle(found, script)
    variety = Variety(found.language, found.script)
    return Resolution(variety, label, True, "", "; ".join(found.notes))


def parse(label: str) -> Variety:
    """Return the variety that ``label`` names; ``NotFound`` with a hint when there is none."""
    resolution = resolve(label)
    if resolution.ok:
        return resolution.variety
    known = [row.name for row in tables.flores_languages().values()]
    known += [row.name for row in tables.aya_101().values()]
    remedy = "Write an ISO 639-3 code with or without a script (tur, tur_Latn) or an English name."
    reason = resolution.reason
    if reason and reason != UNKNOWN:
        remedy = f"{reason[0].upper()}{reason[1:]}. {remedy}"
    raise NotFound("language", label, sorted(set(known)), remedy)


@lru_cache(maxsize=65536)
def scope(label: str) -> tuple[str, str | None]:
    """Return what a label selects: a language, and a script where the label says one; None for any script.

    ``zho`` and ``Chinese`` are Chinese in every script, ``zho_Hans``, ``zh-Hans``, ``zh-CN`` and ``Simplified
    Chinese`` only in Hans. A region says a script where the language's regions differ in it; ``pt-BR`` is Portuguese.
    A label that cannot be resolved is ``und`` in any script.
    """
    variety = resolve(label).variety
    found = find(label.strip()) if variety != UND else ""
    return variety.language, variety.script if isinstance(found, Found) and says_script(found) else None


@cache
def language_set(name: str) -> tuple[Variety, ...]:
    """Return the varieties of a named set, sorted by code; ``NotFound`` for an unknown set."""
    codes = tables.named_sets().get(name)
    if codes is None:
        raise NotFound("language set", name, LANGUAGE_SETS)
    return tuple(Variety(*code.split("_")) for code in codes)


@cache
def info(language: str) -> Language:
    """Return what is known of an ISO 639-3 code, as it stands; ``NotFound`` for an unknown code."""
    row = tables.languages().get(language)
    if row is None:
        remedy = "Give an ISO 639-3 code; resolve() finds it for a name or another code."
        raise NotFound("ISO 639-3 code", language, tables.flores_languages(), remedy)
    same = canonical_code(language, row.script)
    flores_row = tables.flores_languages().get(language) or tables.flores_languages().get(same)
    aya_row = _aya_rows().get(language) or _aya_rows().get(same)
    family = (flores_row.family if flores_row else "") or (aya_row.family if aya_row else "")
    scripts = [row.script, *(flores_row.scripts.split() if flores_row else ())]
    return Language(
        code=language,
        name=_language_name(language),
        macrolanguage=row.macrolanguage or None,
        individuals=tables.individuals().get(language, ()),
        iso639_1=row.iso639_1 or None,
        family=family or None,
        resource=_RESOURCES[aya_row.resource] if aya_row else None,
        default_script=row.script,
        scripts=tuple(dict.fromkeys(scripts)),
        direction=direction(row.script),
    )


def direction(script: str) -> Literal["ltr", "rtl"]:
    """Return the writing direction of an ISO 15924 code; ``NotFound`` for an unknown code."""
    row = tables.scripts().get(script)
    if row is None:
        raise NotFound("script", script, tables.scripts())
    return "rtl" if row.direction == "rtl" else "ltr"


def name(variety_or_language: Variety | str) -> str:
    """Return the English name: ``Turkish``, ``Chinese (Simplified)``, ``Hindi (Latin)``.

    The script is named where it is not the language's usual one, and always for Chinese. Takes a
    variety, its code or an ISO 639-3 code; what is unknown comes back as it is.
    """
    text = str(variety_or_language)
    language, _, script = text.partition("_")
    row = tables.languages().get(language)
    if row is None:
        return text
    shown = _language_name(language)
    if script not in tables.scripts() or (script == row.script and language != "zho"):
        return shown
    if script in ("Hans", "Hant"):
        return f"{shown} ({'Simplified' if script == 'Hans' else 'Traditional'})"
    return f"{shown} ({tables.scripts()[script].name})"


@cache
def fasttext_labels() -> Mapping[str, str]:
    """Return the 176 labels of fastText's lid.176, without ``__label__``, and the language of each.

    The labels are names of Wikipedias, not codes: ``als`` is Alemannic (``gsw``), ``no`` is
    ``nob``, ``bh`` is ``bho``. Languages are canonical, so they compare with those of rows by
    equality.
    """
    return MappingProxyType(tables.lid_176())


@lru_cache(1 << 16)
def same_language(a: str, b: str) -> bool:
    """Say whether two ISO 639-3 codes stand for one language.

    True when they are equal, become equal by the canonical choice or a retired code's replacement,
    or one is the macrolanguage of the other and the pair is not listed in ``data/apart.tsv``.
    """
    a, b = _current(a), _current(b)
    if a == b or canonical_code(a, "") == canonical_code(b, ""):
        return True
    return any(
        macro_of(member) == macro and (macro, member) not in tables.apart() for macro, member in ((a, b), (b, a))
    )


def confusable(a: str, b: str) -> bool:
    """Say whether language identifiers mix up two different languages (``data/confusable.tsv``)."""
    if same_language(a, b):
        return False
    chosen = _pair(canonical_code(a, ""), canonical_code(b, ""))
    return not _confusable_pairs().isdisjoint((_pair(a, b), chosen))


def flores(variety: Variety) -> str | None:
    """Return the FLORES-200 (NLLB) code of a variety, None where FLORES does not have it."""
    language = canonical_code(variety.language, variety.script)
    row = tables.flores_languages().get(language)
    return f"{language}_{variety.script}" if row and variety.script in row.scripts.split() else None


def _current(language: str) -> str:
    """Return what a withdrawn code has become, others unchanged."""
    if language not in tables.languages():
        found = find_code(language)
        return found.language if isinstance(found, Found) else language
    return language


def _language_name(language: str) -> str:
    row = tables.flores_languages().get(language)
    return row.name if row else tables.languages()[language].name


@cache
def _aya_rows() -> dict[str, tables.AyaLanguage]:
    rows = dict(tables.aya_101())
    return {row.canonical: row for row in rows.values()} | rows


def _pair(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a < b else (b, a)


@cache
def _confusable_pairs() -> frozenset[tuple[str, str]]:
    return frozenset((a, b) for group, _ in tables.confusable_groups() for a in group for b in group if a < b)
