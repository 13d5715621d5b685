"""Averages of any length, reconstructed after training from two that were kept (EDM2)."""
