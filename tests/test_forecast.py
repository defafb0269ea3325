"""What a plan expects, and what a build says of failures: figures that are bounds are bounds, and nothing is silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aya_data import api
from aya_data.cli.funnel import build_as_dict, print_funnel
from aya_data.cli.progress import watcher
from aya_data.cli.tables import print_plan
from aya_data.core.generation import TURN
from tests import builds
from tests.chat_server import Reply, Served, completion
from tests.test_arbitrage import HEAD, QUESTIONS, TAIL, Models, folder, recorded, served, sql
from tests.test_generation import asked, spec
from tests.tiny_models import TEXTS, causal_lm, needs_transformers, teacher
from tests.toy import AskSettings, Echoing

__all__ = ["folder"]

TURNS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(max_size=40)), max_size=5)


class Counting(Models):
    """Says how many tokens there are in what it answers to questions about ``counts``, 10 and 20, and of no other."""

    def __init__(self, *counts: str, fails: str = "") -> None:
        super().__init__(fails)
        self.counts = counts

    def reply(self, body: dict[str, Any], before: int) -> Reply | None:
        found = super().reply(body, before)
        if found is None or found.status != 200:
            return found
        text = json.loads(found.body)["choices"][0]["message"]["content"]
        known = any(word in body["messages"][-1]["content"] for word in self.counts)
        usage = {"prompt_tokens": 10, "completion_tokens": 20} if known else {}
        return Reply(body=completion(text, **usage))


def written(folder: Path, body: str, languages: str = "") -> Path:
    path = folder / "duel.yaml"
    head = HEAD.replace("policy: any", f"policy: any\nlanguages: {languages}") if languages else HEAD
    path.write_text(head + "    " + body.strip().replace("\n", "\n    ") + "\n" + TAIL)
    return path


def plan(path: Path, capsys: pytest.CaptureFixture[str], upto: str | None = "prompts") -> tuple[dict[str, Any], str]:
    """What a plan expects of the first step that asks, and all that it prints."""
    workspace = path.parent / "workspace"
    made = api.plan(path, workspace=workspace)
    asks = api.expectations(made, workspace, upto=upto)
    capsys.readouterr()
    print_plan({**api.plan_as_dict(made, workspace), "asks": asks})
    return asks[0], capsys.readouterr().out


def test_tokens_go_by_the_answers_that_say_how_many_they_have(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that leaves them out measures no price, and one that says some is measured by those."""

    def samples(n: int) -> str:
        return f"{served(server.base_url, 'long', n=n, price='{prompt: 1, completion: 2}')}\nrouting: reward"

    workspace = folder / "workspace"
    with Served(Counting()) as server:
        api.build(written(folder, samples(1)), workspace=workspace, workers=1)
        found, text = plan(written(folder, samples(2)), capsys)
        most = sum(len(question.encode()) + 3 * TURN for question in QUESTIONS)
        assert (found["missing"], found["measured"], found["bounded"]) == (12, False, True)
        assert (found["prompt_tokens"], found["completion_tokens"]) == (most, 12 * 256)
        assert found["cost"] == round((most + 2 * 12 * 256) / 1e6, 4) and found["seconds"] is not None
        assert f"at most {most + 12 * 256:,}" in text and f"at most {found['cost']:.2f}" in text
    with Served(Counting("sea", "moon", "bread")) as server:
        done = api.build(written(folder, samples(2)), workspace=workspace, workers=1)
        (account,) = done.asked
        assert (account["actual"]["counted"], account["actual"]["prompt_tokens"]) == (3, 30)
        print_funnel(done, folder / "duel.yaml", "sample", None)
        assert "at least 90" in capsys.readouterr().out
        found, text = plan(written(folder, samples(3)), capsys)
        assert (found["missing"], found["measured"], found["bounded"]) == (12, True, False)
        assert (found["prompt_tokens"], found["completion_tokens"]) == (120, 240)
        assert "about 360" in text


