"""A run on the disk: its folder, checkpoints, result rows, and files that appear whole."""
