"""Relevance: how far an answer is about its prompt, told by its terms alone, in every script.

**Terms** of a text are its words (NFKC, case folded, cut to :data:`CUT` characters, so that most inflected forms of a
long word are one term) and, in scripts without spaces, the n-grams of each run of characters (two of Han and kana, four
of Thai and the like). Each term weighs more the longer it is, ``(letters - 2)²`` between three and eight letters:
frequent words are short in every language (Zipf's law of abbreviation; Bentz and Ferrer-i-Cancho 2016), so small words
count for next to nothing, and no list of words is needed. A character of a syllabary or of Han counts as several
letters (:data:`~aya_data.text.script.LETTERS_PER_CHARACTER`), a digit as two.

Two questions are asked of an answer:

* **recall**: which share of the prompt's terms, by weight, stands in it too, quotations of the prompt left out (runs of
  :data:`COPIED` terms);
* **agreement**: what the answers of *other* teachers to the same prompt have in common with it: the mean over them of
  the cosine between sets of terms. Terms that stand in the prompt count less, the more of what is usually answered is
  new (in the median): an answer that only repeats its prompt agrees with nobody. The agreement is divided by its median
  over the teachers, so that a prompt with many right answers (a story) asks for no more than one with few. A teacher's
  own samples never speak for each other.

An answer that says the same to every prompt shares little with its prompt and less with what others say about it; that
it says the same elsewhere need not be known. All sums are of integers: the order of teachers and samples cannot change
a bit of the result.

The cosine of term vectors is Salton's (1975, "A vector space model for automatic indexing"); choosing the answer that
agrees most with the others is the idea of consensus decoding (Kumar and Byrne 2004, "Minimum Bayes-risk decoding"),
cutting words to their beginning that of McNamee and Mayfield (2004, "Character n-gram tokenization").

Cost: 26 microseconds for an answer of 1,000 characters beside 27 others; linear in characters. Compiling takes some 3 s
once per machine. Memory: some 30 bytes per character of the texts that are looked at together.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numba as nb
import numpy as np
import numpy.typing as npt

from aya_data.text.folding import IGNORED, LIMIT, MARK, WHITE, WORD, fold, tables
from aya_data.text.kernel import inner_kernel, kernel
from aya_data.text.repetition import repeated_grams, repeated_lines, table
from aya_data.text.script import LETTERS_PER_CHARACTER, letter_table

__all__ = ["CUT", "Agreement", "Terms", "agreement", "terms"]

CUT = 6
"""Characters of a word that tell it from others."""
HAN_GRAM, OTHER_GRAM = 2, 4
"""Characters of a term in Han and kana, and in other scripts without spaces."""
REPEATED_WORDS, REPEATED_CHARACTERS = 4, 8
"""Terms of a repetition, where words are spaced and where not."""
UNIT = 64
"""The weight of the longest words."""
DIGIT = 2
COPIED = 6
"""Terms in the order of the prompt from which on they are a quotation of it."""
SCALE = 1 << 28
"""Cosines are summed in units of 1 / SCALE²: exact in any order for up to some thousand teachers."""
HAN = 2

Longs = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Shares = npt.NDArray[np.float64]

SEED, PRIME = nb.uint64(0xCBF29CE484222325), nb.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of n texts, with repetitions, in order: text i has ``hashes[bounds[i] : bounds[i + 1]]`` (uint64) with
    ``weights`` (int64, 1 to :data:`UNIT`).

    Two shares of each text, float64[n] from 0 to 1: ``repeated`` of it stands in lines or runs of terms that stood
    before; ``solid`` of its characters, white space aside, are letters, marks or digits.
    """

    hashes: Hashes
    weights: Longs
    bounds: Longs
    repeated: Shares
    solid: Shares


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of n answers, float64[n]: ``relative`` agreement with other teachers (1 is usual, not a number where there is
    none to be had), ``recall`` of the prompt's terms, and ``new``, the share of its terms, by weight, that are not the
    prompt's. ``prompt`` int64[n] is the weight of the prompt's terms, ``own`` int64[n] of the answer's."""

    relative: Shares
    recall: Shares
    new: Shares
    prompt: Longs
    own: Longs


