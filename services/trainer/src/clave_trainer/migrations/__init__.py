"""The history of the schema `trainer`."""
