"""The learned router: from a prompt to the teacher whose answer the arbiter would like best.

The target of a prompt is a distribution over its teachers, ``p = softmax(score / T)``, and the loss the divergence
``KL(p || q)`` from what the router says (Multilingual Arbitrage, arXiv 2408.14960; T was not published).

It is a fastText classifier (Joulin et al. 2017, arXiv 1607.01759) of hashed features: the variety, and the words and
pairs of words of what the user says (characters where a script has no spaces). The variety counts as much as
:data:`SHARE` of the others together. fastText knows hard labels alone, and draws one of a line's in every epoch; so a
line has :data:`MARKS` labels, in proportion to the target, and the expected step is that of the divergence. (27 models
of AlpacaEval, prompts that the router has not seen: divergence 0.52; with the best teacher as a line's one label 0.89.)

**Repeatable.** The same prompts give the same router on one platform. fastText 0.9.2 on one thread leaves nine tenths
of its input matrix as the memory was, unless it reads all of it from a file: so every feature is a word, every word has
a vector drawn by keyed hash, and fastText has no buckets of its own. What it reads are temporary files of the system.

**Calibration.** Two more routers are trained on a half of the prompts each and say what they think of the other half.
The report compares them with the plain distribution of the variety in their half, which is what a fixed map knows:
divergence, how often the first choice is a best teacher, and expected against observed probability. ``better`` says
whether the router is; if it is not, ``fixed`` does the same for less.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.builders.arbitrage.ranking import STEP, varieties
from aya_data.builders.arbitrage.routing.fixed import Standings
from aya_data.builders.arbitrage.routing.rules import LEAST, Contender, RouterSettings, RoutingSettings, identities
from aya_data.builders.arbitrage.statistics.collected import collect
from aya_data.builders.arbitrage.statistics.intervals import fold, mixed, prompt_hashes, rounded
from aya_data.core.errors import WrongSetting
from aya_data.core.identity import draws
from aya_data.text.turns import row_texts

__all__ = ["ROUTER", "predict", "train"]

SEEN: Final = 2000
"""Characters of a prompt that the router reads."""
SHARE: Final = 0.3
"""What the variety counts for, beside all words and pairs of words of a prompt."""
MARKS: Final = 50
"""Labels of a line."""
DIMENSIONS: Final = 16
END: Final = "</s>"
"""What fastText calls the end of a line."""
GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
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
"""One row. ``weights`` are float32[rows, teachers] of the buckets in ``rows``, the others' are 0: both matrices of
fastText, multiplied. The last bucket is the end of the line, which every prompt has. ``prompts`` are those
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
    :data:`~aya_data.builders.arbitrage.routing.rules.LEAST` prompts with two scored teachers. 2.8 ms for a prompt of 40
    words with 8 teachers by the default settings; memory: what is seen of the prompts, 8 bytes for each of their
    features, and what the temporary files hold.
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
    where none of its teachers is asked for the variety. 30 microseconds per prompt of 40 words."""
    names = table["teachers"][0].as_py()
    by_name = {contender.name: contender for contender in contenders}
    coded, known = varieties(prompts)
    asked = np.array([[name in by_name and by_name[name].asked_for(*one) for name in names] for one in known], np.bool_)
    weights = np.zeros((table["buckets"][0].as_py(), len(names)))
    rows = table["rows"][0].values.to_numpy()
    weights[rows] = np.frombuffer(table["weights"][0].as_py(), np.float32).reshape(len(rows), len(names))
    held = _Features.of(seen(prompts), len(weights) - 1)
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
    """Features of n prompts: ``bucket`` int64[f], those of prompt i from ``bounds[i]`` on. Each counts the same; the
    first is the end of the line, which has the bucket ``buckets``."""

    bucket: Longs
    bounds: Longs
    buckets: int

    @classmethod
    def of(cls, texts: Sequence[tuple[str, str]], buckets: int) -> _Features:
        from aya_data.text.shingles import Gram, pieces_of, shingle_sets

        pieces = pieces_of([text for _, text in texts])
        sets = [shingle_sets(pieces, gram) for gram in (Gram(1, 1), Gram(2, 2))]
        said = sum((np.diff(bounds) for _, bounds in sets), np.zeros(len(texts), np.int64))
        repeated = np.maximum(1, np.rint(SHARE * said).astype(np.int64))
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(1 + repeated + said)])
        varieties_ = draws(0, "router variety", [variety for variety, _ in texts])
        bucket = np.repeat((varieties_ % np.uint64(buckets)).astype(np.int64), np.diff(bounds))
        bucket[bounds[:-1]] = buckets
        begins = bounds[:-1] + 1 + repeated
        for found, ends in sets:
            size = np.diff(ends)
            place = np.arange(len(found)) + np.repeat(begins - ends[:-1], size)
            bucket[place] = found % np.uint64(buckets)
            begins = begins + size
        return cls(bucket, bounds, buckets)

    def of_rows(self, rows: Longs) -> tuple[Longs, Longs]:
        """Return the buckets of some prompts, one after the other, and where those of each begin."""
        size = self.bounds[rows + 1] - self.bounds[rows]
        ends = np.cumsum(size)
        place = np.arange(size.sum()) + np.repeat(self.bounds[rows] - ends + size, size)
        return self.bucket[place], ends - size


def _softmax(values: Floats) -> Floats:
    power = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(power / power.sum(axis=1, keepdims=True), np.float64)


def _said(features: _Features, rows: Longs, weights: Floats) -> Floats:
    """Return what the router says of some prompts, float64[rows, teachers].

    A feature that it never saw has no weight and still counts, as one more word that says nothing.
    """
    out = np.zeros((len(rows), weights.shape[1]))
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        bucket, begins = features.of_rows(block)
        size = np.diff(begins, append=len(bucket))
        out[start : start + BLOCK] = _softmax(np.add.reduceat(weights[bucket], begins, axis=0) / size[:, None])
    return out


def _trained(features: _Features, rows: Longs, target: Floats, hashes: Hashes, settings: RouterSettings) -> Floats:
    """Train on some prompts: float64[buckets + 1, teachers]."""
    import fasttext

    with np.errstate(over="ignore"):
        order = rows[np.argsort(mixed(hashes[rows] + GOLDEN))]
    bucket, begins = features.of_rows(order)
    teachers = range(target.shape[1])
    # Of a line with every label and no words fastText learns that there are all of them.
    lines = [" ".join(f"#{teacher}" for teacher in teachers)]
    for marks, words in zip(_marks(target[order]).tolist(), np.split(bucket, begins[1:]), strict=True):
        lines.append("".join(f"#{t} " * marks[t] for t in teachers) + " ".join(map(str, words[1:].tolist())))
    with tempfile.NamedTemporaryFile() as text, tempfile.NamedTemporaryFile() as vectors:
        for file, content in ((text, lines), (vectors, _vectors(np.unique(bucket), features.buckets))):
            file.write("\n".join([*content, ""]).encode())
            file.flush()
        try:
            model = fasttext.train_supervised(
                input=text.name, pretrainedVectors=vectors.name, label="#", epoch=settings.epochs,
                lr=float(settings.learning_rate), dim=DIMENSIONS, bucket=0, minn=0, maxn=0, thread=1, verbose=0,
            )  # fmt: skip
        except RuntimeError as error:
            said = str(error).rstrip(".")
            what = f"the router cannot be trained with a learning rate of {settings.learning_rate}: {said}"
            raise WrongSetting([(("routing", "router", "learning_rate"), what, "Lower it.")]) from error
    known = np.array([features.buckets if word == END else int(word) for word in model.words])
    labels = np.argsort([int(label[1:]) for label in model.labels])
    weights = np.zeros((features.buckets + 1, len(teachers)))
    weights[known] = np.einsum("wd,td->wt", model.get_input_matrix(), model.get_output_matrix()[labels])
    return weights


def _marks(target: Floats) -> Longs:
    """Share :data:`MARKS` labels out in proportion to the target of each prompt, the rest to the largest remainders:
    int64[prompts, teachers]."""
    exact = target * MARKS
    marks = np.floor(exact).astype(np.int64)
    place = np.argsort(np.argsort(marks - exact, axis=1, kind="stable"), axis=1)
    marks += place < MARKS - marks.sum(axis=1, keepdims=True)
    return marks


def _vectors(buckets: Longs, end: int) -> list[str]:
    """Return the lines of the first vectors, by keyed hash between -1 and 1 over the number of dimensions."""
    salts = np.arange(DIMENSIONS // 8, dtype=np.uint64) * GOLDEN
    with np.errstate(over="ignore"):
        drawn = mixed(mixed(buckets.astype(np.uint64) + GOLDEN)[:, None] + salts)
    numbers = [f" {(2 * byte - 255) / 255 / DIMENSIONS:.5f}" for byte in range(256)]
    lines = [f"{len(buckets)} {DIMENSIONS}"]
    for bucket, drawn_bytes in zip(buckets.tolist(), drawn.astype("<u8").view(np.uint8).tolist(), strict=True):
        lines.append((END if bucket == end else str(bucket)) + "".join([numbers[byte] for byte in drawn_bytes]))
    return lines


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
