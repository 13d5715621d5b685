"""Likelihoods on the rectified path, which ends in noise alone, and on EDM's, which never does."""

import math

import pytest
import torch
from torch import nn

import scoreflow as sf
from scoreflow.data.dataset import Data
from scoreflow.likelihood.bound_table import bounds
from scoreflow.likelihood.dataset_likelihood import LikelihoodSettings, measure
from scoreflow.likelihood.dequantization import Dequantizer, at_most_bits
from scoreflow.likelihood.flow_likelihood import Solver, log_likelihood
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import Reclocked
from scoreflow.sde import EDMSDE, VPSDE, Noise, RectifiedSDE, Status, Stream
from scoreflow.sde.analytic import GaussianMixture, LevelGrid, gaussian
from scoreflow.sde.flow import prior_cost
from scoreflow.sde.prediction import predict

F64 = torch.float64
STRAIGHT, EDM = RectifiedSDE(1000), EDMSDE(1000)


def slow(value):
    """A case that the quick tests leave out."""
    return pytest.param(value, marks=pytest.mark.slow)


TIGHT = Solver(probes=0, tolerance=1e-7, tolerance_bits=1e-7)


def tight(tolerance):
    return {"method": "dopri5", "tolerance": tolerance, "tolerance_bits": tolerance}


SOLVED = 1e-4
"""Nats that `TIGHT` leaves over some 100 steps of two or three dimensions, and more."""
LEVELS = 5
P = torch.tensor([0.05, 0.3, 0.1, 0.15, 0.4], dtype=F64)


def normal():
    a = torch.tensor([[0.6, 0.0, 0.0], [0.3, 0.4, 0.0], [-0.2, 0.1, 0.2]], dtype=F64)
    return gaussian(torch.tensor([0.3, -0.2, 0.1], dtype=F64), a @ a.T)


def two_modes():
    means = torch.tensor([[0.6, -0.3], [-0.4, 0.2]], dtype=F64)
    covariances = torch.tensor([[[0.04, 0.02], [0.02, 0.05]], [[0.09, 0.0], [0.0, 0.02]]])
    return GaussianMixture(torch.tensor([0.4, 0.6], dtype=F64), means, covariances)


TRUTHS = {"normal": normal, "mixture": two_modes, "levels": lambda: LevelGrid(P, 2)}


def at(t):
    return torch.tensor(float(t), dtype=F64)


def density(truth, sde, x, t):
    return truth.log_prob(x, sde.alpha(at(t)), sde.sigma(at(t)))


def prior(sde, x):
    normal = torch.distributions.Normal(at(0), sde.prior_std())
    return normal.log_prob(x).flatten(1).sum(1)


# ---- the density


@pytest.mark.parametrize("t", [0.05, slow(1.0), slow(300.0), 999.0])
@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.parametrize("sde", [STRAIGHT, EDM], ids=["rectified", "edm"])
def test_the_density_is_the_exact_one_from_every_start(sde, name, t):
    """To the last of the flow, at the angle pi/2, where log alpha is -inf.

    EDM's prior leaves out the data that are under x_N: what p_N has more than it, at the latent,
    is what the likelihood lacks.
    """
    truth, noise = TRUTHS[name](), Noise.of(0, 0, 8)
    x_0 = truth.sample(noise)
    x = sde.perturb(x_0, at(t), 0.5 * noise.normal(Stream.DATA, tuple(x_0.shape[1:]), draw=5))
    found = log_likelihood(truth.denoiser(sde), sde, x, t, noise, TIGHT)
    assert (found.status == Status.DONE).all()
    lacking = density(truth, sde, found.latent, sde.num_steps) - prior(sde, found.latent)
    if sde is STRAIGHT:
        assert float(lacking.abs().max()) < 1e-12
    expected = density(truth, sde, x, t)
    torch.testing.assert_close(found.log_prob[:, 0] + lacking, expected, rtol=0, atol=SOLVED)


