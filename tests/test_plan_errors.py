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


KEYS = """\
name: wrong
policy: any
sources:
  one: {builder: aya_dataset}
  best:
    builder: arbitrage
    prompts: {from: one}
    teachers:
      fine: {engine: recorded, path: a.jsonl, columns: {prompt: q, answer: a}, system: {tur: One., tr: Two.}}
      Ayşe's: {engine: recorded, path: b.jsonl, columns: {prompt: q, answer: a}}
    arbiter:
      kind: ensemble
      members: {heuristic: heuristic, my judge: heuristic}
    routing: {kind: fixed, teachers: {turkish: fine, eng: fine, tur: fine, klingonish: fine}}
filters:
  - length: {languages: {zh-TW: {min_chars: 1}, zho_Hant: {min_chars: 9}, zho: {min_chars: 2}}}
  - language_id: {thresholds: {tr: 0.5,
        tur_Latn: 0.4, tur: 0.6}}
mix:
  languages: {weights: {tr: 2, eng: 1, Turkish: 3}}
"""


def test_a_key_of_a_mapping_has_its_own_place_and_that_of_its_twin(tmp_path: Path) -> None:
    slug = "must consist of at most 64 letters a-z, digits, '_' and '-', found"
    unknown = "not a language name or code that is known"
    twin, keep = "(DIR/spec.yaml:{})", "Keep one of the two."
    assert found(tmp_path, KEYS) == [
        (9, 100, f"sources.best.teachers.fine.system.tr means tur, as 'tur' does {twin.format('9:89')} {keep}"),
        (10, 7, f"sources.best.teachers.Ayşe's {slug} \"Ayşe's\" Write 'ay_e_s', for example."),
        (13, 39, f"sources.best.arbiter.members.my judge {slug} 'my judge' Write 'my_judge', for example."),
        (14, 65, f"sources.best.routing.teachers.tur means tur, as 'turkish' does {twin.format('14:39')} {keep}"),
        (14, 76, f"sources.best.routing.teachers.klingonish names 'klingonish', which is no language {unknown}"),
        (16, 49, f"filters.0.length.languages.zho_Hant means zho_Hant, as 'zh-TW' does {twin.format('16:26')} {keep}"),
        (18, 24, f"filters.1.language_id.thresholds.tur means tur, as 'tr' does {twin.format('17:32')} {keep}"),
        (20, 40, f"'Turkish' is tur_Latn, which is listed already as 'tr' {twin.format('20:25')} {keep}"),
    ]  # fmt: skip
