"""Penalties: what is wrong with a completion before anybody scores it.

================  ==================================================================================================
``empty``         it has no character that shows
``truncated``     the engine says that it reached its limit of tokens. Where nobody says how it ended (a recording): a
                  fence of code is open at its end, or its last line has ended a sentence and stops within another
``wrong_language``  it is in another language than its prompt, by the bundled language model (lid.176)
================  ==================================================================================================

**Wrong language** needs evidence on every side. Code, URLs and formulas are not read; of the rest there must be
:data:`LETTERS` letters (a Han character counts as three, a kana or hangul as two). The model must know the prompt's
language, its best label must be another one, which it does not mix up with it, and be ahead of the prompt's by
:data:`MARGIN`; for a language that it does not know, or not in this script, the answer must be in another script, its
label as sure as :data:`SURE`. The prompt's language is the row's; of a row without one, that of its text.

It is no penalty to do what the prompt asks: an answer may be in another language where the row's ``task`` is a
translation, where a line of the prompt is in the answer's language, or where the prompt names it, in English or in the
language itself (``in French``, ``auf Deutsch``). What a prompt asks in other words ("ins Französische") is not known:
say it by the ``task`` column.

Of sentences of 205 varieties in their own language (FLORES-200, as SIB-200 has them; 130 characters each), 0.3 % are
taken for another.

Cost: 27 microseconds for an answer of 1,000 characters, nearly all of it the language model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from aya_data.builders.arbitrage.completions import conversations
from aya_data.core import language as languages
from aya_data.core import language_tables
from aya_data.core.generation import LENGTH
from aya_data.text import script
from aya_data.text.language_model import LanguageModel, locate

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["EMPTY", "PENALTIES", "TRUNCATED", "UNKNOWN", "WRONG_LANGUAGE", "foreign", "is_cut_off", "penalties"]

EMPTY: Final = "empty"
TRUNCATED: Final = "truncated"
WRONG_LANGUAGE: Final = "wrong_language"
PENALTIES: Final = (EMPTY, TRUNCATED, WRONG_LANGUAGE)

UNKNOWN: Final = "unknown"
"""The ``finish`` of an answer of which nobody says how it ended."""

LETTERS: Final = 40
MARGIN: Final = 0.6
SURE: Final = 0.8
BEST: Final = 3
SHORT_HAN: Final = 60
"""Letters below which Han characters without kana are no evidence against Japanese."""
CHINESE: Final = frozenset({"zho", "yue", "wuu", "nan", "hak", "gan", "hsn", "lzh", "cdo"})
TRANSLATION: Final = "translat"
LONGEST_NAME: Final = 3

FENCE = re.compile(r"(?m)^[ \t]*(```|~~~)")
NOT_PROSE = re.compile(
    r"(?ms)^[ \t]*```.*?(?:^[ \t]*```[ \t]*$|\Z)|`[^`\n]{1,400}`|https?://\S+|\$\$.*?\$\$|<[/A-Za-z][^<>\n]{0,200}>"
)
WORD = re.compile(r"[^\W\d_]+")
NO_PROSE_LINE = re.compile(r"\s*(?:[-*•–·▪◦#>|+=~$\\]|\(?\w{1,3}[.)]\s|\d{1,3}(?:\.\d{1,3})+[.)]?\s)")
ENDED = re.compile(r"[.!?…؟۔।॥։።][\"'”’»)\]]*\s+\S|[。！？｡]")
"""A sentence ended, and something follows; in Chinese and Japanese nothing need stand between."""
SIGNED = re.compile(r"[\"”»“'’]\s*[-–—]\s*\S+(?:\s\S+){0,5}\Z")
"""A quotation that ends with who said it."""
OPEN_MARKS: Final = frozenset(",;:-–—([{、，；：،؛「『（【‘“")
WITHOUT_ENDS: Final = frozenset({"Thai", "Laoo", "Khmr", "Mymr", "Tibt"})
"""Scripts that end sentences with a space, or not as others do."""

Mask = npt.NDArray[np.bool_]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Foreign:
    """Of n answers: whether each is in the wrong language, bool[n], and how far the model is surer of another language
    than of the prompt's, float64[n] from 0 to 1; 0 where it may be in another, or where there is no verdict."""

    wrong: Mask
    lead: Shares


