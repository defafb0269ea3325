"""Personal data in text, kind by kind: where an e-mail address, a phone number, an account stands.

Texts are read in plain form (:mod:`aya_data.filters.pii.text`), so digits and signs of every script are one alphabet;
word boundaries are boundaries of ASCII letters and digits, so a number that touches Han, Thai or Arabic letters is
found too. What is found is held against checksums, lengths and lists of examples before it counts.

Patterns begin at a boundary or a literal, and repetitions are bounded: a text of n characters takes time in
proportion to n. Only texts in which a pattern of :data:`CANDIDATES` matches need a look.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

from aya_data.core.errors import MissingExtra
from aya_data.filters.pii.checksums import iban_length, is_card, is_iban
from aya_data.filters.pii.examples import fictional, is_example, values
from aya_data.filters.pii.secrets import CANDIDATES as SECRET_CANDIDATES
from aya_data.filters.pii.secrets import secrets
from aya_data.filters.pii.text import plain

__all__ = ["CANDIDATES", "KINDS", "NATIVE_DIGITS", "Kind", "Span", "add_apart", "find", "phone_library", "regions_of"]

DATA_FILES = ("data/tlds.tsv", "data/regions.tsv")

Kind = Literal["email", "phone", "ip", "private_ip", "iban", "card", "secret"]
KINDS: tuple[Kind, ...] = ("secret", "email", "iban", "card", "ip", "private_ip", "phone")
"""All kinds; where two overlap, the earlier one is taken."""

NUMBER: Final = (r"(?:[0-9][^A-Za-z]?[^A-Za-z]?){6}[0-9]",)
DOTTED: Final = (r"[0-9][.．․﹒][0-9]{1,3}[.．․﹒][0-9]", r"[23fF][0-9A-Fa-f]{3}:[0-9A-Fa-f:]")
NATIVE_DIGITS: Final = r"[\p{Nd}--[0-9]]"
CANDIDATES: Mapping[Kind, tuple[str, ...]] = {
    "secret": SECRET_CANDIDATES,
    "email": ("[@＠﹫]",),
    "iban": NUMBER,
    "card": NUMBER,
    "phone": NUMBER,
    "ip": DOTTED,
    "private_ip": DOTTED,
}
"""By kind patterns (syntax of Rust's regex) of which every text that holds one matches one, if its digits are ASCII.

In a text with digits of other scripts, which :data:`NATIVE_DIGITS` tells, ``[0-9]`` must be read as ``\\p{Nd}``. Apart,
each takes some 0.1 ns per byte, because the engine skips to bytes that it begins with; as one they take ten times that.
"""


@dataclass(frozen=True, slots=True)
class Span:
    """Personal data of ``kind`` from character ``start`` up to ``end`` of a text."""

    start: int
    end: int
    kind: str


def find(text: str, kinds: Collection[str], *, regions: Collection[str] = (), examples: bool = False) -> list[Span]:
    """Return the personal data of ``kinds`` in ``text``, by place, without overlaps.

    ``regions`` (ISO 3166-1) are where phone numbers without a country code may be from; ``examples`` takes values that
    stand for no person too. Raises :class:`MissingExtra` for phone numbers without their library.
    """
    read = plain(text)
    taken: list[Span] = []
    for kind in KINDS:
        if kind in kinds:
            for start, end, value in _of_kind(kind, read.text, regions, examples):
                if examples or not is_example(kind, value):
                    add_apart(taken, Span(*read.original(start, end), kind))
    return taken


def add_apart(spans: list[Span], span: Span) -> None:
    """Put ``span`` in its place among ``spans`` (by place, apart from each other) unless it overlaps one of them."""
    place = bisect_left(spans, span.start, key=lambda other: other.start)
    if (place == 0 or spans[place - 1].end <= span.start) and (place == len(spans) or span.end <= spans[place].start):
        spans.insert(place, span)


def _of_kind(kind: Kind, text: str, regions: Collection[str], examples: bool) -> Iterator[tuple[int, int, str]]:
    if kind == "secret":
        yield from secrets(text)
    elif kind == "email":
        yield from _emails(text)
    elif kind == "iban":
        yield from _ibans(text)
    elif kind == "card":
        yield from _cards(text)
    elif kind == "phone":
        yield from _phones(text, regions, examples)
    else:
        yield from _addresses(text, kind == "private_ip")


# E-mail addresses, RFC 5321 and 6531.

LOCAL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]")
IN_LABEL = r"A-Za-z0-9\u00c0-\u024f\u0300-\u036f\u1e00-\u1eff"
LATIN_DOMAIN = re.compile(
    rf"(?:[{IN_LABEL}](?:[{IN_LABEL}-]{{0,61}}[{IN_LABEL}])?\.){{1,8}}"
    r"(?:[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{2,59})(?![A-Za-z0-9_@])"
)
LONGEST_LOCAL, LONGEST_DOMAIN = 64, 253


def _emails(text: str) -> Iterator[tuple[int, int, str]]:
    place = text.find("@")
    while place >= 0:
        start = _local_start(text, place)
        if start < place:
            end = _domain_end(text, place + 1)
            if end:
                yield start, end, text[start:end]
        place = text.find("@", place + 1)


def _local_start(text: str, at: int) -> int:
    """Return where the name before an @ starts; ``at`` where there is none.

    A name has letters of one alphabet, as providers of mail allow them, so what touches it in another is no part of it.
    """
    first = max(0, at - LONGEST_LOCAL)
    start = at
    if start and _unspaced(text[start - 1]):
        while start > first and _is_letter(text[start - 1]):
            start -= 1
    else:
        alphabet = ""
        while start > first:
            character = text[start - 1]
            if not LOCAL.match(character) and (not _is_letter(character) or _unspaced(character)):
                break
            own = _alphabet(character)
            if own and alphabet and own != alphabet:
                break
            alphabet = alphabet or own
            start -= 1
        # A sentence or markup may touch the name: it starts with a letter or digit.
        name = text[start:at]
        for sign in "/=|?&{`":
            start += len(name) - len(name := name.rpartition(sign)[2])
        while start < at and not text[start].isalnum():
            start += 1
        if text[at - 1] in ".'`}|" or ".." in text[start:at]:
            return at
    if start and text[start - 1] == "@":
        return at
    return start


def _domain_end(text: str, start: int) -> int:
    """Return where the domain after an @ ends; 0 where there is none."""
    stop = min(len(text), start + LONGEST_DOMAIN)
    found = LATIN_DOMAIN.match(text, start, stop)
    if found:
        ending = found[0].rpartition(".")[2].lower()
        return 0 if ending in values("file") else found.end()
    end = start
    while end < stop and (_is_letter(text[end]) or text[end] in ".-" or (text[end].isascii() and text[end].isalnum())):
        end += 1
    # The last label may be full stop and the next sentence: the domain ends in one that the root zone has.
    while (last := text.rfind(".", start + 1, end)) >= 0:
        label = text[last + 1 : end]
        known = max((name for name in _tlds() if label.startswith(name)), key=len, default="")
        after = label[len(known) : len(known) + 1]
        if known and (
            not after or not _is_letter(after) or _unspaced(after) or _alphabet(after) != _alphabet(known[0])
        ):
            return last + 1 + len(known)
        end = last
    return 0


def _is_letter(character: str) -> bool:
    """Letters, marks and numbers beyond ASCII."""
    return not character.isascii() and unicodedata.category(character)[0] in "LMN"


def _alphabet(character: str) -> str:
    """Return the first word of a letter's name, such as LATIN; empty for modifier letters and what is no letter."""
    if not character.isalpha() or unicodedata.category(character) == "Lm":
        return ""
    return unicodedata.name(character, "").partition(" ")[0]


def _unspaced(character: str) -> bool:
    """Whether a script puts no spaces between words: Thai, Lao, Burmese, Khmer, Tibetan, kana, Han."""
    point = ord(character)
    return 0x0E00 <= point <= 0x109F or 0x1780 <= point <= 0x17FF or 0x3040 <= point <= 0x9FFF


# Account and card numbers.

IBAN = re.compile(r"[A-Z](?<![A-Za-z0-9].)[A-Z][0-9]{2}(?=[ -]?[A-Z0-9])", re.DOTALL)
CARD = re.compile(
    r"[1-9](?<![0-9A-Za-z].)(?<![0-9][.,:_/-].)(?:"
    r"[0-9]{3}([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?"
    r"|[0-9]{3}([ -]?)[0-9]{6}\2[0-9]{4,5}"
    r"|[0-9]{12,18}"
    r")(?![0-9A-Za-z]|[.,:_/-][0-9])",
    re.DOTALL,
)


def _ibans(text: str) -> Iterator[tuple[int, int, str]]:
    for found in IBAN.finditer(text):
        length = iban_length(found[0][:2])
        if length is None:
            continue
        place = found.start()
        value: list[str] = []
        while len(value) < length and place < len(text):
            character = text[place]
            if character.isascii() and (character.isdigit() or character.isupper()):
                value.append(character)
            elif character not in " -" or not value or text[place - 1] in " -":
                break
            place += 1
        whole = place == len(text) or not (text[place].isascii() and text[place].isalnum())
        if whole and is_iban(account := "".join(value)):
            yield found.start(), place, account


def _cards(text: str) -> Iterator[tuple[int, int, str]]:
    for found in CARD.finditer(text):
        digits = found[0].replace(" ", "").replace("-", "")
        if is_card(digits):
            yield *found.span(), digits


# Addresses of machines.

IPV4 = re.compile(
    r"[0-9](?<![0-9A-Za-z_.-].)[0-9]{0,2}\.(?:[0-9]{1,3}\.){2}[0-9]{1,3}(?![0-9A-Za-z_]|[.-][0-9A-Za-z])", re.DOTALL
)
IPV6 = re.compile(
    r"[23fF](?<![0-9A-Za-z:.].)(?:(?<=[23])[0-9A-Fa-f]{3}|(?<=[fF])(?:[cdCD][0-9A-Fa-f]{2}|[eE][89abAB][0-9A-Fa-f]))"
    r"(?::{1,2}[0-9A-Fa-f]{1,4}){1,7}+(?:::)?(?![0-9A-Za-z:]|\.[0-9])",
    re.DOTALL,
)
PREFIX = re.compile(r"/([0-9]{1,3})(?![0-9])")
BEFORE = 24
LAST_WORD = re.compile(r"([^\W\d_]+)[\W_]{0,3}\Z")
CARRIER_GRADE = ipaddress.ip_network("100.64.0.0/10")


def _addresses(text: str, private: bool) -> Iterator[tuple[int, int, str]]:
    for pattern in (IPV4, IPV6):
        for found in pattern.finditer(text):
            try:
                address = ipaddress.ip_address(found[0])
            except ValueError:
                continue
            if _is_private(address) != private or _is_network(address, text[found.end() : found.end() + 4]):
                continue
            if pattern is IPV6 or not _is_version(text, found.start()):
                yield *found.span(), found[0]


def _is_private(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Addresses of RFC 1918, 3927, 4193, 4291 and 6598, which thousands of networks have each."""
    if isinstance(address, ipaddress.IPv4Address):
        first, second = address.packed[:2]
        return (
            first == 10
            or (first == 172 and 16 <= second < 32)
            or (first, second) in ((192, 168), (169, 254))
            or address in CARRIER_GRADE
        )
    return address.packed[0] in (0xFC, 0xFD, 0xFE)


def _is_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, after: str) -> bool:
    """Whether a prefix length follows that makes it the name of a network, such as 10.0.0.0/8."""
    found = PREFIX.match(after)
    width = address.max_prefixlen
    if found is None or not 0 < int(found[1]) < width:
        return False
    return int(address) % (1 << (width - int(found[1]))) == 0


def _is_version(text: str, start: int) -> bool:
    """Whether the word before a dotted number says that it is a version or a section, or a product's name and slash."""
    before = text[max(0, start - BEFORE) : start]
    if before.endswith("/") and before[-2:-1].isalpha() and "://" not in before:
        return True
    word = LAST_WORD.search(before)
    if word is None:
        return False
    said = word[1].lower()
    # Scripts without spaces: the word is the end of what was said.
    return said in values("version") or any(
        said.endswith(known) for known in values("version") if _unspaced(known[0]) or "\uac00" <= known[0] <= "\ud7a3"
    )


# Phone numbers, ITU-T E.164.

PHONE = re.compile(
    r"[(+0-9](?<![0-9A-Za-z_.,:/=#+-].)(?:(?<=[0-9])|\+?[0-9])(?:[ ().\-/~ー]{0,3}[0-9]){6,16}"
    r"(?![0-9A-Za-z_]|[.,:/-][0-9])",
    re.DOTALL,
)
YEARS = re.compile(r"(?:1[0-9]|20)[0-9]{2}[ ./-]{1,3}(?:1[0-9]|20)[0-9]{2}")
RANGE = re.compile(r"([0-9]{3,4}) ?[~-] ?([0-9]{3,4})")
MOBILE = 1
WITH_CODE, WITHOUT_TRUNK = 11, 9
"""Digits from which on a mobile number in one piece is taken: as it is, and where it has no trunk prefix. Shorter ones
are as often an amount or the number of something."""
SERVICES = (3, 4, 5, 8)
"""Toll-free, premium-rate, shared-cost and company numbers: lines of services, no person's."""


def phone_library() -> Any:
    """Return the module ``phonenumbers``. Raises :class:`MissingExtra`."""
    try:
        import phonenumbers
    except ModuleNotFoundError as error:
        raise MissingExtra("phonenumbers", "pii", "finding phone numbers") from error
    return phonenumbers


@cache
def regions_of(language: str, script: str) -> tuple[str, ...]:
    """Return where a language (ISO 639-3, ISO 15924) is spoken most, as ISO 3166-1; empty where that says little."""
    table = _regions()
    return table.get(f"{language}_{script}", table.get(language, ()))


def _phones(text: str, regions: Collection[str], examples: bool) -> Iterator[tuple[int, int, str]]:
    library = phone_library()
    for found in PHONE.finditer(text):
        start, written = found.start(), found[0]
        if written.count("(") != written.count(")"):
            start += len(written) - len(written := written.lstrip("("))
            if "(" in written or ")" in written:
                continue
        number = _international(library, written)
        for region in regions:
            number = number or _national(library, written, region)
        if number is not None and (examples or library.number_type(number) not in SERVICES):
            value = library.format_number(number, library.PhoneNumberFormat.E164)
            if examples or not fictional(value):
                yield start, found.end(), value


def _international(library: Any, written: str) -> Any:
    """A number with its country code is one when it is valid there."""
    stripped = written.strip(" (")
    if stripped.startswith("00"):
        stripped = "+" + stripped[2:]
    if not stripped.startswith("+"):
        return None
    number = _parsed(library, stripped, None)
    return number if number is not None and library.is_valid_number(number) else None


def _national(library: Any, written: str, region: str) -> Any:
    """A number without one must be valid, and in the groups that the country writes or a mobile number in one piece."""
    bounds = RANGE.fullmatch(written)
    if YEARS.fullmatch(written) or (bounds and len(bounds[1]) == len(bounds[2]) and bounds[1] < bounds[2]):
        return None
    number = _parsed(library, written, region)
    if number is None or not library.is_valid_number_for_region(number, region):
        return None
    groups = [group for group in re.split(r"[^0-9]+", written) if group]
    if len(groups) > 1:
        grouped = library.PhoneNumberMatcher(written, region, library.Leniency.EXACT_GROUPING, max_tries=3)
        return number if grouped.has_next() else None
    if library.number_type(number) != MOBILE:
        return None
    if groups[0].startswith("0") or len(groups[0]) >= WITH_CODE:
        return number
    # Without a trunk prefix it is one where the country has none or leaves it out, as Spain, Italy and India do.
    valid = library.PhoneNumberMatcher(groups[0], region, library.Leniency.VALID, max_tries=3)
    return number if len(groups[0]) >= WITHOUT_TRUNK and valid.has_next() else None


def _parsed(library: Any, written: str, region: str | None) -> Any:
    try:
        return library.parse(written, region)
    except library.NumberParseException:
        return None


@cache
def _tlds() -> frozenset[str]:
    return frozenset(line[0] for line in _lines(DATA_FILES[0]))


@cache
def _regions() -> Mapping[str, tuple[str, ...]]:
    return {line[0]: tuple(line[1].split(",")) for line in _lines(DATA_FILES[1])}


def _lines(name: str) -> list[list[str]]:
    text = (resources.files("aya_data.filters.pii") / name).read_text("utf-8")
    return [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")][1:]
