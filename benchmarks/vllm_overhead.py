"""What our loop costs on top of vLLM: ``HostSession.ask`` against ``LLM.generate`` and ``LLM.chat``, in one run.

Aim: at most 3 % for 1,000 requests and more. Two engines with the same settings are loaded, ours behind its pipes and
one in a program that does what a person would write; they answer the same conversations with the same seeds in turns,
each turn with new conversations, and the program's cache of prefixes is emptied after each call, so that it helps none
that comes later. ``LLM.generate`` gets token numbers that were made before the clock started; ``LLM.chat`` and our loop
apply the chat template themselves. *tokens alone* is ``LLM.generate`` that makes no text either: the engine by itself.
The engine puts text together token by token, our loop once, at the end. The numbers of tokens must be the same (in
bfloat16, which rounds otherwise in another batch, all but the same), or the run is void.

Two models of random weights, made on the spot. ``tiny`` has two layers, so that all that is not the model weighs as
much as it can. ``100m`` has 99 million parameters in twelve layers of 768, and shorter conversations and answers, so
that one core gets through them. A request costs our loop so many microseconds whatever the model: that is what carries
over to a GPU, where a share is these microseconds by the model's own time for a request.

Seconds are those of a clock, so that other work on the machine spoils them; beside them stand the processor seconds of
whoever asks the engine, which runs in other processes. Differences are taken within a turn; shown is their median over
turns. Needs an environment with vLLM (``.ci/vllm`` makes one)::

    python -m benchmarks.vllm_overhead [--size tiny|100m] [--runs N] [--requests N] [--model FOLDER] [--dry]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import Report, spread

RUNS = 5
AIM = 0.03
WARM = 64
"""Requests of the turn that warms up, at most."""
SEQUENCES = 64
SYSTEM = "Answer in the language of the question, in two sentences."
WAYS = {
    "LLM.generate": "generate",
    "LLM.generate, tokens alone": "tokens",
    "LLM.chat": "chat",
    "HostSession.ask": None,
}
"""How the engine is asked, and what the program that asks it directly calls that."""
CACHE = 512
"""Megabytes of each engine's cache of keys and values."""
BASES = ("LLM.generate", "LLM.chat")
TOPICS = ("the sea", "a bridge", "bread", "the moon", "a market", "rain", "an old clock", "glass")


@dataclass(frozen=True, slots=True)
class Size:
    """A model and what it is asked."""

    requests: int
    max_tokens: int
    long: bool
    """Whether conversations have a system prompt, and ask twice."""
    dtype: str = "float32"
    layers: int = 0
    hidden: int = 0
    intermediate: int = 0
    heads: int = 0
    spread: float = 0.0
    """Standard deviation of the weights."""

    @property
    def made(self) -> bool:
        """Whether the model is made here: so small that compiling it takes longer than it gains."""
        return self.layers > 0


SIZES = {
    "tiny": Size(1024, 64, True, "float32", 2, 128, 256, 4, 0.1),
    "100m": Size(1024, 16, False, "bfloat16", 12, 768, 2816, 12, 0.02),
    "own": Size(1024, 64, True),
}
"""``own`` is a model that ``--model`` names."""


def conversations(size: Size, turn: int, requests: int) -> list[tuple[list[list[str]], int]]:
    """The conversations of a turn, with their seeds: four samples of each prompt."""
    system, times = ([["system", SYSTEM]], 2) if size.long else ([], 1)
    what = "what do you know about " if size.long else ""
    return [
        (
            [
                *system,
                ["user", f"Turn {turn}, question {number // 4}: {what}{TOPICS[number % 8]}? " * times],
            ],
            turn * 100_000 + number,
        )
        for number in range(requests)
    ]


