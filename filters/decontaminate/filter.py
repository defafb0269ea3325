"""The ``decontaminate`` filter: rows that hold items of the benchmarks that a model will be judged by.

Each row, all turns of it, is held against every item of the sources in ``against`` (sources with ``use: benchmark``,
all their rows, unfiltered) by four methods:

=============================  ===========================================  =====================================
rule                           a row goes when                              value; threshold
=============================  ===========================================  =====================================
``contaminated_record``        it comes from the upstream record of an      the record's key
                               item, in any language
``contaminated_exact``         its prompt, or a turn, is that of an item    what is equal
``contaminated_near``          a stretch of it is an item's text but for    1 - edits / letters; ``similarity``
                               some edits
``contaminated_ngrams``        it has much of an item's text word for word  share of the grams; ``coverage``
=============================  ===========================================  =====================================

Evidence names the benchmark, the item (row key and upstream id) and the **span**: turn, characters and text.

**Records.** A row and an item come from one record when they share a ``group`` or ``row_key``, or one is among the
other's parents. Builders give translations of a record one group where the source says which record it was:
``aya_evaluation_suite`` by ``source_id``; ``dolly`` has that group with ``row_numbers: true`` alone. ``identifiers``
says it of other rows: which of their columns (``extra``) holds the record's number.

**Exact** is after NFKC, casefold and white space runs as one space. A prompt that several items share (``common``)
counts with the item's answer only, a turn only from 10 letters on, an answer from 100.

**Near** compares letters: NFKC, casefold, without punctuation and space. Edits are insertions, deletions and
substitutions of letters, or of words where that is fewer; both are exact (Levenshtein against the best stretch of the
row). An edit in a short text counts more: up to 30 letters 1.25 in a whole turn and 1.4 inside other text, falling to 1
at 100 (a Han character is worth 3, one of hangul, kana or Ethiopic 2). So with 0.75, 20 % of a short prompt's letters
may be edited, and 25 % of a long one's. Inside other text, items under 24 letters must stand to the letter.
Candidates are items of which enough short grams (5 to 7 letters; 4 or 3 where characters are worth more) stand in
the right distance.

**Grams** are ``words`` words, or in scripts without spaces ``characters`` characters of Han and kana and twice as many
of others, run by run as in ``near_dedup``.

**Boilerplate does not count.** Letters in grams of 5 words (10 characters) that stand in items of at least ``common``
groups, such as instructions, templates, or a passage that several questions share, are neither looked for nor
counted: what is only an item's template or context is no hit. An item's answer is looked for by itself
from 100 letters on. What is boilerplate in the rows alone cannot be known, because rows are judged one by one.

With ``semantic``, prompts are also compared by multilingual embeddings (:mod:`aya_data.text.embeddings`, extra
``semantic``): rule ``contaminated_meaning``, value the cosine. It finds translations that no record tells of.

Statistics: ``contamination``, rows by benchmark, rule and language; ``identifiers``, rows by dataset of those that the
setting names. ``build`` says of which there are none.

Cost per row of 600 characters on one core of a busy machine: some 12 microseconds where no benchmark speaks the row's
language, 50 against 1,440 items in it (XQuAD and MGSM), most of which is looking at what shares phrases. The first
use on a machine compiles for some seconds. An index of 17,030 questions is made in 3 s and takes 17 MB, twice that when
loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from aya_data.core import settings
from aya_data.core.errors import WrongSetting
from aya_data.core.settings import BenchmarkName
from aya_data.core.stage import Environment, ReferenceFilter, Verdicts
from aya_data.filters.decontaminate.index import Index, build, load, record_key, upstream_id
from aya_data.filters.near_dedup import texts_of
from aya_data.filters.specimens import specimens

if TYPE_CHECKING:
    from aya_data.text.embeddings import EmbeddingFile
    from aya_data.text.shingles import Pieces

__all__ = ["Decontaminate"]

Method = Literal["record", "exact", "near", "ngrams"]
METHODS: tuple[Method, ...] = ("record", "exact", "near", "ngrams")
FLOORS = (0.7, 0.3)
"""The least similarity and coverage that are measured: thresholds move above them without measuring again."""
EXCERPT = 80

Longs = npt.NDArray[np.int64]


class Identifier(settings.Settings):
    """Where rows say which upstream record they were made from."""

    dataset: str = Field(description="The rows: their dataset.", examples=["aya_collection/translated_dolly"])
    column: str = Field("id", description="The source's column that holds the number of the record.")
    of: str = Field("dolly", description="The dataset that the number counts in.")


class Semantic(settings.Settings):
    """How embeddings are compared."""

    model: str = Field(
        description="A static embedding model of model2vec: a folder, or org/repository on the Hub with @revision.",
        examples=["minishlab/potion-multilingual-128M@main"],
    )
    threshold: float = Field(0.9, ge=0.5, le=1, description="The cosine of two prompts from which on they are one.")


@dataclass(frozen=True, slots=True)
class _Hit:
    """Text ``number`` of the index, found in a row."""

    number: int
    score: float
    span: str


class Decontaminate(ReferenceFilter):
    """Drops or tags rows that hold items of benchmarks."""

    name = "decontaminate"
    libraries = ("model2vec", "numba", "numpy", "tokenizers")
    columns: tuple[str, ...] = ("language",)
    measure_columns = (
        "kind", "messages", "chosen", "rejected", "row_key", "group", "dataset", "provenance", "extra", "prompt_hash",
    )  # fmt: skip
    index_columns = (*measure_columns, "source")

    class Settings(settings.Settings):
        """Which benchmarks, how they are looked for, and what becomes of a row that holds one of their items."""

        against: tuple[BenchmarkName, ...] = Field(
            min_length=1, description="Sources with use: benchmark.", examples=[["suite"]]
        )
        methods: tuple[Method, ...] = Field(METHODS, min_length=1, description="How items are looked for.")
        similarity: float = Field(
            0.75, ge=FLOORS[0], le=1, description="Near: the share of an item's letters or words that stand in a row."
        )
        coverage: float = Field(
            0.5, ge=FLOORS[1], le=1, description="N-grams: the share of an item's grams that a row has."
        )
        words: int = Field(8, ge=3, le=32, description="Words of a gram, in scripts that space them.")
        characters: int = Field(16, ge=5, le=64, description="Characters of a gram, in scripts without spaces.")
        common: int = Field(
            3,
            ge=2,
            description="Items that share a stretch of text from which on it is boilerplate, not looked for.",
        )
        identifiers: tuple[Identifier, ...] = Field(
            (), description="Where rows of a dataset name the upstream record that they were made from."
        )
        semantic: Semantic | None = Field(None, description="Compare prompts by embeddings too, across languages.")
        action: Literal["drop", "tag"] = Field("drop", description="Whether such rows go, or stay and are tagged.")

    def __init__(self, settings: Settings, environment: Environment) -> None:
        super().__init__(settings, environment)
        if settings.identifiers:
            self.columns = ("language", "dataset")
        self._embeddings: EmbeddingFile | None = None
        if settings.semantic is not None:
            from aya_data.text.embeddings import locate

            with WrongSetting.at("semantic", "model"):
                self._embeddings = locate(
                    settings.semantic.model, base=environment.base, cache=environment.cache, offline=environment.offline
                )

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.settings.against))

    def index_pins(self) -> dict[str, str]:
        given = self.settings
        pins = {name: str(getattr(given, name)) for name in ("words", "characters", "common")}
        pins["identifiers"] = json.dumps([entry.model_dump() for entry in given.identifiers])
        pins["embeddings"] = self._embeddings.digest if self._embeddings else ""
        return pins

    def measure_pins(self) -> dict[str, str]:
        return {**self.index_pins(), "methods": " ".join(m for m in METHODS if m in self.settings.methods)}

    # The index ------------------------------------------------------------------------------------

    def index(self, rows: Iterator[pa.Table]) -> pa.Table:
        items: list[dict[str, Any]] = []
        for table in rows:
            keys = self._record_keys(table)
            columns = ("source", "row_key", "group", "messages", "chosen", "extra", "prompt_hash")
            for number, row in enumerate(table.select(columns).to_pylist()):
                prompt, answer = _texts(row["messages"], row["chosen"])
                items.append(
                    {
                        "benchmark": row["source"],
                        "row_key": row["row_key"],
                        "upstream": upstream_id(json.loads(row["extra"] or "{}")),
                        "group": row["group"],
                        "keys": keys[number],
                        "prompt_hash": row["prompt_hash"],
                        "prompt": prompt,
                        "answer": answer,
                    }
                )
        given = self.settings
        found = build(items, given.common, given.words, given.characters, self._embeddings is not None)
        if self._embeddings is None:
            return found
        from aya_data.text.embeddings import Embeddings, as_column

        vectors = Embeddings.load(self._embeddings).encode(found["prompt"].fill_null("").to_pylist())
        return found.drop_columns(["prompt"]).append_column("embedding", as_column(vectors))

    def _record_keys(self, rows: pa.Table) -> list[list[str]]:
        """Return what identifies the upstream record of each row."""
        parents = pc.struct_field(rows["provenance"].combine_chunks(), "parents").to_pylist()
        found = [
            list(dict.fromkeys([group, key, *(parents or ())]))
            for group, key, parents in zip(rows["group"].to_pylist(), rows["row_key"].to_pylist(), parents, strict=True)
        ]
        for row, key in self._identified(rows):
            found[row].append(key)
        return found

    def _identified(self, rows: pa.Table) -> Iterator[tuple[int, str]]:
        """Yield the rows whose columns name their upstream record, and its key."""
        for entry in self.settings.identifiers:
            chosen = np.flatnonzero(pc.equal(rows["dataset"], entry.dataset).to_numpy(zero_copy_only=False))
            if len(chosen):
                for row, extra in zip(chosen.tolist(), rows["extra"].take(pa.array(chosen)).to_pylist(), strict=True):
                    number = json.loads(extra or "{}").get(entry.column)
                    if number is not None:
                        yield row, record_key(entry.of, number)

    # Measuring ------------------------------------------------------------------------------------

    def compare(self, rows: pa.Table, index: pa.Table) -> pa.Table:
        found = load(index)
        methods = self.settings.methods
        hits: dict[str, dict[int, _Hit]] = {method: {} for method in (*METHODS, "meaning")}
        if len(found.table) and len(rows):
            if "record" in methods:
                hits["record"] = self._records(rows, found)
            if set(methods) & {"exact", "near", "ngrams"}:
                texts = texts_of(rows, "conversation")
                hashes = self._search(texts, found, hits)
                if "exact" in methods:
                    hits["exact"] = _exact(rows, texts, hashes, found)
            if self._embeddings is not None:
                hits["meaning"] = self._meaning(rows, index)
        columns: dict[str, pa.Array] = {}
        for method, own in hits.items():
            columns |= _columns(method, own, found, len(rows))
        return pa.table(columns)

    def _records(self, rows: pa.Table, index: Index) -> dict[int, _Hit]:
        best = np.full(len(rows), np.iinfo(np.int64).max)

        def held(values: pa.Array | pa.ChunkedArray, owners: Longs) -> None:
            place = pc.fill_null(pc.index_in(values, index.keys), -1).to_numpy(zero_copy_only=False)
            at = np.flatnonzero(place >= 0)
            np.minimum.at(best, owners[at], index.key_of[place[at]])

        every = np.arange(len(rows))
        held(rows["group"].combine_chunks(), every)
        held(rows["row_key"].combine_chunks(), every)
        parents = pc.struct_field(rows["provenance"].combine_chunks(), "parents")
        lengths = pc.fill_null(pc.list_value_length(parents), 0).to_numpy(zero_copy_only=False)
        held(parents.flatten(), np.repeat(every, lengths))
        named = list(self._identified(rows))
        held(pa.array([key for _, key in named], pa.string()), np.array([row for row, _ in named], np.int64))
        groups = rows["group"]
        return {
            row: _Hit(int(best[row]), 1.0, f"record {groups[row].as_py()}")
            for row in np.flatnonzero(best < np.iinfo(np.int64).max).tolist()
        }

    def _search(self, texts: Pieces, index: Index, hits: dict[str, dict[int, _Hit]]) -> npt.NDArray[np.uint64]:
        """Find patterns in texts; return the hash of each turn."""
        from aya_data.text.folding import fold
        from aya_data.text.shingles import Pieces, pieces_of

        methods = self.settings.methods
        drawn = ("near" in methods, "ngrams" in methods, self.settings.words, self.settings.characters)
        hashes = np.zeros(len(texts.starts), np.uint64)
        search = _Search(index, drawn)
        row = 0
        while (row := search.run(texts, row, False, hashes, hits, 0)) < len(texts):
            begin, end = int(texts.rows[row]), int(texts.rows[row + 1])
            turns = [
                fold(bytes(texts.data[a:b]).decode())
                for a, b in zip(texts.starts[begin:end], texts.ends[begin:end], strict=True)
            ]
            flat = pieces_of(turns)
            alone = Pieces(flat.data, flat.starts, flat.ends, np.array([0, len(turns)]))
            search.run(alone, 0, True, hashes[begin:end], hits, row)
            row += 1
        return hashes

    def _meaning(self, rows: pa.Table, index: pa.Table) -> dict[int, _Hit]:
        from aya_data.text.embeddings import Embeddings, best_matches, from_column

        assert self._embeddings is not None
        vectors = from_column(index["embedding"])
        usable = np.flatnonzero(vectors.any(axis=1))
        prompts = [_texts(turns, None)[0] for turns in rows["messages"].to_pylist()]
        own = Embeddings.load(self._embeddings).encode(prompts)
        places, cosines = best_matches(own, vectors[usable])
        good = np.flatnonzero(cosines >= 0.5)
        return {
            row: _Hit(int(usable[places[row]]), float(cosines[row]), f"prompt: {prompts[row][:EXCERPT]!r}")
            for row in good.tolist()
        }

    def warm(self) -> None:
        # By default settings: a model of embeddings compiles nothing, and takes long to load.
        plain = Decontaminate(self.Settings.model_validate({"against": ["specimens"]}), self.environment)
        rows = specimens()
        plain.compare(rows.select(self.measure_columns), plain.index(iter([rows.select(self.index_columns)])))

    # Judging --------------------------------------------------------------------------------------

    def judge(self, rows: pa.Table, measures: pa.Table | None) -> Verdicts:
        assert measures is not None
        count = len(rows)
        given = self.settings
        hit = np.zeros(count, np.bool_)
        rule: list[str | None] = [None] * count
        value, threshold, evidence = rule.copy(), rule.copy(), rule.copy()
        scores: list[float | None] = [None] * count
        names: list[str | None] = [None] * count
        bounds = {"near": given.similarity, "ngrams": given.coverage}
        if given.semantic is not None:
            bounds["meaning"] = given.semantic.threshold
        for method in (*METHODS, "meaning"):
            score = measures[f"{method}_score"].fill_null(-1.0).to_numpy()
            fresh = np.flatnonzero((score >= bounds.get(method, 0.0)) & ~hit)
            if not len(fresh):
                continue
            hit[fresh] = True
            said = measures.take(pa.array(fresh))
            for row, benchmark, item, span in zip(
                fresh.tolist(),
                *(said[f"{method}_{name}"].to_pylist() for name in ("benchmark", "item", "span")),
                strict=True,
            ):
                rule[row], names[row] = f"contaminated_{method}", benchmark
                value[row] = f"{score[row]:.4f}" if method in bounds else str(span).partition(":")[0]
                threshold[row] = f"{bounds[method]:g}" if method in bounds else None
                evidence[row] = f"{benchmark} {item}; {span}"
                scores[row] = float(score[row])
        drops = given.action == "drop"
        flag = None if drops else hit
        drop = hit if drops else np.zeros(count, np.bool_)
        tags = {"contamination": pa.array(names, pa.string()), "contamination.rule": pa.array(rule, pa.string())}
        return Verdicts(
            drop,
            rule,
            value,
            threshold,
            evidence,
            flag,
            {} if drops else tags,
            {} if drops else {"contamination": pa.array(scores, pa.float64())},
            {"contamination": _statistic(names, rule, rows["language"]), **self._identifiable(rows)},
        )

    def _identifiable(self, rows: pa.Table) -> dict[str, pa.Table]:
        """Count the rows of each dataset that ``identifiers`` names: of a slip in its name there are none."""
        names = list(dict.fromkeys(entry.dataset for entry in self.settings.identifiers))
        if not names:
            return {}
        counts = [pc.sum(pc.equal(rows["dataset"], name)).as_py() or 0 for name in names]
        return {
            "identifiers": pa.table({"dataset": pa.array(names, pa.string()), "rows": pa.array(counts, pa.int64())})
        }


class _Search:
    """The kernel with its working memory, for one index."""

    def __init__(self, index: Index, drawn: tuple[bool, bool, int, int]) -> None:
        self.index, self.drawn = index, drawn
        count = len(index.patterns)
        self.votes = np.zeros((count, 8), np.int32)
        self.votes[:, 6:] = index.patterns[:, [1, 4]]
        self.found = np.zeros((count, 4), np.int32)
        self.seen = np.zeros(len(index.grams.entries), np.int32)
        self.slots = np.full(1 << 16, -1, np.int16)

    def run(
        self,
        texts: Pieces,
        row: int,
        plain: bool,
        hashes: npt.NDArray[np.uint64],
        hits: dict[str, dict[int, _Hit]],
        shift: int,
    ) -> int:
        """Search texts from ``row`` on; add what is found to ``hits``, its rows ``shift`` further on."""
        from aya_data.filters.decontaminate.kernel import search
        from aya_data.text.shingles import arguments

        count, index = len(texts), self.index
        longest = 2 * texts.longest() + 8
        near, gram = np.full(count, -1, np.int32), np.full(count, -1, np.int32)
        near_score, gram_score = np.zeros(count), np.zeros(count)
        near_span, gram_span = np.zeros((count, 2), np.int64), np.zeros((count, 2), np.int64)
        for state in (self.votes, self.found):
            state[:, 0] = 0
        self.seen[:] = 0
        most = int(np.diff(texts.rows).max(initial=0)) + 1
        width = max(longest, int(index.patterns[:, 1].max(initial=0)) + 8)
        stop: int = search(
            *arguments(texts), row, plain,
            np.zeros(longest, np.uint16), np.zeros(longest, np.uint8), np.zeros(longest, np.int64),
            np.zeros(most, np.int64), np.zeros(3 * longest, np.uint64), np.zeros(3 * longest, np.int64),
            np.zeros(longest, np.int64), np.zeros(longest, np.uint64), np.zeros(longest, np.int64),
            np.zeros((2, width), np.uint16), self.slots,
            *self.drawn, index.letters, index.flags, index.patterns,
            index.seeds.filter, index.seeds.regions, index.seeds.kinds,
            index.seeds.entries, index.seeds.directory, index.seeds.shift,
            index.grams.filter, index.grams.regions, index.grams.entries, index.grams.directory, index.grams.shift,
            self.votes, self.seen, self.found, np.array(FLOORS),
            near, near_score, near_span, gram, gram_score, gram_span, hashes,
        )  # fmt: skip
        for method, number, score, span in (
            ("near", near, near_score, near_span),
            ("ngrams", gram, gram_score, gram_span),
        ):
            for at in np.flatnonzero(number >= 0).tolist():
                said = _span(texts, at, int(span[at, 0]), int(span[at, 1]), plain)
                hits[method][at + shift] = _Hit(int(number[at]), float(score[at]), said)
        return stop


def _span(texts: Pieces, row: int, first: int, last: int, folded: bool) -> str:
    """Say where in a row the bytes from ``first`` to the character at ``last`` stand, and what they are."""
    begin, end = int(texts.rows[row]), int(texts.rows[row + 1])
    pieces = [p for p in range(begin, end) if int(texts.starts[p]) <= first < int(texts.ends[p])]
    piece = pieces[0]
    start, stop = int(texts.starts[piece]), int(texts.ends[piece])
    after = last + 1
    while after < stop and texts.data[after] & 0xC0 == 0x80:
        after += 1
    after = min(after, stop) if after > first else stop
    text = bytes(texts.data[first:after]).decode("utf-8", "replace")
    shown = text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"
    at = len(bytes(texts.data[start:first]).decode())
    # Where a text had to be folded first, characters are counted in what it folds to.
    about = "about " if folded else ""
    return f"turn {piece - begin}, {about}characters {at} to {at + len(text)}: {shown!r}"


def _exact(rows: pa.Table, texts: Pieces, hashes: npt.NDArray[np.uint64], index: Index) -> dict[int, _Hit]:
    """Find rows whose prompt, or one of whose turns, is that of an item."""
    found: dict[int, _Hit] = {}
    place = pc.fill_null(pc.index_in(rows["prompt_hash"], index.prompts), -1).to_numpy(zero_copy_only=False)
    shared = index.table["shared"].to_numpy()
    answers = index.table["answer_whole"].to_numpy()
    prompts = index.table["prompt_hash"]
    for row in np.flatnonzero(place >= 0).tolist():
        number = int(index.prompt_of[place[row]])
        if not shared[number]:
            found[row] = _Hit(number, 1.0, "prompt")
            continue
        same = np.flatnonzero(pc.equal(prompts, prompts[number]).fill_null(False).to_numpy(zero_copy_only=False))
        own = hashes[texts.rows[row] : texts.rows[row + 1]]  # of a preference row both answers
        same = same[np.isin(answers[same], own) & (answers[same] != 0)]
        if len(same):
            found[row] = _Hit(int(same[0]), 1.0, "prompt and answer")
    if len(index.wholes):
        slot = np.minimum(np.searchsorted(index.wholes, hashes), len(index.wholes) - 1)
        turns = np.flatnonzero(index.wholes[slot] == hashes)
        for turn in turns.tolist():
            row = int(np.searchsorted(texts.rows, turn, side="right")) - 1
            if row not in found:
                excerpt = bytes(texts.data[texts.starts[turn] : texts.ends[turn]]).decode()[:EXCERPT]
                number = int(index.whole_of[slot[turn]])
                found[row] = _Hit(number, 1.0, f"turn {turn - int(texts.rows[row])}: {excerpt!r}")
    return found


def _columns(method: str, hits: dict[int, _Hit], index: Index, count: int) -> dict[str, pa.Array]:
    names = ("benchmark", "item", "span", "score")
    values: dict[str, list[Any]] = {name: [None] * count for name in names}
    for row, hit in hits.items():
        item = index.table.slice(hit.number, 1)
        upstream = item["upstream"][0].as_py()
        values["benchmark"][row] = item["benchmark"][0].as_py()
        values["item"][row] = item["row_key"][0].as_py() + (f" (id {upstream})" if upstream else "")
        values["span"][row] = ("answer in " if item["answers"][0].as_py() and method != "record" else "") + hit.span
        values["score"][row] = round(hit.score, 4)
    return {
        f"{method}_{name}": pa.array(values[name], pa.float64() if name == "score" else pa.string()) for name in names
    }


def _texts(turns: Sequence[dict[str, str]], chosen: Sequence[dict[str, str]] | None) -> tuple[str, str]:
    """Return what users say in a row, and its last answer."""
    asked = [turn["content"] for turn in turns if turn["role"] == "user"]
    last = (chosen or turns)[-1]
    return "\n".join(asked), last["content"] if last["role"] == "assistant" else ""


def _statistic(names: Sequence[str | None], rules: Sequence[str | None], languages: pa.ChunkedArray) -> pa.Table:
    spoken = languages.to_pylist()
    counts: dict[tuple[str, str, str], int] = {}
    for name, rule, language in zip(names, rules, spoken, strict=True):
        if name is not None and rule is not None:
            key = (name, rule, language or "und")
            counts[key] = counts.get(key, 0) + 1
    ordered = sorted(counts)
    keys = {
        name: pa.array([key[place] for key in ordered], pa.string())
        for place, name in enumerate(("benchmark", "rule", "language"))
    }
    return pa.table({**keys, "rows": pa.array([counts[key] for key in ordered], pa.int64())})
