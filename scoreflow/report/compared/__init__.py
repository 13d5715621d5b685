"""The page of a comparison of runs, a file a section."""
