"""Denoisers around Denoisers: guidance, thresholding, change of process, counting."""
