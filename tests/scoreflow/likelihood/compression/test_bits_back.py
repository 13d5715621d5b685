"""The coder: what is pushed comes back bit for bit, at the price that the laws say."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from scoreflow.data.levels import dequantize, quantize
from scoreflow.likelihood.compression.ans_stack import (
    DRAWN,
    AnsStack,
    WrongBitsError,
    refuse_without_coder,
)
from scoreflow.likelihood.compression.bits_back import Grid, _points, pop, push
from scoreflow.likelihood.compression.chain import Chain, bound, choose, priced
from scoreflow.likelihood.compression.error_law import level_nats, measure
from scoreflow.sde import VPSDE, Noise
from scoreflow.sde.analytic import LevelGrid
from scoreflow.sde.noise import Stream

pytest.importorskip("constriction")
F64 = torch.float64
SDE = VPSDE.log_linear(200, sigma_min=2e-2, alpha_min=5e-3)
EVENT, LEVELS = (1, 3, 4), 16
SHARES = torch.exp(-0.5 * ((torch.arange(LEVELS, dtype=F64) - 6) / 2.5) ** 2)
GRID = LevelGrid(SHARES / SHARES.sum(), math.prod(EVENT))
TIMES = tuple(range(10, 201, 10))


def denoiser(x_t, t):
    """The exact one, of images."""
    flat = GRID.denoiser(SDE)(x_t.flatten(1), t)
    return type(flat)(x_t, flat.alpha, flat.sigma, "x_0", flat.x_0.view(x_t.shape))


def images(noise):
    return GRID.levels(noise).view(-1, *EVENT)


def chain_of(steps):
    halves = []
    for half in (range(50), range(50, 100)):
        noise = Noise(3, torch.tensor(half))
        levels = images(noise)
        x_0 = dequantize(levels, noise.uniform(Stream.DATA, EVENT, draw=1), LEVELS)
        halves.append(measure(denoiser, SDE, TIMES, x_0, levels, LEVELS, ("step",), noise))
    choice = choose(priced((halves[0], halves[1]), TIMES, SDE), steps)
    return Chain(denoiser, SDE, choice.law, choice.times, EVENT, LEVELS)


CHAIN = chain_of(6)


def stack(words=4000, seed=0):
    found = np.random.default_rng(seed).integers(1, 2**32, words, dtype=np.uint32)
    return AnsStack(found), found


# ---- numbers ------------------------------------------------------------------------------------


def test_cells_come_back_wherever_they_lie():
    """Beyond the window as well, by one cell or by 2^40."""
    held, words = stack()
    rng = np.random.default_rng(1)
    std = np.exp2(rng.uniform(-4, 9, 300))
    mean = rng.normal(0, 1e4, 300)
    far = np.concatenate([rng.normal(0, 1, 200), rng.normal(0, 20, 60), rng.normal(0, 1e6, 40)])
    cells = np.rint(mean + std * far).astype(np.int64)
    cells[:6] += np.array([2**40, -(2**40), 2**16, 2**33 + 1, -1, 1])
    held.push_found(cells, mean, std)
    assert np.array_equal(held.pop_found(mean, std), cells)
    assert np.array_equal(held.words(), words)


def test_ends_of_a_window_and_their_neighbours_come_back():
    held, words = stack()
    for std in (1e-6, 0.3, 1.0, 64.0):
        half = max(1, math.ceil(8 * 2.0 ** math.ceil(math.log2(std))))
        cells = np.array([-half - 2, -half - 1, -half, 1 - half, 0, half - 1, half, half + 1])
        held.push_found(cells, np.full(8, 0.25), np.full(8, std))
        assert np.array_equal(held.pop_found(np.full(8, 0.25), np.full(8, std)), cells)
    assert np.array_equal(held.words(), words)


@pytest.mark.parametrize("std", [4.0, 16.0, 200.0])
def test_a_number_costs_what_its_normal_says(std):
    """Cells drawn and found again by the same normal are free but for rounding to 24 bits.

    Found by one of twice the deviation, its divergence: log 2 + 1/8 - 1/2 nats. Rounding is by a
    part in p 2^24 of a cell's p, at the most about 1 / (2 std), and 600 words hide 64 bits.
    """
    held, _ = stack(40000)
    mean = np.random.default_rng(2).normal(0, 300, 40000)
    before = held.num_bits
    cells = held.pop_drawn(mean, std)
    popped = before - held.num_bits
    entropy = math.log2(std * math.sqrt(2 * math.pi * math.e)) * len(mean)
    scatter = 4 * math.sqrt(len(mean) / 2) / math.log(2)  # of eps^2 / 2
    assert popped == pytest.approx(entropy, abs=scatter)
    held.push_found(cells, mean, np.full(len(mean), std))
    assert held.num_bits - before == pytest.approx(0, abs=2e-4 * len(mean))
    held.pop_found(mean, np.full(len(mean), std))
    low = held.num_bits
    held.push_found(cells, mean, np.full(len(mean), 2 * std))
    divergence = (math.log(2) + 1 / 8 - 1 / 2) / math.log(2) * len(mean)
    # the scatter of 3/8 (eps^2 - 1), and of nothing else: the cells are the same
    spread = 4 * 3 / 8 * math.sqrt(2 * len(mean)) / math.log(2)
    assert held.num_bits - low - popped == pytest.approx(divergence, abs=spread)


def test_what_is_drawn_lies_in_its_window_and_is_normal():
    held, words = stack(9000)
    mean = np.linspace(-50, 50, 20000)
    cells = held.pop_drawn(mean, 16.0)
    eps = (cells - mean) / 16
    assert np.abs(eps).max() <= DRAWN + 1 / 16
    assert eps.mean() == pytest.approx(0, abs=4 / math.sqrt(20000))
    assert eps.var() == pytest.approx(1 + 1 / 12 / 256, abs=4 * math.sqrt(2 / 20000))
    held.push_drawn(cells, mean, 16.0)
    assert np.array_equal(held.words(), words)
    with pytest.raises(WrongBitsError):
        held.push_drawn(cells + 200, mean, 16.0)


def test_levels_come_back_and_none_is_impossible():
    held, words = stack()
    mean, std = np.array([0.0, 255.0, -3.0, 100.0, 7.5]), np.array([1e-4, 1e-4, 1.0, 30.0, 1e-3])
    levels = np.array([255, 0, 255, 3, 200])
    before = held.num_bits
    held.push_levels(levels, mean, std, 256)
    assert held.num_bits - before < 5 * 24 + 1
    assert np.array_equal(held.pop_levels(mean, std, 256), levels)
    assert np.array_equal(held.words(), words)


@pytest.mark.parametrize("std", [1e-3, 0.02, 0.5])
def test_levels_cost_what_the_bound_has_for_them(std):
    """Far from the estimate as well, where 24 bits round a probability by a part of itself."""
    held, _ = stack(40000)
    levels = torch.arange(16).repeat(300)
    mean = torch.linspace(-1, 1, len(levels), dtype=F64)
    before = held.num_bits
    in_levels = ((mean + 1) * 8 - 0.5).numpy()
    held.push_levels(levels.numpy(), in_levels, np.full(len(levels), std * 8), 16)
    said = level_nats(mean, torch.tensor(std, dtype=F64), levels, 16).sum() / math.log(2)
    assert held.num_bits - before == pytest.approx(float(said), rel=3e-3, abs=2)


def test_a_point_lies_in_its_bin_at_one_of_all_places():
    grid = Grid.of(CHAIN, 2)
    levels = np.arange(LEVELS).repeat(grid.num_places)
    place = np.tile(np.arange(grid.num_places), LEVELS)
    points = torch.from_numpy(_points(grid, levels, place))
    assert torch.equal(quantize(points, LEVELS), torch.from_numpy(levels).to(torch.uint8))
    width = 2 / LEVELS / grid.num_places
    assert torch.allclose(points.diff(), torch.full((len(points) - 1,), width, dtype=F64))


# ---- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "batch"), [(1, 1), (3, 4), (6, 7)])
def test_images_come_back_in_order_and_leave_the_bits_that_were_there(bits, batch):
    grid = Grid.of(CHAIN, bits)
    held, words = stack(grid.borrowed(batch) // 32 + 2)
    parts = images(Noise.of(5, 0, 10)).split(batch)
    for each in reversed(parts):
        push(held, grid, each)
    kept = AnsStack(held.words()[held.least :])  # what was never looked at is not needed
    for each in parts:
        found = pop(kept, grid, len(each))
        assert found.dtype == torch.uint8
        assert torch.equal(found, each.to(torch.uint8))
    assert np.array_equal(kept.words(), words[held.least :])


class Ideal(AnsStack):
    """A stack that reckons beside what the normals themselves would say: bits, by scipy."""

    def __init__(self, words):
        super().__init__(words)
        self.bits = 0.0

    def cells(self, cells, mean, std):
        logs = norm.logsf(np.abs(cells - mean) - 0.5, scale=std) / math.log(2)
        return -float(logs.sum() + np.log2(mass_of(np.abs(cells - mean), std, logs)).sum())

    def pop_drawn(self, mean, std):
        found = super().pop_drawn(mean, std)
        self.bits -= self.cells(found, mean, std)
        return found

    def push_found(self, cells, mean, std):
        super().push_found(cells, mean, std)
        self.bits += self.cells(cells, mean, std)

    def push_levels(self, levels, mean, std, num_levels):
        before = self.num_bits
        super().push_levels(levels, mean, std, num_levels)
        self.bits += self.num_bits - before  # which has a test of its own


def mass_of(away, std, logs):
    """A cell's mass over that of all beyond its nearer edge."""
    further = norm.logsf(away + 0.5, scale=std) / math.log(2)
    return 1 - np.exp2(further - logs)


