"""Sections of sweeps over a setting."""
