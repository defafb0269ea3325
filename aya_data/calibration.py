"""``aya-data calibrate``: thresholds of a filter from labelled text, as a table that a spec names.

Labelled text is Parquet, JSON lines, CSV or TSV with one column of text and one of language labels in any spelling. A
share of the rows, chosen by the hash of their text, can be kept back: it is not calibrated with, and the table is tried
on it, so that what is reported was not seen before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aya_data.core import durable
from aya_data.core.errors import InputError, NotFound

if TYPE_CHECKING:
    import pyarrow as pa

    from aya_data.filters.language_id.trial import Trial

__all__ = ["Calibrated", "calibrate", "read_labelled"]

FILTERS = ("language_id",)
READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv"}


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What was made: where the table is, of how many rows, and what it does to the rows kept back (if any).

    ``unknown_languages`` counts the sample's languages that the model does not know; ``unresolved`` are labels that
    name no language, ``left_out`` varieties with too few rows, ``unknown`` those that the model does not know,
    both with their rows.
    """

    path: Path
    digest: str
    rows: int
    varieties: int
    labels: int
    unknown_languages: int
    unresolved: dict[str, int]
    left_out: dict[str, int]
    unknown: dict[str, int]
    trial: Trial | None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "path": str(self.path),
            "digest": self.digest,
            "rows": self.rows,
            "varieties": self.varieties,
            "labels": self.labels,
            "unknown_languages": self.unknown_languages,
            "unresolved": self.unresolved,
            "left_out": self.left_out,
            "unknown": self.unknown,
            "trial": self.trial.as_dict() if self.trial else None,
        }

    def __str__(self) -> str:
        """Some lines for a person."""
        lines = [f"Wrote {self.path}: {self.varieties} varieties, {self.labels} labels, from {self.rows} rows."]
        if not self.unknown_languages:
            lines.append("No row is in a language that the model does not know: labels are believed by the usual odds.")
        if self.unresolved:
            shown = ", ".join(f"{label!r} ({count})" for label, count in sorted(self.unresolved.items())[:5])
            lines.append(f"Left out, because no language has these labels: {shown}.")
        from aya_data.filters.language_id.calibration import ENOUGH, listed

        if self.unknown:
            names = listed(self.unknown)
            lines.append(f"Without a line, because the model does not know them: {names}. --model names another.")
        if self.left_out:
            shown = ", ".join(f"{variety} {count}" for variety, count in self.left_out.items())
            lines.append(f"Left out, fewer than {ENOUGH} rows: {shown}.")
        if self.trial is not None:
            lines.append(str(self.trial))
        return "\n".join(lines)


def calibrate(
    filter: str,
    files: Sequence[Path],
    *,
    text: Sequence[str],
    language: Sequence[str],
    out: Path,
    model: str | None = None,
    min_letters: int = 20,
    cost: float = 4.0,
    holdout: float = 0.0,
    cache: Path | None = None,
) -> Calibrated:
    """Calibrate ``filter`` on labelled ``files`` and write its table to ``out``.

    ``text`` and ``language`` name columns; of several names the first that a file has is taken. Raises
    :class:`NotFound` and :class:`InputError` for a filter, file, column or model that is not there, or when no language
    has enough rows. The same files, in any order, give the same table.
    """
    if filter not in FILTERS:
        raise NotFound("filter that can be calibrated", filter, FILTERS)
    import numpy as np

    from aya_data.core import language as languages
    from aya_data.filters.language_id import calibration as language_calibration
    from aya_data.filters.language_id import trial as language_trial
    from aya_data.text import language_model

    found = language_model.locate(model, base=Path(), cache=cache or Path(".aya-data/cache"))
    pairs = sorted({pair for file in files for pair in read_labelled(file, text, language)})
    unresolved: dict[str, int] = {}
    texts, varieties, back = [], [], []
    for label, content in pairs:
        resolution = languages.resolve(label)
        if not resolution.ok:
            unresolved[label] = unresolved.get(label, 0) + 1
            continue
        texts.append(content)
        varieties.append(resolution.variety)
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()
        back.append(int.from_bytes(digest[:8]) < holdout * 2**64)
    sample = language_calibration.prepare(texts, varieties, found)
    kept_back = np.array(back, np.bool_)
    used = sample.take(~kept_back)
    table = language_calibration.calibrate(used, found, min_letters=min_letters, cost=cost)
    few = language_calibration.left_out(used, found, min_letters=min_letters)
    unknown = language_calibration.unknown_languages(used, found, min_letters=min_letters)
    strange = language_calibration.unknown_varieties(used, found, min_letters=min_letters)
    notes = [("rows", str(int((~kept_back).sum()))), ("holdout", f"{holdout:g}"), ("cost", f"{cost:g}")]
    notes += [("min_letters", str(min_letters)), ("unknown_languages", str(len(unknown)))]
    notes += [("file", line) for line in sorted(f"{file.name} {_digest(file)[:16]}" for file in files)]
    table = table.noted(notes)
    durable.write_bytes(out, table.text.encode())
    trial = language_trial.attempt(sample.take(kept_back), table, found, min_letters) if kept_back.any() else None
    return Calibrated(
        out,
        table.digest,
        len(used.texts),
        len(table.declared),
        len(table.labels),
        len(unknown),
        unresolved,
        few,
        strange,
        trial,
    )


def read_labelled(file: Path, text: Sequence[str], language: Sequence[str]) -> list[tuple[str, str]]:
    """Return (label, text) of each row that has both, from the first column of each name that the file has."""
    if not file.is_file():
        raise NotFound("file", str(file))
    table = _table(file)
    columns = []
    for names in (language, text):
        there = [name for name in names if name in table.column_names]
        if not there:
            raise NotFound("column", names[0], table.column_names, f"The file is {file}.")
        columns.append(table[there[0]].to_pylist())
    labels, texts = columns
    return [(str(label), str(content)) for label, content in zip(labels, texts, strict=True) if label and content]


def _table(file: Path) -> pa.Table:
    import pyarrow as pa

    kind = READERS.get(file.suffix.lower())
    try:
        if kind == "parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(file)
        if kind == "json":
            import pyarrow.json

            return pyarrow.json.read_json(file)
        if kind in ("csv", "tsv"):
            import pyarrow.csv

            options = pyarrow.csv.ParseOptions(delimiter="\t" if kind == "tsv" else ",", newlines_in_values=True)
            return pyarrow.csv.read_csv(file, parse_options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file} cannot be read: {str(error).splitlines()[0]}", "Mend the file.") from error
    raise InputError(f"{file} is of no known kind", f"Known: {', '.join(sorted(READERS))}.")


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
