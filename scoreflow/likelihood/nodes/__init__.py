"""The divergence at randomly placed nodes of a trajectory, with fresh probes at each."""
