"""The store: parts under their keys, and the workspace folder that holds them.

    <workspace>/
      lock                     who is building here
      store/a/abcd…/           one task's result: *.parquet, then record.json
      builds/<name>.<profile>.json   the keys that the last build of a spec used (gc keeps these)
      journal/<voice>/         answers of models (aya_data.core.journal); never collected
      releases/<name>/<version>/
      events/<name>-<n>.jsonl  the event log of each build
      cache/                   downloads
      catalog.duckdb

A result exists when its ``record.json`` does; that file is written last and names every part with
its size, digest and number of rows. Digests are checked whenever a stage reads a part.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from aya_data.core import durable
from aya_data.core.errors import CorruptPart, InputError, WorkspaceLocked

__all__ = ["LEVEL", "Output", "Part", "PartWriter", "Record", "Store", "Workspace", "file_digest", "write_table"]

UNFINISHED = "writing-"
"""What the folder of a release is called until it is complete."""

ROW_GROUP = 8192
"""Rows per row group of every Parquet file written here; fixed, because it changes the bytes."""


LEVEL, QUICK = 3, 1
"""Levels of zstd: of what is released, and of intermediate parts, which are an eighth larger and take half the time."""

DISTINCT = frozenset({"id", "row_key", "group", "row_hash", "prompt_hash"})
"""Columns whose values seldom repeat: intermediate parts have no dictionaries of them, nor of numbers and lists."""


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a result: ``path`` is relative to the store (or release) folder."""

    path: str
    rows: int
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class Record:
    """The result of one task: its parts by name, counts by stage, and small facts."""

    key: str
    stage: str
    parts: Mapping[str, tuple[Part, ...]]
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Record:
        """Rebuild a record from its JSON form. ValueError, KeyError or TypeError when it is not whole."""
        if data["check"] != _check(data):
            raise ValueError("the record does not match its digest")
        parts = {name: tuple(Part(**p) for p in listed) for name, listed in data["parts"].items()}
        return cls(data["key"], data["stage"], parts, data["counts"], data["facts"])

    def dump(self) -> dict[str, Any]:
        """Return the JSON form."""
        data = {
            "key": self.key,
            "stage": self.stage,
            "parts": {name: [asdict(p) for p in listed] for name, listed in self.parts.items()},
            "counts": {name: dict(counted) for name, counted in self.counts.items()},
            "facts": dict(self.facts),
        }
        return {**data, "check": _check(data)}


