"""Phrases, markup and placeholders, and the trie by which a kernel finds them in one pass.

``data/phrases.tsv`` holds lines of *rule, language, where, text*; language is ``*`` where it does not matter.
Every phrase is looked for in every row, because labels are often wrong. *Where* is one of :data:`PLACES`.

**Text for matching** is NFC, then character by character NFKC and casefold; format characters (joiners, direction
marks), Arabic vowel signs and Hebrew points go; a run of white space is one space, or one line break where it holds
one, which a space of a phrase equals; and letters that keyboards mix up are one letter (:data:`ALIKE`: apostrophes,
dashes, Arabic and Persian yeh and kaf).
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from aya_data.text.folding import IGNORED, LIMIT, WHITE, tables

__all__ = [
    "ALIKE",
    "BREAKS",
    "PLACES",
    "Phrase",
    "Trie",
    "hint_of",
    "kinds",
    "letters",
    "matching_text",
    "phrases",
    "trie",
]

DATA_FILES = ("data/phrases.tsv",)

PLACES = ("word", "open", "line", "whole_line", "whole", "last_line", "start", "end", "tag", "url")
"""Where an entry may stand: ``word`` between word boundaries (where words are spaced); ``open`` with a boundary before
it alone, so that endings may follow; ``line`` at the start of a line; ``whole_line``; ``whole``, the whole text;
``last_line``, the last line of several; ``start`` and ``end`` of the text; ``tag``, before ``>``, ``/`` or a space;
``url``, which reaches to the next space or bracket."""

ALIKE = str.maketrans(
    {
        "‘": "'", "’": "'", "ʼ": "'", "ʹ": "'",
        "‐": "-", "–": "-", "—": "-", "−": "-",
        "ي": "ی", "ى": "ی", "ك": "ک", "أ": "ا", "إ": "ا", "آ": "ا", "ё": "е",
        "ş": "ș", "ţ": "ț",
    }
)  # fmt: skip
"""Folded characters that count as another."""
PASSED_OVER = ((0x0591, 0x05BD), (0x05BF, 0x05BF), (0x05C1, 0x05C2), (0x0640, 0x0640), (0x064B, 0x0652))
"""Hebrew points, Arabic vowel signs and the tatweel, which most texts leave out."""
DOTTED_I = "İ"
BREAKS = "\n\r\v\f\x85\u2028\u2029"


@dataclass(frozen=True, slots=True)
class Phrase:
    """One line of the table."""

    rule: str
    language: str
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Trie:
    """The entries as a kernel walks them.

    ``root`` int32 by code point: the state after a first character, 0 for none. ``keys`` uint64 (state << 32 |
    character) and ``states`` int32: a hash table of the other steps, open addressing by :func:`_slot`. ``entry`` int32
    by state: the first entry that ends there, -1 for none; ``following`` int32 by entry: the next with the same text.
    ``rule`` and ``where`` int32, by entry: numbers into ``rules`` and :data:`PLACES`. ``hint`` uint8 by
    :func:`hint_of`: whether a phrase may begin with three characters; ``short`` bool by code point: whether a phrase of
    fewer begins with it.
    """

    rules: tuple[str, ...]
    root: npt.NDArray[np.int32]
    keys: npt.NDArray[np.uint64]
    states: npt.NDArray[np.int32]
    entry: npt.NDArray[np.int32]
    following: npt.NDArray[np.int32]
    rule: npt.NDArray[np.int32]
    where: npt.NDArray[np.int32]
    hint: npt.NDArray[np.uint8]
    short: npt.NDArray[np.bool_]


@cache
def phrases() -> tuple[Phrase, ...]:
    """Return the table, in its order."""
    text = (resources.files("aya_data.filters.quality") / DATA_FILES[0]).read_text("utf-8")
    lines = [line.split("\t") for line in text.split("\n") if line and not line.startswith("#")]
    return tuple(Phrase(*line) for line in lines[1:])


@cache
def letters() -> npt.NDArray[np.int32]:
    """Return what each character below the limit of the tables is for matching, as ``Tables.folded`` says it."""
    found = tables().folded.copy()
    unknown = found == -1
    found[unknown] = np.flatnonzero(unknown)
    for point in range(LIMIT):
        if found[point] > 0 and (other := ALIKE.get(int(found[point]))) is not None:
            found[point] = ord(other)
    found[ord(DOTTED_I)] = ord("i")
    return found


@cache
def kinds() -> npt.NDArray[np.uint8]:
    """Return what kind each character is (see :mod:`aya_data.text.folding`), those that are passed over as ignored."""
    found = tables().kind.copy()
    for first, last in PASSED_OVER:
        found[first : last + 1] = IGNORED
    return found


def matching_text(text: str) -> str:
    """Return the text for matching, trimmed: the reference that the kernel agrees with."""
    kind, folded, longer = kinds(), letters(), tables().longer
    made: list[str] = []
    gap = ""
    for character in unicodedata.normalize("NFC", text):
        point = ord(character)
        if (point < LIMIT and kind[point] == IGNORED) or 0xE0000 <= point <= 0xE0FFF:
            continue
        if point < LIMIT and kind[point] == WHITE:
            gap = "\n" if character in BREAKS or gap == "\n" else " "
            continue
        if gap and made:
            made.append(gap)
        gap = ""
        value = int(folded[point]) if point < LIMIT else point
        if value >= 0:
            made.append(chr(value))
        else:
            row = longer[-2 - value]
            made.append("".join(map(chr, row[1 : 1 + row[0]])))
    return "".join(made)


def _slot(key: int, mask: int) -> int:
    return (key * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 32 & mask


def hint_of(one: int, two: int, three: int) -> int:
    """Return the place of three characters in ``Trie.hint``."""
    return (one * 0x9E3779B1 + two * 0x85EBCA6B + three * 0xC2B2AE35 & 0xFFFFFFFF) >> 16


@cache
def trie() -> Trie:
    """Build the trie of all phrases, once per process: some 20 ms."""
    rules = tuple(dict.fromkeys(phrase.rule for phrase in phrases()))
    steps: dict[tuple[int, int], int] = {}
    ends: dict[int, list[int]] = {}
    hint, short = np.zeros(1 << 16, np.uint8), np.zeros(LIMIT, np.bool_)
    for number, phrase in enumerate(phrases()):
        state = 0
        text = matching_text(phrase.text)
        if len(text) < 3:
            short[ord(text[0])] = True
        else:
            hint[hint_of(*map(ord, text[:3]))] = 1
        for character in text:
            state = steps.setdefault((state, ord(character)), len(steps) + 1)
        ends.setdefault(state, []).append(number)
    root = np.zeros(LIMIT, np.int32)
    size = 1 << (2 * len(steps)).bit_length()
    keys, states = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    for (before, point), after in steps.items():
        if before == 0:
            root[point] = after
            continue
        key = before << 32 | point
        slot = _slot(key, size - 1)
        while states[slot]:
            slot = (slot + 1) & (size - 1)
        keys[slot], states[slot] = key, after
    entry = np.full(len(steps) + 1, -1, np.int32)
    following = np.full(len(phrases()), -1, np.int32)
    for state, numbers in ends.items():
        entry[state] = numbers[0]
        for one, other in pairwise(numbers):
            following[one] = other
    return Trie(
        rules, root, keys, states, entry, following,
        np.array([rules.index(phrase.rule) for phrase in phrases()], np.int32),
        np.array([PLACES.index(phrase.where) for phrase in phrases()], np.int32),
        hint, short,
    )  # fmt: skip
