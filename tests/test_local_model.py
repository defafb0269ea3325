"""What identifies a model that runs here: what its files hold, wherever they lie, on the Hub too."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aya_data import api
from aya_data.builders.arbitrage.teachers import local_model
from aya_data.builders.arbitrage.teachers.local_model import ModelFiles, locate_files
from aya_data.core.errors import HubUnreachable, InputError, NotFound, SpecError
from aya_data.core.generation import voice_key
from tests.tiny_models import CHATML, environment, teacher


def folder(path: Path, **changed: bytes) -> Path:
    """A folder that looks like a model; nothing loads it."""
    files = {
        "config.json": b'{"num_labels": 1}',
        "generation_config.json": b'{"eos_token_id": 2}',
        "model.safetensors": b"weights" * 1000,
        "tokenizer.json": b'{"version": "1.0"}',
        "tokenizer_config.json": b"{}",
        "chat_template.jinja": CHATML.encode(),
        "README.md": b"A model.",
    }
    path.mkdir(parents=True)
    for name, content in {**files, **changed}.items():
        (path / name).write_bytes(content)
    return path


def test_a_copy_is_the_same_model_and_one_byte_makes_another(tmp_path: Path) -> None:
    def key(path: Path, **more: Any) -> str:
        return voice_key(teacher(tmp_path, path, {"max_tokens": 9, **more.pop("sampling", {})}, **more))

    one = folder(tmp_path / "one")
    same = folder(tmp_path / "elsewhere" / "same", **{"README.md": b"Moved."})
    assert key(one) == key(same)
    assert key(one, dtype="float32", device="cpu", batch_size=1) == key(one)
    assert key(one, sampling={"n": 4}) == key(one)
    others = [
        key(one, sampling={"temperature": 1}),
        key(one, max_length=64),
        key(one, template_variables={"enable_thinking": False}),
        key(one, chat_template="one/README.md"),
        key(folder(tmp_path / "a", **{"model.safetensors": b"weights" * 999 + b"weighty"})),
        key(folder(tmp_path / "b", **{"chat_template.jinja": CHATML.encode() + b" "})),
        key(folder(tmp_path / "c", **{"tokenizer.json": b"{ }"})),
        key(folder(tmp_path / "d", **{"generation_config.json": b'{"eos_token_id": 5}'})),
    ]
    assert len({key(one), *others}) == 9
    (one / "model.safetensors").write_bytes(b"weights" * 999 + b"weighty")
    assert key(one) == others[4]


def test_digests_are_kept_and_made_anew_when_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = folder(tmp_path / "one")
    monkeypatch.setattr(local_model, "SETTLED", -1)
    first = voice_key(teacher(tmp_path, one, {"max_tokens": 9}))
    kept = sorted((tmp_path / "cache" / "models" / "digests").iterdir())
    assert len(kept) == 6
    written = [path.stat().st_mtime_ns for path in kept]
    assert voice_key(teacher(tmp_path, one, {"max_tokens": 9})) == first
    assert [path.stat().st_mtime_ns for path in kept] == written
    before = (one / "model.safetensors").stat()
    (one / "model.safetensors").write_bytes(b"weights" * 999 + b"weighty")
    os.utime(one / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert voice_key(teacher(tmp_path, one, {"max_tokens": 9})) != first


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", r"there is no model '.*one'. .*one holds no config\.json\."),
        ("model.safetensors", r"there is no model '.*one'. .*one holds no weights, such as model\.safetensors\."),
        ("tokenizer", r"there is no tokenizer '.*one'. The model has none: name one under 'tokenizer'\."),
    ],
)
def test_what_a_folder_lacks_is_said(missing: str, message: str, tmp_path: Path) -> None:
    one = folder(tmp_path / "one")
    for path in one.iterdir():
        if path.name.startswith(missing) or (missing == "tokenizer" and path.name == "chat_template.jinja"):
            path.unlink()
    with pytest.raises(InputError) as error:
        teacher(tmp_path, one, {"max_tokens": 9}).identity()
    assert re.fullmatch(message, str(error.value))


def test_names_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"as a Hub repository it needs a revision\. Write 'revision: …', best a commit"
    ):
        teacher(tmp_path, "org/model", {"max_tokens": 9}).identity()
    with pytest.raises(InputError, match="Give a folder or a Hub repository"):
        teacher(tmp_path, "./model", {"max_tokens": 9}).identity()


SPEC = """\
name: made
languages: [eng]
policy: any
sources:
  asked:
    {{builder: files, path: asked.jsonl, kind: prompt, use: prompts, columns: {{prompt: q}}, language: eng,
      license: {{assume: CC0-1.0, reason: written for this test}}}}
  made:
    builder: arbitrage
    prompts: {{from: asked}}
    teachers:
      one: {one}
    {arbiter}
    routing: reward
