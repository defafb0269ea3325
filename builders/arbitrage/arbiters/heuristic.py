"""The arbiter ``heuristic``: scores answers by what can be counted, in any language, on any machine, asking no model.

A score is the product of six *factors*, each from 0 to 1 and raised to its weight, so that nothing makes up for an
answer that is beside the point:

===============  ====================================================================================================
``relevance``    shares terms with its prompt, and with what other teachers answer to it: see below
``language``     1 - (how far the language model is surer of another language than of the prompt's)
``repetition``   falls from 1 once more than :data:`REPEATS` of the text stands in repeated lines or phrases
``truncation``   :data:`CUT_OFF` where the answer reached its limit of tokens or evidently breaks off, else 1
``length``       1 within a wide band around the norm of its language; falls with the logarithm of what is missing, or
                 over
``substance``    the share of characters, white space aside, that belong to words or numbers, over :data:`SUBSTANCE`
===============  ====================================================================================================

An empty answer scores 0. A weight of 0 turns a factor off. Markup, lists, politeness and the like count for nothing.

**Relevance** (:mod:`~aya_data.builders.arbitrage.arbiters.relevance`) has two halves. What an answer has in common with
its *prompt*; and, from three teachers on, how well it *agrees* with the other teachers' answers relative to how well
they agree with each other. The more teachers, the more the second counts: its share is 1 - 1 / (teachers - 1)². An
answer that only repeats its prompt is told by having nothing new. So an answer that does not depend on the prompt loses
without being known, and no rule names a text.

It tells answers that are on the subject, whole and in the right language from those that are not. It knows nothing of
truth, harm or style, and

* with one teacher or two only the prompt speaks, and it is weak: a short, right answer may share no word with its
  question, and small talk never does;
* the answer of most teachers is the measure. Where most of them do not answer, it is wrong, and teachers of one family
  that answer alike speak for each other.

On AlpacaEval's prompts that it was not tuned on, 31 answers that do not depend on the prompt or only repeat it (one of
them written to fool judges) were each put beside those of 27 models: 30 of them are never picked (of 397 prompts, so
at most 1.0 %), a list of the 400 words that are most frequent in the prompts once. Beside three models 0.2 % of all are
picked, beside one 5.0 %. It agrees with 84.8 % [82.7, 86.7] of the judged pairs of a strong model's answer and
another's; taking the longer one would with 89.1 %, but of the pairs where the shorter was preferred it gets 55 %.

A score depends on the prompt's own completions alone, on texts and on who gave them, and on no order: permuting
teachers or samples changes nothing. Equal texts of different teachers may differ a little, since each is compared with
the others. Scores are rounded to 1e-4; equal ones are ties.

Cost: 52 microseconds for an answer of 1,000 characters, half of it the language model; memory is some 50 bytes per
character of :data:`AT_ONCE` characters, or of all answers to one prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from aya_data.builders.arbitrage.arbiter import Arbiter
from aya_data.builders.arbitrage.completions import conversations
from aya_data.builders.arbitrage.lengths import relative_lengths
from aya_data.builders.arbitrage.penalties import UNKNOWN, foreign, is_cut_off
from aya_data.core.generation import LENGTH
from aya_data.core.settings import Number, Settings, wrong

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FACTORS", "HeuristicArbiter", "HeuristicSettings", "Weights", "factors"]

FACTORS: Final = ("relevance", "language", "repetition", "truncation", "length", "substance")

ONE: Final = Decimal(1)
AT_ONCE: Final = 4 << 20
"""Characters of answers that are looked at together."""
AGREES: Final = 1.25
"""Agreement, relative to the usual, from which more is no better."""
RECALLS: Final = 0.5
"""Share of the prompt's terms from which more is no better."""
NEW: Final = 0.25
"""Share of terms that are not the prompt's, from which on an answer says something of its own."""
LEAST: Final = 0.05
"""What is left of half of the relevance where nothing speaks for it: the other half may."""
REPEATS: Final = 0.25
CUT_OFF: Final = 0.3
HALVED: Final = 4.0
SHORT, LONG = 1.0, 3.0
"""The band of lengths, as multiples of the norm, that are as good as any."""
SUBSTANCE: Final = 0.6

Shares = npt.NDArray[np.float64]


class Weights(Settings):
    """The exponent of each factor; 0 turns it off."""

    relevance: Number = Field(default=Decimal(2), ge=0, le=10, description="Being about the prompt.")
    language: Number = Field(default=ONE, ge=0, le=10, description="The language of the prompt.")
    repetition: Number = Field(default=ONE, ge=0, le=10, description="Repeating itself no more than usual.")
    truncation: Number = Field(default=ONE, ge=0, le=10, description="Not being cut off.")
    length: Number = Field(default=ONE, ge=0, le=10, description="A length that is usual in its language.")
    substance: Number = Field(default=ONE, ge=0, le=10, description="Words rather than symbols.")

    @model_validator(mode="after")
    def _check(self) -> Weights:
        if not any(getattr(self, name) for name in FACTORS):
            raise wrong("weighs every factor with 0", "Weigh one of them with more.")
        return self


