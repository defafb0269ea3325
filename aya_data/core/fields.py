"""Walking settings models: which keys there are at a path, and which values name a source.

Error messages, documentation and the check of references all ask the same models the same
questions; this module answers them from the models' annotations.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aya_data.core.settings import SourceReference

__all__ = ["fields_at", "fields_of", "kind_of", "keys_at", "models_at", "models_of", "source_references"]


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of ``model`` by the key that a spec writes."""
    return {f.alias or name: f for name, f in model.model_fields.items()}


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a value of ``annotation`` itself may be (not those inside it)."""
    return [a for a in _alternatives(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]


def models_at(model: type[BaseModel], path: Sequence[str | int]) -> list[type[BaseModel]]:
    """Return the models of what lies at ``path`` inside ``model``; dead steps are skipped."""
    annotations: list[Any] = [model]
    for step in path:
        annotations = [a for b in annotations for a in _inside(b, step)] or annotations
    return [inner for annotation in annotations for inner in models_of(annotation)]


def keys_at(model: type[BaseModel], path: Sequence[str | int]) -> dict[str, FieldInfo]:
    """Return the keys known at ``path`` inside ``model``; dead steps are skipped."""
    return {k: f for inner in models_at(model, path) for k, f in fields_of(inner).items()}


def fields_at(model: type[BaseModel], path: Sequence[str]) -> list[FieldInfo]:
    """Return the fields at ``path``: several where what holds them may be one of several models, none for no such key.

    ``*`` and numbers step into lists and mappings of any key.
    """
    annotations: list[Any] = [model]
    found: list[FieldInfo] = []
    for step in path:
        inner = [fields_of(one) for annotation in annotations for one in models_of(annotation)]
        found = [fields[step] for fields in inner if step in fields] or found
        annotations = [a for b in annotations for a in _inside(b, step)]
        if not annotations:
            return []
    return found


def kind_of(model: type[BaseModel]) -> tuple[str, str] | None:
    """Return the key that says which of several models a mapping is, and its value here: ``("engine", "vllm")``."""
    for key, info in fields_of(model).items():
        if get_origin(info.annotation) is Literal and len(get_args(info.annotation)) == 1:
            return key, str(get_args(info.annotation)[0])
    return None


def source_references(
    settings: BaseModel,
) -> Iterator[tuple[tuple[str | int, ...], str, SourceReference]]:
    """Yield (path, name, reference) of every value in ``settings`` that names a source."""
    for key, info in fields_of(type(settings)).items():
        attribute = next(n for n, f in type(settings).model_fields.items() if f is info)
        value = getattr(settings, attribute)
        yield from _references(value, info.annotation, info.metadata, (key,))


def _references(
    value: Any, annotation: Any, metadata: Sequence[Any], path: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], str, SourceReference]]:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        yield from _references(value, inner, [*metadata, *more], path)
    elif origin in (Union, types.UnionType):
        for choice in get_args(annotation):
            yield from _references(value, choice, metadata, path)
    elif isinstance(value, BaseModel):
        if value.__class__ in models_of(annotation):
            for inside, name, reference in source_references(value):
                yield (*path, *inside), name, reference
    elif isinstance(value, str):
        for mark in metadata:
            if isinstance(mark, SourceReference):
                yield path, value, mark
    elif isinstance(value, Mapping):
        for key, item in value.items():
            for inner in _inside(annotation, key):
                yield from _references(item, inner, (), (*path, key))
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(value):
            for inner in _inside(annotation, index):
                yield from _references(item, inner, (), (*path, index))


def _alternatives(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [a for choice in get_args(annotation) for a in _alternatives(choice)]
    return [annotation]


def _inside(annotation: Any, step: str | int) -> list[Any]:
    """Return the annotations of what lies one ``step`` inside a value of ``annotation``."""
    found: list[Any] = []
    for choice in _alternatives(annotation):
        origin, arguments = get_origin(choice), get_args(choice)
        if isinstance(choice, type) and issubclass(choice, BaseModel):
            info = fields_of(choice).get(str(step))
            if info is not None:
                inner = info.annotation
                if info.metadata:
                    inner = Annotated[(inner, *info.metadata)]  # type: ignore[assignment]
                found.append(inner)
        elif origin in (list, tuple, set, frozenset, Sequence) and arguments:
            if isinstance(step, int) or step == "*" or step.isdigit():
                found.append(arguments[0])
        elif origin in (dict, Mapping) and len(arguments) == 2:
            found.append(arguments[1])
    return found
