"""The shape of shards: views of the row that trainers load as they are.

* conversation: ``messages`` and metadata (TRL, axolotl, LLaMA-Factory, torchtune and open-instruct read it so).
* preference: full conversations ``chosen`` and ``rejected``, equal up to the last turn, ``margin``; ``context``,
  ``chosen_message`` and ``rejected_message`` beside them for LLaMA-Factory. No ``prompt`` column, which
  would make TRL read the pair in another way.
* prompt: ``prompt`` as messages, for online rounds.

Columns whose presence changes what a trainer does (``dataset``, ``text``, ``label`` …) never appear: the
dataset of a row is called ``source_dataset`` here. Maps become lists of (key, value), which ``datasets``
can read; ``tools`` stands only in a release where some row has tools.
"""

from __future__ import annotations

import pyarrow as pa

from aya_data.core.row import MESSAGE, MESSAGES, PROVENANCE

__all__ = ["FORBIDDEN", "released", "shape"]

FORBIDDEN = frozenset(
    {
        "chat_template_kwargs", "chosen", "completion", "conversations", "dataset", "image", "images",
        "input_ids", "label", "labels", "prompt", "rejected", "text",
    }
)  # fmt: skip
"""Column names that a conversation shard must not have."""

TAGS = pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.string())]))
SCORES = pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.float64())]))

_IDENTITY = [pa.field(n, pa.string()) for n in ("id", "row_key", "group", "language", "script", "source_language")]
_METADATA = [
    *_IDENTITY,
    pa.field("source", pa.string()),
    pa.field("source_dataset", pa.string()),
    pa.field("origin", pa.string()),
    pa.field("task", pa.string()),
    pa.field("license", pa.string()),
    pa.field("terms", pa.list_(pa.string())),
    pa.field("provenance", PROVENANCE),
    pa.field("extra", pa.string()),
    pa.field("tags", TAGS),
    pa.field("scores", SCORES),
    pa.field("n_tokens", pa.int32()),
    pa.field("epoch", pa.int32()),
]
_HEADS = {
    "conversation": [pa.field("messages", MESSAGES)],
    "prompt": [pa.field("prompt", MESSAGES)],
    "preference": [
        pa.field("chosen", MESSAGES),
        pa.field("rejected", MESSAGES),
        pa.field("margin", pa.float32()),
        pa.field("chosen_score", pa.float32()),
        pa.field("rejected_score", pa.float32()),
        pa.field("chosen_model", pa.string()),
        pa.field("rejected_model", pa.string()),
        pa.field("context", MESSAGES),
        pa.field("chosen_message", MESSAGE),
        pa.field("rejected_message", MESSAGE),
    ],
}


def released(kind: str, with_tools: bool) -> pa.Schema:
    """Return the schema of a shard of ``kind``."""
    tools = [pa.field("tools", pa.string())] if with_tools else []
    return pa.schema([*_HEADS[kind], *tools, *_METADATA])


def shape(table: pa.Table, kind: str, with_tools: bool) -> pa.Table:
    """Turn rows (columns of a row, and ``epoch``) into the columns of a shard."""
    columns: dict[str, pa.ChunkedArray | pa.Array] = {name: table[name] for name in table.column_names}
    columns["source_dataset"] = columns.pop("dataset")
    columns["tags"] = table["tags"].cast(TAGS)
    columns["scores"] = table["scores"].cast(SCORES)
    if kind == "prompt":
        columns["prompt"] = columns["messages"]
    if kind == "preference":
        columns["context"] = columns["messages"]
        for side in ("chosen", "rejected"):
            columns[f"{side}_message"] = _last(table[side])
    schema = released(kind, with_tools)
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def _last(conversations: pa.ChunkedArray) -> pa.Array:
    whole = conversations.combine_chunks()
    offsets = whole.offsets.to_numpy()
    return whole.values.take(pa.array(offsets[1:] - 1))
