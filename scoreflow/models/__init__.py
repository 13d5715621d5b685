"""The networks, and `ScoreModel`, which makes a Denoiser of one."""
