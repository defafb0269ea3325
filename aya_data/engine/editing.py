"""Editing: filters that change texts, over one part, before anything else sees it.

Every turn of a row (``messages``, ``chosen``, ``rejected``) is edited alike. A row keeps its key; what follows from
its text (``id``, hashes, lengths) is made anew. Rows that an edit leaves without text are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aya_data.core.identity import content_id, digest
from aya_data.core.ledger import LEDGER, entries, tally
from aya_data.core.row import MESSAGE, MESSAGES, prompt_hash
from aya_data.core.stage import Editor
from aya_data.core.store import Output, Part, Store
from aya_data.engine.keying import Keys, with_keys

__all__ = ["edit"]

SIDES = ("messages", "chosen", "rejected")
EVIDENCE = 300


def edit(
    store: Store, output: Output, *, rows: Part, keys: Keys | None, editors: Sequence[tuple[str, Editor]]
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]:
    """Apply ``editors`` (stage name, filter) in order; write the rows anew, and whom they changed to the ledger."""
    table = with_keys(store.read(rows), rows, keys).combine_chunks()
    counts: dict[str, dict[str, int]] = {}
    ledger: list[pa.Table] = []
    for stage, editor in editors:
        before = table.num_rows
        table = _edited(table, editor, stage, ledger)
        counts[stage] = tally(rows_in=before, rows_out=table.num_rows, dropped=before - table.num_rows)
    with output.part("rows", table.schema) as writer:
        writer.write(table)
    if ledger:
        with output.part("ledger", LEDGER) as writer:
            writer.write(pa.concat_tables(ledger))
    return counts, {}


def _edited(table: pa.Table, editor: Editor, stage: str, ledger: list[pa.Table]) -> pa.Table:
    sides = [table[side].combine_chunks() for side in SIDES]
    flats = [side.flatten() for side in sides]
    owners = [_owners(side) for side in sides]
    owner = np.concatenate(owners)
    turns = pa.table(
        {
            "text": pa.chunked_array([pc.struct_field(flat, "content") for flat in flats]),
            "role": pa.chunked_array([pc.struct_field(flat, "role") for flat in flats]),
            "language": table["language"].take(pa.array(owner)),
            "script": table["script"].take(pa.array(owner)),
        }
    )
    edits = editor.edit(turns.combine_chunks())
    if not len(edits.texts) == len(edits.rule) == len(edits.evidence) == len(owner):
        raise ValueError(f"{editor.name} edited {len(edits.texts)} of {len(owner)} turns")
    touched = np.flatnonzero(np.array([rule is not None for rule in edits.rule], np.bool_))
    if not len(touched):
        return table
    texts = edits.texts.cast(pa.string())
    start = 0
    for side, old, flat in zip(SIDES, sides, flats, strict=True):
        content = texts.slice(start, len(flat))
        start += len(flat)
        whole = pa.StructArray.from_arrays([pc.struct_field(flat, "role"), content], fields=list(MESSAGE))
        lengths = pc.fill_null(pc.list_value_length(old), 0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        made = pa.ListArray.from_arrays(pa.array(offsets), whole, type=MESSAGES, mask=old.is_null())
        table = table.set_column(table.schema.get_field_index(side), side, made)
    changed = np.unique(owner[touched])
    table = _renewed(table, changed)
    empty = _without_text(table, changed)
    _note(ledger, stage, table, edits.rule, edits.evidence, owner, touched, empty)
    return table.filter(pa.array(~np.isin(np.arange(table.num_rows), np.array(list(empty), np.int64))))


def _owners(side: pa.ListArray) -> npt.NDArray[np.int64]:
    """The row of each turn."""
    lengths = pc.fill_null(pc.list_value_length(side), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(side)), lengths)


def _renewed(table: pa.Table, changed: npt.NDArray[np.int64]) -> pa.Table:
    """Make anew what follows from the text of the rows at ``changed``."""
    new: dict[str, list[Any]] = {name: [] for name in ("id", "row_hash", "prompt_hash", "prompt_chars", "answer_chars")}
    for row in table.select([*SIDES, "row_hash"]).take(pa.array(changed)).to_pylist():
        turns, chosen, rejected = (
            None if row[side] is None else [(turn["role"], turn["content"]) for turn in row[side]] for side in SIDES
        )
        assert turns is not None, "every row has messages"
        identity = content_id(turns, chosen, rejected)
        prompt = "\n".join(content for role, content in turns if role != "assistant")
        last = (turns if chosen is None else chosen)[-1]
        new["id"].append(identity)
        new["row_hash"].append(digest(row["row_hash"], identity))
        new["prompt_hash"].append(prompt_hash(prompt))
        new["prompt_chars"].append(len(prompt))
        new["answer_chars"].append(len(last[1]) if last[0] == "assistant" else 0)
    mask = np.zeros(table.num_rows, np.bool_)
    mask[changed] = True
    for name, values in new.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        column = pc.replace_with_mask(table[name].combine_chunks(), pa.array(mask), pa.array(values, field.type))
        table = table.set_column(place, field, column)
    return table


def _without_text(table: pa.Table, changed: npt.NDArray[np.int64]) -> dict[int, str]:
    """Rows at ``changed`` that can be no row any more, with the rule that says why."""
    found: dict[int, str] = {}
    for place, row in zip(changed.tolist(), table.select(list(SIDES)).take(pa.array(changed)).to_pylist(), strict=True):
        if any(not turn["content"].strip() for side in SIDES for turn in row[side] or ()):
            found[place] = "empty_after_edit"
        elif row["chosen"] is not None and row["chosen"] == row["rejected"]:
            found[place] = "identical_pair"
    return found


def _note(
    ledger: list[pa.Table],
    stage: str,
    table: pa.Table,
    rules: Sequence[str | None],
    evidence: Sequence[str | None],
    owner: npt.NDArray[np.int64],
    touched: npt.NDArray[np.int64],
    empty: Mapping[int, str],
) -> None:
    """Say in the ledger which rows were changed (``flagged``), and which were dropped for it."""
    said: dict[int, dict[str, dict[str, None]]] = {}
    for turn in touched.tolist():
        by_rule = said.setdefault(int(owner[turn]), {})
        noted = by_rule.setdefault(str(rules[turn]), {})
        if evidence[turn]:
            noted[str(evidence[turn])] = None
    lines = [
        (row, rule, "; ".join(noted)[:EVIDENCE] or None) for row, found in said.items() for rule, noted in found.items()
    ]
    for outcome, listed in (
        ("flagged", lines),
        ("dropped", [(row, rule, None) for row, rule in empty.items()]),
    ):
        if listed:
            places = table.select(["source", "row_key"]).take(pa.array([row for row, _, _ in listed]))
            columns = {
                "stage": stage,
                "source": places["source"],
                "row_key": places["row_key"],
                "outcome": outcome,
                "rule": [rule for _, rule, _ in listed],
                "evidence": [text for _, _, text in listed],
            }
            ledger.append(entries(columns, len(listed)))
