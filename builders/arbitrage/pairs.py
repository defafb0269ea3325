"""Preference pairs: of the answers to one prompt, which is preferred to which.

======================== ===========================================================================================
kind                     pairs of a prompt
======================== ===========================================================================================
``best_worst``           the best answer and the worst (offline DPO of Aya Expanse, arXiv 2412.04261)
``strong_vs_translated`` the best answer of the strong teachers, and the worst of those whose answers are
                         translations (arXiv 2407.02552); the strong answer is never the rejected one
``all_pairs``            every answer and every worse one, at most ``max_per_prompt`` of them, drawn by keyed hash
======================== ===========================================================================================

Every pair that was thought of stands in the table, with its ``outcome``: ``kept``, or the first of these reasons:

* ``language``: the prompt is in none of the languages;
* ``alone``: there are no two answers with a score to compare (one side of ``strong_vs_translated`` is missing);
* ``penalised``: the better answer has a penalty, or there are not two answers without one; an empty answer is in no
  pair, even where others with a penalty may be rejected;
* ``identical``: both say the same;
* ``margin``: the better score is not ahead by ``min_margin``, or not ahead at all;
* ``length``: one is longer than ``max_length_ratio`` times the other, in tokens where there is a tokenizer, else in
  characters; both answer one prompt, so that the norm of its language divides both and is not needed;
* ``repeated``: a better-ranked pair of the prompt says the same on both sides;
* ``similar``: the Jaccard index of their shingles is ``max_similarity`` or more;
* ``max_per_prompt``: the prompt has its pairs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, Field, model_validator

from aya_data.builders.arbitrage.ranking import STEP, empties, penalised, ranking, units, varieties
from aya_data.builders.arbitrage.review.verdicts import ARBITER, REVIEW, SCORER
from aya_data.builders.arbitrage.routing.rules import Fault, RoutingSettings, unknown
from aya_data.builders.arbitrage.teacher import matches
from aya_data.core.errors import did_you_mean
from aya_data.core.identity import draws
from aya_data.core.language import LANGUAGE_SETS, language_set, resolve
from aya_data.core.mix_settings import TokenizerSettings
from aya_data.core.settings import Number, Settings, wrong
from aya_data.text.tokens import Tokenizer

__all__ = ["MIXES", "OUTCOMES", "PairsSettings", "impossible", "pairs", "pairs_schema"]

MIXES: Final[dict[str, tuple[str, ...]]] = {
    "EN-1": ("eng",),
    "ML-5": ("eng", "vie", "deu", "tur", "por"),
    "ML-23": ("aya_23",),
}
"""The language mixes of RLHF Can Speak Many Languages (arXiv 2407.02552): English, five languages, those of Aya 23."""

OUTCOMES: Final = (
    "kept", "language", "alone", "penalised", "identical", "margin", "length", "repeated", "similar", "max_per_prompt",
)  # fmt: skip

BLOCK: Final = 2048
"""Pairs whose shingle sets are held at a time."""

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def _languages(value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    if isinstance(value, str):
        known = (*MIXES, *LANGUAGE_SETS)
        if value not in known:
            remedy = f"Write [{value}]." if resolve(value).ok else did_you_mean(value, known)
            raise wrong(f"names {value!r}, which is no set of languages", remedy)
    for label in value if isinstance(value, tuple) else ():
        if not (found := resolve(label)).ok:
            raise wrong(f"names {label!r}, which is no language", found.reason or "")
    return value


class PairsSettings(Settings):
    """Which answers become preference pairs. What the papers did not publish has no default."""

    kind: Literal["best_worst", "strong_vs_translated", "all_pairs"] = Field(
        description="Which pairs of a prompt: best_worst, strong_vs_translated or all_pairs."
    )
    min_margin: Number = Field(
        ge=0, description="The better score is ahead by so much, in units of the score; of a prompt that was reviewed, "
        "min_margin of review counts. Equal scores are no pair.",
        examples=[0.1],
    )  # fmt: skip
    max_length_ratio: Number | None = Field(
        ge=1,
        description="The longer answer is at most so many times as long as the other, in tokens where there is a "
        "tokenizer, else in characters; null for no limit.",
        examples=[2.0],
    )
    tokenizer: TokenizerSettings | None = Field(
        None, description="What counts tokens for max_length_ratio. Default: the tokenizer of the spec, if it has one."
    )
    max_similarity: Number = Field(
        gt=0, le=1, default=Decimal("0.8"),
        description="Answers whose shingle sets have this Jaccard index or more are too alike; 1: only equal sets are.",
    )  # fmt: skip
    languages: Annotated[str | tuple[str, ...] | None, AfterValidator(_languages)] = Field(
        None,
        description="Only prompts in these: languages and varieties, or a named set, such as EN-1, ML-5 or ML-23. "
        "Default: all.",
        examples=["ML-5", ["tur", "zho_Hans"]],
    )
    strong: tuple[str, ...] | None = Field(
        None, min_length=1, description="For strong_vs_translated: the teachers whose answers are chosen."
    )
    translated: tuple[str, ...] | None = Field(
        None, min_length=1, description="For strong_vs_translated: the teachers whose answers are rejected."
    )
    max_per_prompt: int | None = Field(None, ge=1, description="For all_pairs: at most so many pairs of one prompt.")
    reject_penalised: bool = Field(
        False,
        description="Whether an answer with a penalty may be the rejected one, unless it is empty; it is never the "
        "chosen one.",
    )

    @model_validator(mode="after")
    def _check(self) -> PairsSettings:
        needs = {"strong_vs_translated": ("strong", "translated"), "all_pairs": ("max_per_prompt",)}
        for kind, names in needs.items():
            for name in names:
                if self.kind == kind and getattr(self, name) is None:
                    raise wrong(f"is {kind} without {name}", f"Write {{kind: {kind}, {name}: …}}.")
                if self.kind != kind and getattr(self, name) is not None:
                    raise wrong(f"is {self.kind}, which has no {name}", f"Leave it out, or pair by {kind}.")
        if self.tokenizer is not None and self.max_length_ratio is None:
            raise wrong("has a tokenizer and no max_length_ratio", "Leave it out, or say how long answers may be.")
        both = sorted(set(self.strong or ()) & set(self.translated or ()))
        if both:
            raise wrong(f"has {both[0]!r} in strong and in translated", "A teacher is one or the other.")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers that it names, sorted."""
        return tuple(sorted({*(self.strong or ()), *(self.translated or ())}))

    def faults(self, teachers: Collection[str]) -> list[Fault]:
        """Return (path, what, remedy) of every teacher that it names and that is not among ``teachers``."""
        sides = (("strong", self.strong), ("translated", self.translated))
        named = [(("pairs", side, index), name) for side, names in sides for index, name in enumerate(names or ())]
        return unknown(named, teachers)

    def wants(self, language: str, script: str) -> bool:
        """Whether it wants prompts of this variety."""
        if self.languages is None:
            return True
        labels = self.languages if isinstance(self.languages, tuple) else MIXES.get(self.languages, (self.languages,))
        for label in labels:
            if label in LANGUAGE_SETS:
                if any((one.language, one.script) == (language, script) for one in language_set(label)):
                    return True
                continue
            if matches(label, language, script):
                return True
        return False


