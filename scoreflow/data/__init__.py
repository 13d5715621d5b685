"""Data sets: images as integer levels, their continuous scale, and where they come from."""
