"""The decontaminate filter: every method at its boundary, kernels against brute force, laws, and a whole build."""

from __future__ import annotations

import json
import pickle
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aya_data import api
from aya_data.cli.shortfalls import shortfalls
from aya_data.core.errors import SpecError
from aya_data.core.identity import draw
from aya_data.core.row import Draft, tabulate
from aya_data.core.stage import Verdicts
from aya_data.core.statistics import from_table
from aya_data.engine.release import FOLDERS
from aya_data.filters.decontaminate.filter import Decontaminate
from aya_data.filters.decontaminate.index import record_key
from aya_data.text.folding import IGNORED, SEPARATOR, WHITE, fold, kind_of
from tests.test_filters import check_shape, environment

LANGUAGES = (
    "eng", "tur", "ell", "rus", "heb", "arb", "hin", "ben", "tel", "tha", "khm", "kor", "jpn", "zho_Hans", "zho_Hant",
    "amh", "vie", "pes",
)  # fmt: skip
"""Of sixteen scripts."""


# Rows ---------------------------------------------------------------------------------------------


@cache
def sample(language: str) -> tuple[tuple[str, str], ...]:
    """Prompts and answers of the bundled samples."""
    path = resources.files("aya_data.builders") / "samples" / "texts" / f"{language}.jsonl"
    records = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    return tuple((r["prompt"], r["answer"]) for r in records if r.get("prompt") and r.get("answer"))


def row_table(pairs: Sequence[tuple[str, str | None]], source: str = "s", **more: Any) -> pa.Table:
    drafts = [
        Draft(
            key=f"{source}{number:05d}",
            messages=[("user", prompt)] + ([("assistant", answer)] if answer else []),
            place=("file", number),
            **{"language": "eng", "license": "MIT", "dataset": source, **more},
        )
        for number, (prompt, answer) in enumerate(pairs)
    ]
    made = tabulate(drafts, source, "conversation" if all(answer for _, answer in pairs) else "prompt", 10**7)
    assert not made.rejections, made.rejections
    return made.rows


def decontaminate(**given: Any) -> Decontaminate:
    return Decontaminate(Decontaminate.Settings(**{"against": ("suite",), **given}), environment())


def index(a_filter: Decontaminate, *tables: pa.Table) -> pa.Table:
    return a_filter.index(table.select(a_filter.index_columns) for table in tables)


def verdicts(a_filter: Decontaminate, rows: pa.Table, held: pa.Table) -> Verdicts:
    measures = a_filter.compare(rows.select(a_filter.measure_columns), held)
    assert len(measures) == len(rows)
    found = a_filter.judge(rows.select(a_filter.columns), measures)
    check_shape(found, len(rows))
    return found


def found(items: Sequence[tuple[str, str | None]], pairs: Sequence[tuple[str, str | None]], **given: Any) -> Verdicts:
    a_filter = decontaminate(**given)
    return verdicts(a_filter, row_table(pairs), index(a_filter, row_table(items, "suite")))


def numbers(key: str) -> Iterator[int]:
    step = 0
    while True:
        yield draw(7, key, str(step))
        step += 1


def edited(text: str, key: str, alphabet: Sequence[str], share: float) -> str:
    """Edit a share of a text's pieces (letters, or words of a list): substitute, delete or insert."""
    drawn = numbers(key)
    pieces = list(text) if len(alphabet[0]) == 1 else text.split(" ")
    places: set[int] = set()
    while len(places) < int(share * len(pieces)):
        places.add(next(drawn) % len(pieces))
    for place in sorted(places, reverse=True):
        how, other = next(drawn) % 3, alphabet[next(drawn) % len(alphabet)]
        pieces[place : place + (how != 2)] = [] if how == 1 else [other]
    return ("" if len(alphabet[0]) == 1 else " ").join(pieces)


QUESTION = (
    "How many stations does the coastal railway between Bergen and the old harbour have, and which is the oldest?"
)
ANSWER = (
    "It has fourteen stations; the oldest, opened in 1883 beside the fish market, is built of red brick and "
    "still has its wooden clock tower."
)


# What is found ------------------------------------------------------------------------------------


