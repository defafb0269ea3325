"""Verdicts: what a reviewer says of the answers to the prompts that were chosen, and the scores that come of it.

What a prompt is reviewed to be, its *standing*:

============== =====================================================================================================
``decided``    every answer without a penalty has a verdict: the verdicts alone decide
``earlier``    people judged two different answers or more, and all that stood on their sheet without a penalty; the
               others came later (another teacher, another sample). The verdicts decide among the judged answers
``unfinished`` an answer without a penalty has no verdict, though the reviewer was shown it
``alone``      one answer has a verdict, the others came later
``unjudged``   no answer has a verdict
============== =====================================================================================================

In the last three the arbiter decides, as without a review. A penalty comes before any verdict.
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from aya_data.builders.arbitrage.arbiter import Arbiter
from aya_data.builders.arbitrage.review.sheet import SHEETS
from aya_data.builders.arbitrage.tables import SCORE

__all__ = ["ARBITER", "DECIDED", "REVIEW", "SCORER", "decided", "standing", "verdicts"]

REVIEW: Final = "review"
"""What a reviewer is called among the arbiters."""
ARBITER: Final = "arbiter"
"""What the arbiters are called where the reviewer is the other who may have scored."""
SCORER: Final = "scorer"
"""The column that tells whose scale the ``score`` of a completion is on: :data:`ARBITER` or :data:`REVIEW`."""
DECIDED: Final = frozenset({"decided", "earlier"})
"""The standings in which verdicts decide."""


def verdicts(reviewer: Arbiter, prompts: pa.Table, completions: pa.Table, answers: pa.Table | None) -> pa.Table:
    """Return ``row, teacher, sample`` of the completions, and what the reviewer says of them: ``score.review`` and
    whatever else it has to say. ``answers`` are those of its voice."""
    found = reviewer.score(prompts, completions, answers)
    columns = {name: completions[name] for name in ("row", "teacher", "sample")}
    return pa.table({**columns, **{f"{name}.{REVIEW}": found[name] for name in found.column_names}})


def standing(scores: pa.Table, verdicts: pa.Table) -> dict[int, str]:
    """Return the standing of each prompt that was chosen for review, by row. ``scores`` and ``verdicts`` are of one
    part."""
    said = _said(verdicts)
    sheets = verdicts[f"{SHEETS}.{REVIEW}"].to_pylist() if f"{SHEETS}.{REVIEW}" in verdicts.column_names else None
    shown = dict(zip(said, sheets, strict=True)) if sheets is not None else {}
    answers: dict[int, list[tuple[str, Any, set[int], bool]]] = {}
    for one in _of(scores, verdicts, ("row", "teacher", "sample", "digest", "penalties")):
        key = (one["row"], one["teacher"], one["sample"])
        held = (one["digest"], said[key], set(shown.get(key, ())), bool(one["penalties"]))
        answers.setdefault(one["row"], []).append(held)
    return {row: _standing(held, sheets is not None) for row, held in sorted(answers.items())}


def _standing(answers: list[tuple[str, Any, set[int], bool]], people: bool) -> str:
    if all(verdict is None for _, verdict, _, _ in answers):
        return "unjudged"
    free = [(digest, verdict, sheets) for digest, verdict, sheets, penalised in answers if not penalised]
    missing = [sheets for _, verdict, sheets in free if verdict is None]
    if not missing:
        return "decided"
    judged = [(digest, sheets) for digest, verdict, sheets in free if verdict is not None]
    # Sheets on which everything is judged: what stands on none of them came later.
    whole = set[int]().union(*(sheets for _, sheets in judged)).difference(*missing)
    if not people or (judged and not whole):
        return "unfinished"
    return "earlier" if len({digest for digest, sheets in judged if sheets & whole}) > 1 else "alone"


def decided(scores: pa.Table, verdicts: pa.Table) -> pa.Table:
    """Return the scores of a part with the ``score`` that counts, and :data:`SCORER`: where the standing of a prompt is
    one of :data:`DECIDED`, its :func:`verdicts` alone, as the reviewer gave them. 8 microseconds for each completion
    where all prompts are reviewed."""
    said = _said(verdicts)
    judged = {row for row, found in standing(scores, verdicts).items() if found in DECIDED}
    about = [scores[name].to_pylist() for name in ("row", "teacher", "sample", "score")]
    listed = [
        (said.get((row, *whose)), REVIEW) if row in judged else (score, ARBITER)
        for row, *whose, score in zip(*about, strict=True)
    ]
    found, scorer = zip(*listed, strict=True) if listed else ((), ())
    scores = scores.set_column(scores.schema.get_field_index("score"), "score", pa.array(found, pa.float64()))
    return scores.append_column(SCORER, pa.array(scorer, pa.string()))


def _said(verdicts: pa.Table) -> dict[tuple[Any, ...], float | None]:
    names = ("row", "teacher", "sample")
    keys = zip(*(verdicts[name].to_pylist() for name in names), strict=True)
    return dict(zip(keys, verdicts[SCORE + REVIEW].to_pylist(), strict=True))


def _of(scores: pa.Table, verdicts: pa.Table, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The scores of prompts that have verdicts or lack them."""
    held = pc.is_in(scores["row"], value_set=pc.unique(verdicts["row"]))
    found: list[dict[str, Any]] = scores.select(list(names)).filter(held).to_pylist()
    return found
