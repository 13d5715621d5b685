"""A network that knows integers alone: what it is asked, and how far the estimate is off."""

import pytest
import torch
from torch import nn

import scoreflow as sf
from scoreflow.models.score_model import ScoreModel
from scoreflow.samplers import DDIM, Clipped, Counted, grid, sample
from scoreflow.schema.samplers import NAMES
from scoreflow.sde import VESDE, VPSDE
from scoreflow.sde.base import broadcast
from scoreflow.sde.flow import unit_probes, velocity, velocity_and_divergence

F64 = torch.float64


class Exact(nn.Module):
    """The exact eps of a law on a process; keeps its labels, and knows whole ones only."""

    def __init__(self, law, sde, output="eps"):
        super().__init__()
        self.denoiser, self.sde, self.output = law.denoiser(sde), sde, output
        self.labels, self.rows = [], 0

    def forward(self, x, index, label=None):
        assert torch.equal(index, index.round()), "asked between its times"
        assert bool((index >= 0).all())
        assert bool((index < self.sde.num_steps).all())
        self.labels += index.tolist()
        self.rows += len(x)
        t = index.double() + 1
        x_t = broadcast(self.sde.scale(t), x) * x
        found = getattr(self.denoiser(x_t.double(), t), self.output)
        if label is not None:
            found = found + label.view(-1, *[1] * (x.ndim - 1))
        return found.to(x.dtype)


def made(law, sde, output="eps"):
    return ScoreModel(
        Exact(law, sde, output), sde, output, precision="float64", integer_times=True
    )


@pytest.fixture
def x():
    return torch.randn(6, 2, dtype=F64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("output", ["eps", "x_0", "v"])
@pytest.mark.parametrize("family", ["vp", "ve"])
def test_between_integers_the_error_is_of_second_order(mixture, x, family, output):
    """Against the exact Denoiser, at one point of the unit scale, in the middle of every step."""
    errors = []
    for steps in (100, 200, 400):
        sde = {
            "vp": VPSDE.linear_continuous(steps),
            "ve": VESDE(steps + 1, 0.05, 20.0),
        }[family]
        model, exact = made(mixture, sde, output), mixture.denoiser(sde)
        t = (torch.arange(2, steps, dtype=F64) + 0.5).repeat_interleave(len(x))
        x_t = x.repeat(steps - 2, 1)
        x_t = broadcast(sde.scale(t), x_t) * x_t
        errors.append(float((model(x_t, t).v - exact(x_t, t).v).abs().max()))
    assert 3.4 < errors[0] / errors[1] < 4.6, errors
    assert 3.7 < errors[1] / errors[2] < 4.3, errors


def test_at_an_integer_it_is_the_network_itself_at_one_evaluation(mixture, x):
    sde = VESDE(20, 0.05, 20.0)
    model = made(mixture, sde)
    plain = ScoreModel(Exact(mixture, sde), sde, precision="float64")
    for t in (torch.tensor(7.0, dtype=F64), torch.arange(1, 7, dtype=F64)):
        found, expected = model(x, t), plain(x, t)
        assert torch.equal(found.eps, expected.eps)
        assert found.kind == "eps"
    assert model.network.rows == 12
    nearly = torch.tensor([3 - 1e-12, 20 + 1e-12], dtype=F64)  # what a clock's rounding makes
    whole = torch.tensor([3.0, 20.0], dtype=F64)
    assert torch.equal(model(x[:2], nearly).eps, plain(x[:2], whole).eps)
    assert model.network.rows == 14


def test_rows_at_integers_and_between_do_not_disturb_each_other(mixture, x):
    sde = VPSDE.cosine(20)
    model = made(mixture, sde)
    t = torch.tensor([1.0, 2.5, 3.0, 19.9, 20.0, 1.25], dtype=F64)
    together = model(x, t).v
    assert model.network.rows == 6 + 3
    for k in range(6):
        one = model(x[k : k + 1], t[k]).v
        torch.testing.assert_close(together[k : k + 1], one, rtol=1e-14, atol=1e-14)


def test_each_row_keeps_its_class(mixture, x):
    sde = VPSDE.cosine(20)
    model = made(mixture, sde)
    model.network.num_classes = 7
    classes = torch.arange(6)
    t = torch.tensor([1.0, 2.5, 3.0, 19.9, 20.0, 1.25], dtype=F64)
    together = model.labelled(classes)(x, t).v
    for k in range(6):
        one = model.labelled(int(classes[k]))(x[k : k + 1], t[k]).v
        torch.testing.assert_close(together[k : k + 1], one, rtol=1e-14, atol=1e-14)


def test_a_learned_variance_is_interpolated_too(mixture, x):
    sde = VPSDE.cosine(20)

    class Two(Exact):
        def forward(self, x, index):
            return torch.cat([super().forward(x, index), index[:, None].expand_as(x)], 1)

    model = ScoreModel(
        Two(mixture, sde), sde, precision="float64", learned_variance=True, integer_times=True
    )
    t = torch.tensor(7.25, dtype=F64)
    low, high, phi = sde.angle(t - 0.25), sde.angle(t + 0.75), sde.angle(t)
    w = float((phi - low) / (high - low))
    fraction = model(x, t).fraction
    torch.testing.assert_close(fraction, torch.full_like(x, 0.5 + 0.5 * (6 + w)))


def test_the_divergence_is_that_of_the_interpolated_field(mixture, x):
    sde = VPSDE.cosine(20)
    model = made(mixture, sde)
    t = torch.tensor([1.0, 2.5, 3.0, 19.9, 20.0, 1.25], dtype=F64)
    angle = sde.angle(t)
    _, products = velocity_and_divergence(sde, model, angle, x, unit_probes(x))
    h = 1e-5
    for d, step in enumerate(torch.eye(2, dtype=F64) * h):
        ahead, behind = (velocity(sde, model, angle, x + sign * step) for sign in (1, -1))
        slope = (ahead - behind)[:, d] / (2 * h)
        torch.testing.assert_close(products[:, d], slope, rtol=1e-6, atol=1e-6)


def images_model(sde):
    from scoreflow.sde.analytic import LevelGrid

    levels = LevelGrid(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64), 4)

    class OfImages(Exact):
        def forward(self, x, index):
            return super().forward(x.flatten(1), index).view_as(x)

    return ScoreModel(OfImages(levels, sde), sde, precision="float64", integer_times=True), levels


