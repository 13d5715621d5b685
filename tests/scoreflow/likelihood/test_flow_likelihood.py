"""The log-likelihood on exact denoisers, where the answer is known, and what is made of it."""

import math

import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import nn

from scoreflow.data.dataset import Data
from scoreflow.data.toy import distribution as toy_distribution
from scoreflow.errors import RunError
from scoreflow.likelihood.dataset_likelihood import DatasetLikelihood, LikelihoodSettings, measure
from scoreflow.likelihood.dequantization import Dequantizer, truncation_bits
from scoreflow.likelihood.flow_likelihood import Solver, log_likelihood, to_bits_per_dim
from scoreflow.models.score_model import ScoreModel
from scoreflow.models.unet import UNet
from scoreflow.sde import VPSDE, Noise, Status, Stream
from scoreflow.sde.analytic import GaussianMixture, LevelGrid, gaussian
from scoreflow.sde.prediction import predict

F64 = torch.float64
SDE = VPSDE.log_linear(1000, sigma_min=1e-3, alpha_min=1e-4)  # no prior mismatch to speak of
TIGHT = Solver(probes=0, tolerance=1e-6, tolerance_bits=1e-6)


def normal_3d():
    a = torch.tensor([[0.6, 0.0, 0.0], [0.3, 0.4, 0.0], [-0.2, 0.1, 0.2]], dtype=F64)
    return gaussian(torch.tensor([0.3, -0.2, 0.1], dtype=F64), a @ a.T)


def two_modes():
    means = torch.tensor([[0.6, -0.3], [-0.4, 0.2]], dtype=F64)
    covariances = torch.tensor([[[0.04, 0.02], [0.02, 0.05]], [[0.09, 0.0], [0.0, 0.02]]])
    return GaussianMixture(torch.tensor([0.4, 0.6], dtype=F64), means, covariances)


DISTRIBUTIONS = {"normal": normal_3d, "mixture": two_modes}


def at(t):
    return torch.tensor(float(t), dtype=F64)


def exact(truth, x, t_min):
    return truth.log_prob(x, SDE.alpha(at(t_min)), SDE.sigma(at(t_min)))


