"""The real engine: completions and scores, and what becomes of its processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import pytest

from aya_data.builders.arbitrage.arbiters.reward_model import VllmRewardModel, VllmRewardSettings
from aya_data.builders.arbitrage.teachers.host import HostSession
from aya_data.builders.arbitrage.teachers.transformers_engine import TransformersTeacher
from aya_data.builders.arbitrage.teachers.vllm_engine import VllmSettings, VllmTeacher
from aya_data.core.errors import InputError
from aya_data.core.generation import ABSENT, LENGTH, STOP, Answer, Place, Request, Voice, voice_key
from tests.tiny_models import environment
from tests.tiny_models import teacher as transformers_teacher
from tests.vllm.conftest import lora

PROMPTS = [
    "Hi",
    "What is the capital of France?",
    "日本の首都はどこですか。",
    "Mji mkuu wa Kenya ni upi? " * 3,
    "x",
    "Write a short poem about the sea. Explain why the sky is blue in two sentences.",
    "Türkiye'nin başkenti neresidir?",
    "ما هي عاصمة مصر؟",
]
ENGINE: dict[str, Any] = {
    "engine": "vllm",
    "dtype": "float32",
    "enforce_eager": True,
    "kv_cache": "64MB",
    "max_num_seqs": 32,
    "max_length": 512,
}
SCORER: dict[str, Any] = {"kind": "reward_model", **ENGINE}
CLOSE = 1e-4
"""The most that a score differs from transformers'; a logit in float32, some 1 in size, through other kernels."""


def teacher(base: Path, model: Path, sampling: dict[str, Any], **more: Any) -> VllmTeacher:
    sampling = {"n": 1, "temperature": 0, "max_tokens": 24, **sampling}
    settings = VllmSettings.model_validate({**ENGINE, "model": str(model), "sampling": sampling, **more})
    return VllmTeacher("tiny", settings, environment(base))


def by_transformers(base: Path, model: Path, sampling: dict[str, Any], **more: Any) -> TransformersTeacher:
    given = {"device": "cpu", "max_length": ENGINE["max_length"], **more}
    return transformers_teacher(base, model, {"max_tokens": 24, **sampling}, **given)


def running(voice: Voice, place: Place) -> AbstractContextManager[HostSession]:
    return cast(AbstractContextManager[HostSession], voice.session(place))


def requests(prompts: Iterable[str], seeds: Sequence[int] = (0,)) -> list[Request]:
    return [Request(f"{prompt}/{seed}", (("user", prompt),), seed) for prompt in prompts for seed in seeds]


def answered(session: HostSession, asked: Iterable[Request]) -> dict[str, Answer]:
    """Every request's answer, by its key; each is answered once."""
    found: dict[str, Answer] = {}
    for answer in session.ask(iter(asked)):
        if answer is not None:
            assert answer.key not in found
            found[answer.key] = answer
    return found


def said(answers: dict[str, Answer]) -> dict[str, tuple[str | None, str, int | None, int | None]]:
    return {key: (one.text, one.finish, one.prompt_tokens, one.completion_tokens) for key, one in answers.items()}


def test_samples_follow_their_seeds_and_the_engine_is_fed_while_it_runs(
    language_model: Path, tmp_path: Path, place: Place
) -> None:
    voice = teacher(tmp_path, language_model, {"temperature": 1, "top_p": 0.95}, window=48, max_num_seqs=16)
    assert voice.pinned
    taken = 0

    def counted(asked: list[Request]) -> Iterable[Request]:
        nonlocal taken
        for request in asked:
            taken += 1
            yield request

    many = requests(PROMPTS, range(20))
    with running(voice, place) as session:
        (facts,) = session.facts
        assert (facts["engine"], facts["dtype"], facts["max_length"]) == ("vllm", "float32", 512)
        found: dict[str, Answer] = {}
        for answer in session.ask(iter(counted(many))):
            if answer is not None:
                found[answer.key] = answer
                assert taken - len(found) <= 48
        assert found.keys() == {request.key for request in many}
        # Other numbers of requests at a time, another order, the same seeds.
        again = answered(session, requests(PROMPTS[::-1], (3, 0)))
        assert said(again) == {key: said(found)[key] for key in again}
        long = answered(session, [*requests(["word " * 600]), *requests(PROMPTS[:1])])
        # More tokens than the engine reads at a time.
        wide = answered(session, requests([f"{number} {'word ' * 80}" for number in range(32)]))
    for prompt in PROMPTS:
        texts = {found[f"{prompt}/{seed}"].text for seed in range(20)}
        assert len(texts) >= 19, "samples at temperature 1 are all but never the same"
    assert {one.finish for one in found.values()} <= {STOP, LENGTH}
    assert {one.completion_tokens for one in found.values() if one.finish == LENGTH} == {24}
    assert {one.finish for one in wide.values()} <= {STOP, LENGTH}
    assert sum(one.prompt_tokens or 0 for one in wide.values()) > 8192
    absent = long[f"{'word ' * 600}/0"]
    assert absent.finish == ABSENT
    assert str(absent.reason).startswith(f"the conversation has {absent.prompt_tokens} tokens, the model takes 512")


