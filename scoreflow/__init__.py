"""Score-based and diffusion models as one discrete VP-SDE: train, sample, exact likelihood."""
