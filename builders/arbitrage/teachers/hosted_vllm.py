"""The process of a model that vLLM runs: completions, or the scores of a reward model.

A script of its own (see :mod:`hosted_protocol`): it needs vllm (0.32 or later) and nothing of this package.

**Feeding.** ``LLM.generate`` takes a list and returns when the last of it is done, so that chunk after chunk the
engine runs empty. Here requests are added while others run: a quarter more than run at a time, so that a sequence that
ends is followed by one that waits in the engine itself. What arrives meanwhile is sorted, by system prompt, then
length, then text, and is added when all that was sorted before it is: what shares a beginning stands together, for
the engine's cache of prefixes, samples of one prompt above all; and nothing waits for ever.

**Samples.** Every request is one sample with its own seed; ``n`` of the engine stays 1. At temperature 0 no seed is
given: a sampler with a seed takes its rows one by one.

**Scores** are raw logits of a sequence classification model with one label, at the last token, of the conversation in
the model's own chat template, which writes all special tokens itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from multiprocessing import resource_tracker, util
from pathlib import Path
from typing import Any

from hosted_protocol import Desk, Refused, reason_of, rendered, serve, without_network

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks of adapters that the engine prepares for."""
FINISHED = frozenset({"stop", "length"})


def load(settings: dict[str, Any]) -> Completions | Scores:
    """Start the engine; ``task`` is ``generate`` or ``score``."""
    without_network()
    _devices(settings.get("devices"))
    # Nothing is sent to anybody; workers are new processes, since this one has threads.
    os.environ.update({"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"})
    _leave_nothing()
    try:
        import torch

        cpu = _is_cpu(torch)
        if cpu and settings.get("enforce_eager"):
            # Nothing is compiled, yet on a CPU the compiler is set up and traces samplers for half a minute.
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        import transformers
        import vllm
    except ImportError as error:
        raise Refused(
            f"the interpreter has no {getattr(error, 'name', None) or 'vllm'} ({reason_of(error)})",
            "Install vllm in an environment of its own, and name its interpreter under 'python'.",
            "python",
        ) from error
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(settings["tokenizer"], trust_remote_code=False)
        if settings["task"] == "score":
            _check_reward_model(settings["model"])
        engine = vllm.LLM(**_arguments(settings, cpu))
        adapter = _adapter(engine, settings.get("adapter"))
    except Refused:
        raise
    except torch.OutOfMemoryError:
        raise
    except (ImportError, KeyError, OSError, TypeError, ValueError) as error:
        raise Refused(f"the model cannot be loaded: {reason_of(error)}") from error
    template = settings.get("template") or getattr(tokenizer, "chat_template", None)
    if not template:
        raise Refused("the tokenizer has no chat template", "Name a Jinja file under 'chat_template'.", "chat_template")
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()))
    config = engine.llm_engine.vllm_config
    facts = {
        "engine": "vllm",
        "python": platform.python_version(),
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": "cpu" if cpu else _device_name(torch),
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "tokenizer": _tokenizer_digest(tokenizer),
        "template": hashlib.sha256(template.encode()).hexdigest(),
        "max_length": config.model_config.max_model_len,
        "sequences": config.scheduler_config.max_num_seqs,
    }
    kind = Completions if settings["task"] == "generate" else Scores
    return kind(engine, tokenizer, template, adapter, settings, facts)


def _leave_nothing() -> None:
    """Have what the engine's processes share removed however they end, SIGKILL included.

    They share hundreds of megabytes under /dev/shm. Python's resource tracker removes what is left when the last of
    them has ended; it must not be killed with their group, so it gets one of its own. Sockets and the like go to the
    folder of this script, which whoever started it removes, unless that makes their paths too long (108 bytes).
    """
    usual = util.spawnv_passfds

    def apart(path: Any, args: Sequence[Any], passfds: Sequence[int]) -> int:
        made = subprocess.Popen(list(args), executable=path, pass_fds=list(passfds), start_new_session=True)
        made.returncode = 0  # nobody waits for it, so that nobody complains of that
        return made.pid

    util.spawnv_passfds = apart
    try:
        resource_tracker.ensure_running()
    finally:
        util.spawnv_passfds = usual
    folder = str(Path(sys.argv[0]).resolve().parent)
    if len(os.fsencode(folder)) <= 70:
        os.environ["TMPDIR"], tempfile.tempdir = folder, folder


