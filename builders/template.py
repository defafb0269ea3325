"""The source ``template``: new rows from the rows of another source, by templates.

One row makes one row for each template. The parent is consumed here; its own source still has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field, field_validator, model_validator

from aya_data.core.errors import InputError, did_you_mean
from aya_data.core.identity import derived_key
from aya_data.core.language import name, resolve
from aya_data.core.row import Draft, Rejection
from aya_data.core.settings import Settings, SourceName, wrong
from aya_data.core.stage import Batch, Builder, Unit

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TemplateBuilder", "TemplateSettings"]

BATCH = 1024


SEEN: Final = frozenset(
    {
        "prompt", "answer", "messages", "chosen", "rejected", "language", "language_code", "script", "task", "dataset",
        "extra", "row", "answer_choices",
    }
)  # fmt: skip
"""The variables that a template may name; columns of the source stand in ``extra``."""


class OneTemplate(Settings):
    """A template: prompt and answer, or both in one text, separated by ``|||``."""

    name: str = Field(min_length=1, max_length=200, description="The template's name; part of a row's identity.")
    prompt: str | None = Field(None, description="The user's turn, in Jinja.")
    answer: str | None = Field(None, description="The assistant's turn, in Jinja.")
    jinja: str | None = Field(
        None,
        description="Prompt and answer in one text with ||| between them, as promptsource has it.",
    )
    answer_choices: str | None = Field(
        None, description="With jinja: possible answers with ||| between them, as answer_choices."
    )
    language: str | None = Field(None, description="The language of the made text, where it is not the parent's.")
    task: str | None = Field(None, description="The task type of the made rows.")

    @model_validator(mode="after")
    def _check(self) -> OneTemplate:
        if (self.jinja is None) == (self.prompt is None and self.answer is None):
            raise wrong("needs either prompt and answer, or jinja", "Write both turns.")
        if self.jinja is None and (self.prompt is None or self.answer is None):
            absent = "prompt" if self.prompt is None else "answer"
            raise wrong(f"has no {absent}", "Write both turns.")
        from aya_data.text.template import SEPARATOR, template

        for source in self.sources:
            try:
                unknown = sorted(template(source).variables - SEEN)
            except InputError as error:
                line = error.where.partition(", ")[2]
                raise wrong(f"{error.what}{f' ({line})' if line else ''}", error.remedy) from None
            if unknown:
                raise wrong(f"names {unknown[0]!r}, which no template sees", did_you_mean(unknown[0], SEEN))
        if self.jinja is not None and SEPARATOR not in self.jinja:
            raise wrong("has no ||| between prompt and answer", "Write 'prompt ||| answer'.")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """The templates' texts, in order."""
        listed = (self.prompt, self.answer, self.jinja, self.answer_choices)
        return tuple(source for source in listed if source is not None)


class TemplateSettings(Settings):
    """Settings of the source ``template``."""

    parent: SourceName = Field(alias="from", description="The source whose rows the templates are applied to.")
    templates: tuple[OneTemplate, ...] = Field(
        min_length=1, description="The templates; each makes one row of every parent."
    )
    rows: int | None = Field(None, ge=1, description="How many of the parent source's rows to draw. Default: all.")
    origin: Literal["human", "human_edited", "templated", "translated", "generated"] = Field(
        "templated", description="How the made texts came to be."
    )
    max_chars: int = Field(1_000_000, ge=1, description="A row with a longer text is dropped.")

    @field_validator("templates")
    @classmethod
    def _distinct(cls, value: tuple[OneTemplate, ...]) -> tuple[OneTemplate, ...]:
        names = [one.name for one in value]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise wrong(f"has two templates named {twice!r}", "Rename one: rows are told apart by it.")
        return value


