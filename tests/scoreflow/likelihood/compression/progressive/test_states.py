"""Images sent state by state: what comes back, from how much, at what price."""

import itertools
import math

import pytest
import torch

from scoreflow.data.levels import centres, dequantize
from scoreflow.likelihood.compression.chain import Chain, bound
from scoreflow.likelihood.compression.error_law import measure
from scoreflow.likelihood.compression.progressive.states import (
    SPREAD,
    Progressive,
    _price,
    _Sender,
    cheapest_times,
    order_of,
    part_counts,
    parts_of,
    plan,
)
from scoreflow.sde import VPSDE, Noise
from scoreflow.sde.analytic import LevelGrid
from scoreflow.sde.noise import Stream

F64 = torch.float64
SDE = VPSDE.log_linear(200, sigma_min=2e-2, alpha_min=5e-3)
EVENT, LEVELS, COUNT = (12,), 16, 24
SHARES = torch.exp(-0.5 * ((torch.arange(LEVELS, dtype=F64) - 6) / 2.5) ** 2)
GRID = LevelGrid(SHARES / SHARES.sum(), EVENT[0])
TIMES = tuple(range(10, 201, 10))
PATH = (0, 30, 40, 50, 60, 70, 80, 90, 200)


def chain():
    noise = Noise.of(3, 0, 300)
    levels = GRID.levels(noise)
    x_0 = dequantize(levels, noise.uniform(Stream.DATA, EVENT, draw=1), LEVELS)
    found = measure(GRID.denoiser(SDE), SDE, TIMES, x_0, levels, LEVELS, ("estimate",), noise)
    return Chain(GRID.denoiser(SDE), SDE, found["estimate"].law(TIMES), PATH, EVENT, LEVELS)


@pytest.fixture(scope="module")
def sent():
    """The code, its images and what was told at each time."""
    code = Progressive(chain(), seed=5, batch_size=7, part_bits=5.0)
    levels, states = GRID.levels(Noise.of(8, 0, COUNT)), []
    words = code.encode(centres(levels, LEVELS), states.append)
    return code, levels, words, states


def test_the_receiver_has_the_senders_estimates_bit_for_bit(sent):
    code, _, words, states = sent
    received = []
    code.decode(words, COUNT, received.append)
    assert [state.t for state in received] == list(PATH[:0:-1])
    assert [state.t for state in states] == list(PATH[:0:-1])
    for own, other in zip(states, received, strict=True):
        assert torch.equal(own.estimate, other.estimate)


