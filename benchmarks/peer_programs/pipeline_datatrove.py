"""datatrove: languages and length, exact duplicates, MinHash, Parquet; two workers."""

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
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import LambdaFilter, LanguageFilter
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter

AYA_23 = "ar zh cs nl en fr de el he hi id it ja ko fa pl pt ro ru es tr uk vi".split()  # noqa: SIM905


def content(document) -> str:
    return document.text


def fits(document) -> bool:
    return 50 <= len(document.text) <= 20_000


def local_model(path):
    """Use a model file that is there, where the filter would look for a remote one."""
    from datatrove.utils import lid

    class Given(lid.FT176LID):
        @property
        def model(self):
            if self._model is None:
                from fasttext.FastText import _FastText

                self._model = _FastText(str(path))
            return self._model

    return Given


if __name__ == "__main__":
    given, out, model = sys.argv[1:4]
    shutil.rmtree(out, ignore_errors=True)
    tasks = len(list(Path(given).iterdir()))
    exact = ExactDedupConfig(content_getter=content)
    near = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    language = LanguageFilter(languages=AYA_23, language_threshold=0.5)
    language.model = local_model(model)(AYA_23)
    Path(out).mkdir(parents=True)
    stages = (
        ([ParquetReader(given), language, LambdaFilter(fits), ParquetWriter(f"{out}/a"),
          ExactDedupSignature(f"{out}/exact", config=exact)], tasks, 2),
        ([ExactFindDedups(f"{out}/exact", f"{out}/same", config=exact)], 1, 1),
        ([ParquetReader(f"{out}/a"), ExactDedupFilter(f"{out}/same", config=exact), ParquetWriter(f"{out}/b"),
          MinhashDedupSignature(f"{out}/near", config=near, language="eng")], tasks, 2),
        ([MinhashDedupBuckets(f"{out}/near", f"{out}/buckets", config=near)], 14, 2),
        ([MinhashDedupCluster(f"{out}/buckets", f"{out}/gone", config=near)], 1, 1),
        ([ParquetReader(f"{out}/b"), MinhashDedupFilter(f"{out}/gone"), ParquetWriter(f"{out}/left")], tasks, 2),
    )  # fmt: skip
    for number, (steps, count, workers) in enumerate(stages):
        Local(steps, tasks=count, workers=workers, logging_dir=f"{out}/log{number}").run()
    print(json.dumps({"rows": ds.dataset(given).count_rows(), "kept": ds.dataset(f"{out}/left").count_rows()}))
