"""One side of some rows, judged: what its measures say of the language that the row declares.

Used by :mod:`aya_data.filters.language_id.filter`, which describes the rules. All look-ups are made once per distinct
combination of declared variety, label and script, never per row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aya_data.core import language as languages
from aya_data.filters.language_id import labels as language_labels
from aya_data.filters.language_id.labels import CONFUSABLE, OTHER, SAME
from aya_data.filters.language_id.table import LanguageTable
from aya_data.text import script
from aya_data.text.language_model import ModelFile

__all__ = [
    "BEST",
    "UNDETERMINED",
    "Asked",
    "Declarations",
    "Judged",
    "declarations",
    "judge_side",
    "shares_of_lines",
    "side_of",
]

BEST = 3
UNDETERMINED = "undetermined"
CHINESE = frozenset({"zho", "yue", "wuu", "nan", "hak", "gan", "hsn", "lzh", "cdo"})
HARDLY = 0.05
"""Confidence below which a row passes its calibrated threshold only because its language cannot be told."""
SHORT_HAN = 60
"""Letters (20 characters) below which Han characters without kana are no evidence against Japanese either."""

Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a row must reach: ``threshold`` of a declared variety, and whether a table says what is believed."""

    model: ModelFile
    table: LanguageTable | None
    calibrated: bool
    threshold: Callable[[str, str], float]
    min_letters: int
    keep_confusable: bool
    drop_unsure: bool


@dataclass(frozen=True, slots=True)
class Declarations:
    """The distinct varieties that some rows declare, and which each row declares."""

    varieties: Sequence[tuple[str, str]]
    of_row: Codes


@dataclass(slots=True)
class Judged:
    """The verdicts on one side of n rows. ``believed`` tells where ``detected`` is a language to rely on, ``best`` the
    language of the best label."""

    drop: Mask
    rule: npt.NDArray[np.object_]
    value: list[str | None]
    threshold: list[str | None]
    evidence: list[str | None]
    detected: list[str]
    confidence: Shares
    judged: Mask
    believed: Mask
    best: list[str]


def declarations(rows: pa.Table) -> Declarations:
    """Read the columns ``language`` and ``script``."""
    names, codes = _encode(pc.binary_join_element_wise(rows["language"], rows["script"], "_"))
    return Declarations([(name.partition("_")[0], name.partition("_")[2]) for name in names], codes)


