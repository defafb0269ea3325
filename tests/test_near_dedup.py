"""The near_dedup filter: brute force over real texts of many scripts, laws, and builds that use it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aya_data.core.identity import draw
from aya_data.core.row import Draft, Turn
from aya_data.core.stage import Exchange, ExchangeFilter
from aya_data.engine.run import Build
from aya_data.filters import near_dedup
from aya_data.filters.near_dedup import NearDedup
from tests import builds
from tests.shingled import jaccard, shingles
from tests.test_filters import environment, table

Lost = dict[str, Any]


class Held:
    """Rows in memory as one piece of an exchange."""

    def __init__(self, rows: pa.Table, places: Sequence[int], a_filter: ExchangeFilter) -> None:
        self._rows, self._places, self._filter = rows, places, a_filter

    def places(self) -> npt.NDArray[np.int64]:
        return np.array(self._places, np.int64)

    def measures(self) -> pa.Table:
        return self._filter.measure(self._rows.select(self._filter.measure_columns))

    def rows(self, columns: Sequence[str], chosen: npt.NDArray[np.int64]) -> pa.Table:
        return self._rows.select(columns).take(pa.array(chosen))


def decided(
    a_filter: NearDedup, rows: pa.Table, settled: Sequence[bool] | None = None, parts: int = 1
) -> tuple[list[Lost], list[tuple[str, str]]]:
    """What goes (with ``row_key``), and the links as pairs of row keys."""
    connection = duckdb.connect(config={"threads": 2})
    view = rows.select(a_filter.columns)
    view = view.append_column("settled", pa.array(settled or [False] * len(rows), pa.bool_()))
    places = [row << 32 | row % parts for row in range(len(rows))]
    view = view.append_column("place", pa.array(places, pa.int64()))
    connection.register("candidates", view)
    pieces = [
        Held(rows.take(pa.array(range(p, len(rows), parts), pa.int64())), places[p::parts], a_filter)
        for p in range(parts)
    ]
    exchange = Exchange(connection, bool(settled), pieces)
    found = a_filter.decide(exchange)
    connection.close()
    assert found.schema.names == ["place", "rule", "value", "threshold", "evidence", "partner"]
    keys = dict(zip(places, rows["row_key"].to_pylist(), strict=True))
    links = [
        (keys[one], keys[other])
        for link in exchange.links
        for one, other in zip(link["one"].to_pylist(), link["other"].to_pylist(), strict=True)
    ]
    return [{"row_key": keys[lost.pop("place")], **lost} for lost in found.to_pylist()], links


def near(policy: str = "research", **given: Any) -> NearDedup:
    return NearDedup(NearDedup.Settings(**given), environment(policy))


def gone(a_filter: NearDedup, rows: pa.Table, **more: Any) -> dict[str, str]:
    """Which rows go, and for which."""
    return {lost["row_key"]: lost["partner"] for lost in decided(a_filter, rows, **more)[0]}


def words(first: int, last: int, name: str = "word") -> str:
    return " ".join(f"{name}{n}" for n in range(first, last))


LONG = words(0, 60)
ALMOST = LONG.replace("word30", "changed")


# Quality ------------------------------------------------------------------------------------------


@cache
def sample_texts() -> dict[str, list[str]]:
    """The bundled texts by script."""
    found: dict[str, list[str]] = {}
    for file in sorted((resources.files("aya_data.builders.samples") / "texts").iterdir(), key=lambda f: f.name):
        for line in file.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            said = [record.get(name) for name in ("prompt", "answer")]
            if all(isinstance(text, str) for text in said) and record.get("script"):
                found.setdefault(record["script"], []).append(" ".join(said))
    return found


def edit(text: str, number: int) -> str:
    """A text with one thing done to it: a word or character gone, put in, doubled, in another case, or the like."""
    spaced = " " in text.strip() and len(text.split()) > 3
    units = text.split(" ") if spaced else list(text)
    place = draw(number, "place", text) % len(units)
    kind = draw(number, "kind", text) % 7
    if kind == 0:
        del units[place]
    elif kind == 1:
        units.insert(place, units[(place * 7 + 3) % len(units)])
    elif kind == 2:
        units[place] = units[place] * 2
    elif kind == 3:
        units = [unit.swapcase() for unit in units]
    elif kind == 4:
        units.append("!")
    elif kind == 5:
        units = units[: max(1, len(units) - 2)]
    else:
        units[place] = "７" if not spaced else "seven"
    return (" " if spaced else "").join(units)


def corpus(script: str, base: int) -> list[str]:
    """Texts of a script, short ones and joined ones, each with edits, and edits of edits."""
    own = sample_texts()[script]
    made: list[str] = []
    for number in range(base):
        first = own[draw(1, script, str(number)) % len(own)]
        text = first
        if number % 3 == 0:
            text = " ".join(own[draw(2, script, f"{number} {k}") % len(own)] for k in range(1 + number % 7))
        elif number % 3 == 1:
            pieces = first.split()
            text = " ".join(pieces[: 1 + number % 5]) if len(pieces) > 5 else first[: 1 + number % 9]
        made.append(text)
        for generation in range(draw(3, script, str(number)) % 3):
            made.append(edit(made[-1], number * 10 + generation))
    return [text for text in made if text.strip()]


SCRIPTS = (
    "Latn", "Arab", "Cyrl", "Hans", "Jpan", "Kore", "Deva", "Thai", "Khmr", "Hebr", "Grek", "Beng", "Telu", "Ethi",
    "Hant",
)  # fmt: skip


def test_scripts_are_there() -> None:
    assert len(set(SCRIPTS) & set(sample_texts())) >= 12, sorted(sample_texts())


@pytest.mark.parametrize("threshold", [0.95, 0.8, 0.6])
def test_brute_force_in_every_script(threshold: float) -> None:
    """Nothing goes unverified, 99.5 % of all pairs lose a side, and 99 % of looser ones left are linked, one with the
    other or through others; the truth by comparing all with all."""
    texts, scripts = [], []
    for script in sorted(set(SCRIPTS) & set(sample_texts())):
        own = corpus(script, 22)
        texts += own
        scripts += [script] * len(own)
    rows = table([draft(number, text) for number, text in enumerate(texts)])
    lost, links = decided(near(threshold=threshold, on="prompt", leakage_threshold=0.5), rows, parts=5)
    sets = {f"k{number:04d}": shingles(text) for number, text in enumerate(texts)}
    keys = list(sets)
    losers = {one["row_key"] for one in lost}
    for one in lost:
        assert one["partner"] not in losers
        index = jaccard(sets[one["row_key"]], sets[one["partner"]])
        assert (one["rule"], one["value"]) == ("near_duplicate", f"{index:.4f}")
        assert index >= threshold
    true = [
        (keys[a], keys[b], jaccard(sets[keys[a]], sets[keys[b]])) for a in range(len(keys)) for b in range(a)
        if not sets[keys[a]].isdisjoint(sets[keys[b]])
    ]  # fmt: skip
    pairs = [(a, b) for a, b, index in true if index >= threshold]
    broken = [pair for pair in pairs if losers & set(pair)]
    assert len(pairs) > 250
    assert len(broken) >= 0.995 * len(pairs)
    found = {scripts[int(key[1:])] for pair in pairs for key in pair}
    assert len(found) >= 12
    resemble = {frozenset(pair[:2]): pair[2] for pair in true}
    for link in links:
        assert not losers & set(link)
        assert resemble[frozenset(link)] >= 0.5
    side = joined(keys, links)
    left = [(a, b) for a, b, index in true if index >= 0.5 and not losers & {a, b}]
    assert len(left) > 20
    assert sum(side[a] == side[b] for a, b in left) >= 0.99 * len(left)


def joined(keys: Iterable[str], links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The least row of what links join each row with."""
    least = {key: key for key in keys}
    for one, other in links:
        first, second = sorted((least[one], least[other]))
        least = {key: first if held == second else held for key, held in least.items()}
    return least


