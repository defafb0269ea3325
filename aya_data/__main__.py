"""``python -m aya_data``."""

from __future__ import annotations

from aya_data.cli.main import main

main()
