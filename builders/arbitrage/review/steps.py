"""The steps of a review: which prompts people judged, which are chosen, the sheet, and what the reviewer says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from aya_data.builders.arbitrage.arbiter import Arbiter
from aya_data.builders.arbitrage.review.prompts import HumanArbiter, ReviewSettings
from aya_data.builders.arbitrage.review.sheet import answer_keys, check_known
from aya_data.builders.arbitrage.review.verdicts import REVIEW
from aya_data.core.generation import Step

__all__ = ["HEARD", "SHEET", "VERDICTS", "judged", "review_steps"]

HEARD: Final = "heard"
"""What the names of steps begin with that look whether anything that an arbiter said is of use."""
SHEET: Final = "sheet"
"""The step whose tables are the lines of a review sheet."""
VERDICTS: Final = "verdicts"
"""The step that lists the prompts that people judged."""


def review_steps(
    settings: ReviewSettings[Any],
    reviewer: Arbiter,
    rounds: Sequence[str],
    generated: Sequence[str],
    thoughts: Mapping[str, Any],
    seed: int,
) -> list[Step]:
    """Return the steps of a review: :data:`VERDICTS` and :data:`SHEET` where people review, ``select``, ``review``, and
    what asks a judge. ``rounds`` are the steps that scored, ``generated`` those whose answers are judged; ``thoughts``
    says how these are read.
    """
    chosen = settings.model_dump(mode="json", by_alias=True, exclude={"reviewer", "min_margin"})
    about = {"reviewer": dict(reviewer.identity()), "thoughts": dict(thoughts), "seed": seed}
    people = isinstance(reviewer, HumanArbiter)
    known = (VERDICTS,) if people else ()
    inputs = ["select", *generated]
    steps = [Step(VERDICTS, "whole", tuple(generated), about)] if people else []
    steps.append(Step("select", "whole", (*rounds, *known), {**chosen, "seed": seed}))
    if people:
        steps.append(Step(SHEET, "part", tuple(inputs), about))
    asks = reviewer.voice() is not None
    if asks:
        steps.append(Step(f"{REVIEW}/{REVIEW}", "ask", tuple(inputs), about))
        inputs.append(steps[-1].name)
    steps.append(Step(REVIEW, "part", (*rounds, *inputs), about))
    if asks:
        steps.append(Step(f"{HEARD}/{REVIEW}", "whole", (REVIEW, f"{REVIEW}/{REVIEW}"), None))
    return steps


def judged(reviewer: HumanArbiter, completions: Iterable[pa.Table]) -> pa.Table:
    """List the prompts (``prompt``, sorted) that people judged an answer of, from the completions of all parts.

    Raises :class:`~aya_data.core.errors.InputError` for a verdict on an answer that nobody gave.
    """
    said = reviewer.verdicts
    known: set[str] = set()
    prompts: set[str] = set()
    for part in completions if said else ():
        for prompt, key in zip(part["prompt"].to_pylist(), answer_keys(part).to_pylist(), strict=True):
            if key in said:
                known.add(key)
                prompts.add(prompt)
    check_known([verdict for listed in said.values() for verdict in listed], known)
    return pa.table({"prompt": pa.array(sorted(prompts), pa.string())})
