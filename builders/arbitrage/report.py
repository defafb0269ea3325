"""What a release keeps of an arbitrage beside its rows: views for the catalog, and the report."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from aya_data.builders.arbitrage.penalties import EMPTY, TRUNCATED
from aya_data.builders.arbitrage.ranking import arbiters_of
from aya_data.builders.arbitrage.review.verdicts import ARBITER, DECIDED, REVIEW, SCORER, standing
from aya_data.builders.arbitrage.routing.rules import Contender, RoutingSettings
from aya_data.builders.arbitrage.statistics.bias import bias
from aya_data.builders.arbitrage.statistics.collected import collect
from aya_data.builders.arbitrage.statistics.comparison import compare
from aya_data.builders.arbitrage.tables import POSITIONS, SCORE
from aya_data.core.generation import FAILED

__all__ = ["failures", "make", "views"]

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
REVIEWS = ("chosen", "decided", "earlier", "unfinished", "alone", "unjudged", "later", "out_of_reach")
"""What is counted of a review: prompts that were chosen, those of each standing, answers that came later than people's
verdicts, and prompts with verdicts of which every answer has a penalty."""
THOUGHTS = ("answers", "thoughts", TRUNCATED, EMPTY)
"""What is counted of a teacher that thinks: its answers, those with a thought, and of these those with a penalty."""
SIDES = tuple(
    f"{side}_{name}" for side in ("chosen", "rejected") for name in ("teacher", "sample", "key", "score")
)  # fmt: skip


def make(
    parts: Iterable[tuple[pa.Table, pa.Table, pa.Table | None, pa.Table | None]],
    contenders: Sequence[Contender],
    routing: RoutingSettings,
    families: Mapping[str, str | None],
    watching: Sequence[str],
    learned: pa.Table | None,
    seed: int,
    reviewers: str = "",
    out_of_reach: int = 0,
) -> dict[str, Any]:
    """Report on all parts, each its scores, decisions, pairs and verdicts: JSON, whatever their order.

    ``families`` is the model family of each arbiter that has one; ``watching`` are those that had no part in the score,
    which measure independently; ``learned`` is the table that a router was trained to; ``reviewers`` is the kind of the
    reviewer, empty without one, and ``out_of_reach`` how many prompts have verdicts and no answer left that could be
    taken. The report: how many prompts of
    each variety there are that a teacher may be asked about, and how many it answered; decisions by reason
    and pairs by outcome, the comparison of strategies, and what the arbiters are inclined to; what became of a review
    and of thoughts, where there are any, with ``remarks`` on what people may not expect.
    """
    reasons: Counter[str] = Counter()
    asked: Counter[tuple[str, str]] = Counter()
    answered: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    outcomes: Counter[str] = Counter()
    unread: dict[str, Counter[str]] = defaultdict(Counter)
    thoughts: dict[str, Counter[str]] = defaultdict(Counter)
    reviews: Counter[str] = Counter()

    def scores() -> Iterator[pa.Table]:
        for scored, decisions, pairs, reviewed in parts:
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
            for one in scored.filter(pc.is_valid(scored["thought"])).select(["teacher", "penalties"]).to_pylist():
                thoughts[one["teacher"]].update(["thoughts", *one["penalties"]])
            if reviewed is not None:
                reviews.update(_reviews(scored, reviewed))
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
    if learned is not None:
        found["router"] = json.loads(learned["report"][0].as_py())
    remarks = []
    if reviewers:
        reviews["out_of_reach"] = out_of_reach
        found["review"] = {"by": reviewers, **{name: reviews[name] for name in REVIEWS}}
        remarks += _about_review(reviewers, reviews)
    if thoughts:
        for teacher, counts in thoughts.items():
            number = sum(one["completions"] for (name, *_), one in answered.items() if name == teacher)
            counts["answers"] = number
        found["thoughts"] = {
            teacher: {name: counts[name] for name in THOUGHTS} for teacher, counts in sorted(thoughts.items())
        }
        remarks += [_about_thoughts(teacher, counts) for teacher, counts in sorted(thoughts.items())]
    return {**found, "remarks": remarks} if remarks else found


def _reviews(scores: pa.Table, reviewed: pa.Table) -> Counter[str]:
    """Count the prompts of one part by standing, and the answers without a verdict to those of which people judged
    earlier answers."""
    found = standing(scores, reviewed)
    counts = Counter(found.values())
    counts["chosen"] = len(found)
    rows = reviewed["row"].filter(pc.is_null(reviewed[f"{SCORE}{REVIEW}"])).to_pylist()
    counts["later"] = sum(found[row] == "earlier" for row in rows)
    return counts


def _about_review(reviewers: str, counts: Mapping[str, int]) -> list[str]:
    """What people may not expect of a review: verdicts that do not count, and answers that wait for one."""
    remarks = []
    if counts["earlier"]:
        remarks.append(
            f"{_prompts(counts['earlier'])} decided by verdicts on the answers that people saw, without the "
            f"{counts['later']:,} that came later: aya-data review writes a sheet that asks for them"
        )
    why = {
        "unfinished": "an answer on the sheet has no score" if reviewers == "human" else "the judge lacks verdicts",
        "alone": "one answer is judged and others came later",
        "out_of_reach": "every answer has a penalty",
    }
    lost = {name: counts[name] for name in why if counts[name]}
    if reviewers != "human" and counts["unjudged"]:
        lost["unfinished"] = lost.get("unfinished", 0) + counts["unjudged"]
    if lost:
        told = ", ".join(f"{number:,} because {why[name]}" for name, number in lost.items())
        subject = "the verdicts of people on" if reviewers == "human" else "the review of"
        number = sum(lost.values())
        prompts = "1 prompt" if number == 1 else f"{number:,} prompts"
        count = "do not count" if reviewers == "human" else "does not count"
        remarks.append(f"{subject} {prompts} {count}, and the arbiter decides: {told}")
    return remarks


def _prompts(number: int) -> str:
    return "1 prompt is" if number == 1 else f"{number:,} prompts are"


def _about_thoughts(teacher: str, counts: Mapping[str, int]) -> str:
    thoughts, answers = counts["thoughts"], counts["answers"]
    told = [f"{thoughts:,} of the {answers:,} answers of {teacher} had a thought, which was left out"]
    for penalty, what in ((TRUNCATED, "cut off"), (EMPTY, "with nothing beside it")):
        if counts[penalty]:
            told.append(f"{counts[penalty]:,} {what}")
    return ", ".join(told)


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

    Where there is a review, decisions have the standing of the prompt (``review``, null where it was not chosen), and
    decisions and pairs say whose scores theirs are (``scorer``).

    The texts of answers that were not picked stay in the journal: no filter has seen them.
    """
    found = {
        "completions": scores.select(COMPLETION),
        "scores": _long(scores, reviewed),
        "decisions": decisions.select(DECISION),
    }
    told: tuple[str, ...] = ()
    if reviewed is not None:
        told = (SCORER,)
        standings = standing(scores, reviewed)
        mine = [standings.get(row) for row in decisions["row"].to_pylist()]
        scorer = [REVIEW if one in DECIDED else ARBITER for one in mine]
        with_review = found["decisions"].append_column("review", pa.array(mine, pa.string()))
        found["decisions"] = with_review.append_column(SCORER, pa.array(scorer, pa.string()))
    if pairs is not None:
        found["pairs"] = pairs.select(["prompt", "language", "script", *SIDES, "margin", *told, "outcome"])
    return found


