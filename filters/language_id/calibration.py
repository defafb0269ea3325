"""Calibrating a language model on labelled text: the table of :mod:`aya_data.filters.language_id.table`.

**Declared rows.** The threshold of a variety is the confidence that all but ``LOST`` of its rows reach, at most
``CEILING``: a language that the model knows poorly gets a low threshold instead of losing its rows, none gets a higher
one than the usual 0.5.

**Labels.** A label is believed of a text where confidence, strange letters and common words are within three limits.
For each label and script they are chosen together so that *right - cost x wrong* is greatest over the sample, where
right are rows of the label's language and wrong are rows of any other, known to the model or not. To take Iraqi Arabic
for Arabic, or Awadhi for Hindi, is wrong at a small part of the cost: no limit keeps them apart that would not also
refuse good Arabic of another kind than the sample's. A label without ``ENOUGH`` rows of its language gets no line.

Cost: some 40 microseconds per row, and the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aya_data.core import language as languages
from aya_data.core.errors import InputError
from aya_data.filters.language_id import labels as language_labels
from aya_data.filters.language_id.table import NEVER, Acceptance, Declared, LanguageTable
from aya_data.text import script
from aya_data.text.language_model import LanguageModel, ModelFile
from aya_data.text.language_profile import Profile, Profiles, make_profile

__all__ = ["ENOUGH", "Sample", "calibrate", "left_out", "prepare"]

LOST = 0.02
CEILING = 0.5
ENOUGH = 30
"""Rows of a language, at least, for a line of its own."""
COST = 4.0
CONFUSABLE_COST, SIBLING_COST = 0.1, 0.02
"""Parts of the cost: of a language that is easily mixed up with the label's, and of one of its macrolanguage."""
SHARE_OF_TYPICAL = 0.66
"""Common words are asked for up to this part of what is typical: texts of another kind have fewer than the sample."""

CONFIDENCES = np.round(np.arange(0.1, 0.71, 0.05), 2)
STRANGE = np.array([0.01, 0.015, 0.02, 0.03, 0.05, 0.1])
COMMON = np.array([0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.18, 0.21, 0.25, 0.3, 0.35, 0.4])

Longs = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Sample:
    """Labelled texts and what the model says of them: label numbers and confidences [n, 3], scripts, letters."""

    texts: Sequence[str]
    varieties: Sequence[languages.Variety]
    labels: npt.NDArray[np.int32]
    confidences: Shares
    scripts: Sequence[str | None]
    letters: Longs

    def take(self, chosen: npt.NDArray[Any]) -> Sample:
        """Return some rows: by a mask or by places."""
        places = (np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen).tolist()
        return Sample(
            [self.texts[row] for row in places],
            [self.varieties[row] for row in places],
            self.labels[places],
            self.confidences[places],
            [self.scripts[row] for row in places],
            self.letters[places],
        )


def prepare(texts: Sequence[str], varieties: Sequence[languages.Variety], model: ModelFile) -> Sample:
    """Let the model read labelled texts."""
    found = LanguageModel.load(model).predict(texts, 3)
    scripts = script.measure_scripts(texts)
    return Sample(texts, varieties, found.labels, found.confidences, scripts.script, scripts.letters)


def calibrate(sample: Sample, model: ModelFile, *, min_letters: int = 20, cost: float = COST) -> LanguageTable:
    """Return the table of a labelled sample. Texts of fewer letters than ``min_letters`` are left out, and those
    without a known language or in another script than their label says.

    Raises :class:`InputError` when no language has enough rows.
    """
    meant = [language_labels.variety(label, language_labels.wikipedia(model.labels)) for label in model.labels]
    rows = _usable(sample, min_letters)
    declared = _declared(sample, rows, model, meant)
    labels = _labels(sample, rows, model, meant, cost)
    if not declared or not labels:
        raise InputError(
            f"no language has {ENOUGH} rows that the model {model.name} can be calibrated with",
            "Give more labelled rows, of at least some twenty letters each.",
        )
    return LanguageTable(model.name, model.digest, (), declared, labels)


def left_out(sample: Sample, model: ModelFile, *, min_letters: int = 20) -> dict[str, int]:
    """Return the varieties that the model knows and that have fewer than ``ENOUGH`` rows to calibrate with, and how
    many they have: the table has no line for them."""
    known = language_labels.known_varieties(model.labels)
    counts = dict.fromkeys(sample.varieties, 0)
    for row in _usable(sample, min_letters).tolist():
        counts[sample.varieties[row]] += 1
    return {
        variety.code: count
        for variety, count in sorted(counts.items())
        if count < ENOUGH and language_labels.knows(known, variety.language, variety.script)
    }


def _usable(sample: Sample, min_letters: int) -> Longs:
    """Return the rows that can be calibrated with."""
    usable = [
        row
        for row, (variety, written) in enumerate(zip(sample.varieties, sample.scripts, strict=True))
        if written is not None
        and variety.language != languages.UND.language
        and sample.letters[row] >= min_letters
        and sample.labels[row, 0] >= 0
        and script.written_in(variety.script, written)
    ]
    return np.array(usable, np.int64)


