"""datatrove: its three stages of exact deduplication, two workers."""

import json
import shutil
import sys
from pathlib import Path

import pyarrow.dataset as ds
from datatrove.executor import LocalPipelineExecutor as Local
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter


def content(document) -> str:
    return document.text


if __name__ == "__main__":
    given, out = sys.argv[1:3]
    shutil.rmtree(out, ignore_errors=True)
    tasks = len(list(Path(given).iterdir()))
    config = ExactDedupConfig(content_getter=content)
    gone = ExactDedupFilter(f"{out}/gone", config=config)
    stages = (
        ([ParquetReader(given), ExactDedupSignature(f"{out}/signatures", config=config)], tasks, 2),
        ([ExactFindDedups(f"{out}/signatures", f"{out}/gone", config=config)], 1, 1),
        ([ParquetReader(given), gone, ParquetWriter(f"{out}/left")], tasks, 2),
    )
    for number, (steps, count, workers) in enumerate(stages):
        Local(steps, tasks=count, workers=workers, logging_dir=f"{out}/log{number}").run()
    print(json.dumps({"rows": ds.dataset(given).count_rows(), "kept": ds.dataset(f"{out}/left").count_rows()}))
