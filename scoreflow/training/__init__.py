"""The training loop, the moving average of the weights, and the noisy classifier."""
