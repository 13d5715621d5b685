"""Features of data: activations of a network at noisy images, its estimates, or pixels.

    x_t = alpha x_0 + sigma eps,    eps a function of (seed, number of the datum, draw) alone

so that all layers and all times see the same eps, whatever the batches. One evaluation gives all
layers: a hook on each keeps its output. Each output is pooled, and the mean over the draws taken,
in float64.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from scoreflow.data.levels import centres
from scoreflow.data.stored.images import Images
from scoreflow.errors import RunError
from scoreflow.evaluation.representations.layers import ESTIMATE, OF_NO_MODULE, PIXELS, captured
from scoreflow.models.score_model import ScoreModel
from scoreflow.runtime.distributed import Shard
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream


@dataclass(frozen=True)
class Asked:
    """How features are made.

    Attributes:
        model: the averaged network as a Denoiser, of a class or of none.
        num_levels: L of the images; None for vectors.
        draws: noises of each datum; 0 for alpha x_0 itself.
        seed: of the noise.
        pool: of each channel: "mean", "max", "quarters" or "none".
        batch_size: data at a time.
    """

    model: ScoreModel
    num_levels: int | None
    draws: int = 1
    seed: int = 0
    pool: str = "mean"
    batch_size: int = 256

    @property
    def evaluations(self) -> int:
        """Of the network, for each datum at each time."""
        return max(1, self.draws)


def pooled(h: Tensor, how: str) -> Tensor:
    """A layer's output with its places taken together.

    Args:
        h: (B, C), or (B, C, ...) with places behind the channels.
        how: "mean" or "max" over all places, (B, C); "quarters", the means over the four quarters
            of an image, (B, 4 C), a middle row or column in both; "none", as it is.
    """
    if how == "none" or h.ndim == 2:
        return h
    if how == "quarters" and h.ndim == 4:
        return F.adaptive_avg_pool2d(h, 2).flatten(1)
    places = h.flatten(2)
    return places.amax(2) if how == "max" else places.mean(2)


def pooled_shape(shape: tuple[int, ...], how: str) -> tuple[int, ...]:
    """The shape of a datum's features, of a layer whose output has this one."""
    return tuple(pooled(torch.zeros(1, *shape, device="meta"), how).shape[1:])


def by_batches(
    values: Images,
    size: int,
    features: Callable[[Tensor, int], dict[str, Tensor]],
    shard: Shard | None = None,
) -> dict[str, Tensor]:
    """Features of data, a batch at a time; several processes share whole batches.

    So each batch is the one that it is in one process, to the bit.

    Args:
        values: levels (n, C, H, W), or vectors (n, D).
        size: data at a time.
        features: of a batch and the number of its first datum, by name (b, ...).
        shard: this process's share; every process must call this.

    Returns:
        By name (n, ...) float32 on the CPU.
    """
    shard, found = shard or Shard(), dict[str, Tensor]()

    def put(start: int, batch: dict[str, Tensor]) -> None:
        for name, rows in batch.items():
            if name not in found:
                found[name] = torch.empty(len(values), *rows.shape[1:])
            found[name][start : start + len(rows)] = rows

    starts = range(0, len(values), size)
    ours = [start for number, start in enumerate(starts) if shard.has(number)]
    for start in ours:
        put(start, features(values[start : start + size], start))
    if shard.world > 1:
        own = {s: {name: found[name][s : s + size].clone() for name in found} for s in ours}
        for start, batch in shard.gathered(own).items():
            put(start, batch)
    return found


def activations(
    asked: Asked,
    values: Images,
    t: float,
    paths: Sequence[str],
    advance: Callable[[int], None] = lambda _evaluated: None,
    shard: Shard | None = None,
) -> dict[str, Tensor]:
    """Features of data at a time, of several layers by one evaluation a draw.

    Args:
        asked: how.
        values: levels (n, C, H, W), or vectors (n, D).
        t: in steps, in [t_min, N].
        paths: of the layers; "x_0" is the network's estimate, "pixels" the data themselves.
        advance: gets the number of data evaluated, after each evaluation.
        shard: this process's share of the batches, of which all have all in the end.

    Returns:
        By path (n, ...) float32 on the CPU, pooled but for estimates and pixels.

    Raises:
        RunError: one is not finite.
    """
    of_batch = partial(_of_batch, asked, t=t, paths=paths, advance=advance)
    return by_batches(values, asked.batch_size, of_batch, shard)


