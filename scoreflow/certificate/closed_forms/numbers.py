"""Identity 10, first half: random numbers, grids, bins, weights and guidance by their formulas."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from scoreflow.certificate.closed_forms.processes import BASIS, HALF_THE_DIGITS, Known
from scoreflow.certificate.identity import UNIT_ROUNDOFF, Identity
from scoreflow.losses import denoising
from scoreflow.losses.decoder import decoder_term
from scoreflow.samplers import Guided, grid, least_cost
from scoreflow.sde.noise import Noise, Stream, philox
from scoreflow.sde.prediction import Denoiser, Prediction, predict

Device = torch.device | str
EXACT = "to the bit: integers"
PHILOX = (
    ("00000000" * 4, "00000000" * 2, "6627e8d5e169c58dbc57ac4c9b00dbd8"),
    ("ffffffff" * 4, "ffffffff" * 2, "408f276d41c83b0ea20bc7c66d5451fd"),
    ("243f6a8885a308d313198a2e03707344", "a4093822299f31d0", "d16cfe0994fdcceb5001e42024126ea1"),
)
"""Counter, key and answer: Random123's known answers for philox4x32-10."""


def numbers(known: list[Known], device: Device = "cpu") -> list[Identity]:
    """What no group on estimates would see."""
    return [
        _philox(device),
        _draws(device),
        _decoder(device),
        _grids(known),
        _least_cost(),
        _weights(known, device),
        _guided(known, device),
    ]


def distance(found: Tensor, expected: Tensor, least: float = 0.0) -> float:
    """The greatest relative difference; inf where one is no number, 0 where both are infinite.

    Args:
        found: of any shape.
        expected: the same.
        least: size below which differences count against it.
    """
    apart = (found - expected).abs() / expected.abs().clamp(min=max(least, 1e-300))
    error = torch.where(found == expected, 0.0, apart).max()
    return float(error) if bool(error.isfinite()) else math.inf


def _words(text: str) -> list[int]:
    return [int(text[k : k + 8], 16) for k in range(0, len(text), 8)]


def _philox(device: Device) -> Identity:
    wrong = 0
    for counter, key, answer in PHILOX:
        low, high = _words(key)
        found = philox(torch.tensor(_words(counter), device=device), low | high << 32)
        wrong += sum(a != b for a, b in zip(found.tolist(), _words(answer), strict=True))
    name = f"Philox 4x32-10 = its authors' known answers, {4 * len(PHILOX)} words"
    return Identity(name, wrong, 0.0, f"words that differ; {EXACT}")


