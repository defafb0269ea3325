"""Thoughts: what a reasoning model says to itself before it answers is no part of its answer.

Such models write their thought between ``<think>`` and ``</think>``, or end it with the latter alone where their chat
template has opened it; a server that tells the two apart (``reasoning_content``) has left it out already. Their own
chat templates drop the thoughts of earlier turns, so that what is trained on is what stands behind them. The journal
keeps what the model said; here, on the way from there to the candidates, what stands behind the last thought is the
answer. A thought that never ends is an answer that was cut off, and where nothing follows a thought the answer is
empty.
"""

from __future__ import annotations

import re
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from aya_data.builders.arbitrage.teacher import TeacherSettings
from aya_data.core.generation import LENGTH

__all__ = ["THINKING", "THOUGHT", "answer_of", "answered"]

THINKING: Final = "<think>"
THOUGHT: Final = "</think>"
"""What begins and ends a thought."""
COMMON: Final = "think>"
"""What both have, so that a text without it is searched once."""
OPENED = re.compile(rf"^[^\S\n]*{THINKING}", re.MULTILINE)


def answer_of(text: str) -> tuple[str, bool]:
    """Return what a text says behind its thoughts, and whether a thought is left open. In time linear in its length.

    A thought opens at the beginning of a line: a sentence may speak of the mark.
    """
    ended = text.rfind(THOUGHT)
    rest = text[ended + len(THOUGHT) :].lstrip() if ended >= 0 else text
    opened = OPENED.search(rest)
    return (rest, False) if opened is None else (rest[: opened.start()].rstrip(), True)


def answered(answers: pa.Table, settings: TeacherSettings) -> pa.Table:
    """Return the answers of a voice (columns ``text`` and ``finish``) as its settings want them read, with a column
    ``thought``: the characters that were left out, null where there was no thought.

    1.7 microseconds for a text of 1,000 characters without a thought, 0.9 for one that begins with one.
    """
    thought: list[int | None] = [None] * answers.num_rows
    places: list[int] = []
    if settings.thoughts == "drop":
        marked = pc.match_substring(answers["text"], COMMON)
        places = pc.indices_nonzero(pc.fill_null(marked, False)).to_pylist()
    if places:
        texts, finishes = answers["text"].to_pylist(), answers["finish"].to_pylist()
        for place in places:
            said, opened = answer_of(texts[place])
            if opened:
                finishes[place] = LENGTH
            if said != texts[place]:
                thought[place] = len(texts[place]) - len(said)
            texts[place] = said
        for name, column in (("text", texts), ("finish", finishes)):
            answers = answers.set_column(answers.schema.get_field_index(name), name, pa.array(column, pa.string()))
    return answers.append_column("thought", pa.array(thought, pa.int32()))
