"""The wire of the registry's own API: parse, call one operation, render."""
