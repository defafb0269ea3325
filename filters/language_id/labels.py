"""What the labels of a language model mean, and how they stand to the languages that rows declare."""

from __future__ import annotations

from functools import cache

from aya_data.core import language as languages
from aya_data.text import script

__all__ = ["CONFUSABLE", "OTHER", "SAME", "known_varieties", "knows", "relation", "variety", "wikipedia"]

OTHER, CONFUSABLE, SAME = 0, 1, 2


@cache
def wikipedia(labels: tuple[str, ...]) -> bool:
    """Tell whether a model's labels are the names of Wikipedias, as lid.176's are, and no codes."""
    return set(labels) <= set(languages.fasttext_labels())


@cache
def variety(label: str, wikipedia: bool) -> languages.Variety:
    """What a label means. A label without a script has the script ``Zyyy``, that is, any."""
    if wikipedia:
        return languages.Variety(languages.fasttext_labels()[label], languages.UND.script)
    language, written = languages.scope(label)
    return languages.Variety(language, written or languages.UND.script)


@cache
def known_varieties(labels: tuple[str, ...]) -> frozenset[languages.Variety]:
    """Return what a model knows; a label without a script stands for the language's usual one."""
    names = wikipedia(labels)
    found = (variety(label, names) for label in labels)
    return frozenset(languages.resolve(v.language).variety if v.script == languages.UND.script else v for v in found)


@cache
def knows(known: frozenset[languages.Variety], language: str, wanted: str | None) -> bool:
    """Tell whether a language is known, in the ``wanted`` script if one is given."""
    return any(
        (wanted is None or script.same_letters(wanted, v.script)) and languages.same_language(language, v.language)
        for v in known
    )


@cache
def relation(declared: str, detected: str) -> int:
    """Tell how a detected language stands to a declared one."""
    if languages.same_language(declared, detected):
        return SAME
    return CONFUSABLE if languages.confusable(declared, detected) else OTHER
