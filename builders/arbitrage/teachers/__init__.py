"""Teachers: one module for each engine that runs them."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from aya_data.builders.arbitrage.teacher import TeacherSettings
from aya_data.builders.arbitrage.teachers.openai_engine import OpenAISettings, OpenAITeacher
from aya_data.builders.arbitrage.teachers.recorded import RecordedSettings, RecordedTeacher
from aya_data.builders.arbitrage.teachers.transformers_engine import TransformersSettings, TransformersTeacher
from aya_data.builders.arbitrage.teachers.vllm_engine import VllmSettings, VllmTeacher
from aya_data.core.generation import Voice
from aya_data.core.stage import Environment

__all__ = ["TeacherUnion", "make_voice", "samples_of"]

TeacherUnion = Annotated[
    OpenAISettings | RecordedSettings | TransformersSettings | VllmSettings, Field(discriminator="engine")
]
"""The settings of a teacher, whatever its engine."""

ENGINES: Final = {
    "openai": OpenAITeacher,
    "recorded": RecordedTeacher,
    "transformers": TransformersTeacher,
    "vllm": VllmTeacher,
}


def make_voice(
    name: str, settings: TeacherSettings, environment: Environment, path: tuple[str, ...] | None = None
) -> Voice:
    """Make the voice of a teacher, or of another model that is written as one.

    ``path`` leads to its settings from those of the source, for errors. Default: the teacher ``name``.
    """
    engine = ENGINES[settings.engine]  # type: ignore[attr-defined]
    voice: Voice = engine(name, settings, environment, ("teachers", name) if path is None else path)
    return voice


def samples_of(settings: TeacherSettings) -> int:
    """How many answers a teacher gives to each prompt."""
    answers = getattr(settings, "answers", None)
    if isinstance(answers, TeacherSettings):
        return samples_of(answers)
    sampling = getattr(settings, "sampling", None)
    return int(sampling.n if sampling is not None else getattr(settings, "n", None) or 1)
