"""Use cases: predict, deploy, record predictions, explain."""