def draft(number: int, question: str = LONG, answer: str = "yes", **more: Any) -> Draft:
    given: dict[str, Any] = {"language": "eng", "license": "MIT", "dataset": "d", **more}
    turns = given.pop("messages", [("user", question), ("assistant", answer)])
    return Draft(key=f"k{number:04d}", messages=turns, place=("file", number), **given)


# What is said of it -------------------------------------------------------------------------------


def test_the_loser_names_its_keeper() -> None:
    rows = table([draft(0, ALMOST, origin="generated"), draft(1), draft(2, words(0, 60, "other"))])
    lost, links = decided(near(), rows)
    assert lost == [
        {
            "row_key": "k0000",
            "rule": "near_duplicate",
            "value": "0.8387",
            "threshold": "0.8",
            "evidence": "J=0.8387 with s/d",
            "partner": "k0001",
        }
    ]
    assert links == []


def test_nothing_to_merge() -> None:
    rows = table([draft(0), draft(1, words(0, 60, "other"))])
    assert decided(near(), rows) == ([], [])
    assert decided(near(), rows.slice(0, 0)) == ([], [])
    assert decided(near(at_most=1), rows.slice(0, 1)) == ([], [])


def test_the_keeper_order() -> None:
    def kept(*drafts: Draft, policy: str = "research", settled: Sequence[bool] | None = None) -> str:
        rows = table(drafts)
        lost = gone(near(policy), rows, settled=settled)
        assert len(lost) == len(drafts) - 1
        (left,) = set(rows["row_key"].to_pylist()) - set(lost)
        assert set(lost.values()) == {left}
        return str(left)

    assert kept(draft(0, origin="generated"), draft(1, ALMOST, origin="human")) == "k0001"
    assert kept(draft(0, license="MIT"), draft(1, ALMOST, license="CC-BY-NC-4.0")) == "k0001"
    assert kept(draft(0, license="MIT"), draft(1, ALMOST, license="CC-BY-NC-4.0"), policy="commercial") == "k0000"
    assert kept(draft(0), draft(1, LONG + " more")) == "k0001"
    assert kept(draft(0, origin="generated"), draft(1, ALMOST), settled=[True, False]) == "k0000"


