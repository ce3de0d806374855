"""The trainer's tables and every query on them."""
