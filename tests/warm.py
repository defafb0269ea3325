"""What children of the crash tests are forked with: modules imported, tables and code keys made. Starts no thread."""

from __future__ import annotations

import contextlib
import importlib

from aya_data.builders import BUILDERS
from aya_data.engine.codekey import code_key
from aya_data.engine.plan import engine_code
from aya_data.filters import FILTERS
from aya_data.text import folding

MODULES = (
    "duckdb", "polars", "numba", "pandas", "pyarrow.dataset", "pyarrow.parquet", "pyarrow.acero", "sentencepiece",
    "aya_data.catalog.register", "aya_data.engine.run", "aya_data.text.fasttext_kernel", "aya_data.text.matching",
    "aya_data.text.minhash", "aya_data.text.repetition", "aya_data.text.shingles", "aya_data.text.similarity",
)  # fmt: skip

for _name in MODULES:
    with contextlib.suppress(ModuleNotFoundError):  # pandas is nobody's dependency here; where it is, Arrow imports it
        importlib.import_module(_name)
for _name in (*BUILDERS.values(), *FILTERS.values()):
    _module = _name.partition(":")[0]
    importlib.import_module(_module)
    code_key([_module])
for _name in ("reading", "keying", "editing", "judging", "comparing", "sampling", "sharding", "release"):
    engine_code(_name)
folding.tables()
