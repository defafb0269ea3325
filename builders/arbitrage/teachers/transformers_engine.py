"""The engine ``transformers``: models on this machine's CPU or GPUs, as teachers and as reward models.

They run in processes of their own (:mod:`~aya_data.builders.arbitrage.teachers.host`), one for each entry of
``device``. For a large model on GPUs the engine ``vllm`` is many times as fast; this one takes every architecture that
transformers knows, and a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from aya_data.builders.arbitrage.teachers.host import Host, Replica
from aya_data.builders.arbitrage.teachers.local_model import LocalModelSettings
from aya_data.builders.arbitrage.teachers.local_voice import LocalTeacher, LocalTeacherSettings, LocalVoice
from aya_data.core.errors import MissingExtra
from aya_data.core.settings import wrong

__all__ = ["TransformersEngine", "TransformersSettings", "TransformersTeacher", "TransformersVoice"]

DATA_FILES = ("hosted_protocol.py", "hosted.py", "hosted_continuous.py")
SCRIPTS: Final = ("hosted.py", "hosted_protocol.py", "hosted_continuous.py")
AHEAD: Final = 4
"""Batches of requests that a process holds, so that those of similar length can be put together."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _devices(value: Sequence[str]) -> Sequence[str]:
    for name in value:
        kind, _, number = name.partition(":")
        if kind not in ("auto", "cpu", "cuda", "mps", "xpu") or (":" in name and not number.isdecimal()):
            raise wrong(f"names no device: {name!r}", "Write auto, cpu, cuda or cuda:0.")
    return value


class TransformersEngine(LocalModelSettings):
    """How transformers runs a model."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="The precision of its arithmetic. auto: the checkpoint's on a GPU, float32 on a CPU."
    )
    device: Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])] = Field(
        ("auto",),
        min_length=1,
        description="Where it runs: auto (a GPU where there is one), cpu, cuda:0; of several, each has a copy of it.",
        examples=["cpu", ["cuda:0", "cuda:1"]],
    )
    batch_size: int = Field(32, ge=1, le=4096, description="Conversations of a batch, at most.")
    batch_tokens: int = Field(
        32_768, ge=1, description="Tokens of a batch, padding and room for answers included, at most."
    )

    @model_validator(mode="after")
    def _check_devices(self) -> TransformersEngine:
        _devices(self.device)
        return self


class TransformersSettings(TransformersEngine, LocalTeacherSettings):
    """Settings of the teacher ``transformers``."""

    engine: Literal["transformers"] = Field(description="A model of transformers, in a process of its own.")
    batching: Literal["auto", "continuous", "padded"] = Field(
        "auto",
        description="continuous: an answer that ends makes room for the next request at once (transformers 5.23 or "
        "later); padded: batches of similar length, padded on the left, each until its last answer ends. auto: "
        "continuous on a GPU with flash attention, else padded. The answers are the same, up to rounding.",
    )


class TransformersVoice(LocalVoice):
    """A model that transformers runs."""

    libraries = ("torch", "transformers")
    settings: TransformersEngine

    def host(self, settings: Mapping[str, Any], python: Path | None) -> Host:
        """One process for each device."""
        own = self.settings
        return Host(
            self.name,
            {**settings, "batch_size": own.batch_size, "batch_tokens": own.batch_tokens},
            scripts=SCRIPTS,
            replicas=tuple(Replica(settings={"device": device}) for device in own.device),
            window=AHEAD * own.batch_size,
            python=python,
            path=self.path,
        )

    def lacks(self, library: str) -> tuple[str, str]:
        """Name the extra."""
        missing = MissingExtra(library, "transformers", "a model of transformers")
        return missing.what, missing.remedy


class TransformersTeacher(LocalTeacher, TransformersVoice):
    """A model of transformers that answers."""

    settings: TransformersSettings

    def task(self) -> Mapping[str, Any]:
        """To answer, in batches as the settings say."""
        return {**super().task(), "batching": self.settings.batching}
