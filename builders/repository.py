"""Dataset repositories on the Hugging Face Hub: pin a commit, list its files, bring them here.

:func:`open_repository` asks once which commit a branch stands at; everything after that names the
commit, so a branch that moves during a build changes nothing. :func:`fetch` brings one file into a
folder where files are named by their content: a file that did not change between two commits is
read once. :func:`stream` reads only the bytes that a caller asks for.

The protocol (names, URLs, tokens, sessions, proxies, offline mode) is huggingface_hub's. Retrying
and resuming are done here: ``hf_hub_download`` of 2.x writes to a name that is unique to the call
and deletes it on failure (huggingface_hub pull request 4228), so that a killed download starts at
byte 0, and its waits are not the caller's to bound. Here a partial file is kept under its content's
name and the next request asks for the rest by ``Range``; a byte that arrived is not asked for
again. Plain HTTP is used for files in Xet storage too (the Hub serves both), so HF_ENDPOINT always
decides where the bytes come from. No telemetry: the user agent is the word ``aya-data``.

Cost: one request per repository, one per 1,000 files, one per file; memory is one network chunk.
"""

from __future__ import annotations

import contextlib
import difflib
import email.utils
import fcntl
import fnmatch
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeVar, cast
from urllib.parse import quote, urljoin, urlsplit

from aya_data.core import durable
from aya_data.core.errors import (
    BuildError,
    CorruptPart,
    HubUnreachable,
    InputError,
    NotFound,
    WorkspaceUnusable,
)

if TYPE_CHECKING:
    import httpx2

__all__ = [
    "ALIASES",
    "KNOWN",
    "Backoff",
    "RemoteFile",
    "Repository",
    "fetch",
    "location",
    "open_repository",
    "stream",
]

ALIASES: Mapping[str, str] = {"CohereForAI": "CohereLabs", "CohereLabs": "CohereForAI"}
"""Two names of one namespace: it was renamed in 2025, and mirrors may know only one of them."""

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
COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|git:[0-9a-f]{40}")
NAME = re.compile(r"(?!.*\.\.)\w[\w.-]*(?:/\w[\w.-]*)?", re.ASCII)
SUFFIX = re.compile(r"(?:\.[A-Za-z0-9]{1,10}){1,2}$")
SECRET = re.compile(r"hf_[A-Za-z0-9]+|(?<=://)[^/@\s]+@|(?i:bearer )\S+|\?\S+")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository at its pinned commit.

    ``path`` is the path in the repository, ``size`` its bytes, ``digest`` ``sha256:…`` of the
    content for files in large-file storage and ``git:…`` (SHA-1 of the git blob) for all others.
    """

    path: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Repository:
    """A dataset repository at one commit.

    ``id`` is the name that the Hub calls it by now, ``revision`` what was asked for (branch, tag or
    commit), ``commit`` its 40 hexadecimal digits, ``files`` sorted by path.
    """

    id: str
    revision: str
    commit: str
    endpoint: str
    files: tuple[RemoteFile, ...]
    type: str = "dataset"


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to insist: ``first``, twice that, four times that … at most ``longest`` seconds.

    ``attempts`` counts tries in a row that brought nothing new; a download that moves on, however
    slowly, starts counting afresh. A server that says when to come back is obeyed instead of the
    schedule. The default gives up after 1 + 2 + 4 + 8 seconds of waiting, so a machine without
    network is told so within 15 seconds, and one whose packets are dropped within 65.
    """

    attempts: int = 5
    first: float = 1.0
    longest: float = 30.0
    sleep: Callable[[float], None] = time.sleep

    def wait(self, failures: int, asked: float | None) -> float:
        """Return the seconds to wait after ``failures`` tries in a row."""
        scheduled = min(self.longest, self.first * 2.0 ** (failures - 1))
        return scheduled if asked is None else asked


