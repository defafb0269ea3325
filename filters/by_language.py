"""Settings that hold for one language: a mapping from a language or variety to a value.

A key is any spelling of a language. One that names its script (``uzn_Cyrl``) holds for that variety alone and wins
over one that does not (``uzn``, ``Uzbek``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator

from aya_data.core import language as languages
from aya_data.core.errors import NotFound
from aya_data.core.settings import check_keys, wrong

__all__ = ["ByLanguage", "value_for"]

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


def _check(value: Any) -> Any:
    if isinstance(value, Mapping):
        check_keys([key for key in value if isinstance(key, str)], _language_key)
    return value


ByLanguage = Annotated[dict[Annotated[str, AfterValidator(_language_key)], Value], BeforeValidator(_check)]
"""Values by language or variety: a key becomes ``uzn`` or ``uzn_Cyrl``, and no two may mean the same."""


def value_for(mapping: Mapping[str, Value], language: str, script: str) -> Value | None:
    """Return what ``mapping`` says of a variety, else of its language, else None."""
    found = mapping.get(f"{language}_{script}")
    return mapping.get(language) if found is None else found
