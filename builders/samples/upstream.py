"""The file formats of the named sources: column types, language names, file names.

Column names and types are those of the dataset cards; columns come in the order that the card or
the published files give. The collection is not stable in this: see ``COLLECTION`` and its variants.
"""

from __future__ import annotations

import json
from typing import Any, Final

import pyarrow as pa

_TEXT = pa.string()

AYA_DATASET: Final = pa.schema(
    [
        (name, _TEXT)
        for name in (
            "inputs",
            "targets",
            "language",
            "language_code",
            "annotation_type",
            "user_id",
        )
    ]
)

DEMOGRAPHICS: Final = pa.schema(
    [
        ("user_id", _TEXT),
        ("age_range", pa.list_(pa.int64())),
        ("gender", _TEXT),
        ("country", _TEXT),
        ("languages", pa.list_(_TEXT)),
        ("dialects", pa.list_(_TEXT)),
    ]
)

_COLLECTION_START: Final[list[tuple[str, pa.DataType]]] = [
    ("id", pa.int64()),
    ("inputs", _TEXT),
    ("targets", _TEXT),
    ("dataset_name", _TEXT),
    ("sub_dataset_name", _TEXT),
    ("task_type", _TEXT),
]

COLLECTION: Final = pa.schema(
    [
        *_COLLECTION_START,
        ("template_id", pa.int64()),
        ("language", _TEXT),
        ("split", _TEXT),
        ("script", _TEXT),
    ]
)

COLLECTION_SCRIPT_FIRST: Final = pa.schema(
    [
        *_COLLECTION_START,
        ("template_id", pa.int64()),
        ("language", _TEXT),
        ("script", _TEXT),
        ("split", _TEXT),
    ]
)
"""The same columns in the other order that is found among the configs."""

COLLECTION_EARLY: Final = pa.schema(
    [
        *_COLLECTION_START,
        ("template_id", _TEXT),
        ("language_code", _TEXT),
        ("split", _TEXT),
        ("script", _TEXT),
    ]
)
"""The columns of the first revisions: another name for the language, a template id as text."""

SUITE_HUMAN: Final = pa.schema(
    [
        ("id", pa.int64()),
        ("inputs", _TEXT),
        ("targets", _TEXT),
        ("language", _TEXT),
        ("script", _TEXT),
    ]
)

SUITE_DOLLY: Final = SUITE_HUMAN.append(pa.field("source_id", pa.int64()))

TOXICITY: Final = (
    "toxicity",
    "severe_toxicity",
    "obscene",
    "identity_attack",
    "insult",
    "threat",
    "sexual_explicit",
)

OASST: Final = pa.schema(
    [
        ("message_id", _TEXT),
        ("parent_id", _TEXT),
        ("user_id", _TEXT),
        ("created_date", _TEXT),
        ("text", _TEXT),
        ("role", _TEXT),
        ("lang", _TEXT),
        ("review_count", pa.int32()),
        ("review_result", pa.bool_()),
        ("deleted", pa.bool_()),
        ("rank", pa.int32()),
        ("synthetic", pa.bool_()),
        ("model_name", _TEXT),
        ("detoxify", pa.struct([(name, pa.float64()) for name in TOXICITY])),
        ("message_tree_id", _TEXT),
        ("tree_state", _TEXT),
        ("emojis", pa.struct([("name", pa.list_(_TEXT)), ("count", pa.list_(pa.int32()))])),
        (
            "labels",
            pa.struct(
                [
                    ("name", pa.list_(_TEXT)),
                    ("value", pa.list_(pa.float64())),
                    ("count", pa.list_(pa.int32())),
                ]
            ),
        ),
    ]
)

