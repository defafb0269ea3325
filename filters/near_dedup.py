"""The ``near_dedup`` filter: of rows that say nearly the same, one is kept and the others are merged into it.

Two rows are near duplicates when the Jaccard index of their **shingle sets** (:mod:`aya_data.text.shingles`: word
n-grams where words are spaced, character n-grams in scripts without spaces, run by run in mixed text) is at least
``threshold``. Every row that goes was verified by that index, computed exactly and rounded to 1e-4, against a row
that stays. Texts with fewer shingles than the n-gram (of up to eight words, say) equal only their own like, up to
case, Unicode form and white space.

``on`` says what is compared: the whole conversation (all turns, in order), its prompt (all turns but the
assistant's) or its last answer; of a preference row both last answers. Rows of different kinds are never compared.

**Which one is kept**: rows are taken in the keeper order of ``exact_dedup`` (kept by an earlier wave; origin;
licence; longer; lower row hash), and a row goes when it resembles one that was *kept* before it. Rows that went
keep nothing out: of a chain A ~ B ~ C with A and C unlike, A and C stay.

**Groups**: translations of one record share no shingles and are not duplicates. With ``at_most: k`` a row that
resembles no kept one goes where k of its ``group`` are kept already. It is the same walk: what went as a duplicate
takes no place in its group, and nothing is merged into what its group loses. Its order is then the same but for the
length, which says nothing between languages: of equal origin and licence the row hash decides, so that each language
keeps its share.

=====================  =======  ============================  ==============================================
rule                   outcome  value                         evidence
=====================  =======  ============================  ==============================================
``near_duplicate``     merged   Jaccard index                 ``J=0.9130 with source/dataset`` of the kept row
``large_group``        merged   place in its group, from 1    how many rows the group has
=====================  =======  ============================  ==============================================

**Links**: kept rows that resemble each other to ``leakage_threshold`` are linked for splits, one with the other or
through others; they are not removed.

How pairs are found: the measure is a MinHash signature of 80 minima per row, cached per part and good for any
threshold; bands of it find candidates (:func:`aya_data.text.minhash.banding` for ``leakage_threshold``: at most 0.4 %
of the pairs that are just at it are missed, far fewer above it, and at the usual ``threshold`` hardly any). Shingle
sets are then made for rows with a likely partner only. Against all pairs of 144,394 mixed texts at 0.6, found by brute
force: of 29,052 with both sides kept at a threshold of 0.8, links join all but 3; of 106,969 at 0.95 all but 4. None
of the 54,464 pairs at 0.8 was left whole.

Cost on one core: 5 microseconds per row of 600 characters to measure, and 8 to decide (half as much where few texts
resemble others; bands for links rather than duplicates alone took 2 of them). Deciding holds 260 bytes per row, and 8
per shingle of rows with a likely partner, beyond 1 GiB in a file of the temporary folder: 5 million rows took 1.6 GiB,
and per row as long as 50,000 did (``benchmarks/growth.py``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from aya_data.core import durable, settings
from aya_data.core.row import ORIGINS
from aya_data.core.stage import Exchange, ExchangeFilter, Piece
from aya_data.filters import exact_dedup
from aya_data.filters.specimens import specimens

if TYPE_CHECKING:
    import duckdb

    from aya_data.core.stage import Environment
    from aya_data.text.matching import Matches
    from aya_data.text.shingles import Pieces

__all__ = ["NearDedup", "texts_of"]

On = Literal["conversation", "prompt", "answer"]
TEXTS = ("kind", "messages", "chosen", "rejected")
KINDS = ("conversation", "prompt", "preference")
KIND_SALT = np.uint64(0xD6E8FEB86659FD93)
HELD = 1 << 30
"""Bytes of shingle sets that are held in memory; more lie in a file."""

Longs = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


class NearDedup(ExchangeFilter):
    """Merges rows that say nearly the same into the best of them."""

    name = "near_dedup"
    outcome = "merged"
    libraries = ("numba", "numpy")
    columns = (
        "row_key", "row_hash", "group", "source", "dataset", "origin", "license", "terms", "prompt_chars",
        "answer_chars",
    )  # fmt: skip
    measure_columns = TEXTS

    class Settings(settings.Settings):
        """What is compared, how alike two rows must be, and whose licence is preferred."""

        on: On = Field("conversation", description="What is compared: the conversation, its prompt or its answer.")
        threshold: float = Field(
            0.8, gt=0, le=1, description="The Jaccard index of two shingle sets from which on one of the rows goes."
        )
        words: int = Field(5, ge=1, le=64, description="Words in a shingle, in scripts that space them.")
        characters: int = Field(5, ge=1, le=64, description="Characters in a shingle, in scripts without spaces.")
        leakage_threshold: float = Field(
            0.6,
            gt=0,
            le=1,
            description="The Jaccard index from which on kept rows are linked, to stay on one side of a split; "
            "at most the threshold.",
        )
        at_most: int | None = Field(
            None, ge=1, description="How many rows of one group (translations of one record, say) are kept."
        )
        prefer_license: Literal["looser", "stricter"] | None = Field(
            None, description="Which of two licences is kept; without it, what suits the policy."
        )

        @model_validator(mode="after")
        def _ordered(self) -> NearDedup.Settings:
            if self.leakage_threshold > self.threshold:
                if "leakage_threshold" in self.model_fields_set:
                    raise settings.wrong(
                        f"must have a leakage_threshold of at most its threshold, found {self.leakage_threshold:g} "
                        f"above {self.threshold:g}",
                        "Lower leakage_threshold, or leave it out.",
                    )
                object.__setattr__(self, "leakage_threshold", self.threshold)
            return self

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        uses = environment.policy.uses
        self.prefer = settings.prefer_license or ("looser" if uses <= {"any"} else "stricter")

    def pins(self) -> dict[str, str]:
        return {"prefer_license": self.prefer}

    def measure_pins(self) -> dict[str, str]:
        given = self.settings
        return {"on": given.on, "words": str(given.words), "characters": str(given.characters)}

    def measure(self, rows: pa.Table) -> pa.Table:
        from aya_data.text.minhash import PERMUTATIONS, signatures
        from aya_data.text.shingles import Gram

        gram = Gram(self.settings.words, self.settings.characters)
        found = signatures(texts_of(rows, self.settings.on), gram, _salts(rows))
        width = 2 * PERMUTATIONS
        minima = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(width), len(rows), [None, pa.py_buffer(np.ascontiguousarray(found.minima))]
        )
        return pa.table({"minima": minima, "sequence": found.sequence, "count": found.count})

    def warm(self) -> None:
        from aya_data.text.matching import near_others
        from aya_data.text.minhash import banding, signatures
        from aya_data.text.shingles import Gram, shingle_sets

        given, rows = self.settings, specimens()
        gram, texts, salts = Gram(given.words, given.characters), texts_of(rows, "conversation"), _salts(rows)
        minima = signatures(texts, gram, salts).minima
        sets, ends = shingle_sets(texts, gram, salts)
        bands = banding(given.leakage_threshold)
        near_others(minima, bands)
        walk = _Walk(np.arange(len(rows)), np.zeros(len(rows), np.bool_), np.full(len(rows), -1, np.int64))
        self._matched(minima, sets, ends[:-1], np.diff(ends), walk.rows, walk, 1)

    def decide(self, exchange: Exchange) -> pa.Table:
        connection = exchange.connection
        threads = int(connection.execute("SELECT current_setting('threads')").fetchall()[0][0])
        connection.register("near_dedup_licenses", exact_dedup.license_ranks(connection, self.prefer))
        lost = self._lost(exchange, threads)
        connection.register("near_dedup_lost", lost)
        try:
            found = [connection.sql(_near_query(self.settings.threshold)).to_arrow_table()]
            if self.settings.at_most is not None:
                found.append(connection.sql(_group_query(self.settings.at_most)).to_arrow_table())
        finally:
            connection.unregister("near_dedup_lost")
            connection.unregister("near_dedup_licenses")
        return pa.concat_tables(found)

    def _lost(self, exchange: Exchange, threads: int) -> pa.Table:
        """Return ``place, keeper, jaccard`` of the rows that go, and link others in ``exchange``."""
        from aya_data.text.matching import near_others
        from aya_data.text.minhash import banding

        measured, minima = _gather(exchange.pieces)
        own, first = _same(measured.sequence, measured.count)
        minima = _compacted(minima, first)
        marked = np.flatnonzero(near_others(minima, banding(self.settings.leakage_threshold), threads))
        chosen = first[marked]  # one row of each text with a likely partner
        rows = np.bincount(own[own >= 0], minlength=len(first) + 1)  # the last for rows without a text
        rows[marked] += 1
        walk = _walk(exchange.connection, measured.places, rows[own] > 1, self.settings.at_most)
        said = own[walk.rows]
        best = np.full(len(first) + 1, len(said), np.int64)
        np.minimum.at(best, said, np.arange(len(said)))
        # Texts are numbered in the order of their first rows, those without a likely partner after the others.
        order = np.argsort(best[marked], kind="stable")
        number = np.full(len(first) + 1, -1, np.int64)
        number[marked[order]] = np.arange(len(marked))
        alone = np.flatnonzero((number[:-1] < 0) & (best[:-1] < len(said)))
        number[alone] = np.arange(len(marked), len(marked) + len(alone))
        minima = minima[marked[order]]
        with tempfile.TemporaryFile(dir=_temporary(exchange.connection)) as file:
            sets, starts, sizes = self._sets(exchange.pieces, measured, chosen, file, threads)
            matches = self._matched(minima, sets, starts[order], sizes[order], number[said], walk, threads)
            del sets
        places = measured.places[walk.rows]
        one, other = places[matches.links].T
        exchange.links.append(pa.table({"one": one, "other": other}))
        gone = np.flatnonzero(matches.partner >= 0)
        keeper = places[matches.partner[gone]]
        return pa.table({"place": places[gone], "keeper": keeper, "jaccard": matches.resemblance[gone]})

    def _matched(
        self, minima: npt.NDArray[np.uint16], sets: Hashes, starts: Longs, sizes: Longs, texts: Longs, walk: _Walk,
        threads: int,
    ) -> Matches:  # fmt: skip
        from aya_data.text.matching import match
        from aya_data.text.minhash import banding

        given = self.settings
        return match(
            minima, sets, starts, sizes, texts, walk.settled, walk.groups, given.at_most or 0,
            banding(given.leakage_threshold), given.threshold, given.leakage_threshold, threads,
        )  # fmt: skip

    def _sets(
        self, pieces: Sequence[Piece], measured: _Measured, chosen: Longs, file: Any, threads: int
    ) -> tuple[Hashes, Longs, Longs]:
        """Return the shingle sets of some rows (ascending), and where the set of each starts and its size."""
        from aya_data.text.shingles import Gram, shingle_sets

        gram = Gram(self.settings.words, self.settings.characters)
        room = np.concatenate([[0], np.cumsum(measured.count[chosen], dtype=np.int64)])
        total = max(1, int(room[-1]))
        sets: Hashes = (
            np.empty(total, np.uint64) if total * 8 <= HELD else np.memmap(file, np.uint64, "w+", shape=total)
        )
        starts = np.zeros(len(chosen), np.int64)
        sizes = np.zeros(len(chosen), np.int64)
        bounds = np.searchsorted(chosen, measured.bounds)

        def fill(number: int) -> None:
            begin, end = int(bounds[number]), int(bounds[number + 1])
            if begin == end:
                return
            table = pieces[number].rows(TEXTS, chosen[begin:end] - measured.bounds[number])
            found, ends = shingle_sets(texts_of(table, self.settings.on), gram, _salts(table))
            sets[room[begin] : room[begin] + len(found)] = found
            starts[begin:end] = room[begin] + ends[:-1]
            sizes[begin:end] = np.diff(ends)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, range(len(pieces))))
        return sets, starts, sizes


@dataclass(frozen=True, slots=True)
class _Measured:
    """The measures of all candidates but their signatures; piece i has rows ``bounds[i]`` to ``bounds[i + 1]``."""

    places: Longs
    sequence: Hashes
    count: npt.NDArray[np.int32]
    bounds: Longs


@dataclass(frozen=True, slots=True)
class _Walk:
    """Rows in the order in which they are taken, whether each is settled, and a number for its group if it is large."""

    rows: Longs
    settled: npt.NDArray[np.bool_]
    groups: Longs


def texts_of(rows: pa.Table, on: On) -> Pieces:
    """Return the text of each row (columns ``messages``, ``chosen``, ``rejected``) as pieces of Arrow's buffers."""
    from aya_data.text.shingles import Pieces

    parts = [_turns(rows["messages"], on)]
    if on != "prompt":
        parts += [_turns(rows[name], "answer") for name in ("chosen", "rejected") if rows[name].null_count < len(rows)]
    contents = pa.concat_arrays([content for content, _ in parts])
    row = np.concatenate([row for _, row in parts])
    offsets = np.frombuffer(contents.buffers()[1], np.int64)[contents.offset : contents.offset + len(contents) + 1]
    starts, ends = offsets[:-1], offsets[1:]
    if len(parts) > 1:
        order = np.argsort(row, kind="stable")
        row, starts, ends = row[order], starts[order], ends[order]
    held = contents.buffers()[2]
    data = np.frombuffer(held, np.uint8) if held is not None and held.size else np.zeros(0, np.uint8)
    return Pieces(data, starts, ends, np.searchsorted(row, np.arange(len(rows) + 1)).astype(np.int64))


