"""Posterior samplers, held against posteriors that are closed forms.

Of Gaussian data and of a mixture of them, the posterior given y = A x_0 + s n is one too, so its
exact denoiser is known.
"""

import pytest
import torch

from scoreflow.samplers import (
    DDIM,
    DPS,
    MMPS,
    Ancestral,
    AnnealedLangevin,
    BlockMean,
    DPMSolver,
    Heun,
    Masked,
    Measurement,
    PredictorCorrector,
    ProbabilityFlow,
    Replaced,
    Step,
    UniPC,
    grid,
    sample,
)
from scoreflow.samplers.editing.conjugate_gradients import conjugate_gradients
from scoreflow.sde.analytic import GaussianMixture, gaussian
from scoreflow.sde.noise import Noise, Stream
from scoreflow.sde.prediction import predict
from scoreflow.sde.processes.rectified import RectifiedSDE
from scoreflow.sde.processes.ve import VESDE
from scoreflow.sde.processes.vp import VPSDE

SHAPE = (1, 2, 4)
D = 8
EYE = torch.eye(D, dtype=torch.float64)


def smooth(scale=0.5):
    """A covariance of neighbours, (8, 8), full and positive definite."""
    places = torch.arange(D, dtype=torch.float64)
    return scale * torch.exp(-0.5 * (places[:, None] - places) ** 2 / 4) + 0.05 * EYE


MEAN = torch.linspace(-0.5, 0.5, D, dtype=torch.float64)
OPERATORS = {
    "mask": Masked(torch.tensor([1, 1, 0, 0, 1, 0, 1, 0], dtype=torch.bool).view(SHAPE)),
    "blocks": BlockMean(2),
}


def matrix(operator):
    return operator.apply(EYE.view(D, *SHAPE)).flatten(1).T


def measured(operator, std: float = 0.1):
    """A measurement of an arbitrary image."""
    x = Noise.of(11, 0, 1).normal(Stream.DATA, SHAPE)
    return Measurement(operator, operator.apply(x), std)


def posterior(data, measurement):
    """The exact law of x_0 given y, of a mixture (Bishop 2006, Eq. 2.116-2.117)."""
    a, y, noise = matrix(measurement.operator), measurement.value.flatten(), measurement.std**2
    means, covariances, logs = [], [], []
    for weight, mean, covariance in zip(data.weights, data.means, data.covariances, strict=True):
        of_y = a @ covariance @ a.T + noise * torch.eye(len(a), dtype=torch.float64)
        gain = covariance @ a.T @ torch.linalg.inv(of_y)
        means.append(mean + gain @ (y - a @ mean))
        covariance = covariance - gain @ a @ covariance
        covariances.append((covariance + covariance.T) / 2)
        law = torch.distributions.MultivariateNormal(a @ mean, of_y)
        logs.append(weight.log() + law.log_prob(y))
    return GaussianMixture(
        torch.stack(logs).softmax(0), torch.stack(means), torch.stack(covariances)
    )


def points(data, sde, t, n=16):
    noise = Noise.of(5, 0, n)
    x = data.sample(noise).view(n, *SHAPE)
    return sde.perturb(x, t, noise.normal(Stream.PRIOR, SHAPE))


# ---- conjugate gradients


def systems(n=6, size=5):
    factor = Noise.of(1, 0, n).normal(Stream.DATA, (size, size))
    matrices = factor @ factor.mT + 0.1 * torch.eye(size, dtype=torch.float64)
    return matrices, Noise.of(2, 0, n).normal(Stream.DATA, (size,))


def times_each(matrices):
    return lambda x: torch.einsum("bde,be->bd", matrices, x)


def test_conjugate_gradients_solve_in_as_many_steps_as_there_are_unknowns():
    matrices, b = systems()
    x = conjugate_gradients(times_each(matrices), b, 5)
    torch.testing.assert_close(x, torch.linalg.solve(matrices, b), rtol=1e-6, atol=1e-8)