def _declared(
    sample: Sample, rows: Longs, model: ModelFile, meant: Sequence[languages.Variety]
) -> dict[tuple[str, str], Declared]:
    """Find the threshold of each variety that the model knows."""
    known = language_labels.known_varieties(model.labels)
    names = sorted({(v.language, v.script) for v in (sample.varieties[row] for row in rows.tolist())})
    number = {name: place for place, name in enumerate(names)}
    of_row = np.array([number[sample.varieties[row].language, sample.varieties[row].script] for row in rows.tolist()])
    found = {}
    for place, (language, written) in enumerate(names):
        mine = of_row == place
        if mine.sum() < ENOUGH or not language_labels.knows(known, language, written):
            continue
        relation = np.array([language_labels.relation(language, v.language) for v in meant])
        counts = relation[sample.labels[rows]] >= language_labels.CONFUSABLE
        confidence = np.where(counts, sample.confidences[rows], 0.0).sum(axis=1)
        other = np.array([language_labels.relation(language, name) == language_labels.OTHER for name, _ in names])
        threshold = min(CEILING, _floor(float(np.quantile(confidence[mine], LOST))))
        passes = confidence >= threshold
        wrong = passes & other[of_row]
        right = passes & mine
        found[language, written] = Declared(
            threshold, int(mine.sum()), _share(right.sum(), right.sum() + wrong.sum()), _share(right.sum(), mine.sum())
        )
    return found


def _floor(value: float) -> float:
    """Round down to 0.01, so that rounding costs no row."""
    return float(np.floor(value * 100 + 1e-9) / 100)


def _share(part: float, whole: float) -> float:
    return round(float(part) / float(whole), 4) if whole else 0.0


def _labels(
    sample: Sample, rows: Longs, model: ModelFile, meant: Sequence[languages.Variety], cost: float
) -> dict[tuple[str, str], Acceptance]:
    """Choose the limits of each label in each script."""
    by_variety: dict[tuple[str, str], list[int]] = {}
    for row in rows.tolist():
        by_variety.setdefault((sample.varieties[row].language, str(sample.scripts[row])), []).append(row)
    best = sample.labels[rows, 0]
    written = np.array([str(sample.scripts[row]) for row in rows.tolist()])
    language = np.array([sample.varieties[row].language for row in rows.tolist()])
    found = {}
    for label in range(len(model.labels)):
        name = meant[label].language
        if name == languages.UND.language:
            continue
        for code in sorted({code for other, code in by_variety if languages.same_language(name, other)}):
            if meant[label].script != languages.UND.script and not script.written_in(meant[label].script, code):
                continue
            own = sorted(
                row
                for (other, place), many in by_variety.items()
                if place == code and languages.same_language(name, other)
                for row in many
            )
            if len(own) < ENOUGH:
                continue
            profile = make_profile([sample.texts[row] for row in own], code)
            claimed = np.flatnonzero((best == label) & (written == code))
            found[model.labels[label], code] = _limits(
                sample, rows[claimed], language[claimed], name, profile, len(own), cost
            )
    return found


def _limits(
    sample: Sample,
    claimed: Longs,
    language: npt.NDArray[np.str_],
    name: str,
    profile: Profile,
    support: int,
    cost: float,
) -> Acceptance:
    """Choose three limits over the rows that have one label: all combinations, by running sums over a grid."""
    strange, common = Profiles([profile]).measure(
        [sample.texts[row] for row in claimed.tolist()], np.zeros(len(claimed), np.int64)
    )
    confidence, strange, common = sample.confidences[claimed, 0], np.round(strange, 4), np.round(common, 4)
    codes, of_row = np.unique(language, return_inverse=True)
    right = np.array([languages.same_language(name, code) for code in codes.tolist()], np.bool_)[of_row]
    cells = (
        np.searchsorted(CONFIDENCES, confidence, side="right") - 1,
        len(STRANGE) - 1 - np.searchsorted(STRANGE, strange, side="left"),
        np.searchsorted(COMMON, common, side="right") - 1,
    )
    inside = (cells[0] >= 0) & (cells[1] >= 0)
    shape = (len(CONFIDENCES), len(STRANGE), len(COMMON))
    costs = np.array([_cost(name, code, cost) for code in codes.tolist()])[of_row]
    passing = []
    for mask, weights in ((right, np.ones(len(right))), (~right, costs), (~right, np.ones(len(right)))):
        chosen = inside & mask
        counts = np.zeros(shape)
        np.add.at(counts, tuple(cell[chosen] for cell in cells), weights[chosen])
        for axis in range(3):
            counts = np.flip(np.flip(counts, axis).cumsum(axis), axis)
        passing.append(counts)
    gain = passing[0] - passing[1]
    allowed = np.searchsorted(COMMON, SHARE_OF_TYPICAL * profile.typical + 1e-9, side="right")
    gain[:, :, allowed:] = -np.inf
    top = float(gain.max(initial=0.0))
    if top <= 0:
        return Acceptance(NEVER, 0.0, 0.0, profile, support, 0.0, 0.0)
    good = np.argwhere(gain >= top - 1e-9)
    places = good[np.argmax(passing[0][tuple(good.T)])]
    c, s, w = (int(place) for place in places)
    kept, wrong = passing[0][c, s, w], passing[2][c, s, w]
    return Acceptance(
        round(float(CONFIDENCES[c]), 4), float(STRANGE[len(STRANGE) - 1 - s]), float(COMMON[w]), profile,
        support, _share(kept, kept + wrong), _share(kept, support),
    )  # fmt: skip


def _cost(name: str, code: str, cost: float) -> float:
    if languages.macro_of(name) is not None and languages.macro_of(name) == languages.macro_of(code):
        return SIBLING_COST * cost
    return CONFUSABLE_COST * cost if languages.confusable(name, code) else cost
