"""The monitor's schema, one revision per reason."""
