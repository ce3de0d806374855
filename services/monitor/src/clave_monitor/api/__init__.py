"""The monitor's HTTP routes."""
