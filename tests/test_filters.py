"""The filters: every rule, at its boundary, against references that look at one row at a time."""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aya_data.core import language as languages
from aya_data.core import license as licenses
from aya_data.core.language import confusable, fasttext_labels, same_language
from aya_data.core.row import ORIGINS, PART, Draft, Turn, normal_text, tabulate
from aya_data.core.stage import Environment, Exchange, ExchangeFilter, RowFilter, Verdicts
from aya_data.filters import FILTERS
from aya_data.filters.exact_dedup import ExactDedup
from aya_data.filters.language_id.filter import LanguageId
from aya_data.filters.languages import Languages
from aya_data.filters.length import Length
from aya_data.filters.license import License
from aya_data.text.turns import row_texts

TURKISH = "Bugün hava çok güzel ve çocuklar bahçede oynuyorlar, siz de gelin."
ENGLISH = "The weather is lovely today and the children are playing in the garden."
CROATIAN = "Danas je vrijeme vrlo lijepo i djeca se igraju u vrtu, dođite i vi."
LABELS = sorted(fasttext_labels())


def environment(policy: str = "research", wanted: Sequence[str] | None = None, base: Path = Path(".")) -> Environment:
    varieties = None if wanted is None else tuple(languages.parse(label) for label in wanted)
    return Environment(base, base, True, 7, varieties, licenses.policy(policy))


def draft(number: int, question: str = ENGLISH, answer: str = ENGLISH, **more: Any) -> Draft:
    given: dict[str, Any] = {"language": "eng", "license": "MIT", "dataset": "d", **more}
    turns = [("user", question), ("assistant", answer)]
    return Draft(key=f"k{number:04d}", messages=given.pop("messages", turns), place=("file", number), **given)


def table(drafts: Sequence[Draft], kind: Any = "conversation", source: str = "s") -> pa.Table:
    made = tabulate(drafts, source, kind, 10**7)
    assert not made.rejections, made.rejections
    return made.rows


def verdicts(a_filter: RowFilter, rows: pa.Table) -> Verdicts:
    """What the engine does: only the declared columns, measures of the same rows."""
    measures = a_filter.measure(rows.select(a_filter.measure_columns)) if a_filter.measure_columns else None
    found = a_filter.judge(rows.select(a_filter.columns), measures)
    check_shape(found, len(rows))
    return found


def check_shape(found: Verdicts, count: int) -> None:
    flag = np.zeros(count, np.bool_) if found.flag is None else found.flag
    assert found.drop.dtype == flag.dtype == np.bool_
    assert {len(found.drop), len(flag), len(found.rule), len(found.value)} == {count}
    assert {len(found.threshold), len(found.evidence)} == {count}
    assert all(len(column) == count for column in [*found.tags.values(), *found.scores.values()])
    assert not (found.drop & flag).any()
    assert [rule is not None for rule in found.rule] == (found.drop | flag).tolist()
    for column in (found.rule, found.value, found.threshold, found.evidence):
        assert all(text is None or isinstance(text, str) for text in column)


def said(found: Verdicts, row: int = 0) -> tuple[bool, str | None, str | None, str | None, str | None]:
    return bool(found.drop[row]), found.rule[row], found.value[row], found.threshold[row], found.evidence[row]


def language_id(**given: Any) -> LanguageId:
    return LanguageId(LanguageId.Settings(**{"min_confidence": 0.5, **given}), environment())


# All filters --------------------------------------------------------------------------------------


def test_the_table_names_classes_that_carry_the_name() -> None:
    for name, place in FILTERS.items():
        module, _, attribute = place.partition(":")
        found = getattr(import_module(module), attribute)
        assert found.name == name
        assert set(found.columns) <= set(PART.names)
        for key, info in found.Settings.model_fields.items():
            assert info.description, f"{name}.{key}"


def row_filters(base: Path = Path(".")) -> list[RowFilter]:
    env = environment("commercial", ["tur_Latn"])
    return [
        License(License.Settings(), env),
        Languages(Languages.Settings(), env),
        Length(Length.Settings(min_chars=5, languages={"tur": {"max_chars": 9}}), env),
        language_id(),
    ]


@pytest.mark.parametrize("index", range(4))
def test_empty_parts(index: int) -> None:
    found = verdicts(row_filters()[index], PART.empty_table())
    assert found.drop.tolist() == []


@pytest.mark.parametrize("index", range(4))
def test_filters_travel_and_are_deterministic(index: int) -> None:
    rows = table(
        [
            draft(n, TURKISH, answer, language=label)
            for n, answer in enumerate(("x", ENGLISH))
            for label in ("tur", "eng", "?")
        ]
    )
    one = row_filters()[index]
    two = pickle.loads(pickle.dumps(one))
    assert one.pins() == two.pins()
    assert one.measure_pins() == two.measure_pins()
    first, second = verdicts(one, rows), verdicts(two, rows)
    assert [said(first, n) for n in range(len(rows))] == [said(second, n) for n in range(len(rows))]
    assert {k: v.to_pylist() for k, v in first.tags.items()} == {k: v.to_pylist() for k, v in second.tags.items()}


