"""Code keys: another kernel is another key, another comment is not; by mutation of the real modules."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aya_data
from aya_data.core.identity import draw
from aya_data.engine import codekey

STAGES = (
    "aya_data.engine.reading",
    "aya_data.engine.sampling",
    "aya_data.filters.length",
    "aya_data.filters.language_id.filter",
)
"""Modules of stages whose keys are watched."""
PER_MODULE = 1
"""How many functions of each module are changed, by draw; the sweep changes all."""


def forget() -> None:
    """Drop what is cached of sources."""
    importlib.invalidate_caches()
    for made in vars(codekey).values():
        if hasattr(made, "cache_clear"):
            made.cache_clear()


# Mutations of the real modules ---------------------------------------------------------------------------


def kernels(source: str) -> Iterator[tuple[str, str]]:
    """For every function with a constant: its name, and the source with that constant changed."""
    tree = ast.parse(source)
    lines = source.encode().splitlines(keepends=True)
    starts = [sum(len(line) for line in lines[:n]) for n in range(len(lines))]
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        inside_strings = {id(n) for s in ast.walk(function) if isinstance(s, ast.JoinedStr) for n in ast.walk(s)}
        alone = {id(s.value) for s in ast.walk(function) if isinstance(s, ast.Expr)}
        for node in ast.walk(function):
            if isinstance(node, ast.Constant) and id(node) not in inside_strings | alone:
                assert node.end_lineno is not None and node.end_col_offset is not None
                begin = starts[node.lineno - 1] + node.col_offset
                end = starts[node.end_lineno - 1] + node.end_col_offset
                value = b"'another'" if isinstance(node.value, str) else b"424242"
                data = source.encode()
                yield function.name, (data[:begin] + value + data[end:]).decode()
                break


def same_meaning(source: str) -> Iterator[tuple[str, str]]:
    """The same code with other comments, docstrings and layout."""
    yield "a comment", "# A comment.\n" + source + "\n\n# Another.\n"
    yield "layout", ast.unparse(ast.parse(source))
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and node.body:
            first = node.body[0]
            said = first.value if isinstance(first, ast.Expr) else None
            if isinstance(said, ast.Constant) and isinstance(said.value, str):
                first.value = ast.Constant("Another docstring.")
            elif not isinstance(node, ast.Module):
                node.body.insert(0, ast.Expr(ast.Constant("A docstring where there was none.")))
    yield "docstrings", ast.unparse(ast.fix_missing_locations(tree))


def mutate(root: Path, everything: bool) -> list[str]:
    """Mutate the modules of the package at ``root``; return what keys did wrong."""
    forget()
    before = {stage: codekey.code_key([stage]) for stage in STAGES}
    closures = {stage: codekey.closure(stage) for stage in STAGES}
    paths, wrong = {}, []
    for module in sorted(set().union(*closures.values())):
        path = root / Path(*module.split("."))
        paths[module] = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    sources = {module: path.read_text() for module, path in paths.items()}
    for module, path in paths.items():
        changed = sorted(kernels(sources[module]), key=lambda pair: draw(1, module, pair[0]))
        for name, text in changed[: None if everything else PER_MODULE]:
            path.write_text(text)
            forget()
            for stage in STAGES:
                if (codekey.code_key([stage]) != before[stage]) != (module in closures[stage]):
                    wrong.append(f"{module}.{name} changed, and the key of {stage} is wrong")
        path.write_text(sources[module])
    words = {module: dict(same_meaning(source)) for module, source in sources.items()}
    for what in ("a comment", "layout", "docstrings"):
        for module, path in paths.items():
            path.write_text(words[module][what])
        forget()
        wrong += [f"{what} changed the key of {s}" for s in STAGES if codekey.code_key([s]) != before[s]]
    for module, path in paths.items():
        path.write_text(sources[module])
    forget()
    assert before == {stage: codekey.code_key([stage]) for stage in STAGES}
    return wrong


@pytest.mark.parametrize("everything", [False, pytest.param(True, marks=pytest.mark.sweep)])
def test_any_kernel_changes_the_keys_of_what_imports_it(tmp_path: Path, everything: bool) -> None:
    """In a copy of the package, which a fresh interpreter imports."""
    place = Path(aya_data.__file__).parent
    ignore = shutil.ignore_patterns("__pycache__", "samples")
    shutil.copytree(place, tmp_path / "aya_data", ignore=ignore)
    (tmp_path / "tests").mkdir()
    shutil.copy(__file__, tmp_path / "tests" / "mutation.py")
    code = (
        "import json, sys, pathlib; from tests.mutation import mutate; "
        "print(json.dumps(mutate(pathlib.Path(sys.argv[1]), sys.argv[2] == 'True')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(everything)],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_mutations_are_many() -> None:
    """The test above is about something."""
    for stage in STAGES:
        module = importlib.import_module(stage)
        assert len(dict(kernels(Path(module.__file__ or "").read_text()))) >= 3, stage
    assert "aya_data.core.identity" in codekey.closure("aya_data.engine.reading")


# A package of three modules ------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A plugin outside this package: it imports its own modules in every way, and one of this package."""
    name = "plugin_of_a_third_party"
    folder = tmp_path / name
    (folder / "inner").mkdir(parents=True)
    for path, text in {
        "__init__.py": "",
        "stage.py": "from . import kernel\nfrom .inner import deep\nfrom aya_data.text import turns\n",
        "kernel.py": "def kernel(x):\n    return x + 1\n",
        "late.py": "def late():\n    return 5\n",
        "inner/__init__.py": "",
        "inner/deep.py": "DATA_FILES = ('table.tsv',)\nfrom .. import other\n\ndef f():\n"
        "    import plugin_of_a_third_party.late\n    return 1\n",
        "inner/table.tsv": "a\t1\n",
        "other.py": "LIMIT = 3\n",
        "unused.py": "A = 1\n",
    }.items():
        (folder / path).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield folder
    forget()
    for loaded in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[loaded]


