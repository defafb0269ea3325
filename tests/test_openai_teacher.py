"""The teacher ``openai`` against real servers on the loopback interface, with faults in between."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import pickle
import socket
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aya_data.builders.arbitrage.teachers.chat_response import Trouble, read_completion, retry_after
from aya_data.builders.arbitrage.teachers.limits import Bucket, Window
from aya_data.builders.arbitrage.teachers.openai_engine import OpenAISettings, OpenAITeacher
from aya_data.core import license as licenses
from aya_data.core.errors import BuildError, InputError
from aya_data.core.generation import FAILED, LENGTH, STOP, Answer, Place, Request, request_key, voice_key
from aya_data.core.stage import Environment
from tests.chat_server import (
    Echo,
    Reply,
    Served,
    Server,
    completion,
    model_server,
    said,
    transformers_serve,
    vllm_serve,
)
from tests.fault_proxy import EARLY, LATE, FaultProxy, Plan
from tests.tiny_models import causal_lm, needs_transformers

PLACE = Place(Path("."), Path("."), Path("log"))
KEY = "sk-very-secret-0123456789"


def teacher(base_url: str, **given: Any) -> OpenAITeacher:
    sampling = {"n": 1, "temperature": 0.7, "max_tokens": 16, **given.pop("sampling", {})}
    own = {"engine": "openai", "model": "m", "base_url": base_url, "sampling": sampling, "timeout": 20.0, **given}
    environment = Environment(Path("."), Path("."), True, 7, None, licenses.policy("any"))
    return OpenAITeacher("command", OpenAISettings.model_validate(own), environment)


def requests(voice: OpenAITeacher, texts: Iterable[str]) -> list[Request]:
    """One request for each text, all with seeds of their own."""
    key = voice_key(voice)
    turns = [(("system", "Be brief."), ("user", text)) for text in texts]
    return [Request(request_key(key, turn, n, 0), turn, n) for n, turn in enumerate(turns)]


def answers(voice: OpenAITeacher, asked: Iterable[Request]) -> dict[str, Answer]:
    """Ask, and check that every request has exactly one answer."""
    listed = list(asked)
    with voice.session(PLACE) as session:
        found = [answer for answer in session.ask(iter(listed)) if answer is not None]
    assert Counter(answer.key for answer in found) == Counter(request.key for request in listed)
    return {answer.key: answer for answer in found}


def refused(voice: OpenAITeacher, asked: Iterable[Request]) -> tuple[list[Answer], BuildError | InputError]:
    found: list[Answer] = []
    with pytest.raises((BuildError, InputError)) as caught, voice.session(PLACE) as session:
        found.extend(answer for answer in session.ask(iter(list(asked))) if answer is not None)
    return found, caught.value


# What is sent and what comes back.


def test_what_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMAND_KEY", f" {KEY}\n")
    echo = Echo()
    with Served(echo) as server:
        more = {"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "stop": ["\n\n"], "top_p": 0.9, "n": 4}
        full = teacher(
            server.base_url + "/", key_variable="COMMAND_KEY", sampling=more, extra={"frequency_penalty": 0.5},
            limit_field="max_completion_tokens", concurrency=1,
        )  # fmt: skip
        (request,) = requests(full, ["Türkiye'nin başkenti neresidir? 🇹🇷"])
        (answer,) = answers(full, [request]).values()
        answers(teacher(server.base_url, sampling={"temperature": 0}), [request])
    first, second = echo.arrivals
    turns = [{"role": role, "content": content} for role, content in request.messages]
    assert first.body == {
        "model": "m", "messages": turns, "max_completion_tokens": 16, "temperature": 0.7, "top_p": 0.9, "seed": 0,
        "stream": False, "stop": ["\n\n"], "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1,
        "frequency_penalty": 0.5,
    }  # fmt: skip
    assert second.body == {
        "model": "m", "messages": turns, "max_tokens": 16, "temperature": 0.0, "top_p": 1.0, "seed": 0, "stream": False
    }  # fmt: skip
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in second.headers, "no key unless a variable is named"
    assert answer == Answer(request.key, said(first.body), prompt_tokens=6, completion_tokens=1)


def test_identity_is_what_an_answer_depends_on() -> None:
    same: dict[str, Any] = {"revision": "2026-08", "extra": {"frequency_penalty": 0.5}}
    voice = teacher("http://a/v1", **same, price={"prompt": 0.5, "completion": 1.5})
    elsewhere = {"concurrency": 3, "key_variable": "SOME_KEY", "attempts": 2, "timeout": 1.5, "tokens_per_minute": 5}
    assert voice_key(teacher("https://b/v1", **same, **elsewhere, sampling={"n": 3})) == voice_key(voice)
    for change in ({"model": "o"}, {"revision": "x"}, {"extra": {"frequency_penalty": 1}}, {"sampling": {"top_k": 3}}):
        assert voice_key(teacher("http://a/v1", **{**same, **change})) != voice_key(voice)
    assert voice.pinned
    assert not teacher("http://a/v1").pinned
    assert voice.prices() == (0.5, 1.5)
    assert pickle.loads(pickle.dumps(voice)).identity() == voice.identity()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"base_url": "localhost:8000"}, "is no web address: 'localhost:8000'"),
        ({"base_url": "http://host:70000/v1"}, "is no web address"),
        ({"base_url": f"https://:{KEY}@host/v1"}, "holds more than an address"),
        ({"key_variable": KEY}, "is no name of an environment variable"),
        ({"extra": {"seed": 3}}, "names 'seed', which has its own place"),
        ({"extra": {"api_key": KEY}}, "names 'api_key'"),
        ({"extra": {"logit_bias": {"5": None}}}, "holds a null"),
        ({"extra": {"x": {1: 2}}}, "has a field whose name is no text"),
        ({"extra": {"x": Path(".")}}, "holds what JSON cannot say"),
        ({"extra": {"top_k": -1}, "sampling": {"top_k": 3}}, "has top_k in both sampling and extra"),
    ],
)
def test_wrong_settings(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        teacher(given.pop("base_url", "http://a/v1"), **given)
    assert expected in str(caught.value)
    assert KEY not in str(caught.value)


def test_one_connection_is_used_again() -> None:
    echo = Echo()
    with Served(echo) as server:
        voice = teacher(server.base_url, concurrency=1)
        answers(voice, requests(voice, map(str, range(20))))
    assert len({arrival.client for arrival in echo.arrivals}) == 1


@pytest.mark.parametrize(
    ("data", "text", "finish"),
    [
        (completion("a", "length"), "a", LENGTH),
        (completion("a", "MAX_TOKENS"), "a", LENGTH),
        (completion("a", "eos_token"), "a", STOP),
        (completion("", "stop"), "", STOP),
        (completion("cut", "content_filter"), "cut", "content_filter"),
        (completion(None, "length"), "", LENGTH),
        (completion(None, "content_filter"), "", "content_filter"),
        (completion("\ud83d\ude00 \ud83d", "stop"), "😀 \ufffd", STOP),
        (b'{"choices":[{"message":{"content":null,"refusal":"No."},"finish_reason":"stop"}]}', "No.", "refusal"),
    ],
)
def test_how_a_completion_ends(data: bytes, text: str, finish: str) -> None:
    assert read_completion(data, "k") == Answer("k", text, finish=finish)


GARBAGE = [
    b"",
    b"<html>",
    b"null",
    b"[]",
    b"\xff\xfe{",
    b'{"error": {"message": "overloaded"}}',
    b'{"choices": []}',
    completion("a")[:-2],
    completion("a", None),
    completion("a", "abort"),
    completion("a", "failed"),
    completion(None),
    json.dumps({"choices": [json.loads(completion("a"))["choices"][0]] * 2}).encode(),
    b"[" * 100_000,
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_no_completion(data: bytes) -> None:
    assert isinstance(read_completion(data, "k"), Trouble)


def test_garbage_is_asked_again_and_never_an_answer() -> None:
    echo = Echo(lambda body, n: Reply(body=b"{}") if n < 2 or body["seed"] == 3 else None)
    with Served(echo) as server:
        voice = teacher(server.base_url, attempts=3)
        listed = requests(voice, "abcde")
        found = answers(voice, listed)
    assert [found[request.key].finish for request in listed] == [STOP] * 3 + [FAILED] + [STOP]
    assert found[listed[3].key].reason == "a response that is no completion (3 tries)"
    assert {answer.attempts for answer in found.values()} == {3}


# Faults between the client and the server.


def faults(share: float) -> Plan:
    """Each kind of fault in its turn, for a ``share`` of the first three arrivals of a request."""
    kinds = EARLY + LATE
    cycle = round(len(kinds) / share)

    def plan(body: bytes, n: int) -> str | None:
        place = (json.loads(body)["seed"] + 4 * n) % cycle
        return kinds[place] if n < 3 and place < len(kinds) else None

    return plan


def balanced(proxy: FaultProxy, voice: OpenAITeacher, listed: list[Request], found: dict[str, Answer]) -> None:
    """Nothing is lost, nothing is asked again but where an attempt failed, and nothing but that is generated twice."""
    bodies = {request.key: voice.body(request) for request in listed}
    assert proxy.arrivals.keys() == set(bodies.values())
    for key, body in bodies.items():
        assert found[key].finish in (STOP, LENGTH)
        assert proxy.delivered[body] == 1
        assert proxy.arrivals[body] == 1 + proxy.injected[body] + proxy.abandoned[body] == found[key].attempts
    late = sum(proxy.kinds[kind] for kind in LATE)
    assert proxy.worked.total() == len(listed) + late + proxy.abandoned.total()
    assert proxy.injected.total() > len(listed) // 5
    assert set(proxy.kinds) == {*EARLY, *LATE}


def test_faults_lose_nothing_and_repeat_nothing() -> None:
    echo = Echo()
    with Served(echo) as server, FaultProxy(server.port, faults(0.3)) as proxy:
        voice = teacher(proxy.base_url, timeout=1.5, concurrency=64)
        listed = requests(voice, (f"question {n}" for n in range(60)))
        found = answers(voice, listed)
    balanced(proxy, voice, listed, found)
    assert len(echo.arrivals) == proxy.worked.total()
    by_seed = {arrival.body["seed"]: said(arrival.body) for arrival in echo.arrivals}
    assert [found[request.key].text for request in listed] == [by_seed[n] for n in range(60)]


def own_server(folder: Path) -> AbstractContextManager[Server]:
    return model_server(causal_lm(folder))


def transformers_server(folder: Path) -> AbstractContextManager[Server]:
    program = os.environ.get("AYA_DATA_TRANSFORMERS")
    if program is None:
        pytest.skip("AYA_DATA_TRANSFORMERS names no program `transformers` of an environment with its extra serving")
    return transformers_serve(program, causal_lm(folder))


def vllm_server(folder: Path) -> AbstractContextManager[Server]:
    python = os.environ.get("AYA_DATA_VLLM_PYTHON")
    if python is None:
        pytest.skip("AYA_DATA_VLLM_PYTHON names no interpreter that has vllm")
    return vllm_serve(python, causal_lm(folder))


@needs_transformers
@pytest.mark.parametrize("make", [own_server, transformers_server, vllm_server])
def test_faults_before_a_real_model(make: Callable[[Path], AbstractContextManager[Server]], tmp_path: Path) -> None:
    """The answers are those of the same model without faults."""
    with make(tmp_path / "model") as server:
        with FaultProxy(server.port, faults(0.4)) as proxy:
            timeout = 2.0 if make is own_server else 20.0
            voice = teacher(proxy.base_url, model=server.model, timeout=timeout, sampling={"max_tokens": 8})
            listed = requests(voice, (f"Explain why the sky is blue {n}" for n in range(18)))
            found = answers(voice, listed)
        direct = teacher(f"http://127.0.0.1:{server.port}/v1", model=server.model, sampling={"max_tokens": 8})
        plain = answers(direct, listed[::4])
        wrong = teacher(f"http://127.0.0.1:{server.port}/v2", model="another")
        _, error = refused(wrong, requests(wrong, map(str, range(20))))
        assert isinstance(error, InputError)
    balanced(proxy, voice, listed, found)
    for answer in plain.values():
        assert answer.attempts == 1
        assert answer.completion_tokens is not None and 1 <= answer.completion_tokens <= 8
        assert answer.prompt_tokens == found[answer.key].prompt_tokens
    # transformers serve has one random state for all requests, so that those in flight together mix their seeds.
    if make is not transformers_server:
        assert len({answer.text for answer in found.values()}) > 15, "a model that tells seeds apart"
        same = [replace(found[key], attempts=1) for key in plain]
        assert same == list(plain.values()), "and keeps to them"


# Waiting.


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(form: str) -> None:
    def script(body: dict[str, Any], n: int) -> Reply | None:
        if len(echo.arrivals) != 3:
            return None
        now = datetime.now(UTC)
        after = "1" if form == "seconds" else format_datetime(now + timedelta(seconds=2), usegmt=True)
        return Reply.error(429, "slow down", retry_after=after, date=format_datetime(now, usegmt=True))

    echo = Echo(script)
    with Served(echo) as server:
        voice = teacher(server.base_url, concurrency=1)
        found = answers(voice, requests(voice, map(str, range(8))))
    moments = [arrival.moment for arrival in echo.arrivals]
    assert len(moments) == 9
    assert moments[3] - moments[2] >= (1.0 if form == "seconds" else 1.9), "nothing at all is sent before"
    assert sorted(answer.attempts for answer in found.values()) == [1] * 7 + [2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7.0),
        ("0", 0.0),
        (" 1.5 ", 1.5),
        ("Sat, 21 Nov 2026 10:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 09:00:00 GMT", 0.0),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("Sat, 21 Nov 99999 09:00:00 GMT", None),
        ("９", None),
    ],
)
def test_retry_after(text: str, expected: float | None) -> None:
    """A date counts from the server's own clock."""
    assert retry_after({"retry-after": text, "date": "Sat, 21 Nov 2026 10:00:00 GMT"}) == expected


