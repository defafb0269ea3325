"""Toxicity: a tiny model made on the spot, and a real server on the loopback interface that misbehaves on demand."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from aya_data.core import license as licenses
from aya_data.core.errors import BuildError, InputError, WrongSetting
from aya_data.core.row import Draft, tabulate
from aya_data.core.stage import Environment, Verdicts
from aya_data.filters.toxicity.endpoint import Endpoint, EndpointSettings
from aya_data.filters.toxicity.filter import Toxicity

WORDS = ("you", "are", "lovely", "hateful", "river", "stone", "winter", "garden")


def environment(base: Path) -> Environment:
    return Environment(base, base, True, 7, None, licenses.policy("any"))


def rows(*answers: str) -> pa.Table:
    drafts = [
        Draft(f"k{n}", [("user", "you"), ("assistant", text)], ("f", n), language="eng")
        for n, text in enumerate(answers)
    ]
    return tabulate(drafts, "s", "conversation", 10**6).rows


def verdicts(toxicity: Toxicity, table: pa.Table) -> tuple[pa.Table, Verdicts]:
    measures = toxicity.measure(table.select(toxicity.measure_columns))
    return measures, toxicity.judge(table.select(toxicity.columns), measures)


# A model of transformers.


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers and 64 positions with random weights, its tokenizer, and two labels."""
    torch = pytest.importorskip("torch", reason="the transformers classifier needs the extra toxicity")
    transformers = pytest.importorskip("transformers", reason="the transformers classifier needs the extra toxicity")
    folder = tmp_path_factory.mktemp("model")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=5 + len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, id2label={0: "neutral", 1: "toxic"}, label2id={"neutral": 0, "toxic": 1},
        initializer_range=1.0,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def by_model(folder: Path, **given: Any) -> Toxicity:
    own = {key: given.pop(key) for key in list(given) if key not in Toxicity.Settings.model_fields}
    classifier = {"kind": "transformers", "model": str(folder), **own}
    return Toxicity(Toxicity.Settings.model_validate({"classifier": classifier, **given}), environment(folder))


