"""Review: which prompts are looked at again, the sheets that people fill in, and reading them."""

from __future__ import annotations

import csv
import io
import itertools
import json
import pickle
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aya_data.builders.arbitrage.arbiters.judge import JudgeArbiter
from aya_data.builders.arbitrage.review.prompts import (
    CHOSEN,
    HumanArbiter,
    ReviewSettings,
    chosen_rows,
    reviewer,
    select,
    text_divergence,
)
from aya_data.builders.arbitrage.review.sheet import (
    SHEET,
    answer_keys,
    check_known,
    check_name,
    read_verdicts,
    sheet,
    write_sheet,
)
from aya_data.builders.arbitrage.review.verdicts import decided, standing
from aya_data.builders.arbitrage.settings import ArbitrageSettings
from aya_data.builders.arbitrage.tables import COMPLETIONS
from aya_data.builders.arbitrage.teachers import TeacherUnion
from aya_data.core.errors import InputError, WrongSetting
from tests.test_filters import environment
from tests.test_judge import completions_of, prompts_of

OwnSettings = ReviewSettings[TeacherUnion]
SCALE = OwnSettings.model_validate({"rows": 1, "with": "human"}).reviewer.scale  # type: ignore[union-attr]


def review(**given: Any) -> OwnSettings:
    return OwnSettings.model_validate({"with": "human", **given})


def scores_of(*prompts: dict[str, Any]) -> pa.Table:
    """Prompts with ``language``, and lists by completion: ``a`` and ``b`` (scores), ``digest``, ``tokens``, …"""
    lines = []
    for number, prompt in enumerate(prompts):
        for n, score in enumerate(prompt["a"]):
            lines.append(
                {
                    "prompt": f"p{number:04d}", "language": prompt.get("language", "eng"), "teacher": f"t{n}",
                    "score.a": score, "score.b": prompt.get("b", prompt["a"])[n],
                    "digest": prompt.get("digest", [str(m) for m in range(9)])[n],
                    "penalties": prompt.get("penalties", [[]] * 9)[n],
                    "tokens": prompt.get("tokens", [10] * 9)[n], "chars": prompt.get("chars", [40] * 9)[n],
                    "divergence": prompt.get("divergence"),
                }
            )  # fmt: skip
    schema = pa.schema(
        [
            ("prompt", pa.string()), ("language", pa.string()), ("teacher", pa.string()), ("score.a", pa.float64()),
            ("score.b", pa.float64()), ("digest", pa.string()), ("penalties", pa.list_(pa.string())),
            ("tokens", pa.int32()), ("chars", pa.int32()), ("divergence", pa.float64()),
        ]
    )  # fmt: skip
    return pa.Table.from_pylist(lines, schema)


def names(table: pa.Table) -> list[str]:
    found: list[str] = table["prompt"].to_pylist()
    return found


# How different texts are --------------------------------------------------------------------------


def test_the_distance_of_texts_is_that_of_their_words() -> None:
    table = completions_of(
        (0, "a", "the cat sat here"), (0, "b", "The CAT sat, there!"), (0, "c", "no cat was seen"),
        (1, "a", "same words again"), (1, "b", "again same words"),
        (2, "a", "alone"),
        (3, "a", "天気がいい"), (3, "b", "天気が悪い"),
    )  # fmt: skip
    found = dict(zip(zip(table["row"].to_pylist(), table["teacher"].to_pylist()), text_divergence(table).to_pylist()))
    sets = [{"the", "cat", "sat", "here"}, {"the", "cat", "sat", "there"}, {"no", "cat", "was", "seen"}]
    wanted = [1 - len(one & other) / len(one | other) for one, other in itertools.combinations(sets, 2)]
    assert found[0, "a"] == found[0, "b"] == found[0, "c"] == round(sum(wanted) / 3, 4)
    assert found[1, "a"] == 0.0
    assert found[2, "a"] is None
    pairs = [{"天気", "気が", "がい", "いい"}, {"天気", "気が", "が悪", "悪い"}]
    assert found[3, "a"] == round(1 - len(pairs[0] & pairs[1]) / len(pairs[0] | pairs[1]), 4)


