"""Generation: what is asked of models, and how a builder that asks is divided into stages.

A *voice* is a model that answers, with all that its answers depend on: a teacher, a judge, a reward model. A
*request* is one conversation to be answered or scored once; its key covers the voice, the conversation as it is sent,
the seed and the number of the sample, and nothing else: not the engine that runs the model, not the row that asks.
Equal requests are one request. Answers are kept in the journal (:mod:`aya_data.core.journal`) under that key.

A :class:`GeneratingBuilder` names the *steps* between the rows of its parents and its own rows. Each step makes one
table for every part of the prompts, or one table for all of them; the engine runs them as stages.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from aya_data.core.identity import canonical, digest, frame, framed_digest
from aya_data.core.stage import Batch, Builder, Unit

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ABSENT",
    "FAILED",
    "LENGTH",
    "PROMPTS",
    "STOP",
    "TURN",
    "UNEXPLAINED",
    "Answer",
    "Asked",
    "GeneratingBuilder",
    "Place",
    "Request",
    "Session",
    "Step",
    "Voice",
    "answers_schema",
    "named_reasons",
    "request_key",
    "voice_key",
]

Turn = tuple[str, str]

PROMPTS = "prompts"
"""The name of the table that every step may read: the parents' rows, all columns of a row."""

STOP, LENGTH, ABSENT, FAILED = "stop", "length", "absent", "failed"
"""How an answer ended: by itself; at the limit of tokens; the voice has none (a recording); not at all. Engines may
say other things of theirs, such as ``content_filter``."""

UNEXPLAINED = "no reason given"
"""Of a failure of which nobody says why."""
TURN = 32
"""Tokens that a chat template writes around a turn, at most: its own marks, the date, a system prompt of a line."""


@dataclass(frozen=True, slots=True)
class Request:
    """One conversation that is answered once, or scored once.

    ``messages`` are as they are sent, system prompt included. They end with the turn that is answered; for a score,
    with the answer that is scored. ``seed`` is in 0 … 2**31 - 1. ``language`` is a variety, for counts alone.
    """

    key: str
    messages: tuple[Turn, ...]
    seed: int
    sample: int = 0
    language: str = "und"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: ``text`` of a completion or ``value`` of a score, or the ``reason`` why neither.

    ``attempts`` counts how often it was asked until then. Tokens are those of the model, None where nobody says.
    """

    key: str
    text: str | None = None
    value: float | None = None
    finish: str = STOP
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reason: str | None = None
    attempts: int = 1

    @property
    def failed(self) -> bool:
        """Whether it is to be asked again some day."""
        return self.finish == FAILED

    @property
    def counted(self) -> bool:
        """Whether somebody says how many tokens it took; a score has no text, and no tokens of its own."""
        return self.prompt_tokens is not None and (self.completion_tokens is not None or self.text is None)


class Session(Protocol):
    """A voice that is ready to be asked."""

    def ask(self, requests: Iterator[Request]) -> Iterator[Answer | None]:
        """Answer every request once, in any order, with a bounded number of them in flight.

        ``requests`` is pulled as there is room. Yields None about once a second while there is nothing to yield, so
        that the caller can commit what it has and show progress. A request that cannot be answered yields an
        :class:`Answer` with ``finish`` FAILED and its reason; only what stops all of them (a wrong key, a model that
        does not load) raises: :class:`~aya_data.core.errors.BuildError` or ``InputError``.
        """
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a session may put things: downloads, scratch, and a log of what a model's own process prints."""

    cache: Path
    temporary: Path
    log: Path
    restarted: Callable[[str, int], None] | None = None
    """Told how a model's process ended that is started again, and how many requests are asked again."""


class Voice(abc.ABC):
    """A model with all that its answers depend on. Cheap to make and picklable; loads nothing before a session."""

    name: str
    """What people call it: the name in the spec."""
    priced: bool = True
    """Whether an answer costs anything; if not, answers are committed in large batches."""

    @abc.abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """What an answer depends on beside its request, as JSON: model and revision or digest, adapter, hash of
        tokenizer and chat template, sampling parameters. No engine, address, key or path of this machine."""

    @property
    def pinned(self) -> bool:
        """Whether the identity names one model for ever."""
        return True

    def prices(self) -> tuple[float, float] | None:
        """Stated price of a million prompt tokens and of a million completion tokens, in one currency; or None."""
        return None

    def prompt_tokens(self, conversations: Sequence[Sequence[Turn]]) -> list[int]:
        """Return the most tokens that each conversation has as a prompt, as far as anybody can say who asks nobody.

        A token stands for a byte of UTF-8 at least; :data:`TURN` are added for what a chat template writes around each
        turn, before the first and after the last.
        """
        return [
            sum(len(text.encode("utf-8", "replace")) + TURN for _, text in turns) + 2 * TURN for turns in conversations
        ]

    def holds(self, request: Request) -> bool | None:
        """Whether it has an answer to a request, where it knows without being asked (a recording); else None."""
        return None

    def check(self) -> None:  # noqa: B027 (most have nothing that only this machine can tell)
        """Raise :class:`~aya_data.core.errors.InputError` for what would stop every request here, such as a key that is
        not in the environment. Called before anybody is asked."""

    @abc.abstractmethod
    def session(self, place: Place) -> AbstractContextManager[Session]:
        """Make it ready to be asked. Leaving the block frees all that it holds, processes and memory included."""


