"""Builders and filters by name.

Built-ins stand in two literal tables, name -> "module:Class", in ``aya_data/builders`` and
``aya_data/filters``. Third-party packages add theirs through the entry point groups of the same
names. A plugin's module is imported only when a spec names it; listing names imports nothing.
A built-in name cannot be taken by another package.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel

from aya_data.core.errors import AyaDataError, InputError, NotFound

__all__ = ["Registry", "builtin_registry"]


@dataclass(frozen=True, eq=False)
class Registry:
    """The builders and filters that a spec may name.

    ``builders`` and ``filters`` map a name to "module:Class"; ``plugins`` are entry points of the
    groups ``aya_data.builders`` and ``aya_data.filters``.
    """

    builders: Mapping[str, str]
    filters: Mapping[str, str]
    plugins: tuple[EntryPoint, ...] = ()
    _loaded: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False)

    def names(self, kind: str) -> list[str]:
        """Return all names of ``kind`` ("builder" or "filter"), sorted, importing nothing."""
        return sorted({*self.builtin(kind), *(p.name for p in self._plugins(kind))})

    def builtin(self, kind: str) -> Mapping[str, str]:
        """Return the table of built-ins of ``kind``."""
        return self.builders if kind == "builder" else self.filters

    def builder(self, name: str) -> Any:
        """Return the builder's class. NotFound, or InputError when its package is broken."""
        return self._load("builder", name)

    def filter(self, name: str) -> Any:
        """Return the filter's class. NotFound, or InputError when its package is broken."""
        return self._load("filter", name)

    def settings(self, kind: str, name: str) -> type[BaseModel]:
        """Return the settings model of the builder or filter ``name``."""
        model: type[BaseModel] = self._load(kind, name).Settings
        return model

    def _plugins(self, kind: str) -> Iterable[EntryPoint]:
        return (p for p in self.plugins if p.group == f"aya_data.{kind}s")

    def _load(self, kind: str, name: str) -> Any:
        if (kind, name) not in self._loaded:
            self._loaded[kind, name] = self._import(kind, name)
        return self._loaded[kind, name]

    def _import(self, kind: str, name: str) -> Any:
        target = self.builtin(kind).get(name)
        if target is not None:
            module, _, attribute = target.partition(":")
            return _checked(getattr(import_module(module), attribute), kind, name, "aya-data")
        found = [p for p in self._plugins(kind) if p.name == name]
        if not found:
            raise NotFound(kind, name, self.names(kind))
        packages = sorted({p.dist.name if p.dist else p.value for p in found})
        if len({p.value for p in found}) > 1:
            raise InputError(
                f"the {kind} {name!r} is provided by {' and by '.join(packages)}",
                "Uninstall one of them.",
            )
        try:
            loaded = found[0].load()
        except AyaDataError:
            raise
        # A plugin may fail in any way when imported; its error is the user's to see, on one line.
        except Exception as error:
            raise InputError(
                f"the {kind} {name!r} of the package {packages[0]} cannot be loaded: {type(error).__name__}: {error}",
                "Update or reinstall that package.",
            ) from error
        return _checked(loaded, kind, name, packages[0])


def _checked(plugin: Any, kind: str, name: str, package: str) -> Any:
    settings = getattr(plugin, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, BaseModel)):
        raise InputError(
            f"the {kind} {name!r} of the package {package} has no settings model",
            "Give its class an inner class Settings, derived from aya_data.core.settings.Settings.",
        )
    return plugin


@cache
def builtin_registry() -> Registry:
    """Return the registry of the built-ins and of the plugins installed beside this package."""
    groups = ("aya_data.builders", "aya_data.filters")
    return Registry(
        # By name, not by import statement: the tables lie in the layer above this one.
        builders=import_module("aya_data.builders").BUILDERS,
        filters=import_module("aya_data.filters").FILTERS,
        plugins=tuple(p for group in groups for p in entry_points(group=group)),
    )