def test_a_beginning_of_the_code_is_all_images_coarser(sent):
    code, _, words, states = sent
    for state in states:
        received = []
        start = words[: state.sent.bits // 32 + 1]
        code.decode(start, COUNT, received.append, stop=state.t)
        assert received[-1].t == state.t
        assert torch.equal(received[-1].estimate, state.estimate)
    received = []
    code.decode(words, COUNT, received.append, stop=75)  # no time below it
    assert received[-1].t == 80


def test_the_nearer_the_time_the_nearer_the_images(sent):
    _, levels, words, states = sent
    x_0 = centres(levels, LEVELS)
    errors = [float((state.estimate - x_0).square().mean()) for state in states]
    assert errors[-4:] == sorted(errors[-4:], reverse=True)
    assert errors[-1] < errors[0] / 4
    # given z_1 the estimate is off by the posterior's spread, which is below that of the noise
    t = torch.tensor(float(PATH[1]), dtype=F64)
    noise = float((-SDE.log_snr(t)).exp())
    assert errors[-1] < noise * (1 + 4 * math.sqrt(2 / (COUNT * EVENT[0])))
    bits = [state.sent.bits for state in states]
    assert bits == sorted(bits)
    assert 32 * len(words) == bits[-1]


def test_the_bits_are_those_of_the_chains_bound_and_of_the_indices(sent):
    code, _, _, states = sent
    noise = Noise.of(9, 0, 500)
    fresh = bound(code.chain, GRID.levels(noise), noise)[:, 1:].sum(1)
    # images share candidates, so they may scatter together: as much as one of them at the most
    told, error = float(fresh.mean()) * COUNT, float(fresh.std()) * COUNT
    assert states[-1].sent.nats == pytest.approx(told, abs=2 * error)
    of_a_part = states[-1].sent.nats / math.log(2) / states[-1].sent.parts
    over = states[-1].sent.bits - states[-1].sent.nats / math.log(2)
    most = math.log2(of_a_part + 1) + 4
    layers, counted, ends = 14 * len(states), 2 * COUNT * len(states), 64
    assert 0 < over < states[-1].sent.parts * most + layers + counted + ends


def test_what_is_sent_is_the_next_state_given_the_image(sent):
    code, levels, _, _ = sent
    x_0 = centres(levels, LEVELS)
    z = torch.randn(x_0.shape, dtype=F64, generator=torch.Generator().manual_seed(6))
    sender, path = _Sender(code, x_0), PATH[::-1]
    for layer in range(len(PATH) - 1):
        t, s = (torch.tensor(float(path[max(k, 0)]), dtype=F64) for k in (layer - 1, layer))
        first = SDE.alpha(s) * x_0, SDE.sigma(s)
        wanted = first if layer == 0 else SDE.posterior(z, x_0, t, s)
        mean, std = sender._target(layer, z)
        assert torch.allclose(mean, wanted[0], rtol=1e-12, atol=1e-15)
        assert std == pytest.approx(float(wanted[1]), rel=1e-12)


def test_an_image_is_cut_into_as_few_parts_as_fit():
    generator = torch.Generator().manual_seed(0)
    nats = torch.rand(30, 12, dtype=F64, generator=generator) * torch.logspace(-2, 1, 30)[:, None]
    for row, count in zip(nats, part_counts(nats, 4.0).tolist(), strict=True):

        def most(parts, row=row):
            return max(float(row[part].sum()) for part in parts_of(12, parts)) / math.log(2)

        assert count == 12 or most(count) <= 4.0
        assert all(most(fewer) > 4.0 for fewer in range(1, count))


@pytest.mark.parametrize(("dims", "count"), [(12, 5), (7, 7), (784, 100), (64, 1)])
def test_parts_are_all_elements_once(dims, count):
    parts = parts_of(dims, count)
    places = [k for part in parts for k in range(dims)[part]]
    assert places == list(range(dims))
    assert len(parts) == count
    assert max(p.stop - p.start for p in parts) <= -(-dims // count)
    assert sorted(order_of(dims).tolist()) == list(range(dims))


def test_the_cheapest_times_are_the_cheapest_of_all():
    times = (10, 20, 30, 40, 50, 60)
    generator = torch.Generator().manual_seed(1)
    nats = torch.rand(6, 6, dtype=F64, generator=generator) * 20 + 1

    def price(path):
        total = 0.0
        for s, t in itertools.pairwise(path):
            bits = nats[times.index(t), times.index(s)] / math.log(2)
            total += sum(float(_price(each * bits, 8.0)) for each in SPREAD) / len(SPREAD)
        return total

    for stop in (10, 30):
        inner = [t for t in times if stop < t < 60]
        paths = [
            (stop, *some, 60)
            for size in range(len(inner) + 1)
            for some in itertools.combinations(inner, size)
        ]
        found, bits = cheapest_times(nats, times, stop, 8.0)
        assert found == (0, *min(paths, key=price))
        assert bits == pytest.approx(min(map(price, paths)))


def test_a_plan_prices_images_and_its_own_law():
    noise = [Noise.of(3, start, start + 200) for start in (0, 200)]
    kinds = ("step", "pixel", "estimate")
    halves = []
    for each in noise:
        levels = GRID.levels(each)
        x_0 = dequantize(levels, each.uniform(Stream.DATA, EVENT, draw=1), LEVELS)
        found = measure(GRID.denoiser(SDE), SDE, TIMES, x_0, levels, LEVELS, kinds, each)
        halves.append(found)
    few, many = (plan(tuple(halves), TIMES, SDE, 30, n, 12, 8.0) for n in (1, 10**6))
    assert few.law.kind == "step"  # whose table is the smallest
    for each in (few, many):
        assert each.times[:2] == (0, 30)
        assert each.times[-1] == 200
        assert each.law.times == each.times[2:]
    assert many.bits < few.bits * 10**6
