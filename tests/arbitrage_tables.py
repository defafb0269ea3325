"""Tables of prompts and scores, and a simulated arbitrage, for the tests of routing, pairs and the bias report."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.builders.arbitrage.ranking import combine, norms
from aya_data.builders.arbitrage.routing.rules import Contender
from aya_data.builders.arbitrage.statistics.intervals import mixed
from aya_data.builders.arbitrage.tables import POSITIONS, SCORES
from aya_data.core.identity import draw

SEED = 7
LANGUAGES = (("eng", "Latn"), ("tur", "Latn"), ("zho", "Hans"))


def uniform(*key: object) -> float:
    return draw(0, "test", " ".join(map(str, key))) / 2**64


def normal(*key: object) -> float:
    return math.sqrt(-2 * math.log(uniform(*key, "r") or 1e-300)) * math.cos(2 * math.pi * uniform(*key, "a"))


def hexed(*fields: object) -> str:
    return hashlib.blake2b(" ".join(map(str, fields)).encode(), digest_size=16).hexdigest()


def contender(name: str, identity: str = "", languages: Sequence[str] | None = None, family: str = "") -> Contender:
    return Contender(
        name, identity or f"model of {name}", family or name, lambda one, _: languages is None or one in languages
    )


def prompt_table(keys: Sequence[str], languages: Sequence[tuple[str, str]] | None = None) -> pa.Table:
    found = languages or [LANGUAGES[index % 3] for index in range(len(keys))]
    messages = [
        [{"role": "user", "content": f"Question {key} in {one[0]}"}] for key, one in zip(keys, found, strict=True)
    ]
    turn = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    return pa.table(
        {
            "row_key": pa.array(keys, pa.string()),
            "language": pa.array([one[0] for one in found], pa.string()),
            "script": pa.array([one[1] for one in found], pa.string()),
            "messages": pa.array(messages, turn),
            "chosen": pa.array([None] * len(keys), turn),
            "rejected": pa.array([None] * len(keys), turn),
        }
    )


def score_table(prompts: pa.Table, answers: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Scores from answers: row, teacher, sample, and what else of a score differs from the default."""
    listed = sorted(answers, key=lambda one: (one["row"], one["teacher"], one.get("sample", 0)))
    about = prompts.select(["row_key", "language", "script"]).to_pylist()
    arbiters = sorted({name for one in listed for name in one if name.startswith("score.")})
    extra = sorted({name for one in listed for name in one if name.partition(".")[0] in POSITIONS})
    rows = []
    for one in listed:
        prompt = about[one["row"]]
        made = {
            "row": one["row"], "prompt": prompt["row_key"], "language": prompt["language"], "script": prompt["script"],
            "teacher": one["teacher"], "family": one.get("family", one["teacher"]), "sample": one.get("sample", 0),
            "key": one.get("key", hexed(prompt["row_key"], one["teacher"], one.get("sample", 0))), "finish": "stop",
            "tokens": None, "chars": 100, "length": one.get("length", 1.0),
            "digest": one.get("digest", hexed("says", prompt["row_key"], one["teacher"], one.get("sample", 0))),
            "penalties": one.get("penalties", []),
        }  # fmt: skip
        rows.append(made | {name: one.get(name) for name in (*arbiters, *extra)})
    fields = [
        *SCORES,
        *(pa.field(name, pa.float64()) for name in arbiters),
        *(pa.field(name, pa.int32()) for name in extra),
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def keys(count: int) -> list[str]:
    return [hexed("prompt", index) for index in range(count)]


def noise(*key: object, size: int) -> npt.NDArray[np.float64]:
    """Standard normal draws."""
    start = np.uint64(draw(0, "noise", " ".join(map(str, key))))
    with np.errstate(over="ignore"):
        bits = mixed(start + np.arange(2 * size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)
    one, other = (bits.reshape(2, size) + 0.5) / 2**53
    return np.sqrt(-2 * np.log(one)) * np.cos(2 * np.pi * other)


def simulated(
    trial: int,
    *,
    prompts: int = 300,
    teachers: int = 6,
    length: float = 0.0,
    own: float = 0.0,
    first: float = 0.5,
    noises: tuple[float, float] = (0.5, 0.5),
    alone: bool = False,
) -> tuple[pa.Table, list[Contender]]:
    """An arbitrage under two arbiters, a and b. Teachers differ by a standard deviation at most, answers by 0.7.

    What a may like beside quality: ``length`` for each unit of log length, ``own`` for teacher t0, whose family it is
    of, ``first`` the probability that it prefers the first of two equal answers.
    """  # fmt: skip
    size = prompts * teachers
    row, teacher = np.repeat(np.arange(prompts), teachers), np.tile(np.arange(teachers), prompts)
    skill = np.linspace(-0.5, 0.5, teachers)[np.argsort(noise(trial, "skill", size=teachers))]
    quality = skill[teacher] + 0.7 * noise(trial, "quality", size=size) + noise(trial, "prompt", size=prompts)[row]
    long = np.exp(0.4 * noise(trial, "length", size=size))
    scores = {
        "a": quality + noises[0] * noise(trial, "a", size=size) + length * np.log(long) + own * (teacher == 0),
        "b": quality + noises[1] * noise(trial, "b", size=size),
    }
    about = [LANGUAGES[index % 2] for index in range(prompts)]
    names = [hexed(trial, index) for index in range(prompts)]
    table = pa.table(
        {
            "row": row, "prompt": [names[at] for at in row], "language": [about[at][0] for at in row],
            "script": [about[at][1] for at in row], "teacher": [f"t{at}" for at in teacher],
            "family": [f"f{at}" for at in teacher], "sample": np.zeros(size, np.int32),
            "key": [hexed(trial, "key", index) for index in range(size)], "finish": ["stop"] * size,
            "tokens": pa.nulls(size, pa.int32()), "thought": pa.nulls(size, pa.int32()),
            "chars": np.full(size, 100), "length": np.round(long, 4),
            "digest": [str(index) for index in range(size)], "penalties": pa.array([[]] * size, pa.list_(pa.string())),
        }
    ).cast(SCORES)  # fmt: skip
    for name, value in scores.items():
        if name == "a" or not alone:
            table = table.append_column(f"score.{name}", pa.array(np.round(value, 4)))
    # Each answer is compared with the next of its prompt, in both orders.
    one = np.flatnonzero(teacher + 1 < teachers)
    counts = {name: np.zeros(size, np.int32) for name in POSITIONS}
    lean = math.log(first / (1 - first))
    wins = [
        scores["a"][x] - scores["a"][y] + lean + 0.5 * noise(trial, "judge", order, size=len(one)) > 0
        for order, (x, y) in enumerate(((one, one + 1), (one + 1, one)))
    ]
    for shown, (x, y) in zip(wins, ((one, one + 1), (one + 1, one)), strict=True):
        np.add.at(counts["first_wins"], x, shown)
        np.add.at(counts["second_wins"], y, ~shown)
    for side in (one, one + 1):
        np.add.at(counts["pairs"], side, 1)
        np.add.at(counts["flipped"], side, wins[0] == wins[1])
    for name, column in counts.items():
        table = table.append_column(f"{name}.a", pa.array(column))
    pool = [contender(f"t{at}", family=f"f{at}") for at in range(teachers)]
    weights = {"a": 1.0} if alone else {"a": 1.0, "b": 1.0}
    return combine(table, weights, norms([table], sorted(weights))), pool