def test_images_cost_what_their_own_paths_and_the_bound_say():
    """By their own paths no noise is left: only 24 bits, and what a window cuts off.

    The bound is at other noise, and both scatter by image.
    """
    grid, levels = Grid.of(CHAIN, 3), images(Noise.of(6, 0, 240))
    held, net = Ideal(stack(20000)[1]), []
    begun = held.num_bits
    for each in levels.split(6):
        before = held.num_bits
        push(held, grid, each)
        net.append(held.num_bits - before)
    assert held.num_bits - begun == pytest.approx(held.bits, rel=1e-3)
    said = bound(CHAIN, levels, Noise.of(8, 0, 240)).sum(1).view(-1, 6).sum(1) / math.log(2)
    apart = torch.tensor(net, dtype=F64) - said
    error = float(apart.std()) / math.sqrt(len(apart))
    assert float(apart.mean()) == pytest.approx(0, abs=4 * error + 0.001 * float(said.mean()))
    assert 4 * error < 0.03 * float(said.mean())  # so that the line above says something
    entropy = GRID.bits_per_dim * math.prod(EVENT) * len(levels)
    assert sum(net) > 0.97 * entropy


class Spy(AnsStack):
    """A stack that keeps what it was asked, in order."""

    def __init__(self, words):
        super().__init__(words)
        self.asked = []

    def pop_drawn(self, mean, std):
        found = super().pop_drawn(mean, std)
        self.asked.append(("drawn", found, mean, np.full_like(mean, std)))
        return found

    def push_found(self, cells, mean, std):
        super().push_found(cells, mean, std)
        self.asked.append(("found", cells, mean, std))

    def push_levels(self, levels, mean, std, num_levels):
        super().push_levels(levels, mean, std, num_levels)
        self.asked.append(("levels", levels, mean, std))