def _devices(group: list[int] | None) -> None:
    """Let the engine see these devices alone; numbers count those that this process may see."""
    if group is None:
        return
    seen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if seen and max(group) >= len(seen):
        raise Refused(
            f"there is no device {max(group)}: CUDA_VISIBLE_DEVICES names {len(seen)}",
            "Devices count from 0, in the order of CUDA_VISIBLE_DEVICES.",
            "devices",
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(seen[number] if seen else str(number) for number in group)


def _is_cpu(torch: Any) -> bool:
    return torch.version.cuda is None and torch.version.hip is None and not torch.xpu.is_available()


def _device_name(torch: Any) -> str:
    try:
        # Asks the driver; a CUDA context here would take memory from the engine's own process.
        return str(torch.cuda.get_device_properties(0).name) if torch.cuda.is_initialized() else _platform_name()
    except (AssertionError, RuntimeError):
        return "unknown"


def _platform_name() -> str:
    from vllm.platforms import current_platform

    try:
        return str(current_platform.get_device_name())
    except NotImplementedError:
        return str(getattr(current_platform, "device_name", "unknown"))


def _check_reward_model(folder: str) -> None:
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    architectures = config.architectures or ["of no architecture that its configuration names"]
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        # The engine would convert a language model too.
        raise Refused(f"the model is {architectures[0]}, not one for sequence classification", "It is no reward model.")
    if config.num_labels != 1:
        raise Refused(
            f"the model has {config.num_labels} labels, a reward model has one",
            "Choose a model that was trained to give one reward.",
        )


def _arguments(settings: dict[str, Any], cpu: bool) -> dict[str, Any]:
    dtype = settings.get("dtype", "auto")
    arguments = {
        "model": settings["model"],
        "tokenizer": settings["tokenizer"],
        "dtype": "float32" if cpu and dtype == "auto" else dtype,
        "seed": 0,
        "trust_remote_code": False,
        "tensor_parallel_size": settings.get("tensor_parallel", 1),
        "quantization": settings.get("quantization"),
        "max_model_len": settings.get("max_length"),
        "max_num_seqs": settings.get("max_num_seqs"),
        "gpu_memory_utilization": settings.get("gpu_memory_utilization"),
        "kv_cache_memory_bytes": settings.get("kv_cache"),
        "enforce_eager": settings.get("enforce_eager", False),
    }
    if settings["task"] == "score":
        arguments |= {"runner": "pooling", "convert": "classify"}
    else:
        arguments["runner"] = "generate"
        if cpu:
            # A prompt that is read in pieces takes back the numbers that its seed gave, which a CPU's generator cannot:
            # the engine ends ("CPU Generator does not use offset", 0.32).
            arguments["enable_chunked_prefill"] = False
    if settings.get("adapter"):
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _rank(settings["adapter"])}
    return {name: value for name, value in arguments.items() if value is not None}


def _rank(folder: str) -> int:
    """Return the least rank that the engine can prepare for and that holds the adapter's."""
    try:
        written = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
        ranks = [int(written["r"]), *(int(rank) for rank in (written.get("rank_pattern") or {}).values())]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(
            f"the adapter cannot be read: {reason_of(error)}", "Name a LoRA adapter as PEFT saves it.", "adapter"
        ) from error
    fitting = [rank for rank in RANKS if rank >= max(ranks)]
    if not fitting:
        what = f"the adapter has rank {max(ranks)}, the engine takes {RANKS[-1]}"
        raise Refused(what, "Merge it into its model.", "adapter")
    return fitting[0]


def _adapter(engine: Any, folder: str | None) -> Any:
    """Load the adapter now: one that does not fit would end the engine at the first request."""
    if not folder:
        return None
    from vllm.lora.request import LoRARequest

    request = LoRARequest("adapter", 1, folder)
    try:
        loaded = engine.llm_engine.add_lora(request)
    # The engine's process passes on whatever it met.
    except Exception as error:
        raise Refused(f"the adapter does not fit the model: {reason_of(error)}", setting="adapter") from error
    if not loaded:
        raise Refused("the adapter does not fit the model", setting="adapter")
    return request


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(content.encode()).hexdigest()


class _Request:
    """One request as the model reads it."""

    __slots__ = ("id", "order", "seed", "tokens")

    def __init__(self, id: int, tokens: list[int], seed: int, order: tuple[str, int, str]) -> None:
        self.id, self.tokens, self.seed, self.order = id, tokens, seed, order


