"""The monitor's operations, one transaction each."""
