"""All that is measured on a CUDA device, in calls of minutes."""
