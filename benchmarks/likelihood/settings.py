"""Constants of the likelihood benchmark: tolerances, limits of time, the seed."""

TRUTH = 1e-6
"""Tolerance of the reference solution."""
USUAL = 1e-5
"""Default tolerance of the usual procedure."""
TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)
"""Tolerances of ours."""
CURVE = (1e-3, 1e-4, USUAL)
"""Tolerances of all other methods."""
GOOD_ENOUGH = 1e-3
"""Accepted error of the mean, bits/dim."""
PROBES = (1, 2, 4, 8, 16, 32)
"""Probes of the divergence."""
DIVERGENCE_IMAGES, DIVERGENCE_TOLERANCE = 16, 1e-3
"""Images, at most, and tolerance of the comparison of probes."""
SLOW = 30.0
"""Seconds above which a run is not repeated."""
CAP_SECONDS = 300.0
"""Limit of one run of the usual procedure, in seconds."""
SEED = 0
