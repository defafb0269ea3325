"""The teacher ``translated``: what it asks, and settings that nobody would heed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from aya_data.builders.arbitrage.translated import Translated, TranslatedSettings
from aya_data.core.errors import WrongSetting
from tests.test_filters import environment

SAMPLING = {"n": 1, "temperature": 0, "max_tokens": 64}
MODEL = {"engine": "openai", "model": "m", "revision": "1", "base_url": "http://127.0.0.1:9/v1", "sampling": SAMPLING}
SEVERAL = {**MODEL, "sampling": {**SAMPLING, "n": 2}}
PRICE = {"prompt": 1, "completion": 2}


def settings(**given: Any) -> TranslatedSettings:
    return TranslatedSettings.model_validate({"engine": "translated", "answers": MODEL, "translator": MODEL, **given})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"system": "Be kind."}, "has a system prompt, which nobody is told"),
        ({"price": PRICE}, "has a price, and asks two models"),
        ({"answers": {**MODEL, "languages": ["eng"]}}, "has answers for some languages alone"),
        ({"translator": {**MODEL, "languages": ["eng"]}}, "has a translator for some languages alone"),
        ({"translator": {**MODEL, "system": "Translate."}}, "has a translator with a system prompt"),
        ({"translator": SEVERAL}, "has a translator with more than one sample"),
        ({"instruction": "Translate {text}."}, "has no {target}"),
    ],
)
def test_what_nobody_would_heed_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        settings(**given)


def test_what_is_heeded_is_taken() -> None:
    own = settings(answers={**SEVERAL, "system": "Be brief.", "price": PRICE}, languages=["tur"])
    assert own.asked_for("tur", "Latn") and not own.asked_for("deu", "Latn")


def asked(own: TranslatedSettings, stage: str) -> list[tuple[int, tuple[tuple[str, str], ...]]]:
    turns = [
        [("user", "Merhaba?")],
        [("system", "Be brief."), ("user", "Merhaba?")],
        [("user", "Merhaba?"), ("assistant", "Merhaba."), ("user", "?")],
        [("user", "नमस्ते?")],
    ]
    prompts = pa.table(
        {
            "language": ["tur", "tur", "tur", "hin"],
            "script": ["Latn", "Latn", "Latn", "Deva"],
            "messages": [[{"role": role, "content": content} for role, content in one] for one in turns],
        }
    )
    before = pa.table({"row": [0, 3], "tag": ["0", "0"], "text": ["Hello?", "Hello?"]})
    voice = Translated("weak", own, environment())
    return [
        (one.row, one.request.messages)
        for one in voice.requests(stage, prompts, [True] * 4, None if stage == "translate" else before)
    ]


def test_only_prompts_of_one_turn_are_asked() -> None:
    assert [row for row, _ in asked(settings(), "translate")] == [0, 3]
    ((_, (turn,)), _) = asked(settings(), "translate")
    assert turn[1].startswith("Translate the text below from Turkish to English.") and turn[1].endswith("\n\nMerhaba?")


def test_the_system_prompt_is_that_of_the_pivot_in_its_script() -> None:
    system = {"hin_Deva": "हिंदी में।", "hin_Latn": "Hindi mein.", "default": "Be brief."}
    own = settings(pivot="hin", answers={**MODEL, "system": system})
    assert asked(own, "answer")[-1] == (3, (("system", "हिंदी में।"), ("user", "नमस्ते?")))


def test_what_is_wrong_has_its_place(tmp_path: Path) -> None:
    recorded = {"engine": "recorded", "path": "none.jsonl", "columns": {"prompt": "p", "answer": "a"}}
    for part in ("answers", "translator"):
        voice = Translated("weak", settings(**{part: recorded}), environment(base=tmp_path))
        with pytest.raises(WrongSetting) as error:
            voice.identity()
        assert error.value.faults[0][0] == ("teachers", "weak", part, "path")


def test_a_thought_is_neither_translated_nor_released() -> None:
    prompts = pa.table({
        "language": ["tur", "tur", "eng"], "script": ["Latn"] * 3,
        "messages": [[{"role": "user", "content": "Merhaba?"}]] * 3,
    })  # fmt: skip
    voice = Translated("weak", settings(), environment())
    said = ["<think>They greet.</think>Hello.", "<think>They", "Greet.</think>Hello."]
    answers = pa.table({"row": [0, 1, 2], "tag": ["0"] * 3, "text": said, "finish": ["stop"] * 3})
    ((row, (turn,)),) = [
        (one.row, one.request.messages) for one in voice.requests("generate", prompts, [True] * 3, answers)
    ]
    assert row == 0 and turn[1].endswith("\n\nHello.")
    translations = pa.table({"row": [0], "tag": ["0"], "text": ["<think>Turkish</think> Merhaba."], "finish": ["stop"]})
    found = voice.answered(prompts, answers, translations).sort_by("row").to_pylist()
    shown = [(one["row"], one["text"], one["finish"], one["thought"] is not None) for one in found]
    assert shown == [(0, "Merhaba.", "stop", True), (1, "", "length", True), (2, "Hello.", "stop", True)]