def test_copies_and_edited_copies_are_found_in_every_script() -> None:
    items = {language: sample(language) for language in LANGUAGES}
    a_filter = decontaminate()
    held = index(a_filter, *(row_table([(q, None) for q, _ in pairs], f"suite_{n}") for n, pairs in items.items()))
    copies = edits = lost = 0
    for language, pairs in items.items():
        prompts = [prompt for prompt, _ in pairs]
        letters = [c for c in "".join(prompts) if c.isalpha()]
        words = " ".join(prompts).split()
        exact = [(prompt.upper(), "A sentence of no meaning.") for prompt in prompts]
        exact += [(f"Please: {p}\nThank you.", "Said again.") for p in prompts if len(p) > 30]
        assert verdicts(a_filter, row_table(exact), held).drop.all(), language
        changed = [(edited(p, f"{language} {n}", letters, 0.15), "No.") for n, p in enumerate(prompts)]
        if len(words) > 5 * len(prompts):
            changed += [(edited(p, f"{language} w{n}", words, 0.15), "No.") for n, p in enumerate(prompts)]
        dropped = verdicts(a_filter, row_table(changed), held).drop
        copies, edits, lost = copies + len(exact), edits + len(changed), lost + int((~dropped).sum())
    assert copies > 400 and edits > 400
    assert lost <= 0.05 * edits, f"{lost} of {edits}"


def test_other_rows_stay() -> None:
    """Half of the samples as benchmarks, the other half as rows, but for the copies among them."""
    items = [pair for language in LANGUAGES for pair in sample(language)[::2]]
    others = [pair for language in LANGUAGES for pair in sample(language)[1::2]]
    known = {fold(text) for pair in items for text in pair}
    others = [pair for pair in others if not {fold(text) for text in pair} & known]
    dropped = found(items, others)
    shown = [evidence for evidence in dropped.evidence if evidence]
    assert len(others) > 120
    # The capitals of two countries: short questions that differ in a name are one to the eye of a letter.
    assert len(shown) <= 2, shown


def test_an_item_inside_a_longer_text_is_found_with_its_span() -> None:
    essay = "Here is some homework that I was given by my teacher.\n\n" + QUESTION + "\n\nWrite two paragraphs."
    verdict = found([(QUESTION, ANSWER)], [("Hello there!", "Good day."), (essay, "No idea.")])
    assert verdict.drop.tolist() == [False, True]
    assert (verdict.rule[1], verdict.value[1], verdict.threshold[1]) == ("contaminated_near", "1.0000", "0.75")
    begin = essay.index(QUESTION)
    text = QUESTION[:79] + "…"
    span = f"turn 0, characters {begin} to {begin + len(QUESTION) - 1}: {text!r}"
    assert verdict.evidence[1] == f"suite suite00000; {span}"


def test_an_answer_is_found_by_itself_when_it_is_long() -> None:
    rows = [("Tell me of an old railway.", f"Gladly. {ANSWER}"), ("Tell me of another.", "Fourteen stations.")]
    verdict = found([(QUESTION, ANSWER), ("How many?", "Fourteen stations.")], rows)
    assert verdict.drop.tolist() == [True, False]
    assert (verdict.evidence[0] or "").startswith("suite suite00000; answer in turn 1, characters 8 to ")


def test_ngrams_find_a_part_that_is_quoted() -> None:
    item = " ".join(f"{w}{n}" for n in range(12) for w in ("harbour", "engine", "lantern", "ladder", "window"))
    words = item.split()
    quoted = "Listen. " + " ".join(words[:40]) + " and so on, and a few more words that were not there."
    verdict = found([(item, None)], [(quoted, "Fine.")])
    assert (verdict.rule[0], verdict.threshold[0]) == ("contaminated_ngrams", "0.5")
    # 33 of 53 grams of eight words.
    assert verdict.value[0] == f"{33 / 53:.4f}"
    assert not found([(item, None)], [(" ".join(words[:25]), "Fine.")]).drop.any()


TEMPLATE = "Read the passage below with care, then answer the question that follows it in one short sentence."


def test_what_items_share_is_boilerplate() -> None:
    """A passage with five questions: the passage and the template are no hit, a question is."""
    asked = (
        "Who built the first lighthouse on the northern cape?", "In which decade was the harbour wall extended?",
        "What did the fishermen trade for their winter grain?", "Why was the ferry service moved to the southern quay?",
        "How long did the storm of the third autumn last?",
    )  # fmt: skip
    passage = " ".join(text for text, _ in sample("eng")[:4])
    items: list[tuple[str, str | None]] = [(f"{TEMPLATE}\n\n{passage}\n\n{q}", "Yes.") for q in asked]
    rows: list[tuple[str, str | None]] = [
        (f"{TEMPLATE}\n\n{passage}\n\nList the verbs of the text in the order of the alphabet.", "None."),
        (f"{TEMPLATE}\n\nThe bakery opens at six.\n\nWhen does the bakery open?", "At six."),
        (f"Do you know this one? {asked[2]}", "Dried cod."),
    ]
    verdict = found(items, rows)
    assert verdict.drop.tolist() == [False, False, True], verdict.evidence
    assert "suite00002" in (verdict.evidence[2] or "")
    # Without others that share it, the passage is what the item says.
    assert found(items[:1], rows).drop.tolist() == [True, False, False]