def test_samples_of_one_teacher_are_compared_only_where_there_is_no_other() -> None:
    table = completions_of((0, "a", "one two"), (0, "a", "three four"), (0, "b", "one two"))
    assert text_divergence(table).to_pylist() == [0.5] * 3, "a against b twice: 0 and 1"
    assert text_divergence(completions_of((0, "a", "one two"), (0, "a", "three four"))).to_pylist() == [1.0] * 2
    assert text_divergence(COMPLETIONS.empty_table()).to_pylist() == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.text(max_size=20)), max_size=10), st.data())
def test_the_distance_does_not_depend_on_order(said: list[tuple[int, str, str]], data: st.DataObject) -> None:
    table = completions_of(*said)
    order = data.draw(st.permutations(range(table.num_rows)))
    moved = table.take(pa.array(order, pa.int64()))
    assert text_divergence(moved).to_pylist() == text_divergence(table).take(pa.array(order, pa.int64())).to_pylist()


# What is measured ---------------------------------------------------------------------------------


def slow_disagreement(a: list[float | None], b: list[float | None]) -> float | None:
    gaps = []
    for one, other in itertools.combinations(range(len(a)), 2):
        if None not in (a[one], a[other], b[one], b[other]):
            first, second = (np.sign(v[one] - v[other]) for v in (a, b))  # type: ignore[operator]
            gaps.append(abs(first - second) / 2)
    return round(float(np.mean(gaps)), 4) if gaps else None


VALUES = st.lists(st.one_of(st.none(), st.integers(0, 3).map(float)), min_size=2, max_size=5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(VALUES, st.data()), min_size=1, max_size=5))
def test_spread_and_disagreement(drawn: list[tuple[list[float | None], st.DataObject]]) -> None:
    prompts = []
    for a, data in drawn:
        size = len(a)
        cell = st.one_of(st.none(), st.integers(0, 3).map(float))
        prompts.append({"a": a, "b": data.draw(st.lists(cell, min_size=size, max_size=size))})
    found = select(scores_of(*prompts), review(share=1), 7)
    assert sorted(names(found)) == [f"p{number:04d}" for number in range(len(prompts))]
    for line in found.to_pylist():
        prompt = prompts[int(line["prompt"][1:])]
        assert line["disagreement"] == slow_disagreement(prompt["a"], prompt["b"])
        spreads = []
        for values in (prompt["a"], prompt["b"]):
            known = [value for value in values if value is not None]
            spreads += [max(known) - min(known)] if len(known) > 1 else []
        assert line["spread"] == (pytest.approx(np.mean(spreads), abs=1e-4) if spreads else None)


def test_only_what_could_win_counts() -> None:
    alike = {"a": [1.0, 9.0], "digest": ["x", "x"]}
    cut = {"a": [1.0, 9.0], "penalties": [["truncated"], []]}
    left = {"a": [1.0, 2.0, 9.0], "penalties": [[], [], ["wrong_language"]]}
    found = select(scores_of(alike, cut, left, {"a": [4.0]}), review(share=1), 7)
    assert [(line["prompt"], line["spread"]) for line in found.to_pylist()] == [("p0002", 1.0)]


# What is chosen -----------------------------------------------------------------------------------


def many(seed: int = 0) -> pa.Table:
    """60 prompts in three languages: 40 English, 15 Turkish, 5 Hausa, of spreads that grow with a drawn rank."""
    ranks = [(number * 37 + seed) % 60 for number in range(60)]
    languages = ["eng"] * 40 + ["tur"] * 15 + ["hau"] * 5
    scale = {"eng": 1.0, "tur": 100.0, "hau": 0.001}
    return scores_of(
        *({"language": language, "a": [0.0, (rank + 1) * scale[language]]} for rank, language in zip(ranks, languages))
    )


def test_languages_get_their_part_and_their_floor() -> None:
    table = many()

    def counts(**given: Any) -> dict[str, int]:
        found = select(table, review(measures=["spread"], **given), 7)["language"].to_pylist()
        return {language: found.count(language) for language in ("eng", "tur", "hau")}

    assert counts(rows=12) == {"eng": 8, "tur": 3, "hau": 1}
    assert counts(share=0.2) == {"eng": 8, "tur": 3, "hau": 1}
    assert counts(rows=12, floor=3) == {"eng": 6, "tur": 3, "hau": 3}
    assert counts(rows=60) == counts(share=1) == counts(rows=1000) == {"eng": 40, "tur": 15, "hau": 5}
    assert counts(rows=3, floor=9) == {"eng": 1, "tur": 1, "hau": 1}
    assert counts(rows=20, floor=9)["hau"] == 5
    assert counts(tokens=240) == counts(rows=12), "a prompt has 20 tokens"
    assert sum(counts(tokens=239).values()) == 11
    assert counts(tokens=1) == {"eng": 0, "tur": 0, "hau": 0}


