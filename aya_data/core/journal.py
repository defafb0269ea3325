"""The journal: answers that were paid for, kept under the keys of their requests.

    <workspace>/journal/<voice key>/
      voice.json                                      what the voice is, for people
      <first>-<last>-<digest of the file>.parquet     segments
      rates.json                                      how fast it answered, for estimates
      free                                            there if the answers cost nothing (a recording's)

One commit is one new segment, numbered; it exists when its name does, and its name says what its bytes must hash to.
Segments never change. :meth:`Journal.compact` writes one that takes the place of several adjacent ones and carries
their numbers; only then are those removed, so what a crash leaves of them is told by its numbers and passed over.

Of the answers to one key, the first that is not a failure stands; while all are failures, the last. So an answer,
once there, stays, whatever is written again: :meth:`Index.digest` can be part of the key of what reads it.

Checks. Every load reads and hashes every segment whole, and so trusts keys, contents and texts alike: a million answers
of 500 bytes are 340 MB on the disk, which is a third of a second of hashing, of 2.6 s that loading 4,000 segments and
looking for a million keys take on one core (1.4 s after compaction). An index that was sent to another process checks a
segment there when it first reads its texts. A segment that fails is set aside as ``….damaged`` and named; its answers
are missing then. A journal that is opened to be looked at alone passes over such a segment and leaves it where it is.

There is one writer, the holder of the workspace; readers need no lock and see what some commit left.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.core import durable
from aya_data.core.errors import WorkspaceUnusable
from aya_data.core.generation import Answer
from aya_data.core.identity import frame
from aya_data.core.journal_segments import (
    ASIDE,
    SCHEMA,
    TAKEN,
    UNNAMED,
    Columns,
    Positions,
    Segment,
    check,
    halves,
    has_gap,
    list_segments,
    live_segments,
    merge_groups,
    merged,
    next_number,
    read_columns,
    read_rows,
    standing,
    write_segment,
)
from aya_data.core.store import file_digest

__all__ = ["BinaryKeys", "Index", "Journal", "Rate", "binary_keys", "journals"]

Text = TypeVar("Text", str, str | None)
BinaryKeys: TypeAlias = npt.NDArray[np.bytes_]
"""Keys as 16 bytes each (``S16``), which sort as their digits do."""
Keys: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray | BinaryKeys

KEY = re.compile(r"[0-9a-fA-F]{32}")
INT32 = 2**31 - 1

VOICE = "voice.json"
FREE = "free"
"""The file that marks a journal of answers that cost nothing."""
TRIES = 20
SLICE = 1 << 14
LOOKED_UP = 1 << 16
"""Keys that are looked for at a time: what that takes stays small beside the keys."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What a voice did in ``seconds`` of work; failures are not counted. Tokens are those of the ``counted`` answers,
    of which it said how many they have."""

    answers: int = 0
    counted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Journal:
    """The answers of one voice. Making one reads and writes nothing."""

    def __init__(
        self,
        root: Path,
        voice: str,
        identity: Mapping[str, Any] | None = None,
        *,
        free: bool = False,
        read_only: bool = False,
    ) -> None:
        """``root`` is the folder of all journals, ``voice`` a voice key; ``identity`` is kept readable beside it.

        ``free`` says that the answers cost nothing and may be thrown away. ``read_only`` is for who only looks: what is
        damaged is passed over, not set aside (:attr:`Index.damaged` names it).
        """
        self.folder = root / voice
        self._identity = identity
        self._free = free
        self.read_only = read_only

    @property
    def free(self) -> bool:
        """Whether it is noted that its answers cost nothing and can be had again."""
        return (self.folder / FREE).exists()

    @property
    def size(self) -> int:
        """How large its files are."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())

    def voice(self) -> Any:
        """What the voice is, as it was noted; ``None`` where that cannot be read."""
        try:
            return json.loads((self.folder / VOICE).read_bytes())
        except (OSError, ValueError):
            return None

    def remove(self) -> None:
        """Remove all that it holds; what a crash leaves of free answers is still marked as free."""
        for path in sorted(self.folder.iterdir()):
            if path.name != FREE:
                durable.remove(path)
        durable.sync_folder(self.folder)
        durable.remove(self.folder)

    # Reading ------------------------------------------------------------------------------------------

    def load(self, known: Index | None = None) -> Index:
        """Return what is committed, texts left on the disk.

        ``known`` is an earlier index of this journal: only later segments are read then, if what it knows is still
        there. Raises :class:`CorruptPart` with the path of a segment that is torn or altered, once it is set aside.
        """
        for _ in range(TRIES):
            live = live_segments(self._listed())
            start = 0
            damaged: list[Segment] = []
            if known is not None and known._segments == tuple(live[: len(known._segments)]):
                start = len(known._segments)
                if start == len(live):
                    return known
            try:
                columns = read_columns(live[start:], start, damaged if self.read_only else None)
            except FileNotFoundError:
                continue  # it was compacted away since it was listed
            paths = [segment.path for segment in damaged]
            if known is not None and start:
                columns = [known._columns, *columns]
                paths = [*known.damaged, *paths]
            return Index(self, live, standing(columns), paths)
        raise WorkspaceUnusable(str(self.folder), "its files vanish while they are read")

    def verify(self) -> Iterator[tuple[Path, str]]:
        """Yield every segment that is not what its name says, with what was found instead; changes nothing."""
        for segment in live_segments(self._listed()):
            try:
                found = file_digest(segment.path)
            except FileNotFoundError:
                continue
            if found != segment.digest:
                yield segment.path, f"digest {found}, recorded {segment.digest}"

    def set_aside(self) -> list[str]:
        """Set aside every segment that is not what its name says; return what they were called. For the one writer."""
        damaged = [path for path, _ in self.verify()]
        for path in damaged:
            durable.replace(path, path.with_name(path.name + ASIDE))
        return list(map(str, damaged))

    def _listed(self) -> list[Segment]:
        """All segments, set aside ones too, in order of their numbers.

        A folder that changes while it is listed may show neither a new file nor those that it replaced. So it is
        listed until it shows the same twice and no number is left out; that one is gone for good is accepted.
        """
        before: list[Segment] | None = None
        for turn in range(TRIES):
            listed = list_segments(self.folder)
            if listed == before and (turn > 3 or not has_gap(listed)):
                break
            before = listed
        return listed

    # Writing ------------------------------------------------------------------------------------------

    def append(self, answers: Sequence[Answer]) -> None:
        """Commit answers: when this returns they are durable, all of them; if it does not, all or none are.

        Costs two fsyncs, 2 milliseconds, and 10 microseconds per answer. A lone surrogate, which is no text, is kept as
        U+FFFD; a count of tokens that no int32 holds is kept as unknown. Raises ValueError for a key that is not 32 hex
        digits.
        """
        if not answers:
            return
        table = _table(answers)
        about = self.folder / VOICE
        if self._identity is not None and not about.exists():
            durable.write_json(about, self._identity)
        if self._free and not self.free:
            durable.write_bytes(self.folder / FREE, b"")
        number = next_number(self.folder)
        write_segment(self.folder, [table], number, number)

    def compact(self) -> None:
        """Merge adjacent small segments, and drop answers in them that no longer stand. For the one writer.

        Leaves some segments, each less than half as large as the one before, and large ones that are not touched
        again, so that every answer is rewritten a few times in its life. Memory: 32 MiB and one
        segment unpacked.
        """
        listed = list_segments(self.folder)
        live = live_segments(listed)
        counted = set(live)
        durable.sweep(self.folder)
        replaced = [segment.path for segment in listed if segment not in counted and not segment.damaged]
        for group in merge_groups(live):
            write_segment(self.folder, merged(group), group[0].first, group[-1].last)
            replaced += [segment.path for segment in group]
        for path in replaced:
            durable.remove(path)
        if replaced:
            durable.sync_folder(self.folder)

    # Rates --------------------------------------------------------------------------------------------

    def record_rate(self, new: Rate) -> None:
        """Add what was measured to the rate of the voice. No digest ever covers it."""
        old = self.rate() or Rate()
        new = Rate(
            old.answers + new.answers,
            old.counted + new.counted,
            old.prompt_tokens + new.prompt_tokens,
            old.completion_tokens + new.completion_tokens,
            round(old.seconds + new.seconds, 3),
        )
        durable.write_json(self.folder / "rates.json", asdict(new))

    def rate(self) -> Rate | None:
        """Return all that was recorded, added up, or ``None``; a file that cannot be read counts as none."""
        try:
            found = json.loads((self.folder / "rates.json").read_bytes())
            rate = Rate(
                int(found["answers"]),
                int(found["counted"]),
                int(found["prompt_tokens"]),
                int(found["completion_tokens"]),
                float(found["seconds"]),
            )
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None
        return rate if rate.answers > 0 and 0 < rate.seconds < math.inf else None


