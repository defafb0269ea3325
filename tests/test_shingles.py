"""Shingles, signatures and matching: every kernel against a reference that reads like its definition."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import combinations, groupby, pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aya_data.core.row import normal_text
from aya_data.text.folding import IGNORED, LIMIT, MARK, SEPARATOR, WHITE, WORD, fold, kind_of
from aya_data.text.matching import jaccard, match, near_others
from aya_data.text.minhash import PERMUTATIONS, banding, least_agreeing, signatures
from aya_data.text.shingles import Gram, Pieces, pieces_of, shingle_sets
from tests.shingled import shingles

SCRIPTS = (
    "abzéßİſÅ ẞ", "абвйё", "αβςΐ", "אבּשׁ", "اأپَّـی‌", "हिकय़क़ी", "বাকোয়ড়", "ਕੜਖ਼", "தமிொ", "తెలుగుౘ", "ಕನ್ನೊ", "മലൊ",
    "ไทยกำ้๑", "ລາວຳ", "ខ្មែរ\u200b", "မြန်မ", "བོད་ཡི", "中文字々〇", "ひらがゞカタｶﾞー",
    "한국어ᄀ가ㅏ", "አማርኛ", "ქართ", "հայևﬓ", "𐐀𐐨𝐀", "👍🏽️", "ⅣⅫ½²①",
)  # fmt: skip
MARKS = "়়゙ِّ̧̣́̈\u200b­️"
ASCII = "abc XYZ 019 _-+.,!?\n\t"
texts = st.lists(
    st.one_of(*(st.text(alphabet=letters, max_size=12) for letters in (*SCRIPTS, MARKS, ASCII, ASCII, ASCII))),
    max_size=6,
).map("".join)


def sets(texts: Sequence[str], gram: Gram | None = None) -> list[frozenset[int]]:
    found, bounds = shingle_sets(pieces_of(texts), gram or Gram())
    return [frozenset(found[a:b].tolist()) for a, b in pairwise(bounds)]


def same_incidence(texts: Sequence[str], gram: Gram) -> None:
    """The hashes stand for the shingles of the reference: equal where those are equal, and nowhere else."""
    wanted: dict[object, set[int]] = {}
    found: dict[int, set[int]] = {}
    for number, (text, own) in enumerate(zip(texts, sets(texts, gram), strict=True)):
        reference = shingles(text, gram.words, gram.characters)
        assert len(reference) == len(own), text
        for shingle in reference:
            wanted.setdefault(shingle, set()).add(number)
        for value in own:
            found.setdefault(value, set()).add(number)
    assert sorted(map(sorted, wanted.values())) == sorted(map(sorted, found.values()))


# Shingles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One two, three – four five SIX! seven eight nine", 5),
        ("one two three four five six seven eight", 1),
        ("今天天气很好我们去公园", 7),
        ("今天天气很好我们", 1),
        ("วันนี้อากาศดี", 9),
        ("我用Python3写代码 and then I go home again", 5),
        ("مي‌خواهم بروم خانه و بعد دوباره برگردم اینجا با شما", 6),
        ("   ", 0),
        ("", 0),
        ("?!", 1),
    ],
)
def test_how_many_shingles(text: str, wanted: int) -> None:
    assert len(shingles(text)) == len(sets([text])[0]) == wanted


@settings(max_examples=200, deadline=None)
@given(st.lists(texts, min_size=1, max_size=6), st.sampled_from([Gram(), Gram(1, 1), Gram(2, 3), Gram(3, 2)]))
@example(["가", "가", "각", "각"], Gram(1, 1))
@example(["Å", "Å", "å", "が", "が"], Gram(1, 1))
@example(["ạ̈", "ạ̈"], Gram(1, 1))
@example(["ﷺ ﷺ", "صلى الله عليه وسلم صلى الله عليه وسلم"], Gram(2, 2))
def test_sets_are_those_of_the_reference(texts: list[str], gram: Gram) -> None:
    same_incidence(texts, gram)


@settings(max_examples=500, deadline=None)
@given(
    st.text("aeèêạệÅ가각각य़ড়ো;\u037e\u0340ﬁ²́̀̂̈\u0323\u0327\u0328\u0345\u05b0\u0651\u093c\u094d\u09be\u09c7 ", max_size=9)
)
@example("è\u0323")
@example("ą\u0307\u0323")
def test_marks_count_in_canonical_order(text: str) -> None:
    """After composed letters too, which end with a mark though they are none."""
    written, folded = sets([text, fold(text)], Gram(1, 1))
    assert written == folded


def test_the_longest_shingles() -> None:
    """As many tokens as a shingle may have, and texts about that long."""
    spaced = [
        " ".join(f"w{number}" for number in range(first, first + size)) for first in (0, 1) for size in (128, 200)
    ]
    unspaced = ["".join(chr(0x4E00 + number) for number in range(size)) for size in (63, 64, 127, 128, 300)]
    same_incidence([*spaced, *unspaced, spaced[0] + unspaced[-1]], Gram(64, 64))


def test_batches_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few shingles are made at a time, and wherever a text stands that must be folded first."""
    odd = "e\u0323\u0302 " * 20
    found = ["", odd, *(f"one two three four five six seven {number} nine ten" for number in range(50)), odd, "short"]
    pieces, salts = pieces_of(found), np.zeros(len(found), np.uint64)
    wanted, signed = sets(found), signatures(pieces, Gram(), salts)
    monkeypatch.setattr("aya_data.text.shingles.BATCH", 1)
    assert sets(found) == wanted
    again = signatures(pieces, Gram(), salts)
    assert np.array_equal(again.minima, signed.minima)
    assert np.array_equal(again.sequence, signed.sequence)
    assert np.array_equal(again.count, signed.count)


