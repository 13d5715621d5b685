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
    Guided,
    LogProb,
    Reclocked,
    Thresholded,
)
from samplers.heun import Heun
from samplers.interpolation import slerp
from samplers.inversion import invert
from samplers.least_cost import grid_cost, least_cost, step_costs
from samplers.listening import Counted, Recorded
from samplers.measurement import BlockMean, ChannelMean, Masked, Measurement, Operator
from samplers.posterior import DPS, MMPS, Replaced
from samplers.predictor_corrector import AnnealedLangevin, Langevin, PredictorCorrector
from samplers.probability_flow import ProbabilityFlow
from samplers.reverse_diffusion import ReverseDiffusion
from samplers.sampler import Multistep, Sampler, sample, times_from, uniform_times
from samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DEIS",
    "DPS",
    "GRIDS",
    "MMPS",
    "Ancestral",
    "AnnealedLangevin",
    "BlockMean",
    "ChannelMean",
    "ClassifierGuided",
    "Clipped",
    "Counted",
    "DPMSolver",
    "EulerMaruyama",
    "Guided",
    "Heun",
    "Langevin",
    "LogProb",
    "Masked",
    "Measurement",
    "Multistep",
    "Operator",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Reclocked",
    "Recorded",
    "Replaced",
    "ReverseDiffusion",
    "Sampler",
    "Thresholded",
    "UniPC",
    "grid",
    "grid_cost",
    "invert",
    "least_cost",
    "sample",
    "slerp",
    "step_costs",
    "times_from",
    "uniform_times",
]
