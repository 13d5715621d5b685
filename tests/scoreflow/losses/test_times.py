"""Log-normal and shifted times: their laws, by other people's formulas, and what is refused."""

import math

import pytest
import scipy.special
import scipy.stats
import torch

from scoreflow.errors import RequestError
from scoreflow.losses import times
from scoreflow.losses.objective import Objective
from scoreflow.sde import EDMSDE, VPSDE, Noise, RectifiedSDE
from scoreflow.sde.base import ends_without_signal

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


@pytest.mark.parametrize("k", [0.3, 3.0])
def test_a_shift_moves_the_log_snr_of_uniform_times_and_ends_where_they_end(k, process):
    last = float(process.num_steps)
    t = times.shifted_times(GRID, process, 0.7, k)
    assert (t >= 0.7).all()
    assert (t <= last).all()
    base = process.time_of_log_snr(process.log_snr(t) + 2 * math.log(k))
    stride = base.diff()
    torch.testing.assert_close(stride, stride[:1].expand(399), rtol=0, atol=1e-6 * last)
    ends = times.shifted_times(torch.tensor([0.0, 1.0], dtype=torch.float64), process, 0.7, k)
    torch.testing.assert_close(ends[0].item(), 0.7, rtol=1e-8, atol=1e-8)
    top = log_ratio(process, torch.tensor(last, dtype=torch.float64)) + min(0.0, math.log(k))
    if not ends_without_signal(process):
        assert float(log_ratio(process, ends[1])) == pytest.approx(float(top), abs=1e-8)
    else:
        assert float(ends[1]) == last


@pytest.mark.parametrize("k", [0.5, math.sqrt(3), 3.0])
def test_on_the_rectified_path_a_shift_is_sd3s(k):
    sde, t_min = RectifiedSDE(1000), 0.5
    low = (t_min / 1000) / (k - (k - 1) * t_min / 1000)  # shifted to t_min
    tau = low + (1 - low) * GRID
    expected = 1000 * k * tau / (1 + (k - 1) * tau)
    found = times.shifted_times(GRID, sde, t_min, k)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    noise = Noise.of(1, 0, 7)
    drawn, density = objective("real", shift=k).draw(noise, sde)
    assert torch.equal(density, torch.ones_like(density))  # part of the objective
    plain, _ = objective("real").draw(noise, sde)
    assert (drawn > plain).all() if k > 1 else (drawn < plain).all()


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
    with pytest.raises(RequestError, match=r"training\.shift = 1e-05 moves every time below"):
        times.shifted_times(u, sde, 1.0, 1e-5)


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
