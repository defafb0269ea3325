"""The source ``files``: anybody's own data, here or anywhere fsspec reaches, columns mapped in the spec."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from aya_data.builders.mapping.mapper import Mapper, MappingSettings
from aya_data.builders.records.raw import open_location
from aya_data.builders.records.reader import (
    DELIMITERS,
    EXTENSIONS,
    Broken,
    Format,
    Record,
    column_names,
    columns_within,
    cuts,
    file_digest,
    format_of,
    read_records,
    unreadable,
)
from aya_data.core.errors import InputError, MissingExtra, WrongSetting, did_you_mean
from aya_data.core.identity import digest
from aya_data.core.redaction import address
from aya_data.core.row import Kind
from aya_data.core.settings import Location, wrong
from aya_data.core.stage import Batch, Builder, Unit

__all__ = ["GOES_ON", "FilesBuilder"]

GOES_ON = "With 'unreadable: drop' the build goes on without it."
"""What helps with a file that cannot be read, where the settings have that key."""

MAGIC = frozenset("*?[")
SAMPLE = 64 << 20
"""Bytes of JSON records, of all files together, that are looked through for a column before it counts as missing."""
MARKS = (",", ";", "\t", "|")
"""What may stand between the fields of CSV and TSV."""
VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "crc32c", "sha256")
"""What object stores call the thing that changes with a file's content."""


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    location: str
    shown: str
    size: int
    digest: str
    format: Format


class FilesSettings(MappingSettings):
    """Settings of the source ``files``."""

    path: tuple[Location, ...] = Field(
        description="A file, a pattern such as data/**/*.jsonl.zst, or a list of them. Relative to "
        "the spec's folder; URLs that fsspec reads are allowed.",
        examples=["data/*.jsonl.zst"],
    )
    format: Format | None = Field(None, description="The format of all files, where their names do not tell it.")
    delimiter: str | None = Field(
        None, description="What stands between the fields of CSV and TSV, instead of comma and tab.", examples=[";"]
    )
    unreadable: Literal["refuse", "drop"] = Field(
        "refuse",
        description="What becomes of a file of which no record can be read: it stops the build, or is one "
        "dropped entry of the ledger.",
    )

    @field_validator(
        "path", mode="before", json_schema_input_type=str | Annotated[tuple[str, ...], Field(min_length=1)]
    )
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list | tuple) and not (value and all(isinstance(v, str) and v for v in value)):
            raise wrong("must name at least one file", "Write, say, data/*.jsonl.")
        return value

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or value.isalnum() or value in "\"'\r\n\0"):
            raise wrong(f"must be one character that is no letter, digit or quote, found {value[:20]!r}", 'Write ";".')
        return value


