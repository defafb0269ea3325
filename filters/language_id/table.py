"""A calibrated table: from which confidence on a language model can be believed, language by language.

``aya-data calibrate language_id`` writes such tables from labelled text; the one of the bundled lid.176 lies in
``data/lid_176_table.tsv``. A table holds for one model, whose SHA-256 stands in its header. It has two kinds of lines:

* ``declared``: a variety as rows declare it, and the least confidence that its rows should have;
* ``label``: a label of the model with the script that the text measures as, and when the label is believed: at least
  ``confidence``, at most ``strange``, at least ``common`` (:mod:`aya_data.text.language_profile`), with the letters and
  words that these two are counted with. A label whose confidence is above 1 is never believed; one that has no line for
  a script is believed from ``UNCALIBRATED`` on, if its language is written in that script.

Texts of fewer than ``SHORT`` letters are believed from ``SHORT_CONFIDENCE`` on at the earliest. Han characters without
kana are no evidence of Japanese.

``support`` is the number of rows of that language in the sample, ``coverage`` the share of them that pass,
``precision`` the share of what passes that is of that language.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aya_data.core import language as languages
from aya_data.core.errors import InputError, NotFound
from aya_data.text import script
from aya_data.text.columns import Texts
from aya_data.text.language_model import ModelFile
from aya_data.text.language_profile import Profile, Profiles

__all__ = [
    "NEVER", "Acceptance", "Declared", "LanguageTable", "Limits", "believed", "bundled_table", "is_written",
    "limits_of",
    "parse_table", "read_table",
]  # fmt: skip

DATA_FILES = ("data/lid_176_table.tsv",)

TITLE = "# aya-data language_id table, format 1"
COLUMNS = (
    "kind", "name", "script", "support", "precision", "coverage", "confidence", "strange", "common", "typical",
    "letters", "words",
)  # fmt: skip
NEVER = 2.0
"""The confidence of a label that is never believed."""
UNCALIBRATED = 0.9
SHORT, SHORT_CONFIDENCE = 30, 0.65

Shares = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Declared:
    """From which confidence on a row of a variety passes."""

    confidence: float
    support: int
    precision: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Acceptance:
    """When a label is believed of a text in one script."""

    confidence: float
    strange: float
    common: float
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
            lines.append("\t".join(["declared", language, code, *counts, _number(d.confidence), *[""] * 5]))
        for (label, code), a in sorted(self.labels.items()):
            counts = (str(a.support), _number(a.precision), _number(a.coverage))
            numbers = [_number(x) for x in (a.confidence, a.strange, a.common, a.profile.typical)]
            made_of = [" ".join(sorted(a.profile.letters)), " ".join(sorted(a.profile.words))]
            lines.append("\t".join(["label", label, code, *counts, *numbers, *made_of]))
        return "\n".join(lines) + "\n"

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the file."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def _number(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")


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
            support, (precision, coverage, confidence) = int(cells[3]), map(float, cells[4:7])
            if cells[0] == "declared":
                declared[cells[1], cells[2]] = Declared(confidence, support, precision, coverage)
            else:
                strange, common, typical = map(float, cells[7:10])
                letters, words = (frozenset(cell.split(" ")) - {""} for cell in cells[10:])
                profile = Profile(cells[2], letters, words, typical)
                found = Acceptance(confidence, strange, common, profile, support, precision, coverage)
                labels[cells[1], cells[2]] = found
        except ValueError:
            raise refuse("a cell that should be a number is none", number) from None
    header = dict(notes)
    if "model_sha256" not in header:
        raise refuse("does not say which model it is for")
    notes = [note for note in notes if note[0] not in ("model", "model_sha256")]
    return LanguageTable(header.get("model", ""), header["model_sha256"], tuple(notes), declared, labels)


@lru_cache(maxsize=4)
def limits_of(table: LanguageTable, labels: tuple[str, ...]) -> Limits:
    """Return :class:`Limits`, made once per process (some 0.1 s)."""
    return Limits(table, labels)


class Limits:
    """A table, ready for columns of texts that ``model`` has labelled."""

    def __init__(self, table: LanguageTable, labels: tuple[str, ...]) -> None:
        self.table, self.labels = table, labels
        self._scripts = {code: place for place, code in enumerate(sorted({code for _, code in table.labels}))}
        self._numbers = np.full((len(labels) + 1, len(self._scripts) + 1), -1, np.int64)
        kept = sorted((label, code) for label, code in table.labels if label in labels)
        place_of = {label: place for place, label in enumerate(labels)}
        for number, (label, code) in enumerate(kept):
            self._numbers[place_of[label], self._scripts[code]] = number
        self._profiles = Profiles([table.labels[key].profile for key in kept])

    def measure(
        self, texts: Texts, labels: npt.NDArray[np.int32], scripts: Sequence[str | None]
    ) -> tuple[Shares, Shares]:
        """Return ``strange`` and ``common`` of each text by the profile of its best label (a number, -1 for none)."""
        unknown = len(self._scripts)
        written = np.fromiter((self._scripts.get(code or "", unknown) for code in scripts), np.int64, len(scripts))
        strange, common = self._profiles.measure(texts, self._numbers[labels, written])
        return np.round(strange, 4), np.round(common, 4)


def believed(
    table: LanguageTable,
    names: Sequence[str],
    meant: Sequence[languages.Variety],
    labels: Codes,
    scripts: Sequence[str],
    written: Codes,
    confidence: Shares,
    strange: Shares,
    common: Shares,
    letters: npt.NDArray[np.int32],
) -> npt.NDArray[np.bool_]:
    """Tell which texts' best label is believed: ``labels`` are places in ``names`` and ``meant``, ``written`` in
    ``scripts``, -1 for none."""
    limits = np.zeros((len(names) + 1, len(scripts) + 1, 3))
    limits[:, :, 0] = NEVER
    for place, name in enumerate(names):
        for column, code in enumerate(scripts):
            found = table.labels.get((name, code))
            if found is not None:
                limits[place, column] = found.confidence, found.strange, found.common
            elif is_written(meant[place].language, code):
                limits[place, column] = UNCALIBRATED, 1.0, 0.0
    mine = limits[labels, written]
    least = np.where(letters < SHORT, np.maximum(mine[:, 0], SHORT_CONFIDENCE), mine[:, 0])
    result: npt.NDArray[np.bool_] = (confidence >= least) & (strange <= mine[:, 1]) & (common >= mine[:, 2])
    return result


def is_written(language: str, measured: str) -> bool:
    """Tell whether a text that measures as a script can be of a language, by the scripts that it is known to have."""
    if language == "jpn" and measured == "Hani":
        return False
    try:
        known = languages.info(language).scripts
    except NotFound:
        return True
    return any(script.written_in(code, measured) for code in known)
