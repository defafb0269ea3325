"""A file of the Hub that is read while it arrives, by several processes at once, no byte twice.

Bytes that come are written at their place into a sparse file, ``<name>.incomplete``, and the range
they fill is then appended to a record beside it, so that after a kill the next reader asks for the
missing ranges only. Whoever wants missing bytes first locks that very byte range of the sparse file
(POSIX locks, which end with the process), so that two readers of one file share what each brings.

The Hub's digest covers a whole file and nothing smaller. A reader therefore *finishes*: it brings
what is still missing, the file is hashed, and only then gets its name. What was read counts when the
file that was read, the same inode, is the one that got the name.

Memory is one network chunk. Of 200 MB of Parquet the first rows come after 11 MB, of gzip after 7 MB.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import io
import os
import re
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from aya_data.builders.hub.requests import Backoff, Passing, Refused, insist, refusal, request
from aya_data.core import durable
from aya_data.core.errors import AyaDataError, CorruptPart, WorkspaceUnusable

if TYPE_CHECKING:
    import httpx2

    from aya_data.builders.hub.repository import RemoteFile, Repository

__all__ = ["FIRST", "Arriving", "Span", "add", "gaps", "sweep"]

INCOMPLETE = ".incomplete"
RANGES = ".ranges"
FIRST = 1 << 20
"""Bytes of the first request of a reader; each that goes on from there asks for twice as many …"""
MOST = 32 << 20
"""… up to so many, or to what one read wants."""
STEP = 256 << 10
"""Bytes after which a range is recorded: what a kill may lose."""
ENTRY = struct.Struct("<QQ")

Span = tuple[int, int]


def add(spans: list[Span], start: int, stop: int) -> None:
    """Add [start, stop) to sorted spans that do not touch, in place."""
    low = bisect_left(spans, start, key=itemgetter(1))
    high = bisect_right(spans, stop, key=itemgetter(0))
    if low < high:
        start, stop = min(start, spans[low][0]), max(stop, spans[high - 1][1])
    spans[low:high] = [(start, stop)]


def gaps(spans: list[Span], start: int, stop: int) -> list[Span]:
    """Return the parts of [start, stop) that sorted ``spans`` leave open."""
    found: list[Span] = []
    for first, last in spans[bisect_right(spans, start, key=itemgetter(1)) :]:
        if first >= stop:
            break
        if start < first:
            found.append((start, first))
        start = last
    return [*found, (start, stop)] if start < stop else found


class Arriving:
    """One file on its way to ``target``; a context manager.

    ``horizon`` bounds reading ahead, for a reader of one part of the file. One process has one of
    these open per file at a time: the locks are a process's.
    """

    def __init__(
        self,
        repository: Repository,
        file: RemoteFile,
        target: Path,
        backoff: Backoff,
        *,
        block: int = FIRST,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.file, self.target, self.horizon = file, target, file.size
        self.what = f"{repository.id}@{repository.commit[:12]}/{file.path}"
        self._repository, self._backoff, self._progress = repository, backoff, progress
        self._partial = target.with_name(target.name + INCOMPLETE)
        self._spans: list[Span] = []
        self._fd = self._log = -1
        self._logged = 0
        self._block = self._window = block
        self._reached = -1
        self._trouble: AyaDataError | None = None
        self._whole = False

    def __enter__(self) -> Arriving:
        try:
            with self._writing():
                self._opened()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def open(self) -> IO[bytes]:
        """Return the file as a seekable stream that waits for what is not here yet."""
        return cast("IO[bytes]", _Reader(self))

    def bring(self, start: int, stop: int, wait: bool = True) -> bool:
        """Have [start, stop) here, in one request for each gap; ``wait`` for other processes that are at it.

        Returns whether all of it is here. Raises :class:`HubUnreachable`, :class:`InputError` where
        access is refused, :class:`WorkspaceUnusable` when the folder cannot be written.
        """
        with self._writing():
            if self._missing(start, stop):
                with self._claim(start, stop, wait) as mine:
                    if not mine:
                        return False
                    for gap in self._missing(start, stop):
                        self._receive(*gap)
        return True

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield [start, stop); where that takes a request, ask for as much ahead as reading goes on."""
        try:
            missing = self._missing(start, stop)
            if missing:
                first = missing[0][0]
                self._window = min(2 * self._window, MOST) if first == self._reached else self._block
                self._reached = max(stop, min(first + self._window, self.horizon))
                self.bring(first, self._reached)
        except AyaDataError as error:
            self._trouble = error
            raise
        yield from self._kept(start, stop)

    def finish(self) -> None:
        """Bring the rest, check all of it and give it its name.

        Raises :class:`CorruptPart` when the content is not what its digest says; the bytes are gone
        then, and so is everything read from them. Also raises what :meth:`bring` raises, and what a
        reader raised earlier, should somebody have taken it for damage of the file.
        """
        if self._trouble is not None:
            raise self._trouble
        while not self._whole:
            self._gather()
            with self._writing(), self._claim(0, max(1, self.file.size)):
                if self._is_at(self.target):
                    self._whole = True  # somebody else has just checked it
                elif not self._is_at(self._partial):
                    raise CorruptPart(self.what, "another reader found other bytes", self.file.digest)
                elif not self._missing(0, self.file.size):
                    self._name()

    def read(self, start: int, stop: int) -> bytes:
        """Return [start, stop), asking for nothing beyond it."""
        self.bring(start, stop)
        return b"".join(self._kept(start, stop))

    # Opening, naming.

    def _opened(self) -> None:
        """Open the file where it is whole, else what there is of it."""
        durable.make_folder(self.target.parent)
        while self._fd < 0:
            with contextlib.suppress(FileNotFoundError):
                self._fd = os.open(self.target, os.O_RDONLY | os.O_CLOEXEC)
                if os.fstat(self._fd).st_size == self.file.size and self._digest() == self.file.digest:
                    self._whole = True
                    return
                self._close()
                _remove_records(self._partial)
                durable.remove(self.target)
            self._fd = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if self.target.exists():
                self._close()  # made anew behind the back of whoever has just renamed it
                durable.remove(self._partial)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._log = os.open(_record_of(self._partial, self._fd), flags, 0o644)

    def _close(self) -> None:
        for number in (self._fd, self._log):
            if number >= 0:
                os.close(number)
        self._fd = self._log = -1

    def _name(self) -> None:
        found = self._digest()
        if found != self.file.digest:
            _remove_records(self._partial)
            durable.remove(self._partial)
            raise CorruptPart(self.what, f"what arrives is {found}", self.file.digest)
        os.ftruncate(self._fd, self.file.size)
        os.fsync(self._fd)
        durable.replace(self._partial, self.target)
        _remove_records(self._partial)
        self._whole = True

    def _is_at(self, path: Path) -> bool:
        try:
            return path.stat().st_ino == os.fstat(self._fd).st_ino
        except FileNotFoundError:
            return False

    def _kept(self, start: int, stop: int) -> Iterator[bytes]:
        while start < stop and (block := os.pread(self._fd, min(1 << 20, stop - start), start)):
            start += len(block)
            yield block

    def _digest(self) -> str:
        kind = self.file.digest.partition(":")[0]
        if kind == "sha256":
            hasher = hashlib.sha256()
        else:
            hasher = hashlib.sha1(b"blob %d\0" % self.file.size, usedforsecurity=False)
        for block in self._kept(0, self.file.size):
            hasher.update(block)
        return f"{kind}:{hasher.hexdigest()}"

    # What is here, and who is at the rest.

    def _missing(self, start: int, stop: int) -> list[Span]:
        if self._whole:
            return []
        found = gaps(self._spans, start, stop)
        if found:
            self._recall()
            found = gaps(self._spans, start, stop)
        return found

    def _recall(self) -> None:
        """Read what all processes have recorded since the last time."""
        size = os.fstat(self._log).st_size
        entries = os.pread(self._log, (size - self._logged) // ENTRY.size * ENTRY.size, self._logged)
        _read_record(entries, min(os.fstat(self._fd).st_size, self.file.size), self._spans)
        self._logged += len(entries)

    @contextlib.contextmanager
    def _claim(self, start: int, stop: int, wait: bool = True) -> Iterator[bool]:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), stop - start, start)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass  # a file system without locks: a byte may then come twice, to the same place
        try:
            yield True
        finally:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._fd, fcntl.LOCK_UN, stop - start, start)

    def _gather(self) -> None:
        """Bring what nobody has brought: first what nobody is at."""
        while missing := self._missing(0, self.file.size):
            pieces = [(at, min(at + MOST, stop)) for start, stop in missing for at in range(start, stop, MOST)]
            busy = [piece for piece in pieces if not self.bring(*piece, wait=False)]
            if len(busy) == len(pieces):
                self.bring(*busy[0])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WorkspaceUnusable(str(self.target), error.strerror or str(error)) from error

    # Asking.

    def _receive(self, start: int, stop: int) -> None:
        def attempt() -> None:
            for gap in gaps(self._spans, start, stop):
                self._ask(*gap)
            for at, _ in gaps(self._spans, start, stop):
                raise Passing(f"the connection ended after {at} of {self.file.size} bytes")

        try:
            insist(attempt, self.what, self._backoff, lambda: sum(last - first for first, last in self._spans))
        except Refused as refused:
            place = self._repository
            raise refusal(refused, place.endpoint, place.id, place.commit, self.file.path) from None

    def _ask(self, start: int, stop: int) -> None:
        """Ask once for [start, stop) and keep what comes."""
        size = self.file.size
        headers = {"range": f"bytes={start}-{'' if stop == size else stop - 1}"} if (start, stop) != (0, size) else {}
        with request(_address(self._repository, self.file), self.what, headers) as response:
            if response.status_code != 206:
                start, stop = 0, size  # the server ignores ranges: the whole file comes
            elif not _starts_at(response, start):
                raise Passing("the answer is another range of the file")
            at = recorded = start
            try:
                for chunk in response.iter_bytes():
                    piece = memoryview(chunk)[: stop - at]
                    if len(chunk) and not piece:
                        break  # more than was asked for
                    while piece:
                        done = os.pwrite(self._fd, piece, at)
                        at, piece = at + done, piece[done:]
                    if at - recorded >= STEP:
                        self._record(recorded, at)
                        recorded = at
            finally:
                # Inside, so that a broken connection leaves every byte that came in the record.
                self._record(recorded, at)

    def _record(self, start: int, stop: int) -> None:
        if start < stop:
            os.write(self._log, ENTRY.pack(start, stop))
            add(self._spans, start, stop)
            if self._progress is not None:
                self._progress(stop - start)


