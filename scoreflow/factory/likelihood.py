"""What a likelihood is asked by: the `likelihood` section."""

import torch
from ml_collections import ConfigDict

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.factory.choose import choose, refusing
from scoreflow.likelihood.dataset_likelihood import LikelihoodSettings
from scoreflow.likelihood.dequantization import DEQUANTIZATIONS, Dequantizer
from scoreflow.likelihood.flow_likelihood import Solver
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde.flow import sign_set_size
from scoreflow.sde.ode import odeint


def build_solver(config: ConfigDict) -> Solver:
    """The solver of the `likelihood` section."""
    c = config.likelihood
    try_solver("likelihood", c.method, (c.tolerance, 0.0))
    return Solver(c.probes, c.tolerance, c.tolerance_bits, c.method, c.max_evaluations)


def build_question(
    config: ConfigDict, model: ScoreModel, data: Data, dequantization: str = ""
) -> LikelihoodSettings:
    """What the `likelihood` section asks of each datum, or the same by another dequantization."""
    c, embedding = config.likelihood, config.training.dequantization
    name = dequantization or c.dequantization
    choose("likelihood.dequantization", name, DEQUANTIZATIONS)
    t, end = c.t_start or model.t_min, model.sde.num_steps
    if not model.t_min <= t < end:
        raise RequestError(
            f"likelihood.t_start must lie in [{model.t_min:g}, {end}), got {t:g}: this network "
            f"learned {config.training.times} times and is not asked below t = {model.t_min:g}"
        )
    most = sign_set_size(data.test[0].numel())
    if c.probes > most:
        raise RequestError(
            f"likelihood.probes must lie in 0..{most} for data of {data.test[0].numel()} "
            f"dimensions, got {c.probes}; 0 is the exact divergence"
        )
    dequantizer = None
    if data.num_levels is not None:
        if name == "truncated_normal" and embedding != "centre":
            raise RequestError(
                "likelihood.dequantization = truncated_normal needs a network trained with "
                "training.dequantization = centre: one trained on uniform bins is not peaked at "
                "their centres"
            )
        dequantizer = Dequantizer(name, data.num_levels, t, embedding)
    return LikelihoodSettings(
        build_solver(config), c.seed, dequantizer, c.samples, c.batch_size, c.checked
    )


def try_solver(section: str, method: str, rtol: tuple[float, ...]) -> None:
    """Refuse a method that does not exist, or cannot work as it would be asked to here."""
    state = tuple(torch.zeros(1, 1, dtype=torch.float64) for _ in rtol)

    def solve(method: str) -> None:
        odeint(lambda _t, x, _rows: x, state, 0.0, 1e-3, method=method, rtol=rtol, atol=1.0)

    refusing(solve, method, f"{section}.method")
