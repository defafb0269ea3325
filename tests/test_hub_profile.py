"""The profile ``hub``: the command line reads true repository layouts from a Hub that misbehaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aya_data import api
from tests.hub_server import LARGE, Fault, HubServer

ROOT = Path(__file__).parents[1]
SPEC = Path(__file__).parent / "fixtures" / "hub.yaml"
TOKEN = "hf_secretOfTheTest"
AYA = "CohereLabs/aya_dataset"
DOLLY = "databricks/databricks-dolly-15k"
SAYINGS = "people/sayings"
DOLLY_FILE = f"{DOLLY}/databricks-dolly-15k.jsonl"
SAMPLES = {
    AYA: "aya_dataset",
    "CohereLabs/aya_collection": "aya_collection",
    "CohereLabs/aya_collection_language_split": "aya_collection_language_split",
    "CohereLabs/aya_evaluation_suite": "aya_evaluation_suite",
    "CohereLabs/xP3x": "xp3x",
    DOLLY: "dolly",
    "OpenAssistant/oasst1": "oasst",
}
REPOSITORIES = {
    "aya": AYA,
    "collection": "CohereLabs/aya_collection",
    "by_language": "CohereLabs/aya_collection_language_split",
    "xp3x": "CohereLabs/xP3x",
    "dolly": DOLLY,
    "assistant": "OpenAssistant/oasst1",
    "sayings": SAYINGS,
    "suite": "CohereLabs/aya_evaluation_suite",
}
CARD = "---\nlicense: cc-by-4.0\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n---\n# Sayings\n"


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """The spec, and beside it the folders that the Hub serves."""
    shutil.copy(SPEC, tmp_path / "hub.yaml")
    root = tmp_path / "upstream"
    for name, sample in SAMPLES.items():
        shutil.copytree(ROOT / "builders" / "samples" / sample, root / name)
    sayings = root / SAYINGS
    (sayings / "data").mkdir(parents=True)
    (sayings / "README.md").write_text(CARD, encoding="utf-8")
    columns = {
        "question": [f"Atalarımız {n} için ne demiş?" for n in range(40)],
        "reply": [f"Damlaya damlaya {n} göl olur." for n in range(40)],
        "lang": ["tur"] * 40,
    }
    pq.write_table(pa.table(columns), sayings / "data" / "train-00000-of-00001.parquet")
    return root


def serve(upstream: Path, **settings: Any) -> HubServer:
    names = {path.relative_to(upstream).as_posix(): path for path in sorted(upstream.glob("*/*"))}
    # As on the Hub, where only the card and the like of a data set are outside large-file storage.
    return HubServer(names, token=TOKEN, large=(*LARGE, "*.jsonl"), **settings)


@pytest.fixture
def hub(upstream: Path) -> Iterator[HubServer]:
    with serve(upstream, gated=[SAYINGS]) as server:
        yield server


def command(spec: Path, profile: str, *more: str, verb: str = "build") -> list[str]:
    workspace = str(spec.parent / "workspace")
    return [
        *(sys.executable, "-m", "aya_data", verb, str(spec), "--profile", profile, "--json"),
        *("--workspace", workspace, *more),
    ]


def environment(endpoint: str, home: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE_", "AYA_DATA_"))}
    return {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "HF_TOKEN": TOKEN, **more}


def aya(
    spec: Path, profile: str, endpoint: str, *more: str, verb: str = "build", **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(spec, profile, *more, verb=verb),
        cwd=ROOT,
        env=environment(endpoint, spec.parent, **variables),
        capture_output=True,
        text=True,
        timeout=300,
    )


def built(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def sources(release: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The sources of a lock; whatever a builder calls the pin of its one repository, here it is ``revision``."""
    found: dict[str, dict[str, Any]] = json.loads((Path(release["path"]) / "aya.lock").read_bytes())["sources"]
    for source in found.values():
        (revision,) = (pin for name, pin in source["pins"].items() if name.startswith("revision"))
        source["pins"]["revision"] = revision
    return found


def read_rows(release: dict[str, Any]) -> dict[str, int]:
    return {s["name"]: s["rows_in"] for s in release["stages"] if s["name"].startswith("read:")}


