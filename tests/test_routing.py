"""Routing: who is asked, how scores are combined, whose answer is taken, and what strategies are worth."""

from __future__ import annotations

import ctypes
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from aya_data.builders.arbitrage.ranking import combine, empties, norms, ranking
from aya_data.builders.arbitrage.routing.fixed import fixed_map, fixed_teachers
from aya_data.builders.arbitrage.routing.router import predict, train
from aya_data.builders.arbitrage.routing.rules import Contender, RoutingSettings, assignments, route, second
from aya_data.builders.arbitrage.settings import ArbitrageSettings
from aya_data.builders.arbitrage.statistics.collected import collect
from aya_data.builders.arbitrage.statistics.comparison import compare
from aya_data.builders.arbitrage.statistics.intervals import bootstrap, prompt_hashes, scatter, wilson
from aya_data.builders.arbitrage.teacher import TeacherSettings
from aya_data.core.errors import SpecError, WrongSetting
from aya_data.core.identity import draw
from aya_data.core.language import scope
from aya_data.core.spec import load_spec
from tests.arbitrage_tables import LANGUAGES, SEED, contender, hexed, keys, normal, prompt_table, score_table


def scored(prompts: pa.Table, answers: Iterable[Mapping[str, Any]]) -> pa.Table:
    return combine(score_table(prompts, answers), {"a": 1.0})


MARGINS = {"min_margin": 0.1, "max_length_ratio": None}


