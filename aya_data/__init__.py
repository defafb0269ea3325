"""aya-data: a build system for multilingual post-training data.

A YAML spec names sources, filters and a mixture; ``aya-data build`` turns it into a release:
Parquet shards, a dataset card, a lock, a licence statement and a ledger of what became of every row.
"""

__version__ = "0.1.0"
