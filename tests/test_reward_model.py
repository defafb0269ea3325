"""The arbiter ``reward_model``: scores are those of each conversation by itself, whatever the batch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError

from aya_data.builders.arbitrage.arbiters.reward_model import (
    RewardModelArbiter,
    RewardModelSettings,
    TransformersRewardModel,
    TransformersRewardSettings,
)
from aya_data.builders.arbitrage.tables import COMPLETIONS
from aya_data.builders.arbitrage.teachers.host import Host, HostSession, Replica
from aya_data.builders.arbitrage.teachers.transformers_engine import SCRIPTS
from aya_data.core.errors import WrongSetting
from aya_data.core.generation import ABSENT, Place, Request, answers_schema, request_key, voice_key
from tests.tiny_models import TEXTS, causal_lm, environment, needs_transformers, reward_model

Turn = tuple[str, str]

CONVERSATIONS: list[tuple[Turn, ...]] = [
    *((("user", text), ("assistant", answer)) for text in TEXTS[:4] for answer in ("Yes.", TEXTS[5], text * 2)),
    (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "And?"), ("assistant", "Nothing.")),
    (("user", "x"), ("assistant", "")),
    (("user", "Hi"), ("assistant", "Hi " * 60)),
]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "cache", tmp_path / "scratch", tmp_path / "log" / "voice.log")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def settings(model: Path, **more: Any) -> TransformersRewardSettings:
    given = {"kind": "reward_model", "engine": "transformers", "model": str(model), **more}
    return TransformersRewardSettings.model_validate(given)


def alone(model: Path, conversations: Sequence[Sequence[Turn]]) -> list[float]:
    """What transformers gives each conversation by itself, without any padding."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32).eval()
    scores = []
    for turns in conversations:
        text = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in turns], tokenize=False
        )
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            scores.append(network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.item())
    return scores


@needs_transformers
@pytest.mark.parametrize(("kind", "pad"), [("llama", False), ("qwen2", True)])
def test_scores_are_those_of_a_plain_forward_for_any_batch_and_order(
    kind: Any, pad: bool, tmp_path: Path, place: Place
) -> None:
    model = reward_model(tmp_path / "model", kind=kind, pad=pad)
    wanted = alone(model, CONVERSATIONS)
    assert max(wanted) - min(wanted) > 0.5
    # One process for each size of batch, all on one stream: each conversation is scored by whoever is free.
    sizes = (1, 2, 7)
    common = {"task": "score", "model": str(model), "tokenizer": str(model), "adapter": None, "template": None}
    limits = {"template_variables": {}, "max_length": None, "dtype": "float32", "batch_tokens": 4096, "device": "cpu"}
    host = Host(
        "reward",
        {**common, **limits},
        scripts=SCRIPTS,
        replicas=tuple(Replica(settings={"batch_size": size}) for size in sizes),
        window=7,
    )
    orders = [range(15), range(14, -1, -1), [number * 7 % 15 for number in range(15)]]
    with HostSession(host, place) as session:
        for order in orders:
            stream = session.ask(Request(str(number), CONVERSATIONS[number], 0) for number in order)
            found = {int(answer.key): answer for answer in stream if answer is not None}
            assert sorted(found) == list(range(15))
            for number, answer in found.items():
                assert answer.value == pytest.approx(wanted[number], abs=1e-5)
                assert answer.text is None and answer.prompt_tokens is not None


def completions(rows: Sequence[tuple[int, str, int, str]]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "row": row,
                "prompt": f"p{row}",
                "language": "tur",
                "script": "Latn",
                "teacher": teacher,
                "family": teacher,
                "sample": sample,
                "key": f"{row}{teacher}{sample}",
                "text": text,
                "finish": "stop",
                "tokens": None,
            }
            for row, teacher, sample, text in rows
        ],
        schema=COMPLETIONS,
    )


PROMPTS = pa.table(
    {
        "messages": [
            [{"role": "user", "content": "Bir?"}, {"role": "assistant", "content": "Eski."}],
            [{"role": "system", "content": "Kısa."}, {"role": "user", "content": "İki?"}],
        ]
    }
)