def failures(prompts: pa.Table, asked: Mapping[str, pa.Table]) -> Mapping[str, pa.Table]:
    """Return the table ``failures`` of one part from those of its ``ask`` steps, by name; nothing where none failed."""
    parts = []
    for step, answers in sorted(asked.items()):
        lost = answers.filter(pc.equal(answers["finish"], FAILED))
        about = prompts.select(["row_key", *VARIETY]).take(lost["row"]).rename_columns(["prompt", *VARIETY])
        about = about.append_column("step", pa.repeat(pa.scalar(step), lost.num_rows))
        for name in ("tag", "key", "reason"):
            about = about.append_column(name, lost[name])
        parts.append(about)
    whole = pa.concat_tables(parts)
    return {"failures": whole} if whole.num_rows else {}


def _long(scores: pa.Table, reviewed: pa.Table | None) -> pa.Table:
    """One row for every completion and arbiter, and for every verdict of a review."""
    parts = []
    if reviewed is not None:
        whose = zip(*(scores[name].to_pylist() for name in ("row", "teacher", "sample")), strict=True)
        place = {one: index for index, one in enumerate(whose)}
        verdicts = zip(*(reviewed[name].to_pylist() for name in ("row", "teacher", "sample")), strict=True)
        said = scores.select(["prompt", "language", "script", "teacher", "sample"])
        said = said.take(pa.array([place[one] for one in verdicts], pa.int64()))
        said = said.append_column("arbiter", pa.repeat(pa.scalar(REVIEW), reviewed.num_rows))
        said = said.append_column("score", reviewed[f"{SCORE}{REVIEW}"])
        named = f"note.{REVIEW}" in reviewed.column_names
        note = reviewed[f"note.{REVIEW}"] if named else pa.nulls(reviewed.num_rows, pa.string())
        parts.append(said.append_column("note", pc.cast(note, pa.string())))
    for arbiter in arbiters_of(scores):
        note = f"note.{arbiter}"
        said = scores.select(["prompt", "language", "script", "teacher", "sample"])
        said = said.append_column("arbiter", pa.repeat(pa.scalar(arbiter), scores.num_rows))
        said = said.append_column("score", scores[SCORE + arbiter])
        notes = scores[note] if note in scores.column_names else pa.nulls(scores.num_rows, pa.string())
        parts.append(said.append_column("note", pc.cast(notes, pa.string())))
    return pa.concat_tables(parts)
