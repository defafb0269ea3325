"""What all teachers have in common: their settings, and what they are asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from aya_data.core.identity import digest, draw, frame, framed_digest
from aya_data.core.language import resolve, scope
from aya_data.core.settings import Number, Settings, check_keys, wrong

__all__ = [
    "DEFAULT",
    "Price",
    "Sampling",
    "TeacherSettings",
    "check_labels",
    "label_for",
    "matches",
    "sample_seed",
    "with_system",
]

Turn = tuple[str, str]
DEFAULT: Final = "default"
"""The key of what holds for all other languages, in a mapping by language."""
NOTHING: Final = Decimal(0)
ONE: Final = Decimal(1)


def _language(text: str) -> str:
    found = resolve(text)
    if not found.ok:
        raise wrong(f"names {text!r}, which is no language", found.reason or "")
    return text


def matches(label: str, language: str, script: str) -> bool:
    """Whether ``label`` names the language, or where it names a script too, the variety."""
    return scope(label) in ((language, None), (language, script))


def label_for(labels: Iterable[str], language: str, script: str) -> str | None:
    """Return the label that holds for a variety: the one of its own, of its language, or ``default``; else None."""
    held = {DEFAULT if label == DEFAULT else scope(label): label for label in labels}
    wanted = ((language, script), (language, None), DEFAULT)
    return next((held[one] for one in wanted if one in held), None)


def check_labels(labels: Iterable[str]) -> None:
    """Raise what a validator raises where a label of a mapping by language is none, or means what another one does."""
    check_keys(labels, _meaning)


def _meaning(label: str) -> str:
    if label == DEFAULT:
        return label
    if not (found := resolve(label)).ok:
        raise wrong(f"names {label!r}, which is no language", found.reason or f"Or write '{DEFAULT}'.")
    return found.variety.code if scope(label)[1] else found.variety.language


def _system(value: str | Mapping[str, str] | None) -> str | Mapping[str, str] | None:
    if isinstance(value, Mapping):
        check_labels(value)
    return value


LanguageName = Annotated[str, AfterValidator(_language)]


class Sampling(Settings):
    """How a model is sampled. What the papers did not publish has no default."""

    n: int = Field(ge=1, le=1024, description="Completions of each prompt.", examples=[2])
    temperature: Number = Field(ge=0, le=10, description="0 takes the likeliest token each time.", examples=[0.7])
    max_tokens: int = Field(ge=1, description="A completion is cut off here, and known to be.", examples=[1024])
    top_p: Number = Field(ONE, gt=0, le=1, description="Sample from the likeliest tokens of this probability in all.")
    top_k: int | None = Field(None, ge=1, description="Sample from so many likeliest tokens. Default: all.")
    min_p: Number = Field(
        NOTHING, ge=0, le=1, description="Sample from tokens at least so likely, relative to the likeliest."
    )
    repetition_penalty: Number = Field(ONE, gt=0, le=10, description="Above 1, tokens that were there are less likely.")
    stop: tuple[str, ...] = Field((), description="Texts that end a completion.")

    def identity(self) -> dict[str, Any]:
        """What a completion depends on; not ``n``, since every sample has a key of its own."""
        return self.model_dump(mode="json", exclude={"n"})


class Price(Settings):
    """What a teacher costs, for the estimate of a plan; in any one currency."""

    prompt: Number = Field(ge=0, description="A million prompt tokens.", examples=[0.5])
    completion: Number = Field(ge=0, description="A million completion tokens.", examples=[1.5])


class TeacherSettings(Settings):
    """Settings that every teacher has."""

    family: str | None = Field(
        None,
        min_length=1,
        description="The family of its model, for the report on judges that prefer their own. Default: its name.",
    )
    languages: tuple[LanguageName, ...] | None = Field(
        None, min_length=1, description="It is asked only for prompts in these languages. Default: all."
    )
    system: Annotated[str | Mapping[str, str] | None, AfterValidator(_system)] = Field(
        None,
        description="A system prompt; or one for each language, with 'default' for the others. It replaces a prompt's "
        "own.",
        examples=["Answer in the language of the question.", {"tur": "Türkçe yanıt ver.", "default": "Be brief."}],
    )
    price: Price | None = Field(None, description="What it costs, for the estimate of a plan.")
    thoughts: Literal["drop", "keep"] = Field(
        "drop",
        description="Whether what a reasoning model thinks, up to its last </think>, is left out of its answer: chat "
        "templates of such models leave it out of earlier turns. A thought without an end is an answer that was cut "
        "off. The journal keeps all of it.",
    )

    def asked_for(self, language: str, script: str) -> bool:
        """Whether the teacher is asked for prompts of this variety."""
        return self.languages is None or any(matches(text, language, script) for text in self.languages)

    def system_for(self, language: str, script: str) -> str | None:
        """The system prompt for prompts of this variety."""
        if self.system is None or isinstance(self.system, str):
            return self.system
        label = label_for(self.system, language, script)
        return None if label is None else self.system[label]


def with_system(messages: Sequence[Turn], system: str | None) -> tuple[Turn, ...]:
    """Return the conversation with ``system`` in the place of its own system prompt; as it is without one."""
    if system is None:
        return tuple(messages)
    return (("system", system), *(turn for turn in messages if turn[0] != "system"))


def sample_seed(seed: int, messages: Sequence[Turn], sample: int) -> int:
    """The seed of a sample, in 0 … 2**31 - 1: that of equal conversations is equal, so that they are asked once."""
    content = framed_digest(frame([text for turn in messages for text in turn]))
    return draw(seed, "sample", digest(content, str(sample))) & 0x7FFFFFFF
