"""The Python interface: called from a script, wrong numbers, stopped while it starts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aya_data import api
from aya_data.core.errors import InputError
from tests.test_stranger import command, environment, spec


def large(folder: Path) -> Path:
    """A spec whose rows are worth a pool of workers."""
    path = spec(folder, path="*.jsonl")
    for file in range(2):
        rows = ({"q": f"Question {file} {n}? {'word ' * 50}", "a": f"Answer {n}. {'text ' * 50}"} for n in range(6000))
        named = ({**row, "lang": "eng", "lic": "MIT"} for row in rows)
        (folder / f"more{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    return path


def test_a_script_without_a_guard_is_run_once(tmp_path: Path) -> None:
    """Workers are processes of their own, and none of them runs the caller's script again."""
    path = large(tmp_path)
    script = tmp_path / "notebook.py"
    script.write_text(
        "print('begun')\n"
        "from aya_data import api\n"
        f"build = api.build({str(path)!r}, workers=2, part_size=1 << 20)\n"
        "print(build.result.rows)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "begun\n12004\n"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"limit": -5}, "limit is -5"),
        ({"workers": -3}, "workers is -3"),
        ({"part_size": 0}, "part_size is 0"),
        ({"memory": 0}, "is too little"),
        ({"sets": "seed=1"}, r"sets is the text 'seed=1'. Give a list of such texts: \['seed=1'\]"),
    ],
)
def test_wrong_numbers_are_refused_before_anything_is_built(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        api.build(spec(tmp_path), workspace=tmp_path / "ws", **arguments)
    assert not (tmp_path / "ws" / "releases").exists()
    if "limit" in arguments:
        with pytest.raises(InputError, match=message):
            api.plan(spec(tmp_path), workspace=tmp_path / "ws", **arguments)


def test_ctrl_c_while_workers_start_is_one_line(tmp_path: Path) -> None:
    """A terminal interrupts all processes of the command, those too that still import what they need."""
    path = large(tmp_path)
    building = subprocess.Popen(
        command("build", path, "--workers", "2", "--part-size", "1MiB"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    begun = time.monotonic()
    while building.poll() is None and not started(building.pid):
        assert time.monotonic() - begun < 120, "no workers were started"
    os.killpg(building.pid, signal.SIGINT)
    _, errors = building.communicate(timeout=120)
    assert building.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.endswith("aya-data: stopped. What was finished is kept; the same command resumes.\n")


def started(parent: int) -> bool:
    """Whether the process that workers are forked from is there."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes()
            if b"forkserver" in line and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                return True
    return False