def _check(data: Mapping[str, Any]) -> str:
    """The digest of a record's JSON form, which it carries: its counts and facts are data like any part."""
    whole = json.dumps({k: v for k, v in data.items() if k != "check"}, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()


class _Hashing:
    """A file that hashes and counts what passes through it; what ParquetWriter needs of a file, no more."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.blake2b(digest_size=16)
        self.bytes = 0
        self.closed = False
        self.abandoned = False

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.abandoned:
            return len(view)
        self._hash.update(view)
        self._file.write(view)
        self.bytes += len(view)
        return len(view)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        return None

    def seekable(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True

    def digest(self) -> str:
        return self._hash.hexdigest()


class PartWriter:
    """Streams tables into one Parquet file in the canonical form: same rows, same bytes.

    zstd level 3 unless given, format 2.6, dictionary pages (of an intermediate part for names alone), row groups of
    ``row_group`` rows whatever the sizes of the tables given, no page index, no metadata but the Arrow schema. Rows
    wait in memory until a row group is full.
    """

    def __init__(self, file: IO[bytes], schema: pa.Schema, row_group: int = ROW_GROUP, level: int = LEVEL) -> None:
        self._hashing = _Hashing(file)
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._hashing, mode="w"),
            schema,
            version="2.6",
            compression="zstd",
            compression_level=level,
            use_dictionary=level != QUICK
            or [f.name for f in schema if pa.types.is_string(f.type) and f.name not in DISTINCT],
            write_statistics=True,
            data_page_version="1.0",
            store_schema=True,
        )
        self._schema = schema
        self._row_group = row_group
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self.rows = 0

    def write(self, table: pa.Table, *, whole: bool = False) -> None:
        """Append rows; ``whole`` makes them one row group of their own."""
        if table.num_rows == 0:
            return
        self.rows += table.num_rows
        if whole:
            self._flush()
            self._writer.write_table(table.combine_chunks(), row_group_size=table.num_rows)
            return
        self._waiting.append(table)
        self._waiting_rows += table.num_rows
        if self._waiting_rows >= self._row_group:
            joined = pa.concat_tables(self._waiting)
            full = joined.num_rows - joined.num_rows % self._row_group
            for start in range(0, full, self._row_group):
                piece = joined.slice(start, self._row_group).combine_chunks()
                self._writer.write_table(piece, row_group_size=self._row_group)
            rest = joined.slice(full)
            self._waiting = [rest] if rest.num_rows else []
            self._waiting_rows = rest.num_rows

    def _flush(self) -> None:
        if self._waiting:
            joined = pa.concat_tables(self._waiting).combine_chunks()
            self._writer.write_table(joined, row_group_size=max(1, joined.num_rows))
        self._waiting, self._waiting_rows = [], 0

    def abandon(self) -> None:
        """Let go of a file that will not be finished, without a word: the error that led here is told."""
        self._hashing.abandoned = True
        with contextlib.suppress(Exception):
            self._writer.close()

    def close(self) -> tuple[int, str]:
        """Finish the file; return its size in bytes and its digest."""
        self._flush()
        self._writer.close()
        return self._hashing.bytes, self._hashing.digest()


@contextlib.contextmanager
def open_part(
    path: Path, schema: pa.Schema, row_group: int = ROW_GROUP, level: int = LEVEL, *, sync: bool = True
) -> Iterator[tuple[PartWriter, list[Part]]]:
    """Write one Parquet file durably; the list holds its :class:`Part` when the block has ended.

    ``sync`` as in :func:`aya_data.core.durable.open_new`.
    """
    done: list[Part] = []
    with durable.open_new(path, sync=sync) as file:
        writer = PartWriter(file, schema, row_group, level)
        try:
            yield writer, done
            size, digest = writer.close()
        except BaseException:
            writer.abandon()
            raise
        done.append(Part(path.name, writer.rows, size, digest))


def write_table(path: Path, table: pa.Table) -> Part:
    """Write ``table`` to ``path`` durably and canonically."""
    with open_part(path, table.schema) as (writer, done):
        writer.write(table)
    return done[0]


def file_digest(path: Path) -> str:
    """Return the 128-bit BLAKE2b digest of a file as hex; about 1 GB/s."""
    state = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


class Output:
    """Collects the parts of one task and commits them together."""

    def __init__(self, store: Store, key: str, stage: str) -> None:
        self._store, self._key, self._stage = store, key, stage
        self._folder = store.folder(key)
        self._parts: dict[str, list[Part]] = {}

    @contextlib.contextmanager
    def part(self, name: str, schema: pa.Schema, level: int = QUICK) -> Iterator[PartWriter]:
        """Stream the next part called ``name``, compressed at ``level``."""
        listed = self._parts.setdefault(name, [])
        path = self._folder / f"{name}-{len(listed):05d}.parquet"
        with open_part(path, schema, ROW_GROUP, level, sync=False) as (writer, done):
            yield writer
        part = done[0]
        listed.append(Part(str(path.relative_to(self._store.root)), part.rows, part.bytes, part.digest))

    def write(self, name: str, table: pa.Table) -> None:
        """Write one whole part called ``name``."""
        with self.part(name, table.schema) as writer:
            writer.write(table)

    def commit(
        self, counts: Mapping[str, Mapping[str, int]] | None = None, facts: Mapping[str, Any] | None = None
    ) -> Record:
        """Write the record: from here on the result exists."""
        parts = {name: tuple(listed) for name, listed in self._parts.items()}
        record = Record(self._key, self._stage, parts, counts or {}, facts or {})
        if parts:
            durable.sync_folder(self._folder)
        durable.write_json(self._folder / "record.json", record.dump())
        return record


class Store:
    """Results under their keys. One that is ``read_only`` sets nothing aside: what is damaged is not there."""

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self.root = root
        self.read_only = read_only

    def folder(self, key: str) -> Path:
        """Where the result of ``key`` lies or will lie."""
        return self.root / key[:1] / key

    def get(self, key: str) -> Record | None:
        """Return the result of ``key`` if it is committed and all its files have their recorded size.

        A result with a missing or torn file is set aside, so that it is made anew.
        """
        try:
            record = self._record(key)
        except ValueError:
            self._set_aside(key)
            return None
        if record is None:
            return None
        for part in self.parts(record):
            try:
                size = (self.root / part.path).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                size = -1
            if size != part.bytes:
                self._set_aside(key)
                return None
        return record

    def _set_aside(self, key: str) -> None:
        if not self.read_only:
            self.forget(key)

    def _record(self, key: str) -> Record | None:
        """Read a record; ``None`` where there is none. Raises ValueError for one that is damaged."""
        try:
            data = (self.folder(key) / "record.json").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            record = Record.load(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a record: {error}") from error
        if record.key != key:
            raise ValueError(f"the record of {record.key}")
        return record

    @staticmethod
    def parts(record: Record) -> list[Part]:
        """All parts of a record."""
        return [part for listed in record.parts.values() for part in listed]

    def output(self, key: str, stage: str) -> Output:
        """Begin the result of ``key``."""
        return Output(self, key, stage)

    def forget(self, key: str) -> None:
        """Set a result aside: first its record, so that it never half exists, then its files."""
        folder = self.folder(key)
        durable.remove(folder / "record.json")
        durable.remove(folder)

    def read(self, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a part whole, after checking its digest. Raises :class:`CorruptPart`."""
        return pq.read_table(self.open(part), columns=None if columns is None else list(columns))

    def open(self, part: Part) -> pa.BufferReader:
        """Return the checked bytes of a part."""
        path = self.root / part.path
        try:
            # Into Arrow's own memory: its threads may let go of what they read after the read returned, and one that
            # needs the interpreter for that (as for ``bytes``) while the process ends aborts it.
            with pa.OSFile(str(path)) as file:
                data = file.read_buffer()
        except FileNotFoundError:
            self._spoiled(part)
            raise CorruptPart(str(path), "the file is gone", f"{part.bytes} bytes") from None
        found = hashlib.blake2b(data, digest_size=16).hexdigest()
        if found != part.digest:
            self._spoiled(part)
            raise CorruptPart(
                str(path), f"{data.size} bytes with digest {found}", f"{part.bytes} bytes with digest {part.digest}"
            )
        return pa.BufferReader(data)

    def check(self, part: Part) -> Path:
        """Check the digest of a part and return its path, for engines that read files themselves."""
        path = self.root / part.path
        found = file_digest(path) if path.exists() else "none, the file is gone"
        if found != part.digest:
            self._spoiled(part)
            raise CorruptPart(str(path), f"digest {found}", part.digest)
        return path

    def _spoiled(self, part: Part) -> None:
        self._set_aside(Path(part.path).parts[1])

    def keys(self) -> Iterator[str]:
        """All keys with a folder, committed or not."""
        yield from (path.name for path in self._folders() if path == self.folder(path.name))

    def _folders(self) -> list[Path]:
        """All folders that hold results, where they are looked for or not."""
        return sorted(path for path in self.root.glob("*/*") if path.is_dir())

    def verify(self) -> Iterator[tuple[Part, str]]:
        """Yield every part that is not what its record says, with what was found instead."""
        for key in self.keys():
            try:
                record = self._record(key)
            except ValueError as error:
                path = self.folder(key) / "record.json"
                yield Part(str(path.relative_to(self.root)), 0, path.stat().st_size, ""), str(error)
                continue
            for part in self.parts(record) if record else ():
                path = self.root / part.path
                if not path.exists():
                    yield part, "the file is gone"
                elif path.stat().st_size != part.bytes:
                    yield part, f"{path.stat().st_size} bytes, recorded {part.bytes}"
                elif (found := file_digest(path)) != part.digest:
                    yield part, f"digest {found}, recorded {part.digest}"

    def collect(self, keep: Iterable[str]) -> tuple[int, int]:
        """Remove every result whose key is not in ``keep``, or that lies where nothing looks for it, and folders of
        results that are empty; return how many results and how many bytes."""
        kept = {self.folder(key) for key in keep}
        removed = size = 0
        for folder in self._folders():
            if folder not in kept:
                size += sum(p.stat().st_size for p in folder.iterdir())
                durable.remove(folder / "record.json")
                durable.remove(folder)
                removed += 1
        for shelf in [path for path in self.root.glob("*") if path.is_dir() and not any(path.iterdir())]:
            durable.remove(shelf)
        return removed, size


class Workspace:
    """The folder of one user or cluster: store, releases, events, catalog."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.store = Store(self.root / "store")
        self.journal = self.root / "journal"
        self.builds = self.root / "builds"
        self.releases = self.root / "releases"
        self.events = self.root / "events"
        self.cache = self.root / "cache"
        self.temporary = self.root / "temporary"
        self.catalog = self.root / "catalog.duckdb"

    @contextlib.contextmanager
    def hold(self, command: str) -> Iterator[None]:
        """Hold the workspace for writing; another holder raises :class:`WorkspaceLocked` with its name.

        The lock is the kernel's and ends with the process, however it ends.
        """
        durable.make_folder(self.root)
        path = self.root / "lock"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise durable.refused(path, error) from error
        held = False
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(fd, 4096).decode(errors="replace").strip() or "another process"
                raise WorkspaceLocked(str(self.root), holder) from None
            held = True
            who = f"process {os.getpid()} on {socket.gethostname()} ({command})"
            try:
                os.ftruncate(fd, 0)
                os.pwrite(fd, who.encode(), 0)
            except OSError as error:
                raise durable.refused(path, error) from error
            durable.sweep(self.root)
            for unfinished in self.releases.glob(f"*/{UNFINISHED}*"):
                durable.remove(unfinished)
            yield
        finally:
            if held:
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, 0)
            os.close(fd)


def default_workspace() -> Path:
    """``AYA_DATA_HOME``, or ``.aya-data`` in the current folder."""
    return Path(os.environ.get("AYA_DATA_HOME") or ".aya-data")


def open_workspace(path: str | Path | None = None) -> Workspace:
    """Return the workspace at ``path``, or the default one; it need not exist yet.

    Raises :class:`InputError` for what no workspace can be: a file, or a path that is not UTF-8.
    """
    place = Workspace(Path(path) if path is not None else default_workspace())
    given = "--workspace" if path is not None or "AYA_DATA_HOME" not in os.environ else "AYA_DATA_HOME"
    try:
        str(place.root).encode()
    except UnicodeEncodeError:
        said = os.fsencode(place.root).decode("utf-8", "backslashreplace")
        raise InputError(
            f"the path of the workspace, {said}, is not UTF-8", f"Name another folder with {given}."
        ) from None
    for folder in (place.root, *place.root.parents):
        if folder.is_dir():
            break
        if folder.exists() or folder.is_symlink():
            what = f"{folder} is a file, and a workspace is a folder"
            if folder != place.root:
                what = f"the workspace {place.root} cannot be there: {folder} is a file"
            raise InputError(what, f"Name a folder with {given}.")
    return place


def command_line() -> str:
    """The command of this process, for people who meet its lock."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
