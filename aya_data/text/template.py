"""Jinja templates over rows, in a sandbox: a template can read its variables and make text, no more.

Templates come with data sets and values come from strangers, so neither is trusted. There is no
loader, no import, no macro, no attribute of a Python object other than a short list of pure text
and mapping methods, and no randomness but :func:`choice`, which is a keyed draw. What a value
says is never read as a template. Work is bounded: every loop pass, filter and piece of output is
charged to a :class:`_Budget`, so that a hostile template ends with an error after a second or so.

``|||`` in a template's own text separates its parts (prompt and answer), as in promptsource
(Bach et al. 2022, section 3); ``|||`` inside a value is text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.meta
from jinja2 import filters, nodes, pass_context
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from aya_data.core.errors import InputError
from aya_data.core.identity import draw

__all__ = ["Template", "TemplateFailure", "condition", "template"]

LONGEST = 20_000
"""Characters of a template's source."""
OUTPUT = 1_000_000
"""Characters that one rendering may make, whether they reach the result or not."""
WORK = 200_000
"""Steps of one rendering: parts of expressions evaluated in loops, items and kilobytes filtered."""
NESTED = 3
RESERVED = "aya_"
SEPARATOR = "|||"
MARK = "\0|||\0"

TEXT_METHODS = frozenset(
    [
        "capitalize",
        "casefold",
        "count",
        "endswith",
        "find",
        "index",
        "isalnum",
        "isalpha",
        "isdigit",
        "islower",
        "isnumeric",
        "isspace",
        "istitle",
        "isupper",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "rfind",
        "rindex",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "swapcase",
        "title",
        "upper",
    ]
)
FILTERS = [
    "abs",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "first",
    "float",
    "int",
    "items",
    "last",
    "length",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "select",
    "selectattr",
    "string",
    "title",
    "trim",
    "upper",
    "wordcount",
]
FORBIDDEN: dict[type[nodes.Node], str] = {
    nodes.Macro: "macros", nodes.CallBlock: "call blocks", nodes.Import: "imports",
    nodes.FromImport: "imports", nodes.Include: "includes", nodes.Extends: "extends",
    nodes.Block: "blocks", nodes.Pow: "the operator **",
}  # fmt: skip


class TemplateFailure(Exception):
    """A template could not be applied to a row: the ``rule`` and ``evidence`` for the ledger."""

    def __init__(self, rule: str, evidence: str = "") -> None:
        self.rule, self.evidence = rule, evidence
        super().__init__(f"{rule}: {evidence}" if evidence else rule)


class _Budget:
    """What one rendering has left, and the key and count of its draws."""

    def __init__(self, output: int, seed: int, key: str) -> None:
        self.output, self.work = output, WORK
        self.seed, self.key, self.draws = seed, key, 0

    def make(self, characters: int) -> None:
        self.output -= characters
        if self.output < 0:
            raise TemplateFailure("template_error", "the output is too long")

    def step(self, steps: int) -> None:
        self.work -= steps
        if self.work < 0:
            raise TemplateFailure("template_error", "the template takes too many steps")


class _Missing(jinja2.StrictUndefined):
    """A variable that a row does not have. Any use of it other than ``is defined`` fails."""

    __slots__ = ()

    def __init__(self, hint: str | None = None, obj: Any = None, name: str | None = None, exc: Any = None) -> None:
        wanted = str(name)

        def fail(_: str | None = None) -> TemplateFailure:
            return TemplateFailure(f"template_missing:{wanted[:80]}")

        # The base class raises what this returns; the object itself must stay out of messages.
        super().__init__(hint, name=name, exc=fail)  # type: ignore[arg-type]


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "%"})

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if attr.startswith("_"):
            return False
        if isinstance(obj, str):
            return attr in TEXT_METHODS
        if isinstance(obj, dict):
            return attr in ("get", "items", "keys", "values")
        return isinstance(obj, LoopContext) and attr != "cycle"

    def getattr(self, obj: Any, attribute: str) -> Any:
        # A column called "items" is meant before the method of that name.
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        raise TemplateFailure("template_error", f"the attribute {attribute[:40]!r} cannot be used")

    def wrap_str_format(self, value: Any) -> None:
        # A format's width makes text of any length out of a number.
        return None

    def is_safe_callable(self, obj: Any) -> bool:
        return not isinstance(obj, type) and super().is_safe_callable(obj)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = _budget(context)
        for side in (left, right):
            if isinstance(side, Undefined):
                str(side)
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            budget.make(len(left) + len(right))
        elif operator == "+" and isinstance(left, list) and isinstance(right, list):
            budget.step(len(left) + len(right))
        elif not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise TemplateFailure("template_error", f"the operator {operator} needs two numbers")
        elif isinstance(left, int) and left.bit_length() + _bits(right) > 4096:
            raise TemplateFailure("template_error", "a number is too large")
        return super().call_binop(context, operator, left, right)


