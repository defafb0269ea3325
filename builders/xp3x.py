"""``xp3x``: 680 million prompts made of 56 datasets by templates, in 277 languages.

Repository ``CohereLabs/xP3x``. Its loading script is not run; the raw files are read as they lie:
``data/<lang_Script>/<file>.jsonl``, one folder per FLORES-style code, and ``paths.json``, an index
from the code to the files that belong to it (files that it does not list are outdated). A file's name
holds dataset, config, split and template, with ``?`` and ``,`` in it, and, for translation, both
codes. Rows have ``inputs, targets, language, dataset, config``, some also ``split`` and ``template``.

The whole is tagged Apache-2.0, but of the 467 parts that the Data Provenance Initiative looked at, 180
are not free for commercial use: the part's licence counts, and a part that nobody looked at is unknown.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

from pydantic import Field, field_validator

from aya_data.builders.records.reader import Record
from aya_data.builders.upstream import (
    Choice,
    Origin,
    UpstreamBuilder,
    UpstreamSettings,
    label,
    localize_file,
    part_facts,
    text_or_none,
    turns,
)
from aya_data.core import language as languages
from aya_data.core.errors import InputError, NotFound
from aya_data.core.identity import record_digest, row_key
from aya_data.core.row import Draft, Rejection
from aya_data.core.settings import wrong
from aya_data.core.stage import Unit

__all__ = ["FileName", "XP3xBuilder", "XP3xSettings", "parse_name"]

INDEX = "paths.json"
PAIR = re.compile(r"(?<![A-Za-z])([a-z]{3}_[A-Z][a-z]{3})[_-]([a-z]{3}_[A-Z][a-z]{3})(?![A-Za-z])")
SPLIT = re.compile(r"_(train|validation|valid|devtest|dev|test)(?=_|$)")


class XP3xSettings(UpstreamSettings):
    """Settings of ``xp3x``."""

    languages: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Folders to read: codes such as zho_Hans, or any label of the language. "
        "Default: the languages of the spec.",
    )
    datasets: tuple[str, ...] | None = Field(
        None, min_length=1, description="Parts to read, as the rows name them. Default: all."
    )

    @field_validator("languages")
    @classmethod
    def _known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            try:
                languages.parse(name)
            except NotFound as error:
                raise wrong(f"names the language {name!r}, which is unknown", error.remedy) from None
        return names


@dataclass(frozen=True, slots=True)
class FileName:
    """What a file's name says. ``part`` is dataset and config, which underscores do not tell apart."""

    part: str | None
    split: str | None
    template: str | None
    source: str | None
    target: str | None


@functools.lru_cache(maxsize=4096)
def parse_name(path: str) -> FileName:
    """Read the name of a file: ``xp3_<dataset>_<config>_<split>_<template>.jsonl``.

    Translation files name both codes, ``<src>_<script>_<tgt>_<script>``; ``_inverted_`` says that the
    second is the source.
    """
    stem = re.sub(r"\.jsonl(\.\w+)?$", "", PurePosixPath(path).name)
    stem = stem.removeprefix("xp3x_").removeprefix("xp3_")
    pair = PAIR.search(stem)
    source, target = (pair[1], pair[2]) if pair else (None, None)
    if pair and "_inverted" in stem:
        source, target = target, source
    splits = list(SPLIT.finditer(stem))
    if not splits:
        return FileName(stem or None, None, None, source, target)
    found = splits[-1]  # a dataset's own name may hold such a word
    part, template = stem[: found.start()], stem[found.end() :].strip("_")
    return FileName(part or None, found[1], template or None, source, target)


class XP3xBuilder(UpstreamBuilder):
    """Reads ``xp3x``."""

    Settings = XP3xSettings
    name: ClassVar[str] = "xp3x"
    repository: ClassVar[str] = "CohereLabs/xP3x"
    training_only: ClassVar[bool] = False

    _listed: frozenset[str] | None = None

    def choose(self, path: str) -> Choice | None:
        """Take ``data/<lang_Script>/<file>.jsonl`` of the wanted languages, if the index lists it."""
        parts = PurePosixPath(path).parts
        if len(parts) != 3 or parts[0] != "data" or not self._wants(parts[1]):
            return None
        listed = self._index()
        if listed is not None and path not in listed:
            return None
        name = parse_name(path)
        return Choice(parts[1], name.split, {"language": parts[1]})

    def dataset(self, unit: Unit) -> str:
        """Name the nested dataset of records that cannot be parsed: what the file's name says."""
        return f"{self.name}/{parse_name(unit.name).part or 'unknown'}"

    def parts(self) -> Sequence[tuple[str, str]]:
        """Name the chosen parts; when all are read, the rows alone know which they are."""
        return [(self.name, part) for part in self.settings.datasets or ()]

    def draft(self, record: Record, unit: Unit) -> Draft | Rejection:
        """Turn one record into a conversation of two turns."""
        fields, name = record.fields, parse_name(unit.name)
        part, config = text_or_none(fields.get("dataset")), text_or_none(fields.get("config"))
        named = part or name.part or "unknown"
        dataset = "/".join([self.name, named, *([config] if config else [])])
        folder = unit.labels.get("language") or unit.config or ""
        key = row_key(dataset, record_digest({**fields, "language": fields.get("language") or folder}))
        place = (unit.name, record.index)
        if self.settings.datasets is not None and named not in self.settings.datasets:
            return Rejection(key, place, "dataset_not_chosen", named, outcome="not_sampled")
        facts = part_facts(self.name, f"{named}/{config}" if config else named)
        # The initiative names CLUE's parts by their config and all others by their dataset.
        dpi = config if named.lower() == "clue" and config else named
        extra: dict[str, Any] = {"dpi_id": f"{folder}/{dpi}"}
        if name.source and name.target:
            extra["translation"] = {"source": name.source, "target": name.target}
        return Draft(
            key=key,
            messages=turns(fields.get("inputs"), fields.get("targets")),
            place=place,
            language=label(fields.get("language")) or folder,
            license=facts.license.expression,
            terms=facts.terms,
            dataset=dataset,
            origin="templated",
            task="translation" if name.source else None,
            revision=unit.revision,
            config=config or unit.config,
            split=text_or_none(fields.get("split")) or unit.split,
            template=text_or_none(fields.get("template")) or name.template,
            adapted=True,
            extra=extra,
        )

    def _wants(self, folder: str) -> bool:
        asked, spoken = self.settings.languages, self.environment.languages
        if asked is None and spoken is None:
            return True
        found = languages.resolve(folder)
        if asked is None:
            return found.ok and found.variety in (spoken or ())
        if folder in asked:
            return True
        return found.ok and any(languages.resolve(name).variety == found.variety for name in asked)

    def _index(self) -> frozenset[str] | None:
        """Return the files that ``paths.json`` (22 MB) lists, ``None`` where it is missing."""
        if self._listed is None:
            listed: set[str] = set()
            for origin in self.origins().values():
                listed |= self._read_index(origin)
            self._listed = frozenset(listed)
        return self._listed or None

    def _read_index(self, origin: Origin) -> set[str]:
        file = next((file for file in origin.files if file.path == INDEX), None)
        if file is None:
            return set()
        path, where = localize_file(file.location, self.environment.cache), f"{origin.id}/{INDEX}"
        try:
            index = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise InputError(f"the index is not JSON: {error}", where=where) from None
        if not isinstance(index, Mapping):
            raise InputError("the index must map codes to lists of files", where=where)
        return {
            name.removeprefix("./")
            for names in index.values()
            if isinstance(names, list)
            for name in names
            if isinstance(name, str)
        }

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_listed"}
