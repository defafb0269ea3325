"""What a spec says of a source whose columns it maps: which column holds what."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from aya_data.core.errors import InputError
from aya_data.core.row import ORIGINS
from aya_data.core.settings import (
    LanguageFrom,
    LicenseFrom,
    PathPattern,
    Settings,
    TermsFrom,
    also,
    wrong,
)

__all__ = ["Columns", "LabelFrom", "MappingSettings", "OriginFrom", "ValueFrom", "compiled"]


class ValueFrom(Settings):
    """Where a value comes from. A text alone is a column, or a path such as ``outputs[0].text``."""

    model_config = ConfigDict(json_schema_extra=also({"type": "string"}))

    column: str | None = Field(
        None, description="A column, or a path into one: a.b, a[0], a[*].b. A column of that very "
        "name comes first."
    )  # fmt: skip
    template: str | None = Field(
        None, description="A Jinja template over the columns; row['odd name'] reaches any of them."
    )
    constant: str | None = Field(None, description="The same text for every row.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> ValueFrom:
        given = [n for n in ("column", "template", "constant") if getattr(self, n) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise wrong(f"needs exactly one of column, template or constant, found {found}")
        if self.template is not None:
            compiled(self.template)
        return self


class LabelFrom(Settings):
    """Where a label of a row comes from. A text alone is the constant."""

    model_config = ConfigDict(json_schema_extra=also({"type": "string"}))

    column: str | None = Field(None, description="The column, or the path, with the label.")
    constant: str | None = Field(None, description="One label for every row.")
    path: PathPattern | None = Field(
        None, description="A regular expression with one group, searched in the file's path."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"constant": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> LabelFrom:
        given = [n for n in ("column", "constant", "path") if getattr(self, n) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise wrong(f"needs exactly one of column, constant or path, found {found}")
        return self


Origin = Literal["human", "human_edited", "templated", "translated", "generated"]


class OriginFrom(Settings):
    """How the texts came to be. A text alone holds for every row."""

    model_config = ConfigDict(json_schema_extra=also({"type": "string", "enum": list(ORIGINS)}))

    constant: Origin | None = Field(None, description="The origin of every row.")
    column: str | None = Field(None, description="The column that tells it.")
    map: dict[str, Origin] = Field({}, description="What the values of the column stand for.")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"constant": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> OriginFrom:
        if (self.constant is None) == (self.column is None):
            raise wrong("needs exactly one of constant or column", f"Known: {', '.join(ORIGINS)}.")
        return self


class Columns(Settings):
    """Which column holds what. Each is a column, a path, a template or a constant."""

    prompt: ValueFrom | None = Field(None, description="What the user asks.")
    context: ValueFrom | None = Field(
        None, description="A text that the prompt is about; follows it after a blank line."
    )
    answer: ValueFrom | None = Field(None, description="What the assistant answers.")
    answers: ValueFrom | None = Field(
        None, description="A list of answers, or a list written as text: one row for each."
    )
    system: ValueFrom | None = Field(None, description="The system message.")
    history: ValueFrom | None = Field(None, description="Earlier turns: a list of [question, answer] pairs.")
    messages: ValueFrom | None = Field(
        None, description="A list of {role, content} or {from, value}: the whole conversation."
    )
    conversation: ValueFrom | None = Field(None, description="A list of texts: user and assistant in turn.")
    chosen: ValueFrom | None = Field(None, description="The better answer, or conversation.")
    rejected: ValueFrom | None = Field(None, description="The worse answer, or conversation.")
    chosen_score: ValueFrom | None = Field(None, description="The score of the chosen answer.")
    rejected_score: ValueFrom | None = Field(None, description="The score of the rejected answer.")
    chosen_model: ValueFrom | None = Field(None, description="Who wrote the chosen answer.")
    rejected_model: ValueFrom | None = Field(None, description="Who wrote the rejected answer.")
    id: ValueFrom | None = Field(None, description="What identifies a record upstream.")
    group: ValueFrom | None = Field(
        None,
        description="What a record and its translations share: rows with the same value stay on one side of a split. "
        "Default: the id.",
    )
    task: ValueFrom | None = Field(None, description="The source's own task type.")
    tools: ValueFrom | None = Field(None, description="Definitions of tools, as JSON or text.")
    template: ValueFrom | None = Field(None, description="The template that a prompt was made by.")
    teacher: ValueFrom | None = Field(None, description="The model that wrote the answer.")
    translator: ValueFrom | None = Field(None, description="What translated the text.")

    @model_validator(mode="after")
    def _check(self) -> Columns:
        if (self.chosen is None) != (self.rejected is None):
            absent = "chosen" if self.chosen is None else "rejected"
            raise wrong(f"has no {absent}", "Preference rows need both chosen and rejected.")
        asks = [n for n in ("prompt", "messages", "conversation") if getattr(self, n) is not None]
        if len(asks) > 1:
            raise wrong(f"has both {asks[0]} and {asks[1]}", "Keep one of them.")
        if not asks and self.chosen is None:
            raise wrong(
                "says nowhere what the user asks",
                "Map prompt, messages, conversation, or chosen and rejected.",
            )
        ends = [n for n in ("answer", "answers", "chosen") if getattr(self, n) is not None]
        if len(ends) > 1:
            raise wrong(f"has both {ends[0]} and {ends[1]}", "Keep one of them.")
        if ends and ends != ["chosen"] and asks != ["prompt"]:
            raise wrong(f"has both {asks[0]} and {ends[0]}", "Keep one of them.")
        if self.context is not None and self.prompt is None:
            raise wrong("has a context and no prompt", "Map prompt too.")
        return self


class MappingSettings(Settings):
    """What a spec says of a source whose columns it maps."""

    columns: Columns = Field(description="Which column holds what.")
    kind: Literal["conversation", "prompt"] | None = Field(
        None, description="prompt: rows that end with the user's turn. Default: what columns say."
    )
    language: LanguageFrom = Field(description="Where a row's language stands.")
    script: LabelFrom | None = Field(
        None, description="Where a row's script stands (ISO 15924), if not in the language."
    )
    license: LicenseFrom | None = Field(
        None, description="Where a row's licence stands. Without it, the licence is unknown."
    )
    terms: TermsFrom | tuple[str, ...] = Field(
        (), description="Terms of use that travel with the rows, beside their licence."
    )
    dataset: LabelFrom | None = Field(
        None, description="The nested data set that a row is of. Default: the source's name."
    )
    origin: OriginFrom = Field(OriginFrom.model_validate("human"), description="How the texts came to be.")
    split: LabelFrom | None = Field(None, description="The split that a row is of, upstream.")
    config: LabelFrom | None = Field(None, description="The config that a row is of, upstream.")
    chosen_format: Literal["auto", "text", "messages", "hh"] = Field(
        "auto", description="What chosen and rejected are: an answer, a list of messages, or one "
        "text with the marks 'Human:' and 'Assistant:'."
    )  # fmt: skip
    extra: Literal["keep", "drop"] | tuple[str, ...] = Field(
        "keep", description="What becomes of the other columns: kept, dropped, or those to keep."
    )
    where: str | None = Field(
        None, description="An expression over the columns; a row of which it is not true is dropped."
    )
    max_chars: int = Field(1_000_000, ge=1, description="A row with a longer text is dropped.", examples=[100_000])

    @model_validator(mode="after")
    def _check_kind(self) -> MappingSettings:
        columns = self.columns
        ends = columns.answer or columns.answers or columns.chosen
        if self.kind == "prompt" and ends:
            raise wrong("has kind prompt and maps an answer", "Remove one of them.")
        if columns.prompt is not None and not ends and self.kind != "prompt":
            raise wrong("maps no answer", "Map answer, or say 'kind: prompt'.")
        return self

    @field_validator("where")
    @classmethod
    def _check_where(cls, where: str | None) -> str | None:
        if where is not None:
            compiled("{% if " + where + " %}{% endif %}")
        return where


def compiled(source: str) -> frozenset[str]:
    """Compile a template and return its variables; its error becomes one of the settings."""
    from aya_data.text.template import template

    try:
        return template(source).variables
    except InputError as error:
        line = error.where.partition(", ")[2]
        raise wrong(f"{error.what}{f' ({line})' if line else ''}", error.remedy) from None
