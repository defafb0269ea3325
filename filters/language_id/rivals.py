"""The trigrams of a labelled sample in one script, and what they weigh for a language against its rivals.

The rivals of a label are the texts that the model wrongly calls so, and to a small part all other texts of the script.
What is learned from a sample must hold for texts, and languages, that are not in it. So everything is cut into
``FOLDS`` parts, texts by their hash and languages that the model does not know by theirs, and each part is weighed with
what the others say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aya_data.core.identity import draws
from aya_data.text.language_profile import WITHOUT, trigrams_of, weigh_trigrams, words_of

__all__ = ["FOLDS", "Trigrams", "folds"]

FOLDS = 4
OTHERS = 2000.0
"""How many trigrams of all other texts the rivals have besides their own."""
SCALE = 100_000.0
"""The trigrams that the rivals are thought to have together."""

Counts = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def folds(texts: Sequence[str], languages: Sequence[str], known: Mask) -> Longs:
    """Return the part of each row, from 0: by its text, or where the model does not know its language by that."""
    keys = (text if of_text else language for text, language, of_text in zip(texts, languages, known, strict=True))
    encoded = (key.encode("utf-8", "surrogatepass") for key in keys)
    return (draws(0, "language_id folds", encoded) % np.uint64(FOLDS)).astype(np.int64)


class Trigrams:
    """The trigrams of some texts that measure as one script, each with its part and whether its language is known."""

    def __init__(self, texts: Sequence[str], measured: str, part: Longs, known: Mask) -> None:
        found = [trigrams_of(words_of(text, measured)) if measured not in WITHOUT else [] for text in texts]
        self.names = sorted({trigram for trigrams in found for trigram in trigrams})
        self._numbers = numbers = {trigram: number for number, trigram in enumerate(self.names)}
        self._rows = [np.array([numbers[trigram] for trigram in trigrams], np.int32) for trigrams in found]
        self._part = part
        every = np.arange(len(texts))
        hidden = [self._count(every[~known & (part == fold)]) for fold in range(FOLDS)]
        total = self._count(every)
        self._others = [*(total - counts for counts in hidden), total]

    def weights(self, own: Longs, wrong: Longs, fold: int = FOLDS) -> tuple[dict[str, int], float]:
        """Return the weights of the trigrams of the texts ``own``, and the mean weight of a trigram in them, against
        their rivals: ``wrong`` and all others. A ``fold`` is left out, ``FOLDS`` for none."""
        counts = self._count(own[self._part[own] != fold])
        rivals = self._count(wrong[self._part[wrong] != fold])
        others = np.maximum(self._others[fold] - self._count(own), 0)
        mixed = rivals + others * (OTHERS / max(others.sum(), 1))
        weights = weigh_trigrams(self.names, counts, mixed * (SCALE / max(mixed.sum(), 1)))
        numbers = [self._numbers[name] for name in weights]
        mean = counts[numbers] @ np.array([*weights.values()], np.float64) / max(counts.sum(), 1)
        return weights, round(float(mean), 4)

    def _count(self, rows: Longs) -> Counts:
        chosen = [self._rows[row] for row in rows.tolist()]
        numbers = np.concatenate(chosen) if chosen else np.zeros(0, np.int32)
        return np.bincount(numbers, minlength=len(self.names)).astype(np.float64)
