"""The engine ``recorded``: the right answer to every prompt, whatever the files look like; errors that teach."""

from __future__ import annotations

import gzip
import json
import pickle
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from aya_data.builders.arbitrage.teachers.recorded import RecordedSettings, RecordedTeacher
from aya_data.core.document import Document
from aya_data.core.errors import BuildError, WrongSetting
from aya_data.core.generation import Answer, Place, Request, voice_key
from aya_data.core.problems import problems_of
from aya_data.core.registry import builtin_registry
from tests.test_filters import environment

Turns = tuple[tuple[str, str], ...]

RECORDS = [
    {"instruction": "Türkiye'nin başkenti neresidir?", "output": "Ankara.", "generator": "one"},
    {"instruction": "Türkiye'nin başkenti neresidir?", "output": "Ankara'dır.", "generator": "one"},
    {"instruction": "Türkiye'nin başkenti neresidir?", "output": "İstanbul.", "generator": "two"},
    {"instruction": "قل  مرحبا\nبالعالم", "output": "مرحبا بالعالم", "generator": "one"},
    {"instruction": "Say nothing.", "output": "", "generator": "one"},
    {"instruction": "Say null.", "output": None, "generator": "one"},
]
COLUMNS = {"prompt": "instruction", "answer": "output"}


def teacher(base: Path, **given: Any) -> RecordedTeacher:
    settings = RecordedSettings.model_validate({"engine": "recorded", **given})
    return RecordedTeacher("house", settings, environment(base=base))


def write(path: Path, records: list[dict[str, Any]]) -> str:
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path.name


def ask(voice: RecordedTeacher, *asked: str | Turns, samples: int = 1) -> list[Answer]:
    folder = voice.environment.base / "scratch"
    requests = [
        Request(f"{number} {sample}", ((("user", one),) if isinstance(one, str) else one), 0, sample)
        for number, one in enumerate(asked)
        for sample in range(samples)
    ]
    with voice.session(Place(folder, folder, folder / "log")) as session:
        found = [answer for answer in session.ask(iter(requests)) if answer is not None]
    assert [answer.key for answer in found] == [request.key for request in requests]
    assert not list(folder.iterdir())
    return found


def test_answers_are_found_by_prompt(tmp_path: Path) -> None:
    one = teacher(
        tmp_path,
        path=write(tmp_path / "a.jsonl", RECORDS),
        columns=COLUMNS,
        where={"column": "generator", "equals": "one"},
    )
    decomposed = unicodedata.normalize("NFD", "  Türkiye'nin başkenti   neresidir? ")
    found = ask(one, decomposed, "قل مرحبا بالعالم", "Say nothing.", "Say null.", "Never asked", samples=3)
    said = [[answer.text for answer in found[first : first + 3]] for first in range(0, len(found), 3)]
    assert set(said[0][:2]) == {"Ankara.", "Ankara'dır."}
    assert said[0][2] is None
    assert said[1:] == [["مرحبا بالعالم", None, None], ["", None, None], [None] * 3, [None] * 3]
    assert {answer.finish for answer in found} == {"unknown", "absent"}
    assert not any(answer.failed for answer in found)
    assert not one.priced
    assert one.pinned


def test_nothing_depends_on_files_and_order(tmp_path: Path) -> None:
    whole = teacher(tmp_path, path=write(tmp_path / "a.jsonl", RECORDS), columns=COLUMNS)
    write(tmp_path / "b1.jsonl.gz", [*RECORDS[:2], RECORDS[1]][::-1])
    pq.write_table(pa.Table.from_pylist(RECORDS[::-1]), tmp_path / "b2.parquet", row_group_size=2)
    parts = teacher(tmp_path, path=["b2.parquet", "b1.*"], columns=COLUMNS)
    renamed = [{"extra": 1, "q": {"text": r["instruction"]}, "a": [r["output"]]} for r in RECORDS]
    (tmp_path / "c.json").write_text(json.dumps(renamed))
    mapped = teacher(tmp_path, path="c.json", columns={"prompt": "q.text", "answer": "a"})
    prompts = [record["instruction"] for record in RECORDS]
    assert voice_key(whole) == voice_key(parts) == voice_key(mapped) == voice_key(pickle.loads(pickle.dumps(whole)))
    answers = [ask(voice, *prompts, samples=4) for voice in (whole, parts, mapped)]
    assert answers[0] == answers[1] == answers[2]
    assert len({answer.text for answer in answers[0][:4]}) == 4  # three answers and none
    other = teacher(tmp_path, path=write(tmp_path / "d.jsonl", RECORDS[1:]), columns=COLUMNS)
    assert voice_key(other) != voice_key(whole)


