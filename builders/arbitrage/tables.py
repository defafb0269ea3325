"""The tables that pass between the steps of an arbitrage, one of each for every part of the prompts."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

__all__ = ["COMPLETIONS", "POSITIONS", "SCORE", "SCORES"]

COMPLETIONS: Final = pa.schema(
    [
        pa.field("row", pa.int32()),
        pa.field("prompt", pa.string()),
        pa.field("language", pa.string()),
        pa.field("script", pa.string()),
        pa.field("teacher", pa.string()),
        pa.field("family", pa.string()),
        pa.field("sample", pa.int32()),
        pa.field("key", pa.string()),
        pa.field("text", pa.string()),
        pa.field("finish", pa.string()),
        pa.field("tokens", pa.int32()),
        pa.field("thought", pa.int32()),
    ]
)
"""All completions of one part, sorted by row, teacher and sample, so that those of a prompt stand together.

``row`` is the position of the prompt in its part, ``prompt`` its row_key; ``language`` and ``script`` are those of the
prompt. ``family`` is the model family of the teacher. ``key`` is that of the request. ``text`` is never null;
``tokens`` are the completion's, null where the engine does not say. ``thought`` counts the characters of a thought that
was left out of the text, null where there was none.
"""

SCORES: Final = pa.schema(
    [
        *(field for field in COMPLETIONS if field.name != "text"),
        pa.field("chars", pa.int32()),
        pa.field("length", pa.float64()),
        pa.field("digest", pa.string()),
        pa.field("penalties", pa.list_(pa.string())),
    ]
)
"""What is known of every completion once it is scored, in the same order; then a float64 column ``score.<arbiter>`` for
every arbiter (null where it has none), and string columns ``note.<arbiter>`` where an arbiter says more (a critique).

``chars`` counts Unicode characters. ``length`` is the length that compares between languages: the completion's
characters divided by the norm of its language (1.0 is as long as an ordinary answer). ``digest`` is that of the
normalised text: equal for answers that say the same. ``penalties`` names what comes before any score, such as
``truncated`` and ``wrong_language``.
"""

SCORE: Final = "score."
"""What the columns of scores begin with."""

POSITIONS: Final = ("pairs", "flipped", "first_wins", "second_wins")
"""Columns (int32) that an arbiter which compares two answers in both orders adds to its score of a completion; here
``pairs.<arbiter>`` and so on. ``pairs``: comparisons it stood in of which both orders gave a verdict; ``flipped``:
those of them where another answer won, or a tie was called, in the other order; ``first_wins`` and ``second_wins``:
verdicts that it won while shown first and while shown second (ties count for neither). Each comparison counts once
for both of its completions. Null where the completion was not compared.
"""
