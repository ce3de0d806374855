"""Pipelines, runs, steps, training, evaluation."""