def judge_side(declared: Declarations, measures: Mapping[str, pa.ChunkedArray], asked: Asked) -> Judged:
    """Judge one side by its measures (columns without the prefix of the side)."""
    varieties, of_row = declared.varieties, declared.of_row
    count = len(of_row)
    label_names, labels = _labels(measures, count)
    names = language_labels.wikipedia(asked.model.labels)
    meant = [language_labels.variety(name, names) for name in label_names]
    confidences = np.column_stack([measures[f"confidence_{rank + 1}"].to_numpy() for rank in range(BEST)])
    confidences = confidences.reshape(count, BEST)
    measured, written = _encode(measures["script"])
    letters = measures["letters"].to_numpy()

    relation = _relations(varieties, of_row, meant, labels)
    han = _lookup([code == "Hani" for code in measured], written)
    japanese = _lookup([v.language == "jpn" for v in meant], labels)
    chinese = _lookup([language in CHINESE for language, _ in varieties], of_row)
    relation[japanese & (han & chinese)[:, None]] = SAME
    counts = relation >= (CONFUSABLE if asked.keep_confusable else SAME)
    confidence = np.round(np.where(counts, confidences, 0.0).sum(axis=1), 4)
    threshold = np.array([asked.threshold(*variety) for variety in varieties], np.float64)[of_row]

    known = language_labels.known_varieties(asked.model.labels)
    unknown = _lookup([language == languages.UND.language for language, _ in varieties], of_row)
    supported = _lookup([language_labels.knows(known, language, None) for language, _ in varieties], of_row)
    in_script = _lookup([language_labels.knows(known, *variety) for variety in varieties], of_row)
    determined = (letters >= asked.min_letters) & (written >= 0) & (labels[:, 0] >= 0)
    declares_japanese = _lookup([language == "jpn" for language, _ in varieties], of_row)
    determined &= ~(han & declares_japanese & (letters < SHORT_HAN))
    foreign = _foreign(varieties, of_row, measured, written) & determined & ~unknown
    judged = determined & ~unknown & supported

    other = np.where(counts | (labels < 0), 0.0, confidences).max(axis=1, initial=0.0)
    if asked.table is not None:
        sure = determined & (measures["margin"].to_numpy() >= 0)
    else:
        sure = determined
    against = sure & ~counts[:, 0] if asked.calibrated else other >= threshold
    unsure = judged & (confidence < threshold)
    if asked.calibrated:
        unsure |= judged & against & (confidences[:, 0] > confidence)
    silent = determined & ~unknown & ~supported | unsure & ~in_script & ~foreign
    latin = _lookup([code == "Latn" for code in measured], written)
    usual = _lookup([_romanises(known, *variety) for variety in varieties], of_row)
    romanised = unsure & foreign & latin & usual & ~(against & sure)
    mismatch = unsure & ~silent & ~romanised & against
    low = unsure & ~silent & ~romanised & ~against
    drop = mismatch | low if asked.drop_unsure else mismatch
    foreign &= measures["script_share"].to_numpy() >= 0.5
    hardly = judged & ~unsure & (confidence < HARDLY) if asked.calibrated else low
    masks = [mismatch, low, romanised, foreign, silent, judged & (relation[:, 0] == CONFUSABLE), hardly]
    chosen = np.select(
        masks,
        [
            "language_mismatch", "low_confidence", "romanised", "script_mismatch", "unsupported_language", "confusable",
            "low_confidence",
        ],
        "",
    )  # fmt: skip
    rule = chosen.astype(object)
    # A model may know a romanised language without having been calibrated for it.
    romanised |= foreign & latin & usual & (relation[:, 0] == SAME) & ~sure
    detected = _detected(varieties, of_row, meant, labels[:, 0], measured, written, determined, sure, romanised)
    value: list[str | None] = [None] * count
    limit, evidence = value.copy(), value.copy()
    spoken = [variety.language for variety in meant]
    noted = np.flatnonzero(chosen != "")
    best_labels, best_confidences = labels[noted].tolist(), confidences[noted].tolist()
    for place, row in enumerate(noted.tolist()):
        said = rule[row]
        if said in ("script_mismatch", "romanised"):
            value[row], limit[row] = measured[written[row]], varieties[of_row[row]][1]
        elif said != "unsupported_language":
            value[row], limit[row] = f"{confidence[row]:.4f}", f"{threshold[row]:g}"
        evidence[row] = _evidence(varieties[of_row[row]], spoken, best_labels[place], best_confidences[place])
    best = [*spoken, ""]
    return Judged(
        drop, rule, value, limit, evidence, detected, confidence, judged, sure,
        [best[place] for place in labels[:, 0].tolist()],
    )  # fmt: skip


def shares_of_lines(
    declared: Declarations, labels: pa.ChunkedArray, letters: pa.ChunkedArray, model: ModelFile
) -> tuple[Shares, list[str | None]]:
    """Return the share of letters that stand in lines of another language than declared, and the language that most of
    them are in (null for none). ``labels`` and ``letters`` are lists: what lines were believed to be in, and how many
    letters those lines have."""
    count = len(declared.of_row)
    names = language_labels.wikipedia(model.labels)
    lists = labels.combine_chunks()
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    row = np.repeat(np.arange(count), sizes)
    label_names, codes = _encode(pa.chunked_array([lists.flatten()]))
    weights = letters.combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    meant = [language_labels.variety(name, names) for name in label_names]
    relation = _relations(declared.varieties, declared.of_row[row], meant, codes[:, None])[:, 0]
    unknown = _lookup([language == languages.UND.language for language, _ in declared.varieties], declared.of_row)
    strange = (relation == OTHER) & ~unknown[row]
    total = np.bincount(row, weights=weights, minlength=count)
    share = np.round(np.bincount(row[strange], weights=weights[strange], minlength=count) / np.maximum(total, 1), 4)
    main: list[str | None] = [None] * count
    # Ascending by letters, so that the last one written is the largest; of equals the first by name.
    places = np.flatnonzero(strange)
    order = sorted(places.tolist(), key=lambda place: (weights[place], label_names[codes[place]]))
    for place in order:
        main[row[place]] = meant[codes[place]].language
    return share, main


def _evidence(
    declared: tuple[str, str], spoken: Sequence[str], labels: Sequence[int], confidences: Sequence[float]
) -> str:
    """Say what was declared and what was detected instead, with the confidences."""
    best = ", ".join(
        f"{spoken[label]} {confidence:.4f}" for label, confidence in zip(labels, confidences, strict=True) if label >= 0
    )
    return f"declared {declared[0]}_{declared[1]}, detected {best}"


