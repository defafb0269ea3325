"""Splits: leakage groups equal those found one by one, and no group stands on both sides."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aya_data.engine.split import LARGE, components, validation_rows

NAMES = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=40)


def brute(groups: list[str], prompts: list[str]) -> list[frozenset[int]]:
    """Join rows that share a group or a prompt until nothing changes."""
    label = list(range(len(groups)))
    changed = True
    while changed:
        changed = False
        for a in range(len(groups)):
            for b in range(a):
                if label[a] != label[b] and (groups[a] == groups[b] or prompts[a] == prompts[b]):
                    low, high = sorted((label[a], label[b]))
                    label = [low if n == high else n for n in label]
                    changed = True
    return sorted((frozenset(i for i, n in enumerate(label) if n == one) for one in set(label)), key=min)


def named(pairs: list[tuple[int, int]]) -> tuple[list[str], list[str]]:
    return [f"group {a:02}" for a, _ in pairs], [f"prompt {b:02}" for _, b in pairs]


@settings(deadline=None)
@given(NAMES)
def test_components_are_those_found_one_by_one(pairs: list[tuple[int, int]]) -> None:
    groups, prompts = named(pairs)
    code, names = components(groups, prompts)
    found = [frozenset(i for i, c in enumerate(code.tolist()) if c == one) for one in range(len(names))]
    assert sorted(found, key=lambda members: min(members)) == brute(groups, prompts)
    for members, name in zip(found, names.to_pylist(), strict=True):
        assert name == min(groups[i] for i in members)


@given(NAMES, st.floats(0, 1), st.integers(0, 5))
def test_no_leakage_group_stands_on_both_sides(pairs: list[tuple[int, int]], fraction: float, seed: int) -> None:
    groups, prompts = named(pairs)
    held = validation_rows(groups, prompts, fraction, seed).tolist()
    for side in (groups, prompts):
        assert not {n for n, h in zip(side, held, strict=True) if h} & {
            n for n, h in zip(side, held, strict=True) if not h
        }


@given(NAMES, st.permutations(range(40)), st.integers(0, 5))
def test_the_order_of_rows_does_not_matter(pairs: list[tuple[int, int]], order: list[int], seed: int) -> None:
    order = [i for i in order if i < len(pairs)]
    groups, prompts = named(pairs)
    held = validation_rows(groups, prompts, 0.4, seed)
    moved = validation_rows([groups[i] for i in order], [prompts[i] for i in order], 0.4, seed)
    assert moved.tolist() == [bool(held[i]) for i in order]


@given(NAMES, st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 5))
def test_a_larger_fraction_holds_out_a_superset(
    pairs: list[tuple[int, int]], one: float, two: float, seed: int
) -> None:
    groups, prompts = named(pairs)
    less = validation_rows(groups, prompts, min(one, two), seed)
    more = validation_rows(groups, prompts, max(one, two), seed)
    assert not (less & ~more).any()


def test_about_the_fraction_is_held_out() -> None:
    names = [f"{i:05}" for i in range(20_000)]
    held = validation_rows(names, names, 0.05, 7)
    assert 900 < int(held.sum()) < 1100
    assert not validation_rows(names, names, 0.0, 7).any()


def test_a_group_that_is_too_large_goes_to_train() -> None:
    """Too large is more than 0.1 % of the rows, and more than a handful."""
    for size, may in ((LARGE, True), (LARGE + 1, False)):
        groups = [f"{i:03}" for i in range(size)]
        marked = [validation_rows(groups, ["same"] * size, 0.9, seed).any() for seed in range(40)]
        assert any(marked) == may
    many = [f"{i:05}" for i in range(30_000)]
    prompts = ["same" if i < 30 else f"{i}" for i in range(30_000)]
    assert any(validation_rows(many, prompts, 0.5, seed)[0] for seed in range(20))


def test_a_chain_of_shared_prompts_is_one_group() -> None:
    code, names = components(["c", "b", "a", "b"], ["p", "p", "q", "q"])
    assert code.tolist() == [0, 0, 0, 0]
    assert names.to_pylist() == ["a"]
