"""Pure rules of the gateway: Merkle log, checkpoints, explanations, roles."""
