"""Exact likelihood: error against seconds, for the usual procedure and for ours.

    python -m benchmarks.likelihood --workdir runs/digits-vp [--images 64] [--repeats 3]
                                    [--crowd 32] [--device cpu]
                                    [--out results/cpu/likelihood-benchmark.json]

The usual procedure (Song et al. 2021, their likelihood.py re-implemented from its description) is
scipy's RK45 on the joint state (x, log p) of the whole batch at rtol = atol = 1e-5, in the time t
of the SDE, with drift f x - g^2 score / 2 from one pass through the network and its divergence
from a second one, in float32, and a round trip through numpy at every evaluation. Ours is
`scoreflow.likelihood.flow_likelihood`: Dormand-Prince in the angle with a step size for each
image, drift and divergence from one pass, one vjp a probe. Both score the same points (uniform
dequantization) with the same single probe and the same averaged weights in float32, in one
process, alternating.

The usual procedure is measured on two schedules. One that is a table has a kink at every integer
t, which the closed forms of Song et al. do not have: the headline comparison is against the same
table made smooth (a cubic spline of its log-SNR: the same path without kinks); "kinks" is the
table as it is. The rows between them remove one difference at a time.

The true error of a row is its difference to ours at tolerance 1e-6 with the same probe, image by
image. A batch with two outliers shows what they cost the other images, and the last table
compares estimates of the divergence by some probes with the exact divergence.
"""
