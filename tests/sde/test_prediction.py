"""Five views of one estimate, against their definitions with the true x_0 and eps."""

import itertools

import pytest
import torch
from torch import Tensor

from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.prediction import KINDS, predict, predict_of_datum
from scoreflow.sde.processes.rectified import RectifiedSDE


def truth(sde: SDE) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Times 1..N, x_t there, and what each kind is by definition, from a drawn x_0 and eps."""
    t = torch.arange(1, sde.num_steps + 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, len(t), 2, 3, dtype=torch.float64, generator=generator)
    phi = broadcast(sde.angle(t), x_0)
    views = {
        "x_0": x_0,
        "eps": eps,
        "v": phi.cos() * eps - phi.sin() * x_0,
        "score": -eps / broadcast(sde.sigma(t), x_0),
        "u": eps - x_0,
    }
    return t, sde.perturb(x_0, t, eps), views


def magnification(given: str, wanted: str, alpha: Tensor, sigma: Tensor) -> Tensor:
    """How many times larger than x_t and the estimate a conversion makes their rounding."""
    one = torch.ones_like(alpha)
    loss = {"x_0": 1 / sigma, "eps": 1 / alpha, "score": 1 / alpha, "v": one, "u": one}
    if wanted == "score":
        return (loss["x_0"] if given == "x_0" else 1) / sigma
    if (given, wanted) in {("score", "eps"), ("eps", "eps")}:
        return one
    return loss[given]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("given", "wanted"), list(itertools.product(KINDS, KINDS)))
def test_every_view_from_every_other(process, given, wanted, dtype):
    t, x_t, views = truth(process)
    value = views[given].to(dtype)
    prediction = predict(process, x_t.to(dtype), t, given, value)
    result = getattr(prediction, wanted)
    assert result.dtype == dtype

    error = (result.double() - views[wanted]).abs().flatten(1).amax(1)
    size = 1 + x_t.abs().flatten(1).amax(1) + views["x_0"].abs().flatten(1).amax(1)
    size += views["eps"].abs().flatten(1).amax(1)
    alpha, sigma = process.alpha(t), process.sigma(t)
    bound = 4 * torch.finfo(dtype).eps * size * magnification(given, wanted, alpha, sigma)
    told = bound.isfinite()  # where no signal is left, eps says nothing of x_0
    assert told.sum() >= len(t) - 1
    assert (error <= bound)[told].all(), (error / bound)[told].max()


@pytest.mark.parametrize(("given", "between"), list(itertools.permutations(KINDS, 2)))
def test_views_are_mutually_inverse(process, given, between):
    """There and back, where neither scale is small: to a few units in the last place."""
    t, x_t, views = truth(process)
    middle = (process.alpha(t) > 0.3) & (process.sigma(t) > 0.3)
    t, x_t, value = t[middle], x_t[middle], views[given][middle]
    there = getattr(predict(process, x_t, t, given, value), between)
    back = getattr(predict(process, x_t, t, between, there), given)
    torch.testing.assert_close(back, value, rtol=0, atol=1e-13)


def test_one_time_for_all_or_one_for_each(process):
    t, x_t, views = truth(process)
    k = len(t) // 3
    each = predict(process, x_t, t, "eps", views["eps"]).v[k]
    shared = predict(process, x_t, t[k], "eps", views["eps"]).v[k]
    torch.testing.assert_close(each, shared, rtol=1e-15, atol=1e-15)


def test_the_given_view_is_returned_untouched(process):
    t, x_t, views = truth(process)
    for kind, value in views.items():
        assert getattr(predict(process, x_t, t, kind, value), kind) is value


def ends_and_between(sde: SDE) -> Tensor:
    """Times from a rounding above 0 to N itself."""
    n = float(sde.num_steps)
    inside = torch.linspace(1, n - 1, 23, dtype=torch.float64)
    close = torch.tensor([1e-9, 1e-6, 1e-3, 0.1], dtype=torch.float64)
    return torch.cat([close, inside, n - close, close.new_tensor([n])])


def drawn_at(sde: SDE, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x_0 and eps, and x_t."""
    generator = torch.Generator().manual_seed(1)
    x_0, eps = torch.randn(2, len(t), 3, dtype=torch.float64, generator=generator)
    return x_0, eps, sde.perturb(x_0, t, eps)


def test_u_gives_all_but_the_score_at_both_ends(process):
    """In float32 too: to a few of its units, of numbers of order 1 and r, at 1e-9 and at N."""
    t = ends_and_between(process)
    x_0, eps, x_t = drawn_at(process, t)
    phi = broadcast(process.angle(t), x_0)
    exact = {"x_0": x_0, "eps": eps, "v": phi.cos() * eps - phi.sin() * x_0}
    for dtype in (torch.float64, torch.float32):
        found = predict(process, x_t.to(dtype), t, "u", (eps - x_0).to(dtype))
        size = 1 + x_t.abs() + x_0.abs() + eps.abs()
        for view, expected in exact.items():
            error = (getattr(found, view).double() - expected).abs()
            assert (error <= 4 * torch.finfo(dtype).eps * size).all(), (view, dtype)


