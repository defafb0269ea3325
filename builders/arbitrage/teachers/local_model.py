"""Models that run here: which files they are, and what identifies them.

A model is a folder, or a repository of the Hub at a commit. Either way it is identified by what its files *hold*:
SHA-256 digests of configuration, weights, tokenizer and chat template. A copy of a folder is the same model, and so is
the repository that it was downloaded from; one byte of a weight makes another.

The Hub knows the digests of large files, so that planning downloads the small ones alone; weights come when a session
starts. Digests of local files are kept under the cache folder for as long as size, times and inode stay the same: 2 GB
of weights take a second on one core, once.

No code of a model's repository runs, here or in the model's process.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, urljoin, urlsplit

from pydantic import Field

from aya_data.builders.hub.repository import RemoteFile, Repository, fetch, location
from aya_data.builders.hub.requests import USUAL, Refused, ask, hub_endpoint, is_missing, refusal
from aya_data.core import durable
from aya_data.core.errors import HubUnreachable, InputError, NotFound, WrongSetting
from aya_data.core.identity import digest
from aya_data.core.settings import Settings
from aya_data.core.stage import Environment

__all__ = ["LocalModel", "LocalModelSettings", "ModelFiles", "locate_files"]

Kind = Literal["model", "adapter", "tokenizer"]

CONFIG: Final[Mapping[Kind, tuple[str, ...]]] = {
    "model": ("config.json", "generation_config.json"),
    "adapter": ("adapter_config.json",),
    "tokenizer": (),
}
TEMPLATES: Final = ("chat_template.jinja", "chat_template.json")
TOKENIZER: Final = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
)  # fmt: skip
WEIGHTS: Final[Mapping[Kind, tuple[tuple[str, ...], ...]]] = {
    "model": (
        ("model.safetensors.index.json", "model-*.safetensors"),
        ("model.safetensors",),
        ("pytorch_model.bin.index.json", "pytorch_model-*.bin"),
        ("pytorch_model.bin",),
    ),
    "adapter": (("adapter_model.safetensors",), ("adapter_model.bin",)),
    "tokenizer": (),
}
"""In the order in which transformers looks for them; the first of which all patterns are there is read."""
BLOCK: Final = 1 << 20
SETTLED: Final = 2_000_000_000
"""Nanoseconds after a change during which another one may leave the same times."""


class LocalModelSettings(Settings):
    """What all models that run here are named by."""

    model: str = Field(
        min_length=1, description="A folder, or a Hub repository (org/name).", examples=["CohereLabs/aya-expanse-8b"]
    )
    revision: str | None = Field(
        None, min_length=1, description="For a Hub repository: a commit, or a tag or branch, which is pinned."
    )
    tokenizer: str | None = Field(
        None, min_length=1, description="A folder or Hub repository with another tokenizer than the model's."
    )
    tokenizer_revision: str | None = Field(
        None, min_length=1, description="The revision of that tokenizer, where it is a Hub repository."
    )
    chat_template: str | None = Field(
        None, min_length=1, description="A Jinja file with a chat template, in place of the tokenizer's own."
    )
    template_variables: Mapping[str, Annotated[str | bool | int, Field(union_mode="left_to_right")]] = Field(
        {}, description="What the chat template is told.", examples=[{"enable_thinking": False}]
    )
    max_length: int | None = Field(
        None,
        ge=8,
        description="Tokens of a conversation, answer included, that the model takes. Default: what its configuration "
        "says.",
    )
    python: str | None = Field(
        None,
        min_length=1,
        description="The Python interpreter that runs the model, of an environment that has the engine. Default: this "
        "one.",
        examples=["../envs/vllm/bin/python"],
    )


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model, an adapter or a tokenizer: found, not all of them here.

    ``content`` maps ``config``, ``weights`` and ``tokenizer``, as far as there are any, to a SHA-256 over the names and
    digests of these files.
    """

    name: str
    content: Mapping[str, str]
    folder: Path
    repository: Repository | None = None

    def bring(self, cache: Path, *, offline: bool = False) -> Path:
        """Return the folder with all files in it; downloads what is missing."""
        if self.repository is not None:
            for file in self.repository.files:
                _link(_fetched(self.repository, file, cache, offline), self.folder / file.path)
        return self.folder