def test_every_number_is_coded_by_the_law_that_bayes_gives():
    """Element by element: a law that is off by little costs bits of second order alone.

    With x_t = a_t x_0 + s_t eps: z_t given z_s by a = a_t / a_s and v = s_t^2 - a^2 s_s^2, and
    z_s given z_t and x_0 by the product of that and N(a_s x_0, s_s^2); x_0 is the estimate, with
    the table's square of its error.
    """
    grid, times = Grid.of(CHAIN, 3), torch.tensor(CHAIN.times[1:], dtype=F64)
    held = Spy(stack(20000)[1])
    push(held, grid, images(Noise.of(5, 0, 3)))
    a, s = (each.numpy() for each in (SDE.alpha(times), SDE.sigma(times)))
    u, of_levels = (
        np.exp2(each[:, 0].numpy() / 32.0) for each in (CHAIN.law.squares, CHAIN.law.of_levels)
    )
    kinds = [each[0] for each in held.asked]
    assert kinds == ["drawn", "levels", *["drawn", "found"] * (CHAIN.num_steps - 1), "found"]
    drawn = [each for each in held.asked if each[0] == "drawn"]
    z = [each[1] * w for each, w in zip(drawn, grid.widths[1:], strict=True)]

    def estimate(k):
        x_t = torch.from_numpy(z[k]).view(3, *EVENT)
        return denoiser(x_t, times[k]).x_0.clamp(-1, 1).numpy().ravel()

    def same(asked, mean, std, width):
        assert np.allclose(asked[2] * width, mean, rtol=0, atol=1e-9 * std.max())
        assert np.allclose(asked[3] * width, std, rtol=1e-9)

    _, levels, mean, std = held.asked[1]
    assert np.array_equal(levels, images(Noise.of(5, 0, 3)).numpy().ravel())
    assert np.allclose((mean + 0.5) * 2 / LEVELS - 1, estimate(0))  # a level's middle
    assert np.allclose(std * 2 / LEVELS, of_levels[0] ** 0.5)
    found = [each for each in held.asked if each[0] == "found"]
    for k in range(1, CHAIN.num_steps):
        slope = a[k] / a[k - 1]
        v = s[k] ** 2 - slope**2 * s[k - 1] ** 2
        same(drawn[k], slope * z[k - 1], np.full_like(z[k], v**0.5), grid.widths[k + 1])
        q = 1 / (1 / s[k - 1] ** 2 + slope**2 / v)
        weight = q * a[k - 1] / s[k - 1] ** 2
        mean = q * slope / v * z[k] + weight * estimate(k)
        law = np.full_like(mean, (q + weight**2 * u[k]) ** 0.5)
        assert np.array_equal(found[k - 1][1], drawn[k - 1][1])
        same(found[k - 1], mean, law, grid.widths[k])
    r = np.full_like(z[-1], float(SDE.prior_std()))
    same(found[-1], np.zeros_like(r), r, grid.widths[-1])


