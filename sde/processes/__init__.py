"""The processes, one a file, each its alpha and sigma: `scoreflow.sde.base` derives the rest."""
