"""A run on the disk: its folder, checkpoints, result rows, atomic files."""