class _Feeding:
    """Keeps the engine full."""

    answers = True

    def __init__(
        self,
        engine: Any,
        tokenizer: Any,
        template: str,
        adapter: Any,
        settings: dict[str, Any],
        facts: dict[str, Any],
    ) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        self.fatal: type[Exception] = EngineDeadError
        self.engine = engine.llm_engine
        self.tokenizer, self.template, self.adapter, self.settings, self.facts = (
            tokenizer, template, adapter, settings, facts,
        )  # fmt: skip
        self.context: int = facts["max_length"]
        self.full: int = facts["sequences"] + max(8, facts["sequences"] // 4)
        self.running: dict[str, _Request] = {}

    def run(self, desk: Desk) -> None:
        arrived: list[_Request] = []
        sorted_ones: deque[_Request] = deque()
        while True:
            idle = not (self.running or sorted_ones or arrived)
            new = self._new(desk, idle)
            if desk.stopped or (idle and not new):
                return
            arrived += filter(None, (self._prepared(desk, request) for request in new))
            if arrived and not sorted_ones:
                sorted_ones.extend(sorted(arrived, key=lambda request: request.order))
                arrived.clear()
            while sorted_ones and len(self.running) < self.full:
                self._add(desk, sorted_ones.popleft())
            if self.running:
                for output in self.engine.step():
                    if output.finished:
                        self._finish(desk, self.running.pop(output.request_id), output)
                desk.step()

    def _new(self, desk: Desk, idle: bool) -> list[dict[str, Any]]:
        # No more than run: while they are read the engine has nothing to do, or nothing new.
        if idle:
            first: list[dict[str, Any]] = desk.take(self.full)
            return first
        # One by one: a longer wish waits for more to come, and the engine with it.
        new: list[dict[str, Any]] = []
        while len(new) < self.full and (one := desk.take(1, wait=False)):
            new += one
        return new

    def _prepared(self, desk: Desk, request: dict[str, Any]) -> _Request | None:
        id, messages = request["id"], request["messages"]
        try:
            text = rendered(
                self.tokenizer,
                messages,
                template=self.template,
                variables=self.settings.get("template_variables"),
                answer=self.answers,
            )
        # Templates are programs; they raise what they like.
        except Exception as error:
            desk.fail(id, f"the chat template refuses the conversation: {reason_of(error)}")
            return None
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not tokens:
            desk.fail(id, "the chat template makes an empty text of the conversation")
            return None
        if len(tokens) + (1 if self.answers else 0) > self.context:
            reason = f"the conversation has {len(tokens)} tokens, the model takes {self.context}"
            desk.absent(id, reason, prompt_tokens=len(tokens))
            return None
        system = "".join(content for role, content in messages if role == "system")
        return _Request(id, tokens, request["seed"], (system, len(tokens), text))

    def _add(self, desk: Desk, request: _Request) -> None:
        prompt = {"type": "token", "prompt_token_ids": request.tokens}
        name = str(request.id)
        try:
            self.engine.add_request(name, prompt, self._parameters(request), lora_request=self.adapter)
        except self.fatal:
            raise
        # What the engine says of a request that it does not take has no one class.
        except Exception as error:
            if self.settings.get("structured"):
                what = f"the engine cannot hold to 'structured': {reason_of(error)}"
                raise Refused(what, setting="structured") from error
            desk.fail(request.id, reason_of(error))
            return
        self.running[name] = request

    def _parameters(self, request: _Request) -> Any:
        raise NotImplementedError

    def _finish(self, desk: Desk, request: _Request, output: Any) -> None:
        raise NotImplementedError


class Completions(_Feeding):
    """A language model that answers."""

    def _parameters(self, request: _Request) -> Any:
        # From where they are defined: the package looks its own names up at each import, at 25 microseconds a request.
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

        sampling = self.settings["sampling"]
        structured = self.settings.get("structured")
        return SamplingParams(
            n=1,
            temperature=sampling["temperature"],
            top_p=sampling["top_p"],
            top_k=sampling["top_k"] or 0,
            min_p=sampling["min_p"],
            repetition_penalty=sampling["repetition_penalty"],
            max_tokens=sampling["max_tokens"],
            stop=list(sampling["stop"]),
            detokenize=bool(sampling["stop"]),
            seed=request.seed if sampling["temperature"] > 0 else None,
            structured_outputs=StructuredOutputsParams(**structured) if structured else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # nobody else has it
        )

    def _finish(self, desk: Desk, request: _Request, output: Any) -> None:
        (made,) = output.outputs
        if made.finish_reason not in FINISHED:
            desk.fail(request.id, f"the engine ended it: {made.finish_reason}")
            return
        # Decoded as a whole: what the engine puts together token by token may lack the end, and takes its time.
        tokens = list(made.token_ids)
        ended = made.finish_reason == "stop" and not isinstance(made.stop_reason, str)
        text: str = self.tokenizer.decode(
            tokens[:-1] if ended else tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        finish = made.finish_reason
        cuts = [at for at in (text.find(stop) for stop in self.settings["sampling"]["stop"]) if at >= 0]
        if cuts:
            text, finish = text[: min(cuts)], "stop"
        elif finish == "length":
            # The last character may have been cut apart.
            text = text.rstrip("\N{REPLACEMENT CHARACTER}")
        desk.answer(
            request.id,
            text=text,
            finish=finish,
            prompt_tokens=len(request.tokens),
            completion_tokens=len(tokens),
        )


class Scores(_Feeding):
    """A sequence classification model with one label."""

    answers = False

    def _parameters(self, request: _Request) -> Any:
        from vllm.pooling_params import PoolingParams

        # Without this the score goes through a sigmoid, where good answers are all the same.
        return PoolingParams(task="classify", use_activation=False)

    def _finish(self, desk: Desk, request: _Request, output: Any) -> None:
        value = float(output.outputs.data.reshape(-1)[0])
        if value != value or value in (float("inf"), float("-inf")):
            desk.fail(request.id, f"the model gave {value}, which is no score")
        else:
            desk.answer(request.id, value=value, prompt_tokens=len(request.tokens))


if __name__ == "__main__":
    serve(load)
