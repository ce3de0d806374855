"""Rules of predictions, free of any transport, store or runtime."""
