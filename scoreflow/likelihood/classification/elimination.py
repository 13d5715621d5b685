"""Which classes are measured further: successive halving, held back by standard errors.

After each round, of the classes that stand the worse half goes (Karnin et al. 2013, "Almost
optimal exploration in multi-armed bandits"), but of it only those whose difference to the best one
is beyond z of its standard errors. Rounds double what was measured: 8 times, 8, 16, 32, ...
"""

from dataclasses import dataclass

import torch
from torch import Tensor

FIRST = 8
"""Times of the first round: fewer would not tell how uncertain their mean is."""


def rounds(times: int, halving: bool) -> tuple[int, ...]:
    """How many times each round has, `times` in all; a single round without halving.

    A rest smaller than `FIRST` goes with the round before it.
    """
    sizes: list[int] = []
    left = times
    while left:
        size = sum(sizes) or FIRST
        whole = not halving or left - size < FIRST
        sizes.append(left if whole else size)
        left -= sizes[-1]
    return tuple(sizes)


@dataclass(frozen=True)
class Differences:
    """Of each class to the best one that stands, over the same times and noise.

    Attributes:
        total: minus the log-likelihood, as far as it is known, nats, (b, K).
        best: number of the column of the best one by data and prior, (b,).
        nats: how much less likely each is, prior included, (b, K); 0 for the best.
        error: standard error of that, (b, K).
    """

    total: Tensor
    best: Tensor
    nats: Tensor
    error: Tensor


def differences(
    terms: list[Tensor], exact: Tensor, log_prior: Tensor, standing: Tensor
) -> Differences:
    """Differences of exact + the mean of all terms - log prior.

    A round's terms are a stratified sample, so the error of its mean is estimated by successive
    differences, which a trend over the strata hardly enters (Wolter 2007, "Introduction to
    variance estimation", on systematic samples).

    Args:
        terms: of each round, (b, K, n) in the order of their strata; of classes that do not
            stand, anything.
        exact: what is known without times, (b, K).
        log_prior: of the classes, (K,).
        standing: (b, K); the others' differences mean nothing.
    """
    count = sum(each.shape[2] for each in terms)
    total = exact + torch.stack([each.sum(2) for each in terms]).sum(0) / count
    joint = total - log_prior
    best = torch.where(standing, joint, torch.inf).argmin(1)
    variance = torch.zeros_like(exact)
    for each in terms:
        size = each.shape[2]
        apart = each - each.gather(1, best[:, None, None].expand(-1, 1, size))
        scatter = apart.diff(dim=2).square().sum(2) / (2 * max(1, size - 1))
        variance = variance + size * scatter / count**2
    return Differences(total, best, joint - joint.gather(1, best[:, None]), variance.sqrt())


def dropped(found: Differences, standing: Tensor, z: float) -> Tensor:
    """The classes that are measured no further: (b, K), of those that stand.

    Args:
        found: the differences.
        standing: (b, K).
        z: standard errors beyond which a class of the worse half is out of reach.
    """
    order = torch.where(standing, found.nats, torch.inf).argsort(dim=1, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    kept = (standing.sum(1, keepdim=True) + 1) // 2
    return standing & (rank >= kept) & (found.nats > z * found.error)
