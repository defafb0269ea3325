"""aya-data from Python: what the command line calls.

from aya_data import api
build = api.build("specs/sft_mix.yaml")
print(build.result.path)
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aya_data.core import durable
from aya_data.core.errors import InputError, NotFound, SpecError, WrongSetting
from aya_data.core.journal import Journal, journals
from aya_data.core.spec import Spec, load_spec
from aya_data.core.store import Store, Workspace, command_line, open_workspace
from aya_data.engine.codekey import kernels_code
from aya_data.engine.events import Events, Listener, open_log
from aya_data.engine.forecast import Peek, forecast
from aya_data.engine.memory import PART_BYTES, Share, rarely_collected, shares
from aya_data.engine.plan import Plan, make_plan
from aya_data.engine.pool import INLINE_BYTES, Executor, LocalExecutor, served
from aya_data.engine.run import STAGES, Build, run
from aya_data.engine.running import Running
from aya_data.engine.warming import Warming
from aya_data.publish.arbitration import arbitration
from aya_data.publish.card import attribution, card, dataset_info

__all__ = ["build", "expectations", "gc", "plan", "plan_as_dict", "releases", "review_sheet", "unnamed_answers"]

MINIMUM_MEMORY = 512 << 20
DOWNLOADED = re.compile(r"(?:sha256-[0-9a-f]{64}|git-[0-9a-f]{40})(?:\.[a-z0-9]+){0,2}$")
"""What a complete file from the Hub is called in the cache; one that is still coming has another ending."""
FETCHED = ("models", "tokenizers")
"""The folders in the cache that huggingface_hub downloads to."""


def documents(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a release, from its manifest alone."""
    info = json.dumps(dataset_info(manifest), indent=1, sort_keys=True, ensure_ascii=False)
    written = {"README.md": card(manifest), "ATTRIBUTION.md": attribution(manifest), "dataset_info.json": info + "\n"}
    judged = {name: report for name, report in manifest.get("generation", {}).items() if "bias" in report}
    if judged:
        written["ARBITRATION.md"] = arbitration({**manifest, "arbitration": judged})
    return written


def build(
    spec: str | Path,
    *,
    profile: str = "sample",
    workspace: str | Path | None = None,
    sets: Sequence[str] = (),
    limit: int | None = None,
    workers: int | None = None,
    memory: int | None = None,
    part_size: int | None = None,
    listeners: Sequence[Listener] = (),
) -> Build:
    """Build a spec into a release and register it in the catalog.

    ``workers`` defaults to the processors of this machine, ``memory`` (bytes, of all processes together) to half of
    its memory, ``part_size`` (bytes in memory of an intermediate part) to 32 MiB; workers and parts are fewer and
    smaller where memory asks for it. None of these changes the release. Raises SpecError, InputError, BuildError.
    """
    place = open_workspace(workspace)
    if "?" in str(place.root):
        raise InputError(
            f"the path of the workspace, {place.root}, holds a '?', which the catalog's file cannot be opened with",
            "Choose another folder with --workspace.",
        )
    share = _share(memory, workers, part_size)
    _keep_kernels(place)
    loaded = _loaded(spec, profile, sets, limit)

    def listed(size: int) -> None:
        if share.workers > 1 and size >= INLINE_BYTES and not (place.builds / f"{loaded.name}.{profile}.json").exists():
            served()  # imports beside the rest of the planning; where there was a build, there may be nothing to do

    with place.hold(command_line()), rarely_collected():
        log, _ = open_log(place.events, f"{loaded.name}-{profile}")
        events = Events(log, *listeners)
        made = _planned(loaded, place, share.part_bytes, limit, listed)
        together = {stage.name: str(stage.wave) for stage in made.stages if stage.kind == "read"}
        events("planned", name=loaded.name, reads=together)
        durable.make_folder(place.temporary)
        with LocalExecutor(place.store.root, share.workers, overlap=share.overlap) as executor:
            try:
                done = run(made, place, executor, events, documents, share.exchange, share.workers)
            except WrongSetting as error:
                raise _placed(loaded, error) from None
        from aya_data.catalog.register import register

        register(place)
        return done


def _share(memory: int | None, workers: int | None, part_size: int | None) -> Share:
    """Divide the memory budget."""
    for name, given in (("workers", workers), ("part_size", part_size)):
        if given is not None and given < 1:
            raise InputError(f"{name} is {given}", "Give 1 or more, or leave it out.")
    workers = workers or os.cpu_count() or 1
    memory = total_memory() // 2 if memory is None else memory
    if memory < MINIMUM_MEMORY:
        raise InputError(f"--memory {size(memory)} is too little", f"Give at least {size(MINIMUM_MEMORY)}.")
    if memory > total_memory():
        here = size(total_memory())
        raise InputError(f"--memory {size(memory)} is more than there is", f"This process may use at most {here}.")
    return shares(memory, workers, part_size)


