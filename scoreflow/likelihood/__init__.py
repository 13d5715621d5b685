"""Exact log-likelihood by the probability-flow ODE, its error budget, and variational bounds."""
