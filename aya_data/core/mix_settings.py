"""The parts of a spec that shape its release: mixture, release and tokenizer.

What these settings mean is computed in the engine; here stands what may be written.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from aya_data.core.settings import (
    Number,
    Settings,
    Size,
    TypeName,
    also,
    describe,
    exact_number,
    wrong,
)

__all__ = [
    "Axis",
    "Bound",
    "Budget",
    "Epochs",
    "LanguageMix",
    "MixSettings",
    "ReleaseSettings",
    "SourceWeight",
    "TokenizerSettings",
]

MAX_COUNT = 10**15

Axis = Literal["source", "dataset", "language", "script", "variety", "task", "license", "origin"]
"""A column that caps and floors group by; ``variety`` is language and script."""

Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
PositiveNumber = Annotated[Number, Field(gt=0, le=10**9)]


class Budget(Settings):
    """How large the mixture is: either rows or tokens."""

    rows: Count | None = Field(default=None, description="At most so many rows.", examples=[50000])
    tokens: Count | None = Field(
        default=None,
        description="At most so many tokens; stops at the first row that does not fit. Needs a tokenizer.",
        examples=[20_000_000],
    )

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if (self.rows is None) == (self.tokens is None):
            found = "none" if self.rows is None else "both"
            raise wrong(f"needs either rows or tokens, found {found}", "Write {rows: 50000}.")
        return self


def _weight(value: object) -> Decimal | None:
    if value == "rest" or isinstance(value, Decimal):
        return None if value == "rest" else value  # type: ignore[return-value]
    if isinstance(value, str) or value is None:
        remedy = "Write 25, for example."
        if value is not None and value.rstrip("% ").replace(".", "", 1).isdigit():
            remedy = f"Write {value.rstrip('% ')}."
        raise wrong(f"must be a number or 'rest', found {describe(value)}", remedy)
    return exact_number(value)


Weight = Annotated[
    PositiveNumber | None,
    BeforeValidator(_weight),
    PlainSerializer(
        lambda w: "rest" if w is None else format(w.normalize(), "f"),
        return_type=str,
        when_used="json",
    ),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": "rest"}]}),
    TypeName("number or rest"),
]


class SourceWeight(Settings):
    """The share of one source. A number alone, or ``rest``, is its weight."""

    model_config = ConfigDict(json_schema_extra=also({"type": "number", "exclusiveMinimum": 0}, {"const": "rest"}))

    weight: Weight = Field(
        description="Its share, relative to the other weights; 'rest' takes what they leave of 100.",
        examples=[15],
    )
    datasets: dict[str, PositiveNumber] = Field(
        default={},
        description="Percent of the source for some of its datasets, by name (the last part of it is "
        "enough); the others share what is left by their size.",
        examples=[{"translated_dolly": 40, "templated_mintaka": 10}],
    )

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        if isinstance(value, (dict, SourceWeight)):
            return value
        if isinstance(value, (bool, list)):
            raise wrong(
                f"must be a number, 'rest' or a mapping, found {describe(value)}",
                "Write 25, for example.",
            )
        return {"weight": value}


class LanguageMix(Settings):
    """How a source's share is divided over its languages."""

    temperature: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description="A language of n rows gets a share of n to the power 1/temperature: 1 keeps "
        "the natural shares, more evens them out.",
        examples=[2.0],
    )
    weights: dict[str, PositiveNumber] | None = Field(
        default=None,
        min_length=1,
        description="Relative shares by language or variety; languages not named get none.",
        examples=[{"tur": 2, "arb_Arab": 1}],
    )

    @model_validator(mode="after")
    def _one(self) -> LanguageMix:
        if (self.temperature is None) == (self.weights is None):
            found = "none" if self.weights is None else "both"
            raise wrong(f"needs either temperature or weights, found {found}", "Write {temperature: 2.0}.")
        return self


