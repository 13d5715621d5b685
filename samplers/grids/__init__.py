"""The times that a sampler steps through."""
