"""The registry's rows: tables, and one module of queries per noun."""
