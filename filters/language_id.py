"""The ``language_id`` filter: does the text speak the language that its row declares?

**Measure** (cached): the model's three best labels with their confidences, the number of letters and the dominant
script of the text. **Judge**: the confidence of the declared language is the sum over those of the three labels that
mean it; it must reach ``min_confidence``.

==========================  =======  =====================================================================
rule                        outcome  when
==========================  =======  =====================================================================
``language_mismatch``       dropped  too little confidence, and another language reaches the threshold
``low_confidence``          dropped  too little confidence, and no other language reaches it either; with
                                     ``unsure: keep`` it is flagged
``script_mismatch``         flagged  kept, although most letters are of another script than declared
``unsupported_language``    flagged  the model does not know the declared language, or not in the script in which it
                                     is declared and written (romanised Arabic): it cannot say anything
``confusable``              flagged  kept, although the best label is another language that models mix up
                                     with the declared one (Bosnian and Croatian, Malay and Indonesian)
==========================  =======  =====================================================================

The first rule that holds is the one that is given. Value is the confidence of the declared language, threshold what it
should have reached (for ``script_mismatch`` the two scripts). Labels are compared as languages,
a macrolanguage with its members too (``same_language``). A confusable language counts as the declared one; with
``confusable: judge`` it counts as another. Texts with fewer than ``min_letters`` letters are ``undetermined``: they
pass and say so in their tag. Rows without a known language pass and are tagged; the ``languages`` filter drops them
where a spec lists its languages.

Why the conversation and not the answer is read by default: right answers are often a word, a number or a name, on which
every identifier guesses. Tags: ``language_id`` is the detected variety (or ``undetermined``),
``language_id.note`` the rule of a flagged row. Score: ``language_id.confidence``.

Cost: measuring is fastText (some 180 microseconds for 600 characters), beside which counting letters takes 2 %;
judging 300,000 rows takes under a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from aya_data.core import language as languages
from aya_data.core import settings
from aya_data.core.stage import Environment, RowFilter, Verdicts
from aya_data.filters.by_language import LanguageKey, value_for
from aya_data.text import language_model, script, turns
from aya_data.text.language_model import LanguageModel

__all__ = ["LanguageId"]

BEST = 3
UNDETERMINED = "undetermined"
OTHER, CONFUSABLE, SAME = 0, 1, 2

Codes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class LanguageId(RowFilter):
    """Drops rows whose text is not in their declared language."""

    name = "language_id"
    libraries = ("fasttext-numpy2-wheel",)
    columns = ("language", "script")
    measure_columns = turns.COLUMNS

    class Settings(settings.Settings):
        """How sure the model must be of the declared language, and what it reads."""

        min_confidence: float = Field(
            0.5, ge=0, le=1, description="The least confidence in the declared language, from 0 to 1."
        )
        thresholds: dict[LanguageKey, float] = Field(
            {},
            description="Another min_confidence for a language (tur) or variety (uzn_Cyrl).",
            examples=[{"srp": 0.3}],
        )
        min_letters: int = Field(
            20,
            ge=0,
            description="Texts with fewer letters are undetermined and pass. A Han character counts as three "
            "letters, a kana or hangul as two.",
        )
        confusable: Literal["keep", "judge"] = Field(
            "keep",
            description="Whether a language that models mix up with the declared one counts as it (keep) or as "
            "another language (judge).",
        )
        unsure: Literal["drop", "keep"] = Field(
            "drop",
            description="What becomes of rows in which the model is sure of no language: lid.176 is rarely sure of "
            "Somali, Yoruba or Sundanese, for example.",
        )
        model: str | None = Field(
            None,
            min_length=1,
            description="A fastText model: a file, or org/repository:file on the Hub (then with @commit to pin it). "
            "Without one, the bundled lid.176.",
            examples=["cis-lmu/glotlid:model.bin"],
        )
        on: turns.Part = Field(
            "conversation", description="Which turns are read: the user's and assistant's, or one side's."
        )

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        self.model = language_model.locate(
            settings.model, base=environment.base, cache=environment.cache, offline=environment.offline
        )

    def pins(self) -> dict[str, str]:
        return {"model": self.model.digest}

    def measure_pins(self) -> dict[str, str]:
        return {"model": self.model.digest, "on": self.settings.on}

    def measure(self, rows: pa.Table) -> pa.Table:
        """Return ``label_1..3`` (string, null), ``confidence_1..3``, ``letters``, ``script``, ``script_share``."""
        texts = turns.row_texts(rows, self.settings.on)
        found = LanguageModel.load(self.model).predict(texts, BEST)
        scripts = script.measure_scripts(texts)
        names = pa.array(self.model.labels, pa.string())
        columns: dict[str, pa.Array] = {}
        for rank in range(BEST):
            numbers = np.ascontiguousarray(found.labels[:, rank])
            columns[f"label_{rank + 1}"] = names.take(pa.array(numbers, mask=numbers < 0))
        for rank in range(BEST):
            columns[f"confidence_{rank + 1}"] = pa.array(np.ascontiguousarray(found.confidences[:, rank]))
        columns["letters"] = pa.array(np.minimum(scripts.letters, 2**31 - 1).astype(np.int32))
        columns["script"] = pa.array(scripts.script, pa.string())
        columns["script_share"] = pa.array(np.round(scripts.share, 4))
        return pa.table(columns)

    def judge(self, rows: pa.Table, measures: pa.Table | None) -> Verdicts:
        assert measures is not None, "the engine measures before it judges"
        count = len(rows)
        declared, of_row = _declared(rows)
        label_names, labels = _labels(measures)
        meant = [_variety(name, _wikipedia(self.model.labels)) for name in label_names]
        confidences = np.column_stack([measures[f"confidence_{rank + 1}"].to_numpy() for rank in range(BEST)]).reshape(
            count, BEST
        )

        relation = _relations(declared, of_row, meant, labels)
        counts_as_declared = relation >= (CONFUSABLE if self.settings.confusable == "keep" else SAME)
        confidence = np.round(np.where(counts_as_declared, confidences, 0.0).sum(axis=1), 4)
        thresholds = [value_for(self.settings.thresholds, *variety) for variety in declared]
        default = self.settings.min_confidence
        threshold = np.array([default if t is None else t for t in thresholds], np.float64)[of_row]

        known = _known_varieties(self.model.labels)
        unknown = np.array([language == languages.UND.language for language, _ in declared], np.bool_)[of_row]
        supported = np.array([_knows(known, language, None) for language, _ in declared], np.bool_)[of_row]
        in_script = np.array([_knows(known, *variety) for variety in declared], np.bool_)[of_row]
        letters = measures["letters"].to_numpy()
        measured, written = _scripts(measures)
        determined = (letters >= self.settings.min_letters) & (written >= 0) & (labels[:, 0] >= 0)
        foreign = _foreign(declared, of_row, measured, written) & determined & ~unknown
        judged = determined & ~unknown & supported

        other = np.where(counts_as_declared | (labels < 0), 0.0, confidences).max(axis=1, initial=0.0)
        unsure = judged & (confidence < threshold)
        silent = determined & ~unknown & ~supported | unsure & ~in_script & ~foreign
        mismatch = unsure & ~silent & (other >= threshold)
        low = unsure & ~silent & (other < threshold)
        drop = mismatch | low if self.settings.unsure == "drop" else mismatch
        foreign &= measures["script_share"].to_numpy() >= 0.5
        rules = np.select(
            [
                mismatch,
                low,
                foreign,
                silent,
                judged & (relation[:, 0] == CONFUSABLE),
            ],
            ["language_mismatch", "low_confidence", "script_mismatch", "unsupported_language", "confusable"],
            "",
        )
        detected = _detected(declared, of_row, meant, labels[:, 0], measured, written, determined)
        said = rules != ""
        value: list[str | None] = [None] * count
        limit, evidence = value.copy(), value.copy()
        for row in np.flatnonzero(said).tolist():
            rule = rules[row]
            if rule == "script_mismatch":
                value[row], limit[row] = measured[written[row]], declared[of_row[row]][1]
            elif rule != "unsupported_language":
                value[row], limit[row] = f"{confidence[row]:.4f}", f"{threshold[row]:g}"
            evidence[row] = _evidence(declared[of_row[row]], meant, labels[row].tolist(), confidences[row].tolist())
        flag = said & ~drop
        return Verdicts(
            drop,
            [rule or None for rule in rules.tolist()],
            value,
            limit,
            evidence,
            flag,
            tags={
                "language_id": pa.array(detected, pa.string()),
                "language_id.note": pa.array(np.where(flag, rules, ""), mask=~flag, type=pa.string()),
            },
            scores={"language_id.confidence": pa.array(confidence, mask=~judged)},
        )


def _evidence(
    declared: tuple[str, str],
    meant: Sequence[languages.Variety],
    labels: list[int],
    confidences: list[float],
) -> str:
    """Say what was declared and what was detected instead, with the confidences."""
    best = ", ".join(
        f"{meant[label].language} {confidence:.4f}"
        for label, confidence in zip(labels, confidences, strict=True)
        if label >= 0
    )
    return f"declared {declared[0]}_{declared[1]}, detected {best}"


def _encode(column: pa.ChunkedArray) -> tuple[list[str], Codes]:
    """Return the distinct values and their number per row, -1 for null."""
    encoded = column.combine_chunks().dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return encoded.dictionary.to_pylist(), codes


def _declared(rows: pa.Table) -> tuple[list[tuple[str, str]], Codes]:
    names, codes = _encode(pc.binary_join_element_wise(rows["language"], rows["script"], "_"))
    return [(name.partition("_")[0], name.partition("_")[2]) for name in names], codes


def _labels(measures: pa.Table) -> tuple[list[str], Codes]:
    """Return the distinct labels and int64[n, 3] numbers into them, -1 where there is none."""
    ranks = [measures[f"label_{rank + 1}"] for rank in range(BEST)]
    names, codes = _encode(pa.chunked_array([c for r in ranks for c in r.chunks], pa.string()))
    return names, codes.reshape(BEST, len(measures)).T


def _scripts(measures: pa.Table) -> tuple[list[str], Codes]:
    return _encode(measures["script"])


@cache
def _wikipedia(labels: tuple[str, ...]) -> bool:
    """Tell whether a model's labels are the names of Wikipedias, as lid.176's are, and no codes."""
    return set(labels) <= set(languages.fasttext_labels())


@cache
def _variety(label: str, wikipedia: bool) -> languages.Variety:
    """What a label means. A label without a script has the script ``Zyyy``, that is, any."""
    if wikipedia:
        return languages.Variety(languages.fasttext_labels()[label], languages.UND.script)
    variety = languages.resolve(label).variety
    if "_" in label or "-" in label:
        return variety
    return languages.Variety(variety.language, languages.UND.script)


@cache
def _known_varieties(labels: tuple[str, ...]) -> frozenset[languages.Variety]:
    """Return what a model knows; a label without a script stands for the language's usual one."""
    wikipedia = _wikipedia(labels)
    found = (_variety(label, wikipedia) for label in labels)
    return frozenset(languages.resolve(v.language).variety if v.script == languages.UND.script else v for v in found)


