"""The laws on real data: builds from public data sets as they were found, with all their dirt.

Needs the folder of data sets that ``AYA_DATA_REAL`` names. One large build is made once, killed twice on its way;
a small one is built many times over.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aya_data import api
from aya_data.core import durable, ledger
from aya_data.core import language as languages
from aya_data.core.identity import draw
from aya_data.core.policy import POLICIES
from aya_data.core.spec import load_spec
from aya_data.core.store import Workspace
from aya_data.core.terms import terms_table
from aya_data.engine.events import Events
from aya_data.engine.memory import PART_BYTES
from aya_data.engine.plan import make_plan
from aya_data.engine.pool import INLINE_BYTES, LocalExecutor
from aya_data.engine.run import Build, run
from tests.builds import tree

HERE = Path(__file__).parent
DATA = os.environ.get("AYA_DATA_REAL", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA, reason="AYA_DATA_REAL names no folder of real data"),
]

NEVER_COMMERCIAL = frozenset(
    {"alpaca", "alpaca_chinese", "alpaca_chinese_reviewed", "arabic_culture", "instructions_europe", "judged"}
    | {"lafand", "persian_reading", "quran", "ranked", "tool_calls", "tquad", "typed_parts", "vigogne"}
)
"""Sources of which every row is non-commercial, bound by no-compete terms, or without a known licence."""


# Builds ----------------------------------------------------------------------------------------------


def prepared(home: Path, spec: str) -> Path:
    """Lay a spec beside the data; return its path."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "data").symlink_to(DATA, target_is_directory=True)
    return Path(shutil.copy(HERE / spec, home / spec))


def build(
    spec: Path,
    workspace: Path,
    *,
    profile: str = "sample",
    workers: int = 1,
    part_bytes: int = PART_BYTES,
    inline_bytes: int = INLINE_BYTES,
) -> Build:
    """Build as :func:`aya_data.api.build` does, with a pool even for little work if so asked."""
    place = Workspace(workspace)
    with place.hold("tests/real"):
        plan = make_plan(load_spec(spec, profile), place, part_bytes=part_bytes)
        durable.make_folder(place.temporary)
        with LocalExecutor(place.store.root, workers, inline_bytes) as executor:
            return run(plan, place, executor, Events(), api.documents, 2 << 30, workers)


def command(spec: Path, workspace: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "aya_data", "build", str(spec), "--workspace", str(workspace), *options]


