"""Scorers of answers that have nothing in common with the arbiters: learned from what a judge preferred.

Two kinds of supervision, both of the prompts of AlpacaEval for which
:func:`~tests.real.arbiter_real.held_out` is false:

* ``judged``: the judge's preferences between a baseline's answers and those of three models (NullModel, which the judge
  fell for, is left out): a logistic regression of differences (Bradley and Terry 1952);
* ``graded``: which model gave the answer, as good as its published win rate: a regression within each prompt.

Both see what an answer looks like (length, lists, markup, words) and a low-dimensional picture of which words it and
its prompt are made of. ``, length taken out`` are the same with the part of every feature that length explains removed,
and length itself no longer counted once the weights are learned, as in length-controlled AlpacaEval (Dubois et al.
2024, arXiv 2404.04475).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from tests.real.arbiter_real import NULL, held_out

Floats = npt.NDArray[np.float64]
Answered = tuple[str, str]
"""A prompt and an answer."""

WORDS, TOPICS, OF_PROMPT = 1500, 64, 32
RIDGE = 100.0
MOST = 4.0
"""Deviations that a feature may be from its mean: one odd answer is no reason to prefer a model."""
WORD = re.compile(r"\w+")
ITEM = re.compile(r"\s*([-*•]|\d+[.)])\s")

PUBLISHED: dict[str, tuple[float, float]] = {
    "Together-MoA": (59.87, 65.37),
    "gpt-4o-2024-05-13": (51.33, 57.46),
    "claude-3-opus-20240229": (29.11, 40.51),
    "Qwen2-72B-Instruct": (29.85, 38.07),
    "Meta-Llama-3.1-70B-Instruct-Turbo": (39.13, 38.06),
    "gpt4_0314": (22.07, 35.31),
    "mistral-large-2402": (21.44, 32.65),
    "claude-instant-1.2": (16.13, 25.61),
    "dbrx-instruct": (18.45, 25.38),
    "Mixtral-8x7B-Instruct-v0.1": (18.26, 23.69),
    "Meta-Llama-3-8B-Instruct": (22.57, 22.92),
    "Mistral-7B-Instruct-v0.3": (16.69, 20.61),
    "gpt-3.5-turbo-0301": (9.62, 18.09),
    "deepseek-llm-67b-chat": (12.09, 17.84),
    "Qwen1.5-7B-Chat": (11.77, 14.75),
    "zephyr-7b-beta": (10.99, 13.20),
    "gemma-7b-it": (6.94, 10.43),
    "text_davinci_001": (2.76, 9.03),
    "phi-2-dpo": (7.76, 7.77),
    "vicuna-7b-v1.5": (4.80, 7.62),
    "guanaco-33b": (5.00, 5.69),
    "gemma-2b-it": (3.40, 5.44),
    "chatglm2-6b": (2.76, 4.36),
    "falcon-7b-instruct": (2.15, 4.04),
    "oasst-sft-pythia-12b": (1.79, 3.27),
    "baichuan-13b-chat": (1.99, 2.06),
}
"""Win rates of AlpacaEval 2 in percent, plain and length-controlled, as published in the leaderboard of
tatsu-lab/alpaca_eval (weighted_alpaca_eval_gpt4_turbo_leaderboard.csv, commit 01f3cb2). text_davinci_003 has none."""


@dataclass(frozen=True)
class Judged:
    """A judged pair: the baseline's answer ``one`` to a prompt, the answer ``other`` of ``model``, and how far the
    judge preferred that, from 0 to 1."""

    prompt: str
    one: str
    other: str
    model: str
    preferred: float


def judged(data: Path) -> list[Judged]:
    """Read AlpacaEval's judged pairs, without those of NullModel."""
    table = pl.read_parquet(data / "alpaca_eval/annotations.parquet").filter(pl.col("generator_2") != NULL)
    columns = table.select("instruction", "output_1", "output_2", "generator_2", pl.col("preference") - 1.0)
    return [Judged(*row) for row in columns.iter_rows()]