def terms(texts: Sequence[str]) -> Terms:
    """Find the terms of texts. Nothing raises for what a text holds."""
    folded = [_folded(text) for text in texts]
    points = np.frombuffer("".join(folded).encode("utf-32-le", "surrogatepass"), np.int32)
    bounds = np.concatenate([[0], np.cumsum(np.fromiter(map(len, folded), np.int64, len(folded)))])
    longest = int(np.diff(bounds).max(initial=0))
    size = len(points) + len(folded) + 1
    hashes, weights, sizes = np.empty(size, np.uint64), np.empty(size, np.int64), np.empty(size, np.int32)
    ends = np.zeros(len(folded) + 1, np.int64)
    repeated, solid = np.zeros(len(folded)), np.zeros(len(folded))
    kinds, letters, white = _characters()
    keys, stamps, counts, places = table(longest)
    _terms(
        points, bounds, kinds, letters, white, hashes, weights, sizes, ends, repeated, solid, keys, stamps, counts,
        places, np.zeros(OTHER_GRAM, np.uint64),
    )  # fmt: skip
    count = int(ends[-1])
    return Terms(hashes[:count].copy(), weights[:count].copy(), ends, repeated, solid)


def agreement(prompts: Terms, answers: Terms, group: Longs, teacher: Longs) -> Agreement:
    """Compare answers with their prompts and with each other.

    ``group`` int64[n]: the number of each answer's prompt in ``prompts``; answers to one prompt stand together.
    ``teacher`` int64[n]: any number that tells teachers apart, those of one teacher together within a group.
    """
    n = len(group)
    starts = np.flatnonzero(np.diff(group, prepend=np.int64(-1))) if n else np.zeros(0, np.int64)
    ends = np.append(starts[1:], n).astype(np.int64)
    sizes = answers.bounds[ends] - answers.bounds[starts] if n else np.zeros(0, np.int64)
    prompt_sizes = np.diff(prompts.bounds)[group[starts]] if n else sizes
    room = int((sizes + prompt_sizes).max(initial=0))
    slots = 1 << max(6, int(2 * room + 2).bit_length())
    whole, fresh = np.zeros(n), np.zeros(n)
    own, own_new, hit, asked = (np.zeros(n, np.int64) for _ in range(4))
    _agree(
        prompts.hashes, prompts.weights, prompts.bounds, answers.hashes, answers.weights, answers.bounds,
        group, teacher, starts, ends, whole, fresh, own, own_new, hit, asked,
        np.zeros(slots, np.uint64), np.zeros(slots, np.int64), np.zeros(slots, np.int64), np.zeros(slots, np.int64),
        np.zeros(slots, np.int64), np.zeros(slots, np.bool_), np.zeros(room + 1, np.int64), np.zeros(n + 1, np.int64),
        np.zeros(slots, np.uint64), np.zeros(slots, np.int64), np.zeros(slots, np.int64), np.zeros(room + 1, np.bool_),
    )  # fmt: skip
    new = own_new / np.maximum(own, 1)
    relative = np.full(n, np.nan)
    for first, last in zip(starts.tolist(), ends.tolist(), strict=True):
        relative[first:last] = _relative(whole[first:last], fresh[first:last], new[first:last], teacher[first:last])
    return Agreement(relative, hit / np.maximum(asked, 1), new, asked, own)


def _relative(whole: Shares, fresh: Shares, new: Shares, teacher: Longs) -> Shares:
    """Return the agreement of the answers to one prompt, over its median; not a number for fewer than three teachers:
    two agree with each other as much as the one with the other."""
    starts = np.flatnonzero(np.diff(teacher, prepend=teacher[0] - 1))
    if len(starts) < 3:
        return np.full(len(whole), np.nan)
    share = float(np.median([_mean(part) for part in np.split(new, starts[1:])]))
    mixed = (1 - share) * whole + share * fresh
    usual = float(np.median([_mean(part) for part in np.split(mixed, starts[1:])]))
    return mixed / usual if usual > 0 else np.full(len(whole), np.nan)


def _mean(values: Shares) -> float:
    """Return the mean, the same in any order."""
    return float(np.sort(values).sum()) / len(values)


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else fold(text)


