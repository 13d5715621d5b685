"""Pickles of NVlabs' EDM, read without executing what is in them."""