def test_each_row_is_solved_on_its_own():
    """Bit for bit, beside a row that is solved at once, one that is 0 and one that is hopeless."""
    matrices, b = systems()
    matrices[1], b[2] = torch.eye(5, dtype=torch.float64), 0.0
    matrices[3] = -matrices[3]
    together = conjugate_gradients(times_each(matrices), b, 4)
    for k in range(6):
        alone = conjugate_gradients(times_each(matrices[k : k + 1]), b[k : k + 1], 4)
        assert torch.equal(alone[0], together[k])
    torch.testing.assert_close(together[1], b[1])
    assert (together[2] == 0).all()
    assert (together[3] == 0).all()  # no direction of positive curvature


# ---- MMPS


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("t", [1.0, 40.0, 120.0, 200.0])
def test_mmps_is_exact_for_gaussian_data(name, t, process):
    data, measurement = gaussian(MEAN, smooth()), measured(OPERATORS[name])
    t = torch.tensor(t, dtype=torch.float64)
    x = points(data, process, t)
    guided = MMPS(data.denoiser(process), measurement, iterations=D)
    expected = posterior(data, measurement).denoiser(process)(x, t)
    if process.alpha(t) == 0:
        pytest.skip("no Jacobian tells a covariance there: the test below")
    # a score's x_0 is a difference of terms 1 / alpha as large, and so is its Jacobian
    rounding = 100 * torch.finfo(torch.float64).eps / float(process.alpha(t)) ** 2
    torch.testing.assert_close(guided(x, t).x_0, expected.x_0, rtol=1e-8, atol=1e-9 + rounding)


def test_without_signal_mmps_takes_the_covariance_of_unit_data():
    """x_0 given x_t is the data's mean there; given y, of N(mean, I), moved by the pseudo-inverse.

    Where there is hardly any signal, on data of that law, the exact posterior is the same.
    """
    sde, measurement = RectifiedSDE(200), measured(BlockMean(2))
    data = gaussian(MEAN, EYE)
    exact = posterior(data, measurement)
    for t, tolerance in ((200.0, 1e-12), (200.0 - 1e-4, 1e-4)):
        time = torch.tensor(t, dtype=torch.float64)
        x = points(data, sde, time)
        found = MMPS(data.denoiser(sde), measurement, D)(x, time).x_0
        expected = exact.denoiser(sde)(x, time).x_0
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def test_the_score_given_y_is_the_gradient_of_its_log_density():
    """By autograd through log p(y | x_t), which for Gaussian data is a closed form too."""
    sde, data, measurement = VPSDE.linear(200), gaussian(MEAN, smooth()), measured(BlockMean(2))
    t = torch.tensor(60.0, dtype=torch.float64)
    alpha, variance, x = sde.alpha(t), sde.variance(t), points(data, sde, t)
    flat, a = x.flatten(1).requires_grad_(), matrix(measurement.operator)
    gain = alpha * smooth() @ torch.linalg.inv(alpha**2 * smooth() + variance * EYE)
    mean = (MEAN + (flat - alpha * MEAN) @ gain.T) @ a.T
    spread = a @ (smooth() - gain @ smooth() * alpha) @ a.T + measurement.std**2 * torch.eye(
        len(a), dtype=torch.float64
    )
    law = torch.distributions.MultivariateNormal(mean, spread)
    (gradient,) = torch.autograd.grad(law.log_prob(measurement.value.flatten()).sum(), flat)
    denoiser = data.denoiser(sde)
    change = MMPS(denoiser, measurement, D)(x, t).score - denoiser(x, t).score
    torch.testing.assert_close(change.flatten(1), gradient, rtol=1e-7, atol=1e-9)


def test_too_few_iterations_come_nearer_one_by_one():
    sde, data, measurement = VPSDE.linear(200), gaussian(MEAN, smooth()), measured(BlockMean(2))
    t = torch.tensor(60.0, dtype=torch.float64)
    x = points(data, sde, t)
    expected = posterior(data, measurement).denoiser(sde)(x, t).x_0
    errors, products = [], []
    for iterations in (1, 2, 3, 4):  # blocks of 2 x 2 pixels: y has 2 elements
        guided = MMPS(data.denoiser(sde), measurement, iterations)
        errors.append(float((guided(x, t).x_0 - expected).abs().max()))
        products.append(guided.products)
    assert errors[0] > 1e-4
    assert max(errors[1:]) < 1e-9
    assert products[0] == 2 * len(x)  # an iteration, and the pull itself


