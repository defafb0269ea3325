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

Cost: a process reads every file once for a plan (16 microseconds for a record of 1,200 characters), and once more when
an answer is asked for that the journal does not have: then all texts go into a temporary file. Teachers that differ in
``where`` alone share both; the last four sets of files are kept. Memory: 60 bytes for each answer in them, and 40 for
each of a teacher's own while it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from aya_data.builders.arbitrage.teacher import TeacherSettings
from aya_data.builders.arbitrage.teachers.recording import (
    SIZE,
    File,
    RecordedColumns,
    Recording,
    Scan,
    Texts,
    asked_key,
    hashed,
    paths_of,
    scanned,
    texts_of,
)
from aya_data.builders.files import GOES_ON, FilesBuilder
from aya_data.builders.records.reader import Format, column_names
from aya_data.core.errors import BuildError, WrongSetting, did_you_mean
from aya_data.core.generation import ABSENT, Answer, Place, Request, Session, Voice
from aya_data.core.settings import Location, Settings, wrong
from aya_data.core.stage import Environment

__all__ = ["RecordedSettings", "RecordedTeacher", "Where"]

NO_ANSWER: Final = "the recording has no answer to this prompt"
NO_SAMPLE: Final = "the recording has fewer answers to this prompt"
DISTINCT: Final = 1000
"""Values of a column that an error may suggest."""

Words = npt.NDArray[np.uint64]
Longs = npt.NDArray[np.int64]


class Where(Settings):
    """Which records are the teacher's, where a file has those of several."""

    column: str = Field(min_length=1, description="A column, or a path into one.", examples=["generator"])
    equals: tuple[str, ...] = Field(description="Its value, or several.", examples=["gpt4_0314"])

    @field_validator("equals", mode="before", json_schema_input_type=str | tuple[str, ...])
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else [value]


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
    path: tuple[Location, ...] = Field(
        description="A file, a pattern such as answers/*.jsonl.zst, or a list of them: Parquet, JSON Lines, JSON, CSV "
        "or TSV. Relative to the spec's folder; URLs that fsspec reads are allowed.",
        examples=["answers/*.parquet"],
    )
    format: Format | None = Field(None, description="The format of all files, where their names do not tell it.")
    columns: RecordedColumns | None = Field(
        None, description="Which column holds what.", examples=[{"prompt": "instruction", "answer": "output"}]
    )
    requests: tuple[Location, ...] | None = Field(
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
        # With its digest, so that no other process reads the files for it.
        kept = ("name", "settings", "environment", "path", "_digest")
        return {name: value for name, value in self.__dict__.items() if name in kept}

    def identity(self) -> Mapping[str, Any]:
        """What was asked and answered, in any order. Reads the files; raises :class:`WrongSetting` where they are not
        what the settings say."""
        return {"recording": self._digest, "on": self.settings.on}

    def notes(self) -> tuple[str, ...]:
        """What people should know of the recording."""
        broken = self._scan.broken
        return (f"{broken:,} records of {self.name} cannot be read",) if broken else ()

    def holds(self, request: Request) -> bool:
        """Whether the recording has an answer."""
        first, last = self._found.find(asked_key(request.messages, self.settings.on))
        return first + request.sample < last

    def session(self, place: Place) -> AbstractContextManager[Session]:
        """Read the texts into a temporary file, from which answers are given."""
        return self._open(place)

    @contextmanager
    def _open(self, place: Place) -> Iterator[Session]:
        place.temporary.mkdir(parents=True, exist_ok=True)
        scan, own, texts = self._scan, self._own, texts_of(self._mapping, place.temporary)
        changed = BuildError(f"the files of {self._called} changed while they were in use", "Run again.")
        # The digest may be that of another process, which read the files before.
        if not len(texts.ends) - 1 == len(scan.value) == len(own) or _digest(scan, own) != self._digest:
            raise changed
        yield _Answers(self.settings.on, _index(scan, own), texts, scan.said, changed)

    # -- reading

    @cached_property
    def _mapping(self) -> Recording:
        own = self.settings
        files = self._files("path", own.path, own.format)
        requests = self._files("requests", own.requests, None) if own.requests else ()
        return Recording(files, requests, own.columns, None if own.where is None else own.where.column, own.on)

    @property
    def _scan(self) -> Scan:
        return scanned(self._mapping)

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

    @cached_property
    def _found(self) -> _Index:
        return _index(self._scan, self._own)

    def _check_columns(self, scan: Scan) -> None:
        mapped = paths_of(self._mapping)
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

    def _files(self, setting: str, patterns: Sequence[str] | None, format: Format | None) -> tuple[File, ...]:
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
                (
                    (*self.path, setting),
                    what.removeprefix(f"the source {self.name!r}: "),
                    remedy.removesuffix(GOES_ON).rstrip(),
                )
                for _, what, remedy in error.faults
            ]
            raise WrongSetting([(path, f"{self._called}: {what}", said) for path, what, said in faults]) from None
        found = {
            unit.location: File(unit.location, unit.name, unit.digest, unit.labels["format"])  # type: ignore[arg-type]
            for unit in units
        }
        return tuple(file for _, file in sorted(found.items()))

    def _wrong(self, path: tuple[str, ...], what: str, remedy: str) -> WrongSetting:
        return WrongSetting([((*self.path, *path), f"{self._called}: {what}", remedy)])

    @property
    def _called(self) -> str:
        return f"the {'teacher' if self.path == ('teachers', self.name) else 'model'} {self.name!r}"

    @cached_property
    def _digest(self) -> str:
        return _digest(self._scan, self._own)


