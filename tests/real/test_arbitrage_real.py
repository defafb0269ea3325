"""Arbitrage over the recorded answers of 28 models: the laws of a build hold, and what it says of itself is true.

Needs the folder of data sets that ``AYA_DATA_REAL`` names.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from aya_data.core import ledger
from aya_data.engine.run import Build
from tests import builds
from tests.real.arbiter_real import NULL
from tests.real.arbitrage_real import (
    ARBITER,
    Recording,
    alpaca_eval,
    build,
    measure,
    picks,
    slug,
    sql,
    strengths,
    written,
)
from tests.real.second_scorers import learn

DATA = os.environ.get("AYA_DATA_REAL", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA, reason="AYA_DATA_REAL names no folder of real data"),
]

PART, MODELS = 5, 20


@pytest.fixture(scope="module")
def recording() -> Recording:
    return alpaca_eval(Path(DATA).resolve())


@pytest.fixture(scope="module")
def whole(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Build:
    return build(recording.spec("reward"), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def few(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A fifth of the prompts, 20 models: NullModel and others."""
    models = [NULL, *(model for model in recording.models if model != NULL)][:MODELS]
    asked = list(recording.texts)[::PART]
    texts = {
        prompt: {m: recording.texts[prompt][m] for m in models if m in recording.texts[prompt]} for prompt in asked
    }
    return written("few", texts, tmp_path_factory.mktemp("few"))


def test_every_answer_is_counted_and_every_prompt_decided(recording: Recording, whole: Build) -> None:
    assert all(ledger.balance(stage.counts) == 0 for stage in whole.stages)
    rows = len(recording.texts) + sql(whole, "SELECT count(*) FROM pairs WHERE {only} AND outcome = 'kept'")[0][0]
    assert whole.result.manifest["rows"] == rows
    recorded = Counter(slug(model) for own in recording.texts.values() for model in own)
    assert len(recorded) == 28
    counted = dict(sql(whole, "SELECT teacher, count(*) FROM completions WHERE {only} GROUP BY 1"))
    assert counted == recorded
    decided = sql(whole, "SELECT count(*), count(DISTINCT prompt) FROM decisions WHERE {only}")
    assert decided == [(len(recording.texts), len(recording.texts))]


def test_what_is_released_is_what_was_recorded_and_what_sql_says(recording: Recording, whole: Build) -> None:
    found = picks(whole)
    assert {pick.prompt for pick in found} == set(recording.texts)
    assert len(found) == len(recording.texts)
    models = {slug(model): model for model in recording.models}
    assert all(pick.text == recording.texts[pick.prompt][models[pick.teacher]] for pick in found)
    said = dict(sql(whole, "SELECT prompt, teacher FROM decisions WHERE {only}"))
    assert said == {pick.key: pick.teacher for pick in found}
    wins = dict(sql(whole, "SELECT teacher, wins FROM arbitration WHERE {only}"))
    assert Counter({name: won for name, won in wins.items() if won}) == Counter(pick.teacher for pick in found)
    best = "SELECT prompt, max(score) AS best FROM completions WHERE {only} AND len(penalties) = 0 GROUP BY 1"
    below = f"SELECT count(*) FROM decisions JOIN ({best}) USING (prompt) WHERE {{only}} AND score <> best"
    assert sql(whole, below) == [(0,)]


def test_an_answer_that_knows_nothing_of_the_prompt_is_never_picked(whole: Build) -> None:
    assert slug(NULL) not in {pick.teacher for pick in picks(whole)}
    chosen = sql(whole, "SELECT count(*) FROM pairs WHERE {only} AND chosen_teacher = '" + slug(NULL) + "'")
    assert chosen == [(0,)]


def test_pairs_are_of_picked_answers_and_keep_their_margin(whole: Build) -> None:
    pairs = pl.read_parquet(whole.result.path / "preference/*/*.parquet")
    assert sql(whole, "SELECT count(*) FROM pairs WHERE {only} AND outcome = 'kept'") == [(pairs.height,)]
    assert sql(whole, "SELECT count(DISTINCT prompt) FROM pairs WHERE {only}") == [(805,)]
    picked = {pick.prompt: pick.text for pick in picks(whole)}
    for chosen, rejected, margin in pairs.select("chosen", "rejected", "margin").iter_rows():
        assert chosen[-1]["content"] == picked[chosen[0]["content"]]
        assert chosen[-1]["content"] != rejected[-1]["content"]
        assert margin >= 0.05


def test_a_rebuild_is_byte_identical_and_the_order_of_teachers_changes_nothing(few: Recording, tmp_path: Path) -> None:
    first = build(few.spec("reward"), few.path.parent)
    again = build(few.spec("reward"), tmp_path, "again")
    assert builds.tree(first.result.path) == builds.tree(again.result.path)
    backwards = build(few.spec("reward", models=few.models[::-1]), few.path.parent)
    for kind in ("data", "preference"):
        assert builds.tree(first.result.path / kind) == builds.tree(backwards.result.path / kind)


@pytest.mark.parametrize(
    "routing", ["{kind: learned, share: 0.5, temperature: 0.1}", "{kind: fixed, held_out: 0.5, least: 1}"]
)
def test_what_learns_asks_all_of_a_share_and_one_of_the_rest(few: Recording, routing: str) -> None:
    done = build(few.spec(routing), few.path.parent)
    found = picks(done)
    counts = dict(sql(done, "SELECT prompt, count(*) FROM completions WHERE {only} GROUP BY 1"))
    assert len(found) == len(counts) == len(few.texts)
    shared = {pick.key: pick.prompt for pick in found if pick.reason == "reward"}
    assert 0 < len(shared) < len(found)
    for key, count in counts.items():
        assert count == (len(few.texts[shared[key]]) if key in shared else 1)
    assert slug(NULL) not in {pick.teacher for pick in found}


@pytest.mark.sweep
def test_routing_by_score_beats_chance_in_the_eyes_of_other_scorers(recording: Recording, tmp_path: Path) -> None:
    scorers = learn(Path(DATA))
    figures = measure(recording, scorers, tmp_path, seeds=(1,))
    made, _ = strengths(Path(DATA), figures.board, scorers)
    for name in ("judged", "graded"):
        low = made[name].between.low
        assert low is not None
        assert low > 0.65
        assert made[name].area > 0.7
    single = figures.board.singles[ARBITER]
    for scorer in (ARBITER, "judged", "graded"):
        ahead = {kind: figures.board.won(scorer, figures.picked[kind], single)[1] for kind in ("reward", "random")}
        assert ahead["reward"].low is not None
        assert ahead["random"].high is not None
        assert ahead["reward"].low > ahead["random"].high, scorer
