"""The journal: what was answered is there for good, whatever happens to the process, the disk or the files."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aya_data.core import durable, journal_segments
from aya_data.core.errors import CorruptPart
from aya_data.core.generation import FAILED, LENGTH, STOP, Answer
from aya_data.core.journal import Index, Journal, Rate, journals
from aya_data.core.journal_segments import TAKEN
from tests import builds
from tests.test_crash import MODES, Disk

VOICE = "0123456789abcdef" * 2


def key(number: int) -> str:
    return hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()


def keys(count: int) -> list[str]:
    return [key(number) for number in range(count)]


def answer(number: int, **what: Any) -> Answer:
    return Answer(**({"key": key(number), "text": f"Answer {number}: ğüş 漢字", "completion_tokens": number} | what))


def failure(number: int, attempts: int) -> Answer:
    return Answer(key(number), finish=FAILED, reason="429 Too Many Requests", attempts=attempts)


def files(journal: Journal) -> list[Path]:
    return sorted(journal.folder.glob("*.parquet"))


def taken(index: Index, asked: Sequence[str]) -> list[Answer]:
    table = index.take(asked)
    assert table.schema == TAKEN and table.num_rows == len(asked)
    return [Answer(**row) for row in table.to_pylist()]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder in memory where there is one: what is tested are the calls of fsync, not the disk."""
    with tempfile.TemporaryDirectory(dir=builds.in_memory()) as folder:
        yield Path(folder)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal", VOICE, {"model": "org/model", "temperature": 0.7})


# What it holds -------------------------------------------------------------------------------------------

HALVES = [b"\0" * 8, b"\0" * 7 + b"\1", b"\x80" + b"\0" * 7, b"\xff" * 8]
FEW = [(a + b).hex() for a in HALVES for b in HALVES]
"""Keys that come again, and that share halves."""
COUNTS = st.none() | st.integers(0, 2**31 - 1)
TEXTS = st.none() | st.text(max_size=8)
ANSWERS = st.builds(
    Answer,
    key=st.sampled_from(FEW),
    text=TEXTS,
    value=st.none() | st.floats(allow_nan=False),
    finish=st.sampled_from([STOP, LENGTH, FAILED, FAILED, "content_filter"]),
    prompt_tokens=COUNTS,
    completion_tokens=COUNTS,
    reason=TEXTS,
    attempts=st.integers(1, 9),
)
STEPS = st.lists(st.lists(ANSWERS, min_size=1, max_size=12) | st.sampled_from(["compact", "extend"]), max_size=12)


def check(index: Index, model: dict[str, Answer]) -> None:
    """Assert that an index answers as a dictionary would."""
    assert len(index) == len(model)
    asked = [*FEW, *FEW[::-3]]
    assert index.missing(asked).tolist() == [n for n, k in enumerate(asked) if k not in model]
    assert index.failures(asked).tolist() == [n for n, k in enumerate(asked) if k in model and model[k].failed]
    assert index.attempts(asked).tolist() == [model[k].attempts if k in model else 0 for k in asked]
    known = [k for k in asked if k in model]
    assert taken(index, known) == [model[k] for k in known]
    assert index.take(pa.chunked_array([known[:3], known[3:]], pa.string())) == index.take(known)
    for unknown in [k for k in FEW if k not in model][:2]:
        for ask in (index.take, index.digest):
            with pytest.raises(KeyError, match=unknown):
                ask([*known, unknown])


@given(STEPS)
@settings(deadline=None, max_examples=40)
def test_it_is_a_mapping_in_which_an_answer_stays(steps: list[list[Answer] | str]) -> None:
    model: dict[str, Answer] = {}
    with tempfile.TemporaryDirectory(dir=builds.in_memory()) as folder:
        journal = Journal(Path(folder), VOICE)
        index = journal.load()
        for step in steps:
            if step == "compact":
                journal.compact()
            elif step == "extend":
                index = journal.load(index)
                check(index, model)
            else:
                assert not isinstance(step, str)
                journal.append(step)
                for given_ in step:
                    if given_.key not in model or model[given_.key].failed:
                        model[given_.key] = given_
        before = journal.load()
        check(before, model)
        check(journal.load(index), model)
        journal.compact()
        after = journal.load()
        check(after, model)
        check(before, model)  # its files are gone
        assert not list(journal.verify())
        # Compacted or not, in any order, twice, and with another history: equal answers, equal digest.
        known = [k for k in FEW if k in model]
        other = Journal(Path(folder), VOICE[::-1])
        other.append([model[k] for k in reversed(known)])
        said = {index.digest(known) for index in (before, after, other.load())}
        assert said == {after.digest([*known[::-1], *known])}