def test_teachers_of_one_file_read_it_once(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", RECORDS)

    def made(who: str) -> RecordedTeacher:
        return teacher(tmp_path, path=name, columns=COLUMNS, where={"column": "generator", "equals": who})

    one, two = made("one"), made("two")
    assert voice_key(one) != voice_key(two)
    assert ask(one, "Say nothing.")[0].text == ""
    (tmp_path / name).unlink()
    assert ask(two, RECORDS[0]["instruction"])[0].text == "İstanbul."
    assert voice_key(pickle.loads(pickle.dumps(two))) == voice_key(two)


def test_files_that_change_in_place_give_no_other_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = [{"instruction": f"Say {number}.", "output": str(number)} for number in range(4)]
    one = teacher(tmp_path, path=write(path, texts), columns=COLUMNS)
    voice_key(one)
    pickled = pickle.dumps(one)
    write(path, texts[::-1])
    said = "^the files of the teacher 'house' changed while they were in use. Run again.$"
    with pytest.raises(BuildError, match=said):
        ask(one, "Say 0.")
    assert ask(pickle.loads(pickled), "Say 0.")[0].text == "0"  # the same answers in another order
    write(path, [{**record, "output": f"{record['output']}!"} for record in texts])
    with pytest.raises(BuildError, match=said):
        ask(pickle.loads(pickled), "Say 0.")


def test_a_conversation_is_matched_whole_or_by_its_end(tmp_path: Path) -> None:
    def turns(*texts: str) -> list[dict[str, str]]:
        return [{"role": "assistant" if n % 2 else "user", "content": text} for n, text in enumerate(texts)]

    records = [
        {"messages": [{"role": "system", "content": "Be brief."}, *turns("Hi", "Hello", "More?", "Yes.")]},
        {"messages": turns("Hey", "Hello", "More?", "No.")},
    ]
    name = write(tmp_path / "a.jsonl", records)
    asked: Turns = (("system", "Other."), ("user", "Hi"), ("assistant", "Hello"), ("user", "More?"))
    whole = teacher(tmp_path, path=name, columns={"messages": "messages"}, on="conversation")
    assert [answer.text for answer in ask(whole, asked, "More?")] == ["Yes.", None]
    last = teacher(tmp_path, path=name, columns={"messages": "messages"})
    assert {answer.text for answer in ask(last, "More?", samples=2)} == {"Yes.", "No."}


def test_the_output_of_a_batch_api(tmp_path: Path) -> None:
    def output(name: str, *choices: tuple[str | None, str], **more: Any) -> dict[str, Any]:
        listed = [{"index": n, "message": {"content": c}, "finish_reason": f} for n, (c, f) in enumerate(choices)]
        return {"custom_id": name, "response": {"status_code": 200, "body": {"choices": listed}}, **more}

    asked = [("a", "One?"), ("b", "Two?"), ("c", "Three?")]
    write(
        tmp_path / "in.jsonl",
        [{"custom_id": i, "body": {"messages": [{"role": "user", "content": text}]}} for i, text in asked],
    )
    failed = {"custom_id": "c", "response": None, "error": {"code": "server_error"}}
    outputs = [
        output("b", ("2", "stop")),
        output("a", ("1", "stop"), ("One and", "length")),
        failed,
        output("z", ("?", "stop")),
    ]
    voice = teacher(tmp_path, path=write(tmp_path / "out.jsonl", outputs), requests="in.jsonl", n=2)
    found = ask(voice, "One?", "Two?", "Three?", samples=2)
    assert {(answer.text, answer.finish) for answer in found[:2]} == {("1", "stop"), ("One and", "length")}
    assert [answer.text for answer in found[2:]] == ["2", None, None, None]


def test_broken_records_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(RECORDS[0]) + "\n{broken\n")
    voice = teacher(tmp_path, path="a.jsonl", columns=COLUMNS)
    assert ask(voice, RECORDS[0]["instruction"])[0].text == "Ankara."
    assert voice.notes() == ("1 records of house cannot be read",)


