"""The arbiter ``reward_model``: a sequence classification model with one label gives every answer a number.

The score is the raw logit (no sigmoid, which saturates and makes margins small) of prompt and answer, in the chat
template of the model's tokenizer. It depends on that conversation alone: batches are masked, and in float32, the
default, neither their shape nor their order moves a score by more than 1e-5. bfloat16 is several times as fast on a
GPU and moves scores by some hundredths from batch to batch, so it is asked for by name, and is part of the identity.

A conversation that is longer than the model takes has no score, and its note says why: a reward of half an answer is
none. Scores of different reward models do not compare; the ensemble makes z-scores of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field

from aya_data.builders.arbitrage.arbiter import Arbiter
from aya_data.builders.arbitrage.completions import conversations
from aya_data.builders.arbitrage.teachers.local_voice import LocalVoice
from aya_data.builders.arbitrage.teachers.transformers_engine import TransformersEngine, TransformersVoice
from aya_data.builders.arbitrage.teachers.vllm_engine import VllmEngine, VllmVoice
from aya_data.core.generation import Asked, Request, Voice, request_key, voice_key
from aya_data.core.stage import Environment

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "RewardModelArbiter",
    "RewardModelSettings",
    "TransformersRewardModel",
    "TransformersRewardSettings",
    "VllmRewardModel",
    "VllmRewardSettings",
]

Precision = Literal["auto", "float32", "bfloat16", "float16"]
PRECISION: Final = "The precision of its arithmetic; in less than float32, scores move with the batch."


class TransformersRewardSettings(TransformersEngine):
    """Settings of the arbiter ``reward_model`` that transformers runs."""

    kind: Literal["reward_model"] = Field(description="A model that was trained to score answers.")
    engine: Literal["transformers"] = Field(
        default="transformers", description="A model of transformers, in a process of its own."
    )
    dtype: Precision = Field("float32", description=PRECISION)


class VllmRewardSettings(VllmEngine):
    """Settings of the arbiter ``reward_model`` that vLLM runs."""

    kind: Literal["reward_model"] = Field(description="A model that was trained to score answers.")
    engine: Literal["vllm"] = Field(description="A reward model that vLLM runs, in a process of its own.")
    dtype: Precision = Field("float32", description=PRECISION)


RewardModelSettings = Annotated[TransformersRewardSettings | VllmRewardSettings, Field(discriminator="engine")]
"""The settings of the arbiter ``reward_model``, whatever its engine."""


class _RewardModel(LocalVoice):
    """A model that answers a conversation with a number, whatever engine runs it."""

    def identity(self) -> Mapping[str, Any]:
        """Digests of all files of the model, its chat template, and the precision.

        Raises :class:`~aya_data.core.errors.WrongSetting` where its configuration does not say that it has one label.
        """
        config = self.model.config()
        labels = config.get("id2label")
        count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
        if count != 1:
            what = f"the model {self.settings.model!r} has {count} labels, and a reward model has one"
            raise self.wrong("model", what, "Choose a model that was trained to give one reward.")
        return {**self.model.identity(), "scores": "logit", "dtype": self.settings.dtype}

    def task(self) -> Mapping[str, Any]:
        """To score."""
        return {"task": "score"}


class TransformersRewardModel(_RewardModel, TransformersVoice):
    """A reward model that transformers runs."""

    settings: TransformersRewardSettings


class VllmRewardModel(_RewardModel, VllmVoice):
    """A reward model that vLLM runs. It is the same voice as the same model under transformers."""

    settings: VllmRewardSettings

    def identity(self) -> Mapping[str, Any]:
        """What it is under any engine, and whether it was quantised."""
        return {**super().identity(), **self.quantized()}


class RewardModelArbiter(Arbiter):
    """Scores completions with a reward model."""

    settings: TransformersRewardSettings | VllmRewardSettings

    def __init__(self, name: str, settings: Any, environment: Environment) -> None:
        super().__init__(name, settings, environment)
        self._voice: Voice | None = None
        self._key: str | None = None

    def identity(self) -> Mapping[str, Any]:
        """Nothing beside the answers of its voice."""
        return {"kind": "reward_model"}

    def voice(self) -> Voice:
        """The reward model."""
        if self._voice is None:
            own, place = self.settings, self.place
            self._voice = (
                VllmRewardModel(self.name, own, self.environment, place)
                if isinstance(own, VllmRewardSettings)
                else TransformersRewardModel(self.name, own, self.environment, place)
            )
        return self._voice

    def requests(self, prompts: pa.Table, completions: pa.Table) -> Iterator[Asked]:
        """Ask about every completion, in its conversation; tags are ``teacher/sample``."""
        if self._key is None:
            self._key = voice_key(self.voice())
        asked = conversations(prompts)
        names = ("row", "teacher", "sample", "text", "language", "script")
        for row, teacher, sample, text, language, script in zip(*(completions[name].to_pylist() for name in names)):
            messages = (*asked[row], ("assistant", text))
            variety = f"{language}_{script}" if script else language
            key = request_key(self._key, messages, 0, 0)
            yield Asked(row, f"{teacher}/{sample}", Request(key, messages, 0, 0, variety))

    def score(self, prompts: pa.Table, completions: pa.Table, answers: pa.Table | None) -> pa.Table:
        """Return what the model gave, and as ``note`` why it gave nothing."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if answers is None:
            nothing = pa.nulls(completions.num_rows)
            return pa.table({"score": nothing.cast(pa.float64()), "note": nothing.cast(pa.string())})
        text = pa.string()
        wanted = pc.binary_join_element_wise(
            completions["row"].cast(text), completions["teacher"], completions["sample"].cast(text), "/"
        )
        there = pc.binary_join_element_wise(answers["row"].cast(text), answers["tag"], "/")
        found = answers.select(["value", "reason"]).take(pc.index_in(wanted, value_set=there))
        # Adding zero makes one of the two zeros.
        score = pc.add(pc.round(found["value"], ndigits=4), 0.0)
        return pa.table(
            {"score": score, "note": pc.if_else(pc.is_valid(score), pa.scalar(None, text), found["reason"])}
        )
