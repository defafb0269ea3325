"""``aya_evaluation_suite``: open-ended prompts with reference answers, for judging models.

Repository ``CohereLabs/aya_evaluation_suite``, split ``test`` of three configs:
``aya_human_annotated`` (7 languages, 250 rows each; the test split of ``aya_dataset``),
``dolly_human_edited`` (6 languages, 200 each) and ``dolly_machine_translated`` (23,800 rows, whose
translations the card warns about). Columns ``id, inputs, targets, language, script``; later
revisions of the two made from Dolly add ``source_id``, the record's number there.

Rows of the last two share a group with all translations of their Dolly record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from aya_data.builders.dolly import source_group
from aya_data.builders.records.reader import Record
from aya_data.builders.upstream import (
    Choice,
    UpstreamBuilder,
    UpstreamSettings,
    label,
    number_text,
    part_facts,
    shard_split,
    text_or_none,
    turns,
)
from aya_data.core.identity import canonical, record_digest, row_key
from aya_data.core.row import Draft, Rejection
from aya_data.core.stage import Unit

__all__ = ["AyaEvaluationSuiteBuilder", "AyaEvaluationSuiteSettings"]

Config = Literal["aya_human_annotated", "dolly_human_edited", "dolly_machine_translated"]

ORIGIN: dict[str | None, str] = {
    "aya_human_annotated": "human",
    "dolly_human_edited": "human_edited",
    "dolly_machine_translated": "translated",
}


class AyaEvaluationSuiteSettings(UpstreamSettings):
    """Settings of ``aya_evaluation_suite``."""

    configs: tuple[Config, ...] = Field(
        ("aya_human_annotated", "dolly_human_edited", "dolly_machine_translated"),
        min_length=1,
        description="Parts to read. Default: all three.",
    )


class AyaEvaluationSuiteBuilder(UpstreamBuilder):
    """Reads ``aya_evaluation_suite``."""

    Settings = AyaEvaluationSuiteSettings
    name: ClassVar[str] = "aya_evaluation_suite"
    repository: ClassVar[str] = "CohereLabs/aya_evaluation_suite"
    default_use: ClassVar[Literal["train", "prompts", "benchmark"]] = "benchmark"

    def choose(self, path: str) -> Choice | None:
        """Take ``<config>/test-NNNNN-of-NNNNN.parquet`` of the chosen configs."""
        folder, _, file = path.rpartition("/")
        folder = folder.removeprefix("data/")
        split = shard_split(file)
        return Choice(folder, split) if split and folder in self.settings.configs else None

    def dataset(self, unit: Unit) -> str:
        """Name the nested dataset: the config."""
        return f"{self.name}/{unit.config}"

    def parts(self) -> Sequence[tuple[str, str]]:
        """Name the chosen configs."""
        return [(self.name, config) for config in self.settings.configs]

    def draft(self, record: Record, unit: Unit) -> Draft | Rejection:
        """Turn one record into a conversation of two turns."""
        fields = record.fields
        dataset = self.dataset(unit)
        upstream, source = number_text(fields.get("id")), number_text(fields.get("source_id"))
        code, script = label(fields.get("language")), text_or_none(fields.get("script"))
        if upstream is None:
            key = row_key(dataset, record_digest(fields))
        else:
            key = row_key(dataset, canonical([upstream, code, script]).decode("utf-8", "surrogatepass"))
        facts = part_facts(self.name, unit.config or "")
        origin = ORIGIN[unit.config]
        extra: dict[str, Any] = {"id": fields.get("id"), "source_id": fields.get("source_id")}
        return Draft(
            key=key,
            group=source_group(source) if source is not None else None,
            messages=turns(fields.get("inputs"), fields.get("targets")),
            place=(unit.name, record.index),
            language=code,
            script=script,
            license=facts.license.expression,
            terms=facts.terms,
            dataset=dataset,
            origin=origin,
            revision=unit.revision,
            config=unit.config,
            split=unit.split,
            translator=(facts.translator or None) if origin != "human" else None,
            adapted=origin != "human",
            extra=extra,
        )