@pytest.mark.parametrize("index", range(4))
def test_parts_do_not_matter(index: int) -> None:
    rows = table(
        [
            draft(n, TURKISH[: 7 * n + 1], ENGLISH[: 9 * n + 1], language=("tur", "eng", "xx", "bam")[n % 4])
            for n in range(12)
        ]
    )
    whole, a_filter = verdicts(row_filters()[index], rows), row_filters()[index]
    for start, length in ((0, 5), (5, 1), (6, 6)):
        piece = verdicts(a_filter, rows.slice(start, length))
        assert [said(piece, n) for n in range(length)] == [said(whole, start + n) for n in range(length)]
        for name, column in whole.tags.items():
            assert piece.tags[name].to_pylist() == column.to_pylist()[start : start + length]


# license ------------------------------------------------------------------------------------------


def judged_license(policy: str, **more: Any) -> tuple[bool, str | None, str | None, str | None, str | None]:
    return said(verdicts(License(License.Settings(), environment(policy)), table([draft(0, **more)])))


def test_a_free_licence_passes() -> None:
    assert judged_license("commercial", license="apache-2.0") == (False, None, None, None, None)


def test_a_licence_that_the_policy_refuses() -> None:
    drop, rule, value, threshold, evidence = judged_license("commercial", license="CC-BY-NC-4.0")
    assert (drop, rule, value, threshold) == (True, "license.use", "CC-BY-NC-4.0", "commercial: use any")
    assert evidence is not None
    assert evidence.startswith("non-commercial, attribution")
    assert judged_license("research", license="CC-BY-NC-4.0")[0] is False


@pytest.mark.parametrize("policy", ["commercial", "research", "any"])
def test_an_unknown_licence_says_what_could_not_be_read(policy: str) -> None:
    drop, rule, value, _, evidence = judged_license(policy, license="see website")
    assert (drop, rule, value) == (policy != "any", "license.unknown", "LicenseRef-aya-unknown")
    assert evidence is not None
    assert "see website" in evidence


def test_the_evidence_names_translator_and_teacher() -> None:
    evidence = judged_license("commercial", license="CC-BY-NC-4.0", translator="NLLB-200-3.3B", teacher="gpt-4")[4]
    assert evidence is not None
    assert evidence.endswith("; translated by NLLB-200-3.3B; written by gpt-4")


def test_terms_are_judged_beside_the_licence() -> None:
    name = next(name for name, terms in sorted(licenses.terms_table().items()) if "no-compete" in terms.effects)
    drop, rule, value, _, _ = judged_license("commercial", license="MIT", terms=[name])
    assert (drop, rule, value) == (True, "terms.no-compete", name)
    assert judged_license("research", license="MIT", terms=[name])[0] is False


def test_no_derivatives_counts_only_for_what_was_made_from_others() -> None:
    assert judged_license("commercial", license="CC-BY-ND-4.0")[0] is False
    assert judged_license("commercial", license="CC-BY-ND-4.0", adapted=True)[1] == "license.derivatives"


def test_an_exception_is_flagged() -> None:
    policy = licenses.policy({"uses": ["any"], "exceptions": [{"id": "CC-BY-NC-4.0", "reason": "we have a letter"}]})
    env = Environment(Path("."), Path("."), True, 7, None, policy)
    found = verdicts(License(License.Settings(), env), table([draft(0, license="CC-BY-NC-4.0")]))
    assert said(found)[:2] == (False, "license.exception")
    assert found.flag is not None
    assert found.flag[0]
    assert "we have a letter" in str(found.evidence[0])


def test_the_policy_is_pinned() -> None:
    pins = {repr(License(License.Settings(), environment(name)).pins()) for name in ("commercial", "research", "any")}
    assert len(pins) == 3


LICENSES = ("MIT", "CC-BY-4.0", "CC-BY-NC-4.0", "CC-BY-ND-4.0", "nonsense", None, "CC-BY-SA-4.0 AND MIT")


@given(
    st.lists(
        st.tuples(st.sampled_from(LICENSES), st.sets(st.sampled_from(["openai", "x"])), st.booleans()), max_size=12
    ),
    st.sampled_from(["commercial", "research", "any"]),
)
@settings(max_examples=60, deadline=None)
def test_license_equals_asking_the_policy_row_by_row(
    cases: list[tuple[str | None, set[str], bool]], policy: str
) -> None:
    rows = table(
        [draft(n, license=name, terms=sorted(terms), adapted=adapted) for n, (name, terms, adapted) in enumerate(cases)]
    )
    found = verdicts(License(License.Settings(), environment(policy)), rows)
    for row, (name, terms, adapted) in enumerate(cases):
        wanted = licenses.judge(licenses.resolve(name).license, terms, licenses.policy(policy), adapted=adapted)
        assert bool(found.drop[row]) is not wanted.allowed
        if not wanted.allowed:
            assert said(found, row)[1:4] == (wanted.rule, wanted.value, wanted.threshold)


