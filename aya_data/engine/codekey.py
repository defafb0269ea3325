"""Code keys: a hash of what a stage's code says, so that a changed kernel is never served from the cache.

The key of a module covers its syntax tree without docstrings, comments and layout, the same of every
module of this project that it imports (directly or not, at any depth), the package data that
those modules declare in ``DATA_FILES``, the versions of the libraries a stage declares, and the Python version.
Hash generously: a false miss costs time, a false hit costs truth.

A plugin's modules outside this package are followed inside their own top-level package and this one.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.resources
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable

from aya_data.core.identity import digest

__all__ = ["closure", "code_key", "kernels_code"]

KERNELS = ("aya_data.text", "aya_data.builders.arbitrage", "aya_data.filters", "aya_data.engine")
"""The packages that compile kernels, in them or in packages below them."""
STATEMENTS = (ast.Import, ast.ImportFrom)


def code_key(modules: Iterable[str], libraries: Iterable[str] = ()) -> str:
    """Return the key of the code in ``modules`` (dotted names) and all it imports from their packages."""
    names = sorted({name for module in modules for name in closure(module)})
    fields = [f"python {sys.version_info.major}.{sys.version_info.minor}"]
    for name in names:
        fields += [name, _module(name).digest]
    for library in sorted(set(libraries)):
        fields.append(f"{library} {library_version(library)}")
    return digest(*fields)


@functools.cache
def kernels_code() -> str:
    """Return a short digest of the source of every kernel: where compiled ones may be kept and found again.

    numba asks whether the file of the outermost function changed, not those of the functions that it calls.
    """
    state = hashlib.blake2b(digest_size=6)
    for package in KERNELS:
        for name, source in _sources(importlib.resources.files(package)):
            state.update(name.encode() + b"\0" + source)
    return state.hexdigest()


def _sources(folder: Traversable) -> Iterator[tuple[str, bytes]]:
    """Yield the modules in a folder and in the packages below it."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.endswith(".py"):
            yield path.name, path.read_bytes()
        elif path.is_dir() and path.joinpath("__init__.py").is_file():
            yield from _sources(path)


def library_version(library: str) -> str:
    """Return the installed version of a distribution, ``absent`` when there is none."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


@functools.cache
def closure(module: str) -> frozenset[str]:
    """Return ``module`` and every module of its package that it imports, directly or not."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(_module(name).imports)
    return frozenset(seen)


@dataclass(frozen=True, slots=True)
class _Module:
    """What a module's source says: the digest of its code and data, and what it imports of its package."""

    digest: str
    imports: frozenset[str]


@functools.cache
def _module(name: str) -> _Module:
    """Read, parse and digest one module: about 8 ms per thousand lines."""
    tree = ast.parse(_source(name) or "")
    form, statements = normal_form(tree)
    fields: list[str | bytes] = []
    for path in _data_files(tree):
        package = name if _is_package(name) else name.rpartition(".")[0]
        data = importlib.resources.files(package).joinpath(path).read_bytes()
        fields += [path, hashlib.blake2b(data).digest()]
    return _Module(digest(form, *fields), _imports(name, statements))


@functools.cache
def _source(module: str) -> str | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    loader = spec.loader if spec else None
    if loader is None or not hasattr(loader, "get_source"):
        return None
    source = loader.get_source(module)
    return source if isinstance(source, str) else None


def _imports(module: str, statements: Iterable[ast.Import | ast.ImportFrom]) -> frozenset[str]:
    """Modules of its package and of this one in import statements."""
    packages = {module.partition(".")[0], __name__.partition(".")[0]}
    found: set[str] = set()
    for node in statements:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.partition(".")[0] in packages)
        else:
            parent = _absolute(module, node)
            if parent.partition(".")[0] in packages:
                found.add(parent)
                if _is_package(parent):
                    inner = (f"{parent}.{alias.name}" for alias in node.names)
                    found.update(name for name in inner if _source(name) is not None)
    return frozenset(found)


def _absolute(module: str, node: ast.ImportFrom) -> str:
    """The module that a from-import names; a relative one is resolved against ``module``."""
    if node.level == 0:
        return node.module or ""
    path = module.split(".")
    path = path[: len(path) - node.level + _is_package(module)]
    return ".".join([*path, *filter(None, [node.module])])


@functools.cache
def _is_package(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.submodule_search_locations is not None


def _data_files(tree: ast.Module) -> list[str]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        target = node.target if isinstance(node, ast.AnnAssign) else (targets[0] if targets else None)
        if isinstance(target, ast.Name) and target.id == "DATA_FILES" and isinstance(node, ast.Assign | ast.AnnAssign):
            return [str(name) for name in ast.literal_eval(node.value)] if node.value else []
    return []


def normal_form(tree: ast.Module) -> tuple[str, list[ast.Import | ast.ImportFrom]]:
    """Return a syntax tree as text without positions, and without strings that stand alone as statements; and the
    import statements in it, those in functions included."""
    out: list[str] = []
    imports: list[ast.Import | ast.ImportFrom] = []
    _write(tree, out, imports)
    return "".join(out), imports


def _write(node: ast.AST, out: list[str], imports: list[ast.Import | ast.ImportFrom]) -> None:
    if isinstance(node, STATEMENTS):
        imports.append(node)
    out.append(f"({type(node).__name__}")
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, ast.AST):
            _write(value, out, imports)
        elif isinstance(value, list):
            out.append("[")
            for item in value:
                if not isinstance(item, ast.AST):
                    out.append(f" {item!r}")
                elif not _is_docstring(item):
                    _write(item, out, imports)
            out.append("]")
        else:
            out.append(f" {value!r}")
    out.append(")")


def _is_docstring(node: ast.AST) -> bool:
    """Docstrings of modules, classes, functions and fields."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
