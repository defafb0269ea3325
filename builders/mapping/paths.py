"""Paths into records: ``instances[0].input``, ``translation.fra``, ``outputs[*].text``."""

from __future__ import annotations

import re
from typing import Any

from aya_data.builders.mapping.conversation import Unreadable, structure

__all__ = ["MissingColumn", "Path"]

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d{1,6}|\*)\]")


class MissingColumn(Exception):
    """A record has no column of this name."""

    def __init__(self, column: str) -> None:
        self.column = column
        super().__init__(column)


class Path:
    """A column name, or a path that starts with one.

    A column that has the very name of the path comes first, so ``en.itani`` may be either. Inside a
    column, what is missing is null; a text in the middle of a path is read as JSON or as a Python
    list, because mixed columns are often kept so. ``[*]`` takes all items of a list.
    """

    __slots__ = ("_steps", "root", "text")

    def __init__(self, text: str) -> None:
        self.text = self.root = text
        self._steps: list[str | int] = []
        start = re.match(r"[^.\[\]]+", text)
        if start and start.end() < len(text):
            steps = [*_STEP.finditer(text, start.end())]
            if "".join(step[0] for step in steps) == text[start.end() :]:
                self.root = start[0]
                self._steps = [
                    step[1] if step[1] is not None else "[*]" if step[2] == "*" else int(step[2]) for step in steps
                ]

    def read(self, fields: dict[str, Any]) -> Any:
        """Return the value in ``fields``. Raises :class:`MissingColumn` if the column is not there."""
        if self.text in fields:
            return fields[self.text]
        if self._steps and self.root in fields:
            return _walk(fields[self.root], self._steps, 0)
        raise MissingColumn(self.root)


def _walk(value: Any, steps: list[str | int], position: int) -> Any:
    for at in range(position, len(steps)):
        step = steps[at]
        if value is None:
            return None
        if isinstance(value, str):
            value = structure(value)
        if step == "[*]":
            if isinstance(value, dict):
                value = list(value.values())
            if not isinstance(value, list | tuple):
                raise Unreadable("not_a_list", type(value).__name__)
            found = [_walk(item, steps, at + 1) for item in value]
            if "[*]" in steps[at + 1 :]:
                return [item for inner in found if inner is not None for item in inner]
            return found
        if isinstance(step, int):
            if not isinstance(value, list | tuple):
                return None
            value = value[step] if step < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value