NAMES: Final[dict[str, str]] = {
    "acq": "Ta'izzi-Adeni Arabic",
    "amh": "Amharic",
    "apc": "North Levantine Arabic",
    "arb": "Standard Arabic",
    "ars": "Najdi Arabic",
    "ary": "Moroccan Arabic",
    "arz": "Egyptian Arabic",
    "ben": "Bengali",
    "ces": "Czech",
    "deu": "German",
    "ell": "Greek",
    "eng": "English",
    "fra": "French",
    "hau": "Hausa",
    "heb": "Hebrew",
    "hin": "Hindi",
    "ind": "Indonesian",
    "ita": "Italian",
    "jpn": "Japanese",
    "khm": "Khmer",
    "kor": "Korean",
    "nld": "Dutch",
    "nor": "Norwegian",
    "pes": "Iranian Persian",
    "pol": "Polish",
    "por": "Portuguese",
    "quy": "Ayacucho Quechua",
    "ron": "Romanian",
    "rus": "Russian",
    "spa": "Spanish",
    "srp": "Serbian",
    "swh": "Swahili",
    "tel": "Telugu",
    "tha": "Thai",
    "tur": "Turkish",
    "ukr": "Ukrainian",
    "n/a": "Unknown",
    "urd": "Urdu",
    "vie": "Vietnamese",
    "yor": "Yoruba",
}
"""English names as the annotation interface spells them; Chinese has one name for each script."""

CHINESE: Final[dict[str, str]] = {"Hans": "Simplified Chinese", "Hant": "Traditional Chinese"}

TWO_LETTERS: Final[dict[str, str]] = {
    "arb": "ar",
    "ces": "cs",
    "deu": "de",
    "ell": "el",
    "eng": "en",
    "fra": "fr",
    "heb": "he",
    "hin": "hi",
    "ind": "id",
    "ita": "it",
    "jpn": "ja",
    "kor": "ko",
    "nld": "nl",
    "nor": "no",
    "pes": "fa",
    "pol": "pl",
    "por": "pt",
    "ron": "ro",
    "rus": "ru",
    "spa": "es",
    "swh": "sw",
    "tha": "th",
    "tur": "tr",
    "ukr": "uk",
    "urd": "ur",
    "vie": "vi",
    "zho": "zh",
}

HOUSE_TAGS: Final[dict[tuple[str, str], str]] = {
    ("zho", "Hans"): "zh-CN",
    ("zho", "Hant"): "zh-TW",
    ("por", "Latn"): "pt-BR",
}
"""Tags with a region in the house file; every other language has its two letters there."""

CONFIGS: Final[dict[str, tuple[str, str, pa.Schema]]] = {
    "templated_afriqa": ("AfriQA-inst", "question-answering", COLLECTION_SCRIPT_FIRST),
    "templated_indo_stories": ("Indo-stories-inst", "generation", COLLECTION_SCRIPT_FIRST),
    "templated_mintaka": ("Mintaka-inst", "question-answering", COLLECTION),
    "templated_xcsqa": ("X-CSQA-inst", "question-answering", COLLECTION),
    "translated_dolly": ("Dolly-v2 (T)", "generation", COLLECTION),
    "translated_flan_gem_wiki": ("Flan-GEM-wiki-lingua (T)", "summarization", COLLECTION),
    "translated_joke_explaination": ("Joke-explaination (T)", "-", COLLECTION_EARLY),
}
"""Config of the collection: dataset name, task type, columns."""


def language_name(language: str, script: str) -> str:
    """The English name that the Aya Dataset gives a language, by ISO 639-3 and ISO 15924."""
    return CHINESE[script] if language == "zho" else NAMES[language]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "Sequence"}
    dtype = {"double": "float64"}.get(str(kind), str(kind))
    return {"dtype": dtype, "_type": "Value"}


def with_features(schema: pa.Schema) -> pa.Schema:
    """``schema`` with the ``huggingface`` note that Parquet files written for the Hub carry.

    A list of records is stored there as a struct of lists, and noted as a sequence of the record.
    """
    features: dict[str, Any] = {}
    for field in schema:
        if not pa.types.is_struct(field.type):
            features[field.name] = _feature(field.type)
        elif any(pa.types.is_list(part.type) for part in field.type):
            record = {part.name: _feature(part.type.value_type) for part in field.type}
            features[field.name] = {"feature": record, "_type": "Sequence"}
        else:
            features[field.name] = {part.name: _feature(part.type) for part in field.type}
    note = json.dumps({"info": {"features": features}})
    return schema.with_metadata({"huggingface": note})
