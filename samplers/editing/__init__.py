"""What is done with an image: linear inverse problems, inversion, interpolation."""
