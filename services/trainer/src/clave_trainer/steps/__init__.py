"""What each step of a run does: it gets a context, works, and says how it ended."""