def routing(**given: Any) -> RoutingSettings:
    return RoutingSettings.model_validate(given)


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "single"}, "is single without teacher"),
        ({"kind": "learned", "share": 0.2}, "is learned without temperature"),
        ({"kind": "fixed"}, "needs either teachers or held_out, found neither"),
        ({"kind": "fixed", "held_out": 0.2, "teachers": {"tur": "a"}}, "needs either teachers or held_out, found both"),
        ({"kind": "reward", "teacher": "a"}, "is reward, which has no teacher"),
        ({"kind": "random", "share": 0.1}, "is random, which has no share"),
        ({"kind": "fixed", "teachers": {"klingonish": "a"}}, "names 'klingonish', which is no language"),
        ({"kind": "fixed", "teachers": {"tr": "a", "tur": "b"}}, "means tur, as 'tr' does"),
        ({"kind": "fixed", "teachers": {"zh-TW": "a", "zho_Hant": "b"}}, "means zho_Hant, as 'zh-TW' does"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        routing(**given)
    assert message in str(caught.value)


def test_a_text_alone_is_the_kind() -> None:
    short = TypeAdapter(RoutingSettings).validate_python("reward")
    assert (short.kind, short.rounds, short.learns) == ("reward", 1, None)
    assert routing(kind="learned", share=0.25, temperature=0.5).rounds == 2


def test_faults_say_which_setting_names_a_teacher_that_is_not_there() -> None:
    gone = "names the teacher 'qwem', which is not there"
    near = "Did you mean 'qwen'?"
    pool = ["qwen", "command"]
    assert routing(kind="single", teacher="qwem").faults(pool) == [(("routing", "teacher"), gone, near)]
    declared = routing(kind="fixed", teachers={"tur": "qwem", "eng": "qwen", "default": "qwem"})
    places = [("routing", "teachers", label) for label in ("tur", "default")]
    assert declared.faults(pool) == [(place, gone, near) for place in places]
    assert routing(kind="reward").faults(pool) == []


def test_every_fault_of_an_arbitrage_has_its_place() -> None:
    def faults(rows: int | None = None, **given: Any) -> list[tuple[tuple[Any, ...], str]]:
        recorded = {"engine": "recorded", "path": "a.jsonl", "columns": {"prompt": "q", "answer": "a"}}
        own = {"teachers": dict.fromkeys(("qwen", "command"), recorded)}
        prompts = {"from": "asked", **({} if rows is None else {"rows": rows})}
        try:
            ArbitrageSettings.model_validate({"prompts": prompts, **own, **given})
        except ValidationError as error:
            return [(one["loc"], one["msg"]) for one in error.errors()]
        return []

    gone = "names the teacher 'qwem', which is not there"
    pairs = {"kind": "strong_vs_translated", "strong": ["qwen", "qwem"], "translated": ["command"], **MARGINS}
    assert faults(routing={"kind": "fixed", "teachers": {"tur": "qwem", "default": "qwen"}}, pairs=pairs) == [
        (("routing", "teachers", "tur"), gone),
        (("pairs", "strong", 1), gone),
    ]
    impossible = faults(routing="random", pairs={**pairs, "strong": ["qwen"]})
    assert [(place, what[:32]) for place, what in impossible] == [(("pairs",), "asks for pairs that cannot be: s")]
    learned = {"kind": "learned", "share": 0.2, "temperature": 0.5}
    few = "leaves some 49 of 245 prompts to train a router on, too few: 50 are the least"
    assert faults(245, routing=learned) == [(("routing", "share"), few)]
    assert faults(250, routing=learned) == faults(routing=learned) == faults(245, routing="reward") == []


SPEC = """name: broken
languages: aya_23
policy: any
sources:
  asked: {builder: aya_dataset, use: prompts}
  best:
    builder: arbitrage
    prompts: {from: asked, rows: 200}
    teachers:
      qwen: {engine: recorded, path: qwen.jsonl, columns: {prompt: q, answer: a}}
      command: {engine: recorded, path: command.jsonl, columns: {prompt: q, answer: a}}
    routing:
      kind: fixed
      teachers: {tur: qwem, default: command}
    pairs:
      kind: strong_vs_translated
      min_margin: 0.1
      max_length_ratio: 2
      strong: [qwen]
      translated:
        - comand
"""
SAID = """\
spec.yaml:14:23: sources.best.routing.teachers.tur names the teacher 'qwem', which is not there. Did you mean 'qwen'?
  14 |       teachers: {tur: qwem, default: command}
     |                       ^
spec.yaml:21:11: sources.best.pairs.translated.0 names the teacher 'comand', which is not there. Did you mean 'command'?
  21 |         - comand
     |           ^"""


def test_an_error_points_at_the_name_in_the_spec(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert str(caught.value).replace(str(path), "spec.yaml") == SAID


def test_translate_needs_a_teacher_whose_answers_are_translated() -> None:
    given = routing(kind="translate", teacher="qwen")
    pool = ["qwen", "pivot"]
    assert given.faults(pool) == given.faults(pool, ["qwen"]) == []
    what = "is 'qwen', whose answers are no translations"
    assert given.faults(pool, {"pivot"}) == [(("routing", "teacher"), what, "Name one whose are: pivot.")]
    assert given.faults(pool, [])[0][1:] == (what, "Give it the engine 'translated', or route by single.")
    assert [fault[1] for fault in given.faults(["pivot"], ["pivot"])] == [
        "names the teacher 'qwen', which is not there"
    ]
    assert routing(kind="single", teacher="qwen").faults(pool, []) == []


def test_labels_with_a_script_in_any_spelling_mean_the_variety() -> None:
    teacher = TypeAdapter(TeacherSettings).validate_python
    simplified, traditional, both = ("zho", "Hans"), ("zho", "Hant"), ("zho", None)
    for label, wanted in {
        "zho_Hans": simplified, "zh-Hans": simplified, "zh-CN": simplified, "zh-SG": simplified,
        "Simplified Chinese": simplified, "zh-TW": traditional, "zh-Hant": traditional, "Chinese (Taiwan)": traditional,
        "zh": both, "zho": both, "Chinese": both, "__label__zh": both, "zho_Zyyy": both, "pt-BR": ("por", None),
        "tur": ("tur", None), "sr-RS": ("srp", "Cyrl"), "sr-Latn": ("srp", "Latn"), "fa-AF": ("prs", None),
        "klingonish": ("und", None), "": ("und", None),
    }.items():  # fmt: skip
        assert scope(label) == wanted, label
        languages = {"languages": [label]}
        if wanted[0] == "zho":
            asked_for = teacher(languages).asked_for
            assert [asked_for(*one) for one in (simplified, traditional)] == [
                wanted in (one, both) for one in (simplified, traditional)
            ]
    pool = [contender(name) for name in "abc"]
    declared = routing(kind="fixed", teachers={"zh": "a", "zh-TW": "b", "default": "c"})
    prompts = prompt_table(keys(3), [simplified, traditional, ("por", "Latn")])
    assert asked(assignments(prompts, pool, declared, SEED)) == [{"a"}, {"b"}, {"c"}]
    said = teacher({"system": {"zh": "All.", "zh-Hant": "Traditional.", "pt-BR": "Portuguese.", "default": "Others."}})
    varieties = (simplified, traditional, ("por", "Latn"), ("tur", "Latn"))
    assert [said.system_for(*one) for one in varieties] == ["All.", "Traditional.", "Portuguese.", "Others."]
    with pytest.raises(ValidationError, match="means tur, as 'tr' does"):
        teacher({"system": {"tr": "One.", "tur": "Another."}})


# Who is asked -------------------------------------------------------------------------------------


def asked(given: Any) -> list[set[str]]:
    return [{name for name, mask in given.asked.items() if mask[row]} for row in range(len(given.scored))]


def test_every_kind_asks_those_it_should() -> None:
    prompts = prompt_table(keys(600))
    pool = [contender("a"), contender("b"), contender("c", languages=["tur"])]
    languages = prompts["language"].to_pylist()
    everybody = [{"a", "b"} | ({"c"} if language == "tur" else set()) for language in languages]
    assert asked(assignments(prompts, pool, routing(kind="reward"), SEED)) == everybody
    single = asked(assignments(prompts, pool, routing(kind="single", teacher="c"), SEED))
    assert single == [{"c"} if language == "tur" else set() for language in languages]
    declared = routing(kind="fixed", teachers={"tur": "c", "zho_Hans": "b", "default": "a"})
    wanted = {"eng": {"a"}, "tur": {"c"}, "zho": {"b"}}
    assert asked(assignments(prompts, pool, declared, SEED)) == [wanted[language] for language in languages]
    drawn = asked(assignments(prompts, pool, routing(kind="random"), SEED))
    assert all(len(one) == 1 and one <= all_ for one, all_ in zip(drawn, everybody, strict=True))
    shares = [sum(one == {name} for one in drawn) / 600 for name in "abc"]
    assert shares[0] == pytest.approx(4 / 9, abs=0.06) and shares[2] == pytest.approx(1 / 9, abs=0.04)


def test_a_second_round_asks_one_teacher_for_what_the_first_left() -> None:
    prompts = prompt_table(keys(900))
    pool = [contender("a"), contender("b")]
    given = routing(kind="fixed", held_out=0.2)
    first = assignments(prompts, pool, given, SEED)
    assert first.scored.mean() == pytest.approx(0.2, abs=0.04)
    assert asked(first) == [{"a", "b"} if held else set() for held in first.scored]
    then = second(prompts, pool, given, SEED, pa.array(["b", "a", None] * 300))
    assert asked(then) == [
        set() if held else one for held, one in zip(first.scored, [{"b"}, {"a"}, set()] * 300, strict=True)
    ]


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(5)), st.sampled_from(["random", "reward", "learned"]), st.integers(1, 20))
def test_names_and_order_of_teachers_and_prompts_change_nobody_who_is_asked(
    order: list[int], kind: str, cut: int
) -> None:
    given = routing(kind=kind, **({"share": 0.3, "temperature": 1} if kind == "learned" else {}))
    prompts = prompt_table(keys(21))
    pool = [contender(name, f"identity {index // 2}") for index, name in enumerate("abcde")]
    one = assignments(prompts, pool, given, SEED)
    # New names in the same order, so that teachers of one identity stay in theirs.
    renamed = [contender(f"z{index}", f"identity {index // 2}") for index in range(5)]
    other = [assignments(part, [renamed[at] for at in order], given, SEED) for part in (prompts[:cut], prompts[cut:])]
    for index, name in enumerate("abcde"):
        both = np.concatenate([half.asked[f"z{index}"] for half in other])
        assert one.asked[name].tolist() == both.tolist()


