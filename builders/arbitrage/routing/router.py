"""The learned router: from a prompt to the teacher whose answer the arbiter would like best.

The target of a prompt is a distribution over its teachers, ``p = softmax(score / T)``, and the loss the divergence
``KL(p || q)`` from what the router says (Multilingual Arbitrage, arXiv 2408.14960; T was not published).

It is a linear classifier of hashed features in the manner of fastText (Joulin et al. 2017, arXiv 1607.01759): one for
the variety, and the words and pairs of words of what the user says (characters where a script has no spaces), each set
scaled to length 1. Training is stochastic gradient descent with AdaGrad, in an order by keyed hash, on one thread: the
same prompts give the same router on one platform. fastText's own trainer knows only hard labels, and with one thread
leaves nine tenths of its input matrix as the memory was, so that it is not repeatable and now and then fails
("Encountered NaN": version 0.9.2, 151 of 160 trainings with 8 dimensions and 2,000 buckets).

**Calibration.** Two more routers are trained on a half of the prompts each and say what they think of the other half.
The report compares them with the plain distribution of the variety in their half, which is what a fixed map knows:
divergence, how often the first choice is a best teacher, and expected against observed probability. ``better`` says
whether the router is; if it is not, ``fixed`` does the same for less.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.builders.arbitrage.ranking import STEP, varieties
from aya_data.builders.arbitrage.routing.fixed import Standings
from aya_data.builders.arbitrage.routing.rules import Contender, RouterSettings, RoutingSettings, identities
from aya_data.builders.arbitrage.statistics.collected import collect
from aya_data.builders.arbitrage.statistics.intervals import fold, mixed, prompt_hashes, rounded
from aya_data.core.errors import WrongSetting
from aya_data.core.identity import draws
from aya_data.text.turns import row_texts

__all__ = ["LEAST", "ROUTER", "predict", "train"]

LEAST: Final = 50
"""So many scored prompts are the fewest to learn from."""
SEEN: Final = 2000
"""Characters of a prompt that the router reads."""
BLOCK: Final = 4096
BINS: Final = 5

ROUTER: Final = pa.schema(
    [
        pa.field("buckets", pa.int32()),
        pa.field("rows", pa.list_(pa.int32())),
        pa.field("weights", pa.large_binary()),
        pa.field("teachers", pa.list_(pa.string())),
        pa.field("prompts", pa.list_(pa.uint64())),
        pa.field("crossed", pa.list_(pa.string())),
        pa.field("report", pa.string()),
    ]
)
"""One row. ``weights`` are float32[rows, teachers] of the buckets in ``rows``, the others' are 0. ``prompts`` are those
that were scored, by their hash, ``crossed`` the teachers that a router picks for them which has not seen them;
``report`` is JSON."""

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


def train(
    parts: Iterable[tuple[pa.Table, pa.Table]], contenders: Sequence[Contender], routing: RoutingSettings, seed: int
) -> pa.Table:
    """Train a router on the prompts that all teachers were asked for: :data:`ROUTER`.

    ``parts`` are prompts (``row_key, language, script, messages, chosen, rejected``) and their scores after
    :func:`~aya_data.builders.arbitrage.ranking.combine`, part by part. Raises :class:`WrongSetting` with fewer than
    :data:`LEAST` prompts with two scored teachers. 0.7 ms for a prompt of 40 words with 8 teachers by the default
    settings; memory: what is seen of the prompts, and 24 bytes for each of their features.
    """
    texts: dict[int, tuple[str, str]] = {}

    def scores() -> Iterable[pa.Table]:
        for prompts, scored in parts:
            kept = _share(prompts, scored)
            texts.update(zip(prompt_hashes(kept["row_key"].to_pylist()).tolist(), seen(kept), strict=True))
            yield scored

    collected = collect(scores(), contenders, seed)
    table = Standings(collected)
    prompts, first = np.unique(table.prompt, return_index=True)
    if len(prompts) < LEAST:
        what = f"{len(prompts)} prompts have scores of two teachers, too few to train a router: {LEAST} are the least"
        raise WrongSetting([(("routing", "share"), what, "Raise share, or add prompts.")])
    order = sorted(range(len(contenders)), key=lambda at: (identities(contenders, seed)[at], contenders[at].name))
    label = np.argsort(order)
    target = _targets(table, first, label, len(contenders), float(routing.temperature or 1))
    hashes, variety = collected.hashes[prompts], collected.variety[prompts].astype(np.int64)
    # In an order of their own, so that sums of fractions are the same however the prompts came.
    sorted_ = np.argsort(hashes)
    hashes, variety, target = hashes[sorted_], variety[sorted_], target[sorted_]
    held = _Features.of([texts[key] for key in hashes.tolist()], routing.router.buckets)
    half = fold(hashes)
    said = np.zeros_like(target)
    for side in (False, True):
        learned, mine = np.flatnonzero(half != side), np.flatnonzero(half == side)
        said[mine] = _said(held, mine, _trained(held, learned, target, hashes, routing.router))
    names = [contenders[at].name for at in order]
    asked = np.array([[contenders[at].asked_for(*one) for at in order] for one in collected.varieties], np.bool_)
    crossed = _picked(said, asked[variety])
    report = _report(target, said, half, variety, crossed)
    weights = _trained(held, np.arange(len(hashes)), target, hashes, routing.router).astype(np.float32)
    rows = np.flatnonzero(weights.any(axis=1))
    row = {
        "buckets": len(weights),
        "rows": rows.tolist(),
        "weights": weights[rows].tobytes(),
        "teachers": names,
        "prompts": hashes.tolist(),
        "crossed": [names[at] if at >= 0 else None for at in crossed.tolist()],
        "report": json.dumps(report, sort_keys=True),
    }
    return pa.Table.from_pylist([row], schema=ROUTER)


def predict(prompts: pa.Table, table: pa.Table, contenders: Sequence[Contender]) -> pa.Array:
    """Return the name of the teacher that the router of :func:`train` picks for each prompt (columns as there), null
    where none of its teachers is asked for the variety. 100 microseconds per prompt, most of it for its words."""
    names = table["teachers"][0].as_py()
    by_name = {contender.name: contender for contender in contenders}
    coded, known = varieties(prompts)
    asked = np.array([[name in by_name and by_name[name].asked_for(*one) for name in names] for one in known], np.bool_)
    weights = np.zeros((table["buckets"][0].as_py(), len(names)))
    rows = table["rows"][0].values.to_numpy()
    weights[rows] = np.frombuffer(table["weights"][0].as_py(), np.float32).reshape(len(rows), len(names))
    held = _Features.of(seen(prompts), len(weights))
    said = _said(held, np.arange(prompts.num_rows), weights)
    picked = _picked(said, asked.reshape(len(known), len(names))[coded])
    return pa.array(names, pa.string()).take(pa.array(picked, mask=picked < 0))


def seen(prompts: pa.Table) -> list[tuple[str, str]]:
    """Return what the router sees of each prompt: its variety, and the beginning of what its user says."""
    coded, known = varieties(prompts)
    labels = [f"{language}_{script}" for language, script in known]
    return [(labels[at], text[:SEEN]) for at, text in zip(coded.tolist(), row_texts(prompts, "prompt"), strict=True)]


def _share(prompts: pa.Table, scores: pa.Table) -> pa.Table:
    return prompts.take(pa.array(np.unique(scores["row"].to_numpy())))


def _targets(table: Standings, first: Longs, label: Longs, teachers: int, temperature: float) -> Floats:
    """Return softmax(score / T) over the teachers of each prompt, float64[prompts, labels]; 0 for absent ones."""
    count = np.diff(np.append(first, len(table.prompt)))
    row = np.repeat(np.arange(len(first)), count)
    value = np.full((len(first), teachers), -np.inf)
    value[row, label[table.teacher]] = table.value / STEP / temperature
    return _softmax(value)


def _picked(said: Floats, asked: npt.NDArray[np.bool_]) -> Longs:
    allowed = np.where(asked, said, -1.0)
    best = np.argmax(allowed, axis=1) if allowed.size else np.zeros(len(said), np.int64)
    return np.where(asked.any(axis=1), best, -1)


@dataclass(frozen=True, slots=True)
class _Features:
    """Features of n prompts: ``bucket`` int64[f] and ``value`` float64[f], those of prompt i from ``bounds[i]`` on."""

    bucket: Longs
    value: Floats
    bounds: Longs

    @classmethod
    def of(cls, texts: Sequence[tuple[str, str]], buckets: int) -> _Features:
        from aya_data.text.shingles import Gram, pieces_of, shingle_sets

        pieces = pieces_of([text for _, text in texts])
        sets = [shingle_sets(pieces, gram) for gram in (Gram(1, 1), Gram(2, 2))]
        varieties_ = draws(0, "router variety", [variety for variety, _ in texts])
        count = sum((np.diff(bounds) for _, bounds in sets), np.ones(len(texts), np.int64))
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(count)])
        hashes, value = np.empty(bounds[-1], np.uint64), np.ones(bounds[-1])
        hashes[bounds[:-1]] = varieties_
        begins = bounds[:-1] + 1
        for found, ends in sets:
            size = np.diff(ends)
            place = np.arange(len(found)) + np.repeat(begins - ends[:-1], size)
            hashes[place] = found
            value[place] = np.repeat(1 / np.sqrt(np.maximum(size, 1)), size)
            begins = begins + size
        return cls((hashes % np.uint64(buckets)).astype(np.int64), value, bounds)

    def some(self, rows: Longs) -> tuple[Longs, Longs, Longs]:
        """Return the places of the features of some prompts, which of them each is of, and where each begins."""
        size = self.bounds[rows + 1] - self.bounds[rows]
        begins = np.cumsum(size) - size
        of = np.repeat(np.arange(len(rows)), size)
        return np.arange(len(of)) + (self.bounds[rows] - begins)[of], of, begins


def _softmax(values: Floats) -> Floats:
    power = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(power / power.sum(axis=1, keepdims=True), np.float64)


def _said(features: _Features, rows: Longs, weights: Floats) -> Floats:
    """Return what the router says of some prompts, float64[rows, teachers]."""
    out = np.zeros((len(rows), weights.shape[1]))
    for start in range(0, len(rows), BLOCK):
        place, _, begins = features.some(rows[start : start + BLOCK])
        held = features.value[place][:, None] * weights[features.bucket[place]]
        out[start : start + BLOCK] = _softmax(np.add.reduceat(held, begins, axis=0))
    return out


def _trained(features: _Features, rows: Longs, target: Floats, hashes: Hashes, settings: RouterSettings) -> Floats:
    """Train on some prompts: float64[buckets, teachers]."""
    from aya_data.builders.arbitrage.routing.router_kernel import descend

    weights = np.zeros((settings.buckets, target.shape[1]))
    squares = np.full(settings.buckets, 1e-8)
    for epoch in range(settings.epochs):
        with np.errstate(over="ignore"):
            drawn = mixed(hashes[rows] + np.uint64(epoch + 1) * np.uint64(0x9E3779B97F4A7C15))
        order = rows[np.argsort(drawn)]
        rate = float(settings.learning_rate)
        descend(features.bucket, features.value, features.bounds, target, order, rate, weights, squares)
    return weights


def _report(
    target: Floats, said: Floats, half: npt.NDArray[np.bool_], variety: Longs, crossed: Longs
) -> dict[str, Any]:
    """Compare the crossed routers with the plain distribution of each variety in the half that they learned from."""
    plain = np.zeros_like(target)
    for side in (False, True):
        learned, mine = half != side, half == side
        plain[mine] = target[learned].mean(axis=0) if learned.any() else 1 / target.shape[1]
        for one in np.unique(variety[mine]):
            seen = learned & (variety == one)
            if seen.sum() >= 10:
                plain[mine & (variety == one)] = target[seen].mean(axis=0)
    best = target >= target.max(axis=1, keepdims=True) - 1e-12
    rows = np.arange(len(target))
    ours, theirs = _divergence(target, said), _divergence(target, plain)
    hit = best[rows, np.maximum(crossed, 0)] & (crossed >= 0)
    sure = said[rows, np.maximum(crossed, 0)]
    bins = []
    for low in range(BINS):
        inside = (np.minimum((sure * BINS).astype(np.int64), BINS - 1) == low) & (crossed >= 0)
        if inside.any():
            bins.append(
                {
                    "prompts": int(inside.sum()),
                    "expected": rounded(float(sure[inside].mean())),
                    "observed": rounded(float(target[rows, np.maximum(crossed, 0)][inside].mean())),
                }
            )
    return {
        "prompts": len(target),
        "divergence": {"router": rounded(ours), "variety": rounded(theirs)},
        "best": {
            "router": rounded(float(hit.mean())),
            "variety": rounded(float(best[rows, plain.argmax(axis=1)].mean())),
        },
        "calibration": bins,
        "better": bool(ours < theirs),
    }


def _divergence(target: Floats, said: Floats) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(target > 0, target * np.log(target / np.maximum(said, 1e-6)), 0.0)
    return float(terms.sum(axis=1).mean())
