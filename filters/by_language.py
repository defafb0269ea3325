"""Settings that hold for one language: a mapping from a language or variety to a value.

A key is any spelling of a language. One that names its script (``uzn_Cyrl``) holds for that variety alone and wins
over one that does not (``uzn``, ``Uzbek``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import AfterValidator

from aya_data.core import language as languages
from aya_data.core.errors import NotFound
from aya_data.core.settings import wrong

__all__ = ["LanguageKey", "value_for"]

Value = TypeVar("Value")


def _language_key(text: str) -> str:
    try:
        variety = languages.parse(text)
    except NotFound as error:
        raise wrong(f"names no language: {text[:80]!r}", error.remedy) from None
    return variety.code if _names_script(text) else variety.language


def _names_script(text: str) -> bool:
    """A spelling that names a script resolves alike whatever another column says of the script."""
    return languages.resolve(text, script="Latn").variety == languages.resolve(text, script="Cyrl").variety


LanguageKey = Annotated[str, AfterValidator(_language_key)]
"""A language or variety as the key of a mapping; becomes ``uzn`` or ``uzn_Cyrl``."""


def value_for(mapping: Mapping[str, Value], language: str, script: str) -> Value | None:
    """Return what ``mapping`` says of a variety, else of its language, else None."""
    found = mapping.get(f"{language}_{script}")
    return mapping.get(language) if found is None else found
