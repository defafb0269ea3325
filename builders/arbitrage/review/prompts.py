"""Review: some prompts are looked at again, by a judge or by people, and they are those that tell most.

Marion et al. (arXiv 2310.14424) rank prompts by how different the answers of two models are and find up to 54 % fewer
ties among the first fifth: reviewing answers that say the same teaches nothing. Their measure needs the models' token
probabilities, which an endpoint does not give. Here three measures stand for it:

* ``text``: how different the answers of different teachers are, as the mean Jaccard distance of their sets of words
  (pairs of characters in scripts without spaces);
* ``spread``: best score less worst, for every arbiter;
* ``disagreement``: how often two arbiters put two answers in different orders (a tie of one of them is half a
  difference).

Each becomes the share of prompts of the same language that have less, so that no scale, and no language whose scores
spread wider, outweighs another; their mean is the *divergence*. ``spread`` and
``disagreement`` leave out answers with penalties, which cannot win. A prompt whose answers all say the same is never
chosen.

On 2,415 judged pairs of AlpacaEval (three models against one baseline), near-ties (a preference within 0.4 of the
middle) are, among the fifth with the largest ``text``, 6.2 % instead of 13.5 % for claude-instant-1.2; the two weaker
models hardly tie at all (0.0 instead of 1.6 %, 3.1 instead of 2.6 %). Word sets were the best of those tried that look
at words: their rank correlation with how decided the judge was is 0.13 to 0.23 by model, that of the Jensen-Shannon
divergence of words 0.08 to 0.16, of trigrams of characters 0.05 to 0.14; shingles of five words share nothing in 45 %
of the pairs.

**Budget.** Every language gets its proportional part of the budget, and at least ``floor`` prompts. A larger budget is
a superset. Prompts that people have judged come before all others, whatever their answers are like by now, and count
against the budget first: what people said is never given up for another prompt. Cost: 1 ms per prompt with 28 answers
for ``text``; selecting, 2.3 s for a million completions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Generic, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator, model_validator

from aya_data.builders.arbitrage.arbiter import Arbiter
from aya_data.builders.arbitrage.arbiters.judge import JudgeArbiter, JudgeSettings, Model
from aya_data.builders.arbitrage.review.sheet import SHEETS, HumanSettings, Verdict, answer_keys, read_verdicts
from aya_data.builders.arbitrage.routing.rules import Fault
from aya_data.builders.arbitrage.tables import SCORE
from aya_data.core.errors import WrongSetting
from aya_data.core.identity import digest, draws
from aya_data.core.settings import Number, Settings, wrong
from aya_data.core.stage import Environment

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "CHOSEN",
    "DIVERGENCE",
    "MEASURES",
    "HumanArbiter",
    "ReviewSettings",
    "chosen_rows",
    "reviewer",
    "select",
    "text_divergence",
]

MEASURES: Final = ("text", "spread", "disagreement")
CHOSEN: Final = pa.schema(
    [
        pa.field("prompt", pa.string()),
        pa.field("language", pa.string()),
        pa.field("place", pa.int32()),
        pa.field("divergence", pa.float64()),
        *(pa.field(measure, pa.float64()) for measure in MEASURES),
        pa.field("tokens", pa.int64()),
    ]
)
"""The prompts that are reviewed, in the order in which the budget was spent (``place``, from 0). ``divergence`` is the
mean of the measures' ranks within the language, 0 to 1; the measures themselves are null where they cannot be taken.
``tokens`` are those of the prompt's answers."""

DIVERGENCE: Final = "divergence"
"""The column of :func:`text_divergence` in a table of scores."""
CELLS = 1 << 22
PLACE: Final = ("review", "with")


