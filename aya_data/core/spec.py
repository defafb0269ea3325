"""Reading a spec: the file, a profile laid over it, then each ``--set``, then every check.

The frame owns the top-level keys. The settings of a source belong to its builder and those of a
filter to the filter; both come through the registry, and are read and checked in the same pass, so
that one run names everything that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from aya_data.core.document import Document, Mark, Text, dotted
from aya_data.core.errors import Problem, SpecError, did_you_mean
from aya_data.core.frame import FilterUse, Frame, Source, SourceFrame, Spec
from aya_data.core.registry import Registry, builtin_registry
from aya_data.core.settings import describe
from aya_data.core.spec_check import SpecCheck, check_name

__all__ = ["FilterUse", "Frame", "Source", "SourceFrame", "Spec", "load_spec"]

IMPLICIT_PROFILES: Final = ("hub", "sample")


def load_spec(
    path: str | Path,
    profile: str = "sample",
    sets: Sequence[str] = (),
    registry: Registry | None = None,
) -> Spec:
    """Read the spec at ``path`` under ``profile``, with ``sets`` (``a.b=c``) laid over it.

    Profiles that are not asked for are checked too, as far as they go. Raises NotFound when there
    is no such file, and SpecError with all problems of the spec at once.
    """
    registry = registry or builtin_registry()
    problems: list[Problem] = []
    written = Document.load(path, problems)
    if written.root.value is None:
        what = "the spec is empty"
        raise SpecError([written.problem((), what, "'aya-data init' writes one to start from.")])
    if not isinstance(written.root.value, dict):
        what = f"the spec must be a mapping, found {describe(written.data)}"
        raise SpecError([written.problem((), what, "Begin with 'name: …' and 'sources:'.")])
    profiles = _profiles(written, problems)
    document = written.overlay(("profiles", profile))
    if profile not in profiles:
        what = f"there is no profile {profile!r}"
        problems.append(written.problem(("profiles",), what, did_you_mean(profile, profiles), key=True))
    for assignment in sets:
        try:
            changed = document.set(assignment)
            if changed.data.get("profiles") != written.data.get("profiles"):
                remedy = "Set the value itself, without 'profiles' and the profile's name."
                mark = Mark(Text.of("--set", assignment), 1, 1)
                raise SpecError([mark.problem("a profile cannot be set", remedy)])
            document = changed
        except SpecError as error:
            problems.extend(error.problems)
    check = SpecCheck(document, profile, registry)
    spec = check.run()
    # What the reader refused is worth one problem, not a second one about what it put in its place.
    refused = {(p.file, p.line, p.column) for p in problems}
    problems.extend(p for p in check.problems if (p.file, p.line, p.column) not in refused)
    for other in profiles:
        if other != profile:
            problems.extend(_problems_of_profile(written, other, registry))
    if problems or spec is None:
        raise SpecError(list(dict.fromkeys(problems)))
    return spec


def _profiles(document: Document, problems: list[Problem]) -> list[str]:
    """Return the names of all profiles, and note what is wrong with how they are written."""
    declared = document.data.get("profiles", {})
    if not isinstance(declared, dict):
        what = f"profiles must be a mapping of names to overlays, found {describe(declared)}"
        problems.append(document.problem(("profiles",), what, "Write profiles: {hub: {…}}."))
        return list(IMPLICIT_PROFILES)
    for name, overlay in declared.items():
        path = ("profiles", name)
        check_name(name, path, document, problems)
        if overlay is not None and not isinstance(overlay, dict):
            what = f"{dotted(path)} must be a mapping of what differs, found {describe(overlay)}"
            problems.append(document.problem(path, what, "Write {} if nothing differs."))
        elif overlay and "profiles" in overlay:
            what = "a profile cannot hold profiles"
            problems.append(document.problem((*path, "profiles"), what, "Remove it.", key=True))
    return sorted({*declared, *IMPLICIT_PROFILES})


def _problems_of_profile(written: Document, name: str, registry: Registry) -> list[Problem]:
    """Return what is wrong in the overlay ``name`` itself; the rest is the spec's own affair."""
    path = ("profiles", name)
    profiles = written.data.get("profiles")
    overlay = profiles.get(name) if isinstance(profiles, dict) else None
    if not isinstance(overlay, dict):
        return []
    own = {
        (m.line, m.column)
        for place in written.positions()
        if place[:2] == path and len(place) > 2
        for m in (written.mark(place), written.mark(place, key=True))
    }
    check = SpecCheck(written.overlay(path), name, registry, asked_for=False)
    check.run()
    return [p for p in check.problems if (p.line, p.column) in own]
