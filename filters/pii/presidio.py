"""Entities that presidio-analyzer finds, such as names of persons: an extra beside the kinds with patterns.

Presidio reads a language with a spaCy model for it; a row in another language is not read. It takes milliseconds for
each text, and what it calls a name is a model's guess: use it to tag, or where a false hit is no loss.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from aya_data.core import language_tables, settings
from aya_data.core.errors import MissingExtra, WrongSetting
from aya_data.core.identity import digest
from aya_data.core.settings import wrong
from aya_data.filters.by_language import ByLanguage, value_for
from aya_data.filters.pii.patterns import KINDS, Span, add_apart

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine

__all__ = ["Settings", "check", "find", "pin"]

PLACEHOLDER = re.compile("<[A-Z_]{1,38}>")


def _entity(name: str) -> str:
    if not name.isascii() or not name.replace("_", "").isalpha() or not name.isupper():
        raise wrong(f"is no entity of presidio: {name[:40]!r}", "Write its name, such as PERSON.")
    if name.lower() in KINDS:
        raise wrong(f"names {name}, which is a kind of its own", f"Write {name.lower()} under kinds.")
    return name


class Settings(settings.Settings):
    """Which entities presidio looks for, in which languages."""

    entities: tuple[Annotated[str, AfterValidator(_entity)], ...] = Field(
        min_length=1, description="Presidio's names of entities.", examples=[["PERSON", "LOCATION"]]
    )
    models: ByLanguage[str] = Field(
        min_length=1,
        description="The spaCy model for each language: an installed package or a folder.",
        examples=[{"eng": "en_core_web_sm"}],
    )
    min_score: float = Field(0.5, ge=0, le=1, description="The least score that counts.")
    action: Literal["tag", "mask", "drop"] | None = Field(None, description="Another action than for the other kinds.")


def check(settings: Settings, base: Path) -> None:
    """Raise :class:`MissingExtra`, or :class:`WrongSetting` for the models that are not installed."""
    if importlib.util.find_spec("presidio_analyzer") is None:
        raise MissingExtra("presidio-analyzer", "presidio", "pii with presidio")
    missing = [
        (
            ("models", key),
            f"there is no spaCy model {name!r}",
            f"Run: python -m spacy download {name}, or give its folder.",
        )
        for key, name in settings.models.items()
        if not (name.isidentifier() and importlib.util.find_spec(name) is not None) and not (base / name).is_dir()
    ]
    if missing:
        raise WrongSetting(missing)


def pin(settings: Settings, base: Path) -> str:
    """Return what identifies presidio's verdicts: settings, and the models' versions or files."""
    fields = [repr(settings.entities), str(settings.min_score)]
    for language, model in sorted(settings.models.items()):
        folder = base / model
        if folder.is_dir():
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            version = digest(*(part for path in files for part in (str(path.relative_to(folder)), path.read_bytes())))
        else:
            version = importlib.metadata.version(model)
        fields += [language, model, version]
    return digest(*fields)


def find(text: str, language: str, script: str, settings: Settings, base: Path, kinds: Collection[str]) -> list[Span]:
    """Return what presidio finds of ``kinds`` (entities in lower case), by place; none in languages without a model."""
    model = value_for(settings.models, language, script)
    if model is None or not text.strip():
        return []
    code = _code(language)
    engine = _engine(code, str(base / model) if (base / model).is_dir() else model)
    results = engine.analyze(
        text=text,
        language=code,
        entities=[kind.upper() for kind in kinds],
        score_threshold=settings.min_score,
    )
    spans: list[Span] = []
    for result in sorted(results, key=lambda found: (-found.score, found.start, -found.end, found.entity_type)):
        span = Span(result.start, result.end, result.entity_type.lower())
        # A placeholder is no name, whatever the model thinks.
        if not _in_placeholder(text, span):
            add_apart(spans, span)
    return spans


def _in_placeholder(text: str, span: Span) -> bool:
    return any(
        found.start() < span.end and span.start < found.end()
        for found in PLACEHOLDER.finditer(text, max(0, span.start - 40), span.end + 40)
    )


def _code(language: str) -> str:
    """Presidio and spaCy name languages by ISO 639-1 where there is one."""
    row = language_tables.languages().get(language)
    return row.iso639_1 or language if row else language


@lru_cache(maxsize=4)
def _engine(code: str, model: str) -> AnalyzerEngine:
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    models = [{"lang_code": code, "model_name": model}]
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models}).create_engine()
    registry = RecognizerRegistry(supported_languages=[code])
    registry.load_predefined_recognizers(languages=[code], nlp_engine=engine)
    return AnalyzerEngine(nlp_engine=engine, registry=registry, supported_languages=[code])
