"""What the spec says of a model that vLLM runs. Needs no vLLM."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from aya_data.builders.arbitrage.arbiters.reward_model import VllmRewardModel, VllmRewardSettings
from aya_data.builders.arbitrage.teachers.transformers_engine import TransformersSettings, TransformersTeacher
from aya_data.builders.arbitrage.teachers.vllm_engine import VllmSettings, VllmTeacher
from aya_data.core import license as licenses
from aya_data.core.errors import InputError
from aya_data.core.generation import Place, voice_key
from aya_data.core.stage import Environment

SAMPLING = {"n": 2, "temperature": 0.7, "max_tokens": 64}


def settings(**more: Any) -> VllmSettings:
    return VllmSettings.model_validate({"engine": "vllm", "model": "model", "sampling": SAMPLING, **more})


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A folder with files that stand for a model and an adapter; nobody loads them."""
    files = {
        "model/config.json": '{"num_labels": 1}',
        "model/model.safetensors": "weights",
        "model/tokenizer.json": "{}",
        "adapter/adapter_config.json": "{}",
        "adapter/adapter_model.safetensors": "weights",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return Environment(tmp_path, tmp_path / "cache", True, 7, None, licenses.policy("any"))


def test_a_voice_is_the_model_and_what_shapes_its_answers_not_what_runs_it(environment: Environment) -> None:
    def key(**more: Any) -> str:
        return voice_key(VllmTeacher("tiny", settings(**more), environment))

    other = TransformersSettings.model_validate({"engine": "transformers", "model": "model", "sampling": SAMPLING})
    plain = key()
    assert plain == voice_key(TransformersTeacher("other name", other, environment))
    same: list[dict[str, Any]] = [
        {"devices": [[0, 1], [2, 3]], "tensor_parallel": 2},
        {"gpu_memory_utilization": 0.5, "kv_cache": "1GB", "max_num_seqs": 8, "enforce_eager": True, "window": 9},
        {"python": "../vllm/bin/python", "sampling": {**SAMPLING, "n": 7}, "dtype": "bfloat16"},
    ]
    assert {key(**more) for more in same} == {plain}
    others: list[dict[str, Any]] = [
        {"sampling": {**SAMPLING, "temperature": 0.8}},
        {"adapter": "adapter"},
        {"quantization": "fp8"},
        {"max_length": 512},
        {"template_variables": {"enable_thinking": False}},
        {"structured": {"choice": ["A", "B"]}},
        {"structured": {"choice": ["B", "A"]}},
        {"structured": {"regex": "A|B"}},
        {"structured": {"json_schema": {"type": "object"}}},
    ]
    assert len({plain, *(key(**more) for more in others)}) == 1 + len(others)
    voice = pickle.loads(pickle.dumps(VllmTeacher("tiny", settings(), environment)))
    assert voice_key(voice) == plain


def test_a_scorer_s_precision_is_part_of_it(environment: Environment) -> None:
    def key(**more: Any) -> str:
        given = {"kind": "reward_model", "engine": "vllm", "model": "model", **more}
        return voice_key(VllmRewardModel("tiny", VllmRewardSettings.model_validate(given), environment))

    assert key() == key(max_num_seqs=3) == key(dtype="float32")
    assert len({key(), key(dtype="bfloat16"), key(quantization="fp8")}) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"devices": [[0, 1]]}, "has a group of 2 GPUs, and tensor_parallel 1"),
        ({"devices": [0], "tensor_parallel": 2}, "has a group of 1 GPUs, and tensor_parallel 2"),
        ({"devices": [[0, 1], [1, 2]], "tensor_parallel": 2}, "names the GPU 1 twice"),
        ({"max_num_seqs": 64, "window": 64}, "has a window of 64, and max_num_seqs 64"),
        ({"structured": {}}, "needs exactly one of json_schema, regex or choice, found none"),
        (
            {"structured": {"regex": "a", "choice": ["a"]}},
            "needs exactly one of json_schema, regex or choice, found regex and choice",
        ),
        ({"structured": {"regex": "(("}}, "is no regular expression: missing ), unterminated subpattern at position 1"),
        ({"structured": {"json_schema": {"a": {1, 2}}}}, "is not JSON: Object of type set is not JSON serializable"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(**wrong)
    assert caught.value.errors()[0]["msg"] == message


def test_one_gpu_each_may_be_written_without_brackets() -> None:
    assert settings(devices=[0, 1]).devices == ((0,), (1,))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_the_error_says_where_to_name_it(environment: Environment, tmp_path: Path) -> None:
    voice = VllmTeacher("tiny", settings(), environment)
    with pytest.raises(InputError) as caught, voice.session(Place(tmp_path, tmp_path / "t", tmp_path / "log")):
        pass
    assert str(caught.value) == (
        "tiny: there is no vllm beside this package. Install it in an environment of its own, and name that "
        "environment's interpreter under 'python'."
    )
