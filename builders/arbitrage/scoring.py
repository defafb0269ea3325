"""Scoring: one table of everything that is known of the completions of a part, without their texts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from aya_data.builders.arbitrage.arbiter import Arbiter
from aya_data.builders.arbitrage.lengths import relative_lengths
from aya_data.builders.arbitrage.penalties import penalties
from aya_data.builders.arbitrage.review.prompts import DIVERGENCE, text_divergence
from aya_data.builders.arbitrage.tables import COMPLETIONS, SCORE, SCORES
from aya_data.core.errors import BuildError
from aya_data.core.row import normal_text

__all__ = ["add_scores", "described", "heard", "warm"]

QUOTED: Final = 200
"""Characters of a verdict that an error quotes."""


def described(prompts: pa.Table, completions: pa.Table, diverging: bool) -> pa.Table:
    """Describe completions as :data:`~aya_data.builders.arbitrage.tables.SCORES`, before any arbiter speaks.

    ``diverging`` adds how different the answers to each prompt are. 30 microseconds per completion, most of it for
    its language.
    """
    texts = completions["text"]
    columns = {name: completions[name] for name in COMPLETION_FIELDS}
    columns["chars"] = pc.utf8_length(texts).cast(pa.int32())
    lengths = relative_lengths(
        completions["language"].to_pylist(), completions["script"].to_pylist(), columns["chars"].to_numpy()
    )
    columns["length"] = pc.round(pa.array(lengths, pa.float64()), 4)
    columns["digest"] = pa.array([_digest(text) for text in texts.to_pylist()], pa.string())
    columns["penalties"] = penalties(prompts, completions)
    table = pa.table({name: columns[name] for name in SCORES.names}).cast(SCORES)
    return table.append_column(DIVERGENCE, text_divergence(completions)) if diverging else table


COMPLETION_FIELDS = tuple(name for name in SCORES.names if name not in ("chars", "length", "digest", "penalties"))


def add_scores(
    table: pa.Table,
    prompts: pa.Table,
    completions: pa.Table,
    arbiters: Mapping[str, Arbiter],
    answers: Mapping[str, pa.Table],
) -> pa.Table:
    """Add what every arbiter says: ``score.<arbiter>``, and its other columns in the same way."""
    for name, arbiter in sorted(arbiters.items()):
        said = arbiter.score(prompts, completions, answers.get(name))
        score = pc.round(said["score"].cast(pa.float64()), 4)
        table = table.append_column(SCORE + name, score)
        for column in said.column_names:
            if column != "score":
                table = table.append_column(f"{column}.{name}", said[column])
    return table


def heard(parts: Iterable[Mapping[str, pa.Table]], source: str) -> pa.Table:
    """Count the verdicts of each judge, from the tables ``arbiter/<name>`` or ``review/<name>`` of all parts and those
    with its scores: ``arbiter, verdicts``. Raises BuildError where one said something, and nothing of it is a score."""
    said: Counter[str] = Counter()
    scored: Counter[str] = Counter()
    first: dict[str, tuple[str, str]] = {}
    for tables in parts:
        for step in [name for name in tables if "/" in name]:
            name = step.partition("/")[2].partition("@")[0]
            answers = tables[step].filter(pc.is_valid(tables[step]["text"]))
            said[name] += answers.num_rows
            column = next(table[SCORE + name] for table in tables.values() if SCORE + name in table.column_names)
            scored[name] += len(column) - column.null_count
            if answers.num_rows and not scored[name]:
                least = min(zip(answers["key"].to_pylist(), answers["text"].to_pylist(), strict=True))
                first[name] = min(first.get(name, least), least)
    for name, count in sorted(said.items()):
        if count and not scored[name]:
            raise BuildError(
                f"the source {source!r}: none of the {count:,} verdicts of the judge {name!r} can be read; one is "
                f"{first[name][1][:QUOTED]!r}",
                "Give it another model, rubric or mode, or more max_tokens. All answers are kept.",
            )
    names = sorted(said)
    counts = pa.array([said[name] for name in names], pa.int64())
    return pa.table({"arbiter": pa.array(names, pa.string()), "verdicts": counts})


def warm(arbiters: Mapping[str, Arbiter], diverging: bool) -> None:
    """Have the kernels compiled that describe answers, and those of the arbiters that ask no model."""
    texts = [
        "Der Mond scheint auf das stille Meer.",
        "The moon shines on the quiet sea, and 中文 stands beside it.",
    ]
    columns: dict[str, Any] = {
        "row": [0, 0, 0],
        "prompt": ["p"] * 3,
        "language": ["deu"] * 3,
        "script": ["Latn"] * 3,
        "teacher": ["a", "b", "c"],
        "family": ["a", "b", "c"],
        "sample": [0] * 3,
        "key": ["1", "2", "3"],
        "text": [*texts, texts[0] * 2],
        "finish": ["stop"] * 3,
        "tokens": [None] * 3,
        "thought": [None] * 3,
    }
    said = pa.table({name: columns[name] for name in COMPLETIONS.names}, schema=COMPLETIONS)
    turns = [[{"role": "user", "content": texts[0]}]]
    prompts = pa.table({
        "row_key": ["p"], "language": ["deu"], "script": ["Latn"], "task": pa.array([None], pa.string()),
        "messages": turns,
    })  # fmt: skip
    add_scores(
        described(prompts, said, diverging),
        prompts,
        said,
        {name: arbiter for name, arbiter in arbiters.items() if arbiter.voice() is None},
        {},
    )


def _digest(text: str) -> str:
    return hashlib.blake2b(normal_text(text).encode("utf-8", "replace"), digest_size=12).hexdigest()
