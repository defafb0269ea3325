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
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from aya_data.core.row import MESSAGES
from benchmarks import process
from benchmarks.corpus import LABELS, texts
from benchmarks.peers import compared, measured
from benchmarks.process import Used
from benchmarks.report import Report, spread
from benchmarks.texts import mixed, real_folder

RUNS = 3
ROWS = 300_000
GROUP = 10_000
TRUE_ROWS = 20_000
THREADS = 2
THRESHOLD = 0.8
AIM_SECONDS, AIM_MIB = 8.0, 1331

Found = dict[str, Any]


def measure(runs: int, peers: bool = False) -> Report:
    """Deduplicate ``runs`` times, each in a new process, and count the quality once; then run the peers."""
    with tempfile.TemporaryDirectory() as folder:
        kind, path = laid(Path(folder))
        out = Path(folder) / "out.parquet"
        run(path, out)  # compiles, where that was not done before
        found = [run(path, out) for _ in range(runs)]
        head = Path(folder) / "head.parquet"
        pq.write_table(pq.read_table(path).slice(0, TRUE_ROWS), head, row_group_size=GROUP // 2)
        quality = _quality(head, run(head, out)[1])
        others = measured("near_dedup", path, Path(folder)) if peers else []
    walls = spread([one.wall for one, _ in found])
    used, middle = min(found, key=lambda one: abs(one[0].wall - walls["median"]))
    peak = max(one.peak_mib for one, _ in found)
    report = Report(
        "near_dedup",
        f"Near-duplicates among {middle['rows']:,} rows ({kind}), {middle['kept']:,} left, verified; start-up included",
        ("", "seconds", "processor", "peak, MiB", "left", "times ours"),
    )
    report.lines = compared("near_dedup, verified", walls["median"], [one for one, _ in found], middle["kept"], others)
    report.lines[1:1] = [(f"  {name}", f"{seconds:.2f}", *[""] * 4) for name, seconds in middle["steps"].items()]
    report.notes.append(
        f"Of {quality['rows']:,} rows: wrong {quality['wrong']:,} of {quality['lost']:,} that went, broken "
        f"{quality['broken']:,} of {quality['pairs']:,} true pairs ({quality['share']:.2%})."
    )
    report.notes += [f"{one.peer.name}: {one.failure}" for one in others if one.failure]
    report.figures = {
        "corpus": kind, "rows": middle["rows"], "kept": middle["kept"], "seconds": walls, "peak_memory_mib": peak,
        "processor_seconds": round(used.processor, 2), "steps": middle["steps"], "quality": quality,
        "rows_per_second": round(middle["rows"] / walls["median"]),
        "aim_seconds_per_300000_rows": AIM_SECONDS, "aim_memory_mib": AIM_MIB,
        "peers": [one.figures(walls["median"]) for one in others],
    }  # fmt: skip
    return report


def laid(folder: Path) -> tuple[str, Path]:
    """Return what the texts are, and their file, made in ``folder`` if need be."""
    named = os.environ.get("AYA_DATA_TEXTS")
    if named:
        return Path(named).stem, Path(named)
    out = folder / "texts.parquet"
    real = real_folder()
    if real is not None:
        mixed(real, out, ROWS)
        return LABELS["real"], out
    kind, pairs = texts(ROWS)
    found = pa.table({"id": [f"{n:07d}" for n in range(len(pairs))], "text": [f"{a}\n{b}" for a, b in pairs]})
    pq.write_table(found, out, row_group_size=GROUP)
    return LABELS[kind], out


def run(path: Path, out: Path, rows: int = 0) -> tuple[Used, Found]:
    """Deduplicate the first rows of a file (0: all) in a process of its own; return what it took and found."""
    used = process.run([sys.executable, "-m", "benchmarks.near_dedup", str(path), str(out), str(rows)])
    return used, json.loads(used.printed)


# The command ---------------------------------------------------------------------------------------


class Slice:
    """Some rows of a Parquet file, read when they are needed; their measures lie in a file too."""

    def __init__(self, path: Path, group: int, begin: int, end: int, measures: Path) -> None:
        self.path, self.group, self.begin, self.end, self.measured = path, group, begin, end, measures

    def places(self) -> npt.NDArray[np.int64]:
        return np.arange(self.begin, self.end)

    def measures(self) -> pa.Table:
        with pa.OSFile(str(self.measured)) as file:
            return pa.ipc.open_file(file).read_all()

    def rows(self, columns: Sequence[str], chosen: npt.NDArray[np.int64]) -> pa.Table:
        return self.whole().select(list(columns)).take(pa.array(chosen))

    def read(self) -> pa.Table:
        """Its rows as they are."""
        with pq.ParquetFile(self.path) as file:
            return file.read_row_group(self.group).slice(0, self.end - self.begin)

    def whole(self) -> pa.Table:
        """Its rows as conversations of one turn."""
        text = self.read()["text"].combine_chunks().cast(pa.string())
        roles = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(text), np.int32)), pa.array(["user"]))
        turns = pa.StructArray.from_arrays([roles.cast(pa.string()), text], names=["role", "content"])
        messages = pa.ListArray.from_arrays(pa.array(np.arange(len(text) + 1, dtype=np.int32)), turns)
        empty = pa.nulls(len(text), MESSAGES)
        kinds = pa.array(["conversation"] * len(text))
        return pa.table({"kind": kinds, "messages": messages, "chosen": empty, "rejected": empty})


