"""From the prompts of a part to conversations that are asked, and from answers to one table of completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from aya_data.builders.arbitrage.tables import COMPLETIONS

__all__ = ["completions", "conversations"]

Turn = tuple[str, str]


def conversations(prompts: pa.Table) -> list[tuple[Turn, ...]]:
    """Return what is asked of each row: a conversation without its last answer, what a prompt or a pair begins with.

    Empty where nothing is left that a user said, and where tools are used, which no teacher is given.
    """
    asked = []
    tools = prompts["tools"].to_pylist() if "tools" in prompts.column_names else [None] * prompts.num_rows
    for messages, given in zip(prompts["messages"].to_pylist(), tools, strict=True):
        turns = [(turn["role"], turn["content"]) for turn in messages or ()]
        if given or any(role == "tool" for role, _ in turns):
            turns = []
        while turns and turns[-1][0] != "user":
            turns.pop()
        asked.append(tuple(turns))
    return asked


def completions(prompts: pa.Table, answers: Mapping[str, Sequence[pa.Table]], families: Mapping[str, str]) -> pa.Table:
    """Put the answers of teachers together, as :data:`~aya_data.builders.arbitrage.tables.COMPLETIONS`.

    ``answers`` holds the tables of each teacher, one for every round, as
    :func:`~aya_data.builders.arbitrage.thoughts.answered` makes them; an answer without text is no completion.
    """
    parts = []
    for teacher, tables in sorted(answers.items()):
        for table in tables:
            said = table.filter(pc.and_(pc.is_valid(table["text"]), pc.not_equal(table["finish"], "failed")))
            places = said["row"]
            columns: dict[str, Any] = {
                "row": places,
                "prompt": prompts["row_key"].take(places),
                "language": prompts["language"].take(places),
                "script": prompts["script"].take(places),
                "teacher": pa.repeat(pa.scalar(teacher), said.num_rows),
                "family": pa.repeat(pa.scalar(families[teacher]), said.num_rows),
                "sample": said["tag"].cast(pa.int32()),
                "key": said["key"],
                "text": said["text"],
                "finish": said["finish"],
                "tokens": said["completion_tokens"],
                "thought": said["thought"],
            }
            parts.append(pa.table({name: columns[name] for name in COMPLETIONS.names}).cast(COMPLETIONS))
    whole = pa.concat_tables(parts) if parts else COMPLETIONS.empty_table()
    return whole.sort_by([("row", "ascending"), ("teacher", "ascending"), ("sample", "ascending")]).combine_chunks()