def test_a_further_teacher_takes_only_what_it_wins() -> None:
    prompts = prompt_table(keys(400))
    pool = [contender(name) for name in "abc"]
    before = asked(assignments(prompts, pool, routing(kind="random"), SEED))
    after = asked(assignments(prompts, [*pool, contender("d")], routing(kind="random"), SEED))
    assert all(new in (old, {"d"}) for old, new in zip(before, after, strict=True))


# Scores -------------------------------------------------------------------------------------------


def test_norms_and_the_ensemble_follow_the_plain_definition() -> None:
    prompts = prompt_table(keys(60))
    answers = [
        {
            "row": row, "teacher": teacher, "score.a": round(normal(row, teacher, "a") * 3 + row % 3, 4),
            "score.b": round(normal(row, teacher, "b") * 0.1 - row % 3, 4),
            "penalties": ["truncated"] if row % 7 == 0 and teacher == "x" else [],
        }
        for row in range(60) for teacher in "xyz"
    ]  # fmt: skip
    table = score_table(prompts, answers)
    normed = norms([table[:50], table[50:]], ["a", "b"])
    assert normed.equals(norms([table[90:], table[:90]], ["b", "a"]))
    found = combine(table, {"a": 1.0, "b": 3.0}, normed).to_pylist()
    z = []
    for arbiter in ("score.a", "score.b"):
        values: dict[str, list[float]] = {}
        for one in table.to_pylist():
            if not one["penalties"]:
                values.setdefault(one["language"], []).append(one[arbiter])
        z.append(
            [
                (one[arbiter] - statistics.fmean(values[one["language"]])) / statistics.pstdev(values[one["language"]])
                for one in table.to_pylist()
            ]
        )
    for row, a, b in zip(found, *z, strict=True):
        assert row["score"] == pytest.approx((a + 3 * b) / 4, abs=1e-4)
        assert row["disagreement"] == pytest.approx(abs(a - b) / 2, abs=1e-4)


