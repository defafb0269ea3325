"""Builds whose mixture has levels, tokens and bounds: what the catalog says of them, and what cannot be had."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sentencepiece

from aya_data import api
from aya_data.catalog.query import query
from aya_data.cli.funnel import build_as_dict, print_funnel
from aya_data.core.errors import SpecError
from aya_data.core.spec import load_spec
from aya_data.core.store import Workspace
from aya_data.engine.run import Build

ROOT = Path(__file__).parent.parent
LANGUAGES = ("eng", "tur", "deu")
ORIGINS = ("human", "templated")
SPEC = """
name: levels
policy: any
seed: 5
sources:
  one:
    builder: files
    path: one.jsonl
    columns: {prompt: q, answer: a, task: task, group: of}
    language: {column: lang}
    origin: {column: origin}
    license: {assume: CC0-1.0, reason: written for this test}
  two: {builder: files, path: two.jsonl, columns: {prompt: q, answer: a, task: task, group: of},
        language: {column: lang}, origin: {column: origin},
        license: {assume: CC0-1.0, reason: written for this test}}
"""


def records(name: str, count: int) -> list[dict[str, Any]]:
    """Records of one source: every third in English, a third of all human, two tasks and none."""
    return [
        {
            "q": f"{name} asks number {i}?", "a": f"Answer {i} of {name}. " + "word " * (i % 7),
            "lang": LANGUAGES[i % 3], "origin": ORIGINS[int(i % 9 > 2)], "task": ("qa", "summary", None)[i % 3],
            "of": f"{name}-{i // 3}",
        }
        for i in range(count)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in (("one", 180), ("two", 90)):
        lines = [json.dumps(record) + "\n" for record in records(name, count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path


def build(folder: Path, more: str, spec: str = SPEC) -> Build:
    path = folder / "spec.yaml"
    path.write_text(spec + more)
    return api.build(path, workspace=folder / "workspace", workers=1)


def taken(done: Build) -> pl.DataFrame:
    return pl.read_parquet(done.result.path / "data" / "*" / "*.parquet")


def asked(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    return query(Workspace(folder / "workspace"), sql).rows


def test_levels_nest_and_the_catalog_shows_requested_and_achieved(folder: Path) -> None:
    done = build(folder, """
mix:
  budget: {rows: 60}
  levels:
    - {by: origin, weights: {human: 60, templated: 30, translated: rest}}
    - {by: task, weights: {qa: 50}}
  weights: {one: 1, two: 1}
""")  # fmt: skip
    found = taken(done)
    # Of 60, 36 human and 18 templated were asked for; the 6 of translated rows, which nobody has, go to both.
    assert dict(found["origin"].value_counts().iter_rows()) == {"human": 40, "templated": 20}
    for origin, of in (("human", 40), ("templated", 20)):
        rows = found.filter(pl.col("origin") == origin)
        assert abs(rows.filter(pl.col("task") == "qa").height - of / 2) <= 1
    view = asked(folder, "SELECT value, requested_share, requested_rows, achieved_rows, available_rows, epochs "
                         "FROM mixture WHERE axis = 'origin' ORDER BY value")  # fmt: skip
    assert view == [
        ("human", 0.6, 36, 40, 90, 1.0),
        ("templated", 0.3, 18, 20, 180, 1.0),
        ("translated", 0.1, 6, 0, 0, None),
    ]
    sums = asked(folder, "SELECT axis, round(sum(requested_share), 4), round(sum(achieved_share), 4), "
                         "sum(achieved_rows)::int FROM mixture GROUP BY axis ORDER BY axis")  # fmt: skip
    # What was asked of translated rows is asked of no source.
    assert sums == [
        (axis, 1.0 if axis in ("all", "origin") else 0.9, 1.0, 60)
        for axis in ("all", "dataset", "language", "origin", "source", "task")
    ]
    assert asked(folder, "SELECT value FROM mixture WHERE axis = 'task' ORDER BY 1") == [
        ("none",), ("qa",), ("summary",)
    ]  # fmt: skip


def test_short_floors_and_full_caps_are_told(folder: Path) -> None:
    done = build(folder, """
mix:
  budget: {rows: 230}
  caps: [{per: [source], rows: 40, only: {source: [two]}}]
  floors: [{per: [source, task], rows: 55}]