filters: [license]
"""
RECORDED = "{engine: recorded, path: asked.jsonl, columns: {prompt: q, answer: q}}"
LOCAL = "{engine: transformers, model: one, sampling: {n: 1, temperature: 0, max_tokens: 9}, python: %s}"
SERVER = (
    '{engine: openai, model: m, revision: "1", base_url: "http://h/v1", key_variable: ABSENT_KEY, '
    "sampling: {n: 1, temperature: 0, max_tokens: 9}}"
)


@pytest.mark.parametrize(
    ("one", "arbiter", "said"),
    [
        (LOCAL % "./none", "", "the source 'made': one: there is no Python interpreter './none'. Give"),
        (LOCAL % "./not", "", "the source 'made': one: './not' does not run as Python. Name the python of"),
        (SERVER, "", "the source 'made': the environment variable ABSENT_KEY, which the teacher 'one' takes"),
        (RECORDED, "arbiter: {kind: reward_model, model: one, dtype: float32}",
         "the source 'made': reward_model: the model 'one' has 2 labels, and a reward model has one. Choose"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_voice_has_a_place_in_the_spec(one: str, arbiter: str, said: str, tmp_path: Path) -> None:
    folder(tmp_path / "one", **{"config.json": b'{"num_labels": 2}'})
    (tmp_path / "asked.jsonl").write_text('{"q": "Why is the sky blue over all of us today?"}\n')
    (tmp_path / "not").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "not").chmod(0o755)
    spec = tmp_path / "made.yaml"
    spec.write_text(SPEC.format(one=one, arbiter=arbiter))
    with pytest.raises(SpecError) as error:
        api.build(spec, workspace=tmp_path / "workspace", workers=1)
    (problem,) = error.value.problems
    assert f"{problem.what}. {problem.remedy}".startswith(said)
    line = spec.read_text().splitlines()[problem.line - 1]
    at = line[problem.column - 1 :]
    assert at.startswith(("./n", "ABSENT_KEY", "one, dtype")), at


# The Hub.

COMMIT = "0123456789" * 4


class ModelHub(BaseHTTPRequestHandler):
    """The part of the Hub's protocol that pins, lists and serves the files of one model, ``org/tiny``."""

    root: Path
    served: list[str]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        files = {file.name: file.read_bytes() for file in sorted(self.root.iterdir())}
        if path in (f"/api/models/org/tiny/revision/{name}" for name in ("main", COMMIT)):
            self.reply(json.dumps({"id": "org/tiny", "sha": COMMIT}).encode())
        elif path == f"/api/models/org/tiny/tree/{COMMIT}":
            listing = [self.entry(name, content) for name, content in files.items()]
            self.reply(json.dumps([{"type": "directory", "oid": "0" * 40, "path": "original"}, *listing]).encode())
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            self.served.append(name)
            self.reply(files[name])
        elif path.startswith("/api/models/org/tiny/revision/"):
            self.reply(b"", 404, "RevisionNotFound")
        else:
            self.reply(b"", 404, "RepoNotFound")

    def entry(self, name: str, content: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"type": "file", "oid": oid, "size": len(content), "path": name}
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def reply(self, body: bytes, status: int = 200, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[ModelHub]]:
    class Mine(ModelHub):
        root = folder(tmp_path / "served")
        served: list[str] = []  # noqa: RUF012

    with ThreadingHTTPServer(("127.0.0.1", 0), Mine) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AYA_DATA_HUB_ATTEMPTS", "1")
        yield Mine
        server.shutdown()
        thread.join()


def test_a_model_of_the_hub_is_its_copy_and_weights_come_when_they_are_needed(
    hub: type[ModelHub], tmp_path: Path
) -> None:
    base = tmp_path / "work"
    copy = teacher(base, hub.root, {"max_tokens": 9}).identity()
    for revision in ("main", COMMIT):
        assert teacher(base, "org/tiny", {"max_tokens": 9}, revision=revision).identity() == copy
    small = ["chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(hub.served) == small
    found = locate_files("model", "org/tiny", "main", environment(base))
    place = found.bring(base / "cache" / "models")
    assert sorted(hub.served) == sorted([*small, "model.safetensors"])
    names = [*small, "model.safetensors"]
    assert sorted(path.name for path in place.iterdir()) == sorted(names)
    assert all((place / name).read_bytes() == (hub.root / name).read_bytes() for name in names)
    # Nothing is asked for twice, and a commit that is here needs no network.
    again: ModelFiles = locate_files("model", "org/tiny", COMMIT, environment(base, offline=True))
    assert again.content == found.content
    assert again.bring(base / "cache" / "models", offline=True) == place
    assert sorted(hub.served) == sorted(names)


def test_what_the_hub_does_not_have_is_one_clear_error(hub: type[ModelHub], tmp_path: Path) -> None:
    where = environment(tmp_path / "work")
    with pytest.raises(NotFound, match=r"^there is no revision of org/tiny 'v2'\.$"):
        locate_files("model", "org/tiny", "v2", where)
    with pytest.raises(NotFound, match=r"^there is no model 'org/other'\. It is no folder, and no Hub repository"):
        locate_files("model", "org/other", "main", where)
    with pytest.raises(HubUnreachable, match="the build is offline, and a model needs its commit named and downloaded"):
        locate_files("model", "org/tiny", "main", environment(tmp_path / "work", offline=True))
    found = locate_files("model", "org/tiny", COMMIT, where)
    with pytest.raises(HubUnreachable, match=r"org/tiny/model\.safetensors: the build is offline, and it was not"):
        found.bring(tmp_path / "work" / "cache" / "models", offline=True)
