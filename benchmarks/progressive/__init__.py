"""Progressive files: real bytes against distortion."""
