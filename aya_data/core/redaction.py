"""What may be shown of an address: no password and no signature of a URL reaches a lock, a log or an error."""

from __future__ import annotations

import re

__all__ = ["address", "redacted"]

_USER = re.compile(r"(?<=://)[^/?#@]*@")
_WEB = re.compile(r".*?https?://[^?#]*", re.DOTALL | re.IGNORECASE)
_IN_TEXT = re.compile(
    r"(\b[a-z][a-z0-9+.-]*://)(?:[^\s/?#@'\"<>]*@)?([^\s?#'\"<>]*)(?:[?#][^\s'\"<>)]*[^\s'\"<>).,:;!?])?", re.IGNORECASE
)
"""A URL in prose, without the mark that ends its sentence."""


def address(location: str) -> str:
    """Return a location without user and password; on the web also without its query, which may be a signature.

    A path, and the query of another protocol (``s3://…?versionId=``), stay as they are.
    """
    shown = _USER.sub("", location)
    web = _WEB.match(shown)
    return web[0] if web else shown


def redacted(text: str) -> str:
    """Return a text for people, of whose URLs no user, password, query or fragment is left."""
    return _IN_TEXT.sub(r"\1\2", text) if "://" in text else text
