"""The ``tokens`` filter counts the tokens of each row and drops none.

``n_tokens`` is the count of the whole conversation by the spec's tokenizer, its chat template applied where it has one.
A preference row counts both of its conversations, which is what training on it reads.

Cost: see :mod:`aya_data.text.tokens`; counts are measures, cached under the tokenizer's digest.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from aya_data.core.mix_settings import TokenizerSettings
from aya_data.core.stage import Environment, RowFilter, Verdicts
from aya_data.text.tokens import Tokenizer, locate

__all__ = ["Tokens"]


class Tokens(RowFilter):
    """Counts tokens: score ``n_tokens``."""

    name = "tokens"
    libraries = ("sentencepiece", "tokenizers", "jinja2")
    columns = ("row_key",)
    measure_columns = ("messages", "chosen", "rejected")
    Settings = TokenizerSettings

    def __init__(self, settings: TokenizerSettings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self.files = locate(
            settings.kind,
            settings.path,
            base=environment.base,
            cache=environment.cache,
            revision=settings.revision,
            offline=environment.offline,
        )

    def pins(self) -> dict[str, str]:
        return {"tokenizer": self.files.digest}

    def measure_pins(self) -> dict[str, str]:
        return {"tokenizer": self.files.digest}

    def measure(self, rows: pa.Table) -> pa.Table:
        """Return ``n_tokens`` (int32) of each row."""
        tokenizer = Tokenizer.load(self.files)
        shared, chosen, rejected = (rows[name].to_pylist() for name in self.measure_columns)
        firsts = tokenizer.count_conversations(
            [messages if best is None else best for messages, best in zip(shared, chosen, strict=True)]
        )
        seconds = tokenizer.count_conversations([turns or [] for turns in rejected])
        counts = np.array(firsts, np.int64) + np.array(seconds, np.int64)
        return pa.table({"n_tokens": pa.array(np.minimum(counts, 2**31 - 1).astype(np.int32))})

    def judge(self, rows: pa.Table, measures: pa.Table | None) -> Verdicts:
        assert measures is not None, "the engine measures before it judges"
        nothing = [None] * len(measures)
        counts = measures["n_tokens"].combine_chunks().cast(pa.float64())
        return Verdicts(
            np.zeros(len(measures), np.bool_), nothing, nothing, nothing, nothing, scores={"n_tokens": counts}
        )
