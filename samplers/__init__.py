"""From noise to data: one method a file, each a `step` from t to s, and one loop that they share.

A sampler knows an SDE and a Denoiser, never a network: what runs here on a trained U-Net runs in
the tests on exact denoisers, where the right answer is known.
"""

from samplers.ancestral import Ancestral
from samplers.ddim import DDIM
from samplers.deis import DEIS
from samplers.dpm_solver import DPMSolver
from samplers.euler_maruyama import EulerMaruyama
from samplers.grids import GRIDS, grid
from samplers.guidance import (
    ClassifierGuided,
    Clipped,
    Counted,
    Guided,
    LogProb,
    Reclocked,
    Recorded,
    Thresholded,
)
from samplers.heun import Heun
from samplers.predictor_corrector import AnnealedLangevin, Langevin, PredictorCorrector
from samplers.probability_flow import ProbabilityFlow
from samplers.reverse_diffusion import ReverseDiffusion
from samplers.sampler import Multistep, Sampler, sample, uniform_times
from samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DEIS",
    "GRIDS",
    "Ancestral",
    "AnnealedLangevin",
    "ClassifierGuided",
    "Clipped",
    "Counted",
    "DPMSolver",
    "EulerMaruyama",
    "Guided",
    "Heun",
    "Langevin",
    "LogProb",
    "Multistep",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Reclocked",
    "Recorded",
    "ReverseDiffusion",
    "Sampler",
    "Thresholded",
    "UniPC",
    "grid",
    "sample",
    "uniform_times",
]
