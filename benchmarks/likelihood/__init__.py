"""Exact likelihood: error against seconds, for ours and for four other procedures.

    python -m benchmarks.likelihood --workdir runs/digits-vp [--images 24] [--repeats 2]
                                    [--crowd 16] [--device cpu] [--parts equal outliers]
                                    [--work runs/bench-likelihood]
                                    [--out results/cpu/likelihood-benchmark.json]

"equal" compares seconds at equal error of an image, and of the mean of many (`equal_error`, whose
docstring has the procedures and how errors are measured). All score the same points (uniform
dequantization) with the same averaged weights in float32, in one process, alternating. The exact
traces it needs take minutes; they are kept in --work, by a hash of weights and points.

"outliers": what two of them cost the other images of a batch.

"solver": the error of the solvers alone. The usual procedure (Song et al. 2021, their
likelihood.py re-implemented from its description) is scipy's RK45 on the joint state (x, log p) of
the whole batch at rtol = atol = 1e-5, in the time t of the SDE, with drift f x - g^2 score / 2
from one pass through the network and its divergence from a second one, in float32, and a round
trip through numpy at every evaluation. "ours" is there the per-sample solver with a fixed probe:
Dormand-Prince in the angle, drift and divergence from one pass, one vjp a probe. The true error
of a row is its difference to that at tolerance 1e-6 with the same probe, image by image; the rows
between remove one difference at a time.

"divergence": estimates by some fixed probes against the exact divergence, at one tolerance.

"budget": z-scores of the parts of an error budget (`budget`).

The usual procedure is measured on two schedules. One that is a table has a kink at every integer
t, which the closed forms of Song et al. do not have: it is compared on the same table made smooth
(a cubic spline of its log-SNR: the same path without kinks); "kinks" is the table as it is.
"""
