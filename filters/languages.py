"""The ``languages`` filter: rows outside the languages of the spec.

A row is kept when some variety of the spec has the same language (macrolanguages and their members count
as the same where the language tables say so) and the same script. A script that nobody declared (``Zyyy``)
matches any.

Rules: ``language_not_in_spec`` (value: the row's variety; threshold: the spec's varieties of that language, or how many
varieties the spec has), ``language_unresolved`` (value: the source's label; evidence: why it could not be resolved).
Without a list of languages nothing is dropped; unresolved rows are flagged.

Cost: one decision per distinct label; 300,000 rows take about 0.1 s.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aya_data.core import settings
from aya_data.core.language import UND, Variety, same_language
from aya_data.core.language import name as spoken
from aya_data.core.stage import RowFilter, Verdicts
from aya_data.text.script import UNDECIDED

__all__ = ["Languages"]


class Languages(RowFilter):
    """Drops rows whose variety is not one of ``environment.languages``."""

    name = "languages"
    columns = ("language", "script", "source_language", "language_reason")

    class Settings(settings.Settings):
        """There is nothing to set: the list is the spec's ``languages``."""

    def pins(self) -> dict[str, str]:
        wanted = self.environment.languages
        return {"languages": "any" if wanted is None else " ".join(sorted(v.code for v in wanted))}

    def judge(self, rows: pa.Table, measures: pa.Table | None = None) -> Verdicts:
        labels = pc.binary_join_element_wise(*(pc.fill_null(rows[column], "") for column in self.columns), "\x1f")
        encoded = labels.combine_chunks().dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        wanted = self.environment.languages
        decided = [_decide(wanted, *text.split("\x1f", 3)) for text in encoded.dictionary.to_pylist()]
        hit = np.array([rule is not None for rule, *_ in decided], np.bool_)[codes]
        columns = [np.array(column, object)[codes].tolist() for column in zip(*decided, strict=True)]
        rule, value, threshold, evidence = columns or ([], [], [], [])
        if self.environment.languages is None:
            drop, flag = np.zeros(len(rows), np.bool_), hit
        else:
            drop, flag = hit, None
        return Verdicts(drop, rule, value, threshold, evidence, flag)


@lru_cache(10_000)
def _decide(
    wanted: tuple[Variety, ...] | None, language: str, script: str, label: str, reason: str
) -> tuple[str | None, str | None, str | None, str | None]:
    """Return rule, value, threshold and evidence. A process remembers what it said of a label."""
    if language == UND.language:
        return ("language_unresolved", label, None, reason or "no label")
    if wanted is None or any(_matches(variety, language, script) for variety in wanted):
        return (None, None, None, None)
    same = sorted(v.code for v in wanted if same_language(v.language, language))
    shown = ", ".join(same) if same else f"{len(wanted)} varieties"
    why = f"in {script}, the spec has it in another script" if same else "not in the spec's languages"
    return ("language_not_in_spec", f"{language}_{script}", shown, f"{spoken(language)}: {why}")


def _matches(variety: Variety, language: str, script: str) -> bool:
    if not same_language(variety.language, language):
        return False
    return variety.script == script or script in UNDECIDED or variety.script in UNDECIDED