def test_settled_rows_stay() -> None:
    rows = table([draft(0), draft(1), draft(2, ALMOST), draft(3), draft(4, ALMOST)])
    lost = gone(near(), rows, settled=[True, True, True, False, False])
    assert set(lost) == {"k0003", "k0004"}
    assert set(lost.values()) <= {"k0000", "k0001", "k0002"}


def test_chains_do_not_collapse() -> None:
    chain = [words(0, 100) + " " + words(0, 15 * step, "more") for step in range(4)]
    rows = table([draft(number, text) for number, text in enumerate(chain)])
    lost, links = decided(near(), rows)
    assert {one["row_key"]: one["partner"] for one in lost} == {"k0002": "k0003", "k0000": "k0001"}
    assert links == [("k0003", "k0001")]


def test_short_texts_equal_only_their_own_like() -> None:
    said = [
        "Yes.",
        "yes.",
        "Yes",
        "C++",
        "C#",
        "ＹＥＳ.",
        "2+2",
        "2-2",
        "是",
        "是的",
        "one two three four",
        "one two three four five",
    ]
    rows = table([draft(number, text) for number, text in enumerate(said)])
    lost = gone(near(on="prompt"), rows)
    assert len(lost) == 2 and {*lost, *lost.values()} == {"k0000", "k0001", "k0005"}


@pytest.mark.parametrize(("on", "wanted"), [("conversation", set()), ("prompt", {0, 1}), ("answer", {1, 2})])
def test_what_is_compared(on: str, wanted: set[int]) -> None:
    other, third = words(0, 60, "answer"), words(0, 60, "third")
    rows = table([draft(0, LONG, other), draft(1, ALMOST, third), draft(2, words(0, 60, "q"), third + " end")])
    lost = gone(near(on=on), rows)
    assert {int(key[1:]) for pair in lost.items() for key in pair} == wanted


def test_all_turns_of_a_conversation_count() -> None:
    turns: list[Turn] = [("system", words(0, 9, "s")), ("user", words(0, 9)), ("assistant", words(0, 9, "a"))]
    more: list[Turn] = [*turns, ("user", words(0, 20, "b")), ("assistant", words(0, 9, "a"))]
    rows = table(
        [draft(0, messages=turns), draft(1, messages=more), draft(2, messages=[("system", "another one"), *turns[1:]])]
    )
    assert gone(near(), rows) == {}
    assert len(gone(near(on="answer"), rows)) == 2
    assert gone(near(threshold=0.5, leakage_threshold=0.3), rows) == {"k0002": "k0000"}


