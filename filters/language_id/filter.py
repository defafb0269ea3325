"""The ``language_id`` filter: does the text speak the language that its row declares?

**Measure** (cached): the model's three best labels with their confidences, the number of letters and the dominant
script of the text, and how far the likelihood that the best label is right is above what is asked, by its letters,
words and trigrams (:mod:`aya_data.filters.language_id.likelihood`).
**Judge**: the confidence of the declared language is the sum over those of the three labels that mean it; it must reach
a threshold.

==========================  =======  =====================================================================
rule                        outcome  when
==========================  =======  =====================================================================
``language_mismatch``       dropped  too little confidence, and another language is detected
``low_confidence``          dropped  too little confidence, and no other language is detected either; flagged with
                                     ``unsure: keep``, and where the model hardly ever finds this language
``answer_language``         flagged  prompt and answer are in two languages, at most one of them as declared, and the
                                     task is no translation; ``answer_language: drop`` drops it
``code_switching``          dropped  more letters than ``lines.max_share`` stand in lines of another language
``romanised``               flagged  kept: too little confidence, but written in Latin letters, which the
                                     model does not know of the declared language, and in no other language
``script_mismatch``         flagged  kept, although most letters are of another script than declared
``unsupported_language``    flagged  the model does not know the declared language, or not in the script in which it
                                     is declared and written: it cannot say anything
``confusable``              flagged  kept, although the best label is another language that models mix up
                                     with the declared one (Bosnian and Croatian, Malay and Indonesian)
==========================  =======  =====================================================================

The first rule that holds is the one that is given. Value is the confidence of the declared language, threshold what it
should have reached (for ``script_mismatch`` and ``romanised`` the two scripts). Labels are compared as languages, a
macrolanguage with its members too (``same_language``). A confusable language counts as the declared one; with
``confusable: judge`` it counts as another. Texts with fewer than ``min_letters`` letters are ``undetermined``: they
pass and say so in their tag. Han characters without kana are no evidence of Japanese. Rows without a known language
pass and are tagged; the ``languages`` filter drops them where a spec lists its languages.

**Thresholds.** A calibrated table (:mod:`~aya_data.filters.language_id.table`) says for each variety what its rows
reach, and for each label when to believe it; a language is detected when its label is believed. lid.176 has one;
``thresholds_from`` names another, for any model; what it has no line for is judged by the bundled one where that is for
the same model. ``min_confidence`` replaces it by one threshold for all, and a
language is then detected when its label reaches that. Without either, it is 0.5.

Tags: ``language_id`` is the detected variety, ``und_Latn`` where the label is not believed, or ``undetermined``;
``language_id.note`` the rule of a flagged row; ``language_id.lines`` the language of most foreign lines. Scores:
``language_id.confidence``, ``language_id.foreign_lines``. With ``on: each`` prompt and answer are judged apart and have
tags and scores of their own (``language_id.prompt``, ``language_id.answer``, ``language_id.prompt.confidence``, …); a
row passes when both do, of a translation when either does. Statistic: ``confusion``, rows by declared and detected
variety and outcome (kept, flagged, dropped, undetermined).

Why the conversation and not the answer is read by default: right answers are often a word, a number or a name, on which
every identifier guesses.

Cost: by the kernel 17 microseconds for 600 characters, of which letters, words and trigrams are 4; with
``on: each`` 18, with ``lines`` 47, with four windows of 100 characters 10. Judging takes 1.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from aya_data.core import settings
from aya_data.core.errors import WrongSetting
from aya_data.core.settings import wrong
from aya_data.core.stage import Environment, RowFilter, Verdicts
from aya_data.filters.by_language import ByLanguage, value_for
from aya_data.filters.language_id import judging as language_judging
from aya_data.filters.language_id import labels as language_labels
from aya_data.filters.language_id import table as language_table
from aya_data.filters.language_id.judging import BEST, UNDETERMINED, Asked, Declarations, Judged
from aya_data.filters.language_id.table import LanguageTable, Margins
from aya_data.text import language_model, script, turns, windows
from aya_data.text.language_model import LanguageModel

__all__ = ["LanguageId"]

USUAL = 0.5
"""The threshold where no table and no setting says another."""
LINE_CONFIDENCE = 0.8
"""From which confidence on a line's label is believed, where there is no table."""

SIDES: Mapping[str, tuple[turns.Part, ...]] = {
    "conversation": ("conversation",),
    "prompt": ("prompt",),
    "answer": ("answer",),
    "each": ("prompt", "answer"),
}

Mask = npt.NDArray[np.bool_]


