"""YAML with places: what values mean, where they stand, what is refused, how layers merge."""

from __future__ import annotations

import json
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aya_data.core.document import Document, ExactFloat, Text, dotted
from aya_data.core.errors import InputError, NotFound, Problem, SpecError


def parse(content: str) -> Document:
    return Document.parse(content, "spec.yaml")


def value(text: str) -> Any:
    return parse(f"key: {text}\n").data["key"]


@pytest.mark.parametrize("text", ["no", "No", "NO", "yes", "on", "off", "y", "n", "nO"])
def test_norway_is_a_country(text: str) -> None:
    assert value(text) == text


@pytest.mark.parametrize("text", ["12:30", "1:2:3", "2026-08-01", "1_000", "0b11", "0x", "1.2.3", "=", "+"])
def test_not_numbers(text: str) -> None:
    assert value(text) == text


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("+7", 7),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", float("-inf")),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'7'", "7"),
        ('"true"', "true"),
        ("|\n  a\n  b\n", "a\nb\n"),
        (">\n  a\n  b\n", "a b\n"),
    ],
)
def test_core_schema(text: str, meaning: Any) -> None:
    found = value(text)
    assert found == meaning
    assert type(found) in (type(meaning), ExactFloat)


def test_decimals_keep_their_digits() -> None:
    number = value("0.1000000000000000055511151231257827021181583404541015625")
    assert isinstance(number, ExactFloat)
    assert Decimal(number.text) != Decimal("0.1")
    copy = pickle.loads(pickle.dumps(number))
    assert (copy, copy.text) == (number, number.text)


SPEC = """\
# a comment
name: mix
sources:
  a: {builder: files, path: x}
  b:
    builder: files
list:
  - one
  - two: {deep: 3}
profiles:
  hub:
    name: big
    sources:
      a: {path: null, rows: 5}
      c: {builder: d}
    list: [three]
"""


@pytest.mark.parametrize(
    ("path", "key", "place"),
    [
        ((), False, (2, 1)),
        (("name",), False, (2, 7)),
        (("name",), True, (2, 1)),
        (("sources", "a", "path"), False, (4, 29)),
        (("sources", "a", "path"), True, (4, 23)),
        (("sources", "b"), False, (6, 5)),
        (("sources", "b"), True, (5, 3)),
        (("list", 0), False, (8, 5)),
        (("list", 1, "two", "deep"), False, (9, 17)),
        (("list", 1, "two", "deep"), True, (9, 11)),
        (("list", "tuple[str]", 1, "two"), False, (9, 10)),
        (("list", 7), False, (8, 3)),
    ],
)
def test_positions(path: tuple[str | int, ...], key: bool, place: tuple[int, int]) -> None:
    assert parse(SPEC).position(path, key=key) == place


def test_overlay() -> None:
    document = parse(SPEC).overlay(("profiles", "hub"))
    data = document.data
    assert data["name"] == "big"
    assert data["sources"] == {
        "a": {"builder": "files", "rows": 5},
        "b": {"builder": "files"},
        "c": {"builder": "d"},
    }
    assert data["list"] == ["three"]
    assert document.position(("name",)) == (12, 11)
    assert document.position(("name",), key=True) == (12, 5)
    assert document.position(("sources", "a", "builder")) == (4, 16)
    assert document.position(("sources", "a", "rows"), key=True) == (14, 23)
    assert document.position(("sources", "a"), key=True) == (4, 3)
    assert document.position(("list", 0)) == (16, 12)
    assert parse(SPEC).overlay(("profiles", "none")).data == parse(SPEC).data


def test_set() -> None:
    document = parse(SPEC)
    for setting in (
        "sources.a.path=data/*.jsonl",
        "list.two.deep=4",
        "list.one.size=.5",
        "new.key= 'no' ",
        "sources.b=null",
        "name=12:30",
    ):
        document = document.set(setting)
    data = document.data
    assert data["sources"] == {"a": {"builder": "files", "path": "data/*.jsonl"}}
    assert data["list"] == [{"one": {"size": 0.5}}, {"two": {"deep": 4}}]
    assert data["new"] == {"key": "no"}
    assert data["name"] == "12:30"
    assert str(document.mark(("sources", "a", "path"))) == "--set:1:16"
    assert str(document.mark(("new", "key"), key=True)) == "--set:1:5"
    assert str(document.mark(("new", "key"))) == "--set:1:10"
    assert str(document.mark(("sources", "a", "builder"))) == "spec.yaml:4:16"
    assert parse(SPEC).set("list.1.two=5").data["list"] == ["one", {"two": 5}]
    assert parse(SPEC).set("list.1=5").data["list"] == ["one", 5]