def test_items_that_differ_in_a_word_are_found_inside_other_text() -> None:
    """Of each hardly a letter is its own, so that none of its seeds would be; the template with another word stays."""
    families = {
        "Who is the {} quarterback to play in a Super Bowl?": ("oldest", "only", "best", "last", "first"),
        "{} ρέει μεταξύ της Μπίνγκεν και της Βόννης;": ("Τι", "Ποιος", "Γιατί", "Πώς", "Πού"),
        "{}คือควอเตอร์แบ็กที่อายุมากที่สุดที่เล่นในซูเปอร์โบว์ล": ("ใคร", "นี่", "เขา", "พ่อ", "ลุง"),
        "{} сыграл в финале чемпионата мира по хоккею с мячом?": ("Кто", "Он", "Брат", "Я", "Ты"),
        "{}是在超级碗比赛当中出场的年龄最大的四分卫运动员": ("谁", "他", "她", "你", "我"),
    }
    items = [(frame.format(word), None) for frame, words in families.items() for word in words]
    before, after = "Submarines travel underwater.", "They remain there for an extended amount of time."
    inside = [(f"{before} {text} {after}", "No idea.") for text, _ in items]
    verdict = found(items, inside)
    assert verdict.drop.all(), [text for text, gone in zip(items, verdict.drop, strict=True) if not gone]
    others = [(f"{before} {frame.format('QXZ')} {after}", "No idea.") for frame in families]
    assert not found(items, others).drop.any()


def test_a_shared_prompt_counts_with_the_answer() -> None:
    stories = [f"{text} {n}" for n, (_, text) in enumerate(sample("eng")[:4])]
    items = [("Continue.", story[:60]) for story in stories]
    verdict = found(items, [("Continue.", "Something else."), ("continue.", items[2][1])])
    assert verdict.drop.tolist() == [False, True]
    assert verdict.rule[1] == "contaminated_exact"
    assert found(items[:2], [("continue.", "Something else.")]).drop.tolist() == [True]


def test_records_are_found_in_every_language() -> None:
    turkish = row_table([("Yumurta kaç dakika haşlanır?", "Altı dakika.")], "dolly", group=record_key("dolly", 6))
    made = row_table([("Was macht ein Ei hart?", "Hitze.")], "made", parents=["suite00000"])
    named = row_table([("卵は何分ゆでますか。", "六分です。")], "collection", extra={"id": 6})
    other = row_table([("卵は何分ゆでますか。", "六分です。")], "collection", extra={"id": 7})
    rows = pa.concat_tables([turkish, made, named, other])
    suite = row_table([("¿Cuánto tarda un huevo?", "Seis.")], "suite", group=record_key("dolly", 6), extra={"id": 41})
    known = [{"dataset": "collection", "of": "dolly"}, {"dataset": "colection"}]
    a_filter = decontaminate(identifiers=known, methods=("record",))
    verdict = verdicts(a_filter, rows, index(a_filter, suite))
    assert verdict.statistics["identifiers"].to_pydict() == {"dataset": ["collection", "colection"], "rows": [2, 0]}
    counted = {"statistics": {"filter:decontaminate": {"identifiers": from_table(verdict.statistics["identifiers"])}}}
    said = "decontaminate: no row has the dataset 'colection' that identifiers names"
    assert list(shortfalls(counted)) == [said]
    parts = [{"parts": [{"dataset": name}]} for name in ("dolly", "collection")]
    assert list(shortfalls({**counted, "sources": parts})) == [f"{said} (did you mean 'collection'?)"]
    assert verdict.drop.tolist() == [True, True, True, False]
    assert set(verdict.rule[:3]) == {"contaminated_record"}
    assert (verdict.evidence[0] or "").startswith("suite suite00000 (id 41); record ")
    a_filter = decontaminate(methods=("record",))
    assert verdicts(a_filter, rows, index(a_filter, suite)).drop.tolist() == [True, True, False, False]


