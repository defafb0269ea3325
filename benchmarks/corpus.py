"""Texts and specs to measure with: real ones where ``AYA_DATA_REAL`` names them, else the bundled samples."""

from __future__ import annotations

import json
import os
import shutil
from importlib import resources
from itertools import pairwise
from pathlib import Path

from aya_data.core.identity import draw

__all__ = ["LABELS", "Corpus", "corpus", "texts"]

ROOT = Path(__file__).parents[1]
LABELS = {"real": "public data sets", "samples": "the bundled samples, multiplied"}
COPIES = 200
"""How often a bundled text stands in the made-up corpus, each time with other words at its end."""


class Corpus:
    """A spec with its data in a folder: what a build is measured on."""

    def __init__(self, kind: str, spec: Path) -> None:
        self.kind, self.spec = kind, spec


def corpus(folder: Path) -> Corpus:
    """Lay out a spec and its data in ``folder``: 300,000 real rows and more, or about 220,000 made from samples."""
    real = os.environ.get("AYA_DATA_REAL")
    if real:
        (folder / "data").symlink_to(real, target_is_directory=True)
        return Corpus("real", Path(shutil.copy(ROOT / "tests" / "real" / "mixed.yaml", folder / "mixed.yaml")))
    (folder / "data").mkdir()
    for language, found in sorted(_bundled().items()):
        with (folder / "data" / f"{language}.jsonl").open("x", encoding="utf-8") as file:
            for copy in range(COPIES):
                for number, text in enumerate(found):
                    ending = found[draw(copy, "ending", f"{language} {number}") % len(found)]
                    record = {"prompt": f"{text} ({copy})", "answer": f"{text} {ending}"}
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
    (folder / "samples.yaml").write_text(SPEC, encoding="utf-8")
    return Corpus("samples", folder / "samples.yaml")


SPEC = """
name: multiplied
policy: research
sources:
  texts:
    builder: files
    path: data/*.jsonl
    columns: {prompt: prompt, answer: answer}
    language: {path: "/([a-z]{3}(?:_[A-Z][a-z]{3})?)[.]jsonl$"}
    license: {assume: CC0-1.0, reason: the project's own sample texts}
filters: [license, {length: {min_chars: 5}}, {language_id: {min_confidence: 0.5}}, exact_dedup]
"""


def _bundled() -> dict[str, list[str]]:
    """The sample texts by language: every string of some length in the bundled files."""
    folder = resources.files("aya_data.builders.samples") / "texts"
    found: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        language = file.name.removesuffix(".jsonl")
        if language[:3].islower() and len(language) in (3, 8):
            strings = [
                value
                for line in file.read_text(encoding="utf-8").splitlines()
                for value in json.loads(line).values()
                if isinstance(value, str) and len(value) > 30
            ]
            if strings:
                found[language] = strings
    return found


def texts(count: int) -> tuple[str, list[tuple[str, str]]]:
    """Return the kind of corpus and ``count`` pairs of prompt and answer, spread over its languages."""
    real = os.environ.get("AYA_DATA_REAL")
    if real:
        return "real", _real(Path(real), count)
    pairs = [(text, other) for found in _bundled().values() for text, other in pairwise(found)]
    ordered = sorted(pairs, key=lambda pair: draw(1, "texts", pair[0]))
    return "samples", (ordered * (1 + count // len(ordered)))[:count]


MAPPED = {
    "alpaca_en": ("instruction", "output"), "alpaca_zh_reviewed": ("instruction", "output"),
    "sib200": ("category", "text"), "tldr_pages": ("path", "text"), "xquad": ("question", "context"),
    "songys_chatbot_ko": ("Q", "A"), "masakhane_news": ("headline", "text"),
}  # fmt: skip
"""Data sets of many languages and lengths, and their columns."""


def _real(folder: Path, count: int) -> list[tuple[str, str]]:
    import pyarrow.parquet as pq

    pairs: list[tuple[str, str]] = []
    for name, columns in MAPPED.items():
        for path in sorted((folder / name).glob("*.parquet")):
            table = pq.read_table(path, columns=list(columns))
            rows = zip(*(table[column].to_pylist() for column in columns), strict=True)
            own = [(a, b) for a, b in rows if a and b]
            own.sort(key=lambda pair: draw(1, "texts", pair[0] + pair[1][:80]))
            pairs += own[: -(-count // len(MAPPED))]
    pairs.sort(key=lambda pair: draw(2, "texts", pair[0] + pair[1][:80]))
    return pairs[:count]