def impossible(routing: RoutingSettings, pairs: PairsSettings, samples: Mapping[str, int]) -> str | None:
    """Return why no prompt can have two answers to make a pair of, None where one can.

    ``samples`` says of every teacher how many answers it gives to a prompt that it is asked; 2 where nobody knows.
    """
    if routing.kind == "reward" or routing.rounds == 2:
        if sum(samples.values()) < 2:
            return "there is one teacher, which gives one answer to a prompt: there are never two to compare"
        return None
    if pairs.kind == "strong_vs_translated":
        return (
            f"{pairs.kind} compares two teachers, and routing by {routing.kind} asks one teacher for a prompt: "
            "there are never answers of both"
        )
    if all(samples.get(name, 2) < 2 for name in routing.names or samples):
        return (
            f"routing by {routing.kind} asks one teacher for a prompt, which gives one answer: "
            "there are never two to compare"
        )
    return None


def pairs_schema() -> pa.Schema:
    """The table of :func:`pairs`, sorted by row, then by the rank of the chosen answer and of the rejected one.

    ``chosen_key`` and the like are null where there is no such answer. ``margin`` is the difference of scores, and
    ``scorer`` whose they are: ``arbiter``, or ``review`` where verdicts decided.
    ``value`` is what the outcome was judged by: the Jaccard index of ``similar``, the ratio of lengths of ``length``,
    else the margin; ``threshold`` is the setting that it was held against, null where there is none.
    """
    sides = [
        pa.field(f"{side}_{name}", kind)
        for side in ("chosen", "rejected")
        for name, kind in (
            ("teacher", pa.string()), ("sample", pa.int32()), ("key", pa.string()), ("score", pa.float64()),
        )
    ]  # fmt: skip
    return pa.schema(
        [
            pa.field("row", pa.int32()),
            pa.field("prompt", pa.string()),
            pa.field("language", pa.string()),
            pa.field("script", pa.string()),
            *sides,
            pa.field("margin", pa.float64()),
            pa.field("value", pa.float64()),
            pa.field("threshold", pa.float64()),
            pa.field(SCORER, pa.string()),
            pa.field("outcome", pa.string()),
        ]
    )


