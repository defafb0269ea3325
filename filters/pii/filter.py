"""The ``pii`` filter: personal data and secrets in texts, tagged, masked or dropped.

============  =================================================================================================
kind          what counts
============  =================================================================================================
email         an address; the domain ends in letters that are no file ending, or in a label of the root zone
phone         a number that is valid by its country's plan (extra ``pii``); only where ``kinds`` names it
ip            a public IPv4 or IPv6 address, unless what stands before says that it is a version
private_ip    an address of a private or link-local network; tagged unless ``kinds`` says otherwise
iban          an account number with its country's length and right check digits
card          a card number with a known prefix, its length, and the right check digit
secret        keys and tokens of known form, private keys, passwords in addresses
============  =================================================================================================

Values that stand for no person (example.com, 127.0.0.1, 555-0100, published test cards) do not count, unless
``examples`` is set. All turns are read, whatever their role; ``extra`` and other columns are not.

``mask`` puts a placeholder such as ``<EMAIL>`` in the place of the value before any filter sees the row; masking again
changes nothing. ``drop`` drops the row, rule ``pii.<kind>``; ``tag`` flags it by the same rule. Value is how many
there are, evidence in which turns. Neither ledger nor tags ever hold the value itself.

Tags: ``pii`` (``email:2,phone:1``: what stands in the text), ``pii.masked`` (placeholders in the text, also those that
upstream had put there). Statistic ``pii``: rows and values by kind, action and language.

Cost: some 0.5 microseconds per row of 120 bytes without candidates, 2 per row of 690; a candidate of a few hundred
characters takes 50 to 100, each phone number 200 more. The first text that is not ASCII takes 0.1 s for a table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from aya_data.core import settings
from aya_data.core.errors import WrongSetting, did_you_mean
from aya_data.core.settings import wrong
from aya_data.core.stage import Editor, Edits, Environment, Verdicts
from aya_data.filters.by_language import ByLanguage, value_for
from aya_data.filters.pii import presidio as pii_presidio
from aya_data.filters.pii.patterns import (
    CANDIDATES,
    KINDS,
    NATIVE_DIGITS,
    Kind,
    Span,
    add_apart,
    find,
    phone_library,
    regions_of,
)

__all__ = ["Pii"]

Action = Literal["tag", "mask", "drop"]
Mask = npt.NDArray[np.bool_]
SIDES = ("messages", "chosen", "rejected")
PLACES = 3
"""So many places are told of one turn."""


class Pii(Editor):
    """Tags, masks or drops personal data and secrets."""

    name = "pii"
    libraries = ("phonenumbers", "polars", "presidio-analyzer", "spacy")
    columns = ("language",)
    measure_columns = (*SIDES, "language", "script")

    class Settings(settings.Settings):
        """What becomes of texts with personal data, by kind."""

        action: Action = Field(
            "tag", description="What becomes of what is found: tag the row, mask the value, or drop the row."
        )
        kinds: dict[Kind, Literal["tag", "mask", "drop", "ignore"]] = Field(
            {},
            description="Another action for a kind. phone is looked for only where it stands here (extra pii); "
            "private_ip is tagged where it does not.",
            examples=[{"phone": "mask", "secret": "drop"}],
        )
        examples: bool = Field(
            False, description="Whether values kept for examples and tests count, such as example.com."
        )
        regions: ByLanguage[tuple[str, ...]] = Field(
            {},
            description="Countries (ISO 3166-1) of phone numbers without country code, by language; else those where "
            "it is spoken most.",
            examples=[{"spa": ["AR", "CL"]}],
        )
        presidio: pii_presidio.Settings | None = Field(
            None, description="Names and other entities that presidio finds (extra presidio)."
        )

        @model_validator(mode="after")
        def _check(self) -> Self:
            for key, regions in self.regions.items():
                for region in regions:
                    if not (len(region) == 2 and region.isascii() and region.isupper()):
                        raise wrong(f"has the region {region!r} for {key}", "Write two capitals, such as BR.")
            return self

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        if "phone" in self._actions:
            with WrongSetting.at("kinds", "phone"):
                known = phone_library().SUPPORTED_REGIONS
            unknown = [
                (("regions", key, place), f"there is no country with phone numbers {name!r}", did_you_mean(name, known))
                for key, names in settings.regions.items()
                for place, name in enumerate(names)
                if name not in known
            ]
            if unknown:
                raise WrongSetting(unknown)
        if settings.presidio is not None:
            with WrongSetting.at("presidio"):
                pii_presidio.check(settings.presidio, environment.base)

    @cached_property
    def _actions(self) -> dict[str, Action]:
        """The action for each kind that is looked for."""
        given = {"private_ip": "tag", "phone": "ignore", **self.settings.kinds}
        actions = {kind: given.get(kind, self.settings.action) for kind in KINDS}
        if self.settings.presidio is not None:
            action = self.settings.presidio.action or self.settings.action
            actions |= dict.fromkeys((name.lower() for name in self.settings.presidio.entities), action)
        return {kind: action for kind, action in actions.items() if action != "ignore"}

    def _kinds(self, *actions: Action) -> list[str]:
        return [kind for kind, action in self._actions.items() if action in actions]

    @property
    def edits(self) -> bool:
        return bool(self._kinds("mask"))

    def edit_pins(self) -> dict[str, str]:
        return {**self._pins("mask", "tag", "drop"), "masked": ",".join(self._kinds("mask"))}

    def measure_pins(self) -> dict[str, str]:
        return {**self._pins("tag", "drop"), "masked": ",".join(self._kinds("mask"))}

    def _pins(self, *actions: Action) -> dict[str, str]:
        kinds = self._kinds(*actions)
        pins = {"kinds": ",".join(kinds), "examples": str(self.settings.examples)}
        if "phone" in kinds:
            pins["regions"] = repr(sorted(self.settings.regions.items()))
        if self.settings.presidio is not None and self._presidio_kinds(kinds):
            pins["presidio"] = pii_presidio.pin(self.settings.presidio, self.environment.base)
        return pins

    def edit(self, turns: pa.Table) -> Edits:
        """Mask the kinds that are to be masked. Rule ``pii.masked``, evidence their number and places by role."""
        turns = turns.combine_chunks()
        # Of values that overlap the gravest kind counts: what is to be dropped must not be masked in part before.
        masked = frozenset(self._kinds("mask"))
        kinds = self._kinds("mask", "tag", "drop") if masked else []
        texts = _whole(turns["text"])
        rule: list[str | None] = [None] * len(texts)
        evidence = rule.copy()
        changed: dict[int, str] = {}
        candidates = self._candidates(texts, kinds)
        picked = turns.take(pa.array(list(candidates), pa.int64())).to_pylist()
        for (row, of_row), turn in zip(candidates.items(), picked, strict=True):
            text = turn["text"]
            if text is None:
                continue
            spans = first = [s for s in self._find(text, turn["language"], turn["script"], of_row) if s.kind in masked]
            counts: Counter[str] = Counter()
            # What stood beside a value may be one now that its neighbour is gone: until nothing is found. Each round
            # leaves fewer characters that are no placeholder.
            while spans:
                counts.update(span.kind for span in spans)
                text = _masked(text, spans)
                spans = [s for s in self._find(text, turn["language"], turn["script"], of_row) if s.kind in masked]
            if counts:
                changed[row] = text
                rule[row] = "pii.masked"
                evidence[row] = f"{turn['role']}: {_told(counts, first)}"
        return Edits(_replaced(texts, changed), rule, evidence)

    def measure(self, rows: pa.Table) -> pa.Table:
        """Return ``pii`` and ``masked`` (kind:count by comma, null where none) and ``places`` (a list of strings)."""
        texts, owner, turn_names = _turns(rows)
        count = rows.num_rows
        kinds = self._kinds("tag", "drop")
        found: dict[int, Counter[str]] = {}
        places: dict[int, list[str]] = {}
        candidates = self._candidates(texts, kinds)
        language, script = (rows[name].combine_chunks() for name in ("language", "script"))
        for turn, of_turn in candidates.items():
            row = int(owner[turn])
            text = texts[turn].as_py()
            spans = self._find(text or "", language[row].as_py(), script[row].as_py(), of_turn)
            if spans:
                counts = Counter(span.kind for span in spans)
                found.setdefault(row, Counter()).update(counts)
                places.setdefault(row, []).extend(
                    f"{turn_names(turn)}: {_told(Counter({kind: number}), spans)}" for kind, number in counts.items()
                )
        masked = self._placeholders(texts, owner, count)
        return pa.table(
            {
                "pii": pa.array([_compact(found.get(row)) for row in range(count)], pa.string()),
                "masked": pa.array([_compact(masked.get(row)) for row in range(count)], pa.string()),
                "places": pa.array([places.get(row) for row in range(count)], pa.list_(pa.string())),
            }
        )

    def judge(self, rows: pa.Table, measures: pa.Table | None) -> Verdicts:
        assert measures is not None, "the engine measures before it judges"
        count = len(measures)
        drop, flag = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        rule: list[str | None] = [None] * count
        value, threshold, evidence = rule.copy(), rule.copy(), rule.copy()
        statistic: Counter[tuple[str, str, str]] = Counter()
        rows_with: Counter[tuple[str, str, str]] = Counter()
        said = pc.or_(measures["pii"].is_valid(), measures["masked"].is_valid()).to_numpy()
        picked = pa.array(np.flatnonzero(said))
        languages = rows["language"].take(picked).to_pylist()
        for row, one, language in zip(picked.to_pylist(), measures.take(picked).to_pylist(), languages, strict=True):
            counts = _expanded(one["pii"])
            for action, kinds in (("masked", _expanded(one["masked"])), ("", counts)):
                for kind, number in kinds.items():
                    key = (kind, action or self._actions[kind], language or "und")
                    statistic[key] += number
                    rows_with[key] += 1
            if not counts:
                continue
            # The gravest action, and of several kinds the first.
            kind = min(counts, key=lambda kind: self._actions[kind] != "drop")
            drop[row] = self._actions[kind] == "drop"
            flag[row] = not drop[row]
            rule[row], value[row], threshold[row] = f"pii.{kind}", str(counts[kind]), "0"
            evidence[row] = "; ".join(one["places"])[:300]
        keys = sorted(statistic)
        table = pa.table(
            {
                **{
                    name: pa.array([key[index] for key in keys], pa.string())
                    for index, name in enumerate(("kind", "action", "language"))
                },
                "rows": pa.array([rows_with[key] for key in keys], pa.int64()),
                "values": pa.array([statistic[key] for key in keys], pa.int64()),
            }
        )
        tags = {"pii": _whole(measures["pii"]), "pii.masked": _whole(measures["masked"])}
        return Verdicts(drop, rule, value, threshold, evidence, flag, tags=tags, statistics={"pii": table})

    def _find(self, text: str, language: str | None, script: str | None, kinds: Sequence[str]) -> list[Span]:
        regions: Sequence[str] = ()
        if "phone" in kinds:
            own = value_for(self.settings.regions, language or "", script or "")
            regions = regions_of(language or "", script or "") if own is None else own
        spans = find(text, kinds, regions=regions, examples=self.settings.examples)
        asked = self._presidio_kinds(kinds)
        if self.settings.presidio is None or not asked:
            return spans
        base = self.environment.base
        for span in pii_presidio.find(text, language or "", script or "", self.settings.presidio, base, asked):
            add_apart(spans, span)
        return spans

    def _presidio_kinds(self, kinds: Sequence[str]) -> list[str]:
        return [kind for kind in kinds if kind not in KINDS]

    def _candidates(self, texts: pa.Array, kinds: Sequence[str]) -> dict[int, list[str]]:
        """Return which texts may hold which of ``kinds``."""
        found: dict[int, list[str]] = {}
        asked = self._presidio_kinds(kinds)
        if asked:
            found = {place: list(asked) for place in range(len(texts))}
        # Looking for digits of all scripts takes ten times as long as for those of ASCII: only where there are any.
        native = pc.fill_null(pc.invert(pc.string_is_ascii(texts)), False).to_numpy(zero_copy_only=False)
        places = np.flatnonzero(native)
        native[places] = _matches(texts.take(pa.array(places)), NATIVE_DIGITS)
        for rows in (~native, native):
            places = np.flatnonzero(rows)
            chosen = texts if len(places) == len(texts) else texts.take(pa.array(places))
            for pattern, of_pattern in _patterns(kinds, rows is native).items() if len(places) else ():
                for place in places[_matches(chosen, pattern)].tolist():
                    known = found.setdefault(place, [])
                    known.extend(kind for kind in of_pattern if kind not in known)
        return dict(sorted(found.items()))

    def _placeholders(self, texts: pa.Array, owner: npt.NDArray[np.int64], count: int) -> dict[int, Counter[str]]:
        """Count the placeholders of the kinds that are masked, by row."""
        found: dict[int, Counter[str]] = {}
        kinds = self._kinds("mask")
        if not kinds:
            return found
        some = pc.fill_null(pc.match_substring_regex(texts, "<[A-Z_]+>"), False).to_numpy(zero_copy_only=False)
        for turn in np.flatnonzero(some).tolist():
            text = texts[turn].as_py()
            for kind in kinds:
                number = text.count(_placeholder(kind))
                if number:
                    found.setdefault(int(owner[turn]), Counter())[kind] += number
        return found


def _patterns(kinds: Sequence[str], native: bool) -> dict[str, list[str]]:
    """Return patterns that tell candidates, and the kinds of each; for texts with ``native`` digits, or without."""
    patterns: dict[str, list[str]] = {}
    for kind in KINDS:
        for pattern in CANDIDATES[kind] if kind in kinds else ():
            patterns.setdefault(pattern.replace("[0-9]", r"\p{Nd}") if native else pattern, []).append(kind)
    return patterns


def _matches(texts: pa.Array, pattern: str) -> Mask:
    """Tell in which texts a pattern matches; Rust's regex takes half the time of Arrow's, or less."""
    import polars as pl

    matched: Mask = pl.Series(texts).str.contains(pattern).fill_null(False).to_numpy()
    return matched


def _placeholder(kind: str) -> str:
    return f"<{kind.upper()}>"


def _masked(text: str, spans: Sequence[Span]) -> str:
    pieces = []
    place = 0
    for span in spans:
        pieces += [text[place : span.start], _placeholder(span.kind)]
        place = span.end
    return "".join([*pieces, text[place:]])


def _told(counts: Counter[str], spans: Sequence[Span]) -> str:
    """Say how many of each kind there are and at which characters the first ones start."""
    told = []
    for kind, number in sorted(counts.items()):
        places = ", ".join(str(span.start) for span in spans if span.kind == kind)
        shown = ", ".join(places.split(", ")[:PLACES])
        more = ", …" if places.count(",") >= PLACES else ""
        told.append(f"{kind} {number}" + (f" at {shown}{more}" if shown else ""))
    return ", ".join(told)


def _compact(counts: Counter[str] | None) -> str | None:
    return ",".join(f"{kind}:{number}" for kind, number in sorted(counts.items())) if counts else None


def _expanded(text: str | None) -> dict[str, int]:
    pairs = (pair.rpartition(":") for pair in text.split(",")) if text else ()
    return {kind: int(number) for kind, _, number in pairs}


def _whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _replaced(texts: pa.Array, changed: dict[int, str]) -> pa.Array:
    if not changed:
        return texts
    mask = np.zeros(len(texts), np.bool_)
    mask[list(changed)] = True
    return pc.replace_with_mask(texts, pa.array(mask), pa.array([changed[row] for row in sorted(changed)], texts.type))


def _turns(rows: pa.Table) -> tuple[pa.Array, npt.NDArray[np.int64], Any]:
    """Return the text of all turns, the row of each, and a function that names one.

    Of ``chosen`` and ``rejected`` only the last turns are taken: they repeat the shared ones of ``messages``.
    """
    texts: list[pa.Array] = []
    owners: list[npt.NDArray[np.int64]] = []
    roles: list[pa.Array] = []
    numbers: list[npt.NDArray[np.int64]] = []
    for side in SIDES:
        column = _whole(rows[side])
        flat = column.flatten()
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        owner = np.repeat(np.arange(len(column), dtype=np.int64), lengths)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        if side != "messages":
            last = np.cumsum(lengths)[lengths > 0] - 1
            flat, owner, number = flat.take(pa.array(last)), owner[last], number[last]
        texts.append(pc.struct_field(flat, "content"))
        roles.append(pc.struct_field(flat, "role"))
        owners.append(owner)
        numbers.append(number)
    role = pa.chunked_array(roles)
    bounds = np.cumsum([len(owner) for owner in owners])
    number = np.concatenate(numbers)

    def name(turn: int) -> str:
        side = SIDES[int(np.searchsorted(bounds, turn, "right"))]
        where = "turn" if side == "messages" else f"{side} turn"
        return f"{where} {number[turn]} ({role[turn].as_py()})"

    return _whole(pa.chunked_array(texts)), np.concatenate(owners), name
