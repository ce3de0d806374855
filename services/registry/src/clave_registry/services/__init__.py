"""The registry's operations: one class per noun, one transaction per operation."""
