"""Scores of out-of-distribution detection, and how well each works."""
