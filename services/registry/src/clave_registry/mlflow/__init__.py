"""MLflow's REST surface, for unmodified MLflow clients, over the registry's own models, versions and blobs.

`values` reads requests, `messages` writes answers, one module per noun holds the
operations, and `api` is the table of routes. Errors leave in MLflow's form (`errors`).
"""
