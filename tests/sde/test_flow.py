"""The field and its divergence, against closed forms, Jacobians and finite differences."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from scoreflow.samplers import ProbabilityFlow, Step
from scoreflow.sde import VESDE, VPSDE, SubVPSDE
from scoreflow.sde.analytic import LevelGrid, gaussian
from scoreflow.sde.base import Ended
from scoreflow.sde.flow import (
    prior_cost,
    sign_probes,
    sign_set_size,
    unit_probes,
    velocity,
    velocity_and_divergence,
    well_posed,
)
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import predict

MEAN = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
COVARIANCE = torch.tensor(
    [[0.5, 0.2, 0.0], [0.2, 0.3, -0.1], [0.0, -0.1, 1.4]], dtype=torch.float64
)
EYE = torch.eye(3, dtype=torch.float64)
ANGLES = torch.tensor([0.05, 0.4, 0.8, 1.1], dtype=torch.float64)  # within every process


def points(dim: int = 3, batch: int = 4) -> Tensor:
    return Noise.of(0, 0, batch).normal(Stream.DATA, (dim,))


def test_gaussian_flow_is_its_closed_form(process):
    """x~ ~ N(cos m, M) with M = cos^2 C + sin^2; v and x~ are jointly Gaussian."""
    x = points()
    v, products = velocity_and_divergence(
        process, gaussian(MEAN, COVARIANCE).denoiser(process), ANGLES, x, unit_probes(x)
    )
    for k, phi in enumerate(ANGLES):
        cos, sin = phi.cos(), phi.sin()
        marginal = cos**2 * COVARIANCE + sin**2 * EYE
        jacobian = cos * sin * (EYE - COVARIANCE) @ torch.linalg.inv(marginal)
        expected = -sin * MEAN + jacobian @ (x[k] - cos * MEAN)
        torch.testing.assert_close(v[k], expected, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(products[k].sum(), jacobian.trace(), rtol=1e-11, atol=1e-11)


def test_velocity_is_the_predictions(process, mixture):
    x, t = points(2), process.time(ANGLES)
    x_t = process.scale(t)[:, None] * x
    expected = mixture.denoiser(process)(x_t, t).v
    v = velocity(process, mixture.denoiser(process), ANGLES, x)
    torch.testing.assert_close(v, expected, rtol=1e-12, atol=1e-12)


def test_unit_probes_give_the_trace_of_the_jacobian(process, mixture):
    denoiser, x = mixture.denoiser(process), points(2)
    v, products = velocity_and_divergence(process, denoiser, ANGLES, x, unit_probes(x))
    assert products.shape == (4, 2)
    for k in range(4):

        def alone(row, angle=ANGLES[k]):
            return velocity(process, denoiser, angle, row[None])[0]

        jacobian = torch.autograd.functional.jacobian(alone, x[k])
        torch.testing.assert_close(products[k], jacobian.diag(), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(v[k], alone(x[k]), rtol=1e-12, atol=1e-12)


def test_divergence_of_levels_is_that_of_finite_differences(process):
    grid = LevelGrid(torch.tensor([0.6, 0.1, 0.1, 0.2], dtype=torch.float64), 3)
    denoiser, x, h = grid.denoiser(process), points() / 2, 1e-5
    _, products = velocity_and_divergence(process, denoiser, ANGLES, x, unit_probes(x))
    ahead, behind = (velocity(process, denoiser, ANGLES, x + step) for step in (h, -h))
    # pixels are independent, so each slope is in its own pixel alone
    torch.testing.assert_close(products, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-5)


def test_all_signs_average_to_the_trace(process, mixture):
    """Hutchinson's estimate is unbiased: exactly so over all four sign vectors of the plane."""
    denoiser, x = mixture.denoiser(process), points(2)
    signs = [torch.tensor(s).expand(4, 2) for s in itertools.product([-1.0, 1.0], repeat=2)]
    probes = [sign.double() for sign in signs]
    _, estimates = velocity_and_divergence(process, denoiser, ANGLES, x, probes)
    _, products = velocity_and_divergence(process, denoiser, ANGLES, x, unit_probes(x))
    torch.testing.assert_close(estimates.mean(1), products.sum(1), rtol=1e-12, atol=1e-12)
    assert estimates.std(1).min() > 1e-3  # each alone is not the trace