def _digest(scan: Scan, own: npt.NDArray[np.bool_]) -> str:
    finishes = np.array([hashed(name.encode()) for name in scan.finishes], "S16").view(np.uint64).reshape(-1, 2)
    columns = (scan.asked[own], scan.said[own], finishes[scan.finish[own]])
    return blake2b(np.unique(np.concatenate(columns, axis=1), axis=0).tobytes(), digest_size=SIZE).hexdigest()


@dataclass(frozen=True, slots=True)
class _Index:
    """A teacher's answers, sorted by prompt and then in the order of samples: ``asked`` are the two halves of the
    prompts' keys, uint64[n] each; ``number`` int64[n] that of the answer among all of the files."""

    asked: tuple[Words, Words]
    number: Longs
    finish: Sequence[str]

    def find(self, key: bytes) -> tuple[int, int]:
        """Return where the answers to a prompt begin and end."""
        high, low = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
        first, last = _span(self.asked[0], high)
        start, end = _span(self.asked[1][first:last], low)
        return first + start, first + end


def _index(scan: Scan, own: npt.NDArray[np.bool_]) -> _Index:
    """Sort a teacher's answers. Equal ones to a prompt are one; of those that ended differently, the first by name is
    it."""
    number = np.flatnonzero(own)
    # Big-endian, as bytes are sorted.
    asked, said = (words[number].view(">u8").astype(np.uint64) for words in (scan.asked, scan.said))
    by_name = sorted(range(len(scan.finishes)), key=lambda one: scan.finishes[one].encode())
    rank = np.argsort(np.array(by_name, np.int64))
    finish = scan.finish[number]
    order = np.lexsort((rank[finish], said[:, 1], said[:, 0], asked[:, 1], asked[:, 0]))
    both = np.concatenate((asked, said), axis=1)[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (both[1:] != both[:-1]).any(axis=1)
    kept = order[first]
    high, low = (np.ascontiguousarray(asked[kept, half]) for half in (0, 1))
    return _Index((high, low), number[kept], [scan.finishes[one] for one in finish[kept].tolist()])


def _span(words: Words, word: int) -> tuple[int, int]:
    """Where ``word`` stands in sorted ``words``."""
    sought = np.uint64(word)
    return int(np.searchsorted(words, sought)), int(np.searchsorted(words, sought, "right"))


class _Answers:
    """A session: looks answers up."""

    def __init__(self, on: str, index: _Index, texts: Texts, said: Words, changed: BuildError) -> None:
        self._on, self._index, self._texts, self._said, self._changed = on, index, texts, said, changed

    def ask(self, requests: Iterator[Request]) -> Iterator[Answer | None]:
        """Answer each request as it comes."""
        index = self._index
        for request in requests:
            first, last = index.find(asked_key(request.messages, self._on))
            at = first + request.sample
            if at >= last:
                yield Answer(request.key, finish=ABSENT, reason=NO_SAMPLE if last > first else NO_ANSWER)
                continue
            number = int(index.number[at])
            text = self._texts.read(number, self._said[number])
            if text is None:
                raise self._changed
            yield Answer(request.key, text, finish=index.finish[at])
