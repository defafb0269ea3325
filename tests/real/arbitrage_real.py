"""Routing on real answers: does it beat the best single teacher in the eyes of a scorer that took no part in it?

    python -m tests.real.arbitrage_real folder-of-data-sets [--write]

builds arbitrages over recorded answers, measures on held-out prompts what each routing picked, and prints the tables;
``--write`` keeps them in ``benchmarks/results``. The sets:

* ``alpaca``: 28 models of AlpacaEval, NullModel among them;
* ``equals``: eight of them that are about as good as each other;
* ``three``: those three whose answers a judge compared with a baseline's, so that the judge itself is the measure;
* ``four``: the same with the baseline's answers as a fourth teacher's;
* ``arena``: three models of Arena-Hard 0.1.

The other measures are those of :mod:`tests.real.second_scorers`. Routings that draw or learn are built under several
seeds; a prompt counts in those where its teacher was drawn or predicted, not where all were asked. There is no
translation baseline: all prompts are English, the pivot language, so that nothing would be translated.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from aya_data import api
from aya_data.builders.arbitrage.statistics.intervals import GROUPS, Interval, bootstrap, group, prompt_hashes, wilson
from aya_data.catalog.query import query
from aya_data.core.store import Workspace
from aya_data.engine.run import Build
from benchmarks.report import Report
from tests.real.arbiter_real import BASELINE, NULL, arena, held_out
from tests.real.second_scorers import PUBLISHED, Judged, Scorers, answers, judged, learn

SEEDS = (1, 2, 3)
ROUTINGS = {
    "reward": "reward",
    "fixed": "{kind: fixed, held_out: 0.5}",
    "learned": "{kind: learned, share: 0.5, temperature: 0.1}",
    "random": "random",
}
DRAWN = ("fixed", "learned", "random")
ARBITER = "the arbiter itself"
JUDGE = "the judge itself"

Floats = npt.NDArray[np.float64]

SPEC = """name: {name}
seed: {seed}
policy: any
sources:
  asked:
    builder: files
    path: {path}
    kind: prompt
    use: prompts
    columns: {{prompt: {prompt}}}
    language: eng
    license: {{assume: CC-BY-NC-4.0, reason: the stricter of the licences that the data sets state}}
  duel:
    builder: arbitrage
    prompts: {{from: asked}}
    teachers:
{teachers}
    routing: {routing}
    pairs: {{kind: best_worst, min_margin: 0.05, max_length_ratio: 3}}
    commit: {{rows: 10000, seconds: 60}}
filters: [license, exact_dedup]
release: {{validation: 0}}
"""


@dataclass(frozen=True)
class Recording:
    """Answers of many models in one file: which columns have the prompt, the answer and the model; ``texts`` are those
    answers by prompt and model."""

    name: str
    path: Path
    prompt: str
    answer: str
    model: str
    texts: Mapping[str, Mapping[str, str]]
    models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(sorted({name for own in self.texts.values() for name in own})))

    def spec(self, routing: str, seed: int = 1, models: Sequence[str] | None = None) -> str:
        """Write a spec over some of the models, or all."""
        columns = f"columns: {{prompt: {self.prompt}, answer: {self.answer}}}"
        teachers = "\n".join(
            f"      {slug(model)}: {{engine: recorded, path: {self.path}, {columns}, "
            f"where: {{column: {self.model}, equals: {model}}}}}"
            for model in models or self.models
        )
        return SPEC.format(
            name=self.name, seed=seed, path=self.path, prompt=self.prompt, teachers=teachers, routing=routing
        )  # fmt: skip


def slug(model: str) -> str:
    """The name of a model as a teacher."""
    return re.sub(r"[^a-z0-9_]+", "_", model.lower()).strip("_")


def alpaca_eval(data: Path) -> Recording:
    """All models of AlpacaEval: 28, NullModel among them."""
    path = data / "alpaca_eval/model_outputs.parquet"
    return Recording("alpaca", path, "instruction", "output", "generator", answers(data))


def equals(whole: Recording) -> Recording:
    """Those models of AlpacaEval whose published win rates lie between 14 and 26 percent."""
    alike = {model for model, (_, rate) in PUBLISHED.items() if 14 < rate < 26}
    texts = {prompt: {m: text for m, text in own.items() if m in alike} for prompt, own in whole.texts.items()}
    return replace(whole, name="equals", texts=texts)


def written(name: str, texts: Mapping[str, Mapping[str, str]], folder: Path) -> Recording:
    """Answers written to a folder as JSON lines."""
    lines = [{"q": q, "m": model, "a": text} for q, own in texts.items() for model, text in sorted(own.items())]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return Recording(name, path, "q", "a", "m", texts)


def of_judge(data: Path, folder: Path, *, baseline: bool) -> tuple[Recording, dict[tuple[str, str], float]]:
    """The models whose answers were judged, and how far the judge preferred each answer, by prompt and teacher, to that
    of the baseline: itself a teacher, at one half, or none."""
    texts: dict[str, dict[str, str]] = defaultdict(dict)
    liked: dict[tuple[str, str], float] = {}
    for pair in judged(data):
        texts[pair.prompt][pair.model] = pair.other
        liked[pair.prompt, slug(pair.model)] = pair.preferred
        if baseline:
            texts[pair.prompt][BASELINE] = pair.one
            liked[pair.prompt, slug(BASELINE)] = 0.5
    return written("four" if baseline else "three", dict(sorted(texts.items())), folder), liked


def build(text: str, folder: Path, workspace: str = "workspace") -> Build:
    """Build a spec in a workspace below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "duel.yaml"
    path.write_text(text, encoding="utf-8")
    return api.build(path, workspace=folder / workspace, workers=1)


