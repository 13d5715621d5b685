"""Sampling with a network: plan, loop, error table, trajectories, image editing, pictures."""
