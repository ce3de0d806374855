"""What the rules run on: DuckDB over Parquet, and Redis. DuckDB and Arrow are imported when first needed."""
