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
    uses: Mapping[str, str],
    settings: MixSettings,
    seed: int,
    validation: float,
    shard_size: int,
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Write ``sample`` and ``ledger``; facts hold the shards and the epochs by source.

    ``uses`` is the use of each source; rows of ``prompts`` sources never enter the mixture: they end as
    consumed where a ledger in ``consumed`` says so, otherwise as not sampled.
    """
    rows = _load(store, selections)
    n = rows.num_rows
    source = rows["source"].to_pylist()
    train = np.array([uses[name] == "train" for name in source], dtype=np.bool_)
    held = np.zeros(n, np.bool_)
    places = np.flatnonzero(train)
    eligible = rows.take(pa.array(places))
    held[places] = validation_rows(eligible["group"].to_pylist(), eligible["prompt_hash"].to_pylist(), validation, seed)
    taken_row: list[npt.NDArray[np.int64]] = []
    taken_epoch: list[npt.NDArray[np.int64]] = []
    for kind in sorted(set(eligible["kind"].to_pylist())):
        mine = places[np.asarray([k == kind for k in eligible["kind"].to_pylist()], dtype=np.bool_)]
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
    return {stage: tally(**counts)}, {"shards": shards, "epochs": _epochs(source, row)}


def _load(store: Store, selections: Sequence[Part]) -> pa.Table:
    types = {**{name: PART.field(name).type for name in NEEDED if name != "row"}, "row": pa.int32()}
    none = {name: pa.array([], types[name]) for name in NEEDED}
    tables = [pa.table({**none, "tokens": pa.array([], pa.float64()), "ordinal": pa.array([], pa.int32())})]
    for ordinal, part in enumerate(selections):
        table = store.read(part)
        columns = {name: table[name] for name in NEEDED}
        columns["tokens"] = table[TOKENS] if TOKENS in table.column_names else pa.nulls(table.num_rows, pa.float64())
        columns["ordinal"] = pa.array(np.full(table.num_rows, ordinal, np.int32))
        tables.append(pa.table(columns))
    return pa.concat_tables(tables).combine_chunks()


def _problem(
    rows: pa.Table, once: npt.NDArray[np.bool_], settings: MixSettings, seed: int
) -> tuple[Candidates, Request]:
    """Translate rows and settings into codes."""
    sources, source = _codes(rows, "source")
    datasets, dataset = _codes(rows, "source", "dataset")
    languages, language = _codes(rows, "language")
    keys = rows["row_key"].to_pylist()
    tokens = None
    if rows["tokens"].null_count < rows.num_rows or rows.num_rows == 0:
        tokens = np.asarray(rows["tokens"].fill_null(0)).astype(np.int64)
    candidates = Candidates(
        source,
        dataset,
        language,
        draws(seed, "mix", keys),
        [f"{a}{b}" for a, b in zip(rows["row_hash"].to_pylist(), keys, strict=True)],
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
        language_weights = {code: Fraction(named[name]) for code, (name,) in enumerate(languages) if name in named}
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
    values = list(zip(*(["" if v is None else v for v in rows[c].to_pylist()] for c in columns), strict=True))
    distinct = sorted(set(values))
    number = {value: code for code, value in enumerate(distinct)}
    return distinct, np.fromiter((number[value] for value in values), np.int64, len(values))


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
    keys = taken["row_key"].to_pylist()
    order = draws(seed, "order", [f"{key}:{e}" for key, e in zip(keys, epoch.tolist(), strict=True)])
    variety = [f"{a}_{b}" for a, b in zip(taken["language"].to_pylist(), taken["script"].to_pylist(), strict=True)]
    split = np.where(held[row], "validation", "train").tolist()
    groups = sorted(set(zip(taken["kind"].to_pylist(), variety, split, strict=True)))
    number = {group: code for code, group in enumerate(groups)}
    code = np.fromiter(
        (number[g] for g in zip(taken["kind"].to_pylist(), variety, split, strict=True)), np.int64, len(row)
    )
    arrange = np.lexsort((epoch, np.asarray(keys), order, code)) if len(row) else np.zeros(0, np.int64)
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
        kind, name, part = groups[int(code_sorted[start])]
        pieces = int(piece[-1]) + 1
        for index in range(pieces):
            inside = members[piece == index]
            shard[inside] = len(shards)
            position[inside] = np.arange(len(inside))
            shards.append(
                {"kind": kind, "variety": name, "split": part, "number": index, "of": pieces, "rows": len(inside)}
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


def _epochs(source: list[str], row: npt.NDArray[np.int64]) -> dict[str, dict[str, int]]:
    """Rows and distinct rows taken of each source."""
    found: dict[str, dict[str, int]] = {}
    distinct: dict[str, set[int]] = {}
    for index in row.tolist():
        name = source[index]
        found.setdefault(name, {"rows": 0, "distinct": 0})["rows"] += 1
        distinct.setdefault(name, set()).add(index)
    for name, rows in distinct.items():
        found[name]["distinct"] = len(rows)
    return dict(sorted(found.items()))
