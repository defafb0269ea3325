"""Law 7: ``--memory`` holds for a build of any size, all of its processes together."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aya_data.core.identity import draw
from aya_data.engine.memory import PART_BYTES, shares

MIB = 1 << 20
WORDS = [
    "number", "people", "think", "about", "many", "ways", "world", "river", "mountain", "kitchen", "teacher", "letter",
    "window", "garden", "music", "winter", "bread", "answer", "question", "history", "science", "language", "village",
    "market", "bridge", "forest", "child", "story",
]  # fmt: skip
SPEC = """
name: memory
seed: 1
policy: research
sources:
  rows:
    builder: files
    path: rows.jsonl
    columns: {prompt: q, answer: a}
    language: {constant: eng}
    license: {assume: MIT, reason: written here}
filters: [{length: {min_chars: 5}}, {language_id: {min_confidence: 0.1}}, exact_dedup, near_dedup]
mix: {budget: {rows: ROWS}}
release: {validation: 0.01}
"""


def write_rows(path: Path, count: int) -> None:
    """Rows of 860 characters that share no shingle worth speaking of."""
    with path.open("w") as file:
        for row in range(count):
            drawn = b"".join(draw(1, f"words {n}", str(row)).to_bytes(8, "little") for n in range(16))
            text = " ".join(WORDS[byte % len(WORDS)] for byte in drawn)
            file.write(
                json.dumps({"q": f"Tell me about {row}: {text[:400]}", "a": f"So it is with {text[400:]}."}) + "\n"
            )


def tree(process: int) -> Iterator[int]:
    """A process and all that it started."""
    yield process
    for listed in Path(f"/proc/{process}/task").glob("*/children"):
        for child in listed.read_text().split():
            yield from tree(int(child))


def held(process: int) -> int:
    """Bytes that a process and its children hold, shared pages counted once."""
    total = 0
    for member in list(tree(process)):
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return total


def peak(spec: Path, memory: int, workers: int) -> int:
    """Build by command; return the most that all of its processes held together."""
    options = ["--workspace", str(spec.parent / f"w{workers}"), "--memory", str(memory), "--workers", str(workers)]
    command = [sys.executable, "-c", "from aya_data.cli.main import main; main()", "build", str(spec), *options]
    most = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while True:
            try:
                _, error = process.communicate(timeout=0.05)
                break
            except subprocess.TimeoutExpired:
                most = max(most, held(process.pid))
    assert process.returncode == 0, error.decode()
    assert list(spec.parent.glob("w*/releases/memory/*/manifest.json"))
    return most


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize(("workers", "memory"), [(1, 640 * MIB), (2, 1100 * MIB)])
def test_the_budget_holds_at_ten_times_the_data(tmp_path: Path, workers: int, memory: int) -> None:
    """At 120,000 rows (110 MB of text, one shard) as at 12,000, with all that a build does by default."""
    peaks = []
    for rows in (12_000, 120_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        write_rows(folder / "rows.jsonl", rows)
        spec = folder / "memory.yaml"
        spec.write_text(SPEC.replace("ROWS", str(rows * 4 // 5)))
        peaks.append(peak(spec, memory, workers))
    assert max(peaks) < memory, [found // MIB for found in peaks]


def test_workers_and_parts_fit_the_budget() -> None:
    assert shares(64 << 30, 8).workers == 8
    assert shares(64 << 30, 8).part_bytes == PART_BYTES
    assert shares(512 * MIB, 8).workers == 1
    assert shares(64 << 30, 8).overlap
    chosen = shares(64 << 30, 8, 1 << 30)
    assert (chosen.part_bytes, chosen.overlap) == (1 << 30, False)
    for memory in range(512 * MIB, 8192 * MIB, 97 * MIB):
        share = shares(memory, 4)
        assert 1 <= share.workers <= 4
        assert share.exchange + share.workers * share.part_bytes <= memory
        assert share.part_bytes >= 2 * MIB