def test_a_whole_likelihood_asks_about_integers_alone_and_is_right():
    sde = VPSDE.log_linear(200, 1e-2)
    model, law = images_model(sde)
    plain = ScoreModel(Free(law, sde), sde, precision="float64")
    images = law.levels(sf.Noise.of(0, 0, 8)).view(8, 1, 2, 2)
    found, exact = (
        sf.bits_per_dim(each, images, num_levels=4, probes=0) for each in (model, plain)
    )
    assert len(set(model.network.labels)) > 100  # the assertion on integers was in force
    difference = (found.bits_per_dim - exact.bits_per_dim).abs().max()
    assert float(difference) < 2e-3


class Free(Exact):
    """The same at any time."""

    def forward(self, x, index):
        found = self.denoiser(x.double().flatten(1), index.double() + 1).eps
        return found.view_as(x).to(x.dtype)


@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_asks_about_integers_alone(name):
    model, _ = images_model(VPSDE.linear(60))
    for steps in (7, 60) if name != "ode" else (7,):
        sf.sample(model, (1, 2, 2), 3, sampler=name, num_levels=4, steps=steps)
    assert model.network.rows > 20


def test_the_evaluations_of_a_likelihood_are_those_of_the_network():
    """Both of those between two integers count, row by row."""
    model, law = images_model(VPSDE.linear(60))
    images = law.levels(sf.Noise.of(0, 0, 5)).view(5, 1, 2, 2)
    x = 2 * (images.double() + 0.5) / 4 - 1
    noise, solver = sf.Noise.of(0, 0, 5), sf.Solver(tolerance=1e-3, tolerance_bits=1e-3)
    found = sf.log_likelihood(model, model.sde, x, 1.0, noise, solver)
    assert int(found.evaluations.sum()) == model.network.rows
    assert int(found.evaluations.min()) > 20


@pytest.mark.parametrize("steps", [7, 60])
def test_counted_evaluations_are_those_of_the_network(steps):
    model, _ = images_model(VPSDE.linear(60))
    counted = Counted(Clipped(model))
    times = grid("log_snr", model.sde, steps)
    sample(DDIM(), counted, model.sde, times, sf.Noise.of(0, 0, 3), (1, 2, 2))
    assert counted.rows == model.network.rows
    assert counted.calls <= steps
