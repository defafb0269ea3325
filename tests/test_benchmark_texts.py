"""The texts that benchmarks make: copies are no duplicates, echoes are, and both depend on keys alone."""

from __future__ import annotations

from itertools import combinations, pairwise

import pyarrow as pa
import pyarrow.parquet as pq

from aya_data.text.matching import jaccard
from aya_data.text.shingles import Gram, pieces_of, shingle_sets
from benchmarks import texts
from tests.test_near_dedup import sample_texts

FOUND = [text for own in sample_texts().values() for text in own[:12]]
FOUND += ["", "?", "one", "你好", "Say 'hello' in Thai: สวัสดีครับ", " ".join(f"word{n}" for n in range(90))]


def resemblances(ones: list[str], others: list[str]) -> list[float]:
    sets = []
    for some in (ones, others):
        flat, bounds = shingle_sets(pieces_of(some), Gram())
        sets.append([flat[a:b] for a, b in pairwise(bounds)])
    return [jaccard(one, other) for one, other in zip(*sets, strict=True)]


def test_copies_are_no_duplicates() -> None:
    generations = [FOUND, *([texts.edited(text, f"{g} {n}") for n, text in enumerate(FOUND)] for g in range(3))]
    for one, other in combinations(generations, 2):
        assert max(resemblances(one, other)) < 0.3
    assert generations[1] == [texts.edited(text, f"0 {n}") for n, text in enumerate(FOUND)]


def test_echoes_are_near_duplicates() -> None:
    said = [text for text in FOUND if text]
    assert min(resemblances(said, [texts.echo(text, f"{n}") for n, text in enumerate(said)])) >= 0.8


def test_a_larger_corpus_begins_with_the_smaller_one(tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "source").mkdir()
    rows = {"id": [f"{n}" for n in range(30)], "question": [f"Where is the town number {n}?" for n in range(30)]}
    pq.write_table(pa.table(rows), tmp_path / "source" / "rows.parquet")
    real = texts.real_texts(tmp_path)
    assert real["text"].to_pylist() == rows["question"]
    texts.held(real, tmp_path / "real.arrow")
    for fixed in (False, True):
        texts.grown(tmp_path / "real.arrow", tmp_path / "small.parquet", 70, fixed, workers=1)
        texts.grown(tmp_path / "real.arrow", tmp_path / "large.parquet", 120, fixed, workers=1)
        small, large = (pq.read_table(tmp_path / f"{size}.parquet") for size in ("small", "large"))
        assert large.slice(0, 70).equals(small)
        assert len(set(large["text"].to_pylist())) > 110  # two echoes of one row may be equal
