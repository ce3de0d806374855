"""The feature store's operations, one module per noun; each opens its own transactions."""
