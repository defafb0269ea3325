"""What a newcomer types wrong, and where the command line is run: closed streams, odd folders, empty releases."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import re
import shlex
import shutil
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


@pytest.fixture(scope="module")
def done_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec and the workspace that it was built in."""
    folder = tmp_path_factory.mktemp("built")
    done = aya("build", spec(folder), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def built(done_once: Path, tmp_path: Path) -> Path:
    """The same in a folder that a test may spoil."""
    shutil.copytree(done_once, tmp_path / "built")
    return tmp_path / "built"


def test_an_empty_release_says_so_and_what_took_the_rows(tmp_path: Path) -> None:
    done = aya("build", spec(tmp_path, license="nobody knows"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "  Warning: the release is empty. What took the rows: license.unknown 4.\n" in done.stdout
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
        (("verify", "place/releases/own"), "there is no release folder 'place/releases/own'"),
        (("verify", "spec.yaml"), "spec.yaml is a file, not a release"),
        (("verify", "own", "--workspace", "place"), "has no releases"),
        (("releases", "--workspace", "spec.yaml"), "spec.yaml is a file, and a workspace is a folder"),
        (("sql", "SELECT 1", "--workspace", "spec.yaml/in"), "spec.yaml is a file. Name a folder with --workspace"),
        (("init", "no/such/folder/x.yaml"), "there is no folder no/such/folder"),
        (("init", "place"), "place is already there"),
        (("build", "spec.yaml", "--memory", "0"), "--memory must be a size of at least 1B"),
        (("build", "spec.yaml", "--memory", "50%"), "--memory must be a size such as 256MB"),
        (("build", "spec.yaml", "--memory", "1KB"), "--memory 1000 B is too little. Give at least 512 MiB."),
        (("build", "spec.yaml", "--memory", "1000TB"), "is more than there is. This process may use at most"),
        (("build", "spec.yaml", "--memory", "9" * 5000), "--memory must be a size such as 256MB"),
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


def test_a_home_that_is_not_utf8_is_one_clear_error(tmp_path: Path) -> None:
    env = environment() | {"AYA_DATA_HOME": b"\xff".decode(errors="surrogateescape")}
    done = subprocess.run(command("releases"), cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith("\\xff, is not UTF-8. Name another folder with AYA_DATA_HOME.\n")


def test_what_the_data_show_to_be_wrong_has_its_place_in_the_spec(tmp_path: Path) -> None:
    path = spec(tmp_path)
    path.write_text(
        "name: own\nsources:\n  house:\n    builder: files\n    path: rows.jsonl\n"
        "    columns: {prompt: q, answer: {template: '{{ anser }}'}}\n    language: {column: lang}\n"
        "    where: raing > 3\n"
    )
    for name in ("plan", "build"):
        done = aya(name, "spec.yaml", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        lines = [line for line in done.stderr.splitlines() if line.startswith("spec.yaml")]
        assert [line.partition(" ")[0] for line in lines] == ["spec.yaml:6:34:", "spec.yaml:8:12:"]
        assert "the source 'house': where names the column 'raing', which is not in rows.jsonl." in done.stderr
    assert not (tmp_path / ".aya-data" / "releases").exists()


def test_what_is_said_at_the_end_is_said_to_programs_too(tmp_path: Path) -> None:
    path = spec(tmp_path, path="torn.jsonl.gz")
    written = json.loads(path.read_text())
    written["sources"]["none"] = {**SOURCE, "where": "q == a"}
    path.write_text(json.dumps(written))
    lines = "".join(
        json.dumps({"q": f"{n}?", "a": f"{n * 7919}.", "lang": "eng", "lic": "MIT"}) + "\n" for n in range(999)
    )
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0)[:3000])
    done = aya("build", path, "--set", "name=other", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    torn = (
        "parts of files of house could not be read: truncated_file 1. aya-data show … --rule truncated_file names them"
    )
    none = "nothing of none was released. What took the rows: where 4"
    assert f"  Warning: {torn}.\n  {none}.\n" in done.stdout
    again = aya("build", path, "--set", "name=other", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["notes"] == [torn, none]
    # What a source's own where takes out is not malformed.
    cells = [line.split() for line in done.stdout.splitlines()]
    assert ["source", "read", "malformed", "where", "released"] in cells
    assert ["none", "4", "·", "4", "·"] in cells
    # The file says another name than what was built.
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("  aya-data show "))
    shown = aya(*shlex.split(line)[1:], cwd=tmp_path)
    assert (shown.returncode, "none" in shown.stdout) == (0, True)


def test_lists_are_set_on_the_command_line(tmp_path: Path) -> None:
    path = spec(tmp_path)
    done = aya(
        "validate",
        path,
        "--json",
        "--set",
        "languages=[eng, tur]",
        "--set",
        "filters=[length: {min_chars: 3}]",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["languages"] == ["eng_Latn", "tur_Latn"]
    assert [f["name"] for f in found["filters"]] == ["length"]


def test_the_latest_release_is_marked(built: Path) -> None:
    assert aya("build", "spec.yaml", "--limit", "2", cwd=built).returncode == 0
    listed = aya("releases", cwd=built).stdout.splitlines()
    found = json.loads(aya("releases", "--json", cwd=built).stdout)
    assert sorted((one["rows"], one["latest"]) for one in found) == [(2, True), (4, False)]
    for one in found:
        (line,) = (line for line in listed if one["version"] in line)
        assert ("latest" in line.split()) == one["latest"]


def test_marks_for_terminals_go_to_terminals_alone(tmp_path: Path) -> None:
    text = "\u0645\u0631\u062d\u0628\u0627"
    path = spec(tmp_path)
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"q": f"{text}\u2068", "a": text, "lang": "arb", "lic": "MIT"}) + "\n"
    )
    assert aya("build", path, cwd=tmp_path).returncode == 0
    key = json.loads(aya("show", "own", "--json", cwd=tmp_path).stdout)[0]["row_key"]
    for asked in (("show", "own"), ("why", key)):
        written, shown = aya(*asked, cwd=tmp_path).stdout, on_a_terminal(90, *asked, cwd=tmp_path)
        assert text in written and "\u2068" in shown
        assert not set("\u2066\u2067\u2068\u2069") & set(written)


def test_a_key_that_is_not_set_is_said_before_anything_is_built(tmp_path: Path) -> None:
    path = spec(tmp_path)
    written = json.loads(path.read_text())
    model = {"engine": "openai", "model": "m", "base_url": "http://localhost:9/v1", "key_variable": "MODELS_KEY"}
    teacher = {**model, "sampling": {"temperature": 0, "max_tokens": 9, "n": 1}}
    judge = {"kind": "judge", "mode": "score", "model": model}
    made = {"teachers": {"one": teacher}, "arbiter": judge, "routing": "reward"}
    written["sources"]["made"] = {"builder": "arbitrage", "prompts": {"from": "house"}, **made}
    path.write_text(json.dumps(written))
    said = "the environment variable MODELS_KEY, which the teacher 'one' takes its key from, is not set."
    for more in ((), ("--upto", "prompts")):
        done = aya("plan", path, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"  Warning: generate:made/one: {said}\n" in done.stdout
        assert ("--upto prompts makes prompts" in done.stdout) == (not more)
    assert "MODELS_KEY" not in aya("plan", path, cwd=tmp_path, MODELS_KEY="secret").stdout


def test_a_release_is_verified_by_name(built: Path) -> None:
    (release,) = (built / ".aya-data" / "releases" / "own").iterdir()
    assert aya("verify", f"own@{release.name}", cwd=built).returncode == 0
    for what, said in (("onw", "Did you mean 'own'?"), ("own@0", release.name), (release.parent, release.name)):
        done = aya("verify", what, cwd=built)
        assert (done.returncode, said in done.stderr) == (2, True)
    next((release / "data").rglob("*.parquet")).write_bytes(b"")
    assert aya("verify", "own", cwd=built).returncode == 1


def test_gc_removes_downloads_when_asked(built: Path) -> None:
    cache = built / ".aya-data" / "cache"
    loaded = cache / f"sha256-{'0' * 64}.parquet"
    kept = cache / "owner--name-01234567-commit.json"
    (cache / "tokenizers" / "blobs").mkdir(parents=True)
    for file in (loaded, kept, cache / "tokenizers" / "blobs" / "x"):
        file.write_bytes(b"1234")
    assert json.loads(aya("gc", "--json", cwd=built).stdout) == {"removed": 0, "bytes": 0}
    assert loaded.exists()
    assert json.loads(aya("gc", "--json", "--downloads", cwd=built).stdout) == {"removed": 2, "bytes": 8}
    assert not loaded.exists() and not (cache / "tokenizers").exists()
    assert kept.exists()
    assert aya("verify", cwd=built).returncode == 0


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


def on_a_terminal(width: int, *arguments: str | Path, cwd: Path) -> str:
    """Run a command on a terminal of so many columns; return what it shows, without colours and cursor movements."""
    mine, its = pty.openpty()
    env = environment(TERM="xterm-256color", COLUMNS=str(width), LINES="50")
    with subprocess.Popen(command(*arguments), cwd=cwd, env=env, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        shown = bytearray()
        with contextlib.suppress(OSError):  # What a closed terminal raises on Linux.
            while data := os.read(mine, 65536):
                shown += data
    os.close(mine)
    assert process.returncode == 0, shown
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "\n")


@pytest.mark.parametrize("width", [40, 80])
def test_narrow_terminals_show_every_number_whole(width: int, tmp_path: Path) -> None:
    path = spec(tmp_path)
    written = json.loads(path.read_text())
    written["sources"]["a_source_with_a_long_name"] = written["sources"]["house"]
    written["filters"] = ["license", {"length": {"min_chars": 14}}, "exact_dedup", "near_dedup"]
    path.write_text(json.dumps(written))
    shown = on_a_terminal(width, "build", path, cwd=tmp_path)
    assert "read 2 sources" in shown
    assert "read:house: 4 in, 4 out" in shown  # and no picture of a house
    funnel, _, after = shown.partition("Next:")
    assert max(map(len, funnel.splitlines())) <= width
    assert "…" not in funnel.rpartition("mix:")[2]
    words = " ".join(funnel.split())
    for text in ("a_source_with_a_long_name", "exact_dedup 4", "eng_Latn") if width == 40 else ():
        assert text in words
    assert '"SELECT stage, rule' in after
    for query in ("SELECT * FROM ledger", "SELECT * FROM ledger WHERE false"):
        table = on_a_terminal(width, "sql", query, cwd=tmp_path)
        assert "threshold" in table
        assert ("No rows." in table) == ("false" in query)


def test_closed_streams_do_not_stop_a_build(tmp_path: Path) -> None:
    line = " ".join(map(shlex.quote, command("build", spec(tmp_path))))
    for redirection in (">&-", "2>&-", ">&- 2>&-"):
        done = subprocess.run(["bash", "-c", f"{line} {redirection}"], cwd=tmp_path, env=environment())
        assert done.returncode == 0
    assert aya("verify", cwd=tmp_path).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("releases",), ("sql", "SELECT 1", "--csv"), ("schema",)])
def test_output_that_finds_no_space_is_one_clear_error(arguments: tuple[str, ...], done_once: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            command(*arguments), cwd=done_once, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "aya-data: what was to be printed could not be written: no space is left there.\n"


def interrupted(program: str, folder: Path) -> str:
    """Press Ctrl-C when ``program`` says that it is running; what it writes to stderr."""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=folder,
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
    return errors


def test_ctrl_c_ends_a_long_query_and_says_so(done_once: Path) -> None:
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
    errors = interrupted(program, done_once)
    assert errors == "aya-data: stopped. What was finished is kept; the same command resumes.\n"


def test_ctrl_c_ends_a_task_that_hears_nothing_and_the_next_build_goes_on(tmp_path: Path) -> None:
    path = spec(tmp_path)
    # One call of a library, as a join over millions of rows is: no Python instruction ends before it does.
    program = (
        "import hashlib, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from aya_data.engine import pool\n"
        "inner = pool.perform\n"
        "def perform(root, task):\n"
        "    if task.stage == 'mix':\n"
        "        print('running', flush=True)\n"
        "        hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n"
        "    return inner(root, task)\n"
        "pool.perform = perform\n"
        "from aya_data.cli.main import main\n"
        f"sys.argv = ['aya-data', 'build', {str(path)!r}]\n"
        "main()\n"
    )
    errors = interrupted(program, tmp_path)
    assert errors.endswith("\naya-data: stopped. What was finished is kept; the same command resumes.\n")
    assert "Traceback" not in errors
    again = aya("build", path, "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    cached = {stage["name"]: stage["cached"] for stage in json.loads(again.stdout)["stages"]}
    assert cached["read:house"] and not cached["mix"]
    assert aya("verify", cwd=tmp_path).returncode == 0


def test_a_template_that_names_what_it_does_not_see_is_refused(tmp_path: Path) -> None:
    path = spec(tmp_path)
    sources = json.loads(path.read_text())
    one = {"name": "a", "prompt": "{{ promt }}", "answer": "{{ prompt }}{{ extra.x }}"}
    sources["sources"]["made"] = {"builder": "template", "from": "house", "templates": [one]}
    path.write_text(json.dumps(sources))
    done = aya("validate", path, cwd=tmp_path)
    assert done.returncode == 2
    assert "names 'promt', which no template sees. Did you mean 'prompt'?" in done.stderr