@torch.no_grad()
def _of_batch(
    asked: Asked,
    part: Tensor,
    start: int,
    t: float,
    paths: Sequence[str],
    advance: Callable[[int], None],
) -> dict[str, Tensor]:
    """The features of a batch, float64 on the CPU."""
    model, levels = asked.model, asked.num_levels
    x_0 = part.double() if levels is None else centres(part, levels)
    modules = [path for path in paths if path not in OF_NO_MODULE]
    found = {PIXELS: x_0} if PIXELS in paths else {}
    sums: dict[str, Tensor] = {}
    for draw in range(asked.evaluations if {*paths} != {PIXELS} else 0):
        noisy = _noisy(asked, x_0, start, t, draw)
        with captured(model.network, modules) as outputs:
            estimate = model(noisy, torch.tensor(t, dtype=torch.float64)).x_0
        of_draw = {
            path: pooled(outputs[path].float(), asked.pool).to(x_0.device) for path in modules
        }  # where float64 can lie
        if ESTIMATE in paths:
            of_draw[ESTIMATE] = estimate
        for path, rows in of_draw.items():
            sums[path] = sums[path] + rows.double() if path in sums else rows.double()
        advance(len(part))
    found |= {path: total / asked.evaluations for path, total in sums.items()}
    for path, rows in found.items():
        if not bool(rows.isfinite().all()):
            raise RunError(
                f"features of {path} at t = {t:g} are not finite: the network overflows there; "
                "choose another layer or time"
            )
    return {path: rows.cpu() for path, rows in found.items()}


def _noisy(asked: Asked, x_0: Tensor, start: int, t: float, draw: int) -> Tensor:
    """x_t of data from number `start` on, float64."""
    sde, time = asked.model.sde, torch.tensor(t, dtype=torch.float64)
    mean = sde.alpha(time) * x_0
    if asked.draws == 0:
        return mean
    noise = Noise.of(asked.seed, start, start + len(x_0), x_0.device).at(draw)
    return mean + sde.sigma(time) * noise.normal(Stream.PRIOR, tuple(x_0.shape[1:]))


# ---- times --------------------------------------------------------------------------------------

NUM_TIMES = 8
NOISIEST = -5.0
"""Log-SNR below which little is left to be seen."""
TIME_DIGITS = 4


def log_snr(sde: SDE, t: float) -> float:
    """2 log(alpha / sigma) at a time; -100 where alpha is 0, to be finite in JSON."""
    time = torch.tensor(t, dtype=torch.float64)
    return max(-100.0, float(2 * (sde.alpha(time) / sde.sigma(time)).log()))


def spaced_times(sde: SDE, t_min: float, whole: bool, count: int = NUM_TIMES) -> tuple[float, ...]:
    """Times evenly spaced in log-SNR, from the least to where it is `NOISIEST`, or to N.

    Args:
        sde: the process.
        t_min: the least time.
        whole: whether the network is asked at whole times alone.
        count: how many; fewer where some are equal.

    Returns:
        Rising, to `TIME_DIGITS` digits.
    """
    ends = log_snr(sde, t_min), max(NOISIEST, log_snr(sde, float(sde.num_steps)))
    wanted = torch.linspace(*ends, count, dtype=torch.float64)
    found = sde.time(torch.atan(torch.exp(-wanted / 2))).tolist()
    digits = [float(f"{t:.{TIME_DIGITS}g}") for t in found]
    kept = [float(round(t)) if whole else t for t in digits]
    return tuple(sorted({min(max(t, t_min), float(sde.num_steps)) for t in kept}))


def bytes_of(shapes: Sequence[tuple[int, ...]], pool: str, count: int) -> int:
    """Bytes of the features of so many data, of layers of these shapes, float32."""
    return sum(4 * count * math.prod(pooled_shape(shape, pool)) for shape in shapes)
