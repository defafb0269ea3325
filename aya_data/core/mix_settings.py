"""The parts of a spec that shape its release: mixture, release and tokenizer.

What these settings mean is computed in the engine; here stands what may be written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
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
    "Cap",
    "Epochs",
    "LanguageMix",
    "Level",
    "LevelAxis",
    "MixSettings",
    "ReleaseSettings",
    "Scope",
    "SourceWeight",
    "TokenizerSettings",
]

MAX_COUNT = 10**15

Axis = Literal["source", "dataset", "language", "script", "variety", "task", "license", "origin"]
"""A column that caps and floors group by; ``variety`` is language and script."""

LevelAxis = Literal["origin", "task", "license", "language", "variety", "script"]
"""A column that the mixture may be shared out by before its sources."""

NO_TASK = "none"
"""What a level calls the rows whose source names no task."""

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


UniMax = Annotated[Number, Field(ge=1, le=1000)]


def _rest(named: Mapping[str, Decimal | None]) -> None:
    """Check that at most one value takes the rest, and that there is one."""
    rest = [name for name, weight in named.items() if weight is None]
    if len(rest) > 1:
        raise wrong(f"gives the rest to {' and to '.join(rest)}", "Give it to one; write numbers else.")
    total = sum(weight for weight in named.values() if weight is not None)
    if rest and total >= 100:
        raise wrong(
            f"adds up to {format(Decimal(total).normalize(), 'f')} and leaves nothing of 100 for {rest[0]!r}",
            "With 'rest', weights are percent: lower them, or replace 'rest' by a number.",
        )


class Level(Settings):
    """One level of sharing out, around the sources: by the values of a column."""

    by: LevelAxis = Field(description="The column whose values share.", examples=["origin"])
    weights: dict[str, Weight] | None = Field(
        default=None,
        min_length=1,
        description="Percent by value; 'rest' takes what the others leave of 100. Values not named share what is left, "
        "by their size. Rows without a task are 'none'.",
        examples=[{"human": 25, "templated": 25, "translated": "rest"}],
    )
    temperature: float | None = Field(
        default=None,
        ge=0.1,
        le=1000,
        description="A value of n rows gets a share of n to the power 1/temperature.",
        examples=[2.0],
    )
    unimax: UniMax | None = Field(
        default=None,
        description="Every value gets the same share, and no row stands more often than this; what has too little "
        "leaves the rest to the others.",
        examples=[4],
    )

    @field_validator("weights")
    @classmethod
    def _percent(cls, weights: dict[str, Decimal | None] | None) -> dict[str, Decimal | None] | None:
        if weights is not None:
            _rest(weights)
            total = sum(weight for weight in weights.values() if weight is not None)
            if total > 100:
                raise wrong(
                    f"adds up to {format(Decimal(total).normalize(), 'f')}, more than 100",
                    "These are percent: lower them.",
                )
        return weights

    @model_validator(mode="after")
    def _one(self) -> Level:
        _one_way(self)
        return self


def _one_way(model: Level | LanguageMix) -> None:
    given = [name for name in ("weights", "temperature", "unimax") if getattr(model, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) if given else "none"
        raise wrong(f"needs exactly one of weights, temperature or unimax, found {found}", "Write {temperature: 2.0}.")


class LanguageMix(Settings):
    """How a source's share is divided over its languages."""

    temperature: float | None = Field(
        default=None,
        ge=0.1,
        le=1000,
        description="A language of n rows gets a share of n to the power 1/temperature: 1 keeps "
        "the natural shares, more evens them out.",
        examples=[2.0],
    )
    unimax: UniMax | None = Field(
        default=None,
        description="Every language gets the same share, and no row stands more often than this; a language that has "
        "too little leaves the rest to the others.",
        examples=[4],
    )
    weights: dict[str, PositiveNumber] | None = Field(
        default=None,
        min_length=1,
        description="Relative shares by language or variety; languages not named get none.",
        examples=[{"tur": 2, "arb_Arab": 1}],
    )

    @model_validator(mode="after")
    def _one(self) -> LanguageMix:
        _one_way(self)
        return self