def _keep_kernels(place: Workspace) -> None:
    """Keep compiled kernels in the workspace; a cache the user named is theirs to share."""
    kernels = Path(os.environ.setdefault("NUMBA_CACHE_DIR", str(place.cache / "numba")))
    if kernels.name != kernels_code():
        os.environ["NUMBA_CACHE_DIR"] = str(kernels / kernels_code())
        if "numba" in sys.modules:  # it read the environment when it was imported
            sys.modules["numba"].config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]


def expectations(made: Plan, workspace: str | Path | None = None, *, upto: str | None = None) -> list[dict[str, Any]]:
    """What a build of ``made`` will ask of models: requests, tokens, time and price, for every step that asks.

    Counted exactly where the prompts are there already. ``upto="prompts"`` runs all that asks nobody and costs
    nothing, so that they are, and sets aside intermediate results that are damaged, to be made anew. Else nothing is
    written, and in no case in the journal: segments of it that are damaged are named, and the answers in them count as
    missing.
    """
    if not any(stage.kind == "ask" for stage in made.stages):
        return []
    place = open_workspace(workspace)
    place.store = Store(place.store.root, read_only=upto is None)
    share = _share(None, None, made.part_bytes)
    idle = Warming([], 1, 0)

    def walked(executor: Executor, log: Events) -> list[dict[str, Any]]:
        state = Running(made, place, executor, log, documents, share.exchange, share.workers, idle, looks_only=True)
        return [found.as_dict() for found in forecast(state, STAGES)]

    if upto is None:
        return walked(Peek(place.store), Events())
    _keep_kernels(place)
    with place.hold(command_line()):
        durable.make_folder(place.temporary)
        with LocalExecutor(place.store.root, share.workers, overlap=share.overlap) as executor:
            return walked(executor, Events())


def review_sheet(
    made: Plan, path: str | Path, workspace: str | Path | None = None, *, source: str | None = None
) -> int:
    """Write the sheet for people to fill in, JSONL or CSV by the ending of ``path``; return how many answers are to
    be judged. What the spec's sheets say already stands in it.

    ``source`` is the one that is reviewed; it may be left out where there is only one. Raises InputError where no
    source asks people, where the build has not come so far, and where the file is there already.
    """
    from aya_data.builders.arbitrage.builder import SHEET
    from aya_data.builders.arbitrage.review.sheet import check_name, write_sheet

    check_name(str(path))
    reviewed = sorted({stage.source for stage in made.stages if stage.step == SHEET})
    if not reviewed:
        raise InputError("no source of the spec has prompts reviewed by people", "Write 'review: {…, with: human}'.")
    if source is None and len(reviewed) > 1:
        raise InputError(f"several sources are reviewed: {', '.join(reviewed)}", "Name one with --source.")
    name = source or reviewed[0]
    if name not in reviewed:
        raise NotFound("reviewed source", name, reviewed)
    target = Path(path)
    if target.exists():
        raise InputError(f"{target} is there already, and may have verdicts in it", "Name another file.")
    place = open_workspace(workspace)
    place.store = Store(place.store.root, read_only=True)
    share = _share(None, None, made.part_bytes)
    state = Running(
        made, place, Peek(place.store), Events(), documents, share.exchange, share.workers, Warming([], 1, 0),
        looks_only=True,
    )  # fmt: skip
    forecast(state, STAGES)
    parts = state.generations[name].parts if name in state.generations else []
    if not parts or not all(SHEET in tables for tables in parts):
        raise InputError(f"the answers of {name} are not there yet", "Build the spec first.")
    return write_sheet(target, (place.store.read(tables[SHEET]) for tables in parts))


def plan(
    spec: str | Path,
    *,
    profile: str = "sample",
    workspace: str | Path | None = None,
    sets: Sequence[str] = (),
    limit: int | None = None,
) -> Plan:
    """Plan a build without running anything. Listings of Hub repositories go to the cache; else nothing is written."""
    place = open_workspace(workspace)
    return _planned(_loaded(spec, profile, sets, limit), place, PART_BYTES, limit)


def _loaded(spec: str | Path, profile: str, sets: Sequence[str], limit: int | None) -> Spec:
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}", "Give 1 or more rows, or leave it out.")
    if isinstance(sets, str):
        raise InputError(f"sets is the text {sets!r}", f"Give a list of such texts: [{sets!r}].")
    return load_spec(spec, profile, sets)


def _planned(
    spec: Spec, place: Workspace, part_bytes: int, limit: int | None, listed: Callable[[int], None] | None = None
) -> Plan:
    try:
        return make_plan(spec, place, part_bytes=part_bytes, limit=limit, listed=listed)
    except WrongSetting as error:
        raise _placed(spec, error) from None


def _placed(spec: Spec, error: WrongSetting) -> SpecError:
    """Give what is wrong with settings its place in the spec."""
    return SpecError([spec.problem(path, what, remedy) for path, what, remedy in error.faults])


