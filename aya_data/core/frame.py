"""The frame of a spec: its top-level keys, and what a spec is once it has been read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from aya_data.core.document import Document, Mark, PathKey
from aya_data.core.errors import Problem
from aya_data.core.language import Variety
from aya_data.core.mix_settings import MixSettings, ReleaseSettings, TokenizerSettings
from aya_data.core.policy import PolicySettings
from aya_data.core.policy import policy as policy_of
from aya_data.core.registry import Registry
from aya_data.core.settings import Settings

__all__ = ["FilterUse", "Frame", "Source", "SourceFrame", "Spec", "Use"]

Use = Literal["train", "prompts", "benchmark"]


class SourceFrame(Settings):
    """A source: the keys that every builder has. The others are the builder's own."""

    builder: str = Field(description="The code that makes its rows.", examples=["files"])
    use: Use = Field(
        default="train",
        description="What its rows are for: the release, prompts for other sources only, or a "
        "benchmark that filters compare with.",
    )


class Frame(Settings):
    """A spec: everything that builds one dataset."""

    name: str = Field(
        description="The name of the dataset: letters a-z, digits, '_' and '-'.",
        examples=["sft_mix"],
    )
    description: str = Field(default="", max_length=10_000, description="What it is, for its card.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Another seed draws other rows.", examples=[7])
    languages: Any = Field(
        default=None,
        title="name of a set, or list of languages and varieties",
        description="The languages to keep: a named set, or a list; without it all.",
        examples=["aya_23", ["tur", "arb_Arab"]],
    )
    policy: Any = Field(
        default="commercial",
        title="name, or mapping",
        description="Which licences and terms the release may carry: commercial, research, any, or written out.",
        examples=["research"],
    )
    sources: Any = Field(
        title="mapping of names to sources",
        description="Where rows come from, by name.",
        examples=[{"house": {"builder": "files", "path": "data/*.jsonl"}}],
    )
    filters: Any = Field(
        default=(),
        title="list of filters",
        description="What rows must pass, in this order: a name, or a name with settings. Each "
        "filter stands at most once.",
        examples=[["license", {"length": {"min_chars": 5}}, "exact_dedup"]],
    )
    mix: MixSettings = Field(default=MixSettings(), description="How the release is drawn from the rows.")
    release: ReleaseSettings = Field(default=ReleaseSettings(), description="What is written.")
    tokenizer: TokenizerSettings | None = Field(
        default=None,
        description="What counts tokens, for the mixture and for the lengths of preference pairs. n_tokens is counted "
        "with the chat template of chat_template.jinja or tokenizer_config.json, where there is one.",
    )
    profiles: Any = Field(
        default={},
        title="mapping of names to overlays",
        description="Named overlays. Mappings merge, lists and scalars replace, null removes a "
        "key. 'sample' (the default: bundled samples) and 'hub' need not be written.",
        examples=[{"hub": {"mix": {"budget": {"rows": 1_000_000}}}}],
    )


@dataclass(frozen=True, slots=True)
class Source:
    """A declared source with its builder's settings."""

    name: str
    builder: str
    use: Use
    settings: BaseModel


@dataclass(frozen=True, slots=True)
class FilterUse:
    """A filter with its settings, in the place where it stands."""

    name: str
    settings: BaseModel


@dataclass(frozen=True, eq=False)
class Spec:
    """A spec that was read and found right, for one profile.

    ``languages`` are the varieties listed or those of the named set, sorted; None keeps all.
    """

    name: str
    description: str
    seed: int
    languages: tuple[Variety, ...] | None
    policy: str | PolicySettings
    sources: Mapping[str, Source]
    filters: tuple[FilterUse, ...]
    mix: MixSettings
    release: ReleaseSettings
    tokenizer: TokenizerSettings | None
    profile: str
    document: Document = field(repr=False)
    registry: Registry = field(repr=False)

    @property
    def folder(self) -> Path:
        """The folder that relative paths of the spec start from."""
        return Path(self.document.text.file).parent

    @property
    def positions(self) -> dict[PathKey, Mark]:
        """The place of every value that was written, by path."""
        return self.document.positions()

    def at(self, path: str | Sequence[str | int]) -> str:
        """Return ``file:line:column`` of the value at ``path`` (``mix.caps.0.rows``)."""
        return str(self.document.mark(_path(path)))

    def problem(self, path: str | Sequence[str | int], what: str, remedy: str = "") -> Problem:
        """Return a problem at ``path``, for what only a plan or a build can find."""
        return self.document.problem(_path(path), what, remedy)

    def canonical(self) -> dict[str, Any]:
        """Return the spec as JSON values with all defaults: equal for specs that mean the same.

        Comments, formatting, the order of keys, and the way a number or size is written leave no
        trace; nor does the order of lists that are sets.
        """
        mix = self.mix.model_dump(mode="json", by_alias=True)
        for bound in (*mix["caps"], *mix["floors"]):
            bound["per"].sort()
        whole = {
            "name": self.name,
            "description": self.description,
            "seed": self.seed,
            "languages": self.languages and [str(variety) for variety in self.languages],
            "policy": {
                key: sorted(value) if isinstance(value, (frozenset, tuple)) else value
                for key, value in asdict(policy_of(self.policy)).items()
            },
            "sources": {
                name: {"builder": s.builder, "use": s.use, "settings": _dump(s.settings)}
                for name, s in sorted(self.sources.items())
            },
            "filters": [{"name": f.name, "settings": _dump(f.settings)} for f in self.filters],
            "mix": mix,
            "release": _dump(self.release),
            "tokenizer": None if self.tokenizer is None else _dump(self.tokenizer),
            "profile": self.profile,
        }
        ordered: dict[str, Any] = json.loads(json.dumps(whole, sort_keys=True, allow_nan=False))
        return ordered


def _path(path: str | Sequence[str | int]) -> PathKey:
    if not isinstance(path, str):
        return tuple(path)
    return tuple(int(step) if step.isdigit() else step for step in path.split(".") if step)


def _dump(settings: BaseModel) -> dict[str, Any]:
    return settings.model_dump(mode="json", by_alias=True)
