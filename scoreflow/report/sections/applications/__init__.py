"""Sections of what a likelihood is good for: bytes on disk, classes, outliers, features."""
