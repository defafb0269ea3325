"""Language identification beyond the single rule: calibrated thresholds, scripts, sides, lines, windows, statistics."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aya_data.core import statistics
from aya_data.core.errors import InputError, WrongSetting
from aya_data.core.stage import Verdicts
from aya_data.filters.language_id.filter import LanguageId
from aya_data.filters.language_id.table import bundled_table, is_written, parse_table
from aya_data.text import language_profile, script, windows
from aya_data.text.language_profile import (
    PRIOR,
    TRIGRAM_PRIOR,
    Profile,
    Profiles,
    make_profile,
    weigh_trigrams,
)
from tests.test_filters import ENGLISH, TURKISH, draft, environment, said, table, verdicts, write_model

HINDI = "आज मौसम बहुत अच्छा है और बच्चे बगीचे में खेल रहे हैं।"
HINDI_IN_LATIN = "Yah mera pasandida khel hai aur main roz khelta hoon apne doston ke saath"
SOMALI = "Waxaan jeclahay in aan barto luqado cusub maalin kasta oo aan la hadlo dadka."
SHAN = "ၸဝ်ႈၶူးသွၼ်ၵူၼ်းၼုမ်ႇ ႁႂ်ႈမီးပိင်ႇယႃႇ ၸႂ်လီ ၸူမ်းသိူဝ်း တီႈႁူင်းႁဵၼ်း"


def language_id(**given: Any) -> LanguageId:
    return LanguageId(LanguageId.Settings(**given), environment())


def judged(question: str, language: str, answer: str | None = None, task: str | None = None, **given: Any) -> Verdicts:
    rows = table([draft(0, question, answer or question, language=language, task=task)])
    return verdicts(language_id(**given), rows)


def tag(found: Verdicts, name: str = "language_id") -> Any:
    return found.tags[name].to_pylist()[0]


def score(found: Verdicts, name: str) -> Any:
    return found.scores[f"language_id.{name}"].to_pylist()[0]


# Thresholds ---------------------------------------------------------------------------------------


def test_a_language_that_the_model_knows_poorly_passes_by_its_own_threshold() -> None:
    assert said(judged(SOMALI, "som", min_confidence=0.5))[0] is True
    assert said(judged(SOMALI, "som"))[0] is False
    assert said(judged(ENGLISH, "som"))[:2] == (True, "language_mismatch")


def test_a_language_that_the_model_does_not_know_is_und_and_not_its_neighbour() -> None:
    found = judged(SHAN, "shn")
    assert said(found)[:2] == (False, "unsupported_language")
    assert tag(found) == "und_Mymr"
    assert "detected mya 0.99" in str(said(found)[4])


def test_a_threshold_of_the_spec_wins_over_the_table() -> None:
    assert said(judged(SOMALI, "som", thresholds={"som": 0.9}))[:2] == (True, "low_confidence")


def test_the_bundled_table_is_for_the_bundled_model() -> None:
    a_filter = language_id()
    assert bundled_table().model_digest == a_filter.model.digest
    assert a_filter.pins() == {"model": a_filter.model.digest, "table": bundled_table().digest}
    assert parse_table(bundled_table().text.encode(), "again") == bundled_table()
    assert all(0 <= line.confidence <= 0.5 for line in bundled_table().declared.values())


def test_one_threshold_and_a_table_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="has both min_confidence, one threshold for all, and thresholds_from"):
        LanguageId.Settings(min_confidence=0.5, thresholds_from="t.tsv")


# Scripts ------------------------------------------------------------------------------------------


def test_romanised_text_is_a_variety_of_its_own() -> None:
    found = judged(HINDI_IN_LATIN, "hin")
    assert said(found)[:4] == (False, "romanised", "Latn", "Deva")
    assert (tag(found), tag(found, "language_id.note")) == ("hin_Latn", "romanised")
    assert said(judged(ENGLISH, "hin"))[:2] == (True, "language_mismatch")
    assert said(judged(HINDI, "hin"))[:2] == (False, None)


def test_han_without_kana_is_no_evidence_of_japanese() -> None:
    short = "東京大学入学試験"
    assert said(judged(short, "zho_Hant", ""))[0] is False
    assert tag(judged(short, "jpn", "")) == "undetermined"
    long = "今天天氣很好，孩子們在花園裡玩耍，你們也來吧。老師說明天要下雨，請大家帶傘。"
    assert said(judged(long, "jpn"))[:2] == (True, "language_mismatch")
    assert said(judged(long, "zho_Hant"))[0] is False


@pytest.mark.parametrize(
    ("language", "measured", "wanted"),
    [
        ("eng", "Latn", True),
        ("eng", "Tfng", False),
        ("jpn", "Jpan", True),
        ("jpn", "Hani", False),
        ("zho", "Hani", True),
    ],
)
def test_scripts_that_a_language_is_written_in(language: str, measured: str, wanted: bool) -> None:
    assert is_written(language, measured) is wanted


# Prompt and answer --------------------------------------------------------------------------------


def test_prompt_and_answer_are_judged_apart() -> None:
    both = judged(TURKISH, "tur", TURKISH, on="each")
    assert said(both)[:2] == (False, None)
    assert (tag(both, "language_id.prompt"), tag(both, "language_id.answer")) == ("tur_Latn", "tur_Latn")
    neither = judged(ENGLISH, "tur", ENGLISH, on="each")
    assert said(neither)[:2] == (True, "language_mismatch")
    assert str(said(neither)[4]).startswith("prompt: declared tur_Latn, detected eng 0.9")


def test_an_answer_in_another_language_than_its_prompt() -> None:
    found = judged(ENGLISH, "tur", TURKISH, on="each")
    wanted = ("answer_language", "tur_Latn", "eng_Latn", "prompt in eng_Latn, answer in tur_Latn")
    assert said(found) == (False, *wanted)
    assert tag(found, "language_id.note") == "answer_language"
    assert said(judged(ENGLISH, "tur", TURKISH, on="each", answer_language="drop")) == (True, *wanted)
    ignored = judged(ENGLISH, "tur", TURKISH, on="each", answer_language="ignore")
    assert (said(ignored)[:2], tag(ignored, "language_id.note")) == ((False, None), None)


def test_translations_may_differ() -> None:
    given: dict[str, Any] = {"on": "each", "answer_language": "drop"}
    for task in ("translation", "Machine-Translation"):
        assert said(judged(ENGLISH, "tur", TURKISH, task, **given))[:2] == (False, None)
    assert said(judged(ENGLISH, "tur", TURKISH, "summarisation", **given))[0] is True
    assert said(judged(ENGLISH, "tur", TURKISH, "summarisation", translation_tasks=["summar"], **given))[0] is False
    assert said(judged(ENGLISH, "tur", ENGLISH, "translation", **given))[:2] == (True, "language_mismatch")


def test_a_short_answer_is_undetermined_and_its_prompt_speaks_for_the_row() -> None:
    found = judged(TURKISH, "tur", "42", on="each")
    assert said(found)[:2] == (False, None)
    assert [tag(found, name) for name in ("language_id.answer", "language_id")] == ["undetermined", "tur_Latn"]
    assert score(found, "answer.confidence") is None


# Lines and windows --------------------------------------------------------------------------------


def test_code_switching_by_line() -> None:
    text = f"{TURKISH}\n{ENGLISH}\nOK\n{TURKISH}\n{TURKISH}"
    found = judged(text, "tur", lines={})
    letters = script.measure_scripts([TURKISH, ENGLISH]).letters.tolist()
    assert score(found, "foreign_lines") == round(letters[1] / (letters[1] + 3 * letters[0]), 4)
    assert (said(found)[0], tag(found, "language_id.lines")) == (False, "eng")
    drop, rule, value, limit, evidence = said(judged(text, "tur", lines={"max_share": 0.2}))
    assert (drop, rule, value, limit) == (True, "code_switching", str(score(found, "foreign_lines")), "0.2")
    assert evidence == "declared tur_Latn, most other lines eng"
    assert said(judged(text, "tur", lines={"max_share": 0.3}))[0] is False
    assert said(judged(text, "tur", task="translation", lines={"max_share": 0.2}))[0] is False
    assert score(judged(TURKISH, "tur", lines={}), "foreign_lines") == 0


def windows_of(text: str, count: int, chars: int) -> str:
    if len(text) <= count * chars:
        return text
    starts = [(len(text) - chars) * number // max(1, count - 1) for number in range(count)]
    return "\n".join(text[start : start + chars] for start in starts)


@given(
    st.lists(st.text(alphabet="ab \nßжक字🙂", max_size=700), max_size=6),
    st.integers(1, 5),
    st.integers(20, 100),
    st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_windows_are_evenly_spaced(texts: list[str], count: int, chars: int, first: int) -> None:
    found = windows.spaced(pa.array(texts, pa.large_string()).slice(first), count, chars)
    found.validate(full=True)
    assert found.to_pylist() == [windows_of(text, count, chars) for text in texts[first:]]


def test_windows_read_the_whole_of_a_text_and_enter_the_key() -> None:
    text = ENGLISH * 3 + TURKISH * 60
    windowed = {"windows": {"count": 20, "chars": 40}}
    assert said(judged(text, "tur", **windowed))[0] is False
    assert judged(TURKISH, "tur", **windowed).scores == judged(TURKISH, "tur").scores
    pins = [language_id(**given).measure_pins() for given in ({}, windowed, {"lines": {}}, {"on": "each"})]
    assert len({tuple(sorted(pin.items())) for pin in pins}) == 4


# Statistics and models ----------------------------------------------------------------------------


def test_the_confusion_of_parts_adds_up() -> None:
    cases = [
        (TURKISH, "tur"),
        (ENGLISH, "tur"),
        (ENGLISH, "eng"),
        ("hm", "eng"),
        (HINDI_IN_LATIN, "hin"),
        (TURKISH, "?"),
    ]
    rows = table([draft(n, text, text, language=label) for n, (text, label) in enumerate(cases * 2)])
    a_filter = language_id()
    whole = statistics.from_table(verdicts(a_filter, rows).statistics["confusion"])
    parts = [verdicts(a_filter, part).statistics["confusion"] for part in (rows.slice(0, 5), rows.slice(5))]
    assert statistics.add(map(statistics.from_table, parts)) == whole
    assert whole["keys"] == ["on", "declared", "detected", "outcome"]
    assert whole["rows"] == [
        ["conversation", "eng_Latn", "eng_Latn", "kept", 2],
        ["conversation", "eng_Latn", "undetermined", "undetermined", 2],
        ["conversation", "hin_Deva", "hin_Latn", "flagged", 2],
        ["conversation", "tur_Latn", "eng_Latn", "dropped", 2],
        ["conversation", "tur_Latn", "tur_Latn", "kept", 2],
        ["conversation", "und_Zyyy", "tur_Latn", "kept", 2],
    ]
    each = statistics.from_table(verdicts(language_id(on="each"), rows).statistics["confusion"])
    assert sum(row[-1] for row in each["rows"]) == 2 * len(rows)


def test_a_model_with_labels_of_language_and_script(tmp_path: Path) -> None:
    words = {"hin_Deva": HINDI.split(), "hin_Latn": HINDI_IN_LATIN.split(), "eng_Latn": ENGLISH.split()}
    write_model(tmp_path / "own.bin", words)
    a_filter = LanguageId(LanguageId.Settings(model="own.bin"), environment(base=tmp_path))
    assert a_filter.table is None
    texts = [(HINDI, "hin"), (HINDI_IN_LATIN, "hin_Latn"), (HINDI_IN_LATIN, "hin"), (ENGLISH, "hin")]
    rows = table([draft(n, text, text, language=label) for n, (text, label) in enumerate(texts)])
    found = verdicts(pickle.loads(pickle.dumps(a_filter)), rows)
    assert found.tags["language_id"].to_pylist() == ["hin_Deva", "hin_Latn", "hin_Latn", "eng_Latn"]
    assert found.rule == [None, None, "script_mismatch", "language_mismatch"]
    lined = LanguageId(LanguageId.Settings(model="own.bin", lines={}), environment(base=tmp_path))
    assert verdicts(lined, rows).scores["language_id.foreign_lines"].to_pylist() == [0, 0, 0, 1]


def test_a_table_that_is_missing_broken_or_for_another_model(tmp_path: Path) -> None:
    def load(text: str) -> str:
        (tmp_path / "t.tsv").write_text(text, "utf-8")
        with pytest.raises(InputError) as caught:
            LanguageId(LanguageId.Settings(thresholds_from="t.tsv"), environment(base=tmp_path))
        return str(caught.value).replace(str(tmp_path), "DIR")

    with pytest.raises(WrongSetting, match=r"there is no table of thresholds 'none\.tsv'"):
        LanguageId(LanguageId.Settings(thresholds_from="none.tsv"), environment(base=tmp_path))
    text = bundled_table().text
    digest = bundled_table().model_digest
    assert load(text.replace(digest, "ab" * 32)) == (
        f"DIR/t.tsv was calibrated for the model lid.176.ftz (abababababab), not for lid.176.ftz ({digest[:12]}). "
        "Calibrate again with this model, or name the table's model."
    )
    remedy = "Let aya-data calibrate language_id make it anew."
    title = "# aya-data language_id table, format 2"
    assert load("x\n") == f"DIR/t.tsv:1:1: is no table of thresholds: the first line is not '{title}'. {remedy}"
    old = title.replace("2", "1")
    assert load(f"{old}\n") == (
        f"DIR/t.tsv:1:1: is a table of another format: its first line is '{old}', not '{title}'. {remedy}"
    )
    assert load(f"{title}\ndeclared\ttur\n") == (
        f"DIR/t.tsv:2:1: a line starts with declared or label and has 13 cells. {remedy}"
    )
    cells = "\t".join(["declared", "tur", "Latn", "9", "1", "1", "half", *[""] * 6])
    assert load(f"{title}\n{cells}\n") == f"DIR/t.tsv:2:1: a cell that should be a number is none. {remedy}"
    assert load(f"{title}\n") == f"DIR/t.tsv:1:1: does not say which model it is for. {remedy}"


# Profiles -----------------------------------------------------------------------------------------

Texts = st.lists(st.text(alphabet="abcAZéÉğ १है แต่ 東 .,\n'ёЖ\ud800", max_size=300), max_size=8)


def one_by_one(text: str, profile: Profile) -> tuple[float, float, float]:
    """The definition, text by text."""
    words = language_profile.words_of(text, profile.script)
    start = max(0, len(text) - language_profile.CHARACTERS) // 2
    names, of = script.letter_table()
    letters = [
        letter
        for letter in text[start : start + language_profile.CHARACTERS].lower()
        if names[of[ord(letter)]] == profile.script
    ]
    marks = [letter for word in words for letter in word if not of[ord(letter)]]
    hits = sum(word in profile.words for word in words)
    counted = [*letters, *(mark for mark in marks if mark in profile.letters)]
    strange = sum(letter not in profile.letters for letter in counted) if profile.letters else 0
    common = (hits + PRIOR * profile.typical) / (len(words) + PRIOR) if profile.words else profile.typical
    trigrams = [f"_{word}_"[place : place + 3] for word in words for place in range(len(word))]
    weights = sum(profile.trigrams.get(trigram, 0) - profile.usual for trigram in trigrams) if profile.words else 0
    return strange / max(1, len(counted)), common, weights / (len(trigrams) + TRIGRAM_PRIOR)


@given(Texts, st.lists(st.integers(-1, 2), min_size=8, max_size=8))
@settings(max_examples=150, deadline=None)
def test_profiles_of_columns_equal_one_by_one(texts: list[str], numbers: Sequence[int]) -> None:
    profiles = [
        Profile("Latn", frozenset("abé"), frozenset({"a", "ab", "abé"}), 0.25, {"_a_": 5, "abc": -3, "cab": 100}, 1.5),
        Profile("Cyrl", frozenset("ё"), frozenset({"ёж"}), 0.5, {"ёж_": -127}, -0.5),
        Profile("Hani", frozenset(), frozenset(), 0.0),
    ]
    chosen = np.array(numbers[: len(texts)], np.int64)
    strange, common, fit = Profiles(profiles).measure(texts, chosen)
    for row, text in enumerate(texts):
        wanted = (1.0, 0.0, 0.0) if chosen[row] < 0 else one_by_one(text, profiles[chosen[row]])
        assert (strange[row], common[row], fit[row]) == pytest.approx(wanted)


def test_trigrams_weigh_what_they_say_of_a_language_against_its_rivals() -> None:
    names = ["_va", "abc", "ama", "ise", "lar"]
    weights = weigh_trigrams(names, np.array([50.0, 0, 90, 2, 60]), np.array([0.0, 70, 90, 60, 0]))
    assert weights["_va"] > weights["ama"] > 0 > weights["ise"] > weights["abc"]
    assert weights["lar"] >= weights["_va"]
    alone = weigh_trigrams(names, np.array([50.0, 0, 90, 2, 60]), np.zeros(5))
    assert set(alone) == {"_va", "ama", "lar"}


def test_a_profile_has_the_letters_and_words_of_its_sample() -> None:
    profile = make_profile([TURKISH, TURKISH.upper(), TURKISH, ENGLISH, "Москва"], "Latn")
    assert "ç" in profile.letters
    assert "w" not in profile.letters  # in one text alone
    assert "м" not in profile.letters
    assert {"hava", "ve"} <= profile.words
    assert make_profile(["東京"] * 9, "Hani") == Profile("Hani", frozenset(), frozenset(), 0.0)


def test_no_rows() -> None:
    for options in ({}, {"on": "each"}, {"lines": {}}, {"windows": {"count": 2, "chars": 20}}):
        rows = table([draft(0)]).slice(0, 0)
        found = verdicts(language_id(**options), rows)
        assert found.drop.tolist() == []
        assert isinstance(found.statistics["confusion"], pa.Table)
