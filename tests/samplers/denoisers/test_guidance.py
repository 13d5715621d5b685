"""Guidance where the guided law is known: mixtures whose components are the classes."""

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from scoreflow.samplers import (
    DDIM,
    DPS,
    MMPS,
    ClassifierGuided,
    Clipped,
    Counted,
    Guided,
    Masked,
    Measurement,
    ProbabilityFlow,
    Reclocked,
    Step,
    sample,
)
from scoreflow.samplers.denoisers.wrapper import evaluations
from scoreflow.sde import VPSDE, Noise, Stream
from scoreflow.sde.analytic import GaussianMixture
from scoreflow.sde.prediction import predict

CLASS = 1
TIMES = torch.tensor([1.0, 40.0, 110.0, 200.0], dtype=torch.float64)


def classifier(mixture, sde, label=CLASS):
    """Log p(label | x_t), by Bayes' rule."""
    return lambda x_t, t: mixture.log_posterior(x_t, sde.alpha(t), sde.sigma(t))[:, label]


def denoisers(mixture, sde):
    return mixture.component(CLASS).denoiser(sde), mixture.denoiser(sde)


def points(sde, t):
    """Points where x_t may be, at every scale of it."""
    return 1.5 * sde.scale(t) * Noise.of(0, 0, 50).normal(Stream.DATA, (2,))


def gradient(log_prob, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(log_prob(x).sum(), x)[0]


def true_scores(mixture, alpha, sigma, x):
    """Scores of the class and of all, by torch.distributions and autograd."""
    covariance = alpha**2 * mixture.covariances + sigma**2 * torch.eye(2, dtype=torch.float64)
    components = MultivariateNormal(alpha * mixture.means, covariance)
    whole = MixtureSameFamily(Categorical(mixture.weights), components)
    part = MultivariateNormal(alpha * mixture.means[CLASS], covariance[CLASS])
    return gradient(part.log_prob, x), gradient(whole.log_prob, x)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 2.0, 7.5])
def test_the_guided_score_is_that_of_the_tilted_law(weight, process, mixture):
    """Grad log p(x) + w (grad log p(x | y) - grad log p(x)), and with a classifier the same."""
    conditional, unconditional = denoisers(mixture, process)
    free = Guided(conditional, unconditional, weight)
    by_class = ClassifierGuided(unconditional, classifier(mixture, process), weight)
    for t in TIMES:
        x = points(process, t)
        own, all_ = true_scores(mixture, process.alpha(t), process.sigma(t), x)
        expected = all_ + weight * (own - all_)
        scale = (1 + weight) * max(own.abs().max().item(), all_.abs().max().item())
        for denoiser in (free, by_class):
            score = denoiser(x, t).score
            torch.testing.assert_close(score, expected, rtol=0, atol=1e-9 * scale)


def test_an_exact_classifier_at_weight_one_gives_the_conditional_law(process, mixture):
    conditional, unconditional = denoisers(mixture, process)
    guided = ClassifierGuided(unconditional, classifier(mixture, process), 1.0)
    for t in TIMES:
        x = points(process, t)
        ours, exact = guided(x, t), conditional(x, t)
        torch.testing.assert_close(ours.eps, exact.eps, rtol=1e-9, atol=1e-10)
        if process.alpha(t) == 0:  # where no eps tells of x_0, a guided one neither
            continue
        # x_0 is (x_t - sigma eps) / alpha
        lost = (process.sigma(t) / process.alpha(t)).clamp(min=1).item()
        torch.testing.assert_close(ours.x_0, exact.x_0, rtol=1e-9, atol=1e-10 * lost)


def test_at_weight_one_and_zero_one_of_the_two_is_all_there_is(mixture):
    sde, t = VPSDE.linear(200), torch.tensor(60.0, dtype=torch.float64)
    conditional, unconditional = denoisers(mixture, sde)
    x = points(sde, t)
    assert torch.equal(Guided(conditional, unconditional, 1.0)(x, t).eps, conditional(x, t).eps)
    assert torch.equal(Guided(conditional, unconditional, 0.0)(x, t).eps, unconditional(x, t).eps)


def test_samples_of_weight_one_are_of_the_class(mixture):
    """Drawn along the flow by an exact classifier: the class's law, from every start."""
    sde, count = VPSDE.log_linear(200), 400
    flow = ProbabilityFlow(1.0, 1e-6)
    _, unconditional = denoisers(mixture, sde)
    guided = ClassifierGuided(unconditional, classifier(mixture, sde), 1.0)
    x = sample(flow, guided, sde, flow.times(200), Noise.of(0, 0, count), (2,))
    component = mixture.component(CLASS)
    error = (component.covariances[0].diag() / count).sqrt()
    assert ((x.mean(0) - component.means[0]).abs() < 4 * error).all()
    centred = x - component.means[0]
    products = centred[:, :, None] * centred[:, None, :]
    standard_error = products.std(0) / count**0.5
    assert ((products.mean(0) - component.covariances[0]).abs() < 4 * standard_error).all()


