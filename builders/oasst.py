"""``oasst``: OpenAssistant's message trees, as conversations or as ranked pairs of answers.

Repositories ``OpenAssistant/oasst1`` (84,437 training and 4,401 validation messages) and
``oasst2`` (128,575 and 6,599, most of oasst1 among them). One row is one message: ``message_id,
parent_id, text, role`` (prompter or assistant), ``lang`` (ISO 639-1, some with a region: pt-BR,
uk-UA), ``rank`` among siblings (0 is best), ``review_result, deleted, synthetic, model_name,
message_tree_id`` and more. Written by volunteers; Apache-2.0 by the card, CC-BY-4.0 for oasst1 by
the Data Provenance Initiative.

Messages are the records. Each goes to the ledger once: *consumed* by at least one row, or dropped
by a rule of its own (``deleted``, ``synthetic``, ``not_reviewed``, …), because nothing hangs
together without its parent (``orphan``, ``parent_dropped``), or because the chosen shape has no use
for it (``not_on_best_path``, ``no_answer``, ``not_ranked``, ``tied_rank``, ``no_pair``).

A tree lies within one file, but in no promised order, so a file is read whole: 3.5 KB of
memory and 60 microseconds per message, 450 MB for the training split of oasst2 (measured).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field

from aya_data.builders.records.reader import Broken, Record
from aya_data.builders.upstream import (
    Choice,
    UpstreamBuilder,
    UpstreamSettings,
    label,
    part_facts,
    shard_split,
)
from aya_data.core.identity import derived_key, occurrence_key, record_digest, row_key
from aya_data.core.row import Draft, Kind, Rejection
from aya_data.core.stage import Batch, Unit

__all__ = ["Message", "OasstBuilder", "OasstSettings"]

ROLES = {"prompter": "user", "assistant": "assistant"}
COLUMNS = (
    "message_id", "parent_id", "text", "role", "lang", "rank", "review_result", "deleted",
    "synthetic", "model_name", "message_tree_id", "tree_state", "labels",
)  # fmt: skip
BATCH = 2048  # messages; whole trees are kept together


class OasstSettings(UpstreamSettings):
    """Settings of ``oasst``."""

    versions: tuple[Literal["oasst1", "oasst2"], ...] = Field(
        ("oasst2",), min_length=1, description="Repositories to read."
    )
    shape: Literal["best_path", "all_leaves", "preference"] = Field(
        "best_path",
        description="best_path makes one conversation of a tree, following the best ranked messages; "
        "all_leaves one for every last answer; preference pairs ranked answers to one message.",
    )
    pairs: Literal["best_worst", "adjacent", "all"] = Field(
        "best_worst", description="Which ranked answers to one message are paired (preference)."
    )
    unreviewed: Literal["drop", "keep"] = Field(
        "drop", description="What to do with messages that reviewers did not pass."
    )
    synthetic: Literal["drop", "keep"] = Field("drop", description="What to do with messages that a model wrote.")


@dataclass(slots=True, eq=False)
class Message:
    """One message of a tree. ``fate`` is the ledger's rule; empty while it may still be used."""

    key: str
    id: str
    parent: str | None
    index: int
    fields: Mapping[str, Any]
    fate: str = ""
    value: str = ""
    evidence: str = ""
    above: Message | None = None
    below: list[Message] = field(default_factory=list)
    used: bool = False

    @property
    def role(self) -> str:
        """``user`` or ``assistant``."""
        return ROLES[self.fields["role"]]

    @property
    def rank(self) -> int | None:
        """Place among its siblings, from 0; none where nobody ranked them."""
        rank = self.fields.get("rank")
        return int(rank) if isinstance(rank, int | float) and not isinstance(rank, bool) else None

    @property
    def turn(self) -> tuple[str, str]:
        """The message as a turn of a conversation."""
        return self.role, self.fields["text"]

    def path(self) -> list[Message]:
        """Return the messages from the root to this one."""
        path = [self]
        while path[-1].above is not None:
            path.append(path[-1].above)
        return path[::-1]