class Index:
    """What a journal holds, by key, without the texts: 45 bytes per answer. Can be sent to another process.

    Keys are 32 hex digits, given as a sequence or an Arrow array of strings, or :data:`BinaryKeys`. Positions are those
    in the keys given. ``damaged`` are the segments that were passed over.
    """

    def __init__(
        self, journal: Journal, segments: Sequence[Segment], columns: Columns, damaged: Sequence[Path] = ()
    ) -> None:
        self.damaged = tuple(damaged)
        self._journal = journal
        self._segments = tuple(segments)
        self._verified = set(segments)
        self._columns = columns

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_verified": set()}

    def __len__(self) -> int:
        return len(self._columns.high)

    def missing(self, keys: Keys) -> Positions:
        """Return the positions of keys that have no answer at all, failures included."""
        return np.flatnonzero(self._find(keys) < 0)

    def failures(self, keys: Keys) -> Positions:
        """Return the positions of keys that were asked and failed."""
        found = self._find(keys)
        known = np.flatnonzero(found >= 0)
        return known[self._columns.failed[found[known]]]

    def attempts(self, keys: Keys) -> npt.NDArray[np.int32]:
        """Return how often each was asked until the answer that stands; 0 for keys without one."""
        found = self._find(keys)
        out = np.zeros(len(found), np.int32)
        out[found >= 0] = self._columns.attempts[found[found >= 0]]
        return out

    def digest(self, keys: Keys) -> str:
        """Identify the answers to ``keys``, whatever their order and however often each stands there.

        32 hex digits; equal for equal answers, whichever segments hold them. Raises KeyError for a key without answer.
        """
        asked = np.zeros(len(self), np.bool_)
        asked[self._known(keys)] = True
        found = np.flatnonzero(asked)
        hashed = hashlib.blake2b(frame(["answers"]) + (32 * len(found)).to_bytes(8, "little"), digest_size=16)
        for start in range(0, len(found), LOOKED_UP):
            some = found[start : start + LOOKED_UP]
            pairs = np.empty((len(some), 4), ">u8")
            pairs[:, 0], pairs[:, 1] = self._columns.high[some], self._columns.low[some]
            pairs[:, 2:] = self._columns.content[some]
            hashed.update(pairs.tobytes())
        return hashed.hexdigest()

    def take(self, keys: Keys) -> pa.Table:
        """Return the answers to ``keys``, in their order: the columns of an :class:`Answer`.

        Reads the row groups that hold them (of 1,024 answers in the order of their commits). Raises KeyError for a
        key without answer, :class:`CorruptPart` as :meth:`Journal.load` does. If the journal was compacted since, it
        is loaded again, and what had failed may not have failed any more.
        """
        for _ in range(TRIES):
            found = self._known(keys)
            try:
                return self._take(keys, found)
            except FileNotFoundError:
                self.__dict__.update(self._journal.load().__dict__)
        raise WorkspaceUnusable(str(self._journal.folder), "its files vanish while they are read")

    def _take(self, keys: Keys, found: Positions) -> pa.Table:
        segments, rows = self._columns.segment[found], self._columns.row[found].astype(np.int64)
        order = np.lexsort((rows, segments))
        edges = np.flatnonzero(np.diff(segments[order])) + 1
        pieces = [
            read_rows(self._checked(segments[place[0]]), rows[place]) for place in np.split(order, edges) if len(place)
        ]
        if not pieces:
            return TAKEN.empty_table()
        gathered = pa.concat_tables(pieces).combine_chunks()
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        # Piece by piece, because a chunk of strings holds 2 GiB.
        tables = [gathered.take(back[start : start + SLICE]).cast(UNNAMED) for start in range(0, len(back), SLICE)]
        return pa.concat_tables(tables).add_column(0, TAKEN.field("key"), pa.array(_listed(keys), pa.string()))

    def _checked(self, number: int) -> Segment:
        segment = self._segments[number]
        if segment not in self._verified:
            check(segment, aside=not self._journal.read_only)
            self._verified.add(segment)
        return segment

    def _known(self, keys: Keys) -> Positions:
        found = self._find(keys)
        if len(found) and found.min() < 0:
            place = int(np.argmax(found < 0))
            raise KeyError(str(_listed(keys[place : place + 1])[0]))
        return found

    def _find(self, keys: Keys) -> Positions:
        """Return where each key stands in the columns, or -1."""
        parsed = binary_keys(keys)
        found = np.full(len(parsed), -1, np.int64)
        for start in range(0, len(parsed) if len(self) else 0, LOOKED_UP):
            found[start : start + LOOKED_UP] = self._found(parsed[start : start + LOOKED_UP])
        return found

    def _found(self, keys: BinaryKeys) -> Positions:
        high, low = halves(keys.tobytes())
        last = len(self) - 1
        place = np.searchsorted(self._columns.high, high).astype(np.int64)
        found = np.full(len(high), -1, np.int64)
        # One turn but for keys that share their first half with another, which no hash will ever show.
        turn = np.arange(len(high))
        while len(turn):
            turn = turn[place[turn] <= last]
            turn = turn[self._columns.high[place[turn]] == high[turn]]
            same = self._columns.low[place[turn]] == low[turn]
            found[turn[same]] = place[turn[same]]
            turn = turn[~same]
            place[turn] += 1
        return found


