"""What a worker process loads before it is forked from the server: imports alone, no threads."""

from __future__ import annotations

import numpy
import pyarrow
import pyarrow.compute
import pyarrow.parquet

import aya_data.core.row
import aya_data.engine.judging
import aya_data.engine.reading
import aya_data.engine.sharding

__all__: list[str] = []