def pairs(
    scores: pa.Table,
    completions: pa.Table,
    settings: PairsSettings,
    seed: int,
    tokenizer: Tokenizer | None = None,
    least_reviewed: Decimal | None = None,
) -> pa.Table:
    """Make the pairs of one part: :func:`pairs_schema`.

    ``scores`` is the part's after :func:`~aya_data.builders.arbitrage.ranking.combine`; ``completions`` holds the same
    rows in the same order, with ``text``; ``tokenizer`` counts their lengths, which are characters without one. Where
    the column :data:`~aya_data.builders.arbitrage.review.verdicts.SCORER` says that a prompt was reviewed,
    ``least_reviewed`` stands for ``min_margin``: verdicts have a scale of their own.
    20 microseconds for each pair whose answers are compared by what they say (900 characters each), and what the
    tokenizer takes for answers that come so far; 1 per completion otherwise.
    """
    if completions.num_rows != scores.num_rows:
        raise ValueError(f"{completions.num_rows} completions and {scores.num_rows} scores are not of one part")
    order, _ = ranking(scores, seed)
    row = scores["row"].to_numpy().astype(np.int64)
    value, there = units(scores["score"])
    bad = penalised(scores)
    allowed = ~bad if not settings.reject_penalised else ~empties(scores)
    coded, known = varieties(scores)
    wanted = np.array([settings.wants(*variety) for variety in known], np.bool_)[coded]
    better, worse = _thought_of(settings, scores, order, row, there & allowed)
    # A prompt of which no pair came says why in a row of its own.
    rows, first = np.unique(row, return_index=True)
    alone = ~np.isin(rows, row[better])
    several = _sides(settings, scores, row, there)
    reason = np.where(several[rows[alone]], "penalised", "alone").astype(object)
    reason[~wanted[first[alone]]] = "language"

    outcome = np.full(len(better), "kept", object)
    open_ = np.ones(len(better), np.bool_)

    def refuse(why: str, which: Mask, measured: Floats | None = None, limit: Decimal | Floats | None = None) -> None:
        now = open_ & which
        outcome[now] = why
        if measured is not None and limit is not None:
            judged[now] = measured[now]
            threshold[now] = limit[now] if isinstance(limit, np.ndarray) else float(limit)
        open_[which] = False

    margin = value[better] - value[worse]
    judged, threshold = margin / STEP, np.full(len(better), np.nan)
    text = _strings(scores["digest"])
    scorer = scores[SCORER] if SCORER in scores.column_names else pa.repeat(ARBITER, len(row))
    reviewed = pc.equal(scorer, REVIEW).to_numpy(zero_copy_only=False)[better] if len(row) else np.zeros(0, np.bool_)
    least = np.full(len(better), float(settings.min_margin))
    if least_reviewed is not None:
        least[reviewed] = float(least_reviewed)
    refuse("language", ~wanted[better])
    refuse("penalised", bad[better])
    refuse("identical", text[better] == text[worse])
    refuse("margin", (margin <= 0) | (margin < least * STEP), margin / STEP, least)
    if settings.max_length_ratio is not None:
        length = np.nan_to_num(scores["length"].to_numpy())
        if tokenizer is not None:
            length = _tokens(completions["text"], np.unique([better[open_], worse[open_]]), tokenizer)
        ratio = _ratios(length[better], length[worse])
        refuse("length", ratio > float(settings.max_length_ratio), ratio, settings.max_length_ratio)
    if settings.kind == "all_pairs":
        refuse("repeated", _repeated(row[better], text[better], text[worse], open_))
    similarity = np.zeros(len(better))
    similarity[open_] = _similarities(completions["text"], better[open_], worse[open_])
    refuse("similar", similarity >= float(settings.max_similarity), similarity, settings.max_similarity)
    if settings.max_per_prompt is not None:
        refuse("max_per_prompt", _beyond(scores, better, worse, open_, settings.max_per_prompt, seed))

    lone = first[alone]
    nothing = np.full(len(lone), -1)
    one, other = np.concatenate([better, nothing]), np.concatenate([worse, nothing])
    about = np.concatenate([better, lone])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    place = np.lexsort((rank[other], rank[one], row[about]))
    one, other, about = one[place], other[place], about[place]
    unmeasured = np.full(len(lone), np.nan)
    measured = [np.concatenate([column, unmeasured])[place] for column in (margin / STEP, judged, threshold)]
    columns = [scores[name].take(pa.array(about)) for name in ("row", "prompt", "language", "script")]
    for side in (one, other):
        index = pa.array(side, mask=side < 0)
        columns += [scores[name].take(index) for name in ("teacher", "sample", "key", "score")]
    columns += [pa.array(column, mask=np.isnan(column)) for column in measured]
    columns.append(scorer.take(pa.array(about)))
    columns.append(pa.array(np.concatenate([outcome, reason])[place], pa.string()))
    schema = pairs_schema()
    return pa.table(columns, names=schema.names).cast(schema)