def test_requests_in_flight_follow_the_server_and_never_pass_the_limit() -> None:
    """A server that refuses more than five at a time; and one that refuses nothing."""
    echo = Echo(lambda body, n: Reply.error(429) if echo.in_flight > 5 else None, takes=0.02, gather=6)
    with Served(echo) as server:
        voice = teacher(server.base_url, concurrency=12, attempts=30)
        found = answers(voice, requests(voice, map(str, range(100))))
    assert {answer.finish for answer in found.values()} == {STOP}
    assert 5 < echo.peak <= 12
    assert len(echo.arrivals) < 200, "not one refusal for every answer"
    calm = Echo(gather=12)
    with Served(calm) as server:
        voice = teacher(server.base_url, concurrency=12)
        answers(voice, requests(voice, map(str, range(100))))
    assert calm.peak == 12


def test_window_grows_and_is_halved_once_for_what_was_in_flight_together() -> None:
    window = Window(64)
    for _ in range(60):
        window.succeed()
    assert window.size == 64
    for number in [window.send() for _ in range(64)]:
        window.suffer(number, busy=True)
    assert window.size == 32
    for _ in range(63):
        window.succeed()
    assert window.size == 32
    window.succeed()
    assert window.size == 36, "a sixteenth of the limit for two windows"
    for _ in range(10):
        window.suffer(window.send(), busy=True)
    assert window.size == 1


