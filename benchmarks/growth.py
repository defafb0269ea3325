"""``near_dedup`` from 50,000 rows to millions: what one more row costs in time and memory.

Two curves. *Real*: up to 800,000 rows of the folder that ``AYA_DATA_REAL`` names, in keyed order, then edited copies
of them that are no duplicates (:mod:`benchmarks.texts`). *Fixed*: copies alone, every tenth row a near-duplicate of
an earlier one, so that the share of duplicates is the same at every size.

Each size is a process of its own over the first rows of one file, as in :mod:`benchmarks.near_dedup`. A row's cost is
processor time, wall time and peak memory above those of a run over :data:`LEAST` rows, by the rows above those: the
start-up of the interpreter and its libraries is told apart. Aim: flat within 20 %, and 5 million rows within 6 GiB.

Corpora are made once, in the folder of ``AYA_DATA_BENCHMARKS`` (5 million rows: 4 GB on disk, some minutes).
``python -m benchmarks.growth_plot`` draws ``docs/images/growth.png`` from the results.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import near_dedup
from benchmarks.peers import cache
from benchmarks.report import Report
from benchmarks.texts import edited, grown, held, real_folder, real_texts

RUNS = 1
ROWS = 5_000_000
LEAST = 10_000
SMALL = 400_000
"""Rows up to which a size is measured three times as often: seconds that vary by a tenth matter there."""
SIZES = (50_000, 100_000, 200_000, 400_000, 800_000, 1_600_000, 3_200_000)
CURVES = {"real": "real rows to 800,000, then copies", "fixed": "a tenth near-duplicates at every size"}
COMPARED = 2_000
AIM_MIB, AIM_SPREAD = 6144, 0.2

Point = dict[str, Any]


def measure(runs: int, rows: int = ROWS) -> Report:
    """Deduplicate more and more rows, up to ``rows``, on both curves; the median of ``runs`` at each size."""
    sizes = [size for size in SIZES if size < rows] + [rows]
    report = Report(
        "growth",
        f"near_dedup, {sizes[0]:,} to {rows:,} rows: cost per row above that of a run over {LEAST:,}",
        ("rows", "left", "wall, s", "processor, s", "peak, MiB", "processor, us/row", "memory, B/row"),
    )
    curves: dict[str, list[Point]] = {}
    for curve, says in CURVES.items():
        path = _corpus(curve, rows)
        least = _point(path, LEAST, runs)
        points = [_above(_point(path, size, runs), least) for size in sizes]
        curves[curve] = points
        report.lines.append((says, *[""] * 6))
        report.lines += [
            (
                f"  {point['rows']:,}", f"{point['kept']:,}", f"{point['seconds']:.1f}", f"{point['processor']:.1f}",
                f"{point['peak_mib']:,}", f"{point['microseconds_per_row']:.2f}", f"{point['bytes_per_row']:.0f}",
            )
            for point in points
        ]  # fmt: skip
    report.figures = {
        "curves": curves, "aim_memory_mib": AIM_MIB, "aim_spread": AIM_SPREAD,
        "spread": {curve: _spread(points) for curve, points in curves.items()},
        "greatest_jaccard_of_copies": _resemblance(),
    }  # fmt: skip
    for curve, spread in report.figures["spread"].items():
        report.notes.append(f"{CURVES[curve]}: processor time per row within {spread:.0%} of the median.")
    return report


def _corpus(curve: str, rows: int) -> Path:
    """The file of one curve; a larger one that is there will do."""
    folder = cache() / "growth"
    folder.mkdir(exist_ok=True)
    made = {int(path.stem.rpartition("-")[2]): path for path in folder.glob(f"{curve}-*.parquet")}
    large = [size for size in sorted(made) if size >= rows]
    if large:
        return made[large[0]]
    print(f"  making {rows:,} rows …", file=sys.stderr, flush=True)
    out = folder / f"{curve}-{rows}.parquet"
    unfinished = out.with_suffix(".unfinished")
    grown(_real(folder), unfinished, rows, curve == "fixed")
    return unfinished.rename(out)


def _real(folder: Path) -> Path:
    path = folder / "real.arrow"
    if not path.is_file():
        real = real_folder()
        if real is None:
            raise SystemExit("growth needs real data: name its folder with --data or AYA_DATA_REAL")
        unfinished = path.with_suffix(".unfinished")
        held(real_texts(real), unfinished)
        unfinished.rename(path)
    return path


def _point(path: Path, rows: int, runs: int) -> Point:
    print(f"  {path.stem}: {rows:,} rows …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        out = Path(folder) / "out.parquet"
        found = [near_dedup.run(path, out, rows) for _ in range(3 * runs if rows <= SMALL else runs)]
    used, told = sorted(found, key=lambda pair: pair[0].processor)[len(found) // 2]
    return {**used.figures(), "rows": told["rows"], "kept": told["kept"], "steps": told["steps"]}


def _above(point: Point, least: Point) -> Point:
    rows = point["rows"] - least["rows"]
    return {
        **point,
        "microseconds_per_row": round((point["processor"] - least["processor"]) / rows * 1e6, 3),
        "wall_microseconds_per_row": round((point["seconds"] - least["seconds"]) / rows * 1e6, 3),
        "bytes_per_row": round((point["peak_mib"] - least["peak_mib"]) * 2**20 / rows, 1),
        "kept_share": round(point["kept"] / point["rows"], 4),
    }


def _spread(points: list[Point]) -> float:
    """The greatest distance of processor time per row from its median, as a share of it."""
    found = np.array([point["microseconds_per_row"] for point in points])
    return round(float(np.abs(found / np.median(found) - 1).max()), 3)


def _resemblance() -> float:
    """The greatest Jaccard index among copies of some real rows and the rows themselves."""
    from aya_data.text.matching import jaccard
    from aya_data.text.shingles import Gram, pieces_of, shingle_sets

    with pa.memory_map(str(cache() / "growth" / "real.arrow")) as source:
        texts = pa.ipc.open_file(source).read_all()["text"].slice(0, COMPARED).to_pylist()
    sets = []
    for generation in range(3):
        copies = [edited(text, f"copy {generation} {n}") if generation else text for n, text in enumerate(texts)]
        flat, bounds = shingle_sets(pieces_of(copies), Gram())
        sets.append([flat[bounds[n] : bounds[n + 1]] for n in range(len(texts))])
    pairs = ((one[n], other[n]) for one, other in zip(sets, (*sets[1:], sets[0]), strict=True) for n in range(COMPARED))
    return round(max(jaccard(one, other) for one, other in pairs), 4)
