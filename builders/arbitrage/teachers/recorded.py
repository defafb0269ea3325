"""The engine ``recorded``: answers that exist already, matched to prompts by what was asked.

    teachers:
      gpt4:   {engine: recorded, path: outputs.parquet, columns: {prompt: instruction, answer: output},
               where: {column: generator, equals: gpt4_0314}}
      batch:  {engine: recorded, path: batch_output.jsonl, requests: batch_input.jsonl}

A prompt has an answer where what the user said last is the same in NFC with every run of white space as one space; with
``on: conversation``, all turns but the system's, and who said each. Several different answers to one prompt are its
samples, in the order of their hashes; equal ones are one. Neither the order of records nor how they lie in files
changes anything: the teacher's identity is a digest of what was asked and answered. A prompt without an answer, or with
fewer than are asked for, is ``absent``: no failure, and asked again only once the recording is another.

``requests`` names the input of a batch of the OpenAI API, whose output ``path`` is: they are joined by ``custom_id``;
lines that report an error are left out. How an answer ended is read from the column ``finish`` where there is one, else
it is ``unknown``.

A recording does not say which terms of use its texts are under. They follow from the name of the ``model`` that gave
them; naming it changes no answer, so it is no part of the identity.

Cost: every file is read once for a plan (16 microseconds for a record of 1,200 characters), and once more when an
answer is asked for that the journal does not have: then the texts go into a temporary file. Memory: 50 bytes for each
answer in the files, kept for up to four mappings at a time and shared by the teachers that differ in ``where`` alone;
230 bytes for each of a teacher's own while it is asked.
"""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import IO, Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from aya_data.builders.arbitrage.penalties import UNKNOWN
from aya_data.builders.arbitrage.teacher import TeacherSettings
from aya_data.builders.files import FilesBuilder
from aya_data.builders.mapping.conversation import Unreadable, listed, text_of, turns_of
from aya_data.builders.mapping.paths import MissingColumn, Path
from aya_data.builders.records.reader import Broken, Format, column_names, read_records
from aya_data.core.errors import BuildError, WrongSetting, did_you_mean
from aya_data.core.generation import ABSENT, Answer, Place, Request, Session, Voice
from aya_data.core.identity import frame
from aya_data.core.settings import Settings, wrong
from aya_data.core.stage import Environment

__all__ = ["RecordedColumns", "RecordedSettings", "RecordedTeacher", "Where", "asked_key"]

SIZE: Final = 16
NO_ANSWER: Final = "the recording has no answer to this prompt"
NO_SAMPLE: Final = "the recording has fewer answers to this prompt"
DISTINCT: Final = 1000
"""Values of a column that an error may suggest."""
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


