"""Identity 2: noise prediction is sigma^2-weighted denoising score matching.

Written in full, sigma^2 |score(x_t, t) + (x_t - alpha x_0) / sigma^2|^2 and |eps(x_t, t) - eps|^2
are the same number with the same gradient. What rounding may make of it is measured by the program
itself: the noise in the second is moved by a rounding of x_t and x_0, which is what the
first loses by subtracting them, and the change in the gradient, or in a whole training, is the
yardstick. It is shown in float64, where little is lost, and, loss and gradient, as the network is
trained: float32 data through the network in its own precision.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from scoreflow.certificate.identity import UNIT_ROUNDOFF, Identity, finite_end, worst
from scoreflow.figures.plot import Plot, Series
from scoreflow.losses import denoising, times
from scoreflow.models.mlp import MLP
from scoreflow.models.score_model import OUTPUTS_OF_NOISE, ScoreModel
from scoreflow.runtime.compiling import uncompiled
from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser

SAFETY = 8.0
"""How far a rounding error may exceed the one tried: that one's signs are random."""
LARGEST_TRAINED = 2_000_000
"""Parameters of a network that a hundred float64 steps can be taken with on a CPU."""

OF_NETWORK = {
    "float64": UNIT_ROUNDOFF[torch.float64],
    "float32": UNIT_ROUNDOFF[torch.float32],
    "tf32": 2.0**-11,
    "bfloat16": UNIT_ROUNDOFF[torch.bfloat16],
}
"""Unit roundoff of a network's products, by its precision; on a CPU "tf32" is float32."""

Loss = Callable[[Denoiser, SDE, Tensor, Tensor, Tensor], Tensor]