@needs_transformers
def test_an_arbitration_from_requests_to_scores(tmp_path: Path, place: Place) -> None:
    model = reward_model(tmp_path / "model")
    arbiter = RewardModelArbiter("reward", settings(model, batch_size=3), environment(tmp_path))
    given = completions(
        [(0, "a", 0, "Evet."), (0, "a", 1, "Hayır."), (0, "b", 0, "Evet."), (1, "a", 0, "Evet. " * 300)]
    )
    voice = arbiter.voice()
    asked = list(arbiter.requests(PROMPTS, given))
    assert [(one.row, one.tag, one.request.seed, one.request.language) for one in asked] == [
        (0, "a/0", 0, "tur_Latn"),
        (0, "a/1", 0, "tur_Latn"),
        (0, "b/0", 0, "tur_Latn"),
        (1, "a/0", 0, "tur_Latn"),
    ]
    assert asked[0].request.messages == (("user", "Bir?"), ("assistant", "Evet."))
    assert asked[3].request.messages[:2] == (("system", "Kısa."), ("user", "İki?"))
    assert asked[0].request == asked[2].request
    assert asked[0].request.key == request_key(voice_key(voice), asked[0].request.messages, 0, 0)
    with voice.session(place) as session:
        found = {answer.key: answer for answer in session.ask(one.request for one in asked) if answer is not None}
    answers = pa.Table.from_pylist(
        [
            {"row": one.row, "tag": one.tag, "key": answer.key, "value": answer.value, "finish": answer.finish}
            | {"reason": answer.reason, "attempts": 1}
            for one in reversed(asked)
            for answer in [found[one.request.key]]
        ],
        schema=answers_schema(),
    )
    scored = arbiter.score(PROMPTS, given, answers)
    wanted = alone(model, [one.request.messages for one in asked[:3]])
    assert scored["score"].to_pylist()[:3] == [pytest.approx(score, abs=6e-5) for score in wanted]
    assert [score == round(score, 4) for score in scored["score"].to_pylist()[:3]] == [True] * 3
    assert scored["score"][3].as_py() is None and found[asked[3].request.key].finish == ABSENT
    *none, note = scored["note"].to_pylist()
    assert none == [None] * 3
    assert re.fullmatch(r"the conversation has \d+ tokens, the model takes 512", note)
    backwards = arbiter.score(PROMPTS, given.take([3, 2, 1, 0]), answers)
    assert backwards["score"].to_pylist() == scored["score"].to_pylist()[::-1]


def test_scores_without_answers_are_null() -> None:
    arbiter = RewardModelArbiter("reward", settings(Path("none")), environment(Path()))
    given = completions([(0, "a", 0, "Evet."), (1, "a", 0, "Hayır.")])
    row = {"row": 1, "tag": "a/0", "key": "k", "value": -0.00001, "finish": "stop"}
    found = arbiter.score(PROMPTS, given, pa.Table.from_pylist([row], schema=answers_schema()))
    assert found.to_pydict() == {"score": [None, 0.0], "note": [None, None]}
    assert str(found["score"][1].as_py()) == "0.0"
    assert arbiter.score(PROMPTS, given, None).to_pydict() == {"score": [None, None], "note": [None, None]}


@needs_transformers
def test_what_is_no_reward_model_is_refused(tmp_path: Path, place: Place) -> None:
    two = reward_model(tmp_path / "two", labels=2)
    with pytest.raises(
        WrongSetting, match=r"the model '.*two' has 2 labels, and a reward model has one\. Choose"
    ) as wrong:
        TransformersRewardModel("rm", settings(two), environment(tmp_path), ("arbiter", "members", "rm")).identity()
    assert wrong.value.faults[0][0] == ("arbiter", "members", "rm", "model")
    # A language model would be given a head of random numbers.
    language = causal_lm(tmp_path / "language")
    config = json.loads((language / "config.json").read_text())
    (language / "config.json").write_text(json.dumps({**config, "id2label": {"0": "reward"}}))
    with pytest.raises(WrongSetting) as error:
        with TransformersRewardModel("rm", settings(language), environment(tmp_path)).session(place):
            pass
    assert str(error.value) == "rm: the checkpoint has no weights for score.weight. It is no reward model."
    assert error.value.faults[0][0] == ("arbiter", "model")


def test_precision_is_part_of_the_identity(tmp_path: Path) -> None:
    for name, content in {
        "config.json": '{"id2label": {"0": "reward"}}',
        "model.safetensors": "weights",
        "tokenizer.json": "{}",
    }.items():
        (tmp_path / name).write_text(content)
    where = environment(tmp_path)

    def key(**more: Any) -> str:
        adapter: TypeAdapter[Any] = TypeAdapter(RewardModelSettings)
        given = {"kind": "reward_model", "engine": "transformers", "model": str(tmp_path), **more}
        return voice_key(RewardModelArbiter("rm", adapter.validate_python(given), where).voice())

    assert key() == key(batch_size=1, device=["cpu", "cpu"]) == key(engine="vllm")
    assert len({key(), key(dtype="bfloat16"), key(max_length=64)}) == 3
    with pytest.raises(ValidationError, match="names no device: 'gpu'"):
        key(device="gpu")
