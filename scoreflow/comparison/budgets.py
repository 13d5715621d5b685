"""Samplers at budgets of evaluations: which cases there are, and a config for each."""

import math

from ml_collections import ConfigDict

from scoreflow.errors import RequestError
from scoreflow.factory import sampling
from scoreflow.factory.choose import choose
from scoreflow.factory.sampling import high_order
from scoreflow.models.score_model import ScoreModel
from scoreflow.schema.samplers import SAMPLERS, stepping

REFERENCE = (1e-3, 56.0)
"""A tolerance of the adaptive flow and the evaluations that it took on the digits; they grow with
the fifth root."""
LEAST = 8
"""Test and training images without which samples are not compared."""
MOST_EVALUATIONS = 10_000
"""Largest budget of a chain that is no longer: what the adaptive flow may take by default."""


def wanted_cases(config: ConfigDict, model: ScoreModel) -> list[tuple[str, int]]:
    """Each sampler with each budget that it can use: a chain has no more steps than N."""
    c, whole = config.compare, config.sampling.grid == "least_cost"
    most = max(model.sde.num_steps, MOST_EVALUATIONS)
    if max(c.nfe, default=0) > most or not c.nfe or not c.samplers:
        raise RequestError(
            f"compare.nfe must have budgets in 1..{most} and compare.samplers a name, got "
            f"{tuple(c.nfe)} and {tuple(c.samplers)}"
        )
    names = [choose("--samplers", name, sampling.SAMPLERS) for name in dict.fromkeys(c.samplers)]
    found = [
        (name, budget)
        for name in names
        for budget in sorted(set(c.nfe))
        if (high_order(config, name) and not whole) or budget <= model.sde.num_steps
    ]
    if not found:
        raise RequestError(
            f"compare.nfe = {tuple(c.nfe)} has no budget that {', '.join(names)} can use: a chain "
            f"has {model.sde.num_steps} steps at most"
        )
    return found


def with_budget(config: ConfigDict, name: str, budget: int) -> ConfigDict:
    """A config whose evaluations come to the budget, or near it; guidance may double them."""
    config = ConfigDict(config.to_dict())
    c = config.sampling
    a_step = SAMPLERS[stepping(name, c.predictor)].evaluations  # but one in the last
    corrections = c.corrections if name == "pc" else 0
    c.steps = max(1, (budget + a_step - 1) // (a_step + corrections))
    tolerance, evaluations = REFERENCE
    wanted = tolerance * (evaluations / budget) ** 5
    c.tolerance = min(max(wanted, 1e-10), 1.0)
    assert math.isfinite(wanted), "budgets are whole numbers from 1"
    return config