class Windows(settings.Settings):
    """Which parts of long texts are read: evenly spaced pieces, the first at the start and the last at the end."""

    count: int = Field(ge=1, le=1000, description="How many pieces of a longer text are read.", examples=[8])
    chars: int = Field(ge=20, description="Characters of each.", examples=[200])


class Lines(settings.Settings):
    """Code-switching: which lines are in another language than the row declares."""

    min_letters: int = Field(20, ge=1, description="Lines with fewer letters are passed over.")
    max_share: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="The largest share of letters that may stand in lines of another language; more is dropped. "
        "Without it the share is only noted.",
    )


class LanguageId(RowFilter):
    """Drops rows whose text is not in their declared language."""

    name = "language_id"
    libraries = ("fasttext-numpy2-wheel",)
    columns: tuple[str, ...] = ("language", "script")
    measure_columns = turns.COLUMNS

    class Settings(settings.Settings):
        """How sure the model must be of the declared language, and what it reads."""

        min_confidence: float | None = Field(
            None,
            ge=0,
            le=1,
            description="One least confidence in the declared language for all, from 0 to 1. Without it, calibrated "
            "thresholds of each language where there is a table for the model, as for the bundled lid.176; else 0.5.",
            examples=[0.5],
        )
        thresholds: ByLanguage[float] = Field(
            {},
            description="Another least confidence for a language (tur) or variety (uzn_Cyrl).",
            examples=[{"srp": 0.3}],
        )
        thresholds_from: str | None = Field(
            None,
            min_length=1,
            description="A table that 'aya-data calibrate language_id' wrote for this model. Languages without a line "
            "in it are judged by the bundled table where that is for the same model, else by 0.5.",
            examples=["calibrated.tsv"],
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
            description="What becomes of rows in which too little of the declared language is found, but no other "
            "language either.",
        )
        model: str | None = Field(
            None,
            min_length=1,
            description="A fastText model: a file, or org/repository:file on the Hub (then with @commit to pin it). "
            "Without one, the bundled lid.176.",
            examples=["cis-lmu/glotlid:model.bin"],
        )
        on: Literal["conversation", "prompt", "answer", "each"] = Field(
            "conversation",
            description="Which turns are read: the user's and assistant's together, one side's, or each side apart.",
        )
        answer_language: Literal["ignore", "flag", "drop"] = Field(
            "flag",
            description="What becomes of rows whose answer is in another language than the prompt (with on: each).",
        )
        translation_tasks: tuple[str, ...] = Field(
            ("translat",),
            description="Rows are translations when their task contains one of these texts; their sides may differ.",
        )
        lines: Lines | None = Field(None, description="Look at lines one by one, for code-switching.")
        windows: Windows | None = Field(None, description="Read only evenly spaced windows of long texts.")

        @model_validator(mode="after")
        def _one_threshold(self) -> Self:
            if self.min_confidence is not None and self.thresholds_from is not None:
                raise wrong(
                    "has both min_confidence, one threshold for all, and thresholds_from, one for each language",
                    "Keep one of them; thresholds replaces those of single languages.",
                )
            return self

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        with WrongSetting.at("model"):
            self.model = language_model.locate(
                settings.model, base=environment.base, cache=environment.cache, offline=environment.offline
            )
        bundled = language_table.bundled_table()
        self.table: LanguageTable | None = bundled if bundled.model_digest == self.model.digest else None
        self._table_pin = self.table.digest if self.table else ""
        if settings.thresholds_from is not None:
            with WrongSetting.at("thresholds_from"):
                path = settings.thresholds_from
                given = language_table.read_table(path, base=environment.base, model=self.model)
            # The digest of the bundled table need not be pinned: it is part of the package.
            self._table_pin = given.digest
            self.table = given if self.table is None else given.over(self.table)
        if len(self.sides) > 1 or settings.lines is not None:
            self.columns = (*type(self).columns, "task")

    @property
    def sides(self) -> tuple[turns.Part, ...]:
        """The parts of a row that are judged apart."""
        return SIDES[self.settings.on]

    def pins(self) -> dict[str, str]:
        return {"model": self.model.digest, **({"table": self._table_pin} if self.table else {})}

    def measure_pins(self) -> dict[str, str]:
        given = self.settings
        pins = {**self.pins(), "on": given.on}
        if given.lines is not None:
            pins["lines"] = str(given.lines.min_letters)
        if given.windows is not None:
            pins["windows"] = f"{given.windows.count}x{given.windows.chars}"
        return pins

    def measure(self, rows: pa.Table) -> pa.Table:
        """Return ``label_1..3`` (string, null), ``confidence_1..3``, ``letters``, ``script``, ``script_share``; with a
        table ``margin`` too, at least 0 where the best label is believed. With ``on: each`` twice, as
        ``prompt.label_1`` and so on. With lines ``line_labels`` and ``line_letters``, lists."""
        margins = None if self.table is None else language_table.margins_of(self.table, self.model.labels)
        columns: dict[str, pa.Array] = {}
        for side in self.sides:
            texts = turns.row_column(rows, side)
            if self.settings.windows is not None:
                texts = windows.spaced(texts, self.settings.windows.count, self.settings.windows.chars)
            prefix = f"{side}." if len(self.sides) > 1 else ""
            columns |= {prefix + name: found for name, found in self._side(texts, margins).items()}
        if self.settings.lines is not None:
            columns |= self._lines(turns.row_texts(rows, "conversation"), margins)
        return pa.table(columns)

    def _side(self, texts: pa.Array, margins: Margins | None) -> dict[str, pa.Array]:
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
        if margins is not None:
            given = (found.labels[:, 0], found.confidences[:, 0], scripts.script, scripts.letters)
            columns["margin"] = pa.array(margins.measure(texts, *given))
        return columns

    def _lines(self, texts: list[str], margins: Margins | None) -> dict[str, pa.Array]:
        """Add up, for each row, the letters of its lines by the language that they are believed to be in."""
        split = [[line for line in text.split("\n") if line] for text in texts]
        flat = [line for lines in split for line in lines]
        row = np.repeat(np.arange(len(texts)), [len(lines) for lines in split])
        found = LanguageModel.load(self.model).predict(flat, 1)
        scripts = script.measure_scripts(flat)
        labels = found.labels[:, 0].astype(np.int64)
        long = (scripts.letters >= self.settings.lines.min_letters) & (labels >= 0)
        if margins is None:
            sure = found.confidences[:, 0] >= LINE_CONFIDENCE
        else:
            given = (found.labels[:, 0], found.confidences[:, 0], scripts.script, scripts.letters)
            sure = margins.measure(flat, *given) >= 0
        chosen = np.flatnonzero(long & sure)
        width = len(self.model.labels)
        keys, inverse = np.unique(row[chosen] * width + labels[chosen], return_inverse=True)
        letters = np.bincount(inverse, weights=scripts.letters[chosen], minlength=len(keys)).astype(np.int64)
        ends = np.searchsorted(keys // width, np.arange(len(texts) + 1)).astype(np.int32)
        values = pa.array(self.model.labels, pa.string()).take(pa.array(keys % width))
        return {
            "line_labels": pa.ListArray.from_arrays(pa.array(ends), values),
            "line_letters": pa.ListArray.from_arrays(pa.array(ends), pa.array(letters)),
        }

    def _threshold(self, language: str, written: str) -> float:
        given: float | None = value_for(self.settings.thresholds, language, written)
        if given is not None:
            return given
        if self.settings.min_confidence is not None:
            return float(self.settings.min_confidence)
        if self.table is not None and (language, written) in self.table.declared:
            return self.table.declared[language, written].confidence
        return USUAL

    def judge(self, rows: pa.Table, measures: pa.Table | None) -> Verdicts:
        assert measures is not None, "the engine measures before it judges"
        given = self.settings
        asked = Asked(
            self.model,
            self.table,
            self.table is not None and given.min_confidence is None,
            self._threshold,
            given.min_letters,
            given.confusable == "keep",
            given.unsure == "drop",
        )
        declared = language_judging.declarations(rows)
        if len(self.sides) == 1:
            side = language_judging.judge_side(declared, language_judging.side_of(measures, ""), asked)
            sides = [side]
            drop, rule = side.drop.copy(), side.rule.copy()
            value, limit, evidence = side.value, side.threshold, side.evidence
            main = side
            tags: dict[str, pa.Array] = {"language_id": pa.array(side.detected, pa.string())}
            scores = {"language_id.confidence": pa.array(side.confidence, mask=~side.judged)}
        else:
            translation = self._translation(rows)
            sides = [
                language_judging.judge_side(declared, language_judging.side_of(measures, f"{side}."), asked)
                for side in self.sides
            ]
            drop, rule, value, limit, evidence = self._together(sides, translation)
            main = sides[1]
            tags, scores = {}, {}
            for name, side in zip(self.sides, sides, strict=True):
                tags[f"language_id.{name}"] = pa.array(side.detected, pa.string())
                scores[f"language_id.{name}.confidence"] = pa.array(side.confidence, mask=~side.judged)
            # The row as a whole: its answer, or where that says nothing its prompt.
            whole = [a if a != UNDETERMINED else p for p, a in zip(sides[0].detected, main.detected, strict=True)]
            tags["language_id"] = pa.array(whole, pa.string())
        if given.lines is not None:
            share, foreign = language_judging.shares_of_lines(
                declared, measures["line_labels"], measures["line_letters"], self.model
            )
            scores["language_id.foreign_lines"] = pa.array(share)
            tags["language_id.lines"] = pa.array(foreign, pa.string())
            if given.lines.max_share is not None:
                for row in np.flatnonzero((share > given.lines.max_share) & ~drop & ~self._translation(rows)).tolist():
                    drop[row], rule[row] = True, "code_switching"
                    value[row], limit[row] = f"{share[row]:.4f}", f"{given.lines.max_share:g}"
                    evidence[row] = f"declared {_code(declared, row)}, most other lines {foreign[row]}"
        flag = (rule != "") & ~drop
        tags["language_id.note"] = pa.array(np.where(flag, rule, ""), mask=~flag, type=pa.string())
        return Verdicts(
            drop,
            [text or None for text in rule.tolist()],
            value,
            limit,
            evidence,
            flag,
            tags=tags,
            scores=scores,
            statistics={"confusion": _confusion(declared, self.sides, sides, drop, flag)},
        )

    def _translation(self, rows: pa.Table) -> Mask:
        """Tell which rows are of a task whose sides are meant to differ."""
        encoded = rows["task"].combine_chunks().dictionary_encode()
        words = [word.casefold() for word in self.settings.translation_tasks]
        is_one = [any(word in (task or "").casefold() for word in words) for task in encoded.dictionary.to_pylist()]
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        found: Mask = np.array([*is_one, False], np.bool_)[codes]
        return found

    def _together(
        self, sides: Sequence[Judged], translation: Mask
    ) -> tuple[Mask, npt.NDArray[np.object_], list[str | None], list[str | None], list[str | None]]:
        """Put the verdicts on prompt and answer together: two languages first, then drops, then flags."""
        prompt, answer = sides
        drop = np.where(translation, prompt.drop & answer.drop, prompt.drop | answer.drop)
        differs = prompt.believed & answer.believed & ~translation
        differs[differs] = [
            language_labels.relation(prompt.best[row], answer.best[row]) == language_labels.OTHER
            for row in np.flatnonzero(differs).tolist()
        ]
        rule = np.full(len(drop), "", object)
        value: list[str | None] = [None] * len(drop)
        limit, evidence = value.copy(), value.copy()
        for row in np.flatnonzero((prompt.rule != "") | (answer.rule != "") | differs).tolist():
            if differs[row] and not (prompt.drop[row] and answer.drop[row]):
                drop[row] = self.settings.answer_language == "drop"
                if self.settings.answer_language != "ignore":
                    rule[row] = "answer_language"
                    value[row], limit[row] = answer.detected[row], prompt.detected[row]
                    evidence[row] = f"prompt in {prompt.detected[row]}, answer in {answer.detected[row]}"
                    continue
            told = next((side for side in sides if side.drop[row]), None) if drop[row] else None
            # Of a translation, the side in another language than declared is what is expected.
            told = told or next((side for side in sides if side.rule[row] and not side.drop[row]), None)
            if told is None:
                continue
            rule[row], value[row], limit[row] = told.rule[row], told.value[row], told.threshold[row]
            evidence[row] = f"{'prompt' if told is prompt else 'answer'}: {told.evidence[row]}"
        return drop, rule, value, limit, evidence


def _code(declared: Declarations, row: int) -> str:
    language, written = declared.varieties[declared.of_row[row]]
    return f"{language}_{written}"


def _confusion(
    declared: Declarations, names: Sequence[str], sides: Sequence[Judged], drop: Mask, flag: Mask
) -> pa.Table:
    """Count rows by side, declared and detected variety, and outcome."""
    codes = pa.DictionaryArray.from_arrays(
        pa.array(declared.of_row), pa.array([f"{a}_{b}" for a, b in declared.varieties], pa.string())
    ).cast(pa.string())
    tables = []
    for name, side in zip(names, sides, strict=True):
        detected = pa.array(side.detected, pa.string())
        short = np.array([variety == UNDETERMINED for variety in side.detected], np.bool_)
        outcome = np.select([drop, short, flag], ["dropped", "undetermined", "flagged"], "kept")
        columns = {"on": pa.array([name] * len(drop), pa.string()), "declared": codes, "detected": detected}
        tables.append(pa.table({**columns, "outcome": pa.array(outcome, pa.string())}))
    table = pa.concat_tables(tables)
    counted = table.group_by(table.column_names, use_threads=False).aggregate([([], "count_all")])
    return counted.rename_columns([*table.column_names, "rows"])
