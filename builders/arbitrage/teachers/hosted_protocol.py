"""What a model's own process speaks with the one that started it. Standard library alone: it runs under any Python
from 3.9 on, without this package, copied as a file beside the script that serves an engine.

The two talk over two pipes, whose descriptors are the script's two arguments (read, write). A *frame* is four bytes
of length (big-endian) and so many bytes of JSON (UTF-8), an object with a ``kind``:

====================================================================== =================================================
from the parent
====================================================================== =================================================
``{"kind": "start", "settings": {…}}``                                 Once, first. Load the engine.
``{"kind": "ask", "id": 7, "messages": [["user", "…"], …],             One conversation to be answered, or scored.
"seed": 3, "sample": 0}``                                              Bounded: a parent has so many unanswered only.
``{"kind": "stop"}``                                                   Leave. So does the end of the pipe.
====================================================================== =================================================

====================================================================== =================================================
from the child
====================================================================== =================================================
``{"kind": "ready", "facts": {…}}``                                    The engine is loaded: versions, device, digests.
``{"kind": "error", "reason": "…", "remedy": "…",                      It is not, or broke; the process ends.
"setting": "model"}``                                                  ``setting`` is what a person can mend, or null.
``{"kind": "answer", "id": 7, "text": "…", "finish": "stop",           What became of a request: ``text`` of a
"prompt_tokens": 12, "completion_tokens": 34}``                        completion or ``value`` (a number) of a score.
``{"kind": "answer", "id": 7, "finish": "absent", "reason": "…"}``     The model cannot answer it, ever: too long.
``{"kind": "answer", "id": 7, "finish": "failed", "reason": "…"}``     It could not be answered this time.
``{"kind": "alive", "steps": 991, "waiting": 5}``                      Once a second while there are requests: how many,
                                                                       and how often the engine went on (:meth:`step`).
====================================================================== =================================================

Answers come in any order, as they are ready. What anything prints goes to the log: descriptors 0 and 1 are turned
away before the engine is imported. When the pipe from the parent ends, however it ended, the whole process group is
killed; the kernel ends the pipe of a parent that was killed with SIGKILL. (PR_SET_PDEATHSIG would kill this process
alone, before it could take the engine's own workers with it, and whenever the *thread* that started it ends.)

A script::

    from hosted_protocol import Desk, Refused, serve

    class Engine:
        facts = {"engine": "…"}
        def run(self, desk: Desk) -> None:
            while requests := desk.take(64):
                for request in requests:
                    desk.answer(request["id"], text="…", finish="stop", prompt_tokens=1, completion_tokens=2)

    def load(settings: dict) -> Engine:                     # imports the engine; raises Refused
        ...

    if __name__ == "__main__":
        serve(load)
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import queue
import re
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Protocol

__all__ = [
    "Desk",
    "Engine",
    "Refused",
    "Unsafe",
    "encoded",
    "frame",
    "frames",
    "reason_of",
    "rendered",
    "serve",
    "without_network",
]

HEADER = struct.Struct(">I")
LARGEST = 1 << 28
SETTLE = 0.02
"""Seconds without a new request after which those that came are taken to be all there are for now."""
DAY = {
    "%Y": "2025",
    "%y": "25",
    "%m": "01",
    "%-m": "1",
    "%B": "January",
    "%b": "Jan",
    "%d": "01",
    "%-d": "1",
    "%e": " 1",
    "%A": "Wednesday",
    "%a": "Wed",
    "%j": "001",
    "%H": "00",
    "%I": "12",
    "%p": "AM",
    "%M": "00",
    "%S": "00",
    "%F": "2025-01-01",
}
"""The date that chat templates see, so that a conversation is the same text on every day: 1 January 2025."""


class Refused(Exception):
    """The engine cannot be loaded as it is asked for: ``reason``, how to mend it, and the setting that is wrong."""

    def __init__(self, reason: str, remedy: str = "", setting: str = "model") -> None:
        self.reason, self.remedy, self.setting = reason, remedy, setting
        super().__init__(reason)


class Engine(Protocol):
    """A loaded engine."""

    facts: dict[str, Any]

    def run(self, desk: Desk) -> None:
        """Answer requests until :meth:`Desk.take` returns none."""


def frame(message: dict[str, Any]) -> bytes:
    """Return a message as it goes over a pipe."""
    data = json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode()
    if len(data) > LARGEST:
        raise ValueError(f"a message of {len(data)} bytes")
    return HEADER.pack(len(data)) + data


def frames(buffer: bytearray) -> Iterator[dict[str, Any]]:
    """Take all whole messages from the front of ``buffer``. ValueError where it holds something else."""
    start = 0
    while len(buffer) - start >= HEADER.size:
        (length,) = HEADER.unpack_from(buffer, start)
        if length > LARGEST:
            raise ValueError(f"a message of {length} bytes")
        end = start + HEADER.size + length
        if len(buffer) < end:
            break
        message = json.loads(bytes(buffer[start + HEADER.size : end]))
        if not isinstance(message, dict):
            raise ValueError("a message that is no object")
        start = end
        yield message
    del buffer[:start]


def reason_of(error: BaseException) -> str:
    """Return one line that says what went wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    return f"{name}: {lines[0][:300]}" if lines else name