Scope = dict[Axis, Annotated[tuple[str, ...], AfterValidator(lambda values: tuple(sorted(set(values))))]]
"""Values by column: rows that have one of them in each column."""


class Bound(Settings):
    """A floor: a number of rows or tokens for each group of rows."""

    per: tuple[Axis, ...] = Field(
        min_length=1,
        description="The columns whose values make a group.",
        examples=[["source", "language"]],
    )
    rows: Count | None = Field(default=None, description="Rows in each group.", examples=[3000])
    tokens: Count | None = Field(
        default=None, description="Tokens in each group. Needs a tokenizer.", examples=[1_000_000]
    )
    only: Scope = Field(
        default={},
        description="The rows that it is for, by column; of a dataset, the last part of its name is enough.",
        examples=[{"source": ["collection"]}],
    )
    not_for: Scope = Field(
        default={}, description="The rows that it is not for, by column.", examples=[{"dataset": ["translated_dolly"]}]
    )

    @field_validator("per")
    @classmethod
    def _unique(cls, per: tuple[Axis, ...]) -> tuple[Axis, ...]:
        for axis in per:
            if per.count(axis) > 1:
                raise wrong(f"names {axis!r} twice", "Keep one of them.")
        return per

    @model_validator(mode="after")
    def _any(self) -> Self:
        limits = [name for name in ("rows", "tokens", "distinct") if name in type(self).model_fields]
        if all(getattr(self, name) is None for name in limits):
            listed = f"{', '.join(limits[:-1])} or {limits[-1]}"
            raise wrong(f"needs {listed}, found none", "Write rows: 3000, for example.")
        return self


class Cap(Bound):
    """A cap: at most so many rows or tokens of each group of rows."""

    distinct: Count | None = Field(
        default=None,
        description="Different rows in each group: so many, by draw, are drawn from at all; repeats do not count.",
        examples=[3000],
    )


class Epochs(Settings):
    """How often one row may stand in the mixture."""

    max: Number = Field(
        default=Decimal(1),
        ge=1,
        le=1000,
        validate_default=False,
        description="The most epochs of any source; 1 repeats no row. With unimax, that says it.",
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
    levels: tuple[Level, ...] = Field(
        default=(),
        description="What the mixture is shared out by before its sources, the outermost level first.",
        examples=[[{"by": "origin", "weights": {"human": 25, "translated": "rest"}}]],
    )
    unit: Literal["rows", "tokens"] = Field(
        default="rows",
        description="What shares are shares of. Tokens need a tokenizer.",
        examples=["tokens"],
    )
    caps: tuple[Cap, ...] = Field(
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
    def _shares(cls, weights: dict[str, SourceWeight] | None) -> dict[str, SourceWeight] | None:
        if weights is None:
            return None
        _rest({name: weight.weight for name, weight in weights.items()})
        return weights

    @field_validator("levels")
    @classmethod
    def _each_once(cls, levels: tuple[Level, ...]) -> tuple[Level, ...]:
        axes = [level.by for level in levels]
        for axis in axes:
            if axes.count(axis) > 1:
                raise wrong(f"has two levels by {axis}", "Keep one of them.")
        return levels

    def unimax(self) -> Iterator[tuple[tuple[str | int, ...], Decimal]]:
        """Yield each ``unimax`` with the path of its setting."""
        if self.languages is not None and self.languages.unimax is not None:
            yield ("languages", "unimax"), self.languages.unimax
        for index, level in enumerate(self.levels):
            if level.unimax is not None:
                yield ("levels", index, "unimax"), level.unimax

    def most_epochs(self, source: str) -> Decimal:
        """Return how often a row of ``source`` may stand: what is said of it, of all, or by unimax."""
        most = min((limit for _, limit in self.unimax()), default=self.epochs.max)
        return self.epochs.sources.get(source, most)

    def counting_tokens(self) -> Iterator[tuple[str | int, ...]]:
        """Yield the paths of the settings that need token counts."""
        if self.budget is not None and self.budget.tokens is not None:
            yield ("budget", "tokens")
        if self.unit == "tokens":
            yield ("unit",)
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
    """The tokenizer that counts tokens, with its chat template where it has one: chat_template.jinja, or in
    tokenizer_config.json."""

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
