"""YAML text read into nodes: the core schema of YAML 1.2, without what a spec has no use for.

The parser is PyYAML's, which speaks YAML 1.1; plain scalars are resolved here instead, by
https://yaml.org/spec/1.2.2/ chapter 10.3: ``no``, ``yes``, ``on`` and ``off`` are text (``no`` is
Norwegian), ``010`` is ten, ``12:30`` and ``2026-08-01`` are text. Duplicate keys, tags, merge keys
(``<<``) and keys that are not text are refused. Aliases are allowed, but what they expand to is
limited, so that a small file cannot fill the memory.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml
from yaml.composer import Composer
from yaml.events import AliasEvent, MappingStartEvent, ScalarEvent, SequenceStartEvent
from yaml.nodes import MappingNode, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from aya_data.core.errors import Problem, SpecError
from aya_data.core.nodes import BREAK, ExactFloat, Mark, Node, Scalar, Text
from aya_data.core.yaml_syntax import describe_syntax_error

__all__ = ["decode", "read", "resolve"]

MAX_NODES: Final = 100_000
MAX_DEPTH: Final = 64
MAX_DIGITS: Final = 400

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"([-+]?)\.(?:(inf|Inf|INF)|nan|NaN|NAN)")
_CONSTANTS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def decode(raw: bytes, file: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = raw[: error.start].decode("utf-8-sig", errors="replace")
        text = Text.of(file, raw.decode("utf-8-sig", errors="replace"))
        line, column = _line_and_column(good, len(good))
        kind = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "UTF-8"
        what = (
            "the file is UTF-16, not UTF-8" if kind == "UTF-16" else f"the byte 0x{raw[error.start]:02X} is not UTF-8"
        )
        raise SpecError([Mark(text, line, column).problem(what, "Save the file as UTF-8.")]) from None


def read(content: str, text: Text, problems: list[Problem]) -> Node:
    """Return the one document of ``content``, which ``text`` holds by lines.

    Problems after which reading can go on are appended to ``problems``; SpecError is raised for
    one that stops the parser.
    """
    try:
        composer = _Composer(content)
        tree = composer.get_single_node()
    except _Refused as refused:
        raise SpecError([refused.at(text)]) from None
    except ReaderError as error:
        line, column = _line_and_column(content, error.position)
        what = f"the character U+{_code(error.character):04X} is not allowed in YAML"
        problem = Mark(text, line, column).problem(what, "Delete it, or write it as an escape.")
        raise SpecError([problem]) from None
    except yaml.MarkedYAMLError as error:
        line, column, what, remedy = describe_syntax_error(error, text.lines)
        raise SpecError([Mark(text, line, column).problem(what, remedy)]) from None
    except ValueError:
        at = composer.get_mark()
        what = "an escape names a character that does not exist"
        mark = Mark(text, at.line + 1, at.column + 1)
        raise SpecError([mark.problem(what, "The last one is \\U0010FFFF.")]) from None
    return Node(None, Mark(text, 1, 1)) if tree is None else _Nodes(text, problems).node(tree)


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


class _Nodes:
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
            if plain and not isinstance(resolve(key), str):
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
        return resolve(tree.value)

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


def resolve(text: str) -> Scalar:
    """Return what the plain scalar ``text`` means in the core schema."""
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


def _code(character: int | str | bytes) -> int:
    return character if isinstance(character, int) else ord(character)


def _tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


def _line_and_column(content: str, position: int) -> tuple[int, int]:
    lines = BREAK.split(content[:position])
    return len(lines), len(lines[-1]) + 1
