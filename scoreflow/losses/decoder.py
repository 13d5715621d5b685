"""The discretised Gaussian decoder: the last term of the bound for integer data."""

import math

import torch
from torch import Tensor

from scoreflow.sde.analytic import log_normal_mass
from scoreflow.sde.base import broadcast


def decoder_term(x_0: Tensor, levels: Tensor, num_levels: int, variance: Tensor) -> Tensor:
    """L_0 of integers: -log of what N(x_0 estimate, variance I) gives to each level's bin, summed.

    DDPM's discretised decoder (Ho et al. 2020, Eq. 13) on the bins [2k/L - 1, 2(k+1)/L - 1], the
    outermost open to infinity, so that the levels' probabilities sum to 1. (The reverse mean at
    s = 0 *is* the estimate of x_0.) A network that was trained on points spread over the bins
    finds x_t as likely anywhere within one: where sigma_t is small against a bin, the chain has
    paid for the place within it, about log(bin / (sigma_t sqrt(2 pi e))) nats a dimension, which
    this term, unlike the density, does not give back.

    Args:
        x_0: the estimate at the chain's first time, (B, ...).
        levels: the integers 0..L-1 that it should find, shaped like x_0.
        num_levels: L.
        variance: () or (B,), positive; or of each element, shaped like x_0.

    Returns:
        Nats, (B,).
    """
    k = levels.to(x_0.dtype)  # twice an 8-bit level need not fit into 8 bits
    low = torch.where(k == 0, -math.inf, 2 * k / num_levels - 1)
    high = torch.where(k == num_levels - 1, math.inf, 2 * (k + 1) / num_levels - 1)
    std = variance.sqrt()
    std = std if std.shape == x_0.shape else broadcast(std, x_0)
    return -log_normal_mass((low - x_0) / std, (high - x_0) / std).flatten(1).sum(1)