class TemplateBuilder(Builder):
    """Applies templates to the filtered rows of another source."""

    Settings: ClassVar[type[TemplateSettings]] = TemplateSettings
    libraries: ClassVar[tuple[str, ...]] = ("jinja2",)
    settings: TemplateSettings

    @property
    def parents(self) -> tuple[str, ...]:
        """The one source that the rows come from."""
        return (self.settings.parent,)

    @property
    def rows(self) -> int | None:
        """How many parents to draw."""
        return self.settings.rows

    def units(self) -> list[Unit]:
        """A derived source has no input of its own."""
        return []

    def read(self, unit: Unit) -> Iterator[Batch]:
        """A derived source has nothing to read."""
        raise NotImplementedError("a template source is made from the rows of its parent")

    def derive(self, rows: pa.Table) -> Iterator[Batch]:
        """Apply every template to every row; one record is one parent row."""
        for piece in rows.to_batches(max_chunksize=BATCH):
            drafts: list[Draft] = []
            batch = Batch(piece.num_rows, drafts)
            for row in piece.to_pylist():
                self._apply(row, drafts, batch.rejections)
            yield batch

    def _apply(self, row: dict[str, Any], drafts: list[Draft], rejections: list[Rejection]) -> None:
        from aya_data.text.template import TemplateFailure

        variables = _variables(row)
        provenance = row["provenance"] or {}
        place = (provenance.get("file") or "", provenance.get("row") or 0)
        made = 0
        failures: list[str] = []
        for one in self.settings.templates:
            try:
                prompt, answer = self._turns(one, variables, row["row_key"])
            except TemplateFailure as failure:
                failures.append(f"{one.name}: {failure}")
                rule = failure.rule
                continue
            drafts.append(self._draft(one, row, prompt, answer, place))
            made += 1
        evidence = "; ".join(failures)[:500]
        rejections.append(
            Rejection(row["row_key"], place, "template", str(made), evidence=evidence, outcome="consumed")
            if made
            else Rejection(row["row_key"], place, rule, evidence=evidence)
        )

    def _turns(self, one: OneTemplate, variables: dict[str, Any], key: str) -> tuple[str, str]:
        from aya_data.text.template import TemplateFailure, template

        # Two templates draw apart, and a template draws the same whatever stands beside it.
        own = derived_key([key], "template draw", one.name)
        seed, limit = self.environment.seed, max(1_000_000, self.settings.max_chars)
        if one.answer_choices is not None:
            choices = template(one.answer_choices).parts(variables, own, seed, limit)
            variables = {**variables, "answer_choices": [choice.strip() for choice in choices]}
        if one.jinja is not None:
            parts = [part.strip() for part in template(one.jinja).parts(variables, own, seed, limit)]
            if len(parts) < 2:
                raise TemplateFailure("template_empty", "no prompt and answer for this row")
            if len(parts) > 2:
                raise TemplateFailure("template_error", f"{len(parts)} parts, a prompt and an answer wanted")
            return parts[0], parts[1]
        return (
            template(one.prompt or "").render(variables, own, seed, limit),
            template(one.answer or "").render(variables, own, seed, limit),
        )

    def _draft(
        self,
        one: OneTemplate,
        row: dict[str, Any],
        prompt: str,
        answer: str,
        place: tuple[str, int],
    ) -> Draft:
        provenance = row["provenance"] or {}
        language, script = one.language, None
        if language is None:
            language = row["source_language"] or row["language"]
            script = row["script"]
            # The label is kept as upstream wrote it only where it says what the parent was found to be.
            found = resolve(language, script=script).variety
            if (found.language, found.script) != (row["language"], row["script"]):
                language = row["language"]
        return Draft(
            key=derived_key([row["row_key"]], "template", one.name),
            messages=[("user", prompt), ("assistant", answer)],
            place=place,
            language=language,
            script=script,
            license=row["license"],
            terms=row["terms"] or (),
            group=row["group"],
            dataset=row["dataset"] or self.source,
            origin=self.settings.origin,
            task=one.task or row["task"],
            revision=provenance.get("revision"),
            config=provenance.get("config"),
            split=provenance.get("split"),
            template=one.name,
            translator=provenance.get("translator"),
            teacher=provenance.get("teacher"),
            parents=[row["row_key"]],
            adapted=True,
        )


def _variables(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a template sees of a row."""
    messages = row["messages"] or []
    extra = json.loads(row["extra"]) if row["extra"] else {}
    return {
        "prompt": _last(messages, "user"),
        "answer": _last(row["chosen"] or messages, "assistant"),
        "messages": messages,
        "chosen": row["chosen"],
        "rejected": row["rejected"],
        "language": name(row["language"]),
        "language_code": row["language"],
        "script": row["script"],
        "task": row["task"],
        "dataset": row["dataset"],
        "extra": extra,
        "row": {n: row[n] for n in ("id", "row_key", "language", "script", "source", "dataset", "task")},
    }


def _last(messages: list[dict[str, str]], role: str) -> str | None:
    return next((turn["content"] for turn in reversed(messages) if turn["role"] == role), None)
