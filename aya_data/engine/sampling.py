"""Sampling: from all surviving rows to the rows of the release, their split, shard and order.

One task, after the last filter. It reads the selections (small columns, no text), cuts the split,
solves the mixture for each kind of row, and lays the result out in shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.core.errors import NotFound
from aya_data.core.identity import draws
from aya_data.core.ledger import LEDGER, entries, tally
from aya_data.core.mix_settings import Bound, MixSettings
from aya_data.core.row import PART
from aya_data.core.store import Output, Part, Store
from aya_data.engine.mixture import Bounds, Candidates, Request, mix
from aya_data.engine.split import validation_rows

__all__ = ["SAMPLE", "sample"]

SAMPLE = pa.schema(
    [
        pa.field("ordinal", pa.int32()),
        pa.field("row", pa.int32()),
        pa.field("epoch", pa.int32()),
        pa.field("shard", pa.int32()),
        pa.field("position", pa.int64()),
    ]
)
"""The rows of the release: selection and row within its part, then where it goes."""

NEEDED = (
    "row", "row_key", "row_hash", "source", "dataset", "language", "script", "origin", "task", "license",
    "kind", "group", "prompt_hash", "prompt_chars", "answer_chars",
)  # fmt: skip
REPEATED = frozenset({"source", "dataset", "language", "script", "origin", "task", "license", "kind"})
TOKENS = "score:n_tokens"
ROW_OVERHEAD = 400
"""Bytes of a row beside its text, for the size of shards (measured on mixed real rows)."""


def sample(
    store: Store,
    output: Output,
    *,
    stage: str,
    selections: Sequence[Part],
    consumed: Sequence[Part],
    links: Sequence[Part],
    uses: Mapping[str, str],
    settings: MixSettings,
    seed: int,
    validation: float,
    shard_size: int,
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Write ``sample`` and ``ledger``; facts hold the shards and the epochs by source.

    ``uses`` is the use of each source; rows of ``prompts`` sources never enter the mixture: they end as
    consumed where a ledger in ``consumed`` says so, otherwise as not sampled. ``links`` are pairs of row keys
    that no split may part.
    """
    rows = _load(store, selections)
    n = rows.num_rows
    names, source = _named(rows["source"])
    train = np.array([uses[name] == "train" for name in names], dtype=np.bool_)[source]
    held = np.zeros(n, np.bool_)
    places = np.flatnonzero(train)
    eligible = rows.take(pa.array(places))
    held[places] = validation_rows(
        _fixed(eligible["group"]),
        _fixed(eligible["prompt_hash"]),
        validation,
        seed,
        _linked(store, links, _fixed(eligible["row_key"])),
    )
    taken_row: list[npt.NDArray[np.int64]] = []
    taken_epoch: list[npt.NDArray[np.int64]] = []
    kinds, kind = _named(eligible["kind"])
    for code in range(len(kinds)):
        mine = places[kind == code]
        chosen = mix(*_problem(rows.take(pa.array(mine)), held[mine], settings, seed))
        taken_row.append(mine[chosen.row])
        taken_epoch.append(chosen.epoch)
    row = np.concatenate(taken_row) if taken_row else np.zeros(0, np.int64)
    epoch = np.concatenate(taken_epoch) if taken_epoch else np.zeros(0, np.int64)
    table, shards = _shards(rows, row, epoch, held, seed, shard_size)
    output.write("sample", table)
    inside = np.zeros(n, np.bool_)
    inside[row] = True
    counts = _account(store, output, stage, rows, ~inside, train, consumed)
    counts["created"] = len(row) - int(inside.sum())
    counts["rows_out"] = len(row)
    return {stage: tally(**counts)}, {"shards": shards, "epochs": _epochs(names, source[row], row)}


