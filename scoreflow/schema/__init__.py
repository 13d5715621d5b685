"""What a config and a command line may hold; no torch."""
