"""A sequence classification model of transformers as a scorer (extra ``toxicity``).

A score must not depend on which texts happen to be scored together. Padding is masked, every window is padded to the
next of a few lengths that only its own length decides, and every batch is filled up to ``batch_size`` rows: a window
is always computed in the same shape. Scores are rounded to 1e-4 on top.

Texts longer than ``max_tokens`` are read in windows that overlap, at most ``max_windows`` of them, evenly spaced from
the first to the last; the score is the highest of them.

Models are read from safetensors or from weights that torch loads without running code; no code of a repository runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from aya_data.core import settings
from aya_data.core.errors import HubUnreachable, InputError, MissingExtra, NotFound, WrongSetting
from aya_data.core.settings import wrong

__all__ = ["Classifier", "ModelFiles", "ModelSettings", "locate"]

CONFIG = "config.json"
WEIGHTS = (("model.safetensors", "model-*.safetensors"), ("pytorch_model.bin", "pytorch_model-*.bin"))
TOKENIZER = ("*.json", "*.txt", "*.model")
USUAL_LABELS = ("toxic", "toxicity")
SHORTEST = 32


class ModelSettings(settings.Settings):
    """A model on disk or on the Hub, and how its output is read."""

    kind: Literal["transformers"] = Field(description="A sequence classification model of transformers.")
    model: str = Field(min_length=1, description="A folder, or a Hub repository (org/name).")
    revision: str | None = Field(
        None, min_length=1, description="A commit of the repository. The digest is pinned anyway."
    )
    labels: tuple[str, ...] = Field(
        (),
        description="The model's labels that count as toxic; without them, the one called toxic or toxicity, or the "
        "only one there is.",
    )
    activation: Literal["auto", "sigmoid", "softmax"] = Field(
        "auto",
        description="How logits become scores: sigmoid (labels by themselves, the highest counts) or softmax (labels "
        "exclude each other, their scores are added). auto: as the model's problem_type says; without one, sigmoid "
        "for a single label, else softmax.",
    )
    max_tokens: int = Field(512, ge=8, le=32768, description="Tokens of a window, special ones included.")
    overlap: int = Field(32, ge=0, description="Tokens that neighbouring windows share.")
    max_windows: int = Field(8, ge=1, description="The most windows of one text.")
    batch_size: int = Field(16, ge=1, le=1024, description="Windows that are computed together.")
    device: str = Field("cpu", min_length=1, description="Where the model runs: cpu, or cuda.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.overlap * 2 > self.max_tokens:
            raise wrong(f"has an overlap of {self.overlap} in windows of {self.max_tokens} tokens", "At most a half.")
        return self

    def measured(self) -> dict[str, object]:
        """Return the settings that change scores."""
        return self.model_dump(exclude={"model", "revision"})


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model on disk, checked but not loaded. ``digest`` is a SHA-256 over its files; ``labels`` are all it has."""

    folder: Path
    labels: tuple[str, ...]
    toxic: tuple[int, ...]
    sigmoid: bool
    digest: str


def locate(own: ModelSettings, *, base: Path, cache: Path, offline: bool = False) -> ModelFiles:
    """Find a model and check that its labels are those that the settings name.

    Raises :class:`WrongSetting` or :class:`HubUnreachable`.
    """
    for library in ("torch", "transformers"):
        if importlib.util.find_spec(library) is None:
            with WrongSetting.at("kind"):
                raise MissingExtra(library, "toxicity", "scoring toxicity with a model of transformers")
    with WrongSetting.at("model"):
        folder = _folder(own, base, cache, offline)
        labels, problem = _configured(own, folder)
        weights = _weights(folder)
        if not weights:
            raise NotFound("model", own.model, remedy=f"{folder} holds no {WEIGHTS[0][0]} or {WEIGHTS[1][0]}.")
    toxic = _toxic(own, labels)
    sigmoid = _sigmoid(own, problem, labels)
    tokenizer = sorted({path for pattern in TOKENIZER for path in folder.glob(pattern)})
    return ModelFiles(folder, labels, toxic, sigmoid, _digest([*tokenizer, *weights]))


