"""The command line as a surface: help, exit codes, streams, the JSON that other tools read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SPEC = ROOT / "specs" / "sft_mix.yaml"
HELP = Path(__file__).parent / "help"
COMMANDS = (
    "build", "plan", "validate", "sql", "why", "show", "releases", "verify", "gc", "schema", "explain", "init",
    "calibrate",
)  # fmt: skip


def aya(*arguments: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", **environment}
    env.pop("AYA_DATA_HOME", None)
    command = [sys.executable, "-m", "aya_data", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def printed(*arguments: str | Path) -> Any:
    done = aya(*arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def built(workspace: Path) -> dict[str, Any]:
    found: dict[str, Any] = printed("build", SPEC, "--workspace", workspace, "--json")
    return found


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_as_recorded(command: str) -> None:
    done = aya(*filter(None, [command]), "--help")
    assert done.returncode == 0
    recorded = HELP / f"{command or 'aya-data'}.txt"
    if os.environ.get("AYA_DATA_WRITE_GOLDEN"):
        HELP.mkdir(exist_ok=True)
        recorded.write_text(done.stdout)
    assert done.stdout == recorded.read_text()


def test_build_prints_one_object_and_keeps_progress_off_stdout(built: dict[str, Any], workspace: Path) -> None:
    assert list(built) == ["name", "version", "path", "rows", "digest", "seconds", "stages", "asked", "notes"]
    counts = {"rows_in", "created", "rows_out", "dropped", "merged", "not_sampled", "consumed"}
    for stage in built["stages"]:
        assert {"name", "key", "cached", "seconds", *counts} == set(stage)
        into = stage["rows_in"] + stage["created"]
        assert into == sum(stage[c] for c in counts - {"rows_in", "created"})
    assert built["name"] == "sft_mix"
    assert Path(built["path"]) == workspace / "releases" / "sft_mix" / built["version"]
    assert built["rows"] > 400


def test_a_second_build_is_cached_and_equal(built: dict[str, Any], workspace: Path) -> None:
    again = printed("build", SPEC, "--workspace", workspace, "--json", "--workers", "1")
    assert all(stage["cached"] for stage in again["stages"])
    assert (again["version"], again["digest"]) == (built["version"], built["digest"])


def test_people_see_a_funnel_and_what_to_do_next(built: dict[str, Any], workspace: Path) -> None:
    done = aya("build", SPEC, "--workspace", workspace)
    assert done.returncode == 0
    for text in ("source", "released", "aya", "pairs", "eng_Latn", built["version"], "Next:", "--profile hub"):
        assert text in done.stdout
    assert "filter:exact_dedup" in done.stderr
    assert "filter:exact_dedup" not in done.stdout


def test_plan_lists_the_stages_that_build_ran(built: dict[str, Any], workspace: Path, tmp_path: Path) -> None:
    done = printed("plan", SPEC, "--workspace", workspace, "--json")
    assert all(stage["cached"] for stage in done["stages"])
    fresh = printed("plan", SPEC, "--workspace", tmp_path, "--json")
    assert [s["key"] for s in fresh["stages"]] == [s["key"] for s in done["stages"]]
    assert not any(stage["cached"] for stage in fresh["stages"])
    assert list(tmp_path.iterdir()) == [], "plan writes nothing"
    keys = {stage["key"] for stage in done["stages"]}
    assert {stage["key"] for stage in built["stages"]} <= keys
    moved = printed("plan", SPEC, "--workspace", workspace, "--json", "--set", "filters.language_id.min_confidence=0.4")
    to_do = [stage["name"] for stage in moved["stages"] if not stage["cached"]]
    assert to_do and not any(
        name.startswith(("read:", "measure:language_id", "keys")) and "@" not in name for name in to_do
    )


def test_sql_in_three_forms(built: dict[str, Any], workspace: Path) -> None:
    query = "SELECT language, count(*) AS n FROM rows GROUP BY 1 ORDER BY 2 DESC, 1"
    rows = printed("sql", query, "--workspace", workspace, "--json")
    assert sum(row["n"] for row in rows) == built["rows"]
    table = aya("sql", query, "--workspace", workspace)
    assert rows[0]["language"] in table.stdout
    text = aya("sql", query, "--workspace", workspace, "--csv").stdout.splitlines()
    assert text[0] == "language,n" and len(text) == len(rows) + 1


def test_why_tells_of_kept_and_lost_rows(built: dict[str, Any], workspace: Path) -> None:
    (kept,) = printed("sql", "SELECT row_key FROM rows ORDER BY 1 LIMIT 1", "--workspace", workspace, "--json")
    assert aya("why", kept["row_key"], "--workspace", workspace).returncode == 0
    (lost,) = printed(
        "sql",
        "SELECT row_key, partner FROM ledger WHERE outcome = 'merged' ORDER BY 1 LIMIT 1",
        "--workspace",
        workspace,
        "--json",
    )
    done = aya("why", lost["row_key"], "--workspace", workspace)
    assert "exact_duplicate" in done.stdout and lost["partner"][:8] in done.stdout
    assert isinstance(printed("why", lost["row_key"][:12], "--workspace", workspace, "--json"), dict)


def test_show_prints_kept_and_dropped_rows(built: dict[str, Any], workspace: Path) -> None:
    done = aya("show", SPEC, "--workspace", workspace, "-n", "2")
    assert done.returncode == 0 and done.stdout
    dropped = printed("show", SPEC, "--workspace", workspace, "--rule", "language_mismatch", "--json", "-n", "1")
    assert len(dropped) == 1


def test_releases_verify_and_gc(built: dict[str, Any], workspace: Path) -> None:
    (release,) = printed("releases", "--workspace", workspace, "--json")
    assert release["version"] == built["version"]
    assert aya("verify", "--workspace", workspace).returncode == 0
    assert aya("verify", built["path"]).returncode == 0
    assert printed("gc", "--workspace", workspace, "--json") == {"removed": 0, "bytes": 0}
    assert printed("gc", "--answers", "list", "--workspace", workspace, "--json") == []
    assert aya("gc", "--answers", "list", "--workspace", workspace).stdout == "There are none.\n"


def test_schema_and_explain() -> None:
    schema = printed("schema")
    assert "sources" in schema["properties"]
    assert "cap" in aya("explain", "mix.caps").stdout.lower()
    assert aya("explain", "mix.cups").returncode == 2


def test_init_writes_a_spec_that_builds_and_never_overwrites(tmp_path: Path) -> None:
    assert aya("init", cwd=tmp_path).returncode == 0
    assert aya("validate", "aya-data.yaml", cwd=tmp_path).returncode == 0
    done = aya("init", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "aya-data: aya-data.yaml is already there. Give another name.\n"
    assert aya("build", "aya-data.yaml", "--workspace", "w", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("build", "nowhere.yaml"), 2, "nowhere.yaml"),
        (("build", SPEC, "--profile", "sampel"), 2, "sample"),
        (("build", SPEC, "--set", "mix.budgets.rows=3"), 2, "budget"),
        (("build", SPEC, "--set", "seed=x"), 2, "seed"),
        (("build", SPEC, "--memory", "12 parsecs"), 2, "--memory"),
        (("build", SPEC, "--memory", "1MB"), 2, "512 MiB"),
        (("build", SPEC, "--workers", "0"), 2, "workers"),
        (("build",), 2, "SPEC"),
        (("biuld", SPEC), 2, "biuld"),
        (("sql", "SELECT 1"), 2, "build"),
        (("sql", "SELECT 1", "--json", "--csv"), 2, "--json and --csv are two forms of one answer. Give one"),
        (("why", "0123456789"), 2, "build"),
        (("releases", "--workspace", SPEC), 2, "a workspace is a folder"),
    ],
)
def test_wrong_input_is_one_clear_error(
    arguments: tuple[str | Path, ...], code: int, message: str, tmp_path: Path
) -> None:
    done = aya(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".aya-data" / "store").exists()