def told_roundings(denoiser: Denoiser, sde: SDE, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """L_simple of a noise that is off by what (x_t - alpha x_0) / sigma loses to rounding."""
    x_t = sde.perturb(x_0, t, eps)
    alpha, sigma = broadcast(sde.alpha(t), x_t), broadcast(sde.sigma(t), x_t)
    # twice, for one unit roundoff added to a number is lost again
    lost = 2 * ((x_t.abs() + (alpha * x_0).abs()) / sigma + eps.abs())
    signs = Noise.of(1, 0, len(x_0), x_0.device).rademacher(Stream.PROBE, tuple(x_0.shape[1:]))
    moved = eps + UNIT_ROUNDOFF[x_t.dtype] * lost * signs
    return (denoiser(x_t, t).eps - moved).square().flatten(1).mean(1)


def objectives(
    model: ScoreModel, x_0: Tensor, train_steps: int, batch_size: int
) -> list[Identity]:
    """On a network as it is: loss and gradient per t and in total, and two trainings from it.

    Args:
        model: its network is copied, to float64 too.
        x_0: data for every batch, (at least batch_size, ...).
        train_steps: of the trainings.
        batch_size: images a gradient.

    Returns:
        Nothing for a network whose only time has no signal: what it says of the noise is known.
    """
    if not len(_times(model, x_0)):
        return []
    exact = model.with_network(copied(model.network).double()).in_precision("float64")
    x_0 = x_0.double()
    batch = x_0[:batch_size]
    found = [*_gradients(exact, batch), *_as_trained(model, batch.float())]
    parameters = sum(p.numel() for p in exact.network.parameters())
    if x_0.device.type == "cpu" and parameters > LARGEST_TRAINED:
        dims = x_0[0].numel()
        name = f"a small MLP ({parameters / 1e6:.0f}M parameters are too many to train here)"
        small = ScoreModel(MLP(dims, 32, 2).double(), exact.sde, "eps", precision="float64")
        return [*found, _paths(small, x_0.flatten(1), train_steps, batch_size, name)]
    return [*found, _paths(exact, x_0, train_steps, batch_size, "this network")]


def copied(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode that is not compiled, with gradients."""
    return copy.deepcopy(uncompiled(network)).eval().requires_grad_()


def _times(model: ScoreModel, x_0: Tensor) -> Tensor:
    """Ten integer times over the whole path, as far as the noise is not known.

    Where no signal is left x_t is the noise: for a network that estimates x_0, v or u both losses
    are 0 there, and of two zeros neither is wrong.
    """
    last = model.sde.num_steps
    if finite_end(model.sde) < last and model.output not in OUTPUTS_OF_NOISE:
        last -= 1
    t = torch.linspace(1, last, 10 if last else 0, dtype=torch.float64)
    return t.round().to(x_0.device)


def noise_for(x_0: Tensor) -> Tensor:
    """Eps of a batch, shaped like it: the same in every call."""
    return Noise.of(0, 0, len(x_0), x_0.device).normal(Stream.TRAIN_EPS, tuple(x_0.shape[1:]))


def _gradients(model: ScoreModel, x_0: Tensor) -> list[Identity]:
    """In float64, at each time and over them."""
    size, eps, at = len(x_0), noise_for(x_0), _times(model, x_0)
    rows = [_compare(model, x_0, t.expand(size), eps) for t in at]
    total = _compare(model, x_0, at[torch.arange(size) % len(at)], eps)
    basis = "relative; what a rounding of x_t and x_0 does to it, times 8"
    found = []
    for k, name in enumerate(("loss", "parameter gradient")):
        pairs = [pair[k] for pair in rows]
        ends = [float(at[0]), float(at[-1])]
        lines = (
            Series("difference", at.tolist(), [pair[0] for pair in pairs]),
            Series("allowed", at.tolist(), [pair[1] for pair in pairs]),
            Series("over all t", ends, [total[k][0]] * 2),
            Series("allowed over all t", ends, [total[k][1]] * 2),
        )
        shown = f"eps-matching against score matching: {name}"
        plot = Plot(shown, "t, steps", "relative difference", lines)
        title = f"L_simple = sigma^2 DSM: {name}"
        found.append(Identity(f"{title}, each of 10 t", *worst(pairs), basis, (plot,)))
        found.append(Identity(f"{title}, over all t", *total[k], basis))
    return found


def _as_trained(model: ScoreModel, x_0: Tensor) -> list[Identity]:
    """Over the ten times, as in a step of training: float32 data, the network's precision."""
    own = model.with_network(copied(model.network))
    at = _times(own, x_0)
    t, eps = at[torch.arange(len(x_0)) % len(at)], noise_for(x_0).float()
    unit = OF_NETWORK[model.precision]
    pairs = _compare(own, x_0, t, eps, unit)
    basis = (
        f"relative; what a rounding of x_t and x_0 does to it, and the unit roundoff {unit:.0e} "
        f"of {model.precision}, times 8"
    )
    names = ("loss", "parameter gradient")
    return [
        Identity(f"L_simple = sigma^2 DSM: {name}, the network in {model.precision}", *pair, basis)
        for name, pair in zip(names, pairs, strict=True)
    ]


def _compare(
    model: ScoreModel,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    unit: float = UNIT_ROUNDOFF[torch.float64],
) -> list[tuple[float, float]]:
    """(residual, tolerance) of the loss and of its gradient; unit is of the network's numbers."""
    three = (
        loss(model, model.sde, x_0, t, eps)
        for loss in (denoising.simple, denoising.score_matching, told_roundings)
    )
    return compared(three, list(model.network.parameters()), unit)


def compared(
    three: Iterable[Tensor], parameters: Sequence[Tensor], unit: float
) -> list[tuple[float, float]]:
    """(residual, tolerance) of a loss that is written in two ways, and of its gradient.

    What roundings do to the loss is the mean of what they do to each sample's: in that of all
    together they cancel, now and then nearly to nothing.

    Args:
        three: the loss of each sample, (B,), in one way, in the other, and moved by roundings.
        parameters: of the network.
        unit: unit roundoff of its numbers.
    """
    losses, grads = [], []
    for of_each in three:
        found = torch.autograd.grad(of_each.mean(), parameters, retain_graph=True)
        losses.append(of_each.detach().double())
        grads.append(torch.cat([g.flatten() for g in found]).double())
    mine, score, moved = losses
    value = float(mine.mean())
    of_loss = abs(float((score - mine).mean())) / value, float((moved - mine).abs().mean()) / value
    mine, score, moved = grads
    scale = float(mine.norm())
    of_grad = float((score - mine).norm()) / scale, float((moved - mine).norm()) / scale
    # a handful of operations more, relative to the whole
    return [(residual, SAFETY * (moves + unit)) for residual, moves in (of_loss, of_grad)]


def _paths(
    model: ScoreModel, x_0: Tensor, train_steps: int, batch_size: int, name: str
) -> Identity:
    """Three trainings from one start: noise prediction, score matching, and with roundings.

    They go in lockstep, so that of the weights of a step nothing is kept but two distances.
    """
    trainings = [
        _training(model, loss, x_0, train_steps, batch_size)
        for loss in (denoising.simple, denoising.score_matching, told_roundings)
    ]
    pairs = []
    for mine, score, moved in zip(*trainings, strict=True):
        gone = _distance(mine, model.network)
        pairs.append((_distance(score, mine) / gone, SAFETY * _distance(moved, mine) / gone))
    steps = list(range(1, train_steps + 1))
    plot = Plot(
        "Two trainings: distance of the weights over the way gone",
        "step",
        "relative distance",
        (
            Series("eps- against score matching", steps, [pair[0] for pair in pairs]),
            Series("allowed", steps, [pair[1] for pair in pairs]),
        ),
    )
    return Identity(
        f"{train_steps} Adam steps as eps-matching = as score matching, {name}",
        *worst(pairs),
        "distance over way gone, worst step; what roundings do to such a training, times 8",
        (plot,),
    )


def _training(
    model: ScoreModel, loss: Loss, x_0: Tensor, train_steps: int, batch_size: int
) -> Iterator[nn.Module]:
    """The network after each step, always the same one; the model's own is left as it was."""
    network = copy.deepcopy(model.network)
    twin = model.with_network(network).in_precision("float64")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for step in range(train_steps):
        noise = Noise.of(0, 0, batch_size, x_0.device).at(step)
        rows = (torch.arange(batch_size, device=x_0.device) + step * batch_size) % len(x_0)
        t = times.integer_times(noise.uniform(Stream.TRAIN_TIME), model.sde.num_steps)
        eps = noise.normal(Stream.TRAIN_EPS, tuple(x_0.shape[1:]))
        optimizer.zero_grad(set_to_none=True)
        loss(twin, twin.sde, x_0[rows], t, eps).mean().backward()
        optimizer.step()
        yield network


def _distance(one: nn.Module, other: nn.Module) -> float:
    """Of all their weights, Euclidean."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    with torch.no_grad():
        return math.hypot(*(float((a - b).norm()) for a, b in pairs))