def journals(root: Path) -> Iterator[Journal]:
    """All journals in the folder ``root``, by voice key; it need not exist."""
    if root.is_dir():
        for folder in sorted(root.iterdir()):
            if folder.is_dir():
                yield Journal(root, folder.name, read_only=True)


def _listed(keys: Keys) -> Sequence[str]:
    if isinstance(keys, np.ndarray):
        digits = keys.tobytes().hex()
        return [digits[start : start + 32] for start in range(0, len(digits), 32)]
    found: Sequence[str] = keys.to_pylist() if isinstance(keys, pa.Array | pa.ChunkedArray) else keys
    return found


def binary_keys(keys: Keys) -> BinaryKeys:
    """Return the 16 bytes of every key, in order. Raises ValueError for what is none.

    1 microsecond for 20 keys of an Arrow array, which are not made into objects of Python.
    """
    if isinstance(keys, np.ndarray):
        return keys
    if isinstance(keys, pa.ChunkedArray):
        return np.concatenate([np.empty(0, "S16"), *map(binary_keys, keys.chunks)])
    data = _digits(keys) if isinstance(keys, pa.Array) else None
    return np.frombuffer(_parsed(_listed(keys)) if data is None else data, "S16")


def _digits(keys: pa.Array) -> bytes | None:
    """The bytes of keys that are all in order, else None."""
    if keys.type != pa.string() or keys.null_count:
        return None
    offsets = np.frombuffer(keys.buffers()[1] or b"", np.int32)[keys.offset : keys.offset + len(keys) + 1]
    if not len(keys) or (np.diff(offsets) != 32).any():
        return None
    try:
        return binascii.unhexlify(memoryview(keys.buffers()[2])[offsets[0] : offsets[-1]])
    except ValueError:
        return None


