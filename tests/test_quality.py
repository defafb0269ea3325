# ruff: noqa: E501 (cases are lines of texts)
"""The quality rules: what each finds and says, what none may touch, and how a spec changes them."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aya_data.core import language as languages
from aya_data.core.language import language_set
from aya_data.core.row import Draft, tabulate
from aya_data.core.stage import Verdicts
from aya_data.filters.encoding import Encoding
from aya_data.filters.quality.filter import Quality
from aya_data.filters.quality.phrases import phrases
from aya_data.filters.quality.rules import LEAST_SHARE, LEAST_SIMILARITY, RULES, defaults
from aya_data.text import repetition, similarity
from tests.test_filters import draft, environment, said, table, verdicts

DOCS = Path(__file__).parent.parent / "docs" / "quality.md"
LOOP = "We are going to the market. " * 12
SENTENCES = (
    "The garden lies behind the house and is full of apple trees. In spring the children play there every "
    "afternoon until dark. "
)


def quality(**given: Any) -> Quality:
    return Quality(Quality.Settings(**given), environment())


def judged(
    prompt: str, answer: str, language: str = "eng", a_filter: Quality | None = None, **more: Any
) -> tuple[list[tuple[str, str]], Verdicts]:
    """Return the tags (rule, value) of one row and all verdicts."""
    found = verdicts(a_filter or quality(), table([draft(0, prompt, answer, language=language, **more)]))
    tags = [(name.removeprefix("quality."), column[0].as_py()) for name, column in found.tags.items()]
    return [tag for tag in tags if tag[1] is not None], found


# What is found ------------------------------------------------------------------------------------

FOUND: list[tuple[str, str, str, str, tuple[str, str, str]]] = [
    ("placeholder", "eng", "Name three colours.\n<noinput>", "Red, green and blue.",
     ("1", "0", "prompt (turn 0), character 20: '<noinput>'")),
    ("unknown_token", "eng", "Translate: gato", "The <unk> sleeps.",
     ("1", "0", "answer (turn 1), character 4: '<unk>'")),
    ("chat_markup", "eng", "Hello there", "Good day.<|im_end|>",
     ("1", "0", "answer (turn 1), character 9: '<|im_end|>'")),
    ("repeated_substring", "eng", "Where do we go?", LOOP.strip(),
     ("0.9164", "0.6", "answer (turn 1), 307 characters stand at 0 and at 28")),
    ("turn_markup", "eng", "Who are you?", "A gardener.\nHuman: And where do you live?",
     ("1", "0", "answer (turn 1), character 12: 'Human:'")),
    ("empty_value", "eng", "What is its name?", "N/A", ("1", "0", "answer (turn 1), character 0: 'n/a'")),
    ("empty_input", "eng", "Sum this up.\n\nInput: none", "There is nothing to sum up.",
     ("1", "0", "prompt (turn 0), character 14: 'input: none'")),
    ("ai_disclosure", "deu", "Wie ist das Wetter?", "Als KI-Sprachmodell habe ich kein Fenster.",
     ("1", "0", "answer (turn 1), character 0: 'als ki-sprachmodell' (deu)")),
    ("refusal", "eng", "How do locks work?", "I’m sorry, but I can’t help you with that.",
     ("1", "0", 'answer (turn 1), character 0: "i\'m sorry, but i can\'t" (eng)')),
    ("web_boilerplate", "pol", "Co tu jest?", "Nasza firma. Wszelkie prawa zastrzeżone.",
     ("1", "0", "answer (turn 1), character 13: 'wszelkie prawa zastrzeżone' (pol)")),
    ("mojibake", "fra", "Où va-t-on ?", "Au cafÃ© du coin.", ("2", "0", "answer (turn 1), character 6")),
    ("lost_characters", "fra", "Où va-t-on ?", "Au caf\ufffd du coin.",
     ("1", "0", "answer (turn 1), character 6: U+FFFD")),
    ("html_tag", "eng", "Where is it?", "It is <b>here</b>.", ("2", "0", "answer (turn 1), character 6: '<b'")),
    ("html_entity", "eng", "Where is it?", "Here&nbsp;it is.", ("1", "0", "answer (turn 1), character 4: '&nbsp;'")),
    ("repeated_lines", "eng", "Sing!", "\n".join(f"Line number {n % 7} of this small song" for n in range(14)),
     ("0.5000", "0.3", "answer (turn 1), 224 of 448 characters in lines, first at character 231")),
    ("repeated_ngrams", "eng", "Tell me.", (SENTENCES + "And then, as before: " + SENTENCES).strip(),
     ("0.4648", "0.3", "answer (turn 1), 99 of 213 characters in words, first at character 144")),
    ("top_ngram", "zho", "说说。", "".join(f"{a}也是我们的好朋友{b}" for a, b in zip("猫狗鸟鱼马牛羊兔鸡鸭" * 3, "一二三四五六七八九十" * 3, strict=True)),
     ("0.6000", "0.3", "answer (turn 1), 180 of 300 characters in words")),
    ("symbols", "eng", "Draw a wall.", "+--+--+--+ wall\n" * 8, ("0.7143", "0.6", "answer (turn 1), 80 of 112 characters")),
    ("digits", "eng", "Count.", " ".join(str(n) for n in range(1000, 1020)), ("1.0000", "0.5", "answer (turn 1), 80 of 80 characters")),
    ("urls", "eng", "Which page?", "See https://example.org/a/long/page there.",
     ("0.7381", "0.5", "answer (turn 1), 31 of 42 characters")),
    ("truncated", "eng", "Describe it.", SENTENCES + "After the rain the", ("26", "20", "answer (turn 1), ends with 'e' after 2 sentences of its last line")),
    ("copied_prompt", "spa", "¿Dónde está la biblioteca municipal?", "¿Donde está la biblioteca municipal?",
     ("0.9722", "0.95", "answer (turn 1), the user's turn before it")),
    ("repeated_prompt", "eng", "Which trees stand in the garden behind the old house?",
     "Which trees stand in the garden behind the old house? Apple trees.",
     ("0.8030", "0.5", "answer (turn 1), the prompt stands at character 0")),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "language", "prompt", "answer", "told"), FOUND, ids=[case[0] for case in FOUND])
def test_each_rule_says_what_it_found_and_where(
    rule: str, language: str, prompt: str, answer: str, told: tuple[str, str, str]
) -> None:
    alone = quality(others="off", rules={rule: {}})
    _, found = judged(prompt, answer, language, alone)
    drops = defaults()[rule].action == "drop"
    assert said(found) == (drops, rule, *told)
    assert bool(found.flag is not None and found.flag[0]) is not drops
    assert found.statistics["quality"].to_pylist() == [
        {"rule": rule, "language": languages.parse(language).language, "rows": 1}
    ]
    tags, _ = judged(prompt, answer, language)
    assert (rule, told[0]) in tags or drops


def test_every_rule_has_a_case() -> None:
    off = {rule for rule, default in defaults().items() if default.action == "off"}
    assert {case[0] for case in FOUND} | off == set(RULES)


@pytest.mark.parametrize(
    ("rule", "prompt", "answer", "told"),
    [
        ("short_answer", "Name it.", "Red apple", ("2", "3", "answer (turn 1), 9 characters")),
        ("long_answer", "Name it.", "word " * 4001, ("4001", "4000", "answer (turn 1), 20005 characters")),
        ("answer_ratio", "Name.", "word " * 101, ("101.0000", "100", "answer (turn 1), 1 words of prompt, 101 of answer")),
        ("prompt_ratio", "word " * 1001, "Yes", ("1001.0000", "1000", "answer (turn 1), 1001 words of prompt, 1 of answer")),
    ],
)  # fmt: skip
def test_rules_that_are_off_tag_when_they_are_named(
    rule: str, prompt: str, answer: str, told: tuple[str, str, str]
) -> None:
    assert rule not in {row["rule"] for row in judged(prompt, answer)[1].statistics["quality"].to_pylist()}
    assert said(judged(prompt, answer, a_filter=quality(others="off", rules={rule: {"threshold": None}}))[1])[1:] == (
        rule,
        *told,
    )


# What no rule may touch ---------------------------------------------------------------------------

POEM = """The river runs, the river sings,
    carry me home, carry me home,
