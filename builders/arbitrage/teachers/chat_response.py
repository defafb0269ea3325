"""What a server says at ``/chat/completions``: a completion, a complaint, or how long to wait."""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aya_data.core.generation import ABSENT, FAILED, LENGTH, STOP, Answer

__all__ = ["Trouble", "read_complaint", "read_completion", "retry_after"]

FOREIGN: Final = {"eos": STOP, "eos_token": STOP, "end_turn": STOP, "complete": STOP, "max_tokens": LENGTH}
UNFINISHED: Final = frozenset({ABSENT, FAILED, "abort", "aborted", "cancelled", "error"})


@dataclass(frozen=True, slots=True)
class Trouble:
    """It may pass. ``busy``: whether the server says that it is asked too much; ``asked``: the seconds that it asks to
    wait."""

    reason: str
    busy: bool = False
    asked: float | None = None


def read_completion(data: bytes, key: str) -> Answer | Trouble:
    """Read one completion. Half a surrogate pair becomes U+FFFD, as broken UTF-8 does; an answer without text, as of a
    model that thought until its limit of tokens, is an empty one."""
    try:
        found = json.loads(data)
        (choice,) = found["choices"]
        message, finish = choice["message"], choice["finish_reason"]
        text = message.get("content")
        finish = finish.lower()[:64]
        if not finish or not finish.isascii() or finish in UNFINISHED:
            return Trouble("a response that says no end of the completion")
        finish = FOREIGN.get(finish, finish)
        refusal = message.get("refusal")
        if text is None and isinstance(refusal, str):
            text, finish = refusal, "refusal"
        if text is None and finish != STOP:
            text = ""
        if not isinstance(text, str):
            return Trouble("a response without text")
        if not text.isascii():
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        usage = found.get("usage")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Trouble("a response that is no completion")
    usage = usage if isinstance(usage, Mapping) else {}
    prompt, completion = (_count(usage.get(f"{what}_tokens")) for what in ("prompt", "completion"))
    return Answer(key, text, finish=finish, prompt_tokens=prompt, completion_tokens=completion)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None


def read_complaint(data: bytes) -> tuple[str, str]:
    """Return code and message of an error response, as far as it has them."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(found, Mapping):
        return "", ""
    error = found.get("error", found)
    if not isinstance(error, Mapping):
        return "", error if isinstance(error, str) else ""
    codes = (error.get(name) for name in ("code", "type"))
    message = error.get("message", error.get("detail", ""))
    return " ".join(code for code in codes if isinstance(code, str)), message if isinstance(message, str) else ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the server asks to wait; a date counts from the server's own."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII):
        return float(text)
    moment, now = _moment(text), _moment(headers.get("date", ""))
    if moment is None:
        return None
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())


def _moment(text: str) -> datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC)
