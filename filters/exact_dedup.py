"""The ``exact_dedup`` filter: of rows that say the same, one is kept and the others are merged into it.

Two rows say the same when their conversations are equal (roles and texts of all turns; ``on: conversation``), or
their prompts up to case, Unicode form and white space (``on: prompt``), or their last answers (``on: answer``).
``normalize: text`` compares conversations and answers up to case, form and white space too. Language labels do not
matter: the same text under two labels is one content, and the evidence names the other label. Prompts and
answers are only compared between rows of one kind; rows without an answer equal nothing.

**Which one is kept**: a row kept by an earlier wave; then by origin (human, human-edited, templated,
translated, generated); then by licence, the looser or the stricter one, as ``prefer_license`` or else the policy
says (one that takes only licences for any use keeps the looser one, so that the text stays usable; others keep the
stricter, so that no restriction is lost; licences that allow and ask the same are equal);
then the longer one; then the lower hash of the whole row.
The order is total: the result depends on nothing but the rows.

Rule: ``exact_duplicate``; value is what is equal (the content's id or hash), evidence and partner name the keeper.
Cost: DuckDB groups 16-byte keys and ranks only rows whose key occurs twice, spilling where memory is short; hashing
texts (``normalize: text`` or ``on: answer``) takes some 5 microseconds per row on top.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
from pydantic import Field

from aya_data.core import license as licenses
from aya_data.core import settings
from aya_data.core.row import ORIGINS, normal_text
from aya_data.core.stage import Environment, Exchange, ExchangeFilter

if TYPE_CHECKING:
    import duckdb

__all__ = ["ExactDedup"]

On = Literal["conversation", "prompt", "answer"]

EVIDENCE = {
    "conversation": "same conversation as",
    "prompt": "same prompt as",
    "answer": "same answer as",
}


class ExactDedup(ExchangeFilter):
    """Merges rows that say the same into the best of them."""

    name = "exact_dedup"
    outcome = "merged"
    columns: tuple[str, ...] = (
        "id", "row_key", "row_hash", "prompt_hash", "kind", "language", "script", "source", "dataset",
        "origin", "license", "terms", "prompt_chars", "answer_chars",
    )  # fmt: skip

    class Settings(settings.Settings):
        """What counts as the same, and whose licence is preferred."""

        on: On = Field("conversation", description="What must be equal: the conversation, its prompt or its answer.")
        normalize: Literal["none", "text"] = Field(
            "none",
            description="Whether conversations and answers must be equal to the letter (none), or up to case, "
            "Unicode form and white space (text). Prompts are always compared as text.",
        )
        prefer_license: Literal["looser", "stricter"] | None = Field(
            None, description="Which of two licences is kept; without it, what suits the policy."
        )

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        uses = environment.policy.uses
        self.prefer = settings.prefer_license or ("looser" if uses <= {"any"} else "stricter")
        if self._hashes_texts:
            self.columns = (*self.columns, "messages", "chosen", "rejected")

    @property
    def _hashes_texts(self) -> bool:
        """Whether the hashes that rows carry do not say what the settings compare."""
        return self.settings.on == "answer" or (self.settings.on, self.settings.normalize) == ("conversation", "text")

    def pins(self) -> dict[str, str]:
        return {"prefer_license": self.prefer}

    def decide(self, exchange: Exchange) -> pa.Table:
        connection = exchange.connection
        ranks = license_ranks(connection, self.prefer)
        connection.register("exact_dedup_licenses", ranks)
        hashed = self._hash_texts(connection)
        try:
            found = connection.sql(self._query()).to_arrow_table()
        finally:
            connection.unregister("exact_dedup_licenses")
            if hashed:
                connection.remove_function("exact_dedup_hash")
        return found

    def _hash_texts(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Give the connection the function that hashes turns, when the settings need it."""
        if not self._hashes_texts:
            return False
        plain = self.settings.normalize == "none"
        answers = self.settings.on == "answer"

        def exact_dedup_hash(messages: pa.Array, chosen: pa.Array, rejected: pa.Array) -> pa.Array:
            columns = (column.to_pylist() for column in (messages, chosen, rejected))
            return pa.array([_hash(row, plain, answers) for row in zip(*columns, strict=True)], pa.string())

        from duckdb import func, sqltype

        turns = sqltype("STRUCT(role VARCHAR, content VARCHAR)[]")
        connection.create_function(
            "exact_dedup_hash",
            exact_dedup_hash,
            [turns, turns, turns],
            sqltype("VARCHAR"),
            type=func.ARROW,
            null_handling=func.SPECIAL,
        )
        return True

    def _query(self) -> str:
        hashing = "exact_dedup_hash(messages, chosen, rejected)"
        if self.settings.on == "prompt":
            key, partition, keep = "prompt_hash", "key, kind", ""
        elif self.settings.on == "answer":
            key, partition, keep = hashing, "key, kind", "MATERIALIZED"
        elif self.settings.normalize == "text":
            key, partition, keep = hashing, "key", "MATERIALIZED"
        else:
            key, partition, keep = "id", "key", ""
        origins = ", ".join(f"'{origin}'" for origin in ORIGINS)
        says = EVIDENCE[self.settings.on]
        return f"""
        WITH keyed AS {keep} (
            SELECT place, {key} AS key, kind FROM candidates
        ), twice AS (
            SELECT {partition} FROM keyed WHERE key IS NOT NULL GROUP BY {partition} HAVING count(*) > 1
        ), members AS (
            SELECT place, key FROM keyed SEMI JOIN twice USING ({partition})
        ), ranked AS (
            SELECT place, settled, key, language || '_' || script AS variety,
                   row_number() OVER best AS position,
                   first_value(row_key) OVER best AS partner,
                   first_value(source) OVER best AS kept_source,
                   first_value(dataset) OVER best AS kept_dataset,
                   first_value(language || '_' || script) OVER best AS kept_variety
            FROM candidates JOIN members USING (place)
            LEFT JOIN exact_dedup_licenses AS ranks
                   ON ranks.license = candidates.license
                  AND ranks.terms = list_sort(coalesce(candidates.terms, []))
            WINDOW best AS (
                PARTITION BY {partition}
                ORDER BY settled DESC, list_position([{origins}], origin) NULLS LAST, ranks.rank,
                         prompt_chars + answer_chars DESC, row_hash, row_key, place
            )
        )
        SELECT place, 'exact_duplicate' AS rule, key AS value, NULL::VARCHAR AS threshold,
               '{says} ' || kept_source
               || CASE WHEN kept_dataset = '' THEN '' ELSE '/' || kept_dataset END
               || CASE WHEN variety = kept_variety THEN ''
                  ELSE ', which is labelled ' || kept_variety || ' (here ' || variety || ')' END AS evidence,
               partner
        FROM ranked WHERE position > 1 AND NOT settled ORDER BY place
        """


