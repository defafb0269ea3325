"""The rows of an arbitrage: a conversation for every prompt whose answer was picked, and preference pairs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from aya_data.builders.arbitrage.penalties import EMPTY
from aya_data.builders.arbitrage.review.verdicts import ARBITER, REVIEW, SCORER
from aya_data.core.identity import derived_key
from aya_data.core.language import resolve
from aya_data.core.license import terms_of_model
from aya_data.core.row import Draft, Rejection
from aya_data.core.stage import Batch

__all__ = ["Author", "drafts"]

Turn = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Author:
    """Who has a part in the answers of a teacher: its ``model``; where they are translations, the ``translator``, which
    had no part in prompts in the language ``pivot``. ``system`` gives the system prompt for a language and script that
    the teacher got in the place of the prompt's own, if any."""

    model: str
    translator: str | None
    pivot: str
    system: Callable[[str, str], str | None]

    def models(self, prompt: Mapping[str, Any]) -> tuple[str, ...]:
        """The models that made an answer to ``prompt``."""
        return (self.model, self.translator) if self.translated(prompt) and self.translator else (self.model,)

    def translated(self, prompt: Mapping[str, Any]) -> bool:
        """Whether an answer to ``prompt`` is a translation."""
        return self.translator is not None and prompt["language"] != self.pivot

    def heard(self, prompt: Mapping[str, Any], turns: Sequence[Turn]) -> tuple[Turn, ...]:
        """What the teacher answered, of what the prompt says: without a system prompt that it never got."""
        if self.system(prompt["language"], prompt["script"]) is None:
            return tuple(turns)
        return tuple(turn for turn in turns if turn[0] != "system")


def drafts(
    prompts: pa.Table,
    asked: Sequence[tuple[Turn, ...]],
    texts: Mapping[str, str],
    decisions: pa.Table,
    pairs: pa.Table | None,
    authors: Mapping[str, Author],
    source: str,
    answers: bool,
    scores: pa.Table,
) -> Batch:
    """Draft the rows of one part; one record is one prompt.

    ``asked`` are the conversations that were asked, ``texts`` the completions by key, ``authors`` who had a part in the
    answers of each teacher. A prompt of which no row comes is dropped, by the reason of its decision or the outcome of
    its pair, with what that was judged by and held against, or how many answers it had, and what is wrong with each
    (``scores``); any other is consumed.
    """
    drafted: list[Draft] = []
    batch = Batch(prompts.num_rows, drafted)
    reviewed = _reviewed(scores)
    missed: list[tuple[int, int]] = []
    by_row: dict[int, list[dict[str, Any]]] = {}
    for pair in pairs.to_pylist() if pairs is not None else ():
        by_row.setdefault(pair["row"], []).append(pair)
    for row, (prompt, decision) in enumerate(zip(prompts.to_pylist(), decisions.to_pylist(), strict=True)):
        made = []
        turns = asked[row]
        reason = decision["reason"]
        refused = (
            "" if decision["teacher"] is not None else reason if reason.startswith("no_") else f"no_answer_{reason}"
        )
        if answers and decision["teacher"] is not None:
            scorer = REVIEW if row in reviewed else ARBITER
            made.append(_conversation(prompt, turns, texts[decision["key"]], decision, authors, source, scorer))
        first = next(iter(by_row.get(row, ())), None)
        for pair in by_row.get(row, ()):
            if pair["outcome"] == "kept":
                made.append(_pair(prompt, turns, texts, pair, authors, source))
        drafted += made
        place = _place(prompt)
        if made:
            batch.rejections.append(
                Rejection(prompt["row_key"], place, "arbitrage", str(len(made)), outcome="consumed")
            )
            continue
        rule = refused or f"no_pair_{first['outcome'] if first is not None else 'alone'}"
        missed.append((len(batch.rejections), row))
        value, threshold = ("", "") if refused or first is None else (_number(first[n]) for n in ("value", "threshold"))
        batch.rejections.append(Rejection(prompt["row_key"], place, rule if turns else "no_question", value, threshold))
    return _with_evidence(batch, missed, scores)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _reviewed(scores: pa.Table) -> set[int]:
    """The rows of prompts that verdicts decided."""
    if SCORER not in scores.column_names:
        return set()
    return set(scores["row"].filter(pc.equal(scores[SCORER], REVIEW)).to_pylist())


