"""Checkpoints: states on the disk with their hashes, and what a state must hold."""
