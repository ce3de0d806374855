"""What survives a restart: the artifact cache, the last-known-good desired state, the prediction spool."""