it tells of long-forgotten kings,
    carry me home, carry me home.

The mill is old, the wheel is slow,
    carry me home, carry me home,
and still the silver waters flow,
    carry me home, carry me home."""
CODE = """def total(values):
    result = 0
    for value in values:
        if value > 0:
            result += value
        else:
            result -= value
    return result"""
TABLE = "| name | price |\n|------|-------|\n| pear | 2 |\n| plum | 3 |\n| fig | 5 |"
RIGHT = [
    ("eng", "What is six times seven?", "42"),
    ("tur", "Türkiye'nin başkenti neresidir?", "Ankara"),
    ("eng", "Which of these is a bird? A, B or C?", "B"),
    ("eng", "Are you sure?", "No"),
    ("eng", "Write a function that adds absolute values.", CODE),
    ("eng", "How do I print in Python?", "Use `print`:\n\n```python\nprint('<b>hi</b> &amp; bye <unk>')\n```"),
    ("eng", "Name three fruits.", "- apple\n- pear\n- fig"),
    ("eng", "Name three fruits.", "1. Apple: it is round and sweet. It grows on trees.\n2. Pear: it is soft. It is green.\n3. Fig: a flower really"),
    ("eng", "Make a table of prices.", TABLE),
    ("eng", "Say it again and again.", "ha ha ha ha ha ha"),
    ("eng", "Compute it.", "3 + 4 = 7\n7 * 2 = 14\n14 - 5 = 9"),
    ("eng", "Where can I read more?", "The manual says a lot about this. It is well written and has many good examples. You will find all of it here: https://example.org/manual"),
    ("arb", "ما عاصمة المغرب؟", "الرباط هي عاصمة المغرب، وهي مدينة تقع على ساحل المحيط الأطلسي."),
    ("heb", "מהי בירת צרפת?", "פריז היא בירת צרפת. היא שוכנת על גדות נהר הסן."),
    ("pes", "پایتخت ایران کجاست؟", "تهران پایتخت ایران است. این شهر در دامنه‌ی کوه‌های البرز است."),
    ("urd", "پاکستان کا دارالحکومت کیا ہے؟", "پاکستان کا دارالحکومت اسلام آباد ہے۔ یہ ایک خوبصورت شہر ہے۔"),
    ("tha", "เมืองหลวงของไทยคือที่ใด", "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย ตั้งอยู่บนแม่น้ำเจ้าพระยา มีประชากรมากกว่าสิบล้านคน และเป็นศูนย์กลางการค้า การท่องเที่ยว และการศึกษา ผู้คนเดินทางด้วยรถไฟฟ้า เรือ และรถโดยสาร เป็นต้น พ.ศ. นี้"),
    ("lao", "ນະຄອນຫຼວງຂອງລາວແມ່ນຫຍັງ", "ນະຄອນຫຼວງວຽງຈັນເປັນເມືອງຫຼວງຂອງລາວ ຕັ້ງຢູ່ແຄມແມ່ນ້ຳຂອງ"),
    ("khm", "រាជធានីកម្ពុជាជាអ្វី?", "រាជធានីភ្នំពេញ។ វាជាទីក្រុងធំជាងគេ។"),
    ("mya", "မြန်မာနိုင်ငံ၏ မြို့တော်", "နေပြည်တော်သည် မြန်မာနိုင်ငံ၏ မြို့တော်ဖြစ်သည်။"),
    ("hin", "भारत की राजधानी क्या है?", "भारत की राजधानी नई दिल्ली है। यह यमुना नदी के किनारे बसी है।"),
    ("amh", "የኢትዮጵያ ዋና ከተማ ማን ናት?", "አዲስ አበባ የኢትዮጵያ ዋና ከተማ ናት። ትልቅ ከተማ ናት።"),
    ("zho", "中国的首都是哪里？", "中国的首都是北京。它是一座历史悠久的城市。"),
    ("jpn", "日本の首都はどこですか。", "日本の首都は東京です。人口は約一千四百万人です。"),
    ("kor", "한국의 수도는 어디인가요?", "한국의 수도는 서울입니다. 한강이 도시를 가로질러 흐릅니다."),
    ("ell", "Πού είναι η Αθήνα;", "Η Αθήνα είναι στην Ελλάδα. Πού αλλού θα μπορούσε να είναι μια τόσο παλιά πόλη με τόσα μνημεία, τόσους ανθρώπους και τόση ιστορία;"),
    ("fra", "Comment ça va ?", "« Très bien\u00a0», répondit-il, l’été venu. « Et vous\u00a0? »"),
    ("vie", "Thủ đô của Việt Nam?", "Hà Nội là thủ đô của Việt Nam."),
    ("por", "COMO SE CHAMA?", "JOÃO… MINHA IRMÃ»"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("language", "prompt", "answer"), RIGHT, ids=[f"{case[0]}-{n}" for n, case in enumerate(RIGHT)]
)
def test_right_answers_stay_and_are_not_tagged(language: str, prompt: str, answer: str) -> None:
    tags, found = judged(prompt, answer, language)
    assert (tags, found.rule) == ([], [None])


def test_a_poem_with_a_refrain_stays() -> None:
    tags, found = judged("Write a poem with a refrain.", POEM)
    assert not found.drop[0]
    assert [rule for rule, _ in tags] == ["repeated_ngrams", "top_ngram"]


def test_rejected_answers_are_left_alone() -> None:
    question = [("user", "Where are we?")]
    pair = Draft(
        "k", question, ("f", 0), language="eng", license="MIT",
        chosen=[*question, ("assistant", "In the garden.")], rejected=[*question, ("assistant", LOOP + "<|im_end|>")],
    )  # fmt: skip
    assert verdicts(quality(), tabulate([pair], "s", "preference", 10**6).rows).rule == [None]


# Drop, tag, off -----------------------------------------------------------------------------------


def test_the_first_rule_that_drops_is_named_and_tags_are_columns() -> None:
    answer = "As an AI language model, I'm here.&nbsp;<|im_end|>"
    tags, found = judged("Who?", answer)
    assert said(found)[:2] == (True, "chat_markup")
    assert tags == [("ai_disclosure", "1"), ("html_entity", "1")]
    assert sorted(row["rule"] for row in found.statistics["quality"].to_pylist()) == [
        "ai_disclosure",
        "chat_markup",
        "html_entity",
    ]
    tags, found = judged("Who?", answer, a_filter=quality(rules={"chat_markup": "tag", "ai_disclosure": "drop"}))
    assert said(found)[:2] == (True, "ai_disclosure")
    tags, found = judged("Who?", answer, a_filter=quality(rules={"chat_markup": "off", "ai_disclosure": "off"}))
    assert said(found)[:2] == (False, "html_entity")


def test_of_many_turns_the_worst_is_named() -> None:
    turns = [
        ("user", "Go."),
        ("assistant", "x&nbsp;y"),
        ("user", "On."),
        ("assistant", "&lt; &gt;"),
        ("user", "?"),
        ("assistant", "Done."),
    ]
    found = verdicts(quality(), table([draft(0, messages=turns)]))
    assert said(found)[1:] == ("html_entity", "2", "0", "answer (turn 3), character 0: '&lt;'")


def test_thresholds_by_language_script_and_spec() -> None:
    share = SENTENCES + SENTENCES

    def rule(language: str, **given: Any) -> str | None:
        a_filter = quality(others="off", rules={"repeated_substring": {"action": "drop", **given}})
        return judged("Go on.", share, language, a_filter)[1].rule[0]

    assert rule("eng") is None
    assert rule("eng", threshold=0.4) == "repeated_substring"
    assert rule("eng", threshold=0.4, languages={"English": 0.9}) is None
    assert rule("deu", threshold=0.9, languages={"deu_Latn": 0.4}) == "repeated_substring"
    assert rule("deu", threshold=0.4, min_chars=10000) is None
    # The default of a script: Chinese needs 40 characters before an answer can be cut off, English 20 words.
    cut = "天气很好。" + "我们一起去公园散步然后回家吃饭" + "，"
    assert judged("说。", cut, "zho")[0] == []
    assert judged("说。", cut * 3, "zho")[0][-1] == ("truncated", "57")
    assert judged("说。", cut, "zho", quality(rules={"truncated": {"threshold": 10}}))[0] == [("truncated", "19")]


def test_the_aya_101_rules_for_safety_answers() -> None:
    # Aya 101, section 6: below 20 characters, above 1,000, or a longest repeat above length / 2.1.
    a_filter = quality(
        others="off", rules={"repeated_substring": {"action": "drop", "threshold": 0.4762, "min_chars": 20}}
    )
    for text in ("I can't do that. I can't do that. ", "ab" * 10, "No, and here is why: it would hurt people."):
        best = max(
            (
                size
                for size in range(len(text))
                for at in range(len(text) - size)
                if text.find(text[at : at + size], at + 1) > 0
            ),
            default=0,
        )
        assert bool(judged("Do it.", text, a_filter=a_filter)[1].drop[0]) is (best > len(text) / 2.1)


def test_templates_are_kept_and_dropped_by_name() -> None:
    rows = table([draft(n, template=name) for n, name in enumerate(["good_one", "bad_one", "other", None])])
    names = {"keep": ["good*", "bad*"], "drop": ["bad_*"]}
    found = verdicts(quality(others="off", templates=names), rows)
    assert [said(found, n)[:4] for n in range(4)] == [
        (False, None, None, None),
        (True, "template", "bad_one", "in the list of those to drop"),
        (True, "template", "other", "not in the list of those to keep"),
        (False, None, None, None),
    ]


rows_of = st.lists(
    st.tuples(
        st.sampled_from(["eng", "zho", "tha", "arb"]),
        st.sampled_from([case[2] for case in FOUND]),
        st.sampled_from([case[3] for case in FOUND]),
    ),
    min_size=1,
    max_size=6,
)


@given(rows_of, rows_of)
@settings(max_examples=40, deadline=None)
def test_another_row_changes_nothing(
    some: Sequence[tuple[str, str, str]], others: Sequence[tuple[str, str, str]]
) -> None:
    def rows(cases: Sequence[tuple[str, str, str]]) -> pa.Table:
        return table([draft(n, q, a, language=label) for n, (label, q, a) in enumerate(cases)])

    alone, beside = verdicts(quality(), rows(some)), verdicts(quality(), rows([*some, *others]))
    for number in range(len(some)):
        assert said(alone, number) == said(beside, number)
        assert {k: v[number].as_py() for k, v in alone.tags.items() if v[number].is_valid} == {
            k: v[number].as_py() for k, v in beside.tags.items() if v[number].is_valid
        }


def test_it_travels() -> None:
    a_filter = pickle.loads(pickle.dumps(quality(rules={"refusal": "drop"}, templates={"drop": ["x"]})))
    assert a_filter.columns == ("language", "script", "provenance")
    assert said(judged("How?", "I'm sorry, but I can't do that.", a_filter=a_filter)[1])[:2] == (True, "refusal")


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rules": {"refusals": "drop"}}, "is no rule / Did you mean 'refusal'?"),
        ({"rules": {"symbols": {"threshold": 3.0}}}, "must be from 0 to 1, found 3 / It is a share."),
        (
            {"rules": {"repeated_substring": {"languages": {"tur": 0.1}}}},
            "must be from 0.2 to 1, found 0.1 / It is a share.",
        ),
        ({"rules": {"answer_ratio": {"threshold": 0.5}}}, "must be at least 1, found 0.5 / It is a ratio."),
        ({"rules": {"truncated": {"on": "prompt"}}}, "must be answer, found prompt / truncated is about the answer alone."),
        ({"templates": {"keep": ["a"], "drop": ["a"]}}, "keeps and drops 'a' / Name it once."),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_clear_error(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Quality.Settings(**given)
    (error,) = caught.value.errors()
    assert " / ".join(str(part) for part in error["ctx"].values()) == message


@pytest.mark.parametrize(
    "rule", [{"action": "delete"}, {"threshold": "high"}, {"languages": {"Klingonese": 0.5}}, "delete"]
)
def test_other_wrong_values_are_refused(rule: Any) -> None:
    with pytest.raises(ValidationError):
        Quality.Settings(rules={"symbols": rule})


# The data and the docs ----------------------------------------------------------------------------


def test_every_default_has_a_source_and_every_key_is_a_language_or_script() -> None:
    assert list(defaults()) == list(RULES)
    for name, default in defaults().items():
        assert default.source, name
        for key in default.by_key:
            is_script = len(key) == 4 and key.istitle()
            assert is_script or languages.resolve(key).ok, (name, key)


def test_no_threshold_is_below_what_is_measured() -> None:
    assert (LEAST_SHARE, LEAST_SIMILARITY) == (repetition.FLOOR, similarity.LEAST)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Good day.</s>", True), ("Good day. </s>\n", True), ("<s> Good day.", True), ("<s>Good day.</s>", True),
        ("It was <s>five</s> six.", False), ("`</s>`", False), ("```\n<s>\n```", False), ("a<s b", False),
        ("Good day.<｜end▁of▁sentence｜>", True), ("<｜begin▁of▁sentence｜>Good day.", True), ("<｜User｜>Good day.", True),
        ("Good day.<|eot_id|>", True), ("<start_of_turn>model", True), ("[INST] Good day. [/INST]", True), ("Day <pad> <pad>", True),
        ("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Good day.", True), ("user<|im_sep|>Good day.", True), ("<extra_id_0> day", True),
        ("[gMASK]<sop>Good day.", True), ("See [TOOLS] and <paddle>.", False),
    ],
)  # fmt: skip
def test_special_tokens_are_found(answer: str, found: bool) -> None:
    alone = quality(others="off", rules={"chat_markup": {}})
    assert judged("Hello there", answer, a_filter=alone)[1].drop.tolist() == [found]


@pytest.mark.parametrize(
    ("language", "answer"),
    [
        ("swh", "Samahani, lakini siwezi kukusaidia na hilo."), ("tha", "ขออภัยค่ะ ฉันไม่สามารถตอบคำถามนี้ได้"),
        ("ben", "দুঃখিত, কিন্তু আমি এটি করতে পারব না।"), ("urd", "معذرت، لیکن میں یہ نہیں کر سکتا۔"), ("bul", "Съжалявам, но не мога да го направя."),
        ("tam", "மன்னிக்கவும், என்னால் இதைச் செய்ய முடியாது."), ("fin", "Valitettavasti en voi tehdä sitä."),
        ("mar", "क्षमस्व, पण मी ते करू शकत नाही."), ("slk", "Prepáčte, ale nemôžem to urobiť."),
    ],
)  # fmt: skip
def test_refusals_in_languages_beyond_aya_23(language: str, answer: str) -> None:
    assert "refusal" in dict(judged("Hello there", answer, language)[0])


def test_phrases_cover_the_languages_of_aya_23() -> None:
    wanted = {variety.language for variety in language_set("aya_23")}
    for rule in ("ai_disclosure", "refusal", "web_boilerplate"):
        own = {languages.parse(phrase.language).language for phrase in phrases() if phrase.rule == rule}
        assert len(wanted) == 23
        assert {
            language for language in wanted if not any(languages.same_language(language, o) for o in own)
        } == set(), rule
    assert {phrase.rule for phrase in phrases()} - {"urls"} <= set(RULES)


def documented() -> list[str]:
    """The table of rules as the docs have it."""
    lines = ["| rule | default | threshold | reads | finds |", "|---|---|---|---|---|"]
    for name, rule in RULES.items():
        default = defaults()[name]
        limit = f"{default.threshold:g}" + (f", {default.min_chars} characters" if default.min_chars else "")
        lines.append(f"| `{name}` | {default.action} | {limit} | {rule.on} | {rule.finds} |")
    return lines


def test_the_docs_have_the_table_of_rules_and_all_sources() -> None:
    text = DOCS.read_text("utf-8")
    assert "\n".join(documented()) in text
    for name, default in defaults().items():
        assert f"| `{name}` | {default.source} |" in text


# Repair -------------------------------------------------------------------------------------------


def turns(texts: Sequence[str], roles: Sequence[str] | None = None) -> pa.Table:
    some = ["assistant"] * len(texts) if roles is None else list(roles)
    return pa.table(
        {"text": list(texts), "role": some, "language": ["und"] * len(texts), "script": ["Zyyy"] * len(texts)}
    )


def test_mojibake_is_repaired_and_nothing_else_is_touched() -> None:
    pytest.importorskip("ftfy")
    pairs = [
        ("cafÃ© au lait", "café au lait"), ("ÐŸÑ€Ð¸Ð²ÐµÑ‚ Ð¼Ð¸Ñ€", "Привет мир"), ("РџСЂРёРІРµС‚, РјРёСЂ!", "Привет, мир!"),
        ("donâ€™t", "don’t"), ("20Â°C", "20°C"), ("voilà\u00a0»", "voilà\u00a0»"), ("“quotes” … ﬁ &amp;\r\n", "“quotes” … ﬁ &amp;\r\n"),
        ("日本語", "日本語"), ("", ""), ("naГЇve cafГ© вЂ” вЂњyesвЂќ", "naïve café — “yes”"), ("El niГ±o", "El niño"), ("ZaЕјГіЕ‚Д‡", "Zażółć"),
        ("дЅ\u00a0еҐЅпјЊдё–з•Њ", "你好，世界"), ("Щ…Ш±Ш\u00adШЁШ§", "مرحبا"), ("О•О»О»О·ОЅО№ОєО¬", "Ελληνικά"), ("Tiбєїng Viб»‡t", "Tiếng Việt"),
        ("а¤№а¤їа¤ЁаҐЌа¤¦аҐЂ", "हिन्दी"), ("н•њкµ\u00adм–ґ", "한국어"), ("рџ‘Ќ ok", "👍 ok"),
        ("В\u00a0«Ї» надії її ВІД—ДІТІ", "В\u00a0«Ї» надії її ВІД—ДІТІ"), ("гIан Виcша ЏЊЉ њљ ђ", "гIан Виcша ЏЊЉ њљ ђ"), ("cafГ© и кафе", "cafГ© и кафе"),
    ]  # fmt: skip
    made = Encoding(Encoding.Settings(), environment())
    found = made.edit(turns([before for before, _ in pairs]))
    assert found.texts.to_pylist() == [after for _, after in pairs]
    assert [rule is not None for rule in found.rule] == [before != after for before, after in pairs]
    assert found.evidence[0] == "character 3: 'Ã© a' became 'é au'"
    again = made.edit(turns(found.texts.to_pylist()))
    assert again.texts.to_pylist() == found.texts.to_pylist()
    answers = Encoding(Encoding.Settings(on="answer"), environment())
    assert answers.edit(turns(["cafÃ©", "cafÃ©"], ["user", "assistant"])).texts.to_pylist() == ["cafÃ©", "café"]
    assert verdicts(made, table([draft(0)])).rule == [None]


def test_repair_without_ftfy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aya_data.filters.encoding.find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"repairing mojibake needs the package 'ftfy'.*pip install 'aya-data\[text\]'"):
        Encoding(Encoding.Settings(), environment())
