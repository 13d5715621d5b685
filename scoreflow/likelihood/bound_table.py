"""Table of likelihood bounds and estimates of one network on the same images.

    discrete bound      DDPM's chain, term by term, with beta, posterior or optimal variances
    continuous bound    the same with infinitely short steps
    I-MMSE              the pointwise estimate

The bounds hold for integers in two ways. As a density, of the points that uniform dequantization
puts at random into the levels' bins (the very points of the exact likelihood), L_0 is a normal
density; with "decoder", L_0 is the probability of the level itself, DDPM's way (what that costs a
network trained on dequantized points: `losses.decoder`). The chain begins at the points that
the network was trained on: where those are the bins' centres there is no density, only a decoder.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from scoreflow.data.dataset import Data
from scoreflow.data.levels import Embedding, centres, points
from scoreflow.likelihood.continuous_bound import (
    Sweep,
    continuous_bound,
    pointwise_immse,
    pointwise_immse_of_levels,
    sweep,
)
from scoreflow.likelihood.discrete_bound import (
    DenoisingErrors,
    denoising_errors,
    fixed_variance,
    optimal_variance,
    terms,
)
from scoreflow.likelihood.gaussian_reference import Reference
from scoreflow.likelihood.rate_distortion import Rate, Unit, rate_distortion
from scoreflow.losses.decoder import decoder_term
from scoreflow.losses.variational import prior_term, strata_of
from scoreflow.runtime.gpu.transfer import moved
from scoreflow.samplers.denoisers.instrumentation import Counted
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser
from scoreflow.uncertainty import standard_error

Values = dict[tuple[str, str], Tensor]
"""(account, part) -> of each image, in the unit of the table, (n,)."""

OPTIMAL = "optimal"
REAL_TIMES, TRAINING = 1 << 24, 2 << 24
"""First noise steps of the real times and of the training images; the chain's begin at 0."""


Kind = Literal["exact", "bound", "estimate"]
"""What an account of the log-likelihood is."""


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        name: the method.
        kind: whether it is the likelihood, a bound from above in expectation, or an estimate.
        values: of each image, bits/dim (of vectors, nats), (n,) float64 on the CPU.
        parts: whose sum the mean is; empty for what has no parts.
    """

    name: str
    kind: Kind
    values: Tensor
    parts: dict[str, float]

    @property
    def value(self) -> float:
        """The mean over images."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float | None:
        """Of the mean, over images."""
        return standard_error(self.values)