@pytest.mark.parametrize("sampler", [ProbabilityFlow(tolerance=1e-8), DPMSolver(3), UniPC(3)])
def test_what_mmps_draws_has_the_posteriors_mean_and_covariance(sampler):
    """A deterministic flow from N(0, r^2 I) on Gaussian data is affine, so units show its law."""
    sde = VPSDE.log_linear(200, 1e-3, 1e-3)
    data, measurement = gaussian(MEAN, smooth()), measured(OPERATORS["mask"])
    guided = MMPS(data.denoiser(sde), measurement, iterations=D)
    adaptive = isinstance(sampler, ProbabilityFlow)
    times = sampler.times(200) if adaptive else grid("uniform", sde, 200)
    start = torch.cat((torch.zeros(1, D, dtype=torch.float64), EYE)).view(-1, *SHAPE)
    x = sample(sampler, guided, sde, times, Noise.of(0, 0, D + 1), SHAPE, start=start).flatten(1)
    exact = posterior(data, measurement)
    columns = (x[1:] - x[0]).T
    # alpha_N = 1e-3 of the data is left in the prior, and sigma_1 = 1e-3 out at the end
    tolerance = 4e-3
    torch.testing.assert_close(x[0], exact.means[0], rtol=0, atol=tolerance)
    law = columns @ columns.T
    torch.testing.assert_close(law, exact.covariances[0], rtol=0, atol=tolerance)


def test_what_mmps_draws_by_the_chain_has_the_posteriors_law():
    sde, n = VPSDE.log_linear(300, 1e-3, 1e-3), 4000
    data, measurement = gaussian(MEAN, smooth()), measured(OPERATORS["mask"], std=0.3)
    guided = MMPS(data.denoiser(sde), measurement, iterations=D)
    times = grid("uniform", sde, 300)
    x = sample(Ancestral("posterior"), guided, sde, times, Noise.of(0, 0, n), SHAPE).flatten(1)
    exact = posterior(data, measurement)
    mean, covariance = exact.means[0], exact.covariances[0]
    bias = 6 / 300  # of the chain's steps
    assert ((x.mean(0) - mean).abs() < 4 * (covariance.diag() / n).sqrt() + bias).all()
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    error = 4 * products.std(0) / n**0.5 + bias
    assert ((products.mean(0) - covariance).abs() < error).all()


def bimodal():
    """Two components whose means lie apart in what is not measured, too."""
    means = torch.stack((MEAN + 0.8, MEAN - 0.8))
    weights = torch.tensor([0.7, 0.3], dtype=torch.float64)
    return GaussianMixture(weights, means, torch.stack((smooth(0.1), smooth(0.1))))


def test_for_a_mixture_mmps_becomes_exact_as_the_noise_falls():
    """Once x_t tells the component, x_0 given x_t is Gaussian, and its moments are all of it."""
    sde, data = VPSDE.linear(200), bimodal()
    measurement = measured(OPERATORS["mask"], std=0.3)
    exact, guided = posterior(data, measurement).denoiser(sde), MMPS(data.denoiser(sde),
                                                                     measurement, D)  # fmt: skip
    errors = {}
    for t in (100.0, 50.0, 20.0, 5.0):
        time = torch.tensor(t, dtype=torch.float64)
        x = points(posterior(data, measurement), sde, time, 64)
        errors[t] = float((guided(x, time).x_0 - exact(x, time).x_0).square().mean().sqrt())
    assert errors[100.0] > 1e-2  # the bias, where both components are possible
    assert errors[100.0] > errors[50.0] > errors[20.0] > errors[5.0]
    assert errors[5.0] < 1e-7


