"""Config keys with their types, ranges and modes; validation of flags and overrides; no torch."""