def test_preference_rows_and_kinds() -> None:
    shared: list[Turn] = [("user", LONG)]

    def pair(number: int, chosen: str, rejected: str) -> Draft:
        return draft(
            number,
            messages=shared,
            chosen=[*shared, ("assistant", chosen)],
            rejected=[*shared, ("assistant", rejected)],
        )

    one, two = words(0, 60, "one"), words(0, 60, "two")
    pairs = table([pair(0, one, two), pair(1, one + " end", two), pair(2, one, words(0, 60, "three"))], "preference")
    prompts = table([draft(3, messages=shared), draft(4, messages=[("user", ALMOST)])], "prompt")
    talks = table([draft(5, LONG, one), draft(6, words(0, 60, "x"), one)])
    rows = pa.concat_tables([pairs, prompts, talks])
    assert gone(near(), rows) == {"k0000": "k0001", "k0003": "k0004"} or gone(near(), rows) == {
        "k0000": "k0001",
        "k0004": "k0003",
    }
    by_prompt = gone(near(on="prompt"), rows)
    assert {frozenset(pair) for pair in by_prompt.items()} >= {frozenset({"k0003", "k0004"})}
    assert {int(key[1:]) // 3 == 0 for key in by_prompt} == {True, False}
    assert all((int(a[1:]) < 3) == (int(b[1:]) < 3) for a, b in by_prompt.items())
    answers = gone(near(on="answer"), rows)
    assert {frozenset(pair) for pair in answers.items()} == {
        frozenset({"k0000", "k0001"}),
        frozenset({"k0005", "k0006"}),
    }


def test_groups_keep_the_first_so_many() -> None:
    texts = [words(0, 30, name) for name in "abcdef"]
    rows = table(
        [
            draft(n, text, group="g" if n < 4 else f"h{n}", origin="human" if n == 2 else "translated")
            for n, text in enumerate(texts)
        ]
    )
    assert decided(near(), rows)[0] == []
    lost = decided(near(at_most=2), rows)[0]
    assert [(one["rule"], one["value"], one["threshold"], one["partner"]) for one in lost] in (
        [("large_group", "3", "2", "k0002"), ("large_group", "4", "2", "k0002")],
        [("large_group", "4", "2", "k0002"), ("large_group", "3", "2", "k0002")],
    )
    assert {one["evidence"] for one in lost} == {"one of 4 rows of one group"}
    again = rows.filter(pa.array([key not in {one["row_key"] for one in lost} for key in rows["row_key"].to_pylist()]))
    assert decided(near(at_most=2), again)[0] == []
    held = decided(near(at_most=1), rows, settled=[True, True, False, False, False, False])[0]
    assert {one["row_key"] for one in held} == {"k0002", "k0003"}


def test_no_language_of_a_group_is_preferred() -> None:
    texts = {"fra": words(0, 60, "mot"), "eng": words(0, 40, "word"), "zho": "".join(map(chr, range(0x4E00, 0x4E28)))}
    drafts = [
        draft(10 * number + at, f"{text} {chr(0x5000 + number) * 30}", group=f"g{number}", language=language)
        for number in range(60)
        for at, (language, text) in enumerate(texts.items())
    ]
    lost = decided(near(threshold=1.0, at_most=1), table(drafts))[0]
    gone_keys = {one["row_key"] for one in lost}
    left = Counter(one.language for one in drafts if one.key not in gone_keys)
    assert sum(left.values()) == 60 and all(10 <= left[language] <= 30 for language in texts)


def test_nothing_is_merged_into_what_its_group_loses() -> None:
    """The first in order loses its place to two of its group; its near-duplicate stays."""
    said = [("g", "translated", LONG), ("g", "human", words(0, 30, "b")), ("g", "human", words(0, 30, "c"))]
    rows = table(
        [
            *(draft(n, text, group=group, origin=origin) for n, (group, origin, text) in enumerate(said)),
            draft(3, ALMOST, group="h", origin="generated"),
        ]
    )
    lost = decided(near(at_most=2), rows)[0]
    assert [(one["row_key"], one["rule"], one["value"]) for one in lost] == [("k0000", "large_group", "3")]
    assert gone(near(at_most=3), rows) == {"k0003": "k0000"}


def test_rows_without_an_answer_equal_nothing() -> None:
    rows = table([draft(n, messages=[("user", LONG)], group="g") for n in range(3)], "prompt")
    assert decided(near(on="answer"), rows) == ([], [])
    assert [one["rule"] for one in decided(near(on="answer", at_most=1), rows)[0]] == ["large_group"] * 2


def test_groups_count_what_is_left() -> None:
    rows = table([draft(0, group="g"), draft(1, ALMOST, group="g"), draft(2, words(0, 30, "b"), group="g")])
    assert [one["rule"] for one in decided(near(at_most=2), rows)[0]] == ["near_duplicate"]


# Laws ---------------------------------------------------------------------------------------------

variants = st.lists(
    st.tuples(st.integers(0, 3), st.sets(st.integers(0, 39), max_size=4), st.integers(0, 6)), min_size=1, max_size=14
)


def made(found: list[tuple[int, set[int], int]]) -> list[Draft]:
    """Rows of few themes, each with some words changed and some added."""
    drafts = []
    for number, (theme, changed, added) in enumerate(found):
        own = [f"t{theme}w{place}" + ("x" if place in changed else "") for place in range(40 if theme else 3)]
        text = " ".join([*own, *(f"t{theme}more{place}" for place in range(added if theme else 0))])
        drafts.append(draft(number, text, origin="generated" if number % 3 else "human", group=f"g{number // 2}"))
    return drafts


ORIGINS_HERE = ("human", "translated", "generated")
stars = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 3), st.sampled_from(ORIGINS_HERE)),
    min_size=1, max_size=16,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(stars, st.sampled_from([None, 1, 2, 3]), st.integers(0, 3))
