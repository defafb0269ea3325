"""The arbiter ``judge``: a language model reads the answers and scores them, or says which of two is better.

**Asking.** Equal answers to a prompt are one. In mode ``score`` each is asked about once. In mode ``pairwise`` two
answers are asked about *twice*, each standing first once; where there are more pairs than ``max_pairs``, they stand in
a ring in an order drawn from what they say, and neighbours are paired first, then those two apart, and so on, so that
all meet equally many. What a judge sees is in :mod:`~aya_data.builders.arbitrage.arbiters.rubrics`: never the name of
a teacher.

**Reading.** A verdict is a line of JSON with the code of its question. One verdict in a reply, or several that agree,
count; of several that differ, the last, if nothing follows it. Everything else is a *parse failure*: a number out of
the scale, another word than A, B or tie, a key given twice, a reply or its thoughts cut off before their end. It is
counted and never becomes a score.

**Scoring.** A score is the judge's number; or the wins and half the ties of an answer, divided by its comparisons.
Among answers that all meet each other that is the order that a Bradley-Terry model gives. Two orders with different
verdicts are a tie and *flipped*: the judge looked at the position (FastChat issue 3911 counts 12.9 % of them). A pair
of which one order was not answered, or not readable, is no comparison. So a judge that favours the first answer cannot
favour a teacher, only tell less, and the counts show how much it tried.

Asking costs about 60 µs per question, reading 100 to 150 µs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, Field, model_validator

from aya_data.builders.arbitrage.arbiter import Arbiter
from aya_data.builders.arbitrage.arbiters import rubrics
from aya_data.builders.arbitrage.arbiters.rubrics import VERDICT, Codes, Mode, Turn
from aya_data.builders.arbitrage.completions import conversations
from aya_data.builders.arbitrage.tables import POSITIONS
from aya_data.builders.arbitrage.teacher import TeacherSettings, sample_seed
from aya_data.builders.arbitrage.teachers import make_voice
from aya_data.builders.arbitrage.thoughts import THINKING, THOUGHT
from aya_data.core.generation import ABSENT, FAILED, LENGTH, Asked, Request, Voice, request_key, voice_key
from aya_data.core.identity import digest, draw
from aya_data.core.settings import Number, Settings, wrong

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["COUNTS", "JudgeArbiter", "JudgeSettings", "Reading", "read_verdict"]

COUNTS: Final = ("parse_failures", "unanswered")
"""Integer columns beside the score, for each completion: replies about it that held no verdict, and questions about it
that the judge failed to answer. Those of pairs (:data:`~aya_data.builders.arbitrage.tables.POSITIONS`) come before
them. Completions that say the same have the same counts."""

Model = TypeVar("Model", bound=TeacherSettings)

RECORDED: Final = {"properties": {"engine": {"const": "recorded"}}}
JUDGING: Final = {"n": 1, "temperature": 0, "max_tokens": 1024}
OBJECT = re.compile(r"\{[^{}]*\}")
DECIMALS = re.compile(r"-?[0-9]{1,6}(?:\.[0-9]{1,6})?", re.ASCII)
NOTHING_MORE = re.compile(r"[\s`.*]*", re.ASCII)


def _rubric(value: str | Mapping[str, str]) -> str | Mapping[str, str]:
    return rubrics.checked_rubric(value)


def _unsampled(schema: dict[str, Any]) -> None:
    """A model that judges need not say how it is sampled, as a teacher must."""
    full = dict(schema)
    schema.clear()
    schema["anyOf"] = [full, {"type": "object", "not": RECORDED, "required": ["engine"]}]


class JudgeSettings(Settings, Generic[Model]):
    """Settings of the arbiter ``judge``, over any engine that a teacher may have."""

    kind: Literal["judge"] = Field(description="A language model that is asked.")
    model: Model = Field(
        description="The model that judges, as a teacher is written. Without sampling, it takes the likeliest token "
        "each time, and at most 1024 of them.",
        json_schema_extra=_unsampled,
    )
    mode: Mode = Field(description="Whether it scores each answer by itself, or compares two at a time in both orders.")
    rubric: Annotated[str | Mapping[str, str], AfterValidator(_rubric)] = Field(
        "quality",
        min_length=1,
        description="What makes an answer good: quality, correctness, fluency or harmlessness; or a text of your own, "
        "or one for each language or variety with 'default' for the others.",
        examples=["fluency", "Is the poem any good? Does it rhyme?"],
    )
    scale: tuple[Number, Number] = Field(
        (Decimal(1), Decimal(10)), description="In mode score, the worst and the best score."
    )
    critique: bool = Field(
        False, description="The judge writes a critique before its verdict (arXiv 2405.20850); it is kept as a note."
    )
    language: Literal["english", "prompt"] = Field(
        "english",
        description="Whether the judge is instructed in English, or in the prompt's language where the texts exist: "
        "Arabic, Chinese, French, German, Hindi, Japanese, Portuguese, Russian, Spanish, Turkish.",
    )
    instruct: Literal["system", "user"] = Field(
        "system",
        description="Where the instruction stands: in a system prompt, or before the texts for models without one.",
    )
    max_pairs: int | None = Field(
        None,
        ge=1,
        description="In mode pairwise, the most pairs of one prompt; each is asked twice. With "
        "fewer than half as many pairs as answers, some answers get no score. Default: all.",
    )
    family: str | None = Field(
        None,
        min_length=1,
        description="The family of its model, for the report on judges that prefer their own. Default: the model's.",
    )

    @model_validator(mode="before")
    @classmethod
    def _judging(cls, value: Any) -> Any:
        """Fill in how a judge is sampled: there is one way, while a teacher has many."""
        if not isinstance(value, Mapping) or not isinstance(value.get("model"), Mapping):
            return value
        model = value["model"]
        if model.get("engine") == "recorded" or not isinstance(model.get("sampling", {}), Mapping):
            return value
        return {**value, "model": {**model, "sampling": {**JUDGING, **model.get("sampling", {})}}}

    @model_validator(mode="after")
    def _check(self) -> JudgeSettings[Model]:
        if self.scale[0] >= self.scale[1]:
            raise wrong("has a scale that ends before it begins", "Write the worst score first, as in [1, 10].")
        if self.max_pairs is not None and self.mode == "score":
            raise wrong("has max_pairs, and compares no pairs", "Remove max_pairs, or set 'mode: pairwise'.")
        if self.model.system is not None:
            raise wrong("has a model with a system prompt, which a judge has no room for", "Write it into the rubric.")
        if "thoughts" in self.model.model_fields_set:
            raise wrong("has a model with thoughts, which a judge never reads as a verdict", "Leave it out.")
        sampling = getattr(self.model, "sampling", None)
        if sampling is not None and sampling.n != 1:
            raise wrong("has a model with more than one sample", "Remove n from its sampling: a verdict is asked once.")
        return self


class Reading(NamedTuple):
    """What a reply says: ``value`` is a number, or "A", "B" or "tie"; None if it cannot be told. ``before`` is what
    stands before the verdict, thoughts apart."""

    value: float | str | None
    before: str = ""


def read_verdict(reply: str, code: str, mode: Mode, scale: tuple[Decimal, Decimal], finish: str) -> Reading:
    """Read the verdict of a reply to the question with ``code``. In time linear in its length."""
    if reply.lstrip().startswith(THINKING) and THOUGHT not in reply:
        return Reading(None)
    found = [match for match in OBJECT.finditer(reply) if code in match[0]]
    read = [_verdict(match[0], code, mode, scale) for match in found]
    if not found or read[-1] is None:
        return Reading(None)
    last = NOTHING_MORE.fullmatch(reply, found[-1].end()) is not None
    if not last and (finish == LENGTH or len(set(read)) > 1):
        return Reading(None)
    thought = reply.rfind(THOUGHT, 0, found[-1].start())
    before = reply[thought + len(THOUGHT) if thought >= 0 else 0 : found[-1].start()]
    return Reading(read[-1], before.removesuffix("```json\n").removesuffix("```\n").strip())


def _verdict(text: str, code: str, mode: Mode, scale: tuple[Decimal, Decimal]) -> float | str | None:
    try:
        pairs = json.loads(text, object_pairs_hook=list, parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        return None
    keys = [key for key, _ in pairs]
    verdict = dict(pairs)
    said = verdict.get(VERDICT[mode])
    if len(set(keys)) != len(keys) or verdict.get("code") != code or not isinstance(said, str):
        return None
    said = said.strip()
    if mode == "pairwise":
        return {"a": "A", "b": "B", "tie": "tie"}.get(said.casefold())
    if not DECIMALS.fullmatch(said) or not scale[0] <= Decimal(said) <= scale[1]:
        return None
    return round(float(said), 4)


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt with its distinct answers, in drawn order. ``members`` are positions among the completions."""

    row: int
    turns: tuple[Turn, ...]
    language: str
    variety: str
    answers: tuple[str, ...]
    digests: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class _Question:
    """``shown`` are the answers that it asks about, by number, in the order in which they stand."""

    tag: str
    shown: tuple[int, ...]
    codes: Codes