def _bits(number: float) -> int:
    return number.bit_length() if isinstance(number, int) else 0


def _budget(context: Context) -> _Budget:
    budget = context.parent["aya_budget"]
    assert isinstance(budget, _Budget)
    return budget


@pass_context
def _finalize(context: Context, value: Any) -> str:
    """Turn the value of ``{{ … }}`` into text; null is an error, because the word None never is meant."""
    budget = _budget(context)
    if value is MARK:
        return str(MARK)
    text: str = value if isinstance(value, str) else _plain(value)
    budget.step(1)
    budget.make(len(text))
    return text.replace(MARK, SEPARATOR) if MARK in text else text


def _plain(value: Any) -> str:
    if isinstance(value, Undefined):
        str(value)
    if value is None:
        raise TemplateFailure("template_error", "an expression is null")
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list | tuple | dict):
        return _json(value)
    return _unknown(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_unknown)


def _unknown(value: Any) -> str:
    # Anything else has its address for a text, which is another one in every run.
    raise TemplateFailure("template_error", f"an expression is a {type(value).__name__}, not text")


@pass_context
def _iterate(context: Context, values: Any, steps: int, characters: int) -> Iterator[Any]:
    budget = _budget(context)
    for value in values:
        budget.step(steps)
        budget.make(characters)
        yield value


@pass_context
def _concatenate(context: Context, *values: Any) -> str:
    return "".join(_finalize(context, value) for value in values)


