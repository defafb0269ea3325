"""The kernel of :mod:`aya_data.text.windows`."""

from __future__ import annotations

import numba as nb

from aya_data.text.kernel import inner_kernel, kernel

__all__ = ["copy_windows"]

STEP = 64
"""Bytes in which characters are counted at once: the compiler takes many of them in one instruction."""


@inner_kernel
def _count(data, begin, end):  # type: ignore[no-untyped-def]
    """Return how many characters of valid UTF-8 begin in some bytes."""
    count = nb.int64(0)
    for place in range(begin, end):
        count += nb.int64(data[place] & 0xC0 != 0x80)
    return count


@inner_kernel
def _skip(data, at, end, left):  # type: ignore[no-untyped-def]
    """Return where the character begins that ``left`` characters follow after the one at ``at``."""
    while at + STEP < end and left >= STEP:
        left -= _count(data, at, at + STEP)
        at += STEP
    # Within a character whose beginning has been counted already.
    while at < end and data[at] & 0xC0 == 0x80:
        at += 1
    while left > 0 and at < end:
        at += 1
        while at < end and data[at] & 0xC0 == 0x80:
            at += 1
        left -= 1
    return at


@kernel
def copy_windows(data, offsets, count, chars, out, ends):  # type: ignore[no-untyped-def]
    """Write the windows of each text to ``out``, and where they end to ``ends[1:]``."""
    size = nb.int64(0)
    for text in range(len(offsets) - 1):
        begin = offsets[text]
        end = offsets[text + 1]
        length = _count(data, begin, end) if end - begin > count * chars else nb.int64(0)
        if length <= count * chars:
            for place in range(begin, end):
                out[size] = data[place]
                size += 1
        else:
            at = begin
            reached = nb.int64(0)
            for number in range(count):
                start = (length - chars) * number // max(1, count - 1)
                first = _skip(data, at, end, start - reached)
                at = _skip(data, first, end, chars)
                reached = start + chars
                if number > 0:
                    out[size] = 10
                    size += 1
                for place in range(first, at):
                    out[size] = data[place]
                    size += 1
        ends[text + 1] = size
