"""What an arbitrage loses is said: teachers without answers, verdicts nobody can read, languages without a teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aya_data import api
from aya_data.builders.arbitrage.routing.rules import RoutingSettings, unserved
from aya_data.cli.funnel import build_as_dict, print_funnel
from aya_data.cli.tables import print_plan
from aya_data.core.errors import BuildError, SpecError
from aya_data.engine.run import Build
from aya_data.publish.arbitration import arbitration
from tests import builds
from tests.chat_server import Reply, Served, completion
from tests.test_arbitrage import (
    FOUR,
    LONG,
    QUESTIONS,
    SHORT,
    TOPICS,
    Models,
    build,
    folder,
    recorded,
    served,
    sql,
    write,
)
from tests.test_arbitration import manifest

__all__ = ["folder"]

LOST = "teachers:\n  " + "\n  ".join(recorded(name) for name in ("long", "lost")) + "\nrouting: reward"


def unmatched(folder: Path) -> None:
    write(folder, "lost.jsonl", [{"q": f"{question} Or not?", "a": "Never."} for question in QUESTIONS])


def funnel(done: Build, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, dict[str, str]], str]:
    """The lines of the funnel by source, each its cells by column; and all that was printed."""
    print_funnel(done, Path("duel.yaml"), "sample", None)
    text = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    names = next(line for line in cells if line[:1] == ["source"])
    return {line[0]: dict(zip(names[1:], line[1:], strict=True)) for line in cells if len(line) == len(names)}, text


def test_a_recording_that_matches_no_prompt_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unmatched(folder)
    done = build(folder, LOST)
    page = (done.result.path / "ARBITRATION.md").read_text()
    assert "The teacher `lost` has no answer to any prompt that it was asked." in page
    assert "| `lost` |  | 0 of 12 | 0 |" in page
    wanted = "SELECT teacher, language, prompts, completions, wins, win_share, low FROM arbitration WHERE latest"
    assert ("lost", "eng", 0, 0, 0, None, None) in sql(done, wanted)
    assert sql(done, "SELECT teacher, prompts, answered FROM teachers ORDER BY 1") == [
        ("long", 12, 12),
        ("lost", 12, 0),
    ]
    said = build_as_dict(done)
    assert said["notes"] == ["generate:duel/lost: 0 of 12 are recorded"]
    absent = {one["expected"]["stage"]: one["actual"]["absent"] for one in said["asked"]}
    assert absent == {"generate:duel/long": 0, "generate:duel/lost": 12}
    _, text = funnel(done, capsys)
    assert "Warning: generate:duel/lost: 0 of 12 are recorded." in text
    # A build that asks nobody, all being there, says it too.
    _, text = funnel(build(folder, LOST), capsys)
    assert "Warning: generate:duel/lost: 0 of 12 are recorded." in text


def test_a_plan_counts_what_recordings_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unmatched(folder)
    build(folder, LOST, "elsewhere")
    path, workspace = folder / "duel.yaml", folder / "workspace"
    made = api.plan(path, workspace=workspace)
    asks = api.expectations(made, workspace, upto="prompts")
    assert {one["stage"]: (one["wanted"], one["recorded"]) for one in asks} == {
        "generate:duel/long": (12, 12), "generate:duel/lost": (12, 0),
    }  # fmt: skip
    print_plan({**api.plan_as_dict(made, workspace), "asks": asks})
    text = capsys.readouterr().out
    assert "Warning: generate:duel/lost: 0 of 12 are recorded." in text and "duel/long: " not in text


def test_the_funnel_tells_what_was_made_from_what_was_lost(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [json.loads(line) for line in (folder / "long.jsonl").read_text().splitlines()]
    write(folder, "long.jsonl", answers[:9])
    done = build(folder, f"teachers:\n  {recorded('long')}\nrouting: reward")
    builds.check_law(done)
    found, _ = funnel(done, capsys)
    assert found["duel"] == {
        "read": "·", "malformed": "·", "no answer": "3", "made": "9", "not sampled": "·", "consumed": "·",
        "released": "9",
    }  # fmt: skip
    assert found["asked (prompts)"] == {
        "read": "12", "malformed": "·", "no answer": "·", "made": "·", "not sampled": "3", "consumed": "9",
        "released": "·",
    }  # fmt: skip


def test_the_ledger_says_what_is_wrong_with_the_answers(folder: Path) -> None:
    write(folder, "empty.jsonl", [{"q": question, "a": "  "} for question in QUESTIONS])
    bad = "teachers:\n  " + "\n  ".join(recorded(name) for name in ("french", "empty"))
    done = build(folder, f"{bad}\nrouting: reward")
    found = sql(done, "SELECT DISTINCT rule, value, evidence FROM ledger WHERE latest AND stage = 'derive:duel'")
    assert found == [("no_answer_penalised", "2", "empty: empty; french: wrong_language")]
    unmatched(folder)
    done = build(folder, f"teachers:\n  {recorded('lost')}\nrouting: reward")
    found = sql(done, "SELECT DISTINCT rule, value, evidence FROM ledger WHERE latest AND stage = 'derive:duel'")
    assert found == [("no_answer_none", "0", None)]


def test_the_ledger_says_what_a_refused_pair_was_judged_by(folder: Path) -> None:
    said = [LONG.format(topic) for topic in TOPICS]
    other = [
        f"{text} Indeed." if at < 4 else text if at < 6 else SHORT.format(TOPICS[at]) for at, text in enumerate(said)
    ]
    write(folder, "short.jsonl", [{"q": q, "a": a} for q, a in zip(QUESTIONS, other, strict=True)])
    two = "teachers:\n  " + "\n  ".join(recorded(name) for name in ("long", "short"))
    pairs = "{kind: best_worst, min_margin: 0, max_length_ratio: 1.5, max_similarity: 0.75}"
    done = build(folder, f"{two}\nrouting: reward\nanswers: false\npairs: {pairs}")
    found = sql(done, "SELECT rule, value, threshold FROM ledger WHERE latest AND stage = 'derive:duel' ORDER BY ALL")
    ratios = sorted(f"{round(len(long) / len(short), 4):g}" for long, short in zip(said[6:], other[6:], strict=True))
    assert [one for one in found if one[0] == "no_pair_length"] == [
        ("no_pair_length", ratio, "1.5") for ratio in ratios
    ]
    assert [one for one in found if one[0] == "no_pair_identical"] == [("no_pair_identical", "0", None)] * 2
    assert {(rule, limit) for rule, _, limit in found if rule == "no_pair_similar"} == {("no_pair_similar", "0.75")}
    assert [0.75 <= float(value) < 1 for rule, value, _ in found if rule == "no_pair_similar"] == [True] * 4


class Babbling(Models):
    """The judge says what nobody can read, to the questions about some answers alone where ``only`` is given."""

    def __init__(self, only: str = "") -> None:
        super().__init__()
        self.only = only

    def reply(self, body: dict[str, Any], before: int) -> Reply | None:
        if body["model"] == "judge" and self.only in body["messages"][-1]["content"]:
            return Reply(body=completion("All of them are lovely!", prompt_tokens=9, completion_tokens=9))
        return super().reply(body, before)


def judged(base_url: str, routing: str = "reward") -> str:
    model = f'{{engine: openai, model: judge, base_url: "{base_url}"}}'
    arbiter = f"arbiter: {{kind: judge, mode: score, model: {model}}}"
    return f"{served(base_url, 'long', 'short')}\n{arbiter}\nrouting: {routing}"


@pytest.mark.parametrize("routing", ["reward", "{kind: fixed, held_out: 0.5, least: 1}"])
def test_a_judge_that_nobody_can_read_stops_the_build(folder: Path, routing: str) -> None:
    app = Babbling()
    with Served(app) as server:
        for _ in range(2):
            with pytest.raises(BuildError, match="verdicts of the judge 'judge' can be read") as stopped:
                build(folder, judged(server.base_url, routing))
            assert stopped.value.exit_code == 1
            assert "'All of them are lovely!'" in str(stopped.value)
            asked = app.asked()
        assert app.asked() == asked, "what was answered is kept"
    assert not list((folder / "workspace").glob("releases/*/*/manifest.json"))


def test_verdicts_that_nobody_can_read_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Served(Babbling("town")) as server:
        done = build(folder, judged(server.base_url))
    page = (done.result.path / "ARBITRATION.md").read_text()
    assert "- 12 prompts have 24 answers, of which 22 have a score." in page
    assert "Of the judge `judge` 2 verdicts could not be read" in page
    assert "| `no_score` | dropped: no answer with a score | 1 |" in page
    found = sql(
        done, "SELECT rule, value, evidence FROM ledger WHERE latest AND stage = 'derive:duel' AND rule <> 'arbitrage'"
    )
    assert found == [("no_score", "2", "long: no score; short: no score")]
    said = build_as_dict(done)
    assert "arbiter:duel/judge: 2 of 24 verdicts could not be read" in said["notes"]
    unreadable = {one["expected"]["stage"]: one["actual"]["unreadable"] for one in said["asked"]}
    assert unreadable["arbiter:duel/judge"] == 2 and unreadable["generate:duel/long"] == 0
    cells, text = funnel(done, capsys)
    assert cells["duel"]["no answer"] == "1" and cells["duel"]["made"] == "11"
    assert "Warning: arbiter:duel/judge: 2 of 24 verdicts could not be read." in text


def test_languages_without_a_teacher_are_told_before_anybody_is_asked(folder: Path) -> None:
    def wrong(body: str, languages: str) -> str:
        path = folder / "wrong.yaml"
        build(folder, FOUR + "\nrouting: reward")
        text = (folder / "duel.yaml").read_text().replace("policy: any", f"policy: any\nlanguages: {languages}")
        head, _, tail = text.partition("    teachers:")
        rest = tail[tail.index("filters:") :]
        path.write_text(head + "".join(f"    {line}\n" for line in body.splitlines()) + rest)
        with pytest.raises(SpecError) as caught:
            api.plan(path, workspace=folder / "workspace")
        assert len(caught.value.problems) == 1
        return str(caught.value)

    assert (
        "wrong.yaml:23:38: the source 'duel': names no teacher that is asked for eng_Latn, which the spec's languages "
        "name. Name one for them, or one under 'default'."
    ) in wrong(f"{FOUR}\nrouting: {{kind: fixed, teachers: {{tur: long}}}}", "[eng]")
    only = FOUR.replace("columns", "languages: [tur], columns")
    assert "wrong.yaml:19:7: the source 'duel': no teacher is asked for eng_Latn" in wrong(
        f"{only}\nrouting: reward", "[eng]"
    )
    some = FOUR.replace("path: long.jsonl", "languages: [tur], path: long.jsonl")
    assert "wrong.yaml:23:38: the source 'duel': is 'long', which is not asked for eng_Latn" in wrong(
        f"{some}\nrouting: {{kind: single, teacher: long}}", "[eng]"
    )


def test_a_routing_is_compared_with_every_language() -> None:
    wanted = [("eng", "Latn"), ("tur", "Latn"), ("zho", "Hans")]
    teachers = {"a": lambda language, _: True, "b": lambda language, _: language == "tur"}

    def faults(**given: Any) -> list[tuple[str | int, ...]]:
        return [path for path, _, _ in unserved(wanted, teachers, RoutingSettings.model_validate(given))]

    assert faults(kind="reward") == faults(kind="random") == faults(kind="fixed", held_out=0.5) == []
    assert faults(kind="single", teacher="a") == faults(kind="fixed", teachers={"default": "a", "tur": "b"}) == []
    assert faults(kind="single", teacher="b") == faults(kind="fixed", teachers={"tur": "b"}) == [], "one has a teacher"
    wanted = [("eng", "Latn"), ("zho", "Hans")]
    assert faults(kind="single", teacher="b") == [("routing", "teacher")]
    assert faults(kind="fixed", teachers={"tur": "b"}) == [("routing", "teachers")]
    assert unserved(wanted, {"b": teachers["b"]}, RoutingSettings.model_validate("reward"))[0][0] == ("teachers",)
    assert unserved([], {"b": teachers["b"]}, RoutingSettings.model_validate("reward")) == []


def test_prompts_without_a_teacher_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = build(folder, f"{FOUR}\nrouting: {{kind: fixed, teachers: {{tur: long}}}}")
    assert sql(done, "SELECT rule, count(*) FROM ledger WHERE latest AND stage = 'derive:duel' GROUP BY 1") == [
        ("no_teacher", 12)
    ]
    assert "Warning: duel: no teacher is asked for the language of 12 prompts." in funnel(done, capsys)[1]
    page = (done.result.path / "ARBITRATION.md").read_text()
    assert "| `no_teacher` | dropped: no teacher is asked for its language | 12 |" in page
    assert "has no answer to any prompt" not in page, "nobody was asked"


@pytest.mark.parametrize("prompts", [300, 20])
def test_the_headline_names_what_it_compares_with(prompts: int) -> None:
    given = manifest(prompts=prompts, noises=(2.0, 2.0))
    comparison = given["arbitration"]["arb"]["comparison"][0]
    strategies = comparison["strategies"]
    best = max((one for one in strategies if one["strategy"] == "single"), key=lambda one: one["mean"]["estimate"])
    assert comparison["best"]["teacher"] == best["teacher"] and comparison["best"]["mean"] == best["mean"]
    reward = next(one for one in strategies if one["strategy"] == "reward")
    chosen = next(one for one in strategies if one["strategy"] == "best_single")
    gain = reward["mean"]["estimate"] - best["mean"]["estimate"]
    assert comparison["best"]["gain"]["estimate"] == pytest.approx(gain, abs=2e-4)
    assert (chosen["mean"] == best["mean"]) == (prompts == 300), "in the smaller one the halves disagree"
    page = arbitration(given)
    name, mean = best["teacher"], f"{best['mean']['estimate']:.3f} ["
    told = f"The one chosen is the best single teacher, `{name}`: {mean}"
    if prompts == 20:
        told = f"The best single teacher, `{name}`, has {mean}"
        assert f"it by {gain:.3f} [" in page
    assert told in page
    assert "the teacher chosen on the other half of the prompts by" in page
    assert "| chosen on the other half |" in page


def test_what_rests_on_too_few_prompts_has_no_line() -> None:
    given = manifest(prompts=3)
    page = arbitration(given)
    assert "too few prompts to tell what the arbiter is inclined to" in page
    assert "Score and length" not in page and "### Position" not in page and "### Own family" not in page
    bias = given["arbitration"]["arb"]["bias"]
    bias["without_length"] = [{**bias["without_length"][0], "prompts": 0, "wins": {}}]
    assert "If the score knew nothing of length" not in arbitration(given)


def test_a_reviewing_judge_that_nobody_can_read_stops_the_build(folder: Path) -> None:
    with Served(Babbling()) as server:
        model = f'{{engine: openai, model: judge, base_url: "{server.base_url}"}}'
        review = f"review: {{rows: 3, with: {{kind: judge, mode: score, model: {model}}}}}"
        with pytest.raises(BuildError, match="of the judge 'review' can be read"):
            build(folder, f"{FOUR}\nrouting: reward\n{review}")
