"""One small workspace with releases of every shape, built by the real engine, for tests of what reads releases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aya_data import api
from aya_data.catalog.register import find_releases
from aya_data.core.store import Workspace

ANSWERS = {"tur": "Yanıt", "arb": "جواب", "eng": "Answer", "zho": "回答", "heb": "תשובה"}
LICENSES = ("apache-2.0", "cc-by-sa-3.0", "cc-by-nc-4.0", None)

SPEC = """\
name: mix
description: "A <small> mix | of | things"
seed: 7
policy: research
sources:
  house:
    builder: files
    path: data/house.jsonl
    columns: {prompt: instruction, answer: output}
    language: {column: lang}
    license: {column: license}
  prefs:
    builder: files
    path: data/prefs.jsonl
    columns: {prompt: q, chosen: good, rejected: bad}
    language: tur_Latn
    license: {assume: MIT, reason: "the author said so"}
  made:
    builder: template
    from: house
    rows: 40
    templates:
      - {name: again, prompt: "Once more: {{ prompt }}", answer: "{{ answer }}"}
  exam:
    builder: files
    use: benchmark
    path: data/exam.jsonl
    columns: {prompt: instruction, answer: output}
    language: eng_Latn
    license: {assume: MIT, reason: "the author said so"}
filters:
  - license
  - length: {min_chars: 3, max_chars: 2000}
  - exact_dedup
mix:
  budget: {rows: BUDGET}
release: {format: messages, validation: 0.1}
profiles:
  sample: {}
"""

PREFERENCES_ONLY = """\
name: pairs
policy: any
sources:
  prefs:
    builder: files
    path: data/prefs.jsonl
    columns: {prompt: q, chosen: good, rejected: bad}
    language: tur_Latn
    license: {assume: MIT, reason: "the author said so"}
"""

FOLDER = "work [space] d'été"
"""A name that SQL strings and file patterns trip over."""

EVIL = "\x1b]0;owned\x07\x1b[2Jשלום \u202eevil\u202c <b>bold</b>"


def write_data(base: Path) -> None:
    """Write the sources: duplicates, unknown languages and licences, empty answers, right-to-left and hostile text."""
    data = base / "data"
    data.mkdir(parents=True)
    records = []
    for i in range(240):
        lang = list(ANSWERS)[i % 5]
        records.append(
            {
                "instruction": f"Question {i}" if i != 17 else EVIL,
                "output": f"{ANSWERS[lang]} {i}" if i % 50 else "",
                "lang": lang if i % 37 else "xx-unknown",
                "license": LICENSES[i % 4] if i % 29 else "weird licence",
            }
        )
        if i % 30 == 0:
            records.append({"instruction": "Twice", "output": "the same answer", "lang": "eng", "license": "mit"})
    prefs = [{"q": f"Soru {i}", "good": f"iyi yanıt {i}", "bad": f"kötü yanıt {i}"} for i in range(40)]
    exam = [{"instruction": f"Exam {i}", "output": f"right {i}"} for i in range(5)]
    for name, rows in (("house", records), ("prefs", prefs), ("exam", exam)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (data / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def build(base: Path, spec: str, name: str, workspace: Path) -> Path:
    """Build a spec; return the release folder."""
    path = base / name
    path.write_text(spec, encoding="utf-8")
    return api.build(path, workspace=workspace, workers=1).result.path


def make_workspace(base: Path) -> Workspace:
    """Two versions of ``mix`` (the later has 150 conversations and 30 or so preferences) and one of ``pairs``."""
    write_data(base)
    workspace = base / FOLDER
    build(base, SPEC.replace("BUDGET", "100"), "mix.yaml", workspace)
    build(base, PREFERENCES_ONLY, "pairs.yaml", workspace)
    build(base, SPEC.replace("BUDGET", "150"), "mix.yaml", workspace)
    return Workspace(workspace)


def shared_workspace(factory: pytest.TempPathFactory) -> Workspace:
    """The workspace of :func:`make_workspace`, made once per test session; not to be changed."""
    base = factory.getbasetemp() / "released"
    if not (base / "done").exists():
        shutil.rmtree(base, ignore_errors=True)
        make_workspace(base)
        (base / "done").touch()
    return Workspace(base / FOLDER)


def latest(workspace: Workspace, name: str = "mix") -> Path:
    """The folder of the latest version of a release."""
    return next(found.path for found in find_releases(workspace) if found.name == name and found.latest)
