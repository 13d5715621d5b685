"""Cached functions of time have the bits of computed ones, and are forgotten afterwards."""

import pytest
import torch

from scoreflow.sde import VESDE, VPSDE, SubVPSDE

PROCESSES = {
    "vp": VPSDE.linear(100),
    "subvp": SubVPSDE.cosine(100),
    "ve": VESDE(100),
}
TIMES = torch.tensor([100.0, 70.0, 33.25, 12.0, 1.0, 0.0], dtype=torch.float64)
OF_A_TIME = ("log_alpha", "alpha", "variance", "sigma", "angle", "scale", "log_snr")
OF_A_TIME += ("drift", "diffusion")


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", OF_A_TIME)
def test_functions_of_a_time_keep_their_bits(process, name):
    sde = PROCESSES[process]
    asked = TIMES[:-1]  # the slope of a diffusion at clean data is not asked for
    plain = [getattr(sde, name)(t) for t in asked]
    with sde.cached_at(TIMES):
        found = [getattr(sde, name)(t) for t in asked]
        again = [getattr(sde, name)(t) for t in asked]
    assert [x.tolist() for x in found] == [x.tolist() for x in plain]
    assert all(a is b for a, b in zip(found, again, strict=True))  # no second computation


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", ["transition", "posterior_weights"])
def test_functions_of_two_times_keep_their_bits(process, name):
    sde = PROCESSES[process]
    pairs = [(s, t) for t in TIMES for s in TIMES if s < t]
    plain = [getattr(sde, name)(s, t) for s, t in pairs]
    with sde.cached_at(TIMES):
        found = [getattr(sde, name)(s, t) for s, t in pairs]
    for a, b in zip(found, plain, strict=True):
        assert [x.tolist() for x in a] == [x.tolist() for x in b]


def test_other_times_and_whole_batches_are_computed():
    sde, other = PROCESSES["vp"], torch.tensor(50.5, dtype=torch.float64)
    batch = torch.stack([TIMES[1], other])
    plain = sde.alpha(other), sde.alpha(batch)
    with sde.cached_at(TIMES):
        assert sde.alpha(other).equal(plain[0])
        assert sde.alpha(batch).equal(plain[1])


def test_a_grid_is_forgotten_with_its_context_even_after_an_error():
    sde = VPSDE.linear(100)

    def stop():
        with sde.cached_at(TIMES):
            sde.alpha(TIMES[0])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert sde.alpha(TIMES[0]) is not sde.alpha(TIMES[0])
    # so a derivative by time sees the function itself, not a remembered number
    t = TIMES[1].clone()
    _, slope = torch.func.jvp(sde.alpha, (t,), (torch.ones_like(t),))
    assert float(slope) < 0


def test_grids_nest():
    sde, inner = VPSDE.linear(100), torch.tensor([100.0, 5.0, 0.0], dtype=torch.float64)
    with sde.cached_at(TIMES):
        first = sde.sigma(TIMES[1])
        with sde.cached_at(inner):
            assert sde.sigma(inner[1]) is sde.sigma(inner[1])
            assert sde.sigma(TIMES[1]) is not first
        assert sde.sigma(TIMES[1]) is first
