"""A tree of values in which each knows its place in a text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from aya_data.core.errors import Problem

__all__ = ["BREAK", "ExactFloat", "Mark", "Node", "PathKey", "Scalar", "Text", "dotted"]

PathKey: TypeAlias = tuple[str | int, ...]
Scalar: TypeAlias = "str | int | float | bool | None"

BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What ends a line, by the YAML parser's count."""

# Characters that would move the caret or the text around it when a terminal shows the line.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class ExactFloat(float):
    """A float that keeps the digits it was written with in ``text``, for exact arithmetic."""

    text: str

    def __new__(cls, text: str) -> ExactFloat:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __reduce__(self) -> tuple[type[ExactFloat], tuple[str]]:
        return (ExactFloat, (self.text,))


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """The lines of one file, or of one ``--set`` argument."""

    file: str
    lines: tuple[str, ...]

    @classmethod
    def of(cls, file: str, content: str) -> Text:
        return cls(file, tuple(BREAK.split(content)))

    def excerpt(self, line: int, column: int, width: int = 72) -> str:
        """Return the line and, below it, a caret under ``column``.

        Wide (CJK) characters count two cells and combining marks none; a tab is shown as one
        arrow; a line longer than ``width`` characters is cut around the caret. The width leaves room
        for the number on a terminal of 80 columns.
        """
        shown = self.lines[line - 1] if 0 < line <= len(self.lines) else ""
        shown = _INVISIBLE.sub("\ufffd", shown.replace("\t", "→"))
        before, after = shown[: column - 1], shown[column - 1 :]
        if len(shown) > width:
            start = max(0, min(column - 1 - width // 2, len(shown) - width))
            before = ("…" if start else "") + shown[start : column - 1]
            after = shown[column - 1 : start + width] + ("…" if start + width < len(shown) else "")
        # A column past the end of the line (a mark at the end of the file) keeps its distance.
        indent = _cells(before) + max(column - 1 - len(shown), 0)
        number = str(line)
        margin = " " * len(number)
        return f"  {number} | {before}{after}".rstrip() + f"\n  {margin} | {' ' * indent}^"


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """A place in a text. ``str()`` gives ``file:line:column``."""

    text: Text
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.text.file}:{self.line}:{self.column}"

    def problem(self, what: str, remedy: str = "") -> Problem:
        """Return the problem ``what`` at this place, with its excerpt."""
        excerpt = self.text.excerpt(self.line, self.column)
        return Problem(self.text.file, self.line, self.column, what, remedy, excerpt)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A value with its place. A mapping's ``keys`` holds the places of its keys."""

    value: Scalar | dict[str, Node] | list[Node]
    mark: Mark
    keys: dict[str, Mark] = field(default_factory=dict)

    def child(self, step: str | int) -> Node | None:
        if isinstance(self.value, dict):
            return self.value.get(step) if isinstance(step, str) else None
        if isinstance(self.value, list) and isinstance(step, int) and 0 <= step < len(self.value):
            return self.value[step]
        return None

    def plain(self) -> Any:
        """Return the value as dictionaries, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def places(self, path: PathKey = ()) -> Iterator[tuple[PathKey, Mark]]:
        """Yield the path and place of this value and of all inside it, in order."""
        yield path, self.mark
        if isinstance(self.value, dict):
            for key, child in self.value.items():
                yield from child.places((*path, key))
        elif isinstance(self.value, list):
            for index, child in enumerate(self.value):
                yield from child.places((*path, index))


def dotted(path: Sequence[str | int]) -> str:
    """Return ``path`` as people write it: ``mix.caps.0.rows``."""
    return ".".join(str(step) for step in path)


def _cells(text: str) -> int:
    """Return how many terminal cells ``text`` takes."""
    cells = 0
    for character in text:
        if unicodedata.category(character) in ("Mn", "Me", "Cf"):
            continue
        cells += 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
    return cells