def _turns(column: pa.ChunkedArray, on: On) -> tuple[pa.Array, Longs]:
    """Return the contents of some turns of each conversation, and which row each belongs to, ascending."""
    turns = column.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(turns), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = turns.flatten()
    contents = pc.struct_field(flat, "content").cast(pa.large_string())
    row = np.repeat(np.arange(len(lengths)), lengths)
    if on == "conversation":
        return contents, row
    assistant = pc.equal(pc.struct_field(flat, "role"), "assistant").to_numpy(zero_copy_only=False)
    if on == "prompt":
        wanted = np.flatnonzero(~assistant)
    else:
        wanted = (np.cumsum(lengths) - 1)[lengths > 0]
        wanted = wanted[assistant[wanted]]
    return contents.take(pa.array(wanted)), row[wanted]


def _salts(rows: pa.Table) -> Hashes:
    """Rows of different kinds share no shingle."""
    kind = pc.index_in(rows["kind"], pa.array(KINDS)).to_numpy().astype(np.uint64)
    salts: Hashes = kind * KIND_SALT
    return salts


def _gather(pieces: Sequence[Piece]) -> tuple[_Measured, npt.NDArray[np.uint16]]:
    """Read the measures of all pieces, 180 bytes per row; return the signatures apart, to be let go first."""
    from aya_data.text.minhash import PERMUTATIONS

    places = [piece.places() for piece in pieces]
    bounds = np.cumsum([0, *map(len, places)])
    found = _Measured(
        np.concatenate(places),
        np.empty(bounds[-1], np.uint64),
        np.empty(bounds[-1], np.int32),
        bounds,
    )
    gathered = np.empty((bounds[-1], PERMUTATIONS), np.uint16)
    for begin, end, piece in zip(bounds[:-1], bounds[1:], pieces, strict=True):
        table = piece.measures()
        minima = table["minima"].combine_chunks()
        held = np.frombuffer(minima.buffers()[1], np.uint16).reshape(-1, PERMUTATIONS)
        gathered[begin:end] = held[minima.offset : minima.offset + len(minima)]
        found.sequence[begin:end] = table["sequence"].to_numpy()
        found.count[begin:end] = table["count"].to_numpy()
    return found, gathered


