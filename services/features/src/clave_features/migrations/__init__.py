"""Alembic revisions of the schema `features`."""
