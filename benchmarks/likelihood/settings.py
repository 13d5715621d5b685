"""Constants of the likelihood benchmark: settings of procedures, limits of time, the seed."""

TRUTH = 1e-6
"""Tolerance of the reference solution with the same probe."""
EXACT = 3e-5
"""Tolerance of the reference solution with the exact trace: its error is one of 1e-3 bits/dim."""
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
WHOLE_SET = 64
"""Size up to which the whole set of signs is measured too."""
TARGETS = (0.1, 0.05, 0.02)
"""RMS errors of an image at which seconds are compared, bits/dim."""
MEAN_OF, MEAN_ERROR = 360, 0.002
"""Images of the mean, and the standard error of probes and nodes it is wanted to, bits/dim."""
NODES = (
    *((nodes, 1, 1) for nodes in (16, 24, 32, 48, 64, 96, 128)),
    *((nodes, 1, 2) for nodes in (8, 12, 16, 24, 32, 48)),
    *((24, 2, 1), (24, 2, 2), (48, 2, 1), (48, 4, 1)),
)
"""Nodes, probes a node and substeps of ours."""
CROWD_NODES = 32
"""Nodes of ours in a batch with outliers."""
FIXED_TOLERANCES = (1e-3, 1e-2)
"""Tolerances of the per-sample solver with fixed probes: the usual one, and the best one."""
K_DIFFUSION = (1e-4,)
"""That library's tolerance."""
AVERAGED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Independent repetitions that are averaged, of procedures with one probe a solve."""
REPETITIONS = 6
"""Runs of ours, at least: its errors are measured."""
DIVERGENCE_IMAGES, DIVERGENCE_TOLERANCE = 16, 1e-3
"""Images, at most, and tolerance of the comparison of probes."""
BUDGET_MEASUREMENTS, BUDGET_IMAGES = 100, 16
"""Measurements whose budgets are compared with their errors, and the images of each."""
BUDGET_NODES, BUDGET_REFERENCE = 16, 64
"""Nodes of each, and of the reference by the exact trace."""
SLOW = 10.0
"""Seconds above which a run is not repeated."""
CAP_SECONDS = 300.0
"""Limit of one run of the usual procedure, in seconds."""
SEED = 0
