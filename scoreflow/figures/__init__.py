"""Pictures of samples and line plots."""