def by_hand(folder: Path, text: str, sigmoid: bool = False) -> float:
    """The reference: one text, no padding, the library's own call."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = network(**tokenizer(text, return_tensors="pt")).logits
    found = torch.sigmoid(logits) if sigmoid else torch.softmax(logits, -1)
    return float(found[0, 1])


def test_scores_are_the_models_and_do_not_depend_on_company(model: Path) -> None:
    texts = [" ".join(WORDS[(n * k + n) % 8] for k in range(1 + n * 5 % 55)) for n in range(24)]
    expected = [by_hand(model, f"you\n{text}") for text in texts]
    assert max(expected) - min(expected) > 0.2, "random weights that tell texts apart"
    toxicity = by_model(model, flag_above=0.5, drop_above=0.9)
    measures, found = verdicts(toxicity, rows(*texts))
    scores = measures["toxicity"].to_numpy()
    assert np.abs(scores - expected).max() <= 1.001e-4
    assert (scores == np.round(scores, 4)).all()
    for size in (1, 5, 64):
        other = by_model(model, batch_size=size).measure(rows(*reversed(texts)).select(toxicity.measure_columns))
        assert np.abs(other["toxicity"].to_numpy()[::-1] - scores).max() <= 1.001e-4
    alone = [toxicity.measure(rows(text).select(toxicity.measure_columns))["toxicity"][0].as_py() for text in texts]
    assert alone == scores.tolist(), "the same shape of batch, whoever else is in it"
    assert found.drop.tolist() == (scores > 0.9).tolist()
    assert found.flag is not None
    assert found.flag.tolist() == ((scores > 0.5) & (scores <= 0.9)).tolist()
    assert found.tags["toxicity"].to_pylist() == ["toxic" if score > 0.5 else None for score in scores]
    for row in np.flatnonzero(found.drop).tolist():
        assert (found.rule[row], found.value[row], found.threshold[row]) == ("toxic", f"{scores[row]:.4f}", "0.9")
    (counted,) = found.statistics["toxicity"].to_pylist()
    assert counted == {"language": "eng", "rows": 24, "toxic": int((scores > 0.5).sum()), "unknown": 0}
    assert not verdicts(by_model(model), rows(*texts))[1].drop.any(), "nothing is dropped unless it is asked for"


def test_a_long_text_scores_as_its_worst_window(model: Path) -> None:
    pytest.importorskip("torch")
    words = [WORDS[(k * k) % 8] for k in range(100)]
    toxicity = by_model(model, on="answer", max_tokens=22, overlap=5, max_windows=100)
    windows = [" ".join(words[start : start + 20]) for start in range(0, 95, 15)]
    (score,) = toxicity.measure(rows(" ".join(words)).select(toxicity.measure_columns))["toxicity"].to_pylist()
    assert score == pytest.approx(max(by_hand(model, window) for window in windows), abs=1.001e-4)
    # Two windows, the first and the last; and no more tokens than the model has positions.
    toxicity = by_model(model, on="answer", max_tokens=22, overlap=5, max_windows=2)
    (score,) = toxicity.measure(rows(" ".join(words)).select(toxicity.measure_columns))["toxicity"].to_pylist()
    assert score == pytest.approx(max(by_hand(model, windows[place]) for place in (0, -1)), abs=1.001e-4)
    toxicity = by_model(model, on="answer", max_tokens=5000)
    assert toxicity.measure(rows(" ".join(words)).select(toxicity.measure_columns))["toxicity"].null_count == 0


def test_settings_of_the_model(model: Path, tmp_path: Path) -> None:
    both = by_model(model, activation="sigmoid", labels=["toxic"])
    (score,) = both.measure(rows("hateful").select(both.measure_columns))["toxicity"].to_pylist()
    assert score == pytest.approx(by_hand(model, "you\nhateful", sigmoid=True), abs=1.001e-4)
    assert pickle.loads(pickle.dumps(both)).measure_pins() == both.measure_pins()
    assert by_model(model).pins() == by_model(model, labels=["toxic"]).pins()
    assert by_model(model).measure_pins() != by_model(model, max_tokens=64).measure_pins()
    with pytest.raises(WrongSetting, match=r"there is no label of the model .* 'toxc'\. Did you mean 'toxic'\?"):
        by_model(model, labels=["toxc"])
    with pytest.raises(WrongSetting, match="there is no model 'nowhere'"):
        by_model(Path("nowhere"))
    (tmp_path / "config.json").write_text('{"id2label": {"0": "A", "1": "B"}}')
    with pytest.raises(WrongSetting, match=r"holds no model\.safetensors or pytorch_model\.bin"):
        by_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(WrongSetting, match=r"does not say which of its labels is toxic: A, B\. Name"):
        by_model(tmp_path)
    broken = by_model(tmp_path, labels=["B"])
    with pytest.raises(InputError, match="is not a model that transformers can load"):
        broken.measure(rows("x").select(broken.measure_columns))


# An endpoint.


class Server(ThreadingHTTPServer):
    """``plan`` holds what happens to the next requests for a text: a status, (status, headers), "reset" or "hang"."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: dict[str, list[Any]] = {}
        self.seen: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.together = self.most = 0
        self.said = '{"toxicity": 0.25}'

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["input"] if self.path == "/v1/moderations" else body["messages"][1]["content"]
        with server.lock:
            server.seen.append(body)
            server.keys.add(self.headers.get("Authorization", ""))
            server.together += 1
            server.most = max(server.most, server.together)
            waiting = next((plan for word, plan in server.plan.items() if word in text and plan), [])
            step = waiting.pop(0) if waiting else 200
        try:
            self.answer(step, text)
        finally:
            with server.lock:
                server.together -= 1

    def answer(self, step: Any, text: str) -> None:
        if step == "reset":
            self.close_connection = True
            self.connection.close()
            return
        if step == "hang":
            self.server.released.wait(30)
            self.close_connection = True
            return
        status, headers = step if isinstance(step, tuple) else (step, {})
        if self.path == "/v1/moderations":
            scores = {"hate": 0.91234567 if "hateful" in text else 0.1, "violence": 0.2, "illicit": None}
            said: Any = {"results": [{"category_scores": scores}]}
        else:
            said = {"choices": [{"message": {"content": self.server.said}}]}
        if "garbage" in text:
            said = {"results": [{"category_scores": {"hate": 7}}]}
        data = json.dumps(said).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Silence."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def own(server: Server, **given: Any) -> dict[str, Any]:
    base = f"http://127.0.0.1:{server.server_address[1]}/v1"
    return {"kind": "openai", "base_url": base, "model": "guard", "revision": "2026-11", **given}


def endpoint(server: Server, waits: list[float], **given: Any) -> Endpoint:
    return Endpoint(EndpointSettings.model_validate(own(server, **given)), sleep=waits.append)