def _thought_of(
    settings: PairsSettings, scores: pa.Table, order: Longs, row: Longs, usable: Mask
) -> tuple[Longs, Longs]:
    """Return the places of the better and the worse answer of every pair, by row and rank."""
    order = order[usable[order]]
    if settings.kind == "strong_vs_translated":
        teacher = scores["teacher"]
        strong, weak = (
            pc.is_in(teacher, pa.array(names, pa.string())).to_numpy()[order]
            for names in (settings.strong, settings.translated)
        )
        rows, first = np.unique(row[order[strong]], return_index=True)
        others, last = np.unique(row[order[weak]][::-1], return_index=True)
        best, worst = order[strong][first], order[weak][::-1][last]
        return best[np.isin(rows, others)], worst[np.isin(others, rows)]
    _, first, count = np.unique(row[order], return_index=True, return_counts=True)
    if settings.kind == "best_worst":
        first, count = first[count > 1], count[count > 1]
        return order[first], order[first + count - 1]
    found: list[tuple[Longs, Longs]] = [(first[:0], first[:0])]
    for size in np.unique(count[count > 1]):
        one, other = np.triu_indices(size, 1)
        begins = first[count == size][:, None]
        found.append(((begins + one).ravel(), (begins + other).ravel()))
    better, worse = (np.concatenate(column) for column in zip(*found, strict=True))
    place = np.lexsort((worse, better))
    return order[better[place]], order[worse[place]]


