"""Records of CSV and TSV files."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence

from aya_data.builders.records.raw import (
    LARGEST,
    Broken,
    Lines,
    Location,
    Malformed,
    Oversized,
    Record,
    damage_record,
    file_digest,
    text_of,
    unique_names,
)  # fmt: skip
from aya_data.core.identity import digest

__all__ = ["header", "read_csv"]


def header(lines: Iterator[bytes | Oversized], delimiter: str) -> list[str]:
    """Return the names in the first line that is not blank; none where there is no such line."""
    for line in lines:
        if isinstance(line, Oversized):
            raise Malformed("oversized_record")
        if line and not line.isspace():
            return unique_names(_split(text_of(line), delimiter))
    return []


def _csv(lines: Iterator[str], delimiter: str) -> list[str]:
    """Take one record from ``lines``. Raises :class:`Malformed`."""
    csv.field_size_limit(max(csv.field_size_limit(), 2 * LARGEST))
    try:
        return next(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        said = str(error)
        rule = (
            "unclosed_quote" if "unexpected end" in said
            else "stray_quote" if "expected after" in said
            else "not_csv"
        )  # fmt: skip
        raise Malformed(rule, said) from error


def _split(text: str, delimiter: str) -> list[str]:
    """Split one physical line. Raises :class:`Malformed`."""
    if "\0" in text:
        raise Malformed("nul_byte", f"character {text.index(chr(0))}")
    text = text.removesuffix("\r")
    if '"' not in text:
        return text.split(delimiter)
    if delimiter != "\t":
        return _csv(iter([text]), delimiter)
    try:
        return _csv(iter([text]), delimiter)
    except Malformed as problem:
        if problem.rule == "unclosed_quote":
            raise
        return text.split(delimiter)


class _Pending:
    """Lines of a CSV file that can be put back."""

    def __init__(self, lines: Iterator[bytes | Oversized]) -> None:
        self._lines = lines
        self._back: deque[bytes | Oversized] = deque()

    def take(self) -> bytes | Oversized | None:
        return self._back.popleft() if self._back else next(self._lines, None)

    def put_back(self, lines: Sequence[bytes | Oversized]) -> None:
        self._back.extendleft(reversed(lines))


def read_csv(location: Location, delimiter: str) -> Iterator[tuple[Record | Broken, int]]:
    """Yield the records of a CSV or TSV file, each with its size in bytes."""
    lines = Lines(location)
    stream = iter(lines)
    try:
        names = header(stream, delimiter)
    except Malformed as problem:
        evidence = f"{problem.rule} {problem.evidence}".strip()
        yield Broken(0, file_digest(location), "no_header", evidence), 0
        return
    pending = _Pending(stream)
    index = -1
    while (line := pending.take()) is not None:
        index += 1
        if isinstance(line, Oversized):
            yield line.broken(index), 0
            continue
        if lines.damage is not None and line is lines.tail:
            # Where the line breaks off, its last field would look whole.
            index -= 1
            break
        if not line or line == b"\r":
            continue
        whole = line
        try:
            text = text_of(line)
            try:
                values = _split(text, delimiter)
            except Malformed as problem:
                if problem.rule != "unclosed_quote":
                    raise
                try:
                    whole, values = _multiline(line, pending, delimiter, len(names))
                except Malformed:
                    if delimiter != "\t":
                        raise
                    values = text.removesuffix("\r").split(delimiter)
            if len(values) != len(names) and delimiter == "\t" and '"' in text:
                values = text.removesuffix("\r").split(delimiter)
            if len(values) != len(names):
                raise Malformed("field_count", f"fields: {len(values)}, in the header: {len(names)}")
        except Malformed as problem:
            yield Broken(index, digest(whole), problem.rule, problem.evidence), len(whole)
        else:
            yield Record(index, dict(zip(names, values, strict=True))), len(whole)
    if lines.damage is not None:
        yield damage_record(index + 1, lines.damage, lines.tail), 0


def _multiline(line: bytes, pending: _Pending, delimiter: str, width: int) -> tuple[bytes, list[str]]:
    """Read a record whose quoted field runs over several lines.

    Raises :class:`Malformed` when the quote is never closed; the lines behind the first are put
    back then. A quote runs to the next one at the latest, so the cost stays linear.
    """
    taken: list[bytes | Oversized] = []

    def feed() -> Iterator[str]:
        yield line.decode() + "\n"
        size = len(line)
        while size <= LARGEST:
            more = pending.take()
            if more is None:
                return
            taken.append(more)
            if isinstance(more, Oversized):
                return
            size += len(more)
            yield more.decode("utf-8", "surrogateescape") + "\n"

    try:
        values = _csv(feed(), delimiter)
        if delimiter == "\t":
            # In TSV a quote may be text; then it swallowed lines that are whole records, and is one.
            tabs = [more.count(b"\t") for more in taken if isinstance(more, bytes)]
            if len(values) != width or (line.count(b"\t") == width - 1 and width - 1 in tabs):
                raise Malformed("unclosed_quote")
    except Malformed:
        pending.put_back(taken)
        raise
    whole = b"\n".join([line, *(more for more in taken if isinstance(more, bytes))])
    if b"\0" in whole:
        raise Malformed("nul_byte", f"byte {whole.index(0)}")
    text_of(whole)
    return whole, values