""")  # fmt: skip
    view = asked(folder, "SELECT axis, value, requested_rows, achieved_rows, available_rows FROM mixture "
                         "WHERE axis LIKE '%:%' ORDER BY ALL")  # fmt: skip
    assert ("cap:source", "two", 40, 40, 90) in view
    short = [row for row in view if row[0] == "floor:source,task"]
    assert {row[1] for row in short} == {"two, none", "two, qa", "two, summary"}
    assert sum(row[3] for row in short) == 40
    said = ", ".join(f"source,task {row[1]} {row[3]} of 55 (under mix.caps.0)" for row in short)
    assert f"floors short: {said}" in build_as_dict(done)["notes"]
    blocked = asked(folder, "SELECT keys['value'], keys['cap'], value::int FROM statistics "
                            "WHERE statistic = 'blocked' AND measure = 'missing_rows' ORDER BY 1")  # fmt: skip
    assert blocked == [(row[1], "caps.0", 55 - row[3]) for row in short]


def test_floors_that_the_budget_does_not_hold(folder: Path) -> None:
    mix = """
mix:
  budget: {rows: 60}
  floors: [{per: [language, task], rows: 25}]
"""
    with pytest.raises(SpecError) as caught:
        build(folder, mix)
    budget, floor = (str(problem).replace(str(folder), "") for problem in caught.value.problems)
    assert floor.startswith(
        "/spec.yaml:19:12: mix.floors.0 asks for 25 rows in each of 3 groups by language, task, 75 in all, and "
        "mix.budget.rows is 60. Lower the floor, or raise the budget.\n"
    )
    assert budget.startswith("/spec.yaml:18:18: mix.budget.rows does not hold mix.floors.0. Raise it, or lower the")


@pytest.mark.parametrize(
    ("mix", "messages"),
    [
        (
            """
  budget: {rows: 8}
  floors: [{per: [source], rows: 2}, {per: [task], rows: 5, only: {task: [qa]}},
           {per: [language], rows: 5, only: {language: [tur]}}]
""",
            [
                "mix.budget.rows does not hold mix.floors.1 and mix.floors.2. Raise it, or lower the floor.",
                (
                    "mix.floors.1 and mix.floors.2 need 10 rows together, and mix.budget.rows is 8. "
                    "Lower one of them, or raise the budget."
                ),
                (
                    "mix.floors.2 does not fit in mix.budget.rows together with mix.floors.1. "
                    "Lower one of them, or raise the budget."
                ),
            ],
        ),
        (
            """
  budget: {rows: 9}
  caps: [{per: [language], rows: 100}, {per: [language], rows: 2, only: {language: [eng], origin: [human]}}]
  floors: [{per: [language], rows: 6, only: {language: [eng]}}, {per: [origin], rows: 6, only: {origin: [human]}}]
""",
            [
                "mix.budget.rows does not hold mix.floors.0 and mix.floors.1. Raise it, or lower the floor.",
                "mix.caps.1 lets no fewer rows fill mix.floors.0 and mix.floors.1. Raise it, or lower the floor.",
                (
                    "mix.floors.0 and mix.floors.1 need 10 rows together under mix.caps.1, and mix.budget.rows is 9. "
                    "Lower one of them, raise the cap, or raise the budget."
                ),
                (
                    "mix.floors.1 does not fit in mix.budget.rows together with mix.floors.0. "
                    "Lower one of them, raise the cap, or raise the budget."
                ),
            ],
        ),
    ],
)
def test_lines_that_cannot_be_had_together(folder: Path, mix: str, messages: list[str]) -> None:
    """Those that have no part in it are not named."""
    with pytest.raises(SpecError) as caught:
        build(folder, f"mix:{mix}")
    assert [str(problem).partition(": ")[2].splitlines()[0] for problem in caught.value.problems] == messages


def test_a_budget_of_rows_that_serve_several_floors(folder: Path) -> None:
    """Whatever the draw: 6 rows fill both floors, and 5 cannot."""
    for seed in range(2):
        done = build(folder, """
mix:
  budget: {rows: 6}
  floors: [{per: [language], rows: 2}, {per: [source, origin], rows: 1}]
