"""Sweeps over a setting, a row a value: what they measure and how rows are told apart."""
