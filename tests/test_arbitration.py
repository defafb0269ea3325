"""ARBITRATION.md: what is in the report is on the page, and names of others stay text."""

from __future__ import annotations

import json
from typing import Any

from aya_data.builders.arbitrage.statistics.bias import bias
from aya_data.builders.arbitrage.statistics.collected import collect
from aya_data.builders.arbitrage.statistics.comparison import compare
from aya_data.publish.arbitration import arbitration
from tests.arbitrage_tables import SEED, simulated


def manifest(**given: Any) -> dict[str, Any]:
    table, pool = simulated(0, **given)
    collected = collect([table], pool, SEED)
    report = {
        "decisions": {"reward": 299, "none": 1},
        "pairs": {"kept": 250, "margin": 50},
        "comparison": [compare(collected, SEED), compare(collected, SEED, measured="b", independent=True)],
        "bias": bias(collected, {"a": "f0"}),
        "router": {
            "prompts": 100, "divergence": {"router": 0.1, "variety": 0.2}, "best": {"router": 0.8, "variety": 0.4},
            "calibration": [{"prompts": 100, "expected": 0.7, "observed": 0.75}], "better": True,
        },
    }  # fmt: skip
    # As it comes back from a manifest on disk.
    return {"name": "mix", "version": "1", "arbitration": {"arb": json.loads(json.dumps(report))}}


def test_the_page_says_first_what_matters() -> None:
    page = arbitration(manifest(own=0.6, first=0.65, length=1.0))
    first = page.partition("### What became")[0]
    assert "beats the teacher chosen on the other half of the prompts by" in first and "which flatters it" in first
    assert "The score of `a` goes with length: of the answers to one prompt it likes the longer ones" in first
    assert "The judge `a` favours the answer that it is shown first" in first
    assert "prefers its own family, `f0`" in first or "ranks its own family, `f0`, high" in first
    for title in (
        "Who wins",
        "Strategies on the same prompts, measured by `b`",
        "The router",
        "Position",
        "Own family",
    ):
        assert f"### {title}" in page
    assert "| `none` | dropped: no answer | 1 |" in page
    widths = {line.count("|") for block in page.split("\n\n") for line in block.splitlines() if line.startswith("|")}
    assert min(widths) >= 4


def test_nothing_found_is_said_and_nothing_routed_has_no_page() -> None:
    assert "No inclination of the arbiter" in arbitration(manifest())
    assert arbitration({"name": "mix", "version": "1"}) == ""


def test_names_stay_text() -> None:
    given = manifest(prompts=40)
    text = json.dumps(given).replace('"t0"', '"<script>`|](http://x)"')
    page = arbitration(json.loads(text))
    assert "<script>" not in page and "](http" not in page and "`|" not in page
