"""The source ``files``: columns become rows, whatever the file's name, order or format."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aya_data.builders import BUILDERS
from aya_data.builders.files import FilesBuilder
from aya_data.builders.mapping.conversation import Unreadable, listed
from aya_data.builders.mapping.paths import MissingColumn
from aya_data.builders.mapping.paths import Path as ColumnPath
from aya_data.core.errors import InputError, WrongSetting
from aya_data.core.identity import derived_key, digest, record_digest, row_key
from aya_data.core.license import POLICIES
from aya_data.core.row import Draft, Rejection, tabulate
from aya_data.core.stage import Environment

PLAIN = {"prompt": "q", "answer": "a"}


def builder(base: Path, source: str = "house", **given: Any) -> FilesBuilder:
    chosen = {"path": "*.jsonl", "columns": PLAIN, "language": "eng"} | given
    environment = Environment(base, base, True, 7, None, POLICIES["research"])
    return FilesBuilder(source, FilesBuilder.Settings.model_validate(chosen), environment)


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def outcome(made: FilesBuilder) -> tuple[list[Draft], list[Rejection]]:
    """Read everything; check the law of a batch on the way."""
    drafts: list[Draft] = []
    rejections: list[Rejection] = []
    for unit in made.units():
        for batch in made.read(unit):
            own = [d.key for d in batch.drafts if not d.parents] + [r.key for r in batch.rejections]
            assert len(own) == batch.records
            drafts += batch.drafts
            rejections += batch.rejections
    return drafts, rejections


def one(tmp_path: Path, record: dict[str, Any], **given: Any) -> Draft:
    write(tmp_path / "one.jsonl", record)
    drafts, rejections = outcome(builder(tmp_path, **given))
    assert not rejections, rejections
    (draft,) = drafts
    return draft


def lost(tmp_path: Path, record: dict[str, Any], **given: Any) -> tuple[str, str]:
    write(tmp_path / "one.jsonl", record)
    drafts, (rejection,) = outcome(builder(tmp_path, **given))
    assert not drafts
    return rejection.rule, rejection.value


# -- shapes of conversations

U, A, S = "user", "assistant", "system"
CHAT = [{"role": "human", "content": "1"}, {"role": "bot", "content": "2"}]
SHARED = [{"from": "system", "value": "s"}, {"from": "human", "value": "1"}, {"from": "gpt", "value": "2"}]


@pytest.mark.parametrize(
    ("columns", "record", "expected"),
    [
        (PLAIN, {"q": "1", "a": "2"}, [(U, "1"), (A, "2")]),
        ({**PLAIN, "context": "c"}, {"q": "1", "c": "c", "a": "2"}, [(U, "1\n\nc"), (A, "2")]),
        ({**PLAIN, "context": "c"}, {"q": "1", "c": " ", "a": "2"}, [(U, "1"), (A, "2")]),
        ({**PLAIN, "context": "c"}, {"q": "", "c": "c", "a": "2"}, [(U, "c"), (A, "2")]),
        ({**PLAIN, "context": "c"}, {"q": "1", "c": None, "a": "2"}, [(U, "1"), (A, "2")]),
        ({**PLAIN, "system": "s"}, {"q": "1", "a": "2", "s": "be"}, [(S, "be"), (U, "1"), (A, "2")]),
        ({**PLAIN, "system": {"constant": "be"}}, {"q": "1", "a": "2"}, [(S, "be"), (U, "1"), (A, "2")]),
        ({**PLAIN, "history": "h"}, {"q": "3", "a": "4", "h": [["1", "2"]]}, [(U, "1"), (A, "2"), (U, "3"), (A, "4")]),
        (
            {**PLAIN, "history": "h"},
            {"q": "3", "a": "4", "h": "[['1', '2']]"},
            [(U, "1"), (A, "2"), (U, "3"), (A, "4")],
        ),
        ({**PLAIN, "history": "h"}, {"q": "3", "a": "4", "h": None}, [(U, "3"), (A, "4")]),
        ({"messages": "m"}, {"m": CHAT}, [(U, "1"), (A, "2")]),
        ({"messages": "m"}, {"m": json.dumps(CHAT)}, [(U, "1"), (A, "2")]),
        ({"messages": "m"}, {"m": SHARED}, [(S, "s"), (U, "1"), (A, "2")]),
        ({"messages": "m", "system": "s"}, {"m": SHARED, "s": "other"}, [(S, "s"), (U, "1"), (A, "2")]),
        (
            {"messages": "m"},
            {"m": [{"role": "user", "content": [{"type": "text", "text": "1"}, {"type": "text", "value": "!"}]}]},
            [(U, "1!")],
        ),
        (
            {"messages": "m"},
            {"m": [{"from": "function_call", "value": "{}"}, {"from": "observation", "value": "[]"}]},
            [(A, "{}"), ("tool", "[]")],
        ),
        (
            {"messages": "m"},
            {"m": [{"role": "user", "content": "1"}, {"role": "assistant", "content": {"answer": "2"}}]},
            [(U, "1"), (A, "2")],
        ),
        ({"conversation": "c"}, {"c": ["1", "2", "3", "4"]}, [(U, "1"), (A, "2"), (U, "3"), (A, "4")]),
        ({"prompt": "x.y[1].z", "answer": "a.b"}, {"x": {"y": [0, {"z": "1"}]}, "a": {"b": 2}}, [(U, "1"), (A, "2")]),
        ({"prompt": "x.y", "answer": "a"}, {"x.y": "1", "x": {"y": "no"}, "a": 2.5}, [(U, "1"), (A, "2.5")]),
        ({"prompt": {"template": "{{ row['the q'] }}?"}, "answer": ""}, {"the q": "1", "": "2"}, [(U, "1?"), (A, "2")]),
    ],
)
def test_shapes(
    tmp_path: Path, columns: dict[str, Any], record: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert list(one(tmp_path, record, columns=columns).messages) == expected


HH = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant: "
PAIR = {"chosen": "c", "rejected": "r"}


@pytest.mark.parametrize(
    ("columns", "record"),
    [
        ({**PAIR, "prompt": "q"}, {"q": "one", "c": "good", "r": "bad"}),
        (
            {**PAIR, "prompt": "q"},
            {"q": "one", "c": {"from": "gpt", "value": "good"}, "r": {"from": "gpt", "value": "bad"}},
        ),
        (
            {**PAIR, "prompt": "q"},
            {
                "q": "one",
                "c": [{"role": "assistant", "content": "good"}],
                "r": [{"role": "assistant", "content": "bad"}],
            },
        ),
        (
            PAIR,
            {
                side: [{"role": "user", "content": "one"}, {"role": "assistant", "content": said}]
                for side, said in (("c", "good"), ("r", "bad"))
            },
        ),
        (PAIR, {"c": "\n\nHuman: one\n\nAssistant: good", "r": "\n\nHuman: one\n\nAssistant: bad"}),
        ({**PAIR, "messages": "m"}, {"m": [{"from": "human", "value": "one"}], "c": "good", "r": "bad"}),
    ],
)
def test_preferences(tmp_path: Path, columns: dict[str, Any], record: dict[str, Any]) -> None:
    draft = one(tmp_path, record, columns=columns)
    assert list(draft.chosen or ()) == [(U, "one"), (A, "good")]
    assert list(draft.rejected or ()) == [(U, "one"), (A, "bad")]
    assert list(draft.messages) == [(U, "one")]
    assert builder(tmp_path, columns=columns).kind == "preference"
    assert not tabulate([draft], "house", "preference", 1000).rejections


def test_long_marked_dialogues(tmp_path: Path) -> None:
    draft = one(tmp_path, {"c": HH + "Human: is no mark here", "r": HH + "bad"}, columns=PAIR)
    assert list(draft.messages) == [(U, "one"), (A, "two"), (U, "three")]
    assert (draft.chosen or ())[-1] == (A, "Human: is no mark here")
    assert lost(tmp_path, {"c": "no marks", "r": HH}, columns=PAIR) == ("not_a_dialogue", "")
    assert lost(tmp_path, {"c": 5, "r": HH}, columns={**PAIR}, chosen_format="hh") == ("not_text", "int")


def test_scores_and_models_of_a_pair(tmp_path: Path) -> None:
    columns = {**PAIR, "prompt": "q", "chosen_score": "s[0]", "rejected_score": "s[1]", "chosen_model": "m"}
    record = {"q": "1", "c": "2", "r": "3", "s": [0.5, "0.25"], "m": "gpt"}
    draft = one(tmp_path, record, columns=columns)
    assert (draft.chosen_score, draft.rejected_score, draft.chosen_model) == (0.5, 0.25, "gpt")
    assert lost(tmp_path, {**record, "s": ["high"]}, columns=columns) == ("not_a_number", "'high'")


def test_prompts(tmp_path: Path) -> None:
    made = {"columns": {"prompt": "q"}, "kind": "prompt"}
    assert list(one(tmp_path, {"q": "1"}, **made).messages) == [(U, "1")]
    assert builder(tmp_path, **made).kind == "prompt"


# -- several answers


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a", ["x", "y", "x"]),
        ("a", '["x", "y", "x"]'),
        ("a", "['x', 'y', 'x']"),
        ("a", "('x', 'y', 'x')"),
        ("a[*].text", [{"text": "x"}, {"text": "y"}, {"text": "x"}]),
        ("a.text", {"text": ["x", "y", "x"]}),
        ("a[*][1]", "[[3, 'x'], [4, 'y'], [5, 'x']]"),
        ("a[*].b[*]", [{"b": ["x", "y"]}, {"b": ["x"]}]),
    ],
)
def test_one_row_for_each_answer(tmp_path: Path, path: str, value: Any) -> None:
    write(tmp_path / "one.jsonl", {"id": 7, "q": "1", "a": value})
    drafts, (consumed,) = outcome(builder(tmp_path, columns={"prompt": "q", "answers": path, "id": "id"}))
    key = row_key("house", "7")
    assert (consumed.key, consumed.outcome, consumed.value) == (key, "consumed", "3")
    assert [d.messages[-1] for d in drafts] == [(A, "x"), (A, "y"), (A, "x")]
    assert drafts[0].key == derived_key([key], "answers", digest("x") + ":0")
    assert len({d.key for d in drafts}) == 3
    assert all(d.group == key and list(d.parents) == [key] for d in drafts)


def test_answers_in_another_order_make_the_same_rows(tmp_path: Path) -> None:
    columns = {"prompt": "q", "answers": "a", "id": "i"}
    keys = []
    for answers in (["x", "y", "y"], ["y", "x", "y"]):
        write(tmp_path / "one.jsonl", {"i": "1", "q": "1", "a": answers})
        drafts, _ = outcome(builder(tmp_path, columns=columns))
        keys.append(sorted((d.key, d.messages[-1][1]) for d in drafts))
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([], ("no_answers", "")),
        ("[]", ("no_answers", "")),
        (None, ("no_answers", "")),
        ("", ("no_answers", "")),
        ("['don't']", ("not_a_list", "")),
        ("5", ("not_a_list", "int")),
        ({"a": 1}, ("not_a_list", "dict")),
        ("[" * 5000, ("not_a_list", "")),
        ("__import__('os')", ("not_a_list", "")),
        ("[open('x')]", ("not_a_list", "")),
    ],
)
def test_what_is_no_list_of_answers(tmp_path: Path, value: Any, expected: tuple[str, str]) -> None:
    assert lost(tmp_path, {"q": "1", "a": value}, columns={"prompt": "q", "answers": "a"}) == expected


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.sampled_from("[](){}'\",\\ \n0123456789abx-+*:_.jJeE"), max_size=60))
def test_no_text_crashes_the_reader_of_lists(text: str) -> None:
    try:
        assert isinstance(listed(text), list | tuple)
    except Unreadable as problem:
        assert problem.rule == "not_a_list"


# -- labels


def test_labels_come_from_columns_constants_and_paths(tmp_path: Path) -> None:
    write(
        tmp_path / "data/tur/test.jsonl", {"q": "1", "a": "2", "t": "qa", "o": "mt", "d": "sub", "k": [1], "m": "gpt"}
    )
    (draft,), _ = outcome(
        builder(
            tmp_path,
            path="data/**/*.jsonl",
            columns={**PLAIN, "task": "t", "tools": "k", "teacher": "m"},
            language={"path": r"/(?P<language>[a-z]{3})/"},
            script="Latn",
            split={"path": r"/(\w+)\.jsonl$"},
            config={"constant": "c"},
            dataset={"column": "d"},
            origin={"column": "o", "map": {"mt": "translated"}},
            terms=("openai",),
        )
    )
    assert (draft.language, draft.script, draft.split, draft.config, draft.dataset) == (
        "tur",
        "Latn",
        "test",
        "c",
        "sub",
    )
    assert (draft.origin, draft.task, draft.tools, draft.teacher, draft.terms) == (
        "translated",
        "qa",
        "[1]",
        "gpt",
        ("openai",),
    )
    assert draft.place == ("data/tur/test.jsonl", 0)


def test_an_origin_that_nobody_knows(tmp_path: Path) -> None:
    record = {"q": "1", "a": "2", "o": "alien"}
    assert lost(tmp_path, record, origin={"column": "o"}) == ("unknown_origin", "alien")


REASON = "The repository's licence file."


@pytest.mark.parametrize(
    ("setting", "record", "expected"),
    [
        ({"column": "l", "assume": "MIT", "reason": REASON}, {"l": "CC BY 4.0"}, ("CC BY 4.0", None)),
        ({"column": "l", "assume": "MIT", "reason": REASON}, {"l": None}, (None, None)),
        ({"column": "l", "assume": "MIT", "reason": REASON}, {"l": "???"}, ("???", None)),
        ({"column": "l", "assume": "MIT", "reason": REASON}, {}, ("MIT", REASON)),
        ({"assume": "MIT", "reason": REASON}, {"l": "GPL"}, ("MIT", REASON)),
        ({"column": "l.name"}, {"l": {"name": "MIT"}}, ("MIT", None)),
        ({"path": r"(one)\.jsonl"}, {}, ("one", None)),
        (None, {"license": "MIT"}, (None, None)),
    ],
)
def test_a_license_is_assumed_only_where_no_column_states_one(
    tmp_path: Path, setting: Any, record: dict[str, Any], expected: tuple[str | None, str | None]
) -> None:
    draft = one(tmp_path, {"q": "1", "a": "2", **record}, license=setting)
    assert (draft.license, draft.license_asserted) == expected


def test_other_columns_are_kept_dropped_or_chosen(tmp_path: Path) -> None:
    record = {"q": "1", "a": "2", "": 5, "x": {"y": [1]}, "lang": "tur"}
    assert one(tmp_path, record, language={"column": "lang"}).extra == {"": 5, "x": {"y": [1]}}
    assert one(tmp_path, record, extra="drop").extra is None
    assert one(tmp_path, record, extra=["x", "q", "none"]).extra == {"x": {"y": [1]}, "q": "1"}


def test_a_column_that_only_few_records_have_is_found_however_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [{"q": str(n), "a": "2"} for n in range(5000)]
    write(tmp_path / "a.jsonl", *plain, {"q": "x", "a": "y", "note": "rare", "ctx": "z"})
    drafts, _ = outcome(builder(tmp_path, where="note is not defined", columns={**PLAIN, "context": "ctx"}))
    assert len(drafts) == 5000
    from aya_data.builders import files

    monkeypatch.setattr(files, "SAMPLE", 1000)
    with pytest.raises(WrongSetting) as caught:
        builder(tmp_path, where="note is not defined", columns={**PLAIN, "context": "ctx"}).units()
    assert [path for path, _, _ in caught.value.faults] == [
        ("sources", "house", "columns", "context", "column"),
        ("sources", "house", "where", "column"),
    ]
    assert "which is not in the first 49 records. Known: a, q." in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"columns": {**PLAIN, "context": "contxt"}},
        {"columns": {"prompt": "q", "answer": {"template": "{{ contxt }}"}}},
        {"where": "contxt > 3"},
        {"dataset": {"column": "contxt"}},
        {"license": {"column": "contxt"}},
    ],
)
def test_a_column_that_no_record_has_is_refused_in_json_too(tmp_path: Path, given: dict[str, Any]) -> None:
    write(tmp_path / "a.jsonl", {"q": "1", "a": "2"}, {"q": "1", "a": "2", "context": "3"})
    with pytest.raises(WrongSetting, match=r"names the column 'contxt', .* Did you mean 'context'?"):
        builder(tmp_path, **given).units()


def test_where(tmp_path: Path) -> None:
    odd = [{"q": "x", "a": "y"}, {"q": "x", "a": "y", "n": None}, {"q": "x", "a": "y", "n": "five"}]
    write(tmp_path / "a.jsonl", *({"q": str(n), "a": "2", "n": n} for n in range(4)), *odd)
    drafts, rejections = outcome(builder(tmp_path, where="n >= 2"))
    assert [d.messages[0][1] for d in drafts] == ["2", "3"]
    assert {(r.threshold, r.outcome) for r in rejections} == {("n >= 2", "dropped")}
    compared = "TypeError: '>=' not supported between instances of"
    assert [(r.rule, r.evidence) for r in rejections] == [
        ("where", ""),
        ("where", ""),
        ("where_error", "n is missing"),
        ("where_error", f"{compared} 'NoneType' and 'int'"),
        ("where_error", f"{compared} 'str' and 'int'"),
    ]


# -- identity


def test_keys_do_not_depend_on_files(tmp_path: Path) -> None:
    records = [{"q": f"q{n}", "a": "a" * (n % 3 + 1), "z": None} for n in range(50)]
    write(tmp_path / "one/a.jsonl", *records)
    write(tmp_path / "two/x.jsonl", *records[30:])
    write(tmp_path / "two/b/y.jsonl", *reversed(records[:30]))
    (tmp_path / "three").mkdir()
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "three/a.parquet")
    found = [
        sorted((d.key, d.messages) for d in outcome(builder(tmp_path / place, path=f"**/*.{end}"))[0])
        for place, end in (("one", "jsonl"), ("two", "jsonl"), ("three", "parquet"))
    ]
    assert found[0] == found[1] == found[2]
    assert found[0][0][0] in {row_key("house", record_digest(record)) for record in records}


def test_an_upstream_id_is_the_identity(tmp_path: Path) -> None:
    columns = {**PLAIN, "id": "i"}
    assert one(tmp_path, {"i": 5, "q": "1", "a": "2"}, columns=columns).key == row_key("house", "5")
    assert one(tmp_path, {"i": "5", "q": "other", "a": "2"}, columns=columns).key == row_key("house", "5")
    for none in (None, ""):
        record = {"i": none, "q": "1", "a": "2"}
        assert one(tmp_path, record, columns=columns).key == row_key("house", record_digest(record))


def test_broken_and_strange_records_end_in_the_ledger(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        b'{"q": "1", "a": "2"}\n{bad\n{"q": "1"}\n{"q": null, "a": {"x": 1}}\n{"q": "\\ud800", "a": "2"}\n[]\n'
    )
    drafts, rejections = outcome(builder(tmp_path))
    assert [(r.rule, r.value, r.place) for r in rejections] == [
        ("not_json", "", ("a.jsonl", 1)),
        ("missing_column", "a", ("a.jsonl", 2)),
        ("not_object", "", ("a.jsonl", 5)),
    ]
    assert rejections[0].key == row_key("house", "broken:" + digest(b"{bad"))
    table = tabulate(drafts, "house", "conversation", 1000)
    assert table.rows.num_rows == 1
    assert [(r.rule, r.place[1]) for r in table.rejections] == [("not_text", 3), ("invalid_unicode", 4)]


def test_large_files_are_cut_and_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jsonl", *({"q": f"{n}", "a": "x" * 50} for n in range(500)))
    whole = [(d.key, d.place) for d in outcome(builder(tmp_path))[0]]
    from aya_data.builders import files
    from aya_data.builders.records import reader as records

    monkeypatch.setattr(files, "cuts", lambda *a: records.cuts(*a, target=4000))
    made = builder(tmp_path)
    units = made.units()
    assert len(units) > 5 and len({unit.digest for unit in units}) == 1
    assert sum(unit.size for unit in units) == os.path.getsize(tmp_path / "a.jsonl")
    assert [(d.key, d.place) for d in outcome(made)[0]] == whole


def test_one_large_row_group_is_cut_into_units_of_equal_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"q": [digest(str(n)) for n in range(5000)], "a": ["x" * (n % 7) for n in range(5000)]})
    pq.write_table(table, tmp_path / "a.parquet")
    whole = outcome(builder(tmp_path, path="*.parquet"))
    from aya_data.builders import files
    from aya_data.builders.records import reader as records

    monkeypatch.setattr(files, "cuts", lambda *a: records.cuts(*a, target=40_000))
    made = builder(tmp_path, path="*.parquet")
    units = made.units()
    size = os.path.getsize(tmp_path / "a.parquet")
    assert len(units) > 3 and sum(unit.size for unit in units) == size
    assert all(abs(unit.size - size // len(units)) <= size // 1000 for unit in units)
    assert outcome(made) == whole


def test_units_and_builder_travel_to_a_worker(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"q": "1", "a": "2"})
    made = builder(tmp_path, language={"path": r"(\w)\.jsonl"}, where="q == '1'")
    list(made.read(made.units()[0]))
    other, units = pickle.loads(pickle.dumps((made, made.units())))
    assert [d.language for batch in other.read(units[0]) for d in batch.drafts] == ["a"]


def test_names_leave_out_where_the_files_lie(tmp_path: Path) -> None:
    write(tmp_path / "base/x/a.jsonl", {"q": "1", "a": "2"})
    write(tmp_path / "out/d/b.jsonl", {"q": "1", "a": "2"})
    write(tmp_path / "out/e/c.jsonl", {"q": "1", "a": "2"})
    names = [u.name for u in builder(tmp_path / "base", path="x/a.jsonl").units()]
    assert names == ["x/a.jsonl"]
    names = [u.name for u in builder(tmp_path / "base", path=str(tmp_path / "out/**/*.jsonl")).units()]
    assert names == ["d/b.jsonl", "e/c.jsonl"]


def test_remote_files(tmp_path: Path) -> None:
    import fsspec

    for name, text in (("x/a.jsonl", "1"), ("y/b.jsonl", "2")):
        with fsspec.open(f"memory://bucket/{name}", "wb") as file:
            file.write(json.dumps({"q": text, "a": "!"}).encode())
    made = builder(tmp_path, path="memory://bucket/**/*.jsonl", language={"path": r"/(\w)/"})
    assert [(u.name, u.labels["language"]) for u in made.units()] == [("x/a.jsonl", "x"), ("y/b.jsonl", "y")]
    assert [d.messages[0][1] for d in outcome(made)[0]] == ["1", "2"]
    first = made.units()[0].digest
    with fsspec.open("memory://bucket/x/a.jsonl", "wb") as file:
        file.write(b'{"q": "3", "a": "!"}')
    assert made.units()[0].digest != first
    with pytest.raises(InputError, match=r"^no file matches 'memory://bucket/none/\*\.jsonl'\. Check the URL\.$"):
        builder(tmp_path, path="memory://bucket/none/*.jsonl").units()


# -- errors


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"path": "date/*.jsonl"},
            "the source 'house': no file matches 'date/*.jsonl'. Did you mean 'data'?",
        ),
        (
            {"path": "data/al.jsonl"},
            "the source 'house': no file matches 'data/al.jsonl'. Did you mean 'all.jsonl'?",
        ),
        (
            {"path": "data"},
            "the source 'house': 'data' is a folder. Name the files in it: data/*.parquet, for example.",
        ),
        (
            {"columns": {"prompt": "quest", "answer": "answer"}},
            (
                "the source 'house': columns.prompt names the column 'quest', "
                "which is not in data/all.jsonl. Did you mean 'question'?"
            ),
        ),
        (
            {"language": {"column": "lan"}},
            "the source 'house': language names the column 'lan', which is not in data/all.jsonl. Did you mean 'lang'?",
        ),
        (
            {"path": "data/*.csv", "columns": {"prompt": {"template": "{{ questoin }}"}, "answer": "answer"}},
            (
                "the source 'house': columns.prompt names the column 'questoin', "
                "which is not in data/t.csv. Did you mean 'question'?"
            ),
        ),
        (
            {"path": "data/*.csv", "columns": {"prompt": "question", "answer": "answer", "context": "contxt"}},
            (
                "the source 'house': columns.context names the column 'contxt', "
                "which is not in data/t.csv. Known: answer, question."
            ),
        ),
    ],
)
def test_mistakes_that_the_files_show(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    write(tmp_path / "data/all.jsonl", {"question": "1", "answer": "2", "lang": "tr"})
    (tmp_path / "data/t.csv").write_text("question,answer\n1,2\n")
    chosen = {"path": "data/all.jsonl", "columns": {"prompt": "question", "answer": "answer"}} | given
    with pytest.raises(InputError) as caught:
        builder(tmp_path, **chosen).units()
    assert str(caught.value) == message


UNREADABLE = [
    ("a.jsonl", '{"q": "1", "a": "2"}\n'.encode("utf-16"), "It is UTF-16: save it as UTF-8."),
    ("a.jsonl", b'[\n {\n  "q": "1",\n  "a": "2"\n }\n]\n', "try 'format: json'."),
    ("a.jsonl", b"<!DOCTYPE html>\n<html>\n", "was the download refused?"),
    ("a.jsonl", b"PAR1 and more", "It begins like Parquet"),
    ("a.jsonl.gz", b"\x1f\x8b\x08" + b"nonsense" * 9, "no record of a.jsonl.gz can be read: truncated_file"),
    ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "run 'git lfs pull'."),
    ("a.parquet", b"", "not_parquet (Parquet file size is 0 bytes)"),
    ("a.csv", "q,a\né,è\n".encode("latin-1"), "Save it as UTF-8."),
    ("a.csv", b'"q";"a"\n"1;";2\n', "Write 'delimiter: \";\"'"),
    ("a.json", b"no json", "not_json"),
]


@pytest.mark.parametrize(("name", "content", "said"), UNREADABLE)
def test_a_file_that_cannot_be_read_at_all_stops_the_build(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    write(tmp_path / "good.jsonl", {"q": "1", "a": "2"})
    (tmp_path / name).write_bytes(content)
    both = ["good.jsonl", name]
    with pytest.raises(WrongSetting, match="With 'unreadable: drop' the build goes on") as caught:
        builder(tmp_path, path=both).units()
    assert said in str(caught.value)
    assert f"no record of {name} can be read" in str(caught.value)
    drafts, rejections = outcome(builder(tmp_path, path=both, unreadable="drop"))
    assert len(drafts) == 1
    assert {rejection.place[0] for rejection in rejections} == {name}


def test_a_remote_file_that_cannot_be_read_stops_the_build_when_it_is_read(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://unreadable/a.jsonl", "wb") as file:
        file.write(b"<html>\n")
    made = builder(tmp_path, path="memory://unreadable/a.jsonl")
    (unit,) = made.units()
    with pytest.raises(WrongSetting, match="web page") as caught:
        list(made.read(unit))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.faults) == (str(caught.value), caught.value.faults)


def test_a_file_without_records_is_no_fault(tmp_path: Path) -> None:
    for name, content in (("a.jsonl", b""), ("b.jsonl", b"\n\n"), ("c.csv", b"q,a\n"), ("d.json", b"[]")):
        (tmp_path / name).write_bytes(content)
        assert outcome(builder(tmp_path, path=name)) == ([], [])


def test_another_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('q;a\n1;2\n"1;1";2,2\n')
    with pytest.raises(WrongSetting) as caught:
        builder(tmp_path, path="a.csv").units()
    assert str(caught.value) == (
        "the source 'house': columns.prompt names the column 'q', which is not in a.csv. "
        "Write 'delimiter: \";\"', which is what stands between the fields."
    )
    (_, draft), _ = outcome(builder(tmp_path, path="a.csv", delimiter=";"))
    assert list(draft.messages) == [(U, "1;1"), (A, "2,2")]
    write(tmp_path / "a.jsonl", {"q": "1", "a": "2"})
    with pytest.raises(WrongSetting, match="no file is CSV or TSV"):
        builder(tmp_path, delimiter=";").units()


def test_home_is_found_and_variables_of_the_shell_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "data/a.jsonl", {"q": "1", "a": "2"})
    assert len(outcome(builder(tmp_path / "elsewhere", path="~/data/*.jsonl"))[0]) == 1
    write(tmp_path / "~odd.jsonl", {"q": "1", "a": "2"})
    assert len(outcome(builder(tmp_path, path="~odd.jsonl"))[0]) == 1
    for path in ("$HOME/data/a.jsonl", "${HOME}/data/*.jsonl"):
        with pytest.raises(WrongSetting, match="Variables of the shell are not read here"):
            builder(tmp_path, path=path).units()
    write(tmp_path / "$HOME.jsonl", {"q": "1", "a": "2"})
    assert len(outcome(builder(tmp_path, path="$HOME.jsonl"))[0]) == 1


def test_names_and_links_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    with pytest.raises(WrongSetting, match=r"It is a link to 'loop.jsonl', where there is no file"):
        builder(tmp_path, path="loop.jsonl").units()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "up").symlink_to("..")
    write(tmp_path / "sub" / "a.jsonl", {"q": "1", "a": "2"})
    assert len(builder(tmp_path, path="**/a.jsonl").units()) == 1
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")).write_text("{}\n")
    with pytest.raises(WrongSetting, match=r"xff.jsonl is not UTF-8. Rename the file"):
        builder(tmp_path).units()


def test_a_format_that_no_name_tells(tmp_path: Path) -> None:
    write(tmp_path / "data.txt", {"q": "1", "a": "2"})
    with pytest.raises(InputError) as caught:
        builder(tmp_path, path="data.txt").units()
    assert str(caught.value) == (
        f"the source 'house': the format of {tmp_path / 'data.txt'} cannot be told from its name. "
        "Add 'format: …': csv, json, jsonl, parquet, tsv."
    )
    assert len(outcome(builder(tmp_path, path="data.txt", format="jsonl"))[0]) == 1


def test_a_column_that_only_some_files_have(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"q": "1"})
    write(tmp_path / "b.jsonl", {"q": "1", "a": "2"})
    drafts, rejections = outcome(builder(tmp_path))
    assert len(drafts) == 1
    assert [(r.rule, r.value, r.evidence, r.place) for r in rejections] == [
        ("missing_column", "a", "columns.answer", ("a.jsonl", 0))
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"columns": {"prompt": "q"}}, "maps no answer"),
        ({"columns": {"answer": "a"}}, "says nowhere what the user asks"),
        ({"columns": {"chosen": "a"}}, "has no rejected"),
        ({"columns": {**PLAIN, "answers": "x"}}, "has both answer and answers"),
        ({"columns": {"prompt": "q", "messages": "m"}}, "has both prompt and messages"),
        ({"columns": {"messages": "m", "answer": "a"}}, "has both messages and answer"),
        ({"columns": {"messages": "m", "context": "a"}}, "has a context and no prompt"),
        ({"columns": PLAIN, "kind": "prompt"}, "has kind prompt and maps an answer"),
        ({"columns": {**PLAIN, "system": {"template": "{{ x"}}}, "the template is wrong"),
        ({"columns": {**PLAIN, "system": {"template": "a", "constant": "b"}}}, "found template and constant"),
        ({"where": "a ==="}, "the template is wrong"),
        ({"origin": "alien"}, "origin.constant"),
        ({"origin": {}}, "needs exactly one of constant or column"),
        ({"split": {"column": "a", "constant": "b"}}, "needs exactly one of column, constant or path"),
        ({"path": []}, "must name at least one file"),
        ({"license": "MIT"}, "without saying where that is known from"),
        ({"colums": {}}, "Extra inputs are not permitted"),
        ({"max_chars": 0}, "greater than or equal to 1"),
    ],
)
def test_mistakes_that_the_spec_shows(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        builder(tmp_path, **given)
    assert said in str(caught.value)


def test_every_setting_is_described() -> None:
    schema = FilesBuilder.Settings.model_json_schema()
    for name, model in {"files": schema, **schema["$defs"]}.items():
        for key, about in model.get("properties", {}).items():
            assert about.get("description"), f"{name}.{key}"


def test_paths() -> None:
    record = {"a": {"b": [{"c": 1}, {"c": 2}, {}]}, "a.b": "exact", "j": '{"k": ["v"]}', "n": None}
    assert ColumnPath("a.b").read(record) == "exact"
    assert ColumnPath("a.b[1].c").read(record) == 2
    assert ColumnPath("a.b[*].c").read(record) == [1, 2, None]
    assert ColumnPath("a.b[9].c").read(record) is None
    assert ColumnPath("j.k[0]").read(record) == "v"
    assert ColumnPath("n.x[*]").read(record) is None
    assert ColumnPath("a[0]").read(record) is None
    for missing in ("b", "b.c", "a[", "a..b", ""):
        with pytest.raises(MissingColumn):
            ColumnPath(missing).read(record)


def test_the_table_of_builders_names_classes() -> None:
    assert list(BUILDERS) == sorted(BUILDERS)
    assert BUILDERS["files"] == f"{FilesBuilder.__module__}:{FilesBuilder.__name__}"


# -- real data


REAL = os.environ.get("AYA_DATA_REAL", "")
real = pytest.mark.skipif(not REAL, reason="AYA_DATA_REAL does not name the folder of real data")

SOURCES: dict[str, tuple[dict[str, Any], int, int]] = {
    "alpaca_en": (
        {"columns": {"prompt": "instruction", "context": "input", "answer": "output"}, "language": "eng"},
        42148,
        42127,
    ),
    "hh_rlhf_harmless": ({"columns": {"chosen": "chosen", "rejected": "rejected"}, "language": "eng"}, 2312, 2303),
    "self_instruct/user*": (
        {
            "columns": {
                "prompt": "instruction",
                "context": "instances[0].input",
                "answer": "instances[0].output",
                "id": "id",
            },
            "language": "eng",
        },
        252,
        252,
    ),
    "xquad": (
        {
            "columns": {"prompt": "question", "context": "context", "answers": "answers.text", "id": "id"},
            "language": {"column": "lang"},
        },
        14280,
        14280,
    ),
    "afriqa/queries*": (
        {"columns": {"prompt": "question", "answers": "answers"}, "language": {"column": "lang"}},
        8620,
        5142,
    ),
    "vigogne_fr": ({"columns": {"messages": "messages", "id": "id"}, "language": "fr"}, 479, 276),
    "llama_factory_demo/glaive*": (
        {"columns": {"messages": "conversations", "tools": "tools"}, "language": {"path": "toolcall_([a-z]{2})"}},
        600,
        600,
    ),
    "llama_factory_demo/dpo*": (
        {
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
            "language": {"path": "dpo_([a-z]{2})"},
        },
        600,
        600,
    ),
    "chatterbot_corpus": (
        {"columns": {"conversation": "conversation", "task": "categories[0]"}, "language": {"column": "language"}},
        7617,
        6876,
    ),
    "african_storybook": (
        {
            "columns": {"prompt": {"template": "Tell a story in {{ lang }}."}, "answer": "text", "id": "path"},
            "language": {"column": "lang"},
            "license": {"column": "license"},
        },
        2126,
        2126,
    ),
    "zh_supplement": (
        {
            "columns": {"prompt": "instruction", "context": "input", "answer": "output", "history": "history"},
            "language": "zho_Hans",
        },
        10282,
        10280,
    ),
    "oasst_sampling_reports": (
        {
            "columns": {"prompt": "prompt", "answers": "outputs[*]", "teacher": "model_name"},
            "language": "en",
            "origin": "generated",
        },
        1200,
        2100,
    ),
    "nusax/mt*": ({"columns": {"prompt": "indonesian", "answer": "acehnese", "id": ""}, "language": "ace"}, 600, 600),
    "parsinlu/reading*": (
        {"columns": {"prompt": "question", "context": "passage", "answers": "answers[*][1]"}, "language": "fas"},
        600,
        957,
    ),
    "parsinlu/quran*": ({"columns": {"prompt": "en.itani", "answer": "fa.makarem"}, "language": "fas"}, 6236, 6236),
    "arena_hard_v01/answer*": (
        {"columns": {"messages": "messages", "id": "uid"}, "language": "en", "dataset": {"column": "model"}},
        1500,
        1500,
    ),
    "hplt_alpaca_test": (
        {"columns": {"prompt": "prompt", "id": "id"}, "kind": "prompt", "language": {"column": "lang"}},
        549,
        549,
    ),
}


@real
@pytest.mark.parametrize("name", SOURCES)
def test_real_sources(name: str) -> None:
    given, records, kept = SOURCES[name]
    pattern = f"{name}.parquet" if "/" in name else f"{name}/*.parquet"
    made = builder(Path(REAL), name.replace("*", ""), **{"path": pattern, **given})
    drafts, rejections = outcome(made)
    table = tabulate(drafts, "real", made.kind, made.settings.max_chars)
    assert sum(not d.parents for d in drafts) + len(rejections) == records
    assert table.rows.num_rows == kept
    assert len(table.rejections) + table.rows.num_rows == len(drafts)


@real
def test_every_real_file_is_read() -> None:
    import glob

    from aya_data.builders.records.reader import Broken, read_records

    files = sorted(glob.glob(f"{REAL}/*/*.parquet"))
    assert len(files) > 100
    for file in files:
        count = 0
        for chunk in read_records(file, "parquet"):
            assert not any(isinstance(item, Broken) for item in chunk)
            count += len(chunk)
        assert count == pq.ParquetFile(file).metadata.num_rows
