"""The text of a row: what its user, its assistant or both say, as one string per row.

A preference row's two answers stand in ``chosen`` and ``rejected``, which repeat the shared turns of
``messages``: their last turns are added to what ``messages`` holds. System and tool turns are left out,
because they are often English or machine notation whatever the conversation is in.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["COLUMNS", "Part", "row_column", "row_texts"]

Part = Literal["conversation", "prompt", "answer"]

COLUMNS = ("messages", "chosen", "rejected")
"""The row columns that :func:`row_texts` reads."""

ROLES: dict[Part, tuple[str, ...]] = {
    "conversation": ("user", "assistant"),
    "prompt": ("user",),
    "answer": ("assistant",),
}


def row_texts(rows: pa.Table, part: Part) -> list[str]:
    """Return :func:`row_column` as strings."""
    texts: list[str] = row_column(rows, part).to_pylist()
    return texts


def row_column(rows: pa.Table, part: Part) -> pa.Array:
    """Return one text per row: its turns by the roles of ``part``, joined by line breaks.

    Empty where a row has no such turn. Works on whole columns: about 0.3 microseconds per turn beside
    copying the text.
    """
    pieces = [_joined(rows["messages"], ROLES[part])]
    if part != "prompt":
        pieces += [_last(rows[name]) for name in ("chosen", "rejected")]
    if all(piece.null_count == len(piece) for piece in pieces[1:]):
        return pieces[0]
    joined = pc.binary_join_element_wise(*pieces, pa.scalar("\n", pa.large_string()), null_handling="skip")
    return pc.utf8_trim(joined, "\n")


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], pa.Array, pa.Array]:
    """Return the number of turns of each row, and the roles and contents of all turns."""
    turns = column.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(turns), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = turns.flatten()
    return lengths, pc.struct_field(flat, "role"), pc.struct_field(flat, "content")


def _joined(column: pa.ChunkedArray, roles: tuple[str, ...]) -> pa.Array:
    lengths, role, content = _flat(column)
    wanted = pc.is_in(role, pa.array(roles, pa.string()))
    ends = np.concatenate([[0], np.cumsum(lengths)])
    kept = np.concatenate([[0], np.cumsum(wanted.to_numpy(zero_copy_only=False).astype(np.int64))])
    lists = pa.LargeListArray.from_arrays(pa.array(kept[ends]), content.filter(wanted).cast(pa.large_string()))
    return pc.binary_join(lists, pa.scalar("\n", pa.large_string()))


def _last(column: pa.ChunkedArray) -> pa.Array:
    """Return the content of each row's last turn, null where there is no conversation."""
    lengths, _, content = _flat(column)
    last = pa.array(np.cumsum(lengths) - 1, mask=lengths == 0)
    return content.take(last).cast(pa.large_string())