class FilesBuilder(Builder):
    """Reads Parquet, JSON Lines, JSON, CSV and TSV files."""

    Settings: ClassVar[type[FilesSettings]] = FilesSettings
    libraries: ClassVar[tuple[str, ...]] = ("pyarrow", "jinja2")
    settings: FilesSettings

    @property
    def kind(self) -> Kind:
        """The kind of row that the mapping makes."""
        return self._mapper.kind

    @cached_property
    def _mapper(self) -> Mapper:
        return Mapper(self.source, self.settings, self.environment.seed)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_mapper"}

    def units(self) -> list[Unit]:
        """Find the files, look at their columns, and cut large ones.

        Reads every local file once for its digest. Raises :class:`WrongSetting` when a pattern
        matches nothing, a format is unknown, a file cannot be read at all, or a column that is
        mapped is in none of the files.
        """
        files = self._files()
        self._check_readable(files)
        self._check_columns(files)
        return [
            Unit(
                file.name,
                file.digest,
                file.location,
                size=_share(file.size, slice, pieces[-1][0]),
                slice=slice,
                labels={
                    **self._mapper.file_labels(file.shown),
                    "format": file.format,
                    "first": str(first),
                },
            )
            for file in files
            for pieces in [self._cuts(file)]
            for slice, first in pieces
        ]

    def read(self, unit: Unit) -> Iterator[Batch]:
        """Read one file, or one slice of it."""
        labels = dict(unit.labels)
        format = format_of(unit.location) if "format" not in labels else labels.pop("format")
        first = int(labels.pop("first", "0"))
        chunks = read_records(
            unit.location,
            format,  # type: ignore[arg-type]
            unit.slice,
            first=first,
            delimiter=self.settings.delimiter,
        )
        # What is refused here was not looked at before: a remote file, or one whose first good record never comes.
        broken: Broken | None = None
        good = unit.slice is not None or self.settings.unreadable == "drop"
        for chunk in chunks:
            if not good:
                good = any(isinstance(item, Record) for item in chunk)
                broken = broken or next((item for item in chunk if isinstance(item, Broken)), None)
            yield self._mapper.batch(chunk, unit.name, labels)
        if broken is not None and not good:
            raise self._refused(unit.name, unit.location, broken)

    # -- finding files

    def _cuts(self, file: _File) -> list[tuple[tuple[int, int] | None, int]]:
        # Cutting JSON Lines reads the file; a remote one is read once, whole.
        if _remote(file.location) and file.format != "parquet":
            return [(None, 0)]
        return cuts(file.location, file.format, file.size)

    def _files(self) -> list[_File]:
        found: dict[str, tuple[str, int, str | None]] = {}
        for pattern in self.settings.path:
            found |= _remote_files(pattern) if _remote(pattern) else self._local_files(pattern)
        root = self._root([address(location) for location in found])
        files = [
            _File(
                address(location)[len(root) :].replace(os.sep, "/"),
                location,
                shown,
                size,
                version or file_digest(location),
                self._format(location),
            )
            for location, (shown, size, version) in found.items()
        ]
        return sorted(files, key=lambda file: (file.name, file.location))

    def _root(self, locations: list[str]) -> str:
        """Return what all names leave out: the base folder, or the files' own common folder."""
        base = str(self.environment.base.absolute()).rstrip("/") + "/"
        if all(location.startswith(base) for location in locations):
            return base
        shared = [location.split("/")[:-1] for location in locations]
        depth = next((at for at, parts in enumerate(zip(*shared)) if len(set(parts)) > 1), min(map(len, shared)))
        return "/".join([*shared[0][:depth], ""])

    def _format(self, location: str) -> Format:
        format = self.settings.format or format_of(location)
        if format is None:
            raise self._wrong(
                "path",
                f"the format of {location} cannot be told from its name",
                f"Add 'format: …': {', '.join(sorted(set(EXTENSIONS.values())))}.",
            )
        return format

    def _local_files(self, pattern: str) -> dict[str, tuple[str, int, str | None]]:
        written = _at_home(pattern.removeprefix("file://"))
        full = Path(os.path.normpath(self.environment.base.absolute() / written))
        try:
            if full.is_dir():
                raise self._wrong(
                    "path",
                    f"{pattern!r} is a folder",
                    f"Name the files in it: {posixpath.join(pattern, '*.parquet')}, for example.",
                )
            # A name may hold a bracket; what exists under the very name is meant.
            matches = [full] if full.exists() or not MAGIC & set(str(full)) else _matches(full)
            # What a label's pattern searches is what the spec wrote, not where its folder happens to lie.
            base = "" if written.is_absolute() else str(self.environment.base.absolute())
            files = {
                str(match): ("/" + os.path.relpath(match, base) if base else str(match), match.stat().st_size, None)
                for match in matches
                if match.is_file()
            }
            remedy = "" if files else _near(full)
        except OSError as error:
            raise self._wrong("path", f"cannot look for {pattern!r}: {error}", "Check the path.") from error
        if not files:
            if _VARIABLE.search(pattern):
                remedy = "Variables of the shell are not read here: write the path, or ~ for the home folder."
            raise self._wrong("path", f"no file matches {pattern!r}", remedy)
        for name in files:
            if not _is_text(name):
                said = os.fsencode(name).decode("utf-8", "backslashreplace")
                raise self._wrong("path", f"the name of the file {said} is not UTF-8", "Rename the file.")
        return dict(files)

    def _wrong(self, setting: str, what: str, remedy: str) -> WrongSetting:
        return WrongSetting([((setting,), what, remedy)]).in_source(self.source)

    def _check_readable(self, files: list[_File]) -> None:
        """Fail now if no record of a local file can be read: it would be lost as if it were one row."""
        if self.settings.delimiter is not None and not any(file.format in ("csv", "tsv") for file in files):
            raise self._wrong("delimiter", "there is a delimiter, and no file is CSV or TSV", "Remove it.")
        for file in files if self.settings.unreadable == "refuse" else ():
            if not _remote(file.location):
                broken = unreadable(file.location, file.format, self.settings.delimiter)
                if broken is not None:
                    raise self._refused(file.name, file.location, broken, self._other_delimiter(file))

    def _refused(self, name: str, location: str, broken: Broken, remedy: str = "") -> WrongSetting:
        remedy = remedy or _remedy(location, broken) or "Mend the file or leave it out."
        return self._wrong(
            "path",
            f"no record of {name} can be read: {broken.rule}{f' ({broken.evidence})' if broken.evidence else ''}",
            f"{remedy} {GOES_ON}",
        )

    def _check_columns(self, files: list[_File]) -> None:
        """Fail now if a mapped column is in no file; a file without it is a matter for its rows."""
        known: dict[str, None] = {}
        missing: WrongSetting | None = None
        place = files[0].name if len(files) == 1 else f"any of the {len(files)} files"
        for file in files:
            names = column_names(file.location, file.format, self.settings.delimiter)
            if names is not None:
                known |= dict.fromkeys(names)
                missing = self._missing(known, place)
                if missing is None:
                    return
        # Records of JSON need not have all columns: what only few have may come late.
        left, seen = SAMPLE, 0
        for file in files if missing is not None else ():
            if file.format in ("json", "jsonl") and left > 0:
                names, records, read = columns_within(file.location, file.format, left)
                known |= dict.fromkeys(names)
                left, seen = left - read, seen + records
                missing = self._missing(known, place if left > 0 else f"the first {seen:,} records")
                if missing is None:
                    return
        if missing is not None:
            remedy = next(filter(None, map(self._other_delimiter, files)), "")
            if remedy:
                path, what, _ = missing.faults[0]
                missing = WrongSetting([(path, what, remedy)])
            raise missing

    def _missing(self, known: dict[str, None], place: str) -> WrongSetting | None:
        try:
            self._mapper.check(list(known), True, place)
        except WrongSetting as error:
            return error.in_source(self.source)
        return None

    def _other_delimiter(self, file: _File) -> str:
        """Return the remedy for a file whose header has the columns of the spec once it is split at another mark."""
        wanted = {column for _, column in self._mapper.missing([])}
        if file.format not in ("csv", "tsv"):
            return ""
        used = self.settings.delimiter or DELIMITERS[file.format]
        for mark in (mark for mark in MARKS if mark != used):
            names = column_names(file.location, file.format, mark)
            if names is not None and len(names) > 1 and wanted & set(names):
                return f"Write 'delimiter: {json.dumps(mark)}', which is what stands between the fields."
        return ""