def key() -> str:
    forget()
    return codekey.code_key(["plugin_of_a_third_party.stage"])


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("stage.py", "from . import kernel", "from . import kernel, other"),
        ("kernel.py", "x + 1", "x + 2"),
        ("kernel.py", "x + 1", "x - 1"),
        ("kernel.py", "return x + 1", "return x + 1.0"),
        ("kernel.py", "x):", "x=None):"),
        ("inner/deep.py", "return 1", "return True"),
        ("inner/table.tsv", "1", "2"),
        ("other.py", "3", "4"),
        ("late.py", "5", "6"),
    ],
)
def test_a_change_anywhere_in_what_is_imported_is_a_miss(package: Path, path: str, old: str, new: str) -> None:
    before = key()
    text = (package / path).read_text()
    assert old in text
    (package / path).write_text(text.replace(old, new))
    assert key() != before


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("kernel.py", "# Why.\ndef kernel(x):\n    '''What.'''\n\n    return (x +\n            1)\n"),
        ("unused.py", "A = 2\n"),
        ("inner/unlisted.tsv", "b\n"),
    ],
)
def test_a_change_of_words_is_a_hit(package: Path, path: str, text: str) -> None:
    before = key()
    (package / path).write_text(text)
    assert key() == before


def test_the_closure_reaches_into_this_package(package: Path) -> None:
    found = codekey.closure("plugin_of_a_third_party.stage")
    own = {name.partition(".")[2] for name in found if name.startswith("plugin_of")}
    assert {"stage", "kernel", "inner.deep", "other", "late"} <= own
    assert "unused" not in own
    assert "aya_data.text.turns" in found


def test_versions_of_libraries_are_part_of_the_key() -> None:
    keys = {
        codekey.code_key(["aya_data.core.identity"], libraries)
        for libraries in ((), ("numpy",), ("pyarrow",), ("none",))
    }
    assert len(keys) == 4
    assert codekey.code_key(["aya_data.core.identity"], ["numpy", "numpy"]) == codekey.code_key(
        ["aya_data.core.identity"], ["numpy"]
    )
    assert codekey.library_version("no-such-distribution") == "absent"


def test_every_module_with_a_kernel_is_in_the_digest_of_compiled_code() -> None:
    root = Path(aya_data.__file__).parent
    found = [
        ".".join(path.relative_to(root.parent).with_suffix("").parts)
        for package in root.iterdir()
        if package.is_dir()
        for path in package.rglob("*.py")
        if "aya_data.text.kernel import" in path.read_text()
    ]
    assert "aya_data.builders.arbitrage.arbiters.relevance" in found
    assert [module for module in found if not module.startswith(tuple(f"{name}." for name in codekey.KERNELS))] == []
