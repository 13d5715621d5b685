"""Images on the disk in the place of memory: read by their numbers, decoded once."""