def test_an_arbiter_that_is_silent_on_a_prompt_does_not_count_there() -> None:
    prompts = prompt_table(keys(2))
    answers = [
        {"row": 0, "teacher": "x", "score.a": 1.0, "score.b": 5.0},
        {"row": 0, "teacher": "y", "score.a": 2.0, "score.b": None},
        {"row": 1, "teacher": "x", "score.a": None, "score.b": None},
        {"row": 1, "teacher": "y", "score.a": None, "score.b": 1.0},
    ]
    table = score_table(prompts, answers)
    found = combine(table, {"a": 1.0, "b": 1.0}, norms([table], ["a", "b"]))
    assert found["arbiters"].to_pylist() == [1, 1, 0, 1]
    one, two, none, other = found["score"].to_pylist()
    assert one < two and none is None and other is not None
    assert found["disagreement"].null_count == 4
    alone = combine(table, {"a": 1.0})
    assert alone["score"].to_pylist() == [1.0, 2.0, None, None]


def test_penalties_come_before_scores_and_scores_before_none() -> None:
    prompts = prompt_table(keys(1))
    table = scored(
        prompts,
        [
            {"row": 0, "teacher": "a", "score.a": 9.0, "penalties": ["truncated"]},
            {"row": 0, "teacher": "b", "score.a": 1.0},
            {"row": 0, "teacher": "c", "score.a": None},
            {"row": 0, "teacher": "d", "score.a": 2.0},
        ],
    )
    order, begins = ranking(table, SEED)
    assert [table["teacher"][int(at)].as_py() for at in order] == ["d", "b", "c", "a"]
    assert begins.tolist() == [0, 1, 2, 3]


# Routes -------------------------------------------------------------------------------------------


def test_reasons_say_why_an_answer_was_taken_or_none() -> None:
    prompts = prompt_table(keys(6), [("eng", "Latn")] * 6)
    pool = [contender("a"), contender("b")]
    table = scored(
        prompts,
        [
            {"row": 0, "teacher": "a", "score.a": 1.0},
            {"row": 0, "teacher": "b", "score.a": 2.0},
            {"row": 1, "teacher": "a", "score.a": 1.0},
            {"row": 2, "teacher": "a", "score.a": None},
            {"row": 3, "teacher": "a", "score.a": 1.0, "penalties": ["truncated"]},
            {"row": 4, "teacher": "a", "score.a": 3.0, "sample": 0},
            {"row": 4, "teacher": "a", "score.a": 3.0, "sample": 1},
            {"row": 4, "teacher": "b", "score.a": 1.0},
        ],
    )
    found = route(prompts, table, pool, routing(kind="reward"), SEED).to_pylist()
    assert [one["reason"] for one in found] == ["reward", "only_one", "no_score", "penalised", "reward", "none"]
    assert [one["teacher"] for one in found] == ["b", "a", None, None, "a", None]
    assert [one["tied"] for one in found] == [1, 1, 0, 1, 2, 0]
    assert [one["candidates"] for one in found] == [2, 1, 0, 1, 3, 0]
    kept = route(prompts, table, pool, routing(kind="reward", penalised="keep"), SEED).to_pylist()
    assert (kept[3]["teacher"], kept[3]["reason"], kept[3]["penalised"]) == ("a", "only_one", True)
    assert kept[2]["teacher"] is None
    single = route(prompts, table, pool, routing(kind="single", teacher="a"), SEED).to_pylist()
    assert [one["reason"] for one in single] == ["single", "single", "single", "penalised", "single", "none"]
    translate = route(prompts, table, pool, routing(kind="translate", teacher="b"), SEED).to_pylist()
    assert [one["reason"] for one in translate] == ["translate", "none", "none", "none", "translate", "none"]


def test_an_empty_answer_is_never_taken() -> None:
    prompts = prompt_table(keys(3), [("eng", "Latn")] * 3)
    table = scored(
        prompts,
        [
            {"row": 0, "teacher": "a", "score.a": 9.0, "penalties": ["empty", "truncated"]},
            {"row": 0, "teacher": "b", "score.a": 1.0, "penalties": ["truncated"]},
            {"row": 1, "teacher": "a", "score.a": 1.0, "penalties": ["empty"]},
            {"row": 2, "teacher": "a", "score.a": 1.0, "penalties": ["empty"]},
            {"row": 2, "teacher": "b", "score.a": 0.0},
        ],
    )
    pool = [contender("a"), contender("b")]
    kept = route(prompts, table, pool, routing(kind="reward", penalised="keep"), SEED).to_pylist()
    assert [(one["teacher"], one["reason"]) for one in kept] == [("b", "reward"), (None, "penalised"), ("b", "reward")]
    single = route(prompts, table, pool, routing(kind="single", teacher="a", penalised="keep"), SEED).to_pylist()
    assert [(one["teacher"], one["reason"]) for one in single] == [(None, "penalised")] * 3
    assert empties(table).tolist() == [True, False, True, True, False]
    assert empties(table[1:4]).tolist() == [False, True, True] and empties(table[:0]).tolist() == []
    none = pa.table({"penalties": pa.array([None, ["empty"], []], pa.list_(pa.string()))})
    assert empties(none).tolist() == [False, True, False]


