"""Drafts by column: what most sources have, turned into rows without a look at each of them.

A :class:`DraftColumns` is a sequence of drafts like any other, and makes the very rows and rejections that
:func:`~aya_data.core.row.tabulate` makes of them one by one. Its texts stay in Arrow columns: they are checked, framed
and counted there, and only the hashes are taken row by row. What a check finds fault with is drafted after all, and
goes the other way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aya_data.core.identity import frame, framed
from aya_data.core.row import (
    MESSAGE,
    MESSAGES,
    OWN,
    PART,
    PROVENANCE,
    SCORELESS,
    Draft,
    Kind,
    Labels,
    Malformed,
    PromptHashes,
    Table,
    assembled,
    extra_text,
    labelled,
    prompt_hashes,
    tabulate,
)

__all__ = ["DraftColumns", "digests", "framed_texts"]

Places = npt.NDArray[np.int64]

SPOKEN = r"[^\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
"""A character that is not white space as :meth:`str.isspace` means it."""


@dataclass(frozen=True, slots=True, eq=False)
class DraftColumns(Sequence[Draft]):
    """Drafts of one file in the order of their records: ``n`` by column, and some that had to be drafted one by one.

    ``records`` int64[n]: the record of each, ascending. ``labels``: drafts whose labels and file are meant, nothing
    else of them; ``label`` int32[n]: which of them. ``keys`` string[n]; ``groups`` string[n], null where the key is the
    group. ``turns``: role and content (string[n], valid UTF-8) of what is said, in order; null where a draft has no
    such turn, which the last one is not. ``extras``: n mappings, empty where no draft has any. ``others``: the rest.
    """

    records: Places
    labels: Sequence[Draft]
    label: npt.NDArray[np.int32]
    keys: pa.Array
    groups: pa.Array
    turns: Sequence[tuple[str, pa.Array]]
    extras: Sequence[Mapping[str, Any] | None] = ()
    others: Sequence[Draft] = field(default=())

    def __len__(self) -> int:
        return len(self.records) + len(self.others)

    @overload
    def __getitem__(self, index: int) -> Draft: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Draft]: ...
    def __getitem__(self, index: int | slice) -> Draft | Sequence[Draft]:
        return list(self)[index]

    def __iter__(self) -> Iterator[Draft]:
        drafts = [*self._drafts(range(len(self.records))), *self.others]
        return iter(sorted(drafts, key=lambda draft: draft.place[1]))

    def _drafts(self, places: Sequence[int]) -> list[Draft]:
        taken = pa.array(places, pa.int64())
        said = [(role, texts.take(taken).to_pylist()) for role, texts in self.turns]
        keys, groups = self.keys.take(taken).to_pylist(), self.groups.take(taken).to_pylist()
        return [
            replace(
                model,
                key=keys[at],
                messages=[(role, texts[at]) for role, texts in said if texts[at] is not None],
                place=(model.place[0], int(self.records[place])),
                group=groups[at],
                extra=self.extras[place] if self.extras else None,
            )
            for at, place in enumerate(places)
            for model in (self.labels[self.label[place]],)
        ]

    def tabulate(self, source: str, kind: Kind, max_chars: int, hashes: PromptHashes = prompt_hashes) -> Table:
        """Check the drafts and turn them into one table of :data:`PART`, as :func:`tabulate` does.

        Some 4 microseconds per row of 600 characters beside ``hashes``.
        """
        labels = [labelled(model, source, kind) for model in self.labels]
        if not all(found.encodable for found in labels):
            return tabulate(self, source, kind, max_chars, hashes)
        chars = [pc.utf8_length(texts) for _, texts in self.turns]
        plain = np.ones(len(self.records), np.bool_)
        for (_, texts), lengths in zip(self.turns, chars, strict=True):
            fits = pc.and_(pc.match_substring_regex(texts, SPOKEN), pc.less_equal(lengths, max_chars))
            plain &= pc.fill_null(fits, True).to_numpy(zero_copy_only=False)
        extras, short = self._extras(max_chars)
        plain &= short
        others = tabulate(
            sorted([*self._drafts(np.flatnonzero(~plain).tolist()), *self.others], key=lambda draft: draft.place[1]),
            source, kind, max_chars, hashes,
        )  # fmt: skip
        if plain.all():
            rows = self._rows(chars, extras, labels, hashes)
        else:
            taken = pa.array(np.flatnonzero(plain))
            rest = DraftColumns(
                self.records[plain], self.labels, self.label[plain], self.keys.take(taken), self.groups.take(taken),
                [(role, texts.take(taken)) for role, texts in self.turns],
            )  # fmt: skip
            extras = None if extras is None else extras.take(taken)
            rows = rest._rows([lengths.take(taken) for lengths in chars], extras, labels, hashes)
        if others.rows.num_rows:
            rows = pa.concat_tables([rows, others.rows])
            at = pc.struct_field(rows["provenance"].combine_chunks(), "row")
            rows = rows.take(pc.sort_indices(at)).combine_chunks()
        return Table(rows, others.rejections)

    def _extras(self, max_chars: int) -> tuple[pa.Array | None, npt.NDArray[np.bool_]]:
        """Return the texts of ``extra``, and which drafts have none that breaks a rule."""
        short = np.ones(len(self.records), np.bool_)
        if not self.extras:
            return None, short
        texts: list[str | None] = []
        for place, extra in enumerate(self.extras):
            try:
                texts.append(extra_text(extra, max_chars))
            except Malformed:
                texts.append(None)
                short[place] = False
        return pa.array(texts, pa.string()), short

    def _rows(
        self, chars: Sequence[pa.Array], extra: pa.Array | None, labels: Sequence[Labels], hashes: PromptHashes
    ) -> pa.Table:
        count = len(self.records)
        label = pa.array(self.label)
        identity = digests([framed("content"), *(part for turn in self.turns for part in _framed_turn(*turn))], count)
        groups = pc.coalesce(self.groups, self.keys)
        details = frame(("", "")) if extra is None else [frame(("",)), *framed_texts(pc.fill_null(extra, ""))]
        row_hash = digests(
            [
                *(part for column in (self.keys, groups, identity) for part in framed_texts(column)),
                pa.array([found.frame for found in labels], pa.binary()).take(label),
                *([details] if isinstance(details, bytes) else details),
                SCORELESS,
                pa.array([found.asserted for found in labels], pa.binary()).take(label),
            ],
            count,
        )
        asked = [at for at, (role, _) in enumerate(self.turns) if role != "assistant"]
        prompts = self.turns[asked[0]][1]
        prompt_chars = chars[asked[0]]
        if len(asked) > 1:
            prompts = pc.binary_join_element_wise(*(self.turns[at][1] for at in asked), "\n", null_handling="skip")
            prompt_chars = pc.utf8_length(prompts)
        answered = self.turns[-1][0] == "assistant"
        own = {name: pa.nulls(count, PART.field(name).type) for name in OWN if name != "provenance"}
        own |= {
            "id": identity,
            "row_key": self.keys,
            "group": groups,
            "messages": _messages(self.turns),
            "row_hash": row_hash,
            "prompt_hash": hashes(prompts),
            "prompt_chars": prompt_chars.cast(pa.int32()),
            "answer_chars": chars[-1].cast(pa.int32()) if answered else pa.array(np.zeros(count, np.int32)),
        }
        if extra is not None:
            own["extra"] = extra
        place = {
            "file": pa.array([model.place[0] for model in self.labels], pa.string()).take(label),
            "row": pa.array(self.records),
            "parents": pa.array([[]] * min(count, 1), PROVENANCE.field("parents").type).take(
                pa.array(np.zeros(count, np.int32))
            ),
        }
        return assembled(own, place, labels, label)


def framed_texts(texts: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the two pieces of the :func:`~aya_data.core.identity.frame` of each text; null where there is none."""
    data = texts.cast(pa.binary())
    lengths = pc.fill_null(pc.binary_length(data), 0).to_numpy().astype("<i8")
    offsets = np.arange(0, 8 * len(data) + 8, 8, dtype=np.int32)
    missing = pc.is_valid(data) if data.null_count else None
    buffers = [missing and missing.buffers()[1], pa.py_buffer(offsets), pa.py_buffer(lengths)]
    return pa.Array.from_buffers(pa.binary(), len(data), buffers, data.null_count), data


