"""Checkpoints of score_sde_pytorch (Song et al. 2021): its `ddpm` and its `ncsnpp`."""
