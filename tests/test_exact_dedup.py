"""Laws of the exact_dedup filter, whatever the rows: order-free, idempotent, strangers change nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aya_data.core.row import ORIGINS, Draft
from tests.test_filters import dedup, draft, losers, table

ASKED: tuple[dict[str, Any], ...] = ({}, {"normalize": "text"}, {"on": "prompt"}, {"on": "answer"})
rows_of = st.lists(
    st.tuples(
        st.sampled_from(["a", "A", "b", "b ", "ｃ", "c"]),
        st.sampled_from(["x", "X ", "y"]),
        st.sampled_from(ORIGINS),
        st.sampled_from(["MIT", "CC-BY-NC-4.0"]),
    ),
    min_size=1,
    max_size=10,
)


def drafts_of(found: list[tuple[str, str, str, str]]) -> list[Draft]:
    return [draft(n, *texts, origin=origin, license=license) for n, (*texts, origin, license) in enumerate(found)]


def gone(asked: dict[str, Any], drafts: list[Draft]) -> dict[str, tuple[str, str]]:
    """Which rows go, for which, and what is said of it."""
    lost = losers(dedup(**asked), table(drafts))
    return {drafts[one["place"]].key: (one["partner"], one["evidence"]) for one in lost}


@pytest.mark.parametrize("asked", ASKED)
@settings(max_examples=8, deadline=None)
@given(found=rows_of, chance=st.randoms(use_true_random=False))
def test_order_and_strangers_do_not_matter(asked: dict[str, Any], found: Any, chance: Any) -> None:
    drafts = drafts_of(found)
    first = gone(asked, drafts)
    shuffled = list(drafts)
    chance.shuffle(shuffled)
    stranger = draft(9999, "nobody asked this", "nor said that")
    assert gone(asked, shuffled) == first
    assert gone(asked, [stranger, *shuffled]) == first


@pytest.mark.parametrize("asked", ASKED)
@settings(max_examples=8, deadline=None)
@given(found=rows_of)
def test_a_second_time_nothing_goes(asked: dict[str, Any], found: Any) -> None:
    drafts = drafts_of(found)
    lost = gone(asked, drafts)
    assert not {partner for partner, _ in lost.values()} & lost.keys()
    assert gone(asked, [one for one in drafts if one.key not in lost]) == {}