class HeuristicSettings(Settings):
    """Settings of the arbiter ``heuristic``."""

    kind: Literal["heuristic"] = Field(default="heuristic", description="What can be counted, without any model.")
    weights: Weights = Field(
        default=Weights(),
        description="How much each factor counts: the score is their product, each raised to its weight.",
        examples=[{"length": 0, "relevance": 2}],
    )


class HeuristicArbiter(Arbiter):
    """Scores answers by what can be counted. Asks nobody."""

    settings: HeuristicSettings
    code = ("aya_data.builders.arbitrage.arbiters.relevance", "aya_data.builders.arbitrage.penalties")

    def identity(self) -> Mapping[str, Any]:
        """Its weights; models and tables are part of its code."""
        return {"kind": "heuristic", "weights": self.settings.weights.model_dump(mode="json")}

    def score(self, prompts: pa.Table, completions: pa.Table, answers: pa.Table | None) -> pa.Table:
        """Score completions: ``score`` float64 in [0, 1]. Never null."""
        import pyarrow as pa

        weights = {name: float(getattr(self.settings.weights, name)) for name in FACTORS}
        found = factors(prompts, completions)
        score = np.ones(completions.num_rows)
        for name in FACTORS:
            if weights[name]:
                score *= found[name] ** weights[name]
        return pa.table({"score": pa.array(np.round(score, 4) + 0.0, pa.float64())})


def factors(prompts: pa.Table, completions: pa.Table) -> dict[str, Shares]:
    """Return the factors of each completion by name, float64[n] in [0, 1].

    ``completions`` are sorted by row, teacher and sample.
    """
    found: dict[str, Shares] = {name: np.ones(completions.num_rows) for name in FACTORS}
    if not completions.num_rows:
        return found
    turns = conversations(prompts)
    found["language"] = 1.0 - foreign(prompts, completions).lead
    texts = completions["text"].to_pylist()
    columns = (completions[name].to_pylist() for name in ("finish", "script"))
    for place, (finish, script) in enumerate(zip(*columns, strict=True)):
        if finish == LENGTH or (finish == UNKNOWN and is_cut_off(texts[place], script)):
            found["truncation"][place] = CUT_OFF
    chars = np.fromiter(map(len, texts), np.int64, len(texts))
    found["length"] = _length(
        relative_lengths(completions["language"].to_pylist(), completions["script"].to_pylist(), chars)
    )
    rows = completions["row"].to_numpy().astype(np.int64)
    teachers = completions["teacher"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    for first, last in _pieces(rows, chars):
        own, group = np.unique(rows[first:last], return_inverse=True)
        asked = ["\n".join(text for role, text in turns[row] if role != "system") for row in own.tolist()]
        relevance, repeated, substance = _read(asked, texts[first:last], group.astype(np.int64), teachers[first:last])
        found["relevance"][first:last] = relevance
        found["repetition"][first:last] = np.minimum(1.0, (1.0 - repeated) / (1.0 - REPEATS))
        found["substance"][first:last] = np.minimum(1.0, substance / SUBSTANCE)
    return found


def _pieces(rows: npt.NDArray[np.int64], chars: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut completions into pieces of whole prompts."""
    starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 1)).tolist()
    first, size = 0, 0
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        own = int(chars[start:end].sum())
        if size and size + own > AT_ONCE:
            yield first, start
            first, size = start, 0
        size += own
    yield first, len(rows)


def _length(relative: Shares) -> Shares:
    """Return the factor of lengths given as multiples of the norm: half where one is e⁴ = 55 times outside the band."""
    off = np.abs(np.log(np.maximum(relative, 1e-3) / np.clip(relative, SHORT, LONG)))
    found: Shares = 1.0 / (1.0 + off / HALVED)
    return found


def _read(
    prompts: list[str], texts: list[str], group: npt.NDArray[np.int64], teacher: npt.NDArray[np.int64]
) -> tuple[Shares, Shares, Shares]:
    """Return relevance, repeated share and substance of the answers to some prompts."""
    from aya_data.builders.arbitrage.arbiters import relevance as measure

    answers = measure.terms(texts)
    found = measure.agreement(measure.terms(prompts), answers, group, teacher)
    recall = LEAST + (1 - LEAST) * np.minimum(1.0, found.recall / RECALLS) * np.minimum(1.0, found.new / NEW)
    recall[found.prompt == 0] = 1.0
    silent = np.isnan(found.relative)
    agrees = LEAST + (1 - LEAST) * np.minimum(1.0, np.where(silent, 0.0, found.relative) / AGREES)
    counts = np.bincount(np.unique(np.stack([group, teacher]), axis=1)[0], minlength=len(prompts))[group]
    share = np.where(silent, 0.0, 1.0 - 1.0 / np.maximum(counts - 1, 1) ** 2)
    relevance = np.where(found.own > 0, recall ** (1.0 - share) * agrees**share, 0.0)
    return relevance, answers.repeated, answers.solid
