"""What children of the crash tests are forked with: modules imported, code keys made. Starts no thread."""

from __future__ import annotations

import importlib

from aya_data.builders import BUILDERS
from aya_data.engine import run  # noqa: F401
from aya_data.engine.codekey import code_key
from aya_data.engine.plan import engine_code
from aya_data.filters import FILTERS

for _name in (*BUILDERS.values(), *FILTERS.values()):
    _module = _name.partition(":")[0]
    importlib.import_module(_module)
    code_key([_module])
for _name in ("reading", "keying", "editing", "judging", "comparing", "sampling", "sharding", "release"):
    engine_code(_name)
