"""Training objectives: weights on the denoising error, and the variational bound."""
