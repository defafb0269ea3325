"""A calibrated table: from which confidence on a language model can be believed, language by language.

``aya-data calibrate language_id`` writes such tables from labelled text; the one of the bundled lid.176 lies in
``data/lid_176_table.tsv``. A table holds for one model, whose SHA-256 stands in its header. It has two kinds of lines:

* ``declared``: a variety as rows declare it, and the least confidence that its rows should have;
* ``label``: a label of the model with the script that the text measures as, and when the label is believed: when the
  likelihood that it is right is large enough. ``odds`` are an intercept and the coefficients of the signs
  (:mod:`~aya_data.filters.language_id.likelihood`); a label is believed where their sum, its *margin*, is at least 0.
  The profile that the signs are counted with follows: what is typical and usual, letters, words and trigrams, by their
  weights (:mod:`aya_data.text.language_profile`).

A label that has no line for a script is believed from the confidence ``UNCALIBRATED`` on, if its language is written in
that script. Han characters without kana are no evidence of Japanese.

``support`` is the number of rows of that language in the sample, ``coverage`` the share of them that pass,
``precision`` the share of what passes that is of that language.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aya_data.core import language as languages
from aya_data.core.errors import InputError, NotFound
from aya_data.filters.language_id import labels as language_labels
from aya_data.filters.language_id.likelihood import SIGNS, signs
from aya_data.text import script
from aya_data.text.columns import Texts
from aya_data.text.language_model import ModelFile
from aya_data.text.language_profile import Profile, Profiles

__all__ = [
    "Acceptance", "Declared", "LanguageTable", "Margins", "bundled_table", "is_written", "margins_of", "parse_table",
    "read_table",
]  # fmt: skip

DATA_FILES = ("data/lid_176_table.tsv",)

TITLE = "# aya-data language_id table, format 2"
COLUMNS = (
    "kind", "name", "script", "support", "precision", "coverage", "confidence", "odds", "typical", "usual", "letters",
    "words", "trigrams",
)  # fmt: skip
UNCALIBRATED = 0.9
FAR = 99.0
"""The margin of what has no odds: above 0 where it is believed, else below."""

Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Declared:
    """From which confidence on a row of a variety passes."""

    confidence: float
    support: int
    precision: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Acceptance:
    """When a label is believed of a text in one script: intercept and coefficients, and the profile they are for."""

    odds: tuple[float, ...]
    profile: Profile
    support: int
    precision: float
    coverage: float


@dataclass(frozen=True, eq=False)
class LanguageTable:
    """Thresholds by variety (language, script) and by label (label, script as measured).

    ``model`` and ``model_digest`` say which model it is for, ``notes`` are the settings and files it was made with.
    """

    model: str
    model_digest: str
    notes: tuple[tuple[str, str], ...]
    declared: Mapping[tuple[str, str], Declared] = field(repr=False)
    labels: Mapping[tuple[str, str], Acceptance] = field(repr=False)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LanguageTable) and self.digest == other.digest

    def noted(self, notes: Sequence[tuple[str, str]]) -> LanguageTable:
        """Return the table with other notes."""
        return replace(self, notes=tuple(notes))

    def over(self, other: LanguageTable) -> LanguageTable:
        """Return the table with the lines of ``other`` where it has none for a variety or label itself."""
        return replace(self, declared={**other.declared, **self.declared}, labels={**other.labels, **self.labels})

    @property
    def text(self) -> str:
        """The table as a file."""
        lines = [TITLE, f"# model: {self.model}", f"# model_sha256: {self.model_digest}"]
        lines += [f"# {key}: {value}" for key, value in self.notes]
        lines.append("\t".join(COLUMNS))
        for (language, code), d in sorted(self.declared.items()):
            counts = (str(d.support), _number(d.precision), _number(d.coverage))
            lines.append("\t".join(["declared", language, code, *counts, _number(d.confidence), *[""] * 6]))
        for (label, code), a in sorted(self.labels.items()):
            counts = (str(a.support), _number(a.precision), _number(a.coverage))
            profile = a.profile
            numbers = ["", " ".join(map(_number, a.odds)), _number(profile.typical), _number(profile.usual)]
            made_of = [" ".join(sorted(profile.letters)), " ".join(sorted(profile.words)), _weights(profile.trigrams)]
            lines.append("\t".join(["label", label, code, *counts, *numbers, *made_of]))
        return "\n".join(lines) + "\n"

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the file."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def _number(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _weights(trigrams: Mapping[str, int]) -> str:
    """Write trigrams one after the other, behind their weight."""
    weights = sorted(set(trigrams.values()), reverse=True)
    return " ".join(f"{weight}:" + "".join(sorted(t for t in trigrams if trigrams[t] == weight)) for weight in weights)


def _trigrams(cell: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for weight, _, text in (group.partition(":") for group in cell.split(" ") if group):
        found |= dict.fromkeys((text[start : start + 3] for start in range(0, len(text), 3)), int(weight))
    return found


def read_table(path: str, *, base: Path, model: ModelFile) -> LanguageTable:
    """Read a table for ``model``. Raises :class:`NotFound`, and :class:`InputError` when it is none or another's."""
    place = base / Path(path).expanduser()
    try:
        data = place.read_bytes()
    except OSError:
        raise NotFound(
            "table of thresholds", path, remedy=f"Looked for {place}; aya-data calibrate language_id makes one."
        ) from None
    table = parse_table(data, str(place))
    if table.model_digest != model.digest:
        raise InputError(
            f"{place} was calibrated for the model {table.model} ({table.model_digest[:12]}), "
            f"not for {model.name} ({model.digest[:12]})",
            "Calibrate again with this model, or name the table's model.",
        )
    return table