ANSWERS = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 3), st.integers(0, 2),
        st.sampled_from([None, 0.0, 0.5, 1.0]), st.booleans(), st.integers(0, 3),
    ),
    max_size=24, unique_by=lambda one: one[:3],
)  # fmt: skip


def of_drawn(drawn: Any, teachers: Sequence[str], samples: Sequence[int], rows: Sequence[int]) -> list[dict[str, Any]]:
    """The same answers under other names, sample numbers and rows; what they say and were asked stays."""
    return [
        {
            "row": rows.index(row), "teacher": teachers[teacher], "sample": samples[sample], "score.a": score,
            "penalties": ["truncated"] if bad else [], "digest": f"text {text}", "key": hexed(row, teacher, sample),
        }
        for row, teacher, sample, score, bad, text in drawn if row in rows
    ]  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(ANSWERS, st.permutations("abcd"), st.permutations(range(3)), st.integers(0, 4))
def test_names_samples_and_parts_never_change_the_answer_that_is_taken(
    drawn: Any, names: list[str], samples: list[int], cut: int
) -> None:
    def taken(names: Sequence[str], samples: Sequence[int], rows: Sequence[int], kind: str) -> list[Any]:
        prompts = prompt_table([keys(4)[row] for row in rows], [("eng", "Latn")] * len(rows))
        pool = sorted((contender(name, f"identity {at}") for at, name in enumerate(names)), key=lambda one: one.name)
        table = score_table(prompts, of_drawn(drawn, names, samples, rows) or [])
        if "score.a" not in table.column_names:
            table = table.append_column("score.a", pa.nulls(table.num_rows, pa.float64()))
        made = route(prompts, combine(table, {"a": 1.0}), pool, routing(kind=kind), SEED)
        return [(one["key"], one["score"], one["reason"], one["tied"], one["candidates"]) for one in made.to_pylist()]

    for kind in ("reward", "random"):
        plain = taken("abcd", range(3), range(4), kind)
        assert taken(names, samples, range(4), kind) == plain
        assert taken("abcd", range(3), range(cut), kind) + taken("abcd", range(3), range(cut, 4), kind) == plain


def test_ties_are_shared_fairly() -> None:
    count = 900
    prompts = prompt_table(keys(count), [("eng", "Latn")] * count)
    pool = [contender(name) for name in "abc"]
    table = scored(prompts, [{"row": row, "teacher": name, "score.a": 1.0} for row in range(count) for name in "abc"])
    found = route(prompts, table, pool, routing(kind="reward"), SEED)["teacher"].to_pylist()
    for name in "abc":
        assert found.count(name) / count == pytest.approx(1 / 3, abs=0.06)


# What is learned ----------------------------------------------------------------------------------


def skilled(
    prompts: pa.Table, teachers: str, better: Callable[[int, str], float], noise: float = 1.0, samples: int = 1
) -> pa.Table:
    """Scores of teachers that are better at some prompts, with noise."""
    return scored(
        prompts,
        [
            {
                "row": row, "teacher": name, "sample": sample,
                "score.a": round(better(row, name) + noise * normal(row, name, sample), 4),
            }
            for row in range(prompts.num_rows) for name in teachers for sample in range(samples)
        ],
    )  # fmt: skip


def test_the_fixed_map_takes_the_best_of_each_variety_and_overall_where_few_were_scored() -> None:
    prompts = prompt_table(keys(90), [LANGUAGES[0]] * 50 + [LANGUAGES[1]] * 35 + [LANGUAGES[2]] * 5)
    best = {"eng": "a", "tur": "b", "zho": "c"}
    languages = prompts["language"].to_pylist()
    table = skilled(prompts, "abc", lambda row, name: 3.0 * (best[languages[row]] == name), 0.5)
    pool = [contender(name) for name in "abc"]
    parts = [table.filter(pa.array(np.isin(table["row"].to_numpy(), rows))) for rows in (range(20), range(20, 90))]
    made = fixed_map(collect(parts[::-1], pool, SEED), SEED, 30)
    assert made.equals(fixed_map(collect([table], pool, SEED), SEED, 30))
    top = {(row["language"], row["place"]): row["teacher"] for row in made.to_pylist()}
    assert (top["eng", 0], top["tur", 0], top[None, 0]) == ("a", "b", "a") and ("zho", 0) not in top
    asked_for = prompt_table(["x"] * 4, [*LANGUAGES, ("fin", "Latn")])
    assert fixed_teachers(asked_for, made, pool).to_pylist() == ["a", "b", "a", "a"]
    without = [contender("a", languages=["tur"]), *pool[1:]]
    assert fixed_teachers(asked_for, made, without).to_pylist() == [top["eng", 1], "b", top[None, 1], top[None, 1]]


