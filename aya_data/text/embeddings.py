"""Multilingual sentence embeddings by model2vec: one vector per token, averaged (static models; no GPU, no torch).

A model is a folder (``model.safetensors``, ``tokenizer.json``, ``config.json``) or a repository on the Hub, with
``@revision`` for a commit or branch. Its digest, over the three files, pins what was measured with it.

Vectors have length 1 (or are all zero, where a text has no known token), in steps of 1/2048: so 16 bits hold them,
and the sums of a cosine are exact in 32, whatever order a processor adds in.

Cost: linear in tokens; the model's file is read into memory once per process. Needs the extra ``semantic``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aya_data.core.errors import BuildError, HubUnreachable, InputError, MissingExtra, NotFound

__all__ = ["EmbeddingFile", "Embeddings", "as_column", "best_matches", "from_column", "locate", "rounded"]

FILES = ("config.json", "tokenizer.json", "model.safetensors")
HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(?:@(?P<revision>\S+))?")
MOST_TOKENS = 512
"""Tokens of a text that are averaged, from its beginning."""
STEPS = 2048
BLOCK = 1 << 22
"""Cosines that are held at once: 16 MiB."""

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EmbeddingFile:
    """A model on disk, checked but not loaded. ``digest`` is the SHA-256 over its files."""

    name: str
    path: Path
    digest: str


def locate(model: str, *, base: Path, cache: Path, offline: bool = False) -> EmbeddingFile:
    """Find a model: a folder, absolute or relative to ``base``, or ``org/repository`` on the Hub, with ``@revision``.

    Raises :class:`MissingExtra` without the extra, :class:`NotFound`, :class:`HubUnreachable`, or :class:`InputError`
    when the folder holds no model. Costs one read of the files.
    """
    _library()
    path = base / Path(model).expanduser()
    if not path.is_dir():
        match = HUB.fullmatch(model)
        if match is None:
            raise NotFound(
                "embedding model", model, remedy=f"Give a folder (looked for {path}) or org/repository on the Hub."
            )
        path = _download(model, match, cache, offline)
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        raise InputError(
            f"{path} holds no model of model2vec: {missing[0]} is missing",
            f"Such a folder has {', '.join(FILES)}: what StaticModel.save_pretrained writes.",
        )
    state = tuple((path / name).stat().st_mtime_ns for name in FILES)
    return EmbeddingFile(model, path, _digest(path, state))


def _library() -> Any:
    try:
        import model2vec
    except ImportError as error:
        raise MissingExtra("model2vec", "semantic", "comparing texts by their meaning") from error
    return model2vec


@lru_cache(maxsize=8)
def _digest(path: Path, state: tuple[int, ...]) -> str:
    """Digest of a model's files; ``state`` makes a rewritten file another one."""
    hasher = hashlib.sha256()
    for name in FILES:
        with (path / name).open("rb") as file:
            hasher.update(hashlib.file_digest(file, "sha256").digest())
    return hasher.hexdigest()


def _download(model: str, match: re.Match[str], cache: Path, offline: bool) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.snapshot_download(
                match["repository"],
                revision=match["revision"],
                cache_dir=cache / "models",
                endpoint=os.environ.get("HF_ENDPOINT"),
                local_files_only=offline,
                allow_patterns=list(FILES),
            )
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise NotFound("embedding model", model, remedy="The Hub has no such repository or revision.") from error
    # Whatever the network does ends in one of many exceptions of several packages.
    except (OSError, errors.HfHubHTTPError) as error:
        said = "the build is offline, and the model was not downloaded before" if offline else str(error)[:200]
        raise HubUnreachable(model, said) from error


class Embeddings:
    """A loaded model. Made by :meth:`load`, at most two per process."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @staticmethod
    @lru_cache(maxsize=2)
    def load(file: EmbeddingFile) -> Embeddings:
        """Load a model once per process. :class:`BuildError` when it cannot be read."""
        library = _library()
        try:
            return Embeddings(library.StaticModel.from_pretrained(str(file.path), force_download=False))
        except (OSError, ValueError, KeyError) as error:
            raise BuildError(f"the embedding model {file.path} cannot be loaded: {error}") from error

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return float32[n, dimensions], each of length 1, or zero where a text has no known token."""
        if not texts:
            return np.zeros((0, int(self._model.dim)), np.float32)
        found = np.asarray(
            self._model.encode(list(texts), max_length=MOST_TOKENS, use_multiprocessing=False), np.float32
        )
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        unit = np.where(lengths > 0, found / np.where(lengths > 0, lengths, 1), 0)
        steps: Vectors = (np.round(unit * STEPS) / STEPS).astype(np.float32)
        return steps


def as_column(vectors: Vectors) -> pa.Array:
    """Return vectors as a column of fixed width: 2 bytes per dimension."""
    halves = np.ascontiguousarray(vectors, np.float16)
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(2 * vectors.shape[1]), len(vectors), [None, pa.py_buffer(halves)]
    )


def from_column(column: pa.ChunkedArray) -> Vectors:
    """Return the vectors of :func:`as_column`, float32[n, dimensions]."""
    cells = column.combine_chunks()
    width = cells.type.byte_width // 2
    if not len(cells):
        return np.zeros((0, width), np.float32)
    held = np.frombuffer(cells.buffers()[1], np.float16).reshape(-1, width)
    return held[cells.offset : cells.offset + len(cells)].astype(np.float32)


def best_matches(vectors: Vectors, others: Vectors) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return for each vector the other with the largest cosine (of equals the first), and that cosine to 1e-4.

    Exact, block by block: n * m * dimensions multiplications, 16 MiB. Without others: -1, and a cosine of -1.
    """
    place = np.full(len(vectors), -1, np.int64)
    cosine = np.full(len(vectors), -1.0)
    step = max(1, BLOCK // max(1, len(others)))
    for begin in range(0, len(vectors) if len(others) else 0, step):
        block = vectors[begin : begin + step] @ others.T
        best = block.argmax(axis=1)
        place[begin : begin + step] = best
        cosine[begin : begin + step] = rounded(block[np.arange(len(best)), best])
    return place, cosine


def rounded(cosines: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return cosines as they are judged: to 1e-4, at most 1."""
    wide = np.asarray(cosines, np.float64)
    return wide.clip(max=1.0).round(4)
