"""The row: its Arrow schema, how builders draft rows, and how drafts become parts.

Three kinds of row share one schema. A *conversation* ends with an assistant turn; a *prompt* row
ends with a user turn; a *preference* row holds the shared turns in ``messages`` and the two full
conversations in ``chosen`` and ``rejected``.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import pyarrow as pa

from aya_data.core import language as languages
from aya_data.core import license as licenses
from aya_data.core.identity import canonical, content_id, frame, framed, framed_digest

__all__ = [
    "INTERNAL",
    "ORIGINS",
    "PROVENANCE",
    "ROW",
    "Draft",
    "Kind",
    "Rejection",
    "Table",
    "normal_text",
    "tabulate",
]

Kind = Literal["conversation", "prompt", "preference"]
Turn = tuple[str, str]

ORIGINS = ("human", "human_edited", "templated", "translated", "generated")
"""Where a text came from, best keeper first (the order of ``exact_dedup``)."""

ROLES = frozenset({"system", "user", "assistant", "tool"})

MESSAGE = pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])
MESSAGES = pa.list_(MESSAGE)

PROVENANCE = pa.struct(
    [
        pa.field("dataset", pa.string()),
        pa.field("revision", pa.string()),
        pa.field("config", pa.string()),
        pa.field("split", pa.string()),
        pa.field("file", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("template", pa.string()),
        pa.field("translator", pa.string()),
        pa.field("teacher", pa.string()),
        pa.field("parents", pa.list_(pa.string())),
    ]
)

ROW = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("row_key", pa.string()),
        pa.field("group", pa.string()),
        pa.field("messages", MESSAGES),
        pa.field("language", pa.string()),
        pa.field("script", pa.string()),
        pa.field("source_language", pa.string()),
        pa.field("source", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("origin", pa.string()),
        pa.field("task", pa.string()),
        pa.field("license", pa.string()),
        pa.field("terms", pa.list_(pa.string())),
        pa.field("provenance", PROVENANCE),
        pa.field("tools", pa.string()),
        pa.field("extra", pa.string()),
        pa.field("tags", pa.map_(pa.string(), pa.string())),
        pa.field("scores", pa.map_(pa.string(), pa.float64())),
        pa.field("n_tokens", pa.int32()),
        pa.field("chosen", MESSAGES),
        pa.field("rejected", MESSAGES),
        pa.field("margin", pa.float32()),
        pa.field("chosen_score", pa.float32()),
        pa.field("rejected_score", pa.float32()),
        pa.field("chosen_model", pa.string()),
        pa.field("rejected_model", pa.string()),
    ]
)
"""The columns of a row. The last seven are null except in preference rows."""

INTERNAL = pa.schema(
    [
        pa.field("kind", pa.string()),
        pa.field("row_hash", pa.string()),
        pa.field("prompt_hash", pa.string()),
        pa.field("prompt_chars", pa.int32()),
        pa.field("answer_chars", pa.int32()),
        pa.field("adapted", pa.bool_()),
        pa.field("language_reason", pa.string()),
        pa.field("license_reason", pa.string()),
        pa.field("license_asserted", pa.string()),
    ]
)
"""What parts carry beside :data:`ROW` for the stages; never released."""

PART = pa.schema([*ROW, *INTERNAL])
UNIDENTIFYING = ("file", "row", "revision")
"""Fields of provenance that say where a row was found, not what it is."""


@dataclass(slots=True)
class Draft:
    """A row as a builder drafts it: what upstream says, before it is checked and resolved.

    ``key`` is the row's key (see :mod:`aya_data.core.identity`); ``group`` defaults to it.
    ``language`` and ``license`` are as the source spells them.
    ``place`` is the file and the record number (from 0) that the ledger and provenance show.
    """

    key: str
    messages: Sequence[Turn]
    place: tuple[str, int]
    language: str | None = None
    script: str | None = None
    license: str | None = None
    license_asserted: str | None = None
    terms: Sequence[str] = ()
    group: str | None = None
    dataset: str = ""
    origin: str = "human"
    task: str | None = None
    revision: str | None = None
    config: str | None = None
    split: str | None = None
    template: str | None = None
    translator: str | None = None
    teacher: str | None = None
    parents: Sequence[str] = ()
    tools: str | None = None
    extra: Mapping[str, Any] | None = None
    adapted: bool = False
    chosen: Sequence[Turn] | None = None
    rejected: Sequence[Turn] | None = None
    chosen_score: float | None = None
    rejected_score: float | None = None
    chosen_model: str | None = None
    rejected_model: str | None = None
    tags: Mapping[str, str] | None = None
    scores: Mapping[str, float] | None = None


@dataclass(slots=True)
class Rejection:
    """A record that cannot become a row: its key, its place, and why."""

    key: str
    place: tuple[str, int]
    rule: str
    value: str = ""
    threshold: str = ""
    evidence: str = ""
    outcome: Literal["dropped", "consumed", "not_sampled"] = "dropped"


@dataclass(slots=True)
class Table:
    """Drafts that passed, as a table of :data:`PART`, and those that did not."""

    rows: pa.Table
    rejections: list[Rejection] = field(default_factory=list)


PromptHashes = Callable[[pa.Array], pa.Array]
"""What makes :func:`prompt_hash` of a column of prompts: text in, text out."""


class Malformed(Exception):
    """A draft that cannot become a row, and why."""

    def __init__(self, rule: str, value: str = "", threshold: str = "", evidence: str = "") -> None:
        self.rejection = (rule, value, threshold, evidence)


@dataclass(frozen=True, slots=True)
class Labels:
    """What rows with the same labels have in common: resolved, framed and checked once for all of them."""

    shared: tuple[Any, ...]
    """Values of the columns :data:`SHARED`."""
    provenance: tuple[Any, ...]
    """Values of the fields :data:`SHARED_PROVENANCE`."""
    frame: bytes
    asserted: bytes
    encodable: bool


Names = tuple[Any, ...]
"""What labels come from: what a draft says of them."""
REMEMBERED = 1000
"""Labels whose names are longer altogether, in characters, are not kept in memory."""

SHARED = (
    "language", "script", "source_language", "source", "dataset", "origin", "task", "license", "terms", "kind",
    "adapted", "language_reason", "license_reason", "license_asserted",
)  # fmt: skip
SHARED_PROVENANCE = ("dataset", "revision", "config", "split", "template", "translator", "teacher")
OWN = tuple(name for name in PART.names if name not in SHARED)
OWN_PROVENANCE = tuple(field.name for field in PROVENANCE if field.name not in SHARED_PROVENANCE)


def tabulate(
    drafts: Sequence[Draft], source: str, kind: Kind, max_chars: int, hashes: PromptHashes | None = None
) -> Table:
    """Check drafts and turn them into one table of :data:`PART`.

    About 20 microseconds per row of 600 characters in many scripts, half of it for the prompt hash; by column
    (:mod:`aya_data.core.draft_columns`) it is less. ``hashes`` are :func:`prompt_hashes` unless given. A draft with an
    empty turn, an unknown role, text that is not valid Unicode or a cell of more than ``max_chars`` characters is
    rejected with its rule; nothing raises for what a row says.
    """
    rows: list[tuple[Any, ...]] = []
    rejections: list[Rejection] = []
    # Most rows of a source have the same labels: they are looked up, framed and put into columns once.
    known: dict[Names, Labels] = {}
    labels: dict[Names, int] = {}
    used: list[int] = []
    for draft in drafts:
        try:
            _check(draft, kind, max_chars)
            names = _names(draft)
            found = known.get(names)
            if found is None:
                found = known[names] = labelled(draft, source, kind)
            rows.append(_row(draft, found, kind, max_chars))
            # Not before there is a row: what no row has may not even be text.
            used.append(labels.setdefault(names, len(labels)))
        except Malformed as problem:
            rejections.append(Rejection(draft.key, draft.place, *problem.rejection))
    values: list[Sequence[Any]] = list(zip(*rows, strict=True)) or [()] * len(OWN)
    own = dict(zip(OWN, values, strict=True))
    places: list[Sequence[Any]] = list(zip(*own.pop("provenance"), strict=True)) or [()] * len(OWN_PROVENANCE)
    columns = {name: _column(listed, PART.field(name).type) for name, listed in own.items()}
    columns["prompt_hash"] = (hashes or prompt_hashes)(columns["prompt_hash"])
    found_at = {
        name: pa.array(listed, PROVENANCE.field(name).type) for name, listed in zip(OWN_PROVENANCE, places, strict=True)
    }
    own_labels = [known[names] for names in labels]
    return Table(assembled(columns, found_at, own_labels, pa.array(used, pa.int32())), rejections)


def assembled(
    own: Mapping[str, pa.Array], place: Mapping[str, pa.Array], labels: Sequence[Labels], used: pa.Array
) -> pa.Table:
    """Return the table of :data:`PART` from the columns :data:`OWN` but ``provenance``, the fields
    :data:`OWN_PROVENANCE`, and the labels that each row has, by number."""
    shared = {
        name: _spread([found.shared[at] for found in labels], used, PART.field(name).type)
        for at, name in enumerate(SHARED)
    }
    fields = {
        name: _spread([found.provenance[at] for found in labels], used, PROVENANCE.field(name).type)
        for at, name in enumerate(SHARED_PROVENANCE)
    } | dict(place)
    provenance = pa.StructArray.from_arrays([fields[f.name] for f in PROVENANCE], fields=list(PROVENANCE))
    columns = {**shared, **own, "provenance": provenance}
    return pa.Table.from_arrays([columns[name] for name in PART.names], schema=PART)


def _spread(values: Sequence[Any], places: pa.Array, type_: pa.DataType) -> pa.Array:
    """Return the value at each of ``places``."""
    return pa.array(values, type_).take(places)


def _column(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    if values.count(None) == len(values):
        return pa.nulls(len(values), type_)
    return _messages(values) if type_ == MESSAGES else pa.array(values, type_)


def _messages(values: Sequence[Sequence[Turn] | None]) -> pa.Array:
    """Build a list-of-struct column from flat lists: ten times faster than from dictionaries."""
    offsets: list[int | None] = []
    roles: list[str] = []
    contents: list[str] = []
    for turns in values:
        if turns is None:
            offsets.append(None)
            continue
        offsets.append(len(roles))
        for role, content in turns:
            roles.append(role)
            contents.append(content)
    offsets.append(len(roles))
    flat = pa.StructArray.from_arrays(
        [pa.array(roles, pa.string()), pa.array(contents, pa.string())], fields=list(MESSAGE)
    )
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, type=MESSAGES)


def _check(draft: Draft, kind: Kind, max_chars: int) -> None:
    turns = draft.messages
    _check_turns(turns, "prompt" if kind == "preference" else kind, max_chars)
    if kind == "preference":
        chosen, rejected = draft.chosen, draft.rejected
        if chosen is None or rejected is None:
            raise Malformed("missing_answer")
        _check_turns(chosen, "conversation", max_chars)
        _check_turns(rejected, "conversation", max_chars)
        if list(chosen) == list(rejected):
            raise Malformed("identical_pair")
        if list(chosen[:-1]) != list(turns) or list(rejected[:-1]) != list(turns):
            raise Malformed("different_context")


def _names(draft: Draft) -> Names:
    """Return what the labels of a draft come from."""
    return (
        draft.language, draft.script, draft.license, draft.license_asserted, tuple(draft.terms),
        draft.dataset, draft.origin, draft.task, draft.revision, draft.config, draft.split, draft.template,
        draft.translator, draft.teacher, draft.adapted,
    )  # fmt: skip


def labelled(draft: Draft, source: str, kind: Kind) -> Labels:
    """Resolve, frame and check the labels of a draft. A process remembers the last ones, unless they are long."""
    names = _names(draft)
    if len(str(names)) > REMEMBERED:
        return _labels.__wrapped__(names, source, kind)
    return _labels(names, source, kind)


@lru_cache(4096)
def _labels(names: Names, source: str, kind: Kind) -> Labels:
    (
        said, script, license_said, assumed, terms_said, dataset, origin, task, revision, config, split, template,
        translator, teacher, adapted,
    ) = names  # fmt: skip
    language = languages.resolve(said, script=script)
    license_ = licenses.resolve(license_said)
    models = (translator or "", teacher or "")
    terms = sorted(
        {*terms_said, *license_.terms, *(term for model in models for term in licenses.terms_of_model(model))}
    )
    expression = license_.license.expression
    frame_ = frame((
        language.variety.code, said or "", source, dataset, origin, task or "", expression, *terms, config or "",
        split or "", template or "", *models,
    ))  # fmt: skip
    asserted = frame((license_said or "", assumed or "", str(adapted)))
    shared = (
        language.variety.language, language.variety.script, said, source, dataset, origin, task, expression, terms,
        kind, adapted, None if language.ok else language.reason, license_.reason or None, assumed,
    )  # fmt: skip
    provenance = (dataset, revision, config, split, template, translator, teacher)
    texts = (said, dataset, task, config, split, template, translator, teacher, assumed, *terms)
    return Labels(shared, provenance, frame_, asserted, all(map(_is_text, texts)))


def _row(draft: Draft, labels: Labels, kind: Kind, max_chars: int) -> tuple[Any, ...]:
    """Return the values of the columns :data:`OWN`, for ``prompt_hash`` the prompt."""
    turns = draft.messages
    chosen, rejected = (draft.chosen, draft.rejected) if kind == "preference" else (None, None)
    extra = extra_text(draft.extra, max_chars)
    key = draft.key
    margin = None
    if draft.chosen_score is not None and draft.rejected_score is not None:
        margin = round(draft.chosen_score - draft.rejected_score, 4)
    parents = list(draft.parents)
    identity = content_id(turns, chosen, rejected)
    prompts = [content for role, content in turns if role != "assistant"]
    prompt = prompts[0] if len(prompts) == 1 else "\n".join(prompts)
    answers = turns if chosen is None else chosen
    answer = answers[-1][1] if answers[-1][0] == "assistant" else ""
    group = draft.group or key
    plain = not (parents or draft.tools or extra)
    details = PLAIN if plain else frame((*parents, draft.tools or "", extra or ""))
    scores = framed(
        repr(draft.chosen_score), repr(draft.rejected_score), draft.chosen_model or "", draft.rejected_model or ""
    )
    row_hash = framed_digest(frame((key, group, identity)), labels.frame, details, scores, labels.asserted)
    if not labels.encodable or draft.tools or draft.chosen_model or draft.rejected_model:
        try:
            _encodable(draft)
        except UnicodeEncodeError as error:
            raise Malformed("invalid_unicode", evidence=f"character {error.start}") from error
    return (
        identity, key, group, turns, (*draft.place, parents), draft.tools, extra,
        _pairs(draft.tags), _pairs(draft.scores), None, chosen, rejected,
        margin, draft.chosen_score, draft.rejected_score, draft.chosen_model, draft.rejected_model, row_hash,
        prompt, len(prompt), len(answer),
    )  # fmt: skip


PLAIN = frame(("", ""))
SCORELESS = frame((repr(None), repr(None), "", ""))
"""What rows without scores have of them in their hash."""


def _pairs(mapping: Mapping[str, Any] | None) -> list[tuple[str, Any]] | None:
    return sorted(mapping.items()) if mapping else None


def _check_turns(turns: Sequence[Turn], kind: str, max_chars: int) -> None:
    if not turns:
        raise Malformed("no_messages")
    for index, turn in enumerate(turns):
        role = turn[0]
        content: object = turn[1]
        if role not in ROLES:
            raise Malformed("unknown_role", str(role)[:40], ", ".join(sorted(ROLES)))
        if not isinstance(content, str):
            found = "null" if content is None else type(content).__name__
            raise Malformed("not_text", found, "string", f"turn {index} ({role})")
        if not content or content.isspace():
            last = index == len(turns) - 1 and role == "assistant"
            rule = "empty_answer" if last else "empty_prompt" if role == "user" else "empty_turn"
            raise Malformed(rule, evidence=f"turn {index} ({role})")
        if len(content) > max_chars:
            raise Malformed("oversized_cell", str(len(content)), str(max_chars), f"turn {index} ({role})")
        if not content.isascii():
            try:
                content.encode()
            except UnicodeEncodeError as error:
                evidence = f"turn {index} ({role}), character {error.start}"
                raise Malformed("invalid_unicode", ascii(content[error.start]), evidence=evidence) from error
    wanted = "user" if kind == "prompt" else "assistant"
    if turns[-1][0] != wanted:
        raise Malformed("wrong_last_role", turns[-1][0], wanted)


def extra_text(extra: Mapping[str, Any] | None, max_chars: int) -> str | None:
    """Return the other columns of a record as canonical JSON; ``None`` where there is nothing to say."""
    if not extra:
        return None
    data = canonical(extra)
    if data == b"{}":
        return None
    if len(data) > max_chars:
        raise Malformed("oversized_cell", str(len(data)), str(max_chars), "other columns of the record")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Malformed("invalid_unicode", evidence="other columns of the record") from error


def _is_text(text: str | None) -> bool:
    """Arrow stores UTF-8 alone: a lone surrogate in any label must be found before it gets there."""
    try:
        return text is None or text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _encodable(draft: Draft) -> None:
    """Raise UnicodeEncodeError for the first label that is not :func:`_is_text`."""
    for text in (
        draft.language, draft.dataset, draft.task, draft.config, draft.split, draft.template,
        draft.translator, draft.teacher, draft.tools, draft.chosen_model, draft.rejected_model,
        draft.license_asserted, *draft.terms,
    ):  # fmt: skip
        if text is not None and not text.isascii():
            text.encode()


def normal_text(text: str) -> str:
    """Text for matching only: NFKC, case folded, runs of white space as one space, trimmed."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold().replace("\n", " ")
    # The space is the only printable white space: most texts need not be taken apart.
    if text.isprintable():
        while "  " in text:
            text = text.replace("  ", " ")
        return text.strip(" ")
    return " ".join(text.split())


def prompt_hash(prompt: str) -> str:
    """Identify a prompt up to :func:`normal_text`; equal prompts are never split between train and validation."""
    return hashlib.blake2b(normal_text(prompt).encode(), digest_size=12).hexdigest()


def prompt_hashes(prompts: pa.Array) -> pa.Array:
    """Return the :func:`prompt_hash` of each text; :mod:`aya_data.text.normal` gives the same sooner."""
    return pa.array([prompt_hash(text) for text in prompts.to_pylist()], pa.string())