""", SPEC.replace("seed: 5", f"seed: {seed}"))  # fmt: skip
        found = taken(done)
        assert set(found["language"].value_counts()["count"]) == {2}
        assert found.select("source", "origin").n_unique() == 4


def test_unimax_over_the_whole_mixture(folder: Path) -> None:
    """English has 90 rows, and 90 again; what a language cannot fill goes to the others."""
    few = 'where: \'lang != "tur" or q.endswith("1?")\''
    spec = SPEC.replace("path: one.jsonl", f"path: one.jsonl\n    {few}").replace(
        "path: two.jsonl", f"path: two.jsonl, {few}"
    )
    done = build(folder, "mix: {budget: {rows: 300}, levels: [{by: language, unimax: 3}]}\n", spec)
    found = dict(taken(done)["language"].value_counts().iter_rows())
    turkish = sum(
        r["lang"] == "tur" and r["q"].endswith("1?") for n, c in (("one", 180), ("two", 90)) for r in records(n, c)
    )
    assert 0 < turkish < 30
    assert found["tur"] == 3 * turkish
    assert abs(found["eng"] - found["deu"]) <= 1
    assert sum(found.values()) == 300
    view = asked(folder, "SELECT value, requested_rows, achieved_rows, epochs FROM mixture WHERE axis = 'language' "
                         "AND value = 'tur' ORDER BY ALL")  # fmt: skip
    assert (view[0][0], view[0][2], view[0][3]) == ("tur", 3 * turkish, 3.0)


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ("{languages: {weights: {jpn: 1}}}", "none of the 270 rows .* no row has what mix.languages.weights names"),
        ("{levels: [{by: origin, weights: {translated: rest}}]}", "no row has what mix.levels.0 names"),
    ],
)
def test_a_mixture_of_nothing_is_an_error(folder: Path, mix: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(folder, f"mix: {mix}\n")


def test_a_share_of_a_task_that_no_row_has_is_an_error(folder: Path) -> None:
    message = r"spec.yaml:16:45: there is no task 'sumary'. Did you mean 'summary'\?"
    with pytest.raises(SpecError, match=message):
        build(folder, "mix: {levels: [{by: task, weights: {sumary: 50}}]}\n")


def test_other_names_that_no_row_has_are_said(folder: Path) -> None:
    """No error: the filters may have left none, hours into a build."""
    done = build(folder, """
mix:
  levels: [{by: license, weights: {MIT: 50, CC0-1.0: rest}}]
  caps: [{per: [source], rows: 1, only: {dataset: [zzz]}}]
  floors: [{per: [source], rows: 1, only: {task: [qa, q]}}]
""")  # fmt: skip
    assert build_as_dict(done)["notes"][-3:] == [
        "mix.caps.0.only: no row is left that has the dataset 'zzz'",
        "mix.floors.0.only: no row is left that has the task 'q'",
        "mix.levels.0.weights: no row is left that has the licence 'MIT'",
    ]


def test_what_came_short_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = build(folder, """
mix:
  budget: {rows: 1000}
  floors:
    - {per: [language], rows: 3, only: {language: [jpn, tur]}}
    - {per: [source, language], rows: 50}
""")  # fmt: skip
    print_funnel(done, folder / "spec.yaml", "sample", None)
    short = ", ".join(f"source,language two, {code} 30 of 50" for code in sorted(LANGUAGES))
    notes = [f"floors short: language jpn 0 of 3, {short}", "budget not reached: 270 of 1,000 rows"]
    assert build_as_dict(done)["notes"] == notes
    printed = capsys.readouterr().out
    assert all(f"  {note}.\n" in printed for note in notes)


def test_translations_of_one_record_stay_on_one_side(folder: Path) -> None:
    """The languages of a record have its name in a column; so have the collection's, by its id."""
    done = build(folder, "release: {validation: 0.4}\n")
    sides: dict[str, set[str]] = {}
    for split in ("train", "validation"):
        rows = pl.read_parquet(done.result.path / "data" / "*" / f"{split}-*.parquet")
        for group in rows["group"].to_list():
            sides.setdefault(group, set()).add(split)
    assert len(sides) == 90
    assert all(len(found) == 1 for found in sides.values())
    assert {side for found in sides.values() for side in found} == {"train", "validation"}