def only_spec(folder: Path, source: str) -> Path:
    """A spec of one source and no filter, beside the upstream folders."""
    path = folder / "small.yaml"
    path.write_text(f"name: small\npolicy: any\nsources:\n  {source}\nprofiles: {{hub: {{}}}}\n", encoding="utf-8")
    return path


def padded(path: Path, lines: int) -> int:
    """Make a JSON Lines file so many megabytes larger by blank lines; return its size."""
    with open(path, "ab") as file:
        for _ in range(lines):
            file.write(b" " * ((1 << 20) - 1) + b"\n")
    return path.stat().st_size


def test_a_build_from_a_hub_that_misbehaves(hub: HubServer, upstream: Path) -> None:
    spec = upstream.parent / "hub.yaml"
    pinned = {name: hub.commit(repository) for name, repository in REPOSITORIES.items()}
    # What a mirror holds now is what the pinned commits hold; afterwards the branches move.
    mirrored = built(aya(spec, "mirror", "http://127.0.0.1:9"))

    def move(name: str, file: str, change: bytes) -> None:
        path = upstream / name / file
        path.write_bytes(path.read_bytes() + change)
        hub.move_branch(name, "main", upstream / name)

    def move_aya() -> None:
        move(AYA, "data/notes.txt", b"new")

    def move_dolly() -> None:
        record = {"instruction": "New?", "context": "", "response": "Yes, new.", "category": "open_qa"}
        move(DOLLY, "databricks-dolly-15k.jsonl", json.dumps(record).encode() + b"\n")

    (upstream / AYA / "data" / "notes.txt").write_bytes(b"")
    hub.faults.append(Fault(f"/api/datasets/{AYA}/tree/*", before=move_aya))
    hub.faults.append(Fault(f"/datasets/{DOLLY}/resolve/*", before=move_dolly))
    hub.faults.add("/api/datasets/CohereLabs/xP3x/revision/*", status=429, retry_after=0)
    hub.faults.add("/api/datasets/OpenAssistant/oasst1/tree/*", status=503, retry_after=0, times=2)
    hub.faults.add("/datasets/CohereLabs/aya_collection/resolve/*", status=429, retry_after=0, times=3)
    hub.faults.add("/objects/CohereLabs/xP3x/*", status=503, retry_after=0)
    hub.faults.add(f"/objects/{DOLLY}/*", cut_after=1000)
    hub.faults.add("/objects/CohereLabs/aya_evaluation_suite/*", cut_after=0)

    first = built(aya(spec, "hub", hub.endpoint, "--workers", "2"))
    assert not [fault for fault in hub.faults if fault.times]
    assert {name: source["pins"]["revision"] for name, source in sources(first).items()} == pinned
    assert hub.commit(AYA) != pinned["aya"] and hub.commit(DOLLY) != pinned["dolly"]
    assert (first["rows"], first["digest"]) == (mirrored["rows"], mirrored["digest"])
    assert first["rows"] == 300
    assert hub.log.read_twice() == 0
    assert [start for start, _ in hub.log.ranges(DOLLY_FILE)] == [0, 1000]
    assert read_rows(first) == read_rows(mirrored)

    # The next build takes what the branches hold now, and asks only for what is new.
    before = len(hub.log)
    second = built(aya(spec, "hub", hub.endpoint))
    pins = sources(second)
    assert pins["aya"]["pins"]["revision"] == hub.commit(AYA)
    assert pins["dolly"]["pins"]["revision"] == hub.commit(DOLLY)
    assert {entry.file for entry in hub.log[before:] if entry.file} == {DOLLY_FILE}
    assert read_rows(second) == {**read_rows(first), "read:dolly": read_rows(first)["read:dolly"] + 1}

    before = len(hub.log)
    third = built(aya(spec, "hub", hub.endpoint))
    assert not [entry.file for entry in hub.log[before:] if entry.file]
    assert all(stage["cached"] for stage in third["stages"])
    assert third["version"] == second["version"]


