"""Meaning by embeddings: a tiny multilingual model made on the spot, its comparisons, and the filters that use it."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from aya_data.core.errors import InputError, MissingExtra, NotFound
from aya_data.core.stage import Exchange
from aya_data.filters.decontaminate.filter import Decontaminate
from aya_data.filters.semantic_dedup import SemanticDedup
from aya_data.text.embeddings import Embeddings, as_column, best_matches, from_column, locate
from tests.test_decontaminate import row_table, verdicts
from tests.test_filters import environment
from tests.test_near_dedup import Held

model2vec = pytest.importorskip("model2vec")

MEANINGS = (
    ("cat", "kedi", "gato"), ("drinks", "içiyor", "bebe"), ("milk", "süt", "leche"), ("dog", "köpek", "perro"),
    ("eats", "yiyor", "come"), ("bread", "ekmek", "pan"), ("where", "nerede", "dónde"), ("now", "şimdi", "ahora"),
    ("red", "kırmızı", "rojo"), ("house", "ev", "casa"),
)  # fmt: skip
"""Words of one meaning in three languages: the model gives them one vector."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["[UNK]", *(word for meaning in MEANINGS for word in meaning)]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    vectors = np.zeros((len(words), 16), np.float32)
    for number in range(len(MEANINGS)):
        vectors[1 + 3 * number : 4 + 3 * number, number] = 1
        vectors[1 + 3 * number : 4 + 3 * number, 10 + number % 6] = 0.1
    folder = tmp_path_factory.mktemp("model")
    model2vec.StaticModel(vectors, tokenizer, normalize=True).save_pretrained(folder)
    return folder


def test_embeddings_are_pinned_and_survive_storage(model: Path) -> None:
    file = locate(str(model), base=Path("."), cache=Path("."))
    assert file.digest == locate(model.name, base=model.parent, cache=Path(".")).digest
    vectors = Embeddings.load(file).encode(["cat drinks milk", "kedi süt içiyor", "red house", "", "???"])
    assert vectors.shape == (5, 16)
    assert np.allclose(np.linalg.norm(vectors[:3], axis=1), 1, atol=2e-3)
    assert not vectors[3].any() and vectors[0].tolist() == vectors[1].tolist()
    assert from_column(pa.chunked_array([as_column(vectors)])).tolist() == vectors.tolist()


def test_best_matches_are_those_of_brute_force() -> None:
    drawn = np.sin(np.arange(4000, dtype=np.float64) ** 2).reshape(200, 20)
    unit = np.round(drawn / np.linalg.norm(drawn, axis=1, keepdims=True) * 2048) / 2048
    vectors, others = unit[:120].astype(np.float32), unit[120:].astype(np.float32)
    places, cosines = best_matches(vectors, others)
    exact = vectors.astype(np.float64) @ others.astype(np.float64).T
    assert places.tolist() == exact.argmax(axis=1).tolist()
    assert cosines.tolist() == np.round(exact.max(axis=1), 4).tolist()
    assert best_matches(vectors, others[:0])[1].tolist() == [-1.0] * 120


def test_errors_name_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="there is no embedding model 'no such'"):
        locate("no such", base=tmp_path, cache=tmp_path)
    with pytest.raises(InputError, match=r"holds no model of model2vec: config\.json is missing"):
        locate(".", base=tmp_path, cache=tmp_path)
    found = builtins.__import__

    def without(name: str, *given: Any, **more: Any) -> Any:
        if name == "model2vec":
            raise ImportError(name)
        return found(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"pip install 'aya-data\[semantic\]'"):
        locate(".", base=tmp_path, cache=tmp_path)


