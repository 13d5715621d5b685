"""Every deterministic sampler converges to the probability flow at the order that it states.

A new sampler: add `"mine": (Mine(), 1)` to ORDERS, with the order that you expect, and run

    pytest tests/samplers/test_orders.py -k mine

A test that fails prints the order measured. A stochastic sampler converges in law instead: it is
listed in `test_matrix.py`, which holds its samples against the data's mean and variance.
"""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from scoreflow.samplers import (
    DDIM,
    DEIS,
    GRIDS,
    DPMSolver,
    Heun,
    ProbabilityFlow,
    Step,
    UniPC,
    grid,
)
from scoreflow.samplers.multistep.deis import adams_bashforth
from scoreflow.samplers.sampler import sample
from scoreflow.sde.analytic import GaussianMixture
from scoreflow.sde.base import Ended
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.processes.edm import EDMSDE
from scoreflow.sde.processes.rectified import RectifiedSDE
from scoreflow.sde.processes.subvp import SubVPSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE

PROCESSES = {
    "vp": VPSDE.log_linear(1000, 1e-2, 1e-2),
    "subvp": SubVPSDE.log_linear(1000, 1e-1, 1e-2),
    "ve": VESDE(1000, 1e-2, 50.0),
    "edm": EDMSDE(1000, 1e-2, 50.0),
    # from about the log-SNR of DDPM's prior; from N itself: `test_from_noise_alone_...`
    "rectified": Ended(RectifiedSDE(1000), 993),
}
NOISE = Noise.of(0, 0, 32)
ORDERS = {  # name: sampler, order of convergence to the probability flow
    "ddim": (DDIM(), 1),
    "heun": (Heun(), 2),
    "dpm-1": (DPMSolver(1), 1),
    "dpm-2": (DPMSolver(2), 2),
    "dpm-3": (DPMSolver(3), 3),
    "deis-1": (DEIS(1), 1),
    "deis-2": (DEIS(2), 2),
    "deis-3": (DEIS(3), 3),
    "unip-1": (UniPC(1, correct=False), 1),
    "unip-2": (UniPC(2, correct=False), 2),
    "unip-3": (UniPC(3, correct=False), 3),
    "unipc-1": (UniPC(1), 2),
    "unipc-2": (UniPC(2), 3),
}


def mixture():
    """Three wide components: a flow without sudden turns, so that orders show early."""
    means = torch.tensor([[-1.5, 0.0], [1.5, 1.0], [1.0, -1.5]], dtype=torch.float64)
    covariances = 0.3 * torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2]).double(), means, covariances)


def follow(sampler, sde, count, x):
    """From x at t = N to t = 1 in `count` steps that are equal in log-SNR."""
    denoiser, times = mixture().denoiser(sde), grid("log_snr", sde, count)
    return sample(sampler, denoiser, sde, times, NOISE, (2,), final="none", start=x)


@pytest.fixture(scope="module")
def truths():
    """Where the flow carries the prior, down to t = 1, by the adaptive solver."""
    found = {}
    for name, sde in PROCESSES.items():
        x = sde.prior_std() * NOISE.normal(Stream.PRIOR, (2,))
        ends = torch.tensor([sde.num_steps, 1.0], dtype=torch.float64)
        exactly = ProbabilityFlow(1.0, 1e-11)
        found[name] = x, exactly.step(x, Step(mixture().denoiser(sde), sde, *ends, NOISE))
    return found


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", ORDERS)
def test_the_error_falls_at_the_order_stated(name, process, truths):
    (sampler, order), sde = ORDERS[name], PROCESSES[process]
    x, truth = truths[process]
    errors = []
    for count in (60, 120, 240):
        errors.append(float((follow(sampler, sde, count, x) - truth).square().mean().sqrt()))
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    measured = f"{name} has order {slopes[-1]:.2f} on {process}, not {order}: errors {errors}"
    assert order - 0.25 < slopes[-1] < order + 0.75, measured


MULTISTEP = {  # sampler, grid, order of its steps, order of its first step's error
    "deis-3": (DEIS(3), "angle", 3, 2),
    "deis-4": (DEIS(4), "angle", 4, 2),
    "dpm-3": (DPMSolver(3), "log_snr", 3, 2),
    "unipc-2": (UniPC(2), "angle", 3, 3),
    "unipc-3": (UniPC(3), "log_snr", 4, 3),
}
WIDE = VPSDE.log_linear(1000, 1e-2, 0.3)
"""Its prior keeps much signal: the estimate changes in the first stride of every grid."""


