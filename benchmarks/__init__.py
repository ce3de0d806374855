"""Measurements of the suite; each area has its own runner."""
