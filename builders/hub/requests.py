"""Requests to the Hugging Face Hub: asking, trying again, and what a refusal means.

Sessions, tokens, proxies and offline mode are huggingface_hub's. :func:`insist` repeats what may pass
(a broken connection, 408, 429, 5xx) as a :class:`Backoff` says; :func:`refusal` turns what will not
pass into an error that says what to do about it. No error holds a token or an address's query.
"""

from __future__ import annotations

import contextlib
import difflib
import email.utils
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

from aya_data.core.errors import BuildError, HubUnreachable, InputError, NotFound

if TYPE_CHECKING:
    import httpx2

__all__ = [
    "KNOWN",
    "USUAL",
    "Backoff",
    "Passing",
    "Refused",
    "ask",
    "hub_endpoint",
    "insist",
    "is_missing",
    "refusal",
    "request",
]

KNOWN = (
    "CohereLabs/aya_collection",
    "CohereLabs/aya_collection_language_split",
    "CohereLabs/aya_dataset",
    "CohereLabs/aya_evaluation_suite",
    "CohereLabs/xP3x",
    "OpenAssistant/oasst1",
    "OpenAssistant/oasst2",
    "databricks/databricks-dolly-15k",
)
"""Repositories that the built-in sources read; used to suggest a name."""

LONGEST_ASKED = 600.0  # seconds; the Hub's own rate limits are windows of 300
SECRET = re.compile(r"hf_[A-Za-z0-9]+|(?<=://)[^/@\s]+@|(?i:bearer )\S+|\?\S+")

T = TypeVar("T")
Kind = Literal["dataset", "model"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to insist: ``first``, twice that, four times that … at most ``longest`` seconds.

    ``attempts`` counts tries in a row that brought nothing new; a download that moves on, however
    slowly, starts counting afresh. A server that says when to come back is obeyed instead of the
    schedule. The default gives up after 1 + 2 + 4 + 8 seconds of waiting, so a machine without
    network is told so within 15 seconds, and one whose packets are dropped within 65. Whoever wants
    to know sooner, or to insist longer, sets the environment variable ``AYA_DATA_HUB_ATTEMPTS``,
    which stands for ``attempts`` where the caller says none.
    """

    attempts: int | None = None
    first: float = 1.0
    longest: float = 30.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, failures: int, asked: float | None) -> float:
        """Return the seconds to wait after ``failures`` tries in a row."""
        scheduled = min(self.longest, self.first * 2.0 ** (failures - 1))
        return scheduled if asked is None else asked

    def enough(self, failures: int) -> bool:
        """Whether so many failures in a row are enough. Raises :class:`InputError`."""
        return failures >= (_attempts() if self.attempts is None else self.attempts)


USUAL = Backoff()


def _attempts() -> int:
    text = os.environ.get("AYA_DATA_HUB_ATTEMPTS") or "5"
    if not re.fullmatch(r"[1-9][0-9]{0,2}", text, re.ASCII):
        raise InputError(f"AYA_DATA_HUB_ATTEMPTS is {text!r}", "Set it to a number from 1 to 999, or unset it.")
    return int(text)


class Passing(Exception):
    """A failure that may pass. ``asked``: seconds that the server asks to wait."""

    def __init__(self, reason: str, asked: float | None = None) -> None:
        self.reason, self.asked = reason, asked
        super().__init__(reason)


class Refused(Exception):
    """The Hub answered and said no."""

    def __init__(self, response: httpx2.Response) -> None:
        self.status = response.status_code
        self.code = response.headers.get("X-Error-Code", "")
        self.message = response.headers.get("X-Error-Message", "")
        super().__init__(self.status)


def insist(attempt: Callable[[], T], what: str, backoff: Backoff, received: Callable[[], int] = lambda: 0) -> T:
    """Call ``attempt`` until it returns; ``received`` tells how far it has come."""
    failures = 0
    while True:
        before = received()
        try:
            return attempt()
        except Passing as trouble:
            failures = 1 if received() > before else failures + 1
            if backoff.enough(failures):
                tries = "1 attempt" if failures == 1 else f"{failures} attempts"
                raise HubUnreachable(what, f"{trouble.reason} ({tries})") from None
            if trouble.asked is not None and trouble.asked > LONGEST_ASKED:
                reason = f"{trouble.reason}, and it asks to wait {trouble.asked:.0f} seconds"
                raise HubUnreachable(what, reason) from None
            backoff.sleep(backoff.wait(failures, trouble.asked))


@contextlib.contextmanager
def request(url: str, what: str, headers: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Send one GET and yield the answer, its body unread. Network trouble raises `Passing`."""
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]

    sent = build_hf_headers(headers={"user-agent": "aya-data", "accept-encoding": "identity"})
    if not sent.get("authorization", "").isascii():
        raise InputError("HF_TOKEN is not a token of the Hub", "Set it anew, or unset it.")
    timeout = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    try:
        with get_session().stream(
            "GET", url, headers={**sent, **(headers or {})}, timeout=timeout, follow_redirects=True
        ) as response:
            _check(response)
            yield response
    except OfflineModeIsEnabled:
        raise HubUnreachable(what, "HF_HUB_OFFLINE is set") from None
    except (httpx2.UnsupportedProtocol, httpx2.TooManyRedirects, httpx2.InvalidURL) as error:
        raise HubUnreachable(what, _plain(error)) from None
    except httpx2.RequestError as error:
        raise Passing(_plain(error)) from None


