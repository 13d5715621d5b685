"""Table of a denoiser's mean squared noise error by timestep.

    e_t = E|eps - eps(x_t, t)|^2 / D,   over training data and noise

gives the optimal variance of every reverse step (`samplers.reverse_variance`) and what
any step costs the bound (`samplers.least_cost`). It is measured at times even in log-SNR, in one
pass over a few training images: `KNOTS` times `IMAGES` evaluations of the network, once. Between
these times its logarithm is taken as linear in log-SNR: e is proportional to the SNR near the
prior, where a schedule's last steps may lie far apart, and constant near data. At N of a path
whose signal ends there e is 0, and tells nothing of x_0: the table ends a step before.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from scoreflow.data import levels
from scoreflow.data.dataset import Data
from scoreflow.sde.base import SDE, ends_without_signal
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser
from scoreflow.storage.sample_names import hash_of
from scoreflow.storage.validation import InvalidError, Length, Range, conform

KNOTS, IMAGES = 128, 256
"""Times in the table, and training images that it is measured on, at most."""
MOMENTS = 3 << 24
"""First noise step of the pass; the ledger's, which may see the same images, lie below."""


Column = Annotated[list[float], Length(1)]


@dataclass(frozen=True)
class Kept:
    """The schema of a table in results/; see `ErrorTable.as_result`.

    Attributes:
        times: rising, in steps.
        eps_error: at these times, at least 0.
        standard_errors: of each, at least 0.
        value: the mean of `eps_error`.
        sha256: of the columns; "" in a table that is older than it.
    """

    times: Column
    eps_error: Annotated[list[Annotated[float, Range(0)]], Length(1)]
    standard_errors: Annotated[list[Annotated[float, Range(0)]], Length(1)]
    value: float
    sha256: str = ""


@dataclass(frozen=True)
class ErrorTable:
    """E|eps error|^2 / D of a denoiser: called with times, it is samplers' EpsError.

    Attributes:
        sde: the process.
        times: rising, in steps, (T,) float64 on the CPU.
        eps_error: at these times, dimensionless, (T,).
        standard_error: of each, over data.
    """

    sde: SDE
    times: Tensor
    eps_error: Tensor
    standard_error: Tensor

    def __call__(self, t: Tensor) -> Tensor:
        """At times t, by interpolation of logarithms.

        Before the table's first time as there; after its last, proportional to the SNR.
        """
        falling, at = self.sde.log_snr(self.times), self.sde.log_snr(t.cpu())
        logs = self.eps_error.clamp(min=1e-300).log()  # 0: a network that knows all
        found = np.interp(-at.numpy(), -falling.numpy(), logs.numpy())
        found = found + np.minimum(at.numpy() - falling[-1].numpy(), 0.0)
        return torch.as_tensor(found, dtype=torch.float64, device=t.device).exp()

    def as_result(self) -> dict[str, Any]:
        """For results/: the mean of the table, the table, and a hash by which damage is found."""
        count = len(self.times)
        columns = {
            "times": self.times.tolist(),
            "eps_error": self.eps_error.tolist(),
            "standard_errors": self.standard_error.tolist(),
        }
        return {
            "value": float(self.eps_error.mean()),
            # every time has met the same data, so the errors may go together: not by the root
            "standard_error": float(self.standard_error.mean()),
            "unit": "E|eps error|^2 / D, mean over the times",
            "num_times": count,
            **columns,
            "sha256": hash_of(columns),
        }

    @classmethod
    def of_result(cls, sde: SDE, result: dict[str, Any]) -> "ErrorTable":
        """From what `as_result` wrote.

        Raises:
            InvalidError: it is damaged, or the table of another process.
        """
        kept = conform(result, Kept)
        columns = (kept.times, kept.eps_error, kept.standard_errors)
        if len({len(column) for column in columns}) > 1:
            raise InvalidError(
                f"its columns have {', '.join(map(str, map(len, columns)))} numbers"
            )
        rising = all(a < b for a, b in zip(kept.times, kept.times[1:], strict=False))
        if not rising or kept.times[0] <= 0 or kept.times[-1] > sde.num_steps:
            raise InvalidError(f"its times must rise in (0, {sde.num_steps}]")
        if not math.isclose(kept.value, math.fsum(kept.eps_error) / len(kept.times), rel_tol=1e-9):
            raise InvalidError("its value is not the mean of eps_error")
        named = zip(("times", "eps_error", "standard_errors"), columns, strict=True)
        if kept.sha256 and kept.sha256 != hash_of(dict(named)):
            raise InvalidError("its numbers are not those that were written")
        return cls(sde, *(torch.tensor(column, dtype=torch.float64) for column in columns))