def _sides(settings: PairsSettings, scores: pa.Table, row: Longs, there: Mask) -> Mask:
    """Return for each row whether there are two answers with a score, whatever their penalties, to make a pair of."""
    size = int(row.max()) + 1 if len(row) else 0
    if settings.kind != "strong_vs_translated":
        return np.bincount(row[there], minlength=size) > 1
    has = np.ones(size, np.bool_)
    for names in (settings.strong, settings.translated):
        mine = pc.is_in(scores["teacher"], pa.array(names, pa.string())).to_numpy()
        has &= np.bincount(row[there & mine], minlength=size) > 0
    return has


def _strings(column: pa.ChunkedArray) -> Longs:
    """Return a number for each text, equal for equal ones."""
    return np.asarray(column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False), np.int64)


def _tokens(texts: pa.ChunkedArray, needed: Longs, tokenizer: Tokenizer) -> Floats:
    """Return the tokens of the texts in some places, 0 elsewhere: float64[n]."""
    out = np.zeros(len(texts))
    out[needed] = tokenizer.count(texts.take(pa.array(needed)).to_pylist())
    return out


def _ratios(one: Floats, other: Floats) -> Floats:
    """Return how many times as long the longer of each two is, infinity where the shorter is empty."""
    shorter, longer = np.minimum(one, other), np.maximum(one, other)
    out = np.full(len(one), np.inf)
    np.divide(longer, shorter, out=out, where=shorter > 0)
    return np.asarray(np.rint(out * STEP) / STEP)


def _repeated(row: Longs, better: Longs, worse: Longs, open_: Mask) -> Mask:
    """Return which of the pairs that are open say what an earlier one of them says."""
    mine = np.flatnonzero(open_)
    out = np.zeros(len(row), np.bool_)
    if len(mine):
        _, first = np.unique(np.stack([row, better, worse])[:, mine], axis=1, return_index=True)
        out[mine] = True
        out[mine[first]] = False
    return out


def _similarities(texts: pa.ChunkedArray, better: Longs, worse: Longs) -> Floats:
    """Return the Jaccard index of the shingle sets of each pair; those of one block of pairs are held at a time."""
    from aya_data.text.matching import jaccard
    from aya_data.text.shingles import Gram, pieces_of, shingle_sets

    out = np.zeros(len(better))
    for start in range(0, len(better), BLOCK):
        block = slice(start, start + BLOCK)
        needed, place = np.unique(np.concatenate([better[block], worse[block]]), return_inverse=True)
        held = texts.take(pa.array(needed)).combine_chunks()
        sets, bounds = shingle_sets(pieces_of(held), Gram())
        one, other = place[: len(place) // 2], place[len(place) // 2 :]
        for index in range(len(one)):
            a, b = int(one[index]), int(other[index])
            out[start + index] = jaccard(sets[bounds[a] : bounds[a + 1]], sets[bounds[b] : bounds[b + 1]])
    return np.rint(out * STEP) / STEP


def _beyond(scores: pa.Table, better: Longs, worse: Longs, open_: Mask, most: int, seed: int) -> Mask:
    """Return which open pairs come after the first ``most`` of their prompt, in the order of their draws."""
    mine = np.flatnonzero(open_)
    one, other = better[mine], worse[mine]
    prompts = scores["prompt"].take(pa.array(one)).to_pylist()
    digests = [scores["digest"].take(pa.array(side)).to_pylist() for side in (one, other)]
    drawn = draws(seed, "arbitrage pair", map(" ".join, zip(prompts, *digests, strict=True)))
    row = scores["row"].to_numpy()[one]
    place = np.lexsort((drawn, row))
    _, first, count = np.unique(row[place], return_index=True, return_counts=True)
    out = np.zeros(len(better), np.bool_)
    out[mine[place]] = np.arange(len(place)) - np.repeat(first, count) >= most
    return out
