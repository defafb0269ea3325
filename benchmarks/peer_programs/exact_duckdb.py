"""DuckDB: one row of each md5 of a text, two threads."""

import json
import sys

import duckdb

if __name__ == "__main__":
    given, out = sys.argv[1:3]
    connection = duckdb.connect(config={"threads": 2})
    connection.execute(
        f"COPY (SELECT first(id) AS id, first(text) AS text FROM read_parquet('{given}') GROUP BY md5(text)) "
        f"TO '{out}' (FORMAT parquet, COMPRESSION zstd)"
    )
    rows, kept = (
        connection.execute(f"SELECT count(*) FROM read_parquet('{path}')").fetchone()[0] for path in (given, out)
    )
    print(json.dumps({"rows": rows, "kept": kept}))
