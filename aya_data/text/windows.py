"""Windows of long texts: evenly spaced pieces, where reading the whole would tell little more.

Cost: about 1 ns per byte of text.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from aya_data.text.columns import Texts, buffers, column

__all__ = ["spaced"]


def spaced(texts: Texts, count: int, chars: int) -> pa.Array:
    """Return ``count`` windows of ``chars`` characters (code points) of each text, joined by line breaks.

    The first window is at a text's start, the last at its end, and window i of n begins at
    ``(length - chars) * i // (n - 1)``. A text of at most ``count * chars`` characters comes back whole, null as empty.
    """
    from aya_data.text.windows_kernel import copy_windows

    found = column(texts)
    data, offsets = buffers(found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found)
    # A character has four bytes at most, a line break one.
    room = int(np.minimum(np.diff(offsets), 4 * count * chars + count).sum())
    out, ends = np.empty(max(room, 1), np.uint8), np.zeros(len(offsets), np.int64)
    copy_windows(data, offsets, count, chars, out, ends)
    kept = out[: int(ends[-1])].copy()
    return pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, [None, pa.py_buffer(ends), pa.py_buffer(kept)])
