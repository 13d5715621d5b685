"""What compression came to: every measurement of some runs in one table."""
