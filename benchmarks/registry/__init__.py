"""The registry beside a real MLflow server, on one Postgres, in one run."""
