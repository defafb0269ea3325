"""The arbiter ``heuristic``: its kernels against a reference, its laws, and that answers to nothing lose."""

from __future__ import annotations

import math
import unicodedata
from itertools import groupby, permutations
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aya_data.builders.arbitrage.arbiters import relevance
from aya_data.builders.arbitrage.arbiters.heuristic import FACTORS, HeuristicArbiter, HeuristicSettings, factors
from aya_data.builders.arbitrage.tables import COMPLETIONS
from aya_data.text.folding import IGNORED, MARK, WHITE, WORD, fold, kind_of
from aya_data.text.script import LETTERS_PER_CHARACTER, letter_table
from tests.test_filters import environment
from tests.test_penalties import completed, rows

# -- the reference: as the docstring of relevance.py says it


def letters(character: str) -> int:
    names, table = letter_table()
    if unicodedata.category(character) == "Nd":
        return 2
    return LETTERS_PER_CHARACTER.get(names[table[ord(character)]], 1)


def weight(worth: int) -> int:
    return max(1, 64 * min(max(worth - 2, 0), 6) ** 2 // 36)


def reference_terms(text: str) -> list[tuple[str, int]]:
    kinds: list[tuple[int, str]] = []
    for character in fold(text):
        kind = kind_of(character)
        if kind == IGNORED:
            continue
        if kind == MARK:
            kind = kinds[-1][0] if kinds else 0
        kinds.append((0 if kind == WHITE else kind, character))
    found = []
    for kind, run in groupby(kinds, key=lambda pair: pair[0]):
        piece = "".join(character for _, character in run)
        if kind == WORD:
            found.append((piece[:6], weight(sum(map(letters, piece[:6])))))
        elif kind:
            n = 2 if kind == 2 else 4
            grams = [piece] if len(piece) < n else [piece[at : at + n] for at in range(len(piece) - n + 1)]
            found += [(gram, weight(sum(map(letters, gram)))) for gram in grams]
    return found


def reference_agreement(prompt: str, answers: list[tuple[str, str]]) -> list[tuple[float | None, float, float]]:
    """Relative agreement, recall and share of new terms of (teacher, text)."""
    asked = reference_terms(prompt)
    runs = {tuple(t for t, _ in asked[at : at + 6]) for at in range(len(asked) - 5)}
    weights = dict(reversed(asked))
    sets = []
    for _, text in answers:
        sequence = reference_terms(text)
        quoted = {
            at + k
            for at in range(len(sequence) - 5)
            if tuple(t for t, _ in sequence[at : at + 6]) in runs
            for k in range(6)
        }
        for term, worth in sequence:
            weights.setdefault(term, worth)
        free = {term for at, (term, _) in enumerate(sequence) if at not in quoted}
        sets.append(({term for term, _ in sequence}, free))

    def total(terms: set[str]) -> int:
        return sum(weights[term] for term in terms)

    prompt_terms = {term for term, _ in asked}

    def cosine(one: set[str], other: set[str]) -> float:
        return total(one & other) / math.sqrt(max(total(one), 1) * max(total(other), 1))

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    teachers = sorted({teacher for teacher, _ in answers})
    of = {t: [n for n, (teacher, _) in enumerate(answers) if teacher == t] for t in teachers}
    new = [total(own - prompt_terms) / max(total(own), 1) for own, _ in sets]
    share = median([mean([new[n] for n in of[t]]) for t in teachers])
    mixed = []
    for number, (teacher, _) in enumerate(answers):
        own = sets[number][0]
        others = [of[t] for t in teachers if t != teacher]
        whole = mean([mean([cosine(own, sets[n][0]) for n in ns]) for ns in others]) if others else 0.0
        fresh = (
            mean([mean([cosine(own - prompt_terms, sets[n][0] - prompt_terms) for n in ns]) for ns in others])
            if others
            else 0.0
        )
        mixed.append((1 - share) * whole + share * fresh)
    usual = median([mean([mixed[n] for n in of[t]]) for t in teachers])
    known = len(teachers) > 2 and usual > 1e-6
    recall = [total(free & prompt_terms) / max(total(prompt_terms), 1) for _, free in sets]
    return [(mixed[n] / usual if known else None, recall[n], new[n]) for n in range(len(answers))]


WORDS = st.sampled_from(
    [
        "the", "of", "garden", "children", "weather", "1945", "42", "güzel", "Çocuklar", "bahçede", "สวัสดีชาวโลก", "ถนน",
        "你好世界", "今日は", "東京タワー", "वर्षा", "में", "الحديقة", "ילדים", "한국어", "문장", "e\u0301té", "a\u200bb",
        ",", ".", "-", "\n", "C++", "😀",
    ]
)  # fmt: skip
TEXTS = st.lists(WORDS, max_size=14).map(" ".join)


def measured(prompt: str, answers: list[tuple[str, str]]) -> relevance.Agreement:
    ordered = sorted(answers, key=lambda answer: answer[0])
    names = sorted({teacher for teacher, _ in ordered})
    return relevance.agreement(
        relevance.terms([prompt]),
        relevance.terms([text for _, text in ordered]),
        np.zeros(len(ordered), np.int64),
        np.array([names.index(teacher) for teacher, _ in ordered], np.int64),
    )


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_terms_are_those_of_the_reference(text: str) -> None:
    found, expected = relevance.terms([text, text]), reference_terms(text)
    assert found.bounds.tolist() == [0, len(expected), 2 * len(expected)]
    count = len(expected)
    assert found.hashes[:count].tolist() == found.hashes[count:].tolist()
    assert found.weights[:count].tolist() == [worth for _, worth in expected]
    pairs = {(hash_, term) for hash_, (term, _) in zip(found.hashes.tolist(), expected, strict=False)}
    assert len(pairs) == len({hash_ for hash_, _ in pairs}) == len({term for term, _ in expected})


@given(TEXTS, st.lists(st.tuples(st.sampled_from("abcd"), TEXTS), min_size=1, max_size=7))
@settings(max_examples=100, deadline=None)
def test_agreement_is_that_of_the_reference(prompt: str, answers: list[tuple[str, str]]) -> None:
    ordered = sorted(answers, key=lambda answer: answer[0])
    found, expected = measured(prompt, answers), reference_agreement(prompt, ordered)
    for number, (relative, recall, new) in enumerate(expected):
        assert found.recall[number] == pytest.approx(recall, abs=1e-9)
        assert found.new[number] == pytest.approx(new, abs=1e-9)
        if relative is None:
            assert math.isnan(found.relative[number]) or found.relative[number] < math.inf
        else:
            assert found.relative[number] == pytest.approx(relative, rel=1e-4, abs=1e-6)


# -- laws

ANSWERS = {
    "What does a bee make, and of what?": [
        "A bee makes honey out of the nectar that it collects from flowers.",
        "Bees collect nectar from flowers and make honey of it in the hive.",
        "Honey: bees bring nectar from flowers to their hive and let it dry.",
        "They turn flower nectar into honey, which the hive eats in winter.",
    ],
    "Türkiye'nin başkenti neresidir ve kaç kişi yaşar?": [
        "Türkiye'nin başkenti Ankara'dır; nüfusu yaklaşık altı milyon kişidir.",
        "Başkent Ankara'dır ve orada altı milyona yakın insan yaşar.",
        "Ankara, Türkiye'nin başkentidir. Yaklaşık altı milyon nüfusu vardır.",
        "Başkenti Ankara; nüfusu altı milyon dolayındadır.",
    ],
    "蜜蜂用什么酿造蜂蜜？": [
        "蜜蜂用从花中采集的花蜜酿造蜂蜜。",
        "蜂蜜是蜜蜂采集花蜜后在蜂巢中酿造的。",
        "蜜蜂把花蜜带回蜂巢，经过酿造成为蜂蜜。",
        "是花蜜。蜜蜂从花朵中采集花蜜，然后酿成蜂蜜。",
    ],
    "ผึ้งทำน้ำผึ้งจากอะไร": [
        "ผึ้งทำน้ำผึ้งจากน้ำหวานของดอกไม้ที่เก็บมา",
        "ผึ้งเก็บน้ำหวานจากดอกไม้แล้วทำเป็นน้ำผึ้งในรัง",
        "น้ำผึ้งทำจากน้ำหวานของดอกไม้ที่ผึ้งนำกลับรัง",
        "จากน้ำหวานดอกไม้ ซึ่งผึ้งเก็บมาทำน้ำผึ้ง",
    ],
    "من أي شيء يصنع النحل العسل؟": [
        "يصنع النحل العسل من رحيق الأزهار الذي يجمعه.",
        "يجمع النحل رحيق الأزهار ويصنع منه العسل في الخلية.",
        "العسل يصنعه النحل من رحيق الأزهار ويحفظه في الخلية.",
        "من رحيق الأزهار: يجمعه النحل ثم يصير عسلا.",
    ],
}  # fmt: skip
VARIETIES = ("eng_Latn", "tur_Latn", "zho_Hans", "tha_Thai", "arb_Arab")
CONSTANTS = {
    "eng_Latn": "Thank you for your question. There are many things to consider here, and I hope that this helps you.",
    "tur_Latn": "Sorunuz için teşekkür ederim. Burada dikkate alınması gereken pek çok şey var, umarım yardımcı olur.",
    "zho_Hans": "感谢您的提问。这里有许多需要考虑的事情，希望这个回答对您有所帮助。",
    "tha_Thai": "ขอบคุณสำหรับคำถาม มีหลายสิ่งที่ต้องพิจารณา หวังว่าคำตอบนี้จะเป็นประโยชน์",
    "arb_Arab": "شكرا على سؤالك. هناك أمور كثيرة يجب أخذها في الاعتبار، وآمل أن تفيدك هذه الإجابة.",
}


def arbiter(**weights: float) -> HeuristicArbiter:
    chosen = HeuristicSettings.model_validate({"kind": "heuristic", "weights": weights})
    return HeuristicArbiter("heuristic", chosen, environment())


def scored(
    prompts: pa.Table, answers: list[tuple[int, str, str]], finish: str = "stop", **weights: float
) -> dict[tuple[int, str, str], float]:
    completions = completed(prompts, answers, finish)
    found = arbiter(**weights).score(prompts, completions, None)["score"].to_pylist()
    keys = zip(*(completions[name].to_pylist() for name in ("row", "teacher", "text")), strict=True)
    return dict(zip(keys, found, strict=True))


@pytest.mark.parametrize("variety", VARIETIES)
def test_an_answer_to_nothing_loses(variety: str) -> None:
    prompt, answers = list(ANSWERS.items())[VARIETIES.index(variety)]
    prompts = rows(prompt, language=variety)
    real = [(0, f"t{number}", text) for number, text in enumerate(answers)]
    for constant in (CONSTANTS[variety], prompt, f"{prompt} {prompt}", "...", "42", CONSTANTS["eng_Latn"]):
        found = scored(prompts, [*real, (0, "null", constant)])
        null = found.pop((0, "null", constant))
        assert null < min(found.values()) / 2, constant


def test_order_and_names_change_nothing() -> None:
    prompt, answers = next(iter(ANSWERS.items()))
    prompts = rows(prompt)
    texts = [*answers, CONSTANTS["eng_Latn"]]
    expected: dict[str, float] = {}
    for names in list(permutations("abcde"))[::17]:
        pairs = list(zip(names, texts, strict=True))
        # The samples of one teacher in any order.
        more = [(names[0], "Bees make honey of nectar."), (names[0], "Wax, too.")]
        for extra in (more, more[::-1]):
            found = scored(prompts, [(0, name, text) for name, text in [*pairs[1:], *extra, pairs[0]]])
            by_text = {text: score for (_, _, text), score in found.items()}
            expected = expected or by_text
            assert by_text == expected


def test_prompts_do_not_meet() -> None:
    asked = list(ANSWERS)[:2]
    prompts = rows(*asked)
    answers = [(row, f"t{n}", text) for row, prompt in enumerate(asked) for n, text in enumerate(ANSWERS[prompt])]
    together = scored(prompts, answers)
    for row, prompt in enumerate(asked):
        alone = scored(rows(prompt), [(0, teacher, text) for own, teacher, text in answers if own == row])
        assert [together[row, *key[1:]] for key in alone] == list(alone.values())


def test_samples_of_a_teacher_do_not_speak_for_each_other() -> None:
    prompt, answers = next(iter(ANSWERS.items()))
    real = [(0, f"t{number}", text) for number, text in enumerate(answers)]
    constant = CONSTANTS["eng_Latn"]
    many = [(0, "null", constant + mark) for mark in ("", " ", "  ", "   ", "!")]
    found = scored(rows(prompt), [*real, *many])
    assert max(found[one] for one in many) < min(found[one] for one in real) / 2


def test_with_one_teacher_or_two_the_prompt_speaks() -> None:
    prompt, answers = next(iter(ANSWERS.items()))
    one = scored(rows(prompt), [(0, "a", answers[0])])
    two = scored(rows(prompt), [(0, "a", answers[0]), (0, "b", CONSTANTS["eng_Latn"])])
    assert two[0, "a", answers[0]] == one[0, "a", answers[0]] > 2 * two[0, "b", CONSTANTS["eng_Latn"]]


def test_what_each_factor_sees() -> None:
    prompt, answers = next(iter(ANSWERS.items()))
    good = answers[1]
    loop = "Bees collect nectar from flowers and make honey. " * 12
    listed = [
        ("a", good), ("b", answers[0]), ("c", answers[2]), ("cut", good[:44]), ("loop", loop), ("empty", " "),
        ("german", "Bienen sammeln Nektar von Blumen und machen daraus im Stock den Honig, den sie im Winter essen."),
        ("symbols", "=> ** {{ }} [] :: bees }} { ;; nectar #### |||| ^^^ honey $$$ %%% &&& @@@ !!! ((( )))"),
    ]  # fmt: skip
    prompts = rows(prompt)
    completions = completed(prompts, [(0, teacher, text) for teacher, text in listed], "unknown")
    found = factors(prompts, completions)
    teachers = completions["teacher"].to_pylist()
    assert tuple(found) == FACTORS
    for name in FACTORS:
        assert ((found[name] >= 0) & (found[name] <= 1)).all()

    def of(factor: str, teacher: str) -> float:
        return float(found[factor][teachers.index(teacher)])

    assert of("language", "german") < 0.3 < 0.9 < of("language", "a")
    assert of("repetition", "loop") < 0.3 < of("repetition", "a") == 1
    assert of("substance", "symbols") < 0.7 < of("substance", "a") == 1
    assert of("relevance", "empty") == 0 < of("relevance", "a")
    assert of("length", "empty") < of("length", "a") < of("length", "loop")
    whole = completed(prompts, [(0, "a", good)], "length")
    assert factors(prompts, whole)["truncation"].tolist() == [pytest.approx(0.3)]
    none = dict.fromkeys(FACTORS, 0)
    alone = arbiter(**{**none, "substance": 1}).score(prompts, completions, None)["score"].to_pylist()
    assert alone == [0 if teacher == "empty" else round(of("substance", teacher), 4) for teacher in teachers]
    with pytest.raises(ValidationError, match="weighs every factor with 0"):
        arbiter(**none)


def test_weights_are_its_identity() -> None:
    assert arbiter().identity() == arbiter(relevance=2.0).identity() != arbiter(relevance=3).identity()
    assert arbiter().voice() is None


@pytest.mark.parametrize("text", ["\ud800", "\x00", "\u202e", "ﷺ" * 50, "a" * 100_000, "𝒜𝓁𝓅𝒽𝒶 𠀀𠀁", "\u0e4d\u0e4d"])
def test_no_text_is_too_odd(text: str) -> None:
    found = relevance.terms([text, "", text])
    assert found.bounds[1] == found.bounds[2]
    assert 0 <= found.repeated[0] <= 1
    if text != "\ud800":
        prompts = rows("?", "x")
        answers: Any = [(0, "a", text), (0, "b", ""), (0, "c", text), (1, "a", text)]
        assert all(0 <= score <= 1 for score in scored(prompts, answers).values())


def test_no_completions() -> None:
    assert arbiter().score(rows(), COMPLETIONS.empty_table(), None).num_rows == 0