# length -------------------------------------------------------------------------------------------


def judged_length(question: str, reply: str, label: str = "eng", **given: Any) -> tuple[Any, ...]:
    rows = table([draft(0, question, reply, language=label)])
    return said(verdicts(Length(Length.Settings(**given), environment()), rows))


def test_bounds_are_inclusive() -> None:
    assert judged_length("abc", "de", min_chars=5, max_chars=5)[0] is False
    assert judged_length("abc", "d", min_chars=5) == (True, "min_chars", "4", "5", "characters of the conversation")
    assert judged_length("abc", "def", max_chars=5) == (True, "max_chars", "6", "5", "characters of the conversation")


def test_either_side() -> None:
    assert judged_length("abc", "d", answer={"min_chars": 2}) == (
        True,
        "min_chars",
        "1",
        "2",
        "characters of the answer",
    )
    assert judged_length("abc", "d", prompt={"max_chars": 2}) == (
        True,
        "max_chars",
        "3",
        "2",
        "characters of the prompt",
    )
    assert judged_length("abc", "d", prompt={"min_chars": 3}, answer={"max_chars": 1})[0] is False


def test_code_points_are_counted_and_nothing_is_the_default() -> None:
    assert judged_length("नमस्ते", "🎉", min_chars=8)[2] == "7"
    assert judged_length("a", "b")[0] is False


def test_a_language_has_its_own_bounds() -> None:
    given = {"min_chars": 10, "languages": {"Chinese": {"min_chars": 2}, "zho_Hant": {"min_chars": 4}}}
    assert judged_length("你", "好", "zho_Hans", **given)[0] is False
    assert judged_length("你", "好", "zho_Hant", **given)[:4] == (True, "min_chars", "2", "4")
    assert judged_length("a", "b", "eng", **given)[3] == "10"


def test_other_bounds_of_a_language_stay() -> None:
    given = {"max_chars": 3, "answer": {"max_chars": 1}, "languages": {"deu": {"answer": {"min_chars": 1}}}}
    assert judged_length("ab", "cd", "deu", **given)[:4] == (True, "max_chars", "4", "3")
    assert judged_length("a", "cd", "deu", **given)[:4] == (True, "max_chars", "2", "1")


def test_prompt_rows_have_no_answer_to_be_too_short() -> None:
    rows = table([draft(0, messages=[("user", "hello")])], "prompt")
    assert verdicts(Length(Length.Settings(answer={"min_chars": 5}), environment()), rows).drop.tolist() == [False]
    assert verdicts(Length(Length.Settings(min_chars=6), environment()), rows).drop.tolist() == [True]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_chars": 6, "max_chars": 5}, "has min_chars 6 above max_chars 5"),
        ({"languages": {"klingonish": {"min_chars": 1}}}, "names no language: 'klingonish'"),
        ({"min_chars": -1}, "greater than or equal to 0"),
        ({"minimum": 1}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        Length.Settings(**given)


Bound = st.none() | st.integers(1, 6)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=12), Bound, Bound, Bound, Bound)
@settings(max_examples=100, deadline=None)
def test_length_equals_counting(
    cases: list[tuple[int, int]], low: int | None, high: int | None, answer_low: int | None, prompt_high: int | None
) -> None:
    if low is not None and high is not None and low > high:
        low, high = high, low
    given = {
        "min_chars": low,
        "max_chars": high,
        "answer": {"min_chars": answer_low},
        "prompt": {"max_chars": prompt_high},
    }
    rows = table([draft(n, "é" * q, "字" * a) for n, (q, a) in enumerate(cases)])
    found = verdicts(Length(Length.Settings(**given), environment()), rows)
    assert found.drop.tolist() == [
        q + a < (low or 0) or q + a > (high or 99) or a < (answer_low or 0) or q > (prompt_high or 99) for q, a in cases
    ]


# languages ----------------------------------------------------------------------------------------


def judged_language(label: str | None, wanted: Sequence[str] | None) -> Verdicts:
    return verdicts(Languages(Languages.Settings(), environment(wanted=wanted)), table([draft(0, language=label)]))


def test_languages_of_the_spec_pass() -> None:
    assert not judged_language("Turkish", ["tur", "eng"]).drop[0]
    assert not judged_language("fas", ["pes"]).drop[0]
    assert not judged_language("ara", ["arb"]).drop[0]


def test_other_languages_are_dropped() -> None:
    assert said(judged_language("deu", ["tur", "eng"])) == (
        True, "language_not_in_spec", "deu_Latn", "2 varieties", "German: not in the spec's languages",
    )  # fmt: skip
    assert judged_language("ind", ["zsm"]).drop[0]
    assert judged_language("arz", ["arb"]).drop[0]


