"""Five views of one estimate, against their definitions with the true x_0 and eps."""

import itertools

import pytest
import torch
from torch import Tensor

from scoreflow.sde.base import SDE, broadcast
from scoreflow.sde.prediction import KINDS, predict


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
