"""The reference of a spec, made from its models: one field as text, all of them as JSON Schema.

The frame and the plugins describe their own fields; nothing here repeats them.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from importlib.resources import files
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aya_data.core.errors import NotFound
from aya_data.core.fields import fields_at, fields_of, kind_of, models_at, models_of
from aya_data.core.language import LANGUAGE_SETS
from aya_data.core.policy import POLICIES, PolicySettings
from aya_data.core.registry import Registry, builtin_registry
from aya_data.core.settings import SourceReference, TypeName
from aya_data.core.spec import Frame, SourceFrame

__all__ = ["explain", "json_schema", "starter_spec", "value_text"]

DATA_FILES = ("data/starter.yaml",)

_KINDS: Final = ("builder", "filter")


def starter_spec() -> str:
    """Return the commented spec that ``aya-data init`` writes."""
    return (files("aya_data.core") / DATA_FILES[0]).read_text("utf-8")


# One field as text --------------------------------------------------------------------------------


def explain(path: str, registry: Registry | None = None) -> str:
    """Return the documentation of what stands at ``path`` of a spec.

    ``mix.caps.rows``; ``sources.*.columns`` (of every builder that has it);
    ``builder files.columns`` or ``files.columns``; ``filters.length.min_chars``, ``filter
    length.min_chars`` or ``length.min_chars``; an empty path is the whole spec. Numbers and ``*``
    stand for any item. Raises NotFound.
    """
    registry = registry or builtin_registry()
    steps = [step for step in path.replace(" ", ".").split(".") if step]
    if not steps:
        return _model_text("spec", Frame)
    head, rest = steps[0], steps[1:]
    if head in _KINDS or head == "filters":
        kind = "filter" if head == "filters" else head
        if rest and (rest[0].isdigit() or rest[0] == "*"):
            rest = rest[1:]
        if not rest:
            names = ", ".join(registry.names(kind))
            about = _field_text("filters", Frame.model_fields["filters"]) if kind == "filter" else ""
            return f"{about}\n  {kind}s: {names}".strip("\n")
        model = registry.settings(kind, rest[0])
        return _inside(f"{kind} {rest[0]}", model, rest[1:], _about(registry, kind, rest[0]))
    if head == "sources" and rest:
        return _source_text(rest[1:], registry)
    if head == "policy" and rest:
        return _inside("policy", PolicySettings, rest)
    if head not in Frame.model_fields:
        plugins = {kind: registry.names(kind) for kind in _KINDS}
        found = [explain(f"{kind} {path}", registry) for kind, names in plugins.items() if head in names]
        if not found:
            known = {*fields_of(Frame), *(name for names in plugins.values() for name in names)}
            raise NotFound("key of the spec, builder or filter", head, known)
        return "\n\n".join(found)
    text = _inside("", Frame, steps)
    if head == "sources":
        text += f"\n{_keys_text(SourceFrame)}\n  builders: {', '.join(registry.names('builder'))}"
    if head == "policy":
        text += f"\n{_keys_text(PolicySettings)}"
    return text


def _source_text(steps: Sequence[str], registry: Registry) -> str:
    if not steps:
        names = ", ".join(registry.names("builder"))
        return f"{_model_text('sources.*', SourceFrame)}\n  builders: {names}"
    if steps[0] in SourceFrame.model_fields:
        return _inside("sources.*", SourceFrame, steps)
    texts, known = [], set(SourceFrame.model_fields)
    for name in sorted(registry.builtin("builder")):
        model = registry.settings("builder", name)
        known.update(fields_of(model))
        if _reached(model, steps) is not None:
            texts.append(_inside(f"builder {name}", model, steps))
    if not texts:
        raise NotFound("key of a source", ".".join(steps), known)
    return "\n\n".join(texts)


def _inside(prefix: str, model: type[BaseModel], steps: Sequence[str], about: str | None = None) -> str:
    """Return the text of the field at ``steps`` in ``model``, or of the model itself."""
    if not steps:
        return _model_text(prefix, model, about)
    joint = "." if prefix and " " not in prefix else ": " if prefix else ""
    found = _reached(model, steps)
    if found is None:
        length = next(n for n in range(1, len(steps) + 1) if _reached(model, steps[:n]) is None)
        before = _reached(model, steps[: length - 1])
        walked = before[0] if before is not None else []
        known = {k for inner in models_at(model, walked) for k in fields_of(inner)}
        raise NotFound(f"key of {'.'.join(walked) or prefix or 'the spec'}", steps[length - 1], known)
    name, fields = f"{prefix}{joint}{'.'.join(found[0])}", found[1]
    if len(fields) > 1 and all(get_origin(info.annotation) is Literal for info in fields):
        values = [_type_text(info.annotation) for info in fields]
        head = f"{name}  ({_either(values)}; {_default_text(fields[0])})"
        return "\n".join([head, *(f"  {value}: {info.description or ''}" for value, info in zip(values, fields))])
    return "\n\n".join(dict.fromkeys(_field_text(name, info) for info in fields))


def _reached(model: type[BaseModel], steps: Sequence[str]) -> tuple[list[str], list[FieldInfo]] | None:
    """Return the whole path to the field at ``steps``, and the fields it may be; None where there is no such key.

    An item of a list or mapping may be left out: mix.caps.rows is mix.caps.*.rows.
    """
    found: list[FieldInfo] = []
    walked: list[str] = []
    for step in steps:
        # A name in a mapping may be any text, so the keys of its items come first.
        tries = ([*walked, "*", step], [*walked, step])
        reached = next(((path, fields) for path in tries if (fields := fields_at(model, path))), None)
        if reached is None:
            return None
        walked, found = reached
    return (walked, found) if found else None


def _about(registry: Registry, kind: str, name: str) -> str | None:
    plugin = registry.builder(name) if kind == "builder" else registry.filter(name)
    return (plugin.__doc__ or "").strip().split("\n\n")[0] or None


def _model_text(name: str, model: type[BaseModel], about: str | None = None) -> str:
    text = about or (model.__doc__ or "").strip().split("\n\n")[0]
    head = f"{name}\n  {' '.join(text.split())}" if text else name
    return f"{head}\n{_keys_text(model)}"


def value_text(info: FieldInfo) -> str:
    """Say what a field holds, and what it is by default: ``whole number; default: 32``."""
    return f"{info.title or _type_text(info.annotation, info.metadata)}; {_default_text(info)}"


def _field_text(name: str, info: FieldInfo) -> str:
    lines = [f"{name}  ({value_text(info)})"]
    if info.description:
        lines.append(f"  {info.description}")
    if limits := _limits_text([*info.metadata, *_metadata(info.annotation)]):
        lines.append(f"  Must be {limits}.")
    for model in _models_inside(info.annotation):
        lines.append(_keys_text(model))
    for example in info.examples or ():
        last = name.replace(" ", ".").split(".")[-1]
        lines.append(f"  Example: {last}: {_flow(example)}")
    return "\n".join(lines)


def _keys_text(model: type[BaseModel]) -> str:
    kind = kind_of(model)
    lines = [f"  Keys with {kind[0]}: {kind[1]}:" if kind else "  Keys:"]
    keys = fields_of(model)
    width = max(map(len, keys), default=0)
    for key, info in keys.items():
        lines.append(f"    {key:<{width}}  {info.description or ''} ({_default_text(info)})")
    return "\n".join(lines) if keys else "  It has no settings."


def _models_inside(annotation: Any) -> list[type[BaseModel]]:
    """Return the models at ``annotation`` or, for lists and mappings, of their items."""
    found = models_of(annotation)
    if not found:
        for inner in get_args(annotation):
            if inner is not Ellipsis and not isinstance(inner, (str, int)):
                found += _models_inside(inner)
    return list(dict.fromkeys(found))


def _default_text(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is None or value in ((), {}, [], "") or isinstance(value, BaseModel):
        return "optional"
    return f"default: {_flow(value)}"


def _flow(value: Any) -> str:
    """Return ``value`` in YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, (bool, type(None))):
        return json.dumps(value)
    if isinstance(value, str) and (not value or value[0] in "*&!@%`'\"[]{},#|>-?" or ": " in value):
        return "'" + value.replace("'", "''") + "'"
    return str(value)


