"""Log p(x | class) of classes whose densities are known: by the flow and by the paired bound."""

import math

import pytest
import torch

from scoreflow.likelihood.classification import times
from scoreflow.likelihood.classification.bayes import Prior, log_posterior
from scoreflow.likelihood.classification.bound_by_class import BoundByClass
from scoreflow.likelihood.classification.elimination import rounds
from scoreflow.likelihood.classification.flow_by_class import FlowByClass
from scoreflow.likelihood.flow_likelihood import Solver
from scoreflow.likelihood.gaussian_reference import Reference
from scoreflow.sde.analytic import GaussianMixture, LevelGrid
from scoreflow.sde.noise import Noise
from scoreflow.sde.prediction import predict
from scoreflow.sde.processes.vp import VPSDE

SDE = VPSDE.log_linear(200, sigma_min=0.01, alpha_min=1e-5)
T_MIN = 1.0
CLASSES = torch.arange(3)


def by_component(mixture, sde=SDE):
    """Rows of given classes, each by the exact denoiser of its component."""
    each = [mixture.component(int(k)).denoiser(sde) for k in range(3)]

    def of(labels):
        def denoise(x_t, t):
            x_0 = torch.stack([d(x_t, t).x_0 for d in each], 1)
            own = x_0[torch.arange(len(x_t)), labels]
            return predict(sde, x_t, t, "x_0", own)

        return denoise

    return of


def bound_of(mixture, **changes):
    log_prior = mixture.weights.log()
    asked = {
        "denoiser": by_component(mixture),
        "law": times.even_law(SDE, T_MIN),
        "classes": CLASSES,
        "log_prior": log_prior,
        "num_levels": None,
        "embedding": "uniform",
        "seed": 3,
        "rounds": (64,),
        "z": math.inf,
        "batch_size": 4096,
    }
    return BoundByClass(**(asked | changes))


def law_of(mixture, sde=SDE):
    noise = Noise.of(9, 0, 600)
    x = mixture.sample(noise)
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    return x, times.law_of_classes(sde, T_MIN, x, mixture.log_posterior(x, one, zero).argmax(1))


def exact(mixture, x, t=0.0):
    """Log p(x_t | k) of the components at t; at t = 0 of the data."""
    time = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = SDE.alpha(time), SDE.sigma(time)
    return torch.stack([mixture.component(k).log_prob(x, alpha, sigma) for k in range(3)], 1)


def to_best(nats):
    return nats - nats.max(1, keepdim=True).values


def close(mixture):
    """The same components, so near to each other that some points may be of either."""
    return GaussianMixture(mixture.weights, mixture.means / 3, mixture.covariances)


def test_by_the_flow_the_posterior_is_bayes(mixture):
    mixture = close(mixture)
    x = mixture.sample(Noise.of(1, 0, 10))
    each = [mixture.component(k).denoiser(SDE) for k in range(3)]
    solver = Solver(0, 1e-7, 1e-7, "dopri5", 10_000)
    flow = FlowByClass(lambda k: each[k], SDE, T_MIN, CLASSES, None, solver, seed=0)
    found = flow.of(x, torch.arange(10))
    posterior = log_posterior(found.nats, mixture.weights.log())
    t = torch.tensor(T_MIN, dtype=torch.float64)
    expected = mixture.log_posterior(x, SDE.alpha(t), SDE.sigma(t))
    # far from a component its density falls by hundreds of nats, to the solver's relative error
    likely = expected > -30
    assert likely.sum() > 15
    torch.testing.assert_close(posterior[likely], expected[likely], rtol=1e-4, atol=1e-4)
    assert found.errors is None
    assert (found.evaluations > 0).all()