def test_a_teacher_that_was_compared_with_none_serves_what_no_other_is_asked_for() -> None:
    prompts = prompt_table(keys(90), LANGUAGES[:1] * 45 + LANGUAGES[1:2] * 45)
    languages = ["eng"] * 45 + ["tur"] * 45
    pool = [contender("a", languages=["eng"]), contender("b", languages=["eng"])]
    pool += [contender(name, languages=["tur"]) for name in "c"] + [contender(name, languages=["zho"]) for name in "de"]
    answers = [
        {"row": row, "teacher": name, "score.a": float(name == "b")}
        for row, language in enumerate(languages) for name in {"eng": "ab", "tur": "c"}[language]
    ]  # fmt: skip
    table = scored(prompts, answers)
    made = fixed_map(collect([table], pool, SEED), SEED, 30)
    whole = [row for row in made.to_pylist() if row["language"] is None]
    assert [row["teacher"] for row in whole[:2]] == ["b", "a"] and {row["teacher"] for row in whole} == set("abcde")
    assert [(row["place"], row["prompts"], row["advantage"]) for row in whole[2:]] == [
        (place, 0, None) for place in (2, 3, 4)
    ]
    found = fixed_teachers(prompt_table(["x"] * 4, [*LANGUAGES, ("fin", "Latn")]), made, pool).to_pylist()
    assert found[:2] == ["b", "c"] and found[2] in ("d", "e") and found[3] is None
    # Who is asked for Chinese goes by what the two are, whatever they are called and wherever they stand.
    new = dict(zip("abcde", "zyxwv", strict=True))
    renamed = [Contender(new[one.name], one.identity, one.family, one.asked_for) for one in pool][::-1]
    again = scored(prompts, [one | {"teacher": new[str(one["teacher"])]} for one in answers])
    other = fixed_map(collect([again], renamed, SEED), SEED, 30).to_pylist()
    assert [new[row["teacher"]] for row in whole] == [row["teacher"] for row in other if row["language"] is None]
    # One scored answer is enough to go on with, none is not.
    alone = fixed_map(collect([scored(prompts, answers[-1:])], pool, SEED), SEED, 30)
    assert set(alone["teacher"].to_pylist()) == set("abcde")
    for parts in ([], [scored(prompts, [{"row": 0, "teacher": "a", "score.a": None}])]):
        with pytest.raises(WrongSetting, match="nothing to choose teachers by") as caught:
            fixed_map(collect(parts, pool, SEED), SEED, 30)
        assert caught.value.faults[0][0] == ("routing", "held_out")


def test_a_penalised_answer_counts_as_the_worst_of_its_prompt() -> None:
    prompts = prompt_table(keys(40), [LANGUAGES[0]] * 40)
    answers = [
        {"row": row, "teacher": name, "score.a": score, "penalties": ["truncated"] if name == "a" and row % 2 else []}
        for row in range(40) for name, score in (("a", 1.0), ("b", 0.9), ("c", 0.0))
    ]  # fmt: skip
    pool = [contender(name) for name in "abc"]
    made = fixed_map(collect([scored(prompts, answers)], pool, SEED), SEED, 30)
    assert made.filter(pa.compute.is_null(made["language"]))["teacher"].to_pylist() == ["b", "a", "c"]


def topics(count: int) -> tuple[pa.Table, Callable[[int, str], float]]:
    """Prompts that say which of two teachers is good at them."""
    words = {"a": ["equation", "integral", "matrix", "prove"], "b": ["poem", "river", "moon", "story"]}
    prompts = prompt_table(keys(count))
    about = ["ab"[draw(0, "topic", key) % 2] for key in keys(count)]
    contents = []
    for row, topic in enumerate(about):
        said = " ".join(words[topic][draw(0, "word", f"{row} {at}") % 4] for at in range(5))
        contents.append([{"role": "user", "content": f"Please, {said}\nnumber {row}"}])
    turns = pa.array(contents, prompts.schema.field("messages").type)
    at = prompts.schema.get_field_index("messages")
    return prompts.set_column(at, "messages", turns), lambda row, name: 2.0 * (about[row] == name)


