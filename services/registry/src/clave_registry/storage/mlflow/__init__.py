"""Rows and queries behind the MLflow-compatible surface: experiments, runs, metrics, logged models, artifacts."""