class OasstBuilder(UpstreamBuilder):
    """Reads ``oasst``."""

    Settings = OasstSettings
    name: ClassVar[str] = "oasst"
    repository: ClassVar[str] = "OpenAssistant/oasst2"
    sliced: ClassVar[bool] = False

    @property
    def kind(self) -> Kind:
        """Preference rows for shape ``preference``, else conversations."""
        return "preference" if self.settings.shape == "preference" else "conversation"

    def repositories(self) -> Mapping[str, str]:
        """Name the repositories of the chosen versions."""
        return {version: f"OpenAssistant/{version}" for version in self.settings.versions}

    def parts(self) -> Sequence[tuple[str, str]]:
        """Name the chosen versions, which are collections of one part."""
        return [(version, "*") for version in self.settings.versions]

    def choose(self, path: str) -> Choice | None:
        """Take ``data/<split>-NNNNN-of-NNNNN-….parquet``, not the exports beside it."""
        folder, _, file = path.rpartition("/")
        split = shard_split(file)
        if folder != "data" or split not in ("train", "validation"):
            return None
        return Choice(None, split)

    def dataset(self, unit: Unit) -> str:
        """Name the version."""
        return unit.labels.get("repository", "oasst2")

    def draft(self, record: Record, unit: Unit) -> Draft | Rejection:
        """Never called: one message alone makes no row."""
        raise NotImplementedError

    def read(self, unit: Unit) -> Iterator[Batch]:
        """Read one file whole and yield its trees, in the order of their keys."""
        dataset = self.dataset(unit)
        broken: list[Rejection] = []
        messages: list[Message] = []
        for records in self.records(unit, COLUMNS):
            for record in records:
                if isinstance(record, Broken):
                    broken.append(self.broken(record, unit))
                else:
                    messages.append(_message(record, dataset))
        if broken:
            yield Batch(len(broken), [], broken)
        trees = self._trees(messages)
        drafts: list[Draft] = []
        rejections: list[Rejection] = []
        for tree in trees:
            drafts += self._rows(tree, dataset, unit)
            rejections += [self._outcome(message, unit) for message in tree]
            if len(rejections) >= BATCH:
                yield Batch(len(rejections), drafts, rejections)
                drafts, rejections = [], []
        if rejections:
            yield Batch(len(rejections), drafts, rejections)

    def _trees(self, messages: list[Message]) -> list[list[Message]]:
        """Judge every message by itself, link the good ones, and return all by tree."""
        known: dict[str, list[Message]] = {}
        for message in messages:
            if message.id:
                known.setdefault(message.id, []).append(message)
        for same in (copies for copies in known.values() if len(copies) > 1):
            # Position must not decide which of two is kept.
            same.sort(key=lambda message: record_digest(message.fields))
            for copy, message in enumerate(same[1:], 1):
                message.key = occurrence_key(message.key, copy)
                message.fate, message.evidence = "duplicate_message", f"message_id {message.id}"
        first = {id_: same[0] for id_, same in known.items()}
        for message in messages:
            if not message.fate:
                self._judge(message)
        _link(messages, first)
        trees: dict[str, list[Message]] = {}
        for message in messages:
            trees.setdefault(str(message.fields.get("message_tree_id")), []).append(message)
        for tree in trees.values():
            tree.sort(key=lambda message: message.key)
        return [trees[name] for name in sorted(trees)]

    def _judge(self, message: Message) -> None:
        """Set the fate of a message that cannot be used, whatever stands around it."""
        fields = message.fields
        text, role, reviewed = fields.get("text"), fields.get("role"), fields.get("review_result")
        if fields.get("deleted") is True:
            message.fate = "deleted"
        elif fields.get("synthetic") is True and self.settings.synthetic == "drop":
            message.fate, message.value = "synthetic", label(fields.get("model_name")) or ""
        elif reviewed is not True and self.settings.unreviewed == "drop":
            message.fate, message.value = "not_reviewed", "null" if reviewed is None else "false"
        elif not message.id:
            message.fate = "no_message_id"
        elif role not in ROLES:
            message.fate, message.value = "unknown_role", str(role)[:40]
        elif not isinstance(text, str):
            message.fate, message.value = "not_text", type(text).__name__
        elif not text.strip():
            message.fate = "empty_text"
        elif len(text) > self.settings.max_chars:
            message.fate, message.value = "oversized_cell", str(len(text))
        elif not _encodable(text):
            message.fate = "invalid_unicode"

    def _rows(self, tree: list[Message], dataset: str, unit: Unit) -> list[Draft]:
        roots = [m for m in tree if not m.fate and m.above is None]
        drafts: list[Draft] = []
        for root in roots:
            if self.settings.shape == "preference":
                drafts += self._pairs(root, dataset, unit)
                continue
            leaves = _best_leaf(root) if self.settings.shape == "best_path" else _leaves(root)
            drafts += [self._conversation(leaf, dataset, unit) for leaf in leaves]
        return drafts

    def _conversation(self, leaf: Message, dataset: str, unit: Unit) -> Draft:
        path = leaf.path()
        for message in path:
            message.used = True
        keys = [message.key for message in path]
        draft = self._draft(leaf, path, dataset, unit, derived_key(keys, "conversation", leaf.id))
        draft.messages = [message.turn for message in path]
        draft.extra = {"message_id": leaf.id, "rank": leaf.rank, "labels": _labels(leaf.fields)}
        return draft

    def _pairs(self, root: Message, dataset: str, unit: Unit) -> Iterator[Draft]:
        waiting = [root]
        while waiting:
            message = waiting.pop()
            waiting += message.below
            if message.role != "user":
                continue
            ranked = sorted((m for m in message.below if m.rank is not None), key=lambda m: (m.rank, m.key))
            if self.settings.pairs == "all":
                pairs = list(combinations(ranked, 2))
            elif self.settings.pairs == "adjacent":
                pairs = list(pairwise(ranked))
            else:
                pairs = [(ranked[0], ranked[-1])] if len(ranked) > 1 else []
            for better, worse in pairs:
                if better.rank != worse.rank:
                    yield self._pair(better, worse, dataset, unit)

    def _pair(self, better: Message, worse: Message, dataset: str, unit: Unit) -> Draft:
        path = better.path()
        context = path[:-1]
        for message in (*path, worse):
            message.used = True
        keys = [message.key for message in (*path, worse)]
        key = derived_key(keys, "preference", f"{better.id}>{worse.id}")
        draft = self._draft(better, [*path, worse], dataset, unit, key)
        draft.messages = [message.turn for message in context]
        draft.chosen = [*draft.messages, better.turn]
        draft.rejected = [*draft.messages, worse.turn]
        draft.chosen_model = label(better.fields.get("model_name"))
        draft.rejected_model = label(worse.fields.get("model_name"))
        draft.extra = {
            "message_id": [better.id, worse.id],
            "rank": [better.rank, worse.rank],
            "labels": [_labels(better.fields), _labels(worse.fields)],
        }
        return draft

    def _draft(self, leaf: Message, parents: Sequence[Message], dataset: str, unit: Unit, key: str) -> Draft:
        facts = part_facts(dataset, "*")
        written = [m for m in parents if m.fields.get("synthetic") is True]
        languages = [label(m.fields.get("lang")) for m in (leaf, parents[0])]
        return Draft(
            key=key,
            group=row_key(dataset, f"tree:{leaf.fields.get('message_tree_id')}"),
            messages=(),
            place=(unit.name, leaf.index),
            language=next((code for code in languages if code is not None), None),
            license=facts.license.expression,
            terms=facts.terms,
            dataset=dataset,
            origin="generated" if written else "human",
            revision=unit.revision,
            split=unit.split,
            teacher=label(written[0].fields.get("model_name")) if written else None,
            parents=[message.key for message in parents],
        )

    def _outcome(self, message: Message, unit: Unit) -> Rejection:
        place = (unit.name, message.index)
        if message.used:
            rule = "pair" if self.settings.shape == "preference" else "conversation"
            return Rejection(message.key, place, rule, outcome="consumed")
        if message.fate:
            return Rejection(message.key, place, message.fate, message.value, evidence=message.evidence)
        return Rejection(message.key, place, self._unused(message), str(message.rank or ""))

    def _unused(self, message: Message) -> str:
        """Name the rule by which the chosen shape passes over a good message."""
        if self.settings.shape == "preference":
            if message.role == "user":
                return "no_pair"
            if message.rank is None:
                return "not_ranked"
            siblings = message.above.below if message.above else []
            ranks = {m.rank for m in siblings if m.rank is not None}
            if len(ranks) == 1 and len(siblings) > 1:
                return "tied_rank"
            return "no_pair"
        if message.role == "user" and not any(True for _ in _answers(message)):
            return "no_answer"
        return "not_on_best_path"


