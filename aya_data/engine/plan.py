"""The plan: the ordered list of stages of a build, each with its key, before anything runs.

Sources stand in *waves*: wave 0 reads files, a later wave is made from filtered rows of earlier ones. Each
wave runs through the chain of filters; rows of earlier waves are then settled: later rows can
lose against them, never displace them. After the last wave come the mixture, the shards and the release.

``plan``, ``build`` and ``show`` walk this same list.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from aya_data.core.errors import WrongSetting
from aya_data.core.generation import PROMPTS, GeneratingBuilder, Step, voice_key
from aya_data.core.identity import canonical, digest
from aya_data.core.license import policy
from aya_data.core.spec import FilterUse, Spec
from aya_data.core.stage import Builder, Editor, Environment, ExchangeFilter, Filter, ReferenceFilter, Unit
from aya_data.core.store import Workspace
from aya_data.engine.codekey import code_key
from aya_data.engine.memory import PART_BYTES

__all__ = ["Plan", "PlannedSource", "Stage", "edit_identity", "engine_code", "make_plan", "scope_of", "step_code"]

Kind = Literal[
    "read", "prompts", "ask", "part", "whole", "make", "derive", "keys", "limit", "edit", "index", "measure",
    "judge", "compare", "sample", "shards", "release",
]  # fmt: skip
Fault = tuple[tuple[str | int, ...], str, str]


@dataclass(frozen=True, slots=True)
class Stage:
    """One step. ``reports`` are the names under which it counts rows; ``filters`` are positions in the chain;
    ``step`` is that of a source that asks models."""

    name: str
    kind: Kind
    key: str
    wave: int = 0
    source: str = ""
    filters: tuple[int, ...] = ()
    reports: tuple[str, ...] = ()
    step: str = ""


@dataclass(frozen=True, slots=True)
class PlannedSource:
    """A source with its builder made and, for a leaf, its units listed."""

    name: str
    use: str
    builder_name: str
    builder: Builder
    wave: int
    units: tuple[Unit, ...]
    code: str
    identity: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PlannedFilter:
    """A filter of the chain with its key material."""

    name: str
    filter: Filter
    code: str
    identity: Mapping[str, Any]
    inserted: bool = False
    measure_pins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Everything a build will do. ``part_bytes`` is the target size of a part in memory."""

    spec: Spec
    environment: Environment
    sources: Mapping[str, PlannedSource]
    chain: tuple[PlannedFilter, ...]
    stages: tuple[Stage, ...]
    part_bytes: int
    limit: int | None
    key: str = field(default="")

    @property
    def waves(self) -> int:
        """How many waves there are."""
        return 1 + max((source.wave for source in self.sources.values()), default=0)


def make_plan(
    spec: Spec,
    workspace: Workspace,
    *,
    part_bytes: int = PART_BYTES,
    limit: int | None = None,
    listed: Callable[[int], None] | None = None,
) -> Plan:
    """Plan a build: make every plugin, pin every source, key every stage. Reads no rows.

    ``limit`` takes a keyed subset of so many rows of every source. ``listed`` is told how many bytes there are to read,
    half a second before the keys are made. Raises what plugins find wrong with
    their settings, of all of them at once: missing files and models, unknown columns; and an unreachable Hub.
    """
    environment = Environment(
        base=spec.folder.absolute(),
        cache=workspace.cache,
        bundled=spec.profile == "sample",
        seed=spec.seed,
        languages=spec.languages,
        policy=policy(spec.policy),
        tokenizer=spec.tokenizer,
    )
    faults: list[Fault] = []
    sources = _sources(spec, environment, faults, listed)
    chain = _chain(spec, environment, faults)
    if faults:
        raise WrongSetting(list(dict.fromkeys(faults)))
    for planned in chain:
        late = [name for name in planned.filter.sources if sources[name].wave]
        if isinstance(planned.filter, ReferenceFilter) and late:
            what = f"the filter {planned.name} compares with {late[0]!r}, which is made from rows that pass the filters"
            number = [use.name for use in spec.filters].index(planned.name)
            path = ("filters", number, planned.name, "against")
            raise WrongSetting([(path, what, "Compare with a source that reads files.")])
    stages = tuple(_stages(spec, sources, chain, part_bytes, limit))
    return Plan(spec, environment, sources, chain, stages, part_bytes, limit, stages[-1].key)


def _dump(settings: Any) -> Any:
    return settings.model_dump(mode="json", by_alias=True)


@functools.cache
def engine_code(*modules: str) -> str:
    """The code key of some modules of the engine."""
    return code_key([f"aya_data.engine.{name}" for name in modules])


@contextmanager
def _collected(faults: list[Fault]) -> Iterator[None]:
    """Collect what is wrong with settings, and go on."""
    try:
        yield
    except WrongSetting as error:
        faults += error.faults