@pytest.mark.parametrize("plane", range(3))
def test_every_character(plane: int) -> None:
    """Each assigned character, after a letter that many marks compose with, and before one."""
    points = [
        p for p in range(plane << 16, (plane + 1) << 16) if unicodedata.category(chr(p)) not in ("Cn", "Cs", "Co")
    ]
    if plane == 2:
        points = points[::97] + list(range(0x2F800, 0x2FA1E, 5))
    wanted = [
        f"{chr(p)}e{chr(p)} {chr(p)}" for p in points if plane or not (0x4E10 <= p <= 0x9FF0 or 0xAC10 <= p <= 0xD7A0)
    ]
    same_incidence(wanted, Gram(1, 1))
    assert LIMIT == 0x20000


@settings(max_examples=200, deadline=None)
@given(texts, texts)
@example("C++", "C#")
@example("ＦＵＬＬ　width", "full width")
@example("straße", "STRASSE")
def test_short_texts_are_compared_whole(one: str, two: str) -> None:
    first, second = sets([one, two])
    if {kind for text in (one, two) for _, kind, _ in shingles(text)} == {"whole"}:
        assert (first == second) == (normal_text(one) == normal_text(two))


def test_kinds() -> None:
    named = {
        " ": WHITE, "\n": WHITE, ".": SEPARATOR, "_": SEPARATOR, "+": SEPARATOR, "👍": SEPARATOR,
        "‍": IGNORED, "­": IGNORED,
        "️": IGNORED, "a": WORD, "7": WORD, "한": WORD, "ห": 3, "๗": WORD,
        "中": 2, "の": 2, "ー": 2, "〇": 2, "́": MARK, "့": 6,
    }  # fmt: skip
    assert {character: kind_of(character) for character in named} == named


def test_turns_are_joined_by_line_breaks() -> None:
    parts = ["one two three", "four ع", "five six seven eight nine", "ten Å", "eleven"]
    column = pa.array(parts, pa.large_string())
    whole = pieces_of(column)
    joined = Pieces(whole.data, whole.starts, whole.ends, np.array([0, 2, 2, 5]))
    found, bounds = shingle_sets(joined, Gram())
    wanted = sets(["\n".join(parts[:2]), "", "\n".join(parts[2:])])
    assert [frozenset(found[a:b].tolist()) for a, b in pairwise(bounds)] == wanted
    sliced = pieces_of(column.slice(2, 2))
    assert [sliced.text(0), sliced.text(1)] == parts[2:4]


def test_salted_texts_share_nothing() -> None:
    text = "the same text of quite some words, said twice over"
    found, bounds = shingle_sets(pieces_of([text, text]), Gram(), np.array([0, 7], np.uint64))
    assert jaccard(found[: bounds[1]], found[bounds[1] :]) == 0.0


# Signatures ---------------------------------------------------------------------------------------


def edited(count: int, length: int, changed: int) -> list[str]:
    """Pairs of texts, one after the other, of which the second has some words changed."""
    made = []
    for number in range(count):
        words = [f"w{number}x{place}" for place in range(length)]
        made.append(" ".join(words))
        for place in range(changed):
            words[place * length // changed] = f"other{number}x{place}"
        made.append(" ".join(words))
    return made


@pytest.mark.parametrize(("length", "changed"), [(60, 1), (60, 3), (200, 20), (12, 1)])
def test_signatures_agree_as_often_as_sets_do(length: int, changed: int) -> None:
    made = edited(150, length, changed)
    found = signatures(pieces_of(made), Gram(), np.zeros(len(made), np.uint64))
    own = sets(made)
    true = np.array([len(a & b) / len(a | b) for a, b in zip(own[::2], own[1::2], strict=True)])
    seen = (found.minima[::2] == found.minima[1::2]).mean(axis=1)
    error = seen - true
    assert abs(error.mean()) < 0.02
    assert np.sqrt((error**2).mean()) < 1.3 * np.sqrt((true * (1 - true) / PERMUTATIONS).mean()) + 1e-9
    assert found.count.tolist() == [length - 4] * len(made)
    assert len(set(found.sequence.tolist())) == len(made)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0])
