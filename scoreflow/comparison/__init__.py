"""Runs side by side on the same images and from the same noise: `scoreflow.compare`."""
