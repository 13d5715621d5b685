"""A training step as one CUDA graph, in which the host's part of it is one launch."""