def _sources(
    spec: Spec, environment: Environment, faults: list[Fault], listed: Callable[[int], None] | None
) -> dict[str, PlannedSource]:
    """Make the builders and list their units; none are planned where ``faults`` are found."""
    builders: dict[str, Builder] = {}
    units: dict[str, tuple[Unit, ...]] = {}
    for name, source in spec.sources.items():
        with _collected(faults):
            builder = builders[name] = spec.registry.builder(source.builder)(name, source.settings, environment)
            units[name] = () if builder.parents else tuple(sorted(builder.units(), key=_unit_order))
    if faults:
        return {}
    if listed is not None:
        listed(sum(unit.size for of_source in units.values() for unit in of_source))
    waves: dict[str, int] = {}

    def wave_of(name: str) -> int:
        if name not in waves:
            waves[name] = 1 + max((wave_of(parent) for parent in builders[name].parents), default=-1)
        return waves[name]

    planned = {}
    for name, builder in sorted(builders.items()):
        source = spec.sources[name]
        wave = wave_of(name)
        code = digest(code_key([type(builder).__module__], builder.libraries), engine_code("reading"), source.builder)
        identity = {
            "source": name,
            "builder": source.builder,
            "settings": _dump(source.settings),
            "pins": builder.pins(),
            "seed": spec.seed,
        }
        planned[name] = PlannedSource(name, source.use, source.builder, builder, wave, units[name], code, identity)
    return planned


def _unit_order(unit: Unit) -> tuple[str, str, tuple[int, int]]:
    return (unit.digest, unit.name, unit.slice or (0, 0))


def _chain(spec: Spec, environment: Environment, faults: list[Fault]) -> tuple[PlannedFilter, ...]:
    """The filters of the spec, after those that no spec can leave out: languages and licences."""
    uses: list[tuple[FilterUse, bool]] = [(use, False) for use in spec.filters]
    named = {use.name for use in spec.filters}
    for name in ("license", "languages"):
        if name not in named:
            uses.insert(0, (FilterUse(name, spec.registry.settings("filter", name)()), True))
    chain = []
    for use, inserted in uses:
        path = () if inserted else ("filters", spec.filters.index(use), use.name)
        with _collected(faults), WrongSetting.at(*path):
            made: Filter = spec.registry.filter(use.name)(use.settings, environment)
            chain.append(_planned_filter(use.name, made, inserted))
    if spec.tokenizer is not None:
        from aya_data.filters.tokens import Tokens

        with _collected(faults), WrongSetting.at("tokenizer"):
            chain.append(_planned_filter("tokens", Tokens(spec.tokenizer, environment), True))
    return tuple(chain)


def _planned_filter(name: str, made: Filter, inserted: bool) -> PlannedFilter:
    code = code_key([type(made).__module__], made.libraries)
    identity = {"filter": name, "settings": _dump(made.settings), "pins": made.pins()}
    return PlannedFilter(name, made, code, identity, inserted, made.measure_pins() if made.measure_columns else {})


def _stages(
    spec: Spec,
    sources: Mapping[str, PlannedSource],
    chain: Sequence[PlannedFilter],
    part_bytes: int,
    limit: int | None,
) -> Iterator[Stage]:
    """List the stages in the order in which they run. Keys are recursive: each covers its inputs' keys."""
    settled = ""
    last = 1 + max((s.wave for s in sources.values()), default=0)
    outputs: dict[str, str] = {}
    first = ""
    for wave in range(last):
        members = [s for _, s in sorted(sources.items()) if s.wave == wave]
        reads = []
        for source in members:
            units = [
                [u.digest, u.name, list(u.slice or ()), u.config, u.split, u.revision, dict(u.labels)]
                for u in source.units
            ]
            kind: Kind = "derive" if source.builder.parents else "read"
            name = f"{kind}:{source.name}"
            parents = [outputs[parent] for parent in source.builder.parents]
            if isinstance(source.builder, GeneratingBuilder):
                asking = list(_asking_stages(source, source.builder, wave, parents))
                yield from asking
                parents = [stage.key for stage in asking]
                kind = "make"
            key = digest(kind, source.code, canonical(source.identity), canonical(units), str(part_bytes), *parents)
            reads.append(key)
            yield Stage(name, kind, key, wave, source.name, reports=(name,))
        key = digest("keys", engine_code("keying"), settled, *reads)
        yield Stage(_waved("keys", wave), "keys", key, wave)
        first = first or key
        key = digest(key, *reads)
        if limit is not None:
            key = digest("limit", engine_code("reading"), str(limit), str(spec.seed), key)
            name = _waved("limit", wave)
            yield Stage(name, "limit", key, wave, reports=(name,))
        for stage in _filter_stages(chain, wave, key, settled, first):
            yield stage
            key = stage.key
        settled = key
        outputs.update({source.name: key for source in members})
    mix = digest(
        "sample", engine_code("sampling"), canonical(_dump(spec.mix)), str(spec.seed),
        canonical(_dump(spec.release)), canonical({s.name: s.use for s in sources.values()}), settled,
    )  # fmt: skip
    yield Stage("mix", "sample", mix, reports=("mix",))
    shards = digest("shards", engine_code("sharding"), mix)
    yield Stage("shards", "shards", shards)
    release = digest("release", engine_code("release"), shards, canonical(spec.canonical()))
    yield Stage("release", "release", release)


