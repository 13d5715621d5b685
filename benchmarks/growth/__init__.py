"""Time and memory of a training step against resolution, batch and processes."""
