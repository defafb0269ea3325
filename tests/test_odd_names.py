"""Files whose names hold what is special in a URL: in a path these are letters like others."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aya_data import api
from aya_data.builders.records.reader import Format, format_of

RECORDS = [{"prompt": f"Question {n}", "answer": f"Answer {n}"} for n in range(5)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
NAMES = ("what?.jsonl", "part #1.jsonl.gz", "C1 or C2? so_because.jsonl", "a%20b#c?d.parquet", "x#.csv", "q?v=2.tsv")


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("data/C1 or C2? premise, so_because.jsonl", "jsonl"),
        ("/data/part #1.csv.gz", "csv"),
        ("file:///data/part #1.parquet", "parquet"),
        ("hub:owner/name@0123/data/so?.jsonl", "jsonl"),
        ("notes?.jsonl#old", None),
        ("https://example.org/rows.parquet?download=true#top", "parquet"),
        ("https://example.org/rows?format=.csv", None),
        ("s3://bucket/rows.jsonl.zst?versionId=7", "jsonl"),
    ],
)
def test_only_urls_have_queries(name: str, format: Format | None) -> None:
    assert format_of(name) == format


def test_files_with_such_names_are_read(tmp_path: Path) -> None:
    for name in NAMES:
        path = tmp_path / name
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(RECORDS), path)
        elif name.endswith("sv"):
            mark = "\t" if name.endswith(".tsv") else ","
            rows = [["prompt", "answer"], *([r["prompt"], r["answer"]] for r in RECORDS)]
            path.write_text("".join(mark.join(row) + "\n" for row in rows), encoding="utf-8")
        else:
            path.write_bytes(gzip.compress(LINES) if name.endswith(".gz") else LINES)
    patterns = [f"../*.{end}" for end in ("jsonl", "gz", "parquet", "csv", "tsv")]
    for kind, paths in (("named", [f"../{name}" for name in NAMES]), ("matched", patterns)):
        source = {
            "builder": "files",
            "path": paths,
            "columns": {"prompt": "prompt", "answer": "answer"},
            "language": "eng_Latn",
            "license": {"assume": "MIT", "reason": "ours"},
        }
        (tmp_path / kind).mkdir()
        spec = tmp_path / kind / "odd.yaml"
        spec.write_text(json.dumps({"name": "odd", "policy": "any", "sources": {"house": source}}), encoding="utf-8")
        done = api.build(spec, workspace=tmp_path / kind / "workspace", workers=1)
        (read,) = (stage for stage in done.stages if stage.name == "read:house")
        assert read.counts["rows_in"] == len(NAMES) * len(RECORDS)
        assert done.result.rows == len(NAMES) * len(RECORDS)
