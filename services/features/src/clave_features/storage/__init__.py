"""The feature store's rows: tables, and one module of queries per noun."""
