"""Time grids: the times that a sampler steps through."""
