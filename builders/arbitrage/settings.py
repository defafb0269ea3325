"""The settings of the source ``arbitrage``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema, model_validator
from pydantic_core import InitErrorDetails

from aya_data.builders.arbitrage.arbiters import ArbiterUnion
from aya_data.builders.arbitrage.arbiters.heuristic import HeuristicSettings
from aya_data.builders.arbitrage.pairs import PairsSettings, impossible
from aya_data.builders.arbitrage.review.prompts import ReviewSettings
from aya_data.builders.arbitrage.routing.rules import RoutingSettings
from aya_data.builders.arbitrage.teachers import TeacherUnion, samples_of
from aya_data.builders.arbitrage.teachers.recorded import RecordedSettings
from aya_data.builders.arbitrage.translated import TranslatedSettings
from aya_data.core.settings import Settings, SlugKey, SourceName, wrong

__all__ = ["ArbitrageSettings", "Commit", "PromptsFrom"]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


LISTED: Final = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})


class PromptsFrom(Settings):
    """Where the prompts come from: the rows of other sources that pass the filters."""

    sources: Annotated[tuple[SourceName, ...], BeforeValidator(_listed), LISTED] = Field(
        alias="from",
        min_length=1,
        description="A source, or several. Of a conversation all but the last answer is the prompt.",
        examples=["aya", ["aya", "dolly"]],
    )
    rows: int | None = Field(None, ge=1, description="How many of their rows to draw. Default: all.", examples=[2000])


class Commit(Settings):
    """When answers are committed to the journal: a killed build asks again at most for those since then."""

    rows: int = Field(default=256, ge=1, description="After so many answers …")
    seconds: int = Field(default=10, ge=1, description="… or so many seconds, whichever is first.")


class ArbitrageSettings(Settings):
    """Settings of the source ``arbitrage``."""

    prompts: PromptsFrom = Field(description="Where the prompts come from.")
    teachers: Mapping[SlugKey, Annotated[TeacherUnion | TranslatedSettings, Field(discriminator="engine")]] = Field(
        min_length=1, description="The models that answer, by a name of your choice."
    )
    arbiter: ArbiterUnion = Field(
        default=HeuristicSettings(),
        description="What scores the answers. Default: the heuristic, which needs no model.",
    )
    routing: RoutingSettings = Field(description="The rule that picks an answer for every prompt.", examples=["reward"])
    review: ReviewSettings[TeacherUnion] | None = Field(
        None, description="Have some of the prompts reviewed, those with the most different answers. Default: none."
    )
    answers: bool = Field(True, description="Make a conversation of every prompt and the answer that was picked.")
    pairs: PairsSettings | None = Field(None, description="Make preference pairs too. Default: none.")
    max_failed: int = Field(
        0, ge=0, description="The build stops when more requests of one voice than this fail; those that came are kept."
    )
    commit: Commit = Field(default=Commit(), description="When answers are committed to the journal.")
    max_chars: int = Field(1_000_000, ge=1, description="A row with a longer text is dropped.")

    @model_validator(mode="after")
    def _check(self) -> ArbitrageSettings:
        translated = [name for name, teacher in self.teachers.items() if isinstance(teacher, TranslatedSettings)]
        recorded = [name for name, teacher in self.teachers.items() if isinstance(teacher, RecordedSettings)]
        found = self.routing.faults(self.teachers, [*translated, *recorded])
        if self.prompts.rows is not None:
            found += self.routing.too_few(self.prompts.rows)
        if self.review is not None:
            found += self.review.faults(self.pairs is not None)
        if self.pairs is not None:
            found += self.pairs.faults(self.teachers)
            samples = {name: samples_of(teacher) for name, teacher in self.teachers.items()}
            if not found and (reason := impossible(self.routing, self.pairs, samples)):
                remedy = "Take another routing, more samples, or no pairs."
                found.append((("pairs",), f"asks for pairs that cannot be: {reason}", remedy))
        if found:
            # With the place of each, which an error that a validator raises by itself does not have.
            details = [InitErrorDetails(type=wrong(what, remedy), loc=path, input=None) for path, what, remedy in found]
            raise ValidationError.from_exception_data(type(self).__name__, details)
        if not self.answers and self.pairs is None:
            raise wrong("makes neither answers nor pairs", "Write 'answers: true', or pairs.")
        return self
