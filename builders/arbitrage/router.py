"""The learned router: from a prompt to the teacher whose answer the arbiter would like best.

The target of a prompt is a distribution over its teachers, ``p = softmax(score / T)``, and the loss the divergence
``KL(p || q)`` from what the router says (Multilingual Arbitrage, arXiv 2408.14960; T was not published).

fastText learns from hard labels. Each prompt therefore becomes several lines with one label each, drawn from p by
systematic sampling: of c copies, a teacher gets c p rounded down or up, and c p on average over prompts. The loss of a
line is the cross-entropy of its label, so that of all lines is ``KL(p || q)``, up to a constant and to this rounding.
Lines stand in the order of a keyed hash; training has one thread and a seed: the same prompts give the same router on one
platform.

A prompt is seen as its variety and the beginning of what its user says, in lower case, by words and by sequences of
characters, which carry languages that are written without spaces.

**Calibration.** Two more routers are trained on a half of the prompts each and say what they think of the other half. The
report compares them with the plain distribution of the variety in their half, which is what a fixed map knows:
divergence, how often the first choice is a best teacher, and expected against observed probability. ``better`` says
whether the router is; if it is not, ``fixed`` does the same for less.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.builders.arbitrage.collected import collect
from aya_data.builders.arbitrage.fixed import Standings
from aya_data.builders.arbitrage.intervals import fold, mixed, prompt_hashes, rounded
from aya_data.builders.arbitrage.ranking import STEP, varieties
from aya_data.builders.arbitrage.routing import Contender, RouterSettings, RoutingSettings, identities
from aya_data.core.errors import WrongSetting
from aya_data.text.turns import row_texts

__all__ = ["LEAST", "ROUTER", "predict", "train"]

LEAST: Final = 50
"""So many scored prompts are the fewest to learn from."""
SEEN: Final = 2000
"""Characters of a prompt that the router reads."""
LABEL: Final = "__label__"
BINS: Final = 5

ROUTER: Final = pa.schema(
    [
        pa.field("model", pa.large_binary()),
        pa.field("teachers", pa.list_(pa.string())),
        pa.field("prompts", pa.list_(pa.uint64())),
        pa.field("crossed", pa.list_(pa.string())),
        pa.field("report", pa.string()),
    ]
)
"""One row: the fastText model, the teacher of each of its labels (0, 1, …), the scored prompts (by their hash) with the
teacher that a router picks which has not seen them, and the report as JSON."""

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


def train(
    parts: Iterable[tuple[pa.Table, pa.Table]], contenders: Sequence[Contender], routing: RoutingSettings, seed: int
) -> pa.Table:
    """Train a router on the prompts that all teachers were asked for: :data:`ROUTER`.

    ``parts`` are prompts (``row_key, language, script, messages, chosen, rejected``) and their scores after
    :func:`~aya_data.builders.arbitrage.ranking.combine`, part by part. Raises :class:`WrongSetting` with fewer than
    :data:`LEAST` prompts with two scored teachers. Memory: :data:`SEEN` characters of each scored prompt.
    """
    texts: dict[int, str] = {}

    def scores() -> Iterable[pa.Table]:
        for prompts, scored in parts:
            kept = _share(prompts, scored)
            texts.update(zip(prompt_hashes(kept["row_key"].to_pylist()).tolist(), lines(kept), strict=True))
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
    held = [texts[key] for key in hashes.tolist()]
    half = fold(hashes)
    said = np.zeros_like(target)
    for side in (False, True):
        other = np.flatnonzero(half != side)
        with _Router.trained([held[at] for at in other], target[other], hashes[other], routing.router, seed) as router:
            mine = np.flatnonzero(half == side)
            said[mine] = router.probabilities([held[at] for at in mine], len(contenders))
    names = [contenders[at].name for at in order]
    asked = np.array([[contenders[at].asked_for(*one) for at in order] for one in collected.varieties], np.bool_)
    crossed = _picked(said, asked[variety])
    report = _report(target, said, half, variety, crossed)
    with _Router.trained(held, target, hashes, routing.router, seed) as router:
        model = router.saved()
    row = {
        "model": model,
        "teachers": names,
        "prompts": hashes.tolist(),
        "crossed": [names[at] if at >= 0 else None for at in crossed.tolist()],
        "report": json.dumps(report, sort_keys=True),
    }
    return pa.Table.from_pylist([row], schema=ROUTER)


def predict(prompts: pa.Table, table: pa.Table, contenders: Sequence[Contender]) -> pa.Array:
    """Return the name of the teacher that the router of :func:`train` picks for each prompt (columns as there), null
    where none of its teachers is asked for the variety. 30 to 100 microseconds per prompt, and 0.1 s to load."""
    names = table["teachers"][0].as_py()
    by_name = {contender.name: contender for contender in contenders}
    coded, known = varieties(prompts)
    asked = np.array([[name in by_name and by_name[name].asked_for(*one) for name in names] for one in known], np.bool_)
    with _Router.loaded(table["model"][0].as_py()) as router:
        said = router.probabilities(lines(prompts), len(names))
    picked = _picked(said, asked.reshape(len(known), len(names))[coded])
    return pa.array(names, pa.string()).take(pa.array(picked, mask=picked < 0))


def lines(prompts: pa.Table) -> list[str]:
    """Return what the router sees of each prompt: one line, the variety first."""
    coded, known = varieties(prompts)
    labels = [f"<{language}_{script}>" for language, script in known]
    texts = row_texts(prompts, "prompt")
    # Nothing that a prompt says may pass for a label.
    return [
        f"{labels[code]} {' '.join(text[:SEEN].casefold().replace(LABEL, ' ').split())}"
        for code, text in zip(coded.tolist(), texts, strict=True)
    ]


def _share(prompts: pa.Table, scores: pa.Table) -> pa.Table:
    return prompts.take(pa.array(np.unique(scores["row"].to_numpy())))


def _targets(table: Standings, first: Longs, label: Longs, teachers: int, temperature: float) -> Floats:
    """Return softmax(score / T) over the teachers of each prompt, float64[prompts, labels]; 0 for absent ones."""
    count = np.diff(np.append(first, len(table.prompt)))
    row = np.repeat(np.arange(len(first)), count)
    value = np.full((len(first), teachers), -np.inf)
    value[row, label[table.teacher]] = table.value / STEP / temperature
    power = np.exp(value - value.max(axis=1, keepdims=True))
    return np.asarray(power / power.sum(axis=1, keepdims=True), np.float64)


def _picked(said: Floats, asked: npt.NDArray[np.bool_]) -> Longs:
    allowed = np.where(asked, said, -1.0)
    best = np.argmax(allowed, axis=1) if allowed.size else np.zeros(len(said), np.int64)
    return np.where(asked.any(axis=1), best, -1)


class _Router:
    """A fastText classifier; a folder of its own while it is open, since fastText reads and writes files by name."""

    def __init__(self, folder: tempfile.TemporaryDirectory[str], model: Any) -> None:
        self.folder, self.model = folder, model

    def __enter__(self) -> _Router:
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()

    @classmethod
    def trained(
        cls, texts: Sequence[str], target: Floats, hashes: Hashes, settings: RouterSettings, seed: int
    ) -> _Router:
        import fasttext

        folder = tempfile.TemporaryDirectory(prefix="aya-data-router-")
        path = Path(folder.name) / "lines"
        path.write_bytes("".join(_training(texts, target, hashes, settings.copies)).encode())
        model = fasttext.train_supervised(
            str(path),
            lr=float(settings.learning_rate),
            dim=settings.dim,
            epoch=settings.epochs,
            wordNgrams=settings.word_ngrams,
            minn=settings.min_chars if settings.max_chars else 0,
            maxn=settings.max_chars,
            bucket=settings.buckets,
            loss="softmax",
            thread=1,
            seed=seed & 0x7FFFFFFF,
            verbose=0,
            label=LABEL,
        )
        return cls(folder, model)

    @classmethod
    def loaded(cls, model: bytes) -> _Router:
        import fasttext

        folder = tempfile.TemporaryDirectory(prefix="aya-data-router-")
        path = Path(folder.name) / "model"
        path.write_bytes(model)
        return cls(folder, fasttext.FastText._FastText(str(path)))

    def saved(self) -> bytes:
        path = Path(self.folder.name) / "model"
        self.model.save_model(str(path))
        return path.read_bytes()

    def probabilities(self, texts: Sequence[str], teachers: int) -> Floats:
        """Return what it says of each text, float64[n, teachers]; labels that it never saw have 0."""
        out = np.zeros((len(texts), teachers))
        for start in range(0, len(texts), 4096):
            labels, said = self.model.predict(list(texts[start : start + 4096]), k=teachers)
            for at, (names, values) in enumerate(zip(labels, said, strict=True), start):
                out[at, [int(name.removeprefix(LABEL)) for name in names]] = values
        return out


def _training(texts: Sequence[str], target: Floats, hashes: Hashes, copies: int) -> Iterable[str]:
    """Give the lines of training: each text ``copies`` times, in an order by keyed hash."""
    start = mixed(hashes).astype(np.float64) / 2**64
    ends = np.cumsum(target, axis=1)
    ends[:, -1] = 1.0
    copy = np.arange(copies)
    points = (copy[None, :] + start[:, None]) / copies
    label = (points[:, :, None] >= ends[:, None, :]).sum(axis=2).clip(max=target.shape[1] - 1)
    with np.errstate(over="ignore"):
        drawn = mixed(
            hashes[:, None] + (copy[None, :].astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        )
    for cell in np.argsort(drawn, axis=None, kind="stable").tolist():
        at, which = divmod(cell, copies)
        yield f"{LABEL}{label[at, which]} {texts[at]}\n"


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