def test_the_same_language_in_another_script_is_dropped() -> None:
    assert said(judged_language("zh-TW", ["zho_Hans"])) == (
        True, "language_not_in_spec", "zho_Hant", "zho_Hans",
        "Chinese: in Hant, the spec has it in another script",
    )  # fmt: skip


def test_unresolved_labels_name_the_label() -> None:
    found = judged_language("gibberish", ["tur"])
    assert said(found)[:4] == (True, "language_unresolved", "gibberish", None)
    assert found.evidence[0] == languages.resolve("gibberish").reason
    assert said(judged_language(None, ["tur"]))[:4] == (True, "language_unresolved", "", None)


def test_without_a_list_unresolved_rows_are_flagged_and_kept() -> None:
    found = judged_language("gibberish", None)
    assert said(found)[:3] == (False, "language_unresolved", "gibberish")
    assert found.flag is not None
    assert found.flag[0]
    assert said(judged_language("deu", None))[:2] == (False, None)


# language_id --------------------------------------------------------------------------------------


def identified(question: str, language: str, answer: str = "", **given: Any) -> Verdicts:
    return verdicts(language_id(**given), table([draft(0, question, answer or question, language=language)]))


def tag(found: Verdicts, name: str = "language_id") -> str | None:
    text: str | None = found.tags[name].to_pylist()[0]
    return text


def score(found: Verdicts) -> float | None:
    number: float | None = found.scores["language_id.confidence"].to_pylist()[0]
    return number


def test_the_declared_language_passes_and_is_tagged() -> None:
    found = identified(TURKISH, "tur")
    assert said(found) == (False, None, None, None, None)
    assert (tag(found), tag(found, "language_id.note")) == ("tur_Latn", None)
    assert score(found) is not None
    assert score(found) > 0.9  # type: ignore[operator]


def test_another_language_is_a_mismatch() -> None:
    found = identified(ENGLISH, "tur")
    drop, rule, value, threshold, evidence = said(found)
    assert (drop, rule, threshold) == (True, "language_mismatch", "0.5")
    assert float(str(value)) == score(found)
    assert str(evidence).startswith("declared tur_Latn, detected eng 0.")
    assert tag(found) == "eng_Latn"


def test_confusable_languages_pass_with_a_flag_or_are_judged() -> None:
    found = identified(CROATIAN, "bos")
    assert said(found)[:2] == (False, "confusable")
    assert (tag(found), tag(found, "language_id.note")) == ("hrv_Latn", "confusable")
    assert said(identified(CROATIAN, "bos", confusable="judge"))[:2] == (True, "language_mismatch")


def test_languages_that_the_model_does_not_know_are_kept_and_flagged() -> None:
    found = identified(ENGLISH, "bam")
    assert said(found)[:4] == (False, "unsupported_language", None, None)
    assert (tag(found), tag(found, "language_id.note"), score(found)) == ("eng_Latn", "unsupported_language", None)


ROMANISED = "Ana bahebb ashrab el shay kol yom el sobh ma'a ashabi fel beit, w enta?"


def test_a_language_in_a_script_that_the_model_does_not_know_is_kept_and_flagged() -> None:
    found = identified(ROMANISED, "arb_Latn")
    assert said(found)[:4] == (False, "unsupported_language", None, None)
    assert said(identified(ROMANISED, "arb_Arab"))[:4] == (False, "romanised", "Latn", "Arab")
    assert said(identified(ENGLISH, "srp_Latn"))[:2] == (True, "language_mismatch")


def test_short_texts_are_undetermined() -> None:
    found = identified("Yes?", "tur", "No")
    assert said(found) == (False, None, None, None, None)
    assert (tag(found), score(found)) == ("undetermined", None)
    assert identified("Yes, of course not?", "tur", "No, never", min_letters=5).drop[0]
    assert tag(identified("1 + 1 = ?", "tur", "2", min_letters=0)) == "undetermined"


def test_letters_count_as_much_as_they_tell() -> None:
    assert tag(identified("今天天气很好", "zho", "是的")) == "zho_Hans"
    assert tag(identified("abcdef", "zho", "ab")) == "undetermined"


def test_scripts_that_differ_from_the_label_are_flagged() -> None:
    found = identified("Danas je vreme veoma lepo i deca se igraju u bašti, dođite i vi.", "srp_Cyrl")
    assert said(found)[:4] == (False, "script_mismatch", "Latn", "Cyrl")


def test_the_detected_variety_has_the_declared_script_where_it_fits() -> None:
    text = "今天天氣很好，孩子們在花園裡玩耍，你們也來吧。"
    assert tag(identified(text, "zho_Hant")) == "zho_Hant"
    assert tag(identified(text, "zho_Hans")) == "zho_Hans"
    assert tag(identified(text, "jpn")) == "zho_Hans"


