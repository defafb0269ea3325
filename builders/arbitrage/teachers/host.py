"""Models that run in processes of their own: starting, asking and ending them.

Why not here: an engine's pins need not meet those of this package (any ``python`` may run it), and memory of a GPU is
given back for certain only when its process has ended. A :class:`Host` says what to start; a :class:`HostSession` has
it running. The processes speak :mod:`~aya_data.builders.arbitrage.teachers.hosted_protocol`; several (one for each
group of GPUs) take from one stream of requests.

A process that dies is named and started again, and what it had not answered is asked again in halves: the half at
which it dies again is halved again, so that a request that kills it is found among n after log2 n more deaths, and what
no longer kills in less company is just answered. A request that killed it twice, alone, fails with that reason, and the
others go on. Single deaths at three conversations, or three that failed, without an answer between them, stop the
build; so do three deaths with nothing to answer. Samples of one conversation are one.

The group of each process is killed when the session is left; the next model starts when all of it is gone. When *this*
process is killed, by SIGKILL too, the kernel ends the pipe to them, on which they kill themselves.

A request and its answer cost this process 21 microseconds (a kilobyte each way, measured with an engine that does
nothing).
"""

from __future__ import annotations

import importlib.resources
import importlib.resources.abc
import os
import select
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from aya_data.builders.arbitrage.teachers.process import CannotRun, Process
from aya_data.core import durable
from aya_data.core.errors import BuildError, InputError, WrongSetting
from aya_data.core.generation import ABSENT, FAILED, STOP, Answer, Place, Request

__all__ = ["Host", "HostSession", "Replica", "interpreter"]

DATA_FILES = ("hosted_protocol.py",)
PACKAGE: Final = "aya_data.builders.arbitrage.teachers"
DEATHS: Final = 3
"""Deaths alone at so many conversations, or with nothing in flight so often, without an answer between them, stop the
build."""
ALONE: Final = 2
"""A request that was the only one in flight at so many deaths fails."""
PULSE: Final = 1.0
"""Seconds without an answer after which the caller hears that there is none."""


Conversation = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Replica:
    """One process of several that run the same model: what it has of its own."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables on top of this process's own, such as CUDA_VISIBLE_DEVICES."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings on top of the host's."""


@dataclass(frozen=True, slots=True)
class Host:
    """What to start, and how to ask it.

    ``scripts`` are files of this package (or paths of others): the first is run, the rest lie beside it. ``settings``
    is JSON, sent to the engine. ``window`` is how many requests a process holds at most. ``python`` is the interpreter,
    by default this one.
    """

    name: str
    settings: Mapping[str, Any]
    scripts: Sequence[str | Path]
    replicas: Sequence[Replica] = (Replica(),)
    window: int = 256
    python: Path | None = None
    path: tuple[str, ...] = ()
    """Where the settings of the voice stand among those of the source, for errors."""
    start_limit: float = 3600.0
    """Seconds that loading may take."""
    patience: float = 1800.0
    """Seconds without any step of the engine, requests being there, after which it counts as stuck."""
    grace: float = 5.0
    """Seconds that a process has to end by itself before its group is killed."""

    def wrong(self, setting: str, what: str, remedy: str) -> WrongSetting:
        """Return the error that a setting of the voice is wrong."""
        return WrongSetting([((*self.path, setting), f"{self.name}: {what}", remedy)])


def interpreter(name: str | None, base: Path) -> Path | None:
    """Find the interpreter that a setting ``python`` names: a file, or a command of the PATH. None means this one.

    Raises :class:`InputError`. A link is not followed: a virtual environment's interpreter is one.
    """
    if name is None:
        return None
    if "/" not in name and (found := shutil.which(name)):
        return Path(found)
    path = base / Path(name).expanduser()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise InputError(f"there is no Python interpreter {name!r}", f"Give the path of one (looked for {path}).")
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would leave the virtual environment


@dataclass(slots=True)
class _Held:
    """A request that is not answered yet."""

    request: Request
    asked: int = 0
    deaths: int = 0
    """At which it was the only one in flight."""