def num_calls(num_test: int, train_images: int, batch_size: int, strata: int) -> int:
    """How often `bounds` calls its denoiser."""
    test, train = -(-num_test // batch_size), -(-train_images // batch_size)
    return (2 * test + train) * (strata + 1)


def bounds(
    denoiser: Denoiser,
    sde: SDE,
    t_min: float,
    data: Data,
    test: Tensor,
    seed: int,
    strata: int,
    batch_size: int,
    train_images: int,
    embedding: Embedding = "uniform",
    on_call: Callable[[], None] = lambda: None,
) -> tuple[list[Entry], Rate]:
    """Every entry but the exact likelihood, and the rate-distortion curve.

    Args:
        denoiser: evaluated at the integers 1..N and at real times in [t_min, N].
        sde: the process.
        t_min: least real time, in steps.
        data: its training part gives the optimal variance and the Gaussian reference.
        test: levels (n, ...), or points where the data have no levels; image k is test[k].
        seed: of dequantization, which is the exact likelihood's, and of times and noise.
        strata: of the chain's times and of the real ones; 1..N-1.
        batch_size: images at a time.
        train_images: the first so many of data.train fit the optimal variance; at least 1.
        embedding: what the network was trained on, of integers.
        on_call: called after each call of the denoiser, `num_calls` times.
    """
    unit = Unit(test[0].numel(), data.num_levels)
    spread = embedding == "uniform" or data.num_levels is None
    reference = reference_of(data, spread)
    probe = _Probe(Counted(denoiser, on_call), sde, t_min, unit, spread, seed, strata, reference)
    variances = probe.variances(data.train[:train_images], batch_size)
    indices = torch.arange(len(test), device=test.device).split(batch_size)
    found = [probe.measure(test[index], index, variances) for index in indices]
    values, curve = _join([each.values for each in found]), _join([each.curve for each in found])
    entries = [_entry(name, values) for name in dict.fromkeys(name for name, _ in values)]
    stretches = [range(1, 2), *strata_of(sde, strata)]
    squares, prior = curve.pop("squares"), curve.pop("L_T")
    return entries, rate_distortion(unit, stretches, squares, prior, curve, OPTIMAL)


@dataclass(frozen=True)
class _Found:
    """Of a batch: the values of every method, and the terms of the curves.

    Attributes:
        values: of each image.
        curve: the errors' "squares", "L_T" and, of each variance, its terms by stretch, in nats.
    """

    values: Values
    curve: dict[str, Tensor]


@dataclass(frozen=True)
class _Probe:
    """What every batch needs; `spread` says whether a level lies anywhere in its bin."""

    denoiser: Denoiser
    sde: SDE
    t_min: float
    unit: Unit
    spread: bool
    seed: int
    strata: int
    reference: Reference

    def points(self, batch: Tensor, noise: Noise, stream: Stream) -> Tensor:
        """Float64 points: the network's x_0."""
        embedding: Embedding = "uniform" if self.spread else "centre"
        return points(batch, self.unit.num_levels, noise, stream, embedding)

    def variances(self, train: Tensor, batch_size: int) -> dict[str, Tensor]:
        """The reverse variances by name, (N,) each; the optimal one of training images."""
        times, squares = [], []
        for index in torch.arange(len(train), device=train.device).split(batch_size):
            noise = Noise(self.seed, index, TRAINING)
            x_0 = self.points(train[index], noise, Stream.TRAIN_DEQUANTIZE)
            found = denoising_errors(
                self.denoiser, self.sde, x_0, noise, self.strata, self.reference
            )
            times.append(found.times)
            squares.append(found.squares)
        dims = train[0].numel()
        return {
            "beta": fixed_variance(self.sde, "beta", train.device),
            "posterior": fixed_variance(self.sde, "posterior", train.device),
            OPTIMAL: optimal_variance(torch.cat(times), torch.cat(squares), self.sde, dims),
        }

    def measure(self, batch: Tensor, index: Tensor, variances: dict[str, Tensor]) -> _Found:
        """Test images by every method."""
        noise, sde = Noise(self.seed, index), self.sde
        x_0 = self.points(batch, noise, Stream.DEQUANTIZE)
        errors = denoising_errors(self.denoiser, sde, x_0, noise, self.strata, self.reference)
        prior = prior_term(sde, x_0)
        curve = {k: terms(errors, sde, v, self.reference) for k, v in variances.items()}
        values: Values = {}
        for name, sums in curve.items():
            parts = {"L_0": sums[:, 0], "L_1..T-1": sums[:, 1:].sum(1), "L_T": prior}
            here = variances[name][0]
            values |= self._bounds(f"discrete bound, {name} variance", parts, errors, batch, here)
        values |= self._continuous(x_0, batch, noise.at(REAL_TIMES))
        return _Found(values, curve | {"squares": errors.squares, "L_T": prior})

    def _continuous(self, x_0: Tensor, batch: Tensor, noise: Noise) -> Values:
        found = sweep(self.denoiser, self.sde, x_0, noise, self.t_min, self.strata, self.reference)
        variance = (-self.sde.log_snr(found.t_min)).exp()
        parts = continuous_bound(found, self.sde)
        values = self._bounds("continuous bound", parts, found, batch, variance)
        if self.spread:
            nats = pointwise_immse(found, self.sde, self.reference)
            return values | {("I-MMSE", ""): self.unit.of_density(nats)}
        nats = pointwise_immse_of_levels(found, self.sde, self.reference)
        return values | {("I-MMSE", ""): self.unit.of(nats)}

    def _bounds(
        self,
        account: str,
        nats: dict[str, Tensor],
        found: DenoisingErrors | Sweep,
        levels: Tensor,
        variance: Tensor,
    ) -> Values:
        """A bound with a density as L_0 (the one in nats), with the decoder, or with either."""
        parts = {part: self.unit.of(value) for part, value in nats.items()}
        values: Values = {}
        if self.spread:
            density = parts | {"L_0": self.unit.of_density(nats["L_0"])}
            values |= {(account, part): value for part, value in density.items()}
        if self.unit.num_levels is not None:
            decoder = decoder_term(found.first, levels, self.unit.num_levels, variance)
            of_levels = parts | {"L_0": self.unit.of(decoder)}
            values |= {(f"{account}, decoder", part): v for part, v in of_levels.items()}
        return values


def reference_of(data: Data, spread: bool) -> Reference:
    """The Gaussian of the mean and covariance of the training points, spread over their bins.

    It imitates bins' centres too, until sigma / alpha falls to 0.2 of a bin: about there a level
    is distinguished from the next, and (measured on independent pixels) the scatter is least.
    """
    if data.num_levels is None:
        return Reference.fit(data.train, 0.0)
    width = 2 / data.num_levels
    place = partial(centres, num_levels=data.num_levels)
    fitted = Reference.fit(data.train, width**2 / 12, place)
    return fitted if spread else replace(fitted, until=(0.2 * width) ** -2)


def _join(batches: list[dict[Any, Tensor]]) -> dict[Any, Tensor]:
    joined = {key: torch.cat([each[key] for each in batches]) for key in batches[0]}
    found: dict[Any, Tensor] = moved(joined, "cpu")
    return found


def _entry(account: str, values: Values) -> Entry:
    parts = {part: value for (name, part), value in values.items() if name == account}
    total = torch.stack(list(parts.values())).sum(0)
    if len(parts) == 1:
        return Entry(account, "estimate", total, {})
    means = {part: float(value.mean()) for part, value in parts.items()}
    return Entry(account, "bound", total, means)


def as_result(entries: list[Entry], rate: Rate) -> dict[str, Any]:
    """The table for results/: a row an entry, its difference to the first paired by image."""
    rows = []
    for entry in entries:
        difference = entry.values - entries[0].values
        rows.append(
            {
                "name": entry.name,
                "kind": entry.kind,
                "value": entry.value,
                "standard_error": entry.standard_error,
                "parts": entry.parts,
                "minus_first": float(difference.mean()),
                "minus_first_error": standard_error(difference),
            }
        )
    return {
        "value": entries[0].value,
        "standard_error": entries[0].standard_error,
        "unit": rate.unit.name,
        "num_images": len(entries[0].values),
        "rows": rows,
        "rate_distortion": {
            "times": rate.times,
            "rate": rate.rate,
            "distortion": rate.distortion,
            "middles": rate.middles,
            "terms": rate.terms,
        },
    }


def table(result: dict[str, Any]) -> str:
    """The rows of `as_result` for the terminal."""
    lines = [
        f"{'likelihood bounds, ' + result['unit']:40s} {'':8s} {'minus the first (paired)':>33s}"
    ]
    for row in result["rows"]:
        name = row["name"] + {"exact": "", "bound": " >=", "estimate": " ~"}[row["kind"]]
        lines.append(
            f"{name:46s} {_number(row['value'], row['standard_error']):20s}"
            f" {_number(row['minus_first'], row['minus_first_error'], sign='+')}"
        )
    return "\n".join(lines)


def _number(value: float, error: float | None, sign: str = "") -> str:
    return f"{value:{sign}.4f}" + ("" if error is None else f" +- {error:.4f}")