def locate_files(kind: Kind, name: str, revision: str | None, environment: Environment) -> ModelFiles:
    """Find a model, an adapter or a tokenizer, and digest its files; of the Hub's only small ones are downloaded.

    Raises :class:`NotFound`, :class:`HubUnreachable`, or :class:`InputError` for a Hub repository without a revision.
    """
    folder = environment.base / Path(name).expanduser()
    cache = environment.cache / "models"
    if folder.is_dir():
        known = {path.name: path for path in folder.iterdir() if path.is_file()}
        groups = _groups(kind, name, known, str(folder))
        content = {
            group: _combined((file, _sha256(known[file], cache)) for file in files) for group, files in groups.items()
        }
        return ModelFiles(name, content, folder)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise NotFound(kind, name, remedy=f"Give a folder or a Hub repository (looked for {folder}).")
    if revision is None:
        raise InputError(
            f"the {kind} {name!r} is no folder (looked for {folder}), and as a Hub repository it needs a revision",
            "Write 'revision: …', best a commit.",
        )
    repository = _open(name, revision, cache, environment.offline)
    remote = {file.path: file for file in repository.files}
    groups = _groups(kind, name, remote, f"{name}@{repository.commit[:12]}")
    wanted = sorted(file for files in groups.values() for file in files)
    repository = Repository(
        repository.id,
        revision,
        repository.commit,
        repository.endpoint,
        tuple(remote[file] for file in wanted),
        type="model",
    )
    place = cache / f"{repository.id.replace('/', '--')}-{repository.commit}"

    def known_digest(file: str) -> str:
        at = remote[file]
        large, _, hexadecimal = at.digest.partition(":")
        if large == "sha256" and file not in CONFIG[kind]:
            return hexadecimal
        path = _fetched(repository, at, cache, environment.offline)
        _link(path, place / file)
        return _sha256(path, cache)

    content = {group: _combined((file, known_digest(file)) for file in files) for group, files in groups.items()}
    return ModelFiles(name, content, place, repository)


def _groups(kind: Kind, name: str, known: Mapping[str, Any], place: str) -> dict[str, list[str]]:
    """Which of the files are configuration, weights and tokenizer."""
    groups: dict[str, list[str]] = {}
    for number, file in enumerate(CONFIG[kind]):
        if file in known:
            groups.setdefault("config", []).append(file)
        elif number == 0:
            raise NotFound(kind, name, remedy=f"{place} holds no {file}.")
    for patterns in WEIGHTS[kind]:
        found = [sorted(file for file in known if fnmatch.fnmatchcase(file, pattern)) for pattern in patterns]
        if all(found):
            groups["weights"] = [file for files in found for file in files]
            break
    else:
        if WEIGHTS[kind]:
            usual = next(patterns[0] for patterns in WEIGHTS[kind] if len(patterns) == 1)
            raise NotFound(kind, name, remedy=f"{place} holds no weights, such as {usual}.")
    tokenizer = [file for file in (*TOKENIZER, *TEMPLATES) if file in known]
    if tokenizer and kind != "adapter":
        groups["tokenizer"] = tokenizer
    elif kind == "tokenizer":
        raise NotFound(kind, name, remedy=f"{place} holds no {TOKENIZER[0]}.")
    return groups


