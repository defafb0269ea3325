"""The kernel of :mod:`aya_data.text.normal`: one pass over the bytes of a column."""

from __future__ import annotations

import numba as nb

from aya_data.text.characters import folded_at, parts_of
from aya_data.text.folding import LIMIT, WHITE
from aya_data.text.kernel import kernel

__all__ = ["LARGEST", "normalise"]

LARGEST = 8
"""How many bytes one byte may become, at most: two of UTF-8 fold to four characters of four."""


@kernel
def normalise(data, offsets, points, longer, pairs, row, out, ends):  # type: ignore[no-untyped-def]
    """Write the texts from ``row`` on, folded and with single spaces, to ``out``, and where each ends to ``ends[1:]``.

    Returns the row where it stopped, and whether that must be folded first: then it is no matter of room.
    """
    first = row
    texts = len(offsets) - 1
    size = nb.int64(0)
    while row < texts:
        at = offsets[row]
        end = offsets[row + 1]
        if size + LARGEST * (end - at) > len(out):
            return row, False
        begin = size
        gap = 0
        order = nb.int64(0)
        base = nb.int64(0)
        while at < end:
            value, at, order, base = folded_at(data, at, order, base, points, pairs)
            if value == -1:
                return row, True
            for part in range(parts_of(value, longer)):
                point = value if value >= 0 else nb.int64(longer[-2 - value, 1 + part])
                if point < LIMIT and points[point, 2] & 255 == WHITE:
                    gap = 1 if size > begin else 0
                    continue
                if gap:
                    out[size] = 32
                    size += 1
                    gap = 0
                if point < 0x80:
                    out[size] = point
                    size += 1
                elif point < 0x800:
                    out[size] = 0xC0 | point >> 6
                    out[size + 1] = 0x80 | (point & 0x3F)
                    size += 2
                elif point < 0x10000:
                    out[size] = 0xE0 | point >> 12
                    out[size + 1] = 0x80 | (point >> 6 & 0x3F)
                    out[size + 2] = 0x80 | (point & 0x3F)
                    size += 3
                else:
                    out[size] = 0xF0 | point >> 18
                    out[size + 1] = 0x80 | (point >> 12 & 0x3F)
                    out[size + 2] = 0x80 | (point >> 6 & 0x3F)
                    out[size + 3] = 0x80 | (point & 0x3F)
                    size += 4
        row += 1
        ends[row - first] = size
    return row, False