def test_a_server_that_fails_now_and_then_keeps_its_window() -> None:
    window = Window(64)
    for n in range(2000):
        number = window.send()
        if n % 20 == 0:
            window.suffer(number, busy=False)
        else:
            window.succeed()
    assert window.size == 64
    for _ in range(3):
        window.suffer(window.send(), busy=False)
    assert window.size == 32, "three in a row are no accident"


@given(st.integers(1, 5000), st.lists(st.tuples(st.floats(0, 5), st.integers(1, 3)), min_size=1, max_size=300))
def test_no_minute_holds_more_than_its_requests(per_minute: int, steps: list[tuple[float, int]]) -> None:
    bucket, now, sent = Bucket(per_minute), 100.0, []
    for idle, burst in steps:
        now += idle
        for _ in range(burst):
            while (wait := bucket.wait(1, now)) > 0:
                now += max(wait, 1e-6)
            bucket.take(1)
            sent.append(now)
    for first, moment in enumerate(sent):
        inside = sum(moment <= other < moment + 59.999 for other in sent[first : first + per_minute + 2])
        assert inside <= per_minute


@given(st.integers(60, 10_000), st.lists(st.integers(1, 3000), min_size=1, max_size=100))
def test_tokens_of_a_minute(per_minute: int, sizes: list[int]) -> None:
    bucket, now, sent = Bucket(per_minute), 0.0, []
    for size in sizes:
        while (wait := bucket.wait(size, now)) > 0:
            now += max(wait, 1e-6)
        bucket.take(size)
        sent.append((now, size))
    for moment, _ in sent:
        inside = [size for other, size in sent if moment <= other < moment + 59.999]
        assert sum(inside) - max(inside) <= per_minute