def test_the_router_learns_whom_to_ask_and_says_how_well() -> None:
    prompts, better = topics(400)
    table = skilled(prompts, "ab", better, 0.5)
    pool = [contender(name) for name in "ab"]
    given = routing(kind="learned", share=0.5, temperature=0.5, router={"epochs": 5})
    made = train([(prompts, table)], pool, given, SEED)
    fresh, better_fresh = topics(600)
    fresh = fresh[400:]
    picked = predict(fresh, made, pool).to_pylist()
    right = [name == max("ab", key=lambda one: better_fresh(row + 400, one)) for row, name in enumerate(picked)]
    assert sum(right) > 190
    report = json.loads(made["report"][0].as_py())
    assert report["better"] and report["best"]["router"] > 0.9 > 0.7 > report["best"]["variety"]
    assert sum(one["prompts"] for one in report["calibration"]) == 400
    # The same prompts give the same router, in other parts and under other names.
    parts = [(prompts[at : at + 200], renumbered(table, at, 200)) for at in (200, 0)]
    assert train(parts, pool, given, SEED).equals(made)
    renamed = [contender("z", "model of a"), contender("y", "model of b")]
    other = train([(prompts, renumbered(table, 0, 400, {"a": "z", "b": "y"}))], renamed, given, SEED)
    assert other["weights"].equals(made["weights"])
    assert [{"z": "a", "y": "b"}[name] for name in predict(fresh, other, renamed).to_pylist()] == picked
    only_b = [contender("a", languages=["fin"]), contender("b")]
    assert set(predict(fresh, made, only_b).to_pylist()) == {"b"}


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone fills memory on demand")
def test_a_router_is_the_same_whatever_memory_held() -> None:
    prompts, better = topics(120)
    scores = skilled(prompts, "ab", better, 0.5)
    given = routing(kind="learned", share=0.5, temperature=0.5, router={"epochs": 2})
    perturb, library = -6, ctypes.CDLL(None)
    made = []
    try:
        for fill in (0, 165, 90, 127):
            library.mallopt(perturb, fill)
            made.append(train([(prompts, scores)], [contender(name) for name in "abc"], given, SEED))
    finally:
        library.mallopt(perturb, 0)
    assert all(one.equals(made[0]) for one in made[1:])


def test_a_teacher_without_scores_is_asked_only_where_nobody_else_is() -> None:
    prompts, better = topics(200)
    given = routing(kind="learned", share=0.5, temperature=0.5, router={"epochs": 5})
    pool = [contender(name) for name in "abc"]
    made = train([(prompts, skilled(prompts, "ab", better, 0.5))], pool, given, SEED)
    assert set(predict(prompts, made, pool).to_pylist()) == {"a", "b"}
    only_c = [contender("a", languages=["fin"]), contender("b", languages=["fin"]), contender("c")]
    assert set(predict(prompts, made, only_c).to_pylist()) == {"c"}