class Bound(Settings):
    """A cap or a floor: a number of rows or tokens for each group of rows."""

    per: tuple[Axis, ...] = Field(
        min_length=1,
        description="The columns whose values make a group.",
        examples=[["source", "language"]],
    )
    rows: Count | None = Field(default=None, description="Rows in each group.", examples=[3000])
    tokens: Count | None = Field(
        default=None, description="Tokens in each group. Needs a tokenizer.", examples=[1_000_000]
    )

    @field_validator("per")
    @classmethod
    def _unique(cls, per: tuple[Axis, ...]) -> tuple[Axis, ...]:
        for axis in per:
            if per.count(axis) > 1:
                raise wrong(f"names {axis!r} twice", "Keep one of them.")
        return per

    @model_validator(mode="after")
    def _any(self) -> Bound:
        if self.rows is None and self.tokens is None:
            raise wrong("needs rows or tokens, found none", "Write rows: 3000, for example.")
        return self


class Epochs(Settings):
    """How often one row may stand in the mixture."""

    max: Number = Field(
        default=Decimal(1),
        ge=1,
        le=1000,
        validate_default=False,
        description="The most epochs of any source; 1 repeats no row.",
        examples=[2],
    )
    sources: dict[str, Annotated[Number, Field(ge=1, le=1000)]] = Field(
        default={}, description="The most epochs of the sources named.", examples=[{"aya": 4}]
    )


class MixSettings(Settings):
    """The mixture: which of the rows that passed the filters make the release."""

    budget: Budget | None = Field(
        default=None, description="How large it is; without a budget, all that the weights allow."
    )
    weights: dict[str, SourceWeight] | None = Field(
        default=None,
        min_length=1,
        description="The share of each training source; without weights each by its size.",
        examples=[{"aya": 10, "house": 15, "collection": "rest"}],
    )
    languages: LanguageMix | None = Field(default=None, description="How languages share; without it each by its size.")
    caps: tuple[Bound, ...] = Field(
        default=(),
        description="Upper limits, after the filters; what they free goes to the other groups.",
        examples=[[{"per": ["source", "dataset", "language"], "rows": 3000}]],
    )
    floors: tuple[Bound, ...] = Field(
        default=(),
        description="Lower limits: a group gets as much where it has as much.",
        examples=[[{"per": ["language"], "rows": 200}]],
    )
    epochs: Epochs = Field(default=Epochs(), description="How often a row may be repeated.")

    @field_validator("weights")
    @classmethod
    def _rest(cls, weights: dict[str, SourceWeight] | None) -> dict[str, SourceWeight] | None:
        if weights is None:
            return None
        rest = [name for name, weight in weights.items() if weight.weight is None]
        if len(rest) > 1:
            raise wrong(f"gives the rest to {' and to '.join(rest)}", "Give it to one; write numbers else.")
        total = sum(w.weight for w in weights.values() if w.weight is not None)
        if rest and total >= 100:
            raise wrong(
                f"adds up to {format(Decimal(total).normalize(), 'f')} and leaves nothing of 100 for {rest[0]!r}",
                "With 'rest', weights are percent: lower them, or replace 'rest' by a number.",
            )
        return weights

    def counting_tokens(self) -> Iterator[tuple[str | int, ...]]:
        """Yield the paths of the settings that need token counts."""
        if self.budget is not None and self.budget.tokens is not None:
            yield ("budget", "tokens")
        for name, bounds in (("caps", self.caps), ("floors", self.floors)):
            for index, bound in enumerate(bounds):
                if bound.tokens is not None:
                    yield (name, index, "tokens")


class ReleaseSettings(Settings):
    """What is written."""

    format: Literal["messages"] = Field(
        default="messages", description="The form of a row: a column 'messages' of role and content."
    )
    validation: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="The fraction of rows held out, cut so that no text leaks.",
        examples=[0.01],
    )
    shard_size: Size = Field(
        default=256_000_000,
        validate_default=False,
        description="About how large a Parquet shard gets.",
        examples=["256MB"],
    )


class TokenizerSettings(Settings):
    """The tokenizer that counts tokens, with its chat template where it has one."""

    kind: Literal["sentencepiece", "huggingface"] = Field(
        description="A SentencePiece model, or a tokenizer of the tokenizers library.",
        examples=["huggingface"],
    )
    path: str = Field(
        min_length=1,
        description="A file or folder, or a Hub repository.",
        examples=["CohereLabs/aya-expanse-8b"],
    )
    revision: str | None = Field(
        default=None, min_length=1, description="The commit of a Hub repository; pinned in the lock."
    )
