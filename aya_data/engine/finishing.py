"""Rows go out: the mixture is drawn, shards are written, the release is put in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aya_data.core import statistics
from aya_data.core.logical import BLOCK
from aya_data.core.store import Part
from aya_data.engine.plan import Stage
from aya_data.engine.release import ShardFile, begin_release, write_release
from aya_data.engine.running import Counts, RowPart, Running, digest_of, keys_digest
from aya_data.engine.task import Task

__all__ = ["release", "sample", "write_shards"]


def _final(run: Running) -> list[RowPart]:
    return [m for wave in run.waves for m in wave if m.selection is not None]


def sample(run: Running, stage: Stage) -> Counts:
    """Draw the mixture."""
    spec = run.plan.spec
    members = _final(run)
    selections = [m.selection for m in members if m.selection is not None]
    uses = {source.name: source.use for source in run.plan.sources.values()}
    identity = {
        "selections": [part.digest for part in selections],
        "consumed": [part.digest for part in run.consumed],
        "links": [part.digest for part in run.links],
        "uses": uses,
        "mix": spec.mix.model_dump(mode="json"),
        "seed": spec.seed,
        "validation": spec.release.validation,
        "shard_size": spec.release.shard_size,
    }
    arguments = {
        "stage": stage.name,
        "selections": selections,
        "consumed": list(run.consumed),
        "links": list(run.links),
        "uses": uses,
        "settings": spec.mix,
        "seed": spec.seed,
        "validation": spec.release.validation,
        "shard_size": spec.release.shard_size,
    }
    run.sampled = run.inline("all rows", "sampling:sample", identity, arguments)
    run.count(stage.name, run.sampled.facts.get("statistics", {}))
    run.keep_ledger([run.sampled])
    return {name: dict(counts) for name, counts in run.sampled.counts.items()}


def write_shards(run: Running, stage: Stage) -> Counts:
    """Write the shards of the release, in two steps: by part, then by shard."""
    assert run.sampled is not None
    table = run.store.read(run.sampled.parts["sample"][0])
    columns = {name: np.asarray(table[name]) for name in table.column_names}
    members = _final(run)
    bounds = np.searchsorted(columns["ordinal"], np.arange(len(members) + 1))
    scattered: list[Task] = []
    for ordinal, m in enumerate(members):
        start, end = int(bounds[ordinal]), int(bounds[ordinal + 1])
        if start == end or m.selection is None:
            continue
        pieces = {name: columns[name][start:end] for name in ("row", "epoch", "shard", "position")}
        identity: dict[str, Any] = {
            "rows": m.part.digest,
            "keys": keys_digest(m.keys),
            "selection": m.selection.digest,
            "pieces": {name: digest_of(piece) for name, piece in pieces.items()},
        }
        arguments: dict[str, Any] = {"rows": m.part, "keys": m.keys, "selection": m.selection, **pieces}
        scattered.append(run.task(m.part.path, "sharding:scatter", identity, arguments, m.part.bytes))
    run.executor.announce(scattered)
    # No shard is in the ledger: it is written while workers make them.
    run.begun = begin_release(
        run.plan, run.workspace, run.ledgers, [name for name, _ in _counted(run)],
        [m.made or (m.part, m.keys) for m in members], run.generations, **run.exchange,
    )  # fmt: skip
    records = run.tasks(scattered)
    places: dict[int, dict[int, list[tuple[Part, int]]]] = {}
    for record in records:
        part = record.parts["scattered"][0]
        for group, (number, block) in enumerate(record.facts["blocks"]):
            places.setdefault(number, {}).setdefault(block, []).append((part, group))
    with_tools = any(record.facts["tools"] for record in records)
    gathers = []
    shards = run.sampled.facts["shards"]
    for numbers in _few_rows([shard["rows"] for shard in shards]):
        wanted = []
        for number in numbers:
            blocks = [parts for _, parts in sorted(places[number].items())]
            wanted.append({"kind": shards[number]["kind"], "blocks": blocks})
        named = [
            [one["kind"], [[[part.digest, group] for part, group in parts] for parts in one["blocks"]]]
            for one in wanted
        ]
        parts = [part for one in wanted for listed in one["blocks"] for part, _ in listed]
        size = sum(part.bytes * BLOCK // max(1, part.rows) // 8 for part in parts)
        first = shards[numbers[0]]
        label = f"{first['variety']} {first['split']} {first['number']}"
        gathers.append(
            run.task(
                label + (f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""),
                "sharding:gather",
                {"shards": named, "tools": with_tools},
                {"shards": wanted, "with_tools": with_tools},
                min(size, 1000 * sum(shards[number]["rows"] for number in numbers)),
            )
        )
    made = [
        (part, facts)
        for record in run.tasks(gathers)
        for part, facts in zip(record.parts["shard"], record.facts["shards"], strict=True)
    ]
    for shard, (part, facts) in zip(shards, made, strict=True):
        run.shards.append(ShardFile(part=part, facts=facts, **shard))
    return {}


def _counted(run: Running) -> list[tuple[str, dict[str, int]]]:
    """What stages counted, in their order: those that saw rows."""
    return [(report.name, report.counts) for report in run.reports if any(report.counts.values())]


def release(run: Running, stage: Stage) -> Counts:
    """Write the release with its ledger and documents."""
    assert run.sampled is not None and run.begun is not None
    counted = {
        name: {one: statistics.add(listed) for one, listed in sorted(found.items())}
        for name, found in sorted(run.statistics.items())
    }
    run.result = write_release(
        run.plan, run.workspace, run.begun, run.shards, _counted(run), run.sampled.facts["epochs"], counted,
        run.generations, run.documents,
    )  # fmt: skip
    run.cached = not run.result.fresh
    return {}


def _few_rows(sizes: Sequence[int]) -> list[list[int]]:
    """Put neighbouring small shards together, up to one block of rows; return the numbers of each group."""
    groups: list[list[int]] = []
    rows = BLOCK
    for number, size in enumerate(sizes):
        if rows + size > BLOCK:
            groups.append([])
            rows = 0
        groups[-1].append(number)
        rows += size
    return groups