def _load(store: Store, selections: Sequence[Part]) -> pa.Table:
    types = {name: PART.field(name).type for name in NEEDED if name != "row"}
    types |= {"row": pa.int32(), **dict.fromkeys(REPEATED, pa.dictionary(pa.int32(), pa.string()))}
    none = {name: pa.array([], types[name]) for name in NEEDED}
    tables = [pa.table({**none, "tokens": pa.array([], pa.float64()), "ordinal": pa.array([], pa.int32())})]
    for ordinal, part in enumerate(selections):
        table = store.read(part)
        columns = {name: _compact(table[name], name) for name in NEEDED}
        columns["tokens"] = table[TOKENS] if TOKENS in table.column_names else pa.nulls(table.num_rows, pa.float64())
        columns["ordinal"] = pa.array(np.full(table.num_rows, ordinal, np.int32))
        tables.append(pa.table(columns))
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def _compact(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Names that repeat as codes: Python texts took a kilobyte per row; codes take a fraction."""
    return column.dictionary_encode() if name in REPEATED else column


def _fixed(column: pa.ChunkedArray) -> npt.NDArray[np.bytes_]:
    """Keys and hashes as ``S32`` without a Python object for each, where all have one length."""
    array = column.combine_chunks()
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    lengths = np.unique(np.diff(offsets))
    if len(lengths) != 1 or lengths[0] == 0 or array.null_count:
        return np.asarray([(key or "").encode() for key in array.to_pylist()], dtype="S")
    data = np.frombuffer(array.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return data.view(f"S{lengths[0]}")


def _linked(store: Store, links: Sequence[Part], keys: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    """The links whose two rows are both here, as positions."""
    order = np.argsort(keys)
    ordered = keys[order]
    found = [np.zeros((0, 2), np.int64)]
    for part in links if len(keys) else ():
        table = store.read(part, ["one", "other"])
        sides = [_fixed(table[name]) for name in ("one", "other")] if table.num_rows else []
        places = [np.minimum(np.searchsorted(ordered, side), len(keys) - 1) for side in sides]
        here = [ordered[place] == side for place, side in zip(places, sides, strict=True)]
        if sides:
            both = here[0] & here[1]
            found.append(np.column_stack([order[place[both]] for place in places]))
    return np.concatenate(found)


def _problem(
    rows: pa.Table, once: npt.NDArray[np.bool_], settings: MixSettings, seed: int
) -> tuple[Candidates, Request]:
    """Translate rows and settings into codes."""
    sources, source = _codes(rows, "source")
    datasets, dataset = _codes(rows, "source", "dataset")
    languages, language = _languages(rows, settings)
    keys = _fixed(rows["row_key"])
    tokens = None
    if rows["tokens"].null_count < rows.num_rows or rows.num_rows == 0:
        tokens = np.asarray(rows["tokens"].fill_null(0)).astype(np.int64)
    candidates = Candidates(
        source,
        dataset,
        language,
        draws(seed, "mix", keys),
        _paired(_fixed(rows["row_hash"]), keys),
        once,
        tokens,
    )
    source_weights: dict[int, Fraction] = {}
    dataset_weights: dict[int, Fraction] = {}
    if settings.weights is not None:
        given = [Fraction(w.weight) for w in settings.weights.values() if w.weight is not None]
        for code, (name,) in enumerate(sources):
            weight = settings.weights[name]
            left = 100 - sum(given, Fraction(0))
            source_weights[code] = left if weight.weight is None else Fraction(weight.weight)
        for owner, weight in settings.weights.items():
            mine = {name: code for code, (source, name) in enumerate(datasets) if source == owner}
            for name, share in weight.datasets.items() if mine else ():
                dataset_weights[_dataset(name, mine, owner)] = Fraction(share)
    language_weights = None
    temperature = settings.languages.temperature if settings.languages else None
    if settings.languages and settings.languages.weights is not None:
        named = settings.languages.weights
        language_weights = {code: Fraction(named[name]) for code, name in enumerate(languages) if name in named}
    epochs = {
        code: Fraction(settings.epochs.sources.get(name, settings.epochs.max)) for code, (name,) in enumerate(sources)
    }
    budget = settings.budget
    request = Request(
        rows=budget.rows if budget else None,
        tokens=budget.tokens if budget else None,
        source_weights=source_weights,
        dataset_weights=dataset_weights,
        language_weights=language_weights,
        temperature=temperature,
        epochs=epochs,
        caps=[_bounds(rows, bound) for bound in settings.caps],
        floors=[_bounds(rows, bound) for bound in settings.floors],
    )
    return candidates, request


def _languages(rows: pa.Table, settings: MixSettings) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The language of each row; its variety where the weights name that."""
    named = (settings.languages.weights if settings.languages else None) or {}
    varieties, code = _codes(rows, "language", "script")
    labels = [f"{a}_{b}" if f"{a}_{b}" in named else a for a, b in varieties]
    distinct = sorted(set(labels))
    table = np.array([distinct.index(label) for label in labels], np.int64)
    return distinct, table[code] if len(code) else code


def _dataset(name: str, known: Mapping[str, int], source: str) -> int:
    """Find a dataset by its name or the last part of it. Raises NotFound: a share must never be lost silently."""
    if name in known:
        return known[name]
    ends = [code for full, code in known.items() if full.rpartition("/")[2] == name]
    if len(ends) != 1:
        raise NotFound(f"dataset of source {source}", name, known, "See mix.weights in the spec.")
    return ends[0]


def _bounds(rows: pa.Table, bound: Bound) -> Bounds:
    axes = [name for axis in bound.per for name in (("language", "script") if axis == "variety" else (axis,))]
    return Bounds(_codes(rows, *axes)[1], bound.rows, bound.tokens)


def _codes(rows: pa.Table, *columns: str) -> tuple[list[tuple[str, ...]], npt.NDArray[np.int64]]:
    """Distinct values of some columns, sorted, and their code in each row."""
    joint = np.zeros(rows.num_rows, np.int64)
    for name in columns:
        names, codes = _named(rows[name])
        joint = np.unique(joint * len(names) + codes, return_inverse=True)[1].astype(np.int64)
    first = np.unique(joint, return_index=True)[1]
    listed = [_named(rows[name]) for name in columns]
    return [tuple(names[codes[i]] for names, codes in listed) for i in first.tolist()], joint


def _named(column: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The distinct values of a column, sorted, with null as empty text, and their code in each row."""
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    array = coded.unify_dictionaries().combine_chunks()
    names = ["" if name is None else name for name in array.dictionary.to_pylist()]
    codes = np.asarray(array.indices.fill_null(len(names))).astype(np.int64)
    if array.null_count:
        names.append("")
    distinct, place = np.unique(np.asarray(names, dtype=object), return_inverse=True)
    return distinct.tolist(), place.astype(np.int64)[codes]


def _paired(first: npt.NDArray[np.bytes_], second: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bytes_]:
    """Two texts of 32 bytes as one of 64."""
    n = len(first)
    halves = (first.view(np.uint8).reshape(n, 32), second.view(np.uint8).reshape(n, 32))
    return np.ascontiguousarray(np.concatenate(halves, axis=1)).view("S64").ravel()


def _shards(
    rows: pa.Table,
    row: npt.NDArray[np.int64],
    epoch: npt.NDArray[np.int64],
    held: npt.NDArray[np.bool_],
    seed: int,
    shard_size: int,
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Group the taken rows by kind, variety and split, order each group by draw, cut it by size."""
    taken = rows.take(pa.array(row))
    keys = _fixed(taken["row_key"])
    order = draws(seed, "order", (b"%b:%d" % pair for pair in zip(keys.tolist(), epoch.tolist(), strict=True)))
    named, group = _codes(taken, "kind", "language", "script")
    groups = [(named[code // 2], "validation" if code % 2 else "train") for code in range(2 * len(named))]
    code = group * 2 + held[row]
    arrange = np.lexsort((epoch, keys, order, code)) if len(row) else np.zeros(0, np.int64)
    chars = np.asarray(taken["prompt_chars"]).astype(np.int64) + np.asarray(taken["answer_chars"])
    size = 2 * chars + ROW_OVERHEAD
    shard = np.zeros(len(row), np.int64)
    position = np.zeros(len(row), np.int64)
    shards: list[dict[str, Any]] = []
    code_sorted = code[arrange]
    starts = np.flatnonzero(np.r_[True, code_sorted[1:] != code_sorted[:-1]]) if len(row) else np.zeros(0, np.int64)
    ends = [*starts[1:].tolist(), len(row)] if len(row) else []
    for start, end in zip(starts.tolist(), ends, strict=True):
        members = arrange[start:end]
        filled = np.cumsum(size[members])
        piece = (filled - size[members]) // shard_size
        piece = np.unique(piece, return_inverse=True)[1]
        (kind, language, script), part = groups[int(code_sorted[start])]
        pieces = int(piece[-1]) + 1
        for index in range(pieces):
            inside = members[piece == index]
            shard[inside] = len(shards)
            position[inside] = np.arange(len(inside))
            shards.append(
                {
                    "kind": kind,
                    "variety": f"{language}_{script}",
                    "split": part,
                    "number": index,
                    "of": pieces,
                    "rows": len(inside),
                }
            )
    table = pa.Table.from_arrays(
        [
            taken["ordinal"].cast(pa.int32()),
            taken["row"].cast(pa.int32()),
            pa.array(epoch.astype(np.int32)),
            pa.array(shard.astype(np.int32)),
            pa.array(position),
        ],
        schema=SAMPLE,
    )
    return table.sort_by([("ordinal", "ascending"), ("shard", "ascending"), ("position", "ascending")]), shards


def _account(
    store: Store,
    output: Output,
    stage: str,
    rows: pa.Table,
    outside: npt.NDArray[np.bool_],
    train: npt.NDArray[np.bool_],
    consumed: Sequence[Part],
) -> dict[str, int]:
    """Write what became of the rows that are not in the release."""
    used: set[str] = set()
    if not train.all():
        for part in consumed:
            table = store.read(part, ["row_key", "outcome"])
            used |= {
                k for k, o in zip(*(table[c].to_pylist() for c in table.column_names), strict=True) if o == "consumed"
            }
    left = rows.take(pa.array(np.flatnonzero(outside)))
    trained = train[outside]
    outcome, rule = [], []
    for key, is_train in zip(left["row_key"].to_pylist(), trained.tolist(), strict=True):
        if is_train:
            outcome.append("not_sampled")
            rule.append("mixture")
        else:
            outcome.append("consumed" if key in used else "not_sampled")
            rule.append("prompts_only")
    if left.num_rows:
        with output.part("ledger", LEDGER) as writer:
            writer.write(
                entries(
                    {
                        "stage": stage,
                        "source": left["source"],
                        "row_key": left["row_key"],
                        "outcome": outcome,
                        "rule": rule,
                    },
                    left.num_rows,
                )
            )
    return {
        "rows_in": rows.num_rows,
        "not_sampled": outcome.count("not_sampled"),
        "consumed": outcome.count("consumed"),
    }


def _epochs(names: list[str], source: npt.NDArray[np.int64], row: npt.NDArray[np.int64]) -> dict[str, dict[str, int]]:
    """Rows and distinct rows taken of each source."""
    rows = np.bincount(source, minlength=len(names))
    distinct = np.bincount(source[np.unique(row, return_index=True)[1]], minlength=len(names))
    counted = zip(names, rows.tolist(), distinct.tolist(), strict=True)
    return {name: {"rows": n, "distinct": d} for name, n, d in counted if n}