def test_a_router_that_diverges_is_an_error_of_its_learning_rate(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    prompts, better = topics(300)
    scores = skilled(prompts, "abc", better, 0.5)
    pool = [contender(name) for name in "abc"]
    given = routing(kind="learned", share=0.5, temperature=0.5, router={"learning_rate": 10})
    with pytest.raises(WrongSetting, match="with a learning rate of 10: Encountered NaN") as caught:
        train([(prompts, scores)], pool, given, SEED)
    assert caught.value.faults[0][0] == ("routing", "router", "learning_rate")
    assert list(tmp_path.iterdir()) == []


def renumbered(table: pa.Table, start: int, size: int, names: Mapping[str, str] | None = None) -> pa.Table:
    row = table["row"].to_numpy()
    kept = table.filter(pa.array((row >= start) & (row < start + size)))
    columns = {name: kept[name] for name in kept.column_names}
    columns["row"] = pa.array(kept["row"].to_numpy() - start, pa.int32())
    if names is not None:
        columns["teacher"] = pa.array([names[name] for name in kept["teacher"].to_pylist()])
    return pa.table(columns)


def test_too_few_scored_prompts_are_named_with_their_setting() -> None:
    prompts, better = topics(20)
    given = routing(kind="learned", share=0.5, temperature=0.5)
    with pytest.raises(
        WrongSetting, match="20 prompts have scores of two teachers, too few to train a router"
    ) as caught:
        train([(prompts, skilled(prompts, "ab", better))], [contender("a"), contender("b")], given, SEED)
    assert caught.value.faults[0][0] == ("routing", "share")


# What strategies are worth ------------------------------------------------------------------------


def test_the_comparison_follows_the_plain_definition() -> None:
    count = 120
    prompts = prompt_table(keys(count))
    best = {"eng": "a", "tur": "b", "zho": "b"}
    languages = prompts["language"].to_pylist()
    table = skilled(prompts, "abc", lambda row, name: 2.0 * (best[languages[row]] == name), 0.3, samples=2)
    table = table.filter(
        pa.array(
            [
                not (row == 5 and name == "c")
                for row, name in zip(table["row"].to_pylist(), table["teacher"].to_pylist(), strict=True)
            ]
        )
    )
    pool = [contender(name) for name in "abc"]
    hashes = prompt_hashes(keys(count)).tolist()
    found = compare(collect([table], pool, SEED), SEED, crossed=dict.fromkeys(hashes, "a"), translated="c", least=10)
    rows = {(one["strategy"], one["teacher"]): one for one in found["strategies"]}
    assert (found["prompts"], found["left_out"]) == (count - 1, 1)
    listed: dict[int, dict[str, list[float]]] = {}
    for one in table.to_pylist():
        listed.setdefault(one["row"], {}).setdefault(one["teacher"], []).append(one["score"])
    full = {
        row: {name: max(values) for name, values in names.items()} for row, names in listed.items() if len(names) == 3
    }
    means = {
        ("reward", None): statistics.fmean(max(one.values()) for one in full.values()),
        ("fixed", None): statistics.fmean(one[best[languages[row]]] for row, one in full.items()),
        ("best_single", None): statistics.fmean(one["b"] for one in full.values()),
        ("learned", None): statistics.fmean(one["a"] for one in full.values()),
        ("single", "a"): statistics.fmean(one["a"] for one in full.values()),
        ("translate", "c"): statistics.fmean(one["c"] for one in full.values()),
        ("random", None): statistics.fmean(statistics.fmean(one.values()) for one in full.values()),
    }
    for key, mean in means.items():
        assert rows[key]["mean"]["estimate"] == pytest.approx(mean, abs=1e-4)
        assert rows[key]["gain"]["estimate"] == pytest.approx(mean - means["best_single", None], abs=2e-4)
        assert rows[key]["mean"]["low"] < mean < rows[key]["mean"]["high"]
        assert rows[key]["paid"] == (6 if key[0] == "reward" else 2)
    assert rows["fixed", None]["gain"]["low"] > 0 > rows["random", None]["gain"]["high"]
    # Other parts, and other names that stand in another order.
    parts = [renumbered(table, 60, 60), renumbered(table, 0, 60)]
    assert (
        compare(collect(parts, pool, SEED), SEED, crossed=dict.fromkeys(hashes, "a"), translated="c", least=10) == found
    )
    new = {"a": "z", "b": "y", "c": "x"}
    renamed = [contender(new[one.name], one.identity) for one in pool]
    other = compare(
        collect([renumbered(table, 0, count, new)], renamed[::-1], SEED),
        SEED,
        crossed=dict.fromkeys(hashes, "z"),
        translated="x",
        least=10,
    )
    for one in other["strategies"]:
        key = (one["strategy"], one["teacher"] and {value: name for name, value in new.items()}[one["teacher"]])
        assert (one["mean"], one["gain"], one["paid"]) == tuple(rows[key][name] for name in ("mean", "gain", "paid"))


def test_a_second_arbiter_measures_what_the_first_chose() -> None:
    count = 200
    prompts = prompt_table(keys(count), [LANGUAGES[0]] * count)
    answers = [
        {"row": row, "teacher": name, "score.a": round(normal(row, name, "luck"), 4), "score.b": float(name == "b")}
        for row in range(count) for name in "ab"
    ]  # fmt: skip
    table = combine(score_table(prompts, answers), {"a": 1.0})
    found = compare(collect([table], [contender("a"), contender("b")], SEED), SEED, measured="b")
    reward = found["strategies"][0]
    # The first arbiter's choice is luck, so the second sees nothing in it.
    assert reward["mean"]["estimate"] == pytest.approx(0.5, abs=0.1) and found["measured"] == "b"


def test_nothing_to_compare_is_said() -> None:
    prompts = prompt_table(keys(3))
    table = scored(prompts, [{"row": row, "teacher": "a", "score.a": 1.0} for row in range(3)])
    found = compare(collect([table], [contender("a"), contender("b")], SEED), SEED)
    assert (found["prompts"], found["left_out"], found["strategies"]) == (0, 3, [])
    assert compare(collect([], [contender("a")], SEED), SEED)["prompts"] == 0


# Intervals ----------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_holds_the_shares_that_the_score_test_accepts(hits: int, more: int) -> None:
    trials = hits + more
    found = wilson(hits, trials)
    assert found.estimate is not None and found.low is not None and found.high is not None
    for share in np.linspace(0.001, 0.999, 97):
        z = abs(hits / trials - share) / math.sqrt(share * (1 - share) / trials)
        if abs(z - 1.96) > 0.01:
            assert (found.low <= share <= found.high) == (z < 1.96)


def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for trial in range(200):
        hashes = prompt_hashes(hexed(trial, index) for index in range(80))
        values = np.array([round(1000 * normal(trial, index)) for index in range(80)], np.int64)
        group = (hashes % np.uint64(1024)).astype(np.uint16)
        sums = np.stack([scatter(group, np.ones(80, np.int64)), scatter(group, values)], axis=1)
        found = bootstrap(sums, lambda drawn: drawn[:, 1] / drawn[:, 0])
        assert found.low is not None and found.high is not None
        held += found.low <= 0 <= found.high
    assert 0.89 <= held / 200 <= 0.99
