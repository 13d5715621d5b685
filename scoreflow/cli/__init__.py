"""The command line: one file a --mode, each a thin caller of the API."""
