"""Log-normal and shifted times: their laws, by other people's formulas, and what is refused."""

import math

import pytest
import scipy.special
import scipy.stats
import torch

from scoreflow.errors import RequestError
from scoreflow.losses import times
from scoreflow.losses.objective import Objective
from scoreflow.samplers import grid
from scoreflow.sde import EDMSDE, VPSDE, Noise, RectifiedSDE

GRID = (torch.arange(400, dtype=torch.float64) + 0.5) / 400


def objective(law, name="simple", spread=False, **more):
    return Objective(name, law, 0.7, spread, "beta", 1e-3, 5.0, 1.0, 1.0, **more)


def log_ratio(sde, t):
    return -0.5 * sde.log_snr(t)


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.5, 0.8)])
def test_log_normal_times_have_the_quantiles_of_the_cut_normal(mean, std, process):
    """scipy's truncated normal, of ln(sigma / alpha).

    A process' clock and its inverse lose about 1e-10 where a table is looked up in.
    """
    low, high = log_ratio(process, torch.tensor([0.7, process.num_steps], dtype=torch.float64))
    law = scipy.stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std)
    t = times.log_normal_times(GRID, process, 0.7, mean, std)
    expected = torch.from_numpy(law.ppf(GRID.numpy()))
    torch.testing.assert_close(log_ratio(process, t), expected, rtol=1e-8, atol=1e-8)
    assert (t.diff() > 0).all()


def test_on_the_rectified_path_they_are_logit_normal_as_sd3_has_it():
    sde, t_min = RectifiedSDE(1000), 1e-9
    u = GRID.numpy()
    for mean, std in ((0.0, 1.0), (0.5, 0.6)):
        t = times.log_normal_times(GRID, sde, t_min, mean, std)
        expected = scipy.special.expit(mean + std * scipy.special.ndtri(u))
        torch.testing.assert_close(t / 1000, torch.from_numpy(expected), rtol=1e-12, atol=0)