def voice_key(voice: Voice) -> str:
    """Identify a voice: 32 hex digits."""
    return digest("voice", canonical(voice.identity()))


def request_key(voice: str, messages: Sequence[Turn], seed: int, sample: int) -> str:
    """Identify a request to the voice with the key ``voice``: 32 hex digits."""
    turns = frame([text for turn in messages for text in turn])
    return framed_digest(frame(("request", voice, str(seed), str(sample))), turns)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of one row of the prompts. ``row`` is its position in its part; ``tag`` tells the requests of a row
    apart: the number of the sample, or teacher and sample of the completion that is scored."""

    row: int
    tag: str
    request: Request


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a builder that asks.

    * ``ask``: a voice answers. Makes a table of :func:`answers_schema` for every part of the prompts.
    * ``part``: a pure function of the tables of one part. Makes a table of any schema for every part.
    * ``whole``: a pure function of the tables of all parts. Makes one table, which later steps of all parts see.

    ``inputs`` are names of earlier steps; the prompts are always there. ``code`` names all modules that
    the result depends on, where those are not the builder's own; ``identity`` is the JSON of the settings that it
    depends on.
    """

    name: str
    kind: Literal["ask", "part", "whole"]
    inputs: tuple[str, ...]
    identity: Any
    code: tuple[str, ...] = ()


class GeneratingBuilder(Builder):
    """A builder whose rows are made from answers of models to the filtered rows of its parents."""

    @abc.abstractmethod
    def steps(self) -> Sequence[Step]:
        """The steps between the prompts and the rows, in order. No step is called ``prompts``."""

    @property
    def max_failed(self) -> int:
        """So many requests of one step may fail before the build stops."""
        return 0

    @property
    def commit(self) -> tuple[int, float]:
        """After so many answers or so many seconds, whichever is first, answers are committed to the journal."""
        return 256, 10.0

    def voice(self, step: str) -> Voice:
        """The voice of an ``ask`` step."""
        raise NotImplementedError

    def requests(self, step: str, tables: Mapping[str, pa.Table]) -> Iterator[Asked]:
        """List what an ``ask`` step asks for one part, in the order that suits the voice. Pure.

        ``tables`` holds the prompts and the inputs of the step, of this part.
        """
        raise NotImplementedError

    def expected(self, step: str, prompts: int, tokens: Callable[[str], float]) -> int:
        """How many requests an ``ask`` step makes of so many prompts, as far as that can be said without them.

        ``tokens(step)`` is how many tokens an answer of another such step is likely to have, 0 where nobody knows.
        """
        return prompts

    def unasked(self, step: str, prompts: Mapping[tuple[str, str], int] | None) -> str:
        """Why an ``ask`` step asks nothing whatever prompts say, such as their languages; "" where it may ask.

        ``prompts`` counts them by language and script; None where they are not there yet.
        """
        return ""

    def possible(self, step: str, tables: Mapping[str, pa.Table]) -> tuple[float, Iterator[Asked]] | None:
        """List what an ``ask`` step may ask for one part while a table that decides it is not there yet, and the share
        of it that it is likely to ask; None where that cannot be said. For an estimate.

        ``tables`` holds the prompts and those inputs of the step that are there.
        """
        return None

    def part(self, step: str, tables: Mapping[str, pa.Table]) -> pa.Table:
        """Make the table of a ``part`` step for one part of the prompts. Runs in a worker."""
        raise NotImplementedError

    def whole(self, step: str, parts: Iterable[Mapping[str, pa.Table]]) -> pa.Table:
        """Make the table of a ``whole`` step from the tables of all parts, in an order that must not change the result.

        ``parts`` are read as they are iterated over, as often as that is. Runs in the main process."""
        raise NotImplementedError

    @abc.abstractmethod
    def make(self, tables: Mapping[str, pa.Table]) -> Iterator[Batch]:
        """Make the rows of one part from the prompts and the tables of all steps; one record is one prompt."""

    def publish(self, tables: Mapping[str, pa.Table]) -> Mapping[str, pa.Table]:
        """Return what the release keeps of one part beside its rows, by name of a view of the catalog."""
        return {}

    def report(self, wholes: Mapping[str, pa.Table]) -> Mapping[str, Any]:
        """Return what the manifest says of the source, as JSON, from the tables of its ``whole`` steps."""
        return {}

    def units(self) -> list[Unit]:
        """A derived source has no input of its own."""
        return []

    def read(self, unit: Unit) -> Iterator[Batch]:
        """A derived source has nothing to read."""
        raise NotImplementedError("the source is made from the rows of its parents")


def named_reasons(failed: Mapping[str, int], most: int = 3) -> str:
    """Name the reasons of most failures, as in "2 times HTTP 400, once HTTP 413"."""
    ordered = sorted(failed.items(), key=lambda one: (-one[1], one[0]))
    said = [f"{'once' if count == 1 else f'{count:,} times'} {reason}" for reason, count in ordered[:most]]
    return ", ".join(said + (["and others"] if len(ordered) > most else []))


def answers_schema() -> pa.Schema:
    """The table of an ``ask`` step, sorted by row and tag: one row for each request of a row of the prompts."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("row", pa.int32()),
            pa.field("tag", pa.string()),
            pa.field("key", pa.string()),
            pa.field("text", pa.string()),
            pa.field("value", pa.float64()),
            pa.field("finish", pa.string()),
            pa.field("prompt_tokens", pa.int32()),
            pa.field("completion_tokens", pa.int32()),
            pa.field("reason", pa.string()),
        ]
    )
