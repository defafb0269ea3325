"""The bias report: planted inclinations are found, and rarely any where there is none."""

from __future__ import annotations

import json
import statistics
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from aya_data.builders.arbitrage.statistics.bias import bias
from aya_data.builders.arbitrage.statistics.collected import collect, columns
from aya_data.builders.arbitrage.statistics.comparison import compare
from aya_data.builders.arbitrage.statistics.intervals import GROUPS, Interval, clustered, wilson
from tests.arbitrage_tables import SEED, contender, keys, prompt_table, score_table, simulated
from tests.test_routing import scored

FAMILIES = {"a": "f0", "b": None}


def report(trial: int = 0, **given: Any) -> dict[str, Any]:
    table, pool = simulated(trial, **given)
    return bias(collect([table], pool, SEED), FAMILIES)


def findings(found: dict[str, Any]) -> dict[str, set[str]]:
    """What was found of the arbiter a, by section; of length over all varieties."""
    return {
        section: {
            one["finding"] for one in found[section] if one["arbiter"] == "a" and one.get("language") is None
        }
        for section in ("length", "position", "own_family")
    }  # fmt: skip


NOTHING = {"length": {"none"}, "position": {"none"}, "own_family": {"none"}}


@pytest.mark.parametrize(
    ("given", "section"),
    [({"length": 1.0}, "length"), ({"first": 0.65}, "position"), ({"own": 0.5}, "own_family")],
)
def test_a_planted_bias_is_found_and_nothing_else(given: dict[str, Any], section: str) -> None:
    for trial in range(5):
        assert findings(report(trial, **given)) == {**NOTHING, section: {"found"}}


def test_where_nothing_is_planted_nothing_is_found() -> None:
    for trial in range(20):
        noises = ((0.2, 1.0), (0.5, 0.5), (1.0, 0.2))[trial % 3]
        assert findings(report(trial, prompts=(60, 200)[trial % 2], teachers=4 + trial % 4, noises=noises)) == NOTHING


def test_estimates_are_those_that_were_planted() -> None:
    found = report(prompts=1500, first=0.65, own=0.5, length=0.5)
    position, own = found["position"][0], found["own_family"][0]
    assert position["first"]["low"] > 0.6 and position["comparisons"] == 1500 * 5
    # 0.5 on a scale whose standard deviation is about 1.4.
    assert own["excess"]["low"] < 0.5 / 1.4 < own["excess"]["high"]
    length = {(one["arbiter"], one["language"]): one for one in found["length"]}
    assert length["a", "eng"]["within"]["low"] > 0.1 and abs(length["b", "eng"]["within"]["estimate"]) < 0.1
    assert set(length) == {(name, language) for name in ("final", "a", "b") for language in (None, "eng", "tur")}


def test_a_share_is_never_a_point() -> None:
    """Where every prompt says the same, the bootstrap over prompts sees no error."""
    sums = np.zeros((GROUPS, 2), np.int64)
    sums[:40] = 3
    every = clustered(sums, 0, (1,))
    assert (every.estimate, every.high) == (1.0, 1.0)
    assert every.low == wilson(40, 40).low, "three verdicts on one prompt are one"
    # Where each prompt has one trial it is Wilson's own.
    sums = np.zeros((GROUPS, 2), np.int64)
    sums[:200, 1], sums[:70, 0] = 1, 1
    share, plain = clustered(sums, 0, (1,)), wilson(70, 200)
    assert share.estimate == plain.estimate
    assert (share.low, share.high) == (pytest.approx(plain.low, abs=0.01), pytest.approx(plain.high, abs=0.01))
    assert clustered(sums[:, [0, 0]] * 0, 0, (1,)) == Interval(None, None, None)


def test_without_a_second_arbiter_a_better_teacher_is_no_proof() -> None:
    found = report(own=1.5, alone=True)
    assert findings(found)["own_family"] == {"possible"} and found["own_family"][0]["compared_with"] == []
    assert {one["arbiter"] for one in found["length"]} == {"a"}


def test_few_prompts_conclude_nothing() -> None:
    assert findings(report(prompts=12, length=2.0, first=0.9, own=2.0))["length"] == {"too_few"}
    assert findings(report(prompts=12, own=2.0))["own_family"] == {"too_few"}


def ranks(values: list[float]) -> list[float]:
    return [sum(v < value for v in values) + (sum(v == value for v in values) - 1) / 2 for value in values]


def test_correlations_follow_the_plain_definition() -> None:
    table, pool = simulated(3, prompts=80, length=0.7, alone=True)
    table = table.set_column(
        table.schema.get_field_index("length"), "length", pa.array(np.round(table["length"].to_numpy(), 1))
    )
    found = bias(collect([table], pool, SEED), {})["length"]
    rows = [one for one in table.to_pylist() if one["language"] == "tur"]
    one, other = ([row[name] for row in rows] for name in ("score", "length"))
    tur = next(row for row in found if row["language"] == "tur")
    assert tur["overall"]["estimate"] == pytest.approx(statistics.correlation(ranks(one), ranks(other)), abs=2e-4)
    inside: tuple[list[float], list[float]] = ([], [])
    for row in sorted({row["row"] for row in rows}):
        for side, name in zip(inside, ("score", "length"), strict=True):
            mine = ranks([one[name] for one in rows if one["row"] == row])
            side.extend(rank - statistics.fmean(mine) for rank in mine)
    assert tur["within"]["estimate"] == pytest.approx(statistics.correlation(*inside), abs=1e-4)


