"""Published datasets with a name: where their files come from, and what their builders share.

A named source knows its repository on the Hub and the layout of the files in it. The same layout is
read from three places: the sample that ships with this package (``environment.bundled``), a local
folder that mirrors the repository (``location``), or the Hub itself, pinned to one commit. A
subclass says which files belong to it (:meth:`UpstreamBuilder.choose`) and what a record means
(:meth:`UpstreamBuilder.draft`).

Rows are identified by what upstream says of them, never by where they were found: renamed,
re-sharded or permuted files give the same rows.
"""

from __future__ import annotations

import abc
import functools
import hashlib
import importlib.resources
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from aya_data.builders.hub.repository import RemoteFile, Repository, fetch, open_repository, stream
from aya_data.builders.records.reader import Broken, Record, cuts, format_of, read_records
from aya_data.core.errors import HubUnreachable, InputError, NotFound
from aya_data.core.identity import row_key
from aya_data.core.license import PartFacts, part_license
from aya_data.core.row import Draft, Rejection
from aya_data.core.settings import Settings
from aya_data.core.stage import Batch, Builder, Unit

__all__ = [
    "Choice",
    "File",
    "Origin",
    "UpstreamBuilder",
    "UpstreamSettings",
    "content_digest",
    "hub_file",
    "label",
    "localize_file",
    "number_text",
    "part_facts",
    "shard_split",
    "text_or_none",
    "turns",
]

HUB = "hub:"
LARGE = 64 << 20  # bytes; smaller files are one unit
PIECE = 32 << 20  # bytes of one unit of a larger file
PIECES = 8  # at most so many of a file on the Hub: each checks the whole file
FETCHED = 16 << 20  # bytes; up to here a file on the Hub is brought before it is read
COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
SHARD = re.compile(r"(?P<split>[A-Za-z]+(?:_[A-Za-z]+)*)(?:-\d+-of-\d+)?(?:-[0-9a-f]{6,})?\.")


class UpstreamSettings(Settings):
    """Settings that all named sources have."""

    revision: str = Field(
        "main",
        min_length=1,
        description="Branch, tag or commit of the repository; a build pins it to a commit.",
    )
    location: str | None = Field(
        None,
        min_length=1,
        description="Another place with the same files: a local folder that mirrors the repository "
        "(relative to the spec), or the name of another repository on the Hub.",
    )
    splits: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Splits to read. Default: the training split, or every split of a part that has no training split.",
    )
    max_chars: int = Field(1_000_000, ge=1, description="A record with a longer text goes to the ledger (characters).")


@dataclass(frozen=True, slots=True)
class File:
    """One file of an origin: its path in the repository, bytes, digest (empty until asked for)."""

    path: str
    size: int
    digest: str
    location: str


@dataclass(frozen=True, slots=True)
class Origin:
    """One repository as it is read: its name, the pinned revision and its files, sorted by path."""

    kind: Literal["bundled", "folder", "hub"]
    id: str
    revision: str
    files: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """What the path of a chosen file says about the rows in it."""

    config: str | None = None
    split: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