def test_limits_of_a_minute_reach_the_server() -> None:
    echo = Echo()
    with Served(echo) as server:
        voice = teacher(server.base_url, requests_per_minute=600)
        answers(voice, requests(voice, map(str, range(16))))
        by_requests, echo.arrivals = echo.arrivals, []
        # 28 tokens are reserved for each, and 4 turn out to be used.
        voice = teacher(server.base_url, tokens_per_minute=6000, concurrency=1)
        answers(voice, requests(voice, map(str, range(40))))
    assert by_requests[-1].moment - by_requests[0].moment >= 0.5, "ten at once, then one each tenth of a second"
    took = echo.arrivals[-1].moment - echo.arrivals[0].moment
    assert took >= (39 * 4 - 100) / 100, "100 at once, then 100 in a second"


# What fails.


LATER = "What was finished is kept; run the same command again later."


@pytest.mark.parametrize(
    ("reply", "what", "remedy"),
    [
        (
            Reply.error(401, f"Incorrect API key provided: {KEY}"),
            "refuses to answer (HTTP 401)",
            "Check base_url and the key in COMMAND_KEY.",
        ),
        (Reply.error(403), "refuses to answer (HTTP 403)", "Check base_url and the key in COMMAND_KEY."),
        (
            Reply.error(404, "The model `m` does not exist."),
            "does not answer for the model 'm' (HTTP 404: The model `m` does not exist)",
            "Check base_url and model.",
        ),
        (
            Reply.error(400, f"no such model, {KEY}", "model_not_found"),
            "does not answer for the model 'm' (HTTP 400: no such model, ***)",
            "Check base_url and model.",
        ),
        (
            Reply.error(429, "You exceeded your current quota", "insufficient_quota"),
            "wants to be paid first (HTTP 429: You exceeded your current quota)",
            LATER,
        ),
        (Reply.error(429, retry_after="86400"), "asks to wait 24 hours (HTTP 429)", LATER),
        (
            Reply(301, headers={"location": "/v2/chat/completions"}),
            "redirects elsewhere (HTTP 301)",
            "Write the final address as base_url.",
        ),
        (
            Reply.error(422, "top_p: extra fields not permitted"),
            "refuses every request (HTTP 422: top_p: extra fields not permitted)",
            "Check model, sampling and extra.",
        ),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Reply) else "",
)
def test_what_stops_all(
    reply: Reply, what: str, remedy: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("COMMAND_KEY", KEY)
    echo = Echo(lambda body, n: reply)
    with Served(echo) as server:
        voice = teacher(server.base_url, key_variable="COMMAND_KEY", concurrency=8)
        found, error = refused(voice, requests(voice, map(str, range(200))))
    assert str(error) == f"the server {server.base_url} of the teacher 'command' {what}. {remedy}"
    assert all(answer.failed for answer in found)
    assert len(echo.arrivals) <= 16
    shown = ["".join(traceback.format_exception(error)), caplog.text]
    shown += map(repr, (error.__dict__, found, voice.identity()))
    assert KEY not in "".join(shown)
    chain: BaseException | None = error
    while chain is not None:
        assert isinstance(chain, (BuildError, InputError)), "an exception of the client holds the request and its key"
        chain = chain.__cause__ or chain.__context__


def test_answers_on_their_way_are_kept_when_all_stops() -> None:
    """Three are being answered when the fourth is refused."""

    def script(body: dict[str, Any], n: int) -> Reply | None:
        return Reply.error(401) if body["seed"] == 3 else None

    class Slow(Echo):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def later(event: Any) -> None:
                if event.get("status") == 200:
                    while self.in_flight or len(self.arrivals) < 4:
                        await asyncio.sleep(0.01)
                    await asyncio.sleep(0.2)
                await send(event)

            await super().__call__(scope, receive, later)

    echo = Slow(script)
    with Served(echo) as server:
        voice = teacher(server.base_url, concurrency=4)
        found, error = refused(voice, requests(voice, map(str, range(50))))
    assert isinstance(error, InputError)
    assert len(found) == len(echo.arrivals) - 1
    assert all(answer.finish == STOP for answer in found)


def test_nothing_is_tried_again_when_all_stops() -> None:
    """The key is refused while others are being answered, with an error: they are not asked a second time."""
    together = threading.Barrier(4)

    def script(body: dict[str, Any], n: int) -> Reply | None:
        return Reply.error(401) if body["seed"] == 3 else Reply.error(500)

    class Together(Echo):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def later(event: Any) -> None:
                if event.get("status") == 500:
                    await asyncio.to_thread(together.wait)
                    await asyncio.sleep(0.2)
                elif event.get("status") == 401:
                    await asyncio.to_thread(together.wait)
                await send(event)

            await super().__call__(scope, receive, later)

    echo = Together(script)
    with Served(echo) as server:
        voice = teacher(server.base_url, concurrency=4)
        found, error = refused(voice, requests(voice, map(str, range(50))))
    assert isinstance(error, InputError)
    assert found == []
    assert len(echo.arrivals) == 4


def test_a_key_follows_no_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMAND_KEY", KEY)
    other = Echo()
    with Served(other) as elsewhere:
        location = f"http://localhost:{elsewhere.port}/v1/chat/completions"
        with Served(Echo(lambda body, n: Reply(307, headers={"location": location}))) as server:
            voice = teacher(server.base_url, key_variable="COMMAND_KEY")
            _, error = refused(voice, requests(voice, ["a"]))
    assert "redirects elsewhere" in str(error)
    assert other.arrivals == []


@pytest.mark.parametrize(("value", "found"), [("", "is not set"), ("clé", "does not hold a key")])
def test_a_missing_key(value: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMAND_KEY", value)
    with pytest.raises(InputError) as caught, teacher("http://h/v1", key_variable="COMMAND_KEY").session(PLACE):
        pass
    assert str(caught.value) == (
        f"the environment variable COMMAND_KEY, which the teacher 'command' takes its key from, {found}. Set it, or "
        "take key_variable out of the teacher if http://h/v1 needs no key."
    )


def test_a_refused_request_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMAND_KEY", KEY)

    def script(body: dict[str, Any], n: int) -> Reply | None:
        if body["seed"] % 2 == 0:
            return Reply.error(400, f"the prompt\nis  too long, {KEY}", "context_length_exceeded")
        return None

    echo = Echo(script)
    with Served(echo) as server:
        voice = teacher(server.base_url, key_variable="COMMAND_KEY", concurrency=1)
        listed = requests(voice, [*map(str, range(40)), "half a \ud83d pair"])
        found = answers(voice, listed)
    for request in listed[:40]:
        expected = (
            Answer(request.key, finish=FAILED, reason="HTTP 400: the prompt is too long, ***")
            if request.seed % 2 == 0
            else Answer(request.key, found[request.key].text, prompt_tokens=3, completion_tokens=1)
        )
        assert found[request.key] == expected
    assert found[listed[40].key] == Answer(
        listed[40].key, finish=FAILED, reason="the prompt holds half a surrogate pair, no text", attempts=0
    )
    assert sorted(arrival.body["seed"] for arrival in echo.arrivals) == list(range(40)), "and none is asked twice"


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    voice = teacher(f"http://127.0.0.1:{port}/v1", attempts=2)
    found = answers(voice, requests(voice, "abc"))
    assert {answer.attempts for answer in found.values()} == {2}
    assert {answer.reason for answer in found.values()} == {"no connection: All connection attempts failed (2 tries)"}
    failed, error = refused(voice, requests(voice, map(str, range(100))))
    assert isinstance(error, BuildError)
    assert str(error) == (
        f"the server http://127.0.0.1:{port}/v1 of the teacher 'command' answered none of 8 requests in a row: no "
        "connection: All connection attempts failed. What was finished is kept; run the same command again later."
    )
    assert len(failed) >= 8


# The caller.


def test_requests_are_pulled_as_there_is_room() -> None:
    pulled = 0

    def counted(listed: list[Request]) -> Iterator[Request]:
        nonlocal pulled
        for request in listed:
            pulled += 1
            yield request

    with Served(Echo()) as server:
        voice = teacher(server.base_url, concurrency=4)
        with voice.session(PLACE) as session:
            got = 0
            for answer in session.ask(counted(requests(voice, map(str, range(100))))):
                got += answer is not None
                assert pulled - got <= 8
    assert (got, pulled) == (100, 100)


def test_a_silent_server_leaves_the_caller_in_charge() -> None:
    """It is told every second that nothing came, may close, and finds no thread and no request left."""
    before = threading.active_count()
    echo = Echo()
    echo.held.set()
    with Served(echo) as server:
        voice = teacher(server.base_url, concurrency=2)
        with voice.session(PLACE) as session:
            asking = session.ask(iter(requests(voice, "abcdef")))
            while len(echo.arrivals) < 2:
                assert next(asking) is None
            asking.close()  # type: ignore[attr-defined]
            echo.held.clear()
            again = [answer for answer in session.ask(iter(requests(voice, "xyz"))) if answer is not None]
        assert [answer.finish for answer in again] == [STOP] * 3
        assert {arrival.body["messages"][1]["content"] for arrival in echo.arrivals[:2]} == {"a", "b"}
        assert len(echo.arrivals) == 5
    assert threading.active_count() == before


def test_what_the_caller_raises_is_not_lost() -> None:
    def broken(listed: list[Request]) -> Iterator[Request]:
        yield listed[0]
        raise OSError("the disk is gone")

    with Served(Echo()) as server:
        voice = teacher(server.base_url)
        with pytest.raises(OSError, match="the disk is gone"), voice.session(PLACE) as session:
            list(session.ask(broken(requests(voice, "ab"))))
    gc.collect()
