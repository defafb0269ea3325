"""Characters, as compiled kernels read them: from UTF-8, one by one, into folded ones.

What :mod:`aya_data.text.folding` says of a character holds in a text where no character composes with what stands
before it and marks stand in canonical order. :func:`stands` notices the others.
"""

from __future__ import annotations

import numba as nb

from aya_data.text.folding import COMPATIBLE, IGNORED, LIMIT, SEPARATOR
from aya_data.text.kernel import written_out

__all__ = ["HAN", "folded_at", "kind_at", "parts_of", "point_at", "stands"]

HAN_FROM, HAN_TO, HAN = 0x20000, 0x3FFFF, 2
SELECTORS_FROM, SELECTORS_TO = 0xE0000, 0xE0FFF
JAMO_FROM, JAMO_TO = 0x1161, 0x11C2


@written_out
def point_at(data, at):  # type: ignore[no-untyped-def]
    """Return the code point that begins at a byte of valid UTF-8, and where the next one does."""
    point = nb.int64(data[at])
    if point < 0x80:
        return point, at + 1
    second = nb.int64(data[at + 1]) & 0x3F
    if point < 0xE0:
        return (point & 0x1F) << 6 | second, at + 2
    third = nb.int64(data[at + 2]) & 0x3F
    if point < 0xF0:
        return (point & 0x0F) << 12 | second << 6 | third, at + 3
    return (point & 0x07) << 18 | second << 12 | third << 6 | (nb.int64(data[at + 3]) & 0x3F), at + 4


@written_out
def stands(point, order, base, points, pairs):  # type: ignore[no-untyped-def]
    """Tell whether a character stays as it is after what stands before it; return what the next one stands after.

    ``order`` is the combining class before it, ``base`` the last character that is no mark: 0 both at the beginning.
    ``points`` and ``pairs`` are those of :class:`~aya_data.text.folding.Tables`. In doubt the answer is no.
    """
    if point >= LIMIT:
        return not COMPATIBLE[0] <= point <= COMPATIBLE[1], nb.int64(0), nb.int64(0)
    bits = nb.int64(points[point, 2])
    if bits < 256:
        return True, nb.int64(0), point
    mine = bits >> 8 & 255
    fits = mine == 0 or mine >= order
    if bits >> 24:
        if JAMO_FROM <= point <= JAMO_TO:
            fits = False
        wanted = nb.uint64(points[base, 1]) << nb.uint64(32) | nb.uint64(point)
        low = 0
        high = len(pairs)
        while low < high:
            middle = (low + high) >> 1
            if pairs[middle] < wanted:
                low = middle + 1
            else:
                high = middle
        if low < len(pairs) and pairs[low] == wanted:
            fits = False
    if mine == 0 or points[point, 1] != point:
        base = point
    return fits, bits >> 16 & 255, base


@written_out
def folded_at(data, at, order, base, points, pairs):  # type: ignore[no-untyped-def]
    """Return what the character at a byte folds to, where the next begins, and what that one stands after.

    -1 says that its text must be folded as a whole, -2 - i that row i of ``longer`` holds what it folds to.
    """
    if data[at] < 0x80:
        point = nb.int64(data[at])
        return nb.int64(points[point, 0]), at + 1, nb.int64(0), point
    point, at = point_at(data, at)
    fits, order, base = stands(point, order, base, points, pairs)
    if not fits:
        return nb.int64(-1), at, order, base
    return point if point >= LIMIT else nb.int64(points[point, 0]), at, order, base


@written_out
def parts_of(value, longer):  # type: ignore[no-untyped-def]
    """Return how many characters :func:`folded_at` says."""
    return nb.int64(1) if value >= 0 else nb.int64(longer[-2 - value, 0])


@written_out
def kind_at(point, points):  # type: ignore[no-untyped-def]
    """Return the kind of a folded character, as :func:`aya_data.text.folding.kind_of` does."""
    if point < LIMIT:
        return nb.int64(points[point, 2]) & 255
    if HAN_FROM <= point <= HAN_TO:
        return nb.int64(HAN)
    return nb.int64(IGNORED if SELECTORS_FROM <= point <= SELECTORS_TO else SEPARATOR)