def grid(levels, dim=6):
    """Levels of unequal probabilities, some of them next to impossible."""
    p = torch.arange(1, levels + 1, dtype=F64).square()
    p[levels // 2] = 1e-6 * p.sum()
    return LevelGrid(p / p.sum(), dim)


# ---- against closed forms


@pytest.mark.parametrize("t_min", [0.05, 1.0, 300.0])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_exact_divergence_gives_the_exact_density(name, t_min):
    truth = DISTRIBUTIONS[name]()
    noise = Noise.of(0, 0, 40)
    x = SDE.alpha(at(t_min)) * truth.sample(noise)
    found = log_likelihood(truth.denoiser(SDE), SDE, x, t_min, noise, TIGHT)
    assert (found.status == Status.DONE).all()
    assert found.log_prob.shape == (40, 1)
    assert float((found.log_prob[:, 0] - exact(truth, x, t_min)).abs().max()) < 1e-3
    assert (found.evaluations > 0).all()


def test_a_process_whose_scale_is_not_one():
    """log p_t(x) = log p~(x / r) - D log r, on alpha = 1: r = sqrt(1 + sigma^2)."""
    from scoreflow.sde.base import SDE as Process

    class Exploding(Process):
        num_steps = 100

        def log_alpha(self, t):
            return 0.0 * t

        def variance(self, t):
            return (0.3 * t) ** 2

        def time(self, angle):
            return angle.tan() / 0.3

    sde, truth, noise = Exploding(), normal_3d(), Noise.of(0, 0, 10)
    x = truth.sample(noise)
    found = log_likelihood(truth.denoiser(sde), sde, x, 5.0, noise, TIGHT)
    expected = truth.log_prob(x, sde.alpha(at(5)), sde.sigma(at(5)))
    latent = truth.log_prob(found.latent, sde.alpha(at(100)), sde.sigma(at(100)))
    prior = torch.distributions.Normal(0, float(sde.prior_std())).log_prob(found.latent).sum(1)
    # the prior stands in for p_N: take out what that costs
    torch.testing.assert_close(found.log_prob[:, 0] - prior + latent, expected, rtol=0, atol=1e-3)


def normal_6d():
    a = torch.randn(6, 6, dtype=F64, generator=torch.Generator().manual_seed(0)) / 3
    return gaussian(torch.linspace(-0.3, 0.3, 6, dtype=F64), a @ a.T + 0.01 * torch.eye(6))


def test_random_probes_are_unbiased_and_know_their_error():
    """The trace of a full Jacobian by 3 signs of 8, 400 times, against the density itself."""
    truth = normal_6d()
    x = truth.sample(Noise.of(5, 0, 1)).expand(400, 6)
    solver = Solver(probes=3, tolerance=1e-4, tolerance_bits=1e-4)
    found = log_likelihood(truth.denoiser(SDE), SDE, x, 1.0, Noise.of(5, 0, 400), solver).log_prob
    assert found.shape == (400, 3)
    off = found.mean(1) - exact(truth, x[:1], 1.0)
    stated = float((found.var(1) / 3 * (1 - 3 / 8)).mean())  # drawn without replacement
    assert stated > 1e-2
    assert abs(float(off.mean())) < 3.5 * math.sqrt(stated / 400)
    assert float(off.square().mean()) == pytest.approx(stated, rel=0.2)


def test_all_the_signs_of_the_set_are_the_exact_divergence():
    truth, noise = normal_6d(), Noise.of(5, 0, 5)
    x = truth.sample(noise)
    solver = Solver(probes=8, tolerance=1e-6, tolerance_bits=1e-6)
    found = log_likelihood(truth.denoiser(SDE), SDE, x, 1.0, noise, solver).log_prob
    torch.testing.assert_close(found.mean(1), exact(truth, x, 1.0), rtol=0, atol=1e-3)
    assert float(found.std(1).min()) > 1e-2


def test_signs_are_exact_where_the_jacobian_is_diagonal():
    truth = gaussian(torch.zeros(3, dtype=F64), torch.diag(torch.tensor([0.04, 0.3, 1.5])))
    noise = Noise.of(0, 0, 8)
    x = truth.sample(noise)
    solver = Solver(probes=2, tolerance=1e-6, tolerance_bits=1e-6)
    found = log_likelihood(truth.denoiser(SDE), SDE, x, 1.0, noise, solver).log_prob
    torch.testing.assert_close(
        found, exact(truth, x, 1.0)[:, None].expand(8, 2), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("method", ["torchdiffeq:dopri5", "scipy:RK45", "scipy:DOP853"])
@pytest.mark.filterwarnings("ignore:At least one element of `rtol` is too small")
def test_other_solvers_agree(method):
    truth, noise = two_modes(), Noise.of(1, 0, 5)
    x = truth.sample(noise)
    arguments = (truth.denoiser(SDE), SDE, x, 1.0, noise)
    own = log_likelihood(*arguments, TIGHT)
    other = log_likelihood(*arguments, Solver(0, 1e-7, 1e-7, method))
    assert (other.status == Status.DONE).all()
    assert float((other.log_prob[:, 0] - exact(truth, x, 1.0)).abs().max()) < 1e-3
    torch.testing.assert_close(own.log_prob, other.log_prob, rtol=0, atol=1e-3)
    torch.testing.assert_close(own.latent, other.latent, rtol=0, atol=1e-3)


def test_the_error_falls_with_the_tolerance():
    truth, noise = two_modes(), Noise.of(2, 0, 30)
    x = truth.sample(noise)

    def worst(tolerance):
        solver = Solver(0, tolerance, tolerance)
        found = log_likelihood(truth.denoiser(SDE), SDE, x, 1.0, noise, solver)
        return float((found.log_prob[:, 0] - exact(truth, x, 1.0)).abs().max())

    errors = [worst(tolerance) for tolerance in (1e-3, 1e-5, 1e-7)]
    assert errors[0] < 0.3
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1] / 10


# ---- no row knows of another


@pytest.mark.parametrize("size", [1, 8])
def test_rows_are_bitwise_the_same_in_any_batch(size):
    """With a denoiser made of elementwise operations alone."""

    def denoise(x_t, t):
        scale = SDE.variance(t).reshape(-1, *[1] * (x_t.ndim - 1))
        return predict(SDE, x_t, t, "eps", x_t * scale + 0.1 * x_t * x_t * x_t * scale)

    x = 0.5 * Noise.of(0, 0, 64).normal(Stream.DATA, (3,))
    solver = Solver(2, 1e-4, 1e-4)

    def rows(first, last):
        return log_likelihood(denoise, SDE, x[first:last], 1.0, Noise.of(9, first, last), solver)

    together = rows(0, 64)
    for first in (0, 24, 56):
        part = rows(first, first + size)
        for name in ("log_prob", "latent", "evaluations", "solver_error"):
            whole = getattr(together, name)[first : first + size]
            assert torch.equal(getattr(part, name), whole), name


@pytest.mark.parametrize("size", [1, 8])
def test_rows_are_the_same_in_any_batch_through_a_network(size):
    torch.manual_seed(0)
    network = UNet(
        image_size=8,
        in_channels=1,
        out_channels=1,
        channels=8,
        multipliers=(1, 2),
        blocks=1,
        attention_sizes=(4,),
        num_groups=4,
        dropout=0.0,
    )
    nn.init.normal_(network.head[-1].weight, std=0.05)
    model = ScoreModel(network.eval(), VPSDE.linear(1000), "v")
    x = 0.5 * Noise.of(0, 0, 64).normal(Stream.DATA, (1, 8, 8))
    solver = Solver(1, 1e-3, 1e-3)

    def bits(first, last):
        noise = Noise.of(9, first, last)
        return log_likelihood(model, model.sde, x[first:last], 1.0, noise, solver).log_prob / 64

    together = bits(0, 64)
    for first in (0, 40):
        part = bits(first, first + size)
        torch.testing.assert_close(part, together[first : first + size], rtol=0, atol=1e-5)


# ---- integers: bits/dim


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_a_uniform_model_costs_exactly_log2_of_the_levels(levels):
    for dims in (1, 5):
        log_prob = torch.full((3,), -dims * math.log(2), dtype=F64)  # density 1/2 on [-1, 1]
        expected = torch.full((3,), math.log2(levels), dtype=F64)
        torch.testing.assert_close(to_bits_per_dim(log_prob, dims, levels), expected)


@pytest.mark.parametrize("levels", [17, 256])
def test_levels_all_as_likely_cost_their_logarithm_by_the_flow(levels):
    truth = LevelGrid(torch.full((levels,), 1 / levels, dtype=F64), 4)
    sde = VPSDE.log_linear(1000, sigma_min=1e-4, alpha_min=1e-4)
    noise = Noise.of(0, 0, 40)
    x = truth.sample(noise)
    found = log_likelihood(truth.denoiser(sde), sde, x, 1.0, noise, TIGHT).log_prob[:, 0]
    bits = to_bits_per_dim(found, 4, levels)
    inside = x.abs().amax(1) < 0.999  # the blurred ends of [-1, 1] cost a little
    assert inside.sum() > 20
    torch.testing.assert_close(
        bits[inside], torch.full_like(bits[inside], math.log2(levels)), rtol=0, atol=1e-3
    )


def grid_data(truth, levels, count):
    image = truth.levels(Noise.of(11, 0, count)).to(torch.uint8)[:, None, None]
    return Data("grid", image, image, levels, None, None)


class Exact(ScoreModel):
    """A ScoreModel whose network is the truth."""

    def __init__(self, truth, sde, t_min):
        super().__init__(nn.Identity(), sde, "v", t_min)
        self.truth = truth

    def __call__(self, x_t, t):
        return self.truth.denoiser(self.sde)(x_t, t)


@pytest.mark.parametrize("levels", [17, 256])
@pytest.mark.parametrize("t_min", [1.0, 60.0, 150.0])
def test_bits_per_dim_lie_between_entropy_and_the_truncation_bound(levels, t_min):
    """The exact model exceeds the entropy of the levels drawn by no more than t_min allows."""
    truth, data = grid(levels), grid_data(grid(levels), levels, 100)
    question = LikelihoodSettings(
        Solver(0, 1e-5, 1e-5), dequantizer=Dequantizer("uniform", levels, t_min), checked=4
    )
    result = measure(Exact(truth, SDE, t_min), data, 0, question).result
    p = truth.probabilities[data.test.long()]
    entropy = float(-p.log2().mean())  # of these images
    excess = result["bits_per_dim"] - entropy
    bound = result["error_budget"]["truncation_at_most"]
    sigma = float(SDE.sigma(at(t_min)) / SDE.alpha(at(t_min)))
    assert bound == truncation_bits(sigma, levels)
    # Blurring also moves density between levels, which pays now and then: not below by more
    assert -0.1 * bound - 1e-3 < excess < bound + 1e-3
    if t_min == 1.0 and levels == 17:
        assert abs(result["bits_per_dim"] - entropy) < 0.01


@pytest.mark.parametrize("levels", [17, 256])
@pytest.mark.parametrize("sigma", [1e-4, 1e-3, 1e-2, 0.1])
def test_truncation_bound_by_quadrature(levels, sigma):
    ratio = 2 / levels / sigma

    def cost(u):
        return -math.log2(
            scipy.stats.norm.cdf((u + 0.5) * ratio) - scipy.stats.norm.cdf((u - 0.5) * ratio)
        )

    knots = sorted({max(0.0, 0.5 - k / ratio) for k in (1, 3, 8)})
    expected, _ = scipy.integrate.quad(cost, 0, 0.5, points=knots, limit=200, epsabs=1e-10)
    assert truncation_bits(sigma, levels) == pytest.approx(2 * expected, rel=1e-4, abs=1e-9)


def test_truncation_bound_of_isolated_levels_as_measured_before():
    """Song's continuous VP cut off at eps, where sigma^2 is close to beta_min eps = 0.1 eps."""
    for eps, bits in ((1e-3, 1.82), (1e-4, 0.575), (1e-5, 0.176), (1e-6, 0.056), (1e-7, 0.018)):
        sigma = math.sqrt(-math.expm1(-0.1 * eps - 0.5 * 19.9 * eps**2))
        assert truncation_bits(sigma, 256) == pytest.approx(bits, rel=0.03)


# ---- the measurement of a test set


def toy_data(count):
    points = toy_distribution().sample(Noise.of(0, 0, count)).float()
    return Data("toy", points, points, None, None, None)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 12, 13, 14, 50])