def test_shares_of_tokens_and_fertility(folder: Path) -> None:
    model = io.BytesIO()
    texts = [record["q"] + record["a"] for record in records("one", 180)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe", vocab_size=60, minloglevel=2
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    done = build(folder, """
tokenizer: {kind: sentencepiece, path: tokenizer.model}
mix:
  budget: {tokens: 2000}
  unit: tokens
  weights: {one: 30, two: 70}
""")  # fmt: skip
    found = taken(done)
    assert 1900 < found["n_tokens"].sum() <= 2000
    view = dict(asked(folder, "SELECT value, achieved_tokens FROM mixture WHERE axis = 'source'"))
    assert view == dict(found.group_by("source").agg(pl.col("n_tokens").sum()).iter_rows())
    assert abs(view["two"] - 1400) < 60
    assert asked(folder, "SELECT value, requested_tokens, requested_rows FROM mixture WHERE axis = 'source' "
                         "ORDER BY 1") == [("one", 600, None), ("two", 1400, None)]  # fmt: skip
    capped = build(folder, """
tokenizer: {kind: sentencepiece, path: tokenizer.model}
mix: {caps: [{per: [language], tokens: 333}, {per: [source], tokens: 99999}]}
""")  # fmt: skip
    spent = dict(taken(capped).group_by("language").agg(pl.col("n_tokens").sum()).iter_rows())
    assert asked(folder, "SELECT axis, value, requested_tokens, achieved_tokens FROM mixture WHERE latest "
                         "AND axis LIKE 'cap:%' ORDER BY ALL") == [
        ("cap:language", code, 333, spent[code]) for code in sorted(LANGUAGES)
    ]  # fmt: skip
    message = (
        r"mix.floors.0 asks for 3 rows in each of 3 groups by language, and mix.budget.tokens is 40: "
        r"too few for the rows that were drawn, though others may do. Lower the floor, or raise the budget."
    )
    with pytest.raises(SpecError, match=message):
        build(folder, """
tokenizer: {kind: sentencepiece, path: tokenizer.model}
mix: {budget: {tokens: 40}, floors: [{per: [language], rows: 3}]}
""")  # fmt: skip
    everything = [text for name, n in (("one", 180), ("two", 90)) for r in records(name, n) if r["lang"] == "tur"
                  for text in (r["q"], r["a"].strip())]  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    (row,) = asked(folder, "SELECT rows, tokens, per_word, per_character, per_byte FROM fertility "
                           "WHERE latest AND language = 'tur'")  # fmt: skip
    tokens = sum(len(processor.encode(text)) for text in everything)
    assert row[0] == 90
    assert abs(row[1] - tokens) <= 90
    assert row[2] == pytest.approx(tokens / sum(len(text.split()) for text in everything), rel=0.05)
    assert row[3] == row[4] == pytest.approx(tokens / sum(map(len, everything)), rel=0.05)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (
            "{kind: huggingface, path: one.jsonl}",
            r"spec.yaml:16:38: .*one.jsonl is not a huggingface tokenizer: .*'kind'",
        ),
        (
            "{kind: sentencepiece, path: gone.model}",
            r"spec.yaml:16:40: there is no tokenizer 'gone.model'. Give a file",
        ),
    ],
)
def test_a_wrong_tokenizer_is_an_error_of_the_plan(folder: Path, tokenizer: str, message: str) -> None:
    (folder / "spec.yaml").write_text(SPEC + f"tokenizer: {tokenizer}\n")
    with pytest.raises(SpecError, match=message):
        api.plan(folder / "spec.yaml", workspace=folder / "workspace")


WEIGHTINGS: dict[str, dict[str, float]] = {
    "sample": {"aya": 10, "templates": 1.5, "xp3x": 15, "translations": 47.5},
    "human_heavy": {"aya": 25, "templates": 4, "xp3x": 20, "translations": 30},
    "template_heavy": {"aya": 20, "templates": 10, "xp3x": 30, "translations": 20},
}
"""Üstün et al. 2024, table 3."""


def test_aya_101_has_the_published_weightings(tmp_path: Path) -> None:
    path = ROOT / "specs" / "aya101.yaml"
    for profile, weights in WEIGHTINGS.items():
        spec = load_spec(path, profile)
        assert spec.mix.weights is not None
        written = {name: float(weight.weight or 0) for name, weight in spec.mix.weights.items()}
        assert {name: written[name] for name in weights} == weights
        provenance = {"sample": 3.5, "human_heavy": 6, "template_heavy": 10}[profile]
        assert written["dolly"] + written["assistant"] == provenance
    found = Counter(taken(api.build(path, workspace=tmp_path, workers=1))["source"].to_list())
    weights = WEIGHTINGS["sample"] | {"dolly": 1.75, "assistant": 1.75}
    for name, weight in weights.items():
        assert abs(found[name] - 300 * weight / sum(weights.values())) <= 1.5, name
    hub = load_spec(path, "hub")
    assert hub.mix.budget is not None
    assert hub.mix.budget.rows == 25_000_000
    assert len(hub.sources["templates"].settings.configs) == 44  # type: ignore[attr-defined]
    assert len(hub.sources["translations"].settings.configs) == 19  # type: ignore[attr-defined]
