"""The feature store's routes: parse, ask for the decision, call one operation, render."""
