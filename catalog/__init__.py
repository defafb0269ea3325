"""The catalog: DuckDB over the releases of a workspace, an index of their manifests and Parquet files."""
