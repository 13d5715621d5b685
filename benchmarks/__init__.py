"""Measurements that take minutes; each writes a JSON and a table under results/."""