def test_one_walk_decides(found: list[tuple[int, int, int, str]], at_most: int | None, settled: int) -> None:
    """In order, a row goes for a kept one that it resembles, else where its group is full, else it is kept.

    Variants of a theme resemble its first to 0.84 and each other to 0.70; all texts are of one length.
    """
    drafts = []
    for number, (theme, variant, group, origin) in enumerate(found):
        own = [f"t{theme}w{place:02}" for place in range(60)]
        if variant:
            own[12 * variant] = f"t{theme}x{variant:02}"
        drafts.append(draft(number, " ".join(own), origin=origin, group=f"g{group}"))
    rows = table(drafts)
    flags = [number < settled for number in range(len(drafts))]
    sets = {one.key: shingles(one.messages[0][1]) for one in drafts}
    asked = ("row_key", "row_hash", "group", "origin")
    order = sorted(
        zip(flags, *(rows[name].to_pylist() for name in asked), strict=True),
        key=lambda row: (not row[0], ORIGINS_HERE.index(row[4]), row[2], row[1]),
    )
    places: Counter[str] = Counter()
    kept: list[str] = []
    wanted: dict[str, tuple[str, set[str]]] = {}
    for flag, key, _, group, _ in order:
        alike = {other for other in kept if jaccard(sets[key], sets[other]) >= 0.75}
        if alike and not flag:
            wanted[key] = ("near_duplicate", alike)
            continue
        places[group] += 1
        if at_most is not None and places[group] > at_most and not flag:
            wanted[key] = ("large_group", {str(places[group])})
        else:
            kept.append(key)
    lost, links = decided(near(threshold=0.75, at_most=at_most, on="prompt"), rows, settled=flags, parts=2)
    assert {one["row_key"]: one["rule"] for one in lost} == {key: rule for key, (rule, _) in wanted.items()}
    for one in lost:
        said = one["partner"] if one["rule"] == "near_duplicate" else one["value"]
        assert said in wanted[one["row_key"]][1]
        if one["rule"] == "near_duplicate":
            assert one["value"] == f"{jaccard(sets[one['row_key']], sets[one['partner']]):.4f}"
    pairs = [(a, b) for a in kept for b in kept if jaccard(sets[a], sets[b]) >= 0.6]
    assert joined(kept, links) == joined(kept, pairs)
    assert len(links) == len(kept) - len(set(joined(kept, links).values()))


@settings(max_examples=40, deadline=None)
@given(variants, st.sampled_from([0.8, 0.7, 0.5]), st.randoms(use_true_random=False), st.sampled_from([None, 1]))
def test_order_parts_and_strangers_do_not_matter(
    found: list[tuple[int, set[int], int]], threshold: float, chance: Any, at_most: int | None
) -> None:
    drafts = made(found)
    a_filter = near(threshold=threshold, leakage_threshold=min(0.6, threshold), at_most=at_most)
    first = decided(a_filter, table(drafts))
    key = lambda lost: str(lost["row_key"])
    shuffled = list(drafts)
    chance.shuffle(shuffled)
    stranger = draft(9999, words(0, 50, "stranger"), group="stranger")
    for other in (shuffled, [*drafts, stranger], [stranger, *shuffled]):
        again = decided(a_filter, table(other), parts=3)
        assert sorted(again[0], key=key) == sorted(first[0], key=key)
        assert sorted(again[1]) == sorted(first[1])