class ReviewSettings(Settings, Generic[Model]):
    """Which prompts are reviewed, and by whom."""

    share: Number | None = Field(
        None, gt=0, le=1, description="So large a share of the prompts that have different answers.", examples=[0.05]
    )
    rows: int | None = Field(None, ge=1, description="So many prompts.", examples=[200])
    tokens: int | None = Field(
        None,
        ge=1,
        description="Prompts whose answers have so many tokens in all, read once; estimated where no engine counts.",
    )
    by: Literal["divergence", "random"] = Field(
        "divergence", description="Take the prompts whose answers diverge most, or any."
    )
    measures: tuple[Literal["text", "spread", "disagreement"], ...] = Field(
        MEASURES,
        min_length=1,
        description="What makes answers diverge: their texts, the spread of their scores, arbiters that disagree.",
    )
    floor: int = Field(0, ge=0, description="At least so many prompts of each language, or all there are.")
    min_margin: Number | None = Field(
        None,
        ge=0,
        description="Where there are pairs, the min_margin of those of reviewed prompts, on the reviewer's scale; of a "
        "judge in mode pairwise, in shares of comparisons won (0 to 1). Has to be written beside pairs.",
        examples=[2],
    )
    reviewer: HumanSettings | JudgeSettings[Model] = Field(
        alias="with",
        discriminator="kind",
        description="Who reviews: a judge, as under arbiter, or human.",
        examples=["human"],
    )

    @field_validator(
        "reviewer", mode="before", json_schema_input_type=Literal["human"] | HumanSettings | JudgeSettings[Model]
    )
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"kind": "human"} if value == "human" else value

    @model_validator(mode="after")
    def _check(self) -> ReviewSettings[Model]:
        given = [name for name in ("share", "rows", "tokens") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise wrong(f"needs exactly one of share, rows or tokens, found {found}", "Keep one of them.")
        low, high = self.scale
        if self.min_margin is not None and self.min_margin > high - low:
            raise wrong("has a min_margin that no two verdicts have", f"Write one of {high - low:f} at most.")
        return self

    @property
    def scale(self) -> tuple[Decimal, Decimal]:
        """The worst and the best verdict."""
        if getattr(self.reviewer, "mode", "score") == "pairwise":
            return Decimal(0), Decimal(1)
        low, high = self.reviewer.scale
        return low, high

    def faults(self, paired: bool) -> list[Fault]:
        """Return (path, what, remedy) of what is wrong with it where there are pairs, or none."""
        if paired == (self.min_margin is not None):
            return []
        if paired:
            scale = " to ".join(f"{end.normalize():f}" for end in self.scale)
            what = "has no min_margin, and verdicts and scores are measured on scales of their own"
            remedy = f"Write by how much the better verdict of a pair is ahead, of {scale}."
            return [(("review",), what, remedy)]
        return [(("review", "min_margin"), "has a min_margin, and there are no pairs", "Leave it out, or write pairs.")]

    def expected(self, prompts: int, tokens: float) -> int:
        """How many of so many prompts are reviewed, if the answers to each have so many ``tokens``: 0 is not known."""
        if self.tokens is not None:
            return min(prompts, int(self.tokens / max(tokens, 1)))
        return min(prompts, self.rows) if self.rows is not None else int((self.share or 1) * prompts)


# How different the answers of a prompt are ---------------------------------------------------------


def text_divergence(completions: pa.Table) -> pa.Array:
    """Return, for every completion, how different the answers to its prompt are: float64, 0 to 1, null for prompts with
    one answer. Takes ``row``, ``teacher`` and ``text``; of several teachers, answers of different ones are compared.
    """
    from aya_data.text.shingles import Gram, pieces_of, shingle_sets

    sets, bounds = shingle_sets(pieces_of(completions["text"].combine_chunks()), Gram(1, 2))
    teacher = completions["teacher"].combine_chunks().dictionary_encode().indices.to_numpy()
    order, starts = _groups(completions["row"].to_numpy())
    found = np.full(completions.num_rows, np.nan)
    for first, end in pairwise(starts):
        places = order[first:end]
        if len(places) > 1:
            words = [sets[bounds[place] : bounds[place + 1]] for place in places]
            found[places] = _distance(words, teacher[places])
    return pa.array(found, mask=np.isnan(found))


def _distance(words: Sequence[npt.NDArray[np.uint64]], teacher: npt.NDArray[Any]) -> float:
    """Mean Jaccard distance of sets, whatever their order."""
    sizes = np.array([len(one) for one in words])
    vocabulary, column = np.unique(np.concatenate(words), return_inverse=True)
    held = np.zeros((len(words), len(vocabulary)), np.bool_)
    held[np.repeat(np.arange(len(words)), sizes), column] = True
    bits = np.packbits(held, axis=1)
    common = np.concatenate(
        [np.bitwise_count(bits[at] & bits[at + 1 :]).sum(1, dtype=np.int64) for at in range(len(words))]
    )
    one, other = np.triu_indices(len(words), 1)
    apart = teacher[one] != teacher[other]
    if apart.any():
        one, other, common = one[apart], other[apart], common[apart]
    joint = sizes[one] + sizes[other] - common
    # Two empty answers say the same.
    distances = np.where(joint > 0, 1 - common / np.maximum(joint, 1), 0.0)
    return round(float(np.sort(distances).sum()) / len(distances), 4)


def _groups(keys: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return an order in which equal keys stand together, and where each group starts, and the end."""
    order = np.argsort(keys, kind="stable")
    held = keys[order]
    starts = np.flatnonzero(np.r_[True, held[1:] != held[:-1]]) if len(keys) else np.zeros(0, np.int64)
    return order, np.r_[starts, len(keys)]


def _disagreement(values: npt.NDArray[np.float64], starts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return float[prompts]: the share of pairs of answers, over all pairs of arbiters, that the two put in different
    orders; NaN without any. ``values`` is float[completions, arbiters], those of a prompt together from ``starts`` on.
    """
    sizes = np.diff(starts)
    found = np.full(len(sizes), np.nan)
    for size in np.unique(sizes[sizes > 1]):
        groups = np.flatnonzero(sizes == size)
        for chunk in np.array_split(groups, max(1, len(groups) * size * size * values.shape[1] // CELLS)):
            held = values[starts[chunk][:, None] + np.arange(size)]
            one, other = np.triu_indices(size, 1)
            signs = np.sign(held[:, one] - held[:, other])
            differs, pairs = np.zeros(len(chunk)), np.zeros(len(chunk))
            for first in range(values.shape[1]):
                for second in range(first + 1, values.shape[1]):
                    gap = np.abs(signs[:, :, first] - signs[:, :, second]) / 2
                    known = ~np.isnan(gap)
                    differs += np.where(known, gap, 0).sum(1)
                    pairs += known.sum(1)
            with np.errstate(invalid="ignore"):
                found[chunk] = differs / pairs
    return np.round(found, 4)


# Which prompts are chosen --------------------------------------------------------------------------


def select(scores: pa.Table, settings: ReviewSettings[Any], seed: int, judged: Collection[str] = ()) -> pa.Table:
    """Choose prompts within the budget: a table of :data:`CHOSEN`. Those that were ``judged`` come first, even where
    they alone are more than the budget pays for.

    ``scores`` holds all completions of the source, in any order: ``prompt``, ``language``, ``teacher``, ``digest``,
    ``penalties``, ``tokens``, ``chars``, ``score.<arbiter>`` of any number of arbiters, and ``divergence`` of
    :func:`text_divergence`; without it, texts are not compared.
    """
    import polars as pl

    measured = _measured(scores)
    known = pl.col("prompt").is_in(sorted(judged))
    prompts = measured.filter((pl.col("answers") > 1) | known)
    spreads = [name for name in prompts.columns if name.startswith("spread.")]
    ranks = {
        f"rank.{name}": (pl.col(name).rank("average").over("language") - 0.5) / pl.col(name).count().over("language")
        for name in ("text", *spreads, "disagreement")
    }
    prompts = prompts.with_columns(**ranks).with_columns(_mean_of([f"rank.{name}" for name in spreads], "rank.spread"))
    prompts = prompts.with_columns(
        _mean_of([f"rank.{name}" for name in MEASURES if name in settings.measures], "divergence").fill_null(0.0),
        pl.Series("drawn", draws(seed, "review", prompts["prompt"].to_list())),
        fresh=~known,
    ).with_columns(pl.col("divergence").round(4))
    first = ["divergence"] if settings.by == "divergence" else []
    prompts = prompts.sort(
        ["language", "fresh", *first, "drawn", "prompt"],
        descending=[False, False, *([True] * len(first)), False, False],
    ).with_columns(pl.int_range(pl.len()).over("language").alias("k"), pl.len().over("language").alias("n"))
    # The k-th prompt of a language of n stands at (k + 1/2) / n, those of the floor before all others.
    stand = (pl.col("k") + 0.5) / pl.when(pl.col("k") < settings.floor).then(settings.floor).otherwise(pl.col("n"))
    prompts = prompts.with_columns((stand + (pl.col("k") >= settings.floor).cast(pl.Float64)).alias("stand"))
    prompts = prompts.sort("fresh", "stand", "language", "k")
    least = prompts.height - int(prompts["fresh"].sum())
    taken = prompts.head(max(least, _affordable(prompts, settings))).with_row_index("place")
    return taken.select(CHOSEN.names).to_arrow().cast(CHOSEN)


def _mean_of(columns: Sequence[str], name: str) -> pl.Expr:
    import polars as pl

    return (pl.mean_horizontal(columns) if columns else pl.lit(None, pl.Float64)).alias(name)


def _affordable(prompts: pl.DataFrame, settings: ReviewSettings[Any]) -> int:
    """How many of ``prompts``, in order, the budget pays for; it stops at the first that does not fit."""
    if settings.rows is not None:
        return settings.rows
    if settings.share is not None:
        return int(settings.share * prompts.height)
    return int((prompts["tokens"].cum_sum() <= settings.tokens).sum())


def _measured(scores: pa.Table) -> pl.DataFrame:
    """One row for each prompt: ``prompt``, ``language``, ``answers`` (distinct ones without penalties), ``tokens``, the
    :data:`MEASURES`, and ``spread.<arbiter>``."""
    import polars as pl

    arbiters = sorted(name for name in scores.column_names if name.startswith(SCORE))
    frame = pl.DataFrame(pl.from_arrow(scores)).with_columns(pl.col(arbiters).fill_nan(None), _tokens().alias("tokens"))
    paid = frame.group_by("prompt").agg(pl.col("tokens").sum())
    frame = frame.filter(pl.col("penalties").list.len().fill_null(0) == 0).sort("prompt")
    spread = {
        f"spread.{name.removeprefix(SCORE)}": pl.when(pl.col(name).count() > 1).then(
            (pl.col(name).max() - pl.col(name).min()).round(4)
        )
        for name in arbiters
    }
    text = pl.col(DIVERGENCE).max() if DIVERGENCE in frame.columns else pl.lit(None, pl.Float64)
    prompts = frame.group_by("prompt", maintain_order=True).agg(
        pl.col("language").first(), pl.col("digest").n_unique().alias("answers"), text.alias("text"), **spread
    )
    _, starts = _groups(frame["prompt"].rank("dense").to_numpy())
    values = frame.select(arbiters).cast(pl.Float64).to_numpy() if arbiters else np.zeros((frame.height, 0))
    disagreement = pl.Series("disagreement", _disagreement(values, starts)).fill_nan(None)
    widest = _mean_of(list(spread), "spread").round(4)
    return prompts.with_columns(disagreement, widest).join(paid, on="prompt", how="left", maintain_order="left")


def _tokens() -> pl.Expr:
    """Tokens of a completion; where no engine counted them, as many per character as others of the language have, or a
    third."""
    import polars as pl

    known = pl.col("tokens").is_not_null()
    tokens = pl.col("tokens").filter(known).cast(pl.Int64).sum().over("language")
    chars = pl.col("chars").filter(known).cast(pl.Int64).sum().over("language")
    guess = pl.col("chars").cast(pl.Int64) * pl.when(chars > 0).then(tokens).otherwise(1)
    return pl.coalesce(pl.col("tokens").cast(pl.Int64), -(-guess // pl.when(chars > 0).then(chars).otherwise(3)))


def chosen_rows(completions: pa.Table, chosen: pa.Table) -> pa.Table:
    """Return the completions of prompts that were chosen, as they stand."""
    return completions.filter(pc.is_in(completions["prompt"], value_set=chosen["prompt"].combine_chunks()))


# Who reviews ---------------------------------------------------------------------------------------


class HumanArbiter(Arbiter):
    """Scores completions with what people wrote into review sheets; the mean where several did. Beside its scores it
    tells, as ``sheets`` (list<int32>), on which of the sheets an answer stands."""

    code: tuple[str, ...] = ("aya_data.builders.arbitrage.review.sheet",)
    place = PLACE
    settings: HumanSettings

    def __init__(self, name: str, settings: HumanSettings, environment: Environment) -> None:
        super().__init__(name, settings, environment)

    def __getstate__(self) -> Mapping[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("verdicts", "_lines")}

    @cached_property
    def verdicts(self) -> Mapping[str, list[Verdict]]:
        """All verdicts, by key of the answer. Raises :class:`~aya_data.core.errors.InputError`, with file and line, or
        :class:`~aya_data.core.errors.WrongSetting` for a sheet that is not there."""
        found: dict[str, list[Verdict]] = {}
        for lines in self._lines:
            for line in lines:
                if line.score is not None:
                    found.setdefault(line.answer, []).append(line)
        return found

    @cached_property
    def _lines(self) -> list[list[Verdict]]:
        """The lines of each sheet, those without a score too."""
        faults: list[tuple[tuple[str | int, ...], str, str]] = []
        for number, path in enumerate(self.settings.verdicts):
            if not (self.environment.base / path).is_file():
                remedy = "Remove it from verdicts until it exists."
                faults.append(((*self.place, "verdicts", number), f"there is no review sheet {path!r}", remedy))
        if faults:
            raise WrongSetting(faults)
        return [
            read_verdicts(self.environment.base / path, path, self.settings.scale) for path in self.settings.verdicts
        ]

    def known(self) -> dict[str, tuple[float, str | None]]:
        """What people said, by key of the answer: the mean of their scores, and their notes together."""
        return {answer: (_mean(said), _notes(said)) for answer, said in self.verdicts.items()}

    def identity(self) -> Mapping[str, Any]:
        """What the sheets say, whatever they are called."""
        said = sorted(
            (answer, str(verdict.score), verdict.note or "")
            for answer, verdicts in self.verdicts.items()
            for verdict in verdicts
        )
        sheets = sorted(digest(*sorted(line.answer for line in lines)) for lines in self._lines)
        return {"verdicts": digest(*(field for verdict in said for field in verdict)), "sheets": digest(*sheets)}

    def score(self, prompts: pa.Table, completions: pa.Table, answers: pa.Table | None) -> pa.Table:
        """Look every completion up: ``score`` and ``note``, null where nobody judged it, and ``sheets``."""
        keys = answer_keys(completions).to_pylist()
        known = self.known()
        sheets: dict[str, list[int]] = {}
        for number, lines in enumerate(self._lines):
            for line in lines:
                sheets.setdefault(line.answer, []).append(number)
        nothing = (None, None)
        return pa.table(
            {
                "score": pa.array([known.get(key, nothing)[0] for key in keys], pa.float64()),
                "note": pa.array([known.get(key, nothing)[1] for key in keys], pa.string()),
                SHEETS: pa.array([sheets.get(key, []) for key in keys], pa.list_(pa.int32())),
            }
        )


def _mean(verdicts: Sequence[Verdict]) -> float:
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    return round(float(sum(scores) / len(scores)), 4)


def _notes(verdicts: Sequence[Verdict]) -> str | None:
    """The different notes on an answer: a sheet that was written again holds those of the one before."""
    return "\n\n".join(sorted({verdict.note for verdict in verdicts if verdict.note})) or None


def reviewer(name: str, settings: ReviewSettings[Any], environment: Environment) -> Arbiter:
    """Return the arbiter that reviews; it is given :func:`chosen_rows` of the completions."""
    if isinstance(settings.reviewer, HumanSettings):
        return HumanArbiter(name, settings.reviewer, environment)
    judge = JudgeArbiter(name, settings.reviewer, environment)
    judge.place = PLACE
    return judge
