"""The ``semantic_dedup`` filter: of rows that mean nearly the same, one is kept and the others are merged into it.

Rows are compared by the cosine of their sentence embeddings (:mod:`aya_data.text.embeddings`: model2vec, extra
``semantic``). Rows are taken in the keeper order of ``exact_dedup`` (kept by an earlier wave; origin; licence; longer;
lower row hash); a row goes when its cosine with a row that was *kept* before it is at least ``threshold``, rounded to
1e-4. Rows that went keep nothing out. Kinds of rows are never compared with each other, languages only with
``across_languages``: a translation means the same and is not a duplicate.

Rule: ``same_meaning``; value is the cosine, evidence and partner name the kept row.

Cost: exact, so at most n² / 2 products of vectors within a language. Memory is 2 bytes per dimension and row, beyond
1 GiB in a file of the temporary folder, and 64 MiB of cosines.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from aya_data.core import settings
from aya_data.core.errors import WrongSetting
from aya_data.core.stage import Environment, Exchange, ExchangeFilter
from aya_data.filters import exact_dedup
from aya_data.filters.near_dedup import KEEPER_ORDER, KINDS, LICENSED, texts_of

if TYPE_CHECKING:
    from aya_data.text.embeddings import EmbeddingFile

__all__ = ["SemanticDedup"]

On = Literal["conversation", "prompt", "answer"]
HELD = 1 << 30
"""Bytes of vectors that are held in memory; more lie in a file."""
ROWS = 1024
"""Rows that are compared with the kept ones at once."""
KEPT = 1 << 14

Longs = npt.NDArray[np.int64]


class SemanticDedup(ExchangeFilter):
    """Merges rows that mean nearly the same into the best of them."""

    name = "semantic_dedup"
    outcome = "merged"
    libraries = ("model2vec", "numpy", "tokenizers")
    columns = (
        "row_key", "row_hash", "source", "dataset", "origin", "license", "terms", "prompt_chars", "answer_chars",
    )  # fmt: skip
    measure_columns = ("kind", "language", "messages", "chosen", "rejected")

    class Settings(settings.Settings):
        """Which model, what is compared, and how alike two rows must be."""

        model: str = Field(
            description="A static embedding model of model2vec: a folder, or org/repository on the Hub with @revision.",
            examples=["minishlab/potion-multilingual-128M@main"],
        )
        threshold: float = Field(0.95, ge=0.5, le=1, description="The cosine from which on one of two rows goes.")
        on: On = Field("prompt", description="What is compared: the prompt, the answer or the whole conversation.")
        across_languages: bool = Field(False, description="Whether rows of different languages are compared.")
        prefer_license: Literal["looser", "stricter"] | None = Field(
            None, description="Which of two licences is kept; without it, what suits the policy."
        )

    def __init__(self, settings: Settings, environment: Environment) -> None:
        from aya_data.text.embeddings import locate

        super().__init__(settings, environment)
        uses = environment.policy.uses
        self.prefer = settings.prefer_license or ("looser" if uses <= {"any"} else "stricter")
        with WrongSetting.at("model"):
            self.file: EmbeddingFile = locate(
                settings.model, base=environment.base, cache=environment.cache, offline=environment.offline
            )

    def pins(self) -> dict[str, str]:
        return {"prefer_license": self.prefer, "model": self.file.digest}

    def measure_pins(self) -> dict[str, str]:
        return {"model": self.file.digest, "on": self.settings.on}

    def measure(self, rows: pa.Table) -> pa.Table:
        from aya_data.text.embeddings import Embeddings, as_column

        texts = texts_of(rows, self.settings.on)
        vectors = Embeddings.load(self.file).encode([texts.text(row) for row in range(len(texts))])
        kind = pc.index_in(rows["kind"], pa.array(KINDS)).cast(pa.int8())
        return pa.table({"embedding": as_column(vectors), "kind": kind, "language": rows["language"]})

    def decide(self, exchange: Exchange) -> pa.Table:
        from aya_data.text.embeddings import from_column

        connection = exchange.connection
        connection.register("semantic_licenses", exact_dedup.license_ranks(connection, self.prefer))
        try:
            found = connection.sql(
                f"SELECT place, settled, row_key, source, dataset FROM candidates c "
                f"LEFT JOIN semantic_licenses AS ranks ON {LICENSED} ORDER BY {KEEPER_ORDER}"
            ).to_arrow_table()
        finally:
            connection.unregister("semantic_licenses")
        order = found["place"].to_numpy()
        settled = found["settled"].to_numpy(zero_copy_only=False)
        with tempfile.TemporaryFile() as file:
            vectors, group, places = _gathered(exchange, self.settings.across_languages, file, from_column)
            sorter = np.argsort(places)
            by_rank = sorter[np.searchsorted(places, order, sorter=sorter)]
            keeper, cosine = _kept(vectors, group, by_rank, settled, self.settings.threshold)
            del vectors
        gone = np.flatnonzero(keeper >= 0)
        kept = found.take(pa.array(keeper[gone]))
        names = zip(kept["source"].to_pylist(), kept["dataset"].to_pylist(), strict=True)
        values = [f"{value:.4f}" for value in cosine[gone].tolist()]
        table = pa.table(
            {
                "place": order[gone],
                "rule": pa.array(["same_meaning"] * len(gone), pa.string()),
                "value": pa.array(values, pa.string()),
                "threshold": pa.array([f"{self.settings.threshold:g}"] * len(gone), pa.string()),
                "evidence": pa.array(
                    [
                        f"cosine={value} with {source}" + (f"/{dataset}" if dataset else "")
                        for value, (source, dataset) in zip(values, names, strict=True)
                    ],
                    pa.string(),
                ),
                "partner": kept["row_key"].combine_chunks().cast(pa.string()),
            }
        )
        return table.sort_by("place")


def _gathered(exchange: Exchange, across: bool, file: Any, decode: Any) -> tuple[npt.NDArray[np.float16], Longs, Longs]:
    """Read the vectors of all rows, what each is compared within (-1: nothing) and their places."""
    places = [piece.places() for piece in exchange.pieces]
    count = sum(map(len, places))
    vectors: npt.NDArray[np.float16] | None = None
    group = np.zeros(count, np.int64)
    numbers: dict[tuple[int, str], int] = {}
    at = 0
    for piece, own in zip(exchange.pieces, places, strict=True):
        table = piece.measures()
        some = decode(table["embedding"])
        if vectors is None:
            shape = (count, some.shape[1])
            held = count * some.shape[1] * 2 <= HELD
            vectors = np.empty(shape, np.float16) if held else np.memmap(file, np.float16, "w+", shape=shape)
        vectors[at : at + len(own)] = some
        kinds = table["kind"].to_pylist()
        languages = [""] * len(own) if across else table["language"].to_pylist()
        keys = zip(kinds, languages, strict=True)
        group[at : at + len(own)] = [numbers.setdefault(key, len(numbers)) for key in keys]
        group[at : at + len(own)][~some.any(axis=1)] = -1
        at += len(own)
    if vectors is None:
        vectors = np.zeros((0, 1), np.float16)
    return vectors, group, np.concatenate([np.zeros(0, np.int64), *places])


def _kept(
    vectors: npt.NDArray[np.float16], group: Longs, by_rank: Longs, settled: npt.NDArray[np.bool_], threshold: float
) -> tuple[Longs, npt.NDArray[np.float64]]:
    """Return for each rank the rank of the kept row that it goes for (-1: it stays), and their cosine."""
    from aya_data.text.embeddings import rounded

    keeper = np.full(len(by_rank), -1, np.int64)
    cosine = np.zeros(len(by_rank))
    grouped = group[by_rank]
    for number in range(int(grouped.max(initial=-1)) + 1):
        ranks = np.flatnonzero(grouped == number)
        kept = np.zeros(0, np.int64)
        for begin in range(0, len(ranks), ROWS):
            block = ranks[begin : begin + ROWS]
            own = vectors[by_rank[block]].astype(np.float32)
            best, partner = np.full(len(block), -1.0), np.full(len(block), -1, np.int64)
            for first in range(0, len(kept), KEPT):
                others = kept[first : first + KEPT]
                near = own @ vectors[by_rank[others]].astype(np.float32).T
                at = near.argmax(axis=1)
                value = rounded(near[np.arange(len(block)), at])
                better = value > best
                best[better], partner[better] = value[better], others[at[better]]
            among = rounded(own @ own.T)
            stays: list[int] = []
            for place, rank in enumerate(block.tolist()):
                if stays:
                    values = among[place, stays]
                    at_best = int(values.argmax())
                    if values[at_best] > best[place]:
                        best[place], partner[place] = values[at_best], block[stays[at_best]]
                if best[place] >= threshold and not settled[rank]:
                    keeper[rank], cosine[rank] = partner[place], best[place]
                else:
                    stays.append(place)
            kept = np.concatenate([kept, block[stays]])
    return keeper, cosine