def sql(done: Build, text: str) -> list[tuple[Any, ...]]:
    """Ask the catalog; ``{only}`` stands for the condition that it is about this release."""
    version = done.result.version
    found = query(Workspace(done.result.path.parents[2]), text.replace("{only}", f"version = '{version}'"))
    return [tuple(row) for row in found.rows]


@dataclass(frozen=True)
class Pick:
    """What was picked for a prompt: row_key and text of the prompt, teacher, answer, and why."""

    key: str
    prompt: str
    teacher: str
    text: str
    reason: str


def picks(done: Build) -> list[Pick]:
    """Read what a release says was picked: texts from its rows, reasons from the catalog."""
    reasons = dict(sql(done, "SELECT prompt, reason FROM decisions WHERE {only}"))
    rows = pl.read_parquet(done.result.path / "data/*/*.parquet").select("messages", "provenance")
    found = []
    for messages, provenance in rows.iter_rows():
        (key,) = provenance["parents"]
        said = messages[0]["content"], provenance["teacher"], messages[-1]["content"]
        found.append(Pick(key, *said, reasons[key]))
    return found


# Measures ----------------------------------------------------------------------------------------------


def share(hashes: npt.NDArray[np.uint64], values: Floats) -> Interval:
    """The mean of values with its interval over prompts, several of which may be equal."""
    sums = np.zeros((GROUPS, 2), np.int64)
    np.add.at(sums, group(hashes), np.stack([np.ones(len(values)), np.rint(values * 1e4)], axis=1).astype(np.int64))
    return bootstrap(sums, lambda drawn: drawn[:, 1] / drawn[:, 0] / 1e4)