@pytest.mark.parametrize("method", ["torchdiffeq:dopri5", "scipy:RK45"])
@pytest.mark.filterwarnings("ignore:At least one element of `rtol` is too small")
def test_other_solvers_come_to_the_end_too(method):
    truth, noise = two_modes(), Noise.of(1, 0, 4)
    x = truth.sample(noise) * STRAIGHT.alpha(at(1))
    solver = Solver(0, 1e-7, 1e-7, method)
    found = log_likelihood(truth.denoiser(STRAIGHT), STRAIGHT, x, 1.0, noise, solver)
    assert (found.status == Status.DONE).all()
    expected = density(truth, STRAIGHT, x, 1)
    torch.testing.assert_close(found.log_prob[:, 0], expected, rtol=0, atol=10 * SOLVED)


def test_random_signs_of_all_the_set_are_the_exact_divergence():
    truth, noise = normal(), Noise.of(5, 0, 5)
    x = truth.sample(noise) * STRAIGHT.alpha(at(1))
    solver = Solver(4, 1e-7, 1e-7)
    found = log_likelihood(truth.denoiser(STRAIGHT), STRAIGHT, x, 1.0, noise, solver).log_prob
    expected = density(truth, STRAIGHT, x, 1)
    torch.testing.assert_close(found.mean(1), expected, rtol=0, atol=SOLVED)
    assert float(found.std(1).min()) > 1e-3


def bent(sde):
    """No one's denoiser: a v of the angle and of x~ that is no conditional mean."""

    def denoise(x_t, t):
        phi = sde.angle(t).view(-1, *[1] * (x_t.ndim - 1))
        x = x_t / sde.scale(t).view(-1, *[1] * (x_t.ndim - 1))
        return predict(sde, x_t, t, "v", (1 + 0.3 * phi) * torch.tanh(x - 0.2) - 0.4 * x.flip(1))

    return denoise


@pytest.mark.parametrize("on", [EDM, VPSDE.cosine(1000), VPSDE.linear(400)])
@pytest.mark.parametrize("of", [bent, two_modes().denoiser], ids=["bent", "exact"])
def test_one_denoiser_has_one_likelihood_by_every_clock(of, on):
    """From one angle to where the shorter path ends; there the longer one goes on."""
    noise = Noise.of(2, 0, 10)
    start = at(0.01)  # of the angle
    x = two_modes().sample(noise)
    ours, theirs = float(STRAIGHT.time(start)), float(on.time(start))
    scales = STRAIGHT.scale(at(ours)), on.scale(at(theirs))
    denoiser = of(STRAIGHT)
    other = log_likelihood(
        Reclocked(denoiser, STRAIGHT, on), on, scales[1] * x, theirs, noise, TIGHT
    )
    end, dims = at(on.num_steps), 2
    change = other.log_prob[:, 0] - prior(on, other.latent)  # of x_t, to where it ends
    left = float(STRAIGHT.time(on.angle(end)))
    carried = other.latent / on.scale(end) * STRAIGHT.scale(at(left))
    rest = log_likelihood(denoiser, STRAIGHT, carried, left, noise, TIGHT).log_prob[:, 0]
    units = (scales[1] / scales[0]).log() + (STRAIGHT.scale(at(left)) / on.scale(end)).log()
    whole = log_likelihood(denoiser, STRAIGHT, scales[0] * x, ours, noise, TIGHT)
    expected = whole.log_prob[:, 0]
    torch.testing.assert_close(change + rest + dims * units, expected, rtol=0, atol=3 * SOLVED)


# ---- integers


class Exact(ScoreModel):
    """A ScoreModel whose network is the truth."""

    def __init__(self, truth, sde, output="u"):
        super().__init__(nn.Identity(), sde, output, 0.05)
        self.truth = truth

    def __call__(self, x_t, t):
        return self.truth.denoiser(self.sde)(x_t, t)


def images_of(count=30):
    levels = LevelGrid(P, 2).levels(Noise.of(4, 0, count)).to(torch.uint8)[:, None, None]
    return Data("grid", levels, levels, LEVELS, None, None)


def on_centres():
    centres = (2 * torch.arange(LEVELS).double() + 1) / LEVELS - 1
    means = torch.cartesian_prod(centres, centres)
    weights = torch.outer(P, P).flatten()
    return GaussianMixture(weights, means, torch.zeros(len(means), 2, 2, dtype=F64))


