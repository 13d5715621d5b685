"""Distances between two sets, each with a standard error.

A number that is no mean over independent data has its error by the jackknife over blocks: both
sets are dealt into as many blocks, a block of each is left out at a time, and the scatter of what
is found then is scaled to that of the whole. For a mean it is sd / sqrt(n) but for the blocks.
Unlike a bootstrap it puts no datum in twice, which a nearest neighbour or an optimal assignment
would take for a copy. Between draws of one law a distance is no smooth function of them, and the
error comes out too large: 1.3 to 1.5 times, where it was measured.
"""

import math
from collections.abc import Iterator

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from scoreflow.uncertainty import mean_and_error

ASSIGNED = 512
"""Points that an assignment takes at most: its cost grows with their cube."""
BLOCK_ELEMENTS = 1 << 21
"""Elements of a set that are float64 at a time: 16 MB, and as much again twice inside of `cdist`.
Of a block all is computed alike, so that no result depends on how many there are where values are
integers, whose products have no rounding."""


def energy_distance(x: Tensor, y: Tensor, blocks: int = 8) -> tuple[float, float]:
    """Energy distance (Szekely & Rizzo 2013) of samples to draws of the truth, unbiased.

    2 E|x - y| - E|x - x'| - E|y - y'|, 0 for equal laws; with its standard error by the spread
    over disjoint blocks of both.

    Args:
        x: (n, ...), n >= 2 blocks.
        y: (m, ...), m >= 2 blocks.
        blocks: how many.
    """
    values = [
        _energy(a.double().flatten(1), b.double().flatten(1))
        for a, b in zip(x.tensor_split(blocks), y.tensor_split(blocks), strict=True)
    ]
    each = torch.tensor(values, dtype=torch.float64)
    return mean_and_error(each)


def _energy(x: Tensor, y: Tensor) -> float:
    n, m = len(x), len(y)
    apart = torch.cdist(x, y).mean()
    own_x = torch.cdist(x, x).sum() / (n * (n - 1))
    own_y = torch.cdist(y, y).sum() / (m * (m - 1))
    return float(2 * apart - own_x - own_y)


def wasserstein(x: Tensor, y: Tensor) -> float:
    """Wasserstein-2 distance of two sets as they are, by the exact optimal assignment.

    Between draws of one law it is not 0 but falls with n: what samples have is to be read against
    what two sets of the truth have.

    Args:
        x: (n, ...); the first `ASSIGNED` count.
        y: (n, ...), as many.
    """
    x, y = (z[:ASSIGNED].double().flatten(1).cpu() for z in (x, y))
    if x.shape != y.shape:
        raise ValueError(f"an assignment needs equal sets, got {len(x)} and {len(y)}")
    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    rows, columns = linear_sum_assignment(cost.numpy())
    return math.sqrt(float(cost[rows, columns].mean()))


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Squared Fréchet distance of two sets' Gaussians, the formula of FID (Heusel et al. 2017).

    |mean - mean'|^2 + tr(C + C' - 2 (C C')^(1/2)). Its expectation is above that of infinite sets
    by a term in 1/n: it compares only between sets of one size. It is FID where the features are
    those of the standard Inception network, and nowhere else.

    Args:
        x: (n, F) features, n >= 2.
        y: (m, F) features, m >= 2.
    """
    (mean_x, root_x), (mean_y, root_y) = _moments(x), _moments(y)
    traces = root_x.square().sum() + root_y.square().sum()
    # with C = R^T R and C' = R'^T R', tr (C C')^(1/2) is the sum of R R'^T's singular values
    cross = torch.linalg.svdvals(root_x @ root_y.T).sum()
    # equal sets: 0 to rounding, on either side
    return max(float((mean_x - mean_y).square().sum() + traces - 2 * cross), 0.0)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of (n, F) data and an R with covariance R^T R, (min(n, F), F), float64 on the CPU.

    R comes from the data, not from the covariance: where n < F the zero eigenvalues of that would
    count with the square roots of their rounding errors.
    """
    x = x.double().cpu()
    mean = x.mean(0)
    return mean, torch.linalg.qr((x - mean) / math.sqrt(len(x) - 1), mode="r").R


def blocks(values: Tensor, device: torch.device, rows: int = 0) -> Iterator[tuple[int, Tensor]]:
    """A set in blocks of rows: the first row's number, and the block, (b, D) float64.

    Args:
        values: (n, ...); only its length, its shape and slices of it are used, so that it need
            not be in memory.
        device: where the blocks go.
        rows: of a block; 0 for as many as `BLOCK_ELEMENTS` allow.
    """
    rows = rows or max(1, BLOCK_ELEMENTS // max(1, math.prod(values.shape[1:])))
    for start in range(0, len(values), rows):
        yield start, values[start : start + rows].to(device).double().flatten(1)


def nearest(samples: Tensor, reference: Tensor, apart: bool = False) -> tuple[Tensor, Tensor]:
    """Distance of each sample to its nearest datum in a set, and that datum's number.

    The first of those that are equally near. 0 exactly for a copy where values are integers.

    Args:
        samples: (n, ...).
        reference: (m, ...), taken in blocks to the samples' device.
        apart: whether the sets are one, and datum k is no neighbour of sample k.

    Returns:
        (n,) float64, and (n,) int64.
    """
    found = [
        _nearest_of(x, start if apart else None, reference)
        for start, x in blocks(samples, samples.device)
    ]
    distances, index = zip(*found, strict=True)
    return torch.cat(distances), torch.cat(index)


def _nearest_of(x: Tensor, first: int | None, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The same of a block of samples, the first of which is datum number `first` of the set."""
    best = x.new_full((len(x),), math.inf)
    index = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for start, y in blocks(reference, x.device):
        distance = torch.cdist(x, y)
        if first is not None:
            distance.diagonal(first - start).fill_(math.inf)
        least, place = distance.min(1)
        nearer = least < best
        best, index = torch.where(nearer, least, best), torch.where(nearer, place + start, index)
    return best, index


def nearest_distances(samples: Tensor, reference: Tensor) -> Tensor:
    """Distance of each sample to its nearest datum in a set, (n,) float64: see `nearest`."""
    return nearest(samples, reference)[0]


def total_variation(classes: Tensor, of: Tensor) -> float:
    """Total variation distance of two sets' class frequencies, 0 to 1.

    Half the sum of |p - q|. Between sets of one law it is about sqrt(classes / (2 pi n)), not 0.

    Args:
        classes: (n,) integers; -1 for a datum without class, which does not count.
        of: (m,) integers, the same.
    """
    count = int(max(classes.max(), of.max())) + 1
    p, q = (torch.tensor(class_counts(z, count)).double() for z in (classes, of))
    return float((p / p.sum() - q / q.sum()).abs().sum()) / 2


def class_counts(labels: Tensor, least: int = 0) -> list[int]:
    """How many data have each class, of at least so many classes; those of -1 have none."""
    found: list[int] = torch.bincount(labels[labels >= 0].cpu(), minlength=least).tolist()
    return found