@pass_context
def _join(context: Context, values: Iterable[Any], separator: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        pick = filters.make_attrgetter(context.environment, attribute)
        values = (pick(value) for value in values)
    pieces = [_finalize(context, value) for value in values]
    _budget(context).make(len(separator) * len(pieces))
    return separator.join(pieces)


@pass_context
def _replace(context: Context, text: str, old: str, new: str, count: int = -1) -> str:
    found = text.count(old)
    found = found if count < 0 else min(found, count)
    _budget(context).make(len(text) + found * max(0, len(new) - len(old)))
    return str(text).replace(old, new, count)


@pass_context
def _choice(context: Context, values: Any) -> Any:
    """Pick one of ``values`` by a draw of the row's key: the same row, the same pick."""
    listed = list(values)
    if not listed:
        raise TemplateFailure("template_error", "choice of nothing")
    budget = _budget(context)
    budget.draws += 1
    return listed[draw(budget.seed, f"template {budget.draws}", budget.key) % len(listed)]


@pass_context
def _range(context: Context, *bounds: int) -> range:
    numbers = range(*bounds)
    _budget(context).step(len(numbers) if abs(numbers.stop) < 1 << 40 else WORK + 1)
    return numbers


def _charged(function: Callable[..., Any]) -> Callable[..., Any]:
    """Charge a function of one collection by its length."""

    @pass_context
    def charged(context: Context, values: Any, *rest: Any) -> Any:
        budget = _budget(context)
        size = len(values) if hasattr(values, "__len__") else 1
        budget.step(1 + (size >> 10 if isinstance(values, str) else size))
        return function(values, *rest)

    return charged


def _textual(function: Callable[[str], Any]) -> Callable[..., Any]:
    """Give a function of one text the text of any plain value."""
    return _charged(lambda value: function(value if isinstance(value, str) else _plain(value)))


def _round(number: float, digits: int = 0) -> float:
    return round(number, max(-20, min(20, digits)))


def _numbers(values: Iterable[Any]) -> Any:
    return sum(value for value in values if isinstance(value, int | float))


def _most_frequent(values: Iterable[Any]) -> list[Any]:
    counted = Counter(values).most_common()
    return [value for value, count in counted if count == counted[0][1]]


def _unique(values: Iterable[Any]) -> list[Any]:
    seen: dict[str, Any] = {}
    for value in values:
        seen.setdefault(_json(value), value)
    return list(seen.values())


def _sort(values: Iterable[Any], reverse: bool = False) -> list[Any]:
    return sorted(values, reverse=reverse)


def _reverse(values: Any) -> Any:
    return values[::-1] if isinstance(values, str) else list(values)[::-1]


@lru_cache(1)
def _environment() -> _Environment:
    environment = _Environment(undefined=_Missing, finalize=_finalize, optimized=False, autoescape=False, cache_size=0)
    listed = {name: filters.FILTERS[name] for name in FILTERS}
    listed |= {
        "choice": _choice, "random": _choice, "join": _join, "replace": _replace, "sort": _charged(_sort),
        "list": _charged(list), "unique": _charged(_unique), "reverse": _charged(_reverse),
        "sum": _charged(_numbers), "tojson": _charged(_json), "round": _charged(_round),
        "string": _textual(str), "upper": _textual(str.upper), "lower": _textual(str.lower),
        "title": _textual(filters.do_title), "capitalize": _textual(str.capitalize),
        "trim": _textual(str.strip), "wordcount": _textual(lambda text: len(text.split())),
        "most_frequent": _charged(_most_frequent), "highlight": _textual(lambda text: f"*{text}*"),
    }  # fmt: skip
    environment.filters = listed
    environment.globals = {
        "range": _range, "choice": _choice, "zip": _charged(lambda *v: list(zip(*v, strict=False))),
        "enumerate": _charged(lambda v: list(enumerate(v))), "len": len,
        "aya_iterate": _iterate, "aya_concatenate": _concatenate,
        "aya_separator": MARK, "aya_join": _join, "aya_replace": _replace,
    }  # fmt: skip
    return environment


class _Guard(NodeTransformer):
    """Refuses what a template may not do, and puts the charges where work is done."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._depth = 0

    def _refuse(self, node: nodes.Node, what: str) -> InputError:
        return InputError(
            f"{what} cannot be used in a template", "Say it with variables, if, for and filters.",
            f"{self._where}, line {node.lineno}",
        )  # fmt: skip

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        for kind, what in FORBIDDEN.items():
            if isinstance(node, kind):
                raise self._refuse(node, what)
        return super().generic_visit(node, *args, **kwargs)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        if node.name.startswith(RESERVED) or node.name == "self":
            raise self._refuse(node, f"the name {node.name!r}")
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise self._refuse(node, "a recursive loop")
        if self._depth == NESTED:
            raise self._refuse(node, f"a loop inside {NESTED} others")
        steps = 1 + sum(1 for part in node.body for _ in part.find_all(nodes.Node))
        characters = sum(len(d.data) for part in node.body for d in part.find_all(nodes.TemplateData))
        self._depth += 1
        node = super().generic_visit(node)  # type: ignore[assignment]
        self._depth -= 1
        node.iter = _call("aya_iterate", node, node.iter, nodes.Const(steps), nodes.Const(characters))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("aya_concatenate", node, *node.nodes)

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        """Route the text methods whose result can grow to their charged forms."""
        self.generic_visit(node)
        method = node.node
        if isinstance(method, nodes.Getattr) and method.attr == "join" and len(node.args) == 1:
            return _call("aya_join", node, node.args[0], method.node)
        if isinstance(method, nodes.Getattr) and method.attr == "replace":
            return _call("aya_replace", node, method.node, *node.args)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        parts: list[nodes.Expr] = []
        for part in node.nodes:
            if not isinstance(part, nodes.TemplateData) or SEPARATOR not in part.data:
                parts.append(part)
                continue
            for number, text in enumerate(part.data.split(SEPARATOR)):
                if number:
                    parts.append(nodes.Name("aya_separator", "load", lineno=part.lineno))
                parts.append(nodes.TemplateData(text, lineno=part.lineno))
        node.nodes = parts
        return node


def _call(name: str, node: nodes.Node, *arguments: nodes.Node) -> nodes.Call:
    function = nodes.Name(name, "load", lineno=node.lineno)
    for argument in arguments:
        argument.lineno = argument.lineno or node.lineno
    return nodes.Call(function, list(arguments), [], None, None, lineno=node.lineno)


class Template:
    """A compiled template. Raises :class:`InputError`, with the line, when ``source`` is no template.

    ``variables`` are the names it reads. Compiling takes about a millisecond, rendering some 10
    microseconds.
    """

    def __init__(self, source: str, where: str = "template") -> None:
        if len(source) > LONGEST:
            raise InputError(
                f"the template has {len(source)} characters, at most {LONGEST} are allowed",
                "Shorten it, or make several.", where,
            )  # fmt: skip
        environment = _environment()
        try:
            source.encode()
            tree = environment.parse(source)
            # First of all: whatever looks at the tree later may evaluate its constants.
            tree = _Guard(where).visit(tree)
            tree.set_environment(environment)
            variables = jinja2.meta.find_undeclared_variables(tree)
            code = environment.compile(tree)
        except jinja2.TemplateSyntaxError as error:
            raise InputError(
                f"the template is wrong: {error.message}", "See the Jinja template syntax.",
                f"{where}, line {error.lineno}",
            ) from None  # fmt: skip
        except (RecursionError, MemoryError, UnicodeError, SyntaxError, OverflowError) as error:
            raise InputError(
                f"the template cannot be compiled: {type(error).__name__}",
                "Make it simpler.",
                where,
            ) from None
        self.source = source
        self.variables = frozenset(variables) - frozenset(environment.globals)
        self._template = jinja2.Template.from_code(environment, code, dict(environment.globals))

    def parts(self, variables: Mapping[str, Any], key: str = "", seed: int = 0, limit: int = OUTPUT) -> tuple[str, ...]:
        """Render and return the texts between the separators. Raises :class:`TemplateFailure`.

        ``key`` and ``seed`` decide the draws of ``choice``; ``limit`` is in characters.
        """
        budget = _Budget(limit, seed, key)
        pieces: list[str] = []
        size = 0
        try:
            context = self._template.new_context({**variables, "aya_budget": budget})
            for piece in self._template.root_render_func(context):
                pieces.append(piece)
                size += len(piece)
                if size > limit + LONGEST:
                    raise TemplateFailure("template_error", "the output is too long")
        except TemplateFailure:
            raise
        # A template over strange data can fail in any way that an expression can.
        except Exception as error:
            raise TemplateFailure("template_error", _said(error)) from error
        return tuple("".join(pieces).split(MARK))

    def render(self, variables: Mapping[str, Any], key: str = "", seed: int = 0, limit: int = OUTPUT) -> str:
        """Render to one text; separators are text. Raises :class:`TemplateFailure`."""
        return SEPARATOR.join(self.parts(variables, key, seed, limit))


def _said(error: Exception) -> str:
    # Python's own messages may hold addresses of objects, which differ from run to run.
    text = re.sub(r" at 0x[0-9a-f]+", "", str(error))
    return ascii(f"{type(error).__name__}: {text}"[:200])[1:-1]


@lru_cache(512)
def template(source: str, where: str = "template") -> Template:
    """Return the compiled template; compiled once per process."""
    return Template(source, where)


@lru_cache(128)
def condition(source: str, where: str = "condition") -> Callable[[Mapping[str, Any]], bool]:
    """Compile an expression over a row to a test of it. Raises as :class:`Template` does."""
    compiled = Template("{% if " + source + " %}1{% endif %}", where)

    def holds(variables: Mapping[str, Any]) -> bool:
        return compiled.render(variables) == "1"

    return holds
