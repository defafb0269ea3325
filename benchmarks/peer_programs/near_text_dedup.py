"""text-dedup: MinHash of word 5-grams, 14 bands of 8, by its command line with two processes."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

if __name__ == "__main__":
    given, out = sys.argv[1:3]
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=Path(out).parent) as scratch:
        subprocess.run(
            [
                sys.executable, "-m", "text_dedup.minhash", "--path", "parquet", "--data_files", given,
                "--split", "train", "--cache_dir", scratch, "--output", out, "--column", "text",
                "--ngram", "5", "--min_length", "0", "--num_perm", "112", "--b", "14", "--r", "8",
                "--threshold", "0.8", "--hash_func", "xxh3", "--num_proc", "2", "--batch_size", "10000",
            ],
            check=True,
            stdout=sys.stderr,
        )  # fmt: skip
    kept = 0
    for part in Path(out).glob("*.arrow"):
        with pa.memory_map(str(part)) as source:
            kept += sum(batch.num_rows for batch in pa.ipc.open_stream(source))
    print(json.dumps({"rows": pq.read_metadata(given).num_rows, "kept": kept}))