@dataclass(slots=True)
class _Tally:
    """What became of one distinct answer."""

    points: float = 0.0
    score: float | None = None
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*POSITIONS, *COUNTS), 0))
    notes: list[str] = field(default_factory=list)


class JudgeArbiter(Arbiter):
    """Asks a model what it thinks of the answers."""

    code: tuple[str, ...] = ("aya_data.builders.arbitrage.arbiters.rubrics",)
    settings: JudgeSettings[Any]

    @property
    def family(self) -> str:
        """The family of the model that judges."""
        return self.settings.family or self.settings.model.family or self.name

    def identity(self) -> Mapping[str, Any]:
        """The settings without the model, whose answers are told apart anyway; and the seed, which draws the pairs."""
        own = self.settings.model_dump(mode="json", exclude={"model", "kind", "family"})
        languages = self.settings.model.languages
        return {**own, "languages": languages, "seed": self.environment.seed}

    def voice(self) -> Voice:
        """The model."""
        return make_voice(self.name, self.settings.model, self.environment, (*self.place, "model"))

    def expected(self, completions: int) -> int:
        """How many questions there are about so many different answers."""
        if self.settings.mode == "score":
            return completions
        return 2 * len(_pairs(completions, self.settings.max_pairs))

    def requests(self, prompts: pa.Table, completions: pa.Table) -> Iterator[Asked]:
        """List the questions of one part, by prompt. A tag is made of hashes of the answers that it asks about."""
        voice = voice_key(self.voice())
        for prompt in self._prompts(prompts, completions):
            for question in self._questions(prompt):
                messages = self._messages(prompt, question)
                seed = sample_seed(self.environment.seed, messages, 0)
                key = request_key(voice, messages, seed, 0)
                yield Asked(prompt.row, question.tag, Request(key, messages, seed, 0, prompt.variety))

    def score(self, prompts: pa.Table, completions: pa.Table, answers: pa.Table | None) -> pa.Table:
        """Score the completions: ``score``, ``note`` if critiques are asked for, the int32 columns of
        :data:`~aya_data.builders.arbitrage.tables.POSITIONS` in mode pairwise, and :data:`COUNTS`."""
        import pyarrow as pa

        replies: dict[tuple[int, str], tuple[str | None, str]] = {}
        if answers is not None:
            columns = [answers[name].to_pylist() for name in ("row", "tag", "text", "finish")]
            replies = {(row, tag): (text, finish) for row, tag, text, finish in zip(*columns)}
        blank = _Tally()
        tallies = [blank] * completions.num_rows
        for prompt in self._prompts(prompts, completions):
            for members, tally in zip(prompt.members, self._tallies(prompt, replies)):
                for place in members:
                    tallies[place] = tally
        table = {"score": pa.array([tally.score for tally in tallies], pa.float64())}
        if self.settings.critique:
            table["note"] = pa.array(["\n\n".join(tally.notes) or None for tally in tallies], pa.string())
        if self.settings.mode == "pairwise":
            for count in POSITIONS:
                compared = [tally.counts[count] if tally.counts["pairs"] else None for tally in tallies]
                table[count] = pa.array(compared, pa.int32())
        for count in COUNTS:
            table[count] = pa.array([tally.counts[count] for tally in tallies], pa.int32())
        return pa.table(table)

    def _tallies(self, prompt: _Prompt, replies: Mapping[tuple[int, str], tuple[str | None, str]]) -> list[_Tally]:
        """Read all that was said about the answers of a prompt."""
        tallies = [_Tally() for _ in prompt.answers]
        earlier: Reading | None = None
        for number, question in enumerate(self._questions(prompt)):
            reading = self._read(question, replies.get((prompt.row, question.tag)), tallies)
            if self.settings.mode == "score":
                tally = tallies[question.shown[0]]
                if reading is not None and isinstance(reading.value, float):
                    tally.score = reading.value
                    tally.notes.append(reading.before)
            elif number % 2 == 0:
                earlier = reading
            elif earlier is not None and reading is not None:
                _compare([tallies[shown] for shown in reversed(question.shown)], earlier, reading)
        if self.settings.mode == "pairwise":
            for tally in tallies:
                if tally.counts["pairs"]:
                    tally.score = round(tally.points / tally.counts["pairs"], 4)
        return tallies

    def _read(
        self, question: _Question, reply: tuple[str | None, str] | None, tallies: Sequence[_Tally]
    ) -> Reading | None:
        text, finish = reply or (None, ABSENT)
        reading, failure = None, "unanswered"
        if text is not None and finish not in (ABSENT, FAILED):
            own = self.settings
            reading, failure = read_verdict(text, question.codes.verdict, own.mode, own.scale, finish), "parse_failures"
            if reading.value is not None:
                return reading
        for shown in question.shown:
            tallies[shown].counts[failure] += 1
        return None

    def _prompts(self, prompts: pa.Table, completions: pa.Table) -> Iterator[_Prompt]:
        names = ("row", "language", "script", "text", "finish")
        columns = [completions[name].to_pylist() for name in names]
        rows: dict[int, tuple[str, str, dict[str, list[int]]]] = {}
        for place, (row, language, script, text, finish) in enumerate(zip(*columns)):
            if finish in (ABSENT, FAILED) or not self.settings.model.asked_for(language, script):
                continue
            rows.setdefault(row, (language, script, {}))[2].setdefault(text, []).append(place)
        turns = conversations(prompts) if rows else []
        for row, (language, script, texts) in sorted(rows.items()):
            hashed = sorted((digest("judged", text), text) for text in texts)
            hashed.sort(key=lambda pair: draw(self.environment.seed, "opponents", pair[0]))
            yield _Prompt(
                row=row,
                turns=turns[row],
                language=language,
                variety=f"{language}_{script}" if script else language,
                answers=tuple(text for _, text in hashed),
                digests=tuple(own[:16] for own, _ in hashed),
                members=tuple(tuple(texts[text]) for _, text in hashed),
            )

    def _questions(self, prompt: _Prompt) -> Iterator[_Question]:
        """The questions about a prompt; in mode pairwise the two orders of a pair follow one another."""
        if self.settings.mode == "score":
            listed: list[tuple[int, ...]] = [(number,) for number in range(len(prompt.answers))]
        else:
            pairs = _pairs(len(prompt.answers), self.settings.max_pairs)
            listed = [order for one, other in pairs for order in ((one, other), (other, one))]
        for shown in listed:
            found = rubrics.codes(self.environment.seed, prompt.turns, [prompt.answers[number] for number in shown])
            yield _Question(" ".join(prompt.digests[number] for number in shown), shown, found)

    def _messages(self, prompt: _Prompt, question: _Question) -> tuple[Turn, ...]:
        own = self.settings
        told = rubrics.instruction(
            own.mode,
            own.rubric,
            (format(own.scale[0].normalize(), "f"), format(own.scale[1].normalize(), "f")),
            own.critique,
            prompt.language if own.language == "prompt" else rubrics.ENGLISH,
            prompt.language,
            prompt.variety,
        )
        answers = [prompt.answers[number] for number in question.shown]
        shown = rubrics.material(own.mode, prompt.turns, answers, question.codes)
        if own.instruct == "user":
            return (("user", f"{told}\n\n{shown}"),)
        return (("system", told), ("user", shown))


