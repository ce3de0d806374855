"""What governance costs: enforcement, decisions, rate limits, the audit log."""
