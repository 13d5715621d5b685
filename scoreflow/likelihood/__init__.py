"""Exact log-likelihood by the probability-flow ODE, its error budget, and the bounds beside it."""
