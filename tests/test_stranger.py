"""What a newcomer types wrong, and where the command line is run: closed streams, odd folders, empty releases."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCE: dict[str, Any] = {
    "builder": "files",
    "path": "rows.jsonl",
    "columns": {"prompt": "q", "answer": "a"},
    "language": {"column": "lang"},
    "license": {"column": "lic"},
}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "aya_data", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    env = {**os.environ, "NO_COLOR": "1", "TERM": "dumb", "PYTHONPATH": str(ROOT), **more}
    env.pop("AYA_DATA_HOME", None)
    return env


def aya(*arguments: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=300
    )


def spec(folder: Path, license: str = "MIT", **source: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"q": f"Question {n}?", "a": f"Answer {n}.", "lang": "eng", "lic": license} for n in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "spec.yaml"
    path.write_text(json.dumps({"name": "own", "sources": {"house": {**SOURCE, **source}}}))
    return path


def test_an_empty_release_says_so_and_what_took_the_rows(tmp_path: Path) -> None:
    done = aya("build", spec(tmp_path, license="nobody knows"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "  The release is empty. What took the rows: license.unknown 4.\n" in done.stdout
    assert "read_parquet" not in done.stdout  # it has no shard to read


def test_own_data_is_not_called_bundled(tmp_path: Path) -> None:
    done = aya("build", spec(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 rows" in done.stdout
    assert "bundled" not in done.stdout


def test_what_to_do_next_can_be_typed_whatever_the_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s "$HOME" ünï'
    done = aya("build", spec(folder), "--workspace", "w'$x", cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.partition("Next:\n")[2].splitlines()]
    assert [shlex.split(line)[0] for line in lines] == ["aya-data", "aya-data", "python"]
    last = subprocess.run([sys.executable, *shlex.split(lines[2])[1:]], cwd=folder, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr


def test_a_folder_that_the_catalog_cannot_lie_in_is_refused_before_the_build(tmp_path: Path) -> None:
    done = aya("build", spec(tmp_path), "--workspace", "what?", cwd=tmp_path)
    assert (done.returncode, "--workspace" in done.stderr) == (2, True)
    assert not (tmp_path / "what?").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "--workspace", "nowhere"), "there is no workspace"),
        (("verify", "place"), "verify --workspace place"),
        (("build", b"\xff.yaml".decode(errors="surrogateescape")), "not UTF-8"),
        (("build", "spec.yaml", "--workspace", b"\xff".decode(errors="surrogateescape")), "not UTF-8"),
    ],
)
def test_mistakes_are_one_clear_error(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    spec(tmp_path)
    (tmp_path / "place" / "releases").mkdir(parents=True)
    done = aya(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_gc_makes_no_workspace(tmp_path: Path) -> None:
    assert aya("gc", "--workspace", "nowhere", cwd=tmp_path).returncode == 0
    assert not (tmp_path / "nowhere").exists()


def test_a_url_without_its_package_says_what_to_install(tmp_path: Path) -> None:
    done = aya("build", spec(tmp_path, path="gcs://bucket/rows.jsonl"), cwd=tmp_path)
    assert done.returncode == 2
    assert "Install what it names with pip" in done.stderr
    assert "Check the URL" not in done.stderr


def test_a_wrong_where_is_named_at_its_place(tmp_path: Path) -> None:
    done = aya("validate", spec(tmp_path, where="a >"), cwd=tmp_path)
    assert done.returncode == 2
    assert "sources.house.where the template is wrong" in done.stderr


def test_what_is_no_regular_file_is_said_to_be_none(tmp_path: Path) -> None:
    done = aya("build", spec(tmp_path, path="/dev/zero"), cwd=tmp_path)
    assert (done.returncode, "not a regular file" in done.stderr) == (2, True)


def test_closed_streams_do_not_stop_a_build(tmp_path: Path) -> None:
    line = " ".join(map(shlex.quote, command("build", spec(tmp_path))))
    for redirection in (">&-", "2>&-", ">&- 2>&-"):
        done = subprocess.run(["bash", "-c", f"{line} {redirection}"], cwd=tmp_path, env=environment())
        assert done.returncode == 0
    assert aya("verify", cwd=tmp_path).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("releases",), ("sql", "SELECT 1", "--csv"), ("schema",)])
def test_output_that_finds_no_space_is_one_clear_error(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert aya("build", spec(tmp_path), cwd=tmp_path).returncode == 0
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(*arguments), cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "aya-data: what was to be printed could not be written: no space is left there.\n"


def test_ctrl_c_ends_a_long_query_and_says_so(tmp_path: Path) -> None:
    assert aya("build", spec(tmp_path), cwd=tmp_path).returncode == 0
    # The query's own process says when it runs; then this process presses Ctrl-C.
    program = (
        "import signal, sys, threading, os\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from aya_data.catalog import query\n"
        "inner = query._patiently\n"
        "def told(*given):\n"
        "    print('running', flush=True)\n"
        "    return inner(*given)\n"
        "query._patiently = told\n"
        "from aya_data.cli.main import main\n"
        "sys.argv = ['aya-data', 'sql', 'SELECT count(*) FROM range(100000000000) t(i) WHERE i % 7 = 3']\n"
        "main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors == "aya-data: stopped. What was finished is kept; the same command resumes.\n"


def test_a_template_that_names_what_it_does_not_see_is_refused(tmp_path: Path) -> None:
    path = spec(tmp_path)
    sources = json.loads(path.read_text())
    one = {"name": "a", "prompt": "{{ promt }}", "answer": "{{ prompt }}{{ extra.x }}"}
    sources["sources"]["made"] = {"builder": "template", "from": "house", "templates": [one]}
    path.write_text(json.dumps(sources))
    done = aya("validate", path, cwd=tmp_path)
    assert done.returncode == 2
    assert "names 'promt', which no template sees. Did you mean 'prompt'?" in done.stderr