def test_without_length_another_teacher_wins() -> None:
    # t1 is better, t0 writes three times as much, and the arbiter counts characters too.
    count = 200
    prompts = prompt_table(keys(count), [("eng", "Latn")] * count)
    answers = []
    for row in range(count):
        for at, name in enumerate(("t0", "t1", "t2", "t3")):
            long = (3.0 if name == "t0" else 1.0) * (1 + 0.5 * ((row * 7 + at * 3) % 5))
            answers.append(
                {"row": row, "teacher": name, "length": long, "score.a": float(np.log(long) + 0.4 * (name == "t1"))}
            )
    found = bias(collect([scored(prompts, answers)], [contender(f"t{at}") for at in range(4)], SEED), {})
    one = found["without_length"][0]
    assert one["slope"] == pytest.approx(1.0, abs=0.15)
    assert one["wins"]["t0"]["with"] > 0.6 > one["wins"]["t1"]["with"] and one["wins"]["t1"]["without"] > 0.95
    assert one["moved"]["low"] > 0.4


def test_wins_follow_the_plain_definition() -> None:
    prompts = prompt_table(keys(5), [("eng", "Latn")] * 4 + [("tur", "Latn")])
    listed = [
        (0, "a", 2.0, []), (0, "b", 1.0, []), (1, "a", 1.0, []), (1, "b", 1.5, ["truncated"]), (2, "a", 1.0, []),
        (3, "a", 1.0, ["truncated"]), (3, "b", 0.0, ["truncated"]), (4, "a", 1.0, []), (4, "b", 1.0, []),
        (4, "c", 0.5, []),
    ]  # fmt: skip
    answers = [{"row": row, "teacher": name, "score.a": score, "penalties": bad} for row, name, score, bad in listed]
    found = bias(collect([scored(prompts, answers)], [contender(name) for name in "abc"], SEED), {})["wins"]
    shown = ("wins", "prompts", "score", "lead")
    wins = {(one["language"], one["teacher"]): tuple(one[name] for name in shown) for one in found}
    assert wins["eng", "a"] == (2, 2, 1.5, 1.0) and wins["eng", "b"] == (0, 2, 1.25, None)
    assert sum(wins["tur", name][0] for name in "ab") == 1 and wins["tur", "c"] == (0, 1, 0.5, None)
    assert sum(one["tied"] for one in found if one["language"] == "tur") == 1
    assert found[0]["language"] is None and found[0]["teacher"] in "ab"


def test_parts_and_names_never_change_a_report() -> None:
    table, pool = simulated(4, prompts=90, length=0.5)
    plain = bias(collect([table], pool, SEED), FAMILIES)
    row = table["row"].to_numpy()
    parts = [table.filter(pa.array((row >= low) & (row < high))) for low, high in ((60, 90), (0, 25), (25, 60))]
    slim = [part.select(columns(["a", "b"], part)) for part in parts]
    assert bias(collect(slim, pool, SEED), FAMILIES) == plain
    assert compare(collect(slim, pool, SEED), SEED) == compare(collect([table], pool, SEED), SEED)
    # Other names, in another order.
    new = {f"t{at}": f"n{5 - at}" for at in range(6)}
    place = table.schema.get_field_index("teacher")
    renamed = table.set_column(place, "teacher", pa.array([new[name] for name in table["teacher"].to_pylist()]))
    renamed = renamed.sort_by([("row", "ascending"), ("teacher", "ascending")])
    others = [contender(new[one.name], one.identity, family=one.family) for one in pool[::-1]]
    found = json.dumps(bias(collect([renamed], others, SEED), FAMILIES))
    for old, name in new.items():
        found = found.replace(f'"{name}"', f'"{old}"')
    back = json.loads(found)
    for section in ("length", "position", "own_family", "without_length"):
        assert back[section] == plain[section]
    assert sorted(map(str, back["wins"])) == sorted(map(str, plain["wins"]))


def test_nothing_at_all_is_a_report_too() -> None:
    found = bias(collect([], [contender("a")], SEED), FAMILIES)
    assert (found["prompts"], found["wins"], found["length"]) == (0, [], [])
    assert not Interval(None, None, None).clear(0.1)
    none = scored(prompt_table(keys(1)), [{"row": 0, "teacher": "a", "score.a": None}])
    assert bias(collect([none], [contender("a")], SEED), {"a": "a"})["wins"] == []
    assert score_table(prompt_table(keys(1)), []).num_rows == 0
