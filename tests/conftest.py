"""What all tests share: compiled kernels are kept between runs, as a workspace keeps them between builds."""

from __future__ import annotations

import os

import pytest

from aya_data.engine.codekey import kernels_code


def pytest_configure(config: pytest.Config) -> None:
    """Set the folder before anything imports numba; subprocesses inherit it."""
    os.environ.setdefault("NUMBA_CACHE_DIR", str(config.rootpath / ".pytest_cache" / "numba" / kernels_code()))
