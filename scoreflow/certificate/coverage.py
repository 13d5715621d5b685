"""What the certificate looks at, and what it does not: the list in its result and in the report.

A certificate is taken for more than it is unless it says where it ends. `tests/breaks/` has small
breaks of the code, each with the row or the test that catches it.
"""

LOOKED_AT: tuple[tuple[int, str], ...] = (
    (1, "conversions between eps, x_0, v, u and score, at every time of the run's process"),
    (2, "loss, gradient and a training of this network, in float64 and in its own precision"),
    (3, "transitions, posterior and bound of the run's process, against its chain in decimals"),
    (4, "ancestral, reverse diffusion and Euler-Maruyama against each other, under a VP"),
    (5, "DDIM and the probability flow; this network under VP, sub-VP, VE, EDM's process and flow "
        "matching's path"),
    (6, "whole runs of ancestral, predictor-corrector and flow, on a mixture of known law"),
    (7, "the error of a learned score against its loss, on data of known density"),
    (8, "schedules, marginals, slopes from below, transitions, prior and clocks of VP (linear, "
        "scaled linear, cosine, log-linear, continuous), sub-VP, VE, other units, an early end, "
        "the rectified path to its end without a signal, EDM, and the run's own: both ends, "
        "integers, between them and below t = 1"),
    (9, "each step of every sampler of the command line on each of these processes: DDIM (eta 0, "
        "0.7, 1), ancestral (all four variances), reverse diffusion, Euler-Maruyama, Heun (churn "
        "0, 0.2), DPM-Solver++ (1, 2, 3), its SDE (1, 2), DEIS (1 to 4), UniPC (1, 2, 3; 3 "
        "uncorrected), both Langevin correctors before five predictors, the flow by dopri5; "
        "first, last and single steps, whole times and others"),
    (10, "random numbers, time grids, the grid of least cost, the decoder's bins, weights of the "
         "objectives, classifier-free guidance, every output of a network and its learned "
         "variance, every precision that this device offers, changes of process, divergence, "
         "log-likelihood by the flow"),
    (11, "flow matching's and EDM's loss against this network's v loss, values and gradients; "
         "Euler's step of flow matching against DDIM's; log-densities in each process's own time; "
         "shifted and log-normal times; EDM's preconditioning, and networks about images in "
         "[0, 1] at unit variance"),
)  # fmt: skip
"""The number of a group, and what it looks at."""

NOT_LOOKED_AT: tuple[str, ...] = (
    "the layers of a network, its time embedding and its derivatives: autograd is believed",
    "other labels of networks than t - 1 and EDM's ln(sigma) / 4 (imported ones)",
    "compiled networks, and work that is shared between devices",
    "data: reading, splitting, flipping; dequantization other than uniform",
    "bounds of the likelihood, its error budget and its means over images and draws",
    "classifier guidance and thresholding",
    "editing: inpainting and other measurements, inversion, interpolation",
    "the optimiser, averages of weights, checkpoints and resumed trainings",
    "measures of samples (FID, precision and recall)",
    "ODE methods of other libraries, and dopri5's error control",
    "a last step that is left out or is the estimate itself (sampling.final = none or x_0)",
    "other settings of samplers than those named, and samplers or processes of your own",
)
"""All of these have tests of their own in `tests/`."""
