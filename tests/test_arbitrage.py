"""Whole builds with the source ``arbitrage``: recorded teachers, and models behind a real server."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from aya_data import api
from aya_data.catalog.query import query
from aya_data.core.errors import BuildError, InputError, SpecError
from aya_data.core.spec import load_spec
from aya_data.core.store import Workspace
from aya_data.engine.run import Build
from tests import builds
from tests.chat_server import Echo, Reply, Served, completion

TOPICS = ("sea", "moon", "town", "bread", "winter", "music", "river", "garden", "clock", "market", "forest", "school")
QUESTIONS = [f"What should a child know about the {topic} in its own country, and why?" for topic in TOPICS]
LONG = (
    "The {0} is something that every child in the country meets early. A child should know where the {0} is, what it "
    "gives to people and why the {0} needs care, because what is known is looked after."
)
SHORT = "A child should know that the {0} of its own country gives people much and needs care."
BESIDE = "Thank you for writing to us. We have noted everything and shall be in touch before long about what you need."
FRENCH = "Le {0} est une chose que chaque enfant du pays rencontre tôt, et il faut en prendre soin tous les jours."

HEAD = """
name: duel
seed: 11
policy: any
sources:
  asked:
    builder: files
    path: asked.jsonl
    kind: prompt
    use: prompts
    columns: {prompt: q}
    language: eng
    license: {assume: CC0-1.0, reason: written for this test}
  duel:
    builder: arbitrage
    prompts: {from: asked}
