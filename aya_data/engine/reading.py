"""Reading: units of a source, or rows of a parent source, become parts of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aya_data.core.draft_columns import DraftColumns
from aya_data.core.identity import draw, draws
from aya_data.core.ledger import LEDGER, entries, rejected, tally
from aya_data.core.row import PART, Draft, Rejection, Table, tabulate
from aya_data.core.stage import Batch, Builder, Unit
from aya_data.core.store import Output, Part, Store
from aya_data.engine.keying import Keys, with_keys
from aya_data.engine.memory import rarely_collected
from aya_data.text.normal import prompt_hashes

__all__ = ["bundles", "chosen_parents", "derive", "limit", "read", "write_batches"]

MAX_CHARS = 1_000_000
SMALL = 32
BUNDLE = 24


def bundles(units: Sequence[Unit], part_bytes: int) -> list[list[Unit]]:
    """Put small units together, so that a thousand small files are not a thousand parts.

    Units below 1/32 of a part are bundled in their order (by digest). A bundle ends where the digest of a unit
    says so, one time in 24, or when a quarter of a part is reached: a new file changes its own bundle only.
    """
    made: list[list[Unit]] = []
    waiting: list[Unit] = []
    size = 0
    for unit in units:
        if not 0 < unit.size < part_bytes // SMALL:
            made.append([unit])
            continue
        waiting.append(unit)
        size += unit.size
        if size >= part_bytes // 4 or draw(0, "bundle", unit.digest) % BUNDLE == 0:
            made.append(waiting)
            waiting, size = [], 0
    return [*made, waiting] if waiting else made


def read(
    store: Store, output: Output, *, builder: Builder, units: Sequence[Unit], stage: str, part_bytes: int
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Read units into parts ``rows`` and ``ledger``. Memory: one batch and one part."""
    batches = (batch for unit in units for batch in builder.read(unit))
    return write_batches(output, builder, batches, stage, part_bytes)


def derive(
    store: Store,
    output: Output,
    *,
    builder: Builder,
    rows: Part,
    selection: Part,
    keys: Keys | None,
    threshold: int | None,
    stage: str,
    part_bytes: int,
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Make rows from the surviving rows of one part of a parent source.

    ``threshold`` is the highest draw that is taken, or ``None`` for all.
    """
    parents = chosen_parents(store, builder, rows, selection, keys, threshold)
    batches = iter(()) if parents is None else builder.derive(parents)
    return write_batches(output, builder, batches, stage, part_bytes)


def chosen_parents(
    store: Store, builder: Builder, rows: Part, selection: Part, keys: Keys | None, threshold: int | None
) -> pa.Table | None:
    """Return the surviving rows of one part of a parent source that a builder draws; ``None`` where it draws none."""
    alive = store.read(selection, ["row", "row_key"])
    if threshold is not None:
        drawn = draws(builder.environment.seed, f"parents:{builder.source}", alive["row_key"].to_pylist())
        alive = alive.filter(pa.array(drawn <= np.uint64(threshold)))
    if alive.num_rows == 0:
        return None
    return with_keys(store.read(rows), rows, keys).take(alive["row"])


def limit(
    store: Store,
    output: Output,
    *,
    rows: Part,
    keys: Keys | None,
    seed: int,
    source: str,
    threshold: int | None,
    stage: str,
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Keep the rows of one part whose draw is at most ``threshold`` (``--limit``)."""
    table = with_keys(store.read(rows), rows, keys)
    drawn = draws(seed, f"limit:{source}", table["row_key"].to_pylist())
    keep = pa.array(np.ones(len(drawn), np.bool_) if threshold is None else drawn <= np.uint64(threshold))
    kept, left = table.filter(keep), table.filter(pc.invert(keep))
    output.write("rows", kept)
    if left.num_rows:
        columns = {"stage": stage, "source": left["source"], "row_key": left["row_key"], "rule": "limit"}
        with output.part("ledger", LEDGER) as writer:
            writer.write(entries({**columns, "outcome": "not_sampled"}, left.num_rows))
    counts = tally(rows_in=table.num_rows, rows_out=kept.num_rows, not_sampled=left.num_rows)
    return {stage: counts}, {}


def write_batches(
    output: Output, builder: Builder, batches: Iterator[Batch], stage: str, part_bytes: int
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Write what a builder made into parts ``rows`` and ``ledger``; return the counts of ``stage``."""
    with rarely_collected():
        return _write(output, builder, batches, stage, part_bytes)


def _tabulated(drafts: Sequence[Draft], builder: Builder, max_chars: int) -> list[Table]:
    """Tabulate drafts; a builder of conversations may make pairs beside them."""
    if isinstance(drafts, DraftColumns):
        return [drafts.tabulate(builder.source, builder.kind, max_chars, prompt_hashes)]
    pairs = [draft for draft in drafts if draft.chosen is not None]
    if builder.kind == "preference" or not pairs:
        return [tabulate(drafts, builder.source, builder.kind, max_chars, prompt_hashes)]
    others = [draft for draft in drafts if draft.chosen is None]
    made = [tabulate(others, builder.source, builder.kind, max_chars, prompt_hashes)] if others else []
    return [*made, tabulate(pairs, builder.source, "preference", max_chars, prompt_hashes)]


def _write(
    output: Output, builder: Builder, batches: Iterator[Batch], stage: str, part_bytes: int
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    max_chars = int(getattr(builder.settings, "max_chars", MAX_CHARS))
    records = drafted = dropped = consumed = rows_out = not_sampled = own = 0
    ledger: list[pa.Table] = []
    waiting: list[pa.Table] = []
    waiting_bytes = 0

    def flush() -> None:
        nonlocal waiting, waiting_bytes
        if waiting:
            with output.part("rows", PART) as writer:
                writer.write(pa.concat_tables(waiting))
        waiting, waiting_bytes = [], 0

    for batch in batches:
        tables = _tabulated(batch.drafts, builder, max_chars)
        refused: list[Rejection] = [*batch.rejections, *(r for table in tables for r in table.rejections)]
        records += batch.records
        own += batch.records - len(batch.rejections)
        drafted += len(batch.drafts)
        for rejection in refused:
            dropped += rejection.outcome == "dropped"
            consumed += rejection.outcome == "consumed"
            not_sampled += rejection.outcome == "not_sampled"
        if refused:
            ledger.append(rejected(stage, builder.source, refused))
        for table in tables:
            rows_out += table.rows.num_rows
            if table.rows.num_rows:
                waiting.append(table.rows)
                waiting_bytes += table.rows.nbytes
                if waiting_bytes >= part_bytes:
                    flush()
    flush()
    if ledger:
        with output.part("ledger", LEDGER) as writer:
            writer.write(pa.concat_tables(ledger))
    counts = tally(
        rows_in=records,
        created=drafted - own,
        rows_out=rows_out,
        dropped=dropped,
        consumed=consumed,
        not_sampled=not_sampled,
    )
    return {stage: counts}, {}
