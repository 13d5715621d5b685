"""Solvers that remember earlier estimates: DPM-Solver++, DEIS, UniPC."""