def test_v_gives_u_at_both_ends(process):
    t = ends_and_between(process)
    x_0, eps, x_t = drawn_at(process, t)
    phi = broadcast(process.angle(t), x_0)
    v = phi.cos() * eps - phi.sin() * x_0
    found = predict(process, x_t.float(), t, "v", v.float()).u.double()
    # (alpha + sigma) / r <= sqrt(2), |alpha - sigma| / r <= 1: of x_t / r, and of v
    size = 1 + (x_0.abs() + eps.abs()) * (1 + 1 / broadcast(process.scale(t), x_0))
    assert ((found - (eps - x_0)).abs() <= 8 * torch.finfo(torch.float32).eps * size).all()


def test_on_the_straight_path_v_is_r_u_and_a_share_of_x_t():
    """v = r u + (1 - 2 tau) x_t / r and u = d x_t / d tau; v is eps at 0, and -x_0 at N."""
    sde = RectifiedSDE(1000)
    t = ends_and_between(sde)
    x_0, eps, x_t = drawn_at(sde, t)
    tau, r = broadcast(t / 1000, x_0), broadcast(sde.scale(t), x_0)
    u = eps - x_0
    expected = r * u + (1 - 2 * tau) * x_t / r
    torch.testing.assert_close(predict(sde, x_t, t, "u", u).v, expected, rtol=0, atol=4e-15)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    v = (broadcast(alpha, x_0) * eps - broadcast(sigma, x_0) * x_0) / r
    torch.testing.assert_close(expected, v, rtol=0, atol=4e-15)
    further = sde.perturb(x_0[4:20], t[4:20] + 0.5, eps[4:20])
    torch.testing.assert_close((further - x_t[4:20]) / 0.0005, u[4:20], rtol=0, atol=1e-11)
    ends = predict(sde, x_t[[0, -1]], t[[0, -1]], "u", u[[0, -1]]).v
    torch.testing.assert_close(ends, torch.stack([eps[0], -x_0[-1]]), rtol=0, atol=1e-11)


def test_errors_of_v_and_u_are_in_proportion(process):
    """|v error| = r |u error| / (alpha + sigma): on the straight path, r |u error|."""
    t = ends_and_between(process)
    x_0, eps, x_t = drawn_at(process, t)
    error = torch.linspace(-1, 1, x_0.numel(), dtype=torch.float64).view_as(x_0)
    right, wrong = (predict(process, x_t, t, "u", eps - x_0 + e).v for e in (0 * error, error))
    share = process.scale(t) / (process.alpha(t) + process.sigma(t))
    expected = broadcast(share, error) * error
    size = 1 + (x_t / broadcast(process.scale(t), x_t)).abs() + (eps - x_0).abs()
    assert ((wrong - right - expected).abs() <= 1e-14 * size).all()


DATA = [(0.0, 1.0), (0.0, 0.5), (0.25, 3.0), (-1.0, 0.4)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("centre", "spread"), DATA)
@pytest.mark.parametrize("kind", ["u", "v", "x_0"])
def test_estimates_about_another_datum(kind, centre, spread, dtype, process):
    """Of z_0 = (x_0 - centre) / spread, by its own rotation: as by definition, at both ends."""
    t = ends_and_between(process)
    x_0, eps, x_t = drawn_at(process, t)
    z_0 = (x_0 - centre) / spread
    alpha, sigma = (broadcast(each(t), x_0) for each in (process.alpha, process.sigma))
    phi = (sigma / (alpha * spread)).atan()
    of_z = {"u": eps - z_0, "v": phi.cos() * eps - phi.sin() * z_0, "x_0": z_0}[kind]
    args = centre, spread
    found = predict_of_datum(process, x_t.to(dtype), t, kind, of_z.to(dtype), *args)
    assert found.kind == kind
    of_x = (sigma / alpha).atan()
    exact = {"u": eps - x_0, "v": of_x.cos() * eps - of_x.sin() * x_0, "x_0": x_0}
    most = 1 + max(spread, 1 / spread)  # of the factors, bounded in time
    size = most**2 * (1 + x_t.abs() + x_0.abs() + eps.abs())
    size = size * (1 + 1 / broadcast(process.scale(t), x_0))
    views = ("x_0",) if kind == "x_0" else exact  # whose rounding is divided by sigma elsewhere
    for view in views:
        error = (getattr(found, view).double() - exact[view]).abs()
        assert (error <= 4 * torch.finfo(dtype).eps * size).all(), (view, (error / size).max())