def _combined(files: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()


# Digests of files.


def _sha256(path: Path, cache: Path) -> str:
    """Return the SHA-256 of a file, from the cache where it cannot have changed."""
    found = path.stat()
    state = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]
    record = cache / "digests" / f"{digest(str(path.resolve()))}.json"
    try:
        kept = json.loads(record.read_bytes())
        if kept["state"] == state:
            return str(kept["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent or torn: hashed again
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            hasher.update(block)
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > SETTLED:
        durable.write_json(record, {"path": str(path), "state": state, "sha256": hasher.hexdigest()})
    return hasher.hexdigest()


# The Hub.


def _open(name: str, revision: str, cache: Path, offline: bool) -> Repository:
    """Pin ``revision`` to a commit and list its files; what a commit holds is kept in ``cache``."""
    endpoint = hub_endpoint()
    commit = revision if len(revision) == 40 and set(revision) <= set("0123456789abcdef") else None
    if commit is not None and (known := _recall(cache, endpoint, name, commit)) is not None:
        return Repository(name, revision, commit, endpoint, known, type="model")
    if offline:
        raise HubUnreachable(name, "the build is offline, and a model needs its commit named and downloaded before")
    what = f"the model {name}@{revision}"
    try:
        if commit is None:
            answer, _ = ask(f"{endpoint}/api/models/{name}/revision/{quote(revision, safe='')}?expand=sha", what, USUAL)
            commit = str(answer.get("sha")) if isinstance(answer, dict) else ""
            if len(commit) != 40:
                raise HubUnreachable(what, "the answer names no commit")
        files = _recall(cache, endpoint, name, commit)
        if files is None:
            files = _listed(endpoint, name, commit, what)
            durable.write_json(
                _listing(cache, endpoint, name, commit), [[file.path, file.size, file.digest] for file in files]
            )
    except Refused as refused:
        if is_missing(refused):
            raise NotFound("model", name, remedy="It is no folder, and no Hub repository that you may read.") from None
        raise refusal(refused, endpoint, name, revision, kind="model") from None
    return Repository(name, revision, commit, endpoint, files, type="model")


def _listed(endpoint: str, name: str, commit: str, what: str) -> tuple[RemoteFile, ...]:
    """The files at the top of a repository; a model's are there."""
    url: str | None = f"{endpoint}/api/models/{name}/tree/{commit}?recursive=false&expand=false"
    files: list[RemoteFile] = []
    seen: set[str] = set()
    while url is not None and url not in seen:
        seen.add(url)
        page, following = ask(url, what, USUAL)
        for entry in page:
            path = str(entry.get("path", ""))
            if entry.get("type") == "file" and path and "/" not in path and not path.startswith("."):
                large = entry.get("lfs")
                its = f"sha256:{large['oid']}" if large else f"git:{entry['oid']}"
                files.append(RemoteFile(path, int(large["size"] if large else entry["size"]), its))
        home = urlsplit(endpoint)
        # The token must not go elsewhere.
        url = (
            None
            if following is None
            else urlsplit(urljoin(url, following))._replace(scheme=home.scheme, netloc=home.netloc).geturl()
        )
    return tuple(sorted(files, key=lambda file: file.path))


def _listing(cache: Path, endpoint: str, name: str, commit: str) -> Path:
    return cache / f"{name.replace('/', '--')}-{digest(endpoint)[:8]}-{commit}.json"


def _recall(cache: Path, endpoint: str, name: str, commit: str) -> tuple[RemoteFile, ...] | None:
    try:
        content = json.loads(_listing(cache, endpoint, name, commit).read_bytes())
        return tuple(RemoteFile(str(path), int(size), str(its)) for path, size, its in content)
    except (OSError, ValueError, TypeError):
        return None  # absent or torn: the Hub is asked again


def _fetched(repository: Repository, file: RemoteFile, cache: Path, offline: bool) -> Path:
    """Have one file here. What is there already is not hashed again while it cannot have changed."""
    folder = cache / "files"
    path = location(file, folder)
    kind, _, expected = file.digest.partition(":")
    if path.is_file() and path.stat().st_size == file.size and (kind == "git" or _sha256(path, cache) == expected):
        return path
    if offline:
        raise HubUnreachable(f"{repository.id}/{file.path}", "the build is offline, and it was not downloaded before")
    durable.make_folder(folder)
    return fetch(repository, file, folder)


def _link(target: Path, path: Path) -> None:
    """Have ``path`` lead to ``target``."""
    if path.is_symlink() and path.readlink() == target.resolve():
        return
    durable.make_folder(path.parent)
    path.unlink(missing_ok=True)
    path.symlink_to(target.resolve())


# What a voice needs.


class LocalModel:
    """A model with its tokenizer, chat template and perhaps an adapter, as settings name them."""

    def __init__(
        self,
        settings: LocalModelSettings,
        environment: Environment,
        *,
        adapter: str | None = None,
        adapter_revision: str | None = None,
        path: tuple[str, ...] = (),
    ) -> None:
        self.settings, self.environment, self.path = settings, environment, path
        self.adapter, self.adapter_revision = adapter, adapter_revision
        self._found: dict[str, ModelFiles] | None = None

    @property
    def files(self) -> Mapping[str, ModelFiles]:
        """The files of ``model``, and of ``tokenizer`` and ``adapter`` where they are others. Found on first use.

        Raises :class:`WrongSetting` where one of them is not to be had.
        """
        if self._found is None:
            own = self.settings
            found = {"model": self._located("model", own.model, own.revision)}
            if own.tokenizer is not None:
                found["tokenizer"] = self._located("tokenizer", own.tokenizer, own.tokenizer_revision)
            elif "tokenizer" not in found["model"].content:
                error = NotFound("tokenizer", own.model, remedy="The model has none: name one under 'tokenizer'.")
                raise WrongSetting([((*self.path, "model"), error.what, error.remedy)])
            if self.adapter is not None:
                found["adapter"] = self._located("adapter", self.adapter, self.adapter_revision)
            self._found = found
        return self._found

    def _located(self, kind: Kind, name: str, revision: str | None) -> ModelFiles:
        try:
            return locate_files(kind, name, revision, self.environment)
        except InputError as error:
            raise WrongSetting([((*self.path, kind), error.what, error.remedy)]) from error

    def template(self) -> str | None:
        """The text of the chat template that the settings name; None means the tokenizer's own."""
        name = self.settings.chat_template
        if name is None:
            return None
        path = self.environment.base / Path(name).expanduser()
        try:
            return path.read_text("utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            what = f"the chat template {path} cannot be read: {reason}"
            raise WrongSetting([((*self.path, "chat_template"), what, "Name a Jinja file.")]) from error

    def config(self) -> Mapping[str, Any]:
        """The model's configuration (``config.json``)."""
        path = self.files["model"].folder / CONFIG["model"][0]
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a model's configuration: {error}", "Download it again.") from error
        if not isinstance(found, dict):
            raise InputError(f"{path} is not a model's configuration: it is no object", "Download it again.")
        return found

    def identity(self) -> dict[str, Any]:
        """What answers depend on, as JSON: digests alone, no names, paths or engines."""
        identity: dict[str, Any] = {
            name: dict(files.content) if name != "tokenizer" else {"tokenizer": files.content["tokenizer"]}
            for name, files in self.files.items()
        }
        if "tokenizer" in identity:
            identity["model"].pop("tokenizer", None)
        template = self.template()
        if template is not None:
            identity["chat_template"] = hashlib.sha256(template.encode()).hexdigest()
        if self.settings.template_variables:
            identity["template_variables"] = dict(self.settings.template_variables)
        if self.settings.max_length is not None:
            identity["max_length"] = self.settings.max_length
        return identity

    def bring(self) -> dict[str, str | None]:
        """Have all files here, and return the folders: ``model``, ``tokenizer``, ``adapter``."""
        cache, offline = self.environment.cache / "models", self.environment.offline
        folders = {name: str(files.bring(cache, offline=offline)) for name, files in self.files.items()}
        return {
            "model": folders["model"],
            "tokenizer": folders.get("tokenizer", folders["model"]),
            "adapter": folders.get("adapter"),
        }
