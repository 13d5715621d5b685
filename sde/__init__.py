"""The theory: one Gaussian path, its SDE, its probability flow, and exact examples of all three.

Every process is a Gaussian path

    x_t = alpha_t x_0 + sigma_t eps,        eps ~ N(0, I).

`alpha` is the **signal scale** and `sigma` the **noise scale**, never DDPM's alpha_t (which is one
minus beta_t) or alpha-bar_t (which is our alpha_t squared). Time is counted in steps: t = 0 is
clean data, the integer t = i is DDPM's step i, t = N is the prior; a network's index is t - 1.
With s < t for two times on the path, a step always goes from t to s.

Read in this order: `base` (the path and its SDE), `processes.vp` (the discrete VP-SDE), and beside
it `subvp`, `ve`, `rectified` and `edm` (other clocks; `log_alpha` has the shapes of a VP's),
`prediction` (five views of one estimate), `flow` (the ODE and its divergence), `ode.odeint` (the
ODE solver; `ode.dopri5` is its method), `noise` (addressed randomness), `analytic` (what is known
in closed form). `time_cache` only saves time in sampling loops, and `types` names the shapes.
"""

if __name__ == "sde":  # in a checkout; it would load every module a second time
    raise ImportError("sde is a part of scoreflow: import scoreflow.sde instead")

from scoreflow.sde.base import SDE, Rescaled, broadcast
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.ode import Solution, Status, odeint
from scoreflow.sde.prediction import Denoiser, Kind, Prediction
from scoreflow.sde.processes.edm import EDMSDE
from scoreflow.sde.processes.rectified import RectifiedSDE
from scoreflow.sde.processes.subvp import SubVPSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE

__all__ = [
    "EDMSDE",
    "SDE",
    "VESDE",
    "VPSDE",
    "Denoiser",
    "Kind",
    "Noise",
    "Prediction",
    "RectifiedSDE",
    "Rescaled",
    "Solution",
    "Status",
    "Stream",
    "SubVPSDE",
    "broadcast",
    "odeint",
]