def penalties(prompts: pa.Table, completions: pa.Table) -> pa.Array:
    """Return the penalties of each completion: list<string>[n], in the order of :data:`PENALTIES`.

    ``prompts`` are the rows of one part, ``completions`` as in :data:`~aya_data.builders.arbitrage.tables.COMPLETIONS`.
    A pure function of a completion and its prompt.
    """
    import pyarrow as pa

    texts, scripts = completions["text"].to_pylist(), completions["script"].to_pylist()
    finishes = completions["finish"].to_pylist()
    wrong = foreign(prompts, completions).wrong.tolist()
    found = []
    for text, finish, written, is_wrong in zip(texts, finishes, scripts, wrong, strict=True):
        empty = not _shows(text)
        cut = finish == LENGTH or (finish == UNKNOWN and not empty and is_cut_off(text, written))
        found.append(list(compress(PENALTIES, (empty, cut, is_wrong))))
    return pa.array(found, pa.list_(pa.string()))


def is_cut_off(text: str, written: str) -> bool:
    """Tell whether a text evidently ends before its end; ``written`` is the script of its language. Errs on the side of
    no: a last line that is an item, a heading, a verse or a single sentence tells nothing."""
    text = text.rstrip()
    if "```" in text or "~~~" in text:
        marks = [match[1] for match in FENCE.finditer(text)]
        if any(marks.count(mark) % 2 for mark in set(marks)):
            return True
        if marks:
            return False
    line = text[text.rfind("\n") + 1 :]
    if not line or written in WITHOUT_ENDS or NO_PROSE_LINE.match(line) or not ENDED.search(line):
        return False
    last = line[-1]
    if last == ";" and written == "Grek":
        return False
    if last in OPEN_MARKS:
        return True
    if "\u0e00" <= last <= "\u0fff" or "\u1000" <= last <= "\u109f" or "\u1780" <= last <= "\u17ff":
        return False
    if line.rsplit(None, 1)[-1].startswith(("http", "#", "@")) or SIGNED.search(line):
        return False
    return unicodedata.category(last)[0] in "LM"


