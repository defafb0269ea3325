"""The teacher ``openai``: any server that speaks the OpenAI protocol at ``/chat/completions``.

Every completion is a request of its own, with its own seed and without streaming. One event loop in a thread of its
own asks; the number of requests in flight follows what the server bears (:mod:`.limits`).

* What may pass (a broken or silent connection, half a response, 200 with anything but one completion, 408, 409, 425,
  429, 5xx) is asked again, ``attempts`` times in all, after 0.5, 1, 2, 4 … seconds or what ``Retry-After`` (RFC 9110,
  10.2.3) says; meanwhile nothing is sent to a server that asked to wait. A server that has answered nothing for eight
  requests in all their attempts stops all of them, and so does one that asks to wait for more than ten minutes.
* What belongs to one request (400, 413, 422: too long, refused by a content filter) fails that request.
* A wrong key, address or model (401, 403, 404, 405, a redirect) stops all of them.

A request is sent again only where no completion of it arrived. The key comes from the environment and goes into one
header; it is in no setting, identity, error or log, and follows no redirect.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from aya_data.builders.arbitrage.teacher import Sampling, TeacherSettings
from aya_data.builders.arbitrage.teachers.chat_response import Trouble, read_complaint, read_completion, retry_after
from aya_data.builders.arbitrage.teachers.limits import Gate
from aya_data.core.errors import AyaDataError, BuildError, InputError, WrongSetting
from aya_data.core.generation import FAILED, Answer, Place, Request, Voice
from aya_data.core.identity import draw
from aya_data.core.settings import wrong
from aya_data.core.stage import Environment

if TYPE_CHECKING:
    import httpx2

__all__ = ["OpenAISession", "OpenAISettings", "OpenAITeacher"]

PASSING: Final = frozenset({408, 409, 425, 429})
BUSY: Final = frozenset({429, 503, 529})
MISTAKEN: Final = frozenset({401, 403, 404, 405})
FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED = 0.5, 60.0, 600.0
CONNECT, GRACE = 30.0, 30.0
MAX_BYTES: Final = 64 << 20
ROW: Final = 8
"""So many requests in a row without an answer say that it is the server."""
FIXED: Final = frozenset(
    ("messages", "model", "n", "seed", "stream", "temperature", "top_p", "stop", "max_tokens", "max_completion_tokens")
)
SECRET: Final = frozenset(("api_key", "apikey", "authorization", "headers", "extra_headers", "token", "password"))


def _base_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise wrong(f"is no web address: {text[:80]!r}", "Write the part before /chat, such as https://host/v1.")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise wrong(
            "holds more than an address", "Put a key into the environment, and its variable's name into key_variable."
        )
    return text.rstrip("/")


def _variable(text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,99}", text):
        raise wrong("is no name of an environment variable", "Write the variable's name, never the key itself.")
    return text


def _check_json(value: Any) -> None:
    if value is None:
        raise wrong("holds a null", "Leave the field out.")
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise wrong("has a field whose name is no text", "Quote it.")
        for inner in value.values():
            _check_json(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_json(inner)
    elif not isinstance(value, (str, bool, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
        raise wrong("holds what JSON cannot say", "Write texts, numbers, true or false, lists and mappings.")


def _extra(value: Mapping[str, Any]) -> Mapping[str, Any]:
    _check_json(value)
    for name in sorted(value):
        if name in FIXED:
            raise wrong(f"names {name!r}, which has its own place", "Write it as model, sampling or seed of the spec.")
        if name.lower() in SECRET:
            raise wrong(f"names {name!r}", "Put a key into the environment, and its variable's name into key_variable.")
    return value


class OpenAISettings(TeacherSettings):
    """A model behind a server that speaks the OpenAI protocol, and how it is asked."""

    engine: Literal["openai"] = Field(description="A server that speaks the OpenAI protocol.")
    model: str = Field(min_length=1, description="The model's name at the server.", examples=["command-r"])
    revision: str | None = Field(
        None,
        min_length=1,
        description="What you know of the model's version: a date, a commit. Completions are kept under it. Without "
        "it, a release is marked as not pinned.",
        examples=["2026-08"],
    )
    base_url: Annotated[str, AfterValidator(_base_url)] = Field(
        description="The address before /chat/completions.", examples=["http://localhost:8000/v1"]
    )
    key_variable: Annotated[str | None, AfterValidator(_variable)] = Field(
        None, description="The environment variable with the key. Default: no key is sent.", examples=["COHERE_API_KEY"]
    )
    sampling: Sampling = Field(description="How it is sampled.")
    extra: Annotated[Mapping[str, Any], AfterValidator(_extra)] = Field(
        default_factory=dict,
        description="More fields of a request, as the server knows them. Completions are kept under them.",
        examples=[{"frequency_penalty": 0.2}],
    )
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="The field in which the server takes the limit of tokens."
    )
    concurrency: int = Field(
        32, ge=1, le=4096, description="The most requests in flight; fewer while the server is in trouble."
    )
    requests_per_minute: int | None = Field(None, ge=1, description="The most requests in a minute. Default: no limit.")
    tokens_per_minute: int | None = Field(
        None,
        ge=1,
        description="The most tokens in a minute, of prompts and completions. Default: no limit. A request counts with "
        "its whole limit of tokens until it is answered.",
    )
    timeout: float = Field(600.0, gt=0, description="Seconds after which an attempt counts as failed.")
    attempts: int = Field(8, ge=1, le=100, description="How often a request is tried.")

    @model_validator(mode="after")
    def _once(self) -> OpenAISettings:
        twice = sorted(self.extra.keys() & _optional(self.sampling).keys())
        if twice:
            raise wrong(f"has {twice[0]} in both sampling and extra", "Keep one of them.")
        return self


def _optional(sampling: Sampling) -> dict[str, Any]:
    """What is sent only where it does something, since not every server knows it."""
    found: dict[str, Any] = {}
    if sampling.top_k is not None:
        found["top_k"] = sampling.top_k
    if sampling.min_p:
        found["min_p"] = float(sampling.min_p)
    if sampling.repetition_penalty != 1:
        found["repetition_penalty"] = float(sampling.repetition_penalty)
    return found


class OpenAITeacher(Voice):
    """A model behind a server. Its identity is what the spec says of it; the server's address is none of it."""

    def __init__(
        self, name: str, settings: OpenAISettings, environment: Environment, path: tuple[str, ...] | None = None
    ) -> None:
        self.name, self.settings, self.environment = name, settings, environment
        self.path = ("teachers", name) if path is None else path

    def identity(self) -> Mapping[str, Any]:
        """Model, revision and every field of a request but messages and seed."""
        own = self.settings
        return {
            "model": own.model,
            "revision": own.revision,
            "sampling": own.sampling.identity(),
            "extra": json.loads(json.dumps(dict(own.extra))),
        }

    @property
    def pinned(self) -> bool:
        """Whether the spec states a revision; nobody but the person can know it."""
        return self.settings.revision is not None

    def prices(self) -> tuple[float, float] | None:
        """Return the stated price of a million prompt tokens and of a million completion tokens."""
        price = self.settings.price
        return None if price is None else (float(price.prompt), float(price.completion))

    def body(self, request: Request) -> bytes:
        """Return what is sent. Raises :class:`UnicodeEncodeError` for a text with half a surrogate pair."""
        own, sampling = self.settings, self.settings.sampling
        fields = {
            "model": own.model,
            "messages": [{"role": role, "content": content} for role, content in request.messages],
            own.limit_field: sampling.max_tokens,
            "temperature": float(sampling.temperature),
            "top_p": float(sampling.top_p),
            "seed": request.seed,
            "stream": False,
            **({"stop": list(sampling.stop)} if sampling.stop else {}),
            **_optional(sampling),
            **own.extra,
        }
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()

    @contextmanager
    def session(self, place: Place) -> Iterator[OpenAISession]:
        """Connect to nothing yet. Raises :class:`WrongSetting` where the key that the spec names is not there."""
        session = OpenAISession(self, self._key())
        try:
            yield session
        finally:
            session.close()

    def check(self) -> None:
        """Raise :class:`WrongSetting` where the key that the spec names is not there."""
        self._key()

    def _key(self) -> str | None:
        variable = self.settings.key_variable
        if variable is None:
            return None
        key = os.environ.get(variable, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            found = "does not hold a key" if key else "is not set"
            what = f"the environment variable {variable}, which the teacher {self.name!r} takes its key from, {found}"
            remedy = f"Set it, or take key_variable out of the teacher if {self.settings.base_url} needs no key."
            raise WrongSetting([((*self.path, "key_variable"), what, remedy)])
        return key


@dataclass(frozen=True, slots=True)
class _Refusal:
    """This request gets no answer. ``own``: whether it is certainly about this request."""

    reason: str
    own: bool


@dataclass(frozen=True, slots=True)
class _Halt:
    """No request gets an answer."""

    error: AyaDataError


class OpenAISession:
    """A thread with an event loop and its connections to one server."""

    def __init__(self, teacher: OpenAITeacher, key: str | None) -> None:
        self._teacher, self._own, self._key = teacher, teacher.settings, key
        self._answered = False
        self._silent = 0
        self._refusals = ("", 0)
        self._halted: AyaDataError | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sending: set[asyncio.Task[Any]] = set()
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._live, name=f"teacher {teacher.name}", daemon=True)
        self._thread.start()
        self._ready.result()

    # The caller's thread.

    def ask(self, requests: Iterator[Request]) -> Iterator[Answer | None]:
        """Answer every request once, as they come; see :class:`~aya_data.core.generation.Session`.

        At most twice ``concurrency`` requests are pulled and not yet yielded as answers.
        """
        answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        more, waiting, beat = True, 0, time.monotonic()
        try:
            while more or waiting:
                more = more and self._halted is None
                room = more and waiting < 2 * self._own.concurrency
                if room:
                    request = next(requests, None)
                    if request is None:
                        more = False
                    else:
                        waiting += 1
                        self._loop.call_soon_threadsafe(self._begin, request, answers)
                left = max(0.0, beat + 1.0 - time.monotonic())
                try:
                    answer = answers.get(timeout=0.0 if room else left)
                    waiting -= 1
                except queue.Empty:
                    if left:
                        continue
                    answer = None
                    beat = time.monotonic()
                    yield None
                if answer is not None:
                    beat = time.monotonic()
                    yield answer
            if self._halted is not None:
                raise self._halted
        finally:
            if waiting:
                asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result()

    def close(self) -> None:
        """Break off what is in flight and end the thread."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    # The loop's thread.

    def _live(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(self._defect(error).error)

    async def _main(self) -> None:
        import httpx2

        own = self._own
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._gate = Gate(own.concurrency, own.requests_per_minute, own.tokens_per_minute)
        headers = {"content-type": "application/json", "accept": "application/json"}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        self._client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(None, connect=min(own.timeout, CONNECT)),
            limits=httpx2.Limits(max_connections=own.concurrency, max_keepalive_connections=own.concurrency),
            follow_redirects=False,
        )
        async with self._client:
            self._ready.set_result(None)
            await self._over.wait()
            await self._cancel()

    async def _cancel(self) -> None:
        tasks = list(self._tasks)
        self._cancel_all()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _begin(self, request: Request, answers: queue.SimpleQueue[Answer | None]) -> None:
        """Ask, and put one answer into ``answers``, or None where all requests are stopped."""

        def end(task: asyncio.Task[Answer | None]) -> None:
            self._tasks.discard(task)
            answers.put(None if task.cancelled() else task.result())

        task = self._loop.create_task(self._work(request))
        self._tasks.add(task)
        task.add_done_callback(end)

    async def _work(self, request: Request) -> Answer | None:
        try:
            return await self._insist(request)
        except Exception as error:
            self._halt(self._defect(error))
            return None

    async def _insist(self, request: Request) -> Answer | None:
        own, gate, key = self._own, self._gate, request.key
        try:
            body = self._teacher.body(request)
        except UnicodeEncodeError:
            return Answer(key, finish=FAILED, reason="the prompt holds half a surrogate pair, no text", attempts=0)
        # A token of most scripts has three bytes or more.
        tokens = sum(len(content.encode()) // 3 + 5 for _, content in request.messages) + own.sampling.max_tokens
        attempts = 0
        while not self._is_halted():
            number = await gate.enter(tokens)
            attempts += 1
            outcome = await self._send(body, key)
            if isinstance(outcome, Answer):
                used = (outcome.prompt_tokens, outcome.completion_tokens)
                gate.succeed(0 if None in used else tokens - sum(filter(None, used)))
                self._answered, self._silent = True, 0
                return replace(outcome, attempts=attempts)
            if isinstance(outcome, _Halt):
                self._halt(outcome)
                return None
            if isinstance(outcome, _Refusal):
                self._count_refusal(outcome)
                return Answer(key, finish=FAILED, reason=outcome.reason, attempts=attempts)
            asked = outcome.asked
            gate.suffer(number, outcome.busy, asked)
            if asked is not None and asked > LONGEST_ASKED:
                self._halt(self._stop(f"asks to wait {_duration(asked)} ({outcome.reason})"))
                return None
            if attempts >= own.attempts:
                self._count_silence(outcome)
                tries = "1 try" if attempts == 1 else f"{attempts} tries"
                return Answer(key, finish=FAILED, reason=f"{outcome.reason} ({tries})", attempts=attempts)
            if self._is_halted():
                return None
            share = draw(self._teacher.environment.seed, "backoff", f"{key} {attempts}") / 2**64
            if asked is None:
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (attempts - 1)) * (1 + share) / 2
            else:
                wait = asked + share * FIRST_WAIT
            await asyncio.sleep(wait)
        return None

    async def _send(self, body: bytes, key: str) -> Answer | Trouble | _Refusal | _Halt:
        """Send a request once. Raises nothing: an exception of the client holds the request with its key."""
        import httpx2

        own, task = self._own, asyncio.current_task()
        assert task is not None
        self._sending.add(task)
        try:
            async with asyncio.timeout(own.timeout):
                async with self._client.stream("POST", f"{own.base_url}/chat/completions", content=body) as response:
                    data = bytearray()
                    async for piece in response.aiter_bytes():
                        data += piece
                        if len(data) > MAX_BYTES:
                            return Trouble(f"a response of more than {MAX_BYTES >> 20} MiB")
        except (TimeoutError, httpx2.TimeoutException):
            return Trouble(f"no answer for {own.timeout:g} seconds")
        except httpx2.ConnectError as error:
            return Trouble(f"no connection: {self._clean(str(error)) or type(error).__name__}")
        except httpx2.HTTPError as error:
            return Trouble(f"the connection failed ({type(error).__name__})")
        finally:
            self._sending.discard(task)
            self._gate.leave()
        return self._judge(response.status_code, response.headers, bytes(data), key)

    def _judge(
        self, status: int, headers: httpx2.Headers, data: bytes, key: str
    ) -> Answer | Trouble | _Refusal | _Halt:
        own = self._own
        server = f"the server {own.base_url} of the teacher {self._teacher.name!r}"
        if status == 200:
            return read_completion(data, key)
        code, message = read_complaint(data)
        code, message = self._clean(code), self._clean(message)
        said = f"HTTP {status}: {message}" if message else f"HTTP {status}"
        if status in (401, 403):
            # What it says may quote the key.
            remedy = (
                f"Check base_url and the key in {own.key_variable}."
                if own.key_variable
                else "If it needs a key, set key_variable to the name of the environment variable that holds one."
            )
            return _Halt(InputError(f"{server} refuses to answer (HTTP {status})", remedy))
        if status in MISTAKEN or "model_not_found" in code:
            what = f"{server} does not answer for the model {own.model!r} ({said.rstrip('.')})"
            return _Halt(InputError(what, "Check base_url and model."))
        if 300 <= status < 400:
            return _Halt(InputError(f"{server} redirects elsewhere ({said})", "Write the final address as base_url."))
        if status == 402 or "insufficient_quota" in code:
            return self._stop(f"wants to be paid first ({said})")
        if status in PASSING or status >= 500 or status < 300:
            return Trouble(said, status in BUSY, retry_after(headers))
        return _Refusal(said, own="content" in code or "length" in code)

    def _count_refusal(self, refusal: _Refusal) -> None:
        """Stop where the very first requests are refused in the same words: then it is not about them."""
        self._silent = 0
        if self._answered or refusal.own:
            return
        words, count = self._refusals
        self._refusals = (refusal.reason, count + 1 if refusal.reason == words else 1)
        if self._refusals[1] >= ROW:
            server = f"the server {self._own.base_url} of the teacher {self._teacher.name!r}"
            what = f"{server} refuses every request ({refusal.reason.rstrip('.')})"
            self._halt(_Halt(InputError(what, "Check model, sampling and extra.")))

    def _count_silence(self, trouble: Trouble) -> None:
        self._silent += 1
        if self._silent >= ROW:
            self._halt(self._stop(f"answered none of {ROW} requests in a row: {trouble.reason.rstrip('.')}"))

    def _is_halted(self) -> bool:
        return self._halted is not None

    def _halt(self, halt: _Halt) -> None:
        """Send nothing more. What is in flight may still bring an answer, and is paid for."""
        if self._halted is not None:
            return
        self._halted = halt.error
        for task in self._tasks - self._sending:
            if task is not asyncio.current_task():
                task.cancel()
        self._loop.call_later(GRACE, self._cancel_all)

    def _stop(self, what: str) -> _Halt:
        server = f"the server {self._own.base_url} of the teacher {self._teacher.name!r}"
        return _Halt(BuildError(f"{server} {what}", "What was finished is kept; run the same command again later."))

    def _defect(self, error: BaseException) -> _Halt:
        return self._stop(f"could not be asked: {type(error).__name__}: {self._clean(str(error))}")

    def _clean(self, text: str) -> str:
        """Return one short line without the key."""
        if self._key is not None:
            text = text.replace(self._key, "***")
        text = " ".join("".join(c if c.isprintable() else " " for c in text[:2000]).split())
        return text if len(text) <= 200 else text[:200] + "…"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{round(minutes / 60)} hours"