class _Hosted(Process):
    """One of a host's processes, and what it holds."""

    def __init__(self, host: Host, replica: Replica, folder: Path, log: Path) -> None:
        script = folder / Path(host.scripts[0]).name
        super().__init__(
            (str(host.python or sys.executable), "-X", "faulthandler", str(script)), replica.environment, log
        )
        self.host, self.replica = host, replica
        self.held: dict[int, _Held] = {}
        self.suspects: deque[list[_Held]] = deque()
        """What was in flight when it died, in groups of which it is asked one at a time; the last is the next."""
        self.searching = False
        """Whether it holds such a group."""
        self.deaths = self.empty = 0
        """Since its last answer: all, and those with nothing in flight."""
        self.alone: set[Conversation] = set()
        """Which were alone in flight at deaths since its last answer, or since one of them failed."""
        self.failed: set[Conversation] = set()
        """Which failed since its last answer."""
        self.facts: Mapping[str, Any] | None = None
        self.error: Mapping[str, Any] | None = None

    def start(self) -> None:
        """Start it and send the settings; it is ready when :attr:`facts` are there."""
        try:
            super().start()
        except CannotRun as error:
            what = f"{self.command[0]} cannot be run: {error}"
            raise self.host.wrong("python", what, "Name the python of an environment.") from error
        self.facts, self.error, self.steps, self.idle = None, None, -1, 0.0
        self.say({"kind": "start", "settings": {**self.host.settings, **self.replica.settings}})

    @property
    def room(self) -> int:
        """How many new requests it may be sent: none before all suspects have been asked."""
        if not self.ready or self.suspects or (self.searching and self.held):
            return 0
        return self.host.window - len(self.held)

    @property
    def ready(self) -> bool:
        """Whether it listens to requests."""
        return self.running and self.facts is not None and self.error is None

    def ask(self, number: int, held: _Held) -> None:
        """Send one request."""
        held.asked += 1
        if not self.held:
            self.idle = 0.0
        self.held[number] = held
        request = held.request
        messages = [list(turn) for turn in request.messages]
        self.say({"kind": "ask", "id": number, "messages": messages, "seed": request.seed, "sample": request.sample})


