"""Voices that run here: what teachers and reward models have in common, whatever engine runs them.

An engine says which processes to start (:meth:`LocalVoice.host`) and which libraries their interpreter needs; a voice
says what they are told (:meth:`LocalVoice.task`) and what its answers depend on. What stands in the way here, such as
an interpreter that is none or lacks the engine, is an error of its own setting, found before anybody is asked.
"""

from __future__ import annotations

import abc
import importlib.util
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import Field

from aya_data.builders.arbitrage.teacher import Sampling, TeacherSettings
from aya_data.builders.arbitrage.teachers.host import Host, HostSession, interpreter
from aya_data.builders.arbitrage.teachers.local_model import LocalModel, LocalModelSettings
from aya_data.core.errors import AyaDataError, InputError, WrongSetting
from aya_data.core.generation import TURN, Place, Session, Voice
from aya_data.core.stage import Environment
from aya_data.text.tokens import Tokenizer, locate

__all__ = ["LocalTeacher", "LocalTeacherSettings", "LocalVoice"]

LACKING: Final = "import sys, importlib.util as u; print(*(n for n in sys.argv[1:] if u.find_spec(n) is None))"
LIMIT: Final = 60.0
"""Seconds that an interpreter has to say what it lacks; some 0.05 are usual."""


class LocalTeacherSettings(TeacherSettings):
    """Settings of a teacher that runs here, beside those of its model and engine."""

    sampling: Sampling = Field(
        description="How it is sampled.", examples=[{"n": 2, "temperature": 0.7, "max_tokens": 1024}]
    )
    adapter: str | None = Field(None, min_length=1, description="A LoRA adapter of peft: a folder or Hub repository.")
    adapter_revision: str | None = Field(None, min_length=1, description="The revision of the adapter on the Hub.")


class LocalVoice(Voice):
    """A model that runs here. ``path`` leads to its settings from those of the source, for errors."""

    libraries: ClassVar[tuple[str, ...]]
    """What the interpreter that runs it must have."""
    settings: Any
    """A :class:`~aya_data.builders.arbitrage.teachers.local_model.LocalModelSettings` with those of the engine."""

    def __init__(
        self, name: str, settings: LocalModelSettings, environment: Environment, path: tuple[str, ...] = ("arbiter",)
    ) -> None:
        self.name, self.settings, self.environment, self.path = name, settings, environment, path
        self.model = LocalModel(
            settings,
            environment,
            adapter=getattr(settings, "adapter", None),
            adapter_revision=getattr(settings, "adapter_revision", None),
            path=path,
        )

    @abc.abstractmethod
    def task(self) -> Mapping[str, Any]:
        """What its processes are told beside the model and how it runs, as JSON."""

    @abc.abstractmethod
    def host(self, settings: Mapping[str, Any], python: Path | None) -> Host:
        """What to start, under ``python``; ``settings`` are what all engines are told, with the task."""

    @abc.abstractmethod
    def lacks(self, library: str) -> tuple[str, str]:
        """What to say where this package's own interpreter has no ``library``: what is wrong, and how to mend it."""

    def check(self) -> None:
        """Raise :class:`WrongSetting` where there is no such interpreter, or it has not the engine."""
        python = self._interpreter()
        if python is None:
            return
        given = repr(self.settings.python)
        try:
            done = subprocess.run(
                [python, "-c", LACKING, *self.libraries], capture_output=True, text=True, timeout=LIMIT, check=False
            )
            found = done.stdout.split() if done.returncode == 0 else None
        except (OSError, subprocess.TimeoutExpired):
            found = None
        if found is None:
            raise self.wrong("python", f"{given} does not run as Python", "Name the python of an environment.")
        if found:
            remedy = f"Install {found[0]} there, or name another interpreter."
            raise self.wrong("python", f"the interpreter {given} has no {found[0]}", remedy)

    def session(self, place: Place) -> AbstractContextManager[Session]:
        """Start the processes and load the model; downloads what is missing of it first."""
        python, own = self._interpreter(), self.settings
        settings = {
            **self.model.bring(),
            "template": self.model.template(),
            "template_variables": dict(own.template_variables),
            "max_length": own.max_length,
            "dtype": own.dtype,
            **self.task(),
        }
        return HostSession(self.host(settings, python), place)

    def prompt_tokens(self, conversations: Sequence[Sequence[tuple[str, str]]]) -> list[int]:
        """Count with the model's own tokenizer and chat template where both are here, and ``tokenizers`` is.

        60 microseconds for each, and one for each token. What a model's process adds is bounded as that of others.
        """
        most = super().prompt_tokens(conversations)
        tokenizer = self._tokenizer()
        if tokenizer is None:
            return most
        counts, _ = tokenizer.count_conversations(
            [[{"role": role, "content": text} for role, text in turns] for turns in conversations]
        )
        return [
            # What spells a control token is one token here and text to the model.
            bound if any("<" in text or "[" in text for _, text in turns) else count + TURN
            for turns, count, bound in zip(conversations, counts, most, strict=True)
        ]

    def _tokenizer(self) -> Tokenizer | None:
        files = self.model.files
        place = files.get("tokenizer", files["model"])
        if place.repository is not None or self.settings.template_variables:
            return None
        try:
            found = locate("huggingface", str(place.folder), base=self.environment.base, cache=self.environment.cache)
            template = self.model.template() or found.template
            return Tokenizer.load(replace(found, template=template)) if template else None
        except AyaDataError:
            return None

    def wrong(self, setting: str, what: str, remedy: str) -> WrongSetting:
        """Return the error that one of its settings is wrong."""
        return WrongSetting([((*self.path, setting), f"{self.name}: {what}", remedy)])

    def _interpreter(self) -> Path | None:
        """Find the interpreter; None is this one, which must have the libraries."""
        if self.settings.python is None:
            for library in self.libraries:
                if importlib.util.find_spec(library) is None:
                    raise self.wrong("engine", *self.lacks(library))
        try:
            return interpreter(self.settings.python, self.environment.base)
        except InputError as error:
            raise self.wrong("python", error.what, error.remedy) from None


class LocalTeacher(LocalVoice):
    """A language model that answers."""

    def __init__(
        self, name: str, settings: LocalModelSettings, environment: Environment, path: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(name, settings, environment, ("teachers", name) if path is None else path)

    def identity(self) -> Mapping[str, Any]:
        """Digests of all files of the model, the chat template, and how it is sampled."""
        return {**self.model.identity(), "sampling": self.settings.sampling.identity()}

    def prices(self) -> tuple[float, float] | None:
        """What the spec says that it costs."""
        price = self.settings.price
        return None if price is None else (float(price.prompt), float(price.completion))

    def task(self) -> Mapping[str, Any]:
        """To answer, sampled as the settings say."""
        sampling: Sampling = self.settings.sampling
        return {
            "task": "generate",
            "sampling": {
                "temperature": float(sampling.temperature),
                "max_tokens": sampling.max_tokens,
                "top_p": float(sampling.top_p),
                "top_k": sampling.top_k,
                "min_p": float(sampling.min_p),
                "repetition_penalty": float(sampling.repetition_penalty),
                "stop": list(sampling.stop),
            },
        }
