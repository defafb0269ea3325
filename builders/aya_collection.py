"""``aya_collection``: 513 million rows of one human, 44 templated and 19 translated datasets.

Repository ``CohereLabs/aya_collection`` has one folder per config with Parquet files named
``{split}-NNNNN-of-NNNNN.parquet``; ``CohereLabs/aya_collection_language_split`` holds the same rows
with one folder per language. Columns ``id, inputs, targets, dataset_name, sub_dataset_name,
task_type, template_id, language, script, split``, with drift between revisions and configs: their
order, ``language_code`` for ``language``, ``template_id`` as text, an ``info_uuid``, a stray
``__index_level_0__``, and ``-`` for an unknown task.

The tag of the whole is Apache-2.0; the parts say otherwise (Aya Dataset paper, Tables 8 and 9), and
the part's licence counts here. Translations are by NLLB-200-3.3B, whose licence counts too.

Ids repeat: between languages for translations of one record, between the templates of one record.
A row is identified by its dataset, sub-dataset, id, language, script, split and template, so both
repositories give the same row the same key.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, field_validator

from aya_data.builders.records.reader import Record
from aya_data.builders.upstream import (
    Choice,
    UpstreamBuilder,
    UpstreamSettings,
    label,
    number_text,
    part_facts,
    shard_split,
    text_or_none,
    turns,
)
from aya_data.core import language as languages
from aya_data.core.errors import NotFound, did_you_mean
from aya_data.core.identity import canonical, record_digest, row_key
from aya_data.core.row import Draft, Rejection
from aya_data.core.settings import wrong
from aya_data.core.stage import Unit

__all__ = [
    "CONFIGS",
    "AyaCollectionBuilder",
    "AyaCollectionLanguageSplitBuilder",
    "AyaCollectionLanguageSplitSettings",
    "AyaCollectionSettings",
    "config_of",
]

TEMPLATED = (
    "afriqa", "afrisenti", "amharic_qa", "armenian_instruct", "bengali_news", "dutch_imdb",
    "hindi_headline", "hindi_news", "indic_paraphrase", "indic_sentiment", "indo_stories",
    "japanese_instruct", "joke_explaination", "ligurian_news", "masakhanews", "mintaka", "ntx_llm",
    "nusax_senti", "persian_farstail", "persian_instruct", "scirepeval", "seed_instruct", "soda",
    "tamil_stories", "tamil_thirukkural", "telugu_food", "telugu_jokes", "telugu_news",
    "telugu_poems", "telugu_riddles", "thai_pos", "thai_scb", "thai_usembassy", "thai_wikitionary",
    "turku_paraphrase", "ukranian_gec", "uner_llm", "urdu_news_category", "urdu_news_gen",
    "urdu_news_headline", "wiki_split", "xcsqa", "xlel_wd", "xwikis",
)  # fmt: skip
TRANSLATED = (
    "adversarial_qa", "cnn_dailymail", "dolly", "flan_coqa", "flan_cot", "flan_gem_wiki",
    "flan_lambada", "flan_qa", "hotpotqa", "joke_explaination", "mintaka", "mlqa", "nqopen", "paws",
    "piqa", "soda", "wiki_split", "wikiqa", "xlel_wd",
)  # fmt: skip
CONFIGS = (
    "aya_dataset",
    *(f"templated_{name}" for name in TEMPLATED),
    *(f"translated_{name}" for name in TRANSLATED),
)
"""The 64 configs, as the publisher spells them."""

CORRECTED = {
    "joke_explanation": "joke_explaination",
    "thai_wiktionary": "thai_wikitionary",
    "ukrainian_gec": "ukranian_gec",
}
"""How the three names that the publisher misspells are written elsewhere."""

ALIASES = {
    "arpa": "templated_armenian_instruct",
    "news_summary": "templated_bengali_news",
    "imdb_dutch": "templated_dutch_imdb",
    "hindi_article_summarization": "templated_hindi_headline",
    "hindi_article_generation": "templated_hindi_news",
    "indicxparaphrase": "templated_indic_paraphrase",
    "indicsentiment": "templated_indic_sentiment",
    "llm_japanese_vanilla": "templated_japanese_instruct",
    "japanese": "templated_japanese_instruct",
    "armenian": "templated_armenian_instruct",
    "lijnews": "templated_ligurian_news",
    "farstail": "templated_persian_farstail",
    "persian": "templated_persian_instruct",
    "persian_instruct_pn": "templated_persian_instruct",
    "scirepeval_biomimicry": "templated_scirepeval",
    "seed": "templated_seed_instruct",
    "tamilstories": "templated_tamil_stories",
    "thirukkural": "templated_tamil_thirukkural",
    "telugu_food_recipes": "templated_telugu_food",
    "telugu_news_articles": "templated_telugu_news",
    "teluguriddles": "templated_telugu_riddles",
    "scb_mt_2020": "templated_thai_scb",
    "turkuparaphrase": "templated_turku_paraphrase",
    "ua_gec": "templated_ukranian_gec",
    "urdu_news_category_class": "templated_urdu_news_category",
    "urdu_news_category_classification": "templated_urdu_news_category",
    "urdu_news_gen_article": "templated_urdu_news_gen",
    "urdu_news_gen_headline": "templated_urdu_news_headline",
    "x_csqa": "templated_xcsqa",
    "cnn_daily_mail": "translated_cnn_dailymail",
    "dolly_v2": "translated_dolly",
    "flan_cot_submix": "translated_flan_cot",
    "flan_gem_wiki_lingua": "translated_flan_gem_wiki",
    "flan_unified_qa": "translated_flan_qa",
    "mlqa_en": "translated_mlqa",
    "nq_open": "translated_nqopen",
    "paws_wiki": "translated_paws",
    "wiki_qa": "translated_wikiqa",
}
"""Names in the column ``dataset_name``, as :func:`config_of` cuts them, and their configs."""

UNKNOWN_TOKEN = "<unk>"


def canonical_config(name: str) -> str | None:
    """Return the publisher's name of a config, given that name or its correct spelling."""
    for right, publishers in CORRECTED.items():
        name = re.sub(rf"^((?:templated|translated)_){right}$", rf"\g<1>{publishers}", name)
    return name if name in CONFIGS else None