def _encode(column: pa.ChunkedArray) -> tuple[list[str], Codes]:
    """Return the distinct values and their number per row, -1 for null."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return encoded.dictionary.to_pylist(), codes


def _lookup(values: Sequence[bool], codes: Codes) -> Mask:
    """Return a truth for each code; false for -1."""
    found: Mask = np.array([*values, False], np.bool_)[codes]
    return found


def _labels(measures: Mapping[str, pa.ChunkedArray], count: int) -> tuple[list[str], Codes]:
    """Return the distinct labels and int64[n, 3] numbers into them, -1 where there is none."""
    ranks = [measures[f"label_{rank + 1}"] for rank in range(BEST)]
    names, codes = _encode(pa.chunked_array([c for r in ranks for c in r.chunks], pa.string()))
    return names, codes.reshape(BEST, count).T


def _romanises(known: frozenset[languages.Variety], language: str, written: str) -> bool:
    """Tell whether Latin letters would be a romanisation: neither declared nor known to the model."""
    return not script.written_in(written, "Latn") and not language_labels.knows(known, language, "Latn")


def _relations(
    declared: Sequence[tuple[str, str]], of_row: Codes, meant: Sequence[languages.Variety], labels: Codes
) -> Codes:
    """Return int64[n, k]: how each label stands to its row's declared language, one look-up per pair."""
    width = len(meant) + 1
    pairs, inverse = np.unique(of_row[:, None] * width + labels + 1, return_inverse=True)
    found = np.zeros(len(pairs), np.int64)
    for index, pair in enumerate(pairs.tolist()):
        row, label = divmod(pair, width)
        if label:
            found[index] = language_labels.relation(declared[row][0], meant[label - 1].language)
    return found[inverse].reshape(labels.shape)


def _foreign(declared: Sequence[tuple[str, str]], of_row: Codes, measured: Sequence[str], written: Codes) -> Mask:
    """Tell which rows are written in another script than they declare."""
    matrix = np.zeros((len(declared), len(measured) + 1), np.bool_)
    for row, (_, wanted) in enumerate(declared):
        for column, code in enumerate(measured):
            matrix[row, column] = not script.written_in(wanted, code)
    result: Mask = matrix[of_row, written]
    return result


def _detected(
    declared: Sequence[tuple[str, str]],
    of_row: Codes,
    meant: Sequence[languages.Variety],
    best: Codes,
    measured: Sequence[str],
    written: Codes,
    determined: Mask,
    sure: Mask,
    romanised: Mask,
) -> list[str]:
    """Return the detected variety of each row, worded once per combination."""
    state = determined.astype(np.int64) + (determined & sure) + 2 * (determined & romanised)
    widths = (len(meant) + 1, len(measured) + 1, 5)
    keys = ((of_row * widths[0] + best + 1) * widths[1] + written + 1) * widths[2] + state
    combinations, inverse = np.unique(keys, return_inverse=True)
    names = []
    for key in combinations.tolist():
        key, how = divmod(key, widths[2])
        key, code = divmod(key, widths[1])
        row, label = divmod(key, widths[0])
        if how == 0:
            names.append(UNDETERMINED)
        elif how >= 3:
            names.append(f"{declared[row][0]}_Latn")
        elif how == 1:
            names.append(f"{languages.UND.language}_{measured[code - 1]}")
        else:
            variety = meant[label - 1]
            names.append(f"{variety.language}_{_script_of(variety, declared[row], measured[code - 1])}")
    found: list[str] = np.array(names, object)[inverse].tolist()
    return found


def _script_of(detected: languages.Variety, declared: tuple[str, str], measured: str) -> str:
    """The script of a detected variety: as the label says, else the finest code that fits the letters."""
    if detected.script != languages.UND.script:
        return detected.script
    if declared[0] == detected.language and script.written_in(declared[1], measured):
        return declared[1]
    usual = languages.resolve(detected.language).variety.script
    return usual if script.written_in(usual, measured) else measured


def side_of(measures: pa.Table, prefix: str) -> dict[str, Any]:
    """Return the columns of one side, without its prefix."""
    return {name.removeprefix(prefix): measures[name] for name in measures.column_names if name.startswith(prefix)}
