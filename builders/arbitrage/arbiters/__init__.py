"""Arbiters: what scores completions, by itself or by asking a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from aya_data.builders.arbitrage.arbiter import Arbiter
from aya_data.builders.arbitrage.arbiters.heuristic import HeuristicArbiter, HeuristicSettings
from aya_data.builders.arbitrage.arbiters.judge import JudgeArbiter, JudgeSettings
from aya_data.builders.arbitrage.arbiters.reward_model import RewardModelArbiter, RewardModelSettings
from aya_data.builders.arbitrage.teachers import TeacherUnion
from aya_data.core.errors import did_you_mean
from aya_data.core.settings import Number, Settings, SlugKey, wrong
from aya_data.core.stage import Environment

__all__ = ["ArbiterUnion", "EnsembleSettings", "arbiters_of", "weights_of"]

KINDS: Final[Mapping[str, Callable[[str, Any, Environment], Arbiter]]] = {
    "heuristic": HeuristicArbiter,
    "judge": JudgeArbiter,
    "reward_model": RewardModelArbiter,
}

Known = HeuristicSettings | JudgeSettings[TeacherUnion] | RewardModelSettings
One = Annotated[
    Known,
    Field(discriminator="kind"),
    BeforeValidator(lambda value: _short(value), json_schema_input_type=Literal["heuristic"] | Known),
]


class EnsembleSettings(Settings):
    """Several arbiters together: each score becomes a z-score within its language, and the mean counts."""

    kind: Literal["ensemble"] = Field(description="Several arbiters together.")
    members: Mapping[SlugKey, One] = Field(min_length=2, description="The arbiters, by a name of your choice.")
    weights: Mapping[str, Number] = Field(
        default={}, description="How much a member counts. Default: 1 for each.", examples=[{"reward": 2, "judge": 1}]
    )

    @model_validator(mode="after")
    def _check(self) -> EnsembleSettings:
        for name, weight in self.weights.items():
            if name not in self.members:
                raise wrong(f"weighs {name!r}, which is no member", did_you_mean(name, self.members))
            if weight < 0:
                raise wrong(f"weighs {name!r} with {weight}, below 0", "Weigh it with 0 to only watch it.")
        if not any(self.weights.get(name, Decimal(1)) > 0 for name in self.members):
            raise wrong("weighs every member with 0", "Weigh one of them with more.")
        return self


def _short(value: Any) -> Any:
    """A text is the kind; a reward model runs in transformers where nothing else is said."""
    if isinstance(value, str):
        value = {"kind": value}
    if isinstance(value, Mapping) and value.get("kind") == "reward_model" and "engine" not in value:
        return {**value, "engine": "transformers"}
    return value


ArbiterUnion = Annotated[
    Known | EnsembleSettings,
    Field(discriminator="kind"),
    BeforeValidator(_short, json_schema_input_type=Literal["heuristic"] | Known | EnsembleSettings),
]
"""The settings of an arbiter, whatever its kind."""


def arbiters_of(settings: Any, environment: Environment) -> dict[str, Arbiter]:
    """Make the arbiters of a spec, by name: the members of an ensemble, or one that is called by its kind."""
    together = isinstance(settings, EnsembleSettings)
    members = settings.members if together else {settings.kind: settings}
    found = {name: KINDS[member.kind](name, member, environment) for name, member in sorted(members.items())}
    for name, arbiter in found.items() if together else ():
        arbiter.place = ("arbiter", "members", name)
    return found


def weights_of(settings: Any) -> dict[str, float]:
    """Return how much each arbiter counts; those that only watch are left out."""
    if not isinstance(settings, EnsembleSettings):
        return {settings.kind: 1.0}
    weights = {name: float(settings.weights.get(name, Decimal(1))) for name in sorted(settings.members)}
    return {name: weight for name, weight in weights.items() if weight > 0}