@settings(max_examples=40, deadline=None)
@given(variants, st.sampled_from([0.8, 0.5]), st.sampled_from([None, 1]))
def test_a_second_time_nothing_goes(
    found: list[tuple[int, set[int], int]], threshold: float, at_most: int | None
) -> None:
    drafts = made(found)
    a_filter = near(threshold=threshold, leakage_threshold=0.4, at_most=at_most)
    lost, links = decided(a_filter, table(drafts))
    losers = {one["row_key"] for one in lost}
    left = [one for one in drafts if one.key not in losers]
    again, links_again = decided(a_filter, table(left))
    assert again == []
    if at_most is None:
        assert sorted(links) == sorted(links_again)
        sets = {one.key: shingles(f"{one.messages[0][1]}\n{one.messages[1][1]}") for one in drafts}
        assert all(jaccard(sets[a], sets[b]) >= 0.4 for a, b in links)
        best = {one["row_key"]: jaccard(sets[one["row_key"]], sets[one["partner"]]) for one in lost}
        assert all(f"{best[one['row_key']]:.4f}" == one["value"] for one in lost)


def test_sets_in_a_file_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit the memory set aside for sets lies in a file."""
    rows = table([draft(n, words(n // 3, 60 + n // 3, f"t{n % 4}x")) for n in range(60)])
    first = decided(near(leakage_threshold=0.3), rows, parts=4)
    assert len(first[0]) > 10
    monkeypatch.setattr(near_dedup, "HELD", 0)
    assert decided(near(leakage_threshold=0.3), rows, parts=4) == first


# Settings and builds ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"threshold": 0.0}, "greater than 0"),
        ({"threshold": 1.1}, "less than or equal to 1"),
        ({"threshold": float("nan")}, "finite number"),
        ({"words": 0}, "greater than or equal to 1"),
        ({"at_most": 0}, "greater than or equal to 1"),
        ({"on": "answers"}, "'conversation', 'prompt' or 'answer'"),
        (
            {"threshold": 0.7, "leakage_threshold": 0.75},
            "leakage_threshold of at most its threshold, found 0.75 above 0.7",
        ),
        ({"treshold": 0.7}, "Extra inputs"),
    ],
)
def test_settings_out_of_range(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        NearDedup.Settings(**given)


def test_the_looser_threshold_follows_a_low_threshold() -> None:
    assert NearDedup.Settings(threshold=0.3).leakage_threshold == 0.3
    assert NearDedup.Settings().leakage_threshold == 0.6


def records(count: int) -> list[dict[str, Any]]:
    """Every tenth record says nearly what the one before it says."""
    found = []
    for number in range(count):
        text = words(0, 40, f"n{number - (number % 10 == 9)}x")
        if number % 10 == 9:
            text += " indeed"
        elif number % 10 == 5:  # half of what the one before it says, and some more
            text = words(0, 34, f"n{number - 1}x") + words(0, 6, f"n{number}y")
        found.append({"p": text, "a": "Yes.", "lang": "en", "license": "MIT"})
    return found


SPEC = builds.SMALL.replace("exact_dedup]", "{near_dedup: {threshold: 0.8}}]").replace(
    "{rows: 40}, weights: {a: 60, b: rest}", "{rows: 1000}"
)


def merged(build: Build) -> int:
    return sum(stage.counts["merged"] for stage in build.stages if stage.name.startswith("filter:near_dedup"))


def test_builds_merge_measure_once_and_do_not_depend_on_the_machine(tmp_path: Path) -> None:
    path = builds.spec(tmp_path, SPEC, records(60))
    first = builds.build(path, tmp_path / "w1")
    builds.check_law(first)
    assert merged(first) >= 6
    losers = [one for one in builds.entries(first.result.path).to_pylist() if one["rule"] == "near_duplicate"]
    assert {one["outcome"] for one in losers} == {"merged"}
    kept = set(builds.released(first.result.path)["row_key"].to_pylist())
    assert not kept & {one["row_key"] for one in losers}
    other = builds.build(path, tmp_path / "w2", workers=2, part_bytes=4096, inline_bytes=0, threads=2)
    assert other.result.digest == first.result.digest
    links = pa.concat_tables([pq.read_table(p) for p in sorted((tmp_path / "w1").rglob("links-*.parquet"))])
    assert len(links) >= 6
    assert links.column_names == ["one", "other"]
    assert all(one < other for one, other in zip(*(links[name].to_pylist() for name in ("one", "other")), strict=True))
    assert {key for pair in links.to_pylist() for key in pair.values()} <= kept

    again = builds.build(builds.spec(tmp_path, SPEC.replace("0.8}", "0.95}"), records(60)), tmp_path / "w1")
    cached = {stage.name: stage.cached for stage in again.stages}
    assert cached["measure:near_dedup"] and not cached["filter:near_dedup"]
    assert merged(again) < merged(first)
