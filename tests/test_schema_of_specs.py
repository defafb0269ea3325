"""The JSON Schema of a spec, as editors use it, takes what the package takes: whole specs and every short form."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from aya_data.core.document import Document
from aya_data.core.explain import json_schema, starter_spec
from aya_data.core.registry import builtin_registry

SPECS = sorted(path.name for path in files("aya_data.specs").iterdir() if path.name.endswith(".yaml"))


@cache
def validator() -> Draft202012Validator:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def faults(spec: Any) -> list[str]:
    return [f"{error.json_path}: {error.message[:200]}" for error in validator().iter_errors(spec)]


@pytest.mark.parametrize("name", SPECS)
def test_specs_fit_with_every_profile(name: str) -> None:
    document = Document.parse((files("aya_data.specs") / name).read_text("utf-8"), name)
    assert faults(document.data) == []
    for profile in document.data.get("profiles", {}):
        assert faults(document.overlay(["profiles", profile]).data) == [], profile


def test_the_first_spec_fits() -> None:
    assert faults(Document.parse(starter_spec(), "spec.yaml").data) == []


TEACHER = {"engine": "recorded", "path": "a.jsonl", "columns": {"prompt": "prompt", "answer": "answer"}}
SERVER = {"engine": "openai", "model": "m", "revision": "1", "base_url": "http://localhost:8000/v1"}
SAMPLED = {"sampling": {"n": 1, "temperature": 0, "max_tokens": 64}}
LOCAL = {"model": "org/name", "revision": "main"}
JUDGE = {"kind": "judge", "mode": "score", "model": SERVER}
REWARD = {"kind": "reward_model", **LOCAL}


def arbitrage(**given: Any) -> dict[str, Any]:
    return {"prompts": {"from": ["asked"]}, "teachers": {"one": TEACHER}, "routing": "reward", **given}


def taught(**teacher: Any) -> dict[str, Any]:
    return arbitrage(teachers={"one": teacher})


def mapped(**given: Any) -> dict[str, Any]:
    return {"path": "a.jsonl", "columns": {"prompt": "q", "answer": "a"}, "language": "tur", **given}


FITTING = {
    "files": ("files", mapped()),
    "files, a list": ("files", mapped(path=["a.jsonl", "b/*.csv"])),
    "files, texts": ("files", mapped(script="Latn", origin="templated", dataset="d", split="train", config="c")),
    "files, mappings": ("files", mapped(columns={"prompt": {"column": "q"}, "answer": {"template": "{{ a }}"}})),
    "prompts from a source": ("arbitrage", arbitrage(prompts={"from": "asked"})),
    "recorded, several values": ("arbitrage", taught(**TEACHER, where={"column": "g", "equals": ["a", "b"]})),
    "recorded, one value": ("arbitrage", taught(**TEACHER, where={"column": "g", "equals": "a"}, model="gpt-4")),
    "recorded batch": ("arbitrage", taught(engine="recorded", path="out.jsonl", requests="in.jsonl")),
    "recorded batches": ("arbitrage", taught(engine="recorded", path=["out.jsonl"], requests=["in.jsonl"])),
    "transformers on a device": ("arbitrage", taught(engine="transformers", **LOCAL, **SAMPLED, device="cpu")),
    "transformers on two": ("arbitrage", taught(engine="transformers", **LOCAL, **SAMPLED, device=["cpu", "cuda:0"])),
    "vllm on GPUs": ("arbitrage", taught(engine="vllm", **LOCAL, **SAMPLED, devices=[0, 1])),
    "vllm on groups": (
        "arbitrage",
        taught(engine="vllm", **LOCAL, **SAMPLED, tensor_parallel=2, devices=[[0, 1], [2, 3]]),
    ),
    "heuristic": ("arbitrage", arbitrage(arbiter="heuristic")),
    "heuristic, weighed": ("arbitrage", arbitrage(arbiter={"kind": "heuristic", "weights": {"length": 0}})),
    "judge": ("arbitrage", arbitrage(arbiter=JUDGE)),
    "judge, sampled": ("arbitrage", arbitrage(arbiter={**JUDGE, "model": {**SERVER, **SAMPLED}})),
    "judge, cut short": ("arbitrage", arbitrage(arbiter={**JUDGE, "model": {**SERVER, "sampling": {"max_tokens": 8}}})),
    "judge, recorded": ("arbitrage", arbitrage(arbiter={**JUDGE, "model": TEACHER})),
    "reward model": ("arbitrage", arbitrage(arbiter=REWARD)),
    "reward model of vLLM": ("arbitrage", arbitrage(arbiter={**REWARD, "engine": "vllm"})),
    "ensemble": ("arbitrage", arbitrage(arbiter={"kind": "ensemble", "members": {"a": "heuristic", "b": REWARD}})),
    "people": ("arbitrage", arbitrage(review={"share": 0.5, "with": "human"})),
    "people, a sheet": ("arbitrage", arbitrage(review={"rows": 5, "with": {"kind": "human", "verdicts": "a.csv"}})),
    "a judge reviews": ("arbitrage", arbitrage(review={"rows": 5, "with": JUDGE})),
    "routing": ("arbitrage", arbitrage(routing={"kind": "single", "teacher": "one"})),
}


@pytest.mark.parametrize("case", FITTING)
def test_what_the_package_takes_fits(case: str) -> None:
    builder, given = FITTING[case]
    builtin_registry().settings("builder", builder).model_validate(given)
    assert faults({"name": "x", "seed": 1, "sources": {"one": {"builder": builder, **given}}}) == []


UNFIT = {
    "no file": ("files", mapped(path=[])),
    "a number of files": ("files", mapped(path=3)),
    "no origin": ("files", mapped(origin="found")),
    "no arbiter": ("arbitrage", arbitrage(arbiter="heuristics")),
    "a reward model by name alone": ("arbitrage", arbitrage(arbiter="reward_model")),
    "recorded nowhere": ("arbitrage", taught(engine="recorded")),
    "a recorded judge without files": ("arbitrage", arbitrage(arbiter={**JUDGE, "model": {"engine": "recorded"}})),
    "nobody reviews": ("arbitrage", arbitrage(review={"rows": 5, "with": "nobody"})),
    "a teacher that is not sampled": ("arbitrage", taught(**SERVER)),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_the_package_refuses_does_not_fit(case: str) -> None:
    builder, given = UNFIT[case]
    with pytest.raises(ValueError, match="validation error"):
        builtin_registry().settings("builder", builder).model_validate(given)
    assert faults({"name": "x", "seed": 1, "sources": {"one": {"builder": builder, **given}}})
