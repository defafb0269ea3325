"""The ``tokens`` filter counts the tokens of each row and drops none.

``n_tokens`` is the count of the whole conversation by the spec's tokenizer, its chat template applied where it has one.
A preference row counts both of its conversations, which is what training on it reads. Where the template refuses a
conversation its texts alone are counted, and the row's tag ``tokens`` is ``no_template``.

The statistic ``fertility`` says what a tokenizer makes of each language: by language and script the rows, and of their
texts alone, without a template, the tokens, characters (code points), UTF-8 bytes and words. Words are what white
space parts; in scripts that do not part words so they are 0. Tokens per word is the usual measure (Ács 2019;
Rust et al. 2021, arXiv 2012.15613).
``untemplated`` counts the rows that the template refused.

Cost: see :mod:`aya_data.text.tokens`; with a chat template texts are counted twice, with it and without. Counts are
measures, cached under the tokenizer's digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from aya_data.core.mix_settings import TokenizerSettings
from aya_data.core.stage import Environment, RowFilter, Verdicts
from aya_data.text.tokens import Tokenizer, located

__all__ = ["Tokens"]

UNSPACED: Final = frozenset(
    {
        "Bali", "Bopo", "Hanb", "Hani", "Hans", "Hant", "Hira", "Hrkt", "Java", "Jpan", "Kana", "Khmr", "Lana", "Laoo",
        "Mymr", "Tale", "Talu", "Tavt", "Thai", "Tibt", "Yiii",
    }
)  # fmt: skip
"""Scripts (ISO 15924) whose words are not parted by white space."""

COUNTS: Final = ("n_tokens", "tokens", "characters", "bytes", "words", "untemplated")


class Tokens(RowFilter):
    """Counts tokens: score ``n_tokens``, statistic ``fertility``."""

    name = "tokens"
    libraries = ("sentencepiece", "tokenizers", "jinja2")
    columns = ("language", "script")
    measure_columns = ("messages", "chosen", "rejected")
    Settings = TokenizerSettings

    def __init__(self, settings: TokenizerSettings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self.files = located(settings, environment, ())

    def pins(self) -> dict[str, str]:
        return {"tokenizer": self.files.digest}

    def measure_pins(self) -> dict[str, str]:
        return {"tokenizer": self.files.digest}

    def measure(self, rows: pa.Table) -> pa.Table:
        """Return the counts of each row (int32): ``n_tokens`` with the template, the others of the texts alone."""
        tokenizer = Tokenizer.load(self.files)
        shared, chosen, rejected = (rows[name].to_pylist() for name in self.measure_columns)
        firsts = [messages if best is None else best for messages, best in zip(shared, chosen, strict=True)]
        seconds: list[Sequence[Mapping[str, str]]] = [turns or [] for turns in rejected]
        (one, refused), (two, refused_too) = map(tokenizer.count_conversations, (firsts, seconds))
        counted = np.array(one, np.int64) + np.array(two, np.int64)
        untemplated = np.array(refused, np.bool_) | np.array(refused_too, np.bool_)
        texts = [[turn["content"] for turn in (*a, *b)] for a, b in zip(firsts, seconds, strict=True)]
        columns = [counted, counted]
        if self.files.template is not None:
            columns[1] = np.array(tokenizer.count_texts(texts), np.int64)
        columns.append(np.array([sum(map(len, row)) for row in texts], np.int64))
        columns.append(np.array([sum(len(text.encode()) for text in row) for row in texts], np.int64))
        columns.append(np.array([sum(len(text.split()) for text in row) for row in texts], np.int64))
        columns.append(untemplated.astype(np.int64))
        most = 2**31 - 1
        return pa.table(
            {
                name: pa.array(np.minimum(column, most).astype(np.int32))
                for name, column in zip(COUNTS, columns, strict=True)
            }
        )

    def judge(self, rows: pa.Table, measures: pa.Table | None) -> Verdicts:
        assert measures is not None, "the engine measures before it judges"
        nothing = [None] * len(measures)
        counts = measures["n_tokens"].combine_chunks().cast(pa.float64())
        refused = measures["untemplated"].to_numpy() > 0
        tag = pa.array(np.where(refused, "no_template", ""), mask=~refused, type=pa.string())
        return Verdicts(
            np.zeros(len(measures), np.bool_), nothing, nothing, nothing, nothing,
            tags={} if self.files.template is None else {"tokens": tag},
            scores={"n_tokens": counts}, statistics={"fertility": _fertility(rows, measures)},
        )  # fmt: skip


def _fertility(rows: pa.Table, measures: pa.Table) -> pa.Table:
    """Add the counts up by language and script."""
    table = rows.select(["language", "script"])
    for name in COUNTS[1:]:
        table = table.append_column(name, measures[name].cast(pa.int64()))
    grouped = table.group_by(["language", "script"], use_threads=False).aggregate(
        [([], "count_all"), *((name, "sum") for name in COUNTS[1:])]
    )
    words = [
        0 if script in UNSPACED else words
        for script, words in zip(grouped["script"].to_pylist(), grouped["words_sum"].to_pylist(), strict=True)
    ]
    return pa.table(
        {
            "language": grouped["language"].cast(pa.string()),
            "script": grouped["script"].cast(pa.string()),
            "rows": grouped["count_all"].cast(pa.int64()),
            **{name: grouped[f"{name}_sum"].cast(pa.int64()) for name in COUNTS[1:]},
            "words": pa.array(words, pa.int64()),
        }
    )