@pytest.fixture(scope="module")
def wide():
    """As `truths`, of WIDE, to an error below those of 480 steps of order 4."""
    x = WIDE.prior_std() * NOISE.normal(Stream.PRIOR, (2,))
    ends = torch.tensor([1000.0, 1.0], dtype=torch.float64)
    exactly = ProbabilityFlow(1.0, 1e-13)
    return x, exactly.step(x, Step(mixture().denoiser(WIDE), WIDE, *ends, NOISE))


def with_full_memory(sampler, times, x, steps):
    """To the last time above 0, the first few steps by the exact flow."""
    denoiser, memory = mixture().denoiser(WIDE), None
    for k, (t, s) in enumerate(itertools.pairwise(times[:-1].unbind())):
        step = Step(denoiser, WIDE, t, s, NOISE.at(k))
        after, memory = sampler.advance(x, step, memory)
        if k < steps:
            after = ProbabilityFlow(1.0, 1e-13).step(x, step)
            memory = replace(memory, x=x) if isinstance(sampler, UniPC) else memory
        x = after
    return x


@pytest.mark.parametrize("name", MULTISTEP)
def test_a_full_memory_has_the_order_and_the_start_limits_it(name, wide):
    """The first steps, of lower order, leave an error of their own, and no later step mends it."""
    sampler, clock, order, of_start = MULTISTEP[name]
    (x, truth), full, own, denoiser = wide, [], [], mixture().denoiser(WIDE)
    for count in (120, 240):
        times = grid(clock, WIDE, count)
        full.append(with_full_memory(sampler, times, x, sampler.order) - truth)
        here = sample(sampler, denoiser, WIDE, times, NOISE, (2,), final="none", start=x)
        own.append(here - truth)
    slopes = [0.5 * float((a.square().mean() / b.square().mean()).log2()) for a, b in (full, own)]
    assert abs(slopes[0] - order) < 0.3, slopes
    assert abs(slopes[1] - min(order, of_start)) < 0.3, slopes


FIRST = {  # order of what the first steps, from noise alone, leave; None for that of all steps
    "ddim": None,
    "heun": None,  # in tau, which is finite there
    "dpm": 2,
    "deis": 2,
    "unip": 2,
    "unipc": 3,
}
FROM_NOISE = {**ORDERS, "deis-4": (DEIS(4), 4), "unipc-3": (UniPC(3), 4)}
RECTIFIED, LAST = RectifiedSDE(1000), 10.0


def even(count):
    """Real times, even in t: whole ones would not halve their strides."""
    times = torch.linspace(1000, LAST, count, dtype=torch.float64)
    return torch.cat((times, times.new_zeros(1)))


NOISE_GRIDS = {
    "even": even,
    "angle": lambda count: grid("angle", RECTIFIED, count, LAST),
    "log_snr": lambda count: grid("log_snr", RECTIFIED, count, LAST),
    "karras": lambda count: grid("karras", RECTIFIED, count, LAST),
}


@pytest.fixture(scope="module")
def from_noise():
    """Where the flow carries the rectified path's prior, down to t = 10."""
    x = NOISE.normal(Stream.PRIOR, (2,))
    ends = torch.tensor([1000.0, LAST], dtype=torch.float64)
    step = Step(mixture().denoiser(RECTIFIED), RECTIFIED, *ends, NOISE)
    return x, ProbabilityFlow(1.0, 1e-12).step(x, step)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("clock", "count"),
    [
        ("even", 60),
        ("log_snr", 60),
        *(pytest.param(clock, 120, marks=slow) for clock in NOISE_GRIDS),
    ],
)
@pytest.mark.parametrize("name", FROM_NOISE)
def test_from_noise_alone_the_first_steps_limit_the_order(name, clock, count, from_noise):
    """At alpha = 0 lambda and rho are infinite, and no polynomial has a node there.

    So two steps are of order 1 and have errors of second order in their strides, of third once
    UniPC has corrected them. Even in log-SNR or in Karras' clock the first stride does not shrink,
    it goes to log-SNR -10, an angle of h = 0.0067: what it leaves, of size h^2 = 5e-5 or
    h^3 = 3e-7, is a floor.
    """
    (sampler, order), (x, truth) = FROM_NOISE[name], from_noise
    first = FIRST[name.split("-")[0]]
    denoiser, least = mixture().denoiser(RECTIFIED), min(order, first or order)
    errors = []
    for times in (NOISE_GRIDS[clock](count), NOISE_GRIDS[clock](2 * count)):
        found = sample(sampler, denoiser, RECTIFIED, times, NOISE, (2,), final="none", start=x)
        errors.append(float((found - truth).square().mean().sqrt()))
    slope = math.log2(errors[0] / errors[1])
    floor = 0.0 if first is None or clock in ("even", "angle") else 0.0067**first
    assert errors[1] < floor or least - 0.3 < slope < order + 0.75, (slope, errors)