def test_problems_of_one_text_come_together() -> None:
    with pytest.raises(SpecError) as caught:
        parse("a: 1\na: 2\n3: c\n<<: {}\n")
    assert [(p.line, p.column) for p in caught.value.problems] == [(2, 1), (3, 1), (4, 1)]
    collected: list[Problem] = []
    assert Document.parse("a: 1\na: 2\n", "x", collected).data == {"a": 1}
    assert len(collected) == 1


def test_aliases_within_reason() -> None:
    document = parse("a: &x {k: 1}\nb: *x\nc: [*x, *x]\n")
    assert document.data == {"a": {"k": 1}, "b": {"k": 1}, "c": [{"k": 1}, {"k": 1}]}
    assert document.position(("b", "k")) == (1, 11)


@pytest.mark.parametrize(
    ("line", "column", "shown", "caret"),
    [
        ("name: x", 7, "  1 | name: x", "    |       ^"),
        ("日本: x", 5, "  1 | 日本: x", "    |       ^"),
        ("e\u0301: x", 5, "  1 | e\u0301: x", "    |    ^"),
        ("\tx", 2, "  1 | →x", "    |  ^"),
        ("a\u202eb", 3, "  1 | a\ufffdb", "    |   ^"),
        ("", 1, "  1 |", "    | ^"),
        ("ab", 4, "  1 | ab", "    |    ^"),
    ],
)
def test_caret(line: str, column: int, shown: str, caret: str) -> None:
    assert Text.of("f", line).excerpt(1, column).split("\n") == [shown, caret]


def test_files(tmp_path: Path) -> None:
    spec = tmp_path / "my_spec.yaml"
    spec.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert Document.load(spec).data == {"a": 1, "b": 2}
    assert Document.load(spec).position(("b",)) == (2, 4)
    with pytest.raises(NotFound, match=r"Did you mean '.*my_spec.yaml'\?"):
        Document.load(tmp_path / "my_spce.yaml")
    with pytest.raises(InputError, match="is a folder"):
        Document.load(tmp_path)
    spec.write_bytes(b"#" * 5_000_000)
    with pytest.raises(InputError, match="larger than 4 MiB"):
        Document.load(spec)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20).filter(lambda t: "Infinity" not in t)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcxyz_", min_size=1), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_json_reads_as_itself(data: Any) -> None:
    text = json.dumps(data).replace("Infinity", ".inf")
    document = parse(text)
    assert document.data == data
    for path, mark in document.positions().items():
        found: Any = data
        for step in path:
            found = found[step]
        rest = mark.text.lines[mark.line - 1][mark.column - 1 :]
        if isinstance(found, (dict, list, str)):
            assert rest[0] in '{["'
        assert dotted(path) == ".".join(map(str, path))


@given(st.text(st.sampled_from("ab:- \n\t[]{},&*!|>'\"%@`#?<1.0é中\\~"), max_size=60))
def test_any_text_is_read_or_refused(content: str) -> None:
    try:
        document = parse(content)
    except SpecError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.excerpt.endswith("^")
    else:
        json.dumps(document.data)


overlays = st.recursive(
    st.integers(0, 3) | st.none(),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


def merged(base: Any, over: Any) -> Any:
    """What an overlay means, written the short way."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    both = {**base, **{k: merged(base.get(k), v) for k, v in over.items()}}
    return {k: v for k, v in both.items() if k not in over or over[k] is not None}


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), overlays),
    st.dictionaries(st.sampled_from("abc"), overlays),
)
def test_overlays_merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    document = parse(json.dumps({**base, "profiles": {"p": over}})).overlay(("profiles", "p"))
    found = document.data
    del found["profiles"]
    assert found == merged(base, over)
