"""Secrets in plain text: keys and tokens by the form that their issuer gives, private keys, passwords in addresses.

Only forms that are hardly anything else: a fixed prefix with the right length and alphabet, or a block with a header.
A password is what stands between ``user:`` and ``@`` of an address with a scheme; only it is taken, and words that
stand for a password are not.

Every pattern starts at a word boundary or a literal, and every repetition is bounded or possessive, so time is linear
in the length of the text whatever it says.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator

__all__ = ["CANDIDATES", "secrets"]

CANDIDATES = (
    (
        r"AKIA|ASIA|gh[opusr]_|github_pat_|glpat-|hf_[A-Za-z]|sk-|xox[a-z]-|hooks\.slack\.com|eyJ|PRIVATE KEY|AIza"
        r"|_live_|npm_|pypi-AgE|SG\.|aws_secret|AWS_SECRET|ecretAccessKey|[0-9]:AA"
    ),
    r"://[^\s/@:]*:[^\s/@]+@",
)
"""Patterns (syntax of Rust's regex) of which every text with a secret matches one."""

TOKENS = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Za-z0-9])"
    r"|gh[opusr]_[A-Za-z0-9]{36,255}+"
    r"|github_pat_[A-Za-z0-9_]{40,255}+"
    r"|glpat-[A-Za-z0-9_-]{20,64}+"
    r"|hf_[A-Za-z0-9]{30,40}(?![A-Za-z0-9])"
    r"|sk-ant-[A-Za-z0-9_-]{40,200}+"
    r"|sk-(?:proj|svcacct|admin|or-v1)-[A-Za-z0-9_-]{40,250}+"
    r"|sk-[A-Za-z0-9]{32,64}(?![A-Za-z0-9])"
    r"|xox[abeoprs]-[0-9]{1,20}-[A-Za-z0-9-]{10,200}+"
    r"|(?:sk|rk)_live_[A-Za-z0-9]{16,200}+"
    r"|npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])"
    r"|pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,500}+"
    r"|SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])"
    r"|AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"
    r"|[0-9]{8,10}:AA[A-Za-z0-9_-]{33}(?![A-Za-z0-9_-])"
    r")"
)
MARKS = (
    *("AKIA", "ASIA", "gho_", "ghp_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "hf_", "sk-", "xox"),
    *("_live_", "npm_", "pypi-", "SG.", "AIza", ":AA"),
)
"""One of these is in each token."""
SLACK_HOOK = re.compile(r"hooks\.slack\.com/services/(T[A-Z0-9]{6,14}/B[A-Z0-9]{6,14}/[A-Za-z0-9]{16,40}+)")
AWS_SECRET = re.compile(
    r"(?i:aws_secret_access_key|secretAccessKey)[\"']?\s{0,4}[=:]\s{0,4}[\"']?([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"
)
JWT = re.compile(
    r"(?<![A-Za-z0-9_.-])(eyJ[A-Za-z0-9_-]{8,2000}+)\.(eyJ[A-Za-z0-9_-]{4,8000}+)\.[A-Za-z0-9_-]{16,2000}+"
)
ADDRESS = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{1,20}+://([^\s/@:<>\"']{0,100}+):([^\s/@<>\"']{3,200}+)@(?=[\w\[])"
)
BEGIN = re.compile(r"-----BEGIN (?:[A-Z]{2,10} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
END = re.compile(r"-----END (?:[A-Z]{2,10} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
LONGEST_KEY = 20_000
KEY_LINES = re.compile(r"[A-Za-z0-9+/=\s\\]{0,20000}+")
KEY_LINE = re.compile(r"[A-Za-z0-9+/]{40}")
STAND_INS = re.compile(r"[$%{\[(*#.…]|.*\}\}|(?i:your)|(.)\1*$")
DIVERSE = 5
"""A token of fewer distinct characters after its prefix is a stand-in, such as hf_xxxx…."""


def secrets(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and value of each secret in plain text; spans may overlap."""
    if any(mark in text for mark in MARKS):
        for found in TOKENS.finditer(text):
            if len(set(found[0][-20:].lower())) >= DIVERSE:
                yield *found.span(), found[0]
    for marks, pattern in ((("hooks.slack.com",), SLACK_HOOK), (("ecret",), AWS_SECRET)):
        for found in pattern.finditer(text) if any(mark in text for mark in marks) else ():
            if len(set(found[1])) >= DIVERSE:
                yield *found.span(1), found[1]
    for found in JWT.finditer(text) if "eyJ" in text else ():
        if _is_header(found[1]):
            yield *found.span(), found[0]
    for found in ADDRESS.finditer(text) if "://" in text and "@" in text else ():
        if not STAND_INS.match(found[2]):
            yield *found.span(2), found[2]
    if "PRIVATE KEY" in text:
        yield from _private_keys(text)


def _is_header(part: str) -> bool:
    """Tell whether the first part of a token is the header that RFC 7519 asks for."""
    try:
        header = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header


def _private_keys(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield blocks from header to footer; without a footer (a text that was cut), as far as the key's alphabet goes."""
    place = 0
    end = END.search(text)
    while begin := BEGIN.search(text, place):
        if end is not None and end.start() < begin.end():
            end = END.search(text, begin.end())
        if end is not None and end.start() - begin.end() <= LONGEST_KEY:
            stop = end.end()
        else:
            following = KEY_LINES.match(text, begin.end())
            assert following is not None, "the pattern matches nothing too"
            stop = begin.end() + len(following[0].rstrip())
        if KEY_LINE.search(text, begin.end(), stop):
            yield begin.start(), stop, text[begin.start() : stop]
        place = stop
