"""Lossless compression with the discrete chain, by bits-back coding."""