def _same(sequence: Hashes, count: npt.NDArray[np.int32]) -> tuple[Longs, Longs]:
    """Return for each row the number of its text (-1 without shingles), and for each text its first row, ascending."""
    spoken = np.flatnonzero(count)
    _, first, inverse = np.unique(sequence[spoken], return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    own = np.full(len(sequence), -1, np.int64)
    own[spoken] = number[inverse]
    return own, spoken[first[order]]


def _compacted(minima: npt.NDArray[np.uint16], rows: Longs) -> npt.NDArray[np.uint16]:
    """Move ``rows`` (ascending) to the front, in place, and return them."""
    step = 1 << 16
    for begin in range(0, len(rows), step):
        some = rows[begin : begin + step]
        minima[begin : begin + len(some)] = minima[some]
    return minima[: len(rows)]


def _walk(
    connection: duckdb.DuckDBPyConnection, places: Longs, involved: npt.NDArray[np.bool_], at_most: int | None
) -> _Walk:
    """Order the rows that have a likely partner or, with ``at_most``, too many others in their group."""
    listed = np.flatnonzero(involved) if at_most is None else np.arange(len(places))
    table = pa.table({"place": places[listed], "slot": listed, "likely": involved[listed]})
    connection.register("near_dedup_places", table)
    found = connection.execute(
        f"""
        WITH large AS (
            SELECT "group", row_number() OVER () - 1 AS number
            FROM candidates GROUP BY "group" HAVING {"false" if at_most is None else f"count(*) > {at_most}"}
        )
        SELECT slot, settled, coalesce(number, -1) AS number FROM candidates c JOIN near_dedup_places USING (place)
        LEFT JOIN large USING ("group") LEFT JOIN near_dedup_licenses AS ranks ON {LICENSED}
        WHERE likely OR number IS NOT NULL ORDER BY {KEEPER_ORDER if at_most is None else GROUP_ORDER}
        """
    ).fetchnumpy()
    connection.unregister("near_dedup_places")
    slots, settled, numbers = (np.asarray(found[name]) for name in ("slot", "settled", "number"))
    return _Walk(slots, settled, numbers)


def _temporary(connection: duckdb.DuckDBPyConnection) -> str | None:
    """The folder that the database spills to, made if it is not there."""
    folder = str(connection.execute("SELECT current_setting('temp_directory')").fetchall()[0][0] or "")
    if not folder:
        return None
    durable.make_folder(Path(folder))
    return folder


LICENSED = "ranks.license = c.license AND ranks.terms = list_sort(coalesce(c.terms, []))"
_ORIGIN = f"list_position([{', '.join(repr(origin) for origin in ORIGINS)}], origin) NULLS LAST"
KEEPER_ORDER = f"settled DESC, {_ORIGIN}, ranks.rank, prompt_chars + answer_chars DESC, row_hash, row_key, place"
GROUP_ORDER = f"settled DESC, {_ORIGIN}, rank, row_hash, row_key, place"
"""Without the length: it would keep those translations whose script needs the most characters."""


def _near_query(threshold: float) -> str:
    return f"""
    SELECT l.place, 'near_duplicate' AS rule, printf('%.4f', l.jaccard) AS value, '{threshold:g}' AS threshold,
           'J=' || printf('%.4f', l.jaccard) || ' with ' || k.source
           || CASE WHEN k.dataset = '' THEN '' ELSE '/' || k.dataset END AS evidence,
           k.row_key AS partner
    FROM near_dedup_lost l JOIN candidates k ON k.place = l.keeper ORDER BY l.place
    """


def _group_query(at_most: int) -> str:
    return f"""
    WITH left_over AS (
        SELECT c.*, ranks.rank FROM candidates c ANTI JOIN near_dedup_lost USING (place)
        LEFT JOIN near_dedup_licenses AS ranks ON {LICENSED}
    ), large AS (
        SELECT "group" FROM left_over GROUP BY "group" HAVING count(*) > {at_most}
    ), numbered AS (
        SELECT place, settled, row_number() OVER best AS position, count(*) OVER (PARTITION BY "group") AS size,
               first_value(row_key) OVER best AS partner
        FROM left_over SEMI JOIN large USING ("group")
        WINDOW best AS (PARTITION BY "group" ORDER BY {GROUP_ORDER})
    )
    SELECT place, 'large_group' AS rule, position::VARCHAR AS value, '{at_most}' AS threshold,
           'one of ' || size || ' rows of one group' AS evidence, partner
    FROM numbered WHERE position > {at_most} AND NOT settled ORDER BY place
    """