@dataclass(frozen=True)
class Board:
    """What every scorer says of every answer to the held-out prompts: ``values[scorer]`` float64[prompts, models], NaN
    where there is none; ``singles[scorer]`` is the model that it finds best on the other prompts."""

    prompts: dict[str, int]
    models: dict[str, int]
    hashes: npt.NDArray[np.uint64]
    values: dict[str, Floats]
    singles: dict[str, str]
    lengths: Floats

    def won(self, scorer: str, picked: Sequence[Pick], single: str) -> tuple[Interval, Interval]:
        """The share of prompts for which the picked answer is before the single teacher's, the same answer as half; and
        the mean difference, in standard deviations of the scorer within a prompt."""
        row = np.array([self.prompts[pick.prompt] for pick in picked])
        values = self.values[scorer]
        mine = values[row, [self.models[pick.teacher] for pick in picked]]
        other = values[row, self.models[single]]
        there = np.isfinite(mine) & np.isfinite(other)
        one, two, key = mine[there], other[there], self.hashes[row][there]
        spread = float(np.nanmean(np.nanstd(values, axis=1)))
        return share(key, (one > two) + 0.5 * (one == two)), share(key, (one - two) / spread)

    def published(self, picked: Sequence[Pick]) -> Interval | None:
        """The mean published win rate of the teachers that were picked, in percent."""
        rates = {slug(model): rate for model, (_, rate) in PUBLISHED.items()}
        known = [pick for pick in picked if pick.teacher in rates]
        if len(known) < 0.9 * len(picked):
            return None
        rows = [self.prompts[pick.prompt] for pick in known]
        return share(self.hashes[rows], np.array([rates[pick.teacher] for pick in known]))

    def mean(self, scorer: str, picked: Sequence[Pick]) -> Interval:
        """The mean of what a scorer says of the picked answers."""
        rows = [self.prompts[pick.prompt] for pick in picked]
        return share(self.hashes[rows], self.values[scorer][rows, [self.models[pick.teacher] for pick in picked]])

    def correlation(self, scorer: str, other: Floats) -> Interval:
        """The mean over prompts of the correlation of a scorer with something else."""
        found, keys = [], []
        for key, one, two in zip(self.hashes, self.values[scorer], other, strict=True):
            there = np.isfinite(one) & np.isfinite(two)
            if there.sum() > 2 and one[there].std() and two[there].std():
                found.append(np.corrcoef(one[there], two[there])[0, 1])
                keys.append(key)
        return share(np.array(keys, np.uint64), np.array(found))


Liked = Mapping[tuple[str, str], float]


def board(recording: Recording, done: Build, scorers: Scorers, liked: Liked | None = None) -> Board:
    """Score all answers to all prompts; ``done`` is an arbitrage that asked all teachers, for the arbiter's scores, and
    ``liked`` what the judge said of them, if it did."""
    models = {slug(model): at for at, model in enumerate(recording.models)}
    prompts = [prompt for prompt in recording.texts if held_out(prompt)]
    others = [prompt for prompt in recording.texts if not held_out(prompt)]
    place = {prompt: at for at, prompt in enumerate([*prompts, *others])}
    empty = np.full((len(place), len(models)), np.nan)
    answered = [(prompt, text, slug(model)) for prompt in place for model, text in recording.texts[prompt].items()]
    values = {}
    for name, found in scorers.scores([(prompt, text) for prompt, text, _ in answered]).items():
        values[name] = empty.copy()
        values[name][[place[one] for one, _, _ in answered], [models[one] for _, _, one in answered]] = found
    text_of = {pick.key: pick.prompt for pick in picks(done)}
    values[ARBITER] = empty.copy()
    for key, teacher, score in sql(done, "SELECT prompt, teacher, score FROM completions WHERE {only}"):
        if key in text_of:
            values[ARBITER][place[text_of[key]], models[teacher]] = score
    if liked:
        values[JUDGE] = empty.copy()
        for (prompt, teacher), value in liked.items():
            values[JUDGE][place[prompt], models[teacher]] = value
    lengths = empty.copy()
    for prompt, text, model in answered:
        lengths[place[prompt], models[model]] = np.log1p(len(text))
    # What does not answer is no teacher to choose: a scorer that knows nothing of prompts may like NullModel best.
    real = [at for name, at in models.items() if name != NULL]
    names = list(models)
    singles = {
        name: names[real[int(np.argmax(np.nanmean(found[len(prompts) :, real], axis=0)))]]
        for name, found in values.items()
    }
    count = len(prompts)
    return Board(
        {prompt: at for prompt, at in place.items() if at < count},
        models,
        prompt_hashes(prompts),
        {name: found[:count] for name, found in values.items()},
        singles,
        lengths[:count],
    )


@dataclass
class Strength:
    """How far a scorer agrees with the judge on held-out prompts: with the judged pairs; with which of two models'
    answers to a prompt the judge preferred more to the baseline's; and, per model, with published win rates."""

    pairs: Interval
    between: Interval
    ranks: Interval
    area: float


def _ranks(values: Floats) -> Floats:
    return np.argsort(np.argsort(values)).astype(np.float64)


def _fisher(correlation: float, count: int) -> Interval:
    """The interval of a correlation, by Fisher's transformation."""
    middle, half = np.arctanh(correlation), 1.96 / np.sqrt(count - 3)
    return Interval(correlation, float(np.tanh(middle - half)), float(np.tanh(middle + half)))