_TYPES: Final[dict[Any, str]] = {
    str: "text",
    int: "whole number",
    float: "number",
    Decimal: "number",
    bool: "true or false",
    Any: "any value",
}


def _type_text(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    for mark in metadata:
        if isinstance(mark, TypeName):
            return mark.words
        if isinstance(mark, SourceReference):
            return f"name of a {mark.use} source" if mark.use else "name of a source"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(arguments[0], arguments[1:])
    if origin is Literal:
        return _either([str(value) for value in arguments])
    if origin in (Union, types.UnionType):
        return _either([_type_text(a) for a in arguments if a is not type(None)])
    if origin in (list, tuple, set, frozenset):
        return f"list of {_plural(_type_text(arguments[0]))}" if arguments else "list"
    if origin in (dict, Mapping):
        return f"mapping of names to {_plural(_type_text(arguments[1]))}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return _TYPES.get(annotation, "value")


def _plural(words: str) -> str:
    return f"{words}s" if words.endswith(("mapping", "number", "name")) else words


def _either(words: Sequence[str]) -> str:
    unique = list(dict.fromkeys(words))
    return " or ".join(filter(None, (", ".join(unique[:-1]), unique[-1]))) if unique else "null"


def _metadata(annotation: Any) -> list[Any]:
    """Return what is annotated to the alternatives of a union."""
    found: list[Any] = []
    if get_origin(annotation) in (Union, types.UnionType):
        for choice in get_args(annotation):
            if get_origin(choice) is Annotated:
                for mark in get_args(choice)[1:]:
                    found += mark.metadata if isinstance(mark, FieldInfo) else [mark]
    return found


def _limits_text(metadata: Iterable[Any]) -> str:
    words = []
    for mark in metadata:
        match mark:
            case annotated_types.Gt(gt=bound):
                words.append(f"greater than {bound}")
            case annotated_types.Ge(ge=bound):
                words.append(f"at least {bound}")
            case annotated_types.Lt(lt=bound):
                words.append(f"less than {bound}")
            case annotated_types.Le(le=bound):
                words.append(f"at most {bound}")
            case _:
                pass
    return " and ".join(words)


# All fields as JSON Schema ------------------------------------------------------------------------


def json_schema(registry: Registry | None = None) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a spec, with all built-in builders and filters.

    A source is checked by the settings of the builder that it names, a filter by its own.
    Builders and filters of other packages pass with any settings.
    """
    registry = registry or builtin_registry()
    definitions: dict[str, Any] = {}
    frame = _schema("frame", Frame, definitions)
    source = _schema("source", SourceFrame, definitions)
    builders = sorted(registry.builtin("builder"))
    for name in builders:
        plugin = _schema(f"builder.{name}", registry.settings("builder", name), definitions)
        plugin["properties"] = {**source["properties"], **plugin.get("properties", {})}
        definitions[f"builder.{name}"] = plugin
    source["properties"]["builder"] = {
        **source["properties"]["builder"],
        "anyOf": [{"enum": builders}, {"type": "string"}],
    }
    source.pop("additionalProperties", None)
    source["allOf"] = [
        {
            "if": {"properties": {"builder": {"const": name}}, "required": ["builder"]},
            "then": {"$ref": f"#/$defs/builder.{name}"},
        }
        for name in builders
    ]
    definitions["source"] = source
    filters = sorted(registry.builtin("filter"))
    for name in filters:
        definitions[f"filter.{name}"] = _schema(f"filter.{name}", registry.settings("filter", name), definitions)
    definitions["policy"] = _schema("policy", PolicySettings, definitions)
    properties = frame["properties"]
    overrides: dict[str, dict[str, Any]] = {
        "languages": {
            "anyOf": [
                {"enum": sorted(LANGUAGE_SETS)},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                {"type": "null"},
            ]
        },
        "policy": {"anyOf": [{"enum": sorted(POLICIES)}, {"$ref": "#/$defs/policy"}]},
        "sources": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"$ref": "#/$defs/source"},
        },
        "filters": {"type": "array", "items": _filter_schema(filters)},
        "profiles": {
            "type": "object",
            "additionalProperties": {
                "type": ["object", "null"],
                "properties": {key: True for key in properties if key != "profiles"},
                "additionalProperties": False,
            },
        },
    }
    for key, schema in overrides.items():
        properties[key] = {**{k: v for k, v in properties[key].items() if k != "title"}, **schema}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **frame,
        "title": "aya-data spec",
        "$defs": dict(sorted(definitions.items())),
    }


def _filter_schema(names: Sequence[str]) -> dict[str, Any]:
    return {
        "anyOf": [
            {"enum": list(names)},
            {"type": "string"},
            {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 1,
                "properties": {
                    name: {"anyOf": [{"$ref": f"#/$defs/filter.{name}"}, {"type": "null"}]} for name in names
                },
            },
        ]
    }


def _schema(name: str, model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of ``model``; its definitions go to ``definitions`` as ``name.Model``."""
    schema = model.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
    for inner, definition in schema.pop("$defs", {}).items():
        definitions[f"{name}.{inner}"] = definition
    return schema
