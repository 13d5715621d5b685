"""The five processes, and how each is trained."""

import math
from dataclasses import dataclass

import torch

from scoreflow.sde import EDMSDE, SDE, VESDE, VPSDE, RectifiedSDE, SubVPSDE
from scoreflow.storage.atomic_files import Json

STEPS = 1000
"""N of every process."""
START = 1e-4
"""Noise over signal where every flow starts."""


@dataclass(frozen=True)
class Clock:
    """A process.

    Attributes:
        name: of `sde.name`.
        title: in the table.
        sde: the same process, for the time at which its flow starts.
        keys: of the section `sde`.
        times: the law of its training times, as `training.times` names it.
    """

    name: str
    title: str
    sde: SDE
    keys: Json
    times: str = "real"

    @property
    def t_min(self) -> float:
        """Where noise over signal is `START`, in steps, and 1 at most."""
        log_snr = torch.tensor(-2 * math.log(START), dtype=torch.float64)
        return float(f"{min(1.0, float(self.sde.time_of_log_snr(log_snr))):.6g}")


CLOCKS = (
    Clock("vp", "VP, linear", VPSDE.linear(STEPS), {"schedule": "linear"}),
    Clock("subvp", "sub-VP, linear", SubVPSDE.linear(STEPS), {"schedule": "linear"}),
    Clock("ve", "VE", VESDE(STEPS, 0.01, 50.0), {"sigma_min": 0.01, "sigma_max": 50.0}),
    Clock("rectified", "rectified", RectifiedSDE(STEPS), {}),
    Clock(
        "edm",
        "EDM",
        EDMSDE(STEPS, 0.002, 80.0, 7.0),
        {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0},
        "log_normal",
    ),
)
