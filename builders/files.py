"""The source ``files``: anybody's own data, here or anywhere fsspec reaches, columns mapped in the spec."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from aya_data.builders.mapping import Mapper, MappingSettings
from aya_data.builders.records import (
    EXTENSIONS,
    Format,
    column_names,
    cuts,
    file_digest,
    format_of,
    read_records,
)
from aya_data.core.errors import InputError, MissingExtra, did_you_mean
from aya_data.core.identity import digest
from aya_data.core.row import Kind
from aya_data.core.settings import wrong
from aya_data.core.stage import Batch, Builder, Unit

__all__ = ["FilesBuilder"]

MAGIC = frozenset("*?[")
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

    path: tuple[str, ...] = Field(
        description="A file, a pattern such as data/**/*.jsonl.zst, or a list of them. Relative to "
        "the spec's folder; URLs that fsspec reads are allowed.",
        examples=["data/*.jsonl.zst"],
    )
    format: Format | None = Field(None, description="The format of all files, where their names do not tell it.")

    @field_validator("path", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list | tuple) and not (value and all(isinstance(v, str) and v for v in value)):
            raise wrong("must name at least one file", "Write, say, data/*.jsonl.")
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

        Reads every local file once for its digest. Raises :class:`InputError` when a pattern
        matches nothing, a format is unknown, or a mapped column is in none of the files.
        """
        files = self._files()
        self._check_columns(files)
        return [
            Unit(
                file.name,
                file.digest,
                file.location,
                size=file.size if slice is None else slice[1] - slice[0],
                slice=slice,
                labels={
                    **self._mapper.file_labels(file.shown),
                    "format": file.format,
                    "first": str(first),
                },
            )
            for file in files
            for slice, first in self._cuts(file)
        ]

    def read(self, unit: Unit) -> Iterator[Batch]:
        """Read one file, or one slice of it."""
        labels = dict(unit.labels)
        format = format_of(unit.location) if "format" not in labels else labels.pop("format")
        first = int(labels.pop("first", "0"))
        for chunk in read_records(unit.location, format, unit.slice, first=first):  # type: ignore[arg-type]
            yield self._mapper.batch(chunk, unit.name, labels)

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
        root = self._root(list(found))
        files = [
            _File(
                location[len(root) :].replace(os.sep, "/"),
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
            raise InputError(
                f"the format of {location} cannot be told from its name",
                f"Add 'format: …' to the source {self.source!r}: {', '.join(sorted(set(EXTENSIONS.values())))}.",
            )
        return format

    def _local_files(self, pattern: str) -> dict[str, tuple[str, int, str | None]]:
        full = Path(os.path.normpath(self.environment.base.absolute() / pattern.removeprefix("file://")))
        if full.is_dir():
            raise InputError(
                f"{pattern!r} of the source {self.source!r} is a folder",
                f"Name the files in it: {posixpath.join(pattern, '*.parquet')}, for example.",
            )
        # A name may hold a bracket; what exists under the very name is meant.
        matches = [full] if full.exists() or not MAGIC & set(str(full)) else _matches(full)
        # What a label's pattern searches is what the spec wrote, not where its folder happens to lie.
        base = "" if Path(pattern).is_absolute() else str(self.environment.base.absolute())
        files = {
            str(match): ("/" + os.path.relpath(match, base) if base else str(match), match.stat().st_size, None)
            for match in matches
            if match.is_file()
        }
        if not files:
            raise InputError(f"no file matches {pattern!r}, the path of the source {self.source!r}", _near(full))
        return dict(files)

    def _check_columns(self, files: list[_File]) -> None:
        """Fail now if a mapped column is in no file; a file without it is a matter for its rows."""
        known: dict[str, None] = {}
        certain = True
        missing: InputError | None = None
        for file in files:
            names = column_names(file.location, file.format)
            if names is None:
                continue
            known |= dict.fromkeys(names)
            certain = certain and file.format not in ("json", "jsonl")
            place = files[0].name if len(files) == 1 else f"any of the {len(files)} files"
            try:
                self._mapper.check(list(known), certain, place)
            except InputError as error:
                missing = error
            else:
                return
        if missing is not None:
            raise InputError(f"the source {self.source!r}: {missing.what}", missing.remedy)


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
            found[url] = (url, int(about.get("size") or 0), version)
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
    folder, name = path.parent, path.name
    while folder != folder.parent and not folder.is_dir():
        folder, name = folder.parent, folder.name
    entries = sorted(entry.name for entry in folder.iterdir())[:2000] if folder.is_dir() else []
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
