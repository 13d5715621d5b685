"""Identity 2: noise prediction is sigma^2-weighted denoising score matching.

Written in full, sigma^2 |score(x_t, t) + (x_t - alpha x_0) / sigma^2|^2 and |eps(x_t, t) - eps|^2
are the same number with the same gradient. What rounding may make of it is measured by the program
itself: the noise that the second is told is moved by a rounding of x_t and x_0, which is what the
first loses by subtracting them, and the change in the gradient, or in a whole training, is the
yardstick.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from scoreflow import losses
from scoreflow.identities.identity import UNIT_ROUNDOFF, Identity, worst
from scoreflow.mlp import MLP
from scoreflow.model import ScoreModel
from scoreflow.plot import Plot, Series
from sde.base import SDE, broadcast
from sde.noise import Noise, Stream
from sde.prediction import Denoiser

SAFETY = 8.0
"""How far a rounding error may exceed the one tried: that one's signs are random."""
LARGEST_TRAINED = 2_000_000
"""Parameters of a network that a hundred float64 steps can be taken with on a CPU."""

Loss = Callable[[Denoiser, SDE, Tensor, Tensor, Tensor], Tensor]


def told_roundings(denoiser: Denoiser, sde: SDE, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """L_simple of a noise that is off by what (x_t - alpha x_0) / sigma loses to rounding."""
    x_t = sde.perturb(x_0, t, eps)
    alpha, sigma = broadcast(sde.alpha(t), x_t), broadcast(sde.sigma(t), x_t)
    # twice, for one unit roundoff added to a number is lost again
    lost = 2 * ((x_t.abs() + (alpha * x_0).abs()) / sigma + eps.abs())
    signs = Noise.of(1, 0, len(x_0), x_0.device).rademacher(Stream.PROBE, tuple(x_0.shape[1:]))
    told = eps + UNIT_ROUNDOFF[x_t.dtype] * lost * signs
    return (denoiser(x_t, t).eps - told).square().flatten(1).mean(1)


def objectives(
    model: ScoreModel, x_0: Tensor, train_steps: int, batch_size: int
) -> list[Identity]:
    """On a network as it is: loss and gradient per t and in total, and two trainings from it.

    Args:
        model: its network is copied to float64.
        x_0: data for every batch, (at least batch_size, ...).
        train_steps: of the trainings.
        batch_size: images a gradient.
    """
    exact = _double(model)
    x_0 = x_0.double()
    found = _gradients(exact, x_0[:batch_size])
    parameters = sum(p.numel() for p in exact.network.parameters())
    if x_0.device.type == "cpu" and parameters > LARGEST_TRAINED:
        dims = x_0[0].numel()
        name = f"a small MLP ({parameters / 1e6:.0f}M parameters are too many to train here)"
        small = ScoreModel(MLP(dims, 32, 2).double(), exact.sde, "eps", precision="float64")
        return [*found, _paths(small, x_0.flatten(1), train_steps, batch_size, name)]
    return [*found, _paths(exact, x_0, train_steps, batch_size, "this network")]


def _double(model: ScoreModel) -> ScoreModel:
    network = copy.deepcopy(getattr(model.network, "_orig_mod", model.network)).double().eval()
    return model.around(network.requires_grad_(), "float64")


def _gradients(model: ScoreModel, x_0: Tensor) -> list[Identity]:
    sde, size = model.sde, len(x_0)
    eps = Noise.of(0, 0, size, x_0.device).normal(Stream.TRAIN_EPS, tuple(x_0.shape[1:]))
    at = torch.linspace(1, sde.num_steps, 10, dtype=torch.float64).round().to(x_0.device)
    rows = [_compare(model, x_0, t.expand(size), eps) for t in at]
    mixed = at[torch.arange(size) % len(at)]
    series = [
        Series(label, at.tolist(), [pair[k][j] for pair in rows])
        for k, j, label in ((1, 0, "gradient"), (1, 1, "allowed"))
    ]
    plot = Plot("Gradients: eps-matching against score matching", "t, steps", tuple(series))
    names = ("loss", "parameter gradient")
    basis = "relative; what a rounding of x_t and x_0 does to it, times 8"
    total = _compare(model, x_0, mixed, eps)
    found = []
    for k, name in enumerate(names):
        residual, tolerance = worst([pair[k] for pair in rows])
        plots = (plot,) if k else ()
        found.append(
            Identity(
                f"L_simple = sigma^2 DSM: {name}, each of 10 t", residual, tolerance, basis, plots
            )
        )
        found.append(Identity(f"L_simple = sigma^2 DSM: {name}, over all t", *total[k], basis))
    return found


def _compare(model: ScoreModel, x_0: Tensor, t: Tensor, eps: Tensor) -> list[tuple[float, float]]:
    """(residual, tolerance) of the loss and of its gradient."""
    results = []
    for loss in (losses.simple, losses.score_matching, told_roundings):
        value = loss(model, model.sde, x_0, t, eps).mean()
        grads = torch.autograd.grad(value, list(model.network.parameters()))
        results.append((value.detach().view(1), torch.cat([g.flatten() for g in grads])))
    pairs = []
    for mine, score, moved in zip(*results, strict=True):
        scale = float(mine.norm())
        # a handful of operations more, relative to the whole
        floor = SAFETY * UNIT_ROUNDOFF[torch.float64]
        allowed = SAFETY * float((moved - mine).norm()) / scale + floor
        pairs.append((float((score - mine).norm()) / scale, allowed))
    return pairs


def _paths(
    model: ScoreModel, x_0: Tensor, train_steps: int, batch_size: int, name: str
) -> Identity:
    """Three trainings from one start: noise prediction, score matching, and with roundings."""
    start = _vector(model.network)
    paths = [
        _train(model, loss, x_0, train_steps, batch_size)
        for loss in (losses.simple, losses.score_matching, told_roundings)
    ]
    pairs = []
    for mine, score, moved in zip(*paths, strict=True):
        gone = float((mine - start).norm())
        pairs.append(
            (float((score - mine).norm()) / gone, SAFETY * float((moved - mine).norm()) / gone)
        )
    steps = list(range(1, train_steps + 1))
    plot = Plot(
        "Two trainings: distance of the weights over the way gone",
        "step",
        (
            Series("eps- against score matching", steps, [pair[0] for pair in pairs]),
            Series("allowed", steps, [pair[1] for pair in pairs]),
        ),
    )
    residual, tolerance = worst(pairs)
    return Identity(
        f"{train_steps} Adam steps as eps-matching = as score matching, {name}",
        residual,
        tolerance,
        "distance over way gone, worst step; what roundings do to such a training, times 8",
        (plot,),
    )


def _train(
    model: ScoreModel, loss: Loss, x_0: Tensor, train_steps: int, batch_size: int
) -> list[Tensor]:
    """The weights after each step; the model's own are left as they were."""
    network = copy.deepcopy(model.network)
    twin = model.around(network, "float64")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    path = []
    for step in range(train_steps):
        noise = Noise.of(0, 0, batch_size, x_0.device).at(step)
        rows = (torch.arange(batch_size) + step * batch_size) % len(x_0)
        t = losses.integer_times(noise.uniform(Stream.TRAIN_TIME), model.sde.num_steps)
        eps = noise.normal(Stream.TRAIN_EPS, tuple(x_0.shape[1:]))
        optimizer.zero_grad(set_to_none=True)
        loss(twin, twin.sde, x_0[rows], t, eps).mean().backward()
        optimizer.step()
        path.append(_vector(network))
    return path


def _vector(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()