def test_tags_and_statistics() -> None:
    items, rows = [(QUESTION, ANSWER)], [(QUESTION, "x"), ("Something else entirely.", "y")]
    dropped, tagged = found(items, rows), found(items, rows, action="tag")
    assert dropped.flag is None and tagged.flag is not None
    assert (dropped.drop.tolist(), tagged.drop.tolist()) == ([True, False], [False, False])
    assert tagged.flag.tolist() == [True, False]
    assert tagged.tags["contamination"].to_pylist() == ["suite", None]
    assert tagged.tags["contamination.rule"].to_pylist() == ["contaminated_exact", None]
    assert tagged.scores["contamination"].to_pylist() == [1.0, None]
    expected = [{"benchmark": "suite", "rule": "contaminated_exact", "language": "eng", "rows": 1}]
    assert dropped.statistics["contamination"].to_pylist() == tagged.statistics["contamination"].to_pylist() == expected


def test_preference_rows_and_texts_that_must_be_folded() -> None:
    drafts = [
        Draft(
            key="p", messages=[("user", "Which railway?")], chosen=[("user", "Which railway?"), ("assistant", "None.")],
            rejected=[("user", "Which railway?"), ("assistant", f"“{QUESTION}”")],
            place=("f", 0), language="eng", license="MIT", dataset="d",
        )
    ]  # fmt: skip
    rows = tabulate(drafts, "s", "preference", 10**6).rows
    a_filter = decontaminate()
    assert verdicts(a_filter, rows, index(a_filter, row_table([(QUESTION, None)], "suite"))).drop.all()
    hangul = "한국의 전통 음식 가운데 김치는 어떤 재료로 만들어지며 언제부터 먹기 시작했습니까?"
    apart = unicodedata.normalize("NFD", hangul)
    verdict = found([(hangul, None)], [(f"Bitte: {apart}", "네."), (apart, "네.")])
    assert verdict.drop.all()
    assert "about characters 7" in (verdict.evidence[0] or "")


# Laws ---------------------------------------------------------------------------------------------


def test_nothing_depends_on_parts_or_order() -> None:
    items = [pair for language in LANGUAGES[:6] for pair in sample(language)[:8]]
    rows = row_table([(q.replace("e", "3"), a) for q, a in items[::3]] + [(f"{a} {q}", "x") for q, a in items])
    a_filter = decontaminate(similarity=0.7)
    suite = row_table(items, "suite")
    one = index(a_filter, suite)
    other = index(a_filter, suite.take(pa.array(list(reversed(range(20, len(suite)))))), suite.slice(0, 20))
    assert one.equals(other)
    measures = a_filter.compare(rows.select(a_filter.measure_columns), one)
    pieces = [a_filter.compare(rows.slice(n, 7).select(a_filter.measure_columns), one) for n in range(0, len(rows), 7)]
    assert measures.equals(pa.concat_tables(pieces))
    again = pickle.loads(pickle.dumps(a_filter))
    assert again.measure_pins() == a_filter.measure_pins()
    assert again.compare(rows.select(a_filter.measure_columns), one).equals(measures)


def test_more_items_find_no_less() -> None:
    items = [pair for language in LANGUAGES[:6] for pair in sample(language)[:6]]
    pairs = [(q, a) for q, a in items[::2]] + [(q[::-1], a[::-1]) for q, a in items]
    few, many = found(items[:20], pairs), found(items, pairs)
    assert not (few.drop & ~many.drop).any()


def test_empty_parts_and_empty_benchmarks() -> None:
    a_filter = decontaminate()
    rows = row_table([(QUESTION, ANSWER)])
    held = index(a_filter, row_table([(QUESTION, None)], "suite"))
    assert verdicts(a_filter, rows.slice(0, 0), held).drop.tolist() == []
    assert verdicts(a_filter, rows, a_filter.index(iter(()))).drop.tolist() == [False]


def letters_of(text: str) -> str:
    kinds = ((c, kind_of(c)) for c in fold(text))
    return "".join(c for c, kind in kinds if kind not in (SEPARATOR, WHITE, IGNORED))


