"""Everything that can go wrong, in one tree.

    AyaDataError
    ├── InputError               the person can mend it (exit code 2)
    │   ├── SpecError            a spec is wrong; carries every problem found, each with its place
    │   ├── WrongSetting         a setting that only the data show to be wrong; knows its place in the spec
    │   ├── MissingExtra         an optional dependency is not installed
    │   └── NotFound             a name, path, release or row that does not exist
    └── BuildError               the build could not go on (exit code 1); the workspace is intact
        ├── WorkspaceLocked      another process holds the workspace
        ├── WorkspaceUnusable    the folder is read-only, the disk is full, a file is too large
        ├── CorruptPart          a stored file does not match its recorded size or digest
        ├── HubUnreachable       the Hub did not answer
        └── TaskFailed           a task of a stage raised, or its process died

Every class takes data and builds its message: what is wrong, where, and how to mend it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from aya_data.core.redaction import redacted

__all__ = [
    "AyaDataError",
    "BuildError",
    "CorruptPart",
    "HubUnreachable",
    "InputError",
    "MissingExtra",
    "NotFound",
    "Problem",
    "SpecError",
    "TaskFailed",
    "WorkspaceLocked",
    "WorkspaceUnusable",
    "WrongSetting",
    "did_you_mean",
]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``Did you mean 'x'?``, or the list of what is known when nothing is near.

    The list is cut after twelve names; it is empty only when ``known`` is.
    """
    names = sorted({str(name) for name in known})
    if not names:
        return ""
    lowered = {name.lower(): name for name in reversed(names)}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {lowered[near[0]]!r}?"
    shown = ", ".join(names[:12])
    more = f", … ({len(names)} in all)" if len(names) > 12 else ""
    return f"Known: {shown}{more}."


class AyaDataError(Exception):
    """Base of all errors of this package. ``exit_code`` is what the command line returns."""

    exit_code = 1


class InputError(AyaDataError):
    """The caller gave something that cannot work: ``what`` is wrong, ``remedy`` mends it."""

    exit_code = 2

    def __init__(self, what: str, remedy: str = "", where: str = "") -> None:
        self.what, self.remedy, self.where = what, remedy, where
        super().__init__(_sentence(what, remedy, where))


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a spec, at a place in a file (line and column count from 1)."""

    file: str
    line: int
    column: int
    what: str
    remedy: str = ""
    excerpt: str = ""

    def __str__(self) -> str:
        text = _sentence(self.what, self.remedy, f"{self.file}:{self.line}:{self.column}")
        return f"{text}\n{self.excerpt}" if self.excerpt else text


class SpecError(InputError):
    """A spec is wrong. ``problems`` holds all that was found, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column, p.what)))
        AyaDataError.__init__(self, "\n".join(str(problem) for problem in self.problems))
        self.what, self.remedy, self.where = str(self), "", ""


class WrongSetting(InputError):
    """Settings that only the data show to be wrong: a column that is in no file, a file that cannot be read.

    ``faults`` are (path, what, remedy); a path leads to the setting from the top of the spec, or from the settings
    of a source until :meth:`in_source` tells which, or of a filter until :meth:`at` does. Who knows the spec adds the
    place.
    """

    def __init__(self, faults: Sequence[tuple[tuple[str | int, ...], str, str]]) -> None:
        self.faults = tuple(faults)
        _, what, remedy = self.faults[0]
        super().__init__(what, remedy)
        self.args = ("\n".join(_sentence(what, remedy, "") for _, what, remedy in self.faults),)

    @staticmethod
    @contextmanager
    def at(*path: str | int) -> Iterator[None]:
        """Tell which setting whatever is wrong in the body comes from: ``path`` leads to it, or to where the paths of
        a :class:`WrongSetting` start."""
        try:
            yield
        except WrongSetting as error:
            raise WrongSetting([((*path, *inner), what, remedy) for inner, what, remedy in error.faults]) from error
        except InputError as error:
            what = f"{error.where}: {error.what}" if error.where else error.what
            raise WrongSetting([(path, what, error.remedy)]) from error

    def in_source(self, source: str) -> WrongSetting:
        """Return the error with the name of the source that the settings are of."""
        return WrongSetting(
            [
                (("sources", source, *path), f"the source {source!r}: {what}", remedy)
                for path, what, remedy in self.faults
            ]
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (WrongSetting, (self.faults,))


class MissingExtra(InputError):
    """``needed`` is part of the optional dependencies ``extra``."""

    def __init__(self, needed: str, extra: str, purpose: str) -> None:
        self.needed, self.extra = needed, extra
        super().__init__(
            f"{purpose} needs the package {needed!r}, which is not installed",
            f"Run: pip install 'aya-data[{extra}]'",
        )


class NotFound(InputError):
    """There is no ``kind`` named ``name``; ``known`` are the names there are."""

    def __init__(self, kind: str, name: str, known: Iterable[str] = (), remedy: str = "") -> None:
        self.kind, self.name = kind, name
        hint = did_you_mean(name, known)
        super().__init__(f"there is no {kind} {name!r}", " ".join(filter(None, (hint, remedy))))


class BuildError(AyaDataError):
    """The build stopped. What was committed stays; the same command resumes."""

    def __init__(self, what: str, remedy: str = "", where: str = "") -> None:
        self.what, self.remedy, self.where = what, remedy, where
        super().__init__(_sentence(what, remedy, where))

    def __reduce__(self) -> tuple[object, tuple[str, str, str]]:
        return (_revive, (type(self).__name__, self.what + "\0" + self.remedy, self.where))


class WorkspaceLocked(BuildError):
    """``holder`` (pid, host, command, since) has the workspace."""

    def __init__(self, workspace: str, holder: str) -> None:
        self.holder = holder
        super().__init__(
            f"the workspace {workspace} is in use by {holder}",
            "Wait for it to end, or choose another folder with --workspace.",
        )


class WorkspaceUnusable(BuildError):
    """The operating system refused a write to the workspace."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"cannot write {path}: {reason}",
            "What was finished is kept. Make room or make the folder writable, then run the same "
            "command again; or choose another folder with --workspace.",
        )


class CorruptPart(BuildError):
    """A stored file is not what its record says."""

    def __init__(self, path: str, found: str, expected: str) -> None:
        self.path, self.found, self.expected = path, found, expected
        super().__init__(
            f"{path} is damaged: {found}, recorded {expected}",
            "Run the build again: the damaged file has been set aside and is made anew.",
        )


class HubUnreachable(BuildError):
    """The Hub could not be reached while reading ``what``."""

    def __init__(self, what: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the Hub cannot be reached for {what}: {reason}",
            "Check the network and HF_ENDPOINT, run again to resume, or use --profile sample, which needs no network.",
        )


class TaskFailed(BuildError):
    """A task of stage ``stage`` over ``unit`` failed with ``reason``."""

    def __init__(self, stage: str, unit: str, reason: str) -> None:
        self.stage, self.unit, self.reason = stage, unit, reason
        super().__init__(
            f"stage {stage} failed on {unit}: {reason}",
            "What was finished is kept; the same command resumes.",
        )


def _sentence(what: str, remedy: str, where: str) -> str:
    text = f"{where}: {what}" if where else what
    text = text if text.endswith((".", "?", "!")) else text + "."
    return redacted(f"{text} {remedy}" if remedy else text)


def _revive(name: str, text: str, where: str) -> BuildError:
    what, _, remedy = text.partition("\0")
    kind: type[BuildError] = globals()[name]
    error = kind.__new__(kind)
    error.what, error.remedy, error.where = what, remedy, where
    Exception.__init__(error, _sentence(what, remedy, where))
    return error
