"""What the monitor reaches outside its database: references, metrics."""