@pytest.mark.parametrize("changed", ["nothing", "adapter"])
def test_at_temperature_0_it_is_the_same_voice_as_under_transformers_and_says_the_same(
    changed: str, language_model: Path, adapter: Path, tmp_path: Path, place: Place
) -> None:
    sampling = {"repetition_penalty": 1.3, "stop": ["ab", "is"]}
    (tmp_path / "brief.jinja").write_text(
        "{% for message in messages %}<|im_start|>{{ message['content'] }}{% endfor %}{{ note }}<|im_end|>\n"
    )
    more: dict[str, Any] = {"chat_template": "brief.jinja", "template_variables": {"note": " Now."}}
    if changed == "adapter":
        more["adapter"] = str(adapter)
    voice = teacher(tmp_path, language_model, sampling, python=sys.executable, **more)
    other = by_transformers(tmp_path, language_model, sampling, **more)
    assert voice_key(voice) == voice_key(other)
    base = {name: value for name, value in more.items() if name != "adapter"}
    plain = teacher(tmp_path, language_model, sampling, **base)
    assert (voice_key(voice) == voice_key(plain)) == (changed == "nothing")
    asked = [
        Request(prompt, (("system", "Be brief."), ("user", "Hello"), ("assistant", "Yes?"), ("user", prompt)), 0)
        for prompt in PROMPTS
    ]
    with running(voice, place) as session:
        found = said(answered(session, asked))
    with running(other, place) as session:
        wanted = said(answered(session, asked))
    assert found == wanted
    if changed == "adapter":
        with running(by_transformers(tmp_path, language_model, sampling, **base), place) as session:
            assert said(answered(session, asked)) != wanted


def test_structured_answers_are_one_of_the_choices(language_model: Path, tmp_path: Path, place: Place) -> None:
    choices = ("A", "B", "tie")
    free = teacher(tmp_path, language_model, {"temperature": 1})
    voice = teacher(tmp_path, language_model, {"temperature": 1}, structured={"choice": choices})
    assert voice_key(voice) != voice_key(free)
    with running(voice, place) as session:
        found = answered(session, requests(PROMPTS, range(4)))
    assert {one.text for one in found.values()} == set(choices)
    assert {one.finish for one in found.values()} == {STOP}


def test_scores_are_the_logits_of_a_plain_forward_pass(scorer: Path, tmp_path: Path, place: Place) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    conversations = [
        (("user", prompt), ("assistant", answer))
        for prompt in PROMPTS
        for answer in ("Paris.", "başkenti Ankara'dır. " * 8, "…")
    ]
    settings = VllmRewardSettings.model_validate(
        {"kind": "reward_model", **ENGINE, "model": str(scorer), "max_num_seqs": 5}
    )
    with running(VllmRewardModel("tiny", settings, environment(tmp_path)), place) as session:
        asked = [Request(str(number), turns, 0) for number, turns in enumerate(conversations)]
        found = answered(session, asked)
        alone = answered(session, asked[:1])
        long = answered(session, [Request("long", (("user", "word " * 600), ("assistant", "Yes.")), 0)])
    tokenizer = AutoTokenizer.from_pretrained(scorer)
    model = AutoModelForSequenceClassification.from_pretrained(scorer, dtype=torch.float32)
    values = []
    for number, turns in enumerate(conversations):
        text = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in turns], tokenize=False
        )
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        assert ids[0].tolist().count(tokenizer.bos_token_id) == 1
        with torch.no_grad():
            wanted = model(input_ids=ids).logits.item()
        answer = found[str(number)]
        assert answer.value == pytest.approx(wanted, abs=CLOSE)
        assert (answer.finish, answer.prompt_tokens, answer.text) == (STOP, ids.shape[1], None)
        values.append(wanted)
    assert alone["0"].value == pytest.approx(found["0"].value, abs=CLOSE)
    assert min(values) < 0 or max(values) > 1, "no sigmoid"
    assert long["long"].finish == ABSENT and long["long"].value is None


