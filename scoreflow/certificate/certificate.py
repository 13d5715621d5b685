"""The equivalence certificate: noise, score, chain, SDE and flow matching are one thing.

Eleven groups of identities, each with what it came to and what it may come to. The tolerances are
derived (from the operations that round, from what a finer solver tolerance changes, from quantiles
of a null distribution), so an identity that fails is broken, and not merely unlucky: the rows on
random draws together fail by chance once in a thousand certificates. Of the laws of a trained
network's samplers alone is a failure the network's doing, and says so.

An identity that cannot be computed has failed: what it ended in stands in its row. What the groups
look at, and what they do not, is `coverage`'s list, which stands in the result and the report.
"""

import base64
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scoreflow.certificate.chain_is_sde import chain
from scoreflow.certificate.closed_forms.estimates import LogDensity, estimates
from scoreflow.certificate.closed_forms.numbers import numbers
from scoreflow.certificate.closed_forms.processes import every_process, processes
from scoreflow.certificate.closed_forms.sampler_steps import sampler_steps
from scoreflow.certificate.coverage import LOOKED_AT, NOT_LOOKED_AT
from scoreflow.certificate.exact_sampler_laws import marginals
from scoreflow.certificate.fisher_divergence import learned
from scoreflow.certificate.flow_matching.euler import euler_steps
from scoreflow.certificate.flow_matching.likelihoods import log_likelihoods
from scoreflow.certificate.flow_matching.losses import losses
from scoreflow.certificate.flow_matching.preconditioning import preconditioned
from scoreflow.certificate.flow_matching.times import time_laws
from scoreflow.certificate.identity import Identity
from scoreflow.certificate.noise_vs_score_loss import objectives
from scoreflow.certificate.one_flow import flows
from scoreflow.certificate.one_step_methods import steps
from scoreflow.certificate.prediction_views import conversions
from scoreflow.certificate.trained_sampler_laws import Amount, laws
from scoreflow.data import toy
from scoreflow.data.dataset import Data
from scoreflow.data.levels import dequantize
from scoreflow.losses import denoising, times
from scoreflow.models.layers import ZERO_ISH
from scoreflow.models.mlp import MLP
from scoreflow.models.score_model import ScoreModel
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream


@dataclass(frozen=True)
class Subject:
    """What is certified.

    Attributes:
        model: a network as a Denoiser, in evaluation mode.
        data: that it was made for.
        trained: whether it was; the laws of an untrained network's samplers need not agree.
        log_density: log p_t by the flow, as the likelihood mode has it.
    """

    model: ScoreModel
    data: Data
    trained: bool
    log_density: LogDensity


@dataclass(frozen=True)
class Effort:
    """The `equivalence` section of a config.

    Attributes:
        drawn: by each sampler from a trained network, to compare their laws.
        batch_size: of the gradients and trainings that are compared.
        train_steps: of the two trainings.
    """

    drawn: Amount
    batch_size: int
    train_steps: int


GROUPS = (
    "Four views of one estimate",
    "Noise prediction is score matching",
    "The chain is the SDE",
    "Ancestral, reverse diffusion, Euler-Maruyama",
    "DDIM, predictor-corrector, one flow for all processes",
    "One law, however drawn",
    "Learned against true score",
    "Every process is its formulas",
    "Every sampler's step is its formula",
    "What the rest stands on",
    "Flow matching and EDM are diffusion on other clocks",
)


FAILURES = (RuntimeError, AssertionError, ArithmeticError)
"""What a part may end in when an identity is broken; RunError and torch's errors among them."""


def certify(subject: Subject, effort: Effort) -> Iterator[tuple[int, Identity]]:
    """Each identity with the number of its group, 1..11, as it is found."""
    for number, part in parts(subject, effort):
        try:
            found = part()
        except FAILURES as error:
            reason = f"{type(error).__name__}: {error}"
            found = [Identity(f"{GROUPS[number - 1]}: not computed", math.inf, 0.0, reason)]
        for identity in found:
            yield number, identity


def parts(subject: Subject, effort: Effort) -> list[tuple[int, Callable[[], list[Identity]]]]:
    """The number of a group and what computes some of its identities, in order."""
    model, data = subject.model, subject.data
    if not subject.trained:
        model = model.with_network(awake(model.network))
    sde, device, event = model.sde, data.train.device, tuple(data.train.shape[1:])
    x_0 = _points(data, max(effort.batch_size, 64))
    noise, known = Noise.of(0, 0, effort.batch_size, device), every_process(sde)
    found: list[tuple[int, Callable[[], list[Identity]]]] = [
        (1, lambda: conversions(sde, model.t_min, device)),
        (2, lambda: objectives(model, x_0, effort.train_steps, effort.batch_size)),
        (3, lambda: chain(sde, device)),
        (4, lambda: steps(device)),
        (5, lambda: flows(model, sde, model.t_min, noise, event)),
        (6, lambda: marginals(sde, device)),
        (7, lambda: _learned(subject)),
        (8, lambda: processes(known, device)),
        (9, lambda: sampler_steps(known, device)),
        (10, lambda: numbers(known, device)),
        (10, lambda: estimates(known, subject.log_density, device)),
        (11, lambda: losses(model, x_0, effort.batch_size)),
        (11, lambda: euler_steps(model, event)),
        (11, lambda: log_likelihoods(model, noise, event)),
        (11, lambda: time_laws(known, device)),
        (11, lambda: preconditioned(known, device)),
    ]
    if subject.trained:
        found.insert(6, (6, lambda: laws(model, event, effort.drawn)))
    return found