def fewest_edits(pattern: str, text: str) -> int:
    """The fewest edits that make some stretch of ``text`` the pattern (Sellers 1980)."""
    before = [0] * (len(text) + 1)
    for row, letter in enumerate(pattern, 1):
        now = [row]
        for column, other in enumerate(text, 1):
            now.append(min(before[column - 1] + (letter != other), before[column] + 1, now[-1] + 1))
        before = now
    return min(before)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_near_agrees_with_brute_force(data: st.DataObject) -> None:
    """Of what the filter finds, the similarity is the exact one of the best stretch; words may make it larger."""
    language = data.draw(st.sampled_from(LANGUAGES))
    prompts = [prompt for prompt, _ in sample(language) if len(letters_of(prompt)) >= 40]
    if not prompts:
        return
    item = data.draw(st.sampled_from(prompts))
    share = data.draw(st.sampled_from([0.0, 0.05, 0.1, 0.2]))
    copy = edited(item, str(data.draw(st.integers(0, 999))), [c for c in item if c.isalpha()], share)
    around = data.draw(st.sampled_from(["", "Please answer this, and do it slowly and well, my friend: "]))
    a_filter = decontaminate(methods=("near",))
    held = index(a_filter, row_table([(item, None)], "suite"))
    rows = row_table([(around + copy, "No.")])
    score = a_filter.compare(rows.select(a_filter.measure_columns), held)["near_score"][0].as_py()
    pattern, text = letters_of(item), letters_of(around + copy)
    size = int(held["numbers"][0].as_py()[3])
    alone = len(text) <= len(pattern) * 3 // 2
    counts = 1 + (0.25 if alone else 0.4) * (100 - min(100, max(30, size))) / 70
    expected = 1 - counts * fewest_edits(pattern, text) / len(pattern)
    if score is not None:
        assert score >= expected - 1e-4
        if " " not in item.strip():
            assert score == pytest.approx(expected, abs=1e-4)
    else:
        assert expected < 0.9


# Specs and builds -----------------------------------------------------------------------------------

SPEC = """
name: clean
policy: any
sources:
  said:
    builder: files
    path: said.jsonl
    columns: {{prompt: q, answer: a}}
    language: {{constant: eng}}
    license: {{assume: CC0-1.0, reason: written for this test}}
  suite:
    builder: files
    path: suite.jsonl
    use: {use}
    columns: {{prompt: q, answer: a}}
    language: {{constant: eng}}
    license: {{assume: CC0-1.0, reason: written for this test}}
filters:
  - decontaminate: {{against: [{against}], action: {action}}}
"""


def write(folder: Path, **given: str) -> Path:
    for name, pairs in (
        ("said", [(QUESTION.upper(), "a"), ("What is new?", ANSWER), *sample("eng")[:20]]),
        ("suite", [(QUESTION, ANSWER)]),
    ):
        lines = [json.dumps({"q": q, "a": a}, ensure_ascii=False) + "\n" for q, a in pairs]
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    path = folder / "spec.yaml"
    path.write_text(SPEC.format(**{"use": "benchmark", "against": "suite", "action": "drop", **given}))
    return path


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"against": "suit"}, r"spec\.yaml:19:31: filters\.0\.decontaminate\.against\.0: there is no source 'suit'"),
        ({"against": "said"}, r"spec\.yaml:19:31: .* needs a source with 'use: benchmark'; 'said' is for train"),
        ({"against": ""}, r"spec\.yaml:19:\d+: .*against"),
        ({"action": "hide"}, r"spec\.yaml:19:\d+: .*action"),
    ],
)
def test_wrong_settings_are_errors_with_their_place(tmp_path: Path, given: dict[str, str], error: str) -> None:
    with pytest.raises(SpecError, match=error):
        api.build(write(tmp_path, **given), workspace=tmp_path / "workspace", workers=1)


def test_a_build_drops_what_a_benchmark_holds(tmp_path: Path) -> None:
    done = api.build(write(tmp_path), workspace=tmp_path / "workspace", workers=1)
    released = pl.read_parquet(done.result.path / FOLDERS["conversation"] / "*" / "*.parquet")
    asked = {messages[0]["content"] for messages in released["messages"].to_list()}
    assert released.height == len(set(sample("eng")[:20]))
    assert QUESTION.upper() not in asked and "What is new?" not in asked
    ledger = pl.concat(
        [pl.read_parquet(path) for path in done.result.path.rglob("*.parquet") if "ledger" in str(path)], how="diagonal"
    )
    gone = ledger.filter(pl.col("rule").is_not_null() & pl.col("rule").str.starts_with("contaminated"))
    assert sorted(gone["rule"].to_list()) == ["contaminated_exact", "contaminated_exact"]
    assert all(evidence.startswith("suite ") for evidence in gone["evidence"].to_list())
    assert set(gone["outcome"].to_list()) == {"dropped"}
