"""What a good engineer writes in an afternoon: length and exact duplicates with Polars, languages with fastText in two
processes, near-duplicates with rensa's flags, the largest languages cut, Parquet out. No ledger, nothing verified. A
number as the last argument: fastText reads so many characters of each text."""

import json
import multiprocessing
import re
import sys

import duckdb
import polars as pl
import rensa

AYA_23 = "ar zh cs nl en fr de el he hi id it ja ko fa pl pt ro ru es tr uk vi".split()  # noqa: SIM905
WORD = re.compile(r"\w+")
SOME = 5_000
CAP = 20_000
MODEL = []


def load(path):
    from fasttext.FastText import _FastText

    MODEL.append(_FastText(path).f)


def languages(texts):
    found = []
    for text in texts:
        said = MODEL[0].predict(text.replace("\n", " ") + "\n", 1, 0.0, "strict")
        found.append((said[0][1][9:], said[0][0]) if said else ("und", 0.0))
    return found


def shingles(text):
    words = WORD.findall(text.lower())
    return [" ".join(words[at : at + 5]) for at in range(max(1, len(words) - 4))]


def clean(column):
    """Rows that quality rules of one line would keep."""
    return (
        (column.str.count_matches(r"[\p{L}\p{N}]") * 2 > column.str.len_chars())
        & ~column.str.contains("\ufffd", literal=True)
        & ~column.str.contains("<noinput>", literal=True)
    )


if __name__ == "__main__":
    given, out, model = sys.argv[1:4]
    chars = int(sys.argv[4]) if len(sys.argv) > 4 else None
    connection = duckdb.connect(config={"threads": 2})
    table = connection.sql(f"SELECT id, text FROM read_parquet('{given}')").pl()
    rows = table.height
    table = table.filter(pl.col("text").str.len_chars().is_between(50, 20_000) & clean(pl.col("text")))
    table = table.filter(pl.col("text").hash(0).is_first_distinct())
    texts = [text[:chars] for text in table["text"].to_list()]
    batches = [texts[first : first + SOME] for first in range(0, len(texts), SOME)]
    with multiprocessing.get_context("spawn").Pool(2, load, (model,)) as pool:
        found = [pair for some in pool.map(languages, batches, chunksize=1) for pair in some]
    table = table.with_columns(
        language=pl.Series([language for language, _ in found], dtype=pl.String),
        score=pl.Series([score for _, score in found], dtype=pl.Float32),
    )
    table = table.filter(pl.col("language").is_in(AYA_23) & (pl.col("score") > 0.5))
    texts = table["text"].to_list()
    index = rensa.RMinHashLSH(threshold=0.8, num_perm=128, num_bands=16)
    flags = []
    for first in range(0, len(texts), SOME):
        sets = [shingles(text) for text in texts[first : first + SOME]]
        matrix = rensa.RMinHash.digest_matrix_from_token_sets(sets, 128, 42)
        flags += index.insert_matrix_and_query_duplicate_flags(matrix, first)
    table = table.filter(~pl.Series(flags, dtype=pl.Boolean))
    table = table.filter(pl.int_range(pl.len()).over("language") < CAP)
    table.write_parquet(out, compression="zstd")
    print(json.dumps({"rows": rows, "kept": table.height}))
