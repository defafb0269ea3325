"""What a release keeps of an arbitrage beside its rows: views for the catalog, and the report."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from aya_data.builders.arbitrage.ranking import arbiters_of
from aya_data.builders.arbitrage.routing.rules import Contender, RoutingSettings
from aya_data.builders.arbitrage.statistics.bias import bias
from aya_data.builders.arbitrage.statistics.collected import collect
from aya_data.builders.arbitrage.statistics.comparison import compare
from aya_data.builders.arbitrage.tables import POSITIONS, SCORE

__all__ = ["make", "views"]

COMPLETION = (
    "prompt", "language", "script", "teacher", "family", "sample", "key", "finish", "tokens", "chars", "length",
    "digest", "penalties", "score", "disagreement",
)  # fmt: skip
DECISION = (
    "prompt", "language", "script", "teacher", "sample", "key", "score", "reason", "tied", "candidates",
)  # fmt: skip
UNREAD = ("parse_failures", "unanswered")
"""What a judge counts of a completion beside its score: verdicts that could not be read, and that never came."""
VARIETY = ("language", "script")
SIDES = tuple(
    f"{side}_{name}" for side in ("chosen", "rejected") for name in ("teacher", "sample", "key", "score")
)  # fmt: skip


def make(
    parts: Iterable[tuple[pa.Table, pa.Table, pa.Table | None]],
    contenders: Sequence[Contender],
    routing: RoutingSettings,
    families: Mapping[str, str | None],
    watching: Sequence[str],
    learned: pa.Table | None,
    seed: int,
) -> dict[str, Any]:
    """Report on all parts, each its scores, decisions and pairs: JSON, whatever their order.

    ``families`` is the model family of each arbiter that has one; ``watching`` are those that had no part in the score,
    which measure independently; ``learned`` is the table that a router was trained to. The report: how many prompts of
    each variety there are that a teacher may be asked about, and how many it answered; decisions by reason
    and pairs by outcome, the comparison of strategies, and what the arbiters are inclined to.
    """
    reasons: Counter[str] = Counter()
    asked: Counter[tuple[str, str]] = Counter()
    answered: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    outcomes: Counter[str] = Counter()
    unread: dict[str, Counter[str]] = defaultdict(Counter)

    def scores() -> Iterator[pa.Table]:
        for scored, decisions, pairs in parts:
            reasons.update(decisions["reason"].to_pylist())
            asked.update(zip(*(decisions[name].to_pylist() for name in VARIETY), strict=True))
            about = scored.select([*VARIETY, "teacher"]).append_column("row", scored["row"])
            groups = about.group_by([*VARIETY, "teacher"]).aggregate([("row", "count"), ("row", "count_distinct")])
            for one in groups.to_pylist():
                found = answered[(one["teacher"], one["language"], one["script"])]
                found.update(prompts=one["row_count_distinct"], completions=one["row_count"])
            outcomes.update(pairs["outcome"].to_pylist() if pairs is not None else ())
            for arbiter in arbiters_of(scored):
                unread[arbiter].update(_unread(scored, arbiter))
            yield scored

    collected = collect(scores(), contenders, seed)
    given: dict[str, Any] = {
        "translated": routing.teacher if routing.kind == "translate" else None,
        "least": routing.least,
        "crossed": None if learned is None else _crossed(learned),
    }
    found = {
        "teachers": [
            {
                "teacher": contender.name,
                "language": language,
                "script": script,
                "asked_for": count,
                "prompts": answered[(contender.name, language, script)]["prompts"],
                "completions": answered[(contender.name, language, script)]["completions"],
            }
            for contender in sorted(contenders, key=lambda one: one.name)
            for (language, script), count in sorted(asked.items())
            if contender.asked_for(language, script)
        ],
        "decisions": dict(sorted(reasons.items())),
        "pairs": dict(sorted(outcomes.items())),
        "comparison": [
            compare(collected, seed, **given),
            *(compare(collected, seed, measured=name, independent=True, **given) for name in sorted(watching)),
        ],
        "bias": bias(collected, families),
        "unread": {arbiter: dict(sorted(counts.items())) for arbiter, counts in sorted(unread.items()) if counts},
    }
    return found if learned is None else {**found, "router": json.loads(learned["report"][0].as_py())}


def _unread(scores: pa.Table, arbiter: str) -> dict[str, int]:
    """Count the verdicts of a judge that held none, each once: equal answers were judged together, and what compares
    two answers is counted with both."""
    named = [f"{count}.{arbiter}" for count in UNREAD]
    if not set(named) <= set(scores.column_names):
        return {}
    one = scores.select(["row", "digest", *named]).group_by(["row", "digest"]).aggregate([(c, "max") for c in named])
    each = 2 if f"{POSITIONS[0]}.{arbiter}" in scores.column_names else 1
    return {count: (pc.sum(one[f"{name}_max"]).as_py() or 0) // each for count, name in zip(UNREAD, named, strict=True)}


def _crossed(learned: pa.Table) -> dict[int, str]:
    """The teacher that a router which has not seen it picks for each prompt."""
    prompts, teachers = learned["prompts"][0].as_py(), learned["crossed"][0].as_py()
    return {prompt: teacher for prompt, teacher in zip(prompts, teachers, strict=True) if teacher is not None}


def views(
    scores: pa.Table, decisions: pa.Table, pairs: pa.Table | None, reviewed: pa.Table | None
) -> Mapping[str, pa.Table]:
    """Return the tables ``completions``, ``scores``, ``decisions`` and ``pairs`` of one part.

    The texts of answers that were not picked stay in the journal: no filter has seen them.
    """
    found = {
        "completions": scores.select(COMPLETION),
        "scores": _long(scores, reviewed),
        "decisions": decisions.select(DECISION),
    }
    if pairs is not None:
        found["pairs"] = pairs.select(["prompt", "language", "script", *SIDES, "margin", "outcome"])
    return found


def _long(scores: pa.Table, reviewed: pa.Table | None) -> pa.Table:
    """One row for every completion and arbiter, and for every verdict of a review."""
    parts = []
    if reviewed is not None:
        whose = zip(*(scores[name].to_pylist() for name in ("row", "teacher", "sample")), strict=True)
        place = {one: index for index, one in enumerate(whose)}
        verdicts = zip(*(reviewed[name].to_pylist() for name in ("row", "teacher", "sample")), strict=True)
        said = scores.select(["prompt", "language", "script", "teacher", "sample"])
        said = said.take(pa.array([place[one] for one in verdicts], pa.int64()))
        said = said.append_column("arbiter", pa.repeat(pa.scalar("review"), reviewed.num_rows))
        said = said.append_column("score", reviewed[f"{SCORE}review"])
        named = "note.review" in reviewed.column_names
        note = reviewed["note.review"] if named else pa.nulls(reviewed.num_rows, pa.string())
        parts.append(said.append_column("note", pc.cast(note, pa.string())))
    for arbiter in arbiters_of(scores):
        note = f"note.{arbiter}"
        said = scores.select(["prompt", "language", "script", "teacher", "sample"])
        said = said.append_column("arbiter", pa.repeat(pa.scalar(arbiter), scores.num_rows))
        said = said.append_column("score", scores[SCORE + arbiter])
        notes = scores[note] if note in scores.column_names else pa.nulls(scores.num_rows, pa.string())
        parts.append(said.append_column("note", pc.cast(notes, pa.string())))
    return pa.concat_tables(parts)
