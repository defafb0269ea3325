"""Whole builds of the kinds of rows that the sample spec does not have, and of token budgets."""

from __future__ import annotations

import io
import json
from pathlib import Path

import polars as pl
import pytest
import sentencepiece

from aya_data import api
from aya_data.core.errors import SpecError
from aya_data.engine.release import FOLDERS
from aya_data.engine.run import Build

SENTENCES = [f"Here is sentence {n}, which speaks of the {w}." for n in range(40) for w in ("sea", "moon", "town")]


def build(folder: Path, spec: str, **given: object) -> Build:
    path = folder / "spec.yaml"
    path.write_text(spec)
    return api.build(path, workspace=folder / "workspace", workers=1, **given)  # type: ignore[arg-type]


def write(folder: Path, name: str, records: list[dict[str, object]]) -> None:
    (folder / name).write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def rows(done: Build, kind: str) -> pl.DataFrame:
    return pl.read_parquet(done.result.path / FOLDERS[kind] / "*" / "*.parquet")


def test_prompt_rows_become_prompt_shards(tmp_path: Path) -> None:
    write(tmp_path, "p.jsonl", [{"q": text, "lang": "en"} for text in SENTENCES[:30]])
    done = build(
        tmp_path,
        """
name: prompts_only
policy: any
sources:
  asked:
    builder: files
    path: p.jsonl
    kind: prompt
    columns: {prompt: q}
    language: {column: lang}
    license: {assume: CC0-1.0, reason: written for this test}
""",
    )
    found = rows(done, "prompt")
    assert found.height == 30
    assert {m[-1]["role"] for m in found["prompt"].to_list()} == {"user"}
    assert "messages" not in found.columns


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, model_type="bpe", vocab_size=60, minloglevel=2
    )
    path = tmp_path_factory.mktemp("tokenizer") / "unigram.model"
    path.write_bytes(model.getvalue())
    return path


TOKENS = """
name: counted
policy: any
seed: 5
sources:
  said:
    builder: files
    path: p.jsonl
    columns: {{prompt: q, answer: a}}
    language: {{constant: eng}}
    license: {{assume: CC0-1.0, reason: written for this test}}
tokenizer: {{kind: sentencepiece, path: {path}}}
mix: {{budget: {{tokens: {tokens}}}}}
"""


def test_a_token_budget_is_filled_and_not_exceeded(tmp_path: Path, tokenizer: Path) -> None:
    write(tmp_path, "p.jsonl", [{"q": t, "a": t[::-1] + " " + t} for t in SENTENCES])
    taken: dict[int, set[str]] = {}
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    for budget in (300, 900):
        found = rows(build(tmp_path, TOKENS.format(path=tokenizer, tokens=budget)), "conversation")
        counted = found["n_tokens"].to_list()
        assert sum(counted) <= budget < sum(counted) + 2 * max(counted)
        for messages, tokens in zip(found["messages"].to_list(), counted, strict=True):
            assert tokens == sum(len(processor.encode(m["content"])) for m in messages)
        taken[budget] = set(found["row_key"].to_list())
    assert taken[300] < taken[900], "a larger budget is a superset"


def test_a_token_budget_without_a_tokenizer_is_an_error_with_its_place(tmp_path: Path, tokenizer: Path) -> None:
    write(tmp_path, "p.jsonl", [{"q": "a", "a": "b"}])
    spec = TOKENS.format(path=tokenizer, tokens=5)
    spec = "".join(line for line in spec.splitlines(keepends=True) if not line.startswith("tokenizer"))
    with pytest.raises(SpecError, match=r"spec\.yaml:12:24: .*tokenizer"):
        build(tmp_path, spec)


def test_a_share_of_an_unknown_dataset_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "p.jsonl", [{"q": t, "a": t, "d": f"set_{i % 3}"} for i, t in enumerate(SENTENCES)])
    spec = """
name: shares
policy: any
sources:
  said:
    builder: files
    path: p.jsonl
    columns: {{prompt: q, answer: a}}
    language: {{constant: eng}}
    license: {{assume: CC0-1.0, reason: written for this test}}
    dataset: {{column: d}}
mix:
  budget: {{rows: 40}}
  weights: {{said: {{weight: 1, datasets: {{{name}: 50}}}}}}
"""
    with pytest.raises(SpecError, match=r"spec.yaml:14:49: there is no dataset of source said 'set_7'. Did you"):
        build(tmp_path, spec.format(name="set_7"))
    found = rows(build(tmp_path, spec.format(name="set_1")), "conversation")
    assert dict(found["source_dataset"].value_counts().iter_rows()) == {"set_0": 10, "set_1": 20, "set_2": 10}


def test_epochs_repeat_rows_and_are_told(tmp_path: Path) -> None:
    write(tmp_path, "p.jsonl", [{"q": t, "a": t} for t in SENTENCES[:10]])
    spec = """
name: again
policy: any
sources:
  said:
    builder: files
    path: p.jsonl
    columns: {prompt: q, answer: a}
    language: {constant: eng}
    license: {assume: CC0-1.0, reason: written for this test}
mix: {budget: {rows: 25}, epochs: {max: 3}}
"""
    done = build(tmp_path, spec)
    found = rows(done, "conversation")
    assert found.height == 25 == found.select("row_key", "epoch").unique().height
    assert found["epoch"].max() == 2
    (source,) = done.result.manifest["sources"]
    assert (source["released"], source["distinct"], source["epochs"]) == (25, 10, 2.5)
    (mix,) = [s for s in done.stages if s.name == "mix"]
    assert (mix.counts["rows_in"], mix.counts["created"], mix.counts["rows_out"]) == (10, 15, 25)


NEAR = """
name: near
policy: any
seed: 11
sources:
  said:
    builder: files
    path: p.jsonl
    columns: {prompt: q, answer: a}
    language: {constant: eng}
    license: {assume: CC0-1.0, reason: written for this test}
filters: [exact_dedup, {near_dedup: {threshold: 0.8, leakage_threshold: 0.5}}]
release: {validation: 0.5}
"""
WORDS = ("river", "stone", "lantern", "window", "harvest", "letter", "market", "bridge", "garden", "winter", "candle")


def test_near_duplicates_merge_and_looser_ones_stay_on_one_side(tmp_path: Path) -> None:
    """Families of texts: an original, one near-duplicate (one word of 60), one looser relative (an eighth replaced)."""
    records: list[dict[str, object]] = []
    for family in range(40):
        base = [f"{WORDS[(family * 7 + i * i) % len(WORDS)]}{family}x{i}" for i in range(60)]
        near = [*base[:59], "otherwise"]
        loose = [*base[:52], *(f"new{family}y{i}" for i in range(8))]
        for name, words in (("base", base), ("near", near), ("loose", loose)):
            records.append({"q": f"Question {family} {name}?", "a": " ".join(words), "family": family})
    write(tmp_path, "p.jsonl", records)
    done = build(tmp_path, NEAR)
    (stage,) = [s for s in done.stages if s.name == "filter:near_dedup"]
    assert stage.counts["merged"] == 40
    sides: dict[int, set[str]] = {}
    for split in ("train", "validation"):
        for extra in pl.read_parquet(done.result.path / "data" / "*" / f"{split}-*.parquet")["extra"]:
            sides.setdefault(json.loads(extra)["family"], set()).add(split)
    assert len(sides) == 40
    assert all(len(side) == 1 for side in sides.values())
    assert {side for found in sides.values() for side in found} == {"train", "validation"}