def test_translations_of_items_are_found(model: Path) -> None:
    settings = Decontaminate.Settings(against=("suite",), semantic={"model": str(model), "threshold": 0.95})
    a_filter = Decontaminate(settings, environment())
    suite = row_table([("where cat drinks milk now", "here"), ("dog eats bread", "yes")], "suite")
    held = a_filter.index(iter([suite.select(a_filter.index_columns)]))
    rows = row_table(
        [("şimdi kedi nerede süt içiyor", "orada"), ("perro come pan rojo casa", "no"), ("perro come pan", "sí")]
    )
    found = verdicts(a_filter, rows, held)
    assert found.drop.tolist() == [True, False, True]
    assert found.rule[0] == "contaminated_meaning"
    assert float(found.value[0] or 0) >= 0.999 and found.threshold[0] == "0.95"
    assert found.evidence[0] == "suite suite00000; prompt: 'şimdi kedi nerede süt içiyor'"
    other = Decontaminate(Decontaminate.Settings(against=("suite",)), environment())
    assert other.index_pins() != a_filter.index_pins()


def lost(a_filter: SemanticDedup, rows: pa.Table, settled: Sequence[bool] | None = None) -> dict[str, str]:
    connection = duckdb.connect()
    view = rows.select(a_filter.columns)
    view = view.append_column("settled", pa.array(settled or [False] * len(rows), pa.bool_()))
    view = view.append_column("place", pa.array(range(len(rows)), pa.int64()))
    connection.register("candidates", view)
    half = len(rows) // 2
    pieces = [
        Held(rows.slice(0, half), range(half), a_filter),
        Held(rows.slice(half), range(half, len(rows)), a_filter),
    ]
    found = a_filter.decide(Exchange(connection, bool(settled), pieces))
    assert set(found["rule"].to_pylist()) <= {"same_meaning"}
    keys = rows["row_key"].to_pylist()
    places, partners = (found[name].to_pylist() for name in ("place", "partner"))
    return {keys[place]: partner for place, partner in zip(places, partners, strict=True)}


def test_rows_of_one_meaning_are_merged_into_the_best(model: Path) -> None:
    given = {"model": str(model), "threshold": 0.95}
    a_filter = SemanticDedup(SemanticDedup.Settings(**given), environment())
    english = row_table(
        [
            ("cat drinks milk", "a"),
            ("milk cat drinks", "a longer one"),
            ("dog eats bread", "b"),
            ("???", "c"),
            ("!!!", "d"),
        ]
    )
    turkish = row_table([("kedi süt içiyor", "e")], "t", language="tur")
    rows = pa.concat_tables([english, turkish])
    assert lost(a_filter, rows) == {"s00000": "s00001"}
    assert lost(a_filter, rows, [True, False, False, False, False, False]) == {"s00001": "s00000"}
    across = SemanticDedup(SemanticDedup.Settings(across_languages=True, **given), environment())
    assert lost(across, rows) == {"s00000": "s00001", "t00000": "s00001"}


def test_greedy_is_that_of_brute_force_and_chains_do_not_collapse(model: Path) -> None:
    words = [meaning[0] for meaning in MEANINGS]
    texts = [" ".join(words[n % 7 : n % 7 + 1 + n % 4]) + " " + words[(n * n) % 10] for n in range(60)]
    # Each is shorter than the one before: the keeper order is their own.
    rows = row_table([(text, "x" * (200 - n - len(text))) for n, text in enumerate(texts)])
    a_filter = SemanticDedup(SemanticDedup.Settings(model=str(model), threshold=0.8), environment())
    vectors = Embeddings.load(a_filter.file).encode(texts).astype(np.float64)
    found = lost(a_filter, rows)
    kept: list[int] = []
    for n in range(60):
        if all(round(float(vectors[n] @ vectors[m]), 4) < 0.8 for m in kept):
            kept.append(n)
    assert [n for n in range(60) if f"s{n:05d}" not in found] == kept
    assert 5 < len(kept) < 55
    for one, partner in found.items():
        assert partner not in found
        assert round(float(vectors[int(one[1:])] @ vectors[int(partner[1:])]), 4) >= 0.8
