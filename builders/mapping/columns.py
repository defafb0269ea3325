"""Mapping by column: the records of a chunk become drafts together, where what they are mapped to allows it.

Prompts, contexts, answers and system messages that are columns of text, ids, groups and labels do. Templates, paths
into columns, conversations and pairs do not, nor does a single record whose prompt is missing: those are mapped one by
one (:mod:`aya_data.builders.mapping.mapper`), to the very drafts that would come of it here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from aya_data.builders.mapping.conversation import Unreadable, label_text, text_of
from aya_data.builders.mapping.paths import Path
from aya_data.builders.records.parquet_records import ColumnChunk
from aya_data.builders.records.raw import Broken, Record
from aya_data.core.draft_columns import SPOKEN, DraftColumns, digests, framed_texts
from aya_data.core.identity import canonical, framed, record_digest
from aya_data.core.row import Draft

if TYPE_CHECKING:
    from aya_data.builders.mapping.mapper import Mapper

__all__ = ["FLAT", "by_column"]

Chunk = Sequence[Record | Broken]
Mask = npt.NDArray[np.bool_]

SAID = ("prompt", "context", "answer", "system")
FLAT = {*SAID, "id", "group", "task", "template", "teacher", "translator"}
FEWEST = 16
"""Records from which on columns pay."""


class _Unusual(Exception):
    """Something that only a look at each record can tell."""


def by_column(mapper: Mapper, chunk: Chunk, file: str, common: Mapping[str, Any]) -> tuple[DraftColumns | None, Chunk]:
    """Map what can be mapped by column; return it, and the records that are left.

    ``common`` are the labels that all records have. A few microseconds per record.
    """
    if len(chunk) < FEWEST or not mapper.flat:
        return None, chunk
    try:
        if isinstance(chunk, ColumnChunk):
            return _Columns(mapper, chunk, file, common).drafts()
        return _Records(mapper, chunk, file, common).drafts()
    except (_Unusual, Unreadable, pa.ArrowException, UnicodeEncodeError):
        return None, chunk


class _Mapping:
    """One chunk on its way: a column for each name that is mapped, wherever it comes from."""

    def __init__(self, mapper: Mapper, chunk: Chunk, file: str, common: Mapping[str, Any]) -> None:
        self.mapper, self.chunk, self.file, self.common = mapper, chunk, file, common
        self.records = np.zeros(0, np.int64)

    # What a kind of chunk says.

    def text(self, path: Path, said: bool) -> pa.Array:
        """Return a column as texts, ``said`` or labels; null where there is none. Raises :class:`_Unusual`."""
        raise NotImplementedError

    def labels(self, paths: Sequence[Path]) -> tuple[npt.NDArray[np.int32], list[dict[str, Any]]]:
        """Return which of some records, with these columns alone, has the labels of each."""
        raise NotImplementedError

    def digests(self) -> pa.Array:
        """Return the :func:`record_digest` of each record."""
        raise NotImplementedError

    def extras(self) -> Sequence[Mapping[str, Any] | None]:
        """Return what the settings keep of each record beside what they map."""
        raise NotImplementedError

    # What all kinds have in common.

    def value(self, name: str, said: bool = True) -> pa.Array:
        """Return the texts of what a setting names; null where there are none."""
        given = getattr(self.mapper.settings.columns, name)
        if given is None:
            return pa.nulls(len(self.records), pa.string())
        if given.constant is not None:
            return pa.repeat(pa.scalar(given.constant, pa.string()), len(self.records))
        return self.text(Path(given.column or ""), said)

    def drafts(self) -> tuple[DraftColumns | None, Chunk]:
        """Map the chunk; return the drafts, and the records that need a look."""
        mapper, count = self.mapper, len(self.records)
        models, label, odd = self._models()
        prompt, context, answer, system = map(self.value, SAID)
        if context.null_count == count:
            odd |= _mask(pc.is_null(prompt))
        else:
            odd |= ~_mask(_spoken(prompt))
            both = pc.binary_join_element_wise(prompt, context, "\n\n")
            prompt = pc.if_else(_spoken(context), both, prompt)
        turns = [("user", prompt)]
        if mapper.kind == "conversation":
            odd |= _mask(pc.is_null(answer))
            turns.append(("assistant", answer))
        if system.null_count < count:
            turns.insert(0, ("system", pc.if_else(_spoken(system), system, pa.scalar(None, pa.string()))))
        keys, groups = self._keys(models, label)
        extras = self.extras()
        if not odd.any():
            others: Chunk = [item for item in self.chunk if isinstance(item, Broken)] if self.has_broken() else ()
            return DraftColumns(self.records, models, label, keys, groups, turns, extras), others
        plain = np.flatnonzero(~odd)
        taken = pa.array(plain)
        columns = DraftColumns(
            self.records[plain], models, label[plain], keys.take(taken), groups.take(taken),
            [(role, texts.take(taken)) for role, texts in turns],
            [extras[place] for place in plain.tolist()] if extras else (),
        )  # fmt: skip
        return columns, self.left(odd)

    def has_broken(self) -> bool:
        """Tell whether the chunk has records that cannot be read."""
        return len(self.records) < len(self.chunk)

    def left(self, odd: Mask) -> Chunk:
        """Return the records of a mask, and those that cannot be read, in their order."""
        places = np.flatnonzero(odd).tolist()
        if 8 * len(places) < len(self.chunk):
            return [self.chunk[place] for place in places]
        items = list(self.chunk)
        return [items[place] for place in places]

    def _models(self) -> tuple[list[Draft], npt.NDArray[np.int32], Mask]:
        """Return a draft for each set of labels, which of them each record has, and which records have bad ones."""
        mapper = self.mapper
        label, fields = self.labels(mapper.label_paths)
        models: list[Draft] = []
        bad = np.zeros(len(fields), np.bool_)
        for number, record in enumerate(fields):
            model = Draft("", (), (self.file, 0), **self.common)
            try:
                mapper.label(model, record, self.common.get("dataset") or mapper.dataset(record))
            except Unreadable:
                bad[number] = True
            models.append(model)
        return models, label, bad[label]

    def _keys(self, models: Sequence[Draft], label: npt.NDArray[np.int32]) -> tuple[pa.Array, pa.Array]:
        """Return the keys and the groups of all records."""
        count = len(self.records)
        named = self.value("id", said=False)
        named = pc.if_else(pc.equal(named, ""), pa.scalar(None, pa.string()), named)
        basis = named if not named.null_count else pc.coalesce(named, self.digests())
        datasets = [framed("row", model.dataset) for model in models]
        prefix = datasets[0] if len(datasets) == 1 else pa.array(datasets, pa.binary()).take(pa.array(label))
        keys = digests([prefix, *framed_texts(basis)], count)
        groups = self.value("group", said=False)
        if groups.null_count == count:
            return keys, pa.nulls(count, pa.string())
        named = pc.binary_join_element_wise("group:", groups, "")
        found = digests([prefix, *framed_texts(named)], count)
        return keys, pc.if_else(pc.fill_null(pc.equal(groups, ""), True), pa.scalar(None, pa.string()), found)


class _Columns(_Mapping):
    """A chunk that is columns already."""

    chunk: ColumnChunk

    def __init__(self, mapper: Mapper, chunk: ColumnChunk, file: str, common: Mapping[str, Any]) -> None:
        super().__init__(mapper, chunk, file, common)
        if not chunk.is_whole():
            raise _Unusual
        self.records = np.arange(chunk.first, chunk.first + len(chunk), dtype=np.int64)

    def text(self, path: Path, said: bool) -> pa.Array:
        column = self.chunk.column(path.text)
        if column is None:
            if path.root != path.text:
                raise _Unusual
            return pa.nulls(len(self.chunk), pa.string())
        if pt.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind = column.type
        if not (pt.is_string(kind) or pt.is_large_string(kind) or pt.is_integer(kind) or pt.is_null(kind)):
            raise _Unusual
        return column.cast(pa.string())

    def labels(self, paths: Sequence[Path]) -> tuple[npt.NDArray[np.int32], list[dict[str, Any]]]:
        columns = {path.text: self.text(path, False) for path in paths if self.chunk.column(path.text) is not None}
        if any(path.root != path.text and path.text not in columns for path in paths):
            raise _Unusual
        label = np.zeros(len(self.chunk), np.int64)
        for column in columns.values():
            encoded = column.dictionary_encode()
            code = pc.fill_null(encoded.indices, len(encoded.dictionary)).to_numpy()
            label = np.unique(label * (len(encoded.dictionary) + 1) + code, return_inverse=True)[1]
        first = pa.array(np.unique(label, return_index=True)[1])
        fields = pa.table({name: column.take(first) for name, column in columns.items()}).to_pylist()
        return label.astype(np.int32), fields or [{}]

    def digests(self) -> pa.Array:
        parts: list[bytes | pa.Array] = []
        for name in sorted(self.chunk.names):
            column = self.chunk.column(name)
            assert column is not None
            kind = "s"
            if not (pt.is_string(column.type) or pt.is_large_string(column.type)):
                (values,) = self.chunk.plain([name])
                texts = sum(isinstance(value, str) for value in values)
                if texts and texts < len(values) - values.count(None):
                    raise _Unusual
                if not texts:
                    kind, values = "j", [None if value is None else canonical(value) for value in values]
                column = pa.array(values, pa.string() if texts else pa.binary())
            head: bytes | pa.Array = framed(name, kind)
            if column.null_count:
                head = pc.if_else(pc.is_valid(column), pa.scalar(head, pa.binary()), pa.scalar(None, pa.binary()))
            parts += [head, *framed_texts(column)]
        return digests(parts, len(self.chunk))

    def extras(self) -> Sequence[Mapping[str, Any] | None]:
        names = self.mapper.kept(self.chunk.names)
        if not names:
            return ()
        values = self.chunk.plain(names)
        return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


class _Records(_Mapping):
    """A chunk of records, as JSON and CSV have them."""

    def __init__(self, mapper: Mapper, chunk: Chunk, file: str, common: Mapping[str, Any]) -> None:
        super().__init__(mapper, chunk, file, common)
        self.items = [item for item in chunk if isinstance(item, Record)]
        self.records = np.fromiter((item.index for item in self.items), np.int64, len(self.items))

    def left(self, odd: Mask) -> Chunk:
        found = dict(zip(self.records.tolist(), odd.tolist(), strict=True))
        return [item for item in self.chunk if isinstance(item, Broken) or found[item.index]]

    def text(self, path: Path, said: bool) -> pa.Array:
        if path.root != path.text:
            raise _Unusual
        read = text_of if said else label_text
        name = path.text
        return pa.array([read(item.fields.get(name)) for item in self.items], pa.string())

    def labels(self, paths: Sequence[Path]) -> tuple[npt.NDArray[np.int32], list[dict[str, Any]]]:
        if any(path.root != path.text for path in paths):
            raise _Unusual
        names = [path.text for path in paths]
        known: dict[tuple[Any, ...], int] = {}
        fields: list[dict[str, Any]] = []
        label = np.zeros(len(self.items), np.int32)
        for place, item in enumerate(self.items):
            own = {name: item.fields[name] for name in names if name in item.fields}
            if not all(value is None or isinstance(value, str) for value in own.values()):
                raise _Unusual
            number = known.setdefault(tuple(own.items()), len(known))
            if number == len(fields):
                fields.append(own)
            label[place] = number
        return label, fields

    def digests(self) -> pa.Array:
        return pa.array([record_digest(item.fields) for item in self.items], pa.string())

    def extras(self) -> Sequence[Mapping[str, Any] | None]:
        extra = self.mapper.extra
        return () if self.mapper.settings.extra == "drop" else [extra(item.fields) for item in self.items]


def _spoken(texts: pa.Array) -> pa.Array:
    """Tell which texts say anything: those that are not null, empty or white space alone."""
    return pc.fill_null(pc.match_substring_regex(texts, SPOKEN), False)


def _mask(values: pa.Array) -> Mask:
    found: Mask = values.to_numpy(zero_copy_only=False)
    return found.copy()
