"""Dequantization: integers to points on the path, and densities to bits/dim.

A model is a density p_t of real vectors; data are integers k in 0..L-1, one a pixel. For any law q
of a point x_t given k, whose points no other integers share, Jensen's inequality gives

    log P(k) >= E_q[ log p_t(x_t) + offset ],     offset = -log q(x_t | k) + log P(k | x_t),

where P(k | x_t) is 1 if q keeps to k's own bin, and else a decoder's answer. With alpha, sigma at
t, bins of width w = 2/L and centre c_k in [-1, 1]:

    uniform           x_t = alpha (c_k + w (u - 1/2)), u uniform: -log q = D log(alpha w)
    truncated_normal  x_t = alpha c_k + sigma z, z normal within |z| <= alpha w / (2 sigma): what a
                      learned dequantizer is for, without training one (Zheng et al. 2023,
                      "Improved techniques for maximum likelihood estimation for diffusion ODEs");
                      for networks trained on bin centres, whose p_t has just this shape in a bin
    last_step         x_t = alpha x_0 + sigma z, the diffusion's own q(x_t | x_0), and DDPM's
                      discretised decoder back (Ho et al. 2020, Eq. 13)

where x_0 is what training made of k: the centre of its bin, or uniform on it. K points for one k
give the tighter bound log mean_K exp (Burda et al. 2016), whose mean over K needs its -log K.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, assert_never, get_args

import torch
from torch import Tensor

from scoreflow.data.levels import Embedding, centres, dequantize
from scoreflow.losses.decoder import decoder_term
from scoreflow.sde.analytic import log_normal_mass
from scoreflow.sde.base import SDE
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import Denoiser

Dequantization = Literal["uniform", "truncated_normal", "last_step"]
DEQUANTIZATIONS: tuple[str, ...] = get_args(Dequantization)


@dataclass(frozen=True)
class Dequantizer:
    """How integers become points at time t.

    Attributes:
        name: one of `DEQUANTIZATIONS`.
        num_levels: L.
        t: where the flow will start, in steps.
        embedding: what a network was trained on: "uniform" on a level's bin, or its "centre".
    """

    name: Dequantization
    num_levels: int
    t: float
    embedding: Embedding = "uniform"

    def place(
        self, denoiser: Denoiser, sde: SDE, levels: Tensor, noise: Noise, draw: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Points of some integers.

        Args:
            denoiser: evaluated once at t, by "last_step" alone.
            sde: the process.
            levels: (B, ...) integers in 0..L-1.
            noise: addresses the points.
            draw: which of the K points of each.

        Returns:
            x_t (B, ...) float64, and the offset in nats, (B,).
        """
        t = torch.tensor(self.t, dtype=torch.float64)
        alpha, sigma, event = sde.alpha(t), sde.sigma(t), tuple(levels.shape[1:])
        u = noise.uniform(Stream.DEQUANTIZE, event, draw)
        match self.name:
            case "uniform":
                x_t = alpha * dequantize(levels, u, self.num_levels)
                volume = math.prod(event) * torch.log(alpha * 2 / self.num_levels)
                return x_t, x_t.new_full((len(x_t),), volume.item())
            case "truncated_normal":
                return self._truncated_normal(levels, u, alpha, sigma)
            case "last_step":
                z = noise.normal(Stream.DEQUANTIZE, event, draw + LAST_STEP_DRAWS)
                x_t = alpha * self.embed(levels, u) + sigma * z
                to_levels = self._decoded(denoiser, sde, x_t, levels, t)
                return x_t, to_levels - self._log_density(x_t, levels, alpha, sigma)
            case _:
                assert_never(self.name)

    def embed(self, levels: Tensor, u: Tensor) -> Tensor:
        """x_0 as in training, from u uniform on [0, 1)."""
        if self.embedding == "centre":
            return centres(levels, self.num_levels)
        return dequantize(levels, u, self.num_levels)

    def _truncated_normal(
        self, levels: Tensor, u: Tensor, alpha: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        reach = alpha / (self.num_levels * sigma)
        mass = 2 * torch.special.ndtr(reach) - 1
        most = float(reach)  # clamp takes no CPU tensor on a GPU, as products do
        z = torch.special.ndtri((1 - mass) / 2 + u * mass).clamp(-most, most)
        centre = centres(levels, self.num_levels)
        constant = torch.log(sigma * mass) + 0.5 * math.log(2 * math.pi)
        return alpha * centre + sigma * z, (0.5 * z**2 + constant).flatten(1).sum(1)

    def _log_density(self, x_t: Tensor, levels: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Log q(x_t | k), nats, (B,)."""
        if self.embedding == "centre":
            z = (x_t - alpha * centres(levels, self.num_levels)) / sigma
            each = -0.5 * z**2 - torch.log(sigma) - 0.5 * math.log(2 * math.pi)
        else:
            low = dequantize(levels, torch.zeros_like(x_t), self.num_levels)
            below = (x_t - alpha * (low + 2 / self.num_levels)) / sigma
            above = (x_t - alpha * low) / sigma
            each = log_normal_mass(below, above) - torch.log(alpha * 2 / self.num_levels)
        return each.flatten(1).sum(1)

    def _decoded(
        self, denoiser: Denoiser, sde: SDE, x_t: Tensor, levels: Tensor, t: Tensor
    ) -> Tensor:
        """Log P(k | x_t) of the decoder N(x_0 estimate, w I) with the last step's variance."""
        with torch.no_grad():
            prediction = denoiser(x_t, t)
        _, w = sde.transition(torch.zeros_like(t), t)
        return -decoder_term(prediction.x_0, levels, self.num_levels, w)


LAST_STEP_DRAWS = 1 << 16
"""Where the normals of "last_step" begin among the draws, behind the uniforms of all K."""


def at_most_bits(dequantizer: Dequantizer, sde: SDE) -> float | None:
    """Upper bound, for any data, on what starting at t > 0 costs a perfect model, in bits/dim.

    Of "truncated_normal" it is the mass cut off, -log2 of what is kept. None where no bound is
    known: of "last_step", which costs what its decoder does not know, and of "uniform" points for
    a network trained on centres, which pays for every one that is not there.
    """
    t = torch.tensor(dequantizer.t, dtype=torch.float64)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    if dequantizer.name == "last_step":
        return None
    if dequantizer.name == "truncated_normal":
        reach = alpha / (dequantizer.num_levels * sigma)
        return -math.log2(math.erf(reach / math.sqrt(2)))
    if dequantizer.embedding == "centre":
        return None
    return truncation_bits(sigma / alpha, dequantizer.num_levels)


LAST_STEP = (
    "measure with --config.likelihood.dequantization=last_step, which cuts nothing off: both give "
    "an upper bound on the bits/dim, and the lower one counts"
)
"""What is left to a network of centres that nobody trains again."""
LOUD_BITS = 0.05
"""A cost of the start at t, in bits/dim, above which a likelihood is said not to mean much."""


def warning(dequantizer: Dequantizer, sde: SDE, t_min: float, integer_times: bool) -> str:
    """A line for a start at t that can cost more than `LOUD_BITS`, with its remedy; else "".

    Args:
        dequantizer: of the measurement.
        sde: the process.
        t_min: the least time that the network is trained at.
        integer_times: whether it knows whole steps alone, whatever it is trained on.
    """
    bits, levels = at_most_bits(dequantizer, sde), dequantizer.num_levels
    if bits is None and dequantizer.name == "uniform":
        other = replace(dequantizer, name="truncated_normal")
        name = "truncated_normal" if (at_most_bits(other, sde) or 0) <= LOUD_BITS else "last_step"
        return (
            "a network trained on the centres of bins finds points spread over a bin unlikely, "
            "by any number of bits: measure with "
            f"--config.likelihood.dequantization={name}"
        )
    if bits is None or bits <= LOUD_BITS:
        return ""
    t = torch.tensor(dequantizer.t, dtype=torch.float64)
    noise = float(sde.sigma(t) / sde.alpha(t))
    return (
        f"starting at t = {dequantizer.t:g} can cost up to {bits:.2f} bits/dim: the "
        f"noise there, {noise:.2g}, is not small beside a level's width of "
        f"{2 / levels:.2g}. {_remedy(dequantizer, sde, t_min, integer_times)}"
    )


def _remedy(dequantizer: Dequantizer, sde: SDE, t_min: float, integer_times: bool) -> str:
    """What makes the start cost less than `LOUD_BITS`."""
    t = _time_of_bits(dequantizer, sde)
    if t >= t_min:
        return f"Start at --config.likelihood.t_start={t:g}"
    if integer_times:
        return (
            "This network knows whole steps alone, so --config.likelihood.dequantization=last_step"
            " is left, whose decoder knows of neighbouring levels what the network does"
        )
    flags = f"--config.training.times=real --config.training.t_min={t:g}"
    if dequantizer.embedding == "uniform":
        centres = replace(dequantizer, name="truncated_normal", embedding="centre")
        later = _time_of_bits(centres, sde)
        flags += (
            ", or on the centres of bins, --config.training.dequantization=centre "
            "--config.likelihood.dequantization=truncated_normal"
        )
        if later < t_min:
            flags += f" --config.training.times=real --config.training.t_min={later:g}"
    else:
        flags += f", or without training {LAST_STEP}"
    return f"Train down to where it is: {flags}"


def _time_of_bits(dequantizer: Dequantizer, sde: SDE) -> float:
    """The greatest time, to two digits, whose start costs at most `LOUD_BITS`."""
    low, high = 0.0, dequantizer.t
    for _ in range(60):
        middle = (low + high) / 2
        bits = at_most_bits(replace(dequantizer, t=middle), sde)
        low, high = (middle, high) if (bits or 0) <= LOUD_BITS else (low, middle)
    unit = 10.0 ** (math.floor(math.log10(low)) - 1)
    return math.floor(low / unit) * unit


def truncation_bits(sigma: float, num_levels: int) -> float:
    """Upper bound, for any data, on what noise of scale sigma costs a perfect model, in bits/dim.

    A level's bin of width w keeps the fraction

        Phi((u + 1/2) w / sigma) - Phi((u - 1/2) w / sigma)

    of its density; all other levels only add. The bound is the mean of -log2 of that over the
    bin, u in [-1/2, 1/2], and is attained by levels far apart.
    """
    ratio = 2 / num_levels / sigma
    # midpoints, graded towards the edge at 1/2, where all of the loss is once sigma << w
    edges = 0.5 * (1 - torch.linspace(1, 0, 20_001, dtype=torch.float64) ** 3)
    u, weight = (edges[1:] + edges[:-1]) / 2, edges.diff()
    kept = torch.special.ndtr((u + 0.5) * ratio) - torch.special.ndtr((u - 0.5) * ratio)
    return float(-2 * (weight * kept.log2()).sum())