class UpstreamBuilder(Builder):
    """A builder of one published dataset."""

    Settings: ClassVar[type[BaseModel]] = UpstreamSettings
    settings: Any
    libraries: ClassVar[tuple[str, ...]] = ("pyarrow",)
    name: ClassVar[str]
    """Name of the builder, and of the folder of its bundled sample."""
    repository: ClassVar[str]
    """Name of the repository on the Hub."""
    default_use: ClassVar[Literal["train", "prompts", "benchmark"]] = "train"
    """What a spec that does not say ``use`` should take this source for."""
    training_only: ClassVar[bool] = True
    """Whether the other splits are left out of a part that has a training split."""
    sliced: ClassVar[bool] = True
    """Whether a large local file may be read in pieces."""
    sampled: ClassVar[bool] = True
    """Whether a sample of it ships with this package."""

    _origins: dict[str, Origin] | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Listings can hold a quarter of a million files, and workers do not need them.
        return {name: value for name, value in self.__dict__.items() if name != "_origins"}

    @abc.abstractmethod
    def choose(self, path: str) -> Choice | None:
        """Say what the file at ``path`` (in the repository) is, or that it is not wanted."""

    @abc.abstractmethod
    def draft(self, record: Record, unit: Unit) -> Draft | Rejection:
        """Turn one record into a row, under the record's own key."""

    def repositories(self) -> Mapping[str, str]:
        """Name the repositories to read, by the subfolder that holds each in a bundled sample."""
        return {"": self.repository}

    def revision(self) -> str:
        """Return the branch, tag or commit to pin."""
        return str(self.settings.revision)

    def parts(self) -> Sequence[tuple[str, str]]:
        """Name the (collection, part) pairs whose licences the chosen rows have, as far as known."""
        return [(self.name, "*")]

    def notes(self) -> tuple[str, ...]:
        """Say what a person should know: where records of a part's licence disagree, what was assumed."""
        found = ((part, part_facts(collection, part).conflicts) for collection, part in self.parts())
        return tuple(f"{self.name if part == '*' else part}: {text}" for part, texts in found for text in texts)

    def dataset(self, unit: Unit) -> str:
        """Name the nested dataset that records of ``unit`` belong to when they do not say."""
        return self.name

    def origins(self) -> dict[str, Origin]:
        """Open the repositories, once per build. Asks the Hub unless the sample or a folder serves."""
        if self._origins is None:
            opened = [(folder, self._open(folder, n)) for folder, n in self.repositories().items()]
            # One sample or folder without subfolders stands for the first repository alone.
            kept = [
                (folder, origin)
                for index, (folder, origin) in enumerate(opened)
                if index == 0 or origin.files != opened[0][1].files
            ]
            self._origins = dict(kept)
        return self._origins

    def pins(self) -> dict[str, str]:
        """Return the pinned revision of each repository."""
        pins: dict[str, str] = {}
        for folder, origin in self.origins().items():
            suffix = f":{folder}" if folder else ""
            pins["repository" + suffix] = origin.id
            pins["revision" + suffix] = origin.revision
        return pins

    def units(self) -> list[Unit]:
        """List the files to read, those of the Hub by reference.

        Local files are hashed (about 1 GB/s). Raises :class:`InputError` when no file is left.
        """
        units: list[Unit] = []
        seen: set[str] = set()
        found: list[tuple[Origin, str, File, Choice]] = []
        for folder, origin in self.origins().items():
            for file in origin.files:
                choice = self.choose(file.path)
                if choice is not None and format_of(file.path) is not None:
                    found.append((origin, folder, file, choice))
        # A part is what one config (or language folder) holds; some have no training split.
        training = {(folder, choice.config) for _, folder, _, choice in found if choice.split == "train"}
        wanted: tuple[str, ...] | None = self.settings.splits
        for origin, folder, file, choice in found:
            seen.add(choice.split or "")
            if wanted is not None:
                if choice.split not in wanted:
                    continue
            elif self.training_only and choice.split != "train" and (folder, choice.config) in training:
                continue
            units += self._pieces(origin, folder, file, choice)
        if wanted is not None and (missing := sorted(set(wanted) - seen)) and found:
            raise NotFound(f"split in source {self.source!r}", missing[0], seen - {""})
        if not units:
            raise InputError(
                f"source {self.source!r} finds no file to read in {self._places()}",
                "Check its settings (configs, languages, splits, revision, location).",
            )
        return units

    def read(self, unit: Unit) -> Iterator[Batch]:
        """Read one file, or a slice of it, in the batches that the file format gives."""
        for records in self.records(unit):
            drafts: list[Draft] = []
            rejections: list[Rejection] = []
            for record in records:
                if isinstance(record, Broken):
                    rejections.append(self.broken(record, unit))
                    continue
                result = self.draft(record, unit)
                if isinstance(result, Draft):
                    drafts.append(result)
                else:
                    rejections.append(result)
            yield Batch(len(records), drafts, rejections)

    def records(self, unit: Unit, columns: Sequence[str] | None = None) -> Iterator[Sequence[Record | Broken]]:
        """Read the records of a unit, those of a larger file on the Hub while it arrives.

        Who takes the last of them knows that the file is what its digest says; before that, nothing
        is certain. Raises :class:`CorruptPart` at the end where it is not.
        """
        format_ = format_of(unit.name)
        assert format_ is not None, unit.name
        cache, first = self.environment.cache, int(unit.labels.get("first", "0"))
        if not unit.location.startswith(HUB):
            yield from read_records(unit.location, format_, unit.slice, columns=columns, first=first)
            return
        repository, file = hub_file(unit.location, cache)
        if file.size <= FETCHED:
            path = fetch(repository, file, cache)
            yield from read_records(str(path), format_, columns=columns)
            return
        with stream(repository, file, cache) as arriving:
            groups = unit.slice
            if groups is not None:
                from aya_data.builders.records.parquet_records import parquet_groups

                groups, arriving.horizon = parquet_groups(arriving, groups)
            if groups is None or groups[0] < groups[1]:
                yield from read_records(arriving, format_, groups, columns=columns)
            arriving.finish()

    def broken(self, record: Broken, unit: Unit) -> Rejection:
        """Reject what could not be parsed, under a key made from its bytes."""
        key = row_key(self.dataset(unit), f"broken:{record.digest}")
        return Rejection(key, (unit.name, record.index), record.rule, evidence=record.evidence)

    def _places(self) -> str:
        return ", ".join(f"{o.id} ({o.kind}, {o.revision})" for o in self.origins().values())

    def _open(self, folder: str, name: str) -> Origin:
        place, revision = self.settings.location, self.revision()
        bundled = self.environment.bundled and self.sampled
        if place is not None:
            path = self.environment.base / Path(place).expanduser()
            if path.is_dir():
                root = path / folder if folder and (path / folder).is_dir() else path
                return Origin("folder", name, "local", _walk(root))
            if not bundled and REPOSITORY.fullmatch(place):
                name = place
            elif not REPOSITORY.fullmatch(place) or place.startswith("."):
                raise NotFound("folder", place, remedy=f"It is the location of {self.source!r}.")
        if bundled:
            return Origin("bundled", name, "bundled", _walk(_sample(self.name, folder)))
        if self.environment.offline and not COMMIT.fullmatch(revision):
            raise HubUnreachable(name, "the build is offline")
        opened = open_repository(name, revision, cache=self.environment.cache)
        prefix = f"{HUB}{opened.id}@{opened.commit}/"
        files = tuple(File(f.path, f.size, f.digest, prefix + f.path) for f in opened.files)
        return Origin("hub", opened.id, opened.commit, files)

    def _pieces(self, origin: Origin, folder: str, file: File, choice: Choice) -> list[Unit]:
        pieces: list[tuple[tuple[int, int] | None, int]] = [(None, 0)]
        format_ = format_of(file.path)
        if origin.kind == "hub":
            if self.sliced and format_ == "parquet" and file.size > PIECE:
                pieces = [(span, 0) for span in _spans(file.size)]
        elif self.sliced and format_ is not None and file.size > LARGE:
            pieces = cuts(file.location, format_, file.size, PIECE)
        digest = content_digest(file)
        labels = {**choice.labels, "repository": folder} if folder else dict(choice.labels)
        return [
            Unit(
                name=f"{folder}/{file.path}" if folder else file.path,
                digest=digest,
                location=file.location,
                size=file.size // len(pieces),
                slice=piece,
                config=choice.config,
                split=choice.split,
                revision=origin.revision,
                labels={**labels, "first": str(first)} if first else labels,
            )
            for piece, first in pieces
        ]


