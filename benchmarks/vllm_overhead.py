"""What our loop costs on top of vLLM: ``HostSession.ask`` against ``LLM.generate`` and ``LLM.chat``, in one run.

Aim: at most 3 % for 1,000 requests and more. Two engines with the same settings are loaded, ours behind its pipes and
one in a program that does what a person would write; they answer the same conversations with the same seeds in turns,
each turn with new conversations, so that no cache of prefixes helps the one that comes later. ``LLM.generate`` gets
token numbers that were made before the clock started; ``LLM.chat`` and our loop apply the chat template themselves.
*tokens alone* is ``LLM.generate`` that makes no text either: the engine by itself. The engine puts text together token
by token, our loop once, at the end. Where the conversations are the same, the numbers of tokens must be too, or the run
is void.

The smaller the model, the larger the share of everything that is not the model: a model of two layers is the worst
case. Seconds are those of a clock, so that other work on the machine spoils them; beside them stand the processor
seconds of whoever asks the engine, which runs in other processes. Needs an environment with vLLM (``.ci/vllm`` makes
one); five runs take some four minutes on two cores that have nothing else to do::

    python -m benchmarks.vllm_overhead [--runs N] [--requests N] [--model FOLDER] [--dry]
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
from pathlib import Path
from typing import Any

from benchmarks.report import Report, spread

RUNS = 5
REQUESTS = 1024
AIM = 0.03
WARM = 128
"""Requests of the turn that warms up, at most."""
MAX_TOKENS = 64
SEQUENCES = 64
SYSTEM = "Answer in the language of the question, in two sentences."
WAYS = {
    "LLM.generate": ("generate", 0),
    "LLM.generate, tokens alone": ("tokens", 1000),
    "LLM.chat": ("chat", 2000),
    "HostSession.ask": ("", 0),
}
"""How the engine is asked: the call, and by how much its turns differ."""
TOPICS = ("the sea", "a bridge", "bread", "the moon", "a market", "rain", "an old clock", "glass")


def conversations(turn: int, requests: int) -> list[tuple[list[list[str]], int]]:
    """The conversations of a turn, with their seeds: four samples of each prompt."""
    return [
        (
            [
                ["system", SYSTEM],
                ["user", f"Turn {turn}, question {number // 4}: what do you know about {TOPICS[number % 8]}? " * 2],
            ],
            turn * 100_000 + number,
        )
        for number in range(requests)
    ]


def processor_seconds(process: int) -> float:
    """Processor time so far of a process. The engine runs in others, which wait in loops and so are no measure."""
    # After the name, which may hold anything: state, parent, group; then user and system time at 11 and 12.
    fields = Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def direct(model: str, eager: bool) -> None:
    """Be the program that a person would write: answer turns that stdin names, one line of JSON each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=model,
        dtype="float32",
        max_num_seqs=SEQUENCES,
        enforce_eager=eager,
        kv_cache_memory_bytes=256 * 10**6,
        seed=0,
        **({"enable_chunked_prefill": False} if torch.version.cuda is None else {}),
    )
    tokenizer = llm.get_tokenizer()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        before = time.process_time()
        turns = conversations(asked["turn"], asked["requests"])
        messages = [[{"role": role, "content": text} for role, text in one] for one, _ in turns]
        params = [
            SamplingParams(temperature=1.0, max_tokens=MAX_TOKENS, seed=seed, detokenize=asked["call"] != "tokens")
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


@contextmanager
def program(model: Path, eager: bool, log: Path) -> Iterator[Any]:
    """Run :func:`direct` in a process of its own; yields what asks it for a turn."""
    arguments = [sys.executable, "-m", "benchmarks.vllm_overhead", "--direct", str(model)]
    arguments += ["--eager"] if eager else []
    # What our process sets too.
    environment = {
        **os.environ,
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        **({"TORCHDYNAMO_DISABLE": "1"} if eager else {}),
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


def measure(runs: int, requests: int = REQUESTS, model: str | None = None) -> Report:
    """Time ``runs`` turns of each way, after one that warms up."""
    from aya_data.builders.arbitrage.teachers.vllm_engine import VllmSettings, VllmTeacher
    from aya_data.core import license as licenses
    from aya_data.core.generation import Place, Request
    from aya_data.core.stage import Environment

    eager = model is None
    if eager:
        # Threads that wait for each other slow a tiny model down; one for the engine leaves a core to who asks it.
        os.environ |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    ways = tuple(WAYS)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    processor: dict[str, list[float]] = {way: [] for way in ways}
    tokens = 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        if model is None:
            from tests.tiny_models import causal_lm

            folder = causal_lm(base / "model")
        else:
            folder = Path(model).absolute()
        settings = VllmSettings.model_validate(
            {
                "engine": "vllm",
                "model": str(folder),
                "dtype": "float32",
                "enforce_eager": eager,
                "kv_cache": "256MB",
                "max_num_seqs": SEQUENCES,
                "sampling": {"n": 1, "temperature": 1, "max_tokens": MAX_TOKENS},
            }
        )
        voice = VllmTeacher("tiny", settings, Environment(base, base, True, 7, None, licenses.policy("any")))
        place = Place(base / "cache", base / "temporary", base / "log.txt")
        with program(folder, eager, base / "direct.txt") as ask, voice.session(place) as session:
            for turn in range(runs + 1):
                size = requests if turn else min(WARM, requests)
                # Whoever comes first in one turn comes last in another.
                order = ways[turn % len(ways) :] + ways[: turn % len(ways)]
                counts = {}
                for way in order:
                    if way == "HostSession.ask":
                        asked = [
                            Request(str(at), tuple((role, text) for role, text in messages), seed)
                            for at, (messages, seed) in enumerate(conversations(turn, size))
                        ]
                        used = processor_seconds(session.pids[0]) + time.process_time()
                        began = time.perf_counter()
                        found = [one for one in session.ask(iter(asked)) if one is not None]
                        took = time.perf_counter() - began
                        used = processor_seconds(session.pids[0]) + time.process_time() - used
                        assert len(found) == size
                        counts[way] = sum(one.completion_tokens or 0 for one in found)
                    else:
                        # The calls share an engine: other conversations of the same lengths for each.
                        call, offset = WAYS[way]
                        said = ask(call, turn + offset, size)
                        took, counts[way], used = said["seconds"], said["tokens"], said["processor"]
                    if turn:
                        seconds[way].append(took)
                        processor[way].append(used)
                if counts["LLM.generate"] != counts["HostSession.ask"]:
                    raise SystemExit(f"the answers differ: {counts}")
                tokens = counts["HostSession.ask"]
    report = Report(
        "vllm_overhead",
        f"{requests} requests of {MAX_TOKENS} tokens, {SEQUENCES} at a time, seconds",
        ("", "median", "least", "greatest", "against LLM.generate", "processor of the asker"),
    )
    base_line = spread(seconds["LLM.generate"])
    for way in ways:
        figures = spread(seconds[way])
        figures["overhead"] = overhead(seconds[way], seconds["LLM.generate"])
        figures["processor"] = spread(processor[way])["median"]
        figures["overhead_least"] = figures["least"] / base_line["least"] - 1
        report.figures[way] = figures
        report.lines.append(
            (
                way,
                *(f"{figures[key]:.2f}" for key in ("median", "least", "greatest")),
                f"{figures['overhead']:+.1%}",
                f"{figures['processor']:.2f}",
            )
        )
    report.figures |= {"aim": AIM, "requests": requests, "tokens": tokens, "tiny": eager}
    report.notes.append("Overhead: the median over turns of the ratio to LLM.generate in the same turn.")
    return report


def overhead(times: list[float], base: list[float]) -> float:
    """Return by how much the median ratio exceeds 1."""
    ratios = sorted(one / other for one, other in zip(times, base, strict=True))
    return ratios[len(ratios) // 2] - 1


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vllm_overhead")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--model", default=None, help="a folder with a model; default: a tiny one, made on the spot")
    parser.add_argument("--dry", action="store_true", help="print only, write no results")
    parser.add_argument("--direct", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--eager", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.direct:
        direct(given.direct, given.eager)
        return
    report = measure(given.runs, given.requests, given.model)
    report.print()
    if not given.dry:
        print(f"\n  {report.write().name}")


if __name__ == "__main__":
    main()
