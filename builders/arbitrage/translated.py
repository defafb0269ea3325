"""A teacher whose answers are translations: a prompt goes into the pivot language, its answer comes back.

It is the translation baseline of Multilingual Arbitrage (arXiv 2408.14960), and the weak side of the pairs of "RLHF Can
Speak Many Languages" (arXiv 2407.02552): an English answer of a weaker model, machine-translated, against a native one.

Three steps ask: ``translate/<teacher>`` for the prompt in the pivot language, ``answer/<teacher>`` for the model's
answer to that, ``generate/<teacher>`` for the answer in the prompt's language. A prompt in the pivot language is
answered as it is. Only prompts with one turn are asked: of a conversation, a translation would lose what refers to
what, and of a system prompt, that it is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, Field, model_validator

from aya_data.builders.arbitrage.completions import conversations
from aya_data.builders.arbitrage.teacher import LanguageName, TeacherSettings, sample_seed, with_system
from aya_data.builders.arbitrage.teachers import TeacherUnion, make_voice, samples_of
from aya_data.builders.arbitrage.thoughts import answered
from aya_data.core.errors import InputError
from aya_data.core.generation import LENGTH, Asked, Place, Request, Voice, request_key, voice_key
from aya_data.core.language import name as language_name
from aya_data.core.language import resolve
from aya_data.core.settings import wrong
from aya_data.core.stage import Environment

__all__ = ["STAGES", "Translated", "TranslatedSettings"]

STAGES: Final = ("translate", "answer", "generate")
INSTRUCTION: Final = (
    "Translate the text below from {source} to {target}. Give the translation alone, without a word about it.\n\n{text}"
)


def _instruction(text: str) -> str:
    for field in ("{text}", "{target}"):
        if field not in text:
            raise wrong(f"has no {field}", "It is filled in with {source}, {target} and {text}.")
    return text


class TranslatedSettings(TeacherSettings):
    """A teacher whose answers are translated by another model."""

    engine: Literal["translated"] = Field(
        description="A model that answers in another language, and one that translates."
    )
    answers: TeacherUnion = Field(description="The model that answers, in the pivot language; written as a teacher.")
    translator: TeacherUnion = Field(description="The model that translates; written as a teacher.")
    pivot: LanguageName = Field("eng", description="The language that prompts are translated to.", examples=["eng"])
    instruction: Annotated[str, AfterValidator(_instruction)] = Field(
        INSTRUCTION,
        description="What the translator is told: {source} and {target} become names of languages, {text} the text.",
    )

    @model_validator(mode="after")
    def _check(self) -> TranslatedSettings:
        """Refuse what nobody would heed."""
        answers, translator = self.answers, self.translator
        ignored = {
            "has a system prompt, which nobody is told": (self.system, "Write it under answers."),
            "has thoughts, and none of its own": (
                self.thoughts if "thoughts" in self.model_fields_set else None,
                "Write it under answers, or under translator.",
            ),
            "has a price, and asks two models": (self.price, "Write one under answers, and one under translator."),
            "has answers for some languages alone": (answers.languages, "Write languages beside answers, not in it."),
            "has a translator for some languages alone": (
                translator.languages,
                "Write languages beside translator, not in it.",
            ),
            "has a translator with a system prompt": (translator.system, "Write it into instruction."),
            "has a translator with more than one sample": (
                samples_of(translator) > 1 or None,
                "Translate each answer once; several samples go under answers.",
            ),
        }
        for what, (found, remedy) in ignored.items():
            if found is not None:
                raise wrong(what, remedy)
        return self

    @property
    def model(self) -> str | None:
        """The name of the model that answers; None for a recording that does not say."""
        return self.answers.model


class Translated(Voice):
    """What routing sees of it; it is asked through :attr:`answers` and :attr:`translator`."""

    def __init__(self, name: str, settings: TranslatedSettings, environment: Environment) -> None:
        self.name, self.settings, self.environment = name, settings, environment
        place = ("teachers", name)
        self.answers = make_voice(f"{name} (answers)", settings.answers, environment, (*place, "answers"))
        self.translator = make_voice(f"{name} (translator)", settings.translator, environment, (*place, "translator"))

    def identity(self) -> Mapping[str, Any]:
        """Both models, and what the translator is told."""
        return {
            "answers": dict(self.answers.identity()),
            "translator": dict(self.translator.identity()),
            "pivot": self.settings.pivot,
            "instruction": self.settings.instruction,
        }

    def session(self, place: Place) -> Any:
        """It has no session of its own."""
        raise InputError(f"the teacher {self.name} is translated and cannot be asked directly")

    def voice(self, stage: str) -> Voice:
        """The voice that is asked in one of the :data:`STAGES`."""
        return self.answers if stage == "answer" else self.translator

    def requests(self, stage: str, prompts: pa.Table, asked: list[bool], before: pa.Table | None) -> Iterator[Asked]:
        """List what one of the :data:`STAGES` asks about the prompts that the teacher is ``asked`` for.

        ``before`` are the answers of the stage before.
        """
        said: dict[int, list[tuple[str, str]]] = {}
        if before is not None:
            before = answered(before, self.settings.translator if stage == "answer" else self.settings.answers)
        columns = [before[name].to_pylist() for name in ("row", "tag", "text")] if before is not None else [[], [], []]
        for row, tag, text in zip(*columns, strict=True):
            if text:
                said.setdefault(row, []).append((tag, text))
        voice = voice_key(self.voice(stage))
        seed = self.environment.seed
        listed = zip(prompts["language"].to_pylist(), prompts["script"].to_pylist(), conversations(prompts))
        for row, (language, script, turns) in enumerate(listed):
            if not asked[row] or [role for role, _ in turns] != ["user"]:
                continue
            native = language == resolve(self.settings.pivot).variety.language
            for tag, messages in self._about(stage, language, turns[0][1], native, said.get(row, [])):
                drawn = sample_seed(seed, messages, int(tag))
                key = request_key(voice, messages, drawn, int(tag))
                yield Asked(row, tag, Request(key, messages, drawn, int(tag), f"{language}_{script}"))

    def _about(
        self, stage: str, language: str, text: str, native: bool, said: list[tuple[str, str]]
    ) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
        variety = resolve(self.settings.pivot).variety
        pivot = variety.language
        if stage == "translate":
            return [] if native else [("0", self._translation(text, language, pivot))]
        if stage == "generate":
            return [] if native else [(tag, self._translation(answer, pivot, language)) for tag, answer in said]
        questions = [text] if native else [translation for _, translation in said]
        system = self.settings.answers.system_for(pivot, variety.script)
        turns = [with_system((("user", question),), system) for question in questions]
        return [(str(sample), messages) for messages in turns for sample in range(samples_of(self.settings.answers))]

    def _translation(self, text: str, source: str, target: str) -> tuple[tuple[str, str], ...]:
        told = self.settings.instruction
        for field, value in (("source", language_name(source)), ("target", language_name(target)), ("text", text)):
            told = told.replace(f"{{{field}}}", value, 1)
        return (("user", told),)

    def answered(self, prompts: pa.Table, answers: pa.Table, translations: pa.Table) -> pa.Table:
        """Put the answers together: those in the pivot language as they are, translations of the others.

        What was cut off before it was translated is cut off, and a thought with no answer behind it is an empty answer.
        """
        answers = answered(answers, self.settings.answers)
        translations = answered(translations, self.settings.translator)
        pivot = resolve(self.settings.pivot).variety.language
        native = pc.equal(prompts["language"].take(answers["row"]), pivot)
        thought_alone = pc.and_(pc.is_valid(answers["thought"]), pc.equal(answers["text"], ""))
        names = ("row", "tag", "finish", "thought")
        before = {one[:2]: one[2:] for one in zip(*(answers[name].to_pylist() for name in names))}
        whole = translations
        finishes, thoughts = [], []
        for row, tag, finish, thought in zip(*(translations[name].to_pylist() for name in names)):
            ended, earlier = before[row, tag]
            finishes.append(LENGTH if ended == LENGTH else finish)
            thoughts.append(thought if earlier is None else earlier + (thought or 0))
        for name, column in (("finish", pa.array(finishes, pa.string())), ("thought", pa.array(thoughts, pa.int32()))):
            whole = whole.set_column(whole.schema.get_field_index(name), name, column)
        return pa.concat_tables([answers.filter(pc.fill_null(pc.or_(native, thought_alone), False)), whole])
