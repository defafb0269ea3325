"""Checksums that tell a real number from digits that only look like one, and the tables of lengths beside them.

Bank accounts: ISO 13616 (country, length) and ISO 7064 mod 97-10. Payment cards: ISO/IEC 7812 issuer prefixes,
lengths, and the Luhn formula of its annex B. Each is a microsecond or two for one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

__all__ = ["iban_length", "is_card", "is_iban", "issuer", "luhn", "mod_97"]

DATA_FILES = ("data/iban.tsv", "data/cards.tsv")

DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def luhn(digits: str) -> bool:
    """Tell whether ASCII ``digits`` end in their right check digit: every second one from the right is doubled."""
    numbers = [int(digit) for digit in reversed(digits)]
    return bool(digits) and (sum(numbers[::2]) + sum(DOUBLED[number] for number in numbers[1::2])) % 10 == 0


def mod_97(text: str) -> int:
    """Return ``text`` (A-Z and 0-9), letters read as 10 to 35, modulo 97."""
    return int("".join(str(int(character, 36)) for character in text)) % 97


def iban_length(country: str) -> int | None:
    """Return how many characters an account number of ``country`` (two capitals) has, None where there are none."""
    return _iban_lengths().get(country)


def is_iban(text: str) -> bool:
    """Tell whether ``text``, without spaces and in capitals, has its country's length and the right check digits."""
    return (
        iban_length(text[:2]) == len(text)
        and text.isascii()
        and text.isalnum()
        and text[2:4].isdigit()
        and mod_97(text[4:] + text[:4]) == 1
    )


def issuer(digits: str) -> str | None:
    """Return the card scheme whose prefix and length ``digits`` have, by the longest prefix."""
    best: tuple[int, str] | None = None
    for low, high, name, lengths in _issuers():
        size = len(low)
        if len(digits) in lengths and low <= digits[:size] <= high and (best is None or size > best[0]):
            best = (size, name)
    return None if best is None else best[1]


def is_card(digits: str) -> bool:
    """Tell whether ``digits`` are a card number: a known prefix, its length, and the check digit."""
    return issuer(digits) is not None and luhn(digits)


def _lines(name: str) -> list[list[str]]:
    text = (resources.files("aya_data.filters.pii") / name).read_text("utf-8")
    return [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")][1:]


@cache
def _iban_lengths() -> Mapping[str, int]:
    return {country: int(length) for country, length in _lines(DATA_FILES[0])}


@cache
def _issuers() -> tuple[tuple[str, str, str, frozenset[int]], ...]:
    return tuple(
        (low, high, name, frozenset(int(length) for length in lengths.split(",")))
        for low, high, name, lengths in _lines(DATA_FILES[1])
    )