def test_where_a_jacobian_is_no_covariance_that_of_unit_data_stands_in():
    """Of N(0, I) data given y: x_0 + v A^T (y - A x_0) / (s^2 + v gain), v = var(x_0 | x_t)."""
    measurement, t = measured(BlockMean(2)), torch.tensor(150.0, dtype=torch.float64)
    for sde in (VPSDE.linear(200), VESDE(200, 0.01, 20.0)):
        x = points(gaussian(MEAN, smooth()), sde, t)
        half = torch.arange(len(x)).view(-1, 1, 1, 1) < 8

        def denoise(x_t, t, sde=sde, half=half):
            good = gaussian(MEAN, smooth()).denoiser(sde)(x_t, t).x_0
            return predict(sde, x_t, t, "x_0", torch.where(half, -0.1 * x_t, good))

        found = MMPS(denoise, measurement, D)(x, t).x_0
        v = 1 / (1 + (sde.alpha(t) / sde.sigma(t)) ** 2)
        pull = measurement.operator.adjoint(measurement.residual(-0.1 * x))
        expected = -0.1 * x + v * pull / (measurement.std**2 + v / 4)
        torch.testing.assert_close(found[:8], expected[:8])
        exact = posterior(gaussian(MEAN, smooth()), measurement).denoiser(sde)(x, t).x_0
        torch.testing.assert_close(found[8:], exact[8:], rtol=1e-7, atol=1e-8)


def test_mmps_refuses_what_it_cannot_do():
    denoiser = gaussian(MEAN, smooth()).denoiser(VPSDE.linear(100))
    with pytest.raises(ValueError, match=r"std 0\.0 and 3"):
        MMPS(denoiser, measured(BlockMean(2), std=0.0), 3)
    with pytest.raises(ValueError, match="and 0"):
        MMPS(denoiser, measured(BlockMean(2)), 0)


# ---- DPS


def test_dps_moves_by_the_gradient_of_the_misfit():
    """For Gaussian data x_0 = m + K (x_t - alpha m), so |r| has the gradient -K^T A^T r / |r|."""
    sde, data, measurement = VPSDE.linear(200), gaussian(MEAN, smooth()), measured(BlockMean(2))
    t, s = torch.tensor([60.0, 50.0], dtype=torch.float64)
    x, a, alpha = points(data, sde, t), matrix(measurement.operator), sde.alpha(t)
    gain = alpha * smooth() @ torch.linalg.inv(alpha**2 * smooth() + sde.variance(t) * EYE)
    residual = measurement.residual(data.denoiser(sde)(x, t).x_0).flatten(1)
    gradient = -2 * residual @ a @ gain / residual.norm(dim=1, keepdim=True)
    noise, denoiser = Noise.of(0, 0, 16), data.denoiser(sde)
    for inner in (Ancestral(), DDIM(), Heun()):
        free = inner.step(x, Step(denoiser, sde, t, s, noise))
        moved = DPS(inner, measurement, weight=0.3).step(x, Step(denoiser, sde, t, s, noise))
        expected = free.flatten(1) - 0.3 * gradient
        torch.testing.assert_close(moved.flatten(1), expected, rtol=1e-9, atol=1e-11)


def test_dps_fits_and_is_not_the_posterior():
    """Its misfit falls with the weight, to below the noise of y, and its spread to nearly none."""
    sde, data = VPSDE.log_linear(200, 1e-3, 1e-3), gaussian(MEAN, smooth())
    measurement = measured(OPERATORS["mask"], std=0.3)
    exact, times = posterior(data, measurement), grid("uniform", sde, 200)
    misfits, spreads = [], []
    for weight in (0.0, 0.003, 0.01, 0.03):
        sampler = DPS(Ancestral("posterior"), measurement, weight)
        x = sample(sampler, data.denoiser(sde), sde, times, Noise.of(0, 0, 400), SHAPE)
        misfits.append(float(measurement.misfit(x).mean()))
        spreads.append(float(measurement.operator.apply(x).var(0).sum()))
    assert misfits[0] > misfits[1] > misfits[2] > misfits[3]
    assert misfits[3] < 0.5 * measurement.std
    assert spreads[0] > spreads[1] > spreads[2] > spreads[3]
    a = matrix(measurement.operator)
    assert spreads[3] < 0.5 * float((a @ exact.covariances[0] @ a.T).trace()) < spreads[2]


# ---- replacing


def test_replacing_ends_with_what_is_given():
    sde, data = VPSDE.linear(100), gaussian(MEAN, smooth())
    for name, operator in OPERATORS.items():
        measurement = measured(operator)
        for inner in (Ancestral(), DDIM(), DPMSolver(2)):
            x = sample(Replaced(inner, measurement), data.denoiser(sde), sde,
                       grid("uniform", sde, 20), Noise.of(0, 0, 4), SHAPE)  # fmt: skip
            assert (measurement.misfit(x) < 1e-14).all(), name