@pytest.mark.parametrize("name", ["uniform", slow("last_step"), "truncated_normal"])
@pytest.mark.parametrize("sde", [STRAIGHT, slow(EDM)], ids=["rectified", "edm"])
def test_the_entropy_is_met_but_for_what_the_budget_says(sde, name):
    """Of these very images; by all dequantizations, whose bounds are all but equalities here."""
    centred = name == "truncated_normal"
    truth, data = (on_centres() if centred else LevelGrid(P, 2)), images_of()
    t = float(sde.time(at(0.2 / LEVELS).atan())) if centred else 1.0  # a bin of 10 sigma
    dequantizer = Dequantizer(name, LEVELS, t, "centre" if centred else "uniform")
    question = LikelihoodSettings(Solver(0, 1e-5, 1e-5), dequantizer=dequantizer, checked=2)
    found = measure(Exact(truth, sde), data, 0, question)
    entropy = -P.log2()[data.test.long()].flatten(1).mean(1)
    excess = found.values[:, 0] - entropy
    budget, error = found.result["error_budget"], float(excess.std()) / len(excess) ** 0.5
    assert budget["prior_at_most"] == prior_cost(sde) / math.log(2)
    most = budget["prior_at_most"] + (at_most_bits(dequantizer, sde) or 0.0)
    if sde is STRAIGHT:
        assert budget["prior_at_most"] == 0
    if name == "last_step":  # Jensen's: the decoder does not know the place within the bin
        sigma = float(sde.sigma(at(t)) / sde.alpha(at(t)))
        most += 4 * sigma * LEVELS / 2 / math.log(2)
    assert -3.5 * error - 1e-4 < float(excess.mean()) < most + 3.5 * error + 1e-4
    assert "t_max" not in found.result


def test_edms_prior_costs_what_is_left_of_the_data_at_most():
    """KL(p_N | prior) of data at -1 and 1, by quadrature, against the bound for any data."""
    sde = EDMSDE(100, 0.01, 3.0)
    ends = GaussianMixture(
        torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1, 1)
    )
    x = torch.linspace(-40, 40, 40_001, dtype=F64)[:, None]
    log_p = density(ends, sde, x, 100)
    cost = float(torch.trapezoid(log_p.exp() * (log_p - prior(sde, x)), x[:, 0]))
    assert 0 < cost < prior_cost(sde)
    one = gaussian(torch.ones(1, dtype=F64), torch.zeros(1, 1, dtype=F64))
    log_p = density(one, sde, x, 100)
    worst = float(torch.trapezoid(log_p.exp() * (log_p - prior(sde, x)), x[:, 0]))
    assert worst == pytest.approx(prior_cost(sde), rel=1e-9)
    assert prior_cost(STRAIGHT) == 0


def test_points_of_an_image_are_under_one_logarithm():
    """K of them, against each by itself, where the noise is half a bin and they differ."""
    data, truth = images_of(3), LevelGrid(P, 2)
    dequantizer = Dequantizer("last_step", LEVELS, 150.0)
    question = LikelihoodSettings(TIGHT, 0, dequantizer, samples=3, checked=0)
    found = measure(Exact(truth, STRAIGHT), data, 0, question).values[:, 0]
    noise, singles = Noise(0, torch.arange(3)), []
    for draw in range(3):
        x, offset = dequantizer.place(truth.denoiser(STRAIGHT), STRAIGHT, data.test, noise, draw)
        singles.append(density(truth, STRAIGHT, x.flatten(1), 150) + offset)
    nats = torch.stack(singles)
    expected = (math.log(3) - nats.logsumexp(0)) / (2 * math.log(2))
    torch.testing.assert_close(found, expected, rtol=0, atol=SOLVED)
    assert (found < -nats.mean(0) / (2 * math.log(2))).all()
    assert float(nats.std(0).min()) > 0.01


# ---- networks


class Linear(nn.Module):
    """A user's flow-matching network of pixels N(0, 1/4): tau in [0, 1], noise at 1."""

    def forward(self, x, tau):
        tau = tau.double().view(-1, 1, 1, 1)
        variance = (1 - tau) ** 2 / 4 + tau**2
        return (((tau - (1 - tau) / 4) / variance) * x).to(x.dtype)  # E[eps - x_0 | x]


class Backwards(Linear):
    """The same of those who have the data at 1 and move from noise to them: x_0 - eps."""

    def forward(self, x, time):
        return -super().forward(x, 1 - time)


