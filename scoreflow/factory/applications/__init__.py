"""What the sections of applications ask for, as objects."""