@given(
    ANSWERS, st.sampled_from(["text", "value", "finish", "prompt_tokens", "completion_tokens", "reason", "attempts"])
)
@settings(deadline=None, max_examples=40)
def test_the_digest_sees_every_field(one: Answer, name: str) -> None:
    """And tells nothing from an empty text or zero."""
    other: Any = {
        "text": "" if one.text is None else None,
        "value": 0.0 if one.value is None else None,
        "finish": one.finish + "=",
        "prompt_tokens": 0 if one.prompt_tokens is None else None,
        "completion_tokens": 0 if one.completion_tokens is None else None,
        "reason": "" if one.reason is None else None,
        "attempts": one.attempts + 1,
    }[name]
    with tempfile.TemporaryDirectory(dir=builds.in_memory()) as folder:
        said = set()
        for voice, given_ in (("a", one), ("b", replace(one, **{name: other}))):
            journal = Journal(Path(folder), voice)
            journal.append([given_])
            said.add(journal.load().digest([one.key]))
    # How often it was asked is no part of the answer.
    assert len(said) == (1 if name == "attempts" else 2)


def test_an_empty_journal(tmp_path: Path, journal: Journal) -> None:
    """Asking writes nothing."""
    index = journal.load()
    assert len(index) == 0 and index.missing(keys(2)).tolist() == [0, 1] and index.failures(keys(2)).tolist() == []
    assert index.take([]).schema == TAKEN
    assert index.digest([]) == index.digest([]) != ""
    journal.append([])
    journal.compact()
    assert not list(journal.verify()) and journal.rate() is None and not list(journals(tmp_path / "journal"))
    assert not list(tmp_path.iterdir())


def test_what_lies_there_for_people(tmp_path: Path, journal: Journal) -> None:
    journal.append([answer(1)])
    journal.append([answer(2)])
    about = journal.folder / "voice.json"
    assert about.read_text() == '{\n "model": "org/model",\n "temperature": 0.7\n}\n'
    assert [path.name[:22] for path in files(journal)] == ["0000000001-0000000001-", "0000000002-0000000002-"]
    assert [found.folder for found in journals(tmp_path / "journal")] == [journal.folder]


@pytest.mark.parametrize("wrong", ["", "0" * 31, "0" * 33, "g" * 32, "0" * 30 + " 0", "é" * 16, None])
def test_a_key_is_32_hex_digits(journal: Journal, wrong: Any) -> None:
    for act in (journal.load().missing, lambda asked: journal.append([Answer(k, "text") for k in asked])):
        with pytest.raises(ValueError, match=r"not a key of 32 hex digits: "):
            act([key(1), wrong])
    assert not journal.folder.exists()


def test_what_is_no_text_stops_nothing(journal: Journal) -> None:
    """Half a surrogate pair becomes U+FFFD, both halves their character; counts that no column holds are unknown."""
    journal.append(
        [
            answer(1, text="a\ud83d", reason="\udc00b", finish="st\ud800op"),
            answer(2, text="\ud83d\ude00 \x00 \u2028 \ufeff"),
            answer(3, prompt_tokens=2**31, completion_tokens=-1, attempts=2**40, value=math.inf),
            answer(4, value=math.nan),
        ]
    )
    found = taken(journal.load(), keys(5)[1:])
    assert (found[0].text, found[0].reason, found[0].finish) == ("a\ufffd", "\ufffdb", "st\ufffdop")
    assert found[1].text == "😀 \x00 \u2028 \ufeff"
    assert (found[2].prompt_tokens, found[2].completion_tokens, found[2].attempts) == (None, None, 2**31 - 1)
    assert found[2].value == math.inf and found[3].value is not None and math.isnan(found[3].value)