def _asking_stages(
    source: PlannedSource, builder: GeneratingBuilder, wave: int, parents: Sequence[str]
) -> Iterator[Stage]:
    """The steps of a source that asks models: its prompts, then what the builder names."""
    key = digest(
        "prompts", engine_code("steps"), source.name, str(builder.rows), str(source.identity["seed"]), *parents
    )
    yield Stage(f"prompts:{source.name}", "prompts", key, wave, source.name, step=PROMPTS)
    keys = {PROMPTS: key}
    for step in builder.steps():
        keys[step.name] = digest(
            "step", engine_code("steps"), step_code(source, step), step.name, step.kind, canonical(step.identity),
            voice_key(builder.voice(step.name)) if step.kind == "ask" else "",
            *(keys[name] for name in (PROMPTS, *step.inputs)),
        )  # fmt: skip
        title, _, rest = step.name.partition("/")
        name = f"{title}:{source.name}" + (f"/{rest}" if rest else "")
        yield Stage(name, step.kind, keys[step.name], wave, source.name, step=step.name)


def step_code(source: PlannedSource, step: Step) -> str:
    """The code key of a step: of the modules that it names alone, or of the builder."""
    return code_key(step.code, source.builder.libraries) if step.code else source.code


def _filter_stages(
    chain: Sequence[PlannedFilter], wave: int, before: str, settled: str, references: str
) -> Iterator[Stage]:
    """Edits and indices, measures, then alternating segments of row filters (one fused pass) and exchanges."""
    editors = editors_of(chain)
    if editors:
        before = digest("edit", engine_code("editing"), before, *(part for _, part in edit_identity(chain)))
        names = tuple(_waved(f"edit:{chain[i].name}", wave) for i in editors)
        title = _waved("edit:" + "+".join(chain[i].name for i in editors), wave)
        yield Stage(title, "edit", before, wave, filters=editors, reports=names)
    indices: dict[int, str] = {}
    for index, planned in enumerate(chain):
        made = planned.filter
        if isinstance(made, ReferenceFilter):
            indices[index] = digest(
                "index", engine_code("judging"), planned.code, canonical(made.index_pins()),
                canonical(sorted(made.sources)), references,
            )  # fmt: skip
            if wave == 0:
                yield Stage(f"index:{planned.name}", "index", indices[index], filters=(index,))
    for index, planned in enumerate(chain):
        made = planned.filter
        if made.measure_columns:
            scope = scope_of(chain, index)
            inside = (scope.code, canonical(scope.identity)) if scope else ()
            key = digest(
                "measure", planned.code, canonical(planned.measure_pins), before, indices.get(index, ""), *inside
            )
            yield Stage(_waved(f"measure:{planned.name}", wave), "measure", key, wave, filters=(index,))
    key = before
    segment: list[int] = []

    def judged() -> Stage:
        parts = [part for i in segment for part in (chain[i].code, canonical(chain[i].identity))]
        made = digest("judge", engine_code("judging"), key, *parts)
        names = tuple(_waved(f"filter:{chain[i].name}", wave) for i in segment)
        title = _waved("judge:" + "+".join(chain[i].name for i in segment), wave) if segment else _waved("apply", wave)
        return Stage(title, "judge", made, wave, filters=tuple(segment), reports=names)

    for index, planned in enumerate(chain):
        if isinstance(planned.filter, ExchangeFilter):
            stage = judged()
            yield stage
            key, segment = stage.key, []
            name = _waved(f"filter:{planned.name}", wave)
            key = digest("compare", engine_code("comparing"), planned.code, canonical(planned.identity), key, settled)
            yield Stage(name, "compare", key, wave, filters=(index,), reports=(name,))
        else:
            segment.append(index)
    yield judged()


def editors_of(chain: Sequence[PlannedFilter]) -> tuple[int, ...]:
    """The positions of the filters that change texts."""
    return tuple(i for i, planned in enumerate(chain) if isinstance(planned.filter, Editor) and planned.filter.edits)


def scope_of(chain: Sequence[PlannedFilter], index: int) -> PlannedFilter | None:
    """The filter before ``index`` whose rows nobody asked for, and so nobody measures: those of other languages."""
    found = next((planned for planned in chain[:index] if planned.name == "languages"), None)
    return found if found and found.filter.environment.languages is not None else None


def edit_identity(chain: Sequence[PlannedFilter]) -> list[tuple[str, str]]:
    """Name and key material of each filter that changes texts."""
    return [
        (chain[i].name, digest(chain[i].code, canonical(made.edit_pins())))
        for i in editors_of(chain)
        if isinstance(made := chain[i].filter, Editor)
    ]


def _waved(name: str, wave: int) -> str:
    return name if wave == 0 else f"{name}@{wave + 1}"
