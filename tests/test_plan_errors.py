"""What only a plan finds wrong with a spec: all of it at once, each at the setting that causes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aya_data import api
from aya_data.core.errors import SpecError

SPEC = """\
name: wrong
sources:
  one: {builder: files, path: gone.jsonl, columns: {prompt: p, answer: a}, language: {constant: tur},
        license: {assume: MIT, reason: written for this test}}
  two: {builder: files, path: [gone/*.jsonl], columns: {prompt: p, answer: a}, language: {constant: tur},
        license: {assume: MIT, reason: written for this test}}
  suite: {builder: aya_evaluation_suite, use: benchmark}
filters:
  - license
  - pii:
      kinds: {phone: tag}
      regions: {tur: [TR, ZZ]}
  - decontaminate:
      against: [suite]
      semantic: {model: nowhere}
  - semantic_dedup: {model: nowhere}
  - toxicity:
      classifier:
        {kind: transformers, model: nowhere}
  - language_id:
      model: nowhere.bin
  - tokens: {kind: sentencepiece, path: nope.model}
"""


def found(tmp_path: Path, text: str) -> list[tuple[int, int, str]]:
    (tmp_path / "spec.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        api.plan(tmp_path / "spec.yaml", workspace=tmp_path / "workspace")
    return [(p.line, p.column, f"{p.what} {p.remedy}".replace(str(tmp_path), "DIR")) for p in caught.value.problems]


def test_all_that_a_plan_finds_has_its_place(tmp_path: Path) -> None:
    for extra in ("phonenumbers", "model2vec", "torch", "transformers"):
        pytest.importorskip(extra)
    embeddings = "there is no embedding model 'nowhere' Give a folder (looked for DIR/nowhere) or org/repository on"
    problems = found(tmp_path, SPEC)
    assert [(line, column) for line, column, _ in problems] == [
        (3, 31), (5, 31), (12, 27), (15, 25), (16, 29), (19, 37), (21, 14), (22, 41),
    ]  # fmt: skip
    said = [text for _, _, text in problems]
    assert said[0].startswith("the source 'one': no file matches 'gone.jsonl'")
    assert said[1].startswith("the source 'two': no file matches 'gone/*.jsonl'")
    assert said[2].startswith("there is no country with phone numbers 'ZZ' Known: AC, AD,")
    assert said[3] == said[4] == f"{embeddings} the Hub."
    assert said[5] == "there is no model 'nowhere' Give a folder or a Hub repository (looked for DIR/nowhere)."
    assert said[6].startswith("there is no language model 'nowhere.bin' Give a file (looked for DIR/nowhere.bin)")
    assert said[7].startswith("there is no tokenizer 'nope.model' Give a file, a folder or a Hub repository")


PLAIN = "name: wrong\nsources: {one: {builder: aya_dataset}}\n"


@pytest.mark.parametrize(
    ("filters", "place", "message"),
    [
        ("- language_id: {thresholds_from: none.tsv}", (4, 36), "there is no table of thresholds 'none.tsv'"),
        ("- language_id: {thresholds_from: broken.tsv}", (4, 36), "DIR/broken.tsv:1:1: is no table of thresholds"),
        ("- pii: {presidio: {entities: [PERSON], models: {eng: m}}}", (4, 0), "presidio-analyzer|no spaCy model 'm'"),
    ],
)  # fmt: skip
def test_the_place_of_a_setting(tmp_path: Path, filters: str, place: tuple[int, int], message: str) -> None:
    (tmp_path / "broken.tsv").write_text("nothing\n")
    ((line, column, said),) = found(tmp_path, f"{PLAIN}filters:\n{'  ' + filters}\n")
    assert (line, column if place[1] else 0) == place
    assert any(part in said for part in message.split("|"))