def killed_after(lines: int, spec: Path, workspace: Path) -> None:
    """Start a build as a command and kill -9 it when it has told of so many finished stages.

    Its workers are not killed: they must end by themselves, for stderr to end.
    """
    whole = command(spec, workspace, "--workers", "2")
    with subprocess.Popen(whole, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        told = list(islice(child.stderr, lines))
        child.send_signal(signal.SIGKILL)
        child.stderr.read()
        assert child.wait() == -signal.SIGKILL, "".join(told[-20:])


@dataclass(frozen=True)
class Real:
    """A finished build, where its spec and workspace are, and a connection with its rows and ledger."""

    build: Build
    spec: Path
    workspace: Path
    sql: duckdb.DuckDBPyConnection

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.sql.execute(query).fetchall()
        return found


def opened(done: Build, spec: Path, workspace: Path) -> Real:
    path = done.result.path
    con = duckdb.connect()
    con.execute("SET threads = 2")
    columns = (
        "row_key, epoch, language, script, source_language, source, source_dataset, license, terms, n_tokens, filename"
    )
    reads = []
    for folder in ("data", "preference"):
        if (path / folder).is_dir():
            files = f"'{path}/{folder}/*/*.parquet', hive_partitioning=false, filename=true, union_by_name=true"
            reads.append(f"SELECT {columns} FROM read_parquet({files})")
    con.execute(f"CREATE TABLE rows AS {' UNION ALL '.join(reads)}")
    con.execute(f"CREATE TABLE ledger AS SELECT * FROM read_parquet('{path}/ledger/ledger-*.parquet')")
    return Real(done, spec, workspace, con)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def research(home: Path) -> Real:
    """The large build under ``research``: killed twice while it ran, then resumed."""
    spec, workspace = prepared(home / "mixed", "mixed.yaml"), home / "workspace"
    for attempt, (least, most) in enumerate([(1, 30), (41, 50)]):
        killed_after(least + draw(5, "kill", str(attempt)) % (most - least + 1), spec, workspace)
    return opened(build(spec, workspace, workers=2), spec, workspace)


@pytest.fixture(scope="module")
def commercial(research: Real) -> Real:
    """The same under ``commercial``: reads and measures come from the cache."""
    done = build(research.spec, research.workspace, profile="commercial", workers=2)
    return opened(done, research.spec, research.workspace)


@pytest.fixture(scope="module")
def subset(home: Path) -> Real:
    """The small build, by one worker and without interruption."""
    spec, workspace = prepared(home / "subset", "subset.yaml"), home / "subset-workspace"
    return opened(build(spec, workspace), spec, workspace)


# Size ------------------------------------------------------------------------------------------------


def test_it_is_as_large_as_it_should_be(research: Real) -> None:
    read = {
        s.name.removeprefix("read:"): s.counts["rows_in"] for s in research.build.stages if s.name.startswith("read:")
    }
    folders = {
        path.split("/")[1]
        for source in load_spec(research.spec).sources.values()
        for path in getattr(source.settings, "path", ())
    }
    assert len(folders) >= 25
    assert sum(read.values()) >= 300_000
    assert all(count > 0 for count in read.values())
    varieties = research.ask("SELECT language, script, count(*) FROM rows GROUP BY ALL HAVING count(*) >= 200")
    assert len(varieties) >= 20
    uses = {source.use for source in load_spec(research.spec).sources.values()}
    assert uses == {"train", "prompts", "benchmark"}
    assert research.ask("SELECT count(*) > 2000 FROM rows WHERE filename LIKE '%/preference/%'") == [(True,)]


# The law of the ledger -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["research", "commercial", "subset"])
def any_build(request: pytest.FixtureRequest) -> Iterator[Real]:
    yield request.getfixturevalue(request.param)


def test_every_stage_accounts_for_every_row(any_build: Real) -> None:
    said = {
        (stage, outcome): n
        for stage, outcome, n in any_build.ask("SELECT stage, outcome, count(*) FROM ledger GROUP BY ALL")
    }
    for stage in any_build.build.stages:
        assert ledger.balance(stage.counts) == 0, stage
        for outcome in ("dropped", "merged", "not_sampled", "consumed"):
            assert said.pop((stage.name, outcome), 0) == stage.counts[outcome], (stage.name, outcome)
    assert {outcome for _, outcome in said} <= {"flagged"}


def test_every_row_of_every_source_has_exactly_one_fate(any_build: Real) -> None:
    # What a derive stage says of a parent is no end: the parent itself went on.
    any_build.sql.execute(
        "CREATE OR REPLACE TEMP VIEW fates AS "
        "SELECT DISTINCT source, row_key, 'released' AS fate FROM rows UNION ALL "
        "SELECT source, row_key, outcome FROM ledger "
        "WHERE outcome <> 'flagged' AND NOT (stage LIKE 'derive:%' AND outcome = 'consumed')"
    )
    assert any_build.ask("SELECT row_key, list(fate) FROM fates GROUP BY 1 HAVING count(*) > 1 LIMIT 5") == []
    fates = dict(any_build.ask("SELECT source, count(*) FROM fates GROUP BY 1"))
    sources = load_spec(any_build.spec).sources
    for stage in any_build.build.stages:
        kind, _, name = stage.name.partition(":")
        if kind == "read" and sources[name].use != "benchmark":
            assert fates[name] == stage.counts["rows_in"] + stage.counts["created"], name
        elif kind == "read":
            assert fates.get(name, 0) == stage.counts["dropped"], name
        elif kind == "derive":
            assert fates[name] == stage.counts["created"], name


def test_rows_are_identified(any_build: Real) -> None:
    assert any_build.ask("SELECT row_key, epoch FROM rows GROUP BY ALL HAVING count(*) > 1 LIMIT 5") == []
    assert any_build.ask("SELECT count(*) FROM rows WHERE row_key IS NULL OR length(row_key) <> 32") == [(0,)]
    manifest = any_build.build.result.manifest
    assert any_build.ask("SELECT count(*) FROM rows") == [(manifest["rows"],)]
    released = {source["name"]: source["released"] for source in manifest["sources"] if source["released"]}
    assert dict(any_build.ask("SELECT source, count(*) FROM rows GROUP BY 1")) == released


def test_every_label_resolves_or_says_why_not(any_build: Real) -> None:
    labels = any_build.ask("SELECT DISTINCT source_language, language, script FROM rows")
    for label, language, script in labels:
        resolved = languages.resolve(label)
        if language == "und":
            assert not resolved.ok and resolved.reason, label
        else:
            assert (resolved.variety.language, resolved.variety.script) == (language, script), label
    unexplained = any_build.ask(
        "SELECT DISTINCT source_language FROM rows SEMI JOIN "
        "(SELECT row_key FROM rows WHERE language = 'und' EXCEPT "
        " SELECT row_key FROM ledger WHERE outcome = 'flagged' AND rule = 'language_unresolved' AND evidence <> '') "
        "USING (row_key)"
    )
    assert unexplained == []


# Licences --------------------------------------------------------------------------------------------


def test_nothing_restricted_passes_the_commercial_policy(commercial: Real) -> None:
    released = commercial.ask("SELECT DISTINCT source, license, terms FROM rows")
    assert released
    refused = POLICIES["commercial"].refused_effects
    for source, license_, terms in released:
        assert not any(mark in license_ for mark in ("-NC", "-ND", "unknown")), (source, license_)
        for term in terms or ():
            assert not terms_table()[term].effects & refused, (source, term)
    assert not {source for source, _, _ in released} & NEVER_COMMERCIAL
    # Licences by row: some stories pass, the non-commercial ones do not.
    assert {source for source, _, _ in released} >= {"storybook", "pratham", "chatterbot", "harmless", "retold"}


def test_unknown_licences_end_in_the_ledger(research: Real) -> None:
    dropped = research.ask(
        "SELECT source, count(*) FROM ledger WHERE rule = 'license.unknown' AND outcome = 'dropped' "
        "GROUP BY 1 ORDER BY 1"
    )
    assert [source for source, _ in dropped] == ["alpaca_chinese", "instructions_europe", "tquad"]
    assert research.ask("SELECT count(*) FROM rows WHERE license LIKE '%unknown%'") == [(0,)]
    said = (research.build.result.path / "ATTRIBUTION.md").read_text()
    for source in research.build.result.manifest["assertions"]:
        assert source["reason"] in said


# The release -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["research", "commercial"])
def test_the_release_verifies(which: str, request: pytest.FixtureRequest) -> None:
    from aya_data.publish.verify import verify_release

    real: Real = request.getfixturevalue(which)
    assert list(verify_release(real.build.result.path)) == []


def test_datasets_loads_the_folder(commercial: Real, tmp_path: Path) -> None:
    code = (
        "import sys, datasets\n"
        "for config in sys.argv[2:]:\n"
        "    print(sum(s.num_rows for s in datasets.load_dataset(sys.argv[1], config).values()))\n"
    )
    configs = ["default", "kor_Hang", "preference"]
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    found = subprocess.run(
        [sys.executable, "-c", code, str(commercial.build.result.path), *configs],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]
    wanted = [
        commercial.ask(f"SELECT count(*) FROM rows WHERE filename LIKE '%{part}%'")[0][0]
        for part in ("/data/", "/data/kor_Hang/", "/preference/")
    ]
    assert [int(line) for line in found.stdout.split()] == wanted


def test_a_rebuild_takes_all_from_the_cache_and_writes_the_same_bytes(research: Real, home: Path) -> None:
    path = research.build.result.path
    before = tree(path)
    aside = home / "aside"
    path.rename(aside)
    again = build(research.spec, research.workspace, workers=2)
    work = [stage for stage in again.stages if stage.name != "release" and not stage.cached]
    assert [stage.name for stage in work if any(stage.counts.values())] == []
    assert again.result.path == path
    assert tree(path) == before == tree(aside)
    assert not build(research.spec, research.workspace, workers=2).result.fresh


# Nothing depends on the machine ----------------------------------------------------------------------


def said(real: Real, with_place: bool) -> Counter[tuple[Any, ...]]:
    """The ledger as a multiset, with or without the file and row where records were found."""
    columns = "*" if with_place else "* EXCLUDE (file, row)"
    return Counter(real.ask(f"SELECT {columns} FROM ledger"))


@pytest.mark.parametrize(
    "options", [{"workers": 2, "inline_bytes": 0}, {"part_bytes": 200_000}], ids=["two workers", "small parts"]
)
def test_workers_and_parts_change_nothing(subset: Real, tmp_path: Path, options: dict[str, int]) -> None:
    again = build(subset.spec, tmp_path, **options)  # type: ignore[arg-type]
    assert again.result.digest == subset.build.result.digest
    assert again.result.version == subset.build.result.version
    assert tree(again.result.path) == tree(subset.build.result.path)


def rearranged(source: Path, target: Path, purpose: str, files: int) -> None:
    """Write the rows of a folder of Parquet files in another order, to other files under other names."""
    table = pa.concat_tables([pq.read_table(path) for path in sorted(source.glob("*.parquet"))])
    order = sorted(range(table.num_rows), key=lambda row: draw(1, purpose, str(row)))
    table = table.take(order)
    target.mkdir(parents=True)
    for number in range(files):
        rows = [row for row in range(table.num_rows) if draw(2, purpose, str(row)) % files == number]
        piece, name = table.take(rows), f"{purpose}-{draw(3, purpose, str(number)) % 1000:03d}"
        if number == 0 and purpose != "harmless":
            lines = (json.dumps(record, ensure_ascii=False) for record in piece.to_pylist())
            (target / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        else:
            pq.write_table(piece, target / f"{name}.parquet", row_group_size=97 + number, compression="snappy")


@pytest.mark.sweep
@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 4}, {"workers": 2, "part_bytes": 5 << 20}])
def test_workers_and_parts_change_nothing_of_the_large_build(
    research: Real, tmp_path: Path, options: dict[str, int]
) -> None:
    spec = prepared(tmp_path, "mixed.yaml")
    built = build(spec, tmp_path / "workspace", **options)
    assert built.result.digest == research.build.result.digest
    assert tree(built.result.path) == tree(research.build.result.path)