def plan_as_dict(plan: Plan, workspace: str | Path | None = None) -> dict[str, Any]:
    """Describe a plan: each stage with its key, and whether the last build already has its results."""
    place = open_workspace(workspace)
    place.store = Store(place.store.root, read_only=True)
    have: dict[str, list[str]] = {}
    for noted in _notes(place):
        have.update(noted.get("stages", {}))
        if not (place.releases / noted["name"] / str(noted["version"])).is_dir():
            have.pop(noted.get("release", ""), None)
    stages = []
    for stage in plan.stages:
        tasks = have.get(stage.key)
        cached = tasks is not None and all(place.store.get(key) is not None for key in tasks)
        stages.append({"name": stage.name, "kind": stage.kind, "key": stage.key, "cached": cached})
    return {
        "name": plan.spec.name,
        "profile": plan.spec.profile,
        "key": plan.key,
        "sources": [
            {
                "name": s.name,
                "builder": s.builder_name,
                "use": s.use,
                "wave": s.wave,
                "parents": list(s.builder.parents),
                "files": len({u.name for u in s.units}),
                "bytes": sum(u.size for u in s.units if not u.slice or u.slice[0] == 0),
                "pins": s.builder.pins(),
                "notes": list(s.builder.notes()),
            }
            for _, s in sorted(plan.sources.items())
        ],
        "filters": [{"name": f.name, "inserted": f.inserted, "pins": f.filter.pins()} for f in plan.chain],
        "stages": stages,
    }


def releases(workspace: str | Path | None = None) -> list[dict[str, Any]]:
    """List the releases of a workspace from their manifests, by name and version; ``latest`` is what the last build of
    a name made."""
    from aya_data.catalog.register import find_releases

    wanted = ("name", "version", "digest", "rows", "profile", "policy")
    return [
        {**{key: found.manifest[key] for key in wanted}, "latest": found.latest, "path": str(found.path)}
        for found in find_releases(open_workspace(workspace))
        if found.manifest
    ]


def gc(workspace: str | Path | None = None, *, downloads: bool = False, answers: bool = False) -> tuple[int, int]:
    """Remove intermediate results that no last build of a spec uses, downloads that nobody finished, and answers that
    cost nothing (of recordings) whose journal no release names in its lock.

    With ``downloads`` those that are complete go too: nothing else holds them here, so the next build
    that reads them asks the Hub again. With ``answers`` journals of answers that were paid for go too, where no
    release names them: :func:`unnamed_answers` lists them. Returns how many and how many bytes.
    """
    from aya_data.builders.hub.repository import sweep

    place = open_workspace(workspace)
    if not place.root.exists():
        return 0, 0
    with place.hold(command_line()):
        keep = [key for noted in _notes(place) for keys in noted.get("stages", {}).values() for key in keys]
        durable.remove(place.temporary)
        removed = [place.store.collect(keep), sweep(place.cache)]
        for journal in _unnamed(place):
            if answers or journal.free:
                removed.append((1, journal.size))
                journal.remove()
        for path in sorted((place.cache / "numba").glob("*")):
            if path.name != kernels_code():  # of other versions of this package
                files = [p for p in path.rglob("*") if p.is_file()]
                removed.append((0, sum(p.stat().st_size for p in files)))
                durable.remove(path)
        for path in sorted(place.cache.glob("*")) if downloads else ():
            if path.name in FETCHED or DOWNLOADED.match(path.name):
                files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
                removed.append((len(files), sum(p.stat().st_size for p in files)))
                durable.remove(path)
        return sum(number for number, _ in removed), sum(size for _, size in removed)


def unnamed_answers(workspace: str | Path | None = None) -> list[dict[str, Any]]:
    """List the journals of answers that were paid for and that no release of the workspace names: what
    ``gc(answers=True)`` would remove. For each ``journal`` (its folder), ``voice`` (what it is), ``answers`` and
    ``bytes``. Removes nothing."""
    place = open_workspace(workspace)
    return [
        {
            "journal": str(journal.folder),
            "voice": journal.voice(),
            "answers": len(journal.load()),
            "bytes": journal.size,
        }
        for journal in _unnamed(place)
        if not journal.free
    ]


def _unnamed(place: Workspace) -> list[Journal]:
    """The journals that no release names in its lock. A lock that cannot be read may name any of them."""
    named: set[str] = set()
    for path in place.releases.glob("*/*/aya.lock"):
        try:
            sources = json.loads(path.read_bytes()).get("generation", {})
            named.update(voice["voice"] for steps in sources.values() for voice in steps.values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return []
    return [journal for journal in journals(place.journal) if journal.folder.name not in named]


def _notes(place: Workspace) -> Iterator[dict[str, Any]]:
    for path in sorted(place.builds.glob("*.json")):
        noted = json.loads(path.read_bytes())
        if isinstance(noted, dict):
            yield noted


def size(number: int) -> str:
    """Bytes in words: ``512 MiB``, ``15.6 GiB``."""
    value, unit = float(number), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if value < 1024 or unit == "EiB":
            break
        value /= 1024
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"


def total_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return total
