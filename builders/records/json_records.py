"""Records of JSON Lines and JSON files."""

from __future__ import annotations

import codecs
import contextlib
import json
import math
import re
from collections.abc import Iterator
from typing import Any

from aya_data.builders.records.raw import (
    BLOCK,
    LARGEST,
    Broken,
    Damaged,
    Lines,
    Location,
    Malformed,
    Oversized,
    Record,
    blocks,
    damage_record,
    text_of,
)  # fmt: skip
from aya_data.core.identity import digest

__all__ = ["read_json", "read_jsonl"]

DEEPEST = 100
"""Levels of nesting; more would exhaust the stack of whatever walks the record later."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Malformed("duplicate_key", ascii(twice)[:80])
    return found


def _constant(text: str) -> None:
    raise Malformed("not_finite", text)


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Malformed("not_finite", text[:80])
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant, parse_float=_float)
_TOKENS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]]|"', re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]*")


def _depth(text: str) -> int:
    depth = deepest = 0
    for token in _TOKENS.finditer(text):
        mark = token[0]
        if mark in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in "}]":
            depth -= 1
    return deepest


def _json_object(text: str) -> dict[str, Any]:
    """Parse one JSON object. Raises :class:`Malformed`."""
    if text.count("{") + text.count("[") > DEEPEST and _depth(text) > DEEPEST:
        raise Malformed("too_deep", f"more than {DEEPEST} levels")
    try:
        value = _DECODER.decode(text)
    except Malformed:
        raise
    except json.JSONDecodeError as error:
        raise Malformed("not_json", f"{error.msg} at character {error.pos}") from error
    except ValueError as error:  # an integer of more than 4300 digits
        raise Malformed("not_json", "a number is too long") from error
    if not isinstance(value, dict):
        raise Malformed("not_object", type(value).__name__)
    return value


def read_jsonl(
    location: Location, slice: tuple[int, int] | None, first: int | None
) -> Iterator[tuple[Record | Broken, int]]:
    """Yield the records of a JSON Lines file or of a slice of it, each with its size in bytes.

    ``first`` is the number of the slice's first line; without it the lines before are counted.
    """
    if slice is not None and slice[0] and first is None:
        first = sum(block.count(b"\n") for block in blocks(location, (0, slice[0])))
    index = (first or 0) - 1
    lines = Lines(location, slice)
    for line in lines:
        index += 1
        if isinstance(line, Oversized):
            yield line.broken(index), 0
            continue
        try:
            yield Record(index, _json_object(text_of(line))), len(line)
        except Malformed as problem:
            if not line or line.isspace():
                continue
            if line is lines.tail and lines.damage is not None:
                index -= 1
                break
            yield Broken(index, digest(line), problem.rule, problem.evidence), len(line)
    if lines.damage is not None:
        yield damage_record(index + 1, lines.damage, lines.tail), 0


def read_json(location: Location) -> Iterator[tuple[Record | Broken, int]]:
    """Yield the records of a JSON file, each with its size in bytes or characters."""
    reader = _JsonReader(location)
    if reader.peek() == "{":
        line = next(iter(Lines(location)), b"")
        with contextlib.suppress(Malformed):
            if not isinstance(line, Oversized):
                _json_object(text_of(line))
                return read_jsonl(location, None, None)
    return reader.records()


class _JsonReader:
    """Objects of a JSON file, one at a time, whatever its size."""

    def __init__(self, location: Location) -> None:
        self._blocks = blocks(location)
        # Escaped surrogates keep invalid bytes apart from all valid text until their record is known.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text = ""
        self._position = 0
        self._index = 0
        self._ended = False
        self._damage: str | None = None

    def _fill(self, least: int = 1) -> bool:
        """Read at least ``least`` more bytes; return whether there were any."""
        pieces = [self._text[self._position :]]
        got = 0
        while got < least and not self._ended:
            try:
                block = next(self._blocks, None)
            except Damaged as error:
                self._damage, block = str(error), None
            self._ended = block is None
            pieces.append(self._decoder.decode(block or b"", final=self._ended))
            got += len(block or b"")
        self._text, self._position = "".join(pieces), 0
        return got > 0

    def peek(self) -> str:
        """Return the next character that is not white space, or nothing at the end."""
        while True:
            self._position = _SPACE.match(self._text, self._position).end()  # type: ignore[union-attr]
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._fill():
                return ""

    def _bytes(self, text: str) -> bytes:
        return text.encode("utf-8", "surrogateescape")

    def _stop(self, rule: str, evidence: str) -> tuple[Broken, int]:
        """The rest of the file cannot be read: one :class:`Broken` stands for it."""
        rest = Oversized(self._bytes(self._text[self._position :]))
        for block in self._remaining():
            rest.add(block)
        self._text, self._position = "", 0
        if self._damage is not None:
            return damage_record(self._index, self._damage, rest.digest().encode()), 0
        return Broken(self._index, rest.digest(), rule, evidence), 0

    def _remaining(self) -> Iterator[bytes]:
        try:
            yield from self._blocks
        except Damaged as error:
            self._damage = str(error)
        self._ended = True

    def _element(self) -> tuple[int, Malformed | dict[str, Any]] | None:
        """Parse the element at the position: its end and what it is; ``None`` if it never ends."""
        step = BLOCK
        while True:
            start = self._position
            # The end is found by its brackets first, so that a malformed element does not hide the next one.
            end = _balanced(self._text, start)
            if end is not None:
                break
            if len(self._text) - start > LARGEST or not self._fill(step):
                return None
            step *= 2
        text = self._text[start:end]
        try:
            text.encode()
        except UnicodeEncodeError as error:
            byte = ord(text[error.start]) & 0xFF
            return end, Malformed("invalid_utf8", f"byte 0x{byte:02x}")
        try:
            return end, _json_object(text)
        except Malformed as problem:
            return end, problem

    def records(self) -> Iterator[tuple[Record | Broken, int]]:
        """Yield every element of the file's array, or every object of its sequence of objects."""
        array = self.peek() == "["
        self._position += array
        while True:
            mark = self.peek()
            if array and mark == "]":
                self._position += 1
                if self.peek():
                    yield self._stop("trailing_data", "text behind the end of the array")
                return
            if not mark:
                if array or self._damage is not None:
                    yield self._stop("truncated_file", "the array is never closed")
                return
            found = self._element()
            if found is None:
                yield self._stop("not_json", "an element is never closed")
                return
            end, value = found
            text = self._text[self._position : end]
            if isinstance(value, Malformed):
                yield (
                    Broken(self._index, digest(self._bytes(text)), value.rule, value.evidence),
                    len(text),
                )
            else:
                yield Record(self._index, value), len(text)
            self._position = end
            self._index += 1
            mark = self.peek()
            if array and mark == ",":
                self._position += 1
            elif array and mark not in ("]", ""):
                yield self._stop("not_json", "no comma between two elements")
                return


_SCALAR = re.compile(r'[^,\]\[{}"\s]+')


def _balanced(text: str, start: int) -> int | None:
    """Return where the JSON value at ``start`` ends, judged by quotes and brackets alone."""
    scalar = _SCALAR.match(text, start)
    if scalar:
        return scalar.end() if scalar.end() < len(text) else None
    depth = 0
    for token in _TOKENS.finditer(text, start):
        mark = token[0]
        if mark == '"':
            return None
        if mark in "{[":
            depth += 1
        elif mark in "}]":
            depth -= 1
        if depth <= 0:
            return token.end()
    return None