def test_another_law_finds_other_images_or_none():
    """One deviation that is off by a part in a thousand: the decoder has other numbers."""
    grid = Grid.of(CHAIN, 3)
    held, _ = stack()
    levels = images(Noise.of(5, 0, 8))
    push(held, grid, levels)
    other = Chain(lambda x, t: denoiser(x * 1.001, t), SDE, CHAIN.law, CHAIN.times, EVENT, LEVELS)
    try:
        found = pop(AnsStack(held.words()), Grid.of(other, 3), 8)
    except WrongBitsError:
        return
    assert not torch.equal(found, levels.to(torch.uint8))


def test_a_width_is_a_power_of_2_and_within_the_precision():
    for bits in (1, 4, 8):
        grid = Grid.of(CHAIN, bits)
        for k in range(1, CHAIN.num_steps + 1):
            assert math.frexp(grid.widths[k])[0] == 0.5
            assert grid.widths[k] <= 2.0**-bits * CHAIN.forward(k)[1]


def test_no_more_is_borrowed_than_was_reckoned():
    for bits, batch in ((1, 1), (3, 8), (8, 2)):
        grid = Grid.of(CHAIN, bits)
        held, words = stack(grid.borrowed(batch) // 32 + 2)
        push(held, grid, images(Noise.of(5, 0, batch)))
        assert 0 <= held.least <= len(words)


def test_the_package_is_there_or_named(monkeypatch):
    refuse_without_coder()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Exception, match=r"pip install 'scoreflow-sde\[compress\]'"):
        refuse_without_coder()
