"""Identity: every key, id and random draw of a build comes from the hashes in this module.

One function, BLAKE2b with 128 bits of output, over length-prefixed fields, so that no two field
lists can collide by concatenation. Nothing here depends on position, file name, clock, locale or
``PYTHONHASHSEED``. About 1 microsecond per key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "canonical",
    "content_id",
    "derived_key",
    "digest",
    "draw",
    "draws",
    "frame",
    "framed",
    "framed_digest",
    "occurrence_key",
    "record_digest",
    "row_key",
]

Turn = tuple[str, str]

SIZES = tuple(size.to_bytes(8, "little") for size in range(1024))


def digest(*fields: str | bytes) -> str:
    """Return 32 hex digits that identify the sequence of ``fields``.

    Text is UTF-8; lone surrogates, which only broken records hold, are passed through.
    """
    return hashlib.blake2b(frame(fields), digest_size=16).hexdigest()


def frame(fields: Iterable[str | bytes]) -> bytes:
    """Return ``fields`` one after the other, each after its length."""
    out: list[bytes] = []
    for field in fields:
        data = field.encode("utf-8", "surrogatepass") if isinstance(field, str) else field
        size = len(data)
        out.append(SIZES[size] if size < 1024 else size.to_bytes(8, "little"))
        out.append(data)
    return b"".join(out)


@lru_cache(4096)
def framed(*fields: str) -> bytes:
    """Return what :func:`digest` hashes of ``fields``, for those that many rows have in common."""
    return frame(fields)


def framed_digest(*parts: bytes) -> str:
    """Return the :func:`digest` of the fields that ``parts`` are frames of, in order."""
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


def canonical(value: Any) -> bytes:
    """Return JSON bytes that are equal for equal values: sorted keys, no spaces, nulls in maps left out.

    A missing key and a null are the same thing, because files of one dataset differ in just that.
    Bytes become hex text, other types their ``str``.
    """
    text = json.dumps(_without_nulls(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return text.encode("utf-8", "surrogatepass")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(v) for v in value]
    return value


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)


def record_digest(record: Mapping[str, Any]) -> str:
    """Identify an upstream record by its content alone, whatever file format it was read from."""
    fields: list[str | bytes] = []
    for name in sorted(record):
        value = record[name]
        if value is None:
            continue
        fields.append(name)
        if isinstance(value, str):
            fields.append(b"s")
            fields.append(value)
        else:
            fields.append(b"j")
            fields.append(canonical(value))
    return digest(*fields)


def row_key(dataset: str, basis: str) -> str:
    """Key of an upstream record: ``basis`` is its upstream id, or its :func:`record_digest`.

    Records with equal keys are told apart by :func:`occurrence_key`.
    """
    return framed_digest(framed("row", dataset), *_framed_text(basis))


def occurrence_key(key: str, occurrence: int) -> str:
    """Key of the ``occurrence``-th record (from 0) that has ``key``, in order of row hash."""
    return key if occurrence == 0 else digest("occurrence", key, str(occurrence))


def derived_key(parents: Sequence[str], operation: str, variant: str) -> str:
    """Key of a row made from ``parents`` by ``operation`` (template, translate, …) in one ``variant``."""
    return digest("derived", operation, variant, *parents)


def content_id(
    messages: Sequence[Turn],
    chosen: Sequence[Turn] | None = None,
    rejected: Sequence[Turn] | None = None,
) -> str:
    """Identify what a row says: roles and contents alone, neither language nor origin."""
    parts = [framed("content")]
    turns = list(messages)
    if chosen is not None or rejected is not None:
        parts += _turns(turns)
        parts += [framed("\0chosen"), *_turns(chosen or ()), framed("\0rejected")]
        turns = list(rejected or ())
    return framed_digest(*parts, *_turns(turns))


def _turns(turns: Sequence[Turn]) -> list[bytes]:
    """Frames of roles and contents; roles are few."""
    return [part for role, content in turns for part in (framed(role), *_framed_text(content))]


def _framed_text(text: str) -> tuple[bytes, bytes]:
    """Return the two pieces of the :func:`frame` of one text, without putting them together."""
    data = text.encode("utf-8", "surrogatepass")
    size = len(data)
    return SIZES[size] if size < 1024 else size.to_bytes(8, "little"), data


def draw(seed: int, purpose: str, key: str) -> int:
    """Return the 64-bit draw of ``key`` for ``purpose``: the only source of randomness in a build."""
    return int(draws(seed, purpose, [key])[0])


def draws(seed: int, purpose: str, keys: Iterable[str | bytes]) -> npt.NDArray[np.uint64]:
    """Return :func:`draw` of many keys, as text or its UTF-8 bytes, as ``uint64[len(keys)]``."""
    prefix = hashlib.blake2b(frame(("draw", str(seed), purpose)), digest_size=8)
    out = bytearray()
    for key in keys:
        state = prefix.copy()
        state.update(key if isinstance(key, bytes) else key.encode())
        out += state.digest()
    return np.frombuffer(bytes(out), dtype="<u8").astype(np.uint64)
