"""Penalties and norms of length: what is surely wrong is found, in many scripts, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from aya_data.builders.arbitrage.lengths import norm, relative_lengths
from aya_data.builders.arbitrage.penalties import is_cut_off, penalties
from aya_data.builders.arbitrage.tables import COMPLETIONS
from aya_data.core.language import parse

TEXTS = {
    "eng_Latn": "The weather is lovely today, and the children are playing in the garden behind the house.",
    "tur_Latn": "Bugün hava çok güzel ve çocuklar evin arkasındaki bahçede neşeyle oynuyorlar, siz de gelin.",
    "arb_Arab": "الطقس جميل اليوم والأطفال يلعبون في الحديقة خلف المنزل، فتعالوا أنتم أيضا إلينا بعد الظهر.",
    "hin_Deva": "आज मौसम बहुत अच्छा है और बच्चे घर के पीछे बगीचे में खेल रहे हैं, आप भी दोपहर के बाद आइए।",
    "jpn_Jpan": "今日はとても良い天気で、子どもたちは家の裏の庭で遊んでいます。午後にはぜひ皆さんも来てください。",
    "zho_Hans": "今天天气很好，孩子们正在房子后面的花园里玩耍。下午请你们也一起来吧，我们准备了茶和点心。",
    "rus_Cyrl": "Сегодня прекрасная погода, и дети играют в саду за домом. Приходите и вы к нам после обеда.",
}


def rows(*prompts: str, language: str = "eng_Latn", task: str | None = None) -> pa.Table:
    variety = parse(language) if language != "und_Zyyy" else None
    count = len(prompts)
    return pa.table(
        {
            "row_key": [str(n) for n in range(count)],
            "messages": [[{"role": "user", "content": prompt}] for prompt in prompts],
            "language": [variety.language if variety else "und"] * count,
            "script": [variety.script if variety else "Zyyy"] * count,
            "task": pa.array([task] * count, pa.string()),
        }
    )


def completed(prompts: pa.Table, answers: list[tuple[int, str, str]], finish: str = "stop") -> pa.Table:
    """Completions of (row, teacher, text), sorted, numbered as samples."""
    samples: dict[tuple[int, str], int] = {}
    listed = []
    for row, teacher, text in sorted(answers, key=lambda answer: answer[:2]):
        sample = samples.get((row, teacher), 0)
        samples[row, teacher] = sample + 1
        listed.append(
            {
                "row": row, "prompt": str(row), "language": prompts["language"][row].as_py(),
                "script": prompts["script"][row].as_py(), "teacher": teacher, "family": teacher, "sample": sample,
                "key": "", "text": text, "finish": finish, "tokens": None,
            }
        )  # fmt: skip
    return pa.Table.from_pylist(listed, COMPLETIONS)


def found(prompt: str, answer: str, finish: str = "stop", **given: Any) -> list[str]:
    prompts = rows(prompt, **given)
    result: list[str] = penalties(prompts, completed(prompts, [(0, "a", answer)], finish))[0].as_py()
    return result


@pytest.mark.parametrize("asked", TEXTS)
@pytest.mark.parametrize("answered", TEXTS)
def test_an_answer_in_another_language(asked: str, answered: str) -> None:
    expected = [] if asked == answered else ["wrong_language"]
    assert found(TEXTS[asked], TEXTS[answered], language=asked) == expected
    # Of a row without a language, the prompt's text tells it.
    assert found(TEXTS[asked] * 2, TEXTS[answered], language="und_Zyyy") == expected


@pytest.mark.parametrize(
    ("prompt", "given"),
    [
        ("Write two sentences in Turkish about the weather and the children.", {}),
        ("Summarise the text.\n\n" + TEXTS["tur_Latn"], {}),
        ("Render this: the weather is lovely today", {"task": "Machine Translation"}),
        ("Schreibe einen Satz über das Wetter auf Türkçe, bitte, und über die Kinder.", {"language": "deu_Latn"}),
    ],
)
def test_it_may_be_in_another_language_where_the_prompt_says_so(prompt: str, given: dict[str, Any]) -> None:
    assert found(prompt, TEXTS["tur_Latn"], **given) == []
    assert found(prompt, TEXTS["rus_Cyrl"], **given) == ([] if given.get("task") else ["wrong_language"])


@pytest.mark.parametrize(
    "answer",
    [
        "42",
        "Ankara",
        "Bonjour tout le monde",
        "```python\nfor ligne in fichier: traiter(ligne)\nafficher(resultat_de_la_boucle, valeur_suivante)\n```",
        "https://tr.wikipedia.org/wiki/T%C3%BCrkiye_Cumhuriyeti_Cumhurba%C5%9Fkanl%C4%B1%C4%9F%C4%B1",
        "Kuća je lijepa",
        "Aaj mausam bahut achha hai aur bachche ghar ke peeche bagiche mein khel rahe hain, aap bhi aaiye.",
    ],
)
def test_what_is_too_short_or_no_prose_is_in_no_language(answer: str) -> None:
    assert found(TEXTS["eng_Latn"], answer) == []


def test_confusable_languages_and_unknown_ones() -> None:
    croatian = "Danas je vrijeme vrlo lijepo i djeca se igraju u vrtu iza kuće, dođite i vi poslije podne k nama."
    assert found(croatian, croatian, language="bos_Latn") == []
    # The model does not know Shan: Burmese letters say nothing against it, Latin ones do.
    assert found("x", TEXTS["eng_Latn"], language="shn_Mymr") == ["wrong_language"]
    assert found("x", TEXTS["eng_Latn"], language="fuv_Latn") == []


def test_the_engine_knows_how_an_answer_ended() -> None:
    cut = "It rained. The streets were wet and the"
    assert found("How was it?", cut, "length") == ["truncated"]
    assert found("How was it?", cut, "stop") == []
    assert found("How was it?", cut, "unknown") == ["truncated"]
    assert found("How was it?", "", "stop") == ["empty"]
    assert found("How was it?", " \u200b\n", "length") == ["empty", "truncated"]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("It rained. The streets were wet and the", "Latn"),
        ("It rained. The streets were wet,", "Latn"),
        ("Here it is:\n\n```python\nprint(1)\n", "Latn"),
        ("~~~\ncode", "Latn"),
        ("今天下雨了。街道很湿，", "Hans"),
        ("雨が降りました。道は濡れて", "Jpan"),
        ("आज बारिश हुई। सड़कें गीली थीं और", "Deva"),
        ("لقد هطل المطر. كانت الشوارع مبللة و", "Arab"),
        ("هل هطل المطر؟ نعم، وكانت الشوارع", "Arab"),
    ],
)
def test_texts_that_break_off(text: str, script: str) -> None:
    assert is_cut_off(text, script)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("It rained. The streets were wet.", "Latn"),
        ("It rained. The streets were wet!)", "Latn"),
        ("It rained. See https://example.org/a", "Latn"),
        ("A list:\n- It rained. The streets were wet", "Latn"),
        ("B. Prescreening", "Latn"),
        ("5.2. Passed", "Latn"),
        ("It rained", "Latn"),
        ("Roses are red\nViolets are blue", "Latn"),
        ("“It always rains. Believe me.” – Theodore Roosevelt", "Latn"),
        ("```\ncode\n```", "Latn"),
        ("今天下雨了。街道很湿。", "Hans"),
        ("ฝนตก. ถนนเปียก", "Thai"),
        ("Τι είναι; Έβρεξε. Γιατί;", "Grek"),
        ("", "Latn"),
    ],
)
def test_texts_that_do_not(text: str, script: str) -> None:
    assert not is_cut_off(text, script)


def test_no_completions() -> None:
    assert penalties(rows(), COMPLETIONS.empty_table()).to_pylist() == []


def test_norms_of_length() -> None:
    assert norm("eng", "Latn") == 1000
    assert norm("zho", "Hans") < 400 < norm("kor", "Hang") < 600 < norm("heb", "Hebr") < norm("deu", "Latn")
    assert norm("fas", "Arab") == pytest.approx(norm("pes", "Arab"), rel=0.05)
    assert norm("zho", "Zyyy") == pytest.approx(norm("zho", "Hans"), rel=0.1)
    assert 900 < norm("xxx", "Cyrl") < 1200
    assert norm("und", "Zyyy") == 1000
    found = relative_lengths(["eng", "zho"], ["Latn", "Hans"], np.array([500, 334]))
    assert found.tolist() == [0.5, 1.0]
