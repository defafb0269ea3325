"""The rows of an arbitrage: a conversation for every prompt whose answer was picked, and preference pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from aya_data.core.identity import derived_key
from aya_data.core.language import resolve
from aya_data.core.license import terms_of_model
from aya_data.core.row import Draft, Rejection
from aya_data.core.stage import Batch

__all__ = ["drafts"]

Turn = tuple[str, str]


def drafts(
    prompts: pa.Table,
    asked: Sequence[tuple[Turn, ...]],
    texts: Mapping[str, str],
    decisions: pa.Table,
    pairs: pa.Table | None,
    models: Mapping[str, str],
    source: str,
    answers: bool,
) -> Batch:
    """Draft the rows of one part; one record is one prompt.

    ``asked`` are the conversations that were asked, ``texts`` the completions by key, ``models`` the names of the
    teachers' models. A prompt of which no row comes is dropped, by the reason of its decision or the outcome of its
    pair; any other is consumed.
    """
    batch = Batch(prompts.num_rows, [])
    by_row: dict[int, list[dict[str, Any]]] = {}
    for pair in pairs.to_pylist() if pairs is not None else ():
        by_row.setdefault(pair["row"], []).append(pair)
    for row, (prompt, decision) in enumerate(zip(prompts.to_pylist(), decisions.to_pylist(), strict=True)):
        made = []
        turns = asked[row]
        refused = f"no_answer_{decision['reason']}" if decision["teacher"] is None else ""
        if answers and decision["teacher"] is not None:
            made.append(_conversation(prompt, turns, texts[decision["key"]], decision, models, source))
        outcomes = []
        for pair in by_row.get(row, ()):
            outcomes.append(pair["outcome"])
            if pair["outcome"] == "kept":
                made.append(_pair(prompt, turns, texts, pair, models, source))
        batch.drafts += made
        rule = refused or f"no_pair_{outcomes[0] if outcomes else 'alone'}"
        place = _place(prompt)
        batch.rejections.append(
            Rejection(prompt["row_key"], place, "arbitrage", str(len(made)), outcome="consumed")
            if made
            else Rejection(prompt["row_key"], place, rule if turns else "no_question")
        )
    return batch


def _conversation(
    prompt: dict[str, Any],
    turns: tuple[Turn, ...],
    text: str,
    decision: dict[str, Any],
    models: Mapping[str, str],
    source: str,
) -> Draft:
    teacher = decision["teacher"]
    return _draft(
        prompt,
        source,
        key=derived_key([prompt["row_key"]], "arbitrage", f"{teacher}/{decision['sample']}"),
        messages=[*turns, ("assistant", text)],
        teacher=models[teacher],
        terms=_terms(prompt, models[teacher]),
        tags={"routing": decision["reason"], "teacher": teacher},
        scores=None if decision["score"] is None else {"arbiter": decision["score"]},
    )


def _pair(
    prompt: dict[str, Any],
    turns: tuple[Turn, ...],
    texts: Mapping[str, str],
    pair: dict[str, Any],
    models: Mapping[str, str],
    source: str,
) -> Draft:
    chosen, rejected = models[pair["chosen_teacher"]], models[pair["rejected_teacher"]]
    sides = "/".join(
        (
            pair["chosen_teacher"],
            str(pair["chosen_sample"]),
            pair["rejected_teacher"],
            str(pair["rejected_sample"]),
        )
    )
    return _draft(
        prompt,
        source,
        key=derived_key([prompt["row_key"]], "arbitrage pair", sides),
        messages=list(turns),
        chosen=[*turns, ("assistant", texts[pair["chosen_key"]])],
        rejected=[*turns, ("assistant", texts[pair["rejected_key"]])],
        chosen_score=pair["chosen_score"],
        rejected_score=pair["rejected_score"],
        chosen_model=chosen,
        rejected_model=rejected,
        teacher=chosen,
        terms=_terms(prompt, chosen, rejected),
    )


def _terms(prompt: dict[str, Any], *models: str) -> tuple[str, ...]:
    """The terms of the prompt, and those of every model that had a part in the row."""
    return tuple(sorted({*(prompt["terms"] or ()), *(term for model in models for term in terms_of_model(model))}))


def _draft(prompt: dict[str, Any], source: str, **own: Any) -> Draft:
    """What all rows that come of a prompt have of it."""
    provenance = prompt["provenance"] or {}
    language, script = prompt["source_language"] or prompt["language"], prompt["script"]
    # The label is kept as upstream wrote it only where it says what the prompt was found to be.
    found = resolve(language, script=script).variety
    if (found.language, found.script) != (prompt["language"], prompt["script"]):
        language = prompt["language"]
    return Draft(
        place=_place(prompt),
        language=language,
        script=script,
        license=prompt["license"],
        group=prompt["group"],
        dataset=prompt["dataset"] or source,
        origin="generated",
        task=prompt["task"],
        revision=provenance.get("revision"),
        config=provenance.get("config"),
        split=provenance.get("split"),
        translator=provenance.get("translator"),
        parents=[prompt["row_key"]],
        adapted=True,
        tools=prompt["tools"],
        extra=json.loads(prompt["extra"]) if prompt["extra"] else None,
        **own,
    )


def _place(prompt: dict[str, Any]) -> tuple[str, int]:
    provenance = prompt["provenance"] or {}
    return provenance.get("file") or "", provenance.get("row") or 0
