"""The engine ``vllm``: models of any size on GPUs, as teachers and as reward models.

The engine runs offline, in a process of its own for each group of GPUs
(:mod:`~aya_data.builders.arbitrage.teachers.host`), under an interpreter of its own where its pins do not suit this
package's: ``python``. All processes take from one stream of requests; the engine's workers are in their process group
and end with it. vLLM 0.32 or later.

What a voice is says nothing of the engine: a model that transformers ran yesterday, sampled alike, is the same voice
here, and its answers in the journal are read, not asked for again.

What our loop costs on top of ``LLM.generate`` on the same prompts is measured by ``benchmarks/vllm_overhead.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from aya_data.builders.arbitrage.teachers.host import Host, Replica
from aya_data.builders.arbitrage.teachers.local_model import LocalModelSettings
from aya_data.builders.arbitrage.teachers.local_voice import LocalTeacher, LocalTeacherSettings, LocalVoice
from aya_data.core.settings import Number, Settings, Size, wrong

__all__ = ["Structured", "VllmEngine", "VllmSettings", "VllmTeacher", "VllmVoice"]

DATA_FILES = ("hosted_protocol.py", "hosted_vllm.py")
SCRIPTS: Final = ("hosted_vllm.py", "hosted_protocol.py")


def _grouped(value: Any) -> Any:
    return [[one] if isinstance(one, int) else one for one in value] if isinstance(value, (list, tuple)) else value


def _groups(value: Sequence[Sequence[int]] | None) -> Sequence[Sequence[int]] | None:
    named = [number for group in value or () for number in group]
    twice = next((number for number in named if named.count(number) > 1), None)
    if twice is not None:
        raise wrong(f"names the GPU {twice} twice", "An engine takes the memory of its GPUs to itself.")
    return value


class VllmEngine(LocalModelSettings):
    """How vLLM runs a model."""

    tensor_parallel: int = Field(
        1, ge=1, description="GPUs that share one copy of the model. Copies are faster where the model fits on one."
    )
    devices: Annotated[
        tuple[Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)], ...] | None,
        BeforeValidator(_grouped, json_schema_input_type=tuple[int | tuple[int, ...], ...] | None),
        AfterValidator(_groups),
    ] = Field(
        None,
        min_length=1,
        description="Groups of GPUs, each with an engine of its own; numbers count the GPUs that this process sees. "
        "Default: one engine on the first.",
        examples=[[[0], [1]], [[0, 1], [2, 3]]],
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="The precision of its arithmetic. auto: the checkpoint's on a GPU, float32 on a CPU."
    )
    quantization: str | None = Field(
        None,
        min_length=1,
        description="Quantise the weights while they are loaded, which makes another model. Default: do not.",
        examples=["fp8"],
    )
    gpu_memory_utilization: Number | None = Field(
        None, gt=0, le=1, description="The share of a GPU's memory that the engine takes. Default: vLLM's."
    )
    kv_cache: Size | None = Field(
        None, description="Memory for the cache of keys and values. Default: what is left of the engine's share."
    )
    max_num_seqs: int | None = Field(
        None, ge=1, le=16384, description="Sequences that run at a time. Default: vLLM's, by the GPU's memory."
    )
    enforce_eager: bool = Field(False, description="Compile nothing: starts sooner, runs slower.")
    window: int = Field(
        2048,
        ge=1,
        le=65536,
        description="Requests that an engine holds, running ones included; those that wait are put in an order in "
        "which its cache of prefixes helps.",
    )

    @model_validator(mode="after")
    def _check_engine(self) -> VllmEngine:
        for group in self.devices or ():
            if len(group) != self.tensor_parallel:
                raise wrong(
                    f"has a group of {len(group)} GPUs, and tensor_parallel {self.tensor_parallel}",
                    "Each group runs one engine on all of its GPUs: make the two equal.",
                )
        if self.max_num_seqs is not None and self.window <= self.max_num_seqs:
            raise wrong(
                f"has a window of {self.window}, and max_num_seqs {self.max_num_seqs}",
                "An engine is full only where some requests wait beside those that run: make the window larger.",
            )
        return self


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise wrong(f"is no regular expression: {error}", "Mend it, or escape it.") from None
    return text


def _schema(value: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise wrong(f"is not JSON: {error}", "Write a JSON Schema.") from None
    return value


class Structured(Settings):
    """What every answer must look like: tokens that do not fit are never sampled."""

    json_schema: Annotated[Mapping[str, Any], AfterValidator(_schema)] | None = Field(
        None, description="Answers are JSON that fits this JSON Schema.", examples=[{"type": "object"}]
    )
    regex: Annotated[str, AfterValidator(_regex)] | None = Field(
        None, min_length=1, description="Answers match this regular expression, from beginning to end."
    )
    choice: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None, min_length=1, description="Answers are one of these texts.", examples=[["A", "B", "tie"]]
    )

    @model_validator(mode="after")
    def _check(self) -> Structured:
        given = [name for name in ("json_schema", "regex", "choice") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise wrong(f"needs exactly one of json_schema, regex or choice, found {found}", "Keep one of them.")
        return self

    def identity(self) -> dict[str, Any]:
        """The one constraint, as JSON."""
        identity: dict[str, Any] = json.loads(self.model_dump_json(exclude_none=True))
        return identity

    def constraint(self) -> dict[str, Any]:
        """The one constraint under the name that vLLM has for it."""
        return {"json" if name == "json_schema" else name: value for name, value in self.identity().items()}


class VllmSettings(VllmEngine, LocalTeacherSettings):
    """Settings of the teacher ``vllm``."""

    engine: Literal["vllm"] = Field(description="A model that vLLM runs, in a process of its own.")
    structured: Structured | None = Field(None, description="What every answer must look like. Default: anything.")


class VllmVoice(LocalVoice):
    """A model that vLLM runs."""

    libraries = ("vllm",)
    settings: VllmEngine

    def host(self, settings: Mapping[str, Any], python: Path | None) -> Host:
        """One engine for each group of GPUs."""
        own = self.settings
        share = own.gpu_memory_utilization
        engine = {
            "tensor_parallel": own.tensor_parallel,
            "quantization": own.quantization,
            "gpu_memory_utilization": None if share is None else float(share),
            "kv_cache": own.kv_cache,
            "max_num_seqs": own.max_num_seqs,
            "enforce_eager": own.enforce_eager,
        }
        groups = own.devices or (None,)
        return Host(
            self.name,
            {**settings, **engine},
            scripts=SCRIPTS,
            replicas=tuple(Replica(settings={"devices": None if group is None else list(group)}) for group in groups),
            window=own.window,
            python=python,
            path=self.path,
        )

    def lacks(self, library: str) -> tuple[str, str]:
        """Say where to have the engine."""
        remedy = "Install it in an environment of its own, and name that environment's interpreter under 'python'."
        return f"there is no {library} beside this package", remedy

    def quantized(self) -> dict[str, str]:
        """What quantisation adds to an identity: it makes another model."""
        return {} if self.settings.quantization is None else {"quantization": self.settings.quantization}


class VllmTeacher(LocalTeacher, VllmVoice):
    """A language model that vLLM runs."""

    settings: VllmSettings

    def identity(self) -> Mapping[str, Any]:
        """Digests of all files of the model, the chat template, how it is sampled and what it is held to."""
        structured = self.settings.structured
        held_to = {} if structured is None else {"structured": structured.identity()}
        return {**super().identity(), **self.quantized(), **held_to}

    def task(self) -> Mapping[str, Any]:
        """To answer, held to what the settings say."""
        structured = self.settings.structured
        return {**super().task(), "structured": None if structured is None else structured.constraint()}
