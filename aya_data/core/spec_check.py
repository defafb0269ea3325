"""Everything that can be wrong with a spec, found in one pass.

The frame is checked by its models, each source and filter by the settings of its plugin, and then
what only holds between them: references, circles, and the names in the mixture. Each part is
checked as far as it goes, whatever is wrong with the others.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from aya_data.core.document import Document, PathKey, dotted
from aya_data.core.errors import InputError, MissingExtra, NotFound, Problem
from aya_data.core.fields import source_references
from aya_data.core.frame import FilterUse, Frame, Source, SourceFrame, Spec
from aya_data.core.language import Variety, language_set, parse, resolve
from aya_data.core.mix_check import conflicts
from aya_data.core.policy import POLICIES, PolicySettings
from aya_data.core.policy import policy as policy_of
from aya_data.core.problems import join, problems_of
from aya_data.core.registry import Registry
from aya_data.core.settings import SourceReference, check_slug, describe

__all__ = ["SpecCheck", "check_name"]

RESERVED_SOURCES: Final = frozenset({"all", "default", "rest"})
RESERVED_NAMES: Final = frozenset({"default", "latest"})

Model = TypeVar("Model", bound=BaseModel)


class SpecCheck:
    """Reads one document under one profile. ``problems`` holds all that is wrong with it."""

    def __init__(self, document: Document, profile: str, registry: Registry, asked_for: bool = True) -> None:
        self.asked_for = asked_for
        self.document, self.profile, self.registry = document, profile, registry
        self.problems: list[Problem] = []
        self.data: dict[str, Any] = document.data

    def run(self) -> Spec | None:
        """Return the spec, or None with ``problems``."""
        frame = self._validate(Frame, self.data, ())
        name = self.data.get("name")
        if isinstance(name, str):
            check_name(name, ("name",), self.document, self.problems, RESERVED_NAMES)
        languages = self._languages()
        policy = self._policy()
        sources = self._sources()
        filters = self._filters()
        self._references(sources, filters)
        self._mix(frame, languages, policy)
        if frame is None or policy is None or self.problems:
            return None
        return Spec(
            name=frame.name,
            description=frame.description,
            seed=frame.seed,
            languages=languages,
            policy=policy,
            sources=sources,
            filters=tuple(use for use, _ in filters),
            mix=frame.mix,
            release=frame.release,
            tokenizer=frame.tokenizer,
            profile=self.profile,
            document=self.document,
            registry=self.registry,
        )

    def _wrong(self, path: PathKey, what: str, remedy: str = "", *, key: bool = False) -> None:
        self.problems.append(self.document.problem(path, what, remedy, key=key))

    def _validate(
        self,
        model: type[Model],
        data: Any,
        path: PathKey,
        also_known: Sequence[str] = (),
    ) -> Model | None:
        try:
            return model.model_validate(data)
        except ValidationError as error:
            self.problems += problems_of(error, self.document, path, model, also_known)
            return None
        except InputError as error:
            self._wrong(path, error.what, error.remedy, key=True)
            return None

    def _languages(self) -> tuple[Variety, ...] | None:
        written = self.data.get("languages")
        if written is None:
            return None
        if isinstance(written, str):
            try:
                return tuple(sorted(language_set(written)))
            except NotFound as error:
                remedy = error.remedy
                if resolve(written).ok:
                    remedy = f"For this one language, write [{written}]."
                self._wrong(("languages",), error.what, remedy)
                return None
        if not isinstance(written, list):
            what = f"languages must be the name of a set or a list, found {describe(written)}"
            self._wrong(("languages",), what, "Write aya_23, or [tur, arb_Arab].")
            return None
        if not written:
            self._wrong(("languages",), "languages is an empty list", "Remove it to keep all.")
        return tuple(sorted(self._varieties({("languages", i): w for i, w in enumerate(written)})))

    def _varieties(self, labels: Mapping[PathKey, Any], *, key: bool = False) -> list[Variety]:
        """Return what ``labels`` mean, by their places; no two may mean the same."""
        seen: dict[Variety, PathKey] = {}
        for path, label in labels.items():
            if not isinstance(label, str):
                what = f"{dotted(path)} must be a language, found {describe(label)}"
                self._wrong(path, what, "Write its code, such as tur or arb_Arab.", key=key)
                continue
            try:
                variety = parse(label)
            except NotFound as error:
                self._wrong(path, error.what, error.remedy, key=key)
                continue
            if variety in seen:
                first = self.document.mark(seen[variety], key=key)
                what = f"{label!r} is {variety}, which is listed already as {labels[seen[variety]]!r} ({first})"
                self._wrong(path, what, "Keep one of the two.", key=key)
            seen.setdefault(variety, path)
        return list(seen)

    def _policy(self) -> str | PolicySettings | None:
        written = self.data.get("policy", Frame.model_fields["policy"].default)
        if isinstance(written, dict):
            return self._validate(PolicySettings, written, ("policy",))
        if not isinstance(written, str):
            what = f"policy must be a name or a mapping, found {describe(written)}"
            self._wrong(("policy",), what, f"Its names: {', '.join(sorted(POLICIES))}.")
            return None
        try:
            return policy_of(written).name
        except NotFound as error:
            self._wrong(("policy",), error.what, error.remedy)
            return None

    def _sources(self) -> dict[str, Source]:
        written = self.data.get("sources")
        if not isinstance(written, dict) or not written:
            if "sources" in self.data:
                what = f"sources must be a mapping of names to sources, found {describe(written)}"
                self._wrong(("sources",), what, "Name at least one source.")
            return {}
        sources = {}
        for name, value in written.items():
            path: PathKey = ("sources", name)
            check_name(name, path, self.document, self.problems, RESERVED_SOURCES)
            if not isinstance(value, dict):
                what = f"{dotted(path)} must be a mapping, found {describe(value)}"
                self._wrong(path, what, f"Write {name}: {{builder: …}}.")
                continue
            own = {key: v for key, v in value.items() if key in SourceFrame.model_fields}
            typo = _near("builder", value)
            if "builder" not in value and typo is not None:
                what = f"unknown key {typo!r} in {dotted(path)}"
                self._wrong((*path, typo), what, "Did you mean 'builder'?", key=True)
                continue
            frame = self._validate(SourceFrame, own, path)
            builder = own.get("builder")
            if not isinstance(builder, str):
                continue
            model = self._plugin("builder", builder, (*path, "builder"))
            if model is None:
                continue
            rest = {key: v for key, v in value.items() if key not in own}
            settings = self._validate(model, rest, path, tuple(SourceFrame.model_fields))
            if frame is not None and settings is not None:
                sources[name] = Source(name, frame.builder, frame.use, settings)
        uses = [v.get("use", "train") for v in written.values() if isinstance(v, dict)]
        if uses and all(use in ("prompts", "benchmark") for use in uses):
            what = "no source is for training, so the release would be empty"
            self._wrong(("sources",), what, "Leave out 'use' of at least one source.", key=True)
        return sources

    def _filters(self) -> list[tuple[FilterUse, PathKey]]:
        written = self.data.get("filters", [])
        if not isinstance(written, list):
            what = f"filters must be a list, found {describe(written)}"
            remedy = "Write each filter on a line of its own that begins with '- '."
            self._wrong(("filters",), what, remedy)
            return []
        filters: list[tuple[FilterUse, PathKey]] = []
        first: dict[str, int] = {}
        for index, item in enumerate(written):
            path: PathKey = ("filters", index)
            name: Any = item
            values: Any = {}
            if isinstance(item, dict) and len(item) == 1:
                ((name, values),) = item.items()
                path = (*path, name)
            if not isinstance(name, str):
                found = describe(item)
                if isinstance(item, dict) and len(item) > 1:
                    found = f"a mapping of {len(item)} keys ({join(list(item))})"
                what = f"{dotted(path)} must be a filter's name, or one name with settings"
                remedy = "Write 'name' or 'name: {setting: value}', one filter to an item."
                self._wrong(path, f"{what}; found {found}", remedy)
                continue
            if name in first:
                what = f"the filter {name!r} stands twice, first as filters.{first[name]}"
                self._wrong(path, what, "Keep one of the two.", key=True)
            first.setdefault(name, index)
            model = self._plugin("filter", name, path, key=True)
            if model is None:
                continue
            if values is not None and not isinstance(values, dict):
                what = f"{dotted(path)} must be a mapping of settings, found {describe(values)}"
                keys = ", ".join(f.alias or n for n, f in model.model_fields.items())
                self._wrong(path, what, f"Its keys: {keys}." if keys else "It has no settings.")
                continue
            settings = self._validate(model, values or {}, ("filters", index, name))
            if settings is not None:
                filters.append((FilterUse(name, settings), path))
        return filters

    def _plugin(self, kind: str, name: str, path: PathKey, *, key: bool = False) -> type[BaseModel] | None:
        try:
            return self.registry.settings(kind, name)
        except MissingExtra as error:
            # What a profile needs that nobody asked for need not be installed.
            if self.asked_for:
                self._wrong(path, error.what, error.remedy, key=key)
        except InputError as error:
            self._wrong(path, error.what, error.remedy, key=key)
        return None

    def _references(self, sources: dict[str, Source], filters: list[tuple[FilterUse, PathKey]]) -> None:
        parents: dict[str, dict[str, PathKey]] = {}
        for name, source in sources.items():
            for inside, target, reference in source_references(source.settings):
                path: PathKey = ("sources", name, *inside)
                if self._reference(target, reference, path):
                    parents.setdefault(name, {}).setdefault(target, path)
                    if source.use != "benchmark" and self._use(target) == "benchmark":
                        what = f"{dotted(path)} names {target!r}, which is a benchmark"
                        self._wrong(path, what, "Rows for training cannot be made from it.")
        for use, at in filters:
            for inside, target, reference in source_references(use.settings):
                self._reference(target, reference, (*at, *inside))
        self._cycles(parents)

    def _use(self, name: str) -> Any:
        source = self.data["sources"][name]
        return source.get("use", "train") if isinstance(source, dict) else None

    def _reference(self, target: str, reference: SourceReference, path: PathKey) -> bool:
        declared = self.data.get("sources") or {}
        if not isinstance(declared, dict):
            return False
        if target not in declared:
            error = NotFound("source", target, declared)
            self._wrong(path, f"{dotted(path)}: {error.what}", error.remedy)
            return False
        found = self._use(target)
        if reference.use is not None and found != reference.use:
            what = f"{dotted(path)} needs a source with 'use: {reference.use}'"
            remedy = f"Declare it with use: {reference.use}, or name another."
            self._wrong(path, f"{what}; {target!r} is for {found}", remedy)
        return True

    def _cycles(self, parents: Mapping[str, Mapping[str, PathKey]]) -> None:
        done: set[str] = set()

        def visit(name: str, trail: tuple[str, ...]) -> None:
            if name in trail:
                cycle = (*trail[trail.index(name) :], name)
                what = f"sources are made from each other in a circle: {' -> '.join(cycle)}"
                self._wrong(parents[trail[-1]][name], what, "Break it at one of them.")
                return
            if name in done:
                return
            for parent in parents.get(name, {}):
                visit(parent, (*trail, name))
            done.add(name)

        for name in parents:
            visit(name, ())

    def _mix(
        self, frame: Frame | None, spoken: tuple[Variety, ...] | None, policy: str | PolicySettings | None
    ) -> None:
        mix, declared = self.data.get("mix"), self.data.get("sources")
        if not isinstance(mix, dict) or not isinstance(declared, dict):
            return
        weights, epochs, languages = mix.get("weights"), mix.get("epochs"), mix.get("languages")
        self._train_sources(weights, ("mix", "weights"))
        if isinstance(weights, dict) and weights:
            missing = [n for n in declared if n not in weights and self._use(n) == "train"]
            if missing:
                word = "source" if len(missing) == 1 else "sources"
                what = f"mix.weights does not name the {word} {join([repr(n) for n in missing])}"
                remedy = "Give each source for training a number, or one of them 'rest'."
                self._wrong(("mix", "weights"), what, remedy, key=True)
        if isinstance(epochs, dict):
            self._train_sources(epochs.get("sources"), ("mix", "epochs", "sources"))
        if isinstance(languages, dict) and isinstance(languages.get("weights"), dict):
            labels = languages["weights"]
            self._varieties({("mix", "languages", "weights", n): n for n in labels}, key=True)
        if frame is not None and frame.tokenizer is None:
            for inside in frame.mix.counting_tokens():
                what = f"mix.{dotted(inside)} counts tokens, and the spec names no tokenizer"
                remedy = "Add 'tokenizer: {kind: huggingface, path: …}'."
                self._wrong(("mix", *inside), what, remedy)
        if frame is not None:
            self.problems += conflicts(frame.mix, self.document, spoken, policy)
            for kind in ("caps", "floors"):
                for index, bound in enumerate(getattr(frame.mix, kind)):
                    for scope in ("only", "not_for"):
                        named = dict.fromkeys(getattr(bound, scope).get("source", ()))
                        self._train_sources(named, ("mix", kind, index, scope, "source"))

    def _train_sources(self, named: Any, path: PathKey) -> None:
        if not isinstance(named, dict):
            return
        declared = self.data["sources"]
        for name in named:
            if name not in declared:
                error = NotFound("source", name, declared)
                self._wrong((*path, name), f"{dotted(path)}: {error.what}", error.remedy, key=True)
            elif self._use(name) in ("prompts", "benchmark"):
                what = f"{dotted(path)} names {name!r}, whose use is {self._use(name)}"
                self._wrong((*path, name), what, "Only sources for training are mixed.", key=True)


def check_name(
    name: str,
    path: PathKey,
    document: Document,
    problems: list[Problem],
    reserved: frozenset[str] = frozenset(),
) -> None:
    key = len(path) > 1
    try:
        check_slug(name)
    except PydanticCustomError as error:
        context = error.context or {}
        subject = dotted(path[:-1]) + ": a name" if key else dotted(path)
        problems.append(document.problem(path, f"{subject} {context['what']}", context["remedy"], key=key))
    if name in reserved:
        what = f"{dotted(path)}: the name {name!r} has a meaning of its own"
        problems.append(document.problem(path, what, "Choose another.", key=key))


def _near(key: str, written: Iterable[str]) -> str | None:
    """Return which of the keys ``written`` looks like a slip of ``key``."""
    near = difflib.get_close_matches(key, list(written), n=1, cutoff=0.75)
    return near[0] if near else None