def digests(parts: Sequence[bytes | pa.Array], count: int) -> pa.Array:
    """Return :func:`~aya_data.core.identity.framed_digest` of each row of ``parts``, one after the other: bytes that
    ``count`` rows have in common, or binary[count], of which nulls are left out."""
    scalars = [pa.scalar(part, pa.binary()) if isinstance(part, bytes) else part for part in parts]
    if all(isinstance(part, bytes) for part in parts):
        scalars[0] = pa.array([parts[0]] * count, pa.binary())
    joined = pc.binary_join_element_wise(*scalars, pa.scalar(b"", pa.binary()), null_handling="skip")
    found: list[bytes] = []
    for array in joined.chunks if isinstance(joined, pa.ChunkedArray) else [joined]:
        _, places, data = array.buffers()
        ends = np.frombuffer(places, np.int32)[array.offset : array.offset + len(array) + 1].tolist()
        view = memoryview(data) if data is not None else memoryview(b"")
        blake2b = hashlib.blake2b
        found += [blake2b(view[start:end], digest_size=16).digest() for start, end in pairwise(ends)]
    digits = b"".join(found).hex().encode()
    offsets = np.arange(0, len(digits) + 32, 32, dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), len(found), [None, pa.py_buffer(offsets), pa.py_buffer(digits)])


def _framed_turn(role: str, texts: pa.Array) -> tuple[bytes | pa.Array, pa.Array, pa.Array]:
    """Return the pieces of a turn's frame, all null where there is no such turn."""
    name: bytes | pa.Array = framed(role)
    if texts.null_count:
        name = pc.if_else(pc.is_valid(texts), pa.scalar(name, pa.binary()), pa.scalar(None, pa.binary()))
    return (name, *framed_texts(texts))


def _messages(turns: Sequence[tuple[str, pa.Array]]) -> pa.Array:
    """Return the lists of turns: of each row those that are not null."""
    count = len(turns[0][1])
    has = np.stack([pc.is_valid(texts).to_numpy(zero_copy_only=False) for _, texts in turns], axis=1)
    offsets = np.concatenate([[0], np.cumsum(has.sum(axis=1))]).astype(np.int32)
    names = pa.array([role for role, _ in turns], pa.string())
    row, turn = np.nonzero(has)
    contents = turns[0][1]
    if len(turns) > 1:
        contents = pa.concat_arrays([texts for _, texts in turns]).take(pa.array(turn * count + row))
    flat = pa.StructArray.from_arrays([names.take(pa.array(turn)), contents], fields=list(MESSAGE))
    return pa.ListArray.from_arrays(pa.array(offsets), flat, type=MESSAGES)
