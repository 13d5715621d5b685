"""Rules for the nodes of an exact likelihood, compared on one measurement of a run."""
