"""Denoisers around Denoisers: guidance, clipping, counting."""
