"""OpenAssistant's trees: which conversations and pairs come out, and what becomes of each message."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aya_data.builders.oasst import OasstBuilder, OasstSettings
from aya_data.core.license import policy
from aya_data.core.row import Draft, Rejection, tabulate
from aya_data.core.stage import Environment

SCHEMA = pa.schema(
    [
        ("message_id", pa.string()),
        ("parent_id", pa.string()),
        ("user_id", pa.string()),
        ("created_date", pa.string()),
        ("text", pa.string()),
        ("role", pa.string()),
        ("lang", pa.string()),
        ("review_count", pa.int32()),
        ("review_result", pa.bool_()),
        ("deleted", pa.bool_()),
        ("rank", pa.int32()),
        ("synthetic", pa.bool_()),
        ("model_name", pa.string()),
        ("message_tree_id", pa.string()),
        ("tree_state", pa.string()),
        (
            "labels",
            pa.struct(
                [
                    ("name", pa.list_(pa.string())),
                    ("value", pa.list_(pa.float64())),
                    ("count", pa.list_(pa.int32())),
                ]
            ),
        ),
    ]
)
FILE = "data/train-00000-of-00001-b42a775f407cee45.parquet"


def message(id: str, parent: str | None = None, *, rank: int | None = None, **other: Any) -> dict[str, Any]:
    role = other.pop("role", None)
    return {
        "message_id": id,
        "parent_id": parent,
        "user_id": "somebody",
        "text": f"text of {id}",
        "role": role or ("prompter" if len(id) % 2 else "assistant"),
        "lang": "en",
        "review_result": True,
        "deleted": False,
        "synthetic": False,
        "rank": rank,
        "message_tree_id": id[:1] or "a",
        "tree_state": "ready_for_export",
        **other,
    }


# The name of a message is its path, so that its depth and role can be read from it.
TREE = [
    message("a"),
    message("aa", "a", rank=1),
    message("ab", "a", rank=0),
    message("ac", "a", rank=2),
    message("aba", "ab"),
    message("abb", "ab"),
    message("abba", "abb", rank=0),
    message("abaa", "aba", rank=1),
    message("abab", "aba", rank=0),
    message("ababa", "abab"),
]


def build(
    folder: Path, messages: Iterable[dict[str, Any]], **options: Any
) -> tuple[OasstBuilder, list[Draft], list[Rejection]]:
    path = folder / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(messages), SCHEMA), path)
    environment = Environment(folder, folder / "cache", False, 7, None, policy("research"))
    given_settings = OasstSettings(location=str(folder), **options)
    builder = OasstBuilder("oasst", given_settings, environment)
    drafts: list[Draft] = []
    rejections: list[Rejection] = []
    for unit in builder.units():
        for batch in builder.read(unit):
            # No message is a row by itself, so all of them must be accounted for here.
            assert batch.records == len(batch.rejections)
            drafts += batch.drafts
            rejections += batch.rejections
    return builder, drafts, rejections


def texts(turns: Sequence[tuple[str, str]]) -> list[str]:
    return [content.removeprefix("text of ") for _, content in turns]


def outcomes(rejections: Iterable[Rejection]) -> dict[int, str]:
    return {r.place[1]: r.rule if r.outcome == "dropped" else r.outcome for r in rejections}


def test_best_path_follows_the_best_rank_and_prefers_what_is_answered(tmp_path: Path) -> None:
    _, drafts, rejections = build(tmp_path, TREE)
    (draft,) = drafts
    # Between the two unranked questions both are answered, so the key decides; both end in rank 0.
    assert texts(draft.messages) in (["a", "ab", "aba", "abab"], ["a", "ab", "abb", "abba"])
    assert [role for role, _ in draft.messages] == ["user", "assistant"] * 2
    rules = Counter(outcomes(rejections).values())
    assert rules["consumed"] == 4
    assert rules["no_answer"] == 1  # ababa
    assert rules["not_on_best_path"] == 5
    assert len(rejections) == len(TREE)


def test_all_leaves_makes_one_conversation_of_every_last_answer(tmp_path: Path) -> None:
    _, drafts, rejections = build(tmp_path, TREE, shape="all_leaves")
    assert sorted(texts(d.messages)[-1] for d in drafts) == ["aa", "abaa", "abab", "abba", "ac"]
    assert len({d.group for d in drafts}) == 1
    assert len({d.key for d in drafts}) == 5
    assert Counter(outcomes(rejections).values()) == {"consumed": 9, "no_answer": 1}


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ("best_worst", {("ab", "ac"), ("abab", "abaa")}),
        ("adjacent", {("ab", "aa"), ("aa", "ac"), ("abab", "abaa")}),
        ("all", {("ab", "aa"), ("ab", "ac"), ("aa", "ac"), ("abab", "abaa")}),
    ],
)
def test_preference_pairs_ranked_answers(tmp_path: Path, pairs: str, expected: set[tuple[str, str]]) -> None:
    builder, drafts, rejections = build(tmp_path, TREE, shape="preference", pairs=pairs)
    assert builder.kind == "preference"
    assert {(texts(d.chosen or ())[-1], texts(d.rejected or ())[-1]) for d in drafts} == expected
    table = tabulate(drafts, "oasst", "preference", 1000)
    assert not table.rejections
    assert table.rows.num_rows == len(expected)
    assert outcomes(rejections)[6] == "no_pair"  # abba is ranked alone


def test_a_tie_in_rank_is_no_preference(tmp_path: Path) -> None:
    tied = [message("a"), message("aa", "a", rank=0), message("ab", "a", rank=0)]
    _, drafts, rejections = build(tmp_path, tied, shape="preference", pairs="all")
    assert drafts == []
    assert outcomes(rejections) == {0: "no_pair", 1: "tied_rank", 2: "tied_rank"}


def test_an_answer_that_nobody_ranked_is_in_no_pair(tmp_path: Path) -> None:
    found = [
        message("a"),
        message("aa", "a", rank=0),
        message("ab", "a"),
        message("ac", "a", rank=1),
    ]
    _, drafts, rejections = build(tmp_path, found, shape="preference")
    assert len(drafts) == 1
    assert outcomes(rejections) == {0: "consumed", 1: "consumed", 2: "not_ranked", 3: "consumed"}


def test_every_bad_message_has_a_rule_of_its_own(tmp_path: Path) -> None:
    bad = [
        message("a"),
        message("aa", "a", deleted=True),
        message("aaa", "aa"),
        message("ab", "a", review_result=False),
        message("ac", "a", review_result=None),
        message("ad", "a", synthetic=True, model_name="some-model"),
        message("ae", "nowhere"),
        message("af", "a", role="prompter"),
        message("ag", "a", role="system"),
        message("ah", "a", text=None),
        message("ai", "a", text=" \n"),
        message("aj", "a", rank=0),
        message("aj", "a", rank=3),
        message("ak", "al", role="assistant"),
        message("al", "ak", role="prompter"),
        message("", "a"),
        message("bb", None),
        message("am", "a", text="x" * 2000),
    ]
    _, drafts, rejections = build(tmp_path, bad, shape="all_leaves", max_chars=1000)
    assert [texts(d.messages) for d in drafts] == [["a", "aj"]]
    found = outcomes(rejections)
    assert {found.pop(11), found.pop(12)} == {"consumed", "duplicate_message"}
    assert found == {
        0: "consumed",
        1: "deleted",
        2: "parent_dropped",
        3: "not_reviewed",
        4: "not_reviewed",
        5: "synthetic",
        6: "orphan",
        7: "wrong_role_order",
        8: "unknown_role",
        9: "not_text",
        10: "empty_text",
        13: "orphan",
        14: "orphan",
        15: "no_message_id",
        16: "wrong_role_order",
        17: "oversized_cell",
    }
    assert len({r.key for r in rejections}) == len(bad)


def test_unreviewed_and_synthetic_messages_can_be_kept(tmp_path: Path) -> None:
    kept = [
        message("a", review_result=None),
        message("aa", "a", synthetic=True, model_name="some-model"),
    ]
    _, drafts, _ = build(tmp_path, kept, unreviewed="keep", synthetic="keep")
    assert [(d.origin, d.teacher) for d in drafts] == [("generated", "some-model")]


def test_language_license_group_and_parents(tmp_path: Path) -> None:
    brazilian = [message("a", lang="pt-BR"), message("aa", "a", lang="pt-BR", rank=0)]
    ukrainian = [message("b", lang="uk-UA"), message("ba", "b", lang=None)]
    builder, drafts, _ = build(tmp_path, brazilian + ukrainian, versions=["oasst1"])
    table = tabulate(drafts, "oasst", "conversation", 1000).rows
    assert table["language"].to_pylist() == ["por", "ukr"]
    assert table["source_language"].to_pylist() == ["pt-BR", "uk-UA"]
    # The card says Apache-2.0 and the Data Provenance Initiative CC-BY-4.0: the stricter holds.
    assert set(table["license"].to_pylist()) == {"CC-BY-4.0"}
    assert set(table["dataset"].to_pylist()) == {"oasst1"}
    assert drafts[0].group != drafts[1].group
    assert len(drafts[0].parents) == 2
    assert any("CC-BY-4.0" in note and "Apache-2.0" in note for note in builder.notes())
    assert "somebody" not in json.dumps(table.drop(["messages"]).to_pylist(), default=str)


def test_the_two_versions_keep_apart(tmp_path: Path) -> None:
    for version, text in (("oasst1", "one"), ("oasst2", "two")):
        path = tmp_path / version / FILE
        path.parent.mkdir(parents=True)
        rows = [message("a", text=text), message("aa", "a")]
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    environment = Environment(tmp_path, tmp_path / "cache", False, 7, None, policy("research"))
    settings_ = OasstSettings(location=".", versions=("oasst1", "oasst2"))
    builder = OasstBuilder("oasst", settings_, environment)
    drafts = [d for u in builder.units() for b in builder.read(u) for d in b.drafts]
    assert sorted((d.dataset, d.messages[0][1]) for d in drafts) == [
        ("oasst1", "one"),
        ("oasst2", "two"),
    ]
    assert len({d.key for d in drafts}) == 2
    assert set(builder.pins()) == {
        "repository:oasst1", "revision:oasst1", "repository:oasst2", "revision:oasst2",
    }  # fmt: skip


def test_a_deep_chain_does_not_exhaust_the_stack(tmp_path: Path) -> None:
    chain = [message("0", message_tree_id="t")]
    for depth in range(1, 3000):
        role = "assistant" if depth % 2 else "prompter"
        chain.append(message(str(depth), str(depth - 1), role=role, message_tree_id="t"))
    _, drafts, _ = build(tmp_path, chain[::-1], shape="all_leaves")
    assert [len(d.messages) for d in drafts] == [3000]


@st.composite
def forests(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw messages with links that need not make sense."""
    names = [f"m{n}" for n in range(draw(st.integers(1, 12)))]
    parents = st.one_of(st.none(), st.sampled_from([*names, "elsewhere"]))
    return [
        message(
            draw(st.sampled_from(names)),
            draw(parents),
            role=draw(st.sampled_from(["prompter", "assistant"])),
            rank=draw(st.one_of(st.none(), st.integers(0, 2))),
            text=draw(st.sampled_from(["x", "y", ""])),
            deleted=draw(st.sampled_from([False, False, False, True])),
            message_tree_id=draw(st.sampled_from(["t", "u"])),
        )
        for _ in names
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    forest=forests(),
    order=st.randoms(use_true_random=False),
    shape=st.sampled_from(["best_path", "all_leaves", "preference"]),
)
def test_every_message_ends_in_the_ledger_once_and_order_means_nothing(
    tmp_path: Path, forest: list[dict[str, Any]], order: Any, shape: str
) -> None:
    _, drafts, rejections = build(tmp_path, forest, shape=shape, pairs="all")
    assert sorted(r.place[1] for r in rejections) == list(range(len(forest)))
    consumed = {r.key for r in rejections if r.outcome == "consumed"}
    assert consumed == set(itertools.chain.from_iterable(d.parents for d in drafts))
    kind = "preference" if shape == "preference" else "conversation"
    refused = tabulate(drafts, "oasst", kind, 1000).rejections
    assert {r.rule for r in refused} <= {"identical_pair"}  # two siblings may say the same
    permuted = list(forest)
    order.shuffle(permuted)
    _, again, rejected_again = build(tmp_path, permuted, shape=shape, pairs="all")
    assert sorted(d.key for d in drafts) == sorted(d.key for d in again)
    assert sorted((r.key, r.rule, r.outcome) for r in rejections) == sorted(
        (r.key, r.rule, r.outcome) for r in rejected_again
    )
