"""Profiles of languages: the letters they are written with, their most frequent words, and their trigrams of letters.

A classifier spreads its confidence over the languages it knows, so it is often sure of a text in one that it does not
know: Shan is Burmese with 1.0000 to lid.176, Faroese Icelandic with 0.88. What such a text lacks is what every text of
the language has: only its letters, its small words, and its trigrams. Three numbers say so for a text and a profile:

* **strange**: the share of letters that the profile does not have, from 0 to 1;
* **common**: the share of words that are among the profile's most frequent, drawn to what is typical where a text has
  few words: ``(hits + 4 typical) / (words + 4)``;
* **fit**: the mean weight of the text's trigrams, above that of a usual text of the language, drawn to it where a text
  is short: ``(sum - usual n) / (n + 20)`` for n trigrams. Frequent trigrams of the language have weights above 0, those
  of the languages that a model takes for it have weights below (:func:`weigh_trigrams`), all others 0.

Only words that start in the profile's own script count, and letters of it: a Greek text with names in Latin letters is
not strange. A word is a run of letters and marks, in lower case; its trigrams include the spaces at both ends (``_``).

The idea of frequent words as a mark of a language is Ingle's (1976), the comparison of n-gram profiles Cavnar and
Trenkle's (1994); here they only confirm or refuse what a model said. Han, kana and hangul texts have no such words and
too many letters: their profiles are empty, and the numbers say nothing (0, typical and 0).

Only the ``CHARACTERS`` in the middle of a text are read. Cost: some three microseconds for a text of 600 characters, of
which trigrams are 0.7; 11 MB of tables for 135 profiles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from aya_data.text import script
from aya_data.text.columns import Texts, buffers, column

__all__ = ["CHARACTERS", "WITHOUT", "Profile", "Profiles", "make_profile", "trigrams_of", "weigh_trigrams", "words_of"]

DATA_FILES = ("data/marks.tsv",)

CHARACTERS = 240
PRIOR = 4
"""How many words of typical text every text is thought to have beside its own."""
WORDS = 100
"""How many frequent words a profile has: more tell little more (measured with 50, 100 and 200)."""
OFTEN = 3
"""A letter belongs to a language when so many texts of a sample have it."""
TRIGRAMS, RIVALS = 300, 150
"""How many trigrams of the language have a weight, and how many of its rivals."""
TRIGRAM_PRIOR = 20
"""How many trigrams of usual text every text is thought to have beside its own."""
SPACE = "_"
WITHOUT = frozenset({"Hani", "Jpan", "Hang"})
"""Scripts whose texts have no profile."""

SLOTS = 1 << 18
PROBES = 4
STRANGE_LETTER = 2
"""What a strange letter is worth; one of the profile is worth 1, what is no letter of its script nothing."""
PLACES = 1 << 15
LITTLE, MANY = 0.2, 20_000
"""What is added to the count of each trigram, and how many trigrams there are thought to be."""
RARE = 7.5e-5
"""The share of a rare trigram."""
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
MIX = np.uint64(0xC2B2AE3D27D4EB4F)

Points = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]
Longs = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Profile:
    """What texts of one language in one script are made of: letters in lower case, frequent words, and the share
    of the words of a text that are frequent ones, in the median; trigrams with their weights, whole numbers from -127
    to 127, and the mean weight of the trigrams of a usual text. ``script`` is as
    :func:`~aya_data.text.script.measure_scripts` says it."""

    script: str
    letters: frozenset[str]
    words: frozenset[str]
    typical: float
    trigrams: Mapping[str, int] = field(default_factory=dict)
    usual: float = 0.0


def make_profile(texts: Sequence[str], measured: str) -> Profile:
    """Make the profile, without trigrams, of a sample whose texts are all in one language and measure as one script.

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


def trigrams_of(words: Iterable[str]) -> list[str]:
    """Return the trigrams of some words, in order; as many as the words have letters."""
    marked = [f"{SPACE}{word}{SPACE}" for word in words]
    return [word[start : start + 3] for word in marked for start in range(len(word) - 2)]


def weigh_trigrams(names: Sequence[str], own: Shares, rival: Shares) -> dict[str, int]:
    """Return the weights of the trigrams ``names`` that say most of a language, by how often they occur (float64[n]) in
    its texts and in those of its rivals.

    A weight is twice the logarithm of how much more often the language has the trigram than its rivals do, plus the
    logarithm of how frequent it is, above that of a rare one. The ``TRIGRAMS`` most frequent of the language get one,
    and the ``RIVALS`` most frequent of those that are three times as frequent in the rivals. ``names`` are ordered, and
    of equally frequent ones the first is taken.
    """
    share = (own + LITTLE) / (own.sum() + LITTLE * MANY)
    total = rival.sum()
    ratio = np.log(share / ((rival + LITTLE) / (total + LITTLE * MANY))) if total else np.zeros(len(own))
    weights = np.rint(2 * np.clip(ratio, -4, 4) + np.log(share / RARE)).astype(np.int64)
    frequent = np.argsort(-own, kind="stable")[:TRIGRAMS]
    others = np.flatnonzero(ratio < -np.log(3))
    others = others[np.argsort(-rival[others], kind="stable")[:RIVALS]]
    chosen = np.concatenate([frequent[own[frequent] >= OFTEN], others])
    return {names[place]: int(weights[place]) for place in chosen.tolist() if weights[place]}


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
        self._usual = np.array([*(profile.usual for profile in self.profiles), 0.0])
        self._weights = np.zeros((len(self.profiles) + 1, PLACES), np.int8)
        for number, profile in enumerate(self.profiles):
            # Places are hashes: some three of 450 trigrams share one, where the larger weight counts.
            for trigram, weight in sorted(profile.trigrams.items(), key=lambda item: (abs(item[1]), item[0])):
                self._weights[number, _place(trigram)] = weight

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

    def measure(self, texts: Texts, profile: Longs) -> tuple[Shares, Shares, Shares]:
        """Return ``strange``, ``common`` and ``fit`` of each text by the profile of its number; 1, 0 and 0 where that
        is -1."""
        from aya_data.text.script_kernel import count_words

        data, offsets = buffers(column(texts))
        counts = np.zeros((len(offsets) - 1, 6), np.int64)
        read = np.where(self._empty[profile], -1, profile)
        count_words(
            data, offsets, CHARACTERS, read, _lower(), self._class, self._worth, self._width, STRANGE_LETTER,
            self._slots, PROBES, self._weights, counts,
        )  # fmt: skip
        strange, letters, words, hits, trigrams, weight = counts.T
        typical = self._typical[profile]
        common = np.where(self._without[profile], typical, (hits + PRIOR * typical) / (words + PRIOR))
        fit = (weight - self._usual[profile] * trigrams) / (trigrams + TRIGRAM_PRIOR)
        missing = profile < 0
        return np.where(missing, 1.0, strange / np.maximum(letters, 1)), np.where(missing, 0.0, common), fit


def _keys(values: Hashes, profile: Longs) -> Hashes:
    """Mix the hash of a word with the number of a profile; never 0."""
    mixed = (values ^ ((profile + 1).astype(np.uint64) * MIX)) * MULTIPLIER
    mixed ^= mixed >> np.uint64(29)
    keys: Hashes = (mixed * MIX) | np.uint64(1)
    return keys


def _place(trigram: str) -> int:
    """Return where the weight of a trigram stands."""
    first, second, third = (32 if letter == SPACE else ord(letter) for letter in trigram)
    return (((first << 42 | second << 21 | third) * int(MULTIPLIER)) & (2**64 - 1)) >> 49


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
