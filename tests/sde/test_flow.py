"""The field and its divergence, against closed forms, Jacobians and finite differences."""

import itertools

import pytest
import torch
from torch import Tensor

from scoreflow.sde.analytic import LevelGrid, gaussian
from scoreflow.sde.flow import (
    sign_probes,
    sign_set_size,
    unit_probes,
    velocity,
    velocity_and_divergence,
)
from scoreflow.sde.noise import Noise, Stream

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