def license_ranks(connection: duckdb.DuckDBPyConnection, prefer: str) -> pa.Table:
    """Return ``license, terms, rank`` of the distinct licences of the candidates; the lowest rank is kept.

    By what the licence allows and asks, then by how many terms of use there are; equals have one rank.
    """
    table = connection.sql(
        "SELECT DISTINCT license, list_sort(coalesce(terms, [])) AS terms FROM candidates"
    ).to_arrow_table()
    pairs = zip(table["license"].to_pylist(), table["terms"].to_pylist(), strict=True)
    strict = [_strictness(license, terms) for license, terms in pairs]
    order = sorted(set(strict), reverse=prefer == "stricter")
    # Of a buffer: to convert values, pyarrow imports pandas (0.15 s) where it is there.
    ranks = pa.py_buffer(array("q", [order.index(place) for place in strict]))
    return table.append_column("rank", pa.Array.from_buffers(pa.int64(), len(strict), [None, ranks]))


def _strictness(expression: str, terms: list[str]) -> tuple[int, ...]:
    license = licenses.from_expression(expression)
    use, derivatives, share_alike, attribution, *_ = licenses.strictness(license)
    return use, derivatives, share_alike, attribution, len({*terms, *licenses.terms_of(license)})


Turns = list[dict[str, str]] | None


def _hash(row: Iterable[Turns], plain: bool, answers: bool) -> str | None:
    """Identify the turns of one row, or its last answers; None where there is no answer."""
    messages, chosen, rejected = row
    hasher = hashlib.blake2b(digest_size=16)
    if answers:
        last = [turns[-1] for turns in (chosen or messages, rejected) if turns]
        conversations = [[turn] for turn in last if turn["role"] == "assistant"]
        if not conversations:
            return None
    else:
        conversations = [turns for turns in (messages, chosen, rejected) if turns]
    for turns in conversations:
        hasher.update(b"%d;" % len(turns))
        for turn in turns:
            text = (turn["content"] if plain else normal_text(turn["content"])).encode()
            hasher.update(b"%b:%d;" % (turn["role"].encode(), len(text)))
            hasher.update(text)
    return hasher.hexdigest()