class Where(Settings):
    """Which records are the teacher's, where a file has those of several."""

    column: str = Field(min_length=1, description="A column, or a path into one.", examples=["generator"])
    equals: tuple[str, ...] = Field(description="Its value, or several.", examples=["gpt4_0314"])

    @field_validator("equals", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


Files = str | Annotated[tuple[str, ...], Field(min_length=1)]


def _file_names(value: Any) -> Any:
    """A text is the only file."""
    value = [value] if isinstance(value, str) else value
    if isinstance(value, list | tuple) and not (value and all(isinstance(v, str) and v for v in value)):
        raise wrong("must name at least one file", "Write, say, answers/*.parquet.")
    return value


class RecordedSettings(TeacherSettings):
    """A teacher whose answers were recorded before: model outputs, earlier runs, the output of a batch API."""

    engine: Literal["recorded"] = Field(description="Answers that exist already, in files.")
    model: str | None = Field(
        None,
        min_length=1,
        description="The model that gave the answers: rows name it, and carry its terms of use. Default: the teacher's "
        "name.",
        examples=["gpt-4-0314"],
    )
    path: tuple[str, ...] = Field(
        description="A file, a pattern such as answers/*.jsonl.zst, or a list of them: Parquet, JSON Lines, JSON, CSV "
        "or TSV. Relative to the spec's folder; URLs that fsspec reads are allowed.",
        examples=["answers/*.parquet"],
    )
    format: Format | None = Field(None, description="The format of all files, where their names do not tell it.")
    columns: RecordedColumns | None = Field(
        None, description="Which column holds what.", examples=[{"prompt": "instruction", "answer": "output"}]
    )
    requests: tuple[str, ...] | None = Field(
        None,
        description="Instead of columns: the input of a batch of the OpenAI API, whose output 'path' is.",
        examples=["batch_input.jsonl"],
    )
    where: Where | None = Field(None, description="Which records are this teacher's. Default: all.")
    on: Literal["prompt", "conversation"] = Field(
        "prompt", description="Whether what the user said last must be the same, or the whole conversation."
    )
    n: int = Field(1, ge=1, le=1024, description="How many answers of each prompt are taken, at most.")

    @field_validator("path", mode="before", json_schema_input_type=Files)
    @classmethod
    def _paths(cls, value: Any) -> Any:
        return _file_names(value)

    @field_validator("requests", mode="before", json_schema_input_type=Files | None)
    @classmethod
    def _requests(cls, value: Any) -> Any:
        return _file_names(value)

    @model_validator(mode="after")
    def _check(self) -> RecordedSettings:
        if (self.columns is None) == (self.requests is None):
            raise wrong(
                f"needs columns or requests, found {'neither' if self.columns is None else 'both'}",
                "Write 'columns: {prompt: …, answer: …}'; for the output of a batch API, 'requests: …'.",
            )
        return self


@dataclass(frozen=True, slots=True)
class _File:
    location: str
    shown: str
    digest: str
    format: Format


@dataclass(frozen=True, slots=True)
class _Mapping:
    """What decides the entries of a recording, whosever they are."""

    files: tuple[_File, ...]
    requests: tuple[_File, ...]
    columns: RecordedColumns | None
    where: str | None
    on: str


@dataclass(frozen=True, slots=True)
class _Scan:
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


class RecordedTeacher(Voice):
    """Answers from files. Asks nobody."""

    priced = False

    def __init__(
        self, name: str, settings: RecordedSettings, environment: Environment, path: tuple[str, ...] | None = None
    ) -> None:
        self.name = name
        self.settings = settings
        self.environment = environment
        self.path = ("teachers", name) if path is None else path

    def __getstate__(self) -> dict[str, Any]:
        kept = ("name", "settings", "environment", "path")
        return {name: value for name, value in self.__dict__.items() if name in kept}

    def identity(self) -> Mapping[str, Any]:
        """What was asked and answered, in any order. Reads the files; raises :class:`WrongSetting` where they are not
        what the settings say."""
        return {"recording": self._digest(self._own), "on": self.settings.on}

    def notes(self) -> tuple[str, ...]:
        """What people should know of the recording."""
        broken = self._scan.broken
        return (f"{broken:,} records of {self.name} cannot be read",) if broken else ()

    def session(self, place: Place) -> AbstractContextManager[Session]:
        """Read the texts into a temporary file, from which answers are given."""
        return self._open(place)

    @contextmanager
    def _open(self, place: Place) -> Iterator[Session]:
        place.temporary.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place.temporary) as texts:
            yield _Answers(self.settings.on, self._spool(texts), texts)

    # -- reading

    @cached_property
    def _mapping(self) -> _Mapping:
        own = self.settings
        files = self._files("path", own.path, own.format)
        requests = self._files("requests", own.requests, None) if own.requests else ()
        return _Mapping(files, requests, own.columns, None if own.where is None else own.where.column, own.on)

    @property
    def _scan(self) -> _Scan:
        return _scanned(self._mapping)

    @cached_property
    def _own(self) -> npt.NDArray[np.bool_]:
        """Which answers of the files are this teacher's."""
        scan, own = self._scan, self.settings
        self._check_columns(scan)
        mask = np.ones(len(scan.value), np.bool_)
        if own.where is not None:
            wanted = [number for number, value in enumerate(scan.values) if value in own.where.equals]
            mask = np.isin(scan.value, wanted)
            if not mask.any():
                said = " or ".join(map(repr, own.where.equals))
                hint = did_you_mean(own.where.equals[0], scan.values[:DISTINCT])
                raise self._wrong(("where",), f"no record has {said} in the column {own.where.column!r}", hint)
        if not mask.any():
            remedy = "Do custom_id and the files belong together?" if own.requests else "Check 'columns'."
            raise self._wrong(("path",), f"none of {scan.records:,} records holds an answer", remedy)
        return mask

    def _check_columns(self, scan: _Scan) -> None:
        mapped = _paths(self._mapping)
        for setting, count in scan.without.items():
            if scan.records and count == scan.records:
                names: dict[str, None] = {}
                for file in self._mapping.files:
                    names |= dict.fromkeys(column_names(file.location, file.format) or ())
                path = ("where", "column") if setting == "where" else ("columns", setting)
                files = self._mapping.files
                place = files[0].shown if len(files) == 1 else f"any of the {len(files)} files"
                what = f"{'.'.join(path)} names the column {mapped[setting].text!r}, which is not in {place}"
                raise self._wrong(path, what, did_you_mean(mapped[setting].root, names))

    def _files(self, setting: str, patterns: Sequence[str] | None, format: Format | None) -> tuple[_File, ...]:
        """Find files as the source ``files`` does, with its errors."""
        mapped = {
            "path": list(patterns or ()),
            "format": format,
            "columns": {"prompt": {"constant": "-"}},
            "kind": "prompt",
            "language": "eng",
        }
        builder = FilesBuilder(self.name, FilesBuilder.Settings.model_validate(mapped), self.environment)
        try:
            units = builder.units()
        except WrongSetting as error:
            faults = [
                ((*self.path, setting), what.removeprefix(f"the source {self.name!r}: "), remedy)
                for _, what, remedy in error.faults
            ]
            raise WrongSetting([(path, f"{self._called}: {what}", said) for path, what, said in faults]) from None
        found = {
            unit.location: _File(unit.location, unit.name, unit.digest, unit.labels["format"])  # type: ignore[arg-type]
            for unit in units
        }
        return tuple(file for _, file in sorted(found.items()))

    def _wrong(self, path: tuple[str, ...], what: str, remedy: str) -> WrongSetting:
        return WrongSetting([((*self.path, *path), f"{self._called}: {what}", remedy)])

    @property
    def _called(self) -> str:
        return f"the {'teacher' if self.path == ('teachers', self.name) else 'model'} {self.name!r}"

    def _digest(self, own: npt.NDArray[np.bool_]) -> str:
        scan = self._scan
        finishes = np.array([_hash(name.encode()) for name in scan.finishes], "S16").view(np.uint64).reshape(-1, 2)
        columns = (scan.asked[own], scan.said[own], finishes[scan.finish[own]])
        return blake2b(np.unique(np.concatenate(columns, axis=1), axis=0).tobytes(), digest_size=SIZE).hexdigest()

    def _spool(self, texts: IO[bytes]) -> _Index:
        """Write this teacher's texts one after the other; each once."""
        own, seen = self._own, set[bytes]()
        asked: list[bytes] = []
        places: list[tuple[int, int, str]] = []
        order: list[bytes] = []
        at = count = 0
        for entry in _entries(self._mapping):
            if isinstance(entry, _Entry):
                if count >= len(own):
                    break
                if own[count]:
                    data = entry.text.encode("utf-8", "surrogatepass")
                    said = _hash(data)
                    # Of equal answers that ended differently, the first by name is the one.
                    mark = entry.asked + said + entry.finish.encode()
                    if mark not in seen:
                        seen.add(mark)
                        asked.append(entry.asked)
                        order.append(said + entry.finish.encode())
                        places.append((at, len(data), entry.finish))
                        texts.write(data)
                        at += len(data)
                count += 1
        if count != len(own):
            raise BuildError(f"the files of {self._called} changed while they were in use", "Run again.")
        index: dict[bytes, list[int]] = {}
        for number in sorted(range(len(asked)), key=lambda number: (asked[number], order[number])):
            entries = index.setdefault(asked[number], [])
            if not entries or order[entries[-1]][:SIZE] != order[number][:SIZE]:
                entries.append(number)
        return _Index(index, places)