@functools.lru_cache(maxsize=1024)
def config_of(dataset_name: str) -> str | None:
    """Return the config that rows with this ``dataset_name`` come from, ``None`` when unknown.

    ``(T)`` marks translations, and ``-inst``, ``-instruct``, ``-prompt`` templates; some names end
    in a pair of language codes; case, spaces, dashes and underscores vary.
    """
    text = dataset_name.strip().lower()
    prefix = "translated_" if text.endswith("(t)") else "templated_"
    text = re.sub(r"[^a-z0-9]+", "_", text.removesuffix("(t)")).strip("_")
    if text in CONFIGS:
        return text
    bare = re.sub(r"_(inst|instruct|prompt)(_[a-z]{3}){0,2}$", "", text)
    for name in (text, bare):
        config = canonical_config(prefix + name) or ALIASES.get(name)
        if config is not None and config.startswith(prefix):
            return config
    return None


class AyaCollectionSettings(UpstreamSettings):
    """Settings of ``aya_collection``."""

    configs: tuple[str, ...] = Field(
        CONFIGS,
        min_length=1,
        description="Parts to read, such as translated_dolly, templated_mintaka. Default: all 64.",
    )

    @field_validator("configs")
    @classmethod
    def _known(cls, configs: tuple[str, ...]) -> tuple[str, ...]:
        for name in configs:
            if canonical_config(name) is None:
                raise wrong(
                    f"names the config {name!r}, which aya_collection does not have",
                    did_you_mean(name, CONFIGS),
                )
        return configs


class _CollectionBuilder(UpstreamBuilder):
    """What a row of the collection means, whichever way the files are cut."""

    def draft(self, record: Record, unit: Unit) -> Draft | Rejection:
        """Turn one record into a conversation of two turns; a translator's ``<unk>`` rejects it."""
        fields = record.fields
        name = text_or_none(fields.get("dataset_name"))
        sub = text_or_none(fields.get("sub_dataset_name"))
        config = self.config(name, unit)
        dataset = f"aya_collection/{config or _slug(name)}"
        code = label(fields.get("language")) or label(fields.get("language_code"))
        script = text_or_none(fields.get("script"))
        split = text_or_none(fields.get("split")) or unit.split
        template = number_text(fields.get("template_id"))
        upstream = number_text(fields.get("id"))
        if upstream is None:
            key = group = row_key(dataset, record_digest(_lasting(fields)))
        else:
            key = row_key(dataset, _basis(sub, upstream, code, script, split, template))
            group = row_key(dataset, _basis("group", sub, upstream))
        prompt, answer = fields.get("inputs"), fields.get("targets")
        # The folder is right where the name in the row says something else.
        translated = config.startswith("translated_") if config else (name or "").endswith("(T)")
        if translated:
            for column, text in (("inputs", prompt), ("targets", answer)):
                if isinstance(text, str) and UNKNOWN_TOKEN in text:
                    at = f"{column}, character {text.index(UNKNOWN_TOKEN)}"
                    place = (unit.name, record.index)
                    return Rejection(key, place, "unk_in_translation", UNKNOWN_TOKEN, evidence=at)
        facts = part_facts("aya_collection", config or _slug(name))
        human = config == "aya_dataset"
        return Draft(
            key=key,
            group=group,
            messages=turns(prompt, answer),
            place=(unit.name, record.index),
            language=code or unit.labels.get("language"),
            script=script,
            license=facts.license.expression,
            terms=facts.terms,
            dataset=dataset,
            origin="human" if human else "translated" if translated else "templated",
            task=text_or_none(fields.get("task_type")),
            revision=unit.revision,
            config=config or unit.config,
            split=split,
            template=template,
            translator=(facts.translator or None) if translated else None,
            adapted=not human,
            extra={
                "id": fields.get("id"),
                "dataset_name": name,
                "sub_dataset_name": sub,
                "info_uuid": text_or_none(fields.get("info_uuid")),
            },
        )

    def config(self, dataset_name: str | None, unit: Unit) -> str | None:
        """Name the config that a row belongs to."""
        raise NotImplementedError


