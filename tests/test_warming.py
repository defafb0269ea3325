"""Kernels that are compiled ahead: nothing is left to compile, nothing else changes, and it ends with the build."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pytest

from aya_data import api
from aya_data.core.stage import Filter
from aya_data.engine.warming import PROCESS, Warming
from tests.test_filters import environment

ROOT = Path(__file__).parent.parent
SPEC = """
name: warm
languages: aya_23
policy: research
sources:
  aya: {builder: aya_dataset}
  suite: {builder: aya_evaluation_suite, use: benchmark}
filters: [quality, near_dedup, decontaminate: {against: [suite]}]
mix: {budget: {rows: 200}}
"""
BUILD = """
import json, sys
from numba.core import event
from aya_data import api

compiled = []

class Listener(event.Listener):
    def on_start(self, started):
        compiled.append(started.data["dispatcher"].__name__)

    def on_end(self, ended):
        pass

event.register("numba:compile", Listener())
done = api.build(sys.argv[1], workspace=sys.argv[2], workers=2)
print(json.dumps({"compiled": compiled, "digest": done.result.digest}))
"""
"""A script without a guard for its main module, as people write them."""


def run_script(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables}, text=True, capture_output=True, check=True,
    )  # fmt: skip


def test_what_was_compiled_ahead_is_not_compiled_again(tmp_path: Path) -> None:
    spec, script, cache = tmp_path / "warm.yaml", tmp_path / "build.py", tmp_path / "numba"
    spec.write_text(SPEC)
    script.write_text(BUILD)
    done = run_script(str(script), str(spec), str(tmp_path / "ahead"), NUMBA_CACHE_DIR=str(cache))
    ahead = json.loads(done.stdout)
    assert ahead["compiled"] == []
    assert sorted(path.name.partition("-")[0] for path in cache.rglob("*.warm")) == [
        "decontaminate", "near_dedup", "quality",
    ]  # fmt: skip
    without = api.build(spec, workspace=tmp_path / "without", workers=1)
    assert ahead["digest"] == without.result.digest


class Endless(Filter):
    """Says who warms it, then never ends."""

    name = "endless"

    def warm(self) -> None:
        pipe = os.open(self.settings, os.O_WRONLY)  # open for as long as the process lives
        os.write(pipe, f"{os.getpid()}\n".encode())
        threading.Event().wait()


class Broken(Filter):
    name = "broken"

    def warm(self) -> NoReturn:
        raise RuntimeError("this kernel does not compile")


class Plain(Filter):
    name = "plain"

    def measure(self, rows: pa.Table) -> pa.Table:
        return rows


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "numba"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(folder))
    return folder


def test_it_ends_with_the_build(tmp_path: Path, cache: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with Warming([(Endless(str(pipe), environment()), "code")], 2, 2 * PROCESS) as warming:
        warming.start()
        with pipe.open() as reader:
            pid = int(reader.readline())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not list(cache.rglob("*.warm"))


KILLED = """
import os, sys
from aya_data.engine.warming import PROCESS, Warming
from tests.test_filters import environment
from tests.test_warming import Endless

with Warming([(Endless(sys.argv[1], environment()), "code")], 2, 2 * PROCESS) as warming:
    warming.start()
    warming.wait("code")
"""


def test_it_ends_when_the_build_is_killed(tmp_path: Path, cache: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    build = subprocess.Popen([sys.executable, "-c", KILLED, str(pipe)], cwd=ROOT)
    with pipe.open() as reader:
        assert reader.readline()
        build.send_signal(signal.SIGKILL)
        assert build.wait() == -signal.SIGKILL
        assert reader.read() == ""  # it is gone, with its end of the pipe


def test_failures_are_left_to_the_task_that_meets_them(cache: Path) -> None:
    filters = [(Broken(None, environment()), "b"), (Plain(None, environment()), "p")]
    with Warming(filters, 2, 2 * PROCESS) as warming:
        warming.start()
        warming.wait("b")
        warming.wait("p")
        warming.wait("another")
    assert not list(cache.glob("*"))


@pytest.mark.parametrize(("workers", "memory"), [(1, 8 * PROCESS), (4, PROCESS - 1)])
def test_a_single_worker_and_too_little_memory_warm_nothing(
    tmp_path: Path, cache: Path, workers: int, memory: int
) -> None:
    with Warming([(Endless(str(tmp_path / "none"), environment()), "code")], workers, memory) as warming:
        warming.start()
        warming.wait("code")  # returns: nothing was started