@dataclass(frozen=True, slots=True)
class _Index:
    """For the key of each prompt its answers in order, as numbers into ``places``: where the text begins, its bytes,
    and how it ended."""

    answers: Mapping[bytes, Sequence[int]]
    places: Sequence[tuple[int, int, str]]


class _Answers:
    """A session: looks answers up."""

    def __init__(self, on: str, index: _Index, texts: IO[bytes]) -> None:
        self._on, self._index, self._texts = on, index, texts

    def ask(self, requests: Iterator[Request]) -> Iterator[Answer | None]:
        """Answer each request as it comes."""
        for request in requests:
            found = self._index.answers.get(asked_key(request.messages, self._on), ())
            if request.sample >= len(found):
                yield Answer(request.key, finish=ABSENT, reason=NO_SAMPLE if found else NO_ANSWER)
                continue
            start, size, finish = self._index.places[found[request.sample]]
            self._texts.seek(start)
            yield Answer(request.key, self._texts.read(size).decode("utf-8", "surrogatepass"), finish=finish)


def asked_key(messages: Sequence[Turn], on: str) -> bytes:
    """Return what identifies a conversation as it was asked: 16 bytes. ``on`` is ``prompt`` or ``conversation``."""
    if on == "prompt":
        last = next((content for role, content in reversed(messages) if role == "user"), "")
        return _hash(_normal(last).encode("utf-8", "surrogatepass"))
    said = [text for role, content in messages if role != "system" for text in (role, _normal(content))]
    return _hash(frame(said))


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _hash(data: bytes) -> bytes:
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
def _scanned(mapping: _Mapping) -> _Scan:
    """Read all files once; what teachers with another ``where`` ask of the same files is remembered."""
    asked, said = bytearray(), bytearray()
    finish: list[int] = []
    value: list[int] = []
    finishes: dict[str, int] = {}
    values: dict[str, int] = {}
    records = broken = 0
    without: dict[str, int] = {}
    for entry in _entries(mapping):
        if isinstance(entry, _Entry):
            asked += entry.asked
            said += _hash(entry.text.encode("utf-8", "surrogatepass"))
            finish.append(finishes.setdefault(entry.finish, len(finishes)))
            value.append(values.setdefault(entry.value, len(values)))
        elif isinstance(entry, _Skipped):
            broken += entry.broken
            if entry.without:
                without[entry.without] = without.get(entry.without, 0) + 1
        else:
            records += 1
    return _Scan(
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


def _paths(mapping: _Mapping) -> dict[str, Path]:
    """Return the paths that are read, by setting."""
    named: dict[str, str | None]
    if mapping.columns is None:
        named = {"answer": BATCH_COLUMNS["answer"], "id": BATCH_COLUMNS["id"]}
    else:
        named = {name: getattr(mapping.columns, name) for name in ("prompt", "messages", "answer", "finish")}
    named["where"] = mapping.where
    return {name: Path(path) for name, path in named.items() if path is not None}


def _entries(mapping: _Mapping) -> Iterator[_Entry | _Skipped | _Begun]:
    """Read the answers of all files in order: for each record that it is begun, then its answers or why it has none."""
    paths = _paths(mapping)
    asked = _requests(mapping) if mapping.requests else {}
    for file in mapping.files:
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
                    yield from _answers(fields, asked, mapping)
                except MissingColumn:
                    yield _Skipped(without=name)
                except Unreadable:
                    yield _Skipped(broken=True)


def _roots(path: Path) -> tuple[str, ...]:
    return (path.text,) if path.text == path.root else (path.text, path.root)


def _answers(fields: Mapping[str, Any], batch: Mapping[str, bytes], mapping: _Mapping) -> Iterator[_Entry]:
    value = "" if fields.get("where") is None else str(text_of(fields["where"]))
    if mapping.columns is None:
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
    key = asked_key(turns, mapping.on)
    finish = text_of(fields.get("finish"))
    for text in answer if isinstance(answer, list | tuple) and not isinstance(text_of(answer), str) else [answer]:
        said = text_of(text)
        if isinstance(said, str):
            yield _Entry(key, said, finish if isinstance(finish, str) and finish else UNKNOWN, value)


def _spoken(value: Any) -> list[Turn]:
    """Return the turns of a conversation that are text."""
    return [(role, text) for role, text in turns_of(value) if isinstance(text, str)]


def _requests(mapping: _Mapping) -> dict[str, bytes]:
    """Return what was asked under each ``custom_id``."""
    found: dict[str, bytes] = {}
    identifier, messages = Path(BATCH_COLUMNS["id"]), Path(BATCH_COLUMNS["asked"])
    for file in mapping.requests:
        for chunk in read_records(file.location, file.format):
            for record in chunk:
                if isinstance(record, Broken):
                    continue
                try:
                    turns = _spoken(messages.read(record.fields))
                    found[str(identifier.read(record.fields))] = asked_key(turns, mapping.on)
                except (MissingColumn, Unreadable):
                    continue
    return found
