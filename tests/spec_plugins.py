"""Small builders and filters with the settings of the design's example, for tests of specs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from aya_data.core.registry import Registry
from aya_data.core.settings import (
    BenchmarkName,
    LanguageFrom,
    LicenseFrom,
    Settings,
    SourceName,
    TermsFrom,
)


class Named:
    class Settings(Settings):
        configs: tuple[str, ...] | None = Field(None, description="The configs to read.")
        demographics: bool = Field(False, description="Whether to join the demographics.")


class Files:
    class Settings(Settings):
        path: str = Field(min_length=1, description="A file, or a pattern of files.")
        columns: dict[str, str] = Field({}, description="Which column holds what.")
        language: LanguageFrom | None = Field(None, description="Where the language comes from.")
        license: LicenseFrom | None = Field(None, description="Where the licence comes from.")
        terms: TermsFrom | None = Field(None, description="Terms of use of the rows.")
        separator: str | list[str] = Field(",", description="One separator, or several.")


class Prompts(Settings):
    source: SourceName = Field(alias="from", description="The source to draw prompts from.")
    rows: int | None = Field(None, ge=1, description="How many prompts.")


class Sampling(Settings):
    temperature: float = Field(0.0, ge=0, le=2, description="Of the softmax.")
    max_tokens: int = Field(1024, ge=1, description="Of one completion.")
    n: int = Field(1, ge=1, le=64, description="Completions per prompt.")


class ApiTeacher(Settings):
    engine: Literal["openai"] = Field(description="A server.")
    model: str = Field(description="Its name.")
    revision: str | None = Field(None, description="Its version.")
    base_url: str = Field(description="Where it answers.")
    sampling: Sampling = Field(Sampling(), description="How it samples.")


class LocalTeacher(Settings):
    engine: Literal["vllm"] = Field(description="This machine.")
    model: str = Field(description="A Hub repository.")
    revision: str | None = Field(None, description="Its commit, tag or branch.")
    sampling: Sampling = Field(Sampling(), description="How it samples.")


Teacher = Annotated[ApiTeacher | LocalTeacher, Field(discriminator="engine")]


class Arbitrage:
    class Settings(Settings):
        prompts: Prompts = Field(description="What is asked.")
        teachers: dict[str, Teacher] = Field(min_length=1, description="Who is asked.")
        arbiter: dict[str, Any] | None = Field(None, description="Who scores.")
        routing: Literal["reward", "fixed", "random"] = Field("reward", description="Who wins.")


class Derived:
    class Settings(Settings):
        source: SourceName = Field(alias="from", description="The parent.")


class Plain:
    class Settings(Settings):
        pass


class Length:
    class Settings(Settings):
        min_chars: int = Field(1, ge=0, description="The least characters.")
        max_chars: int | None = Field(None, ge=1, description="The most characters.")


class LanguageId:
    class Settings(Settings):
        min_confidence: float = Field(0.5, ge=0, le=1, description="The least confidence.")
        strict: bool = Field(False, description="Whether undetermined rows are dropped.")


class NearDedup:
    class Settings(Settings):
        threshold: float = Field(0.8, gt=0, le=1, description="The least Jaccard similarity.")


class Decontaminate:
    class Settings(Settings):
        against: tuple[BenchmarkName, ...] = Field(min_length=1, description="The benchmarks.")


class NoSettings:
    pass


def registry() -> Registry:
    """Return a registry of the plugins of this module."""

    def table(**classes: str) -> dict[str, str]:
        return {name: f"{__name__}:{cls}" for name, cls in classes.items()}

    return Registry(
        builders=table(
            aya_dataset="Named",
            aya_collection="Named",
            aya_evaluation_suite="Named",
            files="Files",
            arbitrage="Arbitrage",
            template="Derived",
        ),
        filters=table(
            license="Plain",
            length="Length",
            language_id="LanguageId",
            exact_dedup="Plain",
            near_dedup="NearDedup",
            decontaminate="Decontaminate",
        ),
    )