def test_a_hundred_thousand(tmp_path: Path) -> None:
    journal = Journal(tmp_path, VOICE)
    asked = keys(100_000)
    for start in range(0, 100_000, 9_000):
        journal.append([answer(n) for n in range(start, min(start + 9_000, 99_000))])
        if start % 4:
            journal.compact()
    index = journal.load()
    assert index.missing(asked).tolist() == list(range(99_000, 100_000))
    drawn = [asked[n * 7919 % 99_000] for n in range(20_000)]
    said = index.digest(drawn)
    found = index.take(drawn)
    assert found["key"].to_pylist() == drawn
    assert found["completion_tokens"].to_pylist() == [n * 7919 % 99_000 for n in range(20_000)]
    assert found["text"][19_999].as_py() == f"Answer {19_999 * 7919 % 99_000}: ğüş 漢字"
    journal.compact()
    sent = pickle.loads(pickle.dumps(journal.load()))
    assert sent.digest(drawn) == said and sent.take(drawn) == found
    assert len(pickle.dumps(index)) < 50 * 99_000


# Compaction ----------------------------------------------------------------------------------------------


def rows(journal: Journal) -> dict[str, int]:
    return {path.name: pq.read_metadata(path).num_rows for path in files(journal)}


def test_compaction_leaves_few_files(journal: Journal) -> None:
    """However often it is done, and every answer is written again a few times only."""
    written = 0
    for number in range(64):
        journal.append([answer(number * 10 + n) for n in range(10)])
        before = rows(journal)
        journal.compact()
        written += sum(count for name, count in rows(journal).items() if name not in before)
        assert len(files(journal)) <= 7
    assert written <= 10 * 640
    assert not journal.load().missing(keys(640)).tolist()


def test_compaction_drops_what_no_longer_stands(journal: Journal) -> None:
    for attempts in range(1, 6):
        journal.append([failure(1, attempts), failure(2, attempts)])
    journal.append([answer(2), answer(2, text="too late")])
    journal.compact()
    assert list(rows(journal).values()) == [2]
    assert taken(journal.load(), [key(2), key(1)]) == [answer(2), failure(1, 5)]


