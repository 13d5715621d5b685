"""DDIM inversion: the noise that a datum comes from (Song, Meng & Ermon 2021, section 4.3)."""

from itertools import pairwise

import torch

from scoreflow.samplers.ddim import DDIM
from scoreflow.samplers.sampler import Step
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.noise import Noise
from scoreflow.sde.prediction import Denoiser
from scoreflow.sde.types import Batch, Times


def invert(denoiser: Denoiser, sde: SDE, times: Times, x_0: Batch) -> Batch:
    """DDIM's steps, run forwards: x_0 to the x_N from which the probability flow leads to it.

    x_first = alpha x_0,      x_s = alpha_s x_0(x_t, t) + sigma_s eps(x_t, t)      for s > t

    The estimates of a step forwards are those at its start, the ones of the step back at its other
    end; so there and back again is x_0 up to the first power of the strides. At the first time the
    noise, of which nothing is known, is left out; below it no denoiser is evaluated, and x_0 is
    what `DDIM`'s step to 0 gives back there.

    Args:
        denoiser: (x_t, t) -> Prediction.
        sde: the process.
        times: (K + 1,) float64 in steps, strictly increasing within (0, N]; the first is the least
            at which the denoiser is evaluated.
        x_0: (B, ...) float64.

    Returns:
        x at the last of the times, shaped like x_0.

    Raises:
        ValueError: the times are no such list.
    """
    times = times.cpu()
    rising = times.ndim == 1 and bool((times.diff() > 0).all())  # so that nan fails too
    if not rising or len(times) < 2 or not 0 < times[0] < times[-1] <= sde.num_steps:
        raise ValueError(
            f"inversion times must increase strictly within (0, {sde.num_steps}], got "
            f"{times.tolist()}"
        )
    unused = Noise(0, torch.arange(len(x_0)))
    with torch.no_grad():
        x = broadcast(sde.alpha(times[0]), x_0) * x_0
        for t, s in pairwise(times):
            x = DDIM().step(x, Step(denoiser, sde, t, s, unused))
    return x
