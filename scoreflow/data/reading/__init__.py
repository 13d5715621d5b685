"""Image files as integer levels: what is read exactly, what may be converted, what is refused."""
