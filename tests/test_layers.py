"""The layers: imports point down, heavy libraries stay out of the command line, durable writes stay in one place."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aya_data

ROOT = Path(aya_data.__file__).parent
LAYERS = (
    ("core",),
    ("text",),
    ("builders", "filters"),
    ("engine",),
    ("catalog",),
    ("publish",),
    ("train",),
    ("api", "calibration"),
    ("cli",),
)
"""From the ground up; modules of one layer may not import the other folder of it."""
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
LINKED = ("builders", "catalog", "filters", "specs", "train")
HEAVY = ("torch", "transformers", "trl", "vllm", "ray", "datasets", "polars", "duckdb", "pyarrow", "pandas")


def modules() -> dict[str, ast.Module]:
    """Every module of the package with its syntax tree, symlinked folders included."""
    found = {}
    for path in sorted(ROOT.rglob("*.py", recurse_symlinks=True) if sys.version_info >= (3, 13) else _walk(ROOT)):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(), filename=str(path))
    return found


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            yield from _walk(path)
        elif path.suffix == ".py":
            yield path


MODULES = modules()


def layer(module: str) -> str:
    """The layer that a module stands in; empty for the package itself."""
    return ([*module.split("."), ""])[1]


def imported(module: str, tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module that import statements anywhere in a module name, those for type checkers included."""
    is_package = importlib.util.find_spec(module).submodule_search_locations is not None  # type: ignore[union-attr]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = node.module or ""
            if node.level:
                path = module.split(".")
                parent = ".".join([*path[: len(path) - node.level + is_package], *filter(None, [node.module])])
            yield parent, node.lineno
            if parent == "aya_data":
                yield from ((f"aya_data.{alias.name}", node.lineno) for alias in node.names)


def test_the_walk_sees_all_layers() -> None:
    assert {layer(name) for name in MODULES} >= {
        "core",
        "text",
        "builders",
        "filters",
        "engine",
        "catalog",
        "publish",
        "cli",
    }
    assert len(MODULES) > 60


def test_imports_point_down() -> None:
    wrong = []
    for name, tree in MODULES.items():
        here = layer(name)
        if here in ("", "specs", "__main__"):
            continue
        for other, line in imported(name, tree):
            there = layer(other)
            if other.partition(".")[0] != "aya_data" or there in ("", here, "__version__"):
                continue
            if HEIGHT[there] >= HEIGHT[here]:
                wrong.append(f"{name}:{line} imports {other}")
    assert wrong == []


def test_every_folder_has_a_layer() -> None:
    assert {layer(name) for name in MODULES} - {"", "specs", "__main__"} <= set(HEIGHT)


def test_the_top_folders_are_imported_as_parts_of_the_package() -> None:
    wrong = [
        f"{name}:{line} imports {other}"
        for name, tree in MODULES.items()
        for other, line in imported(name, tree)
        if other.partition(".")[0] in LINKED
    ]
    assert wrong == []


@pytest.mark.parametrize("name", LINKED)
def test_symlinks_lead_to_the_top_folders(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink() and not Path(link.readlink()).is_absolute()
    assert link.resolve() == ROOT.parent / name
    assert (link / "__init__.py").exists()


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("aya_data", HEAVY),
        ("aya_data.cli.main", HEAVY),
        ("aya_data.core.spec", HEAVY[:6]),
        ("aya_data.api", HEAVY[:6]),
        ("aya_data.engine.worker", HEAVY[:6]),
        ("aya_data.builders", HEAVY),
        ("aya_data.filters", HEAVY),
    ],
)
def test_heavy_libraries_are_not_imported(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(m.partition('.')[0] for m in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) & set(heavy) == set()


def opened(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls that open a file for writing, or write one at a stroke."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if called in ("write_text", "write_bytes") and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if not (isinstance(owner, ast.Name) and owner.id == "durable"):
                yield node.lineno, called
        elif called in ("open", "fdopen"):
            given = [*node.args, *(k.value for k in node.keywords if k.arg == "mode")]
            modes = [m.value for m in given if isinstance(m, ast.Constant) and isinstance(m.value, str)]
            for mode in modes:
                if re.fullmatch("[rwaxbt+]{1,3}", mode) and re.search("[wax+]", mode):
                    yield node.lineno, f"open {mode!r}"


COMPOSE = "aya_data.builders.samples.compose"
"""Writes the bundled samples, when a maintainer asks it to; no build runs it."""
MAY_WRITE = {"aya_data.core.durable": "", COMPOSE: "", "aya_data.builders.hub.repository": "open 'ab'"}
"""Modules that write by themselves, and how; a download goes on where it broke off, and is checked when it ends."""


def test_files_are_written_in_one_place() -> None:
    """All else would leave half a file when the machine stops. The event log is watched, never read back."""
    wrong = [
        f"{name}:{line} {how}"
        for name, tree in MODULES.items()
        for line, how in opened(tree)
        if MAY_WRITE.get(name, "never") not in ("", how)
    ]
    assert wrong == []


def test_the_check_finds_writes() -> None:
    found = list(
        opened(
            ast.parse("open(p, 'w')\nPath(p).open(mode='ab')\np.write_text('')\nopen(p)\ndurable.write_bytes(p, b'')")
        )
    )
    assert [line for line, _ in found] == [1, 2, 3]


def test_chance_comes_from_the_keyed_hash_alone() -> None:
    wrong = [
        f"{name}:{line} imports {other}"
        for name, tree in MODULES.items()
        for other, line in imported(name, tree)
        if other.split(".")[0] in ("random", "secrets", "uuid") or other.startswith("numpy.random")
    ]
    wrong += [
        f"{name}:{node.lineno} uses numpy.random"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "random"
        and getattr(node.value, "id", "") in ("np", "numpy")
    ]
    assert wrong == []


NOT_CODE = ("aya_data.engine.codekey", "aya_data.builders.upstream", COMPOSE)
"""The bundled samples are input: their digests are those of the units that are read."""


def reads_package_data(tree: ast.Module) -> bool:
    """Whether a module calls ``importlib.resources.files`` however it imported it."""
    return any(
        isinstance(node, ast.Call)
        and (getattr(node.func, "id", "") == "files" or ast.unparse(node.func).endswith("resources.files"))
        for node in ast.walk(tree)
    )


def declared(tree: ast.Module) -> list[str] | None:
    """What a module declares as its data files."""
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(getattr(target, "id", "") == "DATA_FILES" for target in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            return [str(path) for path in ast.literal_eval(node.value)]
    return None


def test_modules_declare_the_data_that_they_read() -> None:
    """So that it is part of the code key; and what they declare is there."""
    for name, tree in MODULES.items():
        files = declared(tree)
        if reads_package_data(tree) and name not in NOT_CODE:
            assert files is not None, f"{name} reads package data and declares no DATA_FILES"
        for file in files or ():
            spec = importlib.util.find_spec(name)
            assert spec is not None and spec.origin is not None
            assert (Path(spec.origin).parent / file).is_file(), (name, file)


def test_package_data_is_not_found_by_file() -> None:
    wrong = [
        f"{name}:{node.lineno}"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == "__file__"
    ]
    assert wrong == []