def test_by_the_bound_it_is_bayes_in_the_mean_and_by_its_own_error(mixture):
    _, law = law_of(mixture)
    n = 200
    x = torch.tensor([[0.2, -0.1]], dtype=torch.float64).expand(n, 2)
    found = bound_of(mixture, law=law, rounds=(16,) * 4).of(x, torch.arange(n))
    expected = exact(mixture, x[:1])
    best = int(expected.argmax())
    differences = found.nats - found.nats[:, [best]]
    for k in range(3):
        if k == best:
            continue
        of_class = differences[:, k]
        error = of_class.std() / math.sqrt(n)
        # what lies below t_min and beyond N is left out: 1e-3 nats of these Gaussians
        assert abs(of_class.mean() - (expected[0, k] - expected[0, best])) < 4 * error + 0.01
        stated = found.errors[:, k][found.errors[:, k] > 0].square().mean().sqrt()
        assert 0.75 < stated / of_class.std() < 1.35


def test_a_reference_leaves_the_differences_and_helps_the_values(mixture):
    x, _ = law_of(mixture)
    reference = Reference.fit(x, 0.0)
    point = x[:1].expand(60, 2)
    plain = bound_of(mixture).of(point, torch.arange(60))
    helped = bound_of(mixture, reference=reference).of(point, torch.arange(60))
    torch.testing.assert_close(to_best(plain.nats), to_best(helped.nats), rtol=1e-9, atol=1e-9)
    assert helped.nats.std(0).min() < plain.nats.std(0).min()
    near = exact(mixture, point[:1])
    error = helped.nats.std(0) / math.sqrt(60)
    assert ((helped.nats.mean(0) - near[0]).abs() < 4 * error + 0.02).all()


def test_classes_share_their_noise(mixture):
    x = mixture.sample(Noise.of(1, 0, 9))
    index = torch.arange(9)
    one = bound_of(mixture, rounds=(12,), batch_size=7).of(x, index)
    few, turned_prior = {"rounds": (12,)}, mixture.weights.log().flip(0)
    turned = bound_of(mixture, **few, classes=CLASSES.flip(0), log_prior=turned_prior).of(x, index)
    torch.testing.assert_close(one.nats, turned.nats.flip(1), rtol=0, atol=1e-9)
    alike = bound_of(mixture, **few, classes=torch.tensor([1, 1, 1])).of(x, index)
    torch.testing.assert_close(alike.nats, alike.nats[:, :1].expand(-1, 3), rtol=0, atol=1e-9)
    of_the_rest = bound_of(mixture, **few).of(x[4:], index[4:])
    torch.testing.assert_close(one.nats[4:], of_the_rest.nats, rtol=0, atol=1e-9)
    other = bound_of(mixture, **few, seed=4).of(x, index)
    assert not torch.isclose(one.nats, other.nats).any()


def off_by(offsets):
    """A denoiser that is wrong by a constant of its class, whatever the noise."""

    def of(labels):
        def denoise(x_t, t):
            return predict(SDE, x_t, t, "x_0", X + offsets[labels][:, None])

        return denoise

    return of


X = torch.zeros(1, 2, dtype=torch.float64)


def test_without_noise_the_leader_stays_and_the_differences_are_exact():
    offsets = torch.tensor([0.9, 0.1, 0.5, 0.3, 0.7], dtype=torch.float64)
    flat = torch.full((5,), -math.log(5), dtype=torch.float64)
    asked = bound_of_offsets(offsets, flat)
    full = asked(rounds(64, False), math.inf).of(X, torch.arange(1))
    halved = asked(rounds(64, True), 3.0).of(X, torch.arange(1))
    assert int(full.nats.argmax(1)) == int(halved.nats.argmax(1)) == 1
    assert halved.evaluations.sum() < 0.6 * full.evaluations.sum()
    assert int(halved.evaluations.argmax()) == 1
    # one class against another: J's difference is this times the weights' mean, to which all tend
    square = 2 * offsets.square()
    high = float(SDE.log_snr(torch.tensor(T_MIN, dtype=torch.float64)).exp())
    low = float(SDE.log_snr(torch.tensor(200.0, dtype=torch.float64)).exp())
    expected = -0.5 * (square - square[1]) * ((high - low) + high)
    apart = full.nats[0] - full.nats[0, 1]
    torch.testing.assert_close(apart, expected, rtol=0.02, atol=1e-9)
    apart = halved.nats[0] - halved.nats[0, 1]
    torch.testing.assert_close(apart, expected, rtol=0.2, atol=1e-9)  # of eight times


