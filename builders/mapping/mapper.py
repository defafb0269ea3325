"""From the columns of a source to rows: what a spec says of them, and how a record is read by it.

A :class:`MappingSettings` says where prompt, answer, language, licence and the rest stand;
a :class:`Mapper` turns records into drafts. Both serve every source whose columns a spec maps
(``files``, ``hub``); nothing here reads a file. Mapping costs about 3 microseconds per flat record.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aya_data.builders.mapping.columns import FLAT, by_column
from aya_data.builders.mapping.conversation import (
    Unreadable,
    alternating,
    label_text,
    listed,
    marked_dialogue,
    one_turn,
    pairs,
    text_of,
    turns_of,
)
from aya_data.builders.mapping.paths import MissingColumn, Path
from aya_data.builders.mapping.settings import Columns, LabelFrom, MappingSettings, OriginFrom, ValueFrom, compiled
from aya_data.builders.records.reader import Broken, Record
from aya_data.core.errors import WrongSetting, did_you_mean
from aya_data.core.identity import canonical, derived_key, digest, record_digest, row_key
from aya_data.core.row import ORIGINS, Draft, Kind, Rejection
from aya_data.core.stage import Batch

__all__ = ["Columns", "LabelFrom", "Mapper", "MappingSettings", "OriginFrom", "ValueFrom"]

Turns = list[tuple[str, Any]]
Reader = Callable[[dict[str, Any]], Any]


REQUIRED = ("prompt", "answer", "answers", "messages", "conversation", "chosen", "rejected")


class Mapper:
    """Turns the records of one source into drafts, as its :class:`MappingSettings` say."""

    def __init__(self, source: str, settings: MappingSettings, seed: int = 0) -> None:
        self.source, self.settings, self._seed = source, settings, seed
        columns = settings.columns
        self._read = {
            name: self._reader(value)
            for name in type(columns).model_fields
            if (value := getattr(columns, name)) is not None
        }
        self._notes = [n for n in ("task", "template", "teacher", "translator", "tools") if n in self._read]
        self._labels = {
            name: Path(label.column)
            for name in (
                "language",
                "script",
                "license",
                "dataset",
                "origin",
                "split",
                "config",
                "terms",
            )
            if (label := getattr(settings, name)) and not isinstance(label, tuple) and label.column is not None
        }
        order = ("language", "script", "license", "terms", "origin", "split", "config")
        self._varying = [name for name in order if name in self._labels]
        mapped = [v.column for n in self._read if (v := getattr(columns, n)).column is not None]
        mapped += [path.text for path in self._labels.values()]
        self._mapped = frozenset(name for path in mapped for name in (path, Path(path).root))
        noted = [v.column for n in self._notes if (v := getattr(columns, n)).column is not None]
        self.label_paths = [*self._labels.values(), *map(Path, noted)]
        """Where labels stand that differ from record to record."""
        self.flat = (
            FLAT >= set(self._read) >= {"prompt"}
            and ("answer" in self._read) == (self.kind == "conversation")
            and all(getattr(columns, name).template is None for name in self._read)
            and "terms" not in self._labels
            and settings.where is None
        )
        """Whether records may be mapped by column."""

    @property
    def kind(self) -> Kind:
        """The kind of row that the settings describe."""
        if self.settings.columns.chosen is not None:
            return "preference"
        return self.settings.kind or "conversation"

    def file_labels(self, path: str) -> dict[str, str]:
        """Return what ``path`` says of all rows of a file: language, license, split …"""
        found: dict[str, str] = {}
        for name in ("language", "script", "license", "dataset", "split", "config"):
            label = getattr(self.settings, name)
            if label is not None and label.path is not None:
                match = re.search(label.path, path)
                if match and match[1] is not None:
                    found[name] = match[1]
        return found

    def check(self, known: Sequence[str], certain: bool, place: str) -> None:
        """Raise :class:`WrongSetting` if mapped columns are not among ``known``, all columns there are.

        ``certain`` is false where other records may have more columns (JSON); only columns that every
        row needs are asked for then: without them all rows would be dropped.
        """
        faults = [
            (
                (*path, "column"),
                f"{'.'.join(path)} names the column {column!r}, which is not in {place}",
                did_you_mean(column, known),
            )
            for path, column in self.missing(known, certain)
        ]
        if faults:
            raise WrongSetting(faults)

    def missing(self, known: Sequence[str], certain: bool = True) -> list[tuple[tuple[str, ...], str]]:
        """Return (setting, column) for the columns that :meth:`check` would not find."""
        return [
            (path, column)
            for path, column, needed in self._names()
            if (certain or needed) and column not in known and Path(column).root not in known
        ]

    def _names(self) -> Iterator[tuple[tuple[str, ...], str, bool]]:
        """Yield (setting, column, whether a row without it is lost) for every column that the settings name."""
        settings = self.settings
        for name in self._read:
            value: ValueFrom = getattr(settings.columns, name)
            if value.column is not None:
                yield ("columns", name), value.column, name in REQUIRED
            elif value.template is not None:
                for variable in sorted(compiled(value.template) - {"row"}):
                    yield ("columns", name), variable, True
        for name, path in self._labels.items():
            if name != "license" or settings.license is None or settings.license.assume is None:
                yield (name,), path.text, name in ("language", "origin")
        if settings.where is not None:
            for variable in sorted(compiled("{% if " + settings.where + " %}{% endif %}") - {"row"}):
                yield ("where",), variable, True

    def batch(
        self,
        chunk: Sequence[Record | Broken],
        file: str,
        labels: Mapping[str, str],
        *,
        revision: str | None = None,
        config: str | None = None,
        split: str | None = None,
    ) -> Batch:
        """Map some records of one file, which the ledger calls ``file``.

        ``labels`` are its :meth:`file_labels`; ``config`` and ``split`` hold where the settings
        say nothing of them.
        """
        defaults = {"config": config, "split": split} | dict(labels)
        common = self._common(defaults) | {"revision": revision}
        columns, others = by_column(self, chunk, file, common)
        batch = self._one_by_one(others, file, common)
        return batch if columns is None else Batch(len(chunk), replace(columns, others=batch.drafts), batch.rejections)

    def _one_by_one(self, chunk: Sequence[Record | Broken], file: str, common: Mapping[str, Any]) -> Batch:
        drafts: list[Draft] = []
        batch = Batch(len(chunk), drafts)
        for item in chunk:
            place = (file, item.index)
            if isinstance(item, Broken):
                key = row_key(self.source, "broken:" + item.digest)
                batch.rejections.append(Rejection(key, place, item.rule, evidence=item.evidence))
                continue
            key = ""
            try:
                dataset = common.get("dataset") or self.dataset(item.fields)
                key = self._key(item.fields, dataset)
                draft = self._draft(item.fields, key, place, dataset, common)
                if "answers" in self._read:
                    self._fan_out(item.fields, draft, drafts, batch.rejections)
                else:
                    drafts.append(draft)
            except Unreadable as problem:
                key = key or row_key(self.source, record_digest(item.fields))
                batch.rejections.append(
                    Rejection(key, place, problem.rule, problem.value, problem.threshold, problem.evidence)
                )
        return batch

    # -- one record

    def _reader(self, value: ValueFrom) -> Reader:
        if value.template is not None:
            return self._rendered(value.template)
        if value.constant is not None:
            constant = value.constant
            return lambda fields: constant
        return Path(value.column or "").read

    def _rendered(self, source: str) -> Reader:
        seed, limit = self._seed, max(1_000_000, self.settings.max_chars)

        def read(fields: dict[str, Any]) -> str:
            from aya_data.text.template import TemplateFailure, template

            compiled = template(source)
            # Only a template that draws needs to know which row it is at.
            key = record_digest(fields) if "choice" in source else ""
            try:
                return compiled.render({**fields, "row": fields}, key, seed, limit)
            except TemplateFailure as failure:
                raise Unreadable(failure.rule, evidence=failure.evidence) from failure

        return read

    def _get(self, name: str, fields: dict[str, Any]) -> Any:
        """Return a value that every row needs."""
        try:
            return self._read[name](fields)
        except MissingColumn as missing:
            raise Unreadable("missing_column", missing.column[:80], evidence=f"columns.{name}") from missing

    def _find(self, name: str, fields: dict[str, Any]) -> Any:
        """Return a value that a row may lack."""
        read = self._read.get(name)
        if read is None:
            return None
        try:
            return read(fields)
        except MissingColumn:
            return None

    def _common(self, defaults: Mapping[str, str | None]) -> dict[str, Any]:
        """Return the labels that no record of a file changes, by their names in a draft."""
        found: dict[str, Any] = {}
        for name in ("language", "script", "dataset", "split", "config"):
            setting = getattr(self.settings, name)
            if name not in self._labels and (name != "script" or setting is not None):
                constant = None if setting is None else setting.constant
                found[name] = defaults.get(name) if constant is None else constant
        if "dataset" in found:
            found["dataset"] = found["dataset"] or self.source
        if "license" not in self._labels:
            found["license"], found["license_asserted"] = self._license({}, defaults)
        if "terms" not in self._labels:
            found["terms"] = self._terms({})
        if "origin" not in self._labels:
            found["origin"] = self._origin({})
        return found

    def _label(self, name: str, fields: dict[str, Any]) -> str | None:
        try:
            return label_text(self._labels[name].read(fields))
        except MissingColumn:
            return None

    def dataset(self, fields: dict[str, Any]) -> str:
        """Return the data set that a record is of."""
        return self._label("dataset", fields) or self.source

    def _key(self, fields: dict[str, Any], dataset: str) -> str:
        name = label_text(self._find("id", fields))
        # The empty id identifies nothing: 1,000 rows that have it are 1,000 records.
        return row_key(dataset, name if name else record_digest(fields))

    def _draft(
        self,
        fields: dict[str, Any],
        key: str,
        place: tuple[str, int],
        dataset: str,
        common: Mapping[str, Any],
    ) -> Draft:
        settings = self.settings
        if settings.where is not None:
            self._require(settings.where, fields)
        turns = self._context(fields)
        draft = Draft(key, turns, place, **common)
        if "chosen" in self._read:
            self._pair(fields, turns, draft)
        elif "answer" in self._read:
            turns.append(("assistant", text_of(self._get("answer", fields))))
        self.label(draft, fields, dataset)
        if "group" in self._read and (group := label_text(self._find("group", fields))):
            draft.group = row_key(dataset, f"group:{group}")
        draft.extra = self.extra(fields)
        return draft

    def label(self, draft: Draft, fields: dict[str, Any], dataset: str) -> None:
        """Give a draft the labels that its record says."""
        draft.dataset = dataset
        for name in self._varying:
            if name == "license":
                draft.license, draft.license_asserted = self._license(fields, {})
            elif name == "terms":
                draft.terms = self._terms(fields)
            elif name == "origin":
                draft.origin = self._origin(fields)
            else:
                setattr(draft, name, self._label(name, fields))
        for name in self._notes:
            setattr(draft, name, label_text(self._find(name, fields)) or None)

    def _require(self, where: str, fields: dict[str, Any]) -> None:
        from aya_data.text.template import TemplateFailure, condition

        try:
            if condition(where)({**fields, "row": fields}):
                return
        except TemplateFailure as failure:
            evidence = failure.evidence or f"{failure.rule.partition(':')[2]} is missing"
            raise Unreadable("where_error", threshold=where[:200], evidence=evidence) from failure
        raise Unreadable("where", threshold=where[:200])

    def _context(self, fields: dict[str, Any]) -> Turns:
        """Return the turns that stand before the answer, or the whole conversation."""
        read = self._read
        if "messages" in read:
            turns = turns_of(self._get("messages", fields))
        elif "conversation" in read:
            turns = alternating(self._get("conversation", fields))
        elif "prompt" in read:
            prompt = text_of(self._get("prompt", fields))
            context = text_of(self._find("context", fields)) if "context" in read else None
            if isinstance(context, str) and isinstance(prompt, str) and context and not context.isspace():
                prompt = f"{prompt}\n\n{context}" if prompt and not prompt.isspace() else context
            turns = [("user", prompt)]
        else:
            turns = []
        if "history" in read:
            turns[:0] = pairs(self._find("history", fields))
        system = text_of(self._find("system", fields)) if "system" in read else None
        blank = system is None or (isinstance(system, str) and not system.strip())
        if not blank and not (turns and turns[0][0] == "system"):
            turns.insert(0, ("system", system))
        return turns

    def _pair(self, fields: dict[str, Any], turns: Turns, draft: Draft) -> None:
        draft.chosen = self._full(self._get("chosen", fields), turns)
        draft.rejected = self._full(self._get("rejected", fields), turns)
        draft.messages = draft.chosen[:-1]
        draft.chosen_score = _score(self._find("chosen_score", fields))
        draft.rejected_score = _score(self._find("rejected_score", fields))
        draft.chosen_model = label_text(self._find("chosen_model", fields))
        draft.rejected_model = label_text(self._find("rejected_model", fields))

    def _full(self, value: Any, context: Turns) -> Turns:
        """Return the conversation that one side of a pair is."""
        form = self.settings.chosen_format
        if form == "hh" or (form == "auto" and not context and isinstance(value, str)):
            return marked_dialogue(value)
        if form == "messages" or (form == "auto" and isinstance(value, list | tuple | dict)):
            if isinstance(value, dict):
                return [*context, one_turn(value)]
            turns = turns_of(value)
            return [*context, *turns] if turns and turns[0][0] == "assistant" else turns
        return [*context, ("assistant", text_of(value))]

    def _license(self, fields: dict[str, Any], defaults: Mapping[str, str | None]) -> tuple[str | None, str | None]:
        """Return the licence, and the reason where it is assumed because nothing states one."""
        setting = self.settings.license
        if setting is None:
            return None, None
        path = self._labels.get("license")
        if path is not None:
            try:
                return label_text(path.read(fields)), None
            except MissingColumn:
                pass
        elif (stated := defaults.get("license")) is not None:
            return stated, None
        return setting.assume, setting.reason if setting.assume is not None else None

    def _terms(self, fields: dict[str, Any]) -> Sequence[str]:
        terms = self.settings.terms
        if isinstance(terms, tuple):
            return terms
        if terms.assume is not None:
            return terms.assume
        try:
            value = self._labels["terms"].read(fields)
        except MissingColumn:
            return ()
        values = value if isinstance(value, list | tuple) else [value]
        return [text for item in values if (text := label_text(item))]

    def _origin(self, fields: dict[str, Any]) -> str:
        origin = self.settings.origin
        if origin.constant is not None:
            return origin.constant
        try:
            value = label_text(self._labels["origin"].read(fields)) or ""
        except MissingColumn as missing:
            raise Unreadable("missing_column", missing.column[:80], evidence="origin") from missing
        found = origin.map.get(value, value)
        if found not in ORIGINS:
            raise Unreadable("unknown_origin", ascii(value)[1:-1][:80], ", ".join(ORIGINS))
        return found

    def extra(self, fields: dict[str, Any]) -> dict[str, Any] | None:
        """Return what is kept of a record beside what is mapped."""
        if self.settings.extra == "drop":
            return None
        return {name: fields[name] for name in self.kept(fields)}

    def kept(self, names: Collection[str]) -> list[str]:
        """Return which of the columns of a record are kept beside what is mapped."""
        extra = self.settings.extra
        if isinstance(extra, tuple):
            return [name for name in extra if name in names]
        return [] if extra == "drop" else [name for name in names if name not in self._mapped]

    def _fan_out(self, fields: dict[str, Any], base: Draft, drafts: list[Draft], rejections: list[Rejection]) -> None:
        """Make one draft of each answer; the record itself is consumed."""
        answers = [text_of(answer) for answer in listed(self._get("answers", fields))]
        if not answers:
            raise Unreadable("no_answers")
        seen: Counter[str] = Counter()
        for answer in answers:
            # The answer, not its position: a list in another order makes the same rows.
            name = digest(answer) if isinstance(answer, str) else digest(canonical(answer))
            variant = f"{name}:{seen[name]}"
            seen[name] += 1
            drafts.append(
                replace(
                    base,
                    key=derived_key([base.key], "answers", variant),
                    messages=[*base.messages, ("assistant", answer)],
                    group=base.group or base.key,
                    parents=[base.key],
                )
            )
        rejections.append(Rejection(base.key, base.place, "answers", str(len(answers)), outcome="consumed"))


def _score(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Unreadable("not_a_number", ascii(value)[:80], evidence="score") from None
    return number if abs(number) < 1e30 else None