def open_repository(
    repo_id: str,
    revision: str = "main",
    *,
    cache: Path,
    patterns: Sequence[str] = (),
    aliases: Mapping[str, str] = ALIASES,
    backoff: Backoff = Backoff(),
) -> Repository:
    """Pin ``revision`` of the dataset ``repo_id`` to a commit and list its files.

    ``patterns`` are globs over paths, as the Hub's ``allow_patterns``: ``*`` also matches ``/``.
    The listing of a commit never changes, so it is kept in ``cache``; a revision that already is a
    commit then costs no request at all, and works without network.

    Raises :class:`NotFound` for an unknown repository, revision or pattern, :class:`InputError`
    where access is refused, :class:`HubUnreachable` when the Hub does not answer.
    """
    if not NAME.fullmatch(repo_id):
        raise InputError(f"{repo_id!r} is not the name of a Hub dataset", "Write owner/name.")
    endpoint = _endpoint()
    names = [repo_id]
    owner, slash, rest = repo_id.partition("/")
    if slash and owner in aliases:
        names.append(f"{aliases[owner]}/{rest}")
    if COMMIT.fullmatch(revision):
        for name in names:
            known = _recall(cache, endpoint, name, revision)
            if known is not None:
                return _matching(Repository(name, revision, revision, endpoint, known), patterns)
    true_name, commit = _pin(endpoint, names, revision, backoff)
    files = _recall(cache, endpoint, true_name, commit)
    if files is None:
        files = _list(endpoint, true_name, commit, revision, backoff)
        content = [[file.path, file.size, file.digest] for file in files]
        durable.write_json(_listing(cache, endpoint, true_name, commit), content)
    return _matching(Repository(true_name, revision, commit, endpoint, files), patterns)


def location(file: RemoteFile, folder: Path) -> Path:
    """Return where :func:`fetch` puts ``file``: named by content, with the suffix of its path."""
    suffix = SUFFIX.search(PurePosixPath(file.path).name)
    return folder / (file.digest.replace(":", "-") + (suffix[0].lower() if suffix else ""))