def bound_of_offsets(offsets, log_prior):
    def asked(rounds, z):
        return BoundByClass(
            off_by(offsets), times.even_law(SDE, T_MIN), torch.arange(5), log_prior,
            None, "uniform", 0, rounds, z, 4,
        )  # fmt: skip

    return asked


class Scripted(BoundByClass):
    """Errors that are given: of each round one value a class, the same at all its times."""

    def _first(self, x_0, data, noise):
        return torch.zeros(1, 6, dtype=torch.float64)

    def _terms(self, x_0, noise, before, size, asked):
        value = SCRIPT[before // 8 if before < 16 else 2]
        return (value * asked)[:, :, None].expand(1, 6, size)


SCRIPT = torch.tensor(
    [[1.0, 2, 3, 7, 8, 9], [7, 2, 3, 0, 0, 0], [0, 1, 3, 0, 0, 0]], dtype=torch.float64
)


def test_who_was_left_out_keeps_its_difference_to_who_led_then():
    flat = torch.full((6,), -math.log(6), dtype=torch.float64)
    law, six = times.even_law(SDE, T_MIN), torch.arange(6)
    bound = Scripted(by_component, law, six, flat, None, "uniform", 0, (8, 8, 16), 1.0, 4)
    found = bound.of(X, torch.arange(1))
    # the first leads at 1, and takes 3 with it: 6, 7 and 8 ahead of them; then the second does,
    # at 2 against 4, which goes; in the third round the second comes to (2 + 2 + 1 + 1) / 4
    second, third = 1.5, 3.0
    first = second + (4.0 - 2.0)
    expected = [first, second, third, first + 6, first + 7, first + 8]
    assert (-found.nats[0]).tolist() == pytest.approx(expected)
    assert found.evaluations[0].tolist() == [17, 33, 33, 9, 9, 9]


LEVELS = torch.tensor([0, 1, 2, 2])
SHARES = torch.tensor([[0.6, 0.3, 0.1, 1e-9], [0.1, 0.2, 0.6, 0.1]], dtype=torch.float64)


def of_levels(laws, embedding):
    """The bound of levels in two classes of known laws: (n, 2) log P, and the exact one."""

    def of(labels):
        def denoise(x_t, t):
            x_0 = torch.stack([law.denoiser(SDE)(x_t, t).x_0 for law in laws], 1)
            return predict(SDE, x_t, t, "x_0", x_0[torch.arange(len(x_t)), labels])

        return denoise

    flat = torch.full((2,), -math.log(2), dtype=torch.float64)
    law, two = times.even_law(SDE, T_MIN), torch.arange(2)
    bound = BoundByClass(of, law, two, flat, 4, embedding, 1, (64,), math.inf, 4096)
    levels = LEVELS.repeat(100)[:, None]
    found = bound.of(levels, torch.arange(400)).nats.view(100, 4, 2)
    return found, SHARES.log().T[LEVELS]


@pytest.mark.parametrize("embedding", ["uniform", "centre"])
def test_of_integers_it_is_log_probability(embedding):
    shares = SHARES / SHARES.sum(1, keepdim=True)
    if embedding == "uniform":
        laws = [LevelGrid(each, 1) for each in shares]
    else:
        centres = torch.tensor([[-0.75], [-0.25], [0.25], [0.75]], dtype=torch.float64)
        point = torch.zeros(4, 1, 1, dtype=torch.float64)
        laws = [GaussianMixture(each, centres, point) for each in shares]
    found, exact = of_levels(laws, embedding)
    error = found.std(0) / math.sqrt(100)
    # of points in bins the last sigma costs what smears their edges: sigma / width of a bin
    assert ((found.mean(0) - exact).abs() < 4 * error + 0.05).all()
    apart, truth = found[..., 0] - found[..., 1], exact[:, 0] - exact[:, 1]
    error = apart.std(0) / math.sqrt(100)
    assert ((apart.mean(0) - truth).abs() < 4 * error + 0.05).all()


def test_halving_agrees_with_the_bound_in_full(mixture):
    mixture = close(mixture)
    x, law = law_of(mixture)
    x, index = x[:100], torch.arange(100)
    full = bound_of(mixture, law=law, rounds=rounds(64, True)).of(x, index)
    halved = bound_of(mixture, law=law, rounds=rounds(64, True), z=4.0).of(x, index)
    prior = mixture.weights.log()
    found = log_posterior(full.nats, prior).argmax(1)
    assert (log_posterior(halved.nats, prior).argmax(1) == found).double().mean() > 0.98
    assert halved.evaluations.sum() < 0.9 * full.evaluations.sum()
    whole = halved.evaluations == 65  # those that stood to the end are the same bits
    assert whole.sum() > 20
    assert torch.equal(halved.nats[whole], full.nats[whole])
    gone = (halved.evaluations < 65) & (halved.errors > 0)
    apart = (to_best(halved.nats) - to_best(full.nats))[gone].abs()
    assert (apart < 6 * halved.errors[gone]).double().mean() > 0.9


def test_times_where_classes_part_scatter_less(mixture):
    alike = torch.eye(6, dtype=torch.float64).expand(3, 6, 6) * 0.05
    means = torch.nn.functional.pad(mixture.means, (0, 4)) / 4
    mixture = GaussianMixture(mixture.weights, means, alike)
    sde = VPSDE.log_linear(200, sigma_min=1e-5)  # of whose clock the most tells nothing
    x, law = law_of(mixture, sde)
    x, index = x[:60], torch.arange(60)
    asked = {"denoiser": by_component(mixture, sde)}
    chosen = bound_of(mixture, law=law, **asked).of(x, index).errors
    even = bound_of(mixture, law=times.even_law(sde, T_MIN), **asked).of(x, index).errors
    assert chosen.mean() < 0.8 * even.mean()


def test_the_law_of_times_leaves_the_integral_as_it_is(process):
    t_min = 1.0
    x = torch.tensor([[0.5], [0.1], [-0.4], [-0.6]], dtype=torch.float64)
    u = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 40_000
    ends = torch.tensor([float(process.num_steps), t_min], dtype=torch.float64)
    low, high = process.log_snr(ends).exp().tolist()
    labels = torch.tensor([0, 0, 1, 1])
    for law in (
        times.even_law(process, t_min),
        times.law_of_classes(process, t_min, x, labels),
    ):
        t, weight = law.at(u)
        snr = process.log_snr(t).exp()
        found = float((weight / (1 + snr) ** 2).mean())
        assert found == pytest.approx(0.5 * (1 / (1 + low) - 1 / (1 + high)), rel=2e-3)
        assert ((t >= t_min) & (t <= process.num_steps)).all()


def test_priors():
    labels = torch.tensor([5, 2, 5, 5, 9])
    prior = Prior.of_labels(labels)
    assert prior.classes.tolist() == [2, 5, 9]
    torch.testing.assert_close(prior.log.exp(), torch.tensor([0.2, 0.6, 0.2], dtype=torch.float64))
    flat = Prior.of_labels(labels, uniform=True)
    torch.testing.assert_close(flat.log.exp(), torch.full((3,), 1 / 3, dtype=torch.float64))
    assert prior.columns(torch.tensor([9, 2, 7, 10, 5])).tolist() == [2, 0, -1, -1, 1]
