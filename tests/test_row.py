"""Rows: what a draft becomes depends on itself alone, and its hashes are those that releases were made with."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aya_data.core.row import PART, Draft, Kind, normal_text, tabulate

ODD = st.sampled_from(
    [
        "", "  ", "a", "A  b\n", "İß\u3000，ﬁ", "\ud800", "x\udfff", "\x1c\x85\u2028", "e\u0301\u200d", "a" * 30, "tr",
        "eng_Latn", "zh-Hans", "cc-by-4.0", "MIT", "no licence", "gpt-4",
    ]
)  # fmt: skip
MAYBE = st.one_of(st.none(), ODD)
TURNS = st.one_of(
    st.lists(st.tuples(st.sampled_from(["user", "assistant", "system", "tool", "bot"]), MAYBE), max_size=3),
    st.tuples(ODD, ODD).map(lambda pair: [("user", pair[0]), ("assistant", pair[1])]),
    ODD.map(lambda text: [("user", text)]),
)
DRAFTS = st.builds(
    Draft,
    key=st.text("0af", min_size=1, max_size=40), messages=TURNS, place=st.tuples(st.just("f"), st.integers(0, 9)),
    language=MAYBE, script=st.sampled_from([None, "Latn", ""]), license=MAYBE, license_asserted=MAYBE,
    terms=st.lists(st.sampled_from(["a", "b", "b", "\ud800"]), max_size=2), group=st.sampled_from([None, "g", ""]),
    dataset=ODD, origin=st.sampled_from(["human", "generated"]), task=MAYBE, revision=st.sampled_from([None, "r"]),
    config=MAYBE, split=MAYBE, template=MAYBE, translator=MAYBE, teacher=MAYBE,
    parents=st.lists(st.just("p"), max_size=2), tools=MAYBE,
    extra=st.one_of(st.none(), st.dictionaries(ODD, MAYBE, max_size=2)), adapted=st.booleans(),
    chosen=st.one_of(st.none(), TURNS), rejected=st.one_of(st.none(), TURNS),
    chosen_score=st.sampled_from([None, 1.25, -3.0]), rejected_score=st.sampled_from([None, 0.5]),
    chosen_model=MAYBE, rejected_model=MAYBE,
)  # fmt: skip


def pair(draft: Draft) -> Draft:
    """The draft as a preference row that mostly passes."""
    draft.messages = [("user", "q")]
    draft.chosen, draft.rejected = (
        [("user", "q"), ("assistant", "x")],
        [("user", "q"), ("assistant", draft.task or "y")],
    )
    return draft


PLAIN = st.builds(
    Draft,
    key=st.just("0a"), messages=st.just([("user", "q"), ("assistant", "a")]), place=st.just(("f", 1)), language=MAYBE,
    license=MAYBE, tools=MAYBE, config=MAYBE, adapted=st.booleans(),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(drafts=st.lists(st.one_of(DRAFTS, PLAIN), max_size=6), max_chars=st.sampled_from([5, 1000]), data=st.data())
def test_a_row_is_the_same_alone_and_among_others(drafts: list[Draft], max_chars: int, data: st.DataObject) -> None:
    kind: Kind = data.draw(st.sampled_from(["conversation", "prompt", "preference"]))
    drafts = [pair(draft) for draft in drafts] if kind == "preference" else drafts
    whole = tabulate(drafts, "s", kind, max_chars)
    alone = [tabulate([draft], "s", kind, max_chars) for draft in drafts]
    whole.rows.validate(full=True)
    assert whole.rows.schema.equals(PART)
    assert whole.rows.to_pylist() == [row for one in alone for row in one.rows.to_pylist()]
    assert whole.rejections == [rejection for one in alone for rejection in one.rejections]
    assert len(drafts) == whole.rows.num_rows + len(whole.rejections)


GOLDEN: list[tuple[Kind, dict[str, Any], tuple[str, str, str]]] = [
    (
        "conversation",
        {
            "key": "k1",
            "messages": [("user", "Ｍerhaba,  DÜNYA?"), ("assistant", "Selam")],
            "language": "tr",
            "license": "apache-2.0",
        },
        ("31012390be991eae1bea3bb8f7578619", "9d71cdad75e6c8e8c66016b029740b27", "0e10d4830f4bde88edb2d4d8"),
    ),
    (
        "prompt",
        {
            "key": "k2",
            "messages": [("system", "Be\tbrief."), ("user", "à la carte")],
            "language": "fra",
            "group": "g",
            "task": "qa",
            "extra": {"n": 1, "none": None},
            "tools": "[]",
            "config": "c",
            "split": "train",
        },
        ("d15d227f770914d2cfc20bf0ea89804b", "c99c5a09fad72e53bebe0e9e89ea96a2", "54d01e169012f26cbeb31386"),
    ),
    (
        "preference",
        {
            "key": "k3",
            "messages": [("user", "Ｍerhaba,  DÜNYA?")],
            "chosen": [("user", "Ｍerhaba,  DÜNYA?"), ("assistant", "Selam")],
            "rejected": [("user", "Ｍerhaba,  DÜNYA?"), ("assistant", "?")],
            "chosen_score": 1.5,
            "rejected_score": 0.25,
            "chosen_model": "m",
            "terms": ["b", "a"],
            "parents": ["p"],
            "teacher": "gpt-4",
            "adapted": True,
            "license": None,
            "license_asserted": "why",
            "language": "qqq",
        },
        ("3e6dee77b832b153e812c3fca52cc4c8", "45c05eda2a5e959d1797f6698a70c36b", "0e10d4830f4bde88edb2d4d8"),
    ),
]


@pytest.mark.parametrize(("kind", "given", "hashes"), GOLDEN)
def test_hashes_stay_what_they_are(kind: Kind, given: dict[str, Any], hashes: tuple[str, str, str]) -> None:
    (row,) = tabulate([Draft(place=("f", 0), **given)], "s", kind, 1000).rows.to_pylist()
    assert (row["id"], row["row_hash"], row["prompt_hash"]) == hashes


def test_normal_text_is_what_it_says() -> None:
    def said(text: str) -> str:
        return " ".join(unicodedata.normalize("NFKC", text).casefold().split())

    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        text = f"A{letter} {letter}b{letter}"
        assert normal_text(text) == said(text), hex(code)
    for text in ("", "   ", " a   b\n\n c ", "a\t  b", "Ａ　Ｂ  c"):
        assert normal_text(text) == said(text)


def test_terms_with_half_of_a_surrogate_pair_are_malformed() -> None:
    turns = [("user", "q"), ("assistant", "a")]
    drafts = [
        Draft(key=f"{n}", messages=turns, place=("f", n), terms=terms) for n, terms in enumerate((["a"], ["b\udfff"]))
    ]
    table = tabulate(drafts, "s", "conversation", 10)
    assert table.rows["terms"].to_pylist() == [["a"]]
    assert [(one.rule, one.evidence, one.place) for one in table.rejections] == [
        ("invalid_unicode", "character 1", ("f", 1)),
    ]


def test_no_drafts_are_a_table_without_rows() -> None:
    assert tabulate([], "s", "conversation", 10).rows.equals(pa.Table.from_pylist([], schema=PART))