def slices(path: Path, folder: Path, rows: int) -> list[Slice]:
    """The row groups of a file, up to so many rows (0: all)."""
    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    bounds = np.minimum(np.cumsum([0, *sizes]), rows or sum(sizes)).tolist()
    return [
        Slice(path, group, begin, end, folder / f"{group}.arrow")
        for group, (begin, end) in enumerate(pairwise(bounds))
        if begin < end
    ]


def deduplicate(path: Path, out: Path, limit: int, folder: Path) -> Found:
    """Run the filter over a file of texts; write the rows that are left and print what each step took."""
    import duckdb

    from aya_data.core.policy import POLICIES
    from aya_data.core.stage import Environment, Exchange
    from aya_data.filters.near_dedup import NearDedup

    steps: dict[str, float] = {"start": round(time.perf_counter() - BEGAN, 3)}

    def step(name: str) -> None:
        steps[name] = round(time.perf_counter() - BEGAN - sum(steps.values()), 3)

    pa.set_cpu_count(THREADS)
    environment = Environment(path.parent, path.parent, True, 0, None, POLICIES["research"])
    made = NearDedup(NearDedup.Settings(threshold=THRESHOLD), environment)
    pieces = slices(path, folder, limit)

    def sign(piece: Slice) -> None:
        measures = made.measure(piece.whole())
        with pa.OSFile(str(piece.measured), "wb") as sink, pa.ipc.new_file(sink, measures.schema) as writer:
            writer.write_table(measures)

    made.measure(pieces[0].whole().slice(0, 1))
    step("load kernels")
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(sign, pieces))
    step("measure")
    count = pieces[-1].end
    same = {"source": "texts", "dataset": "", "origin": "human", "license": "MIT", "group": ""}
    connection = duckdb.connect(
        config={"threads": THREADS, "memory_limit": "1GiB", "temp_directory": str(folder / "spill")}
    )
    constants = ", ".join(f"'{value}' AS \"{name}\"" for name, value in same.items())
    connection.execute(
        f"CREATE VIEW candidates AS SELECT file_row_number AS place, false AS settled, id AS row_key, id AS row_hash, "
        "0::INTEGER AS prompt_chars, 0::INTEGER AS answer_chars, NULL::VARCHAR[] AS terms, "
        f"{constants} FROM read_parquet('{path}', file_row_number = true) WHERE file_row_number < {count}"
    )
    lost = made.decide(Exchange(connection, False, pieces))
    step("decide")
    keep = np.ones(count, np.bool_)
    keep[lost["place"].to_numpy()] = False
    with pq.ParquetWriter(out, pq.read_schema(path), compression="zstd") as writer:
        for piece in pieces:
            writer.write_table(piece.read().filter(pa.array(keep[piece.begin : piece.end])))
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
    with tempfile.TemporaryDirectory(dir=Path(sys.argv[2]).parent) as spilled:
        print(json.dumps(deduplicate(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(spilled))))