def test_the_most_divergent_of_each_language_are_chosen() -> None:
    table = many()
    found = select(table, review(rows=12, measures=["spread"]), 7)
    assert found.schema == CHOSEN
    assert found["place"].to_pylist() == list(range(12))
    for language, size in (("eng", 8), ("tur", 3), ("hau", 1)):
        every = select(table, review(share=1, measures=["spread"]), 7).to_pylist()
        spreads = sorted((line["spread"] for line in every if line["language"] == language), reverse=True)
        chosen = [line["spread"] for line in found.to_pylist() if line["language"] == language]
        assert sorted(chosen, reverse=True) == spreads[:size]
    # By chance: other prompts, as many of each language, and the measures are still known.
    drawn = select(table, review(rows=12, by="random", measures=["spread"]), 7)
    assert sorted(drawn["language"].to_pylist()) == sorted(found["language"].to_pylist())
    assert set(names(drawn)) != set(names(found)) and drawn["spread"].null_count == 0
    assert names(drawn) != names(select(table, review(rows=12, by="random"), 8)), "another seed draws others"


def test_the_measures_are_ranks_and_can_be_chosen() -> None:
    table = scores_of(
        {"a": [0.0, 9.0], "divergence": 0.1},
        {"a": [0.0, 1.0], "divergence": 0.9},
        {"a": [0.0, 2.0], "b": [1.0, 0.0], "divergence": 0.2},
    )
    first = {
        measure: names(select(table, review(rows=1, measures=[measure]), 7))
        for measure in ("text", "spread", "disagreement")
    }
    assert first == {"text": ["p0001"], "spread": ["p0000"], "disagreement": ["p0002"]}
    scaled = table.set_column(3, "score.a", pa.array([1000 * value for value in table["score.a"].to_pylist()]))
    assert names(select(scaled, review(share=1), 7)) == names(select(table, review(share=1), 7))
    assert select(table.slice(0, 0), review(rows=1), 7).equals(CHOSEN.empty_table())
    plain = select(table.drop_columns(["divergence", "score.a", "score.b"]), review(rows=2), 7)
    assert plain["divergence"].to_pylist() == [0.0, 0.0] and plain["text"].null_count == 2


@settings(max_examples=20, deadline=None)
@given(st.data(), st.integers(1, 60), st.integers(0, 4))
def test_order_and_parts_do_not_matter_and_more_budget_only_adds(data: st.DataObject, rows: int, floor: int) -> None:
    table = many(3)
    chosen = select(table, review(rows=rows, floor=floor), 7)
    order = data.draw(st.permutations(range(60)))
    cut = data.draw(st.integers(0, 120))
    moved = table.take(pa.array([2 * place + n for place in order for n in (1, 0)], pa.int64()))
    parts = pa.concat_tables([moved.slice(cut), moved.slice(0, cut)])
    assert select(parts, review(rows=rows, floor=floor), 7).equals(chosen)
    more = select(table, review(rows=rows + 5, floor=floor), 7)
    assert names(more)[:rows] == names(chosen)


def test_tokens_that_no_engine_counted_are_guessed_from_the_language() -> None:
    table = scores_of(
        {"a": [0.0, 1.0], "tokens": [30, None], "chars": [60, 11]},
        {"a": [0.0, 1.0], "tokens": [None, None], "chars": [7, 8], "language": "tur"},
    )
    found = {line["prompt"]: line["tokens"] for line in select(table, review(share=1), 7).to_pylist()}
    assert found == {"p0000": 30 + 6, "p0001": 3 + 3}


def test_wrong_settings() -> None:
    for written_so, message in (
        ({}, "needs exactly one of share, rows or tokens, found none"),
        ({"rows": 3, "share": 0.5}, "needs exactly one of share, rows or tokens, found share and rows"),
        ({"rows": 3, "with": {"kind": "human", "verdicts": "x.xls"}}, "names 'x.xls', which is no review sheet"),
    ):
        with pytest.raises(ValidationError, match=re.escape(message)):
            review(**written_so)