def test_every_image_counts_once_for_any_batch_size(batch_size, monkeypatch):
    seen = []
    placed = DatasetLikelihood._placed
    monkeypatch.setattr(
        DatasetLikelihood,
        "_placed",
        lambda self, noise, k: seen.append(noise.index) or placed(self, noise, k),
    )
    truth, data = toy_distribution(), toy_data(13)
    model = Exact(truth, SDE, 1.0)
    solver = Solver(0, 1e-3, 1e-3)
    result = measure(
        model, data, 0, LikelihoodSettings(solver, batch_size=batch_size, checked=0), truth
    )
    result = result.result
    assert result["num_images"] == 13
    assert torch.cat(seen).tolist() == list(range(13))
    everything = measure(
        model, data, 0, LikelihoodSettings(solver, batch_size=13, checked=0), truth
    ).result
    assert result["value"] == pytest.approx(everything["value"], abs=1e-9)
    assert result["nfe"] == pytest.approx(everything["nfe"])


def test_only_the_first_so_many():
    data, truth = toy_data(13), toy_distribution()
    few = measure(
        Exact(truth, SDE, 1.0), data, 5, LikelihoodSettings(TIGHT, batch_size=3), truth
    ).result
    assert few["num_images"] == 5
    nats = -truth.log_prob(data.test[:5].double(), at(1), at(0))
    assert few["true_nats"] == pytest.approx(float(nats.mean()), abs=1e-12)
    assert abs(few["gap"]) < 1e-3
    assert few["standard_error"] == pytest.approx(float(nats.std()) / math.sqrt(5), rel=1e-2)
    assert few["unit"] == "nats"
    assert few["dequantization"] == "none"