def test_rows_without_a_language_pass_and_are_tagged() -> None:
    found = identified(TURKISH, "gibberish")
    assert said(found)[:2] == (False, None)
    assert (tag(found), score(found)) == ("tur_Latn", None)


def test_which_side_is_read() -> None:
    assert identified(ENGLISH, "tur", TURKISH, on="prompt").drop[0]
    assert not identified(ENGLISH, "tur", TURKISH, on="answer").drop[0]


def test_a_language_has_its_own_threshold() -> None:
    half = f"{ENGLISH} {TURKISH}"
    confidence = score(identified(half, "tur"))
    assert confidence is not None
    assert not identified(half, "tur", thresholds={"tur": confidence}).drop[0]
    assert identified(half, "tur", thresholds={"tur_Latn": min(1.0, confidence + 0.0001), "tur": 0}).drop[0]


def test_settings_name_languages_and_stay_in_range() -> None:
    with pytest.raises(ValidationError, match="names no language"):
        LanguageId.Settings(thresholds={"klingonish": 0.3})
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        LanguageId.Settings(min_confidence=50)


def test_thresholds_do_not_change_what_is_measured() -> None:
    assert language_id(min_confidence=0.2, min_letters=3).measure_pins() == language_id().measure_pins()
    assert language_id(on="prompt").measure_pins() != language_id().measure_pins()


def measures(cases: Sequence[tuple[tuple[str | None, ...], tuple[int, ...], int, str | None]]) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    for rank in range(3):
        columns[f"label_{rank + 1}"] = pa.array([labels[rank] for labels, *_ in cases], pa.string())
    for rank in range(3):
        columns[f"confidence_{rank + 1}"] = pa.array([units[rank] / 10000 for _, units, *_ in cases], pa.float64())
    columns["letters"] = pa.array([letters for *_, letters, _ in cases], pa.int32())
    columns["script"] = pa.array([script for *_, script in cases], pa.string())
    columns["script_share"] = pa.array([1.0 for _ in cases], pa.float64())
    columns["margin"] = pa.array([units[0] / 10000 - 0.5 for _, units, *_ in cases], pa.float64())
    return pa.table(columns)


def labelled(varieties: Sequence[str]) -> pa.Table:
    split = [variety.split("_") for variety in varieties]
    return pa.table(
        {
            "language": pa.array([a for a, _ in split], pa.string()),
            "script": pa.array([b for _, b in split], pa.string()),
        }
    )


@pytest.mark.parametrize(
    ("units", "drop"),
    [((4999, 0, 0), True), ((5000, 0, 0), False), ((2000, 1000, 1999), True), ((2000, 1000, 2000), False)],
)
def test_the_threshold_itself_passes_and_equivalent_labels_add_up(units: tuple[int, ...], drop: bool) -> None:
    found = language_id().judge(labelled(["hbs_Latn"]), measures([(("sr", "hr", "bs"), units, 99, "Latn")]))
    assert said(found)[:3] == (drop, "low_confidence" if drop else None, f"{sum(units) / 10000:.4f}" if drop else None)


def test_unsure_rows_may_be_kept() -> None:
    given = (
        labelled(["tur_Latn", "tur_Latn"]),
        measures(
            [(("de", "tr", "en"), (4000, 3000, 500), 99, "Latn"), (("de", "tr", "en"), (6000, 3000, 500), 99, "Latn")]
        ),
    )
    found = language_id(unsure="keep").judge(*given)
    check_shape(found, 2)
    assert said(found)[:4] == (False, "low_confidence", "0.3000", "0.5")
    assert said(found, 1)[:4] == (True, "language_mismatch", "0.3000", "0.5")


def test_low_confidence_is_not_a_mismatch() -> None:
    found = language_id().judge(labelled(["tur_Latn"]), measures([(("de", "tr", "en"), (4000, 3000, 500), 99, "Latn")]))
    assert said(found) == (
        True,
        "low_confidence",
        "0.3000",
        "0.5",
        "declared tur_Latn, detected deu 0.4000, tur 0.3000, eng 0.0500",
    )


VARIETIES = ("tur_Latn", "srp_Cyrl", "bos_Latn", "zho_Hans", "und_Zyyy", "bam_Latn", "arb_Arab", "arb_Latn", "ind_Latn")
Confidences = st.lists(st.integers(0, 3333), min_size=3, max_size=3).map(lambda u: tuple(sorted(u, reverse=True)))
Case = st.tuples(
    st.sampled_from(VARIETIES),
    st.tuples(*[st.none() | st.sampled_from(["tr", "sr", "hr", "zh", "ar", "arz", "id", "ms", "no", "da", "en"])] * 3),
    Confidences,
    st.integers(0, 40),
    st.none() | st.sampled_from(["Latn", "Cyrl", "Hani", "Arab"]),
)


