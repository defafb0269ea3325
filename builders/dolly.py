"""``dolly``: 15,011 instructions and answers that employees of Databricks wrote, in English.

Repository ``databricks/databricks-dolly-15k``, one JSON Lines file with ``instruction, context,
response, category``. CC-BY-SA-3.0. Contexts and some answers were taken from Wikipedia and kept its
citation marks such as ``[4]``.

Records have no id and are identified by their content. ``source_id`` of ``aya_evaluation_suite``
counts the records of this file, so with ``row_numbers`` a row carries its number and shares the
group of its translations there; the number then is part of what the row says, and permuting the
file changes it. Without, the number stands in the provenance alone.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field

from aya_data.builders.records.reader import Record
from aya_data.builders.upstream import (
    Choice,
    UpstreamBuilder,
    UpstreamSettings,
    label,
    part_facts,
    turns,
)
from aya_data.core.identity import record_digest, row_key
from aya_data.core.row import Draft, Rejection
from aya_data.core.stage import Unit

__all__ = ["DollyBuilder", "DollySettings", "source_group", "without_citations"]

CITATION = re.compile(r"[ \t]?\[\d{1,3}(?:\s*[,-]\s*\d{1,3})*\]")
FENCED = re.compile(r"(```.*?```)", re.DOTALL)

Placement = Literal["after", "before", "context_newline_instruction", "drop"]


class DollySettings(UpstreamSettings):
    """Settings of ``dolly``."""

    context: Placement = Field(
        "after",
        description="Where the context goes: after the instruction or before it (a blank line "
        "between them), context_newline_instruction as the Data Provenance Initiative has it, or "
        "drop, which rejects records that need one.",
    )
    citations: Literal["strip", "keep"] = Field(
        "strip", description="Whether marks such as [4] are taken out of context and answer."
    )
    row_numbers: bool = Field(
        False,
        description="Whether a row carries its record number (extra.upstream_row) and shares a "
        "group with its translations in aya_evaluation_suite.",
    )


class DollyBuilder(UpstreamBuilder):
    """Reads ``dolly``."""

    Settings = DollySettings
    name: ClassVar[str] = "dolly"
    repository: ClassVar[str] = "databricks/databricks-dolly-15k"
    sliced: ClassVar[bool] = False

    def choose(self, path: str) -> Choice | None:
        """Take ``databricks-dolly-15k.jsonl``, or the Parquet that a mirror made of it."""
        name = path.removeprefix("data/")
        if "/" in name or not name.startswith(("databricks-dolly-15k", "train")):
            return None
        return Choice(None, "train")

    def draft(self, record: Record, unit: Unit) -> Draft | Rejection:
        """Turn one record into a conversation of two turns."""
        fields = record.fields
        key = row_key(self.name, record_digest(fields))
        place = (unit.name, record.index)
        instruction, context, response = (fields.get(name) for name in ("instruction", "context", "response"))
        for column, value in (("instruction", instruction), ("context", context)):
            if value is not None and not isinstance(value, str):
                return Rejection(key, place, "not_text", type(value).__name__, "string", column)
        if self.settings.citations == "strip" and isinstance(response, str):
            response = without_citations(response)
        prompt = instruction
        has_context = isinstance(context, str) and not _blank(context)
        if isinstance(context, str) and has_context:
            if self.settings.context == "drop":
                return Rejection(key, place, "needs_context", evidence=context[:80])
            if self.settings.citations == "strip":
                context = without_citations(context)
            if isinstance(instruction, str) and not _blank(instruction):
                prompt = _prompt(instruction, context, self.settings.context)
        facts = part_facts(self.name, "default")
        numbered = self.settings.row_numbers
        return Draft(
            key=key,
            group=source_group(record.index) if numbered else None,
            messages=turns(prompt, response),
            place=place,
            language="eng",
            license=facts.license.expression,
            terms=facts.terms,
            dataset=self.name,
            origin="human",
            task=label(fields.get("category")),
            revision=unit.revision,
            split=unit.split,
            extra={"upstream_row": record.index if numbered else None, "has_context": has_context},
        )


def without_citations(text: str) -> str:
    """Take citation marks such as ``[4]`` or ``[1, 2]`` out, with one space before them.

    Code between fences is left alone. Elsewhere ``word[1]`` is taken for a citation, which it
    nearly always is in this dataset, although it could be an index.
    """
    pieces = FENCED.split(text)
    # The pattern has one group, so that fenced pieces stand at odd places.
    return "".join(p if i % 2 else CITATION.sub("", p) for i, p in enumerate(pieces))


def source_group(number: Any) -> str:
    """Return the group of a record and its translations, by its number in the file."""
    return row_key("dolly", f"row:{number}")


def _blank(text: str) -> bool:
    return not text or text.isspace()


def _prompt(instruction: str, context: str, placement: Placement) -> str:
    if placement == "after":
        return f"{instruction}\n\n{context}"
    if placement == "before":
        return f"{context}\n\n{instruction}"
    return f"{context}\n{instruction}"
