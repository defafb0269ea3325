"""What looks like personal data and is none: values kept for documentation, fiction and tests.

The table (``data/examples.tsv``) names the source of each kind of value.
"""

from __future__ import annotations

import ipaddress
import re
from functools import cache
from importlib import resources

__all__ = ["fictional", "is_example", "values"]

DATA_FILES = ("data/examples.tsv",)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
ASCENDING = ("1234567", "2345678", "3456789", "4567890")


@cache
def values(kind: str) -> frozenset[str]:
    """Return the values of one kind of the table, such as ``card`` or ``domain``."""
    return _table().get(kind, frozenset())


def is_example(kind: str, value: str) -> bool:
    """Tell whether ``value`` (plain, without spaces) is an example of ``kind``: an e-mail address, IP address,
    account number, card number or secret."""
    if kind == "email":
        local, _, domain = value.lower().rpartition("@")
        parts = domain.split(".")
        return (
            ".".join(parts[-2:]) in values("domain")
            or parts[-1] in values("suffix")
            or ".".join(parts[-2:]) in values("suffix")
            or local in values("local")
            or value.lower() in values("service")
        )
    if kind in ("ip", "private_ip"):
        return _is_example_address(ipaddress.ip_address(value))
    if kind == "secret":
        return any(known in value for known in values("secret")) or value.lower() in values("password")
    return value in values(kind)


def fictional(e164: str) -> bool:
    """Tell whether a phone number in E.164 is kept for fiction, or counts up as placeholders do."""
    return _fiction().fullmatch(e164) is not None or any(run in e164[2:] for run in ASCENDING)


def _is_example_address(address: Address) -> bool:
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        return True
    if str(address) in values("resolver") or any(address in network for network in _networks(address.version)):
        return True
    if isinstance(address, ipaddress.IPv4Address):
        # Net masks, broadcast and what was never given out; 1.2.3.4 is a section or a version.
        return address.packed[0] in (0, *range(240, 256)) or max(address.packed) < 10 or address.packed[1:] == bytes(3)
    return False


@cache
def _networks(version: int) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    found = (ipaddress.ip_network(value) for value in sorted(values("network")))
    return tuple(network for network in found if network.version == version)


@cache
def _fiction() -> re.Pattern[str]:
    return re.compile("|".join(re.escape(value).replace("x", r"\d") for value in sorted(values("phone"))))


@cache
def _table() -> dict[str, frozenset[str]]:
    text = (resources.files("aya_data.filters.pii") / DATA_FILES[0]).read_text("utf-8")
    lines = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")][1:]
    return {kind: frozenset(value for other, value in lines if other == kind) for kind, _ in lines}
