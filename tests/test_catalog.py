"""The catalog: queries that cannot leave it, the lives of rows, rows as people read them, and verification."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from aya_data.catalog.query import open_catalog, query
from aya_data.catalog.register import find_releases, register
from aya_data.catalog.show import Shown, show
from aya_data.catalog.show import render as render_rows
from aya_data.catalog.terminal import FSI, LRI, PDI, RLI, cut, inline, printable, wrapped
from aya_data.catalog.why import render, stages_of_source, why
from aya_data.core.errors import BuildError, InputError, NotFound
from aya_data.core.store import Workspace, file_digest
from aya_data.publish.verify import named_releases, verify_release, verify_workspace
from tests.released import FOLDER, latest, shared_workspace


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return shared_workspace(tmp_path_factory)


@pytest.fixture
def copied(workspace: Workspace, tmp_path: Path) -> Workspace:
    """The same workspace, to damage; it has moved, too."""
    shutil.copytree(workspace.root, tmp_path / "moved")
    return Workspace(tmp_path / "moved")


def one(workspace: Workspace, sql: str) -> Any:
    return query(workspace, sql).rows[0][0]


# Registering ---------------------------------------------------------------------------------------


def test_the_views_and_tables(workspace: Workspace) -> None:
    names = [row[0] for row in query(workspace, "SHOW TABLES").rows]
    assert names == [
        "arbitration", "completions", "confusion", "decisions", "edges", "failures", "fertility", "languages",
        "ledger", "licenses", "mixture", "pairs", "releases", "rows", "rules", "scores", "shards", "sources", "stages",
        "statistics", "teachers",
    ]  # fmt: skip


def test_counts_agree_with_the_manifest(workspace: Workspace) -> None:
    manifest = json.loads((latest(workspace) / "manifest.json").read_bytes())
    where = "WHERE latest AND release = 'mix'"
    assert one(workspace, f"SELECT count(*) FROM rows {where}") == manifest["rows"]
    assert one(workspace, f"SELECT count(*) FROM ledger {where}") == sum(r["rows"] for r in manifest["rules"])
    by_shard = query(
        workspace,
        "SELECT count(*) FROM (SELECT release, version, shard AS path, variety, config, split, count(*) AS n "
        "FROM rows GROUP BY ALL) JOIN shards USING (release, version, path, variety, config, split) WHERE n = rows",
    ).rows
    assert by_shard[0][0] == one(workspace, "SELECT count(*) FROM shards")
    languages = query(workspace, "SELECT language, sum(rows) FROM languages GROUP BY 1 ORDER BY 1").rows
    assert languages == query(workspace, "SELECT language, count(*) FROM rows GROUP BY 1 ORDER BY 1").rows


def test_lost_and_kept_rows_of_a_source_are_the_rows_it_read(workspace: Workspace) -> None:
    found = dict(query(workspace, "SELECT source, lost + kept FROM sources WHERE release = 'mix'").rows)
    assert found == {"house": 248, "prefs": 40, "made": 40, "exam": 0}


def test_preferences_show_the_chosen_conversation_and_the_rejected(workspace: Workspace) -> None:
    row = query(workspace, "SELECT * FROM rows WHERE kind = 'preference' LIMIT 1").records()[0]
    assert row["messages"][-1]["content"].startswith("iyi")
    assert row["rejected"][-1]["content"].startswith("kötü")
    assert row["tags"] == {}
    assert row["config"] in ("preference-tur_Latn", "tur_Latn")


def test_the_version_of_the_last_build_is_the_latest(copied: Workspace) -> None:
    mix = [found for found in find_releases(copied) if found.name == "mix"]
    old, new = (next(f for f in mix if f.latest is flag) for flag in (False, True))
    note = copied.builds / "mix.sample.json"
    data = json.loads(note.read_bytes())
    assert data["version"] == new.version
    note.write_text(json.dumps({**data, "version": old.version}))
    assert [f.version for f in find_releases(copied) if f.name == "mix" and f.latest] == [old.version]
    note.write_text("{ torn")
    assert sum(f.latest for f in find_releases(copied) if f.name == "mix") == 1


def test_a_damaged_release_is_named_and_does_not_hide_the_others(copied: Workspace) -> None:
    mix = sorted(copied.releases.glob("mix/*"))
    (mix[0] / "manifest.json").write_text('{"name": ')
    victim = latest(copied) if latest(copied) != mix[0] else mix[1]
    shard = sorted(victim.glob("data/eng_Latn/train-*.parquet"))[0]
    shard.unlink()
    torn = sorted(victim.glob("ledger/ledger-*.parquet"))[0]
    torn.write_bytes(torn.read_bytes()[:-7])
    (copied.releases / "mix" / "empty").mkdir()
    register(copied)
    problems = dict(query(copied, "SELECT version, problem FROM releases WHERE problem IS NOT NULL").rows)
    assert problems["empty"] == "manifest.json is missing"
    assert problems[mix[0].name].startswith("manifest.json cannot be read: ")
    assert f"{shard.relative_to(victim)} is missing" in problems[victim.name]
    assert f"{torn.relative_to(victim)} has" in problems[victim.name]
    assert one(copied, "SELECT count(*) FROM rows WHERE release = 'pairs'") == 40
    assert one(copied, f"SELECT count(*) FROM rows WHERE version = '{victim.name}'") > 0
    assert query(copied, f"SELECT * FROM ledger WHERE version = '{victim.name}'").rows == []


@pytest.mark.parametrize("manifest", ["[]", "{}", "null", '{"name": 1}', '"x"', "\x00"])
def test_manifests_that_are_not_manifests(copied: Workspace, manifest: str) -> None:
    (latest(copied) / "manifest.json").write_text(manifest)
    register(copied)
    assert one(copied, "SELECT count(*) FROM releases WHERE problem IS NOT NULL") == 1


def test_a_manifest_may_not_name_files_elsewhere(copied: Workspace) -> None:
    place = latest(copied) / "manifest.json"
    manifest = json.loads(place.read_bytes())
    for file in manifest["files"]:
        if "kind" in file:
            file["path"] = "../" + file["path"]
    place.write_text(json.dumps(manifest))
    register(copied)
    problem = one(copied, f"SELECT problem FROM releases WHERE version = '{place.parent.name}'")
    assert "lies outside of the release" in problem
    assert "outside of the release" in str(verify_release(place.parent)[0])


def test_a_catalog_of_another_layout_is_made_anew(copied: Workspace) -> None:
    register(copied)
    with duckdb.connect(str(copied.catalog)) as con:
        con.execute("UPDATE shape.workspace SET layout = 'of an earlier version'; DROP VIEW mixture")
    assert one(copied, "SELECT count(*) FROM mixture") > 0


UNPRIVILEGED = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
"""Runs a command so that permissions hold for root too."""


@pytest.mark.skipif(
    bool(UNPRIVILEGED) and (shutil.which("setpriv") is None or subprocess.run([*UNPRIVILEGED, "true"]).returncode != 0),
    reason="permissions do not hold here",
)
def test_a_read_only_copy_is_read(copied: Workspace, tmp_path: Path) -> None:
    """Its catalog, of another place, is made anew elsewhere, and removed again."""
    row = one(copied, "SELECT row_key FROM rows WHERE latest LIMIT 1")
    shutil.move(copied.root, tmp_path / "again")
    read_only, aside = Workspace(tmp_path / "again"), tmp_path / "aside"
    aside.mkdir()
    places = [read_only.root, *(path for path in read_only.root.rglob("*") if not path.is_symlink())]
    modes = {path: path.stat().st_mode for path in places}
    for path in places:
        path.chmod(modes[path] & ~0o222)
    try:
        for arguments in (["sql", "SELECT count(*) FROM rows"], ["why", row], ["show", "mix"]):
            command = [sys.executable, "-m", "aya_data", *arguments, "--workspace", str(read_only.root), "--json"]
            found = subprocess.run(
                [*UNPRIVILEGED, *command], capture_output=True, text=True, env={**os.environ, "TMPDIR": str(aside)}
            )
            assert found.returncode == 0, found.stderr
            assert json.loads(found.stdout)
    finally:
        for path in places:
            path.chmod(modes[path])
    assert list(aside.iterdir()) == []


def test_statistics_and_their_views_tell_the_last_build(workspace: Workspace) -> None:
    for view in ("statistics", "mixture", "confusion", "teachers"):
        wrong = f"SELECT count(*) FROM {view} v JOIN releases r USING (release, version) WHERE v.latest != r.latest"
        assert one(workspace, wrong) == 0, view
    sizes = (
        "SELECT achieved_rows FROM mixture WHERE latest AND release = 'mix' AND axis = 'all' AND kind = 'conversation'"
    )
    assert len(query(workspace, sizes).rows) == 1
    assert len(query(workspace, sizes.replace("latest AND ", "")).rows) == 2


def test_registering_replaces_a_broken_catalog_and_its_log(copied: Workspace) -> None:
    copied.catalog.write_bytes(b"not a database")
    wal = copied.catalog.with_name("catalog.duckdb.wal")
    wal.write_bytes(b"old")
    assert one(copied, "SELECT count(*) FROM releases") == 3
    assert not wal.exists()
    assert sorted(p.name for p in copied.root.glob("catalog*")) == ["catalog.duckdb"]


def test_readers_keep_what_they_opened_while_a_build_swaps_the_catalog(copied: Workspace) -> None:
    with copied.hold("a build"), open_catalog(copied) as con:
        before = con.execute("SELECT count(*) FROM rows").fetchone()
        register(copied)
        assert con.execute("SELECT count(*) FROM rows").fetchone() == before
        assert one(copied, "SELECT count(*) FROM rows") == (before or [None])[0]
        shutil.rmtree(copied.releases / "pairs")
        register(copied)
        assert one(copied, "SELECT count(*) FROM releases") == 2
        assert con.execute("SELECT count(*) FROM releases").fetchone() == (3,)


def test_queries_in_threads_do_not_disturb_each_other(workspace: Workspace) -> None:
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda _: one(workspace, "SELECT count(*) FROM rows"), range(12)))
    assert len(set(counts)) == 1


def test_no_release_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as error:
        query(Workspace(tmp_path / "none"), "SELECT 1")
    assert str(error.value) == (
        f"there is no release in the workspace '{tmp_path}/none'. Run first: aya-data build SPEC"
    )
    assert not (tmp_path / "none").exists()


def test_an_empty_workspace_registers(tmp_path: Path) -> None:
    register(Workspace(tmp_path))
    result = query(Workspace(tmp_path), "SELECT * FROM rows")
    assert result.rows == [] and "messages" in result.columns


@pytest.mark.skipif(
    "AYA_DATA_OLD_DUCKDB" not in os.environ, reason="AYA_DATA_OLD_DUCKDB names no folder with DuckDB 1.x"
)
def test_an_older_client_opens_the_catalog(workspace: Workspace) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import duckdb; assert duckdb.__version__ < '2'; "
        "con = duckdb.connect(sys.argv[2], read_only=True); "
        "count = lambda name: con.execute(f'SELECT count(*) FROM {name}').fetchone()[0]; "
        "print(count('rows'), count('ledger'), len(con.execute('SELECT * FROM rows').fetchall()))"
    )
    command = [sys.executable, "-S", "-c", code, os.environ["AYA_DATA_OLD_DUCKDB"], str(workspace.catalog)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows, ledger = one(workspace, "SELECT count(*) FROM rows"), one(workspace, "SELECT count(*) FROM ledger")
    assert done.stdout.split() == [str(rows), str(ledger), str(rows)], done.stderr


# Queries -------------------------------------------------------------------------------------------

REFUSALS = {
    "INSERT INTO releases VALUES (1)": "INSERT is refused",
    "UPDATE releases SET rows = 1": "UPDATE is refused",
    "DELETE FROM releases": "DELETE is refused",
    "CREATE TABLE t (a int)": "CREATE is refused",
    "CREATE TEMP TABLE t AS SELECT 1": "CREATE is refused",
    "DROP VIEW rows": "DROP is refused",
    "ATTACH '/tmp/x.duckdb'": "ATTACH is refused",
    "DETACH catalog": "DETACH is refused",
    "COPY rows TO 'x.csv'": "COPY is refused",
    "EXPORT DATABASE 'x'": "EXPORT is refused",
    "PRAGMA database_list": "PRAGMA is refused",
    "SET threads = 1": "SET is refused",
    "CALL pragma_version()": "CALL is refused",
    "INSTALL httpfs": "LOAD is refused",
    "LOAD json": "LOAD is refused",
    "EXPLAIN ANALYZE SELECT 1": "EXPLAIN is refused",
    "SELECT 1; DROP VIEW rows": "these are 2 statements",
    "": "the query is empty",
    "-- only a comment": "the query is empty",
}


@pytest.mark.parametrize("sql", REFUSALS)
def test_anything_but_a_select_is_refused(workspace: Workspace, sql: str) -> None:
    with pytest.raises(InputError) as error:
        query(workspace, sql)
    assert str(error.value).startswith(REFUSALS[sql])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_parquet('{releases}/../store/*/*/*.parquet')",
        "SELECT * FROM read_text('{releases}/../lock')",
        "SELECT * FROM read_parquet('http://localhost:1/x.parquet')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT getenv('HOME')",
        "SELECT * FROM sql",
    ],
)
def test_nothing_outside_of_the_catalog_can_be_read(workspace: Workspace, sql: str) -> None:
    with pytest.raises(InputError):
        query(workspace, sql.replace("{releases}", str(workspace.releases).replace("'", "''")))


GOLDEN = {
    "SELECT languge FROM rows": (
        "query:1:8: there is no column 'languge'. Did you mean 'language'?\n"
        "  SELECT languge FROM rows\n"
        "         ^^^^^^^"
    ),
    "SELECT *\nFROM ledgr": (
        "query:2:6: there is no table 'ledgr'. Did you mean 'ledger'?\n"
        "  FROM ledgr\n"
        "       ^^^^^"
    ),
    "SELECT rows.bogus FROM rows": (
        "query:1:13: there is no column 'bogus'. Known: chosen_model, chosen_score, config, epoch, extra, group, id, "
        "kind, language, latest, license, margin, … (35 in all).\n"
        "  SELECT rows.bogus FROM rows\n"
        "              ^^^^^"
    ),
    "SELCT 1": 'query:1:1: syntax error at or near "SELCT".\n  SELCT 1\n  ^',
    "SELECT 1 FROM read_text('/etc/passwd')": (
        "query:1:15: a query may read the catalog and nothing else. SHOW TABLES lists what it may read.\n"
        "  SELECT 1 FROM read_text('/etc/passwd')\n"
        "                ^"
    ),
}  # fmt: skip


@pytest.mark.parametrize("sql", GOLDEN)
def test_errors_point_and_suggest(workspace: Workspace, sql: str) -> None:
    with pytest.raises(InputError) as error:
        query(workspace, sql)
    assert str(error.value) == GOLDEN[sql]
    assert error.value.exit_code == 2


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_whatever_is_typed_ends_in_a_result_or_an_input_error(text: str) -> None:
    with duckdb.connect() as con:
        from aya_data.catalog.query import _explained

        try:
            con.extract_statements(text)
        except duckdb.Error as error:
            assert str(_explained(con, text, error))
        except UnicodeEncodeError:
            return


def test_a_damaged_shard_is_an_error_that_says_so(copied: Workspace) -> None:
    query(copied, "SELECT 1")
    shard = sorted(latest(copied).glob("data/tur_Latn/train-*.parquet"))[0]
    sound = shard.read_bytes()
    key = one(copied, "SELECT min(row_key) FROM rows WHERE latest AND language = 'tur'")
    failed = 0
    for place in range(4, len(sound), len(sound) // 25):
        broken = bytearray(sound)
        broken[place] ^= 0x55
        shard.write_bytes(bytes(broken))
        for ask in (lambda: query(copied, "SELECT * FROM rows"), lambda: why(copied, key), lambda: show(copied, "mix")):
            try:
                ask()
            except BuildError as error:
                failed += 1
                assert str(error).endswith("Run: aya-data verify")
            except NotFound as error:
                assert error.kind == "row"
    assert failed > 10


def test_results_are_cut_at_the_limit_and_plain_for_json(workspace: Workspace) -> None:
    result = query(workspace, "SELECT * FROM rows", limit=3)
    assert len(result.rows) == 3 and not result.complete
    json.dumps(result.records())
    values = query(workspace, "SELECT 'nan'::DOUBLE AS a, 12::HUGEINT AS b, DATE '2026-01-01' AS c, 'x'::BLOB AS d")
    assert values.records() == [{"a": None, "b": 12, "c": "2026-01-01", "d": "78"}]
    assert values.complete and values.columns == ("a", "b", "c", "d")


# Lives ---------------------------------------------------------------------------------------------


def test_the_life_of_a_released_row(workspace: Workspace) -> None:
    sql = "SELECT row_key, id, shard, position FROM rows WHERE latest AND source = 'house' AND language = 'arb' LIMIT 1"
    key, identity, shard, position = query(workspace, sql).rows[0]
    for identifier in (key, identity, key[:12], identity[:12], key.upper()):
        life = why(workspace, identifier)
        assert [x.row_key for x in life.lives] == [key]
    (row,) = life.lives
    assert row.fate in ("released (train)", "released (validation)")
    assert [(place.shard, place.position) for place in row.places] == [(shard, position)]
    assert row.file == "data/house.jsonl"
    line = (workspace.root.parent / "data" / "house.jsonl").read_text(encoding="utf-8").splitlines()[row.row or 0]
    assert json.loads(line)["instruction"] == row.text
    assert [(step.stage, step.outcome) for step in row.steps] == [
        ("read:house", "passed"),
        ("filter:languages", "passed"),
        ("filter:license", "passed"),
        ("filter:length", "passed"),
        ("filter:exact_dedup", "passed"),
        *([("derive:made", "consumed")] if any(s.stage == "derive:made" for s in row.steps) else []),
        ("mix", "passed"),
    ]
    stored = pq.read_table(latest(workspace) / shard)["row_key"].to_pylist()
    assert stored[position] == key


def test_the_life_of_every_kind_of_end(workspace: Workspace) -> None:
    ends = query(
        workspace,
        "SELECT min(row_key), stage, outcome, rule FROM ledger WHERE latest AND outcome <> 'flagged' "
        "AND NOT stage LIKE 'derive:%' GROUP BY ALL",
    ).rows
    assert {row[2] for row in ends} == {"dropped", "merged", "not_sampled"}
    for key, stage, outcome, rule in ends:
        life = next(x for x in why(workspace, key).lives if x.release == "mix")
        last = life.steps[-1]
        assert (last.stage, last.outcome, last.rule) == (stage, outcome, rule)
        assert life.places == ()
        assert all(step.outcome in ("passed", "flagged", "consumed") for step in life.steps[:-1])
        if outcome == "merged":
            assert last.partner and last.partner_fate and last.partner_fate.startswith(("released", "not sampled"))
            keeper = next(x for x in why(workspace, last.partner).lives if x.release == "mix")
            assert key in [relative.row_key for relative in keeper.relatives]
        assert render(why(workspace, key))


def test_children_and_parents_know_each_other(workspace: Workspace) -> None:
    child, parent = query(workspace, "SELECT child, parent FROM edges WHERE latest LIMIT 1").rows[0]
    (young,) = why(workspace, child).lives
    assert [(r.row_key, r.relation) for r in young.relatives] == [(parent, "parent")]
    assert [step.stage for step in young.steps][:2] == ["derive:made", "filter:languages@2"]
    assert "filter:languages" not in [step.stage for step in young.steps]
    (old,) = why(workspace, parent).lives
    assert (child, "child") in [(r.row_key, r.relation) for r in old.relatives]
    assert not old.fate.startswith("used up")
    assert old.source == "house"


def test_a_benchmark_row_is_found_in_the_store(workspace: Workspace) -> None:
    note = json.loads((workspace.builds / "mix.sample.json").read_bytes())
    part = next(p["part"] for p in note["parts"] if p["source"] == "exam")
    key = pq.read_table(workspace.store.root / part)["row_key"][0].as_py()
    (life,) = why(workspace, key).lives
    assert life.source == "exam"
    assert life.fate.startswith("never entered the mixture")


def test_an_ambiguous_beginning_lists_the_rows(workspace: Workspace) -> None:
    query_keys = "SELECT id, list(DISTINCT row_key ORDER BY row_key) AS keys FROM rows GROUP BY id HAVING len(keys) > 1"
    shared = query(workspace, query_keys).rows
    for identity, keys in shared[:1]:
        life = why(workspace, identity)
        assert [c.row_key for c in life.candidates] == keys
        assert render(life).startswith(f"{len(keys)} rows begin with {identity}:")


def test_identifiers_that_lead_nowhere(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="too short"):
        why(workspace, "abc")
    with pytest.raises(NotFound, match="there is no row"):
        why(workspace, "0123456789abcdef")
    with pytest.raises(NotFound):
        why(workspace, "'; DROP VIEW rows; --")


def test_a_life_is_plain_data(workspace: Workspace) -> None:
    key = one(workspace, "SELECT row_key FROM rows LIMIT 1")
    data = why(workspace, key).as_dict()
    assert json.loads(json.dumps(data))["lives"][0]["row_key"] == key


def test_stages_by_wave() -> None:
    stages = [
        "read:a", "read:b", "limit", "filter:x", "derive:c", "limit@2", "filter:x@2", "derive:d", "filter:x@3", "mix"
    ]  # fmt: skip
    assert stages_of_source(stages, "b") == ["read:b", "limit", "filter:x", "mix"]
    assert stages_of_source(stages, "c") == ["derive:c", "limit@2", "filter:x@2", "mix"]
    assert stages_of_source(stages, "d") == ["derive:d", "filter:x@3", "mix"]


# Rows for people -----------------------------------------------------------------------------------


def test_show_gives_kept_and_other_rows_with_their_text(workspace: Workspace) -> None:
    rows = show(workspace, "mix", source="house", n=4)
    kept, others = [r for r in rows if r.outcome == "kept"], [r for r in rows if r.outcome != "kept"]
    assert len(kept) == len(others) == 4
    assert all(r.source == "house" and r.messages for r in kept)
    for row in others:
        assert bool(row.messages) != row.stage.startswith("read:") if row.stage else False
    assert rows == show(workspace, "mix", source="house", n=4)


def test_show_takes_the_spec_as_well(workspace: Workspace) -> None:
    spec = workspace.root.parent / "mix.yaml"
    assert show(workspace, str(spec), n=2) == show(workspace, f"mix@{latest(workspace).name}", n=2)


def test_show_by_language_and_rule(workspace: Workspace) -> None:
    for label in ("heb", "heb_Hebr", "Hebrew", "he"):
        rows = show(workspace, "mix", language=label, n=3)
        assert {row.variety for row in rows} == {"heb_Hebr"}
        assert {"kept", "dropped"} <= {row.outcome for row in rows} | {"dropped"}
    for rule in ("exact_dedup", "exact_duplicate", "filter:exact_dedup"):
        rows = show(workspace, "mix", rule=rule)
        assert {row.outcome for row in rows} == {"merged"}
        assert all(row.partner for row in rows)
    flagged = show(workspace, "mix", rule="language_unresolved", language="und", n=2)
    assert {row.outcome for row in flagged} == {"flagged"}


def test_show_of_preferences_prints_both_answers(workspace: Workspace) -> None:
    text = render_rows([row for row in show(workspace, "pairs", n=1) if row.outcome == "kept"])
    assert "chosen" in text and "rejected" in text and "iyi yanıt" in text and "kötü yanıt" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"what": "mixx"}, "there is no release 'mixx'. Did you mean 'mix'?"),
        ({"what": "mix", "source": "hous"}, "there is no source 'hous'. Did you mean 'house'?"),
        (
            {"what": "mix", "rule": "exact_dup"},
            "there is no rule in the ledger 'exact_dup'. Did you mean 'exact_dedup'?",
        ),
        ({"what": "mix@1234"}, "there is no version of mix '1234'. Known: "),
        ({"what": "mix", "language": "klingonian"}, "there is no language 'klingonian'"),
    ],
)
def test_show_suggests(workspace: Workspace, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(NotFound) as error:
        show(workspace, **arguments)  # type: ignore[arg-type]
    assert str(error.value).startswith(message)


def test_text_that_left_the_store_is_said_to_be_gone(copied: Workspace) -> None:
    shutil.rmtree(copied.store.root)
    rows = show(copied, "mix", rule="exact_dedup", n=1)
    assert rows[0].messages == ()
    assert rows[0].note == "its text is no longer in the store: build again to see it"
    key = rows[0].row_key
    assert next(x for x in why(copied, key).lives if x.release == "mix").fate.startswith("merged")


def test_hostile_text_is_shown_not_sent(workspace: Workspace) -> None:
    text = render_rows(show(workspace, "mix", source="house", n=500))
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    assert "␛]0;owned␇" in text and "⟨U+202E⟩evil" in text
    assert all(c.isprintable() or c in f"\n{FSI}{LRI}{RLI}{PDI}" for c in text)


def balanced(line: str) -> bool:
    depth = 0
    for c in line:
        depth += (c in (FSI, LRI, RLI)) - (c == PDI)
        if depth not in (0, 1):
            return False
    return depth == 0


any_text = st.text(st.characters(codec="utf-8"), max_size=300)


@settings(max_examples=200, deadline=None)
@given(any_text, st.integers(8, 60), st.integers(1, 8))
def test_wrapped_text_fits_and_every_line_is_isolated(text: str, width: int, most: int) -> None:
    lines = wrapped(text, width, most)
    assert 1 <= len(lines) <= most
    for line in lines:
        assert balanced(line)
        assert "\x1b" not in line and "\n" not in line
        inner = line.strip(FSI + LRI + RLI + PDI)
        assert cell_len(inner.removesuffix("…")) <= width


@settings(max_examples=200, deadline=None)
@given(any_text)
def test_names_stay_on_one_line(text: str) -> None:
    assert len(inline(text).splitlines()) <= 1
    assert balanced(inline(text))


@settings(max_examples=200, deadline=None)
@given(any_text, st.integers(1, 50))
def test_cutting_keeps_a_beginning(text: str, most: int) -> None:
    short = cut(text, most)
    if len(text) <= most:
        assert short == text
    else:
        assert short.endswith("…") and len(short) <= most + 1
        assert text.startswith(short[:-1])


def test_cutting_never_parts_a_letter_from_its_marks() -> None:
    assert cut("नमस्ते दुनिया", 5) == "नमस्…" or cut("नमस्ते दुनिया", 5).endswith("…")
    assert cut("e\u0301e\u0301e\u0301", 3) == "e\u0301…"
    assert cut("👩\u200d👩\u200d👧 x", 3) == "👩\u200d👩…" or "\u200d…" not in cut("👩\u200d👩\u200d👧 x", 3)


def test_right_to_left_paragraphs_keep_their_direction_on_every_line() -> None:
    lines = wrapped("שלום " * 20 + "hello world " * 5, 20, 50)
    assert len(lines) > 3 and all(line.startswith(RLI) for line in lines if not line.isascii())
    assert wrapped("שלום", 20, 5) == [f"{FSI}שלום{PDI}"]
    assert wrapped("plain", 20, 5) == ["plain"]


def test_controls_become_pictures() -> None:
    assert printable("a\x00\x1b\x7f\x9b\u202e\u2066\ufeff\tb\r\nc\u2028d") == (
        "a␀␛␡⟨U+009B⟩⟨U+202E⟩⟨U+2066⟩⟨U+FEFF⟩    b\nc\nd"
    )
    assert printable("می\u200cخواهم") == "می\u200cخواهم"


def test_long_text_ends_with_an_ellipsis() -> None:
    row = Shown("r", "v", "k", "kept", "s", None, "zho_Hans", None, None, None, (("user", "漢字" * 2000),))
    text = render_rows([row], width=60)
    assert all(cell_len(line.replace(FSI, "").replace(PDI, "").replace(LRI, "")) <= 61 for line in text.splitlines())
    assert "…" in text and len(text.splitlines()) < 20


# Verification --------------------------------------------------------------------------------------


def test_a_sound_workspace_has_no_findings(workspace: Workspace) -> None:
    assert verify_workspace(workspace) == []


def rewritten(release: Path, change: Any) -> None:
    place = release / "manifest.json"
    manifest = json.loads(place.read_bytes())
    change(manifest)
    place.write_text(json.dumps(manifest))


def test_every_damage_to_a_file_is_found_and_named(copied: Workspace) -> None:
    release = latest(copied)
    manifest = json.loads((release / "manifest.json").read_bytes())
    for file in manifest["files"]:
        path = release / file["path"]
        sound = path.read_bytes()
        flipped = bytearray(sound)
        flipped[len(flipped) // 2] ^= 1
        for broken in (bytes(flipped), sound[:-1], None):
            if broken is None:
                path.unlink()
            else:
                path.write_bytes(broken)
            assert str(path) in [finding.file for finding in verify_release(release)]
        path.write_bytes(sound)
    assert verify_release(release) == []


def test_strangers_links_and_missing_manifests_are_found(copied: Workspace) -> None:
    release = latest(copied)
    (release / "data" / "extra.parquet").write_bytes(b"x")
    assert [str(f) for f in verify_release(release)] == [
        f"{release}/data/extra.parquet: the manifest does not list it."
    ]
    (release / "data" / "extra.parquet").unlink()
    readme = release / "README.md"
    shutil.copy(readme, copied.root / "README.md")
    readme.unlink()
    readme.symlink_to(copied.root / "README.md")
    assert [f.what for f in verify_release(release)] == ["a link, where a file was written"]
    (release / "manifest.json").unlink()
    assert [f.what for f in verify_release(release)] == ["the file is gone"]
    with pytest.raises(NotFound):
        verify_release(release / "nowhere")


def test_counts_that_do_not_add_up_are_found(copied: Workspace) -> None:
    release = latest(copied)
    place = release / "manifest.json"
    sound = place.read_bytes()

    def expect(change: Any, *found: str) -> None:
        rewritten(release, change)
        whats = [finding.what for finding in verify_release(release)]
        for what in found:
            assert any(what in w for w in whats), whats
        place.write_bytes(sound)

    def bump(stage: str, count: str) -> Any:
        def change(manifest: dict[str, Any]) -> None:
            next(s for s in manifest["stages"] if s["name"] == stage)[count] += 1

        return change

    expect(
        bump("filter:license", "dropped"),
        "stage filter:license breaks the law of the ledger by -1 row (",
        "stage filter:license has 66 rows dropped, the manifest counts 67",
    )
    expect(bump("mix", "not_sampled"), "stage mix has 60 rows not sampled, the manifest counts 61")
    expect(lambda m: m.update(rows=m["rows"] + 1), "the shards have 190")
    expect(lambda m: m["rules"][0].update(rows=99), "the manifest counts 99")
    expect(lambda m: m["sources"][1].update(released=1), "rows by sources")
    expect(lambda m: m.update(digest="0" * 32), "the shards' digests give")
    expect(lambda m: m.update(version="x"), "version x in a folder called")
    shard = next(f["path"] for f in json.loads(sound)["files"] if "kind" in f)

    def other_logical(manifest: dict[str, Any]) -> None:
        next(f for f in manifest["files"] if f["path"] == shard)["logical"] = "f" * 32

    expect(other_logical, f"recorded {'f' * 32}")
    expect(lambda m: m.pop("stages"), "cannot be read: KeyError: 'stages'")
    assert verify_release(release) == []


def test_a_version_that_the_files_do_not_give_is_found(copied: Workspace) -> None:
    release = latest(copied)
    lock = release / "aya.lock"
    lock.write_bytes(lock.read_bytes().replace(b'"seed": ', b'"seed": 1', 1))

    def own_up(manifest: dict[str, Any]) -> None:
        entry = next(file for file in manifest["files"] if file["path"] == "aya.lock")
        entry.update(bytes=lock.stat().st_size, digest=file_digest(lock))

    rewritten(release, own_up)
    (finding,) = verify_release(release)
    assert finding.file == str(release / "manifest.json")
    assert finding.what.startswith(f"version {release.name}, what the files say gives ")


def test_releases_are_found_by_name_and_by_folder(workspace: Workspace) -> None:
    release = latest(workspace)
    name = release.parent.name
    every = sorted(path for path in release.parent.iterdir() if path.is_dir())
    assert named_releases(workspace, name) == every
    assert named_releases(workspace, f"{name}@{release.name}") == [release]
    assert named_releases(workspace, str(release)) == [release]


def test_a_row_twice_is_found(copied: Workspace) -> None:
    release = latest(copied)
    manifest = json.loads((release / "manifest.json").read_bytes())
    first = next(f for f in manifest["files"] if "kind" in f)
    again = first["path"].replace("train-", "more-")
    shutil.copy(release / first["path"], release / again)
    rewritten(release, lambda m: m["files"].append({**first, "path": again}))
    findings = [f.what for f in verify_release(release)]
    assert any("is in the release 2 times" in what for what in findings)


def test_a_bit_flip_in_the_store_is_found(copied: Workspace) -> None:
    note = json.loads((copied.builds / "mix.sample.json").read_bytes())
    path = copied.store.root / note["parts"][0]["part"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    (finding,) = verify_workspace(copied)
    assert finding.file == str(path) and "digest" in finding.what
    assert finding.as_dict() == {"file": str(path), "what": finding.what}


def test_the_folder_has_a_name_that_sql_trips_over(workspace: Workspace) -> None:
    assert workspace.root.name == FOLDER and "'" in FOLDER and "[" in FOLDER
