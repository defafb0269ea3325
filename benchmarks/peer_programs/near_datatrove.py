"""datatrove: its four stages of MinHash, word 5-grams, 14 buckets of 8, two workers."""

import json
import shutil
import sys
from pathlib import Path

import pyarrow.dataset as ds
from datatrove.executor import LocalPipelineExecutor as Local
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter

if __name__ == "__main__":
    given, out = sys.argv[1:3]
    shutil.rmtree(out, ignore_errors=True)
    tasks = len(list(Path(given).iterdir()))
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    stages = (
        ([ParquetReader(given), MinhashDedupSignature(f"{out}/signatures", config=config, language="eng")], tasks, 2),
        ([MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config)], 14, 2),
        ([MinhashDedupCluster(f"{out}/buckets", f"{out}/gone", config=config)], 1, 1),
        ([ParquetReader(given), MinhashDedupFilter(f"{out}/gone"), ParquetWriter(f"{out}/left")], tasks, 2),
    )
    for number, (steps, count, workers) in enumerate(stages):
        Local(steps, tasks=count, workers=workers, logging_dir=f"{out}/log{number}").run()
    print(json.dumps({"rows": ds.dataset(given).count_rows(), "kept": ds.dataset(f"{out}/left").count_rows()}))
