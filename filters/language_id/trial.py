"""Trying a table on labelled text that it was not made from: what is called what, and what is left undetermined."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aya_data.core import language as languages
from aya_data.filters.language_id import labels as language_labels
from aya_data.filters.language_id.calibration import Sample
from aya_data.filters.language_id.table import LanguageTable, margins_of
from aya_data.text.language_model import ModelFile

__all__ = ["RAW", "Result", "Trial", "attempt"]

RAW = 0.65
"""The one threshold that is commonly used for lid.176, to compare with."""


@dataclass(frozen=True, slots=True)
class Result:
    """Shares, from 0 to 1.

    ``coverage``: rows in languages that the model knows that get a label; ``accuracy``: of these, those that get the
    right one. ``wrong_passes``: rows in languages that the model does not know that get a label;
    ``apart_from_siblings``: without those whose label is of the same macrolanguage (Iraqi Arabic called Arabic).
    """

    coverage: float
    accuracy: float
    wrong_passes: float
    apart_from_siblings: float


@dataclass(frozen=True, slots=True)
class Trial:
    """A table beside one threshold of ``RAW`` for all; ``known`` and ``unknown`` count the rows."""

    known: int
    unknown: int
    raw: Result
    calibrated: Result

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        """A table for a person."""
        lines = [f"{self.known} rows kept back in languages that the model knows, {self.unknown} in others:"]
        lines.append(f"{'':24} {'coverage':>9} {'accuracy':>9} {'wrong passes':>13} {'apart from siblings':>20}")
        for name, r in ((f"one threshold of {RAW:g}", self.raw), ("this table", self.calibrated)):
            shares = f"{r.coverage:>9.1%} {r.accuracy:>9.1%} {r.wrong_passes:>13.1%} {r.apart_from_siblings:>20.1%}"
            lines.append(f"{name:24} {shares}")
        return "\n".join(lines)


def attempt(sample: Sample, table: LanguageTable, model: ModelFile, min_letters: int = 20) -> Trial:
    """Try ``table`` on a labelled sample; rows of fewer than ``min_letters`` letters are left out."""
    meant = [language_labels.variety(label, language_labels.wikipedia(model.labels)) for label in model.labels]
    chosen = np.flatnonzero((sample.letters >= min_letters) & (sample.labels[:, 0] >= 0))
    sample = sample.take(chosen)
    best, confidence = sample.labels[:, 0], sample.confidences[:, 0]
    margin = margins_of(table, model.labels).measure(sample.texts, best, confidence, sample.scripts, sample.letters)
    known = language_labels.known_varieties(model.labels)
    knows = np.array([language_labels.knows(known, v.language, None) for v in sample.varieties], np.bool_)
    pairs = [(v.language, meant[label].language) for v, label in zip(sample.varieties, best.tolist(), strict=True)]
    right = np.array([languages.same_language(*pair) for pair in pairs], np.bool_)
    sibling = np.array([_siblings(*pair) for pair in pairs], np.bool_)
    return Trial(
        int(knows.sum()),
        int((~knows).sum()),
        _result(confidence >= RAW, knows, right, sibling),
        _result(margin >= 0, knows, right, sibling),
    )


def _siblings(one: str, other: str) -> bool:
    macro = languages.macro_of(one)
    return macro is not None and macro == languages.macro_of(other)


def _result(
    passes: npt.NDArray[np.bool_],
    knows: npt.NDArray[np.bool_],
    right: npt.NDArray[np.bool_],
    sibling: npt.NDArray[np.bool_],
) -> Result:
    def share(part: npt.NDArray[np.bool_], whole: npt.NDArray[np.bool_]) -> float:
        return round(float(part.sum()) / max(1, int(whole.sum())), 4)

    return Result(
        share(passes & knows, knows),
        share(passes & knows & right, passes & knows),
        share(passes & ~knows, ~knows),
        share(passes & ~knows & ~sibling, ~knows),
    )
