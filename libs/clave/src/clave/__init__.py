"""The closed-loop MLOps suite: command line, Python SDK, local stack."""