@pytest.mark.parametrize(
    ("given", "path", "said"),
    [
        # Not that 'unreadable: drop' helps, which only the source 'files' has.
        (
            {"path": "c.json"},
            "path",
            (
                "the teacher 'house': no record of c.json can be read: not_json (an element is never closed). "
                "Mend the file or leave it out."
            ),
        ),
        ({"path": "b.jsonl"}, "path", "the teacher 'house': no file matches 'b.jsonl'. Did you mean 'a.jsonl'?"),
        (
            {"columns": {"prompt": "instructions", "answer": "output"}},
            "columns.prompt",
            (
                "the teacher 'house': columns.prompt names the column 'instructions', which is not in a.jsonl. "
                "Did you mean 'instruction'?"
            ),
        ),
        (
            {"where": {"column": "generater", "equals": "one"}},
            "where.column",
            (
                "the teacher 'house': where.column names the column 'generater', which is not in a.jsonl. "
                "Did you mean 'generator'?"
            ),
        ),
        (
            {"where": {"column": "generator", "equals": ["ones", "oen"]}},
            "where",
            "the teacher 'house': no record has 'ones' or 'oen' in the column 'generator'. Did you mean 'one'?",
        ),
    ],
)
def test_what_is_wrong_is_said_when_planning(tmp_path: Path, given: dict[str, Any], path: str, said: str) -> None:
    write(tmp_path / "a.jsonl", RECORDS)
    (tmp_path / "c.json").write_text("nothing")
    voice = teacher(tmp_path, **{"path": "a.jsonl", "columns": COLUMNS, **given})
    with pytest.raises(WrongSetting) as error:
        voice.identity()
    assert str(error.value) == said
    assert error.value.faults[0][0] == ("teachers", "house", *path.split("."))
    elsewhere = RecordedTeacher("judge", voice.settings, voice.environment, ("arbiter", "model"))
    with pytest.raises(WrongSetting) as error:
        pickle.loads(pickle.dumps(elsewhere)).identity()
    assert str(error.value) == said.replace("the teacher 'house'", "the model 'judge'")
    assert error.value.faults[0][0] == ("arbiter", "model", *path.split("."))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"path": "a"}, "needs columns or requests, found neither"),
        ({"path": "a", "columns": {"prompt": "p"}}, "says nowhere what was answered"),
        ({"path": "a", "columns": {"answer": "p"}}, "needs prompt or messages, found neither"),
        ({"path": [], "columns": COLUMNS}, "must name at least one file"),
    ],
)
def test_settings_that_cannot_work(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RecordedSettings.model_validate({"engine": "recorded", **given})


def test_an_answer_without_the_column_finish_ended_nobody_knows_how(tmp_path: Path) -> None:
    write(tmp_path / "said.jsonl", [{"q": "one", "a": "first"}, {"q": "two", "a": "second", "f": "length"}])
    made = teacher(tmp_path, path="said.jsonl", columns={"prompt": "q", "answer": "a", "finish": "f"})
    found = {one.text: one.finish for one in ask(made, "one", "two")}
    assert found == {"first": "unknown", "second": "length"}


def test_the_model_names_who_answered_and_changes_no_answer(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", RECORDS)
    plain = teacher(tmp_path, path="a.jsonl", columns=COLUMNS)
    named = teacher(tmp_path, path="a.jsonl", columns=COLUMNS, model="gpt-4-0314")
    assert plain.settings.model is None and named.settings.model == "gpt-4-0314"
    assert voice_key(plain) == voice_key(named)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("teachers: {one: {engine: recorded, path: a, columns: {prompt: p, answer: a}, where: {column: c, equals: 5}}}",
         ['teachers.one.where.equals must be text, found the number 5. Put quotes around it: "5".']),
        ("teachers: {one: {engine: recorded, pathh: a, columns: {prompt: p, answer: a}}}",
         ["unknown key 'pathh' in teachers.one. Did you mean 'path'?"]),
        # Of the teacher's own keys alone: others have base_url.
        ("teachers: {one: {engine: recorded, path: a, base_uri: b, columns: {prompt: p, answer: a}}}",
         [("unknown key 'base_uri' in teachers.one. Known: columns, engine, family, format, languages, model, n, on, "
           "path, price, requests, system, … (14 in all).")]),
        ("arbiter: reward_model",
         ["the key 'model' is missing in arbiter. Add 'model: …': a folder, or a Hub repository (org/name)."]),
        ("prompts: {from: [1]}", ["prompts.from.0 must be text, found the number 1. Put quotes around it: \"1\"."]),
        ("prompts: {from: []}", ["prompts.from must not be empty. Write an item."]),
    ],
)  # fmt: skip
def test_errors_are_about_what_was_written(spec: str, said: list[str]) -> None:
    model = builtin_registry().settings("builder", "arbitrage")
    usual = {
        "prompts": "prompts: {from: a}",
        "teachers": "teachers: {one: {engine: recorded, path: a, columns: {prompt: p, answer: a}}}",
        "routing": "routing: reward",
    }
    lines = {**usual, spec.partition(":")[0]: spec}
    document = Document.parse("\n".join(lines.values()), "spec.yaml")
    with pytest.raises(ValidationError) as error:
        model.model_validate(document.data)
    problems = problems_of(error.value, document, (), model)
    assert [f"{problem.what}. {problem.remedy}" for problem in problems] == said