def model(size: Size, folder: Path) -> Path:
    """Write a model of random weights, with a tokenizer of some 400 tokens."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from tests.tiny_models import tokenizer

    tokens = tokenizer(folder)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads // 2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=size.spread,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=getattr(torch, size.dtype)).save_pretrained(folder)
    return folder


def processor_seconds(process: int) -> float:
    """Processor time so far of a process. The engine runs in others, which wait in loops and so are no measure."""
    # After the name, which may hold anything: state, parent, group; then user and system time at 11 and 12.
    fields = Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def direct(model: str, size: Size) -> None:
    """Be the program that a person would write: answer turns that stdin names, one line of JSON each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=model,
        dtype=size.dtype,
        max_num_seqs=SEQUENCES,
        enforce_eager=size.made,
        kv_cache_memory_bytes=CACHE * 10**6,
        seed=0,
        **({"enable_chunked_prefill": False} if torch.version.cuda is None else {}),
    )
    tokenizer = llm.get_tokenizer()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        before = time.process_time()
        turns = conversations(size, asked["turn"], asked["requests"])
        messages = [[{"role": role, "content": text} for role, text in one] for one, _ in turns]
        params = [
            SamplingParams(temperature=1.0, max_tokens=size.max_tokens, seed=seed, detokenize=asked["call"] != "tokens")
            for _, seed in turns
        ]
        prompts = [
            {
                "prompt_token_ids": tokenizer.encode(
                    tokenizer.apply_chat_template(one, add_generation_prompt=True, tokenize=False),
                    add_special_tokens=False,
                )
            }
            for one in messages
        ]
        before = time.process_time() - before
        began = time.perf_counter()
        if asked["call"] != "chat":
            found = llm.generate(prompts, params, use_tqdm=False)
        else:
            found = llm.chat(messages, params, use_tqdm=False)
        seconds = time.perf_counter() - began
        tokens = sum(len(one.outputs[0].token_ids) for one in found)
        print(json.dumps({"seconds": seconds, "tokens": tokens, "before": before}), file=answers, flush=True)
        if not llm.reset_prefix_cache():
            raise SystemExit("the cache of prefixes could not be emptied")


@contextmanager
def program(model: Path, name: str, log: Path) -> Iterator[Any]:
    """Run :func:`direct` in a process of its own; yields what asks it for a turn."""
    arguments = [sys.executable, "-m", "benchmarks.vllm_overhead", "--direct", str(model), "--size", name]
    # What our process sets too.
    environment = {
        **os.environ,
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        **({"TORCHDYNAMO_DISABLE": "1"} if SIZES[name].made else {}),
    }
    with log.open("wb") as errors:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout
        if stdout.readline() != "ready\n":
            raise SystemExit(f"the program did not start:\n{log.read_text()[-2000:]}")

        def ask(call: str, turn: int, requests: int) -> dict[str, Any]:
            began = processor_seconds(process.pid)
            stdin.write(json.dumps({"call": call, "turn": turn, "requests": requests}) + "\n")
            stdin.flush()
            line = stdout.readline()
            if not line:
                raise SystemExit(f"the program ended:\n{log.read_text()[-2000:]}")
            found: dict[str, Any] = json.loads(line)
            # For LLM.generate, the numbers of tokens were made before: they count as nothing of it.
            return {**found, "processor": processor_seconds(process.pid) - began - found["before"]}

        try:
            yield ask
        finally:
            stdin.close()
            process.wait()


