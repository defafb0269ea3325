"""ARBITRATION.md of a release, from its manifest alone: who answered, who won, and how far to trust the arbiter.

``manifest["arbitration"]`` has a report for every source whose answers were routed, by its name: ``decisions`` and
``pairs``, counts by reason and outcome; ``comparison`` (one, or a list by several measures), ``bias``; where there are
any ``review``, what became of the prompts that were reviewed, and ``remarks``; and ``router`` where there is one, as
``comparison`` and ``bias`` of :mod:`aya_data.builders.arbitrage.statistics` and
:mod:`aya_data.builders.arbitrage.routing.router` make them. The same manifest gives the same bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from aya_data.core import language as languages
from aya_data.core.generation import named_reasons

__all__ = ["arbitration"]

Report = Mapping[str, Any]

REASONS: Final[Mapping[str, str]] = {
    "reward": "the answer with the best score",
    "fixed": "the teacher of its language",
    "learned": "the teacher that the router picked",
    "random": "a teacher drawn for the prompt",
    "single": "the one teacher",
    "translate": "the teacher whose answers are translations",
    "only_one": "the only answer with a score",
    "penalised": "dropped: every answer has a penalty",
    "none": "dropped: no answer",
    "no_score": "dropped: no answer with a score",
    "no_teacher": "dropped: no teacher is asked for its language",
}
OUTCOMES: Final[Mapping[str, str]] = {
    "kept": "a pair of the release",
    "language": "not in the languages of the pairs",
    "alone": "no two answers with a score",
    "penalised": "the better answer has a penalty, or no two are without one",
    "identical": "both say the same",
    "margin": "the scores are too close",
    "length": "one answer is too long beside the other",
    "repeated": "says what another pair of the prompt says",
    "similar": "the answers are too alike",
    "max_per_prompt": "the prompt has enough pairs",
}
STRATEGIES: Final[Mapping[str, str]] = {
    "reward": "reward: best of all",
    "best_single": "chosen on the other half",
    "fixed": "fixed: best for the language",
    "learned": "learned: picked by a router",
    "random": "random teacher",
    "single": "single",
    "translate": "translation baseline",
}
WORDS: Final[Mapping[str, str]] = {
    "found": "found",
    "possible": "possible",
    "none": "none",
}
SECTIONS: Final = ("length", "position", "own_family")
ALL: Final = "all"
COUNTED: Final = ("asked_for", "prompts", "completions")
MOST, BEST = 30, 3
"""Teachers that are shown over all varieties, and of each."""


def arbitration(manifest: Mapping[str, Any]) -> str:
    """Return the page; empty where nothing was routed."""
    sources: Mapping[str, Report] = manifest.get("arbitration") or {}
    if not sources:
        return ""
    about = (
        f"Release {_code(manifest['name'])}, version {_code(manifest['version'])}: who answered the prompts, whose "
        "answers were taken, and what the arbiter is inclined to. Brackets hold 95 % intervals over prompts."
    )
    lines = ["# Arbitration", "", about, ""]
    for name in sorted(sources):
        asked: Counter[str] = Counter()
        for voice in manifest.get("voices") or ():
            if voice["source"] == name:
                asked[voice["step"].partition("/")[2].partition("@")[0]] += voice["asked"]
        failures = [voice for voice in manifest.get("voices") or () if voice["source"] == name and voice.get("failed")]
        lines += [f"## Source {_code(name)}", "", *_source(sources[name], asked, failures)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _source(report: Report, asked: Mapping[str, int], failures: Sequence[Report]) -> list[str]:
    bias = report["bias"]
    given = report["comparison"]
    comparisons: Sequence[Report] = [given] if isinstance(given, Mapping) else given
    lines = ["### Look at this first", "", *(f"- {line}" for line in _first(report, comparisons, asked, failures)), ""]
    lines += _counts("### What became of the prompts", ("Taken by", "Meaning", "Prompts"), report["decisions"], REASONS)
    unit = report.get("length_unit", "characters")
    outcomes = {**OUTCOMES, "length": f"{OUTCOMES['length']}, in {unit}"}
    lines += _counts("### What became of the pairs", ("Outcome", "Meaning", "Pairs"), report.get("pairs"), outcomes)
    lines += _teachers(report.get("teachers") or ())
    lines += _wins(bias["wins"])
    for comparison in comparisons:
        lines += _strategies(comparison)
    lines += _router(report.get("router"))
    lines += _length(bias["length"], bias["without_length"])
    lines += _position(bias["position"])
    return lines + _own_family(bias["own_family"])


def _first(
    report: Report, comparisons: Sequence[Report], asked: Mapping[str, int], failures: Sequence[Report]
) -> list[str]:
    """What somebody with a minute should know."""
    bias = report["bias"]
    prompts, answers = bias["prompts"], bias["completions"]
    scored = bias.get("scored", answers)
    lines = [f"{prompts:,} prompts with {answers:,} answers were scored."]
    if scored < answers:
        lines = [f"{prompts:,} prompts have {answers:,} answers, of which {scored:,} have a score."]
    for teacher, rows in _by_teacher(report.get("teachers") or ()).items():
        if asked.get(teacher) and not sum(row["completions"] for row in rows):
            lines.append(f"The teacher {_code(teacher)} has no answer to any prompt that it was asked.")
    for voice in failures:
        lines.append(
            f"Of the {voice['asked']:,} requests to {_code(voice['step'])} {voice['failed']:,} failed and have no "
            f"answer: {_plain(named_reasons(voice['reasons']))}."
        )
    lines += _review(report.get("review"))
    lines += [f"{_plain(remark[:1].upper() + remark[1:])}." for remark in report.get("remarks") or ()]
    for comparison in comparisons:
        strategies = {row["strategy"]: row for row in comparison["strategies"]}
        gain = strategies.get("reward", {}).get("gain", {})
        if gain.get("low") is not None:
            own = "" if comparison["independent"] else " That score had a part in the choice, which flatters it."
            lines.append(
                f"Taking the best of all answers {_beats(gain)} the teacher chosen on the other half of the prompts by "
                f"{_interval(gain)} at {_number(strategies['reward']['paid'])} answers paid for each prompt, measured "
                f"by {_code(comparison['measured'])}.{own}{_beside(comparison.get('best'), gain)}"
            )
        if comparison["few"]:
            number = comparison["prompts"]
            have = f"Only {number:,} prompts have" if number else "No prompt has"
            lines.append(f"{have} scored answers of all teachers: strategies hardly compare.")
    for row in _found(bias["length"]):
        sign = "longer" if row["within"]["estimate"] > 0 else "shorter"
        lines.append(
            f"The score of {_code(row['arbiter'])} goes with length{_where(row)}: of the answers to one prompt it "
            f"likes the {sign} ones (correlation {_interval(row['within'])})."
        )
    for row in _found(bias["position"]):
        side = "first" if row["first"]["estimate"] > 0.5 else "second"
        lines.append(
            f"The judge {_code(row['arbiter'])} favours the answer that it is shown {side}: the first has "
            f"{_share(row['first'])} of its verdicts, and {_share(row['flipped'])} change with the order."
        )
    for row in bias["own_family"]:
        if row["finding"] == "found":
            lines.append(
                f"The arbiter {_code(row['arbiter'])} prefers its own family, {_code(row['family'])}, by "
                f"{_interval(row['excess'])} standard deviations."
            )
        elif row["finding"] == "possible":
            lines.append(
                f"The arbiter {_code(row['arbiter'])} ranks its own family, {_code(row['family'])}, high "
                f"({_interval(row['excess'])} standard deviations); whether for its quality, this release cannot tell."
            )
    for arbiter, counts in sorted((report.get("unread") or {}).items()):
        if any(counts.values()):
            lines.append(
                f"Of the judge {_code(arbiter)} {counts.get('parse_failures', 0):,} verdicts could not be read and "
                f"{counts.get('unanswered', 0):,} never came: they count for nothing."
            )
    findings = {row["finding"] for part in SECTIONS for row in bias[part]}
    if findings == {"too_few"}:
        lines.append("There are too few prompts to tell what the arbiter is inclined to.")
    elif not findings & {"found", "possible"}:
        lines.append("No inclination of the arbiter to length, position or its own family was found.")
    return lines


def _review(counts: Report | None) -> list[str]:
    """How many prompts a reviewer decided."""
    if not counts:
        return []
    who = "People" if counts["by"] == "human" else "The judge that reviews"
    number = counts["decided"] + counts["earlier"]
    return [f"{who} decided {number:,} of the {counts['chosen']:,} prompts that were chosen for review."]


def _beats(gain: Report) -> str:
    return "beats" if gain["low"] > 0 else "loses to" if gain["high"] < 0 else "does not clearly beat"


def _beside(best: Report | None, gain: Report) -> str:
    """What the best answers gain over the best teacher, as one knows it afterwards."""
    if best is None or best["gain"].get("low") is None:
        return ""
    if best["gain"] == gain:
        return f" The one chosen is the best single teacher, {_code(best['teacher'])}: {_interval(best['mean'])}."
    return (
        f" The best single teacher, {_code(best['teacher'])}, has {_interval(best['mean'])} and is known "
        f"only afterwards: the best of all answers {_beats(best['gain'])} it by {_interval(best['gain'])}."
    )


def _by_teacher(rows: Iterable[Report]) -> dict[str, list[Report]]:
    found: dict[str, list[Report]] = {}
    for row in rows:
        found.setdefault(row["teacher"], []).append(row)
    return found


def _found(rows: Sequence[Report]) -> list[Report]:
    """What was found over all varieties, else in single ones."""
    found = [row for row in rows if row["finding"] == "found"]
    whole = {row["arbiter"] for row in found if row.get("language") is None}
    return [row for row in found if row["arbiter"] not in whole or row.get("language") is None]


def _told(rows: Sequence[Report]) -> list[Report]:
    """Leave out what rests on too few prompts: an interval beside it would say that it were something."""
    return [row for row in rows if row["finding"] != "too_few"]


def _counts(title: str, head: Sequence[str], counts: Mapping[str, int] | None, words: Mapping[str, str]) -> list[str]:
    if not counts:
        return []
    rows = [(_code(name), words.get(name, ""), f"{number:,}") for name, number in _by_size(counts)]
    return [title, "", *_table(head, rows, 2)]


def _by_size(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))


def _teachers(rows: Sequence[Report]) -> list[str]:
    """What each teacher answered, and where it has nothing at all."""
    shown = []
    for teacher, listed in _by_teacher(rows).items():
        prompts, answered, answers = (sum(row[name] for row in listed) for name in COUNTED)
        without = [_variety(row) for row in listed if not row["completions"]] if answers else []
        more = f" and {len(without) - BEST} more" if len(without) > BEST else ""
        none = ", ".join(without[:BEST]) + more
        shown.append((_code(teacher), none, f"{answered:,} of {prompts:,}", f"{answers:,}"))
    head = ("Teacher", "Without any in", "Prompts answered", "Answers")
    return ["### Who answered", "", *_table(head, shown, 2)] if shown else []


def _wins(rows: Sequence[Report]) -> list[str]:
    if not rows:
        return []
    lines = [
        "### Who wins",
        "",
        "Of the prompts with scores of two teachers or more. The lead is that over the next teacher, where it wins.",
        "",
    ]
    groups: dict[str, list[Report]] = {}
    for row in rows:
        groups.setdefault(_variety(row), []).append(row)
    shown = []
    for variety, listed in groups.items():
        for row in listed[: MOST if variety == ALL or len(groups) == 1 else BEST]:
            shown.append(
                (
                    variety, _code(row["teacher"]), f"{row['prompts']:,}", _share(row["share"]), f"{row['tied']:,}",
                    _number(row["score"]), _number(row["lead"]),
                )
            )  # fmt: skip
    head = ("Variety", "Teacher", "Prompts", "Wins", "Ties won", "Mean score", "Lead")
    return [*lines, *_table(head, shown, 2)]


def _strategies(comparison: Report) -> list[str]:
    rows = comparison["strategies"]
    if not rows:
        return []
    shown = []
    singles = [row for row in rows if row["strategy"] == "single"]
    best = sorted(singles, key=lambda row: (-(row["mean"]["estimate"] or 0.0), row["teacher"]))[:BEST]
    for row in rows:
        if row["strategy"] == "single" and row not in best:
            continue
        name = STRATEGIES[row["strategy"]] + (f" {_code(row['teacher'])}" if row["teacher"] else "")
        largest = sorted(row["shares"].items(), key=lambda pair: (-pair[1], pair[0]))[:BEST]
        shares = ", ".join(f"{_code(teacher)} {_percent(share)}" for teacher, share in largest)
        shown.append((name, _interval(row["mean"]), _interval(row["gain"]), _number(row["paid"]), shares))
    left = len(singles) - len(best)
    about = (
        f"{comparison['prompts']:,} prompts that all teachers answered; {comparison['left_out']:,} are left out. "
        "What a strategy learns, it learns on the other half of them. Gain is over the teacher "
        "that the scores of the other half choose."
    )
    return [
        f"### Strategies on the same prompts, measured by {_code(comparison['measured'])}",
        "",
        about,
        "",
        *_table(("Strategy", "Mean score", "Gain", "Answers paid", "Takes most from"), shown, 1),
        *([f"{left:,} single teachers with lower means are not shown.", ""] if left > 0 else []),
    ]


def _router(report: Report | None) -> list[str]:
    if not report:
        return []
    kl, best = report["divergence"], report["best"]
    verdict = "better" if report["better"] else "no better"
    rows = [
        (f"{row['prompts']:,}", _percent(row["expected"]), _percent(row["observed"])) for row in report["calibration"]
    ]
    about = (
        f"On prompts that it had not seen, of {report['prompts']:,}, it is {verdict} than what the language alone "
        f"says: divergence {_number(kl['router'])} against {_number(kl['variety'])}, a best teacher picked for "
        f"{_percent(best['router'])} against {_percent(best['variety'])} of the prompts."
    )
    return [
        "### The router",
        "",
        about,
        "",
        *_table(("Prompts", "Probability of its pick", "Share by the scores"), rows, 0),
    ]


def _length(rows: Sequence[Report], without: Sequence[Report]) -> list[str]:
    lines: list[str] = []
    few = sum(row["finding"] == "too_few" for row in rows)
    rows = _told(rows)
    if rows:
        shown = [
            (
                _code(row["arbiter"]), _variety(row), f"{row['prompts']:,}", _interval(row["within"]),
                _interval(row["overall"]), WORDS[row["finding"]],
            )
            for row in rows
        ]  # fmt: skip
        lines += [
            "### Score and length",
            "",
            "Spearman's correlation of score and length: inside each prompt, and over all answers."
            + (" Varieties with too few prompts are left out." if few else ""),
            "",
            *_table(("Arbiter", "Variety", "Prompts", "Inside prompts", "Over all", "Finding"), shown, 2),
        ]
    changed: list[tuple[str, ...]] = []
    for row in [row for row in without if row["prompts"]]:
        changes = [(name, one["with"], one["without"]) for name, one in row["wins"].items()]
        changes.sort(key=lambda one: (-abs(one[2] - one[1]), one[0]))
        most = ", ".join(f"{_code(name)} {_percent(a)} to {_percent(b)}" for name, a, b in changes[:BEST])
        changed.append((_variety(row), f"{row['prompts']:,}", _number(row["slope"]), _share(row["moved"]), most))
    if changed:
        lines += [
            "If the score knew nothing of length, other teachers would win some prompts:",
            "",
            *_table(
                ("Variety", "Prompts", "Score per e-fold of length", "Other winner", "Wins that change most"),
                changed,
                1,
            ),
        ]
    return lines


def _position(rows: Sequence[Report]) -> list[str]:
    rows = _told(rows)
    if not rows:
        return []
    shown = [
        (
            _code(row["arbiter"]), f"{row['comparisons']:,}", _share(row["flipped"]), _share(row["first"]),
            WORDS[row["finding"]],
        )
        for row in rows
    ]  # fmt: skip
    head = ("Judge", "Comparisons", "Verdict changes with order", "Verdicts for the first", "Finding")
    return ["### Position", "", *_table(head, shown, 1)]


def _own_family(rows: Sequence[Report]) -> list[str]:
    rows = _told(rows)
    if not rows:
        return []
    shown = [
        (
            _code(row["arbiter"]), _code(row["family"]), f"{row['prompts']:,}", _interval(row["excess"]),
            ", ".join(map(_code, row["compared_with"])) or "nobody", WORDS[row["finding"]],
        )
        for row in rows
    ]  # fmt: skip
    head = ("Arbiter", "Family", "Prompts", "Excess (standard deviations)", "Compared with", "Finding")
    return ["### Own family", "", *_table(head, shown, 2)]


# Words and numbers --------------------------------------------------------------------------------


def _where(row: Report) -> str:
    return "" if row.get("language") is None else f" in {_variety(row)}"


def _variety(row: Report) -> str:
    return ALL if row["language"] is None else _plain(languages.name(f"{row['language']}_{row['script']}"))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> list[str]:
    """A table whose columns from ``words`` on are set to the right."""
    ruler = ["---" if index < words else "---:" for index in range(len(head))]
    return [*(f"| {' | '.join(row)} |" for row in (head, ruler, *rows)), ""]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}".rstrip("0").rstrip(".") or "0"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _interval(found: Report | None) -> str:
    return _bounds(found, lambda value: f"{value:.3f}")


def _share(found: Report | None) -> str:
    return _bounds(found, _percent)


def _bounds(found: Report | None, shown: Callable[[float], str]) -> str:
    if found is None or found["estimate"] is None:
        return ""
    if found["low"] is None:
        return shown(found["estimate"])
    return f"{shown(found['estimate'])} [{shown(found['low'])}, {shown(found['high'])}]"


def _plain(value: object) -> str:
    """Text without anything that Markdown or HTML would take for its own."""
    return re.sub(r"[^\w .,:()/@+-]", " ", str(value)).strip()


def _code(value: object) -> str:
    return f"`{_plain(value)}`"