@pytest.mark.parametrize("name", ORDERS)
def test_a_sampler_states_its_order(name):
    sampler, order = ORDERS[name]
    assert sampler.flow_order == order


def test_a_multistep_without_memory_is_ddim():
    sde = PROCESSES["vp"]
    x = NOISE.normal(Stream.PRIOR, (2,))
    t, s = torch.tensor([700.0, 650.0], dtype=torch.float64)
    denoiser = mixture().denoiser(sde)
    expected = DDIM().step(x, Step(denoiser, sde, t, s, NOISE))
    for sampler in (DPMSolver(3), DEIS(4), UniPC(3)):
        found = sampler.step(x, Step(denoiser, sde, t, s, NOISE))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_weights_integrate_polynomials():
    nodes = [2.0, 3.0, 4.5, 7.0]
    weights = adams_bashforth(nodes, 1.2)
    for power in range(4):
        exact = (1.2 ** (power + 1) - 2 ** (power + 1)) / (power + 1)
        found = sum(w * node**power for w, node in zip(weights, nodes, strict=True))
        assert found == pytest.approx(exact, rel=1e-9)


def test_churn_keeps_the_law():
    """Noise raised and taken off again, on Gaussian data: mean and variance stay the data's."""
    from scoreflow.sde.analytic import gaussian

    sde = PROCESSES["vp"]
    truth = gaussian(torch.tensor([0.4]).double(), torch.tensor([[0.25]]).double())
    x = sample(
        Heun(churn=0.2), truth.denoiser(sde), sde, grid("log_snr", sde, 100),
        Noise.of(0, 0, 4000), (1,),
    )  # fmt: skip
    assert float(x.mean()) == pytest.approx(0.4, abs=4 * 0.5 / 4000**0.5 + 0.01)
    assert float(x.std()) == pytest.approx(0.5, abs=4 * 0.5 / 8000**0.5 + 0.01)
    other = sample(
        Heun(churn=0.2), truth.denoiser(sde), sde, grid("log_snr", sde, 20),
        Noise.of(1, 0, 8), (1,),
    )  # fmt: skip
    again = sample(
        Heun(), truth.denoiser(sde), sde, grid("log_snr", sde, 20), Noise.of(1, 0, 8), (1,)
    )
    assert not torch.allclose(other, again)


@pytest.mark.parametrize(
    "build",
    [lambda: DPMSolver(4), lambda: DPMSolver(3, stochastic=True), lambda: DEIS(5),
     lambda: UniPC(0), lambda: Heun(churn=0.5)],
)  # fmt: skip
def test_orders_that_do_not_exist_are_refused(build):
    with pytest.raises(ValueError, match="must lie in"):
        build()


# ---- grids


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 50, 333, 1000])
def test_grids_fall_from_the_prior_to_the_data(name, process, count):
    sde = PROCESSES[process]
    count = min(count, sde.num_steps)
    times = grid(name, sde, count)
    assert len(times) == count + 1
    assert times[0] == sde.num_steps
    assert times[-1] == 0
    assert (times.diff() < 0).all()
    assert count == 1 or times[-2] >= 1
    if name in ("uniform", "quadratic", "leading"):
        assert torch.equal(times, times.round())


def test_grids_are_even_in_their_clocks():
    sde = PROCESSES["vp"]
    clocks = {
        "log_snr": sde.log_snr,
        "angle": sde.angle,
        "karras": lambda t: (sde.sigma(t) / sde.alpha(t)) ** (1 / 7),
    }
    for name, clock in clocks.items():
        strides = clock(grid(name, sde, 30)[:-1]).diff()
        torch.testing.assert_close(strides, strides.mean().expand(29), rtol=1e-6, atol=1e-9)
    assert grid("karras", sde, 30, 0.25)[-2] == 0.25
    roots = grid("quadratic", sde, 10).sqrt().diff()
    torch.testing.assert_close(roots, roots.mean().expand(10), rtol=0.02, atol=0)
    assert grid("leading", sde, 10).tolist() == [
        1000,
        801,
        701,
        601,
        501,
        401,
        301,
        201,
        101,
        1,
        0,
    ]


@pytest.mark.parametrize(("name", "count"), [("uniform", 0), ("leading", 1001), ("angel", 3)])
def test_grids_that_there_are_not(name, count):
    with pytest.raises(ValueError, match=r"must (lie in|be one of)"):
        grid(name, PROCESSES["vp"], count)