def measure(name: str, runs: int, requests: int, given: str | None = None) -> dict[str, Any]:
    """Time ``runs`` turns of each way with a model of this size, after one that warms up."""
    from aya_data.builders.arbitrage.teachers.vllm_engine import VllmSettings, VllmTeacher
    from aya_data.core import license as licenses
    from aya_data.core.generation import Place, Request
    from aya_data.core.stage import Environment

    size = SIZES[name]
    if size.made:
        # Threads that wait for each other slow a tiny model down; one for the engine leaves a core to who asks it.
        os.environ |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    ways = tuple(WAYS)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    processor: dict[str, list[float]] = {way: [] for way in ways}
    tokens = 0
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        folder = model(size, base / "model") if given is None else Path(given).absolute()
        settings = VllmSettings.model_validate(
            {
                "engine": "vllm",
                "model": str(folder),
                "dtype": size.dtype,
                "enforce_eager": size.made,
                "kv_cache": f"{CACHE}MB",
                "max_num_seqs": SEQUENCES,
                "sampling": {"n": 1, "temperature": 1, "max_tokens": size.max_tokens},
            }
        )
        voice = VllmTeacher(name, settings, Environment(base, base, True, 7, None, licenses.policy("any")))
        place = Place(base / "cache", base / "temporary", base / "log.txt")
        with program(folder, name, base / "direct.txt") as ask, voice.session(place) as session:
            for turn in range(runs + 1):
                count = requests if turn else min(WARM, requests)
                counts = {}
                # Whoever comes first in one turn comes last in another.
                for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                    call = WAYS[way]
                    if call is None:
                        asked = [
                            Request(str(at), tuple((role, text) for role, text in messages), seed)
                            for at, (messages, seed) in enumerate(conversations(size, turn, count))
                        ]
                        used = processor_seconds(session.pids[0]) + time.process_time()
                        began = time.perf_counter()
                        found = [one for one in session.ask(iter(asked)) if one is not None]
                        took = time.perf_counter() - began
                        used = processor_seconds(session.pids[0]) + time.process_time() - used
                        assert len(found) == count
                        counts[way] = sum(one.completion_tokens or 0 for one in found)
                    else:
                        said = ask(call, turn, count)
                        took, counts[way], used = said["seconds"], said["tokens"], said["processor"]
                    print(f"{name}, turn {turn} of {runs}, {way}: {took:.2f} s", file=sys.stderr)
                    if turn:
                        seconds[way].append(took)
                        processor[way].append(used)
                # Another token may end an answer elsewhere.
                slack = 0.01 if size.dtype == "bfloat16" else 0.0
                if max(counts.values()) - min(counts.values()) > slack * max(counts.values()):
                    raise SystemExit(f"the answers differ: {counts}")
                tokens = counts["HostSession.ask"]
    figures: dict[str, Any] = {"requests": requests, "tokens": tokens}
    for way in ways:
        figures[way] = spread(seconds[way]) | {"processor": spread(processor[way])["median"]}
        for base_way in BASES:
            figures[way][f"over {base_way}"] = {
                "share": round(
                    median(one / other for one, other in zip(seconds[way], seconds[base_way], strict=True)) - 1, 4
                ),
                "microseconds": extra(seconds[way], seconds[base_way], requests),
                "processor_microseconds": extra(processor[way], processor[base_way], requests),
            }
    return figures


def extra(times: list[float], base: list[float], requests: int) -> float:
    """Microseconds that a request takes above the base: the median over turns."""
    return round(median(one - other for one, other in zip(times, base, strict=True)) / requests * 1e6, 1)


def lines(name: str, figures: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The rows of the table for one size."""
    for way in WAYS:
        found = figures[way]
        cells = [f"{found[key]:.2f}" for key in ("median", "least", "greatest")]
        for base in BASES:
            over = found[f"over {base}"]
            cells += [f"{over['share']:+.1%}", f"{over['microseconds']:+.0f}", f"{over['processor_microseconds']:+.0f}"]
        yield f"{name}: {way}", *cells


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vllm_overhead")
    parser.add_argument("--size", choices=SIZES, default=None, help="one size of model alone; default: tiny and 100m")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--requests", type=int, default=None, help="of a turn; default: by the size")
    parser.add_argument("--model", default=None, help="a folder with a model to measure instead")
    parser.add_argument("--dry", action="store_true", help="print only, write no results")
    parser.add_argument("--direct", metavar="FOLDER", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.direct:
        direct(given.direct, SIZES[given.size])
        return
    if given.size == "own" and given.model is None:
        parser.error("--size own needs --model")
    one = "own" if given.model else given.size
    names = [one] if one else ["tiny", "100m"]
    report = Report(
        "_".join(filter(None, ("vllm_overhead", one))),
        f"seconds of a turn, {SEQUENCES} requests at a time; above each base: share, microseconds of a request by the "
        "clock and of the asker's processor",
        (
            "",
            "median",
            "least",
            "greatest",
            *(cell for base in BASES for cell in (f"over {base}", "clock", "processor")),
        ),
    )
    report.figures["aim"] = AIM
    for name in names:
        found = measure(name, given.runs, given.requests or SIZES[name].requests, given.model)
        report.figures[name] = found
        report.lines += lines(name, found)
        report.notes.append(f"{name}: {found['requests']} requests, {found['tokens']} tokens of answers.")
    report.notes.append("Above a base: the median over turns of the ratio, or of the difference, within a turn.")
    report.print()
    if not given.dry:
        print(f"\n  {report.write().name}")


if __name__ == "__main__":
    main()