class Forwards(nn.Module):
    """What turns such a network round."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, tau):
        return -self.network(x, 1 - tau)


@pytest.mark.parametrize("network", [Linear(), Forwards(Backwards())], ids=["ours", "reversed"])
def test_a_flow_matching_networks_bits_are_three_lines(network):
    images = (torch.arange(4 * 9).view(4, 1, 3, 3) * 7 + 60) % 256
    sde = sf.RectifiedSDE(1000)
    tau = {"label": lambda t: t / 1000, "input_scale": "none"}
    model = sf.ScoreModel(network, sde, "u", t_min=0.1, **tau)
    found = sf.bits_per_dim(model, images, 256, probes=0, **tight(1e-5))
    x = 2 * (images.double() + 0.5) / 256 - 1  # the density hardly changes within a bin
    nats = torch.distributions.Normal(at(0), at(0.5)).log_prob(x).mean((1, 2, 3))
    expected = 7 - nats / math.log(2)
    # (2 / 256)^2 / 24 of curvature 4, and |x| / var * a bin's reach / sqrt(9) of its place
    torch.testing.assert_close(found.bits_per_dim, expected, rtol=0, atol=0.02)
    assert found.error_budget.prior_at_most == 0


def test_an_estimate_of_eps_ends_where_it_says_something_of_x_0():
    """Its flow and its chain both; the result says so, and what the prior there may cost."""

    class Eps(nn.Module):
        def forward(self, x, index):
            alpha, sigma = (
                each(index.double() + 1).view(-1, 1, 1, 1) for each in (sde.alpha, sde.sigma)
            )
            r2 = alpha**2 + sigma**2
            return (sigma / (alpha**2 / 4 + sigma**2) * x * r2.sqrt()).to(x.dtype)

    sde = RectifiedSDE(100)
    model = ScoreModel(Eps(), sde, "eps")
    assert model.posed.num_steps == 92  # log-SNR of -4.9, and at 93 of -5.2
    images = torch.randint(0, 17, (6, 1, 3, 3), generator=torch.Generator().manual_seed(0))
    found = sf.bits_per_dim(model, images, 17, probes=0, **tight(1e-4))
    assert found.error_budget.prior_at_most == pytest.approx(prior_cost(model.posed) / math.log(2))
    assert 1e-3 < found.error_budget.prior_at_most < 0.006
    assert found.bits_per_dim.isfinite().all()
    whole = sf.bits_per_dim(ScoreModel(U(), sde, "u"), images, 17, probes=0, **tight(1e-4))
    assert float((found.bits_per_dim - whole.bits_per_dim).abs().max()) < 0.02


class U(nn.Module):
    """The same law by its u."""

    def forward(self, x, index):
        tau = ((index.double() + 1) / 100).view(-1, 1, 1, 1)
        variance = (1 - tau) ** 2 / 4 + tau**2
        r = ((1 - tau) ** 2 + tau**2).sqrt()
        return ((tau - (1 - tau) / 4) / variance * x * r).to(x.dtype)


# ---- bounds


@pytest.mark.parametrize("sde", [RectifiedSDE(200), slow(EDM)], ids=["rectified", "edm"])
def test_every_bound_lies_above_the_entropy(sde):
    """The prior's term is nothing at all on the straight path, and every number is finite."""
    truth, data = LevelGrid(P, 4), images_of(1)
    levels = truth.levels(Noise.of(3, 0, 200)).to(torch.uint8)[:, None, None]
    data = Data("grid", levels, levels[:150], LEVELS, None, None)
    entries, rate = bounds(truth.denoiser(sde), sde, 0.2, data, data.test, 0, 20, 200, 150)
    entropy = -P.log2()[data.test.long()].flatten(1).mean(1)
    for entry in entries:
        excess = entry.values - entropy
        error = float(excess.std()) / len(excess) ** 0.5
        assert entry.values.isfinite().all()
        if entry.name == "I-MMSE":
            assert abs(float(excess.mean())) < 3.5 * error + 0.01  # cut off at t_min
            continue
        assert float(excess.mean()) > -3.5 * error, entry.name
        if isinstance(sde, RectifiedSDE):
            assert entry.parts["L_T"] == 0
        if entry.name == "continuous bound":
            assert float(excess.mean()) < 3.5 * error + 0.02
    numbers = [*rate.rate, *rate.distortion, *(x for each in rate.terms.values() for x in each)]
    assert all(map(math.isfinite, numbers))