def _draws(device: Device) -> Identity:
    """Uniforms, signs and Box-Muller's normals from the words at their addresses."""
    seed, step, draw, index = 2**40 + 7, 12, 3, [5, 2**32 - 1]
    noise = Noise(seed, torch.tensor(index, device=device), step)
    worst = 0.0
    for row, (sample, block) in enumerate(itertools.product(index, range(2))):
        counter = torch.tensor([block, sample, step, int(Stream.PROBE) | draw << 8])
        a, b, c, d = philox(counter, seed).tolist()
        pairs = [((a + 0.5) / 2**32, (b + 0.5) / 2**32), ((c + 0.5) / 2**32, (d + 0.5) / 2**32)]
        normals = [
            math.sqrt(-2 * math.log(u)) * turn(2 * math.pi * v)
            for u, v in pairs
            for turn in (math.cos, math.sin)
        ]
        place, few = slice(4 * block, 4 * block + 4), (8,)
        for found, expected in (
            (noise.normal(Stream.PROBE, few, draw), normals),
            (noise.uniform(Stream.PROBE, few, draw), [w / 2**32 for w in (a, b, c, d)]),
            (noise.rademacher(Stream.PROBE, few, draw), [2 * (w >> 31) - 1 for w in (a, b, c, d)]),
        ):
            own = found[row // 2, place]
            worst = max(worst, distance(own, own.new_tensor(expected), 1e-2))
    return Identity(
        "uniforms, signs and normals = the words at their addresses",
        worst,
        2**20 * UNIT_ROUNDOFF[torch.float64],
        "relative; float64, a device's own log, sin and cos",
    )


def _decoder(device: Device) -> Identity:
    """Phi at both edges of each bin, the outermost open; all levels together are certain."""
    count, std = 17, 0.3
    x_0 = torch.tensor([-1.2, -0.3, 0.05, 0.9], dtype=torch.float64, device=device)
    worst, total = 0.0, torch.zeros_like(x_0)
    variance = x_0.new_full((len(x_0),), std**2)
    for level in range(count):
        levels = torch.full((len(x_0), 1), level, device=device)
        found = (-decoder_term(x_0[:, None], levels, count, variance)).exp()
        low, high = 2 * level / count - 1, 2 * (level + 1) / count - 1
        expected = []
        for mean in x_0.tolist():
            below = 0.0 if level == 0 else _normal((low - mean) / std)
            above = 1.0 if level == count - 1 else _normal((high - mean) / std)
            expected.append(above - below)
        worst = max(worst, distance(found, found.new_tensor(expected), 1e-3))
        total = total + found
    worst = max(worst, distance(total, torch.ones_like(total)))
    name = f"decoder's {count} bins = the normal law of each, and 1 in all"
    return Identity(name, worst, HALF_THE_DIGITS, BASIS)


def _normal(z: float) -> float:
    """Phi."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


KARRAS = 7
COUNT, T_MIN = 6, 0.25
CLOCKS: dict[str, Callable[[float], float]] = {
    "log_snr": math.log,
    "angle": math.atan,
    "karras": lambda rho: rho ** (1 / KARRAS),
}
"""Of sigma / alpha."""
LAST_RATIO = math.exp(5)
"""From which a clock is even that is infinite at N, where no signal is left: at log-SNR -10."""
WHOLE = {
    "uniform": [30, 25, 20, 15, 10, 5, 0],
    "trailing": [30, 25, 20, 15, 10, 5, 0],
    "quadratic": [30, 21, 13, 8, 3, 1, 0],
    "leading": [30, 21, 16, 11, 6, 1, 0],
}
"""Of 6 steps on 30: N (1 - k/6), its square, and DDPM's multiples of 5, and 1."""


def _grids(known: list[Known]) -> Identity:
    """Whole grids by hand; the others even in their clocks, Karras' by EDM's Eq. 5."""
    worst = 0.0
    for each in known:
        n = float(each.sde.num_steps)
        for name, clock in CLOCKS.items():
            *times, last = grid(name, each.sde, COUNT, T_MIN).tolist()
            ends = [clock(each.ratio(t)) for t in (n, T_MIN)]
            if ends[0] == math.inf:
                ends[0] = clock(LAST_RATIO)
            for k, t in enumerate(times[1:], start=1):
                expected = ends[0] + (ends[1] - ends[0]) * k / (COUNT - 1)
                worst = max(worst, abs(clock(each.ratio(t)) - expected) / max(map(abs, ends)))
            worst = max(worst, abs(last), abs(times[0] - n))
            worst = max(worst, 0.0 if len(times) == COUNT else math.inf)
        if n == WHOLE["uniform"][0]:
            wrong = [grid(name, each.sde, COUNT).tolist() != own for name, own in WHOLE.items()]
            worst = max(worst, float(any(wrong)))
    name = f"time grids = even in their clocks, Karras' as EDM's Eq. 5, {len(known)} processes"
    return Identity(name, worst, HALF_THE_DIGITS, BASIS)


def _least_cost() -> Identity:
    """The grid of least cost against every grid there is."""
    n, count = 7, 4
    noise = Noise.of(3, 0, n + 1).uniform(Stream.DATA, (n + 1,))
    costs = torch.where(torch.ones_like(noise).tril(-1) > 0, noise, math.inf)
    found = least_cost(costs, count).long().tolist()
    ways = [(n, *reversed(inner), 0) for inner in itertools.combinations(range(1, n), count - 1)]

    def cost(times: tuple[int, ...] | list[int]) -> float:
        return sum(float(costs[t, s]) for t, s in itertools.pairwise(times))

    excess = cost(found) - min(map(cost, ways))
    name = f"time grid of least cost = the best of all {len(ways)}"
    return Identity(name, abs(excess), 1e-12, "difference of the costs; sums of a few numbers")


def _weights(known: list[Known], device: Device) -> Identity:
    """Of the objectives, on the error of the noise: g^2, min-SNR, P2, and the posterior's mean.

    Where no signal is left, that of g^2 and of the mean are infinite, and min-SNR's is its limit.
    """
    worst = 0.0
    for each in known:
        n = each.sde.num_steps
        at = [1.0, float(max(n // 2, 1)), float(n)]
        t = torch.tensor(at, dtype=torch.float64, device=device)
        snr = [each.alpha(i) ** 2 / each.variance(i) for i in at]
        moved = []
        for i in at:
            _, w = each.transition(i - 1, i)
            moved.append((each.alpha(i - 1) * w / each.variance(i) * each.ratio(i)) ** 2)
        pairs = (
            (
                denoising.likelihood_weight(each.sde, t, float(n)),
                [0.5 * n * each.square(i) / each.variance(i) for i in at],
            ),
            (
                denoising.min_snr_weight(each.sde, t, 5.0),
                [min(s, 5.0) / s if s else 1.0 for s in snr],
            ),
            (denoising.p2_weight(each.sde, t, 0.5, 1.0), [(1 + s) ** -0.5 for s in snr]),
            (denoising.mean_weight(each.sde, t), moved),
        )
        for found, expected in pairs:
            worst = max(worst, distance(found, found.new_tensor(expected)))
    name = f"weights of the objectives = their formulas, {len(known)} processes"
    return Identity(name, worst, HALF_THE_DIGITS, BASIS)


def _guided(known: list[Known], device: Device) -> Identity:
    """eps_u + weight (eps_c - eps_u), whatever view the estimates are given in."""
    sde, noise = known[0].sde, Noise.of(4, 0, 8, device)
    x_t, without, given = (noise.normal(Stream.DATA, (2,), draw) for draw in range(3))
    t = torch.tensor(7.0, dtype=torch.float64)

    def answer(eps: Tensor) -> Denoiser:
        def denoise(x: Tensor, at: Tensor) -> Prediction:
            x_0 = predict(sde, x, at, "eps", eps).x_0
            return predict(sde, x, at, "x_0", x_0)

        return denoise

    worst = 0.0
    for weight in (0.0, 1.0, 2.5):
        found = Guided(answer(given), answer(without), weight)(x_t, t).eps
        worst = max(worst, distance(found, without + weight * (given - without), 1e-2))
    name = "classifier-free guidance = eps_u + weight (eps_c - eps_u)"
    return Identity(name, worst, HALF_THE_DIGITS, BASIS)
