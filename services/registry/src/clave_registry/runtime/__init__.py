"""What the registry runs: the sandbox that looks into models, the loop that advances rollouts."""