def test_what_is_set_down_has_the_law_of_a_noisy_measurement():
    """Before the step, A x_t is alpha_t y + sigma_t A z: the step here does nothing."""

    class Still:
        def step(self, x_t, step):
            return x_t

    sde, n = VPSDE.linear(100), 4000
    t, s = torch.tensor([50.0, 40.0], dtype=torch.float64)
    data = gaussian(MEAN, smooth()).denoiser(sde)
    for operator in OPERATORS.values():
        measurement = measured(operator)
        noise = Noise.of(0, 0, n)
        x = noise.normal(Stream.PRIOR, SHAPE)
        moved = Replaced(Still(), measurement).step(x, Step(data, sde, t, s, noise))
        y = operator.apply(moved).flatten(1)
        std = float(sde.sigma(t)) * operator.gain**0.5
        expected = float(sde.alpha(t)) * measurement.value.flatten(1)
        assert ((y.mean(0) - expected).abs() < 4 * std / n**0.5).all()
        assert (y.std(0) / std - 1).abs().max() < 4 / (2 * n) ** 0.5
        # and nothing but what is measured has moved
        null = moved - x - operator.adjoint(operator.apply(moved - x)) / operator.gain
        assert null.abs().max() < 1e-14


def test_replacing_is_exact_where_the_rest_does_not_depend_on_what_is_known():
    """Independent pixels: those that are not given keep their own law, by the same noise."""
    sde = VPSDE.linear(100)
    data = gaussian(MEAN, 0.4 * EYE)
    measurement = measured(OPERATORS["mask"])
    times, noise = grid("uniform", sde, 20), Noise.of(0, 0, 6)
    free = sample(Ancestral(), data.denoiser(sde), sde, times, noise, SHAPE)
    drawn = sample(
        Replaced(Ancestral(), measurement), data.denoiser(sde), sde, times, noise, SHAPE
    )
    unknown = ~measurement.operator.known.flatten()
    torch.testing.assert_close(drawn.flatten(1)[:, unknown], free.flatten(1)[:, unknown])


# ---- all of them


def elementwise_measurement():
    known = torch.tensor([1, 1, 0, 0, 1], dtype=torch.bool)
    y = torch.tensor([[0.2, -0.4, 0.9]], dtype=torch.float64)
    return Measurement(Masked(known), y, 0.05)


@pytest.mark.parametrize("method", ["mmps", "dps", "replace"])
@pytest.mark.parametrize(
    "inner",
    [Ancestral(), PredictorCorrector(Ancestral(), AnnealedLangevin()), Heun(), DPMSolver()],
)
def test_a_sample_does_not_depend_on_its_batch(method, inner, elementwise):
    sde, measurement = VPSDE.linear(100), elementwise_measurement()
    around = {
        "mmps": lambda: (inner, MMPS(elementwise(sde), measurement, 3)),
        "dps": lambda: (DPS(inner, measurement, 0.1), elementwise(sde)),
        "replace": lambda: (Replaced(inner, measurement), elementwise(sde)),
    }
    sampler, denoiser = around[method]()

    def draw(noise):
        return sample(sampler, denoiser, sde, grid("uniform", sde, 8), noise, (5,))

    everyone = draw(Noise.of(7, 0, 12))
    for k in (0, 5, 11):
        assert torch.equal(draw(Noise.of(7, k, k + 1))[0], everyone[k])


def test_a_step_of_dps_costs_no_further_evaluation(elementwise):
    from scoreflow.samplers import Counted

    sde, measurement = VESDE(100, 0.01, 10.0), elementwise_measurement()
    for inner, a_step in ((Ancestral(), 1), (Heun(), 2)):
        counted = Counted(elementwise(sde))
        t, s = torch.tensor([50.0, 40.0], dtype=torch.float64)
        x = Noise.of(0, 0, 3).normal(Stream.PRIOR, (5,))
        DPS(inner, measurement).step(x, Step(counted, sde, t, s, Noise.of(0, 0, 3)))
        assert counted.calls == a_step
