"""Preference pairs: which are made, which are refused and why, against a reference that looks at two answers."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aya_data.builders.arbitrage.builder import ArbitrageBuilder
from aya_data.builders.arbitrage.pairs import OUTCOMES, PairsSettings, impossible, pairs
from aya_data.builders.arbitrage.ranking import combine
from aya_data.builders.arbitrage.routing.rules import RoutingSettings
from aya_data.builders.arbitrage.settings import ArbitrageSettings
from aya_data.core.errors import WrongSetting
from aya_data.core.license import policy
from aya_data.core.mix_settings import TokenizerSettings
from aya_data.core.stage import Environment
from aya_data.text.tokens import Tokenizer, locate
from tests.arbitrage_tables import LANGUAGES, SEED, hexed, keys, prompt_table, score_table

BASE = {"min_margin": 0.5, "max_length_ratio": None}
TOKENIZER = {"kind": "sentencepiece", "path": "tokenizer.model"}
STORY = "once upon a time there was a river that ran through the hills and into the sea beyond them all"


def made(
    answers: Sequence[dict[str, Any]],
    spoken: Sequence[tuple[str, str]] = (),
    tokenizer: Tokenizer | None = None,
    **given: Any,
) -> pa.Table:
    rows = max((one["row"] for one in answers), default=-1) + 1
    prompts = prompt_table(keys(rows), spoken or [("eng", "Latn")] * rows)
    table = score_table(prompts, answers)
    if "score.a" not in table.column_names:
        table = table.append_column("score.a", pa.nulls(0, pa.float64()))
    scores = combine(table, {"a": 1.0})
    listed = sorted(answers, key=lambda one: (one["row"], one["teacher"], one.get("sample", 0)))
    texts = [one.get("text", hexed("text", one["row"], one["teacher"], one.get("sample", 0))) for one in listed]
    completions = scores.select(["row", "teacher", "sample"]).append_column("text", pa.array(texts, pa.string()))
    settings = PairsSettings.model_validate({"kind": "best_worst", **BASE, **given})
    return pairs(scores, completions, settings, SEED, tokenizer)


def shown(table: pa.Table) -> list[tuple[Any, ...]]:
    return [(one["row"], one["chosen_teacher"], one["rejected_teacher"], one["outcome"]) for one in table.to_pylist()]


def answer(row: int, teacher: str, score: float | None, **more: Any) -> dict[str, Any]:
    return {"row": row, "teacher": teacher, "score.a": score, **more}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "best_worst", "max_length_ratio": None}, "min_margin"),
        ({"kind": "best_worst", "min_margin": 0.1}, "max_length_ratio"),
        ({"kind": "all_pairs", **BASE}, "is all_pairs without max_per_prompt"),
        ({"kind": "strong_vs_translated", **BASE, "strong": ["a"]}, "is strong_vs_translated without translated"),
        ({"kind": "best_worst", **BASE, "strong": ["a"]}, "is best_worst, which has no strong"),
        ({"kind": "best_worst", **BASE, "tokenizer": TOKENIZER}, "has a tokenizer and no max_length_ratio"),
        (
            {"kind": "strong_vs_translated", **BASE, "strong": ["a"], "translated": ["a"]},
            "has 'a' in strong and in translated",
        ),
        ({"kind": "best_worst", **BASE, "languages": "ML-6"}, "names 'ML-6', which is no set of languages"),
        ({"kind": "best_worst", **BASE, "languages": ["klingonish"]}, "names 'klingonish', which is no language"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PairsSettings.model_validate(given)
    assert message in str(caught.value)


def test_the_mixes_of_the_paper_are_sets_of_languages() -> None:
    def wants(languages: Any) -> Callable[[str, str], bool]:
        return PairsSettings.model_validate({"kind": "best_worst", **BASE, "languages": languages}).wants

    wanted = {name: wants(name) for name in ("EN-1", "ML-5", "ML-23")}
    assert [wanted["EN-1"](*one) for one in LANGUAGES] == [True, False, False]
    assert [wanted["ML-5"](*one) for one in LANGUAGES] == [True, True, False]
    assert [wanted["ML-23"](*one) for one in (*LANGUAGES, ("fin", "Latn"))] == [True, True, True, False]
    for simplified in ("zho_Hans", "zh-Hans", "zh-CN"):
        own = wants([simplified, "tur"])
        assert [own("zho", "Hans"), own("zho", "Hant"), own("tur", "Latn"), own("eng", "Latn")] == [1, 0, 1, 0]
    with pytest.raises(ValidationError) as caught:
        wants("tur")
    error = caught.value.errors()[0]
    assert "names 'tur', which is no set of languages" in error["msg"] and error["ctx"]["remedy"] == "Write [tur]."


def test_faults_say_which_setting_names_a_teacher_that_is_not_there() -> None:
    given = PairsSettings.model_validate(
        {"kind": "strong_vs_translated", **BASE, "strong": ["qwen", "qwem"], "translated": ["pivod"]}
    )
    assert given.faults(["qwen", "pivot"]) == [
        (("pairs", "strong", 1), "names the teacher 'qwem', which is not there", "Did you mean 'qwen'?"),
        (("pairs", "translated", 0), "names the teacher 'pivod', which is not there", "Did you mean 'pivot'?"),
    ]
    assert given.faults(["qwen", "qwem", "pivod"]) == []


@pytest.mark.parametrize(
    ("routing", "kind", "samples", "reason"),
    [
        ("reward", "best_worst", {"a": 1, "b": 1}, None),
        ("reward", "best_worst", {"a": 1}, "there is one teacher, which gives one answer"),
        ("reward", "best_worst", {"a": 2}, None),
        ("random", "best_worst", {"a": 1, "b": 1}, "routing by random asks one teacher for a prompt, which gives one"),
        ("random", "all_pairs", {"a": 1, "b": 2}, None),
        ({"kind": "single", "teacher": "a"}, "best_worst", {"a": 1, "b": 2}, "routing by single asks one teacher"),
        ({"kind": "single", "teacher": "b"}, "best_worst", {"a": 1, "b": 2}, None),
        ({"kind": "translate", "teacher": "a"}, "strong_vs_translated", {"a": 4, "b": 4}, "never answers of both"),
        ({"kind": "fixed", "teachers": {"tur": "a"}}, "best_worst", {"a": 1, "b": 2}, "routing by fixed asks one"),
        ({"kind": "fixed", "held_out": 0.2}, "strong_vs_translated", {"a": 1, "b": 1}, None),
    ],
)
def test_pairs_that_no_prompt_can_have_are_known_before(
    routing: Any, kind: str, samples: dict[str, int], reason: str | None
) -> None:
    more = {"all_pairs": {"max_per_prompt": 1}, "strong_vs_translated": {"strong": ["a"], "translated": ["b"]}}
    given = PairsSettings.model_validate({"kind": kind, **BASE, **more.get(kind, {})})
    found = impossible(RoutingSettings.model_validate(routing), given, samples)
    assert found is None if reason is None else found is not None and reason in found


def test_best_and_worst_with_every_reason_not_to() -> None:
    longer = {"length": 3.0}
    cases = [
        ([answer(0, "a", 3.0), answer(0, "b", 2.0), answer(0, "c", 1.0)], ("a", "c", "kept")),
        ([answer(0, "a", 1.0)], (None, None, "alone")),
        ([answer(0, "a", 1.0), answer(0, "b", None)], (None, None, "alone")),
        ([answer(0, "a", 1.0), answer(0, "b", 9.0, penalties=["truncated"])], (None, None, "penalised")),
        ([answer(0, "a", 2.0, digest="same"), answer(0, "b", 1.0, digest="same")], ("a", "b", "identical")),
        ([answer(0, "a", 1.4), answer(0, "b", 1.0)], ("a", "b", "margin")),
        ([answer(0, "a", 1.5), answer(0, "b", 1.0)], ("a", "b", "kept")),
        ([answer(0, "a", 2.0, **longer), answer(0, "b", 1.0)], ("a", "b", "length")),
        ([answer(0, "a", 2.0), answer(0, "b", 1.0, length=0.0)], ("a", "b", "length")),
        ([answer(0, "a", 2.0, text=STORY), answer(0, "b", 1.0, text=STORY + " now")], ("a", "b", "similar")),
    ]
    answers = [one | {"row": row} for row, (listed, _) in enumerate(cases) for one in listed]
    found = made(answers, max_length_ratio=2.0)
    assert shown(found) == [(row, *wanted) for row, (_, wanted) in enumerate(cases)]
    judged = [(one["outcome"], one["value"], one["threshold"]) for one in found.to_pylist() if one["threshold"]]
    assert judged == [
        ("margin", 0.4, 0.5), ("length", 3.0, 2.0), ("length", float("inf"), 2.0), ("similar", 0.9412, 0.8),
    ]  # fmt: skip
    assert found.to_pylist()[-1]["margin"] == 1.0
    other = made(answers, [("eng", "Latn")] * 9 + [("fin", "Latn")], max_length_ratio=2.0, languages="EN-1")
    assert shown(other)[9][3] == "language" and set(other["outcome"].to_pylist()) < set(OUTCOMES)


def test_equal_scores_are_no_pair_and_penalised_answers_are_rejected_only_on_demand() -> None:
    assert shown(made([answer(0, "a", 1.0), answer(0, "b", 1.0)], min_margin=0))[0][3] == "margin"
    listed = [answer(0, "a", 2.0), answer(0, "b", 1.9), answer(0, "c", 1.0, penalties=["wrong_language"])]
    assert shown(made(listed)) == [(0, "a", "b", "margin")]
    assert shown(made(listed, reject_penalised=True)) == [(0, "a", "c", "kept")]
    both = [answer(0, name, score, penalties=["truncated"]) for name, score in (("a", 2.0), ("b", 1.0))]
    assert shown(made(both, reject_penalised=True)) == [(0, "a", "b", "penalised")]


def test_an_empty_answer_is_in_no_pair() -> None:
    listed = [answer(0, "a", 3.0), answer(0, "b", 1.0, penalties=["empty", "wrong_language"])]
    bad = [answer(1, "a", 3.0), answer(1, "b", 2.0, penalties=["truncated"]), answer(1, "c", 1.0, penalties=["empty"])]
    for kind in ({}, {"kind": "all_pairs", "max_per_prompt": 9}):
        assert shown(made([*listed, *bad], **kind)) == [(0, None, None, "penalised"), (1, None, None, "penalised")]
        rejecting = made([*listed, *bad], reject_penalised=True, **kind)
        assert shown(rejecting) == [(0, None, None, "penalised"), (1, "a", "b", "kept")]
    sides = {"kind": "strong_vs_translated", "strong": ["a"], "translated": ["b"]}
    assert shown(made(listed, reject_penalised=True, **sides)) == [(0, None, None, "penalised")]


def test_strong_teachers_are_chosen_over_translated_ones_where_they_score_higher() -> None:
    listed = [
        answer(0, "s", 2.0), answer(0, "s", 3.0, sample=1), answer(0, "t", 1.0), answer(0, "x", 9.0),
        answer(1, "s", 1.0), answer(1, "t", 2.0), answer(2, "s", 1.0), answer(3, "t", 1.0), answer(3, "x", 2.0),
    ]  # fmt: skip
    found = made(listed, kind="strong_vs_translated", strong=["s"], translated=["t"])
    assert shown(found) == [
        (0, "s", "t", "kept"),
        (1, "s", "t", "margin"),
        (2, None, None, "alone"),
        (3, None, None, "alone"),
    ]
    assert found["chosen_sample"].to_pylist()[0] == 1


def test_all_pairs_keeps_a_fair_few_of_each_prompt() -> None:
    listed = [answer(row, name, float(score)) for row in range(60) for score, name in enumerate("abcde")]
    found = made(listed, kind="all_pairs", max_per_prompt=3)
    assert found.num_rows == 60 * 10
    kept = found.filter(pa.compute.equal(found["outcome"], "kept"))
    assert np.bincount(kept["row"].to_numpy()).tolist() == [3] * 60
    assert set(found["outcome"].to_pylist()) == {"kept", "max_per_prompt"}
    counts = dict.fromkeys(itertools.combinations("edcba", 2), 0)
    for one in kept.to_pylist():
        counts[one["chosen_teacher"], one["rejected_teacher"]] += 1
    assert min(counts.values()) > 5  # 18 of each expected
    twice = [answer(0, "b", 1.0, digest="b", sample=sample) for sample in range(2)]
    again = made([answer(0, "a", 3.0), *twice], kind="all_pairs", max_per_prompt=9)
    assert [one["outcome"] for one in again.to_pylist()] == ["kept", "repeated", "identical"]


ANSWERS = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 3), st.integers(0, 1), st.sampled_from([None, 0.0, 0.4, 1.0, 2.0]),
        st.booleans(), st.integers(0, 4), st.sampled_from([0.5, 1.0, 3.0]),
    ),
    max_size=24, unique_by=lambda one: one[:3],
)  # fmt: skip
KINDS = st.sampled_from(
    [
        {"kind": "best_worst"},
        {"kind": "best_worst", "reject_penalised": True},
        {"kind": "strong_vs_translated", "strong": [0, 1], "translated": [2, 3]},
        {"kind": "all_pairs", "max_per_prompt": 3},
    ]
)


def of_drawn(drawn: Any, names: Sequence[str], samples: Sequence[int], rows: Sequence[int]) -> list[dict[str, Any]]:
    return [
        answer(
            rows.index(row), names[teacher], score, sample=samples[sample], key=hexed(row, teacher, sample),
            length=length, penalties=["truncated"] if bad else [], digest=f"text {text}",
            text=f"{STORY} {text}" if text < 3 else hexed(text),
        )
        for row, teacher, sample, score, bad, text, length in drawn if row in rows
    ]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(ANSWERS, KINDS, st.permutations("abcd"), st.permutations(range(2)), st.integers(0, 4))
def test_names_samples_and_parts_never_change_a_pair(
    drawn: Any, kind: dict[str, Any], names: list[str], samples: list[int], cut: int
) -> None:
    def found(names: Sequence[str], samples: Sequence[int], rows: Sequence[int]) -> list[Any]:
        given = {key: [names[at] for at in value] if isinstance(value, list) else value for key, value in kind.items()}
        present = sorted({one[0] for one in drawn if one[0] in rows})
        table = made(of_drawn(drawn, names, samples, present), max_length_ratio=2.0, **given)
        columns = ["chosen_key", "rejected_key", "margin", "value", "threshold", "outcome"]
        return table.select(columns).to_pylist()  # type: ignore[no-any-return]

    plain = found("abcd", range(2), range(4))
    assert found(names, samples, range(4)) == plain
    assert [one for one in plain if one["outcome"] == "kept" and one["margin"] < 0.5] == []


@settings(max_examples=40, deadline=None)
@given(ANSWERS)
def test_all_pairs_follow_the_plain_definition(drawn: Any) -> None:
    rows = sorted({one[0] for one in drawn})
    listed = of_drawn(drawn, "abcd", range(2), rows)
    found = made(listed, kind="all_pairs", max_per_prompt=99, max_length_ratio=2.0)
    kept = {(one["chosen_key"], one["rejected_key"]) for one in found.to_pylist() if one["outcome"] == "kept"}
    wanted: set[tuple[str, str]] = set()
    for one, other in itertools.permutations(listed, 2):
        alike = one["digest"] == other["digest"] or (STORY in one["text"] and STORY in other["text"])
        if (
            one["row"] == other["row"] and None not in (one["score.a"], other["score.a"])
            and one["score.a"] - other["score.a"] >= 0.5 and not one["penalties"] and not other["penalties"]
            and not alike and max(one["length"], other["length"]) <= 2 * min(one["length"], other["length"])
        ):  # fmt: skip
            wanted.add((one["key"], other["key"]))
    said = {one["key"]: (one["row"], one["digest"]) for one in listed}
    # Of pairs that say the same, one is kept.
    assert kept <= wanted
    assert {(said[a], said[b]) for a, b in kept} == {(said[a], said[b]) for a, b in wanted}
    assert len({(said[a], said[b]) for a, b in kept}) == len(kept)


# Lengths ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a SentencePiece model that knows two languages better than a third."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([STORY, "Bugün hava çok güzel ve çocuklar bahçede oynuyor"] * 20), model_writer=model,
        vocab_size=330, model_type="bpe", byte_fallback=True, minloglevel=3, num_threads=1,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tokenizer")
    (path / "tokenizer.model").write_bytes(model.getvalue())
    return path


WORDS = {"eng": STORY.split(), "tur": ["Bugün", "hava", "çok", "güzel", "ve", "bahçede"], "zho": list("今天天气很好")}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(LANGUAGES), st.lists(st.tuples(st.integers(0, 9), st.integers(1, 12)),
             min_size=2, max_size=4)), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_lengths_are_tokens_whose_ratio_is_the_same_over_any_norm(folder: Path, drawn: Any, chance: Any) -> None:
    tokenizer = Tokenizer.load(locate("sentencepiece", "tokenizer.model", base=folder, cache=folder))
    listed = []
    for row, ((language, _), answers) in enumerate(drawn):
        for at, (start, size) in enumerate(answers):
            said = [WORDS[language][(start + place) % len(WORDS[language])] for place in range(size)]
            # What characters say of their lengths is that all are equal.
            text = ("" if language == "zho" else " ").join(said)
            listed.append(answer(row, "abcd"[at], float(-at), text=text, digest=f"{at}", key=f"{row} {at}"))
    spoken = [one for one, _ in drawn]
    given_ = {"kind": "all_pairs", "max_per_prompt": 99, "max_length_ratio": 1.5, "max_similarity": 1}
    found = made(listed, spoken, tokenizer, **given_).to_pylist()
    texts = {one["key"]: (one["row"], one["text"]) for one in listed}
    for one in found:
        row, better = texts[one["chosen_key"]]
        worse = texts[one["rejected_key"]][1]
        norm = 7.0 + row
        a, b = (tokenizer.count([text])[0] / norm for text in (better, worse))
        assert (one["outcome"] == "length") == (max(a, b) > 1.5 * min(a, b) * (1 + 1e-12))
    order = list(range(len(drawn)))
    chance.shuffle(order)
    moved = [one | {"row": order.index(one["row"]), "prompt": one["row"]} for one in listed]
    chance.shuffle(moved)
    again = made(moved, [spoken[at] for at in order], tokenizer, **given_).to_pylist()
    names = ("chosen_key", "rejected_key", "outcome")
    plain, other = ({tuple(one[name] for name in names) for one in made_} for made_ in (found, again))
    assert plain == other


def test_the_tokenizer_of_the_pairs_comes_before_that_of_the_spec(folder: Path) -> None:
    def builder(spoken: Any = None, **own: Any) -> ArbitrageBuilder:
        recorded = {"engine": "recorded", "path": "a.jsonl", "columns": {"prompt": "q", "answer": "a"}}
        given = {
            "prompts": {"from": "asked"}, "routing": "reward",
            "teachers": dict.fromkeys("ab", recorded),
            "pairs": {"kind": "best_worst", "min_margin": 0, "max_length_ratio": 2, **own},
        }  # fmt: skip
        environment = Environment(folder, folder, True, 7, None, policy("any"), False, spoken)
        return ArbitrageBuilder("best", ArbitrageSettings.model_validate(given), environment)

    spoken = TokenizerSettings.model_validate(TOKENIZER)
    digest = locate("sentencepiece", ".", base=folder, cache=folder).digest
    assert builder().tokenizer is None
    assert builder(spoken, max_length_ratio=None).tokenizer is None
    for found in (builder(spoken).tokenizer, builder(tokenizer=TOKENIZER).tokenizer):
        assert found is not None and found.digest == digest
    missing = {**TOKENIZER, "path": "gone.model"}
    assert builder(TokenizerSettings.model_validate(missing), tokenizer=TOKENIZER).tokenizer is not None
    with pytest.raises(WrongSetting, match=r"gone\.model") as caught:
        builder(spoken, tokenizer=missing).pins()
    assert caught.value.faults[0][0] == ("sources", "best", "pairs", "tokenizer", "path")
    with pytest.raises(WrongSetting, match=r"gone\.model") as caught:
        builder(TokenizerSettings.model_validate(missing)).pins()
    assert caught.value.faults[0][0] == ("tokenizer", "path")


def test_verdicts_have_a_margin_of_their_own() -> None:
    answers = [
        {"row": row, "teacher": name, "score.a": score} for row in range(2) for name, score in (("a", 9.0), ("b", 7.0))
    ]
    scores = combine(score_table(prompt_table(keys(2), [("eng", "Latn")] * 2), answers), {"a": 1.0})
    texts = pa.array([f"{STORY} and {hexed(place)}" * (place + 1) for place in range(4)])
    table = scores.select(["row", "teacher", "sample"]).append_column("text", texts)
    scorer = ["review" if row else "arbiter" for row in scores["row"].to_pylist()]
    scores = scores.append_column("scorer", pa.array(scorer))
    own = PairsSettings.model_validate(
        {"kind": "best_worst", "min_margin": 1, "max_length_ratio": None, "max_similarity": 1}
    )
    told = ("outcome", "value", "threshold", "scorer")

    def found(least: str) -> list[tuple[Any, ...]]:
        made = pairs(scores, table, own, SEED, None, Decimal(least))
        return list(zip(*(made[name].to_pylist() for name in told), strict=True))

    assert found("3") == [("kept", 2.0, None, "arbiter"), ("margin", 2.0, 3.0, "review")]
    assert [one[0] for one in found("2")] == ["kept", "kept"]