def strengths(data: Path, found: Board, scorers: Scorers) -> tuple[dict[str, Strength], dict[str, Interval]]:
    """Test the scorers on judged pairs of held-out prompts; and what always preferring the baseline, or the longer
    answer, would reach."""
    pairs = [pair for pair in judged(data) if held_out(pair.prompt)]
    one = scorers.scores([(pair.prompt, pair.one) for pair in pairs])
    other = scorers.scores([(pair.prompt, pair.other) for pair in pairs])
    preferred = np.array([pair.preferred for pair in pairs])
    duels = _duels(pairs)

    def between(value: Callable[[int], float]) -> Interval:
        return wilson(sum((value(a) > value(b)) == (preferred[a] > preferred[b]) for a, b in duels), len(duels))

    made = {}
    published = {slug(model): rates[1] for model, rates in PUBLISHED.items()}
    for name in scorers.named:
        ahead = other[name] - one[name]
        hits = (ahead > 0) == (preferred > 0.5)
        means = [float(np.nanmean(found.values[name][:, found.models[model]])) for model in published]
        rank = float(np.corrcoef(_ranks(np.array(means)), _ranks(np.array(list(published.values()))))[0, 1])
        won, lost = ahead[preferred > 0.5], ahead[preferred <= 0.5]
        made[name] = Strength(
            wilson(int(hits.sum()), len(hits)),
            between(lambda at, ahead=ahead: float(ahead[at])),  # type: ignore[misc]
            _fisher(rank, len(published)),
            float((won[:, None] > lost).mean()),
        )
    longer = sum((len(pair.other) > len(pair.one)) == (pair.preferred > 0.5) for pair in pairs)
    plain = {
        "pairs, the baseline": wilson(int((preferred <= 0.5).sum()), len(pairs)),
        "pairs, the longer": wilson(longer, len(pairs)),
        "between, the longer": between(lambda at: float(len(pairs[at].other))),
    }
    return made, plain


def _duels(pairs: Sequence[Judged]) -> list[tuple[int, int]]:
    """Pairs of pairs of one prompt whose preference clearly differs."""
    by_prompt = defaultdict(list)
    for at, pair in enumerate(pairs):
        by_prompt[pair.prompt].append(at)
    return [
        (a, b)
        for own in by_prompt.values()
        for a in own
        for b in own
        if a < b and abs(pairs[a].preferred - pairs[b].preferred) > 0.1
    ]


# The whole ---------------------------------------------------------------------------------------------


@dataclass
class Figures:
    """What was found out about one recording."""

    board: Board
    picked: dict[str, list[Pick]]
    paid: dict[str, float]
    null_wins: Interval
    tables: dict[str, Any] = field(default_factory=dict)


def measure(
    recording: Recording,
    scorers: Scorers,
    folder: Path,
    seeds: Iterable[int] = SEEDS,
    liked: Liked | None = None,
) -> Figures:
    """Build every routing and keep what was picked for the held-out prompts."""
    picked: dict[str, list[Pick]] = defaultdict(list)
    paid: dict[str, list[float]] = defaultdict(list)
    whole: Build | None = None
    null = 0
    for kind, routing in ROUTINGS.items():
        for seed in seeds if kind in DRAWN else (1,):
            done = build(recording.spec(routing, seed), folder)
            mine = [pick for pick in picks(done) if pick.reason == kind]
            picked[kind] += [pick for pick in mine if held_out(pick.prompt)]
            (total,) = sql(done, "SELECT count(*) / count(DISTINCT prompt) FROM completions WHERE {only}")[0]
            paid[kind].append(float(total))
            print(f"  {recording.name} {kind} {seed}: {len(mine)} prompts, {total:.1f} completions", file=sys.stderr)
            if kind == "reward":
                whole, null = done, sum(pick.teacher == NULL for pick in mine)
    assert whole is not None
    found = board(recording, whole, scorers, liked)
    for single in sorted(set(found.singles.values())):
        picked.setdefault(f"single {single}", [Pick("", prompt, single, "", "single") for prompt in found.prompts])
        paid[f"single {single}"] = [1.0]
    costs = {kind: round(float(np.mean(each)), 2) for kind, each in paid.items()}
    return Figures(found, dict(picked), costs, wilson(null, len(picks(whole))))