def _message(record: Record, dataset: str) -> Message:
    fields = record.fields
    id_ = label(fields.get("message_id")) or ""
    key = row_key(dataset, id_ or record_digest(fields))
    return Message(key, id_, label(fields.get("parent_id")), record.index, fields)


def _link(messages: Sequence[Message], first: Mapping[str, Message]) -> None:
    """Hang every good message under its parent; what does not reach a good root has no use."""
    settled: set[str] = {m.key for m in messages if m.fate}
    for message in messages:
        trail: dict[str, Message] = {}
        here: Message | None = message
        while here is not None and here.key not in settled and here.key not in trail:
            trail[here.key] = here
            here = first.get(here.parent) if here.parent is not None else None
        way = list(trail.values())
        start = len(way)
        if here is not None and here.key in trail:
            start = way.index(here)
            for one in way[start:]:
                one.fate, one.evidence = "orphan", "its parents form a circle"
        for one in reversed(way[:start]):
            _hang(one, first)
        settled.update(trail)


def _hang(message: Message, first: Mapping[str, Message]) -> None:
    if message.parent is None:
        if message.role != "user":
            message.fate, message.evidence = "wrong_role_order", "a tree starts with the assistant"
        return
    parent = first.get(message.parent)
    if parent is None:
        message.fate, message.evidence = "orphan", f"parent_id {message.parent} is not in the file"
    elif parent.fate:
        message.fate, message.value = "parent_dropped", parent.fate
        message.evidence = f"parent_id {message.parent}"
    elif parent.fields.get("message_tree_id") != message.fields.get("message_tree_id"):
        message.fate = "orphan"
        message.evidence = f"parent_id {message.parent} stands in another tree"
    elif parent.role == message.role:
        message.fate, message.evidence = "wrong_role_order", f"{message.role} after {parent.role}"
    else:
        message.above = parent
        parent.below.append(message)


