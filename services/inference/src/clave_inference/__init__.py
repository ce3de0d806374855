"""Loaded models and predictions."""
