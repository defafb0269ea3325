"""A YAML document in which every value knows its file, line and column, and layers over it.

A profile and ``--set`` are laid over the tree of nodes, not over plain data, so each value of the
result still knows where it came from. Lines and columns count from 1; columns count characters.

Cost: the parser is pure Python and reads about 10,000 lines per second; specs have some hundred.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from aya_data.core.errors import InputError, NotFound, Problem, SpecError, did_you_mean
from aya_data.core.nodes import ExactFloat, Mark, Node, PathKey, Text, dotted
from aya_data.core.yaml_reader import decode, read, resolve

__all__ = ["Document", "ExactFloat", "Mark", "Node", "PathKey", "Text", "dotted"]

MAX_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class Document:
    """One YAML document: ``root`` with places, ``data`` without. Immutable; overlays make new ones.

    Raises from ``load`` and ``parse``: SpecError with every problem found. With a list
    ``problems`` given, those after which reading can go on (duplicate keys, tags, …) are appended
    to it instead, and only what stops the parser is raised.
    """

    text: Text
    root: Node

    @classmethod
    def load(cls, path: str | Path, problems: list[Problem] | None = None) -> Document:
        """Read the file ``path``. NotFound or InputError when it cannot be read."""
        path = Path(path)
        try:
            if path.is_file() and path.stat().st_size > MAX_BYTES:
                raise InputError(
                    f"{path} is larger than {MAX_BYTES // 2**20} MiB",
                    "A spec names data; it does not hold it. Is this the right file?",
                )
            raw = path.read_bytes()
        except FileNotFoundError:
            raise NotFound("file", str(path), _neighbours(path)) from None
        except IsADirectoryError:
            raise InputError(
                f"{path} is a folder, not a spec",
                did_you_mean("spec.yaml", _neighbours(path / "x")) or "Name a YAML file.",
            ) from None
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}", "Check the file.") from None
        return cls.parse(decode(raw, str(path)), str(path), problems)

    @classmethod
    def parse(cls, content: str, file: str, problems: list[Problem] | None = None) -> Document:
        """Read ``content``; ``file`` is the name that problems show."""
        content = content.removeprefix("\ufeff")
        text = Text.of(file, content)
        found: list[Problem] = []
        root = read(content, text, found)
        if problems is not None:
            problems.extend(found)
        elif found:
            raise SpecError(found)
        return cls(text, root)

    @cached_property
    def data(self) -> Any:
        """The document as dictionaries, lists and scalars; decimals are ``ExactFloat``."""
        return self.root.plain()

    def mark(self, path: Sequence[str | int], *, key: bool = False) -> Mark:
        """Return the place of the value (or, with ``key``, of its key) at ``path``.

        Steps that the document does not have are skipped, so that a path of a default or of a
        normalised value gives the place of what it was made from.
        """
        node, mark = self.root, self.root.mark
        for step in path:
            child = node.child(step)
            if child is None:
                continue
            own_key = node.keys.get(step) if isinstance(step, str) else None
            mark = own_key if key and own_key is not None else child.mark
            node = child
        return mark

    def real_path(self, path: Sequence[str | int]) -> PathKey:
        """Return ``path`` without the steps that the document does not have."""
        node, real = self.root, []
        for step in path:
            child = node.child(step)
            if child is not None:
                real.append(step)
                node = child
        return tuple(real)

    def position(self, path: Sequence[str | int], *, key: bool = False) -> tuple[int, int]:
        """Return (line, column) of the value or key at ``path``; see ``mark``."""
        mark = self.mark(path, key=key)
        return mark.line, mark.column

    def excerpt(self, line: int, column: int) -> str:
        """Return the line of the document and a caret below ``column``: two lines."""
        return self.text.excerpt(line, column)

    def problem(self, path: Sequence[str | int], what: str, remedy: str = "", *, key: bool = False) -> Problem:
        """Return the problem ``what`` at ``path``, with its excerpt."""
        return self.mark(path, key=key).problem(what, remedy)

    def positions(self) -> dict[PathKey, Mark]:
        """Return the place of every value, by path, in document order."""
        return dict(self.root.places())

    def overlay(self, path: Sequence[str | int]) -> Document:
        """Return this document with the mapping at ``path`` (a profile) merged over its root.

        Mappings merge key by key; lists and scalars replace; ``null`` removes the key, so that
        its default applies. A path that does not exist, or holds null, changes nothing.
        """
        node: Node | None = self.root
        for step in path:
            node = node.child(step) if node is not None else None
        if node is None or not isinstance(node.value, dict):
            return self
        return replace(self, root=_merge(self.root, node))

    def set(self, assignment: str) -> Document:
        """Return this document with one ``path=value`` laid over it, as ``--set`` gives it.

        The path is dotted; in a list a number counts from 0, and a name finds the item that is
        that name or a mapping with that key (``filters.length.min_chars=5``). Keys that do not
        exist are made; ``null`` removes a key. The value is a scalar, which quotes keep text, or a
        list or mapping in brackets (``languages=[tur, eng]``), which takes the place of the one there.
        Raises SpecError, at a place in a file called ``--set``.
        """
        text = Text.of("--set", assignment)
        where, equals, value = assignment.partition("=")
        if not equals or not where.strip() or any(not step.strip() for step in where.split(".")):
            raise SpecError(
                [
                    Mark(text, 1, 1).problem(
                        "a setting is written path=value",
                        "Write --set mix.budget.rows=500, for example.",
                    )
                ]
            )
        steps, column = [], 1
        for step in where.split("."):
            steps.append((step.strip(), Mark(text, 1, column + len(step) - len(step.lstrip()))))
            column += len(step) + 1
        leaf = _set_value(value, Mark(text, 1, len(assignment) - len(value.lstrip()) + 1))
        return replace(self, root=_assign(self.root, steps, leaf, ""))


def _neighbours(path: Path) -> list[str]:
    try:
        near = [p for p in sorted(path.parent.iterdir()) if p.suffix in (".yaml", ".yml")]
    except OSError:
        return []
    return [str(p) for p in near]


# Laying over --------------------------------------------------------------------------------------


def _merge(base: Node, over: Node) -> Node:
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    values, keys = dict(base.value), dict(base.keys)
    for key, node in over.value.items():
        if node.value is None:
            values.pop(key, None)
            keys.pop(key, None)
        elif key in values:
            values[key] = _merge(values[key], node)
            if values[key] is node:
                keys[key] = over.keys[key]
        else:
            values[key], keys[key] = node, over.keys[key]
    return Node(values, base.mark, keys)


def _set_value(value: str, mark: Mark) -> Node:
    stripped = value.strip()
    if stripped[:1] not in ("[", "{", "'", '"'):
        return Node(resolve(stripped), mark)
    problems: list[Problem] = []
    # Spaces before the value keep its columns those of the whole argument.
    node = read(" " * (mark.column - 1) + stripped, mark.text, problems)
    if not problems and stripped[0] in "'\"" and not isinstance(node.value, str):
        problems = [mark.problem("text follows a closed quote", "Put the whole value into one pair of quotes.")]
    if problems:
        raise SpecError(problems)
    return node


def _assign(node: Node, steps: list[tuple[str, Mark]], leaf: Node, done: str) -> Node:
    """Return ``node`` with ``leaf`` at ``steps``; ``done`` is the path so far, for messages."""
    if not steps:
        return leaf
    (step, mark), rest = steps[0], steps[1:]
    here = f"{done}.{step}" if done else step
    if isinstance(node.value, list):
        index = _find_item(node.value, step, mark, done)
        item = node.value[index]
        if rest and not step.lstrip("-").isdigit():
            # The item was found by name: a bare name has no settings yet.
            inside = item.child(step) or Node({}, item.mark)
            changed = Node({step: _assign(inside, rest, leaf, here)}, item.mark, {step: item.mark})
        else:
            changed = _assign(item, rest, leaf, here)
        return Node([*node.value[:index], changed, *node.value[index + 1 :]], node.mark)
    if node.value is not None and not isinstance(node.value, dict):
        raise SpecError(
            [
                mark.problem(
                    f"{done} is a single value and has no key {step!r}",
                    f"Write {done}=… to replace it.",
                )
            ]
        )
    values, keys = dict(node.value or {}), dict(node.keys)
    child = values.get(step)
    if not rest and leaf.value is None:
        values.pop(step, None)
        keys.pop(step, None)
    else:
        values[step] = _assign(child or Node({}, mark), rest, leaf, here)
        if child is None or not rest:
            keys[step] = mark
    return Node(values, node.mark, keys)


def _find_item(items: list[Node], step: str, mark: Mark, done: str) -> int:
    names: list[str] = []
    for index, item in enumerate(items):
        if isinstance(item.value, dict):
            known = list(item.value)
        else:
            known = [item.value] if isinstance(item.value, str) else []
        if step in known:
            return index
        names.extend(known)
    if step.isdigit():
        if int(step) < len(items):
            return int(step)
        number = "1 item" if len(items) == 1 else f"{len(items)} items"
        raise SpecError([mark.problem(f"{done} has {number}, counted from 0, and no item {step}")])
    raise SpecError([mark.problem(f"{done} has no item {step!r}", did_you_mean(step, names))])
