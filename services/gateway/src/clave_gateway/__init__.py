"""Identity, policy and audit."""
