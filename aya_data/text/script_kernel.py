"""The kernels of :mod:`aya_data.text.script` and :mod:`aya_data.text.language_profile`: letters and words of texts."""

from __future__ import annotations

import numba as nb

from aya_data.text.characters import point_at
from aya_data.text.kernel import kernel

__all__ = ["count_letters", "count_words"]

MULTIPLIER, MIX = nb.uint64(0x9E3779B97F4A7C15), nb.uint64(0xC2B2AE3D27D4EB4F)
"""As in :mod:`aya_data.text.language_profile`, which makes the tables of words and trigrams that are looked up here."""
SPACE, THREE_LETTERS, SHIFT = 32, nb.uint64((1 << 63) - 1), nb.uint64(49)


@kernel
def count_letters(data, offsets, scripts, counts):  # type: ignore[no-untyped-def]
    """Add the characters of each text to ``counts`` int64[texts, scripts], by script number of each code point."""
    for text in range(len(offsets) - 1):
        at = offsets[text]
        end = offsets[text + 1]
        while at < end:
            point, at = point_at(data, at)
            counts[text, scripts[point]] += 1


@kernel
def count_words(  # type: ignore[no-untyped-def]
    data, offsets, limit, profiles, lowers, classes, worths, width, strange_letter, slots, probes, weights, out
):
    """Write strange letters, letters, words, frequent words, trigrams and the sum of their weights of the middle of
    each text to ``out`` int64[texts, 6].

    ``limit`` characters make the middle. ``profiles`` are numbers of profiles, -1 for none: such texts are passed over.
    """
    shift = nb.uint64(46)
    mask = nb.uint64(len(slots) - 1)
    for text in range(len(offsets) - 1):
        profile = profiles[text]
        if profile < 0:
            continue
        at = offsets[text]
        end = offsets[text + 1]
        if end - at > limit:
            count = 0
            for place in range(at, end):
                count += 1 if data[place] & 0xC0 != 0x80 else 0
            left = (count - limit) // 2 if count > limit else 0
            while left > 0:
                _, at = point_at(data, at)
                left -= 1
        base = profile * width
        seen, strange, letters, words, frequent, trigrams, weight = 0, 0, 0, 0, 0, 0, 0
        own = False
        recent = nb.uint64(0)  # the last three letters, the space before a word being one
        value, power = nb.uint64(0), nb.uint64(0)  # no word is open where the power is 0
        while True:
            lower = nb.int64(0)
            if at < end and seen < limit:
                point, at = point_at(data, at)
                seen += 1
                lower = nb.int64(lowers[point])
                worth = worths[base + classes[lower]]
                if worth == strange_letter:
                    strange += 1
                    letters += 1
                elif worth:
                    letters += 1
                if lower:
                    if power == 0:
                        own = worth > 0
                        value, power = nb.uint64(0), nb.uint64(1)
                        recent = nb.uint64(SPACE)
                    value += nb.uint64(lower) * power
                    power *= MULTIPLIER
                    recent = (recent << nb.uint64(21) | nb.uint64(lower)) & THREE_LETTERS
                    if own and recent >> nb.uint64(42):
                        trigrams += 1
                        weight += weights[profile, recent * MULTIPLIER >> SHIFT]
                    continue
            elif power == 0:
                break
            if power and own:
                recent = (recent << nb.uint64(21) | nb.uint64(SPACE)) & THREE_LETTERS
                trigrams += 1
                weight += weights[profile, recent * MULTIPLIER >> SHIFT]
                words += 1
                key = (value ^ (nb.uint64(profile + 1) * MIX)) * MULTIPLIER
                key = (key ^ key >> nb.uint64(29)) * MIX | nb.uint64(1)
                slot = key >> shift
                for probe in range(probes):
                    if slots[(slot + nb.uint64(probe)) & mask] == key:
                        frequent += 1
                        break
            power = nb.uint64(0)
        out[text, 0], out[text, 1], out[text, 2], out[text, 3] = strange, letters, words, frequent
        out[text, 4], out[text, 5] = trigrams, weight
