"""Prediction log, feedback, drift, performance, the decision to retrain."""