def _with_evidence(batch: Batch, missed: Sequence[tuple[int, int]], scores: pa.Table) -> Batch:
    """Say of each dropped prompt, by its place among the rejections and its row, how many answers it had and what is
    wrong with those of each teacher: a penalty, or that it has no score."""
    wanted = pc.is_in(scores["row"], pa.array([row for _, row in missed], scores["row"].type))
    held = scores.select(["row", "teacher", "penalties", "score", "thought"]).filter(wanted).to_pylist()
    count = Counter(one["row"] for one in held)
    wrong: dict[int, dict[str, dict[str, None]]] = {}
    for one in held:
        said = list(one["penalties"] or ([] if one["score"] is not None else ["no score"]))
        if one["thought"] is not None and EMPTY in said:
            said.append("nothing but a thought")
        wrong.setdefault(one["row"], {}).setdefault(one["teacher"], {}).update(dict.fromkeys(said))
    for place, row in missed:
        told = "; ".join(f"{teacher}: {', '.join(what)}" for teacher, what in wrong.get(row, {}).items() if what)
        rejection = batch.rejections[place]
        value = rejection.value or str(count[row])
        batch.rejections[place] = replace(rejection, value=value, evidence=told)
    return batch


def _conversation(
    prompt: dict[str, Any],
    turns: tuple[Turn, ...],
    text: str,
    decision: dict[str, Any],
    authors: Mapping[str, Author],
    source: str,
    scorer: str,
) -> Draft:
    teacher = decision["teacher"]
    author = authors[teacher]
    return _draft(
        prompt,
        source,
        key=derived_key([prompt["row_key"]], "arbitrage", f"{teacher}/{decision['sample']}"),
        messages=[*author.heard(prompt, turns), ("assistant", text)],
        teacher=author.model,
        translator=author.translator if author.translated(prompt) else _provenance(prompt).get("translator"),
        terms=_terms(prompt, *author.models(prompt)),
        tags={"routing": decision["reason"], "teacher": teacher},
        scores=None if decision["score"] is None else {scorer: decision["score"]},
    )


def _pair(
    prompt: dict[str, Any],
    turns: tuple[Turn, ...],
    texts: Mapping[str, str],
    pair: dict[str, Any],
    authors: Mapping[str, Author],
    source: str,
) -> Draft:
    chosen, rejected = authors[pair["chosen_teacher"]], authors[pair["rejected_teacher"]]
    names = ("chosen_teacher", "chosen_sample", "rejected_teacher", "rejected_sample")
    heard = rejected.heard(prompt, chosen.heard(prompt, turns))
    scored: dict[str, Any] = {f"{side}_score": pair[f"{side}_score"] for side in ("chosen", "rejected")}
    if pair[SCORER] == REVIEW:
        # Trainers read a margin as one quantity: verdicts are on another scale than the scores of other pairs.
        scored = {"scores": {f"{REVIEW}_{side}": pair[f"{side}_score"] for side in ("chosen", "rejected")}}
    translators = {one.translator for one in (chosen, rejected) if one.translated(prompt) and one.translator}
    return _draft(
        prompt,
        source,
        key=derived_key([prompt["row_key"]], "arbitrage pair", "/".join(str(pair[name]) for name in names)),
        messages=list(heard),
        chosen=[*heard, ("assistant", texts[pair["chosen_key"]])],
        rejected=[*heard, ("assistant", texts[pair["rejected_key"]])],
        **scored,
        chosen_model=chosen.model,
        rejected_model=rejected.model,
        teacher=chosen.model,
        translator=", ".join(sorted(translators)) or _provenance(prompt).get("translator"),
        terms=_terms(prompt, *chosen.models(prompt), *rejected.models(prompt)),
    )


def _terms(prompt: dict[str, Any], *models: str) -> tuple[str, ...]:
    """The terms of the prompt, and those of every model that had a part in the row."""
    return tuple(sorted({*(prompt["terms"] or ()), *(term for model in models for term in terms_of_model(model))}))


def _draft(prompt: dict[str, Any], source: str, **own: Any) -> Draft:
    """What all rows that come of a prompt have of it."""
    provenance = _provenance(prompt)
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
        parents=[prompt["row_key"]],
        adapted=True,
        tools=prompt["tools"],
        extra=json.loads(prompt["extra"]) if prompt["extra"] else None,
        **own,
    )


def _provenance(prompt: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = prompt["provenance"] or {}
    return found


def _place(prompt: dict[str, Any]) -> tuple[str, int]:
    provenance = prompt["provenance"] or {}
    return provenance.get("file") or "", provenance.get("row") or 0
