"""Calibrating a language model on labelled text: the table of :mod:`aya_data.filters.language_id.table`.

**Declared rows.** The threshold of a variety is the confidence that all but ``LOST`` of its rows reach, at most
``CEILING``: a language that the model knows poorly gets a low threshold instead of losing its rows, none gets a higher
one than the usual 0.5.

**Labels.** A label is believed of a text when it is likely enough to be right (the log odds of
:mod:`aya_data.filters.language_id.likelihood`). The odds are fitted to the rows that labels name rightly, and to those
in languages that the model does not know, which weigh as much together. Labels that are wrong among known languages are
no part of it: what is asked is whether the text is in a language that the model knows. To take Iraqi Arabic for Arabic,
or Awadhi for Hindi, weighs a small part: no sign keeps them apart that would not also refuse good Arabic of another
kind than the sample's. The odds that are asked are such that ``REFUSED`` of the right labels are not believed, and of
one label at most ``REFUSED_OF_ONE``; where a wrong label costs more than ``COST``, they are larger by as much. A label
without ``ENOUGH`` rows of its language gets no line. A sample without a row in an unknown language says nothing of the
odds: they are the usual ones.

Cost: some 150 microseconds per row, and the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aya_data.core import language as languages
from aya_data.core.errors import InputError
from aya_data.filters.language_id import labels as language_labels
from aya_data.filters.language_id.likelihood import USUAL, fit, signs
from aya_data.filters.language_id.rivals import FOLDS, Trigrams, folds
from aya_data.filters.language_id.table import Acceptance, Declared, LanguageTable
from aya_data.text import script
from aya_data.text.language_model import LanguageModel, ModelFile
from aya_data.text.language_profile import Profile, Profiles, make_profile

__all__ = [
    "ENOUGH", "Sample", "calibrate", "left_out", "listed", "prepare", "unknown_languages", "unknown_varieties",
]  # fmt: skip

LOST = 0.02
CEILING = 0.5
ENOUGH = 30
"""Rows of a language, at least, for a line of its own."""
SHOWN = 10
"""Varieties that are named before the rest is counted."""
REFUSED, REFUSED_OF_ONE = 0.035, 0.12
"""Of the rows with right labels, how many are not believed, and of those of one label at most: so much leaves texts of
other kinds the coverage that one threshold for all has."""
COST = 4.0
CONFUSABLE_WEIGHT, SIBLING_WEIGHT = 0.05, 0.015
"""What rows in unknown languages weigh that are easily mixed up with the label's, or of one macrolanguage with it."""

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
        strange = unknown_varieties(sample, model, min_letters=min_letters)
        more = left_out(sample, model, min_letters=min_letters) or not strange
        what = f"no language has {ENOUGH} rows that the model {model.name} can be calibrated with"
        remedy = ["Give more labelled rows, of at least some twenty letters each."] if more else []
        if strange:
            what += f"; languages that it does not know, by rows: {listed(strange)}"
            remedy.append("Name a model that does with --model.")
        raise InputError(what, " ".join(remedy))
    return LanguageTable(model.name, model.digest, (), declared, labels)


def left_out(sample: Sample, model: ModelFile, *, min_letters: int = 20) -> dict[str, int]:
    """Return the varieties that the model knows and that have fewer than ``ENOUGH`` rows to calibrate with, and how
    many they have: the table has no line for them."""
    known, _ = _counted(sample, model, min_letters)
    return {variety: count for variety, count in known.items() if count < ENOUGH}


def unknown_varieties(sample: Sample, model: ModelFile, *, min_letters: int = 20) -> dict[str, int]:
    """Return the varieties that the model does not know, and how many rows they have that are calibrated with: the
    table has no line for them, and their rows say of which texts no label is to be believed."""
    _, unknown = _counted(sample, model, min_letters)
    return unknown


def unknown_languages(sample: Sample, model: ModelFile, *, min_letters: int = 20) -> list[str]:
    """Return the languages of the rows to calibrate with that the model does not know."""
    known = language_labels.known_varieties(model.labels)
    names = {sample.varieties[row].language for row in _usable(sample, min_letters).tolist()}
    return sorted(name for name in names if not language_labels.knows(known, name, None))


def listed(counts: Mapping[str, int]) -> str:
    """Name varieties with their rows, those with most rows first, as in ``hau_Latn 200 and ibo_Latn 12``."""
    ordered = [f"{variety} {count}" for variety, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]
    if len(ordered) > SHOWN + 1:
        ordered = [*ordered[:SHOWN], f"{len(ordered) - SHOWN} more"]
    return " and ".join(filter(None, (", ".join(ordered[:-1]), *ordered[-1:])))


def _counted(sample: Sample, model: ModelFile, min_letters: int) -> tuple[dict[str, int], dict[str, int]]:
    """Count the rows to calibrate with by variety: of those that the model knows, and of the others."""
    varieties = language_labels.known_varieties(model.labels)
    counts = dict.fromkeys(sorted(set(sample.varieties)), 0)
    for row in _usable(sample, min_letters).tolist():
        counts[sample.varieties[row]] += 1
    known: dict[str, int] = {}
    unknown: dict[str, int] = {}
    for variety, count in counts.items():
        (known if language_labels.knows(varieties, variety.language, variety.script) else unknown)[variety.code] = count
    return known, unknown


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


