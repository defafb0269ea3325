"""What a settings model is made of: the base class, and the types that need more than Python's.

Every builder and filter owns a ``Settings`` model; it derives from the one here, which is frozen,
strict and refuses unknown keys. Each field has a description: it is the reference page, the
schema for editors and the remedy in an error about a missing key.

    class FilesBuilder:
        class Settings(settings.Settings):
            path: str = Field(description="A file, or a pattern of files.")
            against: tuple[BenchmarkName, ...] = Field(default=(), description="…")
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, PydanticKnownError

from aya_data.core.errors import InputError, NotFound
from aya_data.core.redaction import address

__all__ = [
    "BenchmarkName",
    "LanguageFrom",
    "LicenseFrom",
    "Location",
    "Number",
    "PathPattern",
    "Settings",
    "Size",
    "Slug",
    "SlugKey",
    "SourceName",
    "SourceReference",
    "TermsFrom",
    "TypeName",
    "also",
    "check_keys",
    "check_slug",
    "describe",
    "exact_number",
    "wrong",
]

WRONG: Final = "aya_data_wrong"
KEY: Final = "[key]"
"""The last step of a place that is a key of a mapping and not its value, as pydantic writes it."""


def wrong(what: str, remedy: str = "", beside: str | None = None) -> PydanticCustomError:
    """Return the error for a validator to raise.

    ``what`` goes on from the name of the field ("must be a size such as 256MB, found 'x'");
    ``remedy`` is a sentence of its own. ``beside`` is another key of the same mapping, whose place
    is said too.
    """
    context = {"what": what, "remedy": remedy}
    return PydanticCustomError(WRONG, "{what}", context if beside is None else {**context, "beside": beside})


def check_keys(keys: Iterable[str], meaning: Callable[[str], str]) -> None:
    """Raise all that is wrong with the keys of the mapping that a validator checks, each at its place.

    That is what ``meaning`` raises about a key (see ``wrong``), and a second key of one meaning.
    """
    first: dict[str, str] = {}
    found: list[InitErrorDetails] = []
    for key in keys:
        try:
            meant = meaning(key)
            if meant in first:
                raise wrong(f"means {meant}, as {first[meant]!r} does", "Keep one of the two.", first[meant])
            first[meant] = key
        except PydanticCustomError as error:
            found.append(InitErrorDetails(type=error, loc=(key, KEY), input=key))
    if found:
        raise ValidationError.from_exception_data("keys", found)


def _loosen_containers(schema: Any) -> None:
    """Let a list fill a tuple, set or frozenset, and a text an enum: strictness is for scalars."""
    if isinstance(schema, dict):
        if schema.get("type") in ("tuple", "set", "frozenset", "enum"):
            schema["strict"] = False
        for key, value in schema.items():
            if key not in ("default", "expected", "metadata", "serialization"):
                _loosen_containers(value)
    elif isinstance(schema, (list, tuple)):
        for value in schema:
            _loosen_containers(value)


def also(*schemas: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Return ``json_schema_extra`` for a model that a short form may stand for, such as a text."""

    def extend(schema: dict[str, Any]) -> None:
        full = dict(schema)
        schema.clear()
        schema["anyOf"] = [*schemas, full]

    return extend


def describe(value: object) -> str:
    """Return ``value`` in words: "the text 'yes'", "the number 5", "a list"."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return "not a number (.nan)" if math.isnan(value) else "infinity"
    if isinstance(value, (int, float, Decimal)):
        text = str(getattr(value, "text", value))
        return f"the number {text}" if len(text) <= 40 else f"a number of {len(text)} digits"
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 40 else f"the text {value[:40] + '…'!r}"
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    return "something else"


class Settings(BaseModel):
    """A frozen, strict mapping of a spec. Unknown keys, and text for a number, are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _loosen_containers(schema)
        return schema


@dataclass(frozen=True, slots=True)
class TypeName:
    """Marks a type with the ``words`` that the documentation uses for it."""

    words: str


# Numbers and sizes --------------------------------------------------------------------------------