def test_the_token_is_in_nothing_that_is_written(hub: HubServer, upstream: Path) -> None:
    spec = upstream.parent / "hub.yaml"
    done = aya(spec, "hub", hub.endpoint)
    built(done)
    assert any(entry.headers.get("authorization") == f"Bearer {TOKEN}" for entry in hub.log.of(f"*{SAYINGS}*"))
    assert not [entry for entry in hub.log if entry.host == "cdn" and "authorization" in entry.headers]
    assert TOKEN not in done.stdout + done.stderr
    files = [path for path in spec.parent.rglob("*") if path.is_file()]
    assert {"aya.lock", "README.md", "manifest.json", "catalog.duckdb"} <= {path.name for path in files}
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    refused = aya(spec, "hub", hub.endpoint, HF_TOKEN=TOKEN + "Old")
    assert refused.returncode == 2
    assert refused.stderr.startswith("aya-data: the Hub refuses HF_TOKEN.")
    assert TOKEN not in refused.stderr


def test_a_plan_lists_and_reads_no_data(hub: HubServer, upstream: Path) -> None:
    spec = upstream.parent / "hub.yaml"
    plan = built(aya(spec, "hub", hub.endpoint, verb="plan"))
    assert {s["name"]: s["pins"]["repository"] for s in plan["sources"] if "repository" in s["pins"]}["aya"] == AYA
    parquet = f"{SAYINGS}/data/train-00000-of-00001.parquet"
    # A card, an index, and of the source whose columns a spec maps the Parquet footer.
    read = {entry.file for entry in hub.log if entry.file}
    assert read == {"CohereLabs/xP3x/paths.json", f"{SAYINGS}/README.md", parquet}
    size = (upstream / parquet).stat().st_size
    footers = sorted(hub.log.ranges(parquet))
    assert footers[0][0] > size // 3 and footers[-1] == (size - 8, size)
    asked = len(hub.log)
    assert built(aya(spec, "hub", hub.endpoint, verb="plan"))["key"] == plan["key"]
    assert not [entry.file for entry in hub.log[asked:] if entry.file]
    built(aya(spec, "hub", hub.endpoint))
    assert hub.log.read_twice() == 0
    assert min(hub.log.ranges(parquet)) == (0, footers[0][0])