class HostSession:
    """The processes of one model, ready to be asked. Use it as a context manager, from one thread.

    Raises, on entering, :class:`WrongSetting` for a model or interpreter that cannot be used and :class:`BuildError`
    where loading it fails otherwise, with the end of the log.
    """

    def __init__(self, host: Host, place: Place) -> None:
        self.host, self.place = host, place
        self._processes: list[_Hosted] = []
        self._number = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def facts(self) -> list[Mapping[str, Any]]:
        """What each process says of itself: versions, device, digests of tokenizer and template."""
        return [dict(process.facts or {}) for process in self._processes]

    @property
    def pids(self) -> list[int]:
        """The processes, which are the leaders of their groups too."""
        return [process.process.pid for process in self._processes]

    def __enter__(self) -> HostSession:
        durable.make_folder(self.place.temporary)
        durable.make_folder(self.place.log.parent)
        self._folder = tempfile.TemporaryDirectory(prefix="host-", dir=self.place.temporary)
        try:
            folder = Path(self._folder.name)
            for script in self.host.scripts:
                # Copied, so that nothing of this package's folder hides a library of the same name.
                with importlib.resources.as_file(_script(script)) as path:
                    shutil.copyfile(path, folder / path.name)
            logs = _logs(self.place.log, len(self.host.replicas))
            for replica, log in zip(self.host.replicas, logs, strict=True):
                log.unlink(missing_ok=True)
                process = _Hosted(self.host, replica, folder, log)
                process.start()
                self._processes.append(process)
            while any(process.facts is None for process in self._processes):
                for _ in self._listen(PULSE):
                    pass
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = [process for process in self._processes if process.running]
        for process in running:
            process.say({"kind": "stop"})
        for process in running:
            process.end(0.0 if process.facts is None else self.host.grace)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def ask(self, requests: Iterator[Request]) -> Iterator[Answer | None]:
        """Answer requests, as :meth:`~aya_data.core.generation.Session.ask` says, with at most ``window`` of them in
        each process."""
        more = True
        spoke = time.monotonic()
        try:
            while True:
                more = self._send(requests, more)
                if not more and not any(process.held or process.suspects for process in self._processes):
                    return
                for answer in self._listen(max(0.0, min(PULSE, spoke + PULSE - time.monotonic()))):
                    yield answer
                    spoke = time.monotonic()
                if time.monotonic() - spoke >= PULSE:
                    yield None
                    spoke = time.monotonic()
        finally:
            # Left early: what is still being answered belongs to nobody.
            for process in self._processes:
                process.held.clear()
                process.suspects.clear()

    def _send(self, requests: Iterator[Request], more: bool) -> bool:
        """Fill up all processes, the emptiest first; return whether there may be more requests."""
        for process in self._processes:
            if process.ready and not process.held:
                process.searching = bool(process.suspects)
                for held in process.suspects.pop() if process.suspects else ():
                    process.ask(self._next(), held)
        while more:
            process = max(self._processes, key=lambda one: one.room)
            if process.room <= 0:
                break
            request = next(requests, None)
            if request is None:
                return False
            process.ask(self._next(), _Held(request))
        return more

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _listen(self, wait: float) -> Iterator[Answer]:
        """Wait so long for something to come from any process, and act on it."""
        poll = select.poll()
        readers = {process.read: process for process in self._processes if process.running}
        for process in readers.values():
            poll.register(process.read, select.POLLIN | select.POLLHUP)
            if process.outgoing:
                poll.register(process.write, select.POLLOUT)
        began = time.monotonic()
        events = poll.poll(wait * 1000)
        waited = time.monotonic() - began
        heard = {readers[descriptor] for descriptor, _ in events if descriptor in readers}
        for process in readers.values():
            process.flush()
            ended = False
            process.idle = 0.0 if process in heard and process.facts is None else process.idle + waited
            if process in heard:
                said = process.messages()
                ended = said is None
                for message in said or ():
                    yield from self._heard(process, message)
            # A worker of the engine may hold the pipe open after its leader died.
            if ended or (process not in heard and process.dead()):
                yield from self._died(process)
            else:
                yield from self._waited(process)

    def _heard(self, process: _Hosted, message: Mapping[str, Any]) -> Iterator[Answer]:
        kind = message.get("kind")
        if kind == "ready":
            process.facts, process.idle = message["facts"], 0.0
        elif kind == "error":
            process.error = message
        elif kind == "alive":
            if message["steps"] != process.steps:
                process.steps, process.idle = message["steps"], 0.0
        elif kind == "answer":
            held = process.held.pop(message["id"], None)
            process.idle = 0.0
            process.deaths = process.empty = 0
            process.alone.clear()
            process.failed.clear()
            if held is not None:
                yield _answer(held, message)

    def _waited(self, process: _Hosted) -> Iterator[Answer]:
        """Judge a process that says nothing."""
        limit = self.host.start_limit if process.facts is None else self.host.patience
        if process.idle > limit and (process.held or process.facts is None):
            doing = "was not loaded" if process.facts is None else "did nothing"
            yield from self._died(process, f"{doing} for {limit:.0f} s")

    def _died(self, process: _Hosted, stuck: str = "") -> Iterator[Answer]:
        # Where the leader is gone already, or going, that is how it ended; what is stuck is killed.
        how = process.end(0.0 if stuck else self.host.grace)
        how = stuck or how
        error = process.error
        name = self.host.name
        if error is not None and error["setting"]:
            raise self.host.wrong(error["setting"], error["reason"], error["remedy"])
        if error is not None and process.facts is None:
            raise BuildError(f"{name}: the model cannot be loaded: {error['reason']}", self._seen(process, False))
        if error is not None:
            how = error["reason"]
        held = list(process.held.values())
        process.held.clear()
        process.deaths += 1
        process.empty += not held
        answer = self._killed(process, held[0], how) if len(held) == 1 else None
        loading = process.facts is None
        hopeless = None
        if max(len(process.alone), len(process.failed), process.empty) >= DEATHS or (loading and process.deaths == 1):
            while_ = "while it was loaded" if loading else f"{process.deaths} times without an answer"
            hopeless = BuildError(f"{name}: the model's process died {while_}: {how}", self._seen(process, True))
        if hopeless is None or answer is not None:
            process.start()
        if hopeless is None and self.place.restarted is not None:
            self.place.restarted(how, len(held) - (answer is not None))
        if answer is not None:
            yield answer  # before the build stops, too: the next one need not find it again
        if hopeless is not None:
            raise hopeless
        if len(held) > 1:
            half = (len(held) + 1) // 2
            process.suspects += [held[half:], held[:half]]

    def _killed(self, process: _Hosted, one: _Held, how: str) -> Answer | None:
        """A process died while it held this request alone; return its answer if it has failed."""
        one.deaths += 1
        conversation = tuple(one.request.messages)
        if one.deaths >= ALONE:
            process.alone.clear()
            process.failed.add(conversation)
            reason = f"the model's process died {ALONE} times while it answered this request alone: {how}"
            return Answer(one.request.key, finish=FAILED, reason=reason, attempts=one.asked)
        process.alone.add(conversation)
        # Others first: they show whether it is this request or the model.
        process.suspects.appendleft([one])
        return None

    def _seen(self, process: _Hosted, tail: bool) -> str:
        lines = process.last_lines() if tail else []
        return (f"It said: {' / '.join(lines)}. " if lines else "") + f"Its log is {process.log}."


def _script(script: str | Path) -> importlib.resources.abc.Traversable:
    return script if isinstance(script, Path) else importlib.resources.files(PACKAGE) / script


def _answer(held: _Held, message: Mapping[str, Any]) -> Answer:
    finish = str(message.get("finish", STOP))
    value = message.get("value")
    return Answer(
        held.request.key,
        text=message.get("text"),
        value=None if value is None else float(value),
        finish=finish,
        prompt_tokens=message.get("prompt_tokens"),
        completion_tokens=message.get("completion_tokens"),
        reason=message.get("reason") if finish in (ABSENT, FAILED) else None,
        attempts=held.asked,
    )


def _logs(log: Path, count: int) -> list[Path]:
    if count == 1:
        return [log]
    return [log.with_name(f"{log.stem}-{number}{log.suffix}") for number in range(count)]
