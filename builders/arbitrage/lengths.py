"""The norm of a language: how many characters an ordinary answer has in it.

Chinese says in 330 characters what English says in 1,000 and German in 1,170. So lengths compare between languages only
as multiples of a norm: :data:`ENGLISH` characters, times what texts of the language have relative to the same texts in
English (``data/lengths.tsv``: 205 varieties, counted in parallel sentences). Counted in the paragraphs of XQuAD
instead, the ratios of its eleven other languages are 1 to 5 % smaller. A variety that is not in the table has the
ratio of its language in the same letters, else the median of its script, else 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from statistics import median

import numpy as np
import numpy.typing as npt

from aya_data.core.language import same_language
from aya_data.text.script import same_letters

__all__ = ["ENGLISH", "norm", "relative_lengths"]

DATA_FILES = ("data/lengths.tsv",)

ENGLISH = 1000.0
"""Characters of an ordinary answer in English: the median of those of 27 chat models to the 805 prompts of AlpacaEval
is 1,093."""


@cache
def norm(language: str, script: str) -> float:
    """Return the characters of an ordinary answer in a variety (ISO 639-3, ISO 15924)."""
    ratios = _ratios()
    exact = ratios.get((language, script))
    if exact is not None:
        return ENGLISH * exact
    own = [
        ratio for (one, code), ratio in ratios.items() if same_language(one, language) and same_letters(code, script)
    ]
    alike = own or [ratio for (_, code), ratio in ratios.items() if code == script]
    return ENGLISH * median(alike or [1.0])


def relative_lengths(
    languages: Sequence[str], scripts: Sequence[str], chars: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return ``chars`` of n answers (int64) as multiples of the norm of their varieties: float64[n], not rounded."""
    norms = np.fromiter((norm(*pair) for pair in zip(languages, scripts, strict=True)), np.float64, len(chars))
    lengths: npt.NDArray[np.float64] = chars / norms
    return lengths


@cache
def _ratios() -> dict[tuple[str, str], float]:
    lines = (resources.files("aya_data.builders.arbitrage") / DATA_FILES[0]).read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")][1:]
    return {(language, script): float(ratio) for language, script, ratio in rows}
