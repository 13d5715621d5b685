"""Who may write a file, or train in a folder, now."""
