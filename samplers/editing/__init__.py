"""Editing images: linear inverse problems, DDIM inversion, interpolation of latents."""