@lru_cache(maxsize=1)
def bundled_table() -> LanguageTable:
    """Return the table of the bundled lid.176."""
    place = resources.files("aya_data.filters.language_id") / DATA_FILES[0]
    return parse_table(place.read_bytes(), DATA_FILES[0])


@lru_cache(maxsize=8)
def parse_table(data: bytes, name: str) -> LanguageTable:
    """Read the text of a table; ``name`` is what an error calls it."""

    def refuse(why: str, line: int = 1) -> InputError:
        return InputError(why, "Let aya-data calibrate language_id make it anew.", f"{name}:{line}:1")

    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        raise refuse("is not text in UTF-8") from None
    if lines[0].startswith(TITLE[:-1]) and lines[0] != TITLE:
        raise refuse(f"is a table of another format: its first line is {lines[0]!r}, not {TITLE!r}")
    if lines[0] != TITLE:
        raise refuse(f"is no table of thresholds: the first line is not {TITLE!r}")
    notes: list[tuple[str, str]] = []
    declared: dict[tuple[str, str], Declared] = {}
    labels: dict[tuple[str, str], Acceptance] = {}
    for number, line in enumerate(lines[1:], 2):
        if line.startswith("#"):
            key, _, value = line[2:].partition(": ")
            notes.append((key, value))
            continue
        cells = line.split("\t")
        if not line or cells == list(COLUMNS):
            continue
        if len(cells) != len(COLUMNS) or cells[0] not in ("declared", "label"):
            raise refuse(f"a line starts with declared or label and has {len(COLUMNS)} cells", number)
        try:
            support, precision, coverage = int(cells[3]), float(cells[4]), float(cells[5])
            if cells[0] == "declared":
                declared[cells[1], cells[2]] = Declared(float(cells[6]), support, precision, coverage)
            else:
                odds = tuple(map(float, cells[7].split(" ")))
                letters, words = (frozenset(cell.split(" ")) - {""} for cell in cells[10:12])
                trigrams = _trigrams(cells[12])
                profile = Profile(cells[2], letters, words, float(cells[8]), trigrams, float(cells[9]))
                labels[cells[1], cells[2]] = Acceptance(odds, profile, support, precision, coverage)
        except ValueError:
            raise refuse("a cell that should be a number is none", number) from None
    header = dict(notes)
    if "model_sha256" not in header:
        raise refuse("does not say which model it is for")
    notes = [note for note in notes if note[0] not in ("model", "model_sha256")]
    return LanguageTable(header.get("model", ""), header["model_sha256"], tuple(notes), declared, labels)


@lru_cache(maxsize=4)
def margins_of(table: LanguageTable, labels: tuple[str, ...]) -> Margins:
    """Return :class:`Margins`, made once per process (some 0.15 s; 11 MB of tables)."""
    return Margins(table, labels)


class Margins:
    """A table, ready for columns of texts that a model with some ``labels`` has read."""

    def __init__(self, table: LanguageTable, labels: tuple[str, ...]) -> None:
        self.labels = labels
        names = language_labels.wikipedia(labels)
        self._meant = [language_labels.variety(label, names).language for label in labels]
        self._scripts = {code: place for place, code in enumerate(sorted({code for _, code in table.labels}))}
        self._numbers = np.full((len(labels) + 1, len(self._scripts) + 1), -1, np.int64)
        kept = sorted((label, code) for label, code in table.labels if label in labels)
        place_of = {label: place for place, label in enumerate(labels)}
        for number, (label, code) in enumerate(kept):
            self._numbers[place_of[label], self._scripts[code]] = number
        self._profiles = Profiles([table.labels[key].profile for key in kept])
        self._typical = np.array([*(table.labels[key].profile.typical for key in kept), 0.0])
        self._odds = np.array([*(table.labels[key].odds for key in kept), (0.0,) * (len(SIGNS) + 1)])

    def measure(
        self,
        texts: Texts,
        labels: npt.NDArray[np.int32],
        confidences: Shares,
        scripts: Sequence[str | None],
        letters: npt.NDArray[np.int64],
    ) -> Shares:
        """Return the margin of the best label of each text: how far the log odds that it is right are above what is
        asked. ``labels`` are numbers (-1 for none), ``scripts`` and ``letters`` as measured."""
        unknown = len(self._scripts)
        written = np.fromiter((self._scripts.get(code or "", unknown) for code in scripts), np.int64, len(scripts))
        number = self._numbers[labels, written]
        strange, common, fit = self._profiles.measure(texts, number)
        found = signs(confidences, strange, common, self._typical[number], fit, letters)
        odds = self._odds[number]
        margin: Shares = np.where(number < 0, -FAR, odds[:, 0] + (odds[:, 1:] * found).sum(axis=1))
        rows = np.flatnonzero((number < 0) & (labels >= 0) & (confidences >= UNCALIBRATED))
        codes, code = np.unique([scripts[row] or "" for row in rows.tolist()], return_inverse=True)
        pairs, pair = np.unique(labels[rows] * np.int64(len(codes)) + code, return_inverse=True)
        places = [divmod(number, len(codes)) for number in pairs.tolist()]
        sure = [bool(codes[code]) and is_written(self._meant[label], str(codes[code])) for label, code in places]
        margin[rows] = np.where(np.array(sure, np.bool_)[pair], FAR, -FAR)
        return np.round(margin, 4)


@cache
def is_written(language: str, measured: str) -> bool:
    """Tell whether a text that measures as a script can be of a language, by the scripts that it is known to have."""
    if language == "jpn" and measured == "Hani":
        return False
    try:
        known = languages.info(language).scripts
    except NotFound:
        return True
    return any(script.written_in(code, measured) for code in known)