def _shown(interval: Interval, percent: bool = True) -> str:
    if interval.estimate is None or interval.low is None or interval.high is None:
        return "-"
    if percent:
        return f"{interval.estimate:.1%} [{interval.low:.1%}, {interval.high:.1%}]"
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def table(recording: Recording, figures: Figures, against: str) -> dict[str, Any]:
    """Print and return how each routing fares against one single teacher under each scorer."""
    print(
        f"\n{recording.name}: picked answer before that of {against}, of {len(figures.board.prompts)} held-out prompts"
    )
    rows: dict[str, Any] = {}
    for kind, picked in figures.picked.items():
        row: dict[str, Any] = {"completions": figures.paid[kind], "prompts": len({pick.prompt for pick in picked})}
        rate = figures.board.published(picked)
        if rate is not None:
            row["published_rate"] = rate.json()
        if JUDGE in figures.board.values:
            row["liked"] = figures.board.mean(JUDGE, picked).json()
        print(f"  {kind} ({row['prompts']} prompts, {row['completions']} completions each)", end=" ")
        print("" if rate is None else f"published rate of the teachers {_shown(rate, False)}")
        if "liked" in row:
            print(f"    the judge prefers it to the baseline's by {_shown(figures.board.mean(JUDGE, picked))}")
        for scorer in figures.board.values:
            won, ahead = figures.board.won(scorer, picked, against)
            row[scorer] = {"won": won.json(), "ahead": ahead.json()}
            print(f"    {scorer:26} {_shown(won):24} ahead {_shown(ahead, False)}")
        rows[kind] = row
    return rows


def main(data: Path, folder: Path, write: bool) -> None:
    """Print all tables."""
    scorers = learn(data)
    report = Report("arbitrage_real", "Routing on real answers", ("",))
    whole = alpaca_eval(data)
    sets: list[tuple[Recording, Liked | None]] = [(whole, None), (equals(whole), None)]
    sets += [of_judge(data, folder, baseline=False), of_judge(data, folder, baseline=True)]
    for recording, liked in [*sets, (written("arena", arena(data), folder), None)]:
        figures = measure(recording, scorers, folder / recording.name, liked=liked)
        mine: dict[str, Any] = {"models": len(recording.models), "held_out_prompts": len(figures.board.prompts)}
        if recording.name == "alpaca":
            made, plain = strengths(data, figures.board, scorers)
            print("\nscorers on held-out prompts: judged pairs, area, two models, rank with published win rates")
            for name, one in made.items():
                shown = _shown(one.pairs), f"{one.area:.3f}", _shown(one.between), _shown(one.ranks, False)
                print(f"  {name:26}", *shown, sep="  ")
            for name, each in plain.items():
                print(f"  {name:26}  {_shown(each)}")
            mine["plain"] = {name: each.json() for name, each in plain.items()}
            mine["scorers"] = {
                name: {
                    "pairs": one.pairs.json(), "area": round(one.area, 4), "between": one.between.json(),
                    "published_ranks": one.ranks.json(),
                }
                for name, one in made.items()
            }  # fmt: skip
            print(f"\nNullModel is picked for {_shown(figures.null_wins)}")
            mine["null_model"] = figures.null_wins.json()
        print("\nwithin a prompt, mean correlation with length and with the arbiter:")
        for name in figures.board.values:
            length = figures.board.correlation(name, figures.board.lengths)
            arbiter = figures.board.correlation(name, figures.board.values[ARBITER])
            mine.setdefault("correlation", {})[name] = {"length": length.json(), "arbiter": arbiter.json()}
            print(f"  {name:26} {_shown(length, False):22} {_shown(arbiter, False)}")
        mine["best_single"] = figures.board.singles
        print("best single on the other prompts:", figures.board.singles)
        mine["against"] = {
            single: table(recording, figures, single) for single in sorted(set(figures.board.singles.values()))
        }
        report.figures[recording.name] = mine
    if write:
        print(report.write())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(Path(sys.argv[1]).resolve(), Path(made), "--write" in sys.argv)
