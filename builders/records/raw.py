"""Bytes and lines of files, here or remote, compressed or not, and what becomes of broken ones.

The lowest layer of :mod:`aya_data.builders.records.reader`: it knows no format.
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol, TypeAlias, cast

from aya_data.core.errors import InputError, MissingExtra
from aya_data.core.identity import digest

__all__ = [
    "Broken", "Chunk", "Damaged", "Lines", "Location", "Malformed", "Oversized", "Record", "blocks",
    "compression_of", "damage_record", "failing", "file_digest", "open_location", "text_of", "unique_names",
]  # fmt: skip

MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
    "bz2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)"),
}

BLOCK = 1 << 20
LARGEST = 64 << 20
"""Bytes of one record; a larger one is broken, and is never held in memory whole."""


class Opening(Protocol):
    """A file that knows how to open itself, as often as it is asked to."""

    def open(self) -> IO[bytes]:
        """Return it from its start, seekable."""
        ...


Location: TypeAlias = str | Opening
"""Where a file is: a local path, a URL that fsspec reads, or what opens itself."""


@dataclass(slots=True)
class Record:
    """One record: its 0-based number in the file, and its columns as plain Python values."""

    index: int
    fields: dict[str, Any]


@dataclass(slots=True)
class Broken:
    """What could not be parsed: its number, a digest of its bytes, and why."""

    index: int
    digest: str
    rule: str
    evidence: str


Chunk: TypeAlias = "Sequence[Record | Broken]"


class Damaged(Exception):
    """The bytes of a file end or break where they should not."""


class Malformed(ValueError):
    """A record that cannot be parsed: the ``rule`` it breaks, and the ``evidence``."""

    def __init__(self, rule: str, evidence: str = "") -> None:
        self.rule, self.evidence = rule, evidence
        super().__init__(rule)


@contextlib.contextmanager
def open_location(location: Location) -> Iterator[IO[bytes]]:
    """Open a local path, a URL or what opens itself for reading."""
    if not isinstance(location, str):
        with location.open() as file:
            yield file
        return
    try:
        if "://" in location and not location.startswith("file://"):
            try:
                import fsspec
            except ModuleNotFoundError as error:
                raise MissingExtra("fsspec", "remote", f"reading {location}") from error
            file = cast("IO[bytes]", fsspec.open(location, "rb").open())
        else:
            file = open(location.removeprefix("file://"), "rb")  # noqa: SIM115
    except (OSError, ImportError, ValueError) as error:
        raise InputError(f"cannot read {location}: {error}", "Check the path.") from error
    with file:
        yield file


def compression_of(location: Location) -> str | None:
    """Return what a file is compressed with by its first bytes: gzip, zstd, bz2 or nothing."""
    with open_location(location) as file:
        head = file.read(10)
    return next((name for name, magic in MAGIC.items() if magic.match(head)), None)


def blocks(location: Location, slice: tuple[int, int] | None = None) -> Iterator[bytes]:
    """Yield a file's bytes, decompressed. Raises :class:`Damaged` behind the last byte that is good."""
    compression = None if slice else compression_of(location)
    if compression is None:
        with open_location(location) as file:
            start, stop = slice or (0, 1 << 62)
            file.seek(start) if start else None
            while start < stop and (block := file.read(min(BLOCK, stop - start))):
                start += len(block)
                yield block
        return
    import pyarrow as pa

    done = 0
    try:
        with open_location(location) as file:
            stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)
            while block := stream.read(BLOCK):
                done += len(block)
                yield block
    except OSError as error:
        if failing(error):
            raise
        # The failed call lost what it had already decompressed: read up to it again, then in single bytes.
        yield from _rest(location, compression, done)
        raise Damaged(f"{compression}: {error}") from error


def failing(error: Exception) -> bool:
    """Whether the system could not read, which may pass, and not the data is damaged: only the system has numbers."""
    return isinstance(error, OSError) and (
        error.errno is not None or isinstance(error, (TimeoutError, ConnectionError))
    )


def _rest(location: Location, compression: str, done: int) -> Iterator[bytes]:
    import pyarrow as pa

    with open_location(location) as file:
        stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)
        while done:
            done -= len(stream.read(min(done, BLOCK)))
        tail = bytearray()
        with contextlib.suppress(OSError):
            while byte := stream.read(1):
                tail += byte
        yield bytes(tail)


class Lines:
    """The physical lines of a file, without their ends; ``damage`` tells what ended it too early.

    A line longer than :data:`LARGEST` comes as :class:`Malformed`, its bytes hashed and let go.
    """

    def __init__(self, location: Location, slice: tuple[int, int] | None = None) -> None:
        self._blocks = blocks(location, slice)
        self.damage: str | None = None
        self.tail = b""

    def __iter__(self) -> Iterator[bytes | Oversized]:
        pieces: list[bytes] = []
        held = 0
        large: Oversized | None = None
        begin = True
        while True:
            try:
                block = next(self._blocks, None)
            except Damaged as error:
                self.damage, block = str(error), None
            if block is None:
                break
            if begin:
                begin = False
                block = block.removeprefix(codecs.BOM_UTF8)
            lines = block.split(b"\n")
            if len(lines) > 1:
                if large:
                    large.add(lines[0])
                    yield large
                    large = None
                else:
                    yield b"".join((*pieces, lines[0])) if pieces else lines[0]
                pieces, held = [], 0
                yield from lines[1:-1]
            if large:
                large.add(lines[-1])
                continue
            if lines[-1]:
                pieces.append(lines[-1])
                held += len(lines[-1])
            if held > LARGEST:
                large = Oversized(b"".join(pieces))
                pieces, held = [], 0
        if large:
            yield large
        elif pieces:
            self.tail = b"".join(pieces)
            yield self.tail


class Oversized:
    """A record too long to hold: only its digest and size."""

    def __init__(self, start: bytes) -> None:
        self.size = len(start)
        self._state = hashlib.blake2b(start, digest_size=16)

    def add(self, more: bytes) -> None:
        self.size += len(more)
        self._state.update(more)

    def digest(self) -> str:
        return self._state.hexdigest()

    def broken(self, index: int) -> Broken:
        return Broken(index, self.digest(), "oversized_record", f"{self.size} bytes, at most {LARGEST}")


def damage_record(index: int, damage: str, tail: bytes) -> Broken:
    """Return what stands for the lost rest of a file; ``tail`` is its last, unfinished record."""
    evidence = f"the file breaks off after record {index - 1}: {damage}" if index else f"unreadable: {damage}"
    return Broken(index, digest("truncated", tail), "truncated_file", evidence)


def text_of(line: bytes) -> str:
    """Decode UTF-8. Raises :class:`Malformed`."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise Malformed("invalid_utf8", f"byte 0x{line[error.start]:02x} at {error.start}") from error


def unique_names(names: Sequence[str]) -> list[str]:
    """Tell equal column names apart: the second ``x`` is ``x#2``."""
    seen: dict[str, int] = {}
    out: list[str] = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return out


def file_digest(location: Location) -> str:
    """Return the 128-bit BLAKE2b digest of a file here or remote, as :func:`store.file_digest` does."""
    state = hashlib.blake2b(digest_size=16)
    with open_location(location) as file:
        while block := file.read(BLOCK):
            state.update(block)
    return state.hexdigest()
