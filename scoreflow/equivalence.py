"""The equivalence certificate: noise prediction, score matching, chain and SDEs are one thing.

Seven groups of identities, each with what it came to and what it may come to. The tolerances are
derived (from the operations that round, from what a finer solver tolerance changes, from quantiles
of a null distribution), so an identity that fails is broken, and not merely unlucky.
"""

import base64
import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoreflow import losses, plot, toy
from scoreflow.data import Data, dequantize
from scoreflow.identities.chain import chain
from scoreflow.identities.conversions import conversions
from scoreflow.identities.flows import flows
from scoreflow.identities.identity import Identity
from scoreflow.identities.learned import learned
from scoreflow.identities.marginals import marginals, same_law
from scoreflow.identities.objectives import objectives
from scoreflow.identities.steps import steps
from scoreflow.mlp import MLP
from scoreflow.model import ScoreModel
from sde.base import SDE
from sde.noise import Noise, Stream
from sde.vp import VPSDE

Draw = Callable[[str, int, int], Tensor]
"""(sampler, seed, count) -> samples of the network at hand."""


@dataclass(frozen=True)
class Subject:
    """What is certified.

    Attributes:
        model: a network as a Denoiser, in evaluation mode.
        data: that it was made for.
        draw: samples from it.
        trained: whether it was; the laws of an untrained network's samplers need not agree.
    """

    model: ScoreModel
    data: Data
    draw: Draw
    trained: bool


@dataclass(frozen=True)
class Effort:
    """The `equivalence` section of a config.

    Attributes:
        num_images: drawn by each sampler, to compare their laws.
        batch_size: of the gradients and trainings that are compared.
        train_steps: of the two trainings.
    """

    num_images: int
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
)


def certify(subject: Subject, effort: Effort) -> Iterator[tuple[int, Identity]]:
    """Each identity with the number of its group, 1..7, as it is found."""
    model, sde = subject.model, subject.model.sde
    x_0 = _points(subject.data, max(effort.batch_size, 64))
    noise = Noise.of(0, 0, effort.batch_size, x_0.device)
    groups: list[Callable[[], list[Identity]]] = [
        lambda: conversions(sde),
        lambda: objectives(model, x_0, effort.train_steps, effort.batch_size),
        lambda: chain(sde if type(sde) is VPSDE else VPSDE.linear(sde.num_steps)),
        steps,
        lambda: flows(model, sde, model.t_min, noise, tuple(x_0.shape[1:])),
        lambda: marginals(sde, model.t_min) + _drawn_by_the_network(subject, effort.num_images),
        lambda: _learned(subject),
    ]
    for number, group in enumerate(groups, start=1):
        for identity in group():
            yield number, identity


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
        "rows": [
            {
                "group": GROUPS[number - 1],
                "identity": identity.name,
                "residual": identity.residual,
                "tolerance": identity.tolerance,
                "passed": identity.passed,
                "basis": identity.basis,
            }
            for number, identity in rows
        ],
    }


def line(number: int, identity: Identity) -> str:
    """A row for the terminal."""
    verdict = "passed" if identity.passed else "FAILED"
    size = f"{identity.residual:9.2e}  <= {identity.tolerance:8.2e}"
    return f"{number}  {size}  {verdict}  {identity.name}"


def section(rows: list[tuple[int, Identity]]) -> str:
    """The certificate as a part of the report: its table, then what makes each visible."""
    parts = ["<h2>Equivalence certificate</h2>"]
    for number, title in enumerate(GROUPS, start=1):
        own = [identity for group, identity in rows if group == number]
        body = "".join(
            f"<tr><td>{html.escape(each.name)}</td><td>{each.residual:.2e}</td>"
            f"<td>{each.tolerance:.2e}</td><td>{'passed' if each.passed else '<b>FAILED</b>'}</td>"
            f"<td class=small>{html.escape(each.basis)}</td></tr>"
            for each in own
        )
        plots = "".join(plot.svg(shown) for each in own for shown in each.plots)
        plots += "".join(_figure(*each.picture) for each in own if each.picture)
        parts.append(
            f"<h3>{number}. {title}</h3><table class=wide><tr><th>identity</th><th>residual</th>"
            f"<th>tolerance</th><th></th><th>unit; what the tolerance is</th></tr>{body}</table>"
            f"<div class=figures>{plots}</div>"
        )
    return "".join(parts)


def _figure(caption: str, png: bytes) -> str:
    source = base64.b64encode(png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="{html.escape(caption)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _points(data: Data, count: int) -> Tensor:
    """Training data as real-valued points, levels uniformly dequantized."""
    rows = torch.arange(count, device=data.train.device) % len(data.train)
    batch = data.train[rows]
    if data.num_levels is None:
        return batch.double()
    noise = Noise.of(0, 0, count, batch.device)
    u = noise.uniform(Stream.TRAIN_DEQUANTIZE, tuple(batch.shape[1:]))
    return dequantize(batch, u, data.num_levels)


def _drawn_by_the_network(subject: Subject, count: int) -> list[Identity]:
    if not subject.trained:
        return []
    names = ("ancestral", "pc", "ode")
    drawn = {name: subject.draw(name, 1000 + k, count) for k, name in enumerate(names)}
    pairs = (("ancestral", "pc"), ("ancestral", "ode"), ("pc", "ode"))
    return [
        same_law(f"{a} = {b} from the trained network", drawn[a], drawn[b], len(pairs))
        for a, b in pairs
    ]


def _learned(subject: Subject) -> list[Identity]:
    """The run's network where its data are the toy; one trained here for seconds otherwise."""
    if subject.data.name == "toy" and subject.trained:
        return learned(subject.model, toy.distribution(), "the trained network")
    model = _small_toy_model(subject.model.sde)
    return learned(model, toy.distribution(), "an MLP trained for 500 steps")


def _small_toy_model(sde: SDE) -> ScoreModel:
    torch.manual_seed(0)
    model = ScoreModel(MLP(2, 64, 2), sde, "v")
    optimizer = torch.optim.Adam(model.network.parameters(), lr=3e-3)
    for step in range(500):
        noise = Noise.of(5, 0, 256).at(step)
        x_0 = toy.distribution().sample(noise)
        t = losses.integer_times(noise.uniform(Stream.TRAIN_TIME), sde.num_steps)
        eps = noise.normal(Stream.TRAIN_EPS, (2,))
        optimizer.zero_grad(set_to_none=True)
        losses.simple(model, sde, x_0, t, eps).mean().backward()
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
