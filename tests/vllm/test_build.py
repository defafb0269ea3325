"""A whole build with vLLM as teacher and as arbiter; then the same with another engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aya_data import api
from aya_data.core.store import Workspace
from tests import builds

QUESTIONS = (
    "What is the capital of France?", "Write a short poem about the sea.", "Why is the sky blue?",
    "Explain bread in two sentences.", "Name a river in Kenya.", "How do bees find flowers?",
)  # fmt: skip
SPEC = """\
name: lane
description: Answers of a tiny model, scored by another.
seed: 7
languages: [eng]
policy: any
sources:
  house:
    builder: files
    path: prompts.jsonl
    columns: {prompt: question, answer: answer}
    language: eng_Latn
    license: {assume: CC0-1.0, reason: Written for a test.}
  arbitrage:
    builder: arbitrage
    prompts: {from: house}
    teachers:
      tiny: {model: language_model, sampling: {n: 2, temperature: 1, max_tokens: 40, stop: [e, a]}, ENGINE}
    arbiter: {kind: reward_model, model: scorer, ENGINE}
    routing: reward
filters: [exact_dedup]
mix:
  budget: {rows: 12}
  weights: {house: 50, arbitrage: rest}
release: {format: messages, validation: 0}
"""
ENGINES = {
    "vllm": "engine: vllm, enforce_eager: true, kv_cache: 64MB, max_num_seqs: 32, max_length: 512",
    "transformers": "engine: transformers, max_length: 512, python: nowhere/python",
}


@pytest.mark.usefixtures("device")
def test_a_build_is_answered_by_the_engine_once_whatever_engine_the_spec_names_later(
    language_model: Path, scorer: Path, tmp_path: Path
) -> None:
    for name, folder in (("language_model", language_model), ("scorer", scorer)):
        (tmp_path / name).symlink_to(folder)
    lines = [json.dumps({"question": question, "answer": "I do not know."}) for question in QUESTIONS]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    spec, workspace = tmp_path / "spec.yaml", tmp_path / "workspace"
    spec.write_text(SPEC.replace("ENGINE", ENGINES["vllm"]))
    first = api.build(spec, workspace=workspace, workers=1)
    lock = json.loads((first.result.path / "aya.lock").read_bytes())["generation"]["arbitrage"]
    assert {step: found["answers"] for step, found in lock.items()} == {
        "generate/tiny": 12,
        "arbiter/reward_model": len(QUESTIONS) * 2,
    }
    # Of the first build nothing is left but the journal, and the interpreter that the spec names now does not exist.
    Workspace(workspace).store.collect([])
    spec.write_text(SPEC.replace("ENGINE", ENGINES["transformers"]))
    again = api.build(spec, workspace=workspace, workers=1)
    assert builds.tree(again.result.path / "data") == builds.tree(first.result.path / "data")
