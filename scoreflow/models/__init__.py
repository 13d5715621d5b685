"""Score networks, the noisy-image classifier, and `ScoreModel`: a network as a Denoiser."""