def _spans(size: int) -> list[tuple[int, int]]:
    """Cut a Parquet file on the Hub by its size alone; a row group belongs where it starts."""
    pieces = min(PIECES, -(-size // PIECE))
    return [(size * n // pieces, size * (n + 1) // pieces) for n in range(pieces)]


def localize_file(location: str, cache: Path) -> Path:
    """Return a local path for ``location``: a path, or ``hub:<repository>@<commit>/<path>``."""
    if not location.startswith(HUB):
        return Path(location)
    return fetch(*hub_file(location, cache), cache)


def hub_file(location: str, cache: Path) -> tuple[Repository, RemoteFile]:
    """Return what ``hub:<repository>@<commit>/<path>`` names."""
    name, _, rest = location.removeprefix(HUB).partition("@")
    commit, _, path = rest.partition("/")
    opened, files = _opened(name, commit, cache)
    file = files.get(path)
    if file is None:
        raise NotFound(f"file of {name} at {commit}", path)
    return opened, file


@functools.lru_cache(maxsize=2)
def _opened(name: str, commit: str, cache: Path) -> tuple[Repository, Mapping[str, RemoteFile]]:
    """Recall a repository at a commit: the listing was cached when the units were made."""
    opened = open_repository(name, commit, cache=cache)
    return opened, {file.path: file for file in opened.files}


def _walk(root: Path) -> tuple[File, ...]:
    files: list[File] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in names:
            path = Path(folder, name)
            if name.startswith(".") or not path.is_file():
                continue
            relative = path.relative_to(root).as_posix()
            files.append(File(relative, path.stat().st_size, "", str(path)))
    return tuple(sorted(files, key=lambda file: file.path))


def _sample(name: str, folder: str) -> Path:
    package = importlib.resources.files("aya_data.builders")
    path = Path(str(package / "samples" / name))
    if not path.is_dir():
        raise NotFound("bundled sample", name, remedy="Use --profile hub, or set its location.")
    return path / folder if folder and (path / folder).is_dir() else path


def content_digest(file: File) -> str:
    """Return what identifies the content of ``file``: the Hub's digest, or ``sha256:…`` of the bytes."""
    if file.digest:
        return file.digest
    with open(file.location, "rb") as opened:
        return "sha256:" + hashlib.file_digest(opened, "sha256").hexdigest()


def shard_split(path: str) -> str | None:
    """Return the split that a file name says, as in ``train-00000-of-00002.parquet``."""
    found = SHARD.match(PurePosixPath(path).name)
    return found["split"] if found else None


def turns(prompt: Any, answer: Any) -> list[tuple[str, Any]]:
    """Return the conversation of one prompt and one answer, whatever upstream put there.

    Cells that are not text are found, and named, where rows are checked.
    """
    return [("user", prompt), ("assistant", answer)]


def text_or_none(value: Any) -> str | None:
    """Return a label as text; null, white space and the publishers' ``-`` are no label."""
    if value is None:
        return None
    text = value if isinstance(value, str) else str(value)
    return None if text.strip() in ("", "-") else text


def label(value: Any) -> str | None:
    """Return an upstream label as the source spells it; only null and white space are none."""
    if value is None:
        return None
    text = value if isinstance(value, str) else str(value)
    return text if text.strip() else None


def number_text(value: Any) -> str | None:
    """Return an id as text, equal for 7, 7.0 and "7": its column's type differs between revisions."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = text_or_none(value)
    return re.sub(r"^(-?\d+)\.0$", r"\1", text.strip()) if text else None


@functools.lru_cache(maxsize=4096)
def part_facts(collection: str, part: str) -> PartFacts:
    """Return what is recorded of the licence of one part of a collection; unknown is unknown."""
    return part_license(collection, part)
