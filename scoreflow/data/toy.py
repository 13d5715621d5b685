"""Toy data set: a mixture of Gaussians in the plane, whose density is known."""

import math

import torch

from scoreflow.data.dataset import Data
from scoreflow.errors import RequestError
from scoreflow.sde.analytic import GaussianMixture
from scoreflow.sde.noise import Noise

POINTS = 20_000
RADIUS, WIDTH = 0.8, 0.1


def distribution(device: torch.device | str = "cpu") -> GaussianMixture:
    """Eight Gaussians on a ring: the true density."""
    angle = torch.arange(8, dtype=torch.float64) * (2 * math.pi / 8)
    means = RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)
    covariances = (WIDTH**2 * torch.eye(2, dtype=torch.float64)).expand(8, 2, 2)
    weights = torch.full((8,), 1 / 8)
    return GaussianMixture(*(each.to(device) for each in (weights, means, covariances)))


def load(test_fraction: float = 0.2, split_seed: int = 0) -> Data:
    """Points drawn from `distribution`, float32, without levels or labels."""
    points = distribution().sample(Noise.of(split_seed, 0, POINTS)).float()
    held_out = math.ceil(POINTS * test_fraction)
    if held_out == 0:
        return Data("toy", points, points, None, None, None)
    if held_out == POINTS:
        raise RequestError(
            f"data.test_fraction = {test_fraction} of {POINTS} points leaves none to train on"
        )
    return Data("toy", points[held_out:], points[:held_out], None, None, None)
