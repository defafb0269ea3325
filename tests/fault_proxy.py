"""A proxy on the loopback interface that stands between a client and a real server, and breaks what passes.

Every request is told by its body. ``plan(body, n)`` names the fault that its n-th arrival (from 0) meets, or None:

    refused faults, of which the server never learns
        429        with Retry-After
        500
        hang       no answer until the client goes
        reset      the connection is reset
    late faults, after the server has worked
        late_500   an error in the place of the answer
        late_hang  no answer until the client goes
        late_reset the connection is reset
        half       the head and half of the body, then the end of the connection
        garbage    200, and half of the body as if it were all

What it counts, by body: ``arrivals``, ``injected`` faults, ``worked`` (completions that the server has made),
``delivered`` (those that passed unharmed), ``abandoned`` (a client that left an arrival without a fault).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable

__all__ = ["EARLY", "LATE", "FaultProxy", "Plan"]

EARLY = ("429", "500", "hang", "reset")
LATE = ("late_500", "late_hang", "late_reset", "half", "garbage")

Plan = Callable[[bytes, int], str | None]


class FaultProxy:
    """Forwards to ``port`` of the loopback interface. ``wait``: what Retry-After says, in seconds."""

    def __init__(self, port: int, plan: Plan, wait: int = 1) -> None:
        self.upstream, self.plan, self.wait = port, plan, wait
        self.arrivals: Counter[bytes] = Counter()
        self.injected: Counter[bytes] = Counter()
        self.worked: Counter[bytes] = Counter()
        self.delivered: Counter[bytes] = Counter()
        self.abandoned: Counter[bytes] = Counter()
        self.kinds: Counter[str] = Counter()
        self.mistakes: list[BaseException] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(timeout=10)
        for mistake in self.mistakes:
            raise mistake

    async def _main(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connected, sock=self._socket)
        self._ready.set()
        await self._over.wait()
        server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._pass(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except BaseException as mistake:
            self.mistakes.append(mistake)
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Let one request pass; return whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(_field(head, b"content-length") or b"0"))
        fault = self.plan(body, self.arrivals[body])
        self.arrivals[body] += 1
        if fault is not None:
            self.injected[body] += 1
            self.kinds[fault] += 1
        if fault == "429":
            return await _say(writer, b"429 Too Many Requests", b"{}", b"retry-after: %d\r\n" % self.wait)
        if fault == "500":
            return await _say(writer, b"500 Internal Server Error", b"oops")
        if fault == "hang":
            return await _hang(reader)
        if fault == "reset":
            return _reset(writer)
        status, answer = await self._forward(head, body)
        if b"200" in status:
            self.worked[body] += 1
        if fault == "late_500":
            return await _say(writer, b"500 Internal Server Error", b"oops")
        if fault == "late_hang":
            return await _hang(reader)
        if fault == "late_reset":
            return _reset(writer)
        if fault == "half":
            writer.write(_head(status, len(answer)) + answer[: len(answer) // 2])
            await writer.drain()
            return False
        if fault == "garbage":
            return await _say(writer, status, answer[: len(answer) // 2])
        if reader.at_eof():
            self.abandoned[body] += 1
            return False
        self.delivered[body] += 1
        return await _say(writer, status, answer)

    async def _forward(self, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Return status and body of the server's answer; the connection to the server is the request's own."""
        lines = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(b"connection:")]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        try:
            writer.write(b"\r\n".join([*lines, b"connection: close", b"", b""]) + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert b"chunked" not in answer.lower()
            return answer.split(b"\r\n", 1)[0].split(b" ", 1)[1], await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


def _field(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return None


def _head(status: bytes, size: int, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n" % (status, size, more)


async def _say(writer: asyncio.StreamWriter, status: bytes, body: bytes, more: bytes = b"") -> bool:
    writer.write(_head(status, len(body), more) + body)
    await writer.drain()
    return True


async def _hang(reader: asyncio.StreamReader) -> bool:
    await reader.read()
    return False


def _reset(writer: asyncio.StreamWriter) -> bool:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False
