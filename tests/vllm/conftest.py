"""Where the engine runs, and the models that it runs.

The suite is the same on a CPU and on a GPU. ``pytest tests/vllm`` runs it with a vLLM that was built for CPUs, ``pytest
tests/vllm -m gpu`` with one that finds a GPU. Models are tiny and in float32 on both.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from aya_data.core.generation import Place
from tests.tiny_models import causal_lm, reward_model


@pytest.fixture(scope="session", params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """``cpu`` or ``gpu``: what the vLLM that is installed runs on."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("needs vllm, which has an environment of its own: run .ci/vllm")
    import torch

    name = str(request.param)
    if (name == "gpu") != torch.cuda.is_available():
        pytest.skip(f"vLLM does not run on a {name} here")
    return name


@pytest.fixture(autouse=True)
def in_one_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU have tiny models run in the process that is asked: it starts in half the time.

    Threads that wait for each other slow them down.
    """
    if "device" in request.fixturenames and request.getfixturevalue("device") == "cpu":
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        # Several engines at a time would all take the same core.
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Where sessions put things."""
    return Place(tmp_path / "cache", tmp_path / "t", tmp_path / "log.txt")


@pytest.fixture(scope="session")
def language_model(device: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of two layers."""
    return causal_lm(tmp_path_factory.mktemp("models") / "llama")


BOS_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
)


@pytest.fixture(scope="session")
def scorer(device: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model whose template writes the beginning of the sequence, and whose tokenizer would write it again."""
    folder = reward_model(tmp_path_factory.mktemp("models") / "reward", template=BOS_TEMPLATE)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    bos = "<|bos|>"
    number = next(token["id"] for token in content["added_tokens"] if token["content"] == bos)
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
    }
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def adapter(device: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the language model, as PEFT saves it."""
    return lora(tmp_path_factory.mktemp("models") / "adapter", width=128)


def lora(folder: Path, *, width: int, rank: int = 4) -> Path:
    """Write an adapter with random weights for a model of two layers and this width."""
    import torch
    from safetensors.torch import save_file

    weights: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(1)
    for layer in range(2):
        for name, out in (("q_proj", width), ("v_proj", width // 2)):
            module = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{module}.lora_A.weight"] = torch.randn(rank, width, generator=generator) / 4
            weights[f"{module}.lora_B.weight"] = torch.randn(out, rank, generator=generator) / 4
    folder.mkdir(parents=True)
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "r": rank,
                "lora_alpha": 2 * rank,
                "target_modules": ["q_proj", "v_proj"],
                "bias": "none",
            }
        )
    )
    return folder
