"""From noise to data: one method a file, each a `step` from t to s, and one loop that they share.

A sampler knows an SDE and a Denoiser, never a network: what runs here on a trained U-Net runs in
the tests on exact denoisers, where the right answer is known.
"""

from samplers.ancestral import Ancestral
from samplers.ddim import DDIM
from samplers.euler_maruyama import EulerMaruyama
from samplers.guidance import Clipped, Counted, Reclocked
from samplers.predictor_corrector import AnnealedLangevin, Langevin, PredictorCorrector
from samplers.probability_flow import ProbabilityFlow
from samplers.reverse_diffusion import ReverseDiffusion
from samplers.sampler import Sampler, sample, uniform_times

__all__ = [
    "DDIM",
    "Ancestral",
    "AnnealedLangevin",
    "Clipped",
    "Counted",
    "EulerMaruyama",
    "Langevin",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Reclocked",
    "ReverseDiffusion",
    "Sampler",
    "sample",
    "uniform_times",
]