def knots(sde: SDE, t_min: float) -> Tensor:
    """`KNOTS` whole times of 1..N, or all, about even in log-SNR, and t_min where it is below.

    Without N, where that has no signal.
    """
    last = torch.tensor(float(sde.num_steps), dtype=torch.float64)
    last -= float(ends_without_signal(sde))
    if sde.num_steps <= KNOTS:
        whole = torch.arange(1, float(last) + 1, dtype=torch.float64)
    else:
        ends = torch.stack((torch.ones_like(last), last))
        high, low = sde.log_snr(ends)
        even = torch.linspace(float(high), float(low), KNOTS, dtype=torch.float64)
        whole = sde.time_of_log_snr(even).round().clamp(1, sde.num_steps)
        whole = torch.cat((whole, ends)).unique()
    below = whole.new_tensor([t_min] if t_min < 1 else [])
    return torch.cat((below, whole))


@torch.no_grad()
def measure(
    denoiser: Denoiser,
    sde: SDE,
    t_min: float,
    x_0: Tensor,
    seed: int,
    batch_size: int,
    on_call: Callable[[], None] = lambda: None,
) -> ErrorTable:
    """The table, of data: one draw of the noise for each datum and time.

    Args:
        denoiser: evaluated at `knots`, once a batch and time.
        sde: the process.
        t_min: least time that it may be evaluated at, in steps.
        x_0: (n, ...) float64, at least 2; datum k meets the noise of sample index k.
        seed: of the noise.
        batch_size: data at a time.
        on_call: called after each evaluation of a batch.

    Raises:
        ValueError: there are fewer than two data.
    """
    if len(x_0) < 2:
        raise ValueError(f"the error table needs at least 2 training images, got {len(x_0)}")
    times, rows = knots(sde, t_min), []
    for index in torch.arange(len(x_0), device=x_0.device).split(batch_size):
        batch, errors = x_0[index], []
        for k, t in enumerate(times):
            eps = Noise(seed, index, MOMENTS + k).normal(Stream.TRAIN_EPS, tuple(x_0.shape[1:]))
            estimate = denoiser(sde.perturb(batch, t, eps), t).eps
            errors.append((estimate - eps).square().flatten(1).mean(1))
            on_call()
        rows.append(torch.stack(errors, 1).double().cpu())
    found = torch.cat(rows)
    return ErrorTable(sde, times, found.mean(0), found.std(0) / len(found) ** 0.5)


def points(data: Data, seed: int, centres: bool) -> Tensor:
    """At most `IMAGES` training data from all over the set, as the network was trained on them.

    Args:
        data: its training part.
        seed: of the places within the bins.
        centres: whether those are the bins' centres instead.
    """
    count = min(IMAGES, len(data.train))
    rows = torch.linspace(0, len(data.train) - 1, count).round().long().to(data.train.device)
    noise = Noise(seed, rows, MOMENTS)
    embedding: levels.Embedding = "centre" if centres else "uniform"
    return levels.points(
        data.train[rows], data.num_levels, noise, Stream.TRAIN_DEQUANTIZE, embedding
    )