def exact_number(value: object) -> Decimal:
    """Return ``value`` as it was written, exactly: ``0.1`` is a tenth.

    Raises the known errors ``decimal_type`` and ``finite_number``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise PydanticKnownError("decimal_type")
    written = getattr(value, "text", repr(value)) if isinstance(value, float) else value
    number = Decimal(written)
    if not number.is_finite() or abs(number.adjusted()) > 100:
        raise PydanticKnownError("finite_number")
    return number


def _plain_decimal(value: Decimal) -> str:
    return format(value.normalize(), "f")


Number = Annotated[
    Decimal,
    BeforeValidator(exact_number),
    PlainSerializer(_plain_decimal, return_type=str, when_used="json"),
    WithJsonSchema({"type": "number"}),
    TypeName("number"),
]
"""A number kept exactly as written; serialised as the shortest decimal text (``10.0`` is ``10``)."""

_UNITS: Final = {
    "B": 1,
    **{f"{u}B": 1000 ** (i + 1) for i, u in enumerate("KMGT")},
    **{f"{u}IB": 1024 ** (i + 1) for i, u in enumerate("KMGT")},
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)")


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        number: Decimal | None = Decimal(value)
    elif isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        unit = _UNITS.get(match[2].upper())
        number = Decimal(match[1]) * unit if unit else None
    else:
        number = None
    if number is None:
        raise wrong(
            f"must be a size such as 256MB, found {describe(value)}",
            "Units: B, KB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (powers of 1024).",
        )
    if not 1 <= number < 2**63:
        raise wrong("must be a size of at least 1B and less than 8 EiB", "Write, say, 256MB.")
    return int(number)


Size = Annotated[
    int,
    BeforeValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?\s*([KMGTkmgt][Ii]?)?[Bb]$"},
            ]
        }
    ),
    TypeName("size"),
]
"""A number of bytes, written as ``256MB`` or as an integer."""


# Places -------------------------------------------------------------------------------------------

Location = Annotated[str, PlainSerializer(address, return_type=str, when_used="json")]
"""A path or URL of a file; serialised, as in locks, without a password or the query of a web address."""


# Names --------------------------------------------------------------------------------------------

_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def check_slug(value: str) -> str:
    if not _SLUG.fullmatch(value):
        near = re.sub(r"[^a-z0-9_-]+", "_", value.lower()).strip("_-")[:64]
        raise wrong(
            f"must consist of at most 64 letters a-z, digits, '_' and '-', found {value[:80]!r}",
            f"Write {near!r}, for example." if near else "It becomes the name of a folder.",
        )
    return value


Slug = Annotated[
    str,
    AfterValidator(check_slug),
    WithJsonSchema({"type": "string", "pattern": f"^{_SLUG.pattern}$"}),
    TypeName("name"),
]
"""A name that is safe as a folder, a Hub config and an SQL value."""

SlugKey = Annotated[str, AfterValidator(check_slug)]
"""The same as the key of a mapping: in a JSON Schema, a pattern of keys would leave the values of others unchecked."""


@dataclass(frozen=True, slots=True)
class SourceReference:
    """Marks a text that names a source of the same spec. The frame checks that it exists.

    ``use``: the source must be declared with this use; None takes any.
    """

    use: Literal["train", "prompts", "benchmark"] | None = None


SourceName = Annotated[str, SourceReference()]
"""The name of another source of the spec."""

BenchmarkName = Annotated[str, SourceReference("benchmark")]
"""The name of a source declared with ``use: benchmark``."""


# What a source is told about its rows -------------------------------------------------------------


def _path_pattern(value: str) -> str:
    try:
        groups = re.compile(value).groups
    except re.error as error:
        raise wrong(f"is not a regular expression: {error}", "Mend it, or escape it.") from None
    if groups != 1:
        raise wrong(
            f"must have one group, which holds the value; it has {groups}",
            r"For example: '/([a-z]{3})\.jsonl$'",
        )
    return value


PathPattern = Annotated[str, AfterValidator(_path_pattern), TypeName("regular expression")]
"""A regular expression, searched in a file's path; its one group is the value."""


