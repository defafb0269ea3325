"""Draw ``docs/images/growth.png`` from the results of growth: ``python -m benchmarks.growth_plot`` (matplotlib)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.growth import CURVES
from benchmarks.report import RESULTS

OUT = Path(__file__).parents[1] / "docs" / "images" / "growth.png"
COLOURS = {"real": "#1b6ca8", "fixed": "#c2571a"}
PANELS = (
    ("processor time per row", "µs", "microseconds_per_row", 1),
    ("memory per row", "bytes", "bytes_per_row", 1),
    ("peak memory of the process", "GiB", "peak_mib", 1 / 1024),
)


def main() -> None:
    """Draw both curves, with bands of 20 % around the medians of processor time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullLocator

    curves = json.loads((RESULTS / "growth.json").read_text(encoding="utf-8"))["figures"]["curves"]
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(13, 3.9), constrained_layout=True)
    for axis, (title, unit, name, scale) in zip(axes, PANELS, strict=True):
        for curve in CURVES:
            points = curves[curve]
            rows = [point["rows"] for point in points]
            found = [point[name] * scale for point in points]
            axis.plot(rows, found, marker="o", markersize=4, color=COLOURS[curve], label=CURVES[curve])
            if name == "microseconds_per_row":
                middle = float(np.median(found))
                axis.axhspan(0.8 * middle, 1.2 * middle, color=COLOURS[curve], alpha=0.08, linewidth=0)
        axis.set_xscale("log")
        axis.set_xticks(rows)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        axis.set_ylim(0, 6.6 if name == "peak_mib" else None)
        axis.set_title(f"{title}, {unit}", fontsize=11, loc="left")
        axis.set_xlabel("rows")
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    axes[2].axhline(6, color="#888888", linewidth=1, linestyle="--")
    axes[2].annotate("budget", (rows[0], 6), xytext=(0, -11), textcoords="offset points", fontsize=9, color="#666666")
    axes[0].legend(frameon=False, fontsize=9, loc="lower left")
    axes[0].annotate("shaded: 20 % around the median", (0.02, 0.24), xycoords="axes fraction", fontsize=8, color="#666")
    figure.savefig(OUT, dpi=130)
    print(OUT.relative_to(OUT.parents[2]))


def _short(value: float) -> str:
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k"


if __name__ == "__main__":
    main()
