"""Language identification on real text: fewer wrong labels, and as many right ones as raw fastText.

Needs the folder of data sets that ``AYA_DATA_REAL`` names. Three parts that never meet:

* *calibration*: half of the texts of two sources, by the hash of the text; the bundled table is made of it;
* *choice*: half of the other texts in known languages, and the unknown languages whose code has an even hash: what to
  compare other ways by;
* *test*: the rest, tried here: the other texts in known languages, and the unknown languages of odd hash.

Each kind of text is tried with the bundled table, whose calibration had other texts in the unknown languages, and with
a table that is made anew without a row in any unknown language of the test.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from aya_data.core import language as languages
from aya_data.core.identity import draws
from aya_data.filters.language_id import calibration as language_calibration
from aya_data.filters.language_id import labels as language_labels
from aya_data.filters.language_id import trial as language_trial
from aya_data.filters.language_id.calibration import Sample
from aya_data.filters.language_id.table import LanguageTable, bundled_table
from aya_data.filters.language_id.trial import Result
from aya_data.text import language_model

DATA = os.environ.get("AYA_DATA_REAL", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA, reason="AYA_DATA_REAL names no folder of real data"),
]

MODEL = language_model.locate(None, base=Path(), cache=Path())

CALIBRATED = {
    "sib": ("sib200/train_first320.parquet", "lang", "text"),
    "tatoeba": ("tatoeba_laser/tatoeba_112.parquet", "source_lang", "source_sentence"),
}
UNSEEN = {
    "news": ("masakhane_news/news.parquet", "lang", "text"),
    "stories": ("african_storybook/stories.parquet", "lang", "text"),
    "books": ("pratham_books/stories.parquet", "lang", "text"),
    "reviews": ("nusax/sentiment_train_valid.parquet", "language", "text"),
    "questions": ("afriqa/queries_train_dev.parquet", "lang", "question"),
    "reading": ("xquad/xquad.parquet", "lang", "question"),
    "causes": ("xcopa/xcopa.parquet", "lang", "premise"),
    "captions": ("stsb_multi_mt/train_dev.parquet", "lang", "sentence1"),
}


def rows(place: tuple[str, str, str]) -> Iterator[tuple[languages.Variety, str]]:
    """The labelled texts of one source, each once, at most 400 per label."""
    file, label_column, text_column = place
    table = pq.read_table(Path(DATA) / file, columns=[label_column, text_column])
    seen: dict[str, set[str]] = {}
    for label, text in zip(table[label_column].to_pylist(), table[text_column].to_pylist(), strict=True):
        known = seen.setdefault(label, set())
        variety = languages.resolve(label).variety
        if text and text not in known and len(known) < 400 and variety != languages.UND:
            known.add(text)
            yield variety, text[:2000]


def kept_back(text: str) -> bool:
    """What ``aya-data calibrate --holdout 0.5`` keeps back."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) < 0.5 * 2**64


def sample(pairs: list[tuple[languages.Variety, str]]) -> Sample:
    return language_calibration.prepare([text for _, text in pairs], [variety for variety, _ in pairs], MODEL)


def known(variety: languages.Variety) -> bool:
    return language_labels.knows(language_labels.known_varieties(MODEL.labels), variety.language, None)


def hidden(variety: languages.Variety) -> bool:
    """Whether a variety is in a language for the test alone, if the model does not know it."""
    return not known(variety) and hashlib.sha256(variety.language.encode()).digest()[0] % 2 == 1


def tried(variety: languages.Variety, text: str) -> bool:
    """Whether a row that was not calibrated with belongs to the test."""
    return hashlib.sha256(text.encode()).digest()[9] % 2 == 1 if known(variety) else hidden(variety)


@pytest.fixture(scope="module")
def tests() -> dict[str, Sample]:
    """The test: sentences, short sentences, and the sources that no calibration saw."""
    pairs = {
        "sentences in 200 languages": [pair for pair in rows(CALIBRATED["sib"]) if kept_back(pair[1])],
        "short sentences": [pair for pair in rows(CALIBRATED["tatoeba"]) if kept_back(pair[1])],
        "other sources": [pair for place in UNSEEN.values() for pair in rows(place)],
    }
    return {name: sample([pair for pair in found if tried(*pair)]) for name, found in pairs.items()}


