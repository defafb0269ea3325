"""What recordings hold: the answers of files, by what was asked.

Files are read once for all that is known of their answers but the texts (:func:`scanned`), and once more for these
(:func:`texts_of`), which go into a temporary file. Both are kept for the last four sets of files of this process.
"""

from __future__ import annotations

import os
import tempfile
import unicodedata
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path as FilePath
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from aya_data.builders.arbitrage.penalties import UNKNOWN
from aya_data.builders.mapping.conversation import Unreadable, listed, text_of, turns_of
from aya_data.builders.mapping.paths import MissingColumn, Path
from aya_data.builders.records.reader import Broken, Format, read_records
from aya_data.core.identity import frame
from aya_data.core.settings import Settings, wrong

__all__ = ["File", "RecordedColumns", "Recording", "Scan", "Texts", "asked_key", "paths_of", "scanned", "texts_of"]

SIZE: Final = 16
"""Bytes of a key."""
BATCH_COLUMNS: Final = {"answer": "response.body.choices", "id": "custom_id", "asked": "body.messages"}

Turn = tuple[str, str]
Words = npt.NDArray[np.uint64]
Longs = npt.NDArray[np.int64]


class RecordedColumns(Settings):
    """Which column holds what: a column, or a path into one such as ``outputs[0].text``."""

    prompt: str | None = Field(None, min_length=1, description="What the user asked.", examples=["instruction"])
    messages: str | None = Field(
        None,
        min_length=1,
        description="Instead of prompt, the conversation: a list of {role, content} or {from, value}. Without "
        "'answer', the assistant's turn at its end is the answer.",
    )
    answer: str | None = Field(
        None, min_length=1, description="The answer, or a list of several.", examples=["output", "outputs[*].text"]
    )
    finish: str | None = Field(
        None, min_length=1, description="How the answer ended: stop, length and so on. Default: unknown."
    )

    @model_validator(mode="after")
    def _check(self) -> RecordedColumns:
        if (self.prompt is None) == (self.messages is None):
            found = "neither" if self.prompt is None else "both"
            raise wrong(f"needs prompt or messages, found {found}", "Say where the recording has what was asked.")
        if self.prompt is not None and self.answer is None:
            raise wrong("says nowhere what was answered", "Add 'answer: …', the column with the answers.")
        return self


@dataclass(frozen=True, slots=True)
class File:
    location: str
    shown: str
    digest: str
    format: Format


@dataclass(frozen=True, slots=True)
class Recording:
    """What decides the answers that files hold, whosever they are."""

    files: tuple[File, ...]
    requests: tuple[File, ...]
    columns: RecordedColumns | None
    where: str | None
    on: str


@dataclass(frozen=True, slots=True)
class Scan:
    """All answers of some files: ``asked`` and ``said`` uint64[n, 2], the keys of prompt and answer; ``finish`` and
    ``value`` int64[n], numbers into ``finishes`` and ``values`` (of the column of ``where``). ``records`` were read,
    ``broken`` of them could not be; ``without`` had no such column, by setting."""

    asked: Words
    said: Words
    finish: Longs
    value: Longs
    finishes: tuple[str, ...]
    values: tuple[str, ...]
    records: int
    broken: int
    without: Mapping[str, int]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Texts:
    """The texts of all answers of some files, one after the other in a temporary file; ``ends`` int64[n + 1]: the n-th
    text lies between the n-th and the next."""

    file: IO[bytes]
    ends: Longs

    def read(self, number: int, said: Words) -> str | None:
        """Return the text of one answer; None if it is not the one of the key ``said``, uint64[2]."""
        start, end = self.ends[number : number + 2].tolist()
        data = os.pread(self.file.fileno(), end - start, start)
        return data.decode("utf-8", "surrogatepass") if hashed(data) == said.tobytes() else None


@lru_cache(maxsize=4)
def texts_of(recording: Recording, folder: FilePath) -> Texts:
    """Read all files once; teachers with another ``where`` find their texts there too."""
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed when nobody has it any more
    ends = array("q", [0])
    for entry in _entries(recording):
        if isinstance(entry, _Entry):
            ends.append(ends[-1] + file.write(entry.text.encode("utf-8", "surrogatepass")))
    file.flush()
    texts = Texts(file, np.frombuffer(ends, np.int64))
    weakref.finalize(texts, file.close)
    return texts


def asked_key(messages: Sequence[Turn], on: str) -> bytes:
    """Return what identifies a conversation as it was asked: 16 bytes. ``on`` is ``prompt`` or ``conversation``."""
    if on == "prompt":
        last = next((content for role, content in reversed(messages) if role == "user"), "")
        return hashed(_normal(last).encode("utf-8", "surrogatepass"))
    said = [text for role, content in messages if role != "system" for text in (role, _normal(content))]
    return hashed(frame(said))


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def hashed(data: bytes) -> bytes:
    return blake2b(data, digest_size=SIZE).digest()


@dataclass(slots=True)
class _Entry:
    asked: bytes
    text: str
    finish: str
    value: str


@dataclass(slots=True)
class _Skipped:
    """A record without an answer: ``broken`` if it cannot be read; ``without`` a column, by setting."""

    broken: bool = False
    without: str = ""