"""
TAIL = """
filters: [license]
release: {validation: 0}
"""


def write(folder: Path, name: str, records: list[dict[str, Any]]) -> None:
    (folder / name).write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def recorded(name: str) -> str:
    return f"{name}: {{engine: recorded, path: {name}.jsonl, columns: {{prompt: q, answer: a}}}}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "asked.jsonl", [{"q": question} for question in QUESTIONS])
    for name, text in (("long", LONG), ("short", SHORT), ("beside", BESIDE), ("french", FRENCH)):
        answers = [text.format(topic) for topic in TOPICS]
        write(tmp_path, f"{name}.jsonl", [{"q": q, "a": a} for q, a in zip(QUESTIONS, answers, strict=True)])
    return tmp_path


def build(folder: Path, body: str, workspace: str = "workspace", **given: Any) -> Build:
    path = folder / "duel.yaml"
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    path.write_text(HEAD + indented + TAIL)
    return api.build(path, workspace=folder / workspace, workers=1, **given)


def rows(done: Build, kind: str = "data") -> pl.DataFrame:
    return pl.read_parquet(done.result.path / kind / "*" / "*.parquet")


def sql(done: Build, text: str) -> list[tuple[Any, ...]]:
    found = query(Workspace(done.result.path.parents[2]), text)
    return [tuple(row) for row in found.rows]


FOUR = "teachers:\n  " + "\n  ".join(recorded(name) for name in ("long", "short", "beside", "french"))
PAIRS = "pairs: {kind: best_worst, min_margin: 0.05, max_length_ratio: null, reject_penalised: true}"


def test_the_best_answers_are_released_and_pairs_beside_them(folder: Path) -> None:
    done = build(folder, f"{FOUR}\nrouting: reward\n{PAIRS}")
    answers = rows(done)
    assert answers.height == 12
    said = {m[0]["content"]: m[-1]["content"] for m in answers["messages"].to_list()}
    assert set(said) == set(QUESTIONS)
    assert BESIDE not in said.values()
    assert not any(text.startswith("Le ") for text in said.values()), "an answer in another language never wins"
    assert set(answers["origin"]) == {"generated"}
    provenance = answers["provenance"].to_list()
    assert {p["teacher"] for p in provenance} <= {"long", "short"}
    assert all(len(p["parents"]) == 1 for p in provenance)
    pairs = rows(done, "preference")
    assert pairs.height == 12
    for pair in pairs.iter_rows(named=True):
        assert pair["chosen"][:-1] == pair["rejected"][:-1]
        assert pair["chosen"][-1]["content"] == said[pair["chosen"][0]["content"]]
        assert pair["margin"] > 0
    found = dict(sql(done, "SELECT teacher, wins FROM arbitration"))
    assert sum(found.values()) == 12
    assert found["french"] == found["beside"] == 0
    assert sql(done, "SELECT count(*), count(DISTINCT teacher) FROM completions") == [(48, 4)]
    assert sql(done, "SELECT DISTINCT teacher FROM completions WHERE len(penalties) > 0") == [("french",)]


def test_names_and_order_of_teachers_change_nothing(folder: Path) -> None:
    first = rows(build(folder, f"{FOUR}\nrouting: reward\n{PAIRS}"))
    other = "teachers:\n  " + "\n  ".join(recorded(n) for n in ("french", "beside", "short", "long"))
    other = other.replace("  long:", "  aa:").replace("  french:", "  zz:")
    second = rows(build(folder, f"{other}\nrouting: reward\n{PAIRS}"))
    assert sorted(str(m) for m in first["messages"].to_list()) == sorted(str(m) for m in second["messages"].to_list())


def test_nothing_is_asked_of_prompts_that_a_filter_drops(folder: Path) -> None:
    write(folder, "asked.jsonl", [{"q": q, "l": "CC0-1.0" if n else "CC-BY-NC-4.0"} for n, q in enumerate(QUESTIONS)])
    path = folder / "duel.yaml"
    head = HEAD.replace("license: {assume: CC0-1.0, reason: written for this test}", "license: {column: l}")
    head = head.replace("policy: any", "policy: commercial")
    path.write_text(head + "    " + FOUR.replace("\n", "\n    ") + "\n    routing: reward\n" + TAIL)
    done = api.build(path, workspace=folder / "workspace", workers=1)
    assert sql(done, "SELECT count(DISTINCT prompt) FROM completions") == [(11,)]


class Models(Echo):
    """Several models behind one server, told apart by name."""

    def __init__(self, fails: str = "") -> None:
        super().__init__(self.reply)
        self.fails = fails

    def reply(self, body: dict[str, Any], before: int) -> Reply | None:
        text = body["messages"][-1]["content"]
        if self.fails and self.fails in text:
            return Reply.error(400, "this is too hard")
        topic = next((topic for topic in TOPICS if f"the {topic}" in text or f"the {topic.upper()}" in text), "world")
        model = body["model"]
        if model == "translator":
            wanted = text.rpartition("\n\n")[2]
            return Reply(body=completion(wanted.upper(), prompt_tokens=9, completion_tokens=9))
        if model == "judge":
            code, name = re.findall(r'{"code": "(\w+)", "(\w+)": x}', text)[-1]
            said = json.dumps({"code": code, name: 1 + len(text) % 9 if name == "score" else "A"})
            return Reply(body=completion(said, prompt_tokens=99, completion_tokens=9))
        said = {"long": LONG, "short": SHORT, "beside": BESIDE}[model].format(topic) + f" ({body['seed'] % 7})"
        return Reply(body=completion(said, prompt_tokens=len(text.split()), completion_tokens=len(said.split())))

    def asked(self) -> Counter[str]:
        return Counter(arrival.body["model"] for arrival in self.arrivals)


@pytest.fixture
def models() -> Iterator[tuple[Models, str]]:
    app = Models()
    with Served(app) as server:
        yield app, server.base_url


def served(base_url: str, *names: str, n: int = 1, **more: Any) -> str:
    extra = "".join(f", {key}: {value}" for key, value in more.items())
    sampling = f"sampling: {{n: {n}, temperature: 0.7, max_tokens: 256}}"
    return "teachers:\n  " + "\n  ".join(
        f'{name}: {{engine: openai, model: {name}, base_url: "{base_url}", {sampling}{extra}}}' for name in names
    )


def test_one_more_teacher_is_asked_alone(folder: Path, models: tuple[Models, str]) -> None:
    app, base_url = models
    build(folder, f"{served(base_url, 'long', 'beside', n=2, revision=1.0)}\nrouting: reward".replace("1.0", '"1"'))
    assert app.asked() == {"long": 24, "beside": 24}
    done = build(
        folder,
        f"{served(base_url, 'long', 'short', 'beside', n=2, revision=1.0)}\nrouting: reward".replace("1.0", '"1"'),
    )
    assert app.asked() == {"long": 24, "beside": 24, "short": 24}
    assert all(voice["pinned"] for voice in done.result.manifest["voices"])
    asked = {one["expected"]["stage"]: one for one in done.asked}
    assert set(asked) == {"generate:duel/short"}
    assert asked["generate:duel/short"]["actual"]["done"] == 24


def test_a_teacher_without_a_revision_is_marked(folder: Path, models: tuple[Models, str]) -> None:
    done = build(folder, f"{served(models[1], 'long')}\nrouting: reward")
    assert [(voice["step"], voice["pinned"]) for voice in done.result.manifest["voices"]] == [("generate/long", False)]
    card = (done.result.path / "README.md").read_text()
    assert "`long`" in card and "states no revision" in card


def test_every_routing_pays_what_it_says(folder: Path, models: tuple[Models, str]) -> None:
    app, base_url = models
    three = served(base_url, "long", "short", "beside")

    def paid(routing: str, workspace: str) -> tuple[int, Build]:
        before = app.asked().total()
        done = build(folder, f"{three}\nrouting: {routing}", workspace)
        return app.asked().total() - before, done

    assert paid("reward", "w1")[0] == 36
    assert paid("random", "w2")[0] == 12
    count, done = paid("{kind: single, teacher: short}", "w3")
    assert count == 12
    assert {p["teacher"] for p in rows(done)["provenance"].to_list()} == {"short"}
    count, done = paid("{kind: fixed, teachers: {eng: long, default: beside}}", "w4")
    assert count == 12
    assert {p["teacher"] for p in rows(done)["provenance"].to_list()} == {"long"}
    count, done = paid("{kind: fixed, held_out: 0.5, least: 1}", "w5")
    everybody = sql(done, "SELECT count(*) FROM (SELECT prompt FROM completions GROUP BY 1 HAVING count(*) = 3)")[0][0]
    assert 0 < everybody < 12
    assert count == 3 * everybody + (12 - everybody)
    reasons = dict(sql(done, "SELECT reason, count(*) FROM decisions GROUP BY 1"))
    assert reasons["fixed"] == 12 - everybody


def test_a_translated_teacher_is_asked_in_the_pivot_language(folder: Path, models: tuple[Models, str]) -> None:
    app, base_url = models
    sampling = "sampling: {n: 1, temperature: 0, max_tokens: 256}"
    one = f'{{engine: openai, model: long, base_url: "{base_url}", revision: "1", {sampling}}}'
    other = f'{{engine: openai, model: translator, base_url: "{base_url}", revision: "1", {sampling}}}'
    write(folder, "asked.jsonl", [{"q": q, "l": "eng" if n else "deu"} for n, q in enumerate(QUESTIONS)])
    path = folder / "duel.yaml"
    body = f"teachers:\n      weak: {{engine: translated, answers: {one}, translator: {other}}}\n    routing: reward\n"
    path.write_text(HEAD.replace("language: eng", "language: {column: l}") + "    " + body + TAIL)
    done = api.build(path, workspace=folder / "workspace", workers=1)
    assert app.asked() == {"long": 12, "translator": 2}, "the German prompt goes over and its answer comes back"
    answers = rows(done)
    german = answers.filter(pl.col("language") == "deu")
    assert german.height in (0, 1)
    assert all(m[-1]["content"].isupper() for m in german["messages"].to_list())


def test_failures_stop_the_build_and_can_be_allowed(folder: Path) -> None:
    app = Models(fails="the moon")
    with Served(app) as server:
        three = served(server.base_url, "long", "short")
        with pytest.raises(BuildError, match=r"1 of 12 requests failed, and max_failed is 0: once .*too hard"):
            build(folder, f"{three}\nrouting: reward")
        done = build(folder, f"{three}\nrouting: reward\nmax_failed: 1")
    assert rows(done).height == 11
    dropped = sql(done, "SELECT rule, outcome FROM ledger WHERE stage = 'derive:duel' AND outcome = 'dropped'")
    assert dropped == [("no_answer_none", "dropped")]


def test_a_plan_says_what_will_be_asked(folder: Path, models: tuple[Models, str]) -> None:
    app, base_url = models
    path = folder / "duel.yaml"
    priced = served(base_url, "long", "short", price="{prompt: 1, completion: 2}").replace("\n", "\n    ")
    path.write_text(HEAD + f"    {priced}\n    routing: reward\n" + TAIL)
    made = api.plan(path, workspace=folder / "workspace")
    first = api.expectations(made, folder / "workspace")
    assert [(one["stage"], one["exact"], one["missing"]) for one in first] == [
        ("generate:duel/long", False, None), ("generate:duel/short", False, None),
    ]  # fmt: skip
    exact = api.expectations(made, folder / "workspace", upto="prompts")
    assert [(one["exact"], one["missing"], one["languages"]) for one in exact] == [(True, 12, {"eng_Latn": 12})] * 2
    assert all(one["cost"] is not None and one["cost"] > 0 for one in exact)
    assert not app.arrivals, "a plan asks nobody"
    api.build(path, workspace=folder / "workspace", workers=1)
    after = api.expectations(made, folder / "workspace")
    assert [(one["exact"], one["missing"], one["measured"]) for one in after] == [(True, 0, True)] * 2


def judged(base_url: str) -> str:
    model = f'{{engine: openai, model: judge, base_url: "{base_url}", revision: "1", concurrency: 2}}'
    return f"arbiter: {{kind: judge, mode: score, model: {model}}}"


def said(folder: Path, body: str, upto: str | None = None) -> dict[str, tuple[bool, int | None, int | None]]:
    """What a plan says of each step that asks: whether it is exact, what it wants and what it lacks."""
    path = folder / "duel.yaml"
    path.write_text(HEAD + "    " + body.replace("\n", "\n    ") + "\n" + TAIL)
    made = api.plan(path, workspace=folder / "workspace")
    found = api.expectations(made, folder / "workspace", upto=upto)
    return {one["stage"].replace(":duel", ""): (one["exact"], one["wanted"], one["missing"]) for one in found}


def test_a_plan_subtracts_what_the_journal_has(folder: Path, models: tuple[Models, str]) -> None:
    """What a judge was asked about answers that are there is not asked again, and the plan knows it."""
    _, base_url = models
    two, three = (
        f"{served(base_url, *names, revision='x')}\n{judged(base_url)}\nrouting: reward"
        for names in (("long", "short"), ("long", "short", "beside"))
    )
    assert said(folder, two, "prompts")["arbiter/judge"] == (False, 24, 24)
    build(folder, two)
    assert said(folder, two) == {
        "generate/long": (True, 12, 0), "generate/short": (True, 12, 0), "arbiter/judge": (True, 24, 0),
    }  # fmt: skip
    expected = said(folder, three)
    assert expected["generate/beside"] == (True, 12, 12)
    assert expected["arbiter/judge"] == (False, 36, 12), "an estimate, of which what is known is not a part"
    done = build(folder, three)
    actual = {one["expected"]["stage"].replace(":duel", ""): one["actual"]["done"] for one in done.asked}
    assert actual == {step: missing for step, (_, _, missing) in expected.items() if missing}
    # The journal alone is enough to know, too.
    shutil.rmtree(folder / "workspace" / "store")
    assert said(folder, three, "prompts") == {step: (True, wanted, 0) for step, (_, wanted, _) in expected.items()}


def test_a_plan_expects_one_teacher_for_each_prompt_of_the_second_round(
    folder: Path, models: tuple[Models, str]
) -> None:
    _, base_url = models
    names = ("long", "short", "beside")
    routing = "routing: {kind: fixed, held_out: 0.4, least: 1}"
    body = f"{served(base_url, *names, revision='x')}\n{judged(base_url)}\n{routing}"
    blind = said(folder, body)
    assert all(missing is None and not exact for exact, _, missing in blind.values()), "no number of prompts is stated"
    before = said(folder, body, "prompts")
    first = before["generate/long"][1]
    assert first is not None and 0 < first < 12
    assert [before[f"generate/{name}"] for name in names] == [(True, first, first)] * 3
    assert before["arbiter/judge"] == (False, 3 * first, 3 * first)
    second = [before[f"generate/{name}@2"] for name in names]
    assert second == [(False, round((12 - first) / 3), round((12 - first) / 3))] * 3
    done = build(folder, body)
    paid = sum(one["actual"]["done"] for one in done.asked if one["expected"]["stage"].startswith("generate:"))
    assert paid == 3 * first + 12 - first
    assert all(exact and not missing for exact, _, missing in said(folder, body).values())
    # Of another rule's second round the journal has a share, and the plan takes it off.
    after = said(folder, body.replace("least: 1", "least: 2"))
    assert all(after[f"generate/{name}@2"][2] == 0 for name in names) or sum(
        after[f"generate/{name}@2"][2] or 0 for name in names
    ) < sum(one[2] or 0 for one in second)


def test_a_plan_expects_of_a_review_what_its_budget_pays_for(folder: Path, models: tuple[Models, str]) -> None:
    _, base_url = models
    judge = f'{{kind: judge, mode: score, model: {{engine: openai, model: judge, base_url: "{base_url}"}}}}'
    body = f"{served(base_url, 'long', 'short', revision='x')}\nrouting: reward\nreview: {{BUDGET, with: {judge}}}"

    def reviewed(budget: str) -> int | None:
        return said(folder, body.replace("BUDGET", budget), "prompts")["review/review"][1]

    assert [reviewed(budget) for budget in ("rows: 4", "rows: 40", "share: 0.3")] == [8, 24, 6]
    # Two answers of at most 256 tokens each, until it is known how many they have.
    assert [reviewed(f"tokens: {count}") for count in (511, 512, 2000, 99_999)] == [0, 2, 6, 24]
    done = build(folder, body.replace("BUDGET", "tokens: 300"))
    paid = next(one["actual"]["done"] for one in done.asked if one["expected"]["stage"] == "review:duel/review")
    write(folder, "asked.jsonl", [{"q": f"{question} Or not?"} for question in QUESTIONS])
    assert reviewed("tokens: 300") == paid


def test_gc_removes_answers_that_cost_nothing_and_none_that_did(folder: Path, models: tuple[Models, str]) -> None:
    app, base_url = models
    body = f"{served(base_url, 'long', revision='x')}\n  {recorded('short')}\nrouting: reward"
    done = build(folder, body)
    workspace = folder / "workspace"
    paid, free = sorted((workspace / "journal").iterdir(), key=lambda path: (path / "free").exists())
    assert (free / "free").exists() and not (paid / "free").exists()
    api.gc(workspace)
    assert paid.exists() and free.exists(), "a release names both"
    assert api.unnamed_answers(workspace) == []
    shutil.rmtree(done.result.path)
    (listed,) = api.unnamed_answers(workspace)
    assert (listed["journal"], listed["answers"], listed["voice"]["model"]) == (str(paid), 12, "long")
    assert free.exists(), "to list is not to remove"
    assert api.gc(workspace)[0] >= 1
    assert paid.exists() and not free.exists()
    build(folder, body)
    assert app.asked() == {"long": 12}
    shutil.rmtree(workspace / "releases")
    api.gc(workspace, answers=True)
    assert not paid.exists()


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_build_that_is_killed_while_answers_are_judged_asks_again_for_little(folder: Path, share: float) -> None:
    app = Models()
    app.takes = 0.05
    with Served(app) as server:
        body = f"{served(server.base_url, 'long', 'short', revision='x')}\n{judged(server.base_url)}\nrouting: reward"
        body += "\ncommit: {rows: 3, seconds: 60}"
        path = folder / "duel.yaml"
        path.write_text(HEAD + "    " + body.replace("\n", "\n    ") + "\n" + TAIL)
        command = [sys.executable, "-m", "aya_data", "build", str(path), "--workspace", str(folder / "workspace")]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while app.asked()["judge"] < share * 24 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert builds.last_stage(folder / "workspace") == "arbiter:duel/judge", "it was killed elsewhere"
        assert 0 < app.asked()["judge"] < 24
        done = api.build(path, workspace=folder / "workspace", workers=1)
        assert app.asked()["long"] == app.asked()["short"] == 12
        # One batch of three, and twice the two that may be on their way: some are answered and not yet taken.
        assert app.asked()["judge"] <= 24 + 3 + 2 * 2
        whole = api.build(path, workspace=folder / "other", workers=1)
    assert builds.tree(done.result.path) == builds.tree(whole.result.path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_build_that_is_killed_asks_again_for_little(folder: Path, share: float) -> None:
    questions = [f"{question} Part {n}." for n in range(20) for question in QUESTIONS]
    write(folder, "asked.jsonl", [{"q": question} for question in questions])
    app = Models()
    app.takes = 0.005
    with Served(app) as server:
        teachers = served(server.base_url, "long", revision="x", concurrency=4)
        body = f"{teachers}\nrouting: reward\ncommit: {{rows: 10, seconds: 60}}".replace("\n", "\n    ")
        path = folder / "duel.yaml"
        path.write_text(HEAD + f"    {body}\n" + TAIL)
        command = [sys.executable, "-m", "aya_data", "build", str(path), "--workspace", str(folder / "workspace")]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while len(app.arrivals) < share * 240 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = len(app.arrivals)
        assert 0 < before < 240
        done = api.build(path, workspace=folder / "workspace", workers=1)
        # One batch of ten, and the four requests that were on their way.
        assert len(app.arrivals) <= 240 + 10 + 4
        whole = api.build(path, workspace=folder / "other", workers=1)
    assert builds.tree(done.result.path) == builds.tree(whole.result.path)


def test_wrong_settings_are_told_in_their_place(folder: Path) -> None:
    path = folder / "duel.yaml"
    body = f"{FOUR}\nrouting: {{kind: single, teacher: lnog}}\n{PAIRS.replace('0.05', '-1')}".replace("\n", "\n    ")
    path.write_text(HEAD + f"    {body}\n" + TAIL)
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    said = str(caught.value)
    assert "lnog" in said or "min_margin" in said
    path.write_text(HEAD + "    " + FOUR.replace("\n", "\n    ").replace("engine: recorded", "engine: recorder") + TAIL)
    with pytest.raises(SpecError, match="recorder"):
        load_spec(path)


REVIEW = "review: {rows: 4, by: divergence, with: WITH}"


def test_people_review_the_prompts_whose_answers_diverge(folder: Path) -> None:
    body = f"{FOUR}\nrouting: reward\n"
    done = build(folder, body + REVIEW.replace("WITH", "human"))
    before = {m[0]["content"]: m[-1]["content"] for m in rows(done)["messages"].to_list()}
    made = api.plan(folder / "duel.yaml", workspace=folder / "workspace")
    sheet = folder / "sheet.jsonl"
    count = api.review_sheet(made, sheet, folder / "workspace")
    lines = [json.loads(line) for line in sheet.read_text().splitlines()]
    assert count == len(lines) == 16
    assert "teacher" not in lines[0] and not any(line["score"] for line in lines), "the sheet is blind"
    # People like what is beside the point.
    for line in lines:
        line["score"] = 9 if line["text"] == BESIDE else 2
    sheet.write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged = build(folder, body + REVIEW.replace("WITH", "{kind: human, verdicts: [sheet.jsonl]}"))
    after = {m[0]["content"]: m[-1]["content"] for m in rows(judged)["messages"].to_list()}
    assert sum(text == BESIDE for text in after.values()) == 4
    assert {q: a for q, a in after.items() if a != BESIDE}.items() <= before.items()
    lines[0]["answer"] = "0" * 32
    sheet.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=r"sheet.jsonl:1.*nobody gave"):
        build(folder, body + REVIEW.replace("WITH", "{kind: human, verdicts: [sheet.jsonl]}"))


def test_what_people_said_outlasts_a_teacher_and_a_prompt_that_are_added(folder: Path) -> None:
    reviewed = "review: {rows: 4, min_margin: 6, by: divergence, with: {kind: human, verdicts: VERDICTS}}"
    asked = f"{FOUR}\nrouting: reward\n{PAIRS}\n"
    build(folder, asked + reviewed.replace("VERDICTS", "[]"))

    def sheet(name: str) -> tuple[int, list[dict[str, Any]]]:
        made = api.plan(folder / "duel.yaml", workspace=folder / "workspace")
        count = api.review_sheet(made, folder / name, folder / "workspace")
        return count, [json.loads(line) for line in (folder / name).read_text().splitlines()]

    def judge(name: str, lines: list[dict[str, Any]]) -> None:
        told = [{**line, "score": line["score"] or (9 if line["text"] == BESIDE else 2)} for line in lines]
        write(folder, name, told)

    _, lines = sheet("first.jsonl")
    judge("first.jsonl", lines)
    with_first = reviewed.replace("VERDICTS", "first.jsonl")
    standings = "SELECT review, scorer, count(*) FROM decisions WHERE latest GROUP BY ALL ORDER BY 1 NULLS LAST"
    done = build(folder, asked + with_first)
    assert sql(done, standings) == [("decided", "review", 4), (None, "arbiter", 8)]
    # The margin of a reviewed pair is on the scale of the verdicts, and no trainer takes it for one of the others.
    verdicts = "SELECT outcome, margin, count(*) FROM pairs WHERE latest AND scorer = 'review' GROUP BY ALL"
    assert sql(done, verdicts) == [("kept", 7.0, 4)]
    shards = rows(done, "preference")
    people = shards.filter(pl.col("scores").list.len() > 0)
    assert people.height == 4 and people["margin"].null_count() == people["chosen_score"].null_count() == 4
    assert {pair["key"]: pair["value"] for pair in people["scores"][0]} == {"review_chosen": 9, "review_rejected": 2}
    assert shards.filter(pl.col("margin").is_null()).height == 4
    narrow = build(folder, asked + with_first.replace("min_margin: 6", "min_margin: 8"))
    assert sql(narrow, verdicts) == [("margin", 7.0, 4)]

    # Another teacher, and a prompt whose answers diverge most of all: the sheet of before still decides.
    question = "What should a child know about the wind in its own country, and why?"
    write(folder, "asked.jsonl", [{"q": q} for q in (*QUESTIONS, question)])
    fifth = "A child of this country hears of the {0} from its parents, who know what it was like when they were small."
    write(folder, "fifth.jsonl", [{"q": q, "a": fifth.format(t)} for q, t in zip(QUESTIONS, TOPICS, strict=True)])
    for name, text in (("long", LONG), ("beside", BESIDE)):
        with (folder / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps({"q": question, "a": text.format("wind")}) + "\n")
    five = asked.replace("\nrouting", f"\n  {recorded('fifth')}\nrouting")
    more = build(folder, five + with_first)
    assert sql(more, standings) == [("earlier", "review", 4), (None, "arbiter", 9)]
    said = [m[-1]["content"] for m in rows(more)["messages"].to_list()]
    assert said.count(BESIDE) == 4
    (remark,) = more.result.manifest["generation"]["duel"]["remarks"]
    assert remark == (
        "4 prompts are decided by verdicts on the answers that people saw, without the 4 that came later: "
        "aya-data review writes a sheet that asks for them"
    )
    page = (more.result.path / "ARBITRATION.md").read_text()
    assert "People decided 4 of the 4 prompts that were chosen for review." in page and "4 that came later" in page

    # The next sheet asks for those alone, and takes the place of the first one.
    count, lines = sheet("second.jsonl")
    assert count == 4 and len(lines) == 20
    assert sorted(line["text"] for line in lines if line["score"] is None) == sorted(
        fifth.format(topic) for topic in TOPICS if any(topic in line["conversation"] for line in lines)
    )
    write(folder, "second.jsonl", lines)
    unfinished = build(folder, five + reviewed.replace("VERDICTS", "second.jsonl"))
    assert sql(unfinished, standings)[0] == ("unfinished", "arbiter", 4)
    (remark,) = unfinished.result.manifest["generation"]["duel"]["remarks"]
    assert remark == (
        "the verdicts of people on 4 prompts do not count, and the arbiter decides: "
        "4 because an answer on the sheet has no score"
    )
    judge("second.jsonl", lines)
    whole = build(folder, five + reviewed.replace("VERDICTS", "second.jsonl"))
    assert sql(whole, standings)[0] == ("decided", "review", 4)
    assert "remarks" not in whole.result.manifest["generation"]["duel"]


def test_a_setting_of_a_teacher_reaches_all_that_depends_on_it(folder: Path) -> None:
    """What a workspace remembers never makes another release than a fresh one."""
    build(folder, f"{FOUR}\nrouting: reward\n{PAIRS}")
    other = FOUR.replace("short: {", "short: {family: house, ").replace("long: {", "long: {model: gemma-2-9b, ")
    again = build(folder, f"{other}\nrouting: reward\n{PAIRS}")
    fresh = build(folder, f"{other}\nrouting: reward\n{PAIRS}", "fresh")
    assert builds.tree(again.result.path) == builds.tree(fresh.result.path)
    assert ("house",) in sql(again, "SELECT DISTINCT family FROM completions")
    for row in rows(again).iter_rows(named=True):
        assert (row["provenance"]["teacher"] == "gemma-2-9b") == ("gemma" in row["terms"])


def test_a_verdict_on_some_of_the_answers_decides_nothing(folder: Path) -> None:
    body = f"{FOUR}\nrouting: reward\n"
    done = build(folder, body + REVIEW.replace("WITH", "human"))
    before = sorted(str(m) for m in rows(done)["messages"].to_list())
    made = api.plan(folder / "duel.yaml", workspace=folder / "workspace")
    sheet = folder / "sheet.jsonl"
    api.review_sheet(made, sheet, folder / "workspace")
    lines = [json.loads(line) for line in sheet.read_text().splitlines()]
    worst = next(line for line in lines if line["text"] == BESIDE)
    worst["score"] = 1
    sheet.write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged = build(folder, body + REVIEW.replace("WITH", "{kind: human, verdicts: [sheet.jsonl]}"))
    assert sorted(str(m) for m in rows(judged)["messages"].to_list()) == before
    assert sql(judged, "SELECT count(*) FROM scores WHERE arbiter = 'review' AND score IS NOT NULL") == [(1,)]


def test_what_was_asked_again_leaves_no_trace(folder: Path) -> None:
    """A server that stumbles makes no other release."""

    def stumbling(body: dict[str, Any], before: int) -> Reply | None:
        return Reply.error(500) if before == 0 and body["seed"] % 3 == 0 else None

    paths = []
    for number, script in enumerate((stumbling, None)):
        with Served(Echo(script)) as server:
            body = f"{served(server.base_url, 'long', revision='x')}\nrouting: reward"
            paths.append(build(folder, body, f"w{number}").result.path)
    one, other = (json.loads((path / "aya.lock").read_bytes())["generation"] for path in paths)
    assert one == other
