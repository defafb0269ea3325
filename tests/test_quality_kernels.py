# ruff: noqa: E501 (cases are lines of texts)
"""Repetition, similarity and the scan of turns, against references that look at one text in plain Python."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aya_data.core.row import MESSAGES
from aya_data.filters.quality.phrases import Phrase, hint_of, matching_text, phrases, trie
from aya_data.filters.quality.phrases import kinds as kinds_of
from aya_data.filters.quality.scan import COLUMNS, scan
from aya_data.text.folding import IGNORED, LIMIT, MARK, WHITE, WORD
from aya_data.text.repetition import FLOOR, measure_repeat
from aya_data.text.similarity import LEAST, measure_similarity

ALPHABETS = ("ab", "abc ", "кот и пес", "กขค", "漢字仮", "नमस्", "שלום ", "مرحبا ", "한글", "aé漢ก🎉\n")
WORDS = (
    "the", "The", "AI", "кошка", "ПРИВЕТ", "straße", "İstanbul", "ﬁne", "कुत्ता", "สวัสดี", "漢字", "かな", "नहीं", "بسم", "مُحَمَّد", "שָׁלוֹם",
    "42", "٤٢", "½", "e\u0301", "zero\u200cwidth", "—", "...", "?!", "。", "।", "·", "•", "🎉", "#tag", "@me", "(a)", "[b]", "\u00a0",
    "\ufffd", "\U00020000", "\U000e0041", "Ã©", "â€™", "Ð¿Ñ€", "à\u00a0»", "http://a.bc/d", "(https://x.y)", "www.z", "x<br/>", "&amp;",
    "<noinput>", "N/A", "None", "Human:", "### Response:", "<|im_end|>", "</s>", "<s>",
)  # fmt: skip
BREAKS = ("", " ", "  ", "\n", " \n ", "\t", "\u3000", "\u2028")

FOLDED = {phrase: matching_text(phrase.text) for phrase in phrases()}

in_scripts = st.one_of([st.text(alphabet, max_size=50) for alphabet in ALPHABETS])
said = st.sampled_from([phrase.text for phrase in phrases() if "`" not in phrase.text])
pieces = st.one_of(st.sampled_from(WORDS), said, said.map(str.upper), in_scripts)
texts = st.lists(st.tuples(pieces, st.sampled_from(BREAKS)), max_size=14).map(
    lambda made: "".join(piece + gap for piece, gap in made)
)


# Longest repeat -----------------------------------------------------------------------------------


def longest_repeat(text: str) -> int:
    best = 0
    for one in range(len(text)):
        for other in range(one + 1, len(text)):
            size = 0
            while other + size < len(text) and text[one + size] == text[other + size]:
                size += 1
            best = max(best, size)
    return best if best >= max(1, math.ceil(FLOOR * len(text))) else 0


repeating = st.builds(lambda a, b, c, times: a + b * times + c, in_scripts, in_scripts, in_scripts, st.integers(1, 4))


@given(repeating)
@settings(max_examples=300, deadline=None)
@example("")
@example("aa")
@example("abcabc")
@example("a" * 90)
def test_the_longest_repeat_is_exact(text: str) -> None:
    length, one, other = measure_repeat(text)
    assert length == longest_repeat(text)
    if length:
        assert one < other
        assert text[one : one + length] == text[other : other + length]


def test_a_repeat_of_a_long_text_is_found_wherever_it_stands() -> None:
    base = "".join(chr(0x4E00 + (number * number * 31 + number * 17) % 9973) for number in range(4000))
    for place in (0, 1, 777, 2999):
        assert measure_repeat(base + base[place : place + 1000])[0] >= 1000
    assert measure_repeat(base)[0] == 0


def test_words_on_which_polynomial_hashes_collide_take_no_longer() -> None:
    # Thue-Morse: its halves, complements of each other, collide modulo every power of two.
    text = "".join("ab"[bin(number).count("1") % 2] for number in range(1 << 16))
    length, one, other = measure_repeat(text)
    assert length >= len(text) // 4
    assert text[one : one + length] == text[other : other + length]


# Similarity ---------------------------------------------------------------------------------------


def levenshtein(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


@given(in_scripts, st.lists(st.tuples(st.integers(0, 50), st.sampled_from(["", "x", "漢"]), st.booleans()), max_size=9))
@settings(max_examples=300, deadline=None)
def test_similarity_is_the_normalised_edit_distance(text: str, edits: list[tuple[int, str, bool]]) -> None:
    other = text
    for place, put, replace in edits:
        place = min(place, len(other))
        other = other[:place] + put + other[place + replace :]
    longer = max(len(text), len(other))
    wanted = 1 - levenshtein(text, other) / longer if longer else 0.0
    if wanted < LEAST - 1e-9:
        wanted = 0.0
    for one, two in ((text, other), (other, text)):
        assert measure_similarity(one, two) == pytest.approx(wanted, abs=1e-9)


# The scan, against plain Python -------------------------------------------------------------------


def rows(*conversations: list[tuple[str, str]]) -> pa.Table:
    made = [[{"role": role, "content": text} for role, text in turns] for turns in conversations]
    return pa.table({"messages": pa.array(made, MESSAGES), "chosen": pa.array([None] * len(made), MESSAGES)})


def kind_of(character: str) -> int:
    point = ord(character)
    if point < LIMIT:
        return int(kinds_of()[point])
    return IGNORED if 0xE0000 <= point <= 0xE0FFF else 2 if 0x20000 <= point <= 0x3FFFF else 0


def tokens_of(text: str) -> list[tuple[str, bool]]:
    """Words and, of scripts without spaces, characters (True)."""
    found: list[tuple[str, bool]] = []
    word = ""
    for character in text + "\n":
        kind = kind_of(character)
        if kind == WORD or (kind == MARK and word):
            word += character
            continue
        if word and kind != MARK:
            found.append((word, False))
            word = ""
        if 2 <= kind < WHITE:
            found.append((character, True))
    return found


def places(phrase: Phrase, text: str) -> list[int]:
    """Where a phrase stands in a text for matching."""
    wanted = FOLDED[phrase]
    flat = text.replace("\n", " ")
    found = []
    at = -1
    while (at := flat.find(wanted, at + 1)) >= 0:
        end = at + len(wanted)
        spelled = (WORD, MARK)
        before = kind_of(text[at - 1]) if at else 0
        after = kind_of(text[end]) if end < len(text) else 0
        line = at == 0 or text[at - 1] == "\n"
        if kind_of(text[at]) in spelled and before in spelled:
            continue
        fits = {
            "word": not (kind_of(text[end - 1]) in spelled and after in spelled),
            "open": True,
            "line": line,
            "whole_line": line and text[end : end + 1] in ("", "\n"),
            "whole": at == 0 and end == len(text),
            "last_line": line and at > 0 and end == len(text),
            "start": at == 0,
            "end": end == len(text),
            "tag": end < len(text) and text[end] in ">/ \n",
            "url": False,
        }
        if fits[phrase.where]:
            found.append(at)
    return found


def grams(tokens: list[str], sizes: list[int], n: int) -> tuple[int, int]:
    """Characters in n-grams that stood before, and of the most frequent one."""
    seen: Counter[tuple[str, ...]] = Counter()
    covered: set[int] = set()
    top = 0
    for at in range(len(tokens) - n + 1):
        gram = tuple(tokens[at : at + n])
        seen[gram] += 1
        if seen[gram] > 1:
            covered.update(range(at, at + n))
            top = max(top, seen[gram] * sum(sizes[at : at + n]))
    return sum(sizes[at] for at in covered), min(top, sum(sizes))


def repeated_lines(text: str) -> tuple[int, int]:
    lines = [line.strip() for line in text.split("\n")]
    seen: set[str] = set()
    total = repeated = 0
    for line in filter(None, lines):
        total += len(line)
        repeated += len(line) if line in seen else 0
        seen.add(line)
    return total, repeated


@given(texts)
@settings(max_examples=200, deadline=None)
def test_a_turn_is_measured_as_the_reference_measures_it(text: str) -> None:
    normal = unicodedata.normalize("NFC", text)
    table = scan(rows([("assistant", text)])).to_pylist()[0]
    found = table["turns"][0]
    visible = [c for c in normal if kind_of(c) != WHITE]
    assert found["chars"] == len(normal)
    assert found["solid"] == len(visible)
    seen = [c for c in visible if kind_of(c) != IGNORED]
    assert found["digits"] == sum(unicodedata.category(c) == "Nd" for c in seen)
    assert found["symbols"] == sum(unicodedata.category(c)[0] in "PS" for c in seen if ord(c) < LIMIT)
    assert found["lost"] == text.count("\ufffd")
    folded = matching_text(text)
    tokens = tokens_of(folded)
    assert found["words"] == len(tokens)
    sizes = [len(token) for token, _ in tokens]
    n, top = (10, 6) if 2 * sum(alone for _, alone in tokens) > len(tokens) else (5, 3)
    named = [token for token, _ in tokens]
    assert found["gram_chars"] == sum(sizes)
    assert found["repeated_gram_chars"] == grams(named, sizes, n)[0]
    assert found["top_gram_chars"] == grams(named, sizes, top)[1]
    assert found["repeat"] == longest_repeat(normal)
    if "\n" in normal.strip():
        assert (found["line_chars"], found["repeated_line_chars"]) == repeated_lines(normal)
    if "`" in text:
        return
    wanted: dict[str, list[tuple[int, int, int]]] = {}
    for number, phrase in enumerate(phrases()):
        for at in places(phrase, folded):
            wanted.setdefault(phrase.rule, []).append((at, len(FOLDED[phrase]), number))
    hits = {phrases()[hit["entry"]].rule: hit for hit in table["found"]}
    assert {rule: (min(all_)[2], len(all_)) for rule, all_ in wanted.items()} == {
        rule: (hit["entry"], hit["count"]) for rule, hit in hits.items()
    }
    for hit in hits.values():
        start = matching_text(normal[hit["at"] :]).replace("\n", " ")
        assert start.startswith(matching_text(phrases()[hit["entry"]].text))


@given(
    st.text(
        "aeèêạộệÅǖ가각각य़ড়য়ৌোेெொ;\u037e\u0340\u2126가́̀̂̈̌̇̄̓̔̃̊̆\u0323\u0327\u0328\u0345\u05b0\u0651\u093c\u094d\u09be\u09c7 ",
        max_size=9,
    )
)
@settings(max_examples=500, deadline=None)
@example("è\u0323")
@example("ą\u0307\u0323")
@example("\u09c7\u09df\u09be")
def test_a_turn_is_measured_in_composed_form(text: str) -> None:
    normal = unicodedata.normalize("NFC", text)
    assert scan(rows([("user", text), ("assistant", f"a {text}")])) == scan(
        rows([("user", normal), ("assistant", unicodedata.normalize("NFC", f"a {text}"))])
    )


@given(st.one_of(repeating, st.builds(lambda a, b, c, gap: a + b + gap + c + gap + b, texts, texts, texts, in_scripts)))
@settings(max_examples=300, deadline=None)
@example("we said it once and that is that, so - once and that is that, s")
def test_the_longest_repeat_of_a_turn_is_not_overlooked(text: str) -> None:
    """However few tokens stand in it: most texts are not searched, because their tokens do not repeat."""
    normal = unicodedata.normalize("NFC", text)
    assert scan(rows([("user", text)])).to_pylist()[0]["turns"][0]["repeat"] == longest_repeat(normal)


def test_a_turn_depends_on_no_other() -> None:
    made = [[("user", word * 3), ("assistant", f"{word} {other}\n{word}")] for word in WORDS for other in WORDS[:9]]
    whole = scan(rows(*made)).to_pylist()
    for number in range(0, len(made), 37):
        assert scan(rows(made[number])).to_pylist() == [whole[number]]
    assert scan(rows()).num_rows == 0


def test_preference_rows_are_read_by_their_chosen_answer() -> None:
    shared = [{"role": "user", "content": "Question?"}]
    chosen = [*shared, {"role": "assistant", "content": "A good answer."}]
    table = pa.table(
        {
            "messages": pa.array([shared, [*shared, *shared], shared], MESSAGES),
            "chosen": pa.array([chosen, None, chosen], MESSAGES),
        }
    )
    found = scan(table).to_pylist()
    assert [[turn["role"] for turn in row["turns"]] for row in found] == [[1, 2], [1, 1], [1, 2]]
    assert found[0] == found[2]
    assert found[0]["turns"][1]["words"] == 3
    assert set(found[0]["turns"][0]) == set(COLUMNS)


# The phrases --------------------------------------------------------------------------------------


def test_every_phrase_is_found_where_it_may_stand() -> None:
    frames = {
        "word": "x, {}, y", "open": "x, {}", "line": "x\n{} y", "whole_line": "x\n{}\ny", "whole": "{}", "last_line": "x\n{}",
        "start": "{} x", "end": "x {}", "tag": "x {}>",
    }  # fmt: skip
    wanted = [(number, phrase) for number, phrase in enumerate(phrases()) if phrase.where != "url"]
    made = [[("assistant", frames[phrase.where].format(phrase.text))] for _, phrase in wanted]
    for (_, phrase), row in zip(wanted, scan(rows(*made)).to_pylist(), strict=True):
        assert phrase.rule in {phrases()[hit["entry"]].rule for hit in row["found"]}, phrase


def test_the_hash_of_three_characters_is_that_of_the_kernel() -> None:
    found = trie()
    for phrase in phrases():
        text = matching_text(phrase.text)
        assert found.short[ord(text[0])] if len(text) < 3 else found.hint[hint_of(*map(ord, text[:3]))]


@pytest.mark.parametrize(
    ("text", "garbled"),
    [
        ("cafÃ© au lait", 2), ("donâ€™t", 3), ("ÐŸÑ€Ð¸Ð²ÐµÑ‚", 12), ("ä½\u00a0å¥½", 6), ("20Â°C", 2), ("voilà\u00a0» dit-il", 0),
        ("« été\u00a0»", 0), ("AMANHÃ… talvez", 0), ("IRMÃ»", 0), ("ÀÉÈ ÎÔÛ", 0), ("Ă¢ncient ţară", 0), ("naïve façade", 0),
        ("Ünlü ‘söz’", 0), ("Đà Nẵng, Việt Nam", 0), ("São Paulo – Brasil", 0), ("Grüße…", 0), ("Â", 0), ("Ã", 0),
    ],
)  # fmt: skip
def test_mojibake_is_told_from_letters(text: str, garbled: int) -> None:
    assert scan(rows([("user", text)])).to_pylist()[0]["turns"][0]["garbled"] == garbled
