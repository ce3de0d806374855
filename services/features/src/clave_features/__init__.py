"""Feature views, offline history, online values, training sets."""