@given(st.lists(Case, max_size=15), st.integers(0, 10000), st.sampled_from(["keep", "judge"]), st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_judging_equals_judging_row_by_row(cases: list[Any], threshold: int, mode: Any, min_letters: int) -> None:
    a_filter = language_id(min_confidence=threshold / 10000, confusable=mode, min_letters=min_letters)
    rows = labelled([case[0] for case in cases])
    found = a_filter.judge(rows, measures([case[1:] for case in cases]))
    check_shape(found, len(cases))
    known = set(fasttext_labels().values())
    for row, (variety, labels, units, letters, dominant) in enumerate(cases):
        declared = variety.split("_")[0]
        total, other = 0, 0
        for label, unit in zip(labels, units, strict=True):
            if label is None:
                continue
            language = fasttext_labels()[label]
            if same_language(declared, language) or (mode == "keep" and confusable(declared, language)):
                total += unit
            else:
                other = max(other, unit)
        judged = (
            letters >= min_letters
            and dominant is not None
            and labels[0] is not None
            and declared != "und"
            and any(same_language(declared, language) for language in known)
        )
        wanted = None
        unknown_script = variety == "arb_Latn" and dominant == "Latn"
        if judged and total < threshold and not unknown_script:
            wanted = "language_mismatch" if other >= threshold else "low_confidence"
            believed = units[0] >= 5000
            if variety in ("zho_Hans", "arb_Arab") and dominant == "Latn" and not (other >= threshold and believed):
                wanted = None  # romanised
        assert bool(found.drop[row]) is (wanted is not None)
        if wanted:
            assert found.rule[row] == wanted
        assert found.scores["language_id.confidence"][row].as_py() == (total / 10000 if judged else None)


def write_model(path: Path, words: dict[str, list[str]]) -> None:
    """Write a fastText classifier (format 12, softmax) in which each word speaks for one label."""
    labels = list(words)
    vocabulary = [("</s>", -1), *((word, n) for n, label in enumerate(labels) for word in words[label])]
    entries = [(word, 0) for word, _ in vocabulary] + [(f"__label__{label}", 1) for label in labels]
    vectors = np.zeros((len(vocabulary), len(labels)), np.float32)
    for row, (_, label) in enumerate(vocabulary):
        if label >= 0:
            vectors[row, label] = 10
    arguments = (len(labels), 5, 5, 1, 5, 1, 3, 3, 0, 0, 0, 100)
    data = struct.pack(
        "<14i d 3i 2q", 793712314, 12, *arguments, 1e-4, len(entries), len(vocabulary), len(labels), 99, -1
    )
    data += b"".join(text.encode() + b"\0" + struct.pack("<qb", 9, kind) for text, kind in entries)
    for matrix in (vectors, np.eye(len(labels), dtype=np.float32)):
        data += struct.pack("<?2q", False, *matrix.shape) + matrix.tobytes()
    path.write_bytes(data)


def test_a_model_with_codes_as_labels(tmp_path: Path) -> None:
    words = {"tur_Latn": TURKISH.split(), "eng_Latn": ENGLISH.split(), "zho_Hans": ["你好"], "zho_Hant": ["您好"]}
    write_model(tmp_path / "own.bin", words)
    a_filter = LanguageId(LanguageId.Settings(model="own.bin"), environment(base=tmp_path))
    assert a_filter.model.labels == tuple(words)
    rows = table(
        [
            draft(0, TURKISH, TURKISH, language="tur"),
            draft(1, ENGLISH, ENGLISH, language="tur"),
            draft(2, ENGLISH, ENGLISH, language="bam"),
            draft(3, "您好 " * 9, "您好", language="zho_Hans"),
        ]
    )
    found = verdicts(a_filter, rows)
    assert found.tags["language_id"].to_pylist() == ["tur_Latn", "eng_Latn", "eng_Latn", "zho_Hant"]
    assert found.rule == [None, "language_mismatch", "unsupported_language", None]
    assert a_filter.measure_pins() != language_id().measure_pins()


# The text of a row --------------------------------------------------------------------------------


def test_texts_leave_out_system_and_tool_turns() -> None:
    turns: list[Turn] = [
        ("system", "S"),
        ("user", "U1"),
        ("assistant", "A1"),
        ("tool", "T"),
        ("user", "U2"),
        ("assistant", "A2"),
    ]
    rows = table([draft(0, messages=turns), draft(1, "q", "a")])
    assert row_texts(rows, "conversation") == ["U1\nA1\nU2\nA2", "q\na"]
    assert row_texts(rows, "prompt") == ["U1\nU2", "q"]
    assert row_texts(rows, "answer") == ["A1\nA2", "a"]
    assert row_texts(rows.slice(1), "prompt") == ["q"]
    assert row_texts(PART.empty_table(), "answer") == []


def test_texts_of_prompts_and_preferences() -> None:
    shared: list[Turn] = [("user", "U")]
    chosen, rejected = [*shared, ("assistant", "C")], [*shared, ("assistant", "R")]
    pair = table([draft(0, messages=shared, chosen=chosen, rejected=rejected)], "preference")
    prompt = table([draft(1, messages=shared)], "prompt")
    both = pa.concat_tables([pair, prompt])
    assert row_texts(both, "conversation") == ["U\nC\nR", "U"]
    assert row_texts(both, "answer") == ["C\nR", ""]
    assert row_texts(both, "prompt") == ["U", "U"]


# exact_dedup --------------------------------------------------------------------------------------


def losers(
    a_filter: ExchangeFilter, rows: pa.Table, settled: Sequence[bool] | None = None, places: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    connection = duckdb.connect(config={"threads": 2})
    view = rows.select(a_filter.columns)
    view = view.append_column("settled", pa.array(settled or [False] * len(rows), pa.bool_()))
    view = view.append_column("place", pa.array(places or range(len(rows)), pa.int64()))
    connection.register("given", view)
    connection.execute(f"CREATE VIEW candidates AS SELECT place, settled, {', '.join(a_filter.columns)} FROM given")
    found = a_filter.decide(Exchange(connection, bool(settled)))
    assert found.schema.names == ["place", "rule", "value", "threshold", "evidence", "partner"]
    assert connection.execute("SELECT count(*) FROM candidates").fetchone() == (len(rows),)
    connection.close()
    return found.to_pylist()


def dedup(policy: str = "research", **given: Any) -> ExactDedup:
    return ExactDedup(ExactDedup.Settings(**given), environment(policy))


def test_nothing_to_merge() -> None:
    assert losers(dedup(), PART.empty_table()) == []
    assert losers(dedup(), table([draft(0, "a", "b"), draft(1, "a", "c")])) == []


def test_the_loser_names_its_keeper() -> None:
    rows = table([draft(0, origin="generated", language="tur"), draft(1, origin="human", language="eng")])
    assert losers(dedup(), rows) == [
        {
            "place": 0,
            "rule": "exact_duplicate",
            "value": rows["id"][0].as_py(),
            "threshold": None,
            "evidence": "same conversation as s/d, which is labelled eng_Latn (here tur_Latn)",
            "partner": "k0001",
        }
    ]


def keeper(a_filter: ExactDedup, *drafts: Draft, settled: Sequence[bool] | None = None) -> str:
    rows = table(drafts)
    lost = losers(a_filter, rows, settled)
    assert len(lost) == len(drafts) - 1
    (left,) = set(rows["row_key"].to_pylist()) - {rows["row_key"][one["place"]].as_py() for one in lost}
    assert {one["partner"] for one in lost} == {left}
    return str(left)


def test_the_order_of_origins() -> None:
    drafts = [draft(number, origin=origin) for number, origin in enumerate(reversed(ORIGINS))]
    for start in range(len(drafts) - 1):
        assert keeper(dedup(), *drafts[: len(drafts) - start]) == drafts[len(drafts) - start - 1].key


def test_licences_by_policy_and_by_setting() -> None:
    drafts = [draft(0, license="CC-BY-NC-4.0"), draft(1, license="CC-BY-4.0"), draft(2, license="CC0-1.0")]
    looser = keeper(dedup("commercial"), *drafts)
    stricter = keeper(dedup("research"), *drafts)
    assert (looser, stricter) == ("k0002", "k0000")
    assert keeper(dedup("research", prefer_license="looser"), *drafts) == looser
    assert keeper(dedup("commercial", prefer_license="stricter"), *drafts) == stricter


def test_terms_count_when_licences_are_equal() -> None:
    drafts = [draft(0, terms=["openai"]), draft(1)]
    assert keeper(dedup(prefer_license="looser"), *drafts) == "k0001"
    assert keeper(dedup(prefer_license="stricter"), *drafts) == "k0000"


def test_the_longer_of_equal_prompts_is_kept() -> None:
    assert keeper(dedup(on="prompt"), draft(0, "Who?", "Me."), draft(1, "WHO? ", "Me and you.")) == "k0001"


def test_settled_rows_are_kept_whatever_they_are() -> None:
    drafts = [draft(0, origin="generated", license="CC-BY-NC-4.0"), draft(1, origin="human")]
    assert keeper(dedup("commercial"), *drafts, settled=[True, False]) == "k0000"
    assert losers(dedup(), table(drafts), [True, True]) == []


def test_what_counts_as_the_same() -> None:
    a, b = draft(0, "Ｗhat  is it?", "It is"), draft(1, "what is IT?", "it  IS")
    assert losers(dedup(), table([a, b])) == []
    for setting in ({"normalize": "text"}, {"on": "prompt"}, {"on": "answer", "normalize": "text"}):
        assert len(losers(dedup(**setting), table([a, b]))) == 1
    assert losers(dedup(on="answer"), table([a, b])) == []
    assert len(losers(dedup(on="answer"), table([a, draft(2, "another", "It is")]))) == 1


def test_kinds_are_not_mixed_and_rows_without_answers_equal_nothing() -> None:
    prompts = table([draft(0, messages=[("user", "hello")]), draft(1, messages=[("user", "hello you")])], "prompt")
    both = pa.concat_tables([prompts, table([draft(2, "hello", "hi")])])
    assert losers(dedup(on="answer"), both) == []
    assert losers(dedup(on="prompt"), both) == []


def test_preferences_are_equal_only_as_a_whole() -> None:
    def pair(number: int, chosen: str, rejected: str) -> Draft:
        shared: list[Turn] = [("user", "u")]
        return draft(
            number,
            messages=shared,
            chosen=[*shared, ("assistant", chosen)],
            rejected=[*shared, ("assistant", rejected)],
        )

    for setting in ({}, {"normalize": "text"}, {"on": "answer"}):
        assert losers(dedup(**setting), table([pair(0, "a", "b"), pair(1, "b", "a")], "preference")) == []
        assert len(losers(dedup(**setting), table([pair(0, "a", "b"), pair(1, "a", "b")], "preference"))) == 1


Row = st.tuples(
    st.sampled_from(["a", "A", "b", "b ", "c"]),
    st.sampled_from(["x", "X ", "y"]),
    st.sampled_from(ORIGINS),
    st.sampled_from(["MIT", "CC-BY-4.0", "CC-BY-NC-4.0", "?"]),
    st.sampled_from([(), ("openai",)]),
    st.booleans(),
)


def expected(cases: Sequence[Any], a_filter: ExactDedup, rows: pa.Table) -> dict[int, int]:
    """Loser to keeper, by comparing every row with every other."""

    def key(case: Any) -> Any:
        question, answer = case[0], case[1]
        clean = normal_text if a_filter.settings.normalize == "text" else str
        return {
            "conversation": (clean(question), clean(answer)),
            "prompt": normal_text(question),
            "answer": clean(answer),
        }[a_filter.settings.on]

    def better(one: int, two: int) -> bool:
        a, b = cases[one], cases[two]
        if a[5] != b[5]:
            return bool(a[5])
        if a[2] != b[2]:
            return ORIGINS.index(a[2]) < ORIGINS.index(b[2])
        strict = []
        for case in (a, b):
            license = licenses.resolve(case[3]).license
            strict.append((licenses.strictness(license)[:4], len({*case[4], *licenses.terms_of(license)})))
        if strict[0] != strict[1]:
            return (strict[0] < strict[1]) is (a_filter.prefer == "looser")
        lengths = [len(case[0]) + len(case[1]) for case in (a, b)]
        if lengths[0] != lengths[1]:
            return lengths[0] > lengths[1]
        return bool(rows["row_hash"][one].as_py() < rows["row_hash"][two].as_py())

    found = {}
    for row, case in enumerate(cases):
        same = [other for other in range(len(cases)) if key(cases[other]) == key(case)]
        best = next(one for one in same if all(one == other or better(one, other) for other in same))
        if best != row and not case[5]:
            found[row] = best
    return found


@given(
    st.lists(Row, max_size=14),
    st.sampled_from(["conversation", "prompt", "answer"]),
    st.sampled_from(["none", "text"]),
    st.sampled_from(["looser", "stricter"]),
    st.permutations(range(14)),
)
@settings(max_examples=60, deadline=None)
def test_dedup_equals_comparing_all_pairs_in_any_order_and_twice(
    cases: list[Any], on: Any, normalize: Any, prefer: Any, order: list[int]
) -> None:
    a_filter = dedup(on=on, normalize=normalize, prefer_license=prefer)
    rows = table([draft(n, q, a, origin=o, license=li, terms=list(t)) for n, (q, a, o, li, t, _) in enumerate(cases)])
    settled = [case[5] for case in cases]
    wanted = {
        rows["row_key"][row].as_py(): rows["row_key"][best].as_py()
        for row, best in expected(cases, a_filter, rows).items()
    }
    assert keys_of(a_filter, rows, settled) == wanted

    shuffled = [n for n in order if n < len(cases)]
    assert keys_of(a_filter, rows.take(pa.array(shuffled, pa.int64())), [settled[n] for n in shuffled]) == wanted

    left = [n for n in range(len(cases)) if rows["row_key"][n].as_py() not in wanted]
    assert keys_of(a_filter, rows.take(pa.array(left, pa.int64())), [settled[n] for n in left]) == {}


def keys_of(a_filter: ExactDedup, rows: pa.Table, settled: Sequence[bool]) -> dict[str, str]:
    places = [7 * n + 3 for n in range(len(rows))]
    found = losers(a_filter, rows, settled, places)
    return {rows["row_key"][(one["place"] - 3) // 7].as_py(): one["partner"] for one in found}


def test_licences_that_differ_only_in_name_do_not_leave_the_order_open() -> None:
    drafts = [draft(0, license="MIT"), draft(1, license="Apache-2.0")]
    assert keeper(dedup(), *drafts) == keeper(dedup(), *reversed(drafts))
