"""``aya_dataset``: prompts and answers that fluent speakers wrote or corrected, in 65 languages.

Repository ``CohereLabs/aya_dataset``, config ``default`` (columns ``inputs, targets, language,
language_code, annotation_type, user_id``; the card counts 202,362 training and 1,750 test rows, an
earlier one two more) and config ``demographics`` (1,456 annotators, joined by ``user_id``).
Apache-2.0. Earlier revisions hold JSON Lines instead of Parquet.

Records have no id: a record is identified by its content. The test split is the human part of
``aya_evaluation_suite``, so only the training split is read unless ``splits`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from aya_data.builders.records.reader import Record, format_of, read_records
from aya_data.builders.upstream import (
    Choice,
    File,
    UpstreamBuilder,
    UpstreamSettings,
    content_digest,
    label,
    localize_file,
    part_facts,
    shard_split,
    turns,
)
from aya_data.core.identity import canonical, digest, record_digest, row_key
from aya_data.core.row import Draft, Rejection
from aya_data.core.stage import Unit

__all__ = ["AyaDatasetBuilder", "AyaDatasetSettings", "script_of"]

ORIGIN = {"original-annotations": "human", "re-annotations": "human_edited"}
DEMOGRAPHICS = ("age_range", "gender", "country", "languages", "dialects")


class AyaDatasetSettings(UpstreamSettings):
    """Settings of ``aya_dataset``."""

    demographics: Literal["drop", "join"] = Field(
        "drop",
        description="join puts what annotators said of themselves (age range, gender, country, "
        "languages, dialects) under extra.demographics; drop leaves it out.",
    )
    user_id: Literal["drop", "keep"] = Field(
        "drop", description="keep puts the annotator's id under extra.user_id. It is personal data."
    )


class AyaDatasetBuilder(UpstreamBuilder):
    """Reads ``aya_dataset``."""

    Settings = AyaDatasetSettings
    name: ClassVar[str] = "aya_dataset"
    repository: ClassVar[str] = "CohereLabs/aya_dataset"

    _people: Mapping[str, Mapping[str, Any]] | None = None

    def choose(self, path: str) -> Choice | None:
        """Take ``data/train-….parquet`` or, of old revisions, ``data/aya-dataset-train.jsonl``."""
        folder, _, file = path.rpartition("/")
        if folder not in ("data", "default"):
            return None
        split = shard_split(file.removeprefix("aya-dataset-"))
        return None if split is None else Choice("default", split)

    def pins(self) -> dict[str, str]:
        """Return the revision, and the digest of the demographics when they are joined."""
        pins = super().pins()
        if self.settings.demographics == "join":
            found = self._demographics()
            pins["demographics"] = digest(*(content_digest(file) for file in found))
        return pins

    def units(self) -> list[Unit]:
        """List the files; with ``join``, each unit names the files of config ``demographics``."""
        units = super().units()
        if self.settings.demographics == "drop":
            return units
        files = {f"demographics:{i}": f.location for i, f in enumerate(self._demographics())}
        return [replace(unit, labels={**unit.labels, **files}) for unit in units]

    def draft(self, record: Record, unit: Unit) -> Draft | Rejection:
        """Turn one record into a conversation of two turns."""
        fields = record.fields
        key = row_key(self.name, record_digest(fields))
        facts = part_facts(self.name, "default")
        kind = label(fields.get("annotation_type"))
        code, name = label(fields.get("language_code")), label(fields.get("language"))
        extra: dict[str, Any] = {"annotation_type": kind, "language_name": name}
        user = label(fields.get("user_id"))
        if self.settings.user_id == "keep":
            extra["user_id"] = user
        if self.settings.demographics == "join" and user is not None:
            extra["demographics"] = self._person(user, unit)
        return Draft(
            key=key,
            messages=turns(fields.get("inputs"), fields.get("targets")),
            place=(unit.name, record.index),
            language=_language_of(code, name),
            script=script_of(name),
            license=facts.license.expression,
            terms=facts.terms,
            dataset=self.name,
            origin=ORIGIN.get(kind or "", "human_edited"),
            revision=unit.revision,
            config=unit.config,
            split=unit.split,
            extra=extra,
        )

    def _demographics(self) -> list[File]:
        return [
            file
            for origin in self.origins().values()
            for file in origin.files
            if file.path.startswith("demographics/") and format_of(file.path) is not None
        ]

    def _person(self, user: str, unit: Unit) -> Mapping[str, Any] | None:
        if self._people is None:
            people: dict[str, Mapping[str, Any]] = {}
            for name in sorted(n for n in unit.labels if n.startswith("demographics:")):
                location = unit.labels[name]
                path = localize_file(location, self.environment.cache)
                format_ = format_of(location)
                assert format_ is not None, location
                for records in read_records(str(path), format_):
                    for record in records:
                        if not isinstance(record, Record):
                            continue
                        found = label(record.fields.get("user_id"))
                        said = {n: record.fields.get(n) for n in DEMOGRAPHICS}
                        # An annotator may stand there twice; which comes first must not matter.
                        if found and (found not in people or canonical(said) < canonical(people[found])):
                            people[found] = said
            self._people = people
        return self._people.get(user)


def _language_of(code: str | None, name: str | None) -> str | None:
    """Choose the label to resolve: the code, unless it names a group and the name says more.

    ``zho`` is used for Simplified and for Traditional Chinese (:func:`script_of` tells them apart),
    and ``kur`` may stand for Central Kurdish, which ISO 639-3 calls ``ckb``.
    """
    if code is None or (code == "kur" and name is not None):
        return name
    return code


def script_of(name: str | None) -> str | None:
    """Return the script that a language's name gives away: the only sign for Chinese here."""
    words = (name or "").lower().split()
    if "simplified" in words:
        return "Hans"
    if "traditional" in words:
        return "Hant"
    return None