def fetch(
    repository: Repository,
    file: RemoteFile,
    folder: Path,
    *,
    backoff: Backoff = Backoff(),
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Bring ``file`` into ``folder`` and return its path; its size and digest have been checked.

    A file that is already there is hashed (2 GB/s on one core, measured) and not asked for. What an
    earlier call received, killed or not, is kept and continued. Two processes that want one file
    take turns. ``progress`` receives the number of new bytes as they come.

    Raises :class:`HubUnreachable`, :class:`InputError` where access is refused,
    :class:`CorruptPart` when what arrives twice does not match its digest, and
    :class:`WorkspaceUnusable` when the folder cannot be written.
    """
    target = location(file, folder)
    try:
        if not _intact(target, file):
            durable.make_folder(folder)
            partial = target.with_name(target.name + ".incomplete")
            with _claimed(partial) as handle:
                # Whoever held the claim before may have finished the file meanwhile.
                if not _intact(target, file):
                    _complete(repository, file, partial, handle, backoff, progress)
                    durable.replace(partial, target)
                else:
                    durable.remove(partial)
    except OSError as error:
        raise WorkspaceUnusable(str(target), error.strerror or str(error)) from error
    return target


def stream(
    repository: Repository,
    file: RemoteFile,
    folder: Path,
    *,
    backoff: Backoff = Backoff(),
    block: int = 1 << 20,
) -> BinaryIO:
    """Open ``file`` for reading and seeking, asking the Hub only for the ranges that are read.

    For Parquet footers and single row groups. Reads are at least ``block`` bytes long and are
    retried like :func:`fetch`; parts of a file cannot be checked against its digest. A file that
    :func:`fetch` has brought is opened from ``folder``.
    """
    target = location(file, folder)
    if target.is_file() and target.stat().st_size == file.size:
        return open(target, "rb")
    return cast(BinaryIO, io.BufferedReader(_Ranges(repository, file, backoff), block))


# Asking and trying again.


class _Passing(Exception):
    """A failure that may pass. ``asked``: seconds that the server asks to wait."""

    def __init__(self, reason: str, asked: float | None = None) -> None:
        self.reason, self.asked = reason, asked
        super().__init__(reason)


class _Refused(Exception):
    """The Hub answered and said no."""

    def __init__(self, response: httpx2.Response) -> None:
        self.status = response.status_code
        self.code = response.headers.get("X-Error-Code", "")
        self.message = response.headers.get("X-Error-Message", "")
        super().__init__(self.status)


def _insist(
    attempt: Callable[[], T], what: str, backoff: Backoff, received: Callable[[], int] = lambda: 0
) -> T:
    """Call ``attempt`` until it returns; ``received`` tells how far it has come."""
    failures = 0
    while True:
        before = received()
        try:
            return attempt()
        except _Passing as trouble:
            failures = 1 if received() > before else failures + 1
            if failures >= backoff.attempts:
                tries = "1 attempt" if failures == 1 else f"{failures} attempts"
                raise HubUnreachable(what, f"{trouble.reason} ({tries})") from None
            if trouble.asked is not None and trouble.asked > LONGEST_ASKED:
                reason = f"{trouble.reason}, and it asks to wait {trouble.asked:.0f} seconds"
                raise HubUnreachable(what, reason) from None
            backoff.sleep(backoff.wait(failures, trouble.asked))


@contextlib.contextmanager
def _request(url: str, what: str, headers: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Send one GET and yield the answer, its body unread. Network trouble raises `_Passing`."""
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
        raise _Passing(_plain(error)) from None


def _check(response: httpx2.Response) -> None:
    status = response.status_code
    # A signed storage address may have run out; the next try asks the Hub for a new one.
    elsewhere = bool(response.history) and response.url.netloc != response.history[0].url.netloc
    if status in (408, 416, 425, 429) or status >= 500 or (status >= 400 and elsewhere):
        raise _Passing(f"HTTP {status}", _asked(response))
    if not response.is_success:
        raise _Refused(response)


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


def _endpoint() -> str:
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").strip().rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError("HF_ENDPOINT is not a web address", "Write https://host, or unset it.")
    if "@" in parts.netloc:
        # The endpoint is written to locks and errors; a password in it would be, too.
        raise InputError("HF_ENDPOINT holds a user name or password", "Use HF_TOKEN instead.")
    return endpoint


def _json(url: str, what: str, backoff: Backoff) -> tuple[Any, str | None]:
    """Return the JSON at ``url`` and the address of the next page."""

    def attempt() -> tuple[Any, str | None]:
        with _request(url, what) as response:
            response.read()
            following = response.links.get("next", {}).get("url")
            try:
                return response.json(), following
            except ValueError:
                reason = "the answer is not JSON, so HF_ENDPOINT or a proxy is not a Hub"
                raise HubUnreachable(what, reason) from None

    return _insist(attempt, what, backoff)


# Pinning and listing.


def _pin(endpoint: str, names: Sequence[str], revision: str, backoff: Backoff) -> tuple[str, str]:
    """Return the Hub's present name of the repository and the commit of ``revision``."""
    refusals: list[_Refused] = []
    for name in names:
        what = f"{name}@{revision}"
        url = f"{endpoint}/api/datasets/{name}/revision/{quote(revision, safe='')}?expand=sha"
        try:
            answer, _ = _json(url, what, backoff)
        except _Refused as refused:
            refusals.append(refused)
            if _is_missing(refused):
                continue
            raise _refusal(refused, endpoint, name, revision) from None
        if not isinstance(answer, dict) or not COMMIT.fullmatch(str(answer.get("sha"))):
            raise HubUnreachable(what, "the answer names no commit")
        true_name = str(answer.get("id") or name)
        return (true_name if NAME.fullmatch(true_name) else name), str(answer["sha"])
    raise _refusal(refusals[0], endpoint, names[0], revision) from None


def _list(
    endpoint: str, name: str, commit: str, revision: str, backoff: Backoff
) -> tuple[RemoteFile, ...]:
    url: str | None = f"{endpoint}/api/datasets/{name}/tree/{commit}?recursive=true&expand=false"
    files: dict[str, RemoteFile] = {}
    seen: set[str] = set()
    what = f"the file list of {name}@{revision}"
    while url is not None and url not in seen:
        seen.add(url)
        try:
            page, following = _json(url, what, backoff)
        except _Refused as refused:
            raise _refusal(refused, endpoint, name, revision) from None
        for entry in page:
            if entry.get("type") == "file":
                file = _remote_file(entry, name)
                files[file.path] = file
        url = None if following is None else _same_origin(urljoin(url, following), endpoint)
    return tuple(files[path] for path in sorted(files))


def _same_origin(url: str, endpoint: str) -> str:
    """Return ``url`` at ``endpoint``: a mirror may pass on the Hub's own addresses, and the token
    must not go elsewhere."""
    parts, home = urlsplit(url), urlsplit(endpoint)
    return parts._replace(scheme=home.scheme, netloc=home.netloc).geturl()


def _remote_file(entry: Mapping[str, Any], name: str) -> RemoteFile:
    large = entry.get("lfs")
    path = str(entry["path"])
    # A path is used as a name only, but readers show it and may join it: it must stay inside.
    if path.startswith("/") or "\\" in path or "\0" in path or ".." in path.split("/"):
        raise InputError(f"the Hub dataset {name} has a file with an unsafe path {path!r}")
    digest = f"sha256:{large['oid']}" if large else f"git:{entry['oid']}"
    if not DIGEST.fullmatch(digest):
        raise InputError(f"the Hub dataset {name} has a file {path!r} without a valid digest")
    return RemoteFile(path, int(large["size"] if large else entry["size"]), digest)


def _matching(repository: Repository, patterns: Sequence[str]) -> Repository:
    if not patterns:
        return repository
    wanted = tuple(
        file
        for file in repository.files
        if any(fnmatch.fnmatchcase(file.path, pattern) for pattern in patterns)
    )
    if not wanted:
        kind = f"file in {repository.id}@{repository.commit[:12]} that matches"
        raise NotFound(kind, " ".join(patterns), [file.path for file in repository.files])
    return Repository(
        repository.id, repository.revision, repository.commit, repository.endpoint, wanted
    )


def _listing(cache: Path, endpoint: str, name: str, commit: str) -> Path:
    host = hashlib.sha256(endpoint.encode()).hexdigest()[:8]
    return cache / f"{name.replace('/', '--')}-{host}-{commit}.json"


def _recall(cache: Path, endpoint: str, name: str, commit: str) -> tuple[RemoteFile, ...] | None:
    try:
        content = json.loads(_listing(cache, endpoint, name, commit).read_bytes())
        return tuple(RemoteFile(str(path), int(size), str(sha)) for path, size, sha in content)
    except (OSError, ValueError, TypeError):
        return None  # absent or torn: the Hub is asked again


# What a refusal means.


def _is_missing(refused: _Refused) -> bool:
    """Whether the repository is absent, or private and so shown as absent."""
    if refused.code:
        return refused.code == "RepoNotFound"
    return refused.status == 404 or (refused.status == 401 and not _is_bad_token(refused))


def _is_bad_token(refused: _Refused) -> bool:
    return refused.message.startswith("Invalid credentials")


def _refusal(
    refused: _Refused, endpoint: str, name: str, revision: str, path: str = ""
) -> InputError | BuildError:
    page = f"{endpoint}/datasets/{name}"
    if refused.code == "GatedRepo":
        account = (
            "with the account of HF_TOKEN"
            if _has_token()
            else "and set HF_TOKEN to a token of that account"
        )
        return InputError(
            f"the Hub dataset {name} is gated",
            f"Accept its terms at {page} {account}, then run again.",
        )
    if _is_bad_token(refused):
        return InputError(
            "the Hub refuses HF_TOKEN",
            "Make a new one at https://huggingface.co/settings/tokens; public datasets need none.",
        )
    if refused.code == "RevisionNotFound":
        return NotFound(f"revision of {name}", revision, _branches(endpoint, name))
    if refused.code == "EntryNotFound":
        return NotFound(f"file in {name}@{revision[:12]}", path)
    if _is_missing(refused):
        return NotFound("Hub dataset", name, _neighbours(endpoint, name), _private())
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


def _neighbours(endpoint: str, name: str) -> list[str]:
    """Return the nearest names of the same owner and of the built-in sources, or none."""
    owner = name.partition("/")[0]
    names = set(KNOWN)
    for answer in _suggestions(f"{endpoint}/api/datasets?author={quote(owner)}&limit=1000", list):
        if isinstance(answer, dict):
            names.add(str(answer.get("id", "")))
    lowered = {known.lower(): known for known in sorted(names)}
    return [lowered[near] for near in difflib.get_close_matches(name.lower(), lowered, n=1)]


def _branches(endpoint: str, name: str) -> list[str]:
    answer = _suggestions(f"{endpoint}/api/datasets/{name}/refs", dict)
    return [
        str(reference["name"])
        for kind in ("branches", "tags")
        for reference in answer.get(kind, ())
    ]


def _suggestions(url: str, kind: type[T]) -> T:
    """Ask once for something that only makes an error better; nothing if it cannot be had."""
    try:
        answer, _ = _json(url, "suggestions", Backoff(attempts=1))
    except (_Refused, HubUnreachable):
        return kind()
    return answer if isinstance(answer, kind) else kind()


# Bringing bytes here.


@contextlib.contextmanager
def _claimed(partial: Path) -> Iterator[IO[bytes]]:
    """Open ``partial`` for appending, as the only process that does.

    The lock ends with the process, whatever ends it. Where a file system does not know or honour
    it, two writers spoil the partial file, which its digest then tells.
    """
    while True:
        handle = open(partial, "ab")  # noqa: SIM115 - closed below on both ways out
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            if os.fstat(handle.fileno()).st_ino == partial.stat().st_ino:
                break
        except FileNotFoundError:
            pass
        handle.close()  # the one before finished it and renamed it away
    with handle:
        yield handle


def _complete(
    repository: Repository,
    file: RemoteFile,
    partial: Path,
    handle: IO[bytes],
    backoff: Backoff,
    progress: Callable[[int], None] | None,
) -> None:
    """Append to ``partial`` what is missing, check all of it and make it durable."""
    what = f"{repository.id}@{repository.commit[:12]}/{file.path}"
    damaged = 0
    while True:
        try:
            _insist(
                lambda: _receive(repository, file, handle, what, progress),
                what,
                backoff,
                lambda: os.fstat(handle.fileno()).st_size,
            )
        except _Refused as refused:
            raise _refusal(
                refused, repository.endpoint, repository.id, repository.commit, file.path
            ) from None
        found = _digest(partial, file)
        if found == file.digest:
            os.fsync(handle.fileno())
            return
        damaged += 1
        handle.truncate(0)
        # The first time it may be an old partial file that a power cut spoiled.
        if damaged == 2:
            raise CorruptPart(what, f"what arrives is {found}", file.digest)


def _receive(
    repository: Repository,
    file: RemoteFile,
    handle: IO[bytes],
    what: str,
    progress: Callable[[int], None] | None,
) -> None:
    """Ask once for the bytes that ``handle`` lacks and append what comes."""
    start = os.fstat(handle.fileno()).st_size
    if start > file.size:
        handle.truncate(0)
        start = 0
    if start == file.size:
        return
    headers = {"range": f"bytes={start}-"} if start else {}
    have = start
    with _request(_address(repository, file), what, headers) as response:
        if start and not _starts_at(response, start):
            handle.truncate(0)  # the whole file comes, not the rest
            have = 0
        try:
            for chunk in response.iter_bytes():
                handle.write(chunk[: file.size - have])
                have += len(chunk)
                if progress is not None:
                    progress(len(chunk))
                if have > file.size:
                    break
        finally:
            # Inside, so that a broken connection leaves every byte that came in the file.
            handle.flush()
    if have < file.size:
        raise _Passing(f"the connection ended after {have} of {file.size} bytes")


def _starts_at(response: httpx2.Response, start: int) -> bool:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status_code == 206 and found is not None and int(found[1]) == start


def _address(repository: Repository, file: RemoteFile) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(
        repository.id,
        file.path,
        repo_type=repository.type,
        revision=repository.commit,
        endpoint=repository.endpoint,
    )


def _intact(path: Path, file: RemoteFile) -> bool:
    """Whether ``path`` holds ``file``; a file that is there and differs is removed."""
    if not path.is_file():
        return False
    if path.stat().st_size == file.size and _digest(path, file) == file.digest:
        return True
    durable.remove(path)
    return False


def _digest(path: Path, file: RemoteFile) -> str:
    kind = file.digest.partition(":")[0]
    if kind == "sha256":
        hasher = hashlib.sha256()
    else:
        hasher = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as handle:
        for chunk in iter(lambda: handle.read(1 << 20), b""):
            hasher.update(chunk)
    return f"{kind}:{hasher.hexdigest()}"


class _Ranges(io.RawIOBase):
    """A remote file as a seekable raw stream: each read is one request for its range."""

    def __init__(self, repository: Repository, file: RemoteFile, backoff: Backoff) -> None:
        self._repository, self._file, self._backoff = repository, file, backoff
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise ValueError("cannot seek before the start")
        self._at = base + offset
        return self._at

    def readall(self) -> bytes:
        # The inherited one would send a request for every 8 KiB.
        rest = bytearray(max(0, self._file.size - self._at))
        self.readinto(rest)
        return bytes(rest)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._file.size - self._at)
        if wanted <= 0:
            return 0
        repository, file, have = self._repository, self._file, 0
        what = f"{repository.id}@{repository.commit[:12]}/{file.path}"

        def attempt() -> None:
            nonlocal have
            first, last = self._at + have, self._at + wanted - 1
            asked = {"range": f"bytes={first}-{last}"}
            with _request(_address(repository, file), what, asked) as response:
                if not _starts_at(response, first) and (first or response.status_code != 200):
                    raise HubUnreachable(what, "the server does not serve ranges")
                for chunk in response.iter_bytes():
                    piece = chunk[: wanted - have]
                    view[have : have + len(piece)] = piece
                    have += len(piece)
                    if have == wanted and response.status_code == 200:
                        return  # the server ignores ranges and goes on to the end of the file
            if have == wanted:
                return
            raise _Passing(f"the connection ended after {have} of {wanted} bytes")

        try:
            _insist(attempt, what, self._backoff, lambda: have)
        except _Refused as refused:
            raise _refusal(
                refused, repository.endpoint, repository.id, repository.commit, file.path
            ) from None
        self._at += wanted
        return wanted
