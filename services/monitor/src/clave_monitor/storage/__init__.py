"""What the monitor keeps: rows in Postgres, the prediction log in Parquet."""
