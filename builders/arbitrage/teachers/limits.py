"""How much may be asked of a server at a time and in a minute.

The number of requests in flight follows what the server bears, as the congestion window of TCP does (RFC 5681): it
grows by one with every answer until the first trouble, is halved by trouble, and then grows by a sixteenth of its limit
after two windows of answers. Requests and tokens of a minute are paced by token buckets. All of it lives in one event
loop and takes no lock of a thread.
"""

from __future__ import annotations

import asyncio
from typing import Final

__all__ = ["Bucket", "Gate", "Window"]

FIRST: Final = 4
"""Requests in flight before anything is known of a server."""


class Window:
    """How many requests may be in flight: additive increase, multiplicative decrease, between 1 and ``limit``.

    A server that says it is busy is believed at once. Other troubles (an error, a broken connection, silence) count
    when there is more than one of them for ten answers: halving the window for every one of a server that fails now and
    then would leave next to nothing of a large window.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = min(FIRST, limit)
        self._step = max(1, limit // 16)
        self._slow_start = True
        self._good = 0
        self._bad = 0.0
        self._sent = 0
        self._cut = 0

    def send(self) -> int:
        """Return the number of a request that is sent now."""
        self._sent += 1
        return self._sent

    def succeed(self) -> None:
        """A request was answered."""
        self._good += 1
        self._bad = max(0.0, self._bad - 0.1)
        if self._slow_start:
            self.size = min(self.limit, self.size + 1)
        elif self._good >= 2 * self.size:
            self.size, self._good = min(self.limit, self.size + self._step), 0

    def suffer(self, number: int, busy: bool) -> None:
        """Request ``number`` met trouble. Those that were in flight together are cut together, once."""
        self._bad += 1
        if number > self._cut and (busy or self._bad > 2):
            self._slow_start, self._good, self._bad = False, 0, 0.0
            self.size, self._cut = max(1, self.size // 2), self._sent


class Bucket:
    """A token bucket: at most ``per_minute`` in any minute, and one request beyond it where requests differ in size.

    It holds what a second brings, and one at least. A request that takes more leaves a debt, which is paid before the
    next one.
    """

    def __init__(self, per_minute: int) -> None:
        self.capacity = max(1.0, per_minute / 60)
        # What the bucket holds at first is part of the minute.
        self.rate = (per_minute - self.capacity + 1) / 60
        self._level = self.capacity
        self._since = 0.0

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until ``amount`` may be taken."""
        self._level = min(self.capacity, self._level + (now - self._since) * self.rate)
        self._since = now
        return max(0.0, (min(amount, self.capacity) - self._level) / self.rate)

    def take(self, amount: float) -> None:
        """Take ``amount``; a negative one gives back."""
        self._level -= amount


class Gate:
    """Lets requests through in the order in which they come, as window, pause and buckets allow.

    ``limit`` requests at most are in flight. ``requests`` and ``tokens`` are those of a minute.
    """

    def __init__(self, limit: int, requests: int | None, tokens: int | None) -> None:
        self.window = Window(limit)
        self.in_flight = 0
        self._requests = Bucket(requests) if requests else None
        self._tokens = Bucket(tokens) if tokens else None
        self._paused_until = 0.0
        self._turnstile = asyncio.Lock()
        self._room = asyncio.Event()

    async def enter(self, tokens: float) -> int:
        """Wait for the turn of a request that takes so many ``tokens``; return its number."""
        loop = asyncio.get_running_loop()
        async with self._turnstile:
            while True:
                if self.in_flight >= self.window.size:
                    self._room.clear()
                    await self._room.wait()
                    continue
                now = loop.time()
                wait = max(
                    self._paused_until - now,
                    self._requests.wait(1, now) if self._requests else 0.0,
                    self._tokens.wait(tokens, now) if self._tokens else 0.0,
                )
                if wait <= 0:
                    break
                await asyncio.sleep(wait)
            if self._requests:
                self._requests.take(1)
            if self._tokens:
                self._tokens.take(tokens)
            self.in_flight += 1
            return self.window.send()

    def leave(self) -> None:
        """A request is over."""
        self.in_flight -= 1
        self._room.set()

    def succeed(self, surplus: float) -> None:
        """A request was answered, and took ``surplus`` tokens less than was said."""
        self.window.succeed()
        self._room.set()
        if self._tokens:
            self._tokens.take(-surplus)

    def suffer(self, number: int, busy: bool, pause: float | None) -> None:
        """Request ``number`` met trouble; for ``pause`` seconds nothing at all may be sent."""
        self.window.suffer(number, busy)
        if pause is not None:
            self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + pause)
