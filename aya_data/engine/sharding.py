"""Sharding: the rows of the mixture become the shards of the release.

A shuffle in two steps, both bounded: *scatter* takes the chosen rows of one part and groups them
by block of a shard (one row group each); *gather* collects a shard from all scattered parts, block by block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aya_data.core.logical import BLOCK, block_digest, joined_digest
from aya_data.core.row import ROW
from aya_data.core.store import LEVEL, Output, Part, Store
from aya_data.engine.judging import SCORE, TAG
from aya_data.engine.keying import Keys, with_keys
from aya_data.engine.shape import released, shape

__all__ = ["gather", "scatter"]

POSITION = "__position"
GROUPS = ("source", "dataset", "origin", "license")


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
    """Take rows of one part, sorted by ``shard`` and ``position``; write one row group per block of a shard."""
    table = with_keys(store.read(rows), rows, keys).take(pa.array(row))
    facts = store.read(selection)
    found = np.searchsorted(np.asarray(facts["row"]), row)
    annotated = _annotated(table, facts.take(pa.array(found)))
    annotated = annotated.append_column("epoch", pa.array(epoch))
    annotated = annotated.append_column(POSITION, pa.array(position))
    block = position // BLOCK
    starts = np.flatnonzero(np.r_[True, (shard[1:] != shard[:-1]) | (block[1:] != block[:-1])])
    with output.part("scattered", annotated.schema) as writer:
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(shard)], strict=True):
            writer.write(annotated.slice(start, end - start), whole=True)
    blocks = list(zip(shard[starts].tolist(), block[starts].tolist(), strict=True))
    return {}, {"blocks": blocks, "tools": annotated["tools"].null_count < len(shard)}


def _annotated(table: pa.Table, facts: pa.Table) -> pa.Table:
    """Fill ``tags``, ``scores`` and ``n_tokens`` from what the filters said, beside what the rows came with."""
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for prefix, name in ((TAG, "tags"), (SCORE, "scores")):
        columns[name] = _pairs(facts, prefix, ROW.field(name).type)
        if table[name].null_count < table.num_rows:
            columns[name] = _joined(table[name], columns[name])
    tokens = f"{SCORE}n_tokens"
    if tokens in facts.column_names:
        columns["n_tokens"] = pc.cast(facts[tokens], pa.int32())
    table = table.select(ROW.names)
    for name, column in columns.items():
        table = table.set_column(ROW.names.index(name), ROW.field(name), column)
    return table.cast(ROW)


def _pairs(facts: pa.Table, prefix: str, kind: pa.MapType) -> pa.Array:
    """Return a map of the columns whose names begin with ``prefix``, without what is null."""
    given = sorted(name for name in facts.column_names if name.startswith(prefix))
    rows = facts.num_rows
    values = (
        pa.concat_arrays([facts[name].combine_chunks() for name in given]) if given else pa.nulls(0, kind.item_type)
    )
    valid = pc.is_valid(values).to_numpy(zero_copy_only=False).reshape(len(given), rows).T
    row, column = np.nonzero(valid)
    ends = pa.array(np.concatenate([[0], np.cumsum(valid.sum(axis=1))]).astype(np.int32))
    names = pa.array([name.removeprefix(prefix) for name in given], pa.string())
    found = values.take(pa.array(column * rows + row))
    return pa.MapArray.from_arrays(ends, names.take(pa.array(column)), found.cast(kind.item_type))


def _joined(came: pa.ChunkedArray, said: pa.Array) -> pa.Array:
    """Join maps row by row; where both have a name, what was said later counts."""
    pairs = zip(came.to_pylist(), said.to_pylist(), strict=True)
    return pa.array([sorted({**dict(one or ()), **dict(other or ())}.items()) for one, other in pairs], said.type)


def gather(
    store: Store, output: Output, *, shards: Sequence[Mapping[str, Any]], with_tools: bool
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Write shards (``kind``, ``blocks``), one after the other. Facts: of each its digest and counts."""
    return {}, {"shards": [_gather(store, output, **shard, with_tools=with_tools) for shard in shards]}


def _gather(
    store: Store, output: Output, *, kind: str, blocks: Sequence[Sequence[tuple[Part, int]]], with_tools: bool
) -> dict[str, Any]:
    """Write one shard from row groups of scattered parts, block by block, each in the order of its positions.

    Memory: one block of rows. Returns the logical digest, and what the catalog and the card count.
    """
    digests: list[str] = []
    groups: dict[tuple[str, ...], int] = {}
    terms: set[str] = set()
    chars, tokens = 0, None
    with output.part("shard", released(kind, with_tools), LEVEL) as writer:
        for block in blocks:
            table = _ordered([_opened(store, part).read_row_group(group) for part, group in block])
            rows = shape(table, kind, with_tools)
            writer.write(rows)
            digests.append(block_digest(rows))
            chars += _chars(table["messages"])
            if kind == "preference":  # the turns that both sides share count once
                chars += _chars(table["chosen"]) + _chars(table["rejected"]) - 2 * _chars(table["messages"])
            if (counted := pc.sum(table["n_tokens"]).as_py()) is not None:
                tokens = (tokens or 0) + counted
            for row in table.group_by(list(GROUPS)).aggregate([([], "count_all")]).to_pylist():
                key = tuple(str(row[name]) for name in GROUPS)
                groups[key] = groups.get(key, 0) + row["count_all"]
            terms |= {t for listed in table["terms"].to_pylist() for t in listed or ()}
            del table, rows  # before the next block is read
    return {
        "digest": joined_digest(digests),
        "chars": chars,
        "tokens": tokens,
        "groups": [[*key, count] for key, count in sorted(groups.items())],
        "terms": sorted(terms),
    }


def _chars(conversations: pa.ChunkedArray) -> int:
    said = pc.struct_field(conversations.combine_chunks().flatten(), "content")
    return int(pc.sum(pc.utf8_length(said)).as_py() or 0)


def _ordered(tables: list[pa.Table]) -> pa.Table:
    """Join tables in the order of their positions, a column at a time: no two copies of a block of texts."""
    order = pa.array(np.argsort(np.concatenate([np.asarray(table[POSITION]) for table in tables]), kind="stable"))
    names = [name for name in tables[0].column_names if name != POSITION]
    columns = []
    for name in names:
        columns.append(
            pa.chunked_array([c for table in tables for c in table[name].chunks]).combine_chunks().take(order)
        )
        for index, table in enumerate(tables):
            tables[index] = table.drop_columns([name])
    return pa.table(dict(zip(names, columns, strict=True)))


OPEN = 128
_files: dict[str, tuple[tuple[int, int], pq.ParquetFile]] = {}


def _opened(store: Store, part: Part) -> pq.ParquetFile:
    """Check and open a scattered part once per process and version of the file: every shard reads a piece of it."""
    path = store.root / part.path
    try:
        stat = path.stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
    except FileNotFoundError:
        stamp = (0, -1)
    known = _files.get(part.digest)
    if known is None or known[0] != stamp:
        store.check(part)
        if len(_files) >= OPEN:
            _files.pop(next(iter(_files)))[1].close()
        _files[part.digest] = known = (stamp, pq.ParquetFile(path))
    return known[1]
