"""A task: one call of one function over some parts, under a key. The unit of cache, resume and scale.

A task runs in this process, in a pool or on another machine alike: it gets a store and its
arguments, writes its parts and commits. If its key is already in the store it does not run.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aya_data.core.errors import AyaDataError, CorruptPart, TaskFailed
from aya_data.core.identity import canonical, digest
from aya_data.core.store import Output, Record, Store

__all__ = ["Task", "make_task", "perform"]

Outcome = tuple[Mapping[str, Mapping[str, int]], Mapping[str, Any]]
Function = Callable[..., Outcome]


@dataclass(frozen=True, slots=True)
class Task:
    """What to run. ``function`` is ``module:name`` and is called as ``f(store, output, **arguments)``.

    ``label`` is what people see of it, ``size`` the bytes it reads (for scheduling and progress).
    """

    stage: str
    label: str
    function: str
    key: str
    arguments: Mapping[str, Any] = field(repr=False)
    size: int = 0


def make_task(
    stage: str,
    label: str,
    function: str,
    code: str,
    identity: Mapping[str, Any],
    arguments: Mapping[str, Any],
    size: int = 0,
) -> Task:
    """Make a task whose key covers its function, the ``code`` key and ``identity`` (settings and input digests)."""
    key = digest("task", function, code, canonical(identity))
    return Task(stage, label, function, key, arguments, size)


def perform(root: Path, task: Task) -> Record:
    """Run a task against the store at ``root``, or return its result if it is there.

    Raises what the package raises as it is; anything else becomes :class:`TaskFailed`.
    """
    store = Store(root)
    done = store.get(task.key)
    if done is not None:
        return done
    module, _, name = task.function.partition(":")
    function: Function = getattr(importlib.import_module(module), name)
    output: Output = store.output(task.key, task.stage)
    try:
        try:
            counts, facts = function(store, output, **task.arguments)
        except CorruptPart:
            if task.function != "aya_data.engine.reading:read":
                raise
            # Rows were read while their file arrived, and it was spoilt on its way: once more, from the start.
            output = store.output(task.key, task.stage)
            counts, facts = function(store, output, **task.arguments)
    except AyaDataError:
        raise
    except MemoryError as error:
        raise TaskFailed(task.stage, task.label, "out of memory; lower --workers or raise --memory") from error
    except Exception as error:
        raise TaskFailed(task.stage, task.label, f"{type(error).__name__}: {error}") from error
    return output.commit(counts, facts)
