"""Language identification with a fastText model: the bundled lid.176, a file, or one from the Hub.

All distributions of fastText (``fasttext``, ``fasttext-wheel``, ``fasttext-numpy2-wheel``,
``fasttext-predict``) share one binding, whose ``predict`` is the only call that is right in each of
them and also the fastest; the Python wrappers around it fail with NumPy 2 or with lists.

What the binding gets wrong is mended here: probabilities slightly above 1, lone surrogates (an
exception), texts that hold the word ``</s>`` (everything after it is ignored) and empty texts (an
arbitrary language: no answer instead).

Two ways to the same numbers: the library, one text at a time, and :mod:`aya_data.text.fasttext_kernel` over whole
columns, ten times as fast but 0.5 s (once per machine 3 s) late. A process begins with the library and goes over to the
kernel once it has read ``ENOUGH`` bytes. The kernel adds in the library's order, so it is equal to the last bit, and
that is tested before it is used: where a build of the library rounds otherwise (fused multiplication on ARM, say), the
library answers everything. So an answer never depends on how texts are cut into batches.

Cost: with lid.176 some 130 microseconds for 600 characters by the library and 13 by the kernel, linear in characters;
1 MB and 10 ms to load the library's model, 8 MB for the kernel's.
"""

from __future__ import annotations

import atexit
import hashlib
import mmap
import os
import re
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aya_data.core.errors import BuildError, HubUnreachable, InputError, NotFound
from aya_data.text.columns import Texts
from aya_data.text.columns import column as column_of

if TYPE_CHECKING:
    from aya_data.text.fasttext_kernel import Kernel

__all__ = ["LanguageModel", "ModelFile", "Predictions", "locate"]

DATA_FILES = ("models/lid.176.ftz",)

MAGIC = 793712314
HEADER = struct.Struct("<14i d 3i 2q")
"""Magic, version, 12 arguments, sampling threshold; dictionary: size, words, labels, tokens, pruned rows."""
LABELS = 17
"""The place of the number of labels in the header."""
LABEL = re.compile(rb"__label__([^\x00]{1,200})\x00.{8}\x01", re.DOTALL)
"""An entry of the dictionary: text, zero, count (8 bytes), type (1: label)."""

HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+):(?P<file>[^@\s]+?)(?:@(?P<revision>\S+))?")
END_OF_SENTENCE = "</s>"

ENOUGH = 2 << 20
"""How many bytes of text a process reads with the library before it loads the kernel."""
PROBES = (
    "The weather is lovely today and the children are playing in the garden.",
    "Bugün hava çok güzel ve çocuklar bahçede oynuyorlar.",
    "الطقس جميل اليوم والأطفال يلعبون في الحديقة.",
    "आज मौसम बहुत अच्छा है और बच्चे बगीचे में खेल रहे हैं।",
    "今日はとても良い天気で、子どもたちは庭で遊んでいます。 2026 🎉",
    "Сегодня прекрасная погода, и дети играют в саду.",
)
"""Texts on which kernel and library must agree: these, and each without its first and second half."""


