"""Who may write a file now."""
