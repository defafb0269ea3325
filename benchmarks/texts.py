"""Texts by the million: real ones from a folder of Parquet files, in keyed order, and edited copies of them.

A row's text is its columns of running text joined by line breaks; a column counts when most of its values
hold white space or characters of a script without spaces, so that ids, labels and paths stay out. Everything is
decided by keyed hashes: a folder gives the same files wherever it lies.

**Copies** have every sixth token (a word, or a character of a script without spaces) replaced by one that
nobody else has, so that of any shingle of five tokens at most one in six survives: the Jaccard index of a copy with
its original, or with another copy, is below 0.3. **Echoes** differ from their row by one word, or by case alone where
they are short: true near-duplicates.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aya_data.core.identity import draws
from aya_data.text.folding import BLOCKS

__all__ = ["COPIED", "echo", "edited", "grown", "mixed", "real_folder", "real_texts"]

GROUP = 10_000
"""Rows of a row group, and of a task."""
LABELS = ("lang", "language", "question_lang", "source_lang")
SAMPLED = 200
"""Values that say whether a column holds running text."""
STEP = 6
"""Of so many tokens one is replaced in a copy."""
SHORT = 40
"""Characters of a script without spaces below which all are replaced."""
LONG = 60
"""Words from which on an echo may differ in one of them and stay above a Jaccard index of 0.8."""
ECHOES = 10
"""One row in so many is an echo, where the rate of duplicates is fixed."""
COPIED = 800_000
"""Real rows of the growth corpus, at most; the rest are copies."""

UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last, _ in BLOCKS)
TOKEN = re.compile(f"[{UNSPACED}]|[^\\W{UNSPACED}]+")
ALONE = re.compile(f"[{UNSPACED}]")
RUNNING = re.compile(f"\\w\\s+\\w|[{UNSPACED}]")
LETTERS = str.maketrans("0123456789", "ghijklmnop")


def real_folder() -> Path | None:
    """The folder of real data that ``AYA_DATA_REAL`` names."""
    named = os.environ.get("AYA_DATA_REAL")
    return Path(named) if named else None


# Real texts ----------------------------------------------------------------------------------------


def real_texts(folder: Path) -> pa.Table:
    """Return ``text``, ``source`` (the name of the folder) and ``lang`` of all rows in ``folder/SOURCE/*.parquet``.

    ``lang`` is what the row says, or else the one language that the JSON file beside it declares; ``und`` without.

    0.2 ms per row where columns are nested, a few microseconds otherwise; all texts are held.
    """
    tables = []
    for path in sorted(folder.glob("*/*.parquet")):
        read = pq.read_table(path)
        texts = _joined(read)
        source = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(texts), np.int32)), pa.array([path.parent.name]))
        table = pa.table({"text": texts, "source": source.cast(pa.string()), "lang": _labels(read, path)})
        tables.append(table.filter(pa.array([bool(text.strip()) for text in texts.to_pylist()], pa.bool_())))
    return pa.concat_tables(tables)


def _labels(table: pa.Table, path: Path) -> pa.Array:
    for name in LABELS:
        if name in table.column_names and pa.types.is_string(table.schema.field(name).type):
            return pa.array([label or "und" for label in table[name].to_pylist()])
    beside = path.with_suffix(".json")
    declared = json.loads(beside.read_text(encoding="utf-8")).get("languages_declared") if beside.is_file() else None
    return pa.array([next(iter(declared)) if declared and len(declared) == 1 else "und"] * len(table))


def _joined(table: pa.Table) -> pa.Array:
    columns = [list(map(_said, column.to_pylist())) for column in table.columns if _may_say(column.type)]
    running = [values for values in columns if _running(values)]
    joined = ("\n".join(filter(None, values)) for values in zip(*running, strict=True))
    return pa.array(joined, pa.large_string()) if running else pa.array([""] * len(table), pa.large_string())