def test_the_budget_separates_images_from_probes():
    truth = normal_6d()
    points = truth.sample(Noise.of(0, 0, 40))
    data = Data("normal", points, points, None, None, None)
    model = Exact(truth, SDE, 1.0)
    exactly = measure(model, data, 0, LikelihoodSettings(TIGHT)).result
    assert exactly["error_budget"]["probes"] == 0.0
    roughly = measure(model, data, 0, LikelihoodSettings(Solver(2, 1e-5, 1e-5))).result
    probes = roughly["error_budget"]["probes"]
    assert 0 < probes < roughly["error_budget"]["images"]
    assert abs(roughly["value"] - exactly["value"]) < 3 * probes
    one = measure(model, data, 0, LikelihoodSettings(Solver(1, 1e-3, 1e-3))).result
    assert one["error_budget"]["probes"] is None  # one probe does not know its error


def test_images_that_were_not_solved_end_the_measurement():
    truth = toy_distribution()
    solver = Solver(0, 1e-9, 1e-9, max_evaluations=20)
    with pytest.raises(
        RunError, match=r"4 of 4 images .* test image 0 \(max evaluations\): raise"
    ):
        measure(Exact(truth, SDE, 1.0), toy_data(4), 0, LikelihoodSettings(solver, batch_size=3))


def test_tf32_is_off_inside_and_as_before_outside():
    inside, truth = [], toy_distribution()

    class Spy(Exact):
        def __call__(self, x_t, t):
            inside.append(torch.backends.cuda.matmul.allow_tf32)
            return super().__call__(x_t, t)

    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        measure(Spy(truth, SDE, 1.0), toy_data(2), 0, LikelihoodSettings(Solver(0, 1e-2, 1e-2)))
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert inside
    assert not any(inside)