@cache
def _knows(known: frozenset[languages.Variety], language: str, wanted: str | None) -> bool:
    """Tell whether a language is known, in the ``wanted`` script if one is given."""
    return any(
        (wanted is None or script.same_letters(wanted, v.script)) and languages.same_language(language, v.language)
        for v in known
    )


@cache
def _relation(declared: str, detected: str) -> int:
    if languages.same_language(declared, detected):
        return SAME
    return CONFUSABLE if languages.confusable(declared, detected) else OTHER


def _relations(
    declared: Sequence[tuple[str, str]], of_row: Codes, meant: Sequence[languages.Variety], labels: Codes
) -> Codes:
    """Return int64[n, 3]: how each label stands to its row's declared language, one look-up per pair."""
    width = len(meant) + 1
    pairs, inverse = np.unique(of_row[:, None] * width + labels + 1, return_inverse=True)
    found = np.zeros(len(pairs), np.int64)
    for index, pair in enumerate(pairs.tolist()):
        row, label = divmod(pair, width)
        if label:
            found[index] = _relation(declared[row][0], meant[label - 1].language)
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
) -> list[str]:
    """Return the detected variety of each row, worded once per combination."""
    widths = (len(meant) + 1, len(measured) + 1, 2)
    keys = ((of_row * widths[0] + best + 1) * widths[1] + written + 1) * widths[2] + determined
    combinations, inverse = np.unique(keys, return_inverse=True)
    names = []
    for key in combinations.tolist():
        key, sure = divmod(key, widths[2])
        key, code = divmod(key, widths[1])
        row, label = divmod(key, widths[0])
        if not sure:
            names.append(UNDETERMINED)
            continue
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