def test_an_endpoint_scores_and_what_fails_stays_unknown(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARD_KEY", "sk-not-for-logs")
    server.plan = {"refused": [400] * 9}
    given = {"classifier": own(server, key_variable="GUARD_KEY", concurrency=2), "on": "answer", "drop_above": 0.95}
    toxicity = Toxicity(Toxicity.Settings.model_validate(given), environment(tmp_path))
    measures, found = verdicts(toxicity, rows("lovely", "hateful", "refused", "garbage"))
    assert measures["toxicity"].to_pylist() == [0.2, 0.9123, None, None]
    assert found.tags["toxicity"].to_pylist() == [None, "toxic", "unknown", "unknown"]
    assert found.rule == [None, "toxic", "unknown", "unknown"]
    assert found.evidence == [None, None, "HTTP 400", "the answer holds no score from 0 to 1"]
    assert not found.drop.any()
    assert found.statistics["toxicity"].to_pylist() == [{"language": "eng", "rows": 4, "toxic": 1, "unknown": 2}]
    assert server.keys == {"Bearer sk-not-for-logs"}
    assert "sk-not-for-logs" not in repr((toxicity.settings, toxicity.measure_pins(), found, measures.to_pylist()))
    assert {body["model"] for body in server.seen} == {"guard"}


def test_what_passes_is_tried_again(server: Server) -> None:
    waits: list[float] = []
    server.plan = {
        "busy": [(429, {"Retry-After": "7"}), 500, "reset"],
        "dead": [503] * 9,
        "silent": ["hang"],
        "later": [(429, {"Retry-After": "86400"})],
    }
    asked = ["busy", "dead", "silent", "later", "hateful", ""]
    answers = endpoint(server, waits, attempts=4, concurrency=1, timeout=0.5).score(asked)
    assert [answer.score for answer in answers] == [0.2, None, 0.2, None, 0.91234567, 0.0]
    assert answers[1].failure == "HTTP 503 (4 tries)"
    assert answers[3].failure == "HTTP 429, and it asks to wait 86400 seconds"
    assert waits == [7.0, 2.0, 4.0, 1.0, 2.0, 4.0, 1.0]


def test_no_more_requests_at_a_time_than_allowed(server: Server) -> None:
    answers = endpoint(server, [], concurrency=3).score([f"text {n}" for n in range(60)])
    assert {answer.score for answer in answers} == {0.2}
    assert 1 <= server.most <= 3
    long = "lovely " * 300 + "hateful"
    answers = endpoint(server, [], max_chars=500, max_windows=3, categories=["hate"]).score([long, "x"])
    assert [answer.score for answer in answers] == [0.91234567, 0.1]
    assert [len(body["input"]) for body in server.seen[-4:] if body["input"] != "x"] == [500] * 3


def test_a_chat_model_is_given_the_rubric(server: Server) -> None:
    assert endpoint(server, [], route="chat").score(["you", "garden"])[0].score == 0.25
    turns = server.seen[0]["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user"]
    assert "BEGIN\n" in turns[1]["content"]
    server.said = "I would rather not say."
    assert endpoint(server, [], route="chat").score(["you"])[0].failure == "the answer holds no score from 0 to 1"


def test_a_wrong_key_or_an_endpoint_without_answers_stops_the_build(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.plan = {"a": [401]}
    with pytest.raises(
        InputError, match=r"refuses with HTTP 401 to score with the model guard\. Check base_url, model"
    ):
        endpoint(server, []).score(["a", "b"])
    server.plan = {"": [502] * 99}
    with pytest.raises(BuildError, match=r"gave no score for any of 2 texts: HTTP 502 \(2 tries\)"):
        endpoint(server, [], attempts=2).score(["c", "d"])
    monkeypatch.setenv("OPENAI_API_KEY", "kéy")
    with pytest.raises(InputError, match=r"^OPENAI_API_KEY is no key") as caught:
        endpoint(server, []).score(["c"])
    assert "kéy" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base_url": "localhost:8000"}, "is no web address"),
        ({"base_url": "https://me:secret@host/v1"}, "holds more than an address"),
        ({"key_variable": "sk-123"}, "is no name of an environment variable"),
        ({"revision": None}, "revision"),
    ],
)
def test_settings_of_the_endpoint(given: dict[str, Any], message: str) -> None:
    base = {"kind": "openai", "base_url": "https://host/v1", "model": "m", "revision": "1"}
    with pytest.raises(ValidationError, match=message):
        Toxicity.Settings.model_validate({"classifier": {**base, **given}})
