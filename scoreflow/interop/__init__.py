"""Published networks in and out: checkpoints of other codebases as our settings and weights."""
