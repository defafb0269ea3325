"""Which script a text is written in, by counting its letters.

Only letters (Unicode general category L) count: digits, punctuation and marks say nothing about a
script, and letters that several scripts share are left out. The ranges come from a checked-in table of
450 lines, derived from the Unicode Character Database.

Han, kana and hangul are folded as ISO 15924 folds them in varieties: text with kana is ``Jpan``,
text with hangul is ``Hang``, Han alone is ``Hani`` (whether simplified or traditional is not decided
here).

Cost: about 1 ns per byte; memory is some 2 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import numpy.typing as npt

from aya_data.text.columns import Texts, buffers, column

__all__ = ["CODE_POINTS", "Scripts", "letter_table", "measure_scripts", "same_letters", "written_in"]

DATA_FILES = ("data/letters.tsv",)

CODE_POINTS = 0x110000
ROWS_AT_ONCE = 1 << 9

LETTERS_PER_CHARACTER = {"Hani": 3, "Hang": 2, "Hira": 2, "Kana": 2, "Ethi": 2, "Yiii": 2, "Cans": 2}
"""How many letters of an alphabet one character of a syllabary or of Han is worth, in what it tells."""

FOLD_SHARE = 0.1
"""Kana or hangul of at least this share decide that Han characters beside them are Japanese or Korean."""

PARTS: dict[str, frozenset[str]] = {
    "Hans": frozenset({"Hani"}),
    "Hant": frozenset({"Hani"}),
    "Hanb": frozenset({"Hani", "Bopo"}),
    "Jpan": frozenset({"Jpan", "Hani"}),
    "Hrkt": frozenset({"Jpan"}),
    "Hira": frozenset({"Jpan"}),
    "Kana": frozenset({"Jpan"}),
    "Kore": frozenset({"Hang", "Hani"}),
    "Hang": frozenset({"Hang"}),
    "Jamo": frozenset({"Hang"}),
    "Aran": frozenset({"Arab"}),
    "Cyrs": frozenset({"Cyrl"}),
    "Latf": frozenset({"Latn"}),
    "Latg": frozenset({"Latn"}),
    "Geok": frozenset({"Geor"}),
    "Syre": frozenset({"Syrc"}),
    "Syrj": frozenset({"Syrc"}),
    "Syrn": frozenset({"Syrc"}),
}
"""Codes that Unicode does not tell apart letter by letter, and what a text in them measures as."""

UNDECIDED = frozenset({"", "Zinh", "Zmth", "Zsye", "Zsym", "Zxxx", "Zyyy", "Zzzz"})


@dataclass(frozen=True, slots=True)
class Scripts:
    """The scripts of ``n`` texts.

    ``script`` is the ISO 15924 code of most letters (null where there is none; of equals the first by
    code), ``share`` its part of all letters from 0 to 1, ``letters`` how many letters there are,
    characters of :data:`LETTERS_PER_CHARACTER` counted as many.
    """

    script: list[str | None]
    share: npt.NDArray[np.float64]
    letters: npt.NDArray[np.int64]


def written_in(script: str, measured: str) -> bool:
    """Tell whether a text that measures as ``measured`` can be of the declared ``script``."""
    if script in UNDECIDED:
        return True
    return measured in PARTS.get(script, {script})


def same_letters(one: str, two: str) -> bool:
    """Tell whether two declared scripts are written with the same letters, as Hans and Hant are."""
    if one in UNDECIDED or two in UNDECIDED:
        return True
    return not PARTS.get(one, frozenset({one})).isdisjoint(PARTS.get(two, {two}))


def measure_scripts(texts: Texts) -> Scripts:
    """Find the dominant script of each text. Lone surrogates are no letters; nothing raises."""
    from aya_data.text.script_kernel import count_letters

    names, table = letter_table()
    data, offsets = buffers(column(texts))
    count = len(offsets) - 1
    code = np.zeros(count, np.int64)
    share = np.zeros(count, np.float64)
    letters = np.zeros(count, np.int64)
    weights = np.array([LETTERS_PER_CHARACTER.get(name, 1) for name in names], np.int64)
    weights[0] = 0
    for first in range(0, count, ROWS_AT_ONCE):
        rows = slice(first, min(count, first + ROWS_AT_ONCE))
        counts = np.zeros((rows.stop - first, len(names)), np.int64)
        count_letters(data, offsets[first : rows.stop + 1], table, counts)
        counts = _fold(counts * weights)
        letters[rows] = counts.sum(axis=1)
        code[rows] = counts.argmax(axis=1)
        share[rows] = counts.max(axis=1) / np.maximum(letters[rows], 1)
    known = (None, *names[1:])
    code[letters == 0] = 0
    return Scripts([known[number] for number in code.tolist()], share, letters)


def _fold(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    names, _ = letter_table()
    han, hangul, japanese = names.index("Hani"), names.index("Hang"), names.index("Jpan")
    for name in ("Hira", "Kana"):
        counts[:, japanese] += counts[:, names.index(name)]
        counts[:, names.index(name)] = 0
    total = counts[:, han] + counts[:, japanese] + counts[:, hangul]
    for target, rival in ((japanese, hangul), (hangul, japanese)):
        mine = (counts[:, target] >= FOLD_SHARE * total) & (counts[:, target] > counts[:, rival])
        counts[mine, target] += counts[mine, han]
        counts[mine, han] = 0
    return counts


@cache
def letter_table() -> tuple[tuple[str, ...], npt.NDArray[np.uint8]]:
    """Return the names of scripts ("" first, then by code) and the script number of each code point."""
    lines = (resources.files("aya_data.text") / DATA_FILES[0]).read_text("utf-8").splitlines()
    ranges = [line.split("\t") for line in lines if not line.startswith("#")][1:]
    names = ("", *sorted({code for _, _, code in ranges} | {"Jpan"}))
    numbers = {name: number for number, name in enumerate(names)}
    table = np.zeros(CODE_POINTS, np.uint8)
    for first, last, code in ranges:
        table[int(first, 16) : int(last, 16) + 1] = numbers[code]
    return names, table
