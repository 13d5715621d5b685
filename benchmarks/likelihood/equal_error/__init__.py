"""Seconds at equal error of an image, and of the mean of many: five procedures on one network.

What counts is the error of log p by a procedure as a whole: of its probes, of its nodes and of its
solver. An image's true value is the exact trace (D products an evaluation) at a tight tolerance,
by the per-sample solver.

    nodes        ours: K nodes and P probes a node, fresh at every node
    dopri5       per sample, P probes fixed for the whole solve, the divergence part of the state
    usual        scipy's RK45 in t on the whole batch, two passes, one fixed probe
                 (Song et al. 2021)
    torchdiffeq  dopri5 in the angle on the whole batch, one pass, one fixed probe
    k-diffusion  torchdiffeq's dopri5 in sigma = tan(angle) on the whole batch in float32, one
                 fixed probe, as that library's log-likelihood has it (re-enacted)

**The errors on the curves.** `nodes`: measured, the root of the mean square over images and
independent repetitions. Every other procedure holds its probes fixed, and the variance V of one
fixed probe is a property of the network that they all share. It is estimated once, from the
spread of the columns of the solve with most probes, so that it does not favour a procedure by
luck; P of K sign vectors without replacement leave V / P (1 - (P - 1) / (K - 1)). The last three
have one probe a solve, and average R independent repetitions at R times the seconds: V / R. To
this is added the square of the solver's own error, which is measured in pairs against a solve of
the same probe at `settings.TRUTH` and which repetitions do not average. Beside each stands the
error as it was measured in the runs that were timed.

**The mean of many images** to a standard error e: probes and nodes scatter by e sqrt(images) at
most, and the bias is below e. Bias is the mean of the solver's error, in pairs again: against the
same probe at `settings.TRUTH`, for `nodes` against the same nodes and probes on a trajectory of
four times the steps. Given the trajectory, the estimate from randomly shifted nodes has none.
"""