def run_until_killed(running: list[subprocess.Popen[bytes]], spec: Path, endpoint: str) -> None:
    """Run a build that the Hub kills: it finds it in ``running``."""
    running.append(
        subprocess.Popen(
            command(spec, "hub", "--workers", "1"),
            cwd=ROOT,
            env=environment(endpoint, spec.parent),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    )
    assert running[0].wait(timeout=120) == -signal.SIGKILL


def test_a_killed_build_goes_on_where_its_download_ended(upstream: Path) -> None:
    size = padded(upstream / DOLLY_FILE, 8)
    spec = only_spec(upstream.parent, "dolly: {builder: dolly}")
    with serve(upstream) as hub:
        running: list[subprocess.Popen[bytes]] = []
        # The connection breaks in the middle of the file; when the build asks for the rest, it is killed.
        hub.faults.add(f"/objects/{DOLLY}/*", cut_after=3 << 20)
        hub.faults.append(Fault(f"/datasets/{DOLLY}/resolve/*", skip=1, before=lambda: running[0].kill()))
        run_until_killed(running, spec, hub.endpoint)
        (partial,) = (spec.parent / "workspace" / "cache").glob("*.incomplete")
        assert partial.stat().st_size == 3 << 20
        release = built(aya(spec, "hub", hub.endpoint))
        assert hub.log.ranges(DOLLY_FILE) == [(0, 3 << 20), (3 << 20, size)]
    assert release["rows"] > 20
    assert not partial.exists()


def test_a_build_killed_while_it_streams_asks_for_the_missing_bytes_alone(upstream: Path) -> None:
    size = padded(upstream / DOLLY_FILE, 24)
    spec = only_spec(upstream.parent, "dolly: {builder: dolly}")
    with serve(upstream) as hub:
        # Requests are for 1, 2, 4, 8 … MiB. The build is killed in the middle of the third one's body.
        running: list[subprocess.Popen[bytes]] = []
        fault = Fault(f"/objects/{DOLLY}/*", skip=2, cut_after=2 << 20, at_cut=lambda: running[0].kill())
        hub.faults.append(fault)
        run_until_killed(running, spec, hub.endpoint)
        assert hub.log.ranges(DOLLY_FILE) == [(0, 1 << 20), (1 << 20, 3 << 20), (3 << 20, 5 << 20)]
        asked = len(hub.log)
        release = built(aya(spec, "hub", hub.endpoint))
        resumed = [entry.start for entry in hub.log[asked:] if entry.file]
        # What was on the wire when it died is all that comes again.
        assert 3 << 20 <= resumed[0] <= 5 << 20
        assert hub.log.read_twice() == (5 << 20) - resumed[0]
        assert sum(entry.sent for entry in hub.log if entry.file) == size + hub.log.read_twice()
    assert release["rows"] > 20
    assert not [*(spec.parent / "workspace" / "cache").glob("*.incomplete*")]


def test_damage_on_the_way_is_mended_by_asking_again(upstream: Path) -> None:
    size = padded(upstream / DOLLY_FILE, 24)
    spec = only_spec(upstream.parent, "dolly: {builder: dolly}")
    with serve(upstream) as hub:
        # Requests are for 1, 2, 4, 8 … MiB: the fourth one has the byte.
        hub.faults.add(f"/objects/{DOLLY}/*", flip=9 << 20, skip=3)
        release = built(aya(spec, "hub", hub.endpoint))
        assert hub.log.read_twice() == size
    assert release["rows"] > 20


def test_damage_on_the_way_again_and_again_is_named(upstream: Path) -> None:
    padded(upstream / DOLLY_FILE, 24)
    spec = only_spec(upstream.parent, "dolly: {builder: dolly}")
    with serve(upstream) as hub:
        hub.faults.add(f"/objects/{DOLLY}/*", flip=9 << 20, times=99)
        done = aya(spec, "hub", hub.endpoint)
        assert (done.returncode, done.stdout) == (1, "")
        line = done.stderr.splitlines()[-1]
        assert line.startswith(f"aya-data: {DOLLY}@{hub.commit(DOLLY)[:12]}/databricks-dolly-15k.jsonl is damaged: ")
        hub.faults.clear()
        release = built(aya(spec, "hub", hub.endpoint))
        mirrored = built(aya(spec, "hub", hub.endpoint, "--set", f"sources.dolly.location=upstream/{DOLLY}"))
    assert release["digest"] == mirrored["digest"]


def test_two_workers_read_one_large_file(upstream: Path) -> None:
    path = upstream / SAYINGS / "data" / "train-00000-of-00001.parquet"
    columns = {
        "question": [f"Atalarımız {n} için ne demiş?" for n in range(360)],
        "reply": [f"Damlaya damlaya {n} göl olur." for n in range(360)],
        "lang": ["tur"] * 360,
        "id": [str(n) for n in range(360)],
        "noise": [os.urandom(100_000) for _ in range(360)],
    }
    pq.write_table(pa.table(columns), path, row_group_size=50, compression="none", use_dictionary=False)
    spec = only_spec(
        upstream.parent,
        f"sayings: {{builder: hub, repo: {SAYINGS}, columns: {{prompt: question, answer: reply, id: id}}, extra: drop, "
        "language: {column: lang}, license: {assume: MIT, reason: ours}}",
    )
    name = path.relative_to(upstream).as_posix()
    with serve(upstream) as hub:
        release = built(aya(spec, "hub", hub.endpoint, "--workers", "2"))
        assert release["rows"] == 360
        assert sum(stop - start for start, stop in hub.log.ranges(name)) == path.stat().st_size
        assert hub.log.read_twice() == 0
        mirror = f"sources.sayings.location=upstream/{SAYINGS}"
        assert built(aya(spec, "hub", hub.endpoint, "--set", mirror))["digest"] == release["digest"]


def test_gc_removes_downloads_that_nobody_finished(upstream: Path, tmp_path: Path) -> None:
    padded(upstream / DOLLY_FILE, 2)
    spec = only_spec(tmp_path, "dolly: {builder: dolly}")
    workspace = tmp_path / "workspace"
    with serve(upstream) as hub:
        hub.faults.add(f"/objects/{DOLLY}/*", cut_after=1 << 20)
        hub.faults.add(f"/datasets/{DOLLY}/resolve/*", status=503, skip=1, times=9)
        assert aya(spec, "hub", hub.endpoint, AYA_DATA_HUB_ATTEMPTS="2").returncode == 1
        (partial,) = (workspace / "cache").glob("*.incomplete")
        hub.faults.clear()
        removed, size = api.gc(workspace)
        assert not partial.exists()
        assert removed >= 1 and size >= 1 << 20
        release = built(aya(spec, "hub", hub.endpoint))
        whole = sorted(path.name for path in (workspace / "cache").iterdir())
        api.gc(workspace)
        assert sorted(path.name for path in (workspace / "cache").iterdir()) == whole
    assert release["rows"] > 20


def test_two_workers_that_want_the_same_content_fetch_it_once(upstream: Path) -> None:
    data = upstream / SAYINGS / "data"
    (data / "train-00000-of-00001.parquet").unlink()
    (upstream / SAYINGS / "README.md").write_text("# Sayings\n", encoding="utf-8")
    sayings = [{"question": f"Neden {n}?", "reply": f"Çünkü {n}.", "lang": "tr"} for n in range(30)]
    for name, records in (("train-0.jsonl", sayings), ("train-1.jsonl", sayings), ("train-2.jsonl", sayings[:9])):
        lines = (json.dumps(record) + "\n" for record in records)
        (data / name).write_text("".join(lines), encoding="utf-8")
        padded(data / name, 13 if name != "train-2.jsonl" else 1)
    spec = only_spec(
        upstream.parent,
        f"sayings: {{builder: hub, repo: {SAYINGS}, columns: {{prompt: question, answer: reply}}, "
        "language: {column: lang}, license: {assume: MIT, reason: ours}}",
    )
    with serve(upstream) as hub:
        release = built(aya(spec, "hub", hub.endpoint, "--workers", "2"))
        assert hub.log.read_twice() == 0
        brought = sum(entry.sent for entry in hub.log if entry.file.endswith(".jsonl"))
    assert brought == sum((data / f"train-{n}.jsonl").stat().st_size for n in (1, 2))
    (read,) = (stage for stage in release["stages"] if stage["name"] == "read:sayings")
    assert read["rows_in"] == 69


def test_an_unreachable_hub_is_one_line(upstream: Path) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = aya(upstream.parent / "hub.yaml", "hub", endpoint, AYA_DATA_HUB_ATTEMPTS="2")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("aya-data: the Hub cannot be reached for ")
    assert "(2 attempts)" in line
    assert "use --profile sample, which needs no network" in line


def test_a_hub_that_goes_away_during_a_build_is_one_line(hub: HubServer, upstream: Path) -> None:
    hub.faults.add(f"/objects/{DOLLY}/*", status=503, times=99)
    done = aya(upstream.parent / "hub.yaml", "hub", hub.endpoint, AYA_DATA_HUB_ATTEMPTS="1")
    assert (done.returncode, done.stdout) == (1, "")
    *progress, line = done.stderr.splitlines()
    assert line.startswith("aya-data: ") and "--profile sample" in line and "HTTP 503" in line
    assert not [other for other in progress if other.startswith("aya-data") or "Traceback" in other]


def test_a_wrong_name_suggests_the_right_one(hub: HubServer, upstream: Path) -> None:
    done = aya(upstream.parent / "hub.yaml", "hub", hub.endpoint, "--set", "sources.sayings.repo=people/saying")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("aya-data: there is no Hub dataset 'people/saying'. Did you mean 'people/sayings'?")
    assert len(done.stderr.splitlines()) == 1


def test_a_wrong_number_of_attempts(upstream: Path) -> None:
    done = aya(upstream.parent / "hub.yaml", "hub", "http://127.0.0.1:9", AYA_DATA_HUB_ATTEMPTS="many")
    assert done.returncode == 2
    expected = "aya-data: AYA_DATA_HUB_ATTEMPTS is 'many'. Set it to a number from 1 to 999, or unset it.\n"
    assert done.stderr == expected