def _one_of(model: Settings, *names: str) -> None:
    given = [name for name in names if getattr(model, name) is not None]
    if len(given) != 1:
        keys = ", ".join(names[:-1]) + " or " + names[-1]
        found = " and ".join(given) if given else "none"
        raise wrong(f"needs exactly one of {keys}, found {found}", "Keep one of them.")


def _needs_reason(model: LicenseFrom | TermsFrom) -> None:
    if model.assume is not None and not (model.reason or "").strip():
        raise wrong(
            "assumes something about the rows and gives no reason",
            "Add 'reason: …', which is printed in ATTRIBUTION: where does it say so?",
        )
    if model.assume is None and model.reason is not None:
        raise wrong("gives a reason and assumes nothing", "Add 'assume: …', or remove the reason.")


# The tables of languages, licences and terms are imported where a value is checked against them:
# the modules around them take their settings from here.


def _language(value: str) -> str:
    from aya_data.core.language import parse

    try:
        parse(value)
    except InputError as error:
        raise wrong(f"names no language: {error.what}", error.remedy) from None
    return value


def _license(value: str) -> str:
    from aya_data.core.license import parse

    try:
        parse(value)
    except InputError as error:
        raise wrong(f"names no licence: {error.what}", error.remedy) from None
    return value


def _terms(value: str) -> str:
    from aya_data.core.terms import terms_table

    if value not in terms_table():
        error = NotFound("set of terms", value, terms_table())
        raise wrong(f"names no terms: {error.what}", error.remedy)
    return value


class LanguageFrom(Settings):
    """Where a row's language label comes from. A text alone is the constant."""

    model_config = ConfigDict(json_schema_extra=also({"type": "string"}))

    column: str | None = Field(default=None, min_length=1, description="The column with the label.")
    constant: Annotated[str, AfterValidator(_language)] | None = Field(
        default=None, description="One label for every row, such as tur_Latn."
    )
    path: PathPattern | None = Field(
        default=None, description="A regular expression with one group, searched in the file's path."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"constant": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> LanguageFrom:
        _one_of(self, "column", "constant", "path")
        return self


class LicenseFrom(Settings):
    """Where a row's licence comes from.

    ``assume`` is an assertion: it holds only where the column is absent, never for a null or an
    unknown value in it, and needs a reason.
    """

    column: str | None = Field(default=None, min_length=1, description="The column with the licence.")
    path: PathPattern | None = Field(
        default=None, description="A regular expression with one group, searched in the file's path."
    )
    assume: Annotated[str, AfterValidator(_license)] | None = Field(
        default=None, description="The SPDX expression to assume where no column says it."
    )
    reason: str | None = Field(default=None, description="Why that may be assumed; goes to ATTRIBUTION.")

    @model_validator(mode="before")
    @classmethod
    def _not_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise wrong(
                f"is given as {value[:60]!r}, without saying where that is known from",
                f"Write {{assume: {value}, reason: …}}, or {{column: …}} where the rows say it.",
            )
        return value

    @model_validator(mode="after")
    def _check(self) -> LicenseFrom:
        if self.column is None and self.path is None and self.assume is None:
            raise wrong("needs column, path or assume, found none", "Write {column: license}.")
        if self.column is not None and self.path is not None:
            raise wrong("has both column and path", "Keep one of them.")
        _needs_reason(self)
        return self


class TermsFrom(Settings):
    """Which terms of use travel with the rows, beside their licence."""

    column: str | None = Field(default=None, min_length=1, description="The column with the terms.")
    assume: tuple[Annotated[str, AfterValidator(_terms)], ...] | None = Field(
        default=None, description="Names of terms of use that hold for every row."
    )
    reason: str | None = Field(default=None, description="Where it says so; goes to ATTRIBUTION.")

    @model_validator(mode="after")
    def _check(self) -> TermsFrom:
        _one_of(self, "column", "assume")
        _needs_reason(self)
        return self
