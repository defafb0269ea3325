"""What builders and filters are: the protocol between them and the engine.

A *builder* makes rows. Its input comes in independent :class:`Unit` pieces, each read by one task.
A *filter* judges rows: it says which to drop or merge, and may tag and score.
A :class:`RowFilter` looks at one row at a time, a :class:`ReferenceFilter` at one row beside an index of other
sources, an :class:`ExchangeFilter` compares rows of all parts; each may have an expensive *measure* of single rows,
cached per part. Only an :class:`Editor` changes texts, before any filter sees them.

Plugins know this module and the layers below it, never the engine.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel

from aya_data.core.row import Draft, Kind, Rejection

if TYPE_CHECKING:
    import duckdb
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from aya_data.core.language import Variety
    from aya_data.core.license import Policy
    from aya_data.core.mix_settings import TokenizerSettings

__all__ = [
    "Batch",
    "Builder",
    "Editor",
    "Edits",
    "Environment",
    "Exchange",
    "ExchangeFilter",
    "Filter",
    "Piece",
    "ReferenceFilter",
    "RowFilter",
    "Unit",
    "Verdicts",
]


@dataclass(frozen=True, slots=True)
class Unit:
    """One independent piece of a source's input: a file, a slice of a file, or a part of a parent source.

    ``name`` is the file as provenance and the ledger show it; ``digest`` identifies the content;
    ``location`` is where a worker reads it. ``slice`` is (first, last) in what the builder counts
    (rows, bytes). All fields are plain values: a unit travels to worker processes.
    """

    name: str
    digest: str
    location: str
    size: int = 0
    slice: tuple[int, int] | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Environment:
    """What a build tells its plugins. It enters keys only through what a plugin's ``pins`` reveal."""

    base: Path
    """The folder that relative paths of the spec start from."""
    cache: Path
    """Where downloads lie."""
    bundled: bool
    """Whether named sources read their bundled samples (profile ``sample``) or the Hub."""
    seed: int
    languages: tuple[Variety, ...] | None
    policy: Policy
    offline: bool = False
    tokenizer: TokenizerSettings | None = None
    """What counts tokens, where the spec says so."""


@dataclass(slots=True)
class Batch:
    """Some rows of one unit. ``records`` upstream records were read to make it.

    Law: every record is exactly one draft with the record's own key, or one rejection
    (``dropped``, or ``consumed`` when drafts with other keys were made from it).
    """

    records: int
    drafts: Sequence[Draft]
    rejections: list[Rejection] = field(default_factory=list)


class Builder(abc.ABC):
    """Turns an input into rows. One instance per source of a spec; must be cheap to make and picklable."""

    Settings: ClassVar[type[BaseModel]]
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose version changes what is read."""

    def __init__(self, source: str, settings: Any, environment: Environment) -> None:
        self.source = source
        self.settings = settings
        self.environment = environment

    @property
    def kind(self) -> Kind:
        """The kind of row that this source makes."""
        return "conversation"

    @property
    def parents(self) -> tuple[str, ...]:
        """Names of the sources whose filtered rows are this builder's input; empty for a leaf."""
        return ()

    def pins(self) -> dict[str, str]:
        """What identifies the input beyond settings and units: the pinned revision, model digests."""
        return {}

    def notes(self) -> tuple[str, ...]:
        """What people should know of this source, such as where records of its licence disagree."""
        return ()

    @abc.abstractmethod
    def units(self) -> list[Unit]:
        """List the pieces of input, in any order. Called once per build, in the main process."""

    @abc.abstractmethod
    def read(self, unit: Unit) -> Iterator[Batch]:
        """Read one unit. Runs in a worker; memory is bounded by what one yield holds."""

    def derive(self, rows: pa.Table) -> Iterator[Batch]:
        """Make rows from some rows of a parent source (all columns of a row). For builders with parents."""
        raise NotImplementedError(f"{type(self).__name__} has no parents")

    @property
    def rows(self) -> int | None:
        """How many parents to draw; ``None`` takes all. For builders with parents."""
        return None

    def warm(self) -> None:  # noqa: B027 (builders that compile nothing leave it as it is)
        """Call everything that is compiled at its first call; as :meth:`Filter.warm`. For builders that ask models."""


@dataclass(slots=True)
class Verdicts:
    """What a filter says of ``n`` rows, by position. Rows that are not mentioned pass.

    ``drop`` is ``bool[n]``. ``value``, ``threshold`` and ``evidence`` are given for dropped and flagged rows;
    ``rule`` names the rule. ``flag`` is ``bool[n]``: rows that pass but are worth knowing about.
    ``tags`` and ``scores`` are columns of length n, null where nothing is said; scores are rounded
    to 1e-4 before they are judged. ``statistics`` are tables by name, for the catalog: string columns that name a
    group, then integer columns of counts, which are added up over all parts (:mod:`aya_data.core.statistics`).
    """

    drop: npt.NDArray[np.bool_]
    rule: Sequence[str | None]
    value: Sequence[str | None]
    threshold: Sequence[str | None]
    evidence: Sequence[str | None]
    flag: npt.NDArray[np.bool_] | None = None
    tags: Mapping[str, pa.Array] = field(default_factory=dict)
    scores: Mapping[str, pa.Array] = field(default_factory=dict)
    statistics: Mapping[str, pa.Table] = field(default_factory=dict)


