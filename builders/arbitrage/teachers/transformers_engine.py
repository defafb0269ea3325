"""The teacher ``transformers``: a model of transformers on this machine's CPU or GPUs.

It runs in processes of its own (:mod:`~aya_data.builders.arbitrage.teachers.host`), one for each entry of ``device``.
For a large model on GPUs the teacher ``vllm`` is many times as fast; this one takes every architecture that
transformers knows, and a CPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from aya_data.builders.arbitrage.teacher import Sampling, TeacherSettings
from aya_data.builders.arbitrage.teachers.host import Host, HostSession, Replica, interpreter
from aya_data.builders.arbitrage.teachers.local_model import LocalModel, LocalModelSettings
from aya_data.core.errors import MissingExtra
from aya_data.core.generation import Place, Session, Voice
from aya_data.core.settings import wrong
from aya_data.core.stage import Environment

__all__ = ["Batching", "TransformersSettings", "TransformersTeacher", "check_libraries", "replicas"]

AHEAD = 4
"""Batches of requests that a process holds, so that those of similar length can be put together."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _devices(value: Sequence[str]) -> Sequence[str]:
    for name in value:
        kind, _, number = name.partition(":")
        if kind not in ("auto", "cpu", "cuda", "mps", "xpu") or (":" in name and not number.isdecimal()):
            raise wrong(f"names no device: {name!r}", "Write auto, cpu, cuda or cuda:0.")
    return value


class Batching(LocalModelSettings):
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
    def _check_devices(self) -> Batching:
        _devices(self.device)
        return self


class TransformersSettings(Batching, TeacherSettings):
    """Settings of the teacher ``transformers``."""

    engine: Literal["transformers"] = Field(description="A model of transformers, in a process of its own.")
    sampling: Sampling = Field(
        description="How it is sampled.", examples=[{"n": 1, "temperature": 0, "max_tokens": 512}]
    )
    adapter: str | None = Field(None, min_length=1, description="A LoRA adapter of peft: a folder or Hub repository.")
    adapter_revision: str | None = Field(None, min_length=1, description="The revision of the adapter on the Hub.")


class TransformersTeacher(Voice):
    """A model of transformers that answers."""

    def __init__(
        self, name: str, settings: TransformersSettings, environment: Environment, path: tuple[str, ...] | None = None
    ) -> None:
        self.name = name
        self.settings = settings
        self.environment = environment
        self.model = LocalModel(
            settings,
            environment,
            adapter=settings.adapter,
            adapter_revision=settings.adapter_revision,
            path=("teachers", name) if path is None else path,
        )

    def identity(self) -> Mapping[str, Any]:
        """Digests of all files of the model, the chat template, and how it is sampled."""
        return {**self.model.identity(), "sampling": self.settings.sampling.identity()}

    def prices(self) -> tuple[float, float] | None:
        """What the spec says that it costs."""
        price = self.settings.price
        return None if price is None else (float(price.prompt), float(price.completion))

    def session(self, place: Place) -> AbstractContextManager[Session]:
        """Start the processes and load the model; downloads what is missing of it first."""
        own = self.settings
        check_libraries(own, "a teacher of transformers")
        sampling = own.sampling
        settings = {
            "task": "generate",
            **process_settings(own, self.model),
            "sampling": {
                "temperature": float(sampling.temperature),
                "max_tokens": sampling.max_tokens,
                "top_p": float(sampling.top_p),
                "top_k": sampling.top_k,
                "min_p": float(sampling.min_p),
                "repetition_penalty": float(sampling.repetition_penalty),
                "stop": list(sampling.stop),
            },
        }
        host = Host(
            self.name,
            settings,
            replicas=replicas(own.device),
            window=AHEAD * own.batch_size,
            python=interpreter(own.python, self.environment.base),
        )
        return HostSession(host, place)


def check_libraries(own: LocalModelSettings, purpose: str) -> None:
    """Raise :class:`MissingExtra` where this interpreter is to run a model and cannot."""
    for library in ("torch", "transformers") if own.python is None else ():
        if importlib.util.find_spec(library) is None:
            raise MissingExtra(library, "transformers", purpose)


def process_settings(own: Batching, model: LocalModel) -> dict[str, Any]:
    """What a process is told of a model and of how it runs; has all of its files here."""
    return {
        **model.bring(),
        "template": model.template(),
        "template_variables": dict(own.template_variables),
        "max_length": own.max_length,
        "dtype": own.dtype,
        "batch_size": own.batch_size,
        "batch_tokens": own.batch_tokens,
    }


def replicas(devices: Sequence[str]) -> tuple[Replica, ...]:
    """One process for each device."""
    return tuple(Replica(settings={"device": device}) for device in devices)