def sweep(folder: Path) -> tuple[int, int]:
    """Remove unfinished downloads that no process is at; return how many files and bytes.

    The next build that wants one of them begins it anew.
    """
    removed = size = 0
    for path in sorted(folder.glob("*" + INCOMPLETE)):
        with open(os.open(path, os.O_RDWR | os.O_CLOEXEC), "rb") as handle:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # somebody is at it
            spans: list[Span] = []
            with contextlib.suppress(FileNotFoundError):
                record = _record_of(path, handle.fileno()).read_bytes()
                _read_record(record, os.fstat(handle.fileno()).st_size, spans)
            size += sum(stop - start for start, stop in spans)
            removed += 1 + _remove_records(path)
            durable.remove(path)
    return removed, size


def _record_of(partial: Path, number: int) -> Path:
    """Return where the record of a file is: named by the inode, it is never taken for another file's."""
    return partial.with_name(f"{partial.name}.{os.fstat(number).st_ino}{RANGES}")


def _read_record(entries: bytes, size: int, spans: list[Span]) -> None:
    for start, stop in ENTRY.iter_unpack(entries[: len(entries) // ENTRY.size * ENTRY.size]):
        # What a power cut left may be anything.
        if start < stop <= size:
            add(spans, start, stop)


def _remove_records(partial: Path) -> int:
    records = list(partial.parent.glob(glob.escape(partial.name) + ".*" + RANGES))
    for path in records:
        durable.remove(path)
    return len(records)


def _starts_at(response: httpx2.Response, start: int) -> bool:
    """Whether the answer is the rest of a file from byte ``start`` on (RFC 9110, 14.4)."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == start


def _address(repository: Repository, file: RemoteFile) -> str:
    """Return where the Hub serves a file at the pinned commit."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(
        repository.id,
        file.path,
        repo_type=repository.type,
        revision=repository.commit,
        endpoint=repository.endpoint,
    )


class _Reader(io.RawIOBase):
    """An arriving file as a raw stream; a read returns all it was asked for, or the file ends."""

    def __init__(self, file: Arriving) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.file.size}[whence]
        if base + offset < 0:
            raise ValueError("cannot seek before the start")
        self._at = base + offset
        return self._at

    def readall(self) -> bytes:
        # The inherited one would come for every 8 KiB.
        rest = bytearray(max(0, self._file.file.size - self._at))
        self.readinto(rest)
        return bytes(rest)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self._at + len(view), self._file.file.size)
        done = 0
        for block in self._file.blocks(self._at, stop):
            view[done : done + len(block)] = block
            done += len(block)
        self._at += done
        return done