Numbers = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A fastText classifier on disk, checked but not loaded.

    ``name`` is what the lock and errors show; ``path`` is None for the bundled model, whose place depends on
    the machine; ``digest`` is the SHA-256 of the file; ``labels`` are in the model's order, without
    ``__label__``.
    """

    name: str
    path: Path | None
    digest: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Predictions:
    """The ``k`` best labels of ``n`` texts, best first.

    ``labels`` is int32[n, k], numbers into :attr:`ModelFile.labels`, -1 where there is no answer.
    ``confidences`` is float64[n, k], from 0 to 1, rounded to 1e-4; 0 where there is no answer.
    """

    labels: npt.NDArray[np.int32]
    confidences: npt.NDArray[np.float64]


def locate(model: str | None, *, base: Path, cache: Path, offline: bool = False) -> ModelFile:
    """Find and check a model without loading it.

    ``model``: None for the bundled one; a path, absolute or relative to ``base``; or
    ``org/repository:file`` on the Hub, with ``@revision`` for a commit or branch (then downloaded into ``cache``).
    Raises :class:`NotFound` when there is no such file, :class:`InputError` when it is no fastText
    classifier, :class:`HubUnreachable`. Costs one read of the file (about 1 s per GB), once per process.
    """
    if model is None:
        path = _bundled()
        return _check("lid.176.ftz", path, *_state(path), bundled=True)
    path = base / Path(model).expanduser()
    if not path.is_file():
        match = HUB.fullmatch(model)
        if match is None:
            raise NotFound(
                "language model",
                model,
                remedy=f"Give a file (looked for {path}) or org/repository:file on the Hub, "
                "or leave 'model' out for the bundled lid.176.",
            )
        path = _download(model, match, cache, offline)
    return _check(model, path, *_state(path))


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


@lru_cache(maxsize=16)
def _check(name: str, path: Path, size: int, changed: int, *, bundled: bool = False) -> ModelFile:
    """Digest and labels of a file; ``size`` and ``changed`` make a rewritten file another one."""
    return ModelFile(name, None if bundled else path, _digest(path), _labels(path))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _labels(path: Path) -> tuple[str, ...]:
    """Read the labels from the dictionary, where they follow the words."""

    def refuse(why: str) -> InputError:
        return InputError(
            f"{path} is not a fastText model that names languages: {why}",
            "Give a .bin or .ftz file that fastText's 'supervised' command made.",
        )

    with path.open("rb") as file:
        head = file.read(HEADER.size)
        if len(head) < HEADER.size:
            raise refuse(f"it has only {len(head)} bytes")
        header = HEADER.unpack(head)
        magic, version, count = header[0], header[1], header[LABELS]
        if magic != MAGIC:
            raise refuse("it does not start as one")
        if version not in (11, 12):
            raise refuse(f"it has format {version}, readable are 11 and 12")
        if count < 1:
            raise refuse("it has no labels")
        labels: list[str] = []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for match in LABEL.finditer(data, HEADER.size):
                labels.append(match[1].decode("utf-8", "replace"))
                if len(labels) == count:
                    return tuple(labels)
    raise refuse(f"{len(labels)} of its {count} labels start with __label__")


_extracted = ExitStack()
atexit.register(_extracted.close)


@lru_cache(maxsize=1)
def _bundled() -> Path:
    """The bundled model as a file, unpacked for this process when the package lies in an archive."""
    return _extracted.enter_context(resources.as_file(resources.files("aya_data.text") / DATA_FILES[0]))


def _download(model: str, match: re.Match[str], cache: Path, offline: bool) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.hf_hub_download(
                match["repository"],
                match["file"],
                revision=match["revision"],
                cache_dir=cache / "models",
                endpoint=os.environ.get("HF_ENDPOINT"),
                local_files_only=offline,
            )
        )
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise HubUnreachable(model, _reason(error, offline)) from error
        raise NotFound("language model", model, remedy="The Hub has no such repository, file or revision.") from error
    # Whatever the network does ends in one of many exceptions of several packages.
    except (OSError, errors.HfHubHTTPError) as error:
        raise HubUnreachable(model, _reason(error, offline)) from error


def _reason(error: Exception, offline: bool) -> str:
    if offline:
        return "the build is offline, and the file was not downloaded before"
    # huggingface_hub wraps what the network said.
    said = error.__cause__ or error
    return (str(said).splitlines() or [""])[0][:200] or type(said).__name__


class LanguageModel:
    """A loaded model. Made by :meth:`load`, at most four per process."""

    def __init__(self, file: ModelFile, binding: Any) -> None:
        self.file = file
        self._predict = binding.predict
        self._numbers = {"__label__" + label: number for number, label in enumerate(file.labels)}
        self._read = 0
        self._kernel: Kernel | None = None

    @property
    def compiled(self) -> bool:
        """Whether the kernel answers from now on."""
        return self._kernel is not None

    @staticmethod
    @lru_cache(maxsize=4)
    def load(file: ModelFile) -> LanguageModel:
        """Load a model once per process. :class:`BuildError` when the file changed since it was located."""
        import fasttext_pybind  # type: ignore[import-not-found]

        path = _bundled() if file.path is None else file.path
        try:
            if _digest(path) != file.digest:
                raise BuildError(f"the language model {path} changed while it was in use", "Run again.")
            binding = fasttext_pybind.fasttext()
            binding.loadModel(str(path))
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            raise BuildError(f"the language model {path} cannot be loaded: {error}") from error
        return LanguageModel(file, binding)

    def predict(self, texts: Texts, k: int = 3) -> Predictions:
        """Return the ``k`` most probable labels of each text. Nothing raises for what a text holds.

        ``texts``: strings, or an Arrow column of strings, which spares a copy. Nulls count as empty.
        """
        column = column_of(texts)
        if self._kernel is None and self._read <= ENOUGH:
            self._read += column.nbytes
            if self._read > ENOUGH:
                self._kernel = self._agreeing_kernel()
        if self._kernel is None:
            labels, scores = self._library(column.to_pylist(), k)
        else:
            labels, scores = self._kernel.predict(column, k)
        confidences: npt.NDArray[np.float64] = np.round(scores.astype(np.float64).clip(0.0, 1.0), 4)
        return Predictions(labels, confidences)

    def _library(self, texts: Sequence[str | None], k: int) -> tuple[Numbers, Scores]:
        labels = np.full((len(texts), k), -1, np.int32)
        scores = np.zeros((len(texts), k), np.float32)
        predict, numbers = self._predict, self._numbers
        for row, text in enumerate(texts):
            if text and END_OF_SENTENCE in text:
                text = text.replace(END_OF_SENTENCE, " ")
            if not text or text.isspace():
                continue
            for rank, (score, label) in enumerate(predict(text.replace("\n", " ") + "\n", k, 0.0, "strict")):
                labels[row, rank] = numbers[label]
                scores[row, rank] = score
        return labels, scores

    def _agreeing_kernel(self) -> Kernel | None:
        """Load the kernel; None where it cannot be used or rounds differently from the library."""
        from aya_data.text.fasttext_file import UnknownModel

        path = _bundled() if self.file.path is None else self.file.path
        try:
            from aya_data.text.fasttext_kernel import Kernel

            kernel = Kernel.load(path)
        # numba raises RuntimeError where it can keep its cache nowhere.
        except (ImportError, RuntimeError, OSError, UnknownModel):
            return None
        cuts = [cut for text in PROBES for cut in (text, text[: len(text) // 2], text[len(text) // 2 :])]
        labels, scores = self._library(cuts, 3)
        ours, our_scores = kernel.predict(column_of(cuts), 3)
        same = kernel.labels == self.file.labels and (labels == ours).all() and (scores == our_scores).all()
        return kernel if same else None