@cache
def _characters() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Return the kind of each character below the limit, how many letters it is worth, and whether it is white."""
    names, numbers = letter_table()
    worth = np.array([LETTERS_PER_CHARACTER.get(name, 1) for name in names], np.uint8)
    letters = worth[numbers[:LIMIT]]
    digits = [point for point in range(LIMIT) if unicodedata.category(chr(point)) == "Nd"]
    letters[digits] = DIGIT
    white = np.zeros(LIMIT, np.bool_)
    white[[point for point in range(0x3001) if chr(point).isspace()]] = True
    return tables().kind, letters, white


@kernel
def _terms(  # type: ignore[no-untyped-def]
    points, bounds, kinds, letters, white, hashes, weights, sizes, ends, repeated, solid, keys, stamps, counts,
    places, recent,
):  # fmt: skip
    stamp = 0
    count = 0
    for text in range(len(bounds) - 1):
        begin = count
        unspaced = 0
        kind_of_run = 0
        run = 0  # characters of the open run, or of the open word
        worth = 0
        token = SEED
        shown = 0
        letters_shown = 0
        for at in range(bounds[text], bounds[text + 1] + 1):
            kind = 0
            point = 10
            if at < bounds[text + 1]:
                point = nb.int64(points[at])
                kind = nb.int64(kinds[point]) if point < LIMIT else (HAN if point <= 0x3FFFF else 0)
                if kind == IGNORED:
                    continue
                if kind == MARK:
                    # A mark belongs to what it stands on.
                    kind = kind_of_run
                shown += kind != WHITE
                if kind == WHITE:
                    kind = 0
                letters_shown += kind != 0
            if kind != kind_of_run:
                n = HAN_GRAM if kind_of_run == HAN else OTHER_GRAM
                if kind_of_run == WORD or (kind_of_run >= HAN and run < n):
                    excess = min(max(worth - 2, 0), 6)
                    hashes[count] = token
                    weights[count] = max(1, UNIT * excess * excess // 36)
                    sizes[count] = run
                    count += 1
                    unspaced += kind_of_run != WORD
                kind_of_run = kind
                run = 0
                worth = 0
                token = SEED
            if kind == 0:
                continue
            one = nb.int64(letters[point]) if point < LIMIT else 3
            if kind == WORD:
                if run < CUT:
                    token = (token ^ nb.uint64(point)) * PRIME
                    worth += one
                run += 1
                continue
            n = HAN_GRAM if kind == HAN else OTHER_GRAM
            token = (token ^ nb.uint64(point)) * PRIME
            recent[run % n] = nb.uint64(point) << nb.uint64(8) | nb.uint64(one)
            run += 1
            worth += one
            if run >= n:
                gram = SEED ^ nb.uint64(n)
                worth = 0
                for back in range(n):
                    past = recent[(run + back) % n]
                    gram = (gram ^ (past >> nb.uint64(8))) * PRIME
                    worth += nb.int64(past & nb.uint64(255))
                excess = min(max(worth - 2, 0), 6)
                hashes[count] = gram
                weights[count] = max(1, UNIT * excess * excess // 36)
                sizes[count] = 1
                count += 1
                unspaced += 1
        ends[text + 1] = count
        solid[text] = letters_shown / max(shown, 1)
        total = 0
        for index in range(begin, count):
            total += sizes[index]
        n = REPEATED_CHARACTERS if 2 * unspaced > count - begin else REPEATED_WORDS
        stamp += 1
        again, _, _, _ = repeated_grams(
            hashes[begin:count], sizes[begin:count], count - begin, n, keys, stamps, counts, stamp
        )
        stamp += 1
        own = points[bounds[text] : bounds[text + 1]]
        all_lines, lines, _ = repeated_lines(own, len(own), white, LIMIT, keys, stamps, places, stamp)
        repeated[text] = max(again / max(total, 1), lines / max(all_lines, 1))


@inner_kernel
def _leaving():  # type: ignore[no-untyped-def]
    """Return what a term that leaves a run is multiplied by."""
    power = nb.uint64(1)
    for _ in range(COPIED):
        power *= PRIME
    return power


@inner_kernel
def _find_run(rolling, runs, stamps, base):  # type: ignore[no-untyped-def]
    """Return the slot of a run, or the free one where it would be."""
    mask = len(runs) - 1
    slot = nb.int64((rolling ^ (rolling >> nb.uint64(29))) & nb.uint64(mask))
    while stamps[slot] == base and runs[slot] != rolling:
        slot = (slot + 1) & mask
    return slot


@inner_kernel
def _note_runs(hashes, runs, stamps, base):  # type: ignore[no-untyped-def]
    """Note all runs of :data:`COPIED` terms of a prompt."""
    power = _leaving()
    rolling = nb.uint64(0)
    for at in range(len(hashes)):
        rolling = rolling * PRIME + hashes[at]
        if at >= COPIED:
            rolling -= hashes[at - COPIED] * power
        if at >= COPIED - 1:
            slot = _find_run(rolling, runs, stamps, base)
            stamps[slot] = base
            runs[slot] = rolling


@inner_kernel
def _quotations(hashes, runs, stamps, base, quoted):  # type: ignore[no-untyped-def]
    """Mark the terms of an answer that stand in a run of its prompt."""
    power = _leaving()
    rolling = nb.uint64(0)
    for at in range(len(hashes)):
        quoted[at] = False
        rolling = rolling * PRIME + hashes[at]
        if at >= COPIED:
            rolling -= hashes[at - COPIED] * power
        if at >= COPIED - 1 and stamps[_find_run(rolling, runs, stamps, base)] == base:
            for back in range(COPIED):
                quoted[at - back] = True


@inner_kernel
def _speak(begin, end, sign, own, own_new, chosen, bounds, sums, new_sums):  # type: ignore[no-untyped-def]
    """Add (or take away) what the answers of one teacher say to the sums of their terms."""
    for text in range(begin, end):
        share = nb.int64(SCALE / np.sqrt(nb.float64(max(own[text], 1))) / (end - begin)) * sign
        new_share = nb.int64(SCALE / np.sqrt(nb.float64(max(own_new[text], 1))) / (end - begin)) * sign
        for index in range(bounds[text], bounds[text + 1]):
            sums[chosen[index]] += share
            new_sums[chosen[index]] += new_share


@kernel
def _agree(  # type: ignore[no-untyped-def]
    prompt_hashes, prompt_weights, prompt_bounds, hashes, weights, bounds, group, teacher, starts, ends,
    whole, fresh, own, own_new, hit, asked, keys, stamps, sums, new_sums, weight, in_prompt, chosen, chosen_bounds,
    runs, run_stamps, hits, quoted,
):  # fmt: skip
    """``stamps`` of a slot is the text that used it last, counted from 1; below ``base`` it is of another group."""
    mask = nb.uint64(len(keys) - 1)
    stamp = 0
    for number in range(len(starts)):
        first, last = starts[number], ends[number]
        stamp += 1
        base = stamp
        of_prompt = 0
        prompt = group[first]
        for index in range(prompt_bounds[prompt], prompt_bounds[prompt + 1]):
            key = prompt_hashes[index]
            slot = nb.int64((key ^ (key >> nb.uint64(29))) & mask)
            while stamps[slot] >= base and keys[slot] != key:
                slot = (slot + 1) & nb.int64(mask)
            if stamps[slot] < base:
                stamps[slot] = stamp
                keys[slot] = key
                sums[slot] = 0
                new_sums[slot] = 0
                weight[slot] = prompt_weights[index]
                in_prompt[slot] = True
                of_prompt += prompt_weights[index]
                hits[slot] = 0
        _note_runs(prompt_hashes[prompt_bounds[prompt] : prompt_bounds[prompt + 1]], runs, run_stamps, base)
        # The distinct terms of each answer, as slots.
        count = 0
        for text in range(first, last):
            stamp += 1
            chosen_bounds[text] = count
            asked[text] = of_prompt
            begin, end = bounds[text], bounds[text + 1]
            _quotations(hashes[begin:end], runs, run_stamps, base, quoted)
            for index in range(begin, end):
                key = hashes[index]
                slot = nb.int64((key ^ (key >> nb.uint64(29))) & mask)
                while stamps[slot] >= base and keys[slot] != key:
                    slot = (slot + 1) & nb.int64(mask)
                if stamps[slot] < base:
                    keys[slot] = key
                    sums[slot] = 0
                    new_sums[slot] = 0
                    hits[slot] = 0
                    weight[slot] = weights[index]
                    in_prompt[slot] = False
                if in_prompt[slot] and not quoted[index - begin] and hits[slot] != stamp:
                    hits[slot] = stamp
                    hit[text] += weight[slot]
                if stamps[slot] == stamp:
                    continue
                stamps[slot] = stamp
                chosen[count] = slot
                count += 1
                own[text] += weight[slot]
                if not in_prompt[slot]:
                    own_new[text] += weight[slot]
        chosen_bounds[last] = count
        # Every teacher speaks once: its samples share its voice.
        teachers = 0
        begin = first
        while begin < last:
            end = begin
            while end < last and teacher[end] == teacher[begin]:
                end += 1
            teachers += 1
            _speak(begin, end, 1, own, own_new, chosen, chosen_bounds, sums, new_sums)
            begin = end
        begin = first
        while begin < last:
            end = begin
            while end < last and teacher[end] == teacher[begin]:
                end += 1
            _speak(begin, end, -1, own, own_new, chosen, chosen_bounds, sums, new_sums)
            for text in range(begin, end):
                total = 0
                new_total = 0
                for index in range(chosen_bounds[text], chosen_bounds[text + 1]):
                    slot = chosen[index]
                    total += weight[slot] * sums[slot]
                    if not in_prompt[slot]:
                        new_total += weight[slot] * new_sums[slot]
                others = max(teachers - 1, 1) * nb.float64(SCALE)
                whole[text] = total / np.sqrt(nb.float64(max(own[text], 1))) / others
                fresh[text] = new_total / np.sqrt(nb.float64(max(own_new[text], 1))) / others
            _speak(begin, end, 1, own, own_new, chosen, chosen_bounds, sums, new_sums)
            begin = end
