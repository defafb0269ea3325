"""Durable writes: the one place that creates, renames and removes files of a workspace or release.

A file becomes visible only complete: temporary name in the same folder, write, fsync, rename, fsync
of the folder. After a power cut there is either the old file, the new file or none, plus perhaps
a ``.tmp`` file that :func:`sweep` removes.

Every step is an *operation*, counted by :class:`Failpoint`. Two environment variables exist for the
crash tests and cost one comparison otherwise: ``AYA_DATA_FAIL_AT=k`` kills the process with SIGKILL
just before its k-th operation; ``AYA_DATA_TRACE=folder`` keeps a log of operations and the bytes
written, from which a test rebuilds what a disk could hold after a power cut.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from aya_data.core.errors import WorkspaceUnusable

__all__ = [
    "make_folder",
    "open_new",
    "refused",
    "remove",
    "replace",
    "sweep",
    "sync_folder",
    "write_bytes",
    "write_json",
]

TEMPORARY = ".tmp"
BUFFER = 8 << 20


class Failpoint:
    """Counts operations of this process; kills it at one of them, or logs them, when a test asks."""

    def __init__(self) -> None:
        self.count = 0
        self.fail_at = int(os.environ.get("AYA_DATA_FAIL_AT", "0"))
        self.trace = os.environ.get("AYA_DATA_TRACE", "")
        self.active = bool(self.fail_at or self.trace)

    def __call__(self, operation: str, path: Path | str, data: bytes | None = None, to: str = "") -> None:
        if not self.active:
            return
        self.count += 1
        if self.count == self.fail_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trace:
            self._log(operation, str(path), data, to)

    def _log(self, operation: str, path: str, data: bytes | None, to: str) -> None:
        blob = ""
        if data is not None:
            blob = f"{os.getpid()}-{self.count:06d}.bin"
            with (Path(self.trace) / blob).open("xb") as file:
                file.write(data)
        entry = {"operation": operation, "path": path, "to": to, "data": blob}
        with (Path(self.trace) / "operations.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")


failpoint = Failpoint()


class _Pending(io.RawIOBase):
    """The unbuffered end of a file being written; counts each write as one operation."""

    def __init__(self, path: Path) -> None:
        failpoint("create", path)
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        failpoint("write", self._path, bytes(view) if failpoint.trace else None)
        done = 0
        while done < len(view):
            done += os.write(self._fd, view[done:])
        return done

    def sync(self) -> None:
        failpoint("fsync", self._path)
        os.fsync(self._fd)

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


@contextlib.contextmanager
def open_new(path: Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """Write a new file at ``path``; it appears, complete and durable, when the block ends well.

    Without ``sync`` its entry in the folder is not durable before somebody calls :func:`sync_folder`. On an error
    inside the block nothing is left. Raises :class:`WorkspaceUnusable` when the system refuses (full disk, read-only
    folder, size limit).
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        make_folder(path.parent)
        raw = _Pending(temporary)
        buffered: io.BufferedWriter[Any] = io.BufferedWriter(raw, BUFFER)
        try:
            yield buffered
            buffered.flush()
            raw.sync()
        except BaseException:
            _discard(buffered, raw, temporary)
            raise
        buffered.close()
        replace(temporary, path, sync=sync)
    except OSError as error:
        raise refused(path, error) from error


def _discard(buffered: io.BufferedWriter[Any], raw: _Pending, temporary: Path) -> None:
    with contextlib.suppress(OSError, ValueError):
        buffered.detach()
    raw.close()
    with contextlib.suppress(OSError):
        temporary.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` durably."""
    with open_new(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON: sorted keys, UTF-8, one trailing newline."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1)
    write_bytes(path, (text + "\n").encode())


def replace(old: Path, new: Path, *, sync: bool = True) -> None:
    """Rename ``old`` to ``new``, over a file that may be there, and make the rename durable."""
    try:
        failpoint("rename", old, to=str(new))
        old.replace(new)
        if sync:
            sync_folder(new.parent)
    except OSError as error:
        raise refused(new, error) from error


def make_folder(path: Path) -> None:
    """Create ``path`` and its parents; the entries are durable."""
    if path.is_dir():
        return
    try:
        make_folder(path.parent)
        failpoint("mkdir", path)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise refused(path, error) from error


def sync_folder(path: Path) -> None:
    """Make the entries of ``path`` durable."""
    failpoint("fsync_folder", path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise refused(path, error) from error


def remove(path: Path) -> None:
    """Remove a file or a folder tree, if it is there."""
    failpoint("remove", path)
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise refused(path, error) from error


def sweep(folder: Path) -> int:
    """Remove what killed writers left under ``folder``; return how many files."""
    left = [path for path in folder.rglob("*" + TEMPORARY) if path.is_file()]
    for path in left:
        remove(path)
    return len(left)


def refused(path: Path, error: OSError) -> WorkspaceUnusable:
    """Say why the system refused to write ``path``."""
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the file would be larger than this process may write",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission denied",
        errno.EPERM: "operation not permitted",
        errno.ENOTDIR: "a part of the path is not a folder",
        errno.EEXIST: "a file is in the way",
        errno.EIO: "the device reported an input/output error",
    }
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    return WorkspaceUnusable(str(path), reason)
