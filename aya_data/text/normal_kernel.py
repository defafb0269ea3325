"""The kernel of :mod:`aya_data.text.normal`: one pass over the bytes of a column."""

from __future__ import annotations

import numba as nb

from aya_data.text.folding import COMPATIBLE, LIMIT, WHITE
from aya_data.text.kernel import kernel

__all__ = ["LARGEST", "normalise"]

LARGEST = 8
"""How many bytes one byte may become, at most: two of UTF-8 fold to four characters of four."""


@kernel
def normalise(  # type: ignore[no-untyped-def]
    data, offsets, folded, longer, kinds, orders, bases, seconds, pairs, tails, row, out, ends
):
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
        last_order = 0
        last_base = 0
        while at < end:
            left = 1
            place = 0
            longest = 0
            point = nb.int64(data[at])
            if point < 0x80:
                at += 1
                last_order = 0
                last_base = point
                point = nb.int64(folded[point])
            else:
                if point < 0xE0:
                    point = (point & 0x1F) << 6 | (nb.int64(data[at + 1]) & 0x3F)
                    at += 2
                elif point < 0xF0:
                    point = (
                        (point & 0x0F) << 12 | (nb.int64(data[at + 1]) & 0x3F) << 6 | (nb.int64(data[at + 2]) & 0x3F)
                    )
                    at += 3
                else:
                    point = (
                        (point & 0x07) << 18
                        | (nb.int64(data[at + 1]) & 0x3F) << 12
                        | (nb.int64(data[at + 2]) & 0x3F) << 6
                        | (nb.int64(data[at + 3]) & 0x3F)
                    )
                    at += 4
                if point < LIMIT:
                    order = nb.int64(orders[point])
                    if order != 0 and order < last_order:
                        return row, True
                    if seconds[point]:
                        if 0x1161 <= point <= 0x11C2:
                            return row, True
                        wanted = nb.uint64(bases[last_base]) << nb.uint64(32) | nb.uint64(point)
                        low = 0
                        high = len(pairs)
                        while low < high:
                            middle = (low + high) >> 1
                            if pairs[middle] < wanted:
                                low = middle + 1
                            else:
                                high = middle
                        if low < len(pairs) and pairs[low] == wanted:
                            return row, True
                    last_order = nb.int64(tails[point])
                    if order == 0 or bases[point] != point:
                        last_base = point
                    value = nb.int64(folded[point])
                    if value >= 0:
                        point = value
                    elif value == -1:
                        return row, True
                    else:
                        place = -2 - value
                        left = nb.int64(longer[place, 0])
                        longest = left
                else:
                    last_order = 0
                    last_base = 0
                    if COMPATIBLE[0] <= point <= COMPATIBLE[1]:
                        return row, True
            while left > 0:
                if longest > 0:
                    point = nb.int64(longer[place, 1 + longest - left])
                left -= 1
                if point < LIMIT and kinds[point] == WHITE:
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