def _may_say(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_may_say(kind.field(place).type) for place in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _may_say(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _said(value: Any) -> str:
    """The strings of a value, nested or not, but for the roles of turns."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "\n".join(filter(None, (_said(one) for name, one in value.items() if name not in ("role", "from"))))
    if isinstance(value, list):
        return "\n".join(filter(None, map(_said, value)))
    return ""


def _running(values: list[str]) -> bool:
    seen = [value for value in values[:: max(1, len(values) // SAMPLED)] if value]
    return 2 * sum(RUNNING.search(value) is not None for value in seen) > len(seen)


def _ordered(table: pa.Table, purpose: str) -> pa.Table:
    """The rows in the order of their draws: by text, then as they lie."""
    keys = draws(1, purpose, table["text"].to_pylist())
    return table.take(pa.array(np.argsort(keys, kind="stable")))


def mixed(folder: Path, out: Path, rows: int) -> int:
    """Write ``id``, ``text`` and ``source`` of ``rows`` real rows, no source having more than it must; return how many.

    Sources small enough are taken whole; of the others, the same number each.
    """
    table = _ordered(real_texts(folder), "mixed")
    source = table["source"].combine_chunks().dictionary_encode().indices.to_numpy()
    place = np.empty(len(table), np.int64)  # of a row within its source
    order = np.argsort(source, kind="stable")
    starts = np.flatnonzero(np.diff(source[order], prepend=-1))
    place[order] = np.arange(len(table)) - np.repeat(starts, np.diff([*starts, len(table)]))
    chosen = np.sort(np.argsort(place, kind="stable")[:rows])
    _write(out, [table.take(pa.array(chosen)).select(["text", "lang", "source"])])
    return len(chosen)


# Copies --------------------------------------------------------------------------------------------


def edited(text: str, key: str) -> str:
    """A copy of ``text`` that shares less than 0.3 of its shingles of five tokens with it or any other copy."""
    tokens = [match.span() for match in TOKEN.finditer(text)]
    drawn = hashlib.shake_128(key.encode("utf-8", "surrogatepass")).hexdigest(7 + 6 * len(tokens))
    own = drawn[2:].translate(LETTERS)
    if not tokens:
        return f"{text} {own[:12]}"
    characters = 0 if text.isascii() else len(ALONE.findall(text))
    # Runs are short where both kinds of token meet, and one that nothing is replaced in stays as it is.
    step = 1 if 0 < characters < max(len(tokens), SHORT) else STEP
    # Some token of the first six; in shorter texts one in the middle, which most shingles hold.
    first = int(drawn[:2], 16) % step if len(tokens) > 2 * step else min(step - 1, len(tokens) // 2)
    parts, at = [], 0
    for number, (begin, end) in enumerate(tokens[first::step]):
        word = own[12 * number : 12 * number + 12]
        if characters and ALONE.match(text, begin):
            # A character of the same script, which leaves the run whole: in most texts, one of the text itself.
            place = int.from_bytes(word.encode())
            other = text[tokens[place % len(tokens)][0]]
            han = chr(0x4E00 + (place >> 16) % 0x5000) + chr(0x4E00 + (place >> 48) % 0x5000)
            word = other if step > 1 and other != text[begin] else han
        parts += [text[at:begin], word]
        at = end
    return "".join((*parts, text[at:]))


def echo(text: str, key: str) -> str:
    """A near-duplicate of ``text``: another word in one place, or another case."""
    words = text.split(" ")
    if len(words) < LONG or ALONE.search(text):
        return f" {text.swapcase() if text.swapcase().casefold() == text.casefold() else text}"
    words[int.from_bytes(hashlib.shake_128(key.encode()).digest(4)) % len(words)] = "changed"
    return " ".join(words)


def grown(real: Path, out: Path, rows: int, fixed: bool, workers: int = 2) -> None:
    """Write ``rows`` rows (``id`` and ``text``), of which any first few thousand are a corpus of their own.

    ``real`` is an Arrow file of texts. Those come first, at most :data:`COPIED`, then copies of each. If ``fixed``,
    all are copies, and one row in :data:`ECHOES` is an echo of an earlier one.
    """
    make: Callable[[int], pa.Table] = partial(_some, str(real), rows, fixed)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        _write(out, pool.map(make, range(0, rows, GROUP)))


def held(texts: pa.Table, path: Path) -> None:
    """Write the real texts of the growth corpus, in their order, as a file that processes can share."""
    table = _ordered(texts, "growth").slice(0, COPIED).select(["text"]).combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _some(real: str, rows: int, fixed: bool, first: int) -> pa.Table:
    with pa.memory_map(real) as source:
        texts = pa.ipc.open_file(source).read_all()["text"].chunk(0)

        def copy(row: int) -> str:
            text: str = texts[row % len(texts)].as_py()
            generation = row // len(texts) + fixed
            return edited(text, f"copy {generation} {row % len(texts)}") if generation else text

        def row_of(row: int) -> str:
            if fixed and row and row % ECHOES == 0:
                back = int.from_bytes(hashlib.shake_128(f"echo {row}".encode()).digest(8)) % row
                # Echoes of echoes would be chains.
                return echo(copy(back + (back % ECHOES == 0)), f"echo {row}")
            return copy(row)

        made = [row_of(row) for row in range(first, min(rows, first + GROUP))]
    return pa.table({"text": pa.array(made, pa.large_string())})


def _write(out: Path, tables: Iterator[pa.Table] | list[pa.Table]) -> None:
    writer, count = None, 0
    for table in tables:
        ids = pa.array([f"{number:08d}" for number in range(count, count + len(table))])
        count += len(table)
        named = table.append_column("id", ids)
        writer = writer or pq.ParquetWriter(out, named.schema, compression="zstd", compression_level=1)
        writer.write_table(named, row_group_size=GROUP)
    if writer is not None:
        writer.close()