def _parsed(listed: Sequence[str]) -> bytes:
    """The 16 bytes of every key. Raises ValueError for what is none."""
    try:
        data = bytes.fromhex("".join(listed))
    except (TypeError, ValueError):
        data = b""
    if len(data) != 16 * len(listed) or not all(len(key) == 32 for key in listed):
        wrong = next((key for key in listed if not (isinstance(key, str) and KEY.fullmatch(key))), "")
        raise ValueError(f"not a key of 32 hex digits: {wrong!r}")
    return data


# Answers -----------------------------------------------------------------------------------------------


def _table(answers: Sequence[Answer]) -> pa.Table:
    """Answers as they are stored, each with the digest of what it says."""
    keys = _parsed([answer.key for answer in answers])
    said: list[list[Any]] = [
        [_text(answer.text) for answer in answers],
        [answer.value for answer in answers],
        [_text(answer.finish) for answer in answers],
        [_count(answer.prompt_tokens) for answer in answers],
        [_count(answer.completion_tokens) for answer in answers],
        [_text(answer.reason) for answer in answers],
        [min(answer.attempts, INT32) for answer in answers],
    ]
    # How often it was asked says nothing of the answer: two ways to the same answers are to look the same.
    contents = b"".join(map(_content, zip(*said[:-1])))
    columns = [
        pa.Array.from_buffers(SCHEMA.field(0).type, len(answers), [None, pa.py_buffer(data)])
        for data in (keys, contents)
    ]
    columns += [pa.array(values, field.type) for values, field in zip(said, list(SCHEMA)[2:])]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _content(said: Iterable[str | float | None]) -> bytes:
    """The digest of what an answer says: 16 bytes."""
    fields = [
        b"" if value is None else "=" + value if isinstance(value, str) else struct.pack("<d", value) for value in said
    ]
    return hashlib.blake2b(frame(["answer", *fields]), digest_size=16).digest()


def _text(text: Text) -> Text:
    """``text`` with U+FFFD for lone surrogates; two that make a character become it."""
    if text is None or text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _count(tokens: int | None) -> int | None:
    return tokens if tokens is not None and 0 <= tokens <= INT32 else None
