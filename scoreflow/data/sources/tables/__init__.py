"""Tables of images: Parquet and Arrow files, as they lie on the Hub or on a disk."""
