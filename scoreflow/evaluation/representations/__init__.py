"""Activations of a network as features: linear probes and clusters."""