def test_drawn_signs_average_to_the_trace(process):
    denoiser, x = gaussian(MEAN, COVARIANCE).denoiser(process), points()
    probes = [Noise.of(0, 0, 4).rademacher(Stream.PROBE, (3,), draw) for draw in range(200)]
    _, estimates = velocity_and_divergence(process, denoiser, ANGLES, x, probes)
    _, products = velocity_and_divergence(process, denoiser, ANGLES, x, unit_probes(x))
    standard_error = estimates.std(1) / 200**0.5
    assert ((estimates.mean(1) - products.sum(1)).abs() < 3 * standard_error).all()


def test_one_evaluation_gives_all(process, mixture):
    calls = []

    def counting(x_t, t):
        calls.append(len(x_t))
        return mixture.denoiser(process)(x_t, t)

    x = points(2)
    with torch.no_grad():  # as inside the solver
        v, products = velocity_and_divergence(process, counting, ANGLES, x, unit_probes(x))
    assert calls == [4]
    assert not v.requires_grad
    assert not products.requires_grad


def test_one_angle_for_all_or_one_for_each(process, mixture):
    x, denoiser = points(2), mixture.denoiser(process)
    each = velocity(process, denoiser, ANGLES[2].expand(4), x)
    shared = velocity(process, denoiser, ANGLES[2], x)
    torch.testing.assert_close(each, shared, rtol=1e-14, atol=1e-14)


