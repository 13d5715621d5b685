"""Early elimination replayed on the bound in full: every rule of it from one measurement.

The terms of all classes are measured once; a rule that leaves classes out is then asked about the
same terms, which are the same bits as if it had been measured under that rule.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from scoreflow.likelihood.classification import elimination
from scoreflow.likelihood.classification.bayes import Prior, log_posterior
from scoreflow.likelihood.classification.bound_by_class import BoundByClass
from scoreflow.runtime.progress_bar import Progress
from scoreflow.sde.noise import Noise
from scoreflow.storage.atomic_files import Json


@dataclass(frozen=True)
class Recorded(BoundByClass):
    """The bound, whose terms are kept when they are first asked for.

    Attributes:
        kept: what was measured of a block of images, by the first of them.
    """

    kept: dict[tuple[int, str, int], Tensor] = field(default_factory=dict)

    def _first(self, x_0: Tensor, data: Tensor, noise: Noise) -> Tensor:
        key = (int(noise.index[0]), "first", 0)
        if key not in self.kept:
            self.kept[key] = super()._first(x_0, data, noise)
        return self.kept[key]

    def _terms(self, x_0: Tensor, noise: Noise, before: int, size: int, asked: Tensor) -> Tensor:
        key = (int(noise.index[0]), "terms", before)
        if key not in self.kept:
            every = torch.ones_like(asked)
            self.kept[key] = super()._terms(x_0, noise, before, size, every)
        return self.kept[key] * asked[:, :, None]


def recorded(bound: BoundByClass) -> Recorded:
    """The same bound, recorded."""
    return Recorded(**{name: getattr(bound, name) for name in BoundByClass.__dataclass_fields__})


def rows(
    bound: Recorded, data: Tensor, own: Tensor, prior: Prior, block: int, rules: tuple[float, ...]
) -> list[Json]:
    """Accuracy and evaluations of every number of times, in full and by every rule.

    Args:
        bound: with rounds.
        data: the images, (n, ...).
        own: the column of each one's class, (n,).
        prior: of the classes.
        block: images at a time.
        rules: standard errors beyond which a class of the worse half is left out.
    """
    most = bound.rounds
    index = torch.arange(len(data)).split(block)
    found: list[Json] = []
    with Progress("the bound in full", len(data), "img") as progress:
        for each in index:
            replace(bound, z=math.inf).of(data[each], each)
            progress.advance(len(each))
    for count in range(1, len(most) + 1):
        classes: dict[float, Tensor] = {}
        for z in (math.inf, *(rules if count > 1 else ())):
            asked = replace(bound, rounds=most[:count], z=z)
            parts = [asked.of(data[each], each) for each in index]
            nats = torch.cat([part.nats for part in parts])
            classes[z] = log_posterior(nats, prior.log).argmax(1)
            evaluations = float(torch.cat([part.evaluations for part in parts]).sum()) / len(data)
            found.append(
                {
                    "times": sum(most[:count]),
                    "z": z if math.isfinite(z) else None,
                    "accuracy": float((classes[z] == own).double().mean()),
                    "evaluations": evaluations,
                    "saved": 1 - evaluations / (len(prior.classes) * (1 + sum(most[:count]))),
                    "differ_from_full": int((classes[z] != classes[math.inf]).sum()),
                }
            )
    return found


def rounds_of(times: int) -> tuple[int, ...]:
    """The rounds of so many times."""
    return elimination.rounds(times, halving=True)
