"""Filters measure and judge rows: which to drop or merge, and what to say of those that stay.

:data:`FILTERS` is the table of built-in filters; a spec names them, and only what it names is imported.
``languages`` and ``tokens`` are also put in by the engine where a spec restricts its languages or counts
tokens.
"""

from __future__ import annotations

__all__ = ["FILTERS"]

FILTERS: dict[str, str] = {
    "decontaminate": "aya_data.filters.decontaminate.filter:Decontaminate",
    "encoding": "aya_data.filters.encoding:Encoding",
    "exact_dedup": "aya_data.filters.exact_dedup:ExactDedup",
    "language_id": "aya_data.filters.language_id.filter:LanguageId",
    "languages": "aya_data.filters.languages:Languages",
    "length": "aya_data.filters.length:Length",
    "license": "aya_data.filters.license:License",
    "near_dedup": "aya_data.filters.near_dedup:NearDedup",
    "pii": "aya_data.filters.pii.filter:Pii",
    "quality": "aya_data.filters.quality.filter:Quality",
    "semantic_dedup": "aya_data.filters.semantic_dedup:SemanticDedup",
    "tokens": "aya_data.filters.tokens:Tokens",
    "toxicity": "aya_data.filters.toxicity.filter:Toxicity",
}
