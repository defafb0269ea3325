"""Servers on the loopback interface that speak the OpenAI protocol, under a real uvicorn.

with Served(Echo()) as server: …            # answers from messages and seed, or as a script says; in a thread
with model_server(folder) as server: …      # a real model of transformers, in a process of its own
with transformers_serve(folder) as server: …
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

__all__ = [
    "Arrival",
    "Echo",
    "Reply",
    "Served",
    "Server",
    "completion",
    "model_server",
    "said",
    "transformers_serve",
    "vllm_serve",
]

App = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True)
class Reply:
    """What a script says instead of an answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def error(cls, status: int, message: str = "", code: str | None = None, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, json.dumps({"error": {"message": message, "code": code}}).encode(), named)


@dataclass(frozen=True)
class Arrival:
    """A request as the server saw it; ``client`` is the port of its connection."""

    moment: float
    body: dict[str, Any]
    headers: dict[str, str]
    client: int


def completion(text: str | None, finish: str | None = "stop", **usage: int) -> bytes:
    """A response with one completion."""
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": usage or None,
        },
    ).encode()


def said(body: Mapping[str, Any]) -> str:
    """What :class:`Echo` answers."""
    return hashlib.sha256(json.dumps([body["messages"], body["seed"]]).encode()).hexdigest()


class Echo:
    """Answers by itself after ``takes`` seconds, or as ``script(body, how often it came before)`` says.

    While ``held`` is set, nothing is answered. With ``gather``, nothing from the 40th request on until so many are
    there at once.
    """

    def __init__(
        self, script: Callable[[dict[str, Any], int], Reply | None] | None = None, takes: float = 0.0, gather: int = 0
    ) -> None:
        self.script, self.takes, self.gather = script, takes, gather
        self.arrivals: list[Arrival] = []
        self.in_flight = self.peak = self.broken_off = 0
        self.came: Counter[int] = Counter()
        self.held = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        moment = time.monotonic()
        data, more = b"", True
        while more:
            event = await receive()
            data, more = data + event.get("body", b""), event.get("more_body", False)
        body = json.loads(data)
        assert (scope["method"], scope["path"]) == ("POST", "/v1/chat/completions")
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.arrivals.append(Arrival(moment, body, headers, scope["client"][1]))
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            reply = self.script(body, self.came[body["seed"]]) if self.script else None
            self.came[body["seed"]] += 1
            while self.held.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(receive(), 0.02)
                    self.broken_off += 1
                    return
            while len(self.arrivals) > 40 and self.peak < self.gather:
                await asyncio.sleep(0.01)
            if self.takes:
                await asyncio.sleep(self.takes)
        finally:
            self.in_flight -= 1
        if reply is None:
            words = sum(len(turn["content"].split()) for turn in body["messages"])
            reply = Reply(body=completion(said(body), prompt_tokens=words, completion_tokens=1))
        await respond(send, reply)


async def respond(send: Any, reply: Reply) -> None:
    headers = {"content-type": "application/json", "content-length": str(len(reply.body)), **reply.headers}
    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": listed})
    await send({"type": "http.response.body", "body": reply.body})


class Served:
    """An application under uvicorn, in a thread."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        config = uvicorn.Config(
            app, log_config=None, log_level="critical", access_log=False, interface="asgi3", lifespan="off", ws="none",
            timeout_graceful_shutdown=1, timeout_keep_alive=60,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> Served:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        self._socket.close()


# A real model -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A server in a process of its own, and the name of its model."""

    port: int
    model: str


class Model:
    """A causal language model of transformers behind the protocol: one request at a time, sampled under its seed."""

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.lock = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        data, more = b"", True
        while more:
            event = await receive()
            data, more = data + event.get("body", b""), event.get("more_body", False)
        if scope["path"] != "/v1/chat/completions":
            await respond(send, Reply.error(404, "there is no such path"))
            return
        async with self.lock:
            reply = await asyncio.to_thread(self.answer, json.loads(data))
        await respond(send, reply)

    def answer(self, body: Mapping[str, Any]) -> Reply:
        import torch

        prompt = self.tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        torch.manual_seed(body["seed"])
        hot = body["temperature"] > 0
        how = {"do_sample": True, "temperature": body["temperature"], "top_p": body["top_p"]} if hot else {}
        with torch.inference_mode():
            whole = self.model.generate(**prompt, max_new_tokens=body["max_tokens"], **(how or {"do_sample": False}))
        given = prompt["input_ids"].shape[1]
        made = whole[0, given:].tolist()
        ended = bool(made) and made[-1] == self.tokenizer.eos_token_id
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        usage = {"prompt_tokens": given, "completion_tokens": len(made)}
        return Reply(body=completion(text, "stop" if ended else "length", **usage))


@contextlib.contextmanager
def _process(command: list[str], log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **more}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, path: str, log: Path, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}: {log.read_text()[-2000:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(0.1)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def model_server(folder: Path) -> Iterator[Server]:
    """Run :class:`Model` in a process of its own."""
    port, log = free_port(), folder.with_suffix(".log")
    command = [sys.executable, str(Path(__file__).resolve()), str(folder), str(port)]
    with _process(command, log) as process:
        _wait(process, port, "/health", log)
        yield Server(port, folder.name)


@contextlib.contextmanager
def transformers_serve(program: str, folder: Path) -> Iterator[Server]:
    """Run ``transformers serve`` of the environment that ``program`` lies in, with the model in ``folder``."""
    port, log, home = free_port(), folder.with_suffix(".serve.log"), folder.with_suffix(".home")
    (home / "hub").mkdir(parents=True, exist_ok=True)
    command = [program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--device", "cpu", "--dtype", "float32"]
    with _process(command, log, HF_HOME=str(home)) as process:
        _wait(process, port, "/health", log)
        yield Server(port, str(folder))


@contextlib.contextmanager
def vllm_serve(python: str, folder: Path) -> Iterator[Server]:
    """Run vLLM's server under the interpreter ``python``, with the model in ``folder``."""
    port, log = free_port(), folder.with_suffix(".vllm.log")
    command = [
        python,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(folder),
        "--served-model-name",
        "tiny",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "512"]
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "TORCHDYNAMO_DISABLE": "1"}
    with _process([*command, "--enforce-eager"], log, **quiet) as process:
        _wait(process, port, "/health", log, seconds=300)
        yield Server(port, "tiny")


if __name__ == "__main__":
    uvicorn.run(Model(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", lifespan="off")
