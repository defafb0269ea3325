"""The index of ``decontaminate``: what is looked for of every benchmark item, and the tables that find it.

An item has up to two texts: its prompt (what users say, in order) and its answer where that is at least
:data:`ANSWER` letters long. Of each text:

- **boilerplate**: letters in grams (5 words, or 10 characters in scripts without spaces) that stand in texts of at
  least ``common`` groups of the benchmarks: templates, instructions, a passage that several questions share. Texts
  that are the same count once;
- the **core**: from the first letter that is not boilerplate to the last, or the whole text where less than
  :data:`CORE` letters are left. Edits are counted against the letters of the core that are not boilerplate. A text
  that is boilerplate throughout must be found to the letter;
- **seeds** of the core, at most :data:`SEEDS`, spread over it, the rarest of each stretch. They end at letters that are
  not boilerplate, unless those are too few for one; then all of the text must stand inside others to the letter;
- **grams** of the whole text that are mostly not boilerplate.

Sizes are in letters of an alphabet; a Han character counts 3, one of hangul, kana or Ethiopic 2.

Cost: 0.1 ms per item to make; a loaded index takes 3 bytes per letter, 16 per seed and 12 per gram.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from aya_data.text.shingles import Pieces

__all__ = ["ANSWER", "SHORTEST", "Index", "Lookup", "build", "load", "record_key"]

Longs = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int32]

ANSWER = 100
"""Letters of an answer that is looked for by itself. Shorter ones are said by chance."""
CORE = 30
CONTAINED = 24
"""Letters from which on a text is looked for inside others; shorter ones must be a whole turn."""
SHORTEST = 10
"""Letters below which a text is only looked for as a whole prompt."""
KINDS = 3
LONGER = (32, 72)
"""Letters from which on seeds of a pattern are longer."""
SEEDS = 48
WEIGHTS = (0, 3, 2, 2, 1)
"""What a seed counts that stands in so many texts."""
BUSY = 12
"""Texts that a seed may stand in, but for the :data:`ALWAYS` rarest of a text."""
ALWAYS = 4
BOILERPLATE = (5, 10)
"""Words, or characters in scripts without spaces, of the grams by which boilerplate is told."""
BATCH = 1 << 22

COLUMNS = pa.schema(
    [
        pa.field("index", pa.string()),
        pa.field("benchmark", pa.string()),
        pa.field("row_key", pa.string()),
        pa.field("upstream", pa.string()),
        pa.field("answers", pa.bool_()),
        pa.field("keys", pa.list_(pa.string())),
        pa.field("prompt_hash", pa.string()),
        pa.field("shared", pa.bool_()),
        pa.field("whole", pa.uint64()),
        pa.field("answer_whole", pa.uint64()),
        pa.field("letters", pa.large_binary()),
        pa.field("flags", pa.large_binary()),
        pa.field("numbers", pa.list_(pa.int32(), 8)),
        pa.field("seeds", pa.large_list(pa.uint64())),
        pa.field("offsets", pa.large_list(pa.int32())),
        pa.field("grams", pa.large_list(pa.uint64())),
        pa.field("prompt", pa.large_string()),
    ]
)
"""One row per text. ``keys`` (upstream records), ``prompt_hash`` and ``prompt`` (for embeddings) are those of the item,
in its first row; ``shared`` says that the prompt alone tells nothing, because several items have it."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """``entries`` uint64[n + 1, 2]: ascending keys, and pattern << 32 | offset in it; the last key is the largest there
    is. ``directory``: the first entry for each value of a key's first bits. ``filter``: 12 bits or more for each key of
    a kind; ``regions`` uint64[3, 2]: first bit and mask of each kind; ``kinds``: which there are."""

    filter: npt.NDArray[np.uint8]
    regions: Hashes
    kinds: npt.NDArray[np.bool_]
    entries: Hashes
    directory: Numbers
    shift: np.uint64


@dataclass(frozen=True, slots=True)
class Index:
    """A loaded index. Pattern i is row i of ``table``; ``patterns`` int32[n, 8]."""

    table: pa.Table
    letters: npt.NDArray[np.uint16]
    flags: npt.NDArray[np.uint8]
    patterns: Numbers
    seeds: Lookup
    grams: Lookup
    keys: pa.Array
    key_of: Longs
    prompts: pa.Array
    prompt_of: Longs
    wholes: Hashes
    whole_of: Longs


def record_key(dataset: str, number: object) -> str:
    """Return the group of a numbered upstream record and its translations, as the builders make it."""
    from aya_data.core.identity import row_key

    return row_key(dataset, f"row:{number}")


# Making an index ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Text:
    item: int
    answers: bool
    text: str


def build(items: list[dict[str, Any]], common: int, words: int, characters: int, prompts: bool) -> pa.Table:
    """Make the index of items: ``benchmark, row_key, upstream, group, keys, prompt_hash, prompt, answer``.

    ``common``, ``words`` and ``characters`` as the settings have them; ``prompts`` keeps the texts of prompts too. The
    result does not depend on the order of ``items``.
    """
    items = sorted(items, key=lambda item: (item["benchmark"], item["row_key"]))
    texts = [
        _Text(number, answers, item["answer" if answers else "prompt"])
        for number, item in enumerate(items)
        for answers in (False, True)
        if not answers or item["answer"]
    ]
    letters, flags, bounds, wholes = _letters([text.text for text in texts])
    groups = _groups([items[text.item]["group"] for text in texts], wholes)
    common_letters = _boilerplate(letters, flags, bounds, groups, common)
    whole_of_answer = {text.item: int(whole) for text, whole in zip(texts, wholes, strict=True) if text.answers}
    prompt_groups: dict[str, set[str]] = {}
    for item in items:
        # Items that are the same in all are one.
        prompt_groups.setdefault(item["prompt_hash"], set()).add(item["answer"] or item["group"])
    patterns, seeds, offsets = _patterns(letters, bounds, common_letters, wholes)
    grams = _grams(letters, flags, bounds, groups, common_letters, common, words, characters)
    marked = flags | common_letters.astype(np.uint8) << 7
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(texts):
        item = items[text.item]
        begin, length = int(patterns[number, 0]), int(patterns[number, 1])
        if text.answers and patterns[number, 6] < ANSWER:
            continue
        shared = not text.answers and len(prompt_groups[item["prompt_hash"]]) >= common
        if shared:  # what many items ask says nothing: it counts with the answer only
            seeds[number], offsets[number], grams[number] = seeds[number][:0], offsets[number][:0], grams[number][:0]
        numbers = patterns[number].copy()
        numbers[5] = len(grams[number])
        rows.append(
            {
                "benchmark": item["benchmark"],
                "row_key": item["row_key"],
                "upstream": item["upstream"],
                "answers": text.answers,
                "keys": [] if text.answers else item["keys"],
                "prompt_hash": None if text.answers else item["prompt_hash"],
                "shared": shared,
                "whole": int(wholes[number]) if patterns[number, 6] >= SHORTEST else 0,
                "answer_whole": whole_of_answer.get(text.item, 0),
                "letters": letters[begin : begin + length].tobytes(),
                "flags": marked[begin : begin + length].tobytes(),
                "numbers": numbers.tolist(),
                "seeds": seeds[number],
                "offsets": offsets[number],
                "grams": grams[number],
                "prompt": item["prompt"] if prompts and not text.answers else None,
            }
        )
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(json.dumps([row["benchmark"], row["row_key"], row["numbers"], row["keys"]]).encode())
        for name in ("letters", "flags"):
            digest.update(row[name])
        for name in ("seeds", "offsets", "grams"):
            digest.update(row[name].tobytes())
        digest.update(f"{row['whole']} {row['prompt_hash']} {row['shared']} {row['answer_whole']}".encode())
    columns = {field.name: [row.get(field.name) for row in rows] for field in COLUMNS}
    columns["index"] = [digest.hexdigest()] * len(rows)
    arrays = [pa.array(columns[field.name], field.type) for field in COLUMNS]
    return pa.Table.from_arrays(arrays, schema=COLUMNS)


def _letters(texts: Sequence[str]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8], Longs, Hashes]:
    """Return the letters and flags of all texts, their bounds int64[n + 1], and the hash of each whole text."""
    from aya_data.text.shingles import pieces_of

    letters: list[npt.NDArray[np.uint16]] = []
    flags: list[npt.NDArray[np.uint8]] = []
    wholes: list[Hashes] = []
    sizes: list[Longs] = []
    batch: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        batch.append(text)
        size += len(text)
        if size >= BATCH or number == len(texts) - 1:
            found = _batch_letters(pieces_of(batch))
            letters.append(found[0])
            flags.append(found[1])
            sizes.append(np.diff(found[2]))
            wholes.append(found[3])
            batch, size = [], 0
    if not texts:
        return np.zeros(0, np.uint16), np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.uint64)
    bounds = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int64)
    return np.concatenate(letters), np.concatenate(flags), bounds, np.concatenate(wholes)


def _batch_letters(pieces: Pieces) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8], Longs, Hashes]:
    from aya_data.filters.decontaminate.letters import letters_of
    from aya_data.text.folding import fold
    from aya_data.text.shingles import arguments, pieces_of

    room = 2 * int((pieces.ends - pieces.starts).sum()) + 64
    # What a text folds to may be longer: room for those is made as they come.
    letters, flags, places = np.zeros(room, np.uint16), np.zeros(room, np.uint8), np.zeros(room, np.int64)
    bounds, wholes = np.zeros(len(pieces) + 1, np.int64), np.zeros(len(pieces), np.uint64)
    turns = np.zeros(2, np.int64)
    row = 0
    while True:
        row = letters_of(*arguments(pieces), row, False, letters, flags, places, turns, wholes, bounds)
        if row == len(pieces):
            return letters[: bounds[-1]].copy(), flags[: bounds[-1]].copy(), bounds, wholes
        alone = pieces_of([fold(pieces.text(row))])
        more = 2 * alone.longest() + 8
        own, own_flags, own_places = np.zeros(more, np.uint16), np.zeros(more, np.uint8), np.zeros(more, np.int64)
        ends = np.zeros(2, np.int64)
        letters_of(*arguments(alone), 0, True, own, own_flags, own_places, turns, wholes[row : row + 1], ends)
        begin, count = int(bounds[row]), int(ends[1])
        if begin + count + room // 2 > len(letters):
            letters = np.concatenate([letters, np.zeros(count + room, np.uint16)])
            flags = np.concatenate([flags, np.zeros(count + room, np.uint8)])
            places = np.concatenate([places, np.zeros(count + room, np.int64)])
        letters[begin : begin + count] = own[:count]
        flags[begin : begin + count] = own_flags[:count]
        row += 1
        bounds[row] = begin + count


def _groups(names: Sequence[str], wholes: Hashes) -> Longs:
    """Number the groups of texts; equal texts are of one group."""
    _, first, same = np.unique(wholes, return_index=True, return_inverse=True)
    numbers: dict[str, int] = {}
    own = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
    merged: Longs = own[first][same] if len(own) else own
    return merged


def _all_grams(
    letters: npt.NDArray[np.uint16], flags: npt.NDArray[np.uint8], bounds: Longs, words: int, characters: int
) -> Iterator[tuple[Hashes, Longs, Longs]]:
    """Yield the grams of each text, and their first and last letters."""
    from aya_data.filters.decontaminate.letters import grams_of

    room = int(np.diff(bounds).max(initial=0)) + 1
    out, tokens = np.zeros(room, np.uint64), np.zeros(room, np.uint64)
    firsts, lasts, heads = (np.zeros(room, np.int64) for _ in range(3))
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        count = grams_of(letters, flags, begin, end, words, characters, out, firsts, lasts, tokens, heads)
        yield out[:count].copy(), firsts[:count].copy(), lasts[:count].copy()


def _frequent(grams: Sequence[Hashes], groups: Longs, common: int) -> Hashes:
    """Return the grams, ascending, that stand in texts of at least ``common`` groups."""
    if not grams:
        return np.zeros(0, np.uint64)
    flat = np.concatenate(grams)
    group = np.repeat(groups, [len(g) for g in grams]).astype(np.uint64)
    order = np.lexsort((group, flat))
    flat, group = flat[order], group[order]
    fresh = np.ones(len(flat), np.bool_)
    fresh[1:] = (flat[1:] != flat[:-1]) | (group[1:] != group[:-1])
    keys, counts = np.unique(flat[fresh], return_counts=True)
    return keys[counts >= common]


def _boilerplate(
    letters: npt.NDArray[np.uint16], flags: npt.NDArray[np.uint8], bounds: Longs, groups: Longs, common: int
) -> npt.NDArray[np.bool_]:
    """Mark the letters that are boilerplate."""
    found = list(_all_grams(letters, flags, bounds, *BOILERPLATE))
    frequent = _frequent([grams for grams, _, _ in found], groups, common)
    edges = np.zeros(len(letters) + 1, np.int64)
    if len(frequent):
        hit = _among(np.concatenate([grams for grams, _, _ in found]), frequent)
        np.add.at(edges, np.concatenate([firsts for _, firsts, _ in found])[hit], 1)
        np.add.at(edges, np.concatenate([lasts for _, _, lasts in found])[hit] + 1, -1)
    marked: npt.NDArray[np.bool_] = np.cumsum(edges[:-1]) > 0
    return marked


def _patterns(
    letters: npt.NDArray[np.uint16], bounds: Longs, common: npt.NDArray[np.bool_], wholes: Hashes
) -> tuple[Numbers, list[Hashes], list[Numbers]]:
    """Choose the core of each text and its seeds: ``numbers`` int32[n, 8], the seeds and their offsets."""
    from aya_data.filters.decontaminate import kernel
    from aya_data.filters.decontaminate.letters import seeds_of

    count = len(bounds) - 1
    first_of = set(np.unique(wholes, return_index=True)[1].tolist())
    numbers = np.zeros((count, kernel.PATTERN_COLUMNS), np.int32)
    room = np.zeros(int(np.diff(bounds).max(initial=0)) + 1, np.uint64)
    found: list[Hashes] = []
    places: list[Longs] = []
    for number in range(count):
        begin, end = int(bounds[number]), int(bounds[number + 1])
        of_text = int(seeds_of(letters, begin, end, 0, room))
        # Where nothing tells an item from others, all of it must stand in a row, to the letter.
        entire = bool(common[begin:end].all())
        masked = common[begin:end] & (not entire)
        own = np.flatnonzero(~masked)
        size = of_text
        if len(own) < end - begin:
            size = of_text * len(own) // (end - begin)
        first, last = begin, end
        if size >= CORE:
            first, last = begin + int(own[0]), begin + int(own[-1]) + 1
        telling = int((~masked[first - begin : last - begin]).sum())
        numbers[number] = (first, last - first, telling, size, 0, 0, of_text, entire or of_text < CONTAINED)
        # Of texts that are the same, the first is looked for.
        if not len(own) or of_text < SHORTEST or number not in first_of:
            found.append(room[:0].copy())
            places.append(np.zeros(0, np.int64))
            continue
        seeds_of(letters, first, last, sum(last - first >= size for size in LONGER), room)
        keys = room[: last - first].copy()
        at = np.flatnonzero((keys != 0) & ~masked[first - begin : last - begin])
        if not len(at):
            # A word or two of its own: the rest must lead to it, and inside other text stand to the letter as well.
            at = np.flatnonzero(keys != 0)
            numbers[number, kernel.WHOLE] = 1
        found.append(keys[at])
        places.append(at)
    seeds, offsets = _chosen(found, places, numbers[:, 1])
    return numbers, seeds, offsets


def _chosen(found: list[Hashes], places: list[Longs], lengths: Numbers) -> tuple[list[Hashes], list[Numbers]]:
    """Choose the rarest seed of each of :data:`SEEDS` stretches of a text; of equals the first by hash."""
    count = len(found)
    if not count:
        return [], []
    flat, at = np.concatenate(found), np.concatenate(places)
    text = np.repeat(np.arange(count), [len(keys) for keys in found])
    _, slot, frequency = np.unique(flat, return_inverse=True, return_counts=True)
    often = frequency[slot]
    stretch = at * SEEDS // np.maximum(lengths[text], SEEDS)
    order = np.lexsort((at, flat, often, stretch, text))
    fresh = np.ones(len(order), np.bool_)
    fresh[1:] = (text[order][1:] != text[order][:-1]) | (stretch[order][1:] != stretch[order][:-1])
    rarest = np.lexsort((at, flat, often, text))
    place = np.arange(len(rarest)) - np.searchsorted(text[rarest], text[rarest])
    always = np.zeros(len(flat), np.bool_)
    always[rarest[place < ALWAYS]] = True
    kept = order[always[order] | (fresh & (often[order] <= BUSY))]
    bounds = np.searchsorted(text[kept], np.arange(count + 1))
    pairs = [(flat[kept[a:b]], at[kept[a:b]].astype(np.int32)) for a, b in pairwise(bounds)]
    return [keys for keys, _ in pairs], [offsets for _, offsets in pairs]


def _grams(
    letters: npt.NDArray[np.uint16],
    flags: npt.NDArray[np.uint8],
    bounds: Longs,
    groups: Longs,
    common: npt.NDArray[np.bool_],
    least: int,
    words: int,
    characters: int,
) -> list[Hashes]:
    """Return the grams of each text that tell something, each once, ascending."""
    if len(bounds) == 1:
        return []
    masked = np.concatenate([[0], np.cumsum(common)])
    found = list(_all_grams(letters, flags, bounds, words, characters))
    frequent = _frequent([grams for grams, _, _ in found], groups, least)
    grams, firsts, lasts = (np.concatenate([own[place] for own in found]) for place in range(3))
    telling = 2 * (masked[lasts + 1] - masked[firsts]) <= lasts + 1 - firsts
    telling &= ~_among(grams, frequent)
    ends = np.cumsum([0, *(len(own[0]) for own in found)])
    return [np.sort(np.array(list(set(grams[a:b][telling[a:b]].tolist())), np.uint64)) for a, b in pairwise(ends)]


def _among(values: Hashes, ascending: Hashes) -> npt.NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    found: npt.NDArray[np.bool_] = (
        ascending[np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)] == values
    )
    return found


# Loading ------------------------------------------------------------------------------------------


_latest: dict[str, Index] = {}


def load(table: pa.Table) -> Index:
    """Return the tables of an index, made once per process: 0.2 microseconds per seed."""
    name = str(table["index"][0]) if len(table) else ""
    if name not in _latest:
        found = _load(table)
        _latest.clear()
        _latest[name] = found
    return _latest[name]


def _load(table: pa.Table) -> Index:
    table = table.combine_chunks()
    numbers = _values(table["numbers"].combine_chunks().flatten(), np.int32).reshape(-1, 8).copy()
    letters, starts = _binary(table["letters"], np.uint16)
    flags, _ = _binary(table["flags"], np.uint8)
    numbers[:, 0] = starts
    keys, owners = _lists(table["seeds"], np.uint64)
    kinds = np.searchsorted(np.array(LONGER), numbers[:, 1], side="right").astype(np.uint8)[owners]
    # Letters that are worth more have seeds of the first kind alone.
    kinds[(keys & np.uint64(2)) == 0] = 0
    seeds = _lookup(keys, owners, kinds, _lists(table["offsets"], np.int32)[0])
    numbers[:, 4] = _needed(seeds, len(numbers))
    keys, owners = _lists(table["grams"], np.uint64)
    grams = _lookup(keys, owners, np.zeros(len(keys), np.uint8), np.zeros(len(keys), np.int32))
    keys = table["keys"].combine_chunks()
    flat = keys.flatten()
    key_of = np.repeat(np.arange(len(keys)), keys.value_lengths().to_numpy(zero_copy_only=False))
    flat_keys, key_of = _first_of_each(flat, key_of)
    hashes = table["prompt_hash"].combine_chunks()
    known = np.flatnonzero(hashes.is_valid().to_numpy(zero_copy_only=False))
    prompts, prompt_of = _first_of_each(hashes.take(pa.array(known)), known)
    wholes = table["whole"].to_numpy()
    usable = np.flatnonzero((wholes != 0) & ~table["shared"].to_numpy())
    values, first = np.unique(wholes[usable], return_index=True)
    found = usable[first]
    return Index(table, letters, flags, numbers, seeds, grams, flat_keys, key_of, prompts, prompt_of, values, found)


def _first_of_each(values: pa.Array, owners: Longs) -> tuple[pa.Array, Longs]:
    encoded = values.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    _, first = np.unique(codes, return_index=True)
    return encoded.dictionary, owners[first] if len(owners) else owners


def _values(array: pa.Array, kind: type[np.generic]) -> npt.NDArray[Any]:
    if not len(array):
        return np.zeros(0, kind)
    return np.asarray(array.to_numpy(zero_copy_only=False)).astype(kind, copy=False)


def _lists(column: pa.ChunkedArray, kind: type[np.generic]) -> tuple[npt.NDArray[Any], Longs]:
    lists = column.combine_chunks()
    values = _values(lists.flatten(), kind)
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    return values, np.repeat(np.arange(len(lists)), lengths)


def _binary(column: pa.ChunkedArray, kind: type[np.generic]) -> tuple[npt.NDArray[Any], Longs]:
    """Return the values of all cells in one array, and where each cell begins."""
    cells = column.combine_chunks()
    width = np.dtype(kind).itemsize
    offsets = np.frombuffer(cells.buffers()[1], np.int64)[cells.offset : cells.offset + len(cells) + 1]
    held = cells.buffers()[2]
    if held is None or not len(cells) or offsets[0] == offsets[-1]:
        return np.zeros(0, kind), np.zeros(len(cells), np.int64)
    data = np.frombuffer(held, np.uint8)[offsets[0] : offsets[-1]].copy().view(kind)
    return data, (offsets[:-1] - offsets[0]) // width


def _lookup(keys: Hashes, owners: Longs, kinds: npt.NDArray[np.uint8], offsets: Numbers) -> Lookup:
    order = np.lexsort((offsets, owners, keys))
    entries = np.full((len(keys) + 1, 2), np.iinfo(np.uint64).max, np.uint64)
    entries[:-1, 0] = keys[order]
    entries[:-1, 1] = owners[order].astype(np.uint64) << np.uint64(32) | offsets[order].astype(np.uint64)
    # A seed of one text tells more than one of many.
    _, slot, often = np.unique(entries[:-1, 0], return_inverse=True, return_counts=True)
    weights = np.array(WEIGHTS, np.uint64)[np.minimum(often, len(WEIGHTS) - 1)][slot]
    entries[:-1, 1] |= weights << np.uint64(24)
    bits = max(8, len(keys).bit_length())
    shift = np.uint64(64 - bits)
    firsts = np.arange((1 << bits) + 1, dtype=np.uint64)
    directory = np.searchsorted(entries[:-1, 0] >> shift, firsts).astype(np.int32)
    regions = np.zeros((KINDS, 2), np.uint64)
    held = []
    first = 0
    for kind in range(KINDS):
        own = np.unique(keys[kinds == kind])
        size = 1 << max(10, (12 * len(own)).bit_length())
        regions[kind] = first, size - 1
        bit = (own >> np.uint64(9)) & np.uint64(size - 1)
        part = np.zeros(size // 8, np.uint8)
        single = np.uint8(1) << (bit & np.uint64(7)).astype(np.uint8)
        np.bitwise_or.at(part, (bit >> np.uint64(3)).astype(np.int64), single)
        held.append(part)
        first += size
    return Lookup(np.concatenate(held), regions, np.bincount(kinds, minlength=KINDS) > 0, entries, directory, shift)


def _needed(seeds: Lookup, count: int) -> Numbers:
    """Return the weight of seeds from which on a text is looked at: a few, at most half of what it has."""
    patterns = (seeds.entries[:-1, 1] >> np.uint64(32)).astype(np.int64)
    weights = (seeds.entries[:-1, 1] >> np.uint64(24)) & np.uint64(0xFF)
    own = np.bincount(patterns, minlength=count)
    total = np.bincount(patterns, weights.astype(np.float64), minlength=count).astype(np.int64)
    wanted = 4 + (own >= 12) + (own >= 24)
    least: Numbers = np.maximum(1, np.minimum(wanted, total // 2)).astype(np.int32)
    return least


def upstream_id(extra: Mapping[str, Any]) -> str | None:
    """Return the id that a source gave an item, for people to find it by."""
    for name in ("id", "_id", "uid", "question_id", "source_id"):
        value = extra.get(name)
        if value is not None:
            return str(value)[:80]
    return None
