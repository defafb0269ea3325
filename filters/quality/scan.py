"""What the ``quality`` filter measures of each turn, in one pass of a compiled kernel over the Arrow buffers.

Turns are measured one by one: those of ``messages``, then for a preference row the chosen answer. The rejected one is
left alone: a poor answer stands there on purpose. Columns of the result, row by row:

- ``turns``: list of structs, a turn each; see :data:`COLUMNS`;
- ``found``: list of structs ``turn, entry, count, at``: per turn and rule the first phrase of
  :mod:`aya_data.filters.quality.phrases` that was found, where, and how many of that rule.

Places are code points of the turn, from 0. Shares are left as counts: only judging divides. A turn that is not in NFC
is measured in NFC.

Cost: some 10 microseconds for a row of 600 characters, on one core. The first use on a machine compiles for some
6 seconds.
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aya_data.filters.quality.kernel import (
    ANSWER,
    BEGINS,
    CONTROL,
    DECOMPOSED,
    EURO,
    FOLLOWS,
    IN_WORD,
    IS_BREAK,
    IS_BULLET,
    IS_CLOSED,
    IS_DIGIT,
    IS_SYMBOL,
    IS_TERMINAL,
    IS_WHITE,
    LEAD_2,
    LEAD_3,
    LEAD_4,
    LETTER,
    MARKED,
    NOTED,
    PASSED,
    PLAIN,
    PLAIN_FOLLOWS,
    PROMPT,
    ROLE,
    SEVERAL,
    UNSPACED,
    scan_turns,
)
from aya_data.filters.quality.phrases import BREAKS, kinds, letters, trie
from aya_data.text import repetition
from aya_data.text.folding import IGNORED, LIMIT, MARK, WHITE, WORD, tables
from aya_data.text.shingles import pieces_of
from aya_data.text.similarity import ROOM

__all__ = ["COLUMNS", "scan"]

COLUMNS = (
    "role", "chars", "solid", "digits", "symbols", "words", "urls", "garbled", "garbled_at", "lost", "lost_at",
    "sentences", "last", "shape", "line_chars", "repeated_line_chars", "repeated_line_at", "gram_chars",
    "repeated_gram_chars", "top_gram_chars", "repeated_gram_at", "repeat", "repeat_at", "repeat_again",
    "prompt_words", "prompt_chars", "similar", "copied_at",
)  # fmt: skip
"""Of a turn, int32 each: ``role`` (0 other, 1 user, 2 assistant); characters, those that are not white space, digits,
symbols and punctuation; words (characters where words are not spaced); characters in URLs; characters garbled by a
wrong decoding, and replacement characters; sentence ends in the last line, the last character, the shape of the end
(bit 1: the last line is an item of a list, a heading or a row of a table, or its last word a link or a hashtag; bit 2:
a fence of code was opened and not closed); lines, n-grams and longest repeat (:mod:`aya_data.text.repetition`); for an
answer the words and characters of the user's turn before it, the similarity to it in ten thousandths, and where that
stands in the answer as a whole (-1: nowhere)."""

TERMINAL = ".!?…。！？．؟۔।॥։፧።༎།၊။៕។᙮᠃᱾ꓸ꘎꛳꫰꯫‼⁇⁈⁉｡"
CLOSED = "।॥。！？．｡؟۔։።፧།༎။។៕᠃᱾꯫"
"""Marks that end a sentence whatever follows them."""
BULLETS = "-*•–·▪▫◦‣●○■□➢➤✓✔+>#|=~0123456789"
IN_CODE = frozenset({"html_tag", "html_entity", "chat_markup", "turn_markup", "unknown_token", "web_boilerplate"})
"""Rules that leave code between backticks alone."""

LOST = 0xFFFD
"""The replacement character."""

Counts = npt.NDArray[np.int32]


@cache
def _classes() -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """Return what each character below the limit is, and what each letter is to words and phrases, in bits."""
    found = np.zeros(LIMIT, np.uint16)
    own, kind, folded, begins = tables(), kinds(), letters(), trie().root > 0
    for point in range(LIMIT):
        if 0x3400 <= point <= 0x9FFF or 0xAC00 <= point <= 0xD7A3:
            continue
        category = unicodedata.category(chr(point))
        if category == "Nd":
            found[point] |= IS_DIGIT
        elif category[0] in "PS":
            found[point] |= IS_SYMBOL
        if not unicodedata.is_normalized("NFC", chr(point)):
            found[point] |= DECOMPOSED
    for marks, bit in ((TERMINAL, IS_TERMINAL), (CLOSED, IS_CLOSED), (BULLETS, IS_BULLET), (BREAKS, IS_BREAK)):
        found[[ord(mark) for mark in marks]] |= bit
    found[kind == WHITE] |= IS_WHITE
    found[kind == IGNORED] &= DECOMPOSED
    found[kind == IGNORED] |= PASSED
    found[(own.points[:, 2] > 255) | (found & DECOMPOSED > 0)] |= NOTED
    lead = _bytes()
    found[np.flatnonzero((lead > 0) & (lead <= LEAD_4))] |= NOTED
    found[LOST] |= NOTED
    spelling = np.select(
        [kind == WORD, kind == MARK, (kind > WORD) & (kind < WHITE)], [IN_WORD, MARKED, UNSPACED], 0
    ) + np.where(begins, BEGINS, 0)
    found[folded < 0] |= SEVERAL
    of_letter = np.where(folded < LIMIT, spelling[folded % LIMIT], UNSPACED)
    found |= np.where(folded < 0, 0, of_letter << LETTER).astype(np.uint16)
    found[np.isin(found & ~np.uint16(BEGINS << LETTER), [IN_WORD << LETTER, MARKED << LETTER])] |= PLAIN
    return found, spelling.astype(np.uint8)


@cache
def _white() -> npt.NDArray[np.bool_]:
    """Return which characters below the limit are white space."""
    found: npt.NDArray[np.bool_] = kinds() == WHITE
    return found


@cache
def _bytes() -> npt.NDArray[np.uint8]:
    """Return what each character below U+2200 would be as a byte of UTF-8 read as Windows-1252."""
    found = np.zeros(0x2200, np.uint8)
    for byte in range(0x80, 0xC0):
        found[byte] = CONTROL if byte < 0xA0 else FOLLOWS
        shown = bytes([byte]).decode("cp1252", "replace")
        if shown != "\ufffd":
            found[ord(shown)] = FOLLOWS
    for mark in "¡¢£¤¥¦§¨©¬®¯°±²³´µ¶¸¹¼½¾¿":
        found[ord(mark)] = PLAIN_FOLLOWS
    found[0x20AC] = EURO
    found[0xC2:0xE0], found[0xE0:0xF0], found[0xF0:0xF5] = LEAD_2, LEAD_3, LEAD_4
    return found


def scan(rows: pa.Table) -> pa.Table:
    """Measure ``rows`` (columns ``messages`` and ``chosen``)."""
    lengths, roles, texts = _turns(rows)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    counts, hits = _scanned(texts, roles, bounds)
    odd = np.isin(row_of, row_of[counts[:, ROLE] < 0])
    if odd.any():
        normal = [unicodedata.normalize("NFC", text) for text in texts.filter(pa.array(odd)).to_pylist()]
        own_bounds = np.concatenate([[0], np.cumsum(lengths[np.unique(row_of[odd])])])
        counts[odd], again = _scanned(pa.array(normal, pa.large_string()), roles[odd], own_bounds, trusted=True)
        again[:, 0] = np.flatnonzero(odd)[again[:, 0]]
        hits = np.concatenate([hits[~odd[hits[:, 0]]], again])
        hits = hits[np.argsort(hits[:, 0], kind="stable")]
    of_turns = pa.array(bounds.astype(np.int32))
    turns = pa.StructArray.from_arrays([pa.array(column) for column in np.ascontiguousarray(counts.T)], list(COLUMNS))
    row = row_of[hits[:, 0]]
    hits[:, 0] -= bounds[row].astype(np.int32)
    of_found = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(lengths)))]).astype(np.int32)
    entries = pa.StructArray.from_arrays(
        [pa.array(column) for column in np.ascontiguousarray(hits.T)], ["turn", "entry", "count", "at"]
    )
    return pa.table(
        {
            "turns": pa.ListArray.from_arrays(of_turns, turns),
            "found": pa.ListArray.from_arrays(pa.array(of_found), entries),
        }
    )


def _turns(rows: pa.Table) -> tuple[npt.NDArray[np.int64], Counts, pa.Array]:
    """Return turns per row, and roles (numbers) and texts (large strings) of all turns."""
    shared, chosen = (rows[name].combine_chunks() for name in ("messages", "chosen"))
    lengths = pc.fill_null(pc.list_value_length(shared), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = shared.flatten()
    role, text = pc.struct_field(flat, "role"), pc.struct_field(flat, "content").cast(pa.large_string())
    if chosen.null_count < len(chosen):
        sizes = pc.fill_null(pc.list_value_length(chosen), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        has = sizes > 0
        own = chosen.flatten()
        last = (np.cumsum(sizes) - 1)[has]
        roles = pa.concat_arrays([role, pc.struct_field(own, "role").take(pa.array(last))])
        both = pa.concat_arrays([text, pc.struct_field(own, "content").take(pa.array(last)).cast(pa.large_string())])
        # The chosen answers stand after all others; each belongs after the turns of its row.
        place = np.insert(np.arange(len(text)), np.cumsum(lengths)[has], len(text) + np.arange(int(has.sum())))
        role, text = roles.take(pa.array(place)), both.take(pa.array(place))
        lengths = lengths + has
    numbers = np.zeros(len(role), np.int32)
    for name, number in (("user", PROMPT), ("assistant", ANSWER)):
        numbers[pc.equal(role, name).to_numpy(zero_copy_only=False)] = number
    return lengths, numbers, text


def _scanned(
    texts: pa.Array, roles: Counts, bounds: npt.NDArray[np.int64], trusted: bool = False
) -> tuple[Counts, Counts]:
    """Return int32[turns, columns], and int32[found, 4] (turn, entry, count, at)."""
    pieces, own, found = pieces_of(texts), tables(), trie()
    counts = np.zeros((len(texts), len(COLUMNS)), np.int32)
    # Memory that is not written to costs nothing.
    hits = np.empty((len(texts) * len(found.rules), 4), np.int32)
    if not len(texts):
        return counts, hits
    longest = 2 * pieces.longest() + 12
    classes, spelling = _classes()
    size = scan_turns(
        pieces.data, pieces.starts, pieces.ends, bounds, roles, trusted,
        own.points, own.longer, own.pairs, letters(), classes, spelling, _white(), _bytes(),
        found.root, found.keys, found.states, found.entry, found.following, found.rule, found.where,
        found.hint, found.short, np.array([rule in IN_CODE for rule in found.rules], np.bool_),
        *(np.empty(longest, np.int32) for _ in range(6)), np.empty(longest, np.uint64), np.empty(longest, np.int32),
        *repetition.table(longest // 2), np.zeros(len(found.rules), np.int64), np.zeros(ROOM, np.int64),
        counts, hits,
    )  # fmt: skip
    return counts, hits[:size].copy()