def test_renamed_resharded_and_permuted_files_change_nothing(subset: Real, tmp_path: Path) -> None:
    home = tmp_path / "elsewhere"
    for name in ("vigogne_fr", "oasst_sampling_reports"):
        (home / "data").mkdir(parents=True, exist_ok=True)
        (home / "data" / name).symlink_to(Path(DATA) / name)
    rearranged(Path(DATA) / "chatterbot_corpus", home / "data" / "chatterbot_corpus", "chatterbot", 4)
    rearranged(Path(DATA) / "african_storybook", home / "data" / "african_storybook", "storybook", 3)
    rearranged(Path(DATA) / "hh_rlhf_harmless", home / "data" / "hh_rlhf_harmless", "harmless", 2)
    spec = Path(shutil.copy(subset.spec, home / "subset.yaml"))
    other = opened(build(spec, tmp_path / "workspace"), spec, tmp_path / "workspace")
    assert other.build.result.digest == subset.build.result.digest
    assert said(other, with_place=False) == said(subset, with_place=False)


# Nothing is lost -------------------------------------------------------------------------------------

COUNTING = (
    "import sys\n"
    "from pathlib import Path\n"
    "from tests.real.test_real import build\n"
    "from aya_data.core.durable import failpoint\n"
    "build(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    "print(failpoint.count)\n"
)


def in_process(fail_at: int, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "AYA_DATA_FAIL_AT": str(fail_at), "PYTHONPATH": str(HERE.parents[1])}
    return subprocess.run(
        [sys.executable, "-c", COUNTING, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_killed_anywhere_it_resumes_to_the_same_release(subset: Real, tmp_path: Path) -> None:
    whole = in_process(10**9, [str(subset.spec), str(tmp_path / "counted")])
    assert whole.returncode == 0, whole.stderr[-2000:]
    operations = int(whole.stdout)
    assert operations > 100
    for attempt in range(3):
        place = tmp_path / f"killed-{attempt}"
        moment = 1 + draw(13, "kill", str(attempt)) % operations
        assert in_process(moment, [str(subset.spec), str(place)]).returncode == -signal.SIGKILL, moment
        again = build(subset.spec, place)
        assert again.result.digest == subset.build.result.digest, moment
        assert tree(again.result.path) == tree(subset.build.result.path), moment
