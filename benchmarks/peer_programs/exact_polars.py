"""Polars: the first row of each text, in order."""

import json
import sys

import polars as pl

if __name__ == "__main__":
    given, out = sys.argv[1:3]
    table = pl.read_parquet(given)
    left = table.unique(subset="text", keep="first", maintain_order=True)
    left.write_parquet(out, compression="zstd")
    print(json.dumps({"rows": table.height, "kept": left.height}))
