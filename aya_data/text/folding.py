"""Folding: NFKC and casefold character by character, and what each character is to a shingle.

Unicode normalisation looks at neighbours, but seldom has to. For a text in which no character composes with the one
before it and all marks stand in canonical order, NFKC maps every character by itself, and so does casefold.
:func:`tables` holds that map for the Python's own version of Unicode, with what is needed to notice the other texts
(one in some hundred), which go through :mod:`unicodedata`.

Kinds: white space; *separators* (punctuation, symbols); *ignored* (format characters, variation selectors);
characters of *words* (letters, numbers, and marks after them); and characters of scripts that put no spaces
between words, one kind per script, Han, kana and bopomofo being one because Japanese and Chinese mix them.

Cost: the tables take 0.1 s once per process, and 1.5 MB.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["IGNORED", "LIMIT", "MARK", "SEPARATOR", "UNSPACED", "WHITE", "WORD", "Tables", "fold", "kind_of", "tables"]

SEPARATOR, WORD, FIRST_UNSPACED = 0, 1, 2
WHITE, MARK, IGNORED = 253, 254, 255

UNSPACED: tuple[tuple[tuple[int, int], ...], ...] = (
    (
        (0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3031, 0x3035), (0x3038, 0x303C), (0x3041, 0x30FF),
        (0x3105, 0x312F), (0x31A0, 0x31BF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
        (0xFF66, 0xFF9F), (0x1AFF0, 0x1B16F), (0x20000, 0x3FFFF),
    ),
    ((0x0E00, 0x0E7F),),
    ((0x0E80, 0x0EFF),),
    ((0x0F00, 0x0FFF),),
    ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0x116D0, 0x116FF)),
    ((0x1780, 0x17FF),),
    ((0x1950, 0x197F), (0x1980, 0x19DF), (0x1A20, 0x1AAF), (0xAA80, 0xAADF)),
    ((0x1B00, 0x1B7F), (0xA980, 0xA9DF)),
    ((0xA000, 0xA4CF),),
    ((0x17000, 0x18DFF), (0x1B170, 0x1B2FF)),
)  # fmt: skip
"""Blocks of scripts without spaces between words, first and last code point: Han, kana and bopomofo; Thai; Lao;
Tibetan; Burmese; Khmer; Tai Le, New Tai Lue, Tai Tham and Tai Viet; Balinese and Javanese; Yi; Tangut, Khitan and
Nüshu."""

BLOCKS = sorted((*block, number) for number, blocks in enumerate(UNSPACED, FIRST_UNSPACED) for block in blocks)
STARTS = [first for first, _, _ in BLOCKS]

LIMIT = 0x20000
"""Code points from here on are not in the tables: Han, :data:`COMPATIBLE` ones apart, and no others that matter."""
COMPATIBLE = (0x2F800, 0x2FA1F)
LONGEST = 4
"""Characters that fold to more are left to :func:`fold`: a phrase as one Arabic sign, mostly."""

PLAIN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3))
"""Blocks of letters that fold to themselves, passed over for speed."""
ABSENT = ((0xD800, 0xF8FF), (0x18E00, 0x1AFEF), (0x13500, 0x143FF), (0x14680, 0x167FF))
HANGUL_SECONDS = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))
SELECTORS = (*range(0xFE00, 0xFE10), 0x180B, 0x180C, 0x180D, 0x180F, 0x034F)


class Tables(NamedTuple):
    """What a kernel reads.

    ``points`` int32[:data:`LIMIT`, 3], by code point:

    - the folded character; -1 where a text must go through :func:`fold`; -2 - i for row i of ``longer``;
    - the last character of class 0 in its NFKC form;
    - in bits: 0 to 7 its kind, of folded characters; 8 to 15 the canonical combining class at the end of its NFKC form;
      16 to 23 that at the end of its full decomposition: a mark of a lower class, but for 0, would stand before that;
      24 whether it may compose with what stands before. From bit 8 on most characters have none.

    ``longer`` int32[rows, 5]: how many characters, and they. ``pairs`` uint64, sorted: base << 32 | second, of
    characters that compose (hangul jamo are left out).
    """

    points: npt.NDArray[np.int32]
    longer: npt.NDArray[np.int32]
    pairs: npt.NDArray[np.uint64]

    @property
    def folded(self) -> npt.NDArray[np.int32]:
        """What each character folds to, by itself."""
        return np.ascontiguousarray(self.points[:, 0])

    @property
    def kind(self) -> npt.NDArray[np.uint8]:
        """The kind of each folded character."""
        return self.points[:, 2].astype(np.uint8)


def fold(text: str) -> str:
    """Return ``text`` in NFKC and case folded: the reference that kernels agree with, some 30 ns per character."""
    return unicodedata.normalize("NFKC", text).casefold()


def kind_of(character: str) -> int:
    """Return the kind of a folded character: one of the constants here, or 2 and more for scripts without spaces."""
    point = ord(character)
    if character.isspace():
        return WHITE
    category = unicodedata.category(character)
    if category == "Cf" or point in SELECTORS or 0xE0100 <= point <= 0xE01EF:
        return IGNORED
    if category[0] in "LM" or category == "Nl":
        place = bisect_right(STARTS, point) - 1
        if place >= 0 and point <= BLOCKS[place][1]:
            return BLOCKS[place][2]
    return {"L": WORD, "N": WORD, "M": MARK}.get(category[0], SEPARATOR)


@cache
def tables() -> Tables:
    """Make the tables from :mod:`unicodedata`, once per process."""
    folded = np.arange(LIMIT, dtype=np.int32)
    base = folded.copy()
    kind, order, tail = np.zeros((3, LIMIT), np.int32)
    longer: list[list[int]] = []
    normalize, combining, category = unicodedata.normalize, unicodedata.combining, unicodedata.category
    decomposition = unicodedata.decomposition
    passed = np.zeros(LIMIT, np.bool_)
    for first, last in (*PLAIN, *ABSENT):
        passed[first : last + 1] = True
    points = [point for point in np.flatnonzero(~passed).tolist() if category(chr(point)) != "Cn"]
    pairs = _pairs(points)
    second = np.zeros(LIMIT, np.int32)
    second[[*(pair & 0xFFFFFFFF for pair in pairs), *HANGUL_SECONDS]] = 1
    seconds = set(np.flatnonzero(second).tolist())
    for point in points:
        character = chr(point)
        kind[point] = kind_of(character)
        normal = normalize("NFKC", character)
        order[point] = combining(normal[-1])
        tail[point] = order[point]
        if not order[point] and decomposition(normal[-1]):
            tail[point] = combining(normalize("NFD", normal[-1])[-1])
        if normal != character and (combining(normal[0]) or ord(normal[0]) in seconds):
            folded[point] = -1
            continue
        base[point] = next((ord(c) for c in reversed(normal) if not combining(c)), point)
        lower = normal.casefold()
        if len(lower) == 1:
            folded[point] = ord(lower)
        elif 1 < len(lower) <= LONGEST:
            folded[point] = -2 - len(longer)
            longer.append([len(lower), *map(ord, lower), *[0] * (LONGEST - len(lower))])
        else:
            folded[point] = -1
    for first, last in PLAIN:
        kind[first : last + 1] = kind_of(chr(first))
    folded[0xD800:0xE000] = -1
    bits = kind | order << 8 | tail << 16 | second << 24
    return Tables(
        np.stack([folded, base, bits], 1),
        np.array(longer, np.int32).reshape(-1, LONGEST + 1),
        np.array(sorted(pairs), np.uint64),
    )


def _pairs(points: list[int]) -> set[int]:
    """Characters that compose: first << 32 | second."""
    found = set()
    for point in points:
        parts = unicodedata.decomposition(chr(point)).split()
        if len(parts) == 2 and not parts[0].startswith("<") and unicodedata.is_normalized("NFC", chr(point)):
            found.add(int(parts[0], 16) << 32 | int(parts[1], 16))
    return found
