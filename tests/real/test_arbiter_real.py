"""The arbiter ``heuristic`` on real answers: what does not depend on the prompt loses, and what judges prefer wins.

Needs the folder of data sets that ``AYA_DATA_REAL`` names. Prompts on which nothing was tuned.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aya_data.builders.arbitrage.statistics.intervals import wilson
from tests.real.arbiter_real import NULL, Alpaca, agreement, alpaca, judged_pairs, own_answers, wins

DATA = os.environ.get("AYA_DATA_REAL", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA, reason="AYA_DATA_REAL names no folder of real data"),
]


@pytest.fixture(scope="module")
def found() -> Alpaca:
    return alpaca(Path(DATA))


def test_among_the_models_hardly_a_constant_is_ever_picked(found: Alpaca) -> None:
    assert len(found.constants) >= 30
    of = {name: wins(found.answers, answerer) for name, answerer in found.constants.items()}
    # Interval included, with no win in 397 prompts; a list of the words that prompts are made of wins once.
    for name, won in of.items():
        share = won.share
        assert share.estimate is not None
        assert share.high is not None
        assert share.estimate <= 0.005, name
        assert share.high <= 0.01 or name == "400 frequent words", name
    together = wilson(sum(won.picked + won.tied for won in of.values()), sum(won.prompts for won in of.values()))
    assert together.high is not None
    assert together.high <= 0.002


def test_among_three_models_hardly_any_is_picked(found: Alpaca) -> None:
    picked = prompts = 0
    for answerer in found.constants.values():
        of = wins(found.answers, answerer, 3)
        picked, prompts = picked + of.picked + of.tied, prompts + of.prompts
    assert picked / prompts < 0.01
    null = wins(found.answers, found.constants["NullModel"], 3)
    assert (null.picked + null.tied) / null.prompts <= 0.01


def test_it_agrees_with_judged_pairs(found: Alpaca) -> None:
    pairs = judged_pairs(found, alone=False)
    real = agreement([pair for model, own in pairs.items() if model != NULL for pair in own])
    assert real.all.low is not None
    assert real.all.low > 0.8
    # The judge of these pairs was fooled by NullModel; the arbiter is not.
    assert sum(other >= one for one, other, _, _, _ in pairs[NULL]) <= 0.01 * len(pairs[NULL])


@pytest.mark.parametrize("name", ["instructions in 26 languages", "Chinese instructions"])
def test_with_two_answers_the_prompt_s_own_is_before_another(name: str) -> None:
    languages = own_answers(Path(DATA), name, 100)
    more = sum(found[0] for found in languages.values())
    less = sum(found[2] for found in languages.values())
    assert more / (more + less) > 0.65
