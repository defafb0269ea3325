"""Text of strangers on a terminal: harmless, in its own direction, in so many cells.

Rows hold anything: escape sequences that would clear the screen or change its title, overrides that
turn the following text around. What could act is shown instead of sent. Each line is put into a
bidirectional isolate (Unicode Standard Annex 9), so that right-to-left text stands right and leaves what is
printed beside it alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from rich.cells import cell_len

__all__ = ["amount", "cut", "inline", "isolate", "printable", "unmarked", "wrapped"]

FSI, LRI, RLI, PDI = "\u2068", "\u2066", "\u2067", "\u2069"

JOINERS: Final = frozenset("\u200c\u200d\u200e\u200f\u061c")
"""Format characters that scripts need and that act on their neighbours alone."""


def amount(number: int, noun: str) -> str:
    """Say ``1 row``, ``2,000 rows``, ``3 entries``."""
    several = noun if abs(number) == 1 else f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{number:,} {several}"


def printable(text: str) -> str:
    """Show what a terminal would act on: controls as pictures (``␛``), other formats as ``⟨U+202E⟩``.

    New lines stay.
    """
    return "".join(_shown(c) for c in text.replace("\r\n", "\n"))


def _shown(character: str) -> str:
    code = ord(character)
    if character == "\n" or character in JOINERS:
        return character
    if character == "\t":
        return "    "
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    kind = unicodedata.category(character)
    if kind in ("Zl", "Zp"):
        return "\n"
    if character == "\u00ad":
        return ""
    return f"⟨U+{code:04X}⟩" if kind in ("Cc", "Cf", "Cs") else character


def cut(text: str, most: int) -> str:
    """Cut after ``most`` characters with ``…``, never between a letter and its marks or inside a joined sequence."""
    if len(text) <= most:
        return text
    end = most
    while end > 0 and (_clings(text[end]) or text[end - 1] == "\u200d"):
        end -= 1
    return (text[:end] or text[:most]).rstrip() + "…"


def _clings(character: str) -> bool:
    """Whether a character belongs to the one before: marks, joiners, variation selectors, skin tones."""
    return (
        unicodedata.category(character) in ("Mn", "Mc", "Me")
        or character in JOINERS
        or "\U0001f3fb" <= character <= "\U0001f3ff"
    )


def isolate(text: str, mark: str = FSI) -> str:
    """Put one line of printable text into an isolate; text of one direction alone needs none."""
    return f"{mark}{text}{PDI}" if not text.isascii() else text


def unmarked(text: str) -> str:
    """Remove the marks of isolates; :func:`printable` leaves none that is a row's own."""
    return re.sub(f"[{FSI}{LRI}{RLI}{PDI}]", "", text)


def inline(text: str) -> str:
    """A name or value within a line of ours: printable, on one line, isolated."""
    return isolate(" ".join(printable(text).split()))


def wrapped(text: str, width: int, most: int) -> list[str]:
    """Lay out text in lines of at most ``width`` cells, at most ``most`` of them, each in an isolate.

    The direction of a paragraph is that of its first strong letter, also for its further lines. Lines
    break at white space, and anywhere within what is longer than a line (Chinese, Thai).
    """
    lines: list[str] = []
    for paragraph in printable(text).split("\n"):
        pieces = list(_lines(paragraph, width))
        mark = FSI if len(pieces) == 1 else RLI if _right_to_left(paragraph) else LRI
        for piece in pieces:
            if len(lines) == most:
                lines[-1] = lines[-1].removesuffix(PDI) + "…" + (PDI if lines[-1].endswith(PDI) else "")
                return lines
            lines.append(isolate(piece, mark))
    return lines


def _right_to_left(text: str) -> bool:
    for character in text:
        direction = unicodedata.bidirectional(character)
        if direction in ("L", "R", "AL"):
            return direction != "L"
    return False


def _lines(paragraph: str, width: int) -> Iterator[str]:
    line = ""
    room = width
    for word in paragraph.split(" "):
        need = cell_len(word)
        if line and need + 1 <= room:
            line, room = f"{line} {word}", room - need - 1
            continue
        if line:
            yield line
        line, room = "", width
        for character in _clusters(word):
            size = cell_len(character)
            if size > room and line:
                yield line
                line, room = "", width
            line, room = line + character, room - size
    yield line


def _clusters(word: str) -> Iterator[str]:
    held = ""
    for character in word:
        if held and not _clings(character) and not held.endswith("\u200d"):
            yield held
            held = ""
        held += character
    if held:
        yield held
