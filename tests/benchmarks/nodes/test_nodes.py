"""Rules for nodes against closed forms: a Gaussian's flow, and integrals that are known."""

import math
from types import SimpleNamespace

import pytest
import torch

from benchmarks.nodes import __main__ as command
from benchmarks.nodes import rules
from benchmarks.nodes.profile import Profile, gaussian_jacobian, measure, sign_variance
from scoreflow.likelihood.gaussian_reference import Reference
from scoreflow.sde import VPSDE
from scoreflow.sde.analytic import gaussian

LEVELS, SDE = 5, VPSDE.linear(400)


class Exact:
    """A closed form with what a run's model says of itself."""

    posed = sde = SDE
    t_min = 1.0

    def __init__(self, denoiser):
        self.denoiser = denoiser

    def for_solver(self):
        return self

    def __call__(self, x, t):
        return self.denoiser(x, t)


@pytest.fixture(scope="module")
def profile():
    """Of the Gaussian that fits some images: nothing is left beyond it."""
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(LEVELS, (60, 1, 2, 2), generator=drawn, dtype=torch.uint8)
    fitted = Reference.fit(images, 1 / (3 * LEVELS**2), lambda k: (2 * k + 1) / LEVELS - 1)
    covariance = fitted.axes * fitted.variances @ fitted.axes.T
    exact = gaussian(fitted.mean, covariance).denoiser(SDE)
    data = SimpleNamespace(train=images, test=images, num_levels=LEVELS)
    run = SimpleNamespace(model=Exact(exact), data=data)
    return fitted, measure(run, 2, 100)


def test_a_gaussians_divergence_is_that_of_its_spread(profile):
    """The integral of div v is the log of how the volume grows from end to end."""
    fitted, found = profile
    angles = found.s.exp().atan()
    spread = (fitted.variances[:, None] * angles.cos() ** 2 + angles.sin() ** 2).log().sum(0) / 2
    integral = torch.trapezoid(found.integrand, found.s)
    assert torch.allclose(integral, (spread[-1] - spread[0]).expand(2), rtol=5e-3)
    assert (found.beyond_gaussian < 1e-12).all()
    k = 45
    jacobian = gaussian_jacobian(fitted, float(angles[k]))
    rate = float(angles[k].sin() * angles[k].cos())
    assert found.variance[0, k].item() == pytest.approx(
        rate**2 * float(sign_variance(jacobian)), rel=1e-4
    )


def test_the_variance_of_a_probe_is_that_over_all_signs():
    drawn = torch.Generator().manual_seed(1)
    jacobian = torch.randn(4, 4, generator=drawn, dtype=torch.float64)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 4)
    estimates = torch.einsum("ri,ij,rj->r", signs, jacobian, signs)
    assert float(estimates.var(unbiased=False)) == pytest.approx(float(sign_variance(jacobian)))


@pytest.fixture(scope="module")
def smooth():
    """Two integrands that are known, with probes of one variance."""
    s = torch.linspace(-4, 3, 4001, dtype=torch.float64)
    integrand = torch.stack(((-((s + 1) ** 2)).exp(), (0.3 * s).exp()))
    return Profile(s, integrand, torch.full_like(integrand, 2.0), 0 * integrand + 1, 3)


def test_the_noise_of_rules_is_known(smooth):
    even = rules.densities(smooth)["even in log tan phi"]
    unit, count = 3 * math.log(2), 16
    # probes: variance times (7 / K)^2 at each of K nodes
    found = rules.probe_part(smooth, even, count, smooth.variance)
    assert found == pytest.approx(2.0 * 49 / count / unit**2, rel=1e-6)
    # independent in strata of width h: to first order slope^2 h^2 / 12 times h^2 in each
    slopes = torch.gradient(smooth.integrand, spacing=(smooth.s,), dim=1)[0]
    expected = float(torch.trapezoid(slopes**2, smooth.s).mean()) * (7 / 64) ** 3 / 12 / unit**2
    found = rules.place_part(smooth, even, rules.strata, 64, 400)
    assert found == pytest.approx(expected, rel=0.25)  # 400 squares of two numbers: 5 * 0.05
    square, bias = rules.gauss_part(smooth, even, 24)
    assert math.sqrt(square) < 1e-5
    assert abs(bias) < 1e-5


def test_every_rule_is_unbiased(smooth):
    """On average over its shifts, of equal weights: each place is uniform."""
    u = torch.rand(4000, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for name, places in rules.PLACES.items():
        found = places(8, u)
        assert found.shape == (4000, 8), name
        assert 0 <= float(found.min()) <= float(found.max()) <= 1, name
        for power in (1, 2, 3):  # 5 standard errors of at most 4000 independent numbers
            assert float((found**power).mean()) == pytest.approx(1 / (power + 1), abs=0.025), name


def test_the_table_has_every_rule(smooth):
    rows = command.rows_of(smooth)
    text = command.text_of(rows)
    assert len(rows) == 3 * 5 * len(command.COUNTS)
    for name in [*rules.PLACES, rules.GAUSS]:
        assert name in text
    for row in rows:
        assert row["error"] == pytest.approx(math.hypot(row["places"], row["probes"]))


def test_a_large_jacobian_is_told_by_probes(profile, monkeypatch):
    """All 4 sign vectors of these 4 dimensions: their mean is the trace."""
    monkeypatch.setattr("benchmarks.nodes.profile.MOST_PRODUCTS", 3)
    monkeypatch.setattr("benchmarks.nodes.profile.PROBES", 4)
    fitted, found = profile
    covariance = fitted.axes * fitted.variances @ fitted.axes.T
    exact = gaussian(fitted.mean, covariance).denoiser(SDE)
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    data = SimpleNamespace(train=images, test=images, num_levels=LEVELS)
    estimated = measure(SimpleNamespace(model=Exact(exact), data=data), 2, 100)
    assert torch.allclose(estimated.integrand, found.integrand, rtol=1e-4, atol=1e-9)
    rows = command.rows_of(estimated)
    assert {row["rule"] for row in rows} == {command.ALONE}
    assert "by one probe a node alone" in command.text_of(rows)
