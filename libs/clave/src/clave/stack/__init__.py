"""The local stack: real Postgres, Valkey and Envoy, six services and a worker, run from one data directory.

`layout` says where files are, `ports` and `secrets` what they hold, `programs` what is started with which
environment, `supervisor` who watches it, `lifecycle` in which order; `processes` finds what was left behind.
"""
