"""Ranges of files on the Hub: where a file is, whether an answer is its rest, a file as a seekable stream."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from aya_data.builders.hub_requests import Backoff, Passing, Refused, insist, refusal, request
from aya_data.core.errors import HubUnreachable

if TYPE_CHECKING:
    import httpx2

    from aya_data.builders.repository import RemoteFile, Repository

__all__ = ["Ranges", "address", "starts_at"]


def starts_at(response: httpx2.Response, start: int) -> bool:
    """Whether the answer is the rest of a file from byte ``start`` on (RFC 9110, 14.4)."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status_code == 206 and found is not None and int(found[1]) == start


def address(repository: Repository, file: RemoteFile) -> str:
    """Return where the Hub serves a file at the pinned commit."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(
        repository.id,
        file.path,
        repo_type=repository.type,
        revision=repository.commit,
        endpoint=repository.endpoint,
    )


class Ranges(io.RawIOBase):
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
            with request(address(repository, file), what, asked) as response:
                if not starts_at(response, first) and (first or response.status_code != 200):
                    raise HubUnreachable(what, "the server does not serve ranges")
                for chunk in response.iter_bytes():
                    piece = chunk[: wanted - have]
                    view[have : have + len(piece)] = piece
                    have += len(piece)
                    if have == wanted and response.status_code == 200:
                        return  # the server ignores ranges and goes on to the end of the file
            if have == wanted:
                return
            raise Passing(f"the connection ended after {have} of {wanted} bytes")

        try:
            insist(attempt, what, self._backoff, lambda: have)
        except Refused as refused:
            raise refusal(refused, repository.endpoint, repository.id, repository.commit, file.path) from None
        self._at += wanted
        return wanted