class Filter(abc.ABC):
    """Judges rows. One instance per entry of ``filters`` in a spec; picklable."""

    name: ClassVar[str]
    Settings: ClassVar[type[BaseModel]]
    libraries: ClassVar[tuple[str, ...]] = ()
    columns: tuple[str, ...] = ()
    """Row columns that judging needs; an instance may ask for more than its class."""

    def __init__(self, settings: Any, environment: Environment) -> None:
        self.settings = settings
        self.environment = environment

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources this filter compares with (benchmarks)."""
        return ()

    def pins(self) -> dict[str, str]:
        """What identifies the verdicts beyond the settings: the policy, model digests, tables."""
        return {}

    measure_columns: ClassVar[tuple[str, ...]] = ()
    """Row columns that :meth:`measure` needs; empty when there is nothing expensive to measure."""

    def measure_pins(self) -> dict[str, str]:
        """What identifies the measures: a model's digest and the few settings that change its input."""
        return {}

    def measure(self, rows: pa.Table) -> pa.Table:
        """Return the measures of ``rows``, row by row. Cached under :meth:`measure_pins` per part."""
        raise NotImplementedError

    def warm(self) -> None:  # noqa: B027 (filters that compile nothing leave it as it is)
        """Call everything that is compiled at its first call, on a few rows made up for it.

        Called in a process of its own at the first build on a machine, so that compiled code lies in its cache when
        the filter has work to do.
        """


class RowFilter(Filter):
    """A filter that needs to see one row at a time."""

    @abc.abstractmethod
    def judge(self, rows: pa.Table, measures: pa.Table | None) -> Verdicts:
        """Judge ``rows`` (the columns of ``columns``) by their ``measures``. Cheap; runs at every build."""


class ReferenceFilter(RowFilter):
    """A filter that judges single rows by what other sources of the spec hold: benchmarks.

    The rows of :attr:`Filter.sources`, unfiltered, become one index, made once; every part is then measured
    against it. :meth:`Filter.measure` is not called.
    """

    index_columns: ClassVar[tuple[str, ...]] = ()
    """Columns of a row that :meth:`index` needs."""

    def index_pins(self) -> dict[str, str]:
        """What identifies the index beyond the rows in it: the few settings that change it."""
        return {}

    @abc.abstractmethod
    def index(self, rows: Iterator[pa.Table]) -> pa.Table:
        """Return what is worth knowing of the rows of all :attr:`Filter.sources`, given part by part."""

    @abc.abstractmethod
    def compare(self, rows: pa.Table, index: pa.Table) -> pa.Table:
        """Return the measures of ``rows`` (the columns of ``measure_columns``) against the index, row by row."""


@dataclass(slots=True)
class Edits:
    """What an editor made of ``n`` texts: ``texts`` is string[n]; ``rule`` and ``evidence`` are null where a text
    stayed as it was."""

    texts: pa.Array
    rule: Sequence[str | None]
    evidence: Sequence[str | None]


class Editor(RowFilter):
    """A filter that may change texts. It does so before any filter of the spec judges; then it judges in its place.

    Identity is not touched: the row keeps its ``row_key``; its ``id`` is that of the text that it has then. The
    ledger flags each row that was edited.
    """

    @property
    def edits(self) -> bool:
        """Whether the settings ask for edits at all."""
        return True

    def edit_pins(self) -> dict[str, str]:
        """What identifies the edits: the settings and tables that decide them."""
        return {}

    @abc.abstractmethod
    def edit(self, turns: pa.Table) -> Edits:
        """Edit turns: ``text``, ``role``, ``language``, ``script`` (strings). Of n turns, n texts."""


class Piece(Protocol):
    """The candidates of one part, ascending by place. Nothing is read before it is asked for, or kept."""

    def places(self) -> npt.NDArray[np.int64]:
        """Return the ``place`` of each."""
        ...

    def measures(self) -> pa.Table:
        """Return what the filter's :meth:`Filter.measure` found of each."""
        ...

    def rows(self, columns: Sequence[str], chosen: npt.NDArray[np.int64]) -> pa.Table:
        """Read columns of the candidates at the positions ``chosen`` of this piece."""
        ...


@dataclass(frozen=True, slots=True)
class Exchange:
    """All rows at once, for a filter that compares them.

    ``connection`` has a view ``candidates`` (``place`` bigint, unique; ``settled`` boolean: true for rows
    of earlier waves that are already kept; then the filter's ``columns``). ``pieces`` are the same rows part by
    part, for what no database does: their measures, and their texts in bounded amounts. A filter may add
    tables of ``one, other`` (places) to ``links``: rows that belong on one side of a split.
    """

    connection: duckdb.DuckDBPyConnection
    settled: bool
    pieces: Sequence[Piece] = ()
    links: list[pa.Table] = field(default_factory=list)


class ExchangeFilter(Filter):
    """A filter that compares rows with each other."""

    outcome: ClassVar[Literal["dropped", "merged"]] = "merged"

    @abc.abstractmethod
    def decide(self, exchange: Exchange) -> pa.Table:
        """Return the losers: ``place, rule, value, threshold, evidence, partner`` (row_key of the keeper).

        Never names a row whose ``settled`` is true. The result must not depend on ``place``.
        """
