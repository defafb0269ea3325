"""Profiles of languages: the letters they are written with and their most frequent words.

A classifier spreads its confidence over the languages it knows, so it is often sure of a text in one that it does not
know: Shan is Burmese with 1.0000 to lid.176, Faroese Icelandic with 0.88. What such a text lacks is what every text of
the language has: only its letters, and its small words. Two numbers say so for a text and a profile:

* **strange**: the share of letters that the profile does not have, from 0 to 1;
* **common**: the share of words that are among the profile's most frequent, drawn to what is typical where a text has
  few words: ``(hits + 4 typical) / (words + 4)``.

Only letters and words in the profile's own script count: a Greek text with names in Latin letters is not strange.

The idea of frequent words as a mark of a language is Ingle's (1976), the comparison of frequency profiles Cavnar and
Trenkle's (1994); here they only confirm or refuse what a model said. A word is a run of letters and marks, in lower
case. Han, kana and hangul texts have no such words and too many letters: their profiles are empty, and both numbers
say nothing (0 and typical).

Only the ``CHARACTERS`` in the middle of a text are read. Cost: about a microsecond per text; 9 MB of tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from aya_data.text import script
from aya_data.text.columns import Texts, buffers, column

__all__ = ["CHARACTERS", "Profile", "Profiles", "make_profile", "words_of"]

DATA_FILES = ("data/marks.tsv",)

CHARACTERS = 240
PRIOR = 4
"""How many words of typical text every text is thought to have beside its own."""
WORDS = 100
"""How many frequent words a profile has: more tell little more (measured with 50, 100 and 200)."""
OFTEN = 3
"""A letter belongs to a language when so many texts of a sample have it."""
WITHOUT = frozenset({"Hani", "Jpan", "Hang"})
"""Scripts whose texts have no profile."""

SLOTS = 1 << 18
PROBES = 4
STRANGE_LETTER = 2
"""What a strange letter is worth; one of the profile is worth 1, what is no letter of its script nothing."""
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
MIX = np.uint64(0xC2B2AE3D27D4EB4F)

Points = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]
Longs = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Profile:
    """What texts of one language in one script are made of: letters in lower case, frequent words, and the share
    of the words of a text that are frequent ones, in the median. ``script`` is as
    :func:`~aya_data.text.script.measure_scripts` says it."""

    script: str
    letters: frozenset[str]
    words: frozenset[str]
    typical: float


def make_profile(texts: Sequence[str], measured: str) -> Profile:
    """Make the profile of a sample whose texts are all in one language and measure as one script.

    Deterministic: of equally frequent words the first by code points is taken.
    """
    if measured in WITHOUT:
        return Profile(measured, frozenset(), frozenset(), 0.0)
    seen: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    found = []
    for text in texts:
        words = words_of(text, measured)
        found.append(words)
        counted.update(words)
        seen.update({letter for word in words for letter in word})
    frequent = sorted(counted, key=lambda word: (-counted[word], word))[:WORDS]
    frequent = [word for word in frequent if counted[word] >= OFTEN]
    chosen = frozenset(frequent)
    shares = [sum(word in chosen for word in words) / len(words) for words in found if words]
    typical = round(float(np.median(shares)), 4) if shares else 0.0
    of_script = frozenset(letter for letter, count in seen.items() if count >= OFTEN and _in(letter, measured))
    return Profile(measured, of_script, chosen, typical)


def words_of(text: str, measured: str) -> list[str]:
    """Return the words of a text that start in a script."""
    points = np.frombuffer(_middle(text).encode("utf-32-le", "surrogatepass"), np.uint32)
    letters = _lower()[points]
    words = "".join(chr(point) if point else " " for point in letters.tolist()).split(" ")
    return [word for word in words if word and _in(word[0], measured)]


def _in(letter: str, measured: str) -> bool:
    names, table = script.letter_table()
    return bool(names[table[ord(letter)]] == measured)


def _middle(text: str) -> str:
    if len(text) <= CHARACTERS:
        return text
    start = (len(text) - CHARACTERS) // 2
    return text[start : start + CHARACTERS]


class Profiles:
    """Some profiles, ready for whole columns. They have numbers from 0, in the order given."""

    def __init__(self, profiles: Iterable[Profile]) -> None:
        self.profiles = tuple(profiles)
        names, table = script.letter_table()
        letters = sorted({letter for profile in self.profiles for letter in profile.letters})
        # Classes of characters: one for each script, 0 for none, then one for each letter of a profile.
        self._class = table.astype(np.int32)
        of_class = [*range(len(names)), *(int(table[ord(letter)]) for letter in letters)]
        for number, letter in enumerate(letters, len(names)):
            self._class[ord(letter)] = number
        numbers = {letter: number for number, letter in enumerate(letters, len(names))}
        scripts = {name: number for number, name in enumerate(names)}
        self._width = len(of_class)
        worth = np.zeros((len(self.profiles) + 1, self._width), np.uint8)
        for row, profile in enumerate(self.profiles):
            if profile.letters:
                own = np.array(of_class) == scripts[profile.script]
                worth[row, own] = STRANGE_LETTER
                worth[row, [numbers[letter] for letter in profile.letters]] = 1
        self._worth = worth.ravel()
        self._typical = np.array([*(profile.typical for profile in self.profiles), 0.0])
        self._without = np.array([*(not profile.words for profile in self.profiles), True])
        self._empty = np.array([*(not (profile.words or profile.letters) for profile in self.profiles), True])
        self._slots = self._table()

    def _table(self) -> Hashes:
        """Put each pair of profile and word into an open table, at most ``PROBES`` places from its own."""
        slots = np.zeros(SLOTS, np.uint64)
        for number, profile in enumerate(self.profiles):
            for word in sorted(profile.words):
                value = 0
                for place, letter in enumerate(word):
                    value += ord(letter) * pow(int(MULTIPLIER), place, 1 << 64)
                key = int(_keys(np.array([value & (2**64 - 1)], np.uint64), np.array([number]))[0])
                slot = key >> 46
                for _ in range(PROBES):
                    if slots[slot] in (0, key):
                        slots[slot] = key
                        break
                    slot = (slot + 1) % SLOTS
                # A word without a place is not counted: with 2 % of the slots in use, one in a million.
        return slots

    def measure(self, texts: Texts, profile: Longs) -> tuple[Shares, Shares]:
        """Return ``strange`` and ``common`` of each text by the profile of its number; 1 and 0 where that is -1."""
        from aya_data.text.script_kernel import count_words

        data, offsets = buffers(column(texts))
        counts = np.zeros((len(offsets) - 1, 4), np.int64)
        read = np.where(self._empty[profile], -1, profile)
        count_words(
            data, offsets, CHARACTERS, read, _lower(), self._class, self._worth, self._width, STRANGE_LETTER,
            self._slots, PROBES, counts,
        )  # fmt: skip
        strange, letters, words, hits = counts.T
        typical = self._typical[profile]
        common = np.where(self._without[profile], typical, (hits + PRIOR * typical) / (words + PRIOR))
        missing = profile < 0
        return np.where(missing, 1.0, strange / np.maximum(letters, 1)), np.where(missing, 0.0, common)


def _keys(values: Hashes, profile: Longs) -> Hashes:
    """Mix the hash of a word with the number of a profile; never 0."""
    mixed = (values ^ ((profile + 1).astype(np.uint64) * MIX)) * MULTIPLIER
    mixed ^= mixed >> np.uint64(29)
    keys: Hashes = (mixed * MIX) | np.uint64(1)
    return keys


@cache
def _lower() -> npt.NDArray[np.int32]:
    """Return the lower-case letter of each code point, marks as they are, 0 for what belongs to no word."""
    _, table = script.letter_table()
    points = np.flatnonzero(table)
    lower = np.zeros(script.CODE_POINTS, np.int32)
    lower[points] = points
    for line in (resources.files("aya_data.text") / DATA_FILES[0]).read_text("utf-8").splitlines():
        if not line.startswith(("#", "first")):
            first, last = (int(end, 16) for end in line.split("\t"))
            lower[first : last + 1] = np.arange(first, last + 1)
    for point in points[points < 0x20000].tolist():
        small = chr(point).lower()
        if len(small) == 1 and ord(small) != point and table[ord(small)]:
            lower[point] = ord(small)
    return lower
