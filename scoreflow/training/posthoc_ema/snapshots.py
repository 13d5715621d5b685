"""Averaged weights of any length from a run's snapshots; scoreflow/storage has their files."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scoreflow.errors import RequestError
from scoreflow.storage.atomic_files import Json
from scoreflow.storage.checkpoints import averages
from scoreflow.storage.checkpoints.states import DamagedError
from scoreflow.storage.run_folder import IMPORT, RunDir
from scoreflow.training.posthoc_ema.profiles import Profile, Reconstruction, reach, reconstruct

MOST_ERROR = 0.1
"""Greatest relative error of a reconstructed profile; results state the error itself."""
FLOAT32 = 2.0**-24
"""Relative rounding of a kept weight."""


@dataclass(frozen=True)
class Averaged:
    """Reconstructed weights.

    Attributes:
        weights: by name.
        about: how they were made, as results record it.
        newest: the snapshot of the step.
    """

    weights: dict[str, Tensor]
    about: Json
    newest: Json


class Snapshots:
    """The snapshots of a run up to a step.

    Args:
        folder: the run.
        step: of the training.

    Raises:
        RequestError: averages of the run cannot be reconstructed at that step.
    """

    def __init__(self, folder: RunDir, step: int) -> None:
        refuse_without(folder)
        self.folder, self.step = folder, step
        self.lengths = tuple(folder.config["training"]["ema_lengths"])
        self.steps = [each for each in averages.steps_of(folder.path) if each <= step]
        if step not in self.steps:
            there = ", ".join(map(str, averages.steps_of(folder.path))) or "none"
            raise RequestError(
                f"{folder.path} has no snapshot of its averages of step {step}, it has {there}: "
                "leave out ema_length, or choose one of these steps"
            )
        self.kept = [Profile(each, length) for each in self.steps for length in self.lengths]

    def plan(self, length: float) -> Reconstruction:
        """The coefficients of a length.

        Raises:
            RequestError: its profile cannot be reconstructed; with the lengths that can.
        """
        found = reconstruct(self.kept, Profile(self.step, length))
        if found.relative_error > MOST_ERROR:
            given = _in_words(reach(self.kept, self.step, MOST_ERROR))
            raise RequestError(
                f"ema_length = {length:g} cannot be reconstructed from the {len(self.steps)} "
                f"snapshots of {self.folder.path} up to step {self.step}: its profile would be "
                f"off by {found.relative_error:.0%}, at most {MOST_ERROR:.0%} is taken; they "
                f"give {given}, and more of them (training.checkpoint_every) give more"
            )
        return found

    def averaged(self, length: float, network: nn.Module) -> Averaged:
        """The weights of a length, summed in float64 on the CPU, a snapshot at a time.

        Parameters are averages; buffers are those of the step, as in each average.

        Args:
            length: relative width of the average.
            network: of the run; its weights are not looked at.

        Raises:
            RequestError: a snapshot is damaged, or the length is out of reach.
        """
        plan, names = self.plan(length), [name for name, _ in network.named_parameters()]
        sums: dict[str, Tensor] = {}
        newest: Json = {}
        pairs = len(self.lengths)
        for number, step in enumerate(self.steps):
            shares = plan.coefficients[number * pairs : (number + 1) * pairs]
            if not any(shares) and step != self.step:
                continue
            newest = self._read(step, network)
            for share, weights in zip(shares, newest[averages.AVERAGES], strict=True):
                for name in names if share else ():
                    part = weights[name].double().mul_(share)
                    sums[name] = sums[name].add_(part) if name in sums else part
        own = newest[averages.AVERAGES][0]
        weights = {k: sums[k].to(v.dtype) if k in sums else v for k, v in own.items()}
        return Averaged(weights, self._about(length, plan), newest)

    def _read(self, step: int, network: nn.Module) -> Json:
        try:
            return averages.read(self.folder.path, step, self.lengths, network)
        except DamagedError as error:
            raise RequestError(
                f"{error}: put it back from a copy, or move it away with its .sha256, to "
                "reconstruct from the others"
            ) from error

    def _about(self, length: float, plan: Reconstruction) -> Json:
        return {
            "length": length,
            "kept_lengths": list(self.lengths),
            "snapshots": len(self.steps),
            "relative_error": plan.relative_error,
            "relative_rounding": plan.gain * FLOAT32,
        }


def refuse_without(folder: RunDir) -> None:
    """Refuse a run that keeps no snapshots, whatever the length.

    Raises:
        RequestError: with the reason.
    """
    if (folder.path / IMPORT).exists():
        raise RequestError(
            f"ema_length: {folder.path} was imported, with the averages that it had and no "
            "snapshots of them: leave it out"
        )
    if folder.config["training"].get("ema", "exponential") != "power":
        raise RequestError(
            f"ema_length: {folder.path} was trained with training.ema = exponential, which leaves "
            "one average and no snapshots: leave it out, or train a run with "
            "--config.training.ema=power"
        )


def _in_words(ranges: list[tuple[float, float]]) -> str:
    """Ranges of lengths, and where only one is possible that one."""
    return " and ".join(f"{a:g} to {b:g}" if a < b else f"{a:g}" for a, b in ranges)


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether weights by name are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k].cpu(), other[k]) for k in other)
