"""The trainer's operations: each opens one transaction."""
