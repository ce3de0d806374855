"""The gateway's operations: one each, one transaction each."""