@dataclass(slots=True)
class _Begun:
    """A record is about to be read."""


@lru_cache(maxsize=4)
def scanned(recording: Recording) -> Scan:
    """Read all files once; what teachers with another ``where`` ask of the same files is remembered."""
    asked, said = bytearray(), bytearray()
    finish: list[int] = []
    value: list[int] = []
    finishes: dict[str, int] = {}
    values: dict[str, int] = {}
    records = broken = 0
    without: dict[str, int] = {}
    for entry in _entries(recording):
        if isinstance(entry, _Entry):
            asked += entry.asked
            said += hashed(entry.text.encode("utf-8", "surrogatepass"))
            finish.append(finishes.setdefault(entry.finish, len(finishes)))
            value.append(values.setdefault(entry.value, len(values)))
        elif isinstance(entry, _Skipped):
            broken += entry.broken
            if entry.without:
                without[entry.without] = without.get(entry.without, 0) + 1
        else:
            records += 1
    return Scan(
        np.frombuffer(bytes(asked), np.uint64).reshape(-1, 2),
        np.frombuffer(bytes(said), np.uint64).reshape(-1, 2),
        np.array(finish, np.int64),
        np.array(value, np.int64),
        tuple(finishes),
        tuple(values),
        records,
        broken,
        without,
    )


def paths_of(recording: Recording) -> dict[str, Path]:
    """Return the paths that are read, by setting."""
    named: dict[str, str | None]
    if recording.columns is None:
        named = {"answer": BATCH_COLUMNS["answer"], "id": BATCH_COLUMNS["id"]}
    else:
        named = {name: getattr(recording.columns, name) for name in ("prompt", "messages", "answer", "finish")}
    named["where"] = recording.where
    return {name: Path(path) for name, path in named.items() if path is not None}


def _entries(recording: Recording) -> Iterator[_Entry | _Skipped | _Begun]:
    """Read the answers of all files in order: for each record that it is begun, then its answers or why it has none."""
    paths = paths_of(recording)
    asked = _requests(recording) if recording.requests else {}
    for file in recording.files:
        columns = None if file.format != "parquet" else [name for path in paths.values() for name in _roots(path)]
        for chunk in read_records(file.location, file.format, columns=columns):
            for record in chunk:
                yield _Begun()
                if isinstance(record, Broken):
                    yield _Skipped(broken=True)
                    continue
                fields: dict[str, Any] = {}
                try:
                    for name, path in paths.items():
                        try:
                            fields[name] = path.read(record.fields)
                        except MissingColumn:
                            if name != "finish":
                                raise
                            yield _Skipped(without=name)  # of the column alone: the answer stands
                    yield from _answers(fields, asked, recording)
                except MissingColumn:
                    yield _Skipped(without=name)
                except Unreadable:
                    yield _Skipped(broken=True)


def _roots(path: Path) -> tuple[str, ...]:
    return (path.text,) if path.text == path.root else (path.text, path.root)


def _answers(fields: Mapping[str, Any], batch: Mapping[str, bytes], recording: Recording) -> Iterator[_Entry]:
    value = "" if fields.get("where") is None else str(text_of(fields["where"]))
    if recording.columns is None:
        asked = batch.get(str(fields["id"]))
        for choice in listed(fields["answer"]) if asked is not None else ():
            message = choice.get("message") if isinstance(choice, dict) else None
            text = text_of(message.get("content")) if isinstance(message, dict) else None
            if asked is not None and isinstance(text, str):
                yield _Entry(asked, text, str(choice.get("finish_reason") or UNKNOWN), value)
        return
    answer = fields.get("answer")
    if "messages" in fields:
        turns = _spoken(fields["messages"])
        if "answer" not in fields:
            answer = turns.pop()[1] if turns and turns[-1][0] == "assistant" else None
    else:
        prompt = text_of(fields["prompt"])
        turns = [("user", prompt)] if isinstance(prompt, str) else []
    if not turns:
        return
    key = asked_key(turns, recording.on)
    finish = text_of(fields.get("finish"))
    for text in answer if isinstance(answer, list | tuple) and not isinstance(text_of(answer), str) else [answer]:
        said = text_of(text)
        if isinstance(said, str):
            yield _Entry(key, said, finish if isinstance(finish, str) and finish else UNKNOWN, value)


def _spoken(value: Any) -> list[Turn]:
    """Return the turns of a conversation that are text."""
    return [(role, text) for role, text in turns_of(value) if isinstance(text, str)]


def _requests(recording: Recording) -> dict[str, bytes]:
    """Return what was asked under each ``custom_id``."""
    found: dict[str, bytes] = {}
    identifier, messages = Path(BATCH_COLUMNS["id"]), Path(BATCH_COLUMNS["asked"])
    for file in recording.requests:
        for chunk in read_records(file.location, file.format):
            for record in chunk:
                if isinstance(record, Broken):
                    continue
                try:
                    turns = _spoken(messages.read(record.fields))
                    found[str(identifier.read(record.fields))] = asked_key(turns, recording.on)
                except (MissingColumn, Unreadable):
                    continue
    return found
