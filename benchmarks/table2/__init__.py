"""DDPM's Table 2 in small: network output x training objective x reverse variance.

    python -m benchmarks.table2 [--steps 700] [--images 360] [--device cpu] [--out DIR]
                                [--config configs/mnist.py] [--config.SECTION.KEY=VALUE]

Ho et al. 2020 compare predicting the posterior mean with predicting the noise, under the
variational bound L and under the unweighted error, with fixed and with learned reverse variances
(IS and FID on CIFAR-10). Here every cell is trained from one seed on the data of a config, on
their linear schedule with N = 1000, and measured by three numbers: the variational bound of the
chain, the exact likelihood of its probability flow, and the accuracy of a nearest-neighbour
two-sample test of its samples against data. A seventh cell is L_hybrid (Nichol & Dhariwal 2021).
Data are dequantized, where DDPM has bin centres, so that bound and exact likelihood are of one
density.

Finished cells are appended to OUT/table2.rows.jsonl, so that the same command resumes after an
interruption; a complete table becomes OUT/table2.json and .md. A cell whose training, sampling or
likelihood fails shows the reason in its place, and is left out of the comparisons.
"""
