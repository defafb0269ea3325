"""Thoughts: what a reasoning model says to itself is no part of its answer, and what is left out is said."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aya_data import api
from aya_data.builders.arbitrage.settings import ArbitrageSettings
from aya_data.builders.arbitrage.teachers.chat_response import read_completion
from aya_data.builders.arbitrage.teachers.recorded import RecordedSettings
from aya_data.builders.arbitrage.thoughts import answer_of, answered
from aya_data.catalog.query import query
from aya_data.core.generation import Answer
from aya_data.core.store import Workspace

TEXTS = {
    "Paris.": ("Paris.", False),
    "<think>It is Paris.</think>\n\nParis.": ("Paris.", False),
    " \n<think>\nA\n</think> <think>B</think> Paris. ": ("Paris. ", False),
    "A template opened it.</think>Paris.": ("Paris.", False),
    "<think></think>\nParis.": ("Paris.", False),
    "<think>It is": ("", True),
    "<think>A</think>Paris.\n<think>But": ("Paris.", True),
    "<think>Only that.</think>\n": ("", False),
    "The mark <think> opens a thought.": ("The mark <think> opens a thought.", False),
    "": ("", False),
}


@pytest.mark.parametrize("text", TEXTS)
def test_the_answer_stands_behind_the_last_thought(text: str) -> None:
    assert answer_of(text) == TEXTS[text]


@given(st.text(st.sampled_from("ab<>/ \n"), max_size=30), st.text(st.sampled_from("ab \n"), max_size=10))
def test_whatever_was_thought_nothing_of_it_is_said(thought: str, said: str) -> None:
    assert answer_of(f"<think>{thought}</think>{said}") == (said.lstrip(), False)


def test_texts_are_read_as_the_settings_want() -> None:
    table = pa.table({"text": [*TEXTS, None], "finish": ["stop"] * len(TEXTS) + ["failed"]})
    given = {"engine": "recorded", "path": "x.jsonl", "columns": {"prompt": "p", "answer": "a"}}
    dropped = answered(table, RecordedSettings.model_validate(given))
    assert dropped["text"].to_pylist() == [*(said for said, _ in TEXTS.values()), None]
    wanted = [*("length" if opened else "stop" for _, opened in TEXTS.values()), "failed"]
    assert dropped["finish"].to_pylist() == wanted
    lost = [len(text) - len(said) or None for text, (said, _) in TEXTS.items()]
    assert dropped["thought"].to_pylist() == [*lost, None]
    kept = answered(table, RecordedSettings.model_validate({**given, "thoughts": "keep"}))
    assert kept.drop_columns(["thought"]).equals(table) and kept["thought"].null_count == len(table)
    assert answered(table.slice(0, 0), RecordedSettings.model_validate(given)).num_rows == 0


def test_what_a_server_sends_apart_is_no_text() -> None:
    message = {"role": "assistant", "reasoning_content": "It is Paris.", "reasoning": "Paris?", "content": "Paris."}
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    answer = read_completion(json.dumps(body).encode(), "0" * 32)
    assert isinstance(answer, Answer) and answer.text == "Paris."


def test_nobody_else_has_thoughts_of_its_own() -> None:
    model = {"engine": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "thoughts": "keep"}
    sampled = {**model, "sampling": {"n": 1, "temperature": 0, "max_tokens": 9}}
    plain = {name: value for name, value in sampled.items() if name != "thoughts"}
    spec = {"prompts": {"from": "q"}, "routing": "reward"}
    judge = {"kind": "judge", "mode": "score", "model": model}
    with pytest.raises(ValidationError, match="has a model with thoughts, which a judge never reads as a verdict"):
        ArbitrageSettings.model_validate({**spec, "teachers": {"a": plain}, "arbiter": judge})
    pivoted = {"engine": "translated", "answers": sampled, "translator": plain}
    ArbitrageSettings.model_validate({**spec, "teachers": {"a": pivoted}})
    with pytest.raises(ValidationError, match="has thoughts, and none of its own"):
        ArbitrageSettings.model_validate({**spec, "teachers": {"a": {**pivoted, "thoughts": "drop"}}})


SPEC = """
name: mountains
policy: any
sources:
  asked:
    builder: files
    path: asked.jsonl
    kind: prompt
    use: prompts
    columns: {prompt: q}
    language: eng
    license: {assume: CC0-1.0, reason: written for this test}
  told:
    builder: arbitrage
    prompts: {from: asked}
    teachers:
      thinker: {engine: recorded, path: thinker.jsonl, columns: {prompt: q, answer: a}THOUGHTS}
    routing: reward
release: {validation: 0}
"""
SAID = [
    "<think>They want height.</think>The mountain is as tall as four thousand men.",
    "They want height.</think>The mountain is as tall as five thousand men.",
    "The mountain is as tall as six thousand men.",
    "<think>They want height, and I wonder",
    "<think>They want height.</think>",
]


def test_no_thought_is_released_and_what_was_lost_is_said(tmp_path: Path) -> None:
    asked = [f"How tall is mountain {number} of this country?" for number in range(len(SAID))]
    lines = [json.dumps({"q": q, "a": a}) + "\n" for q, a in zip(asked, SAID, strict=True)]
    (tmp_path / "thinker.jsonl").write_text("".join(lines))
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps({"q": q}) + "\n" for q in asked))
    spec, workspace = tmp_path / "spec.yaml", tmp_path / "workspace"

    def said(thoughts: str) -> tuple[list[str], dict[str, object]]:
        spec.write_text(SPEC.replace("THOUGHTS", thoughts))
        done = api.build(spec, workspace=workspace, workers=1)
        table = pl.read_parquet(done.result.path / "data" / "*" / "*.parquet")
        return sorted(m[-1]["content"] for m in table["messages"].to_list()), done.result.manifest["generation"]["told"]

    texts, report = said("")
    assert texts == sorted(text.rpartition("</think>")[2] for text in SAID[:3])
    assert report["thoughts"] == {"thinker": {"answers": 5, "thoughts": 4, "truncated": 1, "empty": 2}}
    assert report["remarks"] == [
        "4 of the 5 answers of thinker had a thought, which was left out, 1 cut off, 2 with nothing beside it"
    ]
    evidence = query(
        Workspace(workspace), "SELECT evidence FROM ledger WHERE latest AND rule = 'no_answer_penalised' ORDER BY 1"
    )
    assert [row[0] for row in evidence.rows] == [
        "thinker: empty, nothing but a thought",
        "thinker: empty, truncated, nothing but a thought",
    ]
    # The journal has what the model said: with another setting nobody is asked again.
    texts, report = said(", thoughts: keep")
    assert SAID[0] in texts and "thoughts" not in report
