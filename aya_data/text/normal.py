"""Text for matching, by column: what :func:`~aya_data.core.row.normal_text` makes of each text, compiled.

The kernel folds character by character (:mod:`aya_data.text.folding`); the one text in some hundred that this does not
hold for goes through :func:`~aya_data.core.row.normal_text`. A process begins without the kernel, which takes 0.5 s to
load and, once per machine, 2 s to compile, and goes over to it once it has read :data:`ENOUGH` bytes.

Cost: some 3 ns per byte, a third of what it is without.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pyarrow as pa

from aya_data.core import row
from aya_data.text.columns import buffers

__all__ = ["ENOUGH", "prompt_hashes"]

ENOUGH = 8 << 20
"""How many bytes of text a process normalises before it loads the kernel."""
ROOM = 1 << 20
"""Bytes that are normalised at once, if no text has more."""

_read = 0


def prompt_hashes(prompts: pa.Array) -> pa.Array:
    """Return :func:`~aya_data.core.row.prompt_hash` of each text, as text. Without nulls in, without nulls out."""
    global _read
    _read += prompts.nbytes
    return row.prompt_hashes(prompts) if _read < ENOUGH else hashed(prompts)


def hashed(prompts: pa.Array) -> pa.Array:
    """Return :func:`prompt_hashes` by the kernel, whatever was read before."""
    from aya_data.text.folding import tables
    from aya_data.text.normal_kernel import LARGEST, normalise

    data, offsets = buffers(prompts)
    longest = int(np.diff(offsets).max(initial=0))
    out = np.empty(max(ROOM, LARGEST * longest), np.uint8)
    ends = np.zeros(len(prompts) + 1, np.int64)
    own = tables()
    blake2b, view = hashlib.blake2b, memoryview(out)  # type: ignore[arg-type]
    found: list[str] = []
    first = 0
    while first < len(prompts):
        last, odd = normalise(data, offsets, *own, first, out, ends)
        bounds = ends[: last - first + 1].tolist()
        found += [blake2b(view[start:end], digest_size=12).hexdigest() for start, end in pairwise(bounds)]
        if odd:
            found.append(row.prompt_hash(prompts[last].as_py()))
            last += 1
        first = last
    return pa.array(found, pa.string())