def _folder(own: ModelSettings, base: Path, cache: Path, offline: bool) -> Path:
    folder = base / Path(own.model).expanduser()
    if folder.is_dir():
        return folder
    if own.model.count("/") != 1 or own.model.startswith((".", "/", "~")):
        raise NotFound("model", own.model, remedy=f"Give a folder or a Hub repository (looked for {folder}).")
    return _download(own, cache, offline)


def _configured(own: ModelSettings, folder: Path) -> tuple[tuple[str, ...], str | None]:
    """Return the names of a model's labels, and what kind of problem its configuration says that it solves."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        names = {int(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    except FileNotFoundError:
        raise NotFound("model", own.model, remedy=f"{folder} holds no {CONFIG}.") from None
    except (ValueError, AttributeError) as error:
        raise InputError(f"{folder / CONFIG} is not a model's configuration: {error}", "Download it again.") from error
    return tuple(names[number] for number in sorted(names)) or ("LABEL_0", "LABEL_1"), config.get("problem_type")


def _toxic(own: ModelSettings, labels: Sequence[str]) -> tuple[int, ...]:
    wanted = own.labels or tuple(label for label in labels if label.lower() in USUAL_LABELS)
    if not wanted and len(labels) == 1:
        wanted = tuple(labels)
    if not wanted:
        what = f"the model {own.model} does not say which of its labels is toxic: {', '.join(labels)}"
        raise WrongSetting([(("labels",), what, "Name them under labels.")])
    for place, label in enumerate(wanted):
        if label not in labels:
            with WrongSetting.at("labels", place):
                raise NotFound(f"label of the model {own.model}", label, labels)
    return tuple(sorted({labels.index(label) for label in wanted}))


def _sigmoid(own: ModelSettings, problem: str | None, labels: Sequence[str]) -> bool:
    if own.activation != "auto":
        return own.activation == "sigmoid"
    return problem == "multi_label_classification" or len(labels) == 1


def _weights(folder: Path) -> list[Path]:
    for patterns in WEIGHTS:
        found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
        if found:
            return found
    return []


def _digest(paths: Sequence[Path]) -> str:
    hasher = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hasher.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return hasher.hexdigest()


def _download(own: ModelSettings, cache: Path, offline: bool) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    folder = None
    try:
        for patterns in WEIGHTS:
            folder = Path(
                huggingface_hub.snapshot_download(
                    own.model,
                    revision=own.revision,
                    cache_dir=cache / "models",
                    endpoint=os.environ.get("HF_ENDPOINT"),
                    allow_patterns=[*TOKENIZER, *patterns],
                    local_files_only=offline,
                )
            )
            if _weights(folder):
                break
    except errors.LocalEntryNotFoundError as error:
        reason = "the build is offline, and the model was not downloaded before"
        raise HubUnreachable(own.model, reason if offline else _first_line(error.__cause__ or error)) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise NotFound("model", own.model, remedy="Nor is there such a Hub repository or revision.") from error
    except (OSError, errors.HfHubHTTPError) as error:
        raise HubUnreachable(own.model, _first_line(error)) from error
    assert folder is not None, "there are patterns"
    return folder


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


class Classifier:
    """A loaded model. Made by :meth:`load`, at most two per process."""

    def __init__(self, files: ModelFiles, own: ModelSettings, model: Any, tokenizer: Any) -> None:
        self.files, self.settings = files, own
        self._model, self._tokenizer = model, tokenizer

    @staticmethod
    @lru_cache(maxsize=2)
    def load(files: ModelFiles, own: ModelSettings) -> Classifier:
        """Load a model once per process. :class:`InputError` when transformers cannot."""
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        # The build has a progress display of its own.
        quiet: Any = logging
        quiet.disable_progress_bar()
        quiet.set_verbosity_error()
        try:
            tokenizer = AutoTokenizer.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)
            model = AutoModelForSequenceClassification.from_pretrained(
                files.folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32
            )
            model = model.to(own.device).eval()
        # transformers raises OSError, ValueError, KeyError or RuntimeError for files that are none of its own.
        except Exception as error:
            raise InputError(
                f"{files.folder} is not a model that transformers can load: {_first_line(error)}",
                "Check that it is one for sequence classification, with its tokenizer.",
            ) from error
        if not tokenizer.is_fast:
            raise InputError(f"{files.folder} has no tokenizer.json", "Only tokenizers that have one are used.")
        if model.config.num_labels != len(files.labels):
            raise InputError(
                f"{files.folder} has {model.config.num_labels} labels and names {len(files.labels)}", "Mend id2label."
            )
        return Classifier(files, own, model, tokenizer)

    def score(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the score of each text, float64[n] from 0 to 1. Empty texts score as the model says."""
        windows: list[list[int]] = []
        owner: list[int] = []
        for number, text in enumerate(texts):
            found = self._windows(text)
            windows += found
            owner += [number] * len(found)
        scores = np.zeros(len(windows), np.float64)
        by_length: dict[int, list[int]] = {}
        for place, window in enumerate(windows):
            by_length.setdefault(self._padded(len(window)), []).append(place)
        size = self.settings.batch_size
        for length, places in sorted(by_length.items()):
            for start in range(0, len(places), size):
                batch = places[start : start + size]
                scores[batch] = self._forward([windows[place] for place in batch], length)
        result = np.zeros(len(texts), np.float64)
        np.maximum.at(result, np.array(owner, np.int64), scores)
        return result

    def _windows(self, text: str) -> list[list[int]]:
        """Return the tokens of each window, special ones included."""
        found: list[list[int]] = self._tokenizer(
            text,
            truncation=True,
            max_length=self._limit(),
            stride=self.settings.overlap,
            return_overflowing_tokens=True,
        )["input_ids"]
        most = self.settings.max_windows
        if len(found) <= most:
            return found
        return [found[place] for place in np.linspace(0, len(found) - 1, most).round().astype(int).tolist()]

    def _limit(self) -> int:
        """The most tokens of a window: what the settings say, or less where the model takes less."""
        known = getattr(self._model.config, "max_position_embeddings", None)
        pad = getattr(self._model.config, "pad_token_id", None) or 0
        # RoBERTa counts positions from behind its padding token.
        offset = pad + 1 if "roberta" in type(self._model).__name__.lower() else 0
        return min(self.settings.max_tokens, known - offset) if known else self.settings.max_tokens

    def _padded(self, length: int) -> int:
        """Return the length that a window of ``length`` tokens is padded to: a power of two, or the limit."""
        padded = SHORTEST
        while padded < length:
            padded *= 2
        return max(length, min(padded, self._limit()))

    def _forward(self, windows: Sequence[Sequence[int]], length: int) -> npt.NDArray[np.float64]:
        import torch

        pad = self._tokenizer.pad_token_id or 0
        size = self.settings.batch_size
        ids = np.full((size, length), pad, np.int64)
        mask = np.zeros((size, length), np.int64)
        mask[:, 0] = 1
        for row, window in enumerate(windows):
            ids[row, : len(window)] = window
            mask[row, : len(window)] = 1
        given: Mapping[str, Any] = {
            "input_ids": torch.from_numpy(ids).to(self.settings.device),
            "attention_mask": torch.from_numpy(mask).to(self.settings.device),
        }
        with torch.inference_mode():
            logits = self._model(**given).logits[: len(windows)].double()
            scores = torch.sigmoid(logits) if self.files.sigmoid else torch.softmax(logits, -1)
            toxic = scores[:, list(self.files.toxic)]
            found = toxic.max(-1).values if self.files.sigmoid else toxic.sum(-1)
        result: npt.NDArray[np.float64] = found.cpu().numpy()
        return result
