"""``near_dedup`` as a command of its own: Parquet in, verified, Parquet out; seconds, memory, and what it missed.

Every run is a new process: start-up, reading, signatures in two threads, deciding, writing the rows that are left.
Texts are read from Parquet again where sets are made, so that memory is what the filter itself holds. The texts are
those of the Parquet file that ``AYA_DATA_TEXTS`` names (columns ``text`` and ``id``), else of :mod:`benchmarks.corpus`.

Quality is counted on the first :data:`TRUE_ROWS` rows against all pairs at the threshold, found exactly by a prefix
filter over the same shingles (Bayardo et al. 2007: two sets at t share one of the rarest |s| - t |s| + 1 shingles of
each). *Wrong* is a row that went without a kept row that it resembles; *broken* a true pair of which a side went.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from aya_data.core.row import MESSAGES
from benchmarks.report import Report, spread

RUNS = 3
ROWS = 300_000
GROUP = 10_000
TRUE_ROWS = 20_000
THREADS = 2
THRESHOLD = 0.8
AIM_SECONDS, AIM_MIB = 8.0, 1331

Found = dict[str, Any]


def measure(runs: int) -> Report:
    """Deduplicate ``runs`` times, each in a new process, and count the quality once."""
    with tempfile.TemporaryDirectory() as folder:
        kind, path = _laid(Path(folder))
        _run(path, Path(folder) / "out.parquet")  # compiles, where that was not done before
        found = [_run(path, Path(folder) / "out.parquet") for _ in range(runs)]
        head = Path(folder) / "head.parquet"
        pq.write_table(pq.read_table(path).slice(0, TRUE_ROWS), head, row_group_size=GROUP // 2)
        quality = _quality(head, _run(head, Path(folder) / "out.parquet"))
    walls = spread([one["wall"] for one in found])
    middle = sorted(found, key=lambda one: float(one["wall"]))[len(found) // 2]
    peak = max(one["peak_mib"] for one in found)
    report = Report(
        "near_dedup",
        f"Near-duplicates among {middle['rows']:,} rows ({kind}), {middle['kept']:,} left, verified; start-up included",
        ("", "seconds", "share"),
    )
    report.lines.append(("whole command, median", f"{walls['median']:.2f}", ""))
    report.lines.append(("  of both cores, processor time", f"{middle['processor']:.2f}", ""))
    report.lines += [
        (f"  {name}", f"{seconds:.2f}", f"{seconds / middle['wall']:.0%}") for name, seconds in middle["steps"].items()
    ]
    report.lines.append(("peak memory, MiB", f"{peak:,}", ""))
    report.lines.append((f"wrong, of {quality['lost']:,} that went", f"{quality['wrong']:,}", ""))
    report.lines.append(
        (f"broken, of {quality['pairs']:,} true pairs", f"{quality['broken']:,}", f"{quality['share']:.2%}")
    )
    report.figures = {
        "corpus": kind, "rows": middle["rows"], "kept": middle["kept"], "seconds": walls, "peak_memory_mib": peak,
        "processor_seconds": round(middle["processor"], 2), "steps": middle["steps"], "quality": quality,
        "rows_per_second": round(middle["rows"] / walls["median"]),
        "aim_seconds_per_300000_rows": AIM_SECONDS, "aim_memory_mib": AIM_MIB,
    }  # fmt: skip
    return report


def _laid(folder: Path) -> tuple[str, Path]:
    named = os.environ.get("AYA_DATA_TEXTS")
    if named:
        return Path(named).stem, Path(named)
    from benchmarks.corpus import LABELS, texts

    kind, pairs = texts(ROWS)
    found = pa.table({"id": [f"{n:07d}" for n in range(len(pairs))], "text": [f"{a}\n{b}" for a, b in pairs]})
    pq.write_table(found, folder / "texts.parquet", row_group_size=GROUP)
    return LABELS[kind], folder / "texts.parquet"


def _run(path: Path, out: Path) -> Found:
    began = time.perf_counter()
    with tempfile.TemporaryFile() as printed:
        child = subprocess.Popen([sys.executable, "-m", "benchmarks.near_dedup", str(path), str(out)], stdout=printed)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - began
        if child.returncode:
            raise RuntimeError(f"the command ended with exit code {child.returncode}")
        printed.seek(0)
        found: Found = json.loads(printed.read())
    processor = used.ru_utime + used.ru_stime
    return {**found, "wall": wall, "processor": processor, "peak_mib": used.ru_maxrss >> 10}


# The command ---------------------------------------------------------------------------------------


class Slice:
    """Some rows of a Parquet file, read when they are needed."""

    def __init__(self, file: pq.ParquetFile, group: int, begin: int, end: int) -> None:
        self.file, self.group, self.begin, self.end = file, group, begin, end
        self.measured: pa.Table | None = None

    def places(self) -> npt.NDArray[np.int64]:
        return np.arange(self.begin, self.end)

    def measures(self) -> pa.Table:
        return self.measured

    def rows(self, columns: Sequence[str], chosen: npt.NDArray[np.int64]) -> pa.Table:
        return self.whole().select(list(columns)).take(pa.array(chosen))

    def whole(self) -> pa.Table:
        """Its rows as conversations of one turn."""
        text = self.file.read_row_group(self.group, columns=["text"])["text"].combine_chunks().cast(pa.string())
        roles = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(text), np.int32)), pa.array(["user"]))
        turns = pa.StructArray.from_arrays([roles.cast(pa.string()), text], names=["role", "content"])
        messages = pa.ListArray.from_arrays(pa.array(np.arange(len(text) + 1, dtype=np.int32)), turns)
        empty = pa.nulls(len(text), MESSAGES)
        kinds = pa.array(["conversation"] * len(text))
        return pa.table({"kind": kinds, "messages": messages, "chosen": empty, "rejected": empty})


def deduplicate(path: Path, out: Path) -> Found:
    """Run the filter over a file of texts; write the rows that are left and print what each step took."""
    from concurrent.futures import ThreadPoolExecutor

    import duckdb

    from aya_data.core.policy import POLICIES
    from aya_data.core.stage import Environment, Exchange
    from aya_data.filters.near_dedup import NearDedup

    steps: dict[str, float] = {"start": time.perf_counter() - BEGAN}

    def step(name: str) -> None:
        steps[name] = round(time.perf_counter() - BEGAN - sum(steps.values()), 3)

    pa.set_cpu_count(THREADS)
    environment = Environment(path.parent, path.parent, True, 0, None, POLICIES["research"])
    made = NearDedup(NearDedup.Settings(threshold=THRESHOLD), environment)
    file = pq.ParquetFile(path)
    bounds = np.cumsum([0, *(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))])
    pieces = [
        Slice(pq.ParquetFile(path), group, *bounds[group : group + 2].tolist()) for group in range(len(bounds) - 1)
    ]

    def sign(piece: Slice) -> None:
        piece.measured = made.measure(piece.whole())

    made.measure(pieces[0].whole().slice(0, 1))
    step("load kernels")
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(sign, pieces))
    step("measure")
    ids = file.read(columns=["id"])["id"]
    count = len(ids)
    same = {"source": "texts", "dataset": "", "origin": "human", "license": "MIT", "group": ""}
    rows = pa.table(
        {
            "place": np.arange(count), "settled": np.zeros(count, np.bool_), "row_key": ids, "row_hash": ids,
            "prompt_chars": np.zeros(count, np.int32), "answer_chars": np.zeros(count, np.int32),
            "terms": pa.nulls(count, pa.list_(pa.string())),
        }
    )  # fmt: skip
    connection = duckdb.connect(
        config={"threads": THREADS, "memory_limit": "1GiB", "temp_directory": str(out.parent / "spill")}
    )
    connection.register("given", rows)
    constants = ", ".join(f"'{value}' AS \"{name}\"" for name, value in same.items())
    connection.execute(f"CREATE VIEW candidates AS SELECT *, {constants} FROM given")
    lost = made.decide(Exchange(connection, False, pieces))
    step("decide")
    keep = np.ones(count, np.bool_)
    keep[lost["place"].to_numpy()] = False
    with pq.ParquetWriter(out, file.schema_arrow, compression="zstd") as writer:
        for piece in pieces:
            writer.write_table(file.read_row_group(piece.group).filter(pa.array(keep[piece.begin : piece.end])))
    step("write")
    fates = [lost["place"].to_pylist(), lost["partner"].to_pylist()] if count <= TRUE_ROWS else []
    return {"rows": count, "kept": int(keep.sum()), "steps": steps, "lost": fates}


# Quality -------------------------------------------------------------------------------------------


def _quality(path: Path, found: Found) -> Found:
    """Compare what went of a small file with the truth."""
    from aya_data.text.shingles import Gram, pieces_of, shingle_sets

    table = pq.read_table(path)
    number = {key: place for place, key in enumerate(table["id"].to_pylist())}
    flat, bounds = shingle_sets(pieces_of(table["text"].combine_chunks()), Gram())
    distinct, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    by_rarity = np.empty(len(distinct), np.int64)
    by_rarity[np.lexsort((distinct, counts))] = np.arange(len(distinct))
    rare = by_rarity[inverse]
    sets = [tuple(np.sort(rare[bounds[n] : bounds[n + 1]]).tolist()) for n in range(len(table))]
    lost = dict(zip(found["lost"][0], (number[key] for key in found["lost"][1]), strict=True))
    wrong = sum(partner in lost or _jaccard(sets[row], sets[partner]) < THRESHOLD for row, partner in lost.items())
    pairs = _all_pairs(sets)
    broken = sum(a in lost or b in lost for a, b in pairs)
    return {
        "rows": len(table), "lost": len(lost), "wrong": wrong, "pairs": len(pairs), "broken": broken,
        "share": broken / max(1, len(pairs)),
    }  # fmt: skip


def _jaccard(one: Sequence[int], two: Sequence[int]) -> float:
    common = len({*one} & {*two})
    return round(common / (len(one) + len(two) - common), 4) if common else 0.0


def _all_pairs(sets: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Every pair at the threshold. Sets hold shingles by rarity, ascending; equal sets are gone through once."""
    members: dict[tuple[int, ...], list[int]] = {}
    for number, own in enumerate(sets):
        if own:
            members.setdefault(own, []).append(number)
    index: dict[int, list[tuple[int, ...]]] = {}
    pairs = [pair for group in members.values() for pair in combinations(group, 2)]
    for own in sorted(members, key=len):
        likely: set[tuple[int, ...]] = set()
        least = (THRESHOLD - 1e-4) * len(own)
        for shingle in own[: len(own) - math.ceil(least) + 1]:
            likely.update(other for other in index.get(shingle, ()) if len(other) >= least)
            index.setdefault(shingle, []).append(own)
        for other in likely:
            if _jaccard(own, other) >= THRESHOLD:
                pairs += [(a, b) for a in members[own] for b in members[other]]
    return pairs


if __name__ == "__main__":
    BEGAN = time.perf_counter()
    print(json.dumps(deduplicate(Path(sys.argv[1]), Path(sys.argv[2]))))