def test_on_edms_process_they_are_edms_noise_scales():
    sde, u = EDMSDE(1000, 1e-9, 1e9), GRID.numpy()
    t = times.log_normal_times(GRID, sde, 1e-9, -1.2, 1.2)
    expected = torch.from_numpy(-1.2 + 1.2 * scipy.special.ndtri(u))
    torch.testing.assert_close(sde.sigma(t).log(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("k", [1e-3, 0.3, 3.0, 1e3])
def test_a_shift_multiplies_what_lies_between_the_ends(k, process):
    """In other terms than `shifted`'s: 1 / y is linear in 1 / z, y in z, and z is 0 and inf there.

    The clock of a table is inverted to 1e-10.
    """
    last = float(process.num_steps)
    plain, found = times.real_times(GRID, 200, 0.7), times.shifted_times(GRID, process, 0.7, k)
    low, high = log_ratio(process, torch.tensor([0.7, last], dtype=torch.float64)).exp()
    y = log_ratio(process, plain).exp()
    z = k * (y - low) / (1 - y / high)
    expected = process.time(((z + low) / (1 + z / high)).atan())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8 * last)
    assert (found > plain).all() if k > 1 else (found < plain).all()


@pytest.mark.parametrize("k", [1e-3, 0.3, 3.0, 1e3])
def test_shifted_times_begin_and_end_where_a_sampler_asks(k, process):
    ends = times.shifted_times(torch.tensor([0.0, 1.0], dtype=torch.float64), process, 0.7, k)
    expected = torch.tensor([0.7, process.num_steps], dtype=torch.float64)
    torch.testing.assert_close(ends, expected, rtol=1e-8, atol=0)


def test_shifted_times_are_the_shifted_grid(process):
    """Of a network that is sampled at the times of its training."""
    plain, moved = (grid("angle", process, 30, 0.7, k) for k in (1.0, 2.5))
    u = (plain[:-1] - 0.7) / (process.num_steps - 0.7)
    found = times.shifted_times(u, process, 0.7, 2.5)
    torch.testing.assert_close(found, moved[:-1], rtol=1e-8, atol=0)


@pytest.mark.parametrize("k", [0.5, math.sqrt(3), 3.0])
def test_on_the_rectified_path_a_shift_from_data_on_is_sd3s(k):
    sde = RectifiedSDE(1000)
    expected = 1000 * k * GRID / (1 + (k - 1) * GRID)
    found = times.shifted_times(GRID, sde, 0.0, k)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    near = times.shifted_times(GRID, sde, 0.5, k)  # no farther off than its ends are moved
    assert (near - found).abs().max() <= 0.5 * max(1, k)
    noise = Noise.of(1, 0, 7)
    drawn, density = objective("real", shift=k).draw(noise, sde)
    assert torch.equal(density, torch.ones_like(density))  # part of the objective
    plain, _ = objective("real").draw(noise, sde)
    assert (drawn > plain).all() if k > 1 else (drawn < plain).all()


def test_of_one_time_there_is_no_other():
    sde = VPSDE(torch.tensor([0.5]))
    assert torch.equal(times.shifted_times(GRID, sde, 1.0, 3.0), torch.ones_like(GRID))


def test_a_shift_of_log_normal_times_moves_their_mean():
    noise, sde = Noise.of(1, 0, 50), VPSDE.cosine(100)
    shifted, density = objective("log_normal", log_normal_mean=-1.0, shift=2.0).draw(noise, sde)
    moved, _ = objective("log_normal", log_normal_mean=-1.0 + math.log(2.0)).draw(noise, sde)
    assert torch.equal(shifted, moved)
    assert torch.equal(density, torch.ones(50, dtype=torch.float64))


def test_low_discrepancy_log_normal_times_are_one_in_each_cell():
    sde = VPSDE.cosine(100)
    law = objective("log_normal", spread=True)
    t, _ = law.draw(Noise.of(5, 0, 64), sde)
    cuts = times.log_normal_times(torch.arange(65).double() / 64, sde, 0.7, -1.2, 1.2)
    cells = torch.bucketize(t, cuts)
    assert sorted(cells.tolist()) == list(range(1, 65))
    halves = [law.draw(Noise(5, index, 0), sde, 64)[0] for index in torch.arange(64).split(32)]
    assert torch.equal(torch.cat(halves), t)


def test_the_least_and_the_greatest_draw_are_times_of_the_process(process):
    """Uniform draws are multiples of 2^-32, 0 among them."""
    u = torch.tensor([0.0, 1 - 2.0**-32], dtype=torch.float64)
    for std in (0.3, 1.2, 8.0):
        t = times.log_normal_times(u, process, 0.7, -1.2, std)
        assert ((t >= 0.7) & (t <= process.num_steps)).all()
    t = times.shifted_times(u, process, 0.7, 5.0)
    assert ((t >= 0.7) & (t <= process.num_steps)).all()


def test_a_law_that_lies_elsewhere_is_refused():
    sde, u = EDMSDE(100), GRID
    with pytest.raises(RequestError, match=r"training\.log_normal_mean between them"):
        times.log_normal_times(u, sde, 1.0, 20.0, 1.2)
    with pytest.raises(RequestError, match=r"only 0 of the law"):
        times.log_normal_times(u, sde, 1.0, -50.0, 0.1)


@pytest.mark.parametrize(
    ("law", "more", "told"),
    [
        ("integer", {"shift": 2.0}, "integer times are the chain's own steps"),
        ("importance", {"shift": 2.0}, "divided by the density"),
        ("real", {"shift": 2.0, "name": "likelihood"}, "is a bound"),
        ("log_normal", {"name": "likelihood"}, "is a bound"),
        ("log_normal", {"name": "mean"}, "whole steps of the chain"),
    ],
)
def test_what_a_shift_or_a_law_would_make_another_thing_of_is_refused(law, more, told):
    with pytest.raises(RequestError, match=told) as refused:
        objective(law, **more)
    assert "\n" not in str(refused.value)
