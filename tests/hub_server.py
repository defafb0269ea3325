"""A Hub on the loopback interface that speaks the read half of the Hub's real protocol.

Folders are served as dataset repositories to an unmodified huggingface_hub (2.4: HfApi,
hf_hub_download, snapshot_download, HfFileSystem) or datasets::

    with HubServer({"CohereLabs/aya_dataset": folder}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.faults.add("resolve", status=503, times=2)
        hub.faults.add("*.parquet", cut_after=1000)
        ...
        hub.move_branch("CohereLabs/aya_dataset", "main", other_folder)
        assert hub.log.read_twice() == 0

As on the Hub, large files are redirected to another origin (a second port), small ones within the
first; a missing repository is 401 without and 404 with a token; listings come in pages.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import uvicorn

__all__ = ["Commit", "Entry", "Fault", "HubServer"]

LARGE = ("*.parquet", "*.gz", "*.zst", "*.arrow", "*.zip", "*.bin")
CHUNK = 16 << 10


@dataclass
class Entry:
    """One request: where (``hub`` or ``cdn``), what, and the body bytes that were sent."""

    host: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    status: int = 0
    file: str = ""  # "<repository>/<path>" when content was served
    content: str = ""  # and its git digest
    start: int = 0
    sent: int = 0
    fault: bool = False


class Log(list[Entry]):
    """Every request, in order of arrival."""

    def of(self, glob: str) -> list[Entry]:
        """Requests whose path matches ``glob``, or has it as one of its words."""
        return [entry for entry in self if _matches(glob, entry.path)]

    def ranges(self, file: str) -> list[tuple[int, int]]:
        """Body ranges [start, end) of ``file`` that were sent, in order."""
        return [
            (entry.start, entry.start + entry.sent)
            for entry in self
            if entry.file == file and entry.method == "GET" and entry.sent
        ]

    def read_twice(self) -> int:
        """Bytes of content that were sent more than once, whatever the files were called."""
        sent: dict[str, list[tuple[int, int]]] = {}
        for entry in self:
            if entry.method == "GET" and entry.sent:
                span = (entry.start, entry.start + entry.sent)
                sent.setdefault(entry.content, []).append(span)
        total = 0
        for spans in sent.values():
            reached = 0
            for start, end in sorted(spans):
                total += max(0, min(end, reached) - start)
                reached = max(reached, end)
        return total


@dataclass
class Fault:
    """What to do wrong at the next ``times`` requests of ``method`` that match ``glob``."""

    glob: str
    times: int = 1
    skip: int = 0
    method: str = "GET"
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # close the connection after so many bytes of the body
    at_cut: Callable[[], None] | None = None  # what to do just before
    flip: int | None = None  # invert the byte of the file at this position
    ignore_range: bool = False
    body: bytes | None = None
    before: Callable[[], None] | None = None


class Faults(list[Fault]):
    """The plan. A fault is used up after ``times`` requests."""

    def add(self, glob: str, **settings: Any) -> None:
        retry_after = settings.pop("retry_after", None)
        if retry_after is not None:
            settings["headers"] = {**settings.get("headers", {}), "Retry-After": str(retry_after)}
        self.append(Fault(glob, **settings))

    def take(self, method: str, path: str) -> Fault | None:
        for fault in self:
            if fault.times and fault.method == method and _matches(fault.glob, path):
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None


@dataclass(frozen=True)
class Commit:
    """A frozen tree: path -> content."""

    oid: str
    files: Mapping[str, bytes]


@dataclass
class _Repository:
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)


class HubServer:
    """Serves ``repos`` (name -> folder) until the ``with`` block ends.

    ``renamed`` maps an old name to the present one (307 as the Hub's), ``gated`` and ``private``
    name repositories that only a bearer of ``token`` may read, ``large`` are globs of files in
    large-file storage, ``xet`` also announces Xet storage for these, as the Hub does now.
    """

    def __init__(
        self,
        repos: Mapping[str, Path],
        *,
        renamed: Mapping[str, str] | None = None,
        gated: Iterable[str] = (),
        private: Iterable[str] = (),
        token: str = "hf_loopback",
        large: Iterable[str] = LARGE,
        xet: bool = False,
        page_size: int = 1000,
    ) -> None:
        self.faults, self.log = Faults(), Log()
        self.mistakes: list[Exception] = []  # of the double itself; raised at the end
        self.renamed, self.gated, self.private = dict(renamed or {}), set(gated), set(private)
        self.token, self.large, self.xet, self.page_size = token, tuple(large), xet, page_size
        self._repos: dict[str, _Repository] = {}
        for name, folder in repos.items():
            self.move_branch(name, "main", folder)
        self._sockets = [_listen(), _listen()]
        self.port, self.cdn_port = (each.getsockname()[1] for each in self._sockets)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.cdn = f"http://127.0.0.1:{self.cdn_port}"
        config = uvicorn.Config(
            self._answer,
            log_config=None,
            log_level="critical",
            access_log=False,
            interface="asgi3",
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": self._sockets}, daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
        for each in self._sockets:
            each.close()
        for mistake in self.mistakes:
            raise mistake

    def move_branch(self, name: str, branch: str, folder: Path) -> str:
        """Commit the present content of ``folder`` to ``branch``; return the commit."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        repo = self._repos.setdefault(name, _Repository())
        digest = hashlib.sha1(f"{name}\0{repo.branches.get(branch)}".encode())
        for path, content in files.items():
            digest.update(f"{path}\0{len(content)}\0".encode() + content)
        commit = Commit(digest.hexdigest(), files)
        repo.commits[commit.oid] = commit
        repo.branches[branch] = commit.oid
        return commit.oid

    def tag(self, name: str, tag: str) -> None:
        """Let ``tag`` name the present commit of main."""
        self._repos[name].tags[tag] = self._repos[name].branches["main"]

    def commit(self, name: str, branch: str = "main") -> str:
        """The commit that ``branch`` stands at."""
        return self._repos[name].branches[branch]

    # The ASGI side.

    async def _answer(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        request = _Request(scope, receive, send)
        host = "cdn" if scope["server"][1] == self.cdn_port else "hub"
        entry = Entry(host, request.method, request.path, dict(request.query), request.headers)
        self.log.append(entry)
        request.entry = entry
        fault = self.faults.take(request.method, request.path)
        if fault is not None:
            entry.fault = True
            if fault.before is not None:
                fault.before()
            if fault.status or fault.body is not None:
                await request.reply(fault.status or 200, fault.body or b"{}", fault.headers)
                return
        request.fault = fault
        try:
            await self._route(request, host)
        except _Error as error:
            headers = {"X-Error-Message": error.message}
            if error.code:
                headers["X-Error-Code"] = error.code
            await request.json({"error": error.message}, error.status, headers)
        except _Cut:
            raise
        except Exception as error:
            self.mistakes.append(error)
            raise

    async def _route(self, request: _Request, host: str) -> None:
        words = request.words
        if host == "cdn" and words[0] == "objects":
            name, oid, path = words[1:]
            await self._content(request, name, path, self._repos[name].commits[oid])
        elif words[:2] == ["api", "resolve-cache"]:
            name = "/".join(words[3:5])
            commit = self._repos[name].commits[words[5]]
            await self._content(request, name, "/".join(words[6:]), commit)
        elif words == ["api", "datasets"]:
            author = request.query.get("author", "")
            names = [name for name in self._repos if name.startswith(author + "/")]
            visible = [{"id": name} for name in names if name not in self.private]
            await request.json(visible)
        elif words[:2] == ["api", "datasets"]:
            await self._api(request, *self._named(request, words[2:]))
        elif words[0] == "datasets":
            name, rest = self._named(request, words[1:])
            if not rest or rest[0] != "resolve":
                raise _Error(404, "", "Sorry, we can't find the page you are looking for.")
            await self._resolve(request, name, rest[1], "/".join(rest[2:]))
        else:
            raise _Error(404, "", "Sorry, we can't find the page you are looking for.")

    def _named(self, request: _Request, words: list[str]) -> tuple[str, list[str]]:
        name, rest = "/".join(words[:2]), words[2:]
        authorization = request.headers.get("authorization")
        if authorization not in (None, f"Bearer {self.token}"):
            raise _Error(401, "", "Invalid credentials in Authorization header")
        if name in self.renamed:
            return name, rest
        if name not in self._repos or (name in self.private and authorization is None):
            if authorization is None:
                raise _Error(401, "", "Invalid username or password.")
            raise _Error(404, "RepoNotFound", "Repository not found")
        return name, rest

    async def _api(self, request: _Request, name: str, rest: list[str]) -> None:
        if name in self.renamed:
            new = "/".join(["/api/datasets", self.renamed[name], *map(_quoted, rest)])
            await request.reply(307, b"", {"Location": self.endpoint + new + request.question})
            return
        repo = self._repos[name]
        if rest == ["refs"]:
            await request.json(
                {
                    "branches": _refs("heads", repo.branches),
                    "tags": _refs("tags", repo.tags),
                    "converts": [],
                }
            )
        elif not rest or rest[0] == "revision":
            commit = self._commit(name, rest[1] if rest else "main")
            answer: dict[str, Any] = {"_id": "0" * 24, "id": name, "sha": commit.oid}
            if "expand" not in request.query:
                answer |= {
                    "author": name.partition("/")[0],
                    "private": name in self.private,
                    "gated": "auto" if name in self.gated else False,
                    "disabled": False,
                    "downloads": 0,
                    "likes": 0,
                    "tags": [],
                    "lastModified": "2025-01-01T00:00:00.000Z",
                    "createdAt": "2025-01-01T00:00:00.000Z",
                    "siblings": [{"rfilename": path} for path in sorted(commit.files)],
                }
            await request.json(answer)
        elif rest[0] == "tree":
            await self._tree(request, name, rest)
        elif rest[0] == "paths-info":
            commit = self._commit(name, rest[1])
            wanted = [value for key, value in await request.form() if key == "paths"]
            listing = {each["path"]: each for each in self._entries(commit, "", True)}
            await request.json([listing[path] for path in wanted if path in listing])
        else:
            raise _Error(404, "", "Not found")

    async def _tree(self, request: _Request, name: str, rest: list[str]) -> None:
        commit = self._commit(name, rest[1])
        folder = "/".join(rest[2:])
        recursive = request.query.get("recursive", "").lower() == "true"
        entries = self._entries(commit, folder, recursive)
        if folder and not entries:
            raise _Error(404, "EntryNotFound", f"{folder} does not exist on {rest[1]!r}")
        at = int(request.query.get("cursor", "0"))
        following = at + self.page_size
        headers = {}
        if following < len(entries):
            query = {**request.query, "cursor": str(following)}
            question = "&".join(f"{key}={quote(value)}" for key, value in query.items())
            headers["Link"] = f'<{self.endpoint}{request.raw_path}?{question}>; rel="next"'
        await request.json(entries[at:following], 200, headers)

    def _entries(self, commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = folder.rstrip("/") + "/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path, content in commit.files.items():
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                parent = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(parent.encode()).hexdigest()
                found[parent] = {"type": "directory", "oid": oid, "size": 0, "path": parent}
            if recursive or len(parts) == 1:
                found[path] = self._file(path, content)
        return [found[path] for path in sorted(found)]

    def _file(self, path: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "oid": _git(content), "size": len(content), "path": path}
        if self._is_large(path):
            sha256 = _sha256(content)
            entry["oid"] = _git(f"oid sha256:{sha256}".encode())
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
            if self.xet:
                entry["xetHash"] = hashlib.sha256(b"xet" + content).hexdigest()
        return entry

    async def _resolve(self, request: _Request, name: str, revision: str, path: str) -> None:
        if name in self.renamed:
            target = f"/datasets/{self.renamed[name]}/resolve/{revision}/{quote(path)}"
            await request.reply(307, b"", {"Location": target})
            return
        if name in self.gated and "authorization" not in request.headers:
            message = f"Access to dataset {name} is restricted. Please log in."
            raise _Error(401, "GatedRepo", message)
        commit = self._commit(name, revision)
        if path not in commit.files:
            raise _Error(404, "EntryNotFound", "Entry not found")
        content = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if self._is_large(path):
            sha256 = _sha256(content)
            headers["X-Linked-Size"] = str(len(content))
            headers["X-Linked-Etag"] = f'"{sha256}"'
            if self.xet:
                headers["X-Xet-Hash"] = hashlib.sha256(b"xet" + content).hexdigest()
                auth = f"{self.endpoint}/api/datasets/{name}/xet-read-token/{commit.oid}"
                headers["Link"] = f'<{auth}>; rel="xet-auth"'
            where = "/".join(map(_quoted, ("objects", name, commit.oid, path)))
            headers["Location"] = f"{self.cdn}/{where}?Signature={sha256[:16]}"
            await request.reply(302, b"", headers)
        else:
            headers["ETag"] = f'"{_git(content)}"'
            headers["X-Linked-Size"] = str(len(content))
            cached = f"/api/resolve-cache/datasets/{name}/{commit.oid}/{quote(path)}"
            await request.reply(307, b"", {**headers, "Location": cached})

    async def _content(self, request: _Request, name: str, path: str, commit: Commit) -> None:
        content, fault = commit.files[path], request.fault
        large = self._is_large(path)
        etag = _sha256(content) if large else _git(content)
        headers = {
            "ETag": f'"{etag}"',
            "Accept-Ranges": "bytes",
            "X-Repo-Commit": commit.oid,
            "Content-Type": "application/octet-stream",
        }
        start, end, status = 0, len(content), 200
        asked = request.headers.get("range", "")
        if asked.startswith("bytes=") and not (fault is not None and fault.ignore_range):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            if first:
                start = int(first)
                end = min(end, int(last) + 1) if last else end
            else:
                start = max(0, end - int(last))
            if start >= len(content):
                range_ = {"Content-Range": f"bytes */{len(content)}"}
                await request.reply(416, b"", {**headers, **range_})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        if fault is not None and fault.flip is not None and start <= fault.flip < end:
            spoilt = bytearray(content)
            spoilt[fault.flip] ^= 0xFF
            content = bytes(spoilt)
        request.entry.file, request.entry.start = f"{name}/{path}", start
        request.entry.content = _git(commit.files[path])
        cut = fault.cut_after if fault is not None else None
        await request.reply(status, content[start:end], headers, cut, fault.at_cut if fault is not None else None)

    def _commit(self, name: str, revision: str) -> Commit:
        repo = self._repos[name]
        short = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        oid = repo.branches.get(short) or repo.tags.get(short) or revision
        if oid not in repo.commits:
            raise _Error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo.commits[oid]

    def _is_large(self, path: str) -> bool:
        return any(fnmatch.fnmatchcase(path, glob) for glob in self.large)


class _Error(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message
        super().__init__(message)


class _Cut(Exception):
    """Ends the connection in the middle of a body."""


class _Request:
    """One ASGI request and its answer."""

    entry: Entry
    fault: Fault | None = None

    def __init__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        self.method: str = scope["method"]
        self.raw_path = scope["raw_path"].decode().partition("?")[0]
        self.path = unquote(self.raw_path)
        # A word may hold an escaped slash: revisions and folders are sent so.
        self.words = [unquote(word) for word in self.raw_path.strip("/").split("/")]
        self.question = "?" + scope["query_string"].decode() if scope["query_string"] else ""
        self.query = dict(parse_qsl(scope["query_string"].decode()))
        self.headers = {key.decode().lower(): value.decode() for key, value in scope["headers"]}
        self._receive, self._send = receive, send

    async def form(self) -> list[tuple[str, str]]:
        body, more = b"", True
        while more:
            message = await self._receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if self.headers.get("content-type", "").startswith("application/json"):
            data = json.loads(body)
            return [("paths", path) for path in data["paths"]]
        return parse_qsl(body.decode())

    async def json(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        answer = {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
        await self.reply(status, json.dumps(value).encode(), answer)

    async def reply(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str],
        cut: int | None = None,
        at_cut: Callable[[], None] | None = None,
    ) -> None:
        self.entry.status = status
        fields = {**headers, "Content-Length": str(len(body))}
        raw = [(key.lower().encode(), value.encode()) for key, value in fields.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
        if self.method == "HEAD":
            await self._send({"type": "http.response.body"})
            return
        whole = body if cut is None else body[:cut]
        for at in range(0, len(whole), CHUNK):
            piece = whole[at : at + CHUNK]
            if self.entry.file:
                self.entry.sent += len(piece)
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        if cut is not None and cut < len(body):
            if at_cut is not None:
                at_cut()
            raise _Cut
        await self._send({"type": "http.response.body"})


def _listen() -> socket.socket:
    """A socket that already listens, so that nobody has to wait for the server's thread."""
    each = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    each.bind(("127.0.0.1", 0))
    each.listen(128)
    return each


def _matches(glob: str, path: str) -> bool:
    return fnmatch.fnmatchcase(path, glob) or glob in path.split("/")


@functools.lru_cache(64)
def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@functools.lru_cache(64)
def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _refs(kind: str, names: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in names.items()]


def _quoted(word: str) -> str:
    return quote(word, safe="")
