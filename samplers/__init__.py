"""Samplers, from noise to data: one method a file, each a `step` from t to s, and one shared loop.

A sampler knows an SDE and a Denoiser, never a network: what runs here on a trained U-Net runs in
the tests on exact denoisers, where the right answer is known. Read `sampler` (the protocols and
the loop), `ancestral` and `ddim` (the simplest methods), then any other; `denoisers/` holds
Denoisers around Denoisers (guidance, thresholding), `grids/` the times to step through, and
`editing/` inverse problems, inversion and interpolation.

To add a sampler, write a class with `step`. This is all of Euler's method on the probability
flow, dx/dphi = v for x = x_t / r_t:

    from dataclasses import dataclass

    from scoreflow.samplers.sampler import Step
    from scoreflow.sde.base import broadcast
    from scoreflow.sde.types import Batch

    @dataclass(frozen=True)
    class Euler:
        flow_order = 1

        def step(self, x_t: Batch, step: Step) -> Batch:
            sde, t, s = step.sde, step.t, step.s
            x = x_t / broadcast(sde.scale(t), x_t)
            x = x + broadcast(sde.angle(s) - sde.angle(t), x) * step.predict(x_t).v
            return broadcast(sde.scale(s), x) * x

`sample(Euler(), denoiser, sde, grid("log_snr", sde, 50), noise, shape)` runs it. To keep it, put
it in a file here and import it below; one line in `tests/samplers/test_orders.py` measures its
order of convergence. `multistep/deis.py` is the file to copy for a method that uses earlier
estimates. `scoreflow/schema/samplers.py` gives samplers their names on the command line.
"""

if __name__ == "samplers":  # in a checkout; it would load every module a second time
    raise ImportError("samplers is a part of scoreflow: import scoreflow.samplers instead")

from scoreflow.samplers.ancestral import Ancestral
from scoreflow.samplers.ddim import DDIM
from scoreflow.samplers.denoisers.change_of_process import Reclocked
from scoreflow.samplers.denoisers.guidance import ClassifierGuided, Guided
from scoreflow.samplers.denoisers.instrumentation import Counted, Recorded
from scoreflow.samplers.denoisers.thresholding import Clipped, Thresholded
from scoreflow.samplers.editing.ddim_inversion import invert
from scoreflow.samplers.editing.inverse_problems import DPS, MMPS, Replaced
from scoreflow.samplers.editing.linear_operators import (
    BlockMean,
    ChannelMean,
    Masked,
    Measurement,
    Operator,
)
from scoreflow.samplers.editing.slerp import slerp
from scoreflow.samplers.euler_maruyama import EulerMaruyama
from scoreflow.samplers.grids.optimal_time_grid import grid_cost, least_cost, step_costs
from scoreflow.samplers.grids.time_grids import GRIDS, grid
from scoreflow.samplers.heun import Heun
from scoreflow.samplers.multistep.deis import DEIS
from scoreflow.samplers.multistep.dpm_solver import DPMSolver
from scoreflow.samplers.multistep.unipc import UniPC
from scoreflow.samplers.predictor_corrector import AnnealedLangevin, Langevin, PredictorCorrector
from scoreflow.samplers.probability_flow import ProbabilityFlow
from scoreflow.samplers.reverse_diffusion import ReverseDiffusion
from scoreflow.samplers.sampler import Memory, Multistep, Sampler, Step, sample, times_from
from scoreflow.sde.types import LogProb

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
    "Memory",
    "Multistep",
    "Operator",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Reclocked",
    "Recorded",
    "Replaced",
    "ReverseDiffusion",
    "Sampler",
    "Step",
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
]