@pytest.mark.parametrize("kind", ["eps", "x_0", "v", "score"])
def test_the_view_does_not_matter(kind, mixture):
    sde, t = VPSDE.linear(200), torch.tensor(90.0, dtype=torch.float64)
    conditional, unconditional = denoisers(mixture, sde)

    def seen_as(x_t, t):
        prediction = conditional(x_t, t)
        return predict(sde, x_t, t, kind, getattr(prediction, kind))

    x = points(sde, t)
    ours = Guided(seen_as, unconditional, 3.0)(x, t)
    assert ours.kind == kind
    torch.testing.assert_close(ours.eps, Guided(conditional, unconditional, 3.0)(x, t).eps)


def test_a_learned_variance_is_that_of_the_class():
    sde, t = VPSDE.linear(200), torch.tensor(90.0, dtype=torch.float64)
    x = points(sde, t)

    def denoiser(value):
        return lambda x_t, t: predict(sde, x_t, t, "eps", value * x_t, value * x_t)

    guided = Guided(denoiser(0.1), denoiser(0.2), 2.0)(x, t)
    assert torch.equal(guided.fraction, 0.1 * x)
    by_class = ClassifierGuided(denoiser(0.2), lambda x_t, t: x_t.sum(1), 2.0)(x, t)
    assert torch.equal(by_class.fraction, 0.2 * x)
    torch.testing.assert_close(by_class.eps, 0.2 * x - 2 * sde.sigma(t))


@pytest.mark.parametrize(("weight", "cost"), [(0.0, 1), (1.0, 1), (0.5, 2), (3.0, 2)])
def test_what_is_counted_outside_is_what_happens_inside(weight, cost, mixture):
    """The number that a wrapper of wrappers states, against counters around the networks."""
    sde, other = VPSDE.linear(200), VPSDE.cosine(200)
    inside = [Counted(denoiser) for denoiser in denoisers(mixture, sde)]
    outside = Counted(Counted(Clipped(Reclocked(Guided(*inside, weight), sde, other))))
    t = torch.tensor(30.0, dtype=torch.float64)
    for size in (5, 3):  # a solver may ask about fewer rows
        outside(points(other, t)[:size], t)
    assert outside.rows == sum(each.rows for each in inside) == 8 * cost
    assert outside.calls == 2


@pytest.mark.parametrize(("weight", "cost"), [(1.0, 1), (3.0, 2)])
def test_a_posterior_costs_what_is_inside_it(weight, cost, mixture):
    """MMPS evaluates its denoiser once a call; its vector-Jacobian products are counted apart."""
    sde = VPSDE.linear(200)
    inside = [Counted(denoiser) for denoiser in denoisers(mixture, sde)]
    measurement = Measurement(
        Masked(torch.tensor([True, False])), torch.tensor([[0.9]], dtype=torch.float64), 0.1
    )
    moments = MMPS(Guided(*inside, weight), measurement, 2)
    outside = Counted(Clipped(moments))
    assert evaluations(moments) == evaluations(outside) == cost
    t = torch.tensor(30.0, dtype=torch.float64)
    outside(points(sde, t)[:5], t)
    assert outside.rows == sum(each.rows for each in inside) == 5 * cost
    assert moments.products > 0


def test_a_classifier_costs_no_evaluation_of_the_network(mixture):
    sde, t = VPSDE.linear(200), torch.tensor(30.0, dtype=torch.float64)
    inside = Counted(mixture.denoiser(sde))
    outside = Counted(ClassifierGuided(inside, classifier(mixture, sde), 2.0))
    with torch.no_grad():  # as samplers do
        outside(points(sde, t), t)
    assert outside.rows == inside.rows == 50


def both_classes():
    """Two classes in the plane, each a Gaussian."""
    means = torch.tensor([[-0.8, 0.3], [0.6, -0.5]], dtype=torch.float64)
    covariances = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.1], [-0.1, 0.4]]])
    weights = torch.tensor([0.6, 0.4], dtype=torch.float64)
    return GaussianMixture(weights, means, covariances.double())


@pytest.mark.parametrize("t", [10.0, 60.0, 110.0])
def test_who_differentiates_a_guided_estimate_meets_the_classifiers_hessian(t):
    """An exact classifier at weight 1: MMPS and DPS do what they do on the class's own law."""
    sde, t = VPSDE.linear(200), torch.tensor(t, dtype=torch.float64)
    known = Masked(torch.tensor([True, False]))
    measurement = Measurement(known, torch.tensor([[0.9]], dtype=torch.float64), 0.1)
    conditional, unconditional = denoisers(both_classes(), sde)
    guided = ClassifierGuided(unconditional, classifier(both_classes(), sde), 1.0)
    x, s, noise = points(sde, t), t - 5, Noise.of(0, 0, 50)
    ours, exact = (MMPS(each, measurement, 2)(x, t).x_0 for each in (guided, conditional))
    torch.testing.assert_close(ours, exact, rtol=1e-7, atol=1e-8)
    dps = DPS(DDIM(), measurement)
    ours, exact = (dps.step(x, Step(each, sde, t, s, noise)) for each in (guided, conditional))
    torch.testing.assert_close(ours, exact, rtol=1e-7, atol=1e-8)


def test_no_graph_is_kept_where_nobody_differentiates(mixture):
    sde, t = VPSDE.linear(200), torch.tensor(30.0, dtype=torch.float64)
    guided = ClassifierGuided(mixture.denoiser(sde), classifier(mixture, sde), 2.0)
    x = points(sde, t)
    assert not guided(x, t).eps.requires_grad
    with torch.no_grad():
        assert not guided(x.requires_grad_(), t).eps.requires_grad
