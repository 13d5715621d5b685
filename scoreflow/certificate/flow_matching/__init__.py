"""Identity 11: flow matching and EDM are diffusion, on other clocks and scales."""
