"""Addressed randomness: noise as a pure function of where it is used."""

from scoreflow.sde.noise.addressed import Noise, Stream, philox

__all__ = ["Noise", "Stream", "philox"]