@pytest.fixture(scope="module")
def tables() -> dict[str, LanguageTable]:
    given = [pair for place in CALIBRATED.values() for pair in rows(place)]
    calibrated = sample([pair for pair in given if not kept_back(pair[1]) and not hidden(pair[0])])
    return {"bundled": bundled_table(), "unseen": language_calibration.calibrate(calibrated, MODEL)}


def intervals(found: Sample, table: LanguageTable) -> dict[str, str]:
    """95 % intervals of the shares: the bootstrap over languages, 1,000 times."""
    trials: dict[bool, list[tuple[int, Result]]] = {True: [], False: []}
    for language in sorted({variety.language for variety in found.varieties}):
        mine = np.array([variety.language == language for variety in found.varieties])
        trial = language_trial.attempt(found.take(mine), table, MODEL)
        if trial.known or trial.unknown:
            trials[trial.known > 0].append((trial.known or trial.unknown, trial.calibrated))
    shown = {}
    for name, is_known in (
        ("coverage", True), ("accuracy", True), ("wrong_passes", False), ("apart_from_siblings", False)
    ):  # fmt: skip
        of = trials[is_known]
        rows_of = np.array([count * (r.coverage if name == "accuracy" else 1) for count, r in of])
        passing = rows_of * np.array([getattr(r, name) for _, r in of])
        keys = (f"{turn} {place}" for turn in range(1000) for place in range(len(of)))
        chosen = (draws(0, name, keys) % np.uint64(len(of))).astype(np.int64).reshape(1000, len(of))
        shares = passing[chosen].sum(axis=1) / np.maximum(rows_of[chosen].sum(axis=1), 1)
        low, high = np.quantile(shares, (0.025, 0.975))
        shown[name] = f"{low:.1%} to {high:.1%}"
    return shown


@pytest.mark.parametrize("table", ["bundled", "unseen"])
@pytest.mark.parametrize("kind", ["sentences in 200 languages", "short sentences", "other sources"])
def test_texts_in_unknown_languages_get_labels_less_often(
    kind: str, table: str, tests: dict[str, Sample], tables: dict[str, LanguageTable]
) -> None:
    """And known languages have no less coverage and accuracy than raw fastText minus one point."""
    trial = language_trial.attempt(tests[kind], tables[table], MODEL)
    print(f"\n{kind}, {table}: {trial}\n{intervals(tests[kind], tables[table])}")
    raw, calibrated = trial.raw, trial.calibrated
    assert calibrated.coverage >= raw.coverage - 0.01, str(trial)
    assert calibrated.accuracy >= raw.accuracy - 0.01, str(trial)
    assert calibrated.apart_from_siblings <= {"bundled": 0.05, "unseen": 0.1}[table], str(trial)
    assert calibrated.wrong_passes <= {"bundled": 0.3, "unseen": 0.45}[table] * raw.wrong_passes, str(trial)


@pytest.mark.parametrize("language", ["arb", "eng", "hin", "ita", "spa", "tur"])
def test_languages_with_many_unknown_neighbours_keep_their_labels(language: str, tests: dict[str, Sample]) -> None:
    """Three for every four rows that one threshold for all labels rightly, at least."""
    raw = calibrated = 0.0
    for found in tests.values():
        mine = np.array([variety.language == language for variety in found.varieties])
        trial = language_trial.attempt(found.take(mine), bundled_table(), MODEL)
        raw += trial.known * trial.raw.coverage * trial.raw.accuracy
        calibrated += trial.known * trial.calibrated.coverage * trial.calibrated.accuracy
    assert calibrated >= 0.75 * raw


def test_declared_thresholds_keep_the_rows_of_languages_that_are_known_poorly() -> None:
    pairs = [
        pair
        for pair in rows(CALIBRATED["sib"])
        if kept_back(pair[1]) and f"{pair[0]}" in ("som_Latn", "yor_Latn", "sun_Latn")
    ]
    found = sample(pairs)
    for language in ("som", "yor", "sun"):
        line = bundled_table().declared[language, "Latn"]
        mine = np.array([variety.language == language for variety in found.varieties])
        names = [languages.fasttext_labels()[label] for label in MODEL.labels]
        counts = np.array([language_labels.relation(language, name) > language_labels.OTHER for name in names])
        confidence = np.where(counts[found.labels], found.confidences, 0).sum(axis=1)[mine]
        assert (confidence >= line.confidence).mean() >= 0.95
        assert (confidence >= 0.5).mean() < 0.75