def members(group: int) -> dict[int, str]:
    """The processes of a group that have not ended, with their names."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                name = (entry / "comm").read_text().strip()
            except (OSError, ValueError):
                continue
            if int(its_group) == group and state not in "ZX":
                found[int(entry.name)] = name
    return found


def shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return {path.name for path in folder.glob("psm_*")} if folder.is_dir() else set()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
def test_killed_processes_are_survived_and_nothing_of_them_is_left(
    language_model: Path, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU: the engine and its workers in processes of their own.
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    before = shared_memory()
    voice = teacher(tmp_path, language_model, {"temperature": 1, "max_tokens": 60}, window=12, max_num_seqs=8)
    many = requests(PROMPTS, range(6))
    groups: list[int] = []
    victims = ["leader", "worker"]
    found: dict[str, Answer] = {}
    with running(voice, place) as session:
        for answer in session.ask(iter(many)):
            if answer is None:
                continue
            assert answer.key not in found
            found[answer.key] = answer
            (group,) = session.pids
            if group not in groups:
                groups.append(group)
                assert len(members(group)) >= 2, "the engine has processes of its own"
            if victims and len(groups) == 3 - len(victims) and len(found) >= 8 * len(groups):
                workers = [pid for pid in members(group) if pid != group]
                os.kill(group if victims.pop(0) == "leader" else max(workers), signal.SIGKILL)
        assert len(groups) == 3
    assert found.keys() == {request.key for request in many}
    assert {one.finish for one in found.values()} <= {STOP, LENGTH}
    again = sum(one.attempts > 1 for one in found.values())
    assert 0 < again <= 2 * 12, "what was in flight is asked again, and nothing else"
    assert [members(group) for group in groups] == [{}, {}, {}]
    # Python's tracker of shared memory ends with the last process of the engine.
    until = time.monotonic() + 20
    while shared_memory() - before and time.monotonic() < until:
        time.sleep(0.05)
    assert shared_memory() - before == set()
    assert list(place.temporary.iterdir()) == []


def test_each_group_of_devices_has_an_engine_of_its_own(
    device: str, language_model: Path, tmp_path: Path, place: Place
) -> None:
    if device == "gpu":
        import torch

        if torch.cuda.device_count() < 2:
            pytest.skip("needs two GPUs")
    voice = teacher(tmp_path, language_model, {}, devices=[0, 1], window=16, max_num_seqs=8)
    with running(voice, place) as session:
        assert len(set(session.pids)) == 2
        found = answered(session, requests(PROMPTS, range(12)))
    assert len(found) == 96
    texts = {prompt: {found[f"{prompt}/{seed}"].text for seed in range(12)} for prompt in PROMPTS}
    assert all(len(each) == 1 for each in texts.values()), "the likeliest tokens are those of both engines"


def test_what_cannot_be_asked_is_refused_in_one_line(
    language_model: Path, scorer: Path, tmp_path: Path, place: Place
) -> None:
    settings = VllmRewardSettings.model_validate({**SCORER, "model": str(language_model)})
    with pytest.raises(InputError) as caught:
        with running(VllmRewardModel("tiny", settings, environment(tmp_path)), place):
            pass
    assert str(caught.value) == (
        "tiny: the model is LlamaForCausalLM, not one for sequence classification. It is no reward model."
    )
    with pytest.raises(InputError) as caught:
        with running(teacher(tmp_path, language_model, {}, adapter=str(lora(tmp_path / "wide", width=256))), place):
            pass
    assert str(caught.value).startswith("tiny: the adapter does not fit the model")
    backward = teacher(tmp_path, language_model, {}, structured={"regex": r"(a)\1"})
    with pytest.raises(InputError) as caught:
        with running(backward, place) as session:
            answered(session, requests(PROMPTS[:1]))
    assert str(caught.value).startswith("tiny: the engine cannot hold to 'structured'")