class AyaCollectionBuilder(_CollectionBuilder):
    """Reads ``aya_collection`` by config."""

    Settings = AyaCollectionSettings
    name: ClassVar[str] = "aya_collection"
    repository: ClassVar[str] = "CohereLabs/aya_collection"

    def choose(self, path: str) -> Choice | None:
        """Take ``<config>/<split>-NNNNN-of-NNNNN.parquet`` of the chosen configs."""
        folder, _, file = path.rpartition("/")
        split = shard_split(file)
        if split is None or folder not in self._chosen():
            return None
        return Choice(folder, split)

    def units(self) -> list[Unit]:
        """List the files. A config that was asked for and has no file is an error."""
        units = super().units()
        missing = set(self._chosen()) - {unit.config for unit in units}
        # The bundled sample holds some of the 64 configs, and all of them is what nobody asks for.
        if missing and self.settings.configs != CONFIGS:
            raise NotFound(f"file of config in {self._places()}", min(missing), {u.config or "" for u in units})
        return units

    def notes(self) -> tuple[str, ...]:
        """Name the configs that were written with another spelling than the publisher's."""
        corrected = tuple(
            f"config {name} is spelled {canonical_config(name)} by its publisher"
            for name in self.settings.configs
            if canonical_config(name) != name
        )
        return corrected + super().notes()

    def parts(self) -> Sequence[tuple[str, str]]:
        """Name the chosen configs."""
        return [(self.name, config) for config in self._chosen()]

    def config(self, dataset_name: str | None, unit: Unit) -> str | None:
        """Name the config: the folder."""
        return unit.config

    def dataset(self, unit: Unit) -> str:
        """Name the nested dataset of records that cannot be parsed."""
        return f"aya_collection/{unit.config}"

    def _chosen(self) -> dict[str, None]:
        return dict.fromkeys(canonical_config(name) or name for name in self.settings.configs)


class AyaCollectionLanguageSplitSettings(UpstreamSettings):
    """Settings of ``aya_collection_language_split``."""

    languages: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Folders to read: their names (standard_arabic, zulu) or any label of the "
        "language. Default: the languages of the spec.",
    )

    @field_validator("languages")
    @classmethod
    def _known(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            try:
                languages.parse(name)
            except NotFound as error:
                raise wrong(f"names the language {name!r}, which is unknown", error.remedy) from None
        return names


class AyaCollectionLanguageSplitBuilder(_CollectionBuilder):
    """Reads the collection by language.

    A folder holds one language in all its scripts (``achinese`` has Arabic and Latin rows), except
    for Chinese: ``simplified_chinese``, ``traditional_chinese`` and a small ``chinese``, of rows
    that do not say, which is read when either is asked for.
    """

    Settings = AyaCollectionLanguageSplitSettings
    name: ClassVar[str] = "aya_collection_language_split"
    repository: ClassVar[str] = "CohereLabs/aya_collection_language_split"

    def choose(self, path: str) -> Choice | None:
        """Take ``<language>/<split>-NNNNN-of-NNNNN.parquet`` of the chosen languages."""
        folder, _, file = path.rpartition("/")
        split = shard_split(file)
        if split is None or not folder or "/" in folder or not self._wants(folder):
            return None
        return Choice(folder, split, {"language": folder})

    def config(self, dataset_name: str | None, unit: Unit) -> str | None:
        """Name the config that the row's ``dataset_name`` stands for."""
        return config_of(dataset_name) if dataset_name else None

    def dataset(self, unit: Unit) -> str:
        """Name the nested dataset of records that cannot be parsed."""
        return f"{self.name}/{unit.config}"

    def parts(self) -> Sequence[tuple[str, str]]:
        """Name all configs: a language's folder may hold rows of each."""
        return [("aya_collection", config) for config in CONFIGS]

    def _wants(self, folder: str) -> bool:
        asked, spoken = self.settings.languages, self.environment.languages
        if asked is None and spoken is None:
            return True
        if asked is None:
            wanted: tuple[languages.Variety, ...] = spoken or ()
        else:
            if folder in asked:
                return True
            # A name that is a folder's means that folder and no other.
            folders = self._folders()
            wanted = tuple(languages.resolve(n).variety for n in asked if n not in folders)
        found = languages.resolve(folder)
        if not found.ok:
            return False
        if folder in ("simplified_chinese", "traditional_chinese"):
            return found.variety in wanted
        return any(variety.language == found.variety.language for variety in wanted)

    def _folders(self) -> set[str]:
        return {f.path.partition("/")[0] for o in self.origins().values() for f in o.files}


def _slug(name: str | None) -> str:
    return re.sub(r"[^a-z0-9]+", "_", (name or "unknown").lower()).strip("_") or "unknown"


def _basis(*fields: str | None) -> str:
    return canonical(fields).decode("utf-8", "surrogatepass")


def _lasting(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what pandas wrote by accident."""
    return {name: value for name, value in fields.items() if not name.startswith("__index_level_")}
