"""Choices of an experiment, compared by the exact likelihood after a short training."""