def test_bands_find_what_is_at_the_threshold(threshold: float) -> None:
    bands = banding(threshold)
    assert bands.rows * bands.bands <= PERMUTATIONS
    assert bands.agreeing == least_agreeing(threshold) <= PERMUTATIONS
    if threshold >= 0.1:
        assert bands.found(threshold) >= 0.995


# Matching -----------------------------------------------------------------------------------------


def greedy(own: Sequence[frozenset[int]], threshold: float, settled: Sequence[bool]) -> list[int]:
    """The definition: the best kept text that each resembles, or -1."""
    kept: list[int] = []
    partner = []
    for number, mine in enumerate(own):
        found = -1
        if not settled[number]:
            found = next((k for k in kept if np.round(len(mine & own[k]) / len(mine | own[k]), 4) >= threshold), -1)
        if found < 0:
            kept.append(number)
        partner.append(found)
    return partner


def matched(made: Sequence[str], threshold: float, looser: float, settled: Sequence[bool] | None = None):  # type: ignore[no-untyped-def]
    pieces = pieces_of(made)
    found, bounds = shingle_sets(pieces, Gram())
    stays = np.zeros(len(made), np.bool_) if settled is None else np.array(settled)
    signed = signatures(pieces, Gram(), np.zeros(len(made), np.uint64))
    rows, alone = np.arange(len(made)), np.full(len(made), -1)
    return match(
        signed.minima, found, bounds[:-1], np.diff(bounds), rows, stays, alone, 0, banding(looser), threshold, looser
    )


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_matches_are_those_of_the_definition(threshold: float) -> None:
    made = [text for changed in (1, 2, 3, 4, 6) for text in edited(12, 60, changed)]
    made += [text.replace("x5 ", "y5 ").replace("x40 ", "y40 ") for text in made[::2]]
    settled = [number % 17 == 3 for number in range(len(made))]
    own = sets(made)
    found = matched(made, threshold, 0.4, settled)
    assert found.partner.tolist() == greedy(own, threshold, settled)
    for text, partner in enumerate(found.partner.tolist()):
        if partner >= 0:
            true = len(own[text] & own[partner]) / len(own[text] | own[partner])
            assert found.resemblance[text] == np.round(true, 4) >= threshold
    joined = {frozenset(pair) for pair in found.links.tolist()}
    for a, b in joined:
        assert found.partner[a] < 0 > found.partner[b]
        assert np.round(len(own[a] & own[b]) / len(own[a] | own[b]), 4) >= 0.4


def test_a_chain_does_not_collapse() -> None:
    words = [f"word{n}" for n in range(100)]
    chain = [" ".join([*words, *(f"more{n}" for n in range(15 * step))]) for step in range(4)]
    own = sets(chain)
    near = [round(len(a & b) / len(a | b), 2) for a, b in combinations(own, 2)]
    assert near == [0.86, 0.76, 0.68, 0.88, 0.79, 0.89]
    assert matched(chain, 0.8, 0.6).partner.tolist() == [-1, 0, -1, 2]


def test_many_texts_of_one_template() -> None:
    """A heap larger than what one text may look at, in which nothing is alike enough, and a few pairs that are."""
    template = " ".join(f"fixed{n}" for n in range(40))
    made = [template + " " + " ".join(f"own{n}x{place}" for place in range(14)) for n in range(6000)]
    pairs = [text.rpartition(" ")[0] + " changed" for text in made[100:6000:600]]
    found = matched([*made, *pairs], 0.8, 0.8)
    assert np.flatnonzero(found.partner >= 0).tolist() == list(range(6000, 6000 + len(pairs)))
    assert found.partner[6000:].tolist() == list(range(100, 6000, 600))


def test_only_texts_with_a_likely_partner_are_marked() -> None:
    made = [*edited(40, 60, 1), *(f"alone {n} " + " ".join(f"z{n}y{p}" for p in range(30)) for n in range(200))]
    signed = signatures(pieces_of(made), Gram(), np.zeros(len(made), np.uint64))
    for threads in (1, 2):
        marked = near_others(signed.minima, banding(0.6), threads)
        assert marked.tolist() == [True] * 80 + [False] * 200


def test_nothing_to_match() -> None:
    assert matched([], 0.8, 0.6).partner.tolist() == []
    assert [len(values) for values in shingle_sets(pieces_of([]), Gram())] == [0, 1]


def test_the_reference_cuts_runs() -> None:
    """What the reference itself says of a mixed text."""
    found = shingles("We met 王小明先生 there on Monday at noon, didn't we?")
    by_kind = {kind: [s for s in found if s[0] == kind] for kind, _ in groupby(sorted(found), key=lambda s: s[0])}
    assert by_kind[2] == [(2, "gram", tuple("王小明先生"))]
    assert (WORD, "short", ("we", "met")) in found
    assert (WORD, "gram", ("there", "on", "monday", "at", "noon")) in found
