"""Other tools on the same corpora in the same run, each in a virtual environment of its own.

Environments and corpora lie in the folder that ``AYA_DATA_BENCHMARKS`` names, else in the user's cache; an
environment is made once for each list of requirements. Every program is a whole command: start-up, reading Parquet,
work, writing Parquet where the tool can. It prints ``{"rows": …, "kept": …}`` last.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks import process
from benchmarks.process import Failed, Used
from benchmarks.report import spread

__all__ = ["PEERS", "Measured", "Peer", "cache", "compared", "environment", "measured", "parts"]

PROGRAMS = Path(__file__).parent / "peer_programs"
PARTS = 4
"""Files that tools without row groups get their input in."""
INSTALL_SECONDS = 1800
TWO = {"POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool: what to install, and the program of :mod:`benchmarks.peer_programs` with its arguments.

    ``runs`` is how often it is measured: once where that takes minutes.
    """

    name: str
    requirements: tuple[str, ...]
    program: str
    arguments: tuple[str, ...] = ()
    runs: int = 1
    parted: bool = False

    def command(self, python: Path, given: Path, out: Path) -> list[str]:
        """The whole command for an input and a path to write to."""
        return [str(python), str(PROGRAMS / f"{self.program}.py"), str(given), str(out), *self.arguments]


POLARS, DUCKDB, RENSA = "polars==2.1.0", "duckdb==2.0.0", "rensa==0.5.0"
DATATROVE = ("datatrove[processing,io]==0.10.1", "spacy==3.8.18")
PYARROW = "pyarrow==26.0.1"
BY_HAND = (POLARS, DUCKDB, RENSA, PYARROW, "fasttext-numpy2-wheel==0.9.2")

PEERS: dict[str, tuple[Peer, ...]] = {
    "near_dedup": (
        Peer("rensa, flags, unverified", (RENSA, PYARROW), "near_rensa", ("flags",), runs=3),
        Peer("rensa, estimates checked", (RENSA, PYARROW), "near_rensa", ("checked",)),
        Peer("text-dedup", ("text-dedup==0.4.0",), "near_text_dedup"),
        Peer("datatrove", DATATROVE, "near_datatrove", parted=True),
    ),
    "exact_dedup": (
        Peer("Polars, unique(text)", (POLARS,), "exact_polars", runs=5),
        Peer("DuckDB, GROUP BY md5(text)", (DUCKDB,), "exact_duckdb", runs=3),
        Peer("datatrove", DATATROVE, "exact_datatrove", parted=True),
    ),
    "pipeline": (
        Peer("by hand: Polars, DuckDB, fastText, rensa", BY_HAND, "pipeline_by_hand", ("{model}",)),
        Peer("by hand, languages by the first 400 characters", BY_HAND, "pipeline_by_hand", ("{model}", "400")),
        Peer("datatrove", (*DATATROVE, "fasttext-numpy2-wheel==0.9.2"), "pipeline_datatrove",
            ("{model}",), parted=True),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """What the runs of one tool took, or why there are none."""

    peer: Peer
    found: tuple[Used, ...]
    kept: int
    failure: str = ""

    def figures(self, ours: float) -> dict[str, object]:
        """What it took as data, and how often ``ours`` seconds fit into it."""
        if not self.found:
            return {"name": self.peer.name, "requirements": self.peer.requirements, "failure": self.failure}
        walls = spread([one.wall for one in self.found])
        return {
            "name": self.peer.name, "requirements": self.peer.requirements, "seconds": walls, "kept": self.kept,
            "processor_seconds": round(process.middle(self.found).processor, 2),
            "peak_memory_mib": max(one.peak_mib for one in self.found),
            "times_ours": round(walls["median"] / ours, 2),
        }  # fmt: skip


def cache() -> Path:
    """The folder of environments and corpora; made if it is not there."""
    named = os.environ.get("AYA_DATA_BENCHMARKS")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(named) if named else home / "aya-data-benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def environment(peer: Peer) -> Path:
    """The interpreter of a tool's environment, which is made when it is not there. Needs a package index."""
    key = hashlib.blake2b("\n".join(peer.requirements).encode(), digest_size=6).hexdigest()
    folder = cache() / "environments" / f"{peer.requirements[0].partition('=')[0].partition('[')[0]}-{key}"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.is_file():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        process.run(
            [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *peer.requirements],
            limit=INSTALL_SECONDS,
        )
        done.touch()
    return python


def parts(path: Path, folder: Path) -> Path:
    """The rows of a Parquet file as :data:`PARTS` files in a folder of their own."""
    own = folder / "parts"
    if not own.is_dir():
        own.mkdir()
        table = pq.read_table(path)
        step = -(-len(table) // PARTS)
        for number in range(PARTS):
            pq.write_table(table.slice(number * step, step), own / f"{number:03d}.parquet", row_group_size=10_000)
    return own


def measured(
    name: str, path: Path, folder: Path, limit: float = 1200, fill: Callable[[str], str] = str, say: bool = True
) -> list[Measured]:
    """Run all tools of a benchmark over ``path``; one that cannot be installed or fails is told, and passed over."""
    found = []
    for peer in PEERS[name]:
        if say:
            print(f"  {peer.name} …", file=sys.stderr, flush=True)
        out = folder / f"{peer.program}.out"
        filled = Peer(peer.name, peer.requirements, peer.program, tuple(map(fill, peer.arguments)))
        try:
            python = environment(peer)
            command = filled.command(python, parts(path, folder) if peer.parted else path, out)
            runs = [process.run(command, TWO, limit) for _ in range(peer.runs)]
        except (Failed, subprocess.CalledProcessError, OSError) as problem:
            found.append(Measured(peer, (), 0, str(problem).strip()))
            continue
        found.append(Measured(peer, tuple(runs), _kept(runs[-1])))
    return found


def compared(
    name: str, seconds: float, found: Sequence[Used], kept: int, others: Sequence[Measured]
) -> list[tuple[str, ...]]:
    """Lines of a table: ours, then each of the others with its ratio."""
    lines = [_line(name, seconds, found, kept, "1.0")]
    for other in others:
        if other.found:
            wall = process.middle(other.found).wall
            lines.append(_line(other.peer.name, wall, other.found, other.kept, f"{wall / seconds:.1f}"))
        else:
            lines.append((other.peer.name, "failed", "", "", "", ""))
    return lines


def _line(name: str, seconds: float, found: Sequence[Used], kept: int, ratio: str) -> tuple[str, ...]:
    peak = max(one.peak_mib for one in found)
    return name, f"{seconds:.2f}", f"{process.middle(found).processor:.2f}", f"{peak:,}", f"{kept:,}", ratio


def _kept(used: Used) -> int:
    kept: int = json.loads(used.printed.strip().splitlines()[-1])["kept"]
    return kept
