"""rensa: MinHash of word 5-grams, 16 bands of 8; flags of the matrix path, or estimates of at least 0.8 checked."""

import json
import re
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import rensa

WORD = re.compile(r"\w+")
SOME = 10_000


def shingles(text):
    words = WORD.findall(text.lower())
    return [" ".join(words[at : at + 5]) for at in range(max(1, len(words) - 4))]


def flagged(texts):
    index = rensa.RMinHashLSH(threshold=0.8, num_perm=128, num_bands=16)
    flags = []
    for first in range(0, len(texts), SOME):
        sets = [shingles(text) for text in texts[first : first + SOME]]
        matrix = rensa.RMinHash.digest_matrix_from_token_sets(sets, 128, 42)
        flags += index.insert_matrix_and_query_duplicate_flags(matrix, first)
    return flags


def checked(texts):
    index = rensa.RMinHashLSH(threshold=0.8, num_perm=128, num_bands=16)
    hashes = []
    for first in range(0, len(texts), SOME):
        sets = [shingles(text) for text in texts[first : first + SOME]]
        hashes += rensa.RMinHash.from_token_sets(sets, 128, 42)
    index.insert_many(hashes)
    return [
        any(other < row and own.jaccard(hashes[other]) >= 0.8 for other in index.query(own))
        for row, own in enumerate(hashes)
    ]


if __name__ == "__main__":
    given, out, how = sys.argv[1:4]
    table = pq.read_table(given)
    flags = {"flags": flagged, "checked": checked}[how](table["text"].to_pylist())
    left = table.filter(pa.array([not flag for flag in flags]))
    pq.write_table(left, out, compression="zstd")
    print(json.dumps({"rows": len(table), "kept": len(left)}))
