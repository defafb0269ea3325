"""The teacher ``vllm``, and reward models that vLLM runs: for models of any size on GPUs.

The engine runs offline, in a process of its own for each group of GPUs
(:mod:`~aya_data.builders.arbitrage.teachers.host`), under an interpreter of its own where its pins do not suit this
package's: ``python``. All processes take from one stream of requests; the engine's workers are in their process group
and end with it. vLLM 0.32 or later.

What a voice is says nothing of the engine: a model that transformers ran yesterday, sampled alike, is the same voice
here, and its answers in the journal are read, not asked for again.

What our loop costs on top of ``LLM.generate`` on the same prompts is measured by ``benchmarks/vllm_overhead.py``.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from aya_data.builders.arbitrage.teacher import Sampling, TeacherSettings
from aya_data.builders.arbitrage.teachers.host import Host, HostSession, Replica, interpreter
from aya_data.builders.arbitrage.teachers.local_model import LocalModel, LocalModelSettings
from aya_data.core.errors import InputError
from aya_data.core.generation import Place, Session, Voice
from aya_data.core.settings import Number, Settings, Size, wrong
from aya_data.core.stage import Environment

__all__ = ["Structured", "VllmEngine", "VllmScorer", "VllmScorerSettings", "VllmSettings", "VllmTeacher"]

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


class VllmSettings(VllmEngine, TeacherSettings):
    """Settings of the teacher ``vllm``."""

    engine: Literal["vllm"] = Field(description="A model that vLLM runs, in a process of its own.")
    sampling: Sampling = Field(
        description="How it is sampled.", examples=[{"n": 2, "temperature": 0.7, "max_tokens": 1024}]
    )
    structured: Structured | None = Field(None, description="What every answer must look like. Default: anything.")
    adapter: str | None = Field(None, min_length=1, description="A LoRA adapter of peft: a folder or Hub repository.")
    adapter_revision: str | None = Field(None, min_length=1, description="The revision of the adapter on the Hub.")


class VllmScorerSettings(VllmEngine):
    """Settings of a reward model that vLLM runs."""

    engine: Literal["vllm"] = Field(description="A reward model that vLLM runs, in a process of its own.")


class VllmTeacher(Voice):
    """A language model that answers."""

    def __init__(
        self, name: str, settings: VllmSettings, environment: Environment, path: tuple[str, ...] | None = None
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
        """Digests of all files of the model, the chat template, how it is sampled and what it is held to."""
        own = self.settings
        identity = {**self.model.identity(), **_quantized(own), "sampling": own.sampling.identity()}
        if own.structured is not None:
            identity["structured"] = own.structured.identity()
        return identity

    def prices(self) -> tuple[float, float] | None:
        """What the spec says that it costs."""
        price = self.settings.price
        return None if price is None else (float(price.prompt), float(price.completion))

    def session(self, place: Place) -> AbstractContextManager[Session]:
        """Start the engines and load the model; downloads what is missing of it first."""
        own, sampling = self.settings, self.settings.sampling
        settings = {
            "task": "generate",
            **_process_settings(own, self.model),
            "sampling": {
                "temperature": float(sampling.temperature),
                "max_tokens": sampling.max_tokens,
                "top_p": float(sampling.top_p),
                "top_k": sampling.top_k,
                "min_p": float(sampling.min_p),
                "repetition_penalty": float(sampling.repetition_penalty),
                "stop": list(sampling.stop),
            },
            "structured": own.structured.constraint() if own.structured is not None else None,
        }
        return _session(self.name, own, settings, self.environment, place)


class VllmScorer(Voice):
    """A reward model: a sequence classification model with one label. A score is its raw logit."""

    def __init__(
        self, name: str, settings: VllmScorerSettings, environment: Environment, path: tuple[str, ...] = ("arbiter",)
    ) -> None:
        self.name = name
        self.settings = settings
        self.environment = environment
        self.model = LocalModel(settings, environment, path=path)

    def identity(self) -> Mapping[str, Any]:
        """Digests of all files of the model, the chat template, and the precision."""
        own = self.settings
        return {**self.model.identity(), **_quantized(own), "scores": "logit", "dtype": own.dtype}

    def session(self, place: Place) -> AbstractContextManager[Session]:
        """Start the engines and load the model; downloads what is missing of it first."""
        own = self.settings
        settings = {"task": "score", **_process_settings(own, self.model)}
        return _session(self.name, own, settings, self.environment, place)


def _quantized(own: VllmEngine) -> dict[str, str]:
    return {} if own.quantization is None else {"quantization": own.quantization}


def _process_settings(own: VllmEngine, model: LocalModel) -> dict[str, Any]:
    """What a process is told of a model and of how it runs; has all of its files here."""
    if own.python is None and importlib.util.find_spec("vllm") is None:
        raise InputError(
            "there is no vllm beside this package",
            "Install it in an environment of its own, and name that environment's interpreter under 'python'.",
        )
    share = own.gpu_memory_utilization
    return {
        **model.bring(),
        "template": model.template(),
        "template_variables": dict(own.template_variables),
        "tensor_parallel": own.tensor_parallel,
        "dtype": own.dtype,
        "quantization": own.quantization,
        "max_model_len": own.max_length,
        "gpu_memory_utilization": None if share is None else float(share),
        "kv_cache": own.kv_cache,
        "max_num_seqs": own.max_num_seqs,
        "enforce_eager": own.enforce_eager,
        "window": own.window,
    }


def _session(
    name: str, own: VllmEngine, settings: Mapping[str, Any], environment: Environment, place: Place
) -> AbstractContextManager[Session]:
    groups = own.devices or (None,)
    host = Host(
        name,
        settings,
        scripts=SCRIPTS,
        replicas=tuple(Replica(settings={"devices": None if group is None else list(group)}) for group in groups),
        window=own.window,
        python=interpreter(own.python, environment.base),
    )
    return HostSession(host, place)
