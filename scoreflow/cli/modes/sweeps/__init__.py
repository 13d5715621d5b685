"""Sweeps of --mode compare in place of its samplers."""
