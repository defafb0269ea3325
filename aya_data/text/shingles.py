"""Shingles: the set of short pieces that a text is compared by, in every script.

**Text for matching** is NFKC, then case folded. Punctuation, symbols and white space separate; format characters
(joiners, direction marks, soft hyphens, variation selectors) are passed over. What remains falls into *tokens*:

- where words are spaced, a word: letters, numbers and marks up to the next separator;
- in scripts without spaces (:data:`~aya_data.text.folding.UNSPACED`), each character, marks included.

Tokens stand in **runs**: consecutive words, or consecutive characters of one such script (Han, kana and bopomofo
count as one). Separators do not end a run, another kind of token does. A run of t tokens gives its t - n + 1
n-grams, with n = ``words`` for words and ``characters`` for characters; a shorter run is one shingle as a whole.

A text that has fewer shingles than the larger n is instead **one shingle**: its whole text for matching, punctuation
and symbols included, white space runs as one space, trimmed. So "C", "C++" and "C#" differ, and a short text
equals only its own like. A text of white space alone has no shingle and equals nothing.

A shingle is a 64-bit hash of its tokens in order (words and characters apart, whole short runs and n-grams apart);
a set is their distinct values. Texts with different salts share none.

Cost: 5 to 10 ns per character on one core, and a microsecond per 30 characters for the one text in some hundred that
:func:`~aya_data.text.folding.fold` must see. Memory: 16 bytes per byte of the longest text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.text.characters import folded_at, kind_at, parts_of, point_at
from aya_data.text.folding import IGNORED, LIMIT, MARK, SEPARATOR, WHITE, WORD, fold, tables
from aya_data.text.kernel import kernel, sort

__all__ = ["Batch", "Gram", "Pieces", "batches", "mix", "pieces_of", "shingle_sets"]

Longs = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

BATCH = 1 << 16
"""Shingles that are made at a time, if no text has more: half a MiB, which a processor's cache holds."""
RECENT = 128
"""Tokens that are remembered: more than a shingle may have, and a power of two."""

WORD_SEED, WORD_PRIME = nb.uint64(0xCBF29CE484222325), nb.uint64(0x100000001B3)
GRAM_PRIME = nb.uint64(0x9E3779B97F4A7C15)
SHORT_SALT, WHOLE_SALT = nb.uint64(0x51C64B9F3A7E20D9), nb.uint64(0xA54FF53A5F1D36F1)


@dataclass(frozen=True, slots=True)
class Gram:
    """How many tokens a shingle has: of words, and of characters in scripts without spaces."""

    words: int = 5
    characters: int = 5


@dataclass(frozen=True, slots=True)
class Pieces:
    """Texts as slices of one buffer: text i is pieces ``rows[i]`` to ``rows[i + 1]``, joined by line breaks.

    ``data`` uint8; ``starts`` and ``ends`` int64, of each piece in ``data``; ``rows`` int64[n + 1].
    """

    data: npt.NDArray[np.uint8]
    starts: Longs
    ends: Longs
    rows: Longs

    def __len__(self) -> int:
        return len(self.rows) - 1

    def longest(self) -> int:
        """Bytes of the longest text, line breaks included."""
        if not len(self):
            return 0
        size = np.concatenate([[0], np.cumsum(self.ends - self.starts + 1)])
        return int((size[self.rows[1:]] - size[self.rows[:-1]]).max())

    def text(self, row: int) -> str:
        """Return one text."""
        places = range(int(self.rows[row]), int(self.rows[row + 1]))
        return "\n".join(bytes(self.data[self.starts[p] : self.ends[p]]).decode() for p in places)


def pieces_of(texts: pa.Array | Sequence[str]) -> Pieces:
    """Return texts (an Arrow string column without nulls, or a list) as one piece each, copying nothing of Arrow's."""
    column = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
    if column.type != pa.large_string():
        column = column.cast(pa.large_string())
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    held = column.buffers()[2]
    data = np.frombuffer(held, np.uint8) if held is not None and held.size else np.zeros(0, np.uint8)
    return Pieces(data, offsets[:-1], offsets[1:], np.arange(len(column) + 1, dtype=np.int64))