def _answers(message: Message) -> Iterator[Message]:
    """Yield the assistant's messages below ``message``."""
    waiting = list(message.below)
    while waiting:
        one = waiting.pop()
        waiting += one.below
        if one.role == "assistant":
            yield one


def _leaves(root: Message) -> list[Message]:
    """Return the answers that no further answer follows, in the order of their keys."""
    leaves = [m for m in _answers(root) if not any(True for _ in _answers(m))]
    return sorted(leaves, key=lambda message: message.key)


def _best_leaf(root: Message) -> list[Message]:
    """Follow the best ranked message downwards; return the last answer on the way, if there is one.

    A message that nobody ranked comes after those that were; among equals one that is answered comes
    first, then the key decides.
    """
    leaf: list[Message] = []
    here = root
    while here.below:
        here = min(
            here.below,
            key=lambda m: (
                m.role == "user" and not m.below,
                m.rank is None,
                m.rank or 0,
                not m.below,
                m.key,
            ),
        )
        if here.role == "assistant":
            leaf = [here]
    return leaf


def _labels(fields: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the annotators' labels as name to value: upstream has parallel lists."""
    labels = fields.get("labels")
    if not isinstance(labels, Mapping):
        return None
    names, values = labels.get("name"), labels.get("value")
    if not isinstance(names, list) or not isinstance(values, list):
        return None
    return {str(n): round(v, 4) for n, v in zip(names, values, strict=False) if isinstance(v, float)}


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