class Desk:
    """Where an engine finds requests and leaves answers. Every method may be called from any thread."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._requests: queue.Queue[dict[str, Any]] = queue.Queue()
        self._held: set[int] = set()
        self._steps = 0
        self._writing = threading.Lock()
        self._stopped = threading.Event()
        self._start: queue.Queue[dict[str, Any]] = queue.Queue()

    @property
    def stopped(self) -> bool:
        """Whether the parent wants no more answers: leave soon, without those that are missing."""
        return self._stopped.is_set()

    def take(self, limit: int, *, wait: bool = True) -> list[dict[str, Any]]:
        """Return at most ``limit`` new requests (``id``, ``messages``, ``seed``, ``sample``).

        Waits for the first unless ``wait`` is false, then for as long as more come. None, after a wait, means stop.
        """
        taken: list[dict[str, Any]] = []
        while len(taken) < limit and not self.stopped:
            try:
                if taken:
                    taken.append(self._requests.get(timeout=SETTLE))
                elif wait:
                    taken.append(self._requests.get(timeout=0.5))
                else:
                    taken.append(self._requests.get_nowait())
            except queue.Empty:
                if taken or not wait:
                    break
        return [] if self.stopped else taken

    def step(self) -> None:
        """Say that the engine goes on, so that nobody takes it for stuck."""
        self._steps += 1

    def answer(
        self,
        id: int,
        *,
        text: str | None = None,
        value: float | None = None,
        finish: str = "stop",
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
    ) -> None:
        """Answer a request: ``text`` of a completion, or ``value`` of a score."""
        self._settle(
            id,
            text=text,
            value=value,
            finish=finish,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )

    def absent(self, id: int, reason: str, prompt_tokens: int | None = None) -> None:
        """Say that the model has no answer to a request, whenever it is asked."""
        self._settle(id, finish="absent", reason=reason, prompt_tokens=prompt_tokens)

    def fail(self, id: int, reason: str) -> None:
        """Say that a request could not be answered, and may be asked again some day."""
        self._settle(id, finish="failed", reason=reason)

    def _settle(self, id: int, **what: Any) -> None:
        self._steps += 1
        self.send({"kind": "answer", "id": id, **{name: value for name, value in what.items() if value is not None}})
        self._held.discard(id)

    def send(self, message: dict[str, Any]) -> None:
        """Send one message; waits while the parent does not read, and ends the process group where it is no more."""
        data = memoryview(frame(message))
        with self._writing:
            try:
                while data:
                    data = data[os.write(self._write, data) :]
            except BrokenPipeError:
                os.killpg(os.getpgrp(), signal.SIGKILL)

    def listen(self) -> None:
        """Read what the parent sends until it ends; then kill the process group."""
        buffer = bytearray()
        try:
            while data := os.read(self._read, 1 << 16):
                buffer += data
                for message in frames(buffer):
                    self._receive(message)
        finally:
            os.killpg(os.getpgrp(), signal.SIGKILL)

    def _receive(self, message: dict[str, Any]) -> None:
        kind = message.get("kind")
        if kind == "ask":
            self._held.add(message["id"])
            self._requests.put(message)
        elif kind == "start":
            self._start.put(message["settings"])
        elif kind == "stop":
            self._stopped.set()

    def beat(self) -> None:
        """Tell once a second that the process is there, while it holds requests."""
        while True:
            time.sleep(1.0)
            held, steps = len(self._held), self._steps
            if held:
                self.send({"kind": "alive", "steps": steps, "waiting": held})

    def settings(self) -> dict[str, Any]:
        """Wait for the settings, which come first."""
        return self._start.get()


def serve(load: Callable[[dict[str, Any]], Engine]) -> None:
    """Serve an engine over the pipes that the arguments name, until told to stop. Does not return."""
    read, write = int(sys.argv[1]), int(sys.argv[2])
    for descriptor in (read, write):
        os.set_inheritable(descriptor, False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    desk = Desk(read, write)
    threading.Thread(target=desk.listen, name="listen", daemon=True).start()
    try:
        engine = load(desk.settings())
        desk.send({"kind": "ready", "facts": engine.facts})
        threading.Thread(target=desk.beat, name="beat", daemon=True).start()
        engine.run(desk)
        code = 0
    except Refused as refused:
        desk.send({"kind": "error", "reason": refused.reason, "remedy": refused.remedy, "setting": refused.setting})
        code = 2
    except BaseException as error:
        traceback.print_exc()
        desk.send({"kind": "error", "reason": reason_of(error), "remedy": "", "setting": None})
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Engines leave threads and handlers behind that may hang; the parent takes what is left of the group.
    os._exit(code)


def without_network() -> None:
    """Keep the Hub's libraries, when they are imported after this, from asking anybody: all files are there."""
    os.environ.update(
        {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    )


def rendered(
    tokenizer: Any,
    messages: list[list[str]],
    *,
    template: str | None = None,
    variables: dict[str, Any] | None = None,
    answer: bool = True,
) -> str:
    """Return a conversation as the model reads it, by ``template`` or the tokenizer's own.

    With ``answer`` it ends where the model's answer begins. Templates write special tokens themselves, so that the
    text is encoded without adding any. Those that ask for the date get the same one every day.
    """
    text: str = _applied(tokenizer, messages, template, variables, answer, tokenize=False)
    return text


def encoded(
    tokenizer: Any,
    messages: list[list[str]],
    *,
    template: str | None = None,
    variables: dict[str, Any] | None = None,
    answer: bool = True,
) -> list[int]:
    """Return a conversation as token numbers, as :func:`rendered` writes it.

    What somebody wrote is text, though it spell ``<|im_end|>``: control tokens come from the template alone. Raises
    :class:`Unsafe` where the transformers that is installed cannot tell the two apart.
    """
    tokens: list[int]
    found = _controls(tokenizer, template).search("\n".join(content for _, content in messages))
    if found is None:
        text = rendered(tokenizer, messages, template=template, variables=variables, answer=answer)
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens
    if "sanitize_control_tokens" not in inspect.signature(tokenizer.apply_chat_template).parameters:
        raise Unsafe(f"the conversation holds {found[0]!r}, a control token of the model")
    more = {"tokenize": True, "return_dict": False, "sanitize_control_tokens": True}
    tokens = _applied(tokenizer, messages, template, variables, answer, **more)
    return tokens


class Unsafe(Exception):
    """A conversation holds control tokens of the model that cannot be kept apart from those of the template."""


@functools.lru_cache(4)
def _controls(tokenizer: Any, template: str | None) -> re.Pattern[str]:
    """Finds the tokens of a tokenizer that are special, or that its template writes."""
    own = tokenizer.get_chat_template(template)
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special or str(token) in own]
    return re.compile("|".join(map(re.escape, sorted(filter(None, added)))) or r"(?!)")


def _applied(
    tokenizer: Any,
    messages: list[list[str]],
    template: str | None,
    variables: dict[str, Any] | None,
    answer: bool,
    **more: Any,
) -> Any:
    template = tokenizer.get_chat_template(template)
    if "strftime_now" in template:
        template = ONE_DAY + template
    return tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages],
        chat_template=template,
        add_generation_prompt=answer,
        **more,
        **(variables or {}),
    )


def _one_day() -> str:
    """The function that templates ask for the date, written in Jinja: transformers takes no function from outside."""
    replaced = "".join(f"|replace('{directive}', '{text}')" for directive, text in DAY.items())
    # The empty text at the end keeps a line break that the template may begin with.
    return "{% macro strftime_now(format) %}{{ format" + replaced + " }}{% endmacro %}{{ '' }}"


ONE_DAY = _one_day()
