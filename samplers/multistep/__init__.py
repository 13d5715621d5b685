"""Multistep solvers, which use earlier estimates: DPM-Solver++, DEIS, UniPC."""