def _pairs(answers: int, most: int | None) -> list[tuple[int, int]]:
    """Pairs of neighbours in a ring, then of those two apart, and so on: each once, ``most`` of them.

    Of those that are equally far apart, the ones that share no answer come first, so that nobody waits for a second
    opponent before all have had one.
    """
    pairs: list[tuple[int, int]] = []
    for apart in range(1, answers // 2 + 1):
        starts = range(answers // 2 if 2 * apart == answers else answers)
        # Every second block of ``apart`` starts meets others than the blocks between.
        for parity in (0, 1):
            pairs += [(one, (one + apart) % answers) for one in starts if one // apart % 2 == parity]
        if most is not None and len(pairs) >= most:
            return pairs[:most]
    return pairs


def _compare(tallies: Sequence[_Tally], straight: Reading, turned: Reading) -> None:
    """Enter the two verdicts on a pair: in the order of ``tallies``, and in the other."""
    first = {"A": 0, "B": 1}.get(str(straight.value))
    second = {"A": 1, "B": 0}.get(str(turned.value))
    for tally in tallies:
        tally.counts["pairs"] += 1
        tally.counts["flipped"] += first != second
    if first is not None:
        tallies[first].counts["first_wins" if first == 0 else "second_wins"] += 1
    if second is not None:
        tallies[second].counts["first_wins" if second == 1 else "second_wins"] += 1
    for number, tally in enumerate(tallies):
        tally.points += 0.5 if first != second or first is None else float(first == number)
        for reading, label in ((straight, "AB"[number]), (turned, "BA"[number])):
            if reading.before:
                tally.notes.append(f"[{label}; {reading.value}] {reading.before}")
