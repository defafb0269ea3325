"""What the ``quality`` filter measures of each turn, in one pass of a compiled kernel over the Arrow buffers.

Turns are measured one by one: those of ``messages``, then for a preference row the chosen answer. The rejected one is
left alone: a poor answer stands there on purpose. Columns of the result, row by row:

- ``turns``: list of structs, a turn each; see :data:`COLUMNS`;
- ``found``: list of structs ``turn, entry, count, at``: per turn and rule the first phrase of
  :mod:`aya_data.filters.quality.phrases` that was found, where, and how many of that rule.

Places are code points of the turn, from 0. Shares are left as counts: only judging divides. A turn that is not in NFC
is measured in NFC.

Cost: some 12 microseconds for a row of 600 characters, on one core. The first use on a machine compiles for some
5 seconds.
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
    CONTROL,
    EURO,
    FOLLOWS,
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
    PLAIN_FOLLOWS,
    PROMPT,
    ROLE,
    scan_turns,
)
from aya_data.filters.quality.phrases import BREAKS, kinds, letters, trie
from aya_data.text import repetition
from aya_data.text.folding import IGNORED, LIMIT, WHITE, tables
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

Counts = npt.NDArray[np.int32]


@cache
def _flags() -> npt.NDArray[np.uint8]:
    """Return what each character below the limit is, in bits."""
    found = np.zeros(LIMIT, np.uint8)
    kind = tables().kind
    for point in range(LIMIT):
        if 0x3400 <= point <= 0x9FFF or 0xAC00 <= point <= 0xD7A3:
            continue
        category = unicodedata.category(chr(point))
        if category == "Nd":
            found[point] |= IS_DIGIT
        elif category[0] in "PS" and kind[point] != IGNORED:
            found[point] |= IS_SYMBOL
    found[kind == WHITE] |= IS_WHITE
    for marks, bit in ((TERMINAL, IS_TERMINAL), (CLOSED, IS_CLOSED), (BULLETS, IS_BULLET), (BREAKS, IS_BREAK)):
        found[[ord(mark) for mark in marks]] |= bit
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
    counts, found, sizes = _scanned(texts, roles, bounds)
    odd = np.isin(row_of, row_of[counts[:, ROLE] < 0])
    if odd.any():
        normal = [unicodedata.normalize("NFC", text) for text in texts.filter(pa.array(odd)).to_pylist()]
        own = np.unique(row_of[odd])
        own_bounds = np.concatenate([[0], np.cumsum(lengths[own])])
        again = _scanned(pa.array(normal, pa.large_string()), roles[odd], own_bounds)
        for whole, part in zip((counts, found, sizes), again, strict=True):
            whole[odd] = part
        counts[:, ROLE] = roles
    of_turns = pa.array(bounds.astype(np.int32))
    turns = pa.StructArray.from_arrays(
        [pa.array(np.ascontiguousarray(counts[:, column])) for column in range(len(COLUMNS))], list(COLUMNS)
    )
    hits = np.repeat(np.arange(len(roles)), sizes)
    kept = found[np.arange(found.shape[1])[None, :] < sizes[:, None]]
    of_found = np.concatenate([[0], np.cumsum(np.bincount(row_of[hits], minlength=len(lengths)))]).astype(np.int32)
    entries = pa.StructArray.from_arrays(
        [
            pa.array((hits - bounds[row_of[hits]]).astype(np.int32)),
            *(pa.array(np.ascontiguousarray(kept[:, column])) for column in range(3)),
        ],
        ["turn", "entry", "count", "at"],
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


def _scanned(texts: pa.Array, roles: Counts, bounds: npt.NDArray[np.int64]) -> tuple[Counts, Counts, Counts]:
    """Return int32[turns, columns], int32[turns, rules, 3] (entry, count, at), and how many of the latter hold."""
    pieces, own, found = pieces_of(texts), tables(), trie()
    counts = np.zeros((len(texts), len(COLUMNS)), np.int32)
    hits = np.zeros((len(texts), len(found.rules), 3), np.int32)
    sizes = np.zeros(len(texts), np.int32)
    if len(texts):
        longest = pieces.longest() + 2
        buffers = [np.zeros(2 * longest + 8, np.int32) for _ in range(5)]
        code = np.array([rule in IN_CODE for rule in found.rules], np.bool_)
        scan_turns(
            pieces.data, pieces.starts, pieces.ends, bounds, roles,
            letters(), own.longer, kinds(), own.order, own.base, own.second, own.pairs,
            _flags(), (_flags() & IS_WHITE) > 0, _bytes(),
            found.root, found.keys, found.states, found.entry, found.following, found.rule, found.where,
            found.hint, found.short, code,
            *buffers, np.zeros(2 * longest + 8, np.uint64), np.zeros(2 * longest + 8, np.int32),
            *repetition.table(longest), np.zeros(len(found.rules), np.int64), np.zeros(ROOM, np.int64),
            counts, hits, sizes,
        )  # fmt: skip
    return counts, hits, sizes