@dataclass(frozen=True, slots=True)
class _Line:
    """A label in one script: the rows in its language, the rows that it is the best label of with their signs, which of
    these it is right for, and its profile."""

    label: int
    code: str
    own: Longs
    claimed: Longs
    right: Mask
    signs: Shares
    profile: Profile


def _labels(
    sample: Sample, rows: Longs, model: ModelFile, meant: Sequence[languages.Variety], cost: float
) -> dict[tuple[str, str], Acceptance]:
    """Find the profile of each label in each script, and from which margin on it is believed."""
    sample = sample.take(rows)
    language = np.array([variety.language for variety in sample.varieties])
    varieties = language_labels.known_varieties(model.labels)
    known = np.array([language_labels.knows(varieties, name, None) for name in language.tolist()], np.bool_)
    lines = list(_lines(sample, language, known, model, meant))
    if not lines:
        return {}
    number = np.repeat(np.arange(len(lines)), [len(line.claimed) for line in lines])
    right = np.concatenate([line.right for line in lines])
    claimed = np.concatenate([line.claimed for line in lines])
    unknown = ~right & ~known[claimed]
    found = np.concatenate([line.signs for line in lines])
    odds, of_label = np.array(USUAL), np.zeros(len(lines))
    if unknown.any():
        pairs = zip(number[unknown].tolist(), language[claimed[unknown]].tolist(), strict=True)
        weight = np.where(right, 1.0, 0.0)
        weight[unknown] = [_weight(meant[lines[line].label].language, name) for line, name in pairs]
        weight[unknown] *= weight[right].sum() / weight[unknown].sum()
        odds, of_label = fit(found, number, len(lines), right, weight)
    sums = odds[0] + of_label[number] + found @ odds[1:]
    asked_of_all = float(np.quantile(sums[right], REFUSED)) if right.any() else 0.0
    labels = {}
    for line, beyond in zip(lines, of_label.tolist(), strict=True):
        own = odds[0] + beyond + line.signs[line.right] @ odds[1:]
        least = min(asked_of_all, float(np.quantile(own, REFUSED_OF_ONE))) if len(own) else asked_of_all
        asked = np.round([odds[0] + beyond - least - np.log(cost / COST), *odds[1:]], 4)
        passes = asked[0] + line.signs @ asked[1:] >= 0
        kept, support = int((passes & line.right).sum()), len(line.own)
        labels[model.labels[line.label], line.code] = Acceptance(
            tuple(asked.tolist()), line.profile, support, _share(kept, passes.sum()), _share(kept, support)
        )
    return labels


def _lines(
    sample: Sample,
    language: npt.NDArray[np.str_],
    known: Mask,
    model: ModelFile,
    meant: Sequence[languages.Variety],
) -> Iterator[_Line]:
    """Measure the rows of each label in each script, every part of them with what the others say."""
    written = np.array([str(code) for code in sample.scripts])
    part = folds(sample.texts, language.tolist(), known)
    for code in sorted(set(written.tolist())):
        rows = np.flatnonzero(written == code)
        texts = [sample.texts[row] for row in rows.tolist()]
        trigrams = Trigrams(texts, code, part[rows], known[rows])
        names = sorted(set(language[rows].tolist()))
        best = sample.labels[rows, 0]
        for label, variety in enumerate(meant):
            if variety.language == languages.UND.language:
                continue
            if variety.script != languages.UND.script and not script.written_in(variety.script, code):
                continue
            same = [name for name in names if languages.same_language(variety.language, name)]
            of_language = np.isin(language[rows], same)
            own = np.flatnonzero(of_language)
            if len(own) < ENOUGH:
                continue
            claimed = np.flatnonzero(best == label)
            right = of_language[claimed]
            unknown = ~right & ~known[rows][claimed]
            plain = make_profile([texts[row] for row in own.tolist()], code)
            profiles = []
            for fold in range(FOLDS + 1):
                weights, usual = trigrams.weights(own, claimed[unknown], fold)
                profiles.append(replace(plain, trigrams=weights, usual=usual))
            # A row of a known language with a wrong label is in no part: nothing is learned from it.
            fold_of = np.where(right | unknown, part[rows][claimed], FOLDS)
            strange, common, fitting = Profiles(profiles).measure([texts[row] for row in claimed.tolist()], fold_of)
            typical = np.full(len(claimed), plain.typical)
            confidence, letters = sample.confidences[rows[claimed], 0], sample.letters[rows[claimed]]
            found = signs(confidence, strange, common, typical, fitting, letters)
            yield _Line(label, code, rows[own], rows[claimed], right, found, profiles[FOLDS])


def _weight(name: str, other: str) -> float:
    """What a row in an unknown language weighs against a label."""
    if languages.macro_of(name) is not None and languages.macro_of(name) == languages.macro_of(other):
        return SIBLING_WEIGHT
    return CONFUSABLE_WEIGHT if languages.confusable(name, other) else 1.0
