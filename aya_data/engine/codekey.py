"""Code keys: a hash of what a stage's code says, so that a changed kernel is never served from the cache.

The key of a module covers its syntax tree without docstrings, comments and layout, the same of every
module of this project that it imports (directly or not, at any depth), the package data that
those modules declare in ``DATA_FILES``, the versions of the libraries a stage declares, and the Python version.
Hash generously: a false miss costs time, a false hit costs truth.

A plugin's modules outside this package are followed inside their own top-level package.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.resources
import importlib.util
import sys
from collections.abc import Iterable

from aya_data.core.identity import digest

__all__ = ["code_key", "closure"]


def code_key(modules: Iterable[str], libraries: Iterable[str] = ()) -> str:
    """Return the key of the code in ``modules`` (dotted names) and all it imports from their packages."""
    names = sorted({name for module in modules for name in closure(module)})
    fields = [f"python {sys.version_info.major}.{sys.version_info.minor}"]
    for name in names:
        fields += [name, _module_digest(name)]
    for library in sorted(set(libraries)):
        fields.append(f"{library} {library_version(library)}")
    return digest(*fields)


def library_version(library: str) -> str:
    """Return the installed version of a distribution, ``absent`` when there is none."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


@functools.cache
def closure(module: str) -> frozenset[str]:
    """Return ``module`` and every module of its package that it imports, directly or not."""
    package = module.partition(".")[0]
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting.extend(other for other in _imports(name) if other.partition(".")[0] == package)
    return frozenset(seen)


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


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_source(module) or "")


@functools.cache
def _imports(module: str) -> frozenset[str]:
    """Modules that ``module`` names in import statements anywhere, function bodies included."""
    package = module.partition(".")[0]
    found: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module.partition(".")[0] != package:
                continue
            found.add(node.module)
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if _source(node.module) is not None and _is_module(node.module, inner):
                    found.add(inner)
    return frozenset(name for name in found if name.partition(".")[0] == package)


@functools.cache
def _is_module(parent: str, name: str) -> bool:
    spec = importlib.util.find_spec(parent)
    if spec is None or spec.submodule_search_locations is None:
        return False
    return _source(name) is not None


@functools.cache
def _module_digest(module: str) -> str:
    tree = _tree(module)
    fields: list[str | bytes] = [normal_form(tree)]
    for path in _data_files(tree):
        package = module if _is_package(module) else module.rpartition(".")[0]
        data = importlib.resources.files(package).joinpath(path).read_bytes()
        fields += [path, hashlib.blake2b(data).digest()]
    return digest(*fields)


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


def normal_form(tree: ast.Module) -> str:
    """Return a syntax tree as text without docstrings and positions."""
    copy = ast.parse("")
    copy.body = [_without_docstrings(node) for node in tree.body]
    _strip(copy)
    return ast.dump(copy, annotate_fields=False, include_attributes=False)


def _without_docstrings(node: ast.stmt) -> ast.stmt:
    """Copy through unparse: the cached tree must stay whole."""
    fresh = ast.parse(ast.unparse(node)).body[0]
    for inner in ast.walk(fresh):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            _strip(inner)
    return fresh


def _strip(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
    """Remove strings that stand alone as statements: docstrings of modules, classes, functions, fields."""
    kept = [
        statement
        for statement in node.body
        if not (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Constant)
            and isinstance(statement.value.value, str)
        )
    ]
    node.body = kept or [ast.Pass()]