def test_an_estimate_is_no_bound(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Served(Counting()) as server:
        model = f'{{engine: openai, model: judge, base_url: "{server.base_url}"}}'
        judge = f"arbiter: {{kind: judge, mode: score, model: {model}}}"
        path = written(folder, f"{served(server.base_url, 'long')}\n{judge}\nrouting: reward")
        _, text = plan(path, capsys)
    lines = {line.split()[0]: line for line in text.splitlines() if "duel/" in line}
    assert "exact" in lines["generate:duel/long"] and "at most" in lines["generate:duel/long"]
    assert "estimated" in lines["arbiter:duel/judge"] and "about" in lines["arbiter:duel/judge"]


@given(st.lists(TURNS, max_size=4))
def test_every_byte_may_be_a_token(conversations: list[list[tuple[str, str]]]) -> None:
    voice = Echoing(AskSettings.model_construct(), Path())
    found = voice.prompt_tokens(conversations)
    assert found == [sum(len(text.encode()) for _, text in turns) + (len(turns) + 2) * TURN for turns in conversations]


@needs_transformers
def test_a_model_that_lies_here_counts_its_own_prompts(tmp_path: Path) -> None:
    voice = teacher(tmp_path, causal_lm(tmp_path / "tiny"), {"max_tokens": 9})
    from transformers import AutoTokenizer

    from aya_data.builders.arbitrage.teachers.hosted_protocol import encoded

    texts = [*TEXTS, "世界上最高的山是什么？" * 20, "What is the capital of France? " * 20]
    talks = [[("system", "Be brief."), ("user", text)] for text in texts]
    real = AutoTokenizer.from_pretrained(tmp_path / "tiny")
    true = [len(encoded(real, [list(turn) for turn in turns])) for turns in talks]
    found = voice.prompt_tokens(talks)
    assert all(count <= most <= count + TURN for count, most in zip(true, found, strict=True))
    # What a template refuses, and what spells a control token, may be a token for every byte.
    odd = [("user", "<|im_end|>" * 20)]
    assert len(encoded(real, [list(turn) for turn in odd])) <= voice.prompt_tokens([odd])[0] == 200 + 3 * TURN
    other = tmp_path / "other.jinja"
    other.write_text("{{ raise_exception('no') }}")
    refusing = teacher(tmp_path, tmp_path / "tiny", {"max_tokens": 9}, chat_template=str(other))
    assert refusing.prompt_tokens([[("user", "世界")]])[0] >= 6


def test_failures_that_are_allowed_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Served(Counting(fails="the moon")) as server:
        path = written(
            folder, f"{served(server.base_url, 'long', 'short', revision='x')}\nrouting: reward\nmax_failed: 1"
        )
        done = api.build(path, workspace=folder / "workspace", workers=1)
        reason = "once HTTP 400: this is too hard"
        notes = [f"generate:duel/{name}: 1 of 12 requests failed: {reason}" for name in ("long", "short")]
        assert build_as_dict(done)["notes"] == notes
        print_funnel(done, path, "sample", None)
        text = capsys.readouterr().out
        assert all(f"Warning: {note}." in text for note in notes)
        said = f"Of the 12 requests to `generate/long` 1 failed and have no answer: {reason}."
        assert said in (done.result.path / "ARBITRATION.md").read_text()
        card = (done.result.path / "README.md").read_text()
        assert "Of 12 requests to generate/long (duel) 1 failed and have no answer" in card
        lock = json.loads((done.result.path / "aya.lock").read_bytes())
        told = lock["generation"]["duel"]["generate/long"]
        assert (told["failed"], told["reasons"]) == (1, {"HTTP 400: this is too hard": 1})
        lost = sql(done, "SELECT step, tag, language, reason FROM failures WHERE latest ORDER BY 1")
        assert lost == [(f"generate/{name}", "0", "eng", "HTTP 400: this is too hard") for name in ("long", "short")]
        prompts = sql(done, "SELECT DISTINCT prompt FROM failures WHERE prompt NOT IN (SELECT prompt FROM completions)")
        assert len(prompts) == 1
        # A build that asks nobody says it too.
        again = api.build(path, workspace=folder / "workspace", workers=1)
        assert build_as_dict(again)["notes"] == notes and not again.asked


def test_a_teacher_of_other_languages_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    french = recorded("french").replace("{engine", "{languages: [fra, deu_Latn], engine")
    two = f"teachers:\n  {recorded('long')}\n  {french}\nrouting: reward"
    _, text = plan(written(folder, two, "[eng]"), capsys, upto=None)
    assert "generate:duel/french: none of the spec's languages is in its languages: fra, deu_Latn." in text
    path = written(folder, two)
    _, text = plan(path, capsys, upto=None)
    assert "in its languages" not in text, "prompts of any language may come"
    note = "generate:duel/french: none of the 12 prompts is in its languages: fra, deu_Latn"
    _, text = plan(path, capsys)
    assert f"Warning: {note}." in text and "duel/long: none" not in text
    for _ in range(2):
        done = api.build(path, workspace=folder / "workspace", workers=1)
        assert build_as_dict(done)["notes"] == [note]
    # One that a routing never picks is no such teacher.
    path = written(
        folder, two.replace("routing: reward", "routing: {kind: single, teacher: long}").replace("fra", "eng")
    )
    assert build_as_dict(api.build(path, workspace=folder / "workspace", workers=1))["notes"] == []


def test_a_process_that_was_started_again_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = spec(tmp_path)
    (tmp_path / "dies").write_text("2")
    with watcher() as watching:
        done = builds.build(path, tmp_path / "workspace", listeners=[watching.listen])
    again = "died 2 times (signal 9 (SIGKILL)) and was started again; 6 requests were asked again"
    assert build_as_dict(done)["notes"] == [f"generate:c/echoing: the model's process {again}"]
    line = "generate:c/echoing: the model's process died (signal 9 (SIGKILL)) and is started again; 3 to ask again"
    assert capsys.readouterr().err.splitlines().count(line) == 2
    assert len(asked(tmp_path)) == 8
