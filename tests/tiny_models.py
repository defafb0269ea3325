"""Tiny models made on the spot: random weights, a byte-level tokenizer with a chat template, no network. And the
teachers that they are.

    folder = causal_lm(tmp_path / "teacher")                  # Llama, two layers, 1.4 MB, half a second
    folder = causal_lm(tmp_path / "other", kind="qwen2", seed=1)
    folder = reward_model(tmp_path / "rm")                    # sequence classification, one label
    voice = teacher(tmp_path, folder, {"max_tokens": 9})      # run by transformers

Weights depend on ``seed`` alone. Head dimensions are 32, which vLLM takes. Import torch and transformers only where a
test is marked with :data:`needs_transformers`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from aya_data.builders.arbitrage.teachers.transformers_engine import TransformersSettings, TransformersTeacher
from aya_data.core import license as licenses
from aya_data.core.stage import Environment

__all__ = ["CHATML", "TEXTS", "causal_lm", "environment", "needs_transformers", "reward_model", "teacher", "tokenizer"]

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None,
    reason="needs torch and transformers",
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The chat template of the tiny tokenizers; it writes no beginning-of-sequence token."""

TEXTS = (
    "What is the capital of France? The capital of France is Paris.",
    "Türkiye'nin başkenti neresidir? Türkiye'nin başkenti Ankara'dır.",
    "Mji mkuu wa Kenya ni upi? Mji mkuu wa Kenya ni Nairobi.",
    "ما هي عاصمة مصر؟ عاصمة مصر هي القاهرة.",
    "日本の首都はどこですか。日本の首都は東京です。",
    "Write a short poem about the sea. Explain why the sky is blue in two sentences.",
)
SPECIAL = ("<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>")


def tokenizer(folder: Path | None = None, *, template: str | None = CHATML, texts: Sequence[str] = TEXTS) -> Any:
    """Train a byte-level BPE tokenizer (some 400 tokens); ``<|im_end|>`` ends a sequence, ``<|pad|>`` pads.

    Saved to ``folder`` where one is given. Without ``template`` it has no chat template.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=414,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    pad, bos, _, eos = SPECIAL
    made = PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token=pad, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False
    )
    if template is not None:
        made.chat_template = template
    if folder is not None:
        made.save_pretrained(folder)
    return made


def _config(kind: str, size: int, context: int, **more: Any) -> Any:
    from transformers import LlamaConfig, Qwen2Config

    make = {"llama": LlamaConfig, "qwen2": Qwen2Config}[kind]
    return make(
        vocab_size=size,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.1,
        **more,
    )


def _save(model: Any, folder: Path) -> None:
    model.eval().save_pretrained(folder)


def causal_lm(
    folder: Path,
    *,
    kind: Literal["llama", "qwen2"] = "llama",
    seed: int = 0,
    template: str | None = CHATML,
    context: int = 512,
) -> Path:
    """Write a causal language model with its tokenizer and return ``folder``."""
    import torch
    from transformers import AutoModelForCausalLM

    tokens = tokenizer(folder, template=template)
    config = _config(
        kind,
        len(tokens),
        context,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _save(AutoModelForCausalLM.from_config(config, dtype=torch.float32), folder)
    return folder


def reward_model(
    folder: Path,
    *,
    kind: Literal["llama", "qwen2"] = "llama",
    seed: int = 0,
    labels: int = 1,
    pad: bool = True,
    template: str | None = CHATML,
    context: int = 512,
) -> Path:
    """Write a sequence classification model with ``labels`` outputs and return ``folder``.

    Without ``pad`` its configuration names no padding token, as that of many published reward models.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    tokens = tokenizer(folder, template=template)
    config = _config(
        kind,
        len(tokens),
        context,
        num_labels=labels,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id if pad else None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _save(AutoModelForSequenceClassification.from_config(config, dtype=torch.float32), folder)
    return folder


def environment(base: Path, *, offline: bool = False) -> Environment:
    """Return where a voice of a spec in ``base`` is."""
    return Environment(base, base / "cache", True, 7, None, licenses.policy("any"), offline)


def teacher(base: Path, model: Path | str, sampling: dict[str, Any], **more: Any) -> TransformersTeacher:
    """Return the teacher ``tiny`` that runs ``model``: one sample at temperature 0, where nothing else is said."""
    settings = TransformersSettings.model_validate(
        {"engine": "transformers", "model": str(model), "sampling": {"n": 1, "temperature": 0, **sampling}, **more}
    )
    return TransformersTeacher("tiny", settings, environment(base))
