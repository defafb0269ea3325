"""Dataset repositories on the Hugging Face Hub: pin a commit, list its files, bring them here.

:func:`open_repository` asks once which commit a branch stands at; everything after that names the
commit, so a branch that moves during a build changes nothing. :func:`fetch` brings one file into a
folder where files are named by their content: a file that did not change between two commits is
read once. :func:`stream` lets a caller read a file while it arrives there, and :func:`tail` reads
its end; whichever of them brought a byte, none of them asks for it again.

The protocol (names, URLs, tokens, sessions, proxies, offline mode) is huggingface_hub's. Retrying
and resuming are done here: ``hf_hub_download`` of 2.x writes to a name that is unique to the call
and deletes it on failure (huggingface_hub pull request 4228), so that a killed download starts at
byte 0, and its waits are not the caller's to bound. Here a partial file is kept under its content's
name and the next request asks for what is missing by ``Range`` (:mod:`aya_data.builders.hub.ranges`).
Plain HTTP is used for files in Xet storage too (the Hub serves both), so HF_ENDPOINT always decides
where the bytes come from. No telemetry: the user agent is the word ``aya-data``.

Cost: one request per repository, one per 1,000 files, one per file that is fetched, one for each 32 MB
of a file that is streamed; memory is one network chunk.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from aya_data.builders.hub.ranges import FIRST, Arriving, sweep
from aya_data.builders.hub.requests import (
    KNOWN,
    USUAL,
    Backoff,
    Refused,
    ask,
    hub_endpoint,
    is_missing,
    refusal,
)
from aya_data.core import durable
from aya_data.core.errors import CorruptPart, HubUnreachable, InputError, NotFound

__all__ = [
    "ALIASES",
    "KNOWN",
    "Arriving",
    "Backoff",
    "RemoteFile",
    "Repository",
    "fetch",
    "location",
    "open_repository",
    "stream",
    "sweep",
    "tail",
]

ALIASES: Mapping[str, str] = {"CohereForAI": "CohereLabs", "CohereLabs": "CohereForAI"}
"""Two names of one namespace: it was renamed in 2025, and mirrors may know only one of them."""

COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}|git:[0-9a-f]{40}")
NAME = re.compile(r"(?!.*\.\.)\w[\w.-]*(?:/\w[\w.-]*)?", re.ASCII)
SUFFIX = re.compile(r"(?:\.[A-Za-z0-9]{1,10}){1,2}$")


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


def open_repository(
    repo_id: str,
    revision: str = "main",
    *,
    cache: Path,
    patterns: Sequence[str] = (),
    aliases: Mapping[str, str] = ALIASES,
    backoff: Backoff = USUAL,
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
    endpoint = hub_endpoint()
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
    backoff: Backoff = USUAL,
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
    for last in (False, True):
        with Arriving(repository, file, target, backoff, progress=progress) as arriving:
            try:
                arriving.bring(0, file.size)
                arriving.finish()
                break
            except CorruptPart:
                # The first time it may be what an earlier run left and a power cut spoiled.
                if last:
                    raise
    return target


def stream(
    repository: Repository,
    file: RemoteFile,
    folder: Path,
    *,
    backoff: Backoff = USUAL,
    block: int = FIRST,
) -> Arriving:
    """Return ``file`` to be read while it arrives; use it as a context manager.

    A reader gets what it reads in requests of at least ``block`` bytes, retried like those of
    :func:`fetch`; what came stays in ``folder``, for other readers at the same time and for later
    ones. Nothing that was read has been checked until :meth:`Arriving.finish` returns.
    """
    return Arriving(repository, file, location(file, folder), backoff, block=block)


def tail(repository: Repository, file: RemoteFile, folder: Path, size: int, *, backoff: Backoff = USUAL) -> bytes:
    """Return the last ``size`` bytes of ``file``, or all of it where it is shorter.

    They are kept in ``folder``, so that planning and building together read no byte twice. Raises
    what :func:`fetch` raises.
    """
    with stream(repository, file, folder, backoff=backoff) as arriving:
        return arriving.read(max(0, file.size - size), file.size)


# Pinning and listing.


def _pin(endpoint: str, names: Sequence[str], revision: str, backoff: Backoff) -> tuple[str, str]:
    """Return the Hub's present name of the repository and the commit of ``revision``."""
    refusals: list[Refused] = []
    for name in names:
        what = f"{name}@{revision}"
        url = f"{endpoint}/api/datasets/{name}/revision/{quote(revision, safe='')}?expand=sha"
        try:
            answer, _ = ask(url, what, backoff)
        except Refused as refused:
            refusals.append(refused)
            if is_missing(refused):
                continue
            raise refusal(refused, endpoint, name, revision) from None
        if not isinstance(answer, dict) or not COMMIT.fullmatch(str(answer.get("sha"))):
            raise HubUnreachable(what, "the answer names no commit")
        true_name = str(answer.get("id") or name)
        return (true_name if NAME.fullmatch(true_name) else name), str(answer["sha"])
    raise refusal(refusals[0], endpoint, names[0], revision) from None


def _list(endpoint: str, name: str, commit: str, revision: str, backoff: Backoff) -> tuple[RemoteFile, ...]:
    url: str | None = f"{endpoint}/api/datasets/{name}/tree/{commit}?recursive=true&expand=false"
    files: dict[str, RemoteFile] = {}
    seen: set[str] = set()
    what = f"the file list of {name}@{revision}"
    while url is not None and url not in seen:
        seen.add(url)
        try:
            page, following = ask(url, what, backoff)
        except Refused as refused:
            raise refusal(refused, endpoint, name, revision) from None
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
        file for file in repository.files if any(fnmatch.fnmatchcase(file.path, pattern) for pattern in patterns)
    )
    if not wanted:
        kind = f"file in {repository.id}@{repository.commit[:12]} that matches"
        raise NotFound(kind, " ".join(patterns), [file.path for file in repository.files])
    return Repository(repository.id, repository.revision, repository.commit, repository.endpoint, wanted)


def _listing(cache: Path, endpoint: str, name: str, commit: str) -> Path:
    host = hashlib.sha256(endpoint.encode()).hexdigest()[:8]
    return cache / f"{name.replace('/', '--')}-{host}-{commit}.json"


def _recall(cache: Path, endpoint: str, name: str, commit: str) -> tuple[RemoteFile, ...] | None:
    try:
        content = json.loads(_listing(cache, endpoint, name, commit).read_bytes())
        return tuple(RemoteFile(str(path), int(size), str(sha)) for path, size, sha in content)
    except (OSError, ValueError, TypeError):
        return None  # absent or torn: the Hub is asked again