def test_large_segments_are_left_alone(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        journal.append([answer(number)])
    size = files(journal)[0].stat().st_size
    monkeypatch.setattr(journal_segments, "MERGED", 4 * size)
    journal.compact()
    once = files(journal)
    assert len(once) > 2 and all(path.stat().st_size <= 4 * size for path in once)
    monkeypatch.setattr(journal_segments, "MERGED", 2 * min(path.stat().st_size for path in once))
    journal.compact()
    assert files(journal) == once
    assert not journal.load().missing(keys(12)).tolist()


def test_what_a_crash_left_of_replaced_segments_changes_nothing(tmp_path: Path, journal: Journal) -> None:
    journal.append([failure(1, 1), answer(2)])
    journal.append([failure(1, 2), answer(3)])
    shutil.copytree(journal.folder, tmp_path / "old")
    said = journal.load().digest([key(1), key(2), key(3)])
    journal.compact()
    [merged] = files(journal)
    shutil.copytree(tmp_path / "old", journal.folder, dirs_exist_ok=True)
    (journal.folder / "0000000003-0000000003-half.parquet.tmp").write_bytes(b"half")
    index = journal.load()
    assert len(files(journal)) == 3 and index.digest([key(1), key(2), key(3)]) == said
    assert index.attempts([key(1)]).tolist() == [2]
    journal.append([answer(4)])
    journal.compact()
    assert not list(journal.folder.glob("*.tmp")) and merged not in files(journal)
    assert not journal.load().missing([key(n) for n in range(1, 5)]).tolist()


def test_two_segments_of_one_number_both_stay(tmp_path: Path, journal: Journal) -> None:
    """What two writers leave, which there should not be."""
    other = Journal(tmp_path / "other", VOICE)
    for number in range(4):
        journal.append([answer(number)])
        other.append([answer(number + 4)])
    shutil.copy(files(other)[0], journal.folder)
    shutil.copy(files(other)[2], journal.folder)
    journal.compact()
    assert journal.load().missing(keys(8)).tolist() == [5, 7]


# Damage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flipped", "torn", "empty", "foreign"])
@pytest.mark.parametrize("streamed", [False, True])
def test_damage_is_named_and_set_aside(
    journal: Journal, how: str, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if streamed:
        monkeypatch.setattr(journal_segments, "STREAMED", 0)
    journal.append([answer(1)])
    journal.append([answer(2), answer(3)])
    index = journal.load()
    path = files(journal)[1]
    data = path.read_bytes()
    spoilt = {
        "flipped": data[:300] + bytes([data[300] ^ 1]) + data[301:],
        "torn": data[:-7],
        "empty": b"",
        "foreign": files(journal)[0].read_bytes(),
    }[how]
    path.write_bytes(spoilt)
    [(named, _)] = journal.verify()
    assert named == path and path.exists()
    for read in (lambda: journal.load(), lambda: pickle.loads(pickle.dumps(index)).take([key(1), key(2)])):
        path.write_bytes(spoilt)
        with pytest.raises(CorruptPart, match=r"is damaged: digest .* has been set aside") as caught:
            read()
        assert str(path) in str(caught.value)
        assert not path.exists()
    assert journal.load().missing(keys(4)).tolist() == [0, 2, 3]
    # The number of what was set aside is not given again, so that a person may put back the file.
    journal.append([answer(0)])
    journal.compact()
    path.write_bytes(data)
    assert not journal.load().missing(keys(4)).tolist()


def test_compaction_does_not_carry_damage_on(journal: Journal) -> None:
    for number in range(3):
        journal.append([answer(number)])
    path = files(journal)[1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptPart, match=path.name):
        journal.compact()
    assert journal.load().missing(keys(3)).tolist() == [1]


# Crashes -------------------------------------------------------------------------------------------------

BATCHES = [
    [answer(0), failure(1, 1), answer(2)],
    [answer(1), answer(3)],
    [failure(4, 1), failure(0, 9), answer(5)],
    [answer(6), failure(4, 2), answer(3, text="another")],
    [answer(4), answer(7)],
]


def work(journal: Journal, done: list[int], start: int = 0) -> None:
    """Commit all batches from ``start``; ``done`` gets the number of each when it is committed."""
    for number in range(start, len(BATCHES)):
        journal.append(BATCHES[number])
        done.append(number + 1)
        journal.record_rate(Rate(2, 2, 10, 20, 0.5))
        if number % 2:
            journal.compact()
    journal.compact()


class Watching(durable.Failpoint):
    """Copies the folder before every operation: what SIGKILL would leave there."""

    def __init__(self, folder: Path, copies: Path, done: list[int], trace: Path) -> None:
        super().__init__()
        self.folder, self.copies, self.done = folder, copies, done
        self.active, self.trace = True, str(trace)
        self.committed: list[int] = []

    def __call__(self, operation: str, path: Path | str, data: bytes | None = None, to: str = "") -> None:
        shutil.copytree(self.folder, self.copies / str(len(self.committed)))
        self.committed.append(len(self.done))
        super().__call__(operation, path, data, to)


@dataclass(frozen=True)
class Whole:
    """All batches committed: what was on the disk before each operation, and how many were committed then."""

    root: Path
    copies: Path
    trace: Path
    operations: list[dict[str, str]]
    committed: list[int]
    states: list[str]


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with tempfile.TemporaryDirectory(dir=builds.in_memory()) as name, pytest.MonkeyPatch.context() as patch:
        root, copies, trace = (Path(name) / part for part in ("root", "copies", "trace"))
        for folder in (root, copies, trace):
            folder.mkdir()
        done: list[int] = []
        watching = Watching(root, copies, done, trace)
        patch.setattr(durable, "failpoint", watching)
        work(Journal(root / "journal", VOICE, {"model": "m"}), done)
        patch.undo()
        operations = [json.loads(line) for line in (trace / "operations.jsonl").read_text().splitlines()]
        assert len(operations) == len(watching.committed) > 60
        states = []
        for count in range(len(BATCHES) + 1):
            plain = Journal(Path(name) / f"after {count}", VOICE)
            for batch in BATCHES[:count]:
                plain.append(batch)
            states.append(state(plain))
        yield Whole(root, copies, trace, operations, watching.committed, states)


def state(journal: Journal) -> str:
    """All that a journal says."""
    index = journal.load()
    known = [k for k in keys(8) if not len(index.missing([k]))]
    return f"{index.digest(known)} {len(index)} {[a.text for a in taken(index, known)]} {index.attempts(known)}"


def resume(whole: Whole, root: Path, committed: int) -> None:
    """Whatever is left holds all that was committed, whole; and the rest can be added."""
    journal = Journal(root / "journal", VOICE, {"model": "m"})
    found = state(journal)
    assert found in whole.states[committed : committed + 2]
    assert not list(journal.verify())
    rate = journal.rate()
    assert rate is None or rate.answers in (2 * committed, 2 * (committed - 1), 2 * (committed + 1))
    work(journal, [], whole.states.index(found))
    assert state(journal) == whole.states[-1]
    assert not list(root.rglob("*.tmp"))
    assert json.loads((journal.folder / "voice.json").read_text()) == {"model": "m"}


def test_killed_before_any_operation(whole: Whole, tmp_path: Path) -> None:
    for number, committed in enumerate(whole.committed):
        shutil.copytree(whole.copies / str(number), tmp_path / str(number))
        resume(whole, tmp_path / str(number), committed)


def _remove(fail_at: int, root: Path) -> None:
    durable.failpoint.active, durable.failpoint.fail_at = True, fail_at
    Journal(root, VOICE).remove()


def test_a_removal_that_is_killed_leaves_free_answers_free(tmp_path: Path) -> None:
    for operation in range(1, 20):
        journal = Journal(tmp_path / str(operation), VOICE, {"model": "m"}, free=True)
        journal.append([answer(1)])
        journal.record_rate(Rate(1, 1, 1, 1, 1.0))
        code = builds.in_child(_remove, operation, tmp_path / str(operation))
        assert journal.free == journal.folder.exists() == (code != 0)
        if not code:
            break
    assert operation > 4


@pytest.mark.parametrize("mode", MODES)
def test_power_cut_after_any_operation(whole: Whole, tmp_path: Path, mode: str) -> None:
    disk = Disk(whole.root, whole.trace)
    for number, (operation, committed) in enumerate(zip(whole.operations, whole.committed)):
        disk.write(tmp_path / str(number), mode)
        resume(whole, tmp_path / str(number), committed)
        disk.replay(operation)
    disk.write(tmp_path / "end", mode)
    assert state(Journal(tmp_path / "end" / "journal", VOICE)) == whole.states[-1]


# Readers and a writer ------------------------------------------------------------------------------------

READER = """
import sys
from pathlib import Path
from aya_data.core.journal import Journal
from tests.test_journal import key

journal, stop, before, index, turns = Journal(Path(sys.argv[1]), sys.argv[2]), Path(sys.argv[3]), 0, None, 0
print("ready", flush=True)
last = False
while not last:
    last = stop.exists()
    index = journal.load(index) if turns % 3 else journal.load()
    turns += 1
    count = len(index)
    assert count % 5 == 0 and count >= before, (count, before)
    before = count
    keys = [key(n) for n in range(count)]
    assert not len(index.missing(keys))
    table = index.take(keys[::-1])
    assert table["completion_tokens"].to_pylist() == list(range(count))[::-1]
print(count, flush=True)
"""


def test_others_read_while_one_writes(tmp_path: Path) -> None:
    """They see a state that some commit left, and never an older one afterwards."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", READER, str(tmp_path / "journal"), VOICE, str(tmp_path / "stop")]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    readers = [subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) for _ in "ab"]
    try:
        for reader in readers:
            assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
        journal = Journal(tmp_path / "journal", VOICE)
        for number in range(60):
            journal.append([answer(number * 5 + n) for n in range(5)])
            if number % 4 == 3:
                journal.compact()
        (tmp_path / "stop").touch()
        assert [reader.communicate()[0] for reader in readers] == ["300\n", "300\n"]
        assert [reader.returncode for reader in readers] == [0, 0]
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()


# Rates ---------------------------------------------------------------------------------------------------


def test_rates_add_up_and_change_no_digest(journal: Journal) -> None:
    journal.append([answer(1)])
    said = journal.load().digest([key(1)])
    for _ in range(3):
        journal.record_rate(Rate(10, 8, 1_000, 2_000, 1.25))
    assert journal.rate() == Rate(30, 24, 3_000, 6_000, 3.75)
    assert journal.load().digest([key(1)]) == said


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"answers": 1, "counted": 1, "prompt_tokens": 1, "completion_tokens": 1, "seconds": %s}'],
)
def test_rates_that_cannot_be_used_are_none(journal: Journal, text: str) -> None:
    for seconds in ("NaN", "Infinity", "0", "-1", "null") if "%s" in text else ("",):
        journal.append([answer(1)])
        (journal.folder / "rates.json").write_text(text.replace("%s", seconds))
        assert journal.rate() is None
    journal.record_rate(Rate(1, 1, 2, 3, 4))
    assert journal.rate() == Rate(1, 1, 2, 3, 4)