def answers(data: Path) -> dict[str, dict[str, str]]:
    """Read the answers of AlpacaEval by prompt and model, NullModel's among them."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    table = pl.read_parquet(data / "alpaca_eval/model_outputs.parquet")
    for prompt, model, text in table.select("instruction", "generator", "output").iter_rows():
        found[prompt][model] = text
    return dict(sorted(found.items()))


# What is seen of an answer -----------------------------------------------------------------------------


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


def _looks(prompt: str, text: str) -> list[float]:
    said = _words(text)
    count, size = max(len(said), 1), max(len(text), 1)
    lines = [line for line in text.splitlines() if line.strip()]
    wanted = {word for word in _words(prompt) if len(word) > 3}
    return [
        float(np.log1p(len(text))),
        float(np.log1p(len(lines))),
        float(np.log1p(sum(bool(ITEM.match(line)) for line in lines))),
        float(np.log1p(text.count("**") / 2)),
        float(np.log1p(sum(line.startswith("#") for line in lines))),
        float(np.log1p(text.count("```"))),
        len(text) / count,
        len(set(said)) / count**0.75,
        *(text.count(sign) / count for sign in "?!:,"),
        sum(letter.isdigit() for letter in text) / size,
        sum(letter.isupper() for letter in text) / size,
        len(wanted & set(said)) / max(len(wanted), 1),
        float(text.rstrip()[-1:] in set('.!?)"`*:')),
        float(not text),
    ]


class Eyes:
    """Turns answers into features float64[n, k]; what it knows of words comes from ``seen`` alone. Column 0 is the
    logarithm of the length."""

    def __init__(self, seen: Sequence[Answered]) -> None:
        number: Counter[str] = Counter()
        for _, text in seen:
            number.update(set(_words(text)))
        most = sorted(number, key=lambda word: (-number[word], word))[:WORDS]
        self.place = {word: at for at, word in enumerate(most)}
        self.rarity = np.log(len(seen) / np.array([number[word] for word in most]))
        made = self._counted([text for _, text in seen])
        _, vectors = np.linalg.eigh(made.T @ made)
        self.topics = vectors[:, ::-1][:, :TOPICS]
        raw = self._raw(seen, made)
        self.mean, self.deviation = raw.mean(axis=0), raw.std(axis=0) + 1e-6

    def _counted(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        made = np.zeros((len(texts), len(self.place)), np.float32)
        for row, text in enumerate(texts):
            for word, times in Counter(_words(text)).items():
                if (at := self.place.get(word)) is not None:
                    made[row, at] = (1 + np.log(times)) * self.rarity[at]
        return np.asarray(made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9), np.float32)

    def _raw(self, answered: Sequence[Answered], made: npt.NDArray[np.float32]) -> Floats:
        prompts = sorted({prompt for prompt, _ in answered})
        place = {prompt: at for at, prompt in enumerate(prompts)}
        asked = (self._counted(prompts) @ self.topics)[[place[prompt] for prompt, _ in answered]]
        said = made @ self.topics
        size = np.linalg.norm(said, axis=1) * np.linalg.norm(asked, axis=1)
        near = (said * asked).sum(axis=1) / np.maximum(size, 1e-9)
        both = said[:, :OF_PROMPT] * asked[:, :OF_PROMPT]
        looks = np.array([_looks(prompt, text) for prompt, text in answered])
        return np.hstack([looks, near[:, None], said, both]).astype(np.float64)

    def __call__(self, answered: Sequence[Answered]) -> Floats:
        """Return the features of answers, each of mean 0 and deviation 1 over what was seen, outliers cut."""
        raw = self._raw(answered, self._counted([text for _, text in answered]))
        return np.asarray(np.clip((raw - self.mean) / self.deviation, -MOST, MOST), np.float64)


def _lengths(features: Floats) -> Floats:
    """One, the logarithm of the length and its square, float64[n, 3]."""
    return np.stack([np.ones(len(features)), features[:, 0], features[:, 0] ** 2], axis=1)


# Scorers -----------------------------------------------------------------------------------------------

Scorer = Callable[[Floats], Floats]
"""Scores of answers from their features."""


def _logistic(features: Floats, target: Floats) -> Floats:
    """The weights of a ridge regression of probabilities, by Newton's method."""
    weights = np.zeros(features.shape[1])
    for _ in range(50):
        likely = 1 / (1 + np.exp(-features @ weights))
        slope = features.T @ (likely - target) + RIDGE * weights
        curve = (features.T * np.maximum(likely * (1 - likely), 1e-6)) @ features + RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curve, slope)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return weights


def _linear(features: Floats, target: Floats) -> Floats:
    held = features.T @ features + RIDGE * np.eye(features.shape[1])
    return np.asarray(np.linalg.solve(held, features.T @ target), np.float64)


@dataclass(frozen=True)
class Scorers:
    """The eyes, and the scorers by name."""

    eyes: Eyes
    named: Mapping[str, Scorer]

    def scores(self, answered: Sequence[Answered]) -> dict[str, Floats]:
        """Score answers by each."""
        features = self.eyes(answered)
        return {name: scorer(features) for name, scorer in self.named.items()}


def learn(data: Path) -> Scorers:
    """Learn from the prompts that are not held out."""
    pairs = [pair for pair in judged(data) if not held_out(pair.prompt)]
    models = {
        prompt: {model: text for model, text in own.items() if model in PUBLISHED}
        for prompt, own in answers(data).items()
        if not held_out(prompt)
    }
    texts = [(prompt, text) for prompt, own in models.items() for text in own.values()]
    eyes = Eyes([*texts, *((pair.prompt, pair.one) for pair in pairs)])
    one, other = eyes([(pair.prompt, pair.one) for pair in pairs]), eyes([(pair.prompt, pair.other) for pair in pairs])
    preferred = np.array([pair.preferred for pair in pairs])
    given = eyes(texts)
    grades = np.array([_logit(PUBLISHED[model][1] / 100) for own in models.values() for model in own])
    prompt = np.repeat(np.arange(len(models)), [len(own) for own in models.values()])
    explained, *_ = np.linalg.lstsq(_lengths(given), given, rcond=None)

    def whole(features: Floats) -> Floats:
        return features

    def apart(features: Floats) -> Floats:
        """What length does not explain; then length itself, and its square, to be left out of scores."""
        lengths = _lengths(features)
        return np.hstack([features - lengths @ explained, lengths[:, 1:]])

    named: dict[str, Scorer] = {}
    for suffix, view in (("", whole), (", length taken out", apart)):
        for name, weights in (
            ("judged", _logistic(view(other) - view(one), preferred)),
            ("graded", _linear(_within(view(given), prompt), _within(grades, prompt))),
        ):
            kept = weights.copy()
            kept[given.shape[1] :] = 0
            named[name + suffix] = lambda features, view=view, kept=kept: view(features) @ kept  # type: ignore[misc]
    return Scorers(eyes, dict(sorted(named.items(), key=lambda one: (one[0].partition(",")[0] != "judged", one[0]))))


def _logit(share: float) -> float:
    return float(np.log(share / (1 - share)))


def _within(values: Floats, prompt: npt.NDArray[np.int64]) -> Floats:
    """Values less their mean over the prompt's."""
    flat = values.reshape(len(values), -1)
    sums = np.zeros((int(prompt.max()) + 1, flat.shape[1]))
    np.add.at(sums, prompt, flat)
    return np.asarray((flat - (sums / np.bincount(prompt)[:, None])[prompt]).reshape(values.shape), np.float64)
