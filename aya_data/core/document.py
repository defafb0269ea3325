"""YAML text in which every value knows its place.

The reader takes the parser's node tree (``yaml.compose``) and resolves plain scalars by the YAML
1.2 core schema (https://yaml.org/spec/1.2.2/ chapter 10.3), not by YAML 1.1: ``no``, ``yes``,
``on`` and ``off`` are text (``no`` is Norwegian), ``010`` is ten, ``12:30`` and ``2026-08-01`` are
text. Duplicate keys, tags, merge keys (``<<``) and keys that are not text are refused. Aliases are
allowed, but what they expand to is limited, so that a small file cannot fill the memory.

A profile and ``--set`` are laid over the tree, not over the plain data, so each value of the result
still knows the file, line and column that it came from. Lines and columns count from 1; columns
count characters.

Cost: the pure Python parser reads about 10,000 lines per second; specs have some hundred.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml
from yaml.composer import Composer
from yaml.events import AliasEvent, MappingStartEvent, ScalarEvent, SequenceStartEvent
from yaml.nodes import MappingNode, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from aya_data.core.errors import InputError, NotFound, Problem, SpecError, did_you_mean
from aya_data.core.yaml_syntax import describe_syntax_error

__all__ = ["Document", "ExactFloat", "Mark", "Node", "PathKey", "Scalar", "Text", "dotted"]

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_NODES: Final = 100_000
MAX_DEPTH: Final = 64
MAX_DIGITS: Final = 400

PathKey: TypeAlias = tuple[str | int, ...]
Scalar: TypeAlias = "str | int | float | bool | None"

_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"([-+]?)\.(?:(inf|Inf|INF)|nan|NaN|NAN)")
_CONSTANTS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# Characters that would move the caret or the text around it when a terminal shows the line.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class ExactFloat(float):
    """A float that keeps the digits it was written with in ``text``, for exact arithmetic."""

    text: str

    def __new__(cls, text: str) -> ExactFloat:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __reduce__(self) -> tuple[type[ExactFloat], tuple[str]]:
        return (ExactFloat, (self.text,))


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """The lines of one file, or of one ``--set`` argument."""

    file: str
    lines: tuple[str, ...]

    @classmethod
    def of(cls, file: str, content: str) -> Text:
        return cls(file, tuple(_BREAK.split(content)))

    def excerpt(self, line: int, column: int, width: int = 100) -> str:
        """Return the line and, below it, a caret under ``column``.

        Wide (CJK) characters count two cells and combining marks none; a tab is shown as one
        arrow; a line longer than ``width`` characters is cut around the caret.
        """
        shown = self.lines[line - 1] if 0 < line <= len(self.lines) else ""
        shown = _INVISIBLE.sub("\ufffd", shown.replace("\t", "→"))
        before, after = shown[: column - 1], shown[column - 1 :]
        if len(shown) > width:
            half = width // 2
            before = "…" + before[-half:] if len(before) > half else before
            room = max(width - len(before), half)
            after = after[:room] + "…" if len(after) > room else after
        # A column past the end of the line (a mark at the end of the file) keeps its distance.
        indent = _cells(before) + max(column - 1 - len(shown), 0)
        number = str(line)
        margin = " " * len(number)
        return f"  {number} | {before}{after}".rstrip() + f"\n  {margin} | {' ' * indent}^"


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """A place in a text. ``str()`` gives ``file:line:column``."""

    text: Text
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.text.file}:{self.line}:{self.column}"

    def problem(self, what: str, remedy: str = "") -> Problem:
        """Return the problem ``what`` at this place, with its excerpt."""
        excerpt = self.text.excerpt(self.line, self.column)
        return Problem(self.text.file, self.line, self.column, what, remedy, excerpt)


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A value with its place. A mapping's ``keys`` holds the places of its keys."""

    value: Scalar | dict[str, Node] | list[Node]
    mark: Mark
    keys: dict[str, Mark] = field(default_factory=dict)

    def child(self, step: str | int) -> Node | None:
        if isinstance(self.value, dict):
            return self.value.get(step) if isinstance(step, str) else None
        if isinstance(self.value, list) and isinstance(step, int) and 0 <= step < len(self.value):
            return self.value[step]
        return None

    def plain(self) -> Any:
        """Return the value as dictionaries, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


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
        return cls.parse(_decode(raw, str(path)), str(path), problems)

    @classmethod
    def parse(cls, content: str, file: str, problems: list[Problem] | None = None) -> Document:
        """Read ``content``; ``file`` is the name that problems show."""
        text = Text.of(file, content.removeprefix("\ufeff"))
        found: list[Problem] = []
        try:
            composer = _Composer(content.removeprefix("\ufeff"))
            tree = composer.get_single_node()
        except _Refused as refused:
            raise SpecError([refused.at(text)]) from None
        except ReaderError as error:
            line, column = _line_and_column(content.removeprefix("\ufeff"), error.position)
            what = f"the character U+{_code(error.character):04X} is not allowed in YAML"
            raise SpecError(
                [Mark(text, line, column).problem(what, "Delete it, or write it as an escape.")]
            ) from None
        except yaml.MarkedYAMLError as error:
            line, column, what, remedy = describe_syntax_error(error, text.lines)
            raise SpecError([Mark(text, line, column).problem(what, remedy)]) from None
        except ValueError:
            at = composer.get_mark()
            what = "an escape names a character that does not exist"
            mark = Mark(text, at.line + 1, at.column + 1)
            raise SpecError([mark.problem(what, "The last one is \\U0010FFFF.")]) from None
        start = Mark(text, 1, 1)
        root = Node(None, start) if tree is None else _Reader(text, found).node(tree)
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

    def problem(
        self, path: Sequence[str | int], what: str, remedy: str = "", *, key: bool = False
    ) -> Problem:
        """Return the problem ``what`` at ``path``, with its excerpt."""
        return self.mark(path, key=key).problem(what, remedy)

    def positions(self) -> dict[PathKey, Mark]:
        """Return the place of every value, by path, in document order."""
        return dict(_walk(self.root, ()))

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
        exist are made; ``null`` removes a key. The value is one scalar; quotes keep it text.
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
        leaf = _set_value(value, Mark(text, 1, column + len(value) - len(value.lstrip())))
        return replace(self, root=_assign(self.root, steps, leaf, ""))


def dotted(path: Sequence[str | int]) -> str:
    """Return ``path`` as people write it: ``mix.caps.0.rows``."""
    return ".".join(str(step) for step in path)


# Reading ------------------------------------------------------------------------------------------


class _Refused(Exception):
    """The text is YAML, but more than a spec may hold."""

    def __init__(self, line: int, column: int, what: str, remedy: str) -> None:
        super().__init__(what)
        self.line, self.column, self.what, self.remedy = line, column, what, remedy

    def at(self, text: Text) -> Problem:
        return Mark(text, self.line, self.column).problem(self.what, self.remedy)


class _Composer(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML's composer with limits on depth and on what aliases expand to, and without tags."""

    def __init__(self, content: str) -> None:
        Reader.__init__(self, content)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._depth = 0
        self._nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise _Refused(
                    line,
                    column,
                    f"the alias *{event.anchor} stands inside the value that it names",
                    "Write the value out.",
                )
            self._count(self._sizes[id(node)], line, column)
            return node
        if isinstance(event, (ScalarEvent, SequenceStartEvent, MappingStartEvent)) and event.tag:
            raise _Refused(
                line,
                column,
                f"the tag {_tag(event.tag)} is not allowed",
                "A spec has no tags: quotes make text of a value, and nothing else needs one.",
            )
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Refused(
                line,
                column,
                f"values are nested more than {MAX_DEPTH} levels deep",
                "Look for brackets that are never closed.",
            )
        before = self._nodes
        self._count(1, line, column)
        node = super().compose_node(parent, index)
        self._sizes[id(node)] = self._nodes - before
        self._depth -= 1
        return node

    def _count(self, nodes: int, line: int, column: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _Refused(
                line,
                column,
                f"the document expands to more than {MAX_NODES} values",
                "Use fewer aliases, or split the spec.",
            )


class _Reader:
    """Turns the parser's nodes into ours, and collects what it has to refuse on the way."""

    def __init__(self, text: Text, problems: list[Problem]) -> None:
        self.text, self.problems = text, problems
        self._done: dict[int, Node] = {}

    def node(self, tree: Any) -> Node:
        done = self._done.get(id(tree))
        if done is None:
            done = self._done[id(tree)] = self._read(tree)
        return done

    def _mark(self, tree: Any) -> Mark:
        return Mark(self.text, tree.start_mark.line + 1, tree.start_mark.column + 1)

    def _read(self, tree: Any) -> Node:
        mark = self._mark(tree)
        if isinstance(tree, ScalarNode):
            return Node(self._scalar(tree, mark), mark)
        if isinstance(tree, SequenceNode):
            return Node([self.node(item) for item in tree.value], mark)
        assert isinstance(tree, MappingNode)
        values: dict[str, Node] = {}
        keys: dict[str, Mark] = {}
        for key_tree, value_tree in tree.value:
            at = self._mark(key_tree)
            if not isinstance(key_tree, ScalarNode):
                self._refuse(at, "a key must be text, found a list or a mapping", "Use a name.")
                continue
            key, plain = self._text(key_tree.value, at), key_tree.style is None
            if plain and key == "<<":
                self._refuse(
                    at,
                    "merge keys (<<) are not part of YAML 1.2",
                    "Write the keys out, or use a profile.",
                )
                continue
            if plain and not isinstance(_resolve(key), str):
                self._refuse(
                    at,
                    f"a key must be text, found {key or 'nothing'}",
                    f'Put quotes around it: "{key}":' if key else "Write a name before the colon.",
                )
            if key in keys:
                self._refuse(
                    at,
                    f"the key {key!r} stands twice in this mapping, first in line {keys[key].line}",
                    "Keep one of the two.",
                )
                continue
            keys[key], values[key] = at, self.node(value_tree)
        return Node(values, mark, keys)

    def _scalar(self, tree: ScalarNode, mark: Mark) -> Scalar:
        if tree.style is not None:
            return self._text(tree.value, mark)
        if len(tree.value) > MAX_DIGITS and (_INT.fullmatch(tree.value)):
            self._refuse(mark, f"a number of {len(tree.value)} digits", "Is it meant as text?")
            return 0
        return _resolve(tree.value)

    def _text(self, value: str, mark: Mark) -> str:
        """Return ``value`` with the pairs that escapes such as "\\ud83d\\ude00" spell joined."""
        try:
            whole = value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._refuse(mark, "a text has half of a surrogate pair", "Write the character itself.")
            return value.encode(errors="replace").decode()
        if "\0" in whole:
            self._refuse(mark, "a text has a NUL character", "Remove it.")
        return whole

    def _refuse(self, mark: Mark, what: str, remedy: str) -> None:
        self.problems.append(mark.problem(what, remedy))


def _resolve(text: str) -> Scalar:
    """Return what a plain scalar means in the core schema."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) <= MAX_DIGITS:
        if _INT.fullmatch(text):
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        if _FLOAT.fullmatch(text):
            return ExactFloat(text)
    if special := _SPECIAL_FLOAT.fullmatch(text):
        return float(special[1] + "inf") if special[2] else float("nan")
    return text


def _decode(raw: bytes, file: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = raw[: error.start].decode("utf-8-sig", errors="replace")
        text = Text.of(file, raw.decode("utf-8-sig", errors="replace"))
        line, column = _line_and_column(good, len(good))
        kind = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "UTF-8"
        what = (
            "the file is UTF-16, not UTF-8"
            if kind == "UTF-16"
            else f"the byte 0x{raw[error.start]:02X} is not UTF-8"
        )
        raise SpecError(
            [Mark(text, line, column).problem(what, "Save the file as UTF-8.")]
        ) from None


def _line_and_column(content: str, position: int) -> tuple[int, int]:
    lines = _BREAK.split(content[:position])
    return len(lines), len(lines[-1]) + 1


def _code(character: int | str | bytes) -> int:
    return character if isinstance(character, int) else ord(character)


def _tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


def _cells(text: str) -> int:
    """Return how many terminal cells ``text`` takes."""
    cells = 0
    for character in text:
        if unicodedata.category(character) in ("Mn", "Me", "Cf"):
            continue
        cells += 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
    return cells


def _neighbours(path: Path) -> list[str]:
    try:
        near = [p for p in sorted(path.parent.iterdir()) if p.suffix in (".yaml", ".yml")]
    except OSError:
        return []
    return [str(p) for p in near]


def _walk(node: Node, path: PathKey) -> Iterator[tuple[PathKey, Mark]]:
    yield path, node.mark
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from _walk(child, (*path, key))
    elif isinstance(node.value, list):
        for index, child in enumerate(node.value):
            yield from _walk(child, (*path, index))


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
    if stripped[:1] in ("'", '"'):
        try:
            quoted = Document.parse(stripped, "--set").root.value
        except SpecError as error:
            first = error.problems[0]
            raise SpecError([mark.problem(first.what, first.remedy)]) from None
        if isinstance(quoted, str):
            return Node(quoted, mark)
    if stripped[:1] in ("[", "{", "'", '"'):
        raise SpecError(
            [
                mark.problem(
                    "a setting takes one value: text, a number, true, false or null",
                    "Write lists and mappings in the spec, in a profile.",
                )
            ]
        )
    return Node(_resolve(stripped), mark)


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
        raise SpecError(
            [mark.problem(f"{done} has {len(items)} items, counted from 0, and no item {step}")]
        )
    raise SpecError([mark.problem(f"{done} has no item {step!r}", did_you_mean(step, names))])
