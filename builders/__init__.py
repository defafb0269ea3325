"""Builders: what turns data sets, files and other sources into rows.

A builder is named in a spec and imported when one names it; this module imports nothing.
"""

from __future__ import annotations

__all__ = ["BUILDERS"]

BUILDERS: dict[str, str] = {
    "arbitrage": "aya_data.builders.arbitrage.builder:ArbitrageBuilder",
    "aya_collection": "aya_data.builders.aya_collection:AyaCollectionBuilder",
    "aya_collection_language_split": ("aya_data.builders.aya_collection:AyaCollectionLanguageSplitBuilder"),
    "aya_dataset": "aya_data.builders.aya_dataset:AyaDatasetBuilder",
    "aya_evaluation_suite": ("aya_data.builders.aya_evaluation_suite:AyaEvaluationSuiteBuilder"),
    "dolly": "aya_data.builders.dolly:DollyBuilder",
    "files": "aya_data.builders.files:FilesBuilder",
    "hub": "aya_data.builders.hub.builder:HubBuilder",
    "oasst": "aya_data.builders.oasst:OasstBuilder",
    "template": "aya_data.builders.template:TemplateBuilder",
    "xp3x": "aya_data.builders.xp3x:XP3xBuilder",
}
"""Built-in builders: name -> "module:Class"."""
