"""Experiments, one a file: its differences from `default.py`."""
