"""Conversations in the shapes that data sets have them: messages, from and value, pairs, marked text."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Sequence
from typing import Any

from aya_data.core.identity import canonical

__all__ = [
    "ROLES", "Unreadable", "alternating", "label_text", "listed", "marked_dialogue", "one_turn", "pairs",
    "structure", "text_of", "turns_of",
]  # fmt: skip

ROLES = {
    "user": "user", "human": "user", "prompter": "user", "question": "user", "instruction": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "chatgpt": "assistant", "chatbot": "assistant", "ai": "assistant", "answer": "assistant",
    "function_call": "assistant", "system": "system", "tool": "tool", "observation": "tool",
    "function": "tool", "function_response": "tool", "ipython": "tool",
}  # fmt: skip
"""What the field calls the parties of a conversation."""

LONGEST_LITERAL = 100_000
_MARK = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")


class Unreadable(Exception):
    """A record cannot become a row: what the ledger says of it."""

    def __init__(self, rule: str, value: str = "", threshold: str = "", evidence: str = "") -> None:
        self.rule, self.value, self.threshold, self.evidence = rule, value, threshold, evidence
        super().__init__(rule)


def text_of(value: Any) -> Any:
    """Return a number as text and the text parts of a content list as one; all else as it is.

    What is not text then (null, a truth value) is for the row's own checks to name.
    """
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict):
        kind = value.get("type", "text")
        if kind not in ("text", "input_text", "output_text"):
            raise Unreadable("not_text", ascii(kind)[:40], "text", "a part of a message's content")
        for name in ("text", "value", "content", "answer"):
            if isinstance(value.get(name), str):
                return value[name]
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(part, dict) for part in value):
        parts = [text_of(part) for part in value]
        if all(isinstance(part, str) for part in parts):
            return "".join(parts)
    return value


def label_text(value: Any) -> str | None:
    """Return a label as text; null stays null."""
    if value is None or isinstance(value, str):
        return value
    return canonical(value).decode("utf-8", "surrogatepass")


def structure(text: str) -> Any:
    """Read a text that holds JSON or a Python literal. Raises :class:`Unreadable`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > LONGEST_LITERAL:
        raise Unreadable("not_a_list", f"{len(text)} characters", str(LONGEST_LITERAL))
    try:
        with warnings.catch_warnings():
            # An unknown escape in somebody's list is no business of this program's warnings.
            warnings.simplefilter("ignore")
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise Unreadable("not_a_list", evidence=ascii(text[:60])[1:-1]) from error


def listed(value: Any) -> Sequence[Any]:
    """Return a list, also from a list written as text; nothing for null. Raises :class:`Unreadable`."""
    if value is None:
        return ()
    if isinstance(value, str):
        if not value.strip():
            return ()
        value = structure(value)
    if not isinstance(value, list | tuple):
        raise Unreadable("not_a_list", type(value).__name__, "list")
    return value


def one_turn(message: Any) -> tuple[str, Any]:
    """Return role and content of ``{role, content}`` or ``{from, value}``."""
    if not isinstance(message, dict):
        raise Unreadable("not_a_message", type(message).__name__, "role and content")
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value", message.get("text")))
    if not isinstance(role, str):
        raise Unreadable("unknown_role", "null" if role is None else type(role).__name__)
    # A role that nobody knows goes on as it is: the row's own checks name it.
    return ROLES.get(role.strip().lower(), role), text_of(content)


def turns_of(value: Any) -> list[tuple[str, Any]]:
    """Return the turns of a list of messages, or of its JSON text."""
    return [one_turn(message) for message in listed(value)]


def alternating(value: Any) -> list[tuple[str, Any]]:
    """Return the turns of a list of texts, the user's first."""
    return [("assistant" if n % 2 else "user", text_of(text)) for n, text in enumerate(listed(value))]


def pairs(value: Any) -> list[tuple[str, Any]]:
    """Return the turns of a list of question and answer pairs."""
    turns: list[tuple[str, Any]] = []
    for pair in listed(value):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Unreadable("not_a_pair", evidence=ascii(pair)[:80])
        turns += [("user", text_of(pair[0])), ("assistant", text_of(pair[1]))]
    return turns


def marked_dialogue(value: Any) -> list[tuple[str, Any]]:
    r"""Return the turns of a text such as ``\n\nHuman: …\n\nAssistant: …`` (Bai et al. 2022, HH-RLHF)."""
    if not isinstance(value, str):
        raise Unreadable("not_text", "null" if value is None else type(value).__name__, "string")
    marks = list(_MARK.finditer(value))
    if not marks or value[: marks[0].start()].strip():
        raise Unreadable("not_a_dialogue", evidence=ascii(value[:60])[1:-1])
    ends = [mark.start() for mark in marks[1:]] + [len(value)]
    return [
        ("user" if mark[1] == "Human" else "assistant", value[mark.end() : end].strip())
        for mark, end in zip(marks, ends, strict=True)
    ]
