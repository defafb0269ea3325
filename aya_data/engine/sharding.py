"""Sharding: the rows of the mixture become the shards of the release.

A shuffle in two steps, both bounded: *scatter* takes the chosen rows of one part and groups them
by shard (one row group each); *gather* collects one shard from all scattered parts and orders it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aya_data.core.logical import logical_digest
from aya_data.core.row import ROW
from aya_data.core.store import Output, Part, Store
from aya_data.engine.judging import SCORE, TAG
from aya_data.engine.keying import Keys, with_keys
from aya_data.engine.shape import released, shape

__all__ = ["gather", "scatter"]

POSITION = "__position"


def scatter(
    store: Store,
    output: Output,
    *,
    rows: Part,
    keys: Keys | None,
    selection: Part,
    row: npt.NDArray[np.int32],
    epoch: npt.NDArray[np.int32],
    shard: npt.NDArray[np.int32],
    position: npt.NDArray[np.int64],
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Take rows of one part, sorted by ``shard``; write one row group per shard."""
    table = with_keys(store.read(rows), rows, keys).take(pa.array(row))
    facts = store.read(selection)
    found = np.searchsorted(np.asarray(facts["row"]), row)
    annotated = _annotated(table, facts.take(pa.array(found)))
    annotated = annotated.append_column("epoch", pa.array(epoch))
    annotated = annotated.append_column(POSITION, pa.array(position))
    starts = np.flatnonzero(np.r_[True, shard[1:] != shard[:-1]])
    with output.part("scattered", annotated.schema) as writer:
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(shard)], strict=True):
            writer.write(annotated.slice(start, end - start), whole=True)
    return {}, {"shards": shard[starts].tolist(), "tools": annotated["tools"].null_count < len(shard)}


def _annotated(table: pa.Table, facts: pa.Table) -> pa.Table:
    """Fill ``tags``, ``scores`` and ``n_tokens`` from what the filters said."""
    columns = {}
    for prefix, name in ((TAG, "tags"), (SCORE, "scores")):
        given = sorted(c for c in facts.column_names if c.startswith(prefix))
        names = [c.removeprefix(prefix) for c in given]
        values = [facts[c].to_pylist() for c in given]
        pairs = [
            [(n, v) for n, v in zip(names, row, strict=True) if v is not None] for row in zip(*values, strict=True)
        ] or [[] for _ in range(table.num_rows)]
        columns[name] = pa.array(pairs, ROW.field(name).type)
    tokens = f"{SCORE}n_tokens"
    if tokens in facts.column_names:
        columns["n_tokens"] = pc.cast(facts[tokens], pa.int32())
    table = table.select(ROW.names)
    for name, column in columns.items():
        table = table.set_column(ROW.names.index(name), ROW.field(name), column)
    return table.cast(ROW)


def gather(
    store: Store, output: Output, *, kind: str, parts: Sequence[tuple[Part, int]], with_tools: bool
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Write one shard from row groups of scattered parts, in the order of its positions.

    Facts: the logical digest, and what the catalog and the card count.
    """
    tables = [pq.ParquetFile(_checked(store, part)).read_row_group(group) for part, group in parts]
    table = pa.concat_tables(tables)
    order = np.argsort(np.asarray(table[POSITION]), kind="stable")
    table = table.take(pa.array(order)).drop_columns([POSITION])
    shard = shape(table, kind, with_tools).combine_chunks()
    with output.part("shard", released(kind, with_tools)) as writer:
        writer.write(shard)
    chars = pc.sum(pc.utf8_length(pc.struct_field(table["messages"].combine_chunks().flatten(), "content"))).as_py()
    groups = table.group_by(["source", "dataset", "origin", "license"]).aggregate([([], "count_all")])
    facts = {
        "digest": logical_digest(shard),
        "chars": chars or 0,
        "tokens": pc.sum(table["n_tokens"]).as_py(),
        "groups": sorted([list(row.values()) for row in groups.to_pylist()], key=str),
        "terms": sorted({t for terms in table["terms"].to_pylist() for t in terms or ()}),
    }
    return {}, facts


_verified: dict[str, tuple[int, int]] = {}


def _checked(store: Store, part: Part) -> str:
    """Check a scattered part once per process and version of the file: every shard reads a piece of it."""
    path = store.root / part.path
    try:
        stat = path.stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
    except FileNotFoundError:
        stamp = (0, -1)
    if _verified.get(part.digest) != stamp:
        store.check(part)
        _verified[part.digest] = stamp
    return str(path)