def awake(network: nn.Module) -> nn.Module:
    """A copy whose last layer, which begins at nearly 0, has weights of full size.

    A fresh network answers nearly 0, and of two ways to nearly 0 none can be seen to be wrong.
    """
    network = copy.deepcopy(network)
    asleep = [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
        and layer.weight.abs().max() < 2 * math.sqrt(ZERO_ISH)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in asleep[-1:]:
            layer.weight.data.copy_(nn.init.xavier_uniform_(torch.empty(layer.weight.shape)))
    return network


def as_result(rows: list[tuple[int, Identity]], seconds: float) -> dict[str, Any]:
    """The certificate for results/: a row an identity; its value is how many failed."""
    failed = sum(not identity.passed for _, identity in rows)
    return {
        "value": failed,
        "standard_error": 0,
        "unit": "identities that failed",
        "passed": failed == 0,
        "num_identities": len(rows),
        "seconds": seconds,
        "looked_at": [{"group": GROUPS[k - 1], "what": what} for k, what in LOOKED_AT],
        "not_looked_at": list(NOT_LOOKED_AT),
        "rows": [
            {
                "group": GROUPS[number - 1],
                "identity": identity.name,
                "residual": _finite(identity.residual),
                "tolerance": _finite(identity.tolerance),
                "passed": identity.passed,
                "basis": identity.basis,
                "plots": [plot.as_json() for plot in identity.plots],
                "picture": _picture(identity),
            }
            for number, identity in rows
        ],
    }


def _picture(identity: Identity) -> dict[str, str] | None:
    """Its picture for JSON: a caption and a PNG in base64."""
    if identity.picture is None:
        return None
    caption, png = identity.picture
    return {"caption": caption, "png": base64.b64encode(png).decode()}


def _finite(value: float) -> float | None:
    """JSON has no other numbers."""
    return value if math.isfinite(value) else None


def line(number: int, identity: Identity) -> str:
    """A row for the terminal."""
    verdict = "passed" if identity.passed else "FAILED"
    size = f"{identity.residual:9.2e}  <= {identity.tolerance:8.2e}"
    return f"{number}  {size}  {verdict}  {identity.name}"


def _points(data: Data, count: int) -> Tensor:
    """Training data as real-valued points, levels uniformly dequantized."""
    rows = torch.arange(count, device=data.train.device) % len(data.train)
    batch = data.train[rows]
    if data.num_levels is None:
        return batch.double()
    noise = Noise.of(0, 0, count, batch.device)
    u = noise.uniform(Stream.TRAIN_DEQUANTIZE, tuple(batch.shape[1:]))
    return dequantize(batch, u, data.num_levels)


def _learned(subject: Subject) -> list[Identity]:
    """The run's network where its data are the toy; one trained here for seconds otherwise."""
    device = subject.data.train.device
    mixture = toy.distribution(device)
    if subject.data.is_toy and subject.trained:
        return learned(subject.model, mixture, "the trained network")
    model = _small_toy_model(subject.model.sde, device)
    return learned(model, mixture, "an MLP trained for 500 steps")


def _small_toy_model(sde: SDE, device: torch.device) -> ScoreModel:
    torch.manual_seed(0)
    model, mixture = ScoreModel(MLP(2, 64, 2).to(device), sde, "v"), toy.distribution(device)
    optimizer = torch.optim.Adam(model.network.parameters(), lr=3e-3)
    for step in range(500):
        noise = Noise.of(5, 0, 256, device).at(step)
        x_0 = mixture.sample(noise)
        t = times.integer_times(noise.uniform(Stream.TRAIN_TIME), sde.num_steps)
        eps = noise.normal(Stream.TRAIN_EPS, (2,))
        optimizer.zero_grad(set_to_none=True)
        denoising.simple(model, sde, x_0, t, eps).mean().backward()
        optimizer.step()
    return model


def run(
    subject: Subject, effort: Effort, say: Callable[[str], None]
) -> list[tuple[int, Identity]]:
    """The certificate, said line by line."""
    rows, last = [], 0
    say("   residual     tolerance")
    for number, identity in certify(subject, effort):
        if number != last:
            say(f"-- {number}. {GROUPS[number - 1]}")
            last = number
        say(line(number, identity))
        rows.append((number, identity))
    return rows