def _check(response: httpx2.Response) -> None:
    status = response.status_code
    # A signed storage address may have run out; the next try asks the Hub for a new one.
    elsewhere = bool(response.history) and response.url.netloc != response.history[0].url.netloc
    if status in (408, 416, 425, 429) or status >= 500 or (status >= 400 and elsewhere):
        raise Passing(f"HTTP {status}", _asked(response))
    if not response.is_success:
        raise Refused(response)


def _asked(response: httpx2.Response) -> float | None:
    """Return the seconds that ``Retry-After`` (RFC 9110, 10.2.3) or the Hub's rate limit name."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    if text:
        try:
            moment = email.utils.parsedate_to_datetime(text)
        except ValueError:
            return None
        return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    return None


def _plain(error: Exception) -> str:
    """Return an error's reason as one line without secrets or addresses' queries."""
    text = re.sub(r"^\[Errno -?\d+\] |^\[\w+: \w+\] ", "", str(error) or type(error).__name__)
    text = SECRET.sub("…", " ".join(text.split()))[:200]
    return text[:1].lower() + text[1:]


def hub_endpoint() -> str:
    """Return the address of the Hub: ``HF_ENDPOINT``, or huggingface.co. Raises :class:`InputError`."""
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").strip().rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError("HF_ENDPOINT is not a web address", "Write https://host, or unset it.")
    if "@" in parts.netloc:
        # The endpoint is written to locks and errors; a password in it would be, too.
        raise InputError("HF_ENDPOINT holds a user name or password", "Use HF_TOKEN instead.")
    return endpoint


def ask(url: str, what: str, backoff: Backoff) -> tuple[Any, str | None]:
    """Return the JSON at ``url`` and the address of the next page."""

    def attempt() -> tuple[Any, str | None]:
        with request(url, what) as response:
            response.read()
            following = response.links.get("next", {}).get("url")
            try:
                return response.json(), following
            except ValueError:
                reason = "the answer is not JSON, so HF_ENDPOINT or a proxy is not a Hub"
                raise HubUnreachable(what, reason) from None

    return insist(attempt, what, backoff)


# What a refusal means.


def is_missing(refused: Refused) -> bool:
    """Whether the repository is absent, or private and so shown as absent."""
    if refused.code:
        return refused.code == "RepoNotFound"
    return refused.status == 404 or (refused.status == 401 and not _is_bad_token(refused))


def _is_bad_token(refused: Refused) -> bool:
    return refused.message.startswith("Invalid credentials")


def refusal(
    refused: Refused, endpoint: str, name: str, revision: str, path: str = "", *, kind: Kind = "dataset"
) -> InputError | BuildError:
    """Return the error that a refusal means; asks the Hub once for the nearest name where one is wrong."""
    page = f"{endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
    if refused.code == "GatedRepo":
        account = "with the account of HF_TOKEN" if _has_token() else "and set HF_TOKEN to a token of that account"
        return InputError(
            f"the Hub {kind} {name} is gated",
            f"Accept its terms at {page} {account}, then run again.",
        )
    if _is_bad_token(refused):
        return InputError(
            "the Hub refuses HF_TOKEN",
            "Make a new one at https://huggingface.co/settings/tokens; what is public needs none.",
        )
    if refused.code == "RevisionNotFound":
        return NotFound(f"revision of {name}", revision, _branches(endpoint, name, kind))
    if refused.code == "EntryNotFound":
        return NotFound(f"file in {name}@{revision[:12]}", path)
    if is_missing(refused):
        return NotFound(f"Hub {kind}", name, _neighbours(endpoint, name, kind), _private())
    if refused.status in (401, 403):
        return InputError(f"the Hub does not let you read {name}", _private())
    return HubUnreachable(f"{name}@{revision[:12]}", f"HTTP {refused.status}")


def _has_token() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())


def _private() -> str:
    if _has_token():
        return "If it is private, HF_TOKEN must belong to an account that may read it."
    return "If it is private, set HF_TOKEN to a token of an account that may read it."


def _neighbours(endpoint: str, name: str, kind: Kind) -> list[str]:
    """Return the nearest names of the same owner and of the built-in sources, or none."""
    owner = name.partition("/")[0]
    names = set(KNOWN if kind == "dataset" else ())
    for answer in _suggestions(f"{endpoint}/api/{kind}s?author={quote(owner)}&limit=1000", list):
        if isinstance(answer, dict):
            names.add(str(answer.get("id", "")))
    lowered = {known.lower(): known for known in sorted(names)}
    return [lowered[near] for near in difflib.get_close_matches(name.lower(), lowered, n=1)]


def _branches(endpoint: str, name: str, kind: Kind) -> list[str]:
    answer = _suggestions(f"{endpoint}/api/{kind}s/{name}/refs", dict)
    return [str(reference["name"]) for which in ("branches", "tags") for reference in answer.get(which, ())]


def _suggestions(url: str, kind: type[T]) -> T:
    """Ask once for something that only makes an error better; nothing if it cannot be had."""
    try:
        answer, _ = ask(url, "suggestions", Backoff(attempts=1))
    except (Refused, HubUnreachable):
        return kind()
    return answer if isinstance(answer, kind) else kind()
