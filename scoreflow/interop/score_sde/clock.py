"""The clock by which score_sde's own likelihood and flow ask its discrete networks.

They were trained at the integers of a chain, with labels 0, 1, ..., N - 1. Its evaluation takes
the process in continuous time for all networks, and asks at label 999 t / N for t from 1e-5 N on:
between the labels of training, and below the first of them.
"""

import copy
from dataclasses import replace

from scoreflow.models.asking import Label
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde import VPSDE
from scoreflow.sde.base import in_units

LAST_LABEL, LEAST_TIME = 999, 1e-5
"""The label of the last time, and the least time as a share of it."""


def published(
    model: ScoreModel, beta_min: float, beta_max: float, least_time: float = LEAST_TIME
) -> ScoreModel:
    """A discrete VP network as the published evaluation asks it.

    Args:
        model: asked at its own integer times, of linear betas.
        beta_min: N times the first beta.
        beta_max: N times the last one.
        least_time: where it begins, as a share of the last time.
    """
    other, steps = copy.copy(model), model.sde.num_steps
    process = VPSDE.linear_continuous(steps, beta_min, beta_max)
    other.sde = in_units(process, model.asking.data_scale)
    label = Label("time", LAST_LABEL / steps, 0.0)
    other.asking = replace(model.asking, label=label, integer_times=False)
    other.t_min = least_time * steps
    return other
