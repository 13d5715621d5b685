"""Five processes, one network: what the choice of a clock changes, on digits.

    python -m benchmarks.clocks [--steps 400] [--seeds 2] [--images 0] [--device cpu]
                                [--objective velocity] [--work runs/clocks-STEPS] [--out DIR]

VP (DDPM's linear schedule), sub-VP, VE, the rectified path and EDM's process are one rotation with
clocks and scales of their own. The same network, which predicts v of that rotation, is trained on
each for as many steps, from the same seeds, batches and noise, to minimise its squared error at
times by the law that the process is published with, from where noise over signal is 1e-4: uniform
in its own t, and for EDM log-normal noise scales (P_mean -1.2, P_std 1.2; its loss is the squared
error of v of data that have the scale 1). So what differs is where in the angle a training looks,
and where the flow ends. v is finite at both ends of all five, and its error is what their flow
integrates. A second seed of each training measures what training noise does, which differences
between images know nothing of.

`python run.py --mode compare --runs` then measures all: likelihoods in pairs on the same images,
samples from the same noise. WORK holds the runs and that comparison, with its report; a training
or a comparison that was stopped goes on from there with the same command. OUT/clocks.json and .md
are the result.
"""
