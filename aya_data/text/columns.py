"""Columns of texts: from lists and Arrow to the bytes that kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["Texts", "buffers", "column"]

Texts: TypeAlias = "Sequence[str] | pa.Array | pa.ChunkedArray"
"""Strings, or an Arrow column of strings, which spares a copy."""


def column(texts: Texts) -> pa.Array | pa.ChunkedArray:
    """Return texts as a column; lone surrogates, which UTF-8 has no bytes for, as question marks."""
    if isinstance(texts, pa.Array | pa.ChunkedArray):
        return texts
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:
        return pa.array([text.encode("utf-8", "replace").decode() for text in texts], pa.large_string())


def buffers(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the bytes and int64[n + 1] offsets of a column of strings; nulls are empty."""
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        texts = texts.cast(pa.large_string())
    if texts.null_count:
        texts = texts.fill_null("")
    _, places, data = texts.buffers()
    kind = np.int32 if pa.types.is_string(texts.type) else np.int64
    offsets = np.frombuffer(places, kind)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    found = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
    return found, offsets