def test_a_judge_reviews_what_was_chosen() -> None:
    table = completions_of(*((row, f"t{n}", f"word {n}") for row in range(3) for n in range(2)))
    chosen = pa.table({"prompt": ["k1"]})
    model = {"engine": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    own = review(rows=1, **{"with": {"kind": "judge", "mode": "pairwise", "model": model}})
    judge = reviewer("review", own, environment())
    assert isinstance(judge, JudgeArbiter)
    kept = chosen_rows(table, chosen)
    assert kept["prompt"].to_pylist() == ["k1", "k1"]
    scores = judge.score(prompts_of(*([("user", "?")] for _ in range(3))), kept, None)
    assert scores["unanswered"].to_pylist() == [2, 2]


def test_what_people_judged_is_chosen_first_and_counts_against_the_budget() -> None:
    table = many()
    plain = names(select(table, review(rows=12), 7))
    least = [name for name in names(select(table, review(share=1), 7)) if name not in plain][-3:]
    found = names(select(table, review(rows=12), 7, least))
    assert set(found[:3]) == set(least) and len(found) == 12
    assert set(found) - set(least) <= set(plain)
    assert sorted(names(select(table, review(rows=2), 7, least))) == sorted(least), "more than the budget pays for"
    more = names(select(table, review(rows=17), 7, least))
    assert more[:12] == found
    # Even where nothing is left to choose between.
    one = scores_of({"a": [1.0, 9.0], "digest": ["x", "x"]}, {"a": [0.0, 1.0]})
    assert names(select(one, review(rows=1), 7, ["p0000"])) == ["p0000"]


def reviewed(*answers: tuple[float | None, list[int], list[str]], people: bool = True) -> tuple[pa.Table, pa.Table]:
    """One prompt: verdict, sheets and penalties of each answer."""
    whose = {"row": [3] * len(answers), "teacher": [f"t{n}" for n in range(len(answers))], "sample": [0] * len(answers)}
    scores = pa.table({
        **whose, "digest": [str(n) for n in range(len(answers))],
        "penalties": pa.array([penalties for *_, penalties in answers], pa.list_(pa.string())),
        "score": pa.array([0.5] * len(answers), pa.float64()),
    })  # fmt: skip
    said = pa.table({**whose, "score.review": pa.array([verdict for verdict, *_ in answers], pa.float64())})
    sheets = pa.array([sheets for _, sheets, _ in answers], pa.list_(pa.int32()))
    return scores, said.append_column("sheets.review", sheets) if people else said


CUT = ["truncated"]
STANDINGS = {
    "all judged": ("decided", (9, [0], []), (2, [0], [])),
    "one judged of one": ("decided", (9, [0], []), (None, [0], CUT)),
    "penalised ones need no verdict": ("decided", (9, [0], []), (2, [0], []), (None, [], CUT)),
    "nothing said": ("unjudged", (None, [0], []), (None, [], [])),
    "left empty": ("unfinished", (9, [0], []), (2, [0], []), (None, [0], [])),
    "a new teacher": ("earlier", (9, [0], []), (2, [0], []), (None, [], [])),
    "asked again in vain": ("earlier", (9, [0, 1], []), (2, [0, 1], []), (None, [1], [])),
    "left empty by one person of two": ("decided", (9, [0, 1], []), (2, [1], [])),
    "one judged, one new": ("alone", (9, [0], []), (None, [], [])),
}


@pytest.mark.parametrize("case", STANDINGS)
def test_what_people_said_stands_where_answers_came_later(case: str) -> None:
    wanted, *answers = STANDINGS[case]
    scores, said = reviewed(*answers)
    assert standing(scores, said) == {3: wanted}
    found = decided(scores, said)
    if wanted in ("decided", "earlier"):
        assert found["score"].to_pylist() == [verdict for verdict, *_ in answers], "on the scale of the verdicts"
        assert set(found["scorer"].to_pylist()) == {"review"}
    else:
        assert set(found["score"].to_pylist()) == {0.5} and set(found["scorer"].to_pylist()) == {"arbiter"}


def test_a_judge_that_lacks_a_verdict_decides_nothing() -> None:
    assert standing(*reviewed((9, [], []), (2, [], []), (None, [], []), people=False)) == {3: "unfinished"}
    assert standing(*reviewed((9, [], []), (2, [], []), people=False)) == {3: "decided"}


def test_a_margin_of_verdicts_is_written_on_their_own_scale() -> None:
    teacher = {"engine": "recorded", "path": "x", "columns": {"prompt": "p", "answer": "a"}, "n": 2}
    whole = {"prompts": {"from": "q"}, "teachers": {"t": teacher}, "routing": "reward"}
    paired = {"pairs": {"kind": "best_worst", "min_margin": 2, "max_length_ratio": None}}

    def made(given: dict[str, Any], **own: Any) -> ArbitrageSettings:
        return ArbitrageSettings.model_validate({**whole, **given, "review": {"rows": 1, "with": "human", **own}})

    assert made(paired, min_margin=3).review is not None and made({}).review is not None
    with pytest.raises(ValidationError, match="has no min_margin, and verdicts and scores are"):
        made(paired)
    with pytest.raises(ValidationError, match="has a min_margin, and there are no pairs"):
        made({}, min_margin=3)
    with pytest.raises(ValidationError, match="has a min_margin that no two verdicts have"):
        made(paired, min_margin=10)


# Sheets -------------------------------------------------------------------------------------------

SAID = [
    (0, "ours", "=1+1"),
    (0, "theirs", 'two, "three"\nfour'),
    (0, "third", "=1+1"),
    (1, "ours", "x"),
    (2, "ours", "é"),
]


def made() -> tuple[pa.Table, pa.Table]:
    prompts = prompts_of(
        [("user", "Q0"), ("assistant", "old"), ("user", "Q0 again"), ("assistant", "gone")],
        [("user", "Q1")],
        [("user", "Q2")],
    )
    return prompts, completions_of(*SAID)


def written(path: Path) -> pa.Table:
    prompts, table = made()
    chosen = pa.table({"prompt": ["k2", "k0"], "place": pa.array([0, 1], pa.int32())})
    # Two parts, in the wrong order.
    lines = sheet(chosen, prompts, table, 7)
    write_sheet(path, [lines.slice(1), lines.slice(0, 1)])
    return lines


def test_a_sheet_is_blind_and_holds_every_answer_once(tmp_path: Path) -> None:
    lines = written(tmp_path / "sheet.jsonl")
    found = [json.loads(line) for line in (tmp_path / "sheet.jsonl").read_text().splitlines()]
    assert [tuple(line) for line in found] == [SHEET] * 3
    assert [line["prompt"] for line in found] == ["k2", "k0", "k0"]
    assert sorted(line["text"] for line in found) == ["=1+1", 'two, "three"\nfour', "é"]
    assert found[1]["conversation"] == "[user]\nQ0\n\n[assistant]\nold\n\n[user]\nQ0 again"
    assert {line["score"] for line in found} == {line["note"] for line in found} == {None}
    assert {line["language"] for line in found} == {"eng_Latn"}
    assert not re.search("ours|theirs|third|gone", (tmp_path / "sheet.jsonl").read_text())
    prompts, table = made()
    moved = table.take(pa.array([4, 2, 3, 0, 1]))
    chosen = pa.table({"prompt": ["k2", "k0"], "place": pa.array([0, 1], pa.int32())})
    assert sheet(chosen, prompts, moved, 7).equals(lines)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_sheet_that_is_written_again_asks_only_for_what_is_missing(tmp_path: Path, ending: str) -> None:
    prompts, table = made()
    chosen = pa.table({"prompt": ["k2", "k0"], "place": pa.array([0, 1], pa.int32())})
    keys = dict(zip(table["text"].to_pylist(), answer_keys(table).to_pylist()))
    known = {keys["é"]: (-7.5, "good"), keys["=1+1"]: (1 / 3, None)}
    path = tmp_path / f"again.{ending}"
    assert write_sheet(path, [sheet(chosen, prompts, table, 7, known)]) == 1
    scale = (Decimal(-10), Decimal(10))
    found = {line.answer: (line.score, line.note) for line in read_verdicts(path, "again", scale)}
    assert found == {
        keys["é"]: (Decimal("-7.5"), "good"),
        keys["=1+1"]: (Decimal("0.3333"), None),
        keys['two, "three"\nfour']: (None, None),
    }
    first = read_verdicts(path, "again", scale)[:2]
    assert {line.answer for line in first} == {keys["=1+1"], keys['two, "three"\nfour']}, "what is missing comes first"


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_what_people_wrote_comes_back(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"sheet.{ending}"
    written(path)
    if ending == "csv":
        text = path.read_bytes().decode("utf-8-sig")
        lines = list(csv.DictReader(io.StringIO(text, newline="")))
        assert sorted(line["text"] for line in lines) == ["'=1+1", 'two, "three"\nfour', "é"]
        # As a spreadsheet of another locale saves it: semicolons, a decimal comma, lines sorted, a column removed.
        out = io.StringIO()
        kept = [name for name in SHEET if name != "conversation"]
        writer = csv.DictWriter(out, kept, extrasaction="ignore", delimiter=";")
        writer.writeheader()
        for line, score in zip(reversed(lines), ("7,5", "", "10")):
            writer.writerow({**line, "score": score, "note": " good " if score else ""})
        path.write_text(out.getvalue(), "utf-8")
    else:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for line, score in zip(reversed(records), (7.5, None, "10")):
            line.update(score=score, note=" good " if score else None)
        path.write_text("\n".join(json.dumps(line) for line in records) + "\n\n")
    other = tmp_path / "second.jsonl"
    prompts, table = made()
    key = answer_keys(table)[4].as_py()
    other.write_text(json.dumps({"answer": key, "score": 9}) + "\n")
    given = {"with": {"kind": "human", "verdicts": [f"sheet.{ending}", "second.jsonl"]}, "rows": 1}
    human = reviewer("people", review(**given), environment(base=tmp_path))
    assert isinstance(human, HumanArbiter)
    scores = human.score(prompts, table, None)
    found = dict(
        zip(table["key"].to_pylist(), zip(table["text"].to_pylist(), *scores.select(["score", "note"]).columns))
    )
    by_text = {text: (score.as_py(), note.as_py()) for text, score, note in found.values()}
    assert by_text["é"] == (9.5, "good"), "the mean of two people"
    assert by_text["x"] == (None, None)
    assert {by_text["=1+1"], by_text['two, "three"\nfour']} == {(7.5, "good"), (None, None)}
    check_known([one for said in human.verdicts.values() for one in said], set(answer_keys(table).to_pylist()))
    assert pickle.loads(pickle.dumps(human)).settings == human.settings


def test_the_identity_of_people_is_what_they_say(tmp_path: Path) -> None:
    def human(name: str, *lines: dict[str, Any]) -> HumanArbiter:
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        settings_of = review(rows=1, **{"with": {"kind": "human", "verdicts": name}}).reviewer
        return HumanArbiter("people", settings_of, environment(base=tmp_path))  # type: ignore[arg-type]

    one, two = {"answer": "0" * 32, "score": 3}, {"answer": "1" * 32, "score": 4}
    first = human("a.jsonl", one, two).identity()
    assert first == human("b.jsonl", two, one).identity() == human("b.jsonl", two, {**one, "text": "edited"}).identity()
    assert first != human("c.jsonl", {**one, "score": 4}, two).identity()
    long = tmp_path / "long.csv"
    long.write_text(f"answer,text,score\n{'2' * 32},{'x' * 200_000},7\n")
    assert [verdict.score for verdict in read_verdicts(long, "sheet", SCALE)] == [7]
    none = HumanArbiter("people", review(rows=1).reviewer, environment())  # type: ignore[arg-type]
    assert none.score(*made(), None)["score"].null_count == 5


KEY = "0123456789abcdef" * 2
TWICE = (
    f"sheet:3: judges the answer {KEY} again, after line 2. Keep one line; "
    "sheets of several people are files of their own."
)
WRONG = {
    "no column": (".csv", "prompt,answer,mark\n", "sheet:1: has no column 'score'. Keep the first line as it was."),
    "column": (".jsonl", f'{{"answer": "{KEY}", "scores": 3}}\n',
               "sheet:1: has a column 'scores', which no sheet has. Did you mean 'score'?"),
    "column in csv": (".csv", f"answer,score,notes\n\n{KEY},3,\n",
                      "sheet:3: has a column 'notes', which no sheet has. Did you mean 'note'?"),
    "key": (".jsonl", '\n{"answer": "0123", "score": 3}\n',
            "sheet:2: has no key in the column 'answer'. Leave that column as it was written."),
    "number": (".csv", f'answer,text,score\n{KEY},"two\nlines",7/10\n',
               "sheet:2: has the score '7/10'. Write a number from 1 to 10, or nothing."),
    "scale": (".jsonl", f'{{"answer": "{KEY}", "score": 11}}\n',
              "sheet:1: has the score '11'. Write a number from 1 to 10, or nothing."),
    "true": (".jsonl", f'{{"answer": "{KEY}", "score": true}}\n',
             "sheet:1: has the score 'True'. Write a number from 1 to 10, or nothing."),
    "twice": (".csv", f"answer,score\n{KEY},3\n{KEY},4\n",
              TWICE),
    "score": (".jsonl", f'{{"answer": "{KEY}", "note": "good"}}\n',
              "sheet:1: has no column 'score'. Leave the column there; a score may be null."),
    "json": (".jsonl", "{}}\n", "sheet:1: is no line of JSON with an object. Mend the line."),
    "cells": (".csv", f"answer,score\n{KEY},3,4\n",
              "sheet:2: has more cells than columns. Quote texts with separators."),
    "quotes": (".csv", f'answer,score\n{KEY},"3"x\n', "sheet:2: is no CSV: ',' expected after '\"'. Mend the quotes."),
    "bytes": (".csv", "answer,score\n\udce9,3\n", "sheet:2: is not UTF-8. Save the sheet as UTF-8."),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_errors_in_a_sheet_name_its_line(tmp_path: Path, case: str) -> None:
    ending, text, message = WRONG[case]
    path = tmp_path / f"sheet{ending}"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        read_verdicts(path, "sheet", SCALE)
    assert str(caught.value) == message


def test_a_name_without_an_ending_of_sheets_is_refused_before_anything_is_read() -> None:
    with pytest.raises(InputError, match=r"^sheet\.txt cannot be a review sheet\. Sheets end in \.jsonl or \.csv\.$"):
        check_name("sheet.txt")


def test_sheets_that_are_not_there_and_answers_that_nobody_gave(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^sheet: cannot read the review sheet: No such file or directory\. Remove it"
    ):
        read_verdicts(tmp_path / "none.csv", "sheet", SCALE)
    path = tmp_path / "sheet.jsonl"
    path.write_text("".join(f'{{"answer": "{digit * 32}", "score": 3}}\n' for digit in "abc"))
    verdicts = read_verdicts(path, "sheet", SCALE)
    check_known(verdicts, {digit * 32 for digit in "abc"})
    with pytest.raises(InputError, match=r"^sheet:2: judges the answer b{32}, which nobody gave \(2 such lines\)\."):
        check_known(verdicts, {"a" * 32})


def test_what_is_not_there_has_its_place(tmp_path: Path) -> None:
    own = review(rows=1, **{"with": {"kind": "human", "verdicts": ["here.csv", "none.csv"]}})
    (tmp_path / "here.csv").write_text("answer,score\n")
    with pytest.raises(WrongSetting) as error:
        reviewer("people", own, environment(base=tmp_path)).identity()
    assert error.value.faults == (
        (
            ("review", "with", "verdicts", 1),
            "there is no review sheet 'none.csv'",
            "Remove it from verdicts until it exists.",
        ),
    )
    recorded = {"engine": "recorded", "path": "none.jsonl", "columns": {"prompt": "p", "answer": "a"}}
    own = review(rows=1, **{"with": {"kind": "judge", "mode": "score", "model": recorded}})
    voice = reviewer("people", own, environment(base=tmp_path)).voice()
    assert voice is not None
    with pytest.raises(WrongSetting) as error:
        voice.identity()
    assert error.value.faults[0][0] == ("review", "with", "model", "path")


def test_a_sheet_that_cannot_be_read_changes_nothing_for_other_readers(tmp_path: Path) -> None:
    """The limit on the size of a cell belongs to the process: it may grow, never shrink."""
    before = csv.field_size_limit()
    path = tmp_path / "sheet.csv"
    path.write_text("answer,score\nnone,1\n", "utf-8")
    with pytest.raises(InputError) as refused:
        read_verdicts(path, "sheet.csv", (Decimal(0), Decimal(10)))
    # The error keeps its traceback, and with that the reader of the sheet.
    assert refused.value.__traceback__ is not None
    assert csv.field_size_limit() >= before