def foreign(prompts: pa.Table, completions: pa.Table) -> Foreign:
    """Find the answers that are in another language than their prompt."""
    count = completions.num_rows
    found = Foreign(np.zeros(count, np.bool_), np.zeros(count))
    if not count:
        return found
    texts = [_prose(text) for text in completions["text"].to_pylist()]
    seen = _identify(texts)
    rows = completions["row"].to_pylist()
    declared = list(zip(completions["language"].to_pylist(), completions["script"].to_pylist(), strict=True))
    suspects = [
        place
        for place in range(count)
        if seen.letters[place] >= LETTERS and seen.best[place] and not _same(declared[place][0], seen.best[place])
    ]
    if not suspects:
        return found
    asked = _Asked(prompts)
    for place in suspects:
        language, written = declared[place]
        if language == languages.UND.language:
            language, written = asked.language(rows[place])
            if language == languages.UND.language or _same(language, seen.best[place]):
                continue
        lead = _lead(language, written, seen, place)
        if lead > 0 and not asked.allows(rows[place], seen.best[place]):
            found.lead[place] = lead
            found.wrong[place] = lead >= MARGIN
    return found


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the model says of n texts: the language of the best label ("" for none), the labels with their confidences,
    the script of most letters (null for none), and the letters."""

    best: list[str]
    labels: list[list[tuple[str, float]]]
    scripts: list[str | None]
    letters: list[int]


def _lead(language: str, written: str, seen: _Seen, place: int) -> float:
    """Return how far the best label is ahead of the language, 0 where that says nothing."""
    measured = seen.scripts[place]
    best, confidence = seen.labels[place][0]
    if measured == "Hani" and (
        (language == "jpn" and seen.letters[place] < SHORT_HAN) or (language in CHINESE and best == "jpn")
    ):
        return 0.0
    if not _known(language, written):
        other = measured is not None and not script.written_in(written, measured)
        return confidence if other and confidence >= SURE else 0.0
    own = sum(share for label, share in seen.labels[place] if _same(language, label))
    return round(max(0.0, confidence - own), 4)


def _identify(texts: Sequence[str]) -> _Seen:
    model = LanguageModel.load(locate(None, base=Path(), cache=Path()))
    predicted = model.predict(texts, BEST)
    names = [languages.fasttext_labels()[label] for label in model.file.labels]
    labels = [
        [(names[label], share) for label, share in zip(ours, shares, strict=True) if label >= 0]
        for ours, shares in zip(predicted.labels.tolist(), predicted.confidences.tolist(), strict=True)
    ]
    scripts = script.measure_scripts(texts)
    return _Seen([row[0][0] if row else "" for row in labels], labels, scripts.script, scripts.letters.tolist())


class _Asked:
    """What the prompts of a part say about the language of an answer; each prompt is looked at when it is asked for."""

    def __init__(self, prompts: pa.Table) -> None:
        self._prompts = prompts
        self._turns: list[tuple[tuple[str, str], ...]] | None = None
        self._tasks: list[str | None] = prompts["task"].to_pylist() if "task" in prompts.column_names else []
        self._said: dict[int, tuple[set[str], set[str], str, str]] = {}

    def language(self, row: int) -> tuple[str, str]:
        """Return the language and the script of a prompt's text; undetermined where the model is not sure."""
        said = self._look(row)
        return said[2], said[3]

    def allows(self, row: int, language: str) -> bool:
        """Tell whether the answer to a prompt may be in a language."""
        task = self._tasks[row] if self._tasks else None
        if task is not None and TRANSLATION in task.lower():
            return True
        spoken, named, _, _ = self._look(row)
        return any(_same(language, one) for one in spoken) or not named.isdisjoint(_names(language))

    def _look(self, row: int) -> tuple[set[str], set[str], str, str]:
        if row not in self._said:
            if self._turns is None:
                self._turns = conversations(self._prompts)
            texts = [content for role, content in self._turns[row] if role in ("user", "system")]
            whole = _prose("\n".join(texts))
            lines = [line for line in re.split(r"[\n.!?。！？:：\"“”]", whole) if len(line) > 12]
            seen = _identify([whole, *lines])
            # A whole prompt is believed where it is one language; its parts are short, and only excuse.
            spoken = {label for labels in seen.labels[:1] for label, share in labels if share >= 0.2}
            for labels, letters in zip(seen.labels[1:], seen.letters[1:], strict=True):
                if labels and letters >= LETTERS // 2 and labels[0][1] >= 0.5:
                    spoken.add(labels[0][0])
            sure = seen.labels[0] and seen.labels[0][0][1] >= SURE and seen.letters[0] >= LETTERS // 2
            language = seen.best[0] if sure else languages.UND.language
            self._said[row] = (spoken, _named(whole), language, seen.scripts[0] or languages.UND.script)
        return self._said[row]


def _named(text: str) -> set[str]:
    """Return all runs of up to three words, spelt as names of languages are looked up."""
    words = [language_tables.squash(word) for word in WORD.findall(text)]
    return {"".join(words[at : at + n]) for n in range(1, LONGEST_NAME + 1) for at in range(len(words) - n + 1)}


@cache
def _names(language: str) -> frozenset[str]:
    """Return the names of a language: the English ones, and what data sets call it, codes left out."""
    found = {
        key for key, codes in language_tables.names().items() if any(_same(language, code) for code in codes.split())
    }
    found |= {key for key, alias in language_tables.aliases().items() if _same(language, alias.language)}
    return frozenset(name for name in found if len(name) > LONGEST_NAME)


@cache
def _known(language: str, written: str) -> bool:
    """Tell whether the model knows a language in a script: in the one that it is usually written in."""
    return any(
        languages.same_language(language, label)
        and script.same_letters(written, languages.resolve(label).variety.script)
        for label in languages.fasttext_labels().values()
    )


@cache
def _same(one: str, other: str) -> bool:
    return bool(other) and (languages.same_language(one, other) or languages.confusable(one, other))


def _prose(text: str) -> str:
    """Return a text without code, addresses and markup."""
    if "`" in text or "<" in text or "http" in text or "$$" in text:
        return NOT_PROSE.sub(" ", text)
    return text


def _shows(text: str) -> bool:
    return any(not (c.isspace() or unicodedata.category(c) in ("Cf", "Cc", "Cn", "Co", "Cs")) for c in text)
