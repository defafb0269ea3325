"""The tasks of a source that asks models: from the rows of its parents to its own.

Every task makes one table of one part of the prompts (or of all). Asking itself is no task: it fills the journal
(:mod:`aya_data.engine.asking`), from which :func:`collect` reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from aya_data.core.generation import (
    ABSENT,
    FAILED,
    PROMPTS,
    UNEXPLAINED,
    Asked,
    GeneratingBuilder,
    Voice,
    answers_schema,
)
from aya_data.core.journal import Index, Journal
from aya_data.core.store import Output, Part, Store
from aya_data.engine.keying import Keys
from aya_data.engine.reading import chosen_parents, write_batches

__all__ = ["REQUESTS", "Tables", "collect", "enumerate_requests", "make", "part", "prompts", "read_tables", "whole"]

Tables = Mapping[str, Part]
"""Parts of the tables of steps, by name of the step."""
Outcome = tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]

ROWS = 2048
"""Prompts of a part at most: with answers of several teachers beside each, a part is still small."""
REQUESTS = pa.schema(
    [
        pa.field("row", pa.int32()),
        pa.field("tag", pa.string()),
        pa.field("key", pa.string()),
        pa.field("language", pa.string()),
        pa.field("tokens", pa.int32()),
    ]
)
"""What a step asks for one part: ``tokens`` are those of the conversation as it is sent, at most."""


def read_tables(store: Store, tables: Tables) -> dict[str, pa.Table]:
    """Read the tables of one part."""
    return {name: store.read(part) for name, part in tables.items()}


def prompts(
    store: Store,
    output: Output,
    *,
    builder: GeneratingBuilder,
    rows: Part,
    selection: Part,
    keys: Keys | None,
    threshold: int | None,
    part_bytes: int,
) -> Outcome:
    """Write the rows of one part of a parent source that are drawn, in parts of a bounded size."""
    parents = chosen_parents(store, builder, rows, selection, keys, threshold)
    if parents is not None:
        each = max(1, min(ROWS, int(part_bytes / 8 / max(1, parents.nbytes / parents.num_rows))))
        for start in range(0, parents.num_rows, each):
            output.write(PROMPTS, parents.slice(start, each).combine_chunks())
    return {}, {}


def enumerate_requests(
    store: Store, output: Output, *, builder: GeneratingBuilder, step: str, tables: Tables
) -> Outcome:
    """Write the keys of what a step asks for one part."""
    output.write("requests", listed(builder.requests(step, read_tables(store, tables)), builder.voice(step)))
    return {}, {}


def listed(requests: Iterable[Asked], voice: Voice) -> pa.Table:
    """Return requests to ``voice`` as :data:`REQUESTS`."""
    asked = list(requests)
    columns = [
        [one.row for one in asked],
        [one.tag for one in asked],
        [one.request.key for one in asked],
        [one.request.language for one in asked],
        voice.prompt_tokens([one.request.messages for one in asked]),
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, REQUESTS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=REQUESTS)


def collect(store: Store, output: Output, *, requests: Part, journal: Journal) -> Outcome:
    """Write the answers to the requests of one part, from the journal. Facts: how many there are, how many are absent,
    and how many failed, by reason."""
    asked = store.read(requests, ["row", "tag", "key"]).sort_by([("row", "ascending"), ("tag", "ascending")])
    table = answered(asked, _index(journal).take(asked["key"]))
    output.write("table", table)
    ended = Counter(table["finish"].to_pylist())
    reasons = table["reason"].filter(pc.equal(table["finish"], FAILED)).to_pylist() if ended[FAILED] else []
    failed = Counter(reason or UNEXPLAINED for reason in reasons)
    return {}, {"answers": table.num_rows, "failed": dict(failed), "absent": ended[ABSENT]}


def answered(requests: pa.Table, answers: pa.Table) -> pa.Table:
    """The table of an ``ask`` step from its requests and their answers, row by row."""
    columns = {name: (requests if name in ("row", "tag", "key") else answers)[name] for name in answers_schema().names}
    return pa.table(columns).cast(answers_schema())


_INDICES: dict[tuple[Path, bool], Index] = {}
"""The index of the journal that this process read last: a part finds there what the part before it found."""


def _index(journal: Journal) -> Index:
    key = (journal.folder, journal.read_only)
    known = _INDICES.get(key)
    _INDICES.clear()
    found = _INDICES[key] = journal.load(known)
    return found


def part(store: Store, output: Output, *, builder: GeneratingBuilder, step: str, tables: Tables) -> Outcome:
    """Write the table that a step makes of one part."""
    output.write("table", builder.part(step, read_tables(store, tables)))
    return {}, {}


def whole(store: Store, output: Output, *, builder: GeneratingBuilder, step: str, parts: Sequence[Tables]) -> Outcome:
    """Write the table that a step makes of all parts; reads one part at a time."""
    output.write("table", builder.whole(step, _Lazily(store, parts)))
    return {}, {}


@dataclass(frozen=True, slots=True)
class _Lazily:
    """The tables of all parts, read one part at a time whenever somebody looks through them."""

    store: Store
    parts: Sequence[Tables]

    def __iter__(self) -> Iterator[dict[str, pa.Table]]:
        return (read_tables(self.store, tables) for tables in self.parts)


def make(
    store: Store, output: Output, *, builder: GeneratingBuilder, tables: Tables, stage: str, part_bytes: int
) -> Outcome:
    """Write the rows that come of one part, and what the release keeps beside them (parts ``publish-<view>``)."""
    found = read_tables(store, tables)
    counts, facts = write_batches(output, builder, builder.make(found), stage, part_bytes)
    for view, table in sorted(builder.publish(found).items()):
        output.write(f"publish-{view}", table)
    return counts, facts