def _share(size: int, slice: tuple[int, int] | None, last: tuple[int, int] | None) -> int:
    """Return the bytes of a file's ``slice``, where ``last`` is its last: slices of Parquet count rows."""
    if slice is None or last is None:
        return size
    return size * slice[1] // last[1] - size * slice[0] // last[1]


def _at_home(path: str) -> Path:
    """Put the home folder in the place of ``~``; what begins with it and names nobody stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remedy(location: str, broken: Broken) -> str:
    """Say what a file is that is not what its name says, by its first bytes."""
    with open_location(location) as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        return "It is a Git LFS pointer: run 'git lfs pull'."
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "It is UTF-16: save it as UTF-8."
    if head.startswith(b"PAR1"):
        return "It begins like Parquet: 'format: parquet' reads it as that, if it is whole."
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "It is a web page or XML: was the download refused?"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
        return "It begins like a JSON array: try 'format: json'."
    return "Save it as UTF-8." if "invalid_utf8" in (broken.rule, broken.evidence.split(" ")[0]) else ""


_VARIABLE = re.compile(r"\$\w|\$\{\w+\}|%\w+%")


def _remote(location: str) -> bool:
    return "://" in location and not location.startswith("file://")


def _remote_files(pattern: str) -> dict[str, tuple[str, int, str | None]]:
    """Return the files that a URL matches: its text for labels, size, and the store's own mark of their content."""
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise MissingExtra("fsspec", "remote", f"reading {pattern}") from error
    try:
        system, path = fsspec.url_to_fs(pattern)
        matches = system.glob(path) if MAGIC & set(path.split("?")[0]) and "http" not in system.protocol else [path]
        found: dict[str, tuple[str, int, str | None]] = {}
        for match in matches:
            about = system.info(match)
            if about.get("type") == "directory":
                continue
            mark = next((str(about[name]) for name in VERSIONS if about.get(name)), None)
            version = None if mark is None else digest("remote", mark, str(about.get("size")))
            url = system.unstrip_protocol(match)
            found[url] = (address(url), int(about.get("size") or 0), version)
    except FileNotFoundError:
        found = {}
    except ImportError as error:
        remedy = "Install what it names with pip: no URLs are read without it."
        raise InputError(f"cannot read {pattern}: {error}", remedy) from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {pattern}: {error}", "Check the URL, and your access to it.") from error
    if not found:
        raise InputError(f"no file matches {pattern!r}", "Check the URL.")
    return found


def _near(path: Path) -> str:
    """Suggest what may have been meant: the nearest name in the deepest folder that exists."""
    if path.exists():
        return "What is there is not a regular file."
    if path.is_symlink():
        return f"It is a link to {str(path.readlink())!r}, where there is no file."
    folder, name = path.parent, path.name
    while folder != folder.parent and not folder.is_dir():
        folder, name = folder.parent, folder.name
    entries = sorted(entry.name for entry in folder.iterdir())[:2000] if folder.is_dir() else []
    if not name.startswith("."):
        entries = [entry for entry in entries if not entry.startswith(".")]
    return did_you_mean(name, entries) or f"The folder {folder} is empty."


def _matches(pattern: Path) -> list[Path]:
    """Return what a pattern matches; ``**`` is any depth, and hidden files must be named."""
    fixed = next(at for at, part in enumerate(pattern.parts) if MAGIC & set(part))
    root, rest = Path(*pattern.parts[:fixed]), pattern.parts[fixed:]
    hidden = any(part.startswith(".") for part in rest)
    return [
        match
        for match in root.glob("/".join(rest))
        if hidden or not any(part.startswith(".") for part in match.relative_to(root).parts)
    ]