def shingle_sets(pieces: Pieces, gram: Gram, salts: Hashes | None = None) -> tuple[Hashes, Longs]:
    """Return the sets of all texts, one after the other, each ascending, and their bounds int64[n + 1]."""
    salt = np.zeros(len(pieces), np.uint64) if salts is None else salts
    bounds = np.zeros(len(pieces) + 1, np.int64)
    found = [np.zeros(0, np.uint64)]
    for batch in batches(pieces, gram, salt):
        size = _distinct(batch.shingles, batch.bounds, bounds[batch.first :])
        found.append(batch.shingles[:size].copy())
    return np.concatenate(found), bounds


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts ``first`` and on: text i has ``shingles[bounds[i] : bounds[i + 1]]`` in order, with repetitions, and
    ``sequence[i]``, uint64, equal for equal lists of shingles. The next batch takes the same memory."""

    first: int
    shingles: Hashes
    bounds: Longs
    sequence: Hashes

    def __len__(self) -> int:
        return len(self.sequence)


def batches(pieces: Pieces, gram: Gram, salts: Hashes) -> Iterator[Batch]:
    """Give the shingles of all texts, some at a time."""
    # A byte may fold to two characters.
    room = np.empty(max(BATCH, 2 * pieces.longest() + 8), np.uint64)
    bounds = np.zeros(len(pieces) + 1, np.int64)
    sequence = np.zeros(len(pieces), np.uint64)
    tokens = np.empty(RECENT, np.uint64)
    drawn = (gram.words, gram.characters)
    first = 0
    while first < len(pieces):
        bounds[first] = 0
        row, fits = _shingle(*arguments(pieces), *drawn, salts, first, False, room, bounds, sequence, tokens)
        if row > first:
            yield Batch(first, room, bounds[first : row + 1], sequence[first:row])
        if fits and row < len(pieces):
            alone = pieces_of([fold(pieces.text(row))])
            out = np.empty(2 * alone.longest() + 8, np.uint64)
            ends, hashed = np.zeros(2, np.int64), np.zeros(1, np.uint64)
            own = salts[row : row + 1]
            _shingle(*arguments(alone), *drawn, own, 0, True, out, ends, hashed, tokens)
            yield Batch(row, out, ends, hashed)
            row += 1
        first = row


def arguments(pieces: Pieces) -> tuple[npt.NDArray[np.generic], ...]:
    """Return what a kernel begins with that reads pieces of text."""
    return pieces.data, pieces.starts, pieces.ends, pieces.rows, *tables()


@kernel
def mix(value):  # type: ignore[no-untyped-def]
    """Spread the bits of a 64-bit value (the finaliser of splitmix64)."""
    value = nb.uint64(value)
    value = (value ^ (value >> nb.uint64(30))) * nb.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> nb.uint64(27))) * nb.uint64(0x94D049BB133111EB)
    return value ^ (value >> nb.uint64(31))


@kernel
def _shingle(  # type: ignore[no-untyped-def]
    data, starts, ends, rows, points, longer, pairs,
    words, characters, salts, row, plain, out, bounds, sequences, tokens,
):  # fmt: skip
    """Write the shingles of texts from ``row`` on to ``out``, in order; ``plain`` texts are folded already.

    Returns the row where it stopped, and whether there was room for it: then it must be folded first.
    """
    words_power = nb.uint64(1)
    for _ in range(words):
        words_power *= GRAM_PRIME
    characters_power = nb.uint64(1)
    for _ in range(characters):
        characters_power *= GRAM_PRIME
    texts = len(rows) - 1
    while row < texts:
        begin = bounds[row]
        last = rows[row + 1] - 1
        need = 8
        for piece in range(rows[row], last + 1):
            need += 2 * (ends[piece] - starts[piece] + 1)
        if begin + need > len(out):
            return row, False
        salt = salts[row]
        whole = WORD_SEED
        spoken = False
        gap = False
        count = begin
        run = SEPARATOR  # the kind of the run that is open
        size = 0  # tokens of it
        rolling = nb.uint64(0)
        n = words
        power = words_power
        in_word = False
        word = WORD_SEED
        order = nb.int64(0)
        base = nb.int64(0)
        piece = rows[row]
        at = starts[piece] if piece <= last else 0
        end = ends[piece] if piece <= last else 0
        ended = False
        while not ended:
            if at >= end:
                # Pieces are joined by line breaks; one stands at the end too, and closes what is open.
                piece += 1
                ended = piece > last
                value = nb.int64(10)
                order = nb.int64(0)
                base = nb.int64(10)
                if not ended:
                    at = starts[piece]
                    end = ends[piece]
            elif plain:
                value, at = point_at(data, at)
            else:
                value, at, order, base = folded_at(data, at, order, base, points, pairs)
                if value == -1:
                    return row, True
            for part in range(parts_of(value, longer)):
                point = value if value >= 0 else nb.int64(longer[-2 - value, 1 + part])
                kind = kind_at(point, points)
                if kind == WHITE:
                    gap = spoken
                    kind = SEPARATOR
                else:
                    if gap:
                        whole = (whole ^ nb.uint64(32)) * WORD_PRIME
                        gap = False
                    whole = (whole ^ nb.uint64(point)) * WORD_PRIME
                    spoken = True
                if kind == IGNORED:
                    continue
                if kind == MARK:
                    # A mark belongs to what stands before it: the word, or the run of characters.
                    kind = WORD if in_word or run < 2 else run
                if kind == WORD and in_word:
                    word = (word ^ nb.uint64(point)) * WORD_PRIME
                    continue
                closing = in_word
                in_word = False
                token = word
                fresh = False
                if kind == WORD:
                    in_word = True
                    word = (WORD_SEED ^ nb.uint64(point)) * WORD_PRIME
                elif kind != SEPARATOR:
                    fresh = True
                # Up to two tokens end here: the word before this character, then the character. A third
                # turn closes the last run of the text.
                for step in range(3):
                    if step == 0:
                        wanted_run = WORD
                        if not closing:
                            continue
                    elif step == 1:
                        wanted_run = kind
                        if not fresh:
                            continue
                    else:
                        wanted_run = SEPARATOR
                        if not ended:
                            continue
                    if run != wanted_run:
                        if 0 < size < n:
                            out[count] = mix(rolling ^ SHORT_SALT ^ salt)
                            count += 1
                        run = wanted_run
                        size = 0
                        rolling = nb.uint64(0)
                        n = words if run == WORD else characters
                        power = words_power if run == WORD else characters_power
                    if step == 2:
                        continue
                    hashed = mix(token if step == 0 else nb.uint64(point) * GRAM_PRIME)
                    tokens[size & (RECENT - 1)] = hashed
                    size += 1
                    rolling = rolling * GRAM_PRIME + hashed
                    if size > n:
                        rolling -= tokens[(size - 1 - n) & (RECENT - 1)] * power
                    if size >= n:
                        out[count] = mix(rolling ^ salt)
                        count += 1
            # Most characters go on with a word, and stand by themselves.
            while in_word and at < end and not plain:
                point, after = point_at(data, at)
                if point >= LIMIT or points[point, 2] > 255:
                    break
                value = nb.int64(points[point, 0])
                if value < 0 or kind_at(value, points) != WORD:
                    break
                at = after
                order = nb.int64(0)
                base = point
                whole = (whole ^ nb.uint64(value)) * WORD_PRIME
                word = (word ^ nb.uint64(value)) * WORD_PRIME
        if count - begin < max(words, characters):
            count = begin
            if spoken:
                out[count] = mix(whole ^ WHOLE_SALT ^ salt)
                count += 1
        sequence = nb.uint64(count - begin)
        for index in range(begin, count):
            sequence = sequence * GRAM_PRIME + out[index]
        sequences[row] = mix(sequence)
        row += 1
        bounds[row] = count
    return row, True


@kernel
def _distinct(shingles, bounds, ends):  # type: ignore[no-untyped-def]
    """Sort the shingles of each text in place, each once; ``ends[i]`` is where text i begins. Return how many."""
    size = 0
    for row in range(len(bounds) - 1):
        found = shingles[bounds[row] : bounds[row + 1]]
        sort(found)
        begin = size
        for index in range(len(found)):
            if size == begin or shingles[size - 1] != found[index]:
                shingles[size] = found[index]
                size += 1
        ends[row + 1] = ends[0] + size
    return size