def test_images_have_a_divergence_too(process):
    grid = LevelGrid(torch.tensor([0.5, 0.5]), 4)
    x = points(4)
    image = x.view(4, 1, 2, 2)
    _, flat = velocity_and_divergence(process, grid.denoiser(process), ANGLES, x, unit_probes(x))
    v, products = velocity_and_divergence(
        process, grid.denoiser(process), ANGLES, image, unit_probes(image)
    )
    assert v.shape == image.shape
    torch.testing.assert_close(products, flat, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("dims", "size"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_the_mean_over_all_signs_is_the_trace(dims, size):
    noise = Noise.of(3, 0, 2)
    assert sign_set_size(dims) == size
    probes = sign_probes(noise, (dims,), size)
    assert (probes.abs() == 1).all()
    gram = torch.einsum("bpi,bpj->bij", probes, probes) / size
    torch.testing.assert_close(gram, torch.eye(dims, dtype=torch.float64).expand(2, -1, -1))


def test_signs_drawn_without_replacement_vary_less():
    """Var of the mean of P is that of one times (1/P) (1 - (P - 1) / (K - 1))."""
    matrix = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    probes = sign_probes(Noise.of(0, 0, 20_000), (3, 4), 8).flatten(2)
    each = torch.einsum("bpi,ij,bpj->bp", probes, matrix, probes)
    off = matrix - matrix.diag().diag()
    one = float(((off + off.T) ** 2).sum() / 2)  # of one independent draw
    assert float(each[:, 0].mean()) == pytest.approx(float(matrix.trace()), abs=0.3)
    assert float(each[:, 0].var()) == pytest.approx(one, rel=0.05)
    expected = one / 8 * (1 - 7 / 15)
    assert float(each.mean(1).var()) == pytest.approx(expected, rel=0.05)


def test_the_signs_of_a_sample_are_its_own():
    alone = sign_probes(Noise.of(0, 5, 6), (2, 3), 4)
    together = sign_probes(Noise.of(0, 0, 9), (2, 3), 4)
    assert torch.equal(together[5:6], alone)
    assert torch.equal(sign_probes(Noise.of(0, 0, 9), (2, 3), 2), together[:, :2])


@pytest.mark.parametrize("count", [0, 9])
def test_more_signs_than_there_are_are_refused(count):
    with pytest.raises(ValueError, match=r"1\.\.8"):
        sign_probes(Noise.of(0, 0, 1), (6,), count)


# ---- where a flow begins


def at(t):
    return torch.tensor(float(t), dtype=torch.float64)


@pytest.mark.parametrize("make", [VPSDE.cosine, VPSDE.log_linear])
def test_an_estimate_of_eps_starts_where_alpha_says_something(make):
    whole = make(1000)
    for kind in ("x_0", "v"):
        assert well_posed(whole, kind) is whole
    for kind in ("eps", "score", "mean", "gradient"):
        end = well_posed(whole, kind).num_steps
        assert float(whole.log_snr(at(end + 1))) < -5 <= float(whole.log_snr(at(end)))


def test_schedules_that_end_earlier_are_left_as_they_are():
    for sde in (VPSDE.linear(1000), VPSDE.scaled_linear(1000), VESDE(1000), SubVPSDE.linear(1000)):
        assert well_posed(sde, "eps") is sde


def test_an_ended_process_is_the_same_path(process):
    end = Ended(process, process.num_steps // 2)
    t, s = torch.tensor([1.5, 7.0, end.num_steps], dtype=torch.float64), at(0.5)
    for name in ("log_alpha", "variance", "scale", "angle", "drift", "diffusion"):
        assert torch.equal(getattr(end, name)(t), getattr(process, name)(t))
    assert torch.equal(end.time(end.angle(t)), process.time(process.angle(t)))
    for own, whole in zip(end.transition(s, t), process.transition(s, t), strict=True):
        assert torch.equal(own, whole)
    assert end.prior_std() == process.scale(at(end.num_steps))
    with pytest.raises(ValueError, match="ends at one of them, got 0"):
        Ended(process, 0)


def test_the_prior_costs_at_most_its_bound(process):
    """KL(p_N | prior) of points at -1 and 1, by a sum over x, and of uniform points."""
    for sde in (process, Ended(process, process.num_steps // 2)):
        alpha, sigma, s = *scales(sde), sde.prior_std()
        reach = float(alpha + 9 * torch.maximum(sigma, s))
        x = torch.linspace(-reach, reach, 400_001, dtype=torch.float64)
        prior = torch.distributions.Normal(0 * s, s).log_prob(x)
        step, bound = float(x[1] - x[0]), prior_cost(sde)
        for points_0 in ([-1.0, 1.0], torch.linspace(-1, 1, 41).tolist(), [1.0]):
            each = [torch.distributions.Normal(alpha * p, sigma).log_prob(x) for p in points_0]
            log_p = torch.stack(each).logsumexp(0) - math.log(len(points_0))
            cost = float((log_p.exp() * (log_p - prior)).sum()) * step
            assert cost <= bound + 1e-9
        assert cost == pytest.approx(bound, rel=1e-5, abs=1e-9)  # one point at the end attains it


def scales(sde):
    end = at(sde.num_steps)
    return sde.alpha(end), sde.sigma(end)


def test_the_prior_of_a_flow_that_ends_early_costs_little():
    for sde in (VPSDE.cosine(1000), VPSDE.log_linear(1000)):
        assert prior_cost(well_posed(sde, "eps")) / math.log(2) < 0.005
        assert prior_cost(sde) / math.log(2) < 2e-5


def test_an_error_of_eps_grows_with_one_over_alpha_at_the_start():
    """A Gaussian's exact eps, but for a share k: samples grow as alpha^-k on the way from N."""
    sde, share = VPSDE.cosine(1000), 0.3
    truth = gaussian(torch.zeros(2, dtype=torch.float64), 0.09 * torch.eye(2, dtype=torch.float64))
    exact = truth.denoiser(sde)

    def off(x_t, t):
        return predict(sde, x_t, t, "eps", (1 - share) * exact(x_t, t).eps)

    z = Noise.of(0, 0, 64).normal(Stream.PRIOR, (2,))

    def farthest(denoiser, process):
        flow, noise = ProbabilityFlow(1.0, 1e-6), Noise.of(0, 0, 64)
        step = Step(denoiser, process, at(process.num_steps), at(0), noise)
        return float(flow.step(process.prior_std() * z, step).abs().max())

    posed = well_posed(sde, "eps")
    assert farthest(exact, posed) == pytest.approx(farthest(exact, sde), rel=1e-2)
    alphas = [float(sde.alpha(at(process.num_steps))) for process in (posed, sde)]
    grown = (alphas[0] / alphas[1]) ** share
    assert farthest(off, sde) / farthest(off, posed) == pytest.approx(grown, rel=0.02)
    assert grown > 9
